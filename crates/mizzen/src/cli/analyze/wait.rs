//! Work that takes a while: told on a terminal, and given up in the end.

use std::{
    io::IsTerminal,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

/// What takes longer is told.
const QUIET: Duration = Duration::from_secs(1);

/// Does the work, within a time unless that is zero.
///
/// # Errors
/// That of the work, or that it has not ended in time.
pub(crate) fn within<T: Send + 'static>(limit: Duration, what: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    let limit = if limit.is_zero() { Duration::MAX } else { limit };
    let quiet = QUIET.min(limit);
    let mut result = receiver.recv_timeout(quiet);
    if matches!(result, Err(RecvTimeoutError::Timeout)) && limit > quiet {
        if std::io::stderr().is_terminal() {
            eprintln!("mizzen: {what} …");
        }
        result = receiver.recv_timeout(limit - quiet);
    }
    match result {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => bail!("{what}: no result within {limit:?}; --timeout allows more"),
        Err(RecvTimeoutError::Disconnected) => bail!("{what}: it ended without a result"),
    }
}

/// A time as Go writes it: `30s`, `1m30s`, `1.5h`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
    let fault = || format!("`{text}` is no time: write it as 30s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fault)?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| fault())?;
        let (unit, size) = UNITS.iter().find(|(unit, _)| after.starts_with(unit)).ok_or_else(fault)?;
        seconds += number * size;
        rest = &after[unit.len()..];
    }
    if text.is_empty() {
        return Err(fault());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [("30s", 30_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("500ms", 500), ("0", 0), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "30", "s", "3x", "-1s", "1..s", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_ends_and_what_does_not() {
        assert_eq!(within(Duration::ZERO, "counting", || Ok(3)).expect("a result"), 3);
        let error = within(Duration::ZERO, "counting", || -> Result<()> { bail!("no numbers") }).expect_err("a fault");
        assert_eq!(error.to_string(), "no numbers");
        let (sender, receiver) = mpsc::channel::<()>();
        let error = within(Duration::from_millis(1), "waiting", move || Ok(receiver.recv()?)).expect_err("a fault");
        assert_eq!(error.to_string(), "waiting: no result within 1ms; --timeout allows more");
        drop(sender);
    }
}
