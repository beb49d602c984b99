//! Durations as Go and protojson write them.

use std::time::Duration;

use crate::limits::MAX_NANOS;

/// `1h30m`, `1.5s`, `300ms`, `0`; never negative.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{}` is no duration: write it as 1.5s, 300ms or 1h30m", crate::source::shorten(text));
    if text.starts_with('-') {
        return Err(format!("must not be negative, is {}", crate::source::shorten(text)));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        nanos = nanos.saturating_add(scaled(number, unit).ok_or_else(bad)?);
        rest = next;
    }
    if nanos > MAX_NANOS {
        return Err(format!("`{}` is longer than 10,000 years", crate::source::shorten(text)));
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// A decimal number times `unit`, fractions of a nanosecond cut off.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || whole.len() > 15 || fraction.contains('.') {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(15)];
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some(whole * unit + part * unit / 10_u128.pow(fraction.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1.5s", Some(1_500_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1m0.5s", Some(60_500_000_000)),
            ("300ms", Some(300_000_000)),
            (".5s", Some(500_000_000)),
            ("2.s", Some(2_000_000_000)),
            ("5us", Some(5_000)),
            ("5µs", Some(5_000)),
            ("+1ns", Some(1)),
            ("0.0000000019s", Some(1)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("1d", None),
            ("1 s", None),
            ("-1s", None),
            ("1e3s", None),
            ("999999999999999h", None),
            ("9999999999999999h", None),
            ("Infs", None),
        ] {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_nanos()), nanos, "{text:?}");
        }
    }
}
