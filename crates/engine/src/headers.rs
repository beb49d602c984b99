//! What the connection manager does to a request's headers before anything looks at it.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mizzen_http::Head;
use mizzen_ir::{
    Peer,
    config::{ForwardClientCert, Hcm, StripPort},
};

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
    let from_chain = |back: usize| chain.iter().rev().nth(back).and_then(|text| crate::address::parse(text));
    let scheme = if secure { "https" } else { "http" };
    *remote = peer;
    let edge = hcm.use_remote_address;
    if head.iter().any(|(name, _)| steers(name, edge)) {
        head.retain(|name, _| !steers(name, edge));
    }
    if hcm.use_remote_address {
        if let Some(back) = (hcm.xff_trusted_hops as usize).checked_sub(1) {
            *remote = from_chain(back).unwrap_or(peer);
        } else {
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
    } else {
        if let Some(address) = from_chain(hcm.xff_trusted_hops as usize) {
            *remote = address;
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
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    let mut out = String::with_capacity(pem.len() * 2);
    for b in pem.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~') {
            out.push(b as char)
        } else {
            out.push_str(&format!("%{b:02X}"))
        }
    }
    out
}

/// Gives a request an id, unless it has one that is believed.
pub(crate) fn request_id(head: &mut Head, hcm: &Hcm, random: [u64; 2]) {
    const NAME: &str = "x-request-id";
    let foreign = hcm.use_remote_address && !hcm.preserve_external_request_id;
    if hcm.generate_request_id && (foreign || head.get(NAME).is_none_or(<[u8]>::is_empty)) {
        head.set(NAME, uuid(random));
    }
}

/// A random UUID, version 4.
pub(crate) fn uuid([a, b]: [u64; 2]) -> String {
    let a = (a & !0xf000) | 0x4000;
    let b = (b & !(0xc000 << 48)) | (0x8000 << 48);
    format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xffff, b >> 48, b & 0xffff_ffff_ffff)
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

/// Seconds since 1970 as year, month, day, hour, minute, second, and the day of the week from Sunday.
pub(crate) fn civil(seconds: u64) -> (i64, u32, u32, u32, u32, u32, usize) {
    let days = (seconds / 86_400) as i64;
    let rest = (seconds % 86_400) as u32;
    // Days are counted from 1 March 0000, so that leap days come last.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * month + 2) / 5 + 1) as u32;
    let month = if month < 10 { month + 3 } else { month - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60, ((days + 4) % 7) as usize)
}

/// The `date` header's form.
pub(crate) fn date(wall: Duration) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, h, m, s, week) = civil(wall.as_secs());
    let name = DAYS.get(week).unwrap_or(&"Sun");
    let month = MONTHS.get(month.saturating_sub(1) as usize).unwrap_or(&"Jan");
    format!("{name}, {day:02} {month} {year} {h:02}:{m:02}:{s:02} GMT")
}

/// RFC 3339 with milliseconds.
pub(crate) fn rfc3339(wall: Duration) -> String {
    let (year, month, day, h, m, s, _) = civil(wall.as_secs());
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", wall.subsec_millis())
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
        assert_eq!(rfc3339(Duration::from_millis(1_500_000_000_007)), "2017-07-14T02:40:00.007Z");
    }

    #[test]
    fn ids() {
        let id = uuid([u64::MAX, u64::MAX]);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0, 0]), "00000000-0000-4000-8000-000000000000");
    }
}
