//! Whether a secret holds a certificate: its form is looked at, not whom it is for, who has signed it or until when it holds.

use base64::{Engine, prelude::BASE64_STANDARD};
use mizzen_api::Node;

/// Whether a secret holds a certificate and a key, under the names that gateways look for, and the certificate has the form of one.
pub(super) fn is_usable(secret: &Node) -> bool {
    let names = [("cert", "key"), ("tls.crt", "tls.key")];
    let pair = names.iter().find_map(|(certificate, key)| {
        value(secret, key).filter(|key| !key.is_empty())?;
        value(secret, certificate).filter(|certificate| !certificate.is_empty())
    });
    pair.is_some_and(|certificate| is_certificate(&certificate))
}

fn value(secret: &Node, key: &str) -> Option<Vec<u8>> {
    let plain = secret.get("stringData").and_then(|all| all.get(key)).and_then(Node::text).map(|text| text.as_bytes().to_vec());
    let coded = || {
        let text: String = secret.get("data").and_then(|all| all.get(key)).and_then(Node::text)?.split_ascii_whitespace().collect();
        BASE64_STANDARD.decode(text).ok()
    };
    plain.or_else(coded)
}

/// Whether this is PEM whose first block is the DER of an X.509 certificate.
fn is_certificate(pem: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(pem) else { return false };
    let Some((label, rest)) = text.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----")) else { return false };
    let Some((body, _)) = rest.split_once(&format!("-----END {label}-----")) else { return false };
    let body: String = body.split_ascii_whitespace().collect();
    let Ok(der) = BASE64_STANDARD.decode(body) else { return false };
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE, signature BIT STRING }
    let Some((SEQUENCE, content, _)) = value_of(&der) else { return false };
    let Some((SEQUENCE, signed, rest)) = value_of(content) else { return false };
    let Some((SEQUENCE, _, rest)) = value_of(rest) else { return false };
    // The signed part starts with its version, [0], or without one with its serial number.
    let is_signed_part = matches!(value_of(signed), Some((0xa0 | 0x02, ..)));
    is_signed_part && matches!(value_of(rest), Some((BIT_STRING, _, [])))
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The tag of the first value of DER, its content, and what follows.
fn value_of(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(length, _)| (1..=4).contains(&length.len()))?;
        (length.iter().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}
