//! When a certificate is to be renewed.

use std::time::Duration;

use rustls_pki_types::UnixTime;

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: UnixTime,
    /// The last moment.
    pub not_after: UnixTime,
}

impl Validity {
    /// Whether `now` lies within.
    pub fn contains(&self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// What is left at `now`.
    pub fn remaining(&self, now: UnixTime) -> Duration {
        Duration::from_secs(self.not_after.as_secs().saturating_sub(now.as_secs()))
    }
}

/// How long to wait at `now` before renewing: half of the life that is left, give or take five per cent of it.
///
/// It counts from the moment at which the certificate was received, not from `not_before`: that lies in the past by the CA's allowance for wrong clocks,
/// and for lifetimes of seconds that allowance may exceed the lifetime. `random` is from 0 to 1 and spreads the renewals of proxies that were started
/// together. An expired certificate is renewed at once.
pub fn renewal_delay(validity: &Validity, now: UnixTime, random: f64) -> Duration {
    let start = validity.not_before.max(now);
    let life = Duration::from_secs(validity.not_after.as_secs().saturating_sub(start.as_secs()));
    let ahead = Duration::from_secs(start.as_secs().saturating_sub(now.as_secs()));
    let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
    ahead + life.mul_f64(0.45 + 0.1 * random)
}
