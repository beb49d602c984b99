//! Records of access logs: Mizzen's lines and Istio's, as JSON and as text.

use std::{io::BufRead, net::SocketAddr};

use anyhow::Result;
use mizzen_types::SpiffeId;
use serde_json::Value;

/// A line may have so many bytes; one that has more is no record.
const LONGEST: usize = 1 << 20;

/// One record. What its format does not hold is `None`, and so is what was not there, unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// None for a connection.
    pub(crate) method: Option<String>,
    /// As it came, with its query.
    pub(crate) path: Option<String>,
    pub(crate) http2: bool,
    pub(crate) authority: Option<String>,
    pub(crate) status: u16,
    /// Envoy's words for how it ended.
    pub(crate) details: String,
    /// Envoy's words for how the connection was ended.
    pub(crate) termination: String,
    /// Headers of which the format tells: their values, or that they were not there.
    pub(crate) headers: Vec<(&'static str, Option<String>)>,
    pub(crate) cluster: Option<String>,
    /// Where it arrived.
    pub(crate) local: Option<SocketAddr>,
    /// From where it came.
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) server_name: Option<String>,
    /// The caller's identity.
    pub(crate) caller: Field,
    /// The server's.
    pub(crate) server: Option<SpiffeId>,
}

/// A field that a format may not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Field {
    /// The format does not have it, or what is there cannot be read.
    #[default]
    Missing,
    /// It was empty.
    Empty,
    /// Its value.
    Value(String),
}

/// What became of the call, as far as policies are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    /// Policies let it through.
    Passed,
    /// A policy refused it.
    Refused,
    /// It was refused before policies were asked: a bad token, a request that is none, a connection without a filter chain.
    Before,
}

/// Who has written the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The server's proxy.
    Server,
    /// The client's, or a gateway.
    Client,
    /// Nothing says it.
    Unknown,
}

impl Record {
    pub(crate) fn ended(&self) -> Ended {
        let is = |word: &str| self.details.starts_with(word) || self.termination.starts_with(word);
        if is("rbac_access_denied") || is("ext_authz_") {
            Ended::Refused
        } else if is("jwt_authn_access_denied") || is("filter_chain_not_found") || self.is_no_request() {
            Ended::Before
        } else {
            Ended::Passed
        }
    }

    /// Whether the proxy itself answered what it could not read, or would not take, as a request.
    fn is_no_request(&self) -> bool {
        let words = [
            "http1.",
            "http2.",
            "path_normalization_failed",
            "missing_host_header",
            "missing_path",
            "low_version",
            "request_headers_failed",
        ];
        words.iter().any(|word| self.details.starts_with(word))
    }

    pub(crate) fn side(&self) -> Side {
        let denied = self.details.starts_with("rbac_access_denied") || self.termination.starts_with("rbac_access_denied");
        match self.cluster.as_deref() {
            Some(name) if name.starts_with("inbound|") || name.starts_with("InboundPassthroughCluster") => Side::Server,
            Some(_) => Side::Client,
            None if denied || matches!(self.caller, Field::Value(_)) => Side::Server,
            None if self.server_name.as_ref().is_some_and(|name| name.starts_with("outbound_.")) => Side::Server,
            None => Side::Unknown,
        }
    }
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Line {
    Record(Box<Record>),
    /// It begins as a record does, and is damaged.
    Damaged,
    /// Something else that a proxy has written.
    Other,
}

/// Hands each line of a log to `each`, one after the other.
///
/// # Errors
/// What reading fails with, and what `each` does.
pub(crate) fn read(log: &mut dyn BufRead, each: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let (mut length, mut ended) = (0, false);
        loop {
            let part = log.fill_buf()?;
            if part.is_empty() {
                break;
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(part.len(), |end| end + 1);
            // Of a line that is too long nothing more is kept.
            if length + taken <= LONGEST {
                bytes.extend_from_slice(&part[..taken]);
            }
            length += taken;
            log.consume(taken);
            if end.is_some() {
                ended = true;
                break;
            }
        }
        if length == 0 && !ended {
            return Ok(());
        }
        each(if length > LONGEST { Line::Damaged } else { line(&String::from_utf8_lossy(&bytes)) })?;
    }
}

/// What a line says.
pub(crate) fn line(text: &str) -> Line {
    let text = text.trim();
    // Whoever collects logs may put a time or a name before each line.
    let json = text.find('{').map(|at| &text[at..]).filter(|_| text.ends_with('}'));
    if let Some(json) = json
        && let Ok(Value::Object(members)) = serde_json::from_str(json)
    {
        let is_record = members.contains_key("response_code") && members.contains_key("downstream_local_address");
        return if is_record { Line::Record(Box::new(of_json(&members))) } else { Line::Other };
    }
    if text.starts_with('{') {
        return Line::Damaged;
    }
    match text.find("[2").or_else(|| text.find("[1")).map(|at| of_text(&text[at..])) {
        Some(Some(record)) => Line::Record(Box::new(record)),
        Some(None) if text.starts_with('[') => Line::Damaged,
        _ => Line::Other,
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty() && text != "-").then(|| text.to_owned())
}

fn of_json(members: &serde_json::Map<String, Value>) -> Record {
    let text = |name: &str| match members.get(name) {
        Some(Value::String(text)) => some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let header = |name: &'static str, key: &str| members.contains_key(key).then(|| (name, text(key)));
    let field = |name: &str| match members.get(name) {
        None => Field::Missing,
        Some(_) => text(name).map_or(Field::Empty, Field::Value),
    };
    // The two names for it: Mizzen's adds the second one to every format.
    let caller = match (field("downstream_peer_uri_san"), field("source_principal")) {
        (Field::Missing, other) | (other, _) => other,
    };
    Record {
        method: text("method"),
        path: text("path"),
        http2: text("protocol").is_some_and(|protocol| protocol == "HTTP/2"),
        authority: text("authority"),
        status: text("response_code").and_then(|code| code.parse().ok()).unwrap_or_default(),
        details: text("response_code_details").unwrap_or_default(),
        termination: text("connection_termination_details").unwrap_or_default(),
        headers: [header("user-agent", "user_agent"), header("x-request-id", "request_id"), header("x-forwarded-for", "x_forwarded_for")]
            .into_iter()
            .flatten()
            .collect(),
        cluster: text("upstream_cluster"),
        local: text("downstream_local_address").and_then(|text| text.parse().ok()),
        remote: text("downstream_remote_address").and_then(|text| text.parse().ok()),
        server_name: text("requested_server_name"),
        caller,
        server: text("destination_principal").and_then(|text| text.parse().ok()),
    }
}

/// The fields of Istio's line of text.
const FIELDS: usize = 22;

/// Istio's line of text.
fn of_text(text: &str) -> Option<Record> {
    let words = words(text)?;
    if words.len() < FIELDS {
        return None;
    }
    let mut request = words[1].splitn(3, ' ');
    let (method, path, protocol) = (request.next()?, request.next()?, request.next()?);
    let header = |name: &'static str, at: usize| (name, some(words[at]));
    Some(Record {
        method: some(method),
        path: some(path),
        http2: protocol == "HTTP/2",
        authority: some(words[14]),
        status: words[2].parse().ok()?,
        details: some(words[4]).unwrap_or_default(),
        termination: some(words[5]).unwrap_or_default(),
        headers: vec![header("x-forwarded-for", 11), header("user-agent", 12), header("x-request-id", 13)],
        cluster: some(words[16]),
        local: words[18].parse().ok(),
        remote: words[19].parse().ok(),
        server_name: some(words[20]),
        caller: Field::Missing,
        server: None,
    })
}

/// Words, of which those in brackets or quotes at the beginning may hold blanks. A quote within a value is not escaped: one ends where a blank follows.
fn words(text: &str) -> Option<Vec<&str>> {
    let mut words = Vec::with_capacity(FIELDS + 1);
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = if let Some(inner) = rest.strip_prefix('"') {
            match inner.split_once("\" ") {
                Some(split) => split,
                None => (inner.strip_suffix('"')?, ""),
            }
        } else if let Some(inner) = rest.strip_prefix('[').filter(|_| words.is_empty()) {
            inner.split_once("] ")?
        } else {
            rest.split_once(' ').unwrap_or((rest, ""))
        };
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"authority":"reviews:9080","connection_termination_details":null,"downstream_local_address":"10.244.0.7:9080","downstream_peer_uri_san":"spiffe://cluster.local/ns/shop/sa/storefront","downstream_remote_address":"10.244.0.5:40112","method":"GET","path":"/reviews/2?x=1","protocol":"HTTP/1.1","request_id":"1-2","requested_server_name":"outbound_.9080_._.reviews.shop.svc.cluster.local","response_code":200,"response_code_details":"via_upstream","upstream_cluster":"inbound|9080||","user_agent":null,"x_forwarded_for":null,"source_principal":"spiffe://cluster.local/ns/shop/sa/storefront","destination_principal":"spiffe://cluster.local/ns/shop/sa/reviews"}"#;
    const TEXT: &str = r#"[2026-11-29T10:00:00.000Z] "GET /reviews/2 HTTP/2" 403 - rbac_access_denied_matched_policy[none] - "-" 0 19 0 - "203.0.113.7" "curl/8 "quoted"" "1-2" "reviews:9080" "-" inbound|9080|| - 10.244.0.7:9080 10.244.0.5:0 outbound_.9080_._.reviews.shop.svc.cluster.local default"#;

    fn record(text: &str) -> Record {
        match line(text) {
            Line::Record(record) => *record,
            other => panic!("{other:?}: {text}"),
        }
    }

    #[test]
    fn json() {
        let found = record(JSON);
        assert_eq!((found.method.as_deref(), found.path.as_deref(), found.status), (Some("GET"), Some("/reviews/2?x=1"), 200));
        assert_eq!(found.caller, Field::Value("spiffe://cluster.local/ns/shop/sa/storefront".to_owned()));
        assert_eq!(found.headers, [("user-agent", None), ("x-request-id", Some("1-2".to_owned())), ("x-forwarded-for", None)]);
        assert_eq!((found.ended(), found.side()), (Ended::Passed, Side::Server));
        assert_eq!(record(&format!("2026-11-29T10:00:00Z stdout F {JSON}")), found);
        // Istio's own format has no identities.
        let istio = JSON.replace("\"downstream_peer_uri_san\"", "\"a\"").replace("\"source_principal\"", "\"b\"");
        assert_eq!(record(&istio).caller, Field::Missing);
        let plain = JSON.replace("\"spiffe://cluster.local/ns/shop/sa/storefront\"", "null");
        assert_eq!(record(&plain).caller, Field::Empty);
    }

    #[test]
    fn text() {
        let found = record(TEXT);
        assert_eq!(
            (found.method.as_deref(), found.path.as_deref(), found.http2, found.status),
            (Some("GET"), Some("/reviews/2"), true, 403)
        );
        assert_eq!(found.headers[1], ("user-agent", Some("curl/8 \"quoted\"".to_owned())));
        assert_eq!(found.local, "10.244.0.7:9080".parse().ok());
        assert_eq!(found.remote, "10.244.0.5:0".parse().ok());
        assert_eq!((found.ended(), found.side(), &found.caller), (Ended::Refused, Side::Server, &Field::Missing));
        let connection = TEXT
            .replace("\"GET /reviews/2 HTTP/2\"", "\"- - -\"")
            .replace("403 - rbac_access_denied_matched_policy[none] -", "0 - - rbac_access_denied_matched_policy[none]");
        let found = record(&connection);
        assert_eq!((found.method.as_deref(), found.status, found.ended()), (None, 0, Ended::Refused));
    }

    #[test]
    fn sides() {
        let of = |cluster: &str| record(&TEXT.replace("inbound|9080||", cluster)).side();
        assert_eq!(of("outbound|9080||reviews.shop.svc.cluster.local"), Side::Client);
        assert_eq!(of("PassthroughCluster"), Side::Client);
        assert_eq!(of("-"), Side::Server);
        let quiet = TEXT
            .replace("inbound|9080||", "-")
            .replace("rbac_access_denied_matched_policy[none]", "-")
            .replace("outbound_.9080_._.reviews.shop.svc.cluster.local", "-");
        assert_eq!(record(&quiet).side(), Side::Unknown);
    }

    #[test]
    fn what_is_no_record() {
        for (text, expected) in [
            ("", Line::Other),
            ("2026-11-29T10:00:00Z  INFO mizzen_dataplane: ready", Line::Other),
            (r#"{"level":"info","msg":"ready"}"#, Line::Other),
            (&JSON[..JSON.len() / 2], Line::Damaged),
            (&TEXT[..TEXT.len() / 2], Line::Damaged),
        ] {
            assert_eq!(line(text), expected, "{text}");
        }
    }

    #[test]
    fn a_line_of_any_length() {
        let long = "x".repeat(3 << 20);
        let text = format!("{long}\n{JSON}\n{JSON}");
        let mut found = Vec::new();
        let each = &mut |line| {
            found.push(matches!(line, Line::Record(_)));
            Ok(())
        };
        read(&mut std::io::BufReader::with_capacity(1000, text.as_bytes()), each).expect("read");
        assert_eq!(found, [false, true, true]);
    }
}
