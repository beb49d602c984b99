//! Matchers.

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_protos::envoy::envoy::r#type::matcher::v3 as matcher;
use mizzen_protos::envoy::envoy::r#type::v3 as types;

use super::cx::{Cx, Res, harmless, name};
use crate::config::{
    Fraction, HeaderMatch, HeaderTest, MetadataMatch, ParamMatch, Regex, RegexRewrite, StringMatch, StringTest, ValueMatch,
};
use crate::steps::spelling::spelled;

/// The most that a compiled expression may take.
const REGEX_SIZE: usize = 1 << 20;
/// The longest expression.
const REGEX_LENGTH: usize = 16 * 1024;

/// An expression in RE2's syntax.
pub(crate) fn regex(cx: &mut Cx, m: matcher::RegexMatcher) -> Res<Regex> {
    let matcher::RegexMatcher { regex, engine_type } = m;
    // RE2 is the only engine there is, and its program size is another than ours.
    let _ = engine_type;
    regex_of(cx, &regex)
}

pub(crate) fn regex_of(cx: &Cx, source: &str) -> Res<Regex> {
    if source.len() > REGEX_LENGTH {
        return cx.refuse("regex", format!("longer than {REGEX_LENGTH} bytes"));
    }
    let translated = without_quotes(source);
    let build = |text: &str| {
        let built = regex::bytes::RegexBuilder::new(text).unicode(false).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build();
        built.map_err(|e| cx.bad("regex", format!("`{source}`: {}", last_line(&e.to_string()))))
    };
    // Alone first: what is not whole by itself must not become so by the brackets around it.
    let part = build(&translated)?;
    let whole = build(&format!(r"\A(?:{translated})\z"))?;
    Ok(Regex { source: source.into(), whole, part })
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// `\Q…\E` written out, which the regex crate does not know.
fn without_quotes(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(at) = rest.find('\\') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(quoted) = from.strip_prefix("\\Q") {
            let (text, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            out.push_str(&regex::escape(text));
            rest = after;
        } else {
            // The backslash and what it escapes.
            let taken = 1 + from.chars().nth(1).map_or(0, char::len_utf8);
            out.push_str(from.get(..taken).unwrap_or_default());
            rest = from.get(taken..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    out
}

/// An expression and what its matches become, in RE2's syntax (`\1`).
pub(crate) fn rewrite(cx: &mut Cx, m: matcher::RegexMatchAndSubstitute) -> Res<RegexRewrite> {
    let matcher::RegexMatchAndSubstitute { pattern, substitution } = m;
    let pattern = cx.must("pattern", pattern, regex)?;
    let mut out = String::new();
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    let group = digit.to_digit(10).unwrap_or_default() as usize;
                    if group >= pattern.part.captures_len() {
                        return cx.refuse("substitution", format!("there is no group \\{group}"));
                    }
                    out.push_str(&format!("${{{group}}}"));
                }
                Some('\\') => out.push('\\'),
                _ => return cx.refuse("substitution", "a backslash is followed by a digit or another one"),
            },
            c => out.push(c),
        }
    }
    Ok(RegexRewrite { pattern, replacement: out.into_bytes().into() })
}

pub(crate) fn string(cx: &mut Cx, m: matcher::StringMatcher) -> Res<StringMatch> {
    use matcher::string_matcher::MatchPattern as P;
    let matcher::StringMatcher { ignore_case, match_pattern } = m;
    let lower = |s: String| if ignore_case { s.to_ascii_lowercase() } else { s }.into();
    let test = match match_pattern {
        Some(P::Exact(s)) => StringTest::Exact(lower(s)),
        Some(P::Prefix(s)) => StringTest::Prefix(lower(s)),
        Some(P::Suffix(s)) => StringTest::Suffix(lower(s)),
        Some(P::Contains(s)) => StringTest::Contains(lower(s)),
        Some(P::SafeRegex(m)) if !ignore_case => StringTest::Regex(cx.within("safe_regex", |cx| regex(cx, m))?),
        Some(P::SafeRegex(_)) => return cx.refuse("ignore_case", "not with a regular expression"),
        Some(P::Custom(_)) => return cx.refuse("custom", "not supported"),
        None => return cx.refuse("match_pattern", "it is required"),
    };
    Ok(StringMatch { test, ignore_case })
}

/// As [`string`], for paths, which are compared in their one spelling: whoever writes `/café` means `/caf%C3%A9` too.
pub(crate) fn path(cx: &mut Cx, m: matcher::StringMatcher) -> Res<StringMatch> {
    let StringMatch { test, ignore_case } = string(cx, m)?;
    let test = match test {
        StringTest::Exact(p) => StringTest::Exact(spelled(&p).into()),
        StringTest::Prefix(p) => StringTest::Prefix(spelled(&p).into()),
        StringTest::Suffix(p) => StringTest::Suffix(spelled(&p).into()),
        StringTest::Contains(p) => StringTest::Contains(spelled(&p).into()),
        StringTest::Regex(r) => StringTest::Regex(r),
    };
    Ok(StringMatch { test, ignore_case })
}

/// A header's name as we look it up.
pub(crate) fn header_name(cx: &Cx, field: &str, text: &str) -> Res<std::sync::Arc<str>> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_prefix(':').unwrap_or(&lower);
    if !mizzen_http::valid_name(bare.as_bytes()) {
        return cx.refuse(field, format!("`{text}` is not a header's name"));
    }
    Ok(if lower == "host" { ":authority".into() } else { lower.into() })
}

pub(crate) fn header(cx: &mut Cx, m: route::HeaderMatcher) -> Res<HeaderMatch> {
    use route::header_matcher::HeaderMatchSpecifier as S;
    let route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } = m;
    let plain = |test| HeaderTest::Text(StringMatch { test, ignore_case: false });
    let test = match header_match_specifier {
        None => HeaderTest::Present(true),
        Some(S::PresentMatch(present)) => HeaderTest::Present(present),
        Some(S::ExactMatch(s)) => plain(StringTest::Exact(s.into())),
        Some(S::PrefixMatch(s)) => plain(StringTest::Prefix(s.into())),
        Some(S::SuffixMatch(s)) => plain(StringTest::Suffix(s.into())),
        Some(S::ContainsMatch(s)) => plain(StringTest::Contains(s.into())),
        Some(S::SafeRegexMatch(m)) => plain(StringTest::Regex(cx.within("safe_regex_match", |cx| regex(cx, m))?)),
        Some(S::StringMatch(m)) => HeaderTest::Text(cx.within("string_match", |cx| string(cx, m))?),
        Some(S::RangeMatch(types::Int64Range { start, end })) => HeaderTest::Number(start..end),
    };
    let name = header_name(cx, "name", &name)?;
    Ok(HeaderMatch { name, test, invert: invert_match, missing_as_empty: treat_missing_header_as_empty })
}

pub(crate) fn param(cx: &mut Cx, m: route::QueryParameterMatcher) -> Res<ParamMatch> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as S;
    let route::QueryParameterMatcher { name, query_parameter_match_specifier } = m;
    let (test, present) = match query_parameter_match_specifier {
        None => (None, true),
        Some(S::PresentMatch(present)) => (None, present),
        Some(S::StringMatch(m)) => (Some(cx.within("string_match", |cx| string(cx, m))?), true),
    };
    Ok(ParamMatch { name: name.into(), test, present })
}

pub(crate) fn fraction(cx: &Cx, m: types::FractionalPercent) -> Res<Fraction> {
    use types::fractional_percent::DenominatorType as D;
    let types::FractionalPercent { numerator, denominator } = m;
    let denominator = match cx.choice("denominator", denominator)? {
        D::Hundred => 100,
        D::TenThousand => 10_000,
        D::Million => 1_000_000,
    };
    Ok(Fraction { numerator, denominator })
}

pub(crate) fn metadata(cx: &mut Cx, m: matcher::MetadataMatcher) -> Res<MetadataMatch> {
    let matcher::MetadataMatcher { filter, path, value, invert } = m;
    let path = cx.each("path", path, |cx, matcher::metadata_matcher::PathSegment { segment }| match segment {
        Some(matcher::metadata_matcher::path_segment::Segment::Key(key)) => Ok(name(&key)),
        None => cx.refuse("segment", "it is required"),
    })?;
    if path.is_empty() {
        return cx.refuse("path", "it is required");
    }
    let value = cx.must("value", value, value_of)?;
    Ok(MetadataMatch { filter: name(&filter), path: path.into(), value, invert })
}

fn value_of(cx: &mut Cx, m: matcher::ValueMatcher) -> Res<ValueMatch> {
    use matcher::value_matcher::MatchPattern as P;
    let matcher::ValueMatcher { match_pattern } = m;
    Ok(match match_pattern {
        Some(P::NullMatch(_)) => ValueMatch::Null,
        Some(P::DoubleMatch(matcher::DoubleMatcher { match_pattern })) => match match_pattern {
            Some(matcher::double_matcher::MatchPattern::Range(types::DoubleRange { start, end })) => ValueMatch::Number(start..end),
            Some(matcher::double_matcher::MatchPattern::Exact(number)) => ValueMatch::Exactly(number),
            None => return cx.refuse("double_match", "it is required"),
        },
        Some(P::StringMatch(m)) => ValueMatch::Text(cx.within("string_match", |cx| string(cx, m))?),
        Some(P::BoolMatch(value)) => ValueMatch::Bool(value),
        Some(P::PresentMatch(present)) => ValueMatch::Present(present),
        Some(P::ListMatch(m)) => match m.match_pattern {
            Some(matcher::list_matcher::MatchPattern::OneOf(inner)) => {
                ValueMatch::OneOf(cx.within("list_match.one_of", |cx| value_of(cx, *inner))?.into())
            }
            None => return cx.refuse("list_match", "it is required"),
        },
        Some(P::OrMatch(m)) => ValueMatch::Any(cx.each("or_match.value_matchers", m.value_matchers, value_of)?.into()),
        None => return cx.refuse("match_pattern", "it is required"),
    })
}

/// A fraction that a runtime key could override, which we do not have: its default counts.
pub(crate) fn runtime_fraction(cx: &mut Cx, m: core::RuntimeFractionalPercent) -> Res<Fraction> {
    let core::RuntimeFractionalPercent { default_value, runtime_key } = m;
    harmless!(cx; runtime_key);
    match default_value {
        Some(value) => fraction(cx, value),
        None => Ok(Fraction { numerator: 0, denominator: 100 }),
    }
}
