//! What a host's answer to a check says.

use memchr::memmem;
use mizzen_http::Head;
use mizzen_ir::config::HttpCheck;
use prost::Message;

use super::Outcome;

/// The most bytes of an answer's body that are kept, where the check sets no limit.
pub(crate) const MOST: usize = 1 << 20;

/// The response's header by which a host asks to be left out at once.
pub(crate) const LEAVE_OUT: &str = "x-envoy-immediate-health-check-fail";

/// What an answer to a request says, and whether the host asks to be left out.
pub(crate) fn http(check: &HttpCheck, head: &Head, body: &[u8]) -> (Outcome, bool) {
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..*to).contains(&head.status()));
    let leave_out = head.contains(LEAVE_OUT);
    if !contains(&check.receive, body) {
        return (Outcome::Ill { retriable: false }, leave_out);
    }
    if !within(&check.expected) {
        return (Outcome::Ill { retriable: within(&check.retriable) }, leave_out);
    }
    let cluster = head.get("x-envoy-upstream-healthchecked-cluster").unwrap_or_default();
    if check.service_name.as_ref().is_some_and(|name| !name.matches(cluster)) {
        return (Outcome::Ill { retriable: false }, false);
    }
    (Outcome::Well { degraded: head.contains("x-envoy-degraded") }, false)
}

/// Whether all parts are found in these bytes, one behind the other.
pub(crate) fn contains<P: AsRef<[u8]>>(parts: &[P], bytes: &[u8]) -> bool {
    let mut rest = bytes;
    parts.iter().map(AsRef::as_ref).all(|part: &[u8]| {
        let found = memmem::find(rest, part);
        rest = found.and_then(|at| rest.get(at + part.len()..)).unwrap_or_default();
        found.is_some()
    })
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Response {
    /// 0 unknown, 1 serving, 2 not serving, 3 no such service.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The question about a service to gRPC's health service.
pub(crate) fn question(service: &str) -> Vec<u8> {
    let message = Request { service: service.to_owned() }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(message);
    framed
}

/// What gRPC's health service says: well only if it serves, in one message under status 0.
pub(crate) fn grpc(head: &Head, body: &[u8], trailers: Option<&Head>) -> Outcome {
    let ill = Outcome::Ill { retriable: false };
    // Without trailers there is no message.
    let is_grpc = head.get_str("content-type").is_some_and(|t| t == "application/grpc" || t.starts_with("application/grpc+"));
    let status = trailers.and_then(|trailers| trailers.get_str("grpc-status"));
    if head.status() != 200 || !is_grpc || status != Some("0") {
        return ill;
    }
    let message = match body.split_first_chunk::<5>() {
        Some(([0, a, b, c, d], rest)) if u32::from_be_bytes([*a, *b, *c, *d]) as usize == rest.len() => rest,
        _ => return ill,
    };
    match Response::decode(message) {
        Ok(Response { status: 1 }) => Outcome::Well { degraded: false },
        _ => ill,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mizzen_ir::config::{HeaderOps, StringMatch, StringTest};

    use super::*;

    fn check() -> HttpCheck {
        HttpCheck {
            host: "".into(),
            path: "/".into(),
            method: "GET",
            send: Arc::from([]),
            receive: Arc::from([Arc::from(*b"ab"), Arc::from(*b"cd")]),
            response_buffer: 1024,
            headers: HeaderOps::default(),
            expected: Arc::from([(200, 201), (300, 400)]),
            retriable: Arc::from([(399, 429), (503, 504)]),
            is_h2: false,
            service_name: Some(StringMatch { test: StringTest::Prefix("rev".into()), ignore_case: false }),
        }
    }

    #[test]
    fn answers_of_http() {
        let (ill, retriable) = (Outcome::Ill { retriable: false }, Outcome::Ill { retriable: true });
        let well = |degraded| Outcome::Well { degraded };
        for (status, headers, body, expected) in [
            (200, &["reviews"][..], "xabxcdx", (well(false), false)),
            (399, &["reviews"], "abcd", (well(false), false)),
            (200, &["reviews", "x-envoy-degraded"], "abcd", (well(true), false)),
            (200, &["reviews", LEAVE_OUT], "abcd", (well(false), false)),
            (200, &["reviews"], "cdab", (ill, false)),
            (200, &["reviews"], "", (ill, false)),
            (200, &["ratings"], "abcd", (ill, false)),
            (200, &[], "abcd", (ill, false)),
            (201, &["reviews"], "abcd", (ill, false)),
            (400, &["reviews"], "abcd", (retriable, false)),
            (503, &[LEAVE_OUT], "abcd", (retriable, true)),
            (500, &[LEAVE_OUT], "abcd", (ill, true)),
            (503, &[LEAVE_OUT], "ab", (ill, true)),
        ] {
            let mut head = Head::response(status);
            for name in headers {
                match *name {
                    "reviews" | "ratings" => head.set("x-envoy-upstream-healthchecked-cluster", *name),
                    name => head.set(name, "true"),
                };
            }
            assert_eq!(http(&check(), &head, body.as_bytes()), expected, "{status} {headers:?} {body}");
        }
    }

    #[test]
    fn parts() {
        for (parts, bytes, expected) in [
            (&[][..], "", true),
            (&["a"], "a", true),
            (&["ab", "ab"], "abab", true),
            (&["ab", "ba"], "aba", false),
            (&["aba", ""], "aba", true),
            (&["long"], "lon", false),
        ] {
            assert_eq!(contains(parts, bytes.as_bytes()), expected, "{parts:?} in {bytes}");
        }
    }

    #[test]
    fn answers_of_grpc() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        let (well, ill) = (Outcome::Well { degraded: false }, Outcome::Ill { retriable: false });
        for (status, content, body, code, expected) in [
            (200, "application/grpc", &[0, 0, 0, 0, 2, 8, 1][..], Some("0"), well),
            (200, "application/grpc+proto", &[0, 0, 0, 0, 2, 8, 1], Some("0"), well),
            (200, "application/grpc", &[0, 0, 0, 0, 2, 8, 2], Some("0"), ill),
            (200, "application/grpc", &[0, 0, 0, 0, 0], Some("0"), ill),
            (200, "application/grpc", &[0, 0, 0, 0, 2, 8, 1], Some("12"), ill),
            (200, "application/grpc", &[0, 0, 0, 0, 2, 8, 1], None, ill),
            (200, "application/grpc", &[1, 0, 0, 0, 2, 8, 1], Some("0"), ill),
            (200, "application/grpc", &[0, 0, 0, 0, 3, 8, 1], Some("0"), ill),
            (200, "application/grpc", &[0, 0, 0, 0, 1, 8], Some("0"), ill),
            (200, "text/plain", &[0, 0, 0, 0, 2, 8, 1], Some("0"), ill),
            (503, "application/grpc", &[0, 0, 0, 0, 2, 8, 1], Some("0"), ill),
        ] {
            let mut head = Head::response(status);
            head.set("content-type", content);
            let mut trailers = Head::new();
            if let Some(code) = code {
                trailers.set("grpc-status", code);
            }
            assert_eq!(grpc(&head, body, Some(&trailers)), expected, "{status} {content} {body:?} {code:?}");
        }
        let mut alone = Head::response(200);
        alone.set("content-type", "application/grpc");
        alone.set("grpc-status", "5");
        assert_eq!(grpc(&alone, b"", None), ill);
    }
}
