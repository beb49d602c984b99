//! Whether a secret holds a certificate, and when that is valid: its form is looked at, not whom it is for or who has signed it.

use std::ops::RangeInclusive;

use base64::{Engine, prelude::BASE64_STANDARD};
use mizzen_api::Node;

/// When the certificate is valid, in seconds since 1970, if a secret holds one and its key, under the names that gateways look for.
pub(super) fn validity(secret: &Node) -> Option<RangeInclusive<i64>> {
    let names = [("cert", "key"), ("tls.crt", "tls.key")];
    let pair = names.iter().find_map(|(certificate, key)| {
        value(secret, key).filter(|key| !key.is_empty())?;
        value(secret, certificate).filter(|certificate| !certificate.is_empty())
    });
    pair.and_then(|certificate| of_certificate(&certificate))
}

fn value(secret: &Node, key: &str) -> Option<Vec<u8>> {
    let plain = secret.get("stringData").and_then(|all| all.get(key)).and_then(Node::text).map(|text| text.as_bytes().to_vec());
    let coded = || {
        let text: String = secret.get("data").and_then(|all| all.get(key)).and_then(Node::text)?.split_ascii_whitespace().collect();
        BASE64_STANDARD.decode(text).ok()
    };
    plain.or_else(coded)
}

/// The validity of what the first block of PEM holds, if that is the DER of an X.509 certificate.
fn of_certificate(pem: &[u8]) -> Option<RangeInclusive<i64>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (label, rest) = text.split_once("-----BEGIN ")?.1.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    let der = BASE64_STANDARD.decode(body).ok()?;
    // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE, signature BIT STRING }
    let (content, _) = tagged(&der, SEQUENCE)?;
    let (signed, rest) = tagged(content, SEQUENCE)?;
    let (_, rest) = tagged(rest, SEQUENCE)?;
    tagged(rest, BIT_STRING).filter(|(_, rest)| rest.is_empty())?;
    // TBSCertificate ::= SEQUENCE { version [0] OPTIONAL, serialNumber INTEGER, signature SEQUENCE, issuer SEQUENCE, validity SEQUENCE, … }
    let signed = tagged(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_, rest) = tagged(signed, INTEGER)?;
    let (_, rest) = tagged(rest, SEQUENCE)?;
    let (_, rest) = tagged(rest, SEQUENCE)?;
    let (validity, _) = tagged(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some(from..=until)
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The content of the first value, if it has this tag, and what follows.
fn tagged(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    value_of(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// A time in seconds since 1970, and what follows. Of a year in two digits the century is told by RFC 5280.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, content, rest) = value_of(der)?;
    let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, digits) = match tag {
        UTC_TIME => digits
            .split_at_checked(2)
            .map(|(year, digits)| (year.parse::<i64>().map(|y| if y < 50 { y + 2000 } else { y + 1900 }), digits))?,
        GENERALIZED_TIME => digits.split_at_checked(4).map(|(year, digits)| (year.parse(), digits))?,
        _ => return None,
    };
    let pair = |at: usize| digits.get(at..at + 2).and_then(|text| text.parse::<i64>().ok());
    let (year, month, day) = (year.ok()?, pair(0)?, pair(2)?);
    let (hour, minute, second) = (pair(4)?, pair(6)?, pair(8)?);
    if digits.len() != 10 || !(1..=12).contains(&month) {
        return None;
    }
    // Days since 1970, counted from March, so that the day that some years have more is the last one.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second, rest))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20000229120000Z", Some(951_825_600)),
            (GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "700101000000", None),
            (SEQUENCE, "700101000000Z", None),
        ] {
            let der: Vec<u8> = [tag, u8::try_from(text.len()).unwrap()].into_iter().chain(text.bytes()).collect();
            assert_eq!(time(&der).map(|(time, _)| time), expected, "{text}");
        }
    }
}
