//! What the connection manager does to a request's headers before anything looks at it.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use httpdate::HttpDate;
use mizzen_http::Head;
use mizzen_ir::{
    Peer,
    config::{ForwardClientCert, Hcm, StripPort},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Headers that steer the proxy, or say what only a proxy may say. Envoy takes them from whoever is internal; without an `internal_address_config`,
/// which is not supported yet, nobody is (since its version 1.33, CVE-2024-45806).
const STEERING: [&str; 15] = [
    "x-envoy-internal",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-max-retries",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
];
/// The same, of which another proxy of the mesh may have set them.
const STEERING_AT_THE_EDGE: [&str; 5] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
    "x-envoy-original-host",
];

fn steers(name: &str, edge: bool) -> bool {
    name.starts_with("x-envoy-") && (STEERING.contains(&name) || (edge && STEERING_AT_THE_EDGE.contains(&name)))
}

/// Whether a request's trailer says what only its head may say. A server that takes trailers for headers would believe it.
pub(crate) fn is_late(name: &str) -> bool {
    name.starts_with("x-forwarded-")
        || name.starts_with("x-envoy-")
        || matches!(name, "authorization" | "cookie" | "forwarded" | "x-real-ip")
}

/// Finds the client's address, and writes `x-forwarded-for`, `x-forwarded-proto` and `x-envoy-external-address` by the rules of an edge or of a hop.
pub(crate) fn client_address(head: &mut Head, hcm: &Hcm, peer: IpAddr, secure: bool, remote: &mut IpAddr) {
    let chain: Vec<String> = head
        .get_joined("x-forwarded-for")
        .map(|v| String::from_utf8_lossy(&v).split(',').map(|s| s.trim().to_owned()).collect())
        .unwrap_or_default();
    let scheme = if secure { "https" } else { "http" };
    *remote = mizzen_ir::client_address(head, hcm, peer);
    let edge = hcm.use_remote_address;
    if head.iter().any(|(name, _)| steers(name, edge)) {
        head.retain(|name, _| !steers(name, edge));
    }
    if hcm.use_remote_address {
        if hcm.xff_trusted_hops == 0 {
            head.set("x-forwarded-proto", scheme);
        }
        head.set("x-envoy-external-address", remote.to_string());
        if !hcm.skip_xff_append {
            let mut all = chain.join(", ");
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(&peer.to_string());
            head.set("x-forwarded-for", all);
        }
    }
    if !matches!(head.get("x-forwarded-proto"), Some(b"http" | b"https")) {
        head.set("x-forwarded-proto", scheme);
    }
}

/// Writes `x-forwarded-client-cert`, or removes it.
pub(crate) fn client_cert(head: &mut Head, hcm: &Hcm, peer: Option<&Peer>, by: Option<&str>) {
    const NAME: &str = "x-forwarded-client-cert";
    let peer = match (hcm.client_cert, peer) {
        (ForwardClientCert::AlwaysForward, _) => return,
        (ForwardClientCert::ForwardOnly, Some(_)) => return,
        (ForwardClientCert::Sanitize | ForwardClientCert::ForwardOnly, _) | (_, None) => {
            head.remove(NAME);
            return;
        }
        (ForwardClientCert::AppendForward | ForwardClientCert::SanitizeSet, Some(peer)) => peer,
    };
    let mut parts = Vec::new();
    if let Some(by) = by {
        parts.push(format!("By={by}"));
    }
    parts.push(format!("Hash={}", peer.fingerprint));
    if hcm.cert_details.cert || hcm.cert_details.chain {
        let pem = url_encoded_pem(&peer.der);
        if hcm.cert_details.cert {
            parts.push(format!("Cert=\"{pem}\""));
        }
        if hcm.cert_details.chain {
            // Only the leaf is kept: what stands between it and the root was verified and is not needed to know the peer.
            parts.push(format!("Chain=\"{pem}\""));
        }
    }
    if hcm.cert_details.subject {
        parts.push(format!("Subject=\"{}\"", peer.subject.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    if hcm.cert_details.uri {
        parts.extend(peer.uris.iter().map(|uri| format!("URI={uri}")));
    }
    if hcm.cert_details.dns {
        parts.extend(peer.dns.iter().map(|dns| format!("DNS={dns}")));
    }
    let mut value = parts.join(";");
    if hcm.client_cert == ForwardClientCert::AppendForward
        && let Some(before) = head.get_joined(NAME).map(|v| String::from_utf8_lossy(&v).into_owned()).filter(|v| !v.is_empty())
    {
        value = format!("{before},{value}");
    }
    head.set(NAME, value);
}

pub(crate) fn url_encoded_pem(der: &[u8]) -> String {
    /// All but RFC 3986's unreserved characters.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(&mizzen_pki::certificate_pem(der), ESCAPED).to_string()
}

/// Gives a request an id, unless it has one that is believed.
pub(crate) fn request_id(head: &mut Head, hcm: &Hcm, random: [u64; 2]) {
    const NAME: &str = "x-request-id";
    let foreign = hcm.use_remote_address && !hcm.preserve_external_request_id;
    if hcm.generate_request_id && (foreign || head.get(NAME).is_none_or(<[u8]>::is_empty)) {
        let mut buffer = uuid::Uuid::encode_buffer();
        head.set(NAME, uuid(random).hyphenated().encode_lower(&mut buffer));
    }
}

/// A random UUID, version 4.
fn uuid([a, b]: [u64; 2]) -> uuid::Uuid {
    let random = (u128::from(a) << 64 | u128::from(b)).to_be_bytes();
    uuid::Builder::from_random_bytes(random).into_uuid()
}

/// Takes the port, the trailing dot, or both off the authority.
pub(crate) fn strip_host(head: &mut Head, hcm: &Hcm, listener_port: u16) {
    let authority = head.authority().to_owned();
    let (mut host, mut port) = match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            (host, Some(port))
        }
        _ => (authority.as_str(), None),
    };
    let strip = match hcm.strip_port {
        StripPort::No => false,
        StripPort::Any => true,
        StripPort::Matching => port.and_then(|p| p.parse().ok()) == Some(listener_port),
    };
    if strip {
        port = None;
    }
    if hcm.strip_trailing_dot {
        host = host.strip_suffix('.').unwrap_or(host);
    }
    let new = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    if new != authority {
        head.set_authority(&new);
    }
}

/// The `date` header's form.
pub(crate) fn date(wall: Duration) -> String {
    /// The form has four digits for the year.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    HttpDate::from(SystemTime::UNIX_EPOCH + wall.min(LAST)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(date(Duration::from_secs(seconds)), text);
        }
        assert_eq!(date(Duration::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn ids() {
        assert_eq!(uuid([u64::MAX, u64::MAX]).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0, 0]).to_string(), "00000000-0000-4000-8000-000000000000");
    }
}
