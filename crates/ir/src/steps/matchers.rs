//! How matchers match.

use mizzen_http::Head;

use crate::config::{Fraction, HeaderMatch, HeaderTest, ParamMatch, Regex, StringMatch, StringTest};

impl Regex {
    /// The expression as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.whole.is_match(text)
    }
}

impl StringMatch {
    /// Whether the text passes.
    pub fn matches(&self, text: &[u8]) -> bool {
        let same = |a: &[u8], b: &[u8]| if self.ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
        match &self.test {
            StringTest::Exact(p) => same(text, p.as_bytes()),
            StringTest::Prefix(p) => text.get(..p.len()).is_some_and(|t| same(t, p.as_bytes())),
            StringTest::Suffix(p) => text.len().checked_sub(p.len()).and_then(|at| text.get(at..)).is_some_and(|t| same(t, p.as_bytes())),
            StringTest::Contains(p) => p.is_empty() || text.windows(p.len()).any(|t| same(t, p.as_bytes())),
            StringTest::Regex(r) => r.matches(text),
        }
    }

    /// For people: `begins with "x"`.
    pub fn describe(&self) -> String {
        let case = if self.ignore_case { " (in any case)" } else { "" };
        match &self.test {
            StringTest::Exact(p) => format!("is \"{p}\"{case}"),
            StringTest::Prefix(p) => format!("begins with \"{p}\"{case}"),
            StringTest::Suffix(p) => format!("ends with \"{p}\"{case}"),
            StringTest::Contains(p) => format!("contains \"{p}\"{case}"),
            StringTest::Regex(r) => format!("matches /{}/", r.source()),
        }
    }
}

impl HeaderMatch {
    /// Whether a head passes.
    pub fn matches(&self, head: &Head) -> bool {
        match head.get_joined(&self.name) {
            Some(value) => self.passes(&value),
            None if self.missing_as_empty => self.passes(b""),
            // An absent header passes only a test for absence, whether or not that is inverted.
            None => matches!(self.test, HeaderTest::Present(present) if present == self.invert),
        }
    }

    /// The same, where of several lines of the header each is looked at by itself: whether all of them pass, or else one of them or what they are
    /// together.
    pub fn matches_lines(&self, head: &Head, all: bool) -> bool {
        let mut lines = head.get_all(&self.name);
        match (lines.next(), lines.next()) {
            (Some(_), Some(_)) if all => head.get_all(&self.name).all(|line| self.passes(line)),
            (Some(_), Some(_)) => self.matches(head) || head.get_all(&self.name).any(|line| self.passes(line)),
            _ => self.matches(head),
        }
    }

    fn passes(&self, value: &[u8]) -> bool {
        let passes = match &self.test {
            HeaderTest::Present(present) => *present,
            HeaderTest::Text(test) => test.matches(value),
            HeaderTest::Number(range) => {
                std::str::from_utf8(value).ok().and_then(|v| v.trim().parse().ok()).is_some_and(|n| range.contains(&n))
            }
        };
        passes != self.invert
    }

    /// For people: `header x begins with "y"`.
    pub fn describe(&self) -> String {
        let not = if self.invert { "not: " } else { "" };
        let test = match &self.test {
            HeaderTest::Present(true) => "is present".to_owned(),
            HeaderTest::Present(false) => "is absent".to_owned(),
            HeaderTest::Text(test) => test.describe(),
            HeaderTest::Number(range) => format!("is a number from {} to below {}", range.start, range.end),
        };
        format!("{not}header {} {test}", self.name)
    }
}

impl ParamMatch {
    /// Whether a path's query passes. Nothing is decoded.
    pub fn matches(&self, path: &str) -> bool {
        let value = query_param(path, &self.name);
        match &self.test {
            None => value.is_some() == self.present,
            Some(test) => value.is_some_and(|v| test.matches(v.as_bytes())),
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match &self.test {
            Some(test) => format!("query parameter {} {}", self.name, test.describe()),
            None if self.present => format!("query parameter {} is present", self.name),
            None => format!("query parameter {} is absent", self.name),
        }
    }
}

impl Fraction {
    /// Whether a random number falls into it.
    pub fn holds(self, random: u64) -> bool {
        random.checked_rem(u64::from(self.denominator)).is_some_and(|r| r < u64::from(self.numerator))
    }
}

/// The first value of a query parameter.
pub(crate) fn query_param<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// A path without its query.
pub(crate) fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}
