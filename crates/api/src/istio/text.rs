//! Texts that the proxy interprets: expressions, substitutions, header values with commands. What it would refuse is refused here, with its line.

use super::header_name;
use crate::{
    limits::{MAX_COMPILED, MAX_REGEX},
    read::{At, Why, nearest, quoted},
};

/// An expression in RE2's syntax, as the proxy compiles it.
fn compile(source: &str) -> Result<regex::bytes::Regex, String> {
    let build = |text: &str| regex::bytes::RegexBuilder::new(text).unicode(false).size_limit(MAX_COMPILED).build();
    let plain = without_quotes(source);
    let result = build(&plain).and_then(|part| build(&format!(r"\A(?:{plain})\z")).map(|_| part));
    result.map_err(|error| error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
}

/// `\Q…\E` of RE2, which Rust's expressions do not know, written out.
fn without_quotes(source: &str) -> String {
    let (mut plain, mut rest) = (String::new(), source);
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        if let Some(quoted) = after.strip_prefix('Q') {
            let (text, next) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            plain.push_str(&regex::escape(text));
            rest = next;
        } else {
            let mut chars = after.chars();
            plain.push('\\');
            plain.extend(chars.next());
            rest = chars.as_str();
        }
    }
    plain + rest
}

/// An expression that compiles.
pub(crate) fn regex(at: &At<'_>) -> String {
    let text = at.word();
    if text.len() > MAX_REGEX {
        at.fail(format!("is longer than {MAX_REGEX} characters"));
    } else if let Err(reason) = compile(&text) {
        at.fail(format!("{} is no regular expression: {reason}", quoted(&text)));
    }
    text
}

/// What is put in place of a match: `\1` is the first group of `pattern`.
pub(crate) fn substitution(at: &At<'_>, pattern: &str) -> String {
    let text = at.text();
    let groups = compile(pattern).map_or(10, |regex| regex.captures_len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let next = if c == '\\' { chars.next() } else { continue };
        match next.map(|c| (c, c.to_digit(10))) {
            Some((_, Some(group))) if (group as usize) < groups => {}
            Some((_, Some(group))) => at.fail(format!("the expression has no group \\{group}")),
            Some(('\\', _)) => {}
            _ => at.fail("a backslash is followed by a group's digit or another backslash"),
        }
    }
    text
}

/// Commands without arguments that a header's value may hold.
const COMMANDS: &[&str] = &[
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_VERSION",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "GRPC_STATUS",
    "PROTOCOL",
    "REQUESTED_SERVER_NAME",
    "REQUEST_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "ROUTE_NAME",
    "START_TIME",
    "STREAM_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_HOST",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_VERSION",
    "VIRTUAL_HOST_NAME",
];

/// Commands with arguments.
const CALLS: &[&str] = &["DYNAMIC_METADATA", "FILTER_STATE", "REQ", "RESP", "START_TIME", "TRAILER"];

/// Commands without arguments that a line of a log may hold beside them.
const LOG_COMMANDS: &[&str] = &[
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "GRPC_STATUS_NUMBER",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_TX_DURATION",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
];

/// Looks at the commands of a log's line. One that is not known is warned of, since a line without it is better than none.
pub(crate) fn operators(at: &At<'_>, line: &str) {
    let mut rest = line;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some((name, call, after)) = command(after) else {
            return at.fail(format!("a lone percent sign is written `%%`, and stands before {}", quoted(&shortened(after))));
        };
        let known: Vec<&str> = if call { [CALLS, &["GRPC_STATUS"]].concat() } else { [COMMANDS, LOG_COMMANDS].concat() };
        if !known.contains(&name) {
            let near = nearest(name, known.iter().copied()).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            at.warn(format!("command {} is not known, and lines have nothing in its place{near}", quoted(name)));
        }
        rest = after;
    }
}

/// The beginning of a text.
fn shortened(text: &str) -> String {
    text.chars().take(20).collect()
}

/// A header's value: one line, in which `%NAME%` is a command and `%%` a percent sign.
pub(crate) fn header_value(at: &At<'_>) -> String {
    let value = at.text();
    if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        at.fail("a header's value has one line");
    }
    let mut rest = value.as_str();
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some((name, call, after)) = command(after) else {
            at.fail("a lone percent sign is written `%%`");
            break;
        };
        let known = if call { CALLS } else { COMMANDS };
        if !known.contains(&name) {
            let near = nearest(name, known.iter().copied()).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            at.fail(format!("command {} {}{near}", quoted(name), Why::What.text()));
        }
        rest = after;
    }
    value
}

/// A command's name, whether it has arguments, and what follows its last percent sign.
fn command(text: &str) -> Option<(&str, bool, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|end| *end > 0)?;
    let (name, rest) = text.split_at(end);
    let (call, rest) = match rest.strip_prefix('(') {
        Some(arguments) => (true, arguments.split_once(')')?.1),
        None => (false, rest),
    };
    match rest.strip_prefix(':') {
        Some(limit) => limit.split_once('%').filter(|(limit, _)| limit.parse::<usize>().is_ok()).map(|(_, after)| (name, call, after)),
        None => rest.strip_prefix('%').map(|after| (name, call, after)),
    }
}

/// A header to be changed. The host can be set in a request, and neither added nor removed.
pub(crate) fn changed_header(at: &At<'_>, name: &str, may_be_host: bool) -> String {
    let name = header_name(at, name);
    if !may_be_host && matches!(name.as_str(), "host" | ":authority") {
        at.fail(format!("{} can only be set, and only in requests", quoted(&name)));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for (text, good) in [
            ("a.*", true),
            (r"\Qa(b\E+", true),
            (r"\Qa(", true),
            (r"\d\\Q", true),
            ("a(", false),
            ("a)(b", false),
            (r"\p{Greek}", false),
            ("", true),
        ] {
            assert_eq!(compile(text).is_ok(), good, "{text}");
        }
        assert!(compile(r"\Qa.b\E").unwrap().is_match(b"a.b"));
        assert!(!compile(r"\Qa.b\E").unwrap().is_match(b"axb"));
    }

    #[test]
    fn commands() {
        for (text, expected) in [
            ("PROTOCOL%x", Some(("PROTOCOL", false, "x"))),
            ("REQ(:path?x%y):10%z", Some(("REQ", true, "z"))),
            ("START_TIME(%s)%", Some(("START_TIME", true, ""))),
            ("REQ(a", None),
            ("REQ:x%", None),
            (" off", None),
            ("", None),
        ] {
            assert_eq!(command(text), expected, "{text}");
        }
    }
}
