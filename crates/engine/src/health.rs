//! How fit a host is: what is held against it, and what that comes to.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
};

use mizzen_ir::config::Health;

/// A set of things that are held against a host; the bits are Envoy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthFlags(u32);

/// How fit a host is, all in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fitness {
    /// Not to be used, but in a panic.
    Unhealthy,
    /// Used where the healthy ones do not suffice.
    Degraded,
    Healthy,
}

impl HealthFlags {
    /// Active checks failed.
    pub const FAILED_ACTIVE: HealthFlags = HealthFlags(1);
    /// Ejected by outlier detection.
    pub const FAILED_OUTLIER: HealthFlags = HealthFlags(1 << 1);
    /// The control plane says that it is unhealthy, or did not answer it.
    pub const FAILED_EDS: HealthFlags = HealthFlags(1 << 2);
    /// An active check was answered with `x-envoy-degraded`.
    pub const DEGRADED_ACTIVE: HealthFlags = HealthFlags(1 << 3);
    /// The control plane says that it is degraded.
    pub const DEGRADED_EDS: HealthFlags = HealthFlags(1 << 4);
    /// No configuration names it any more, but active checks find it well.
    pub const PENDING_REMOVAL: HealthFlags = HealthFlags(1 << 5);
    /// It was not checked yet, and is not counted until it is.
    pub const PENDING_ACTIVE: HealthFlags = HealthFlags(1 << 6);
    /// It asked to be left out by `x-envoy-immediate-health-check-fail`.
    pub const LEFT_OUT: HealthFlags = HealthFlags(1 << 7);
    /// Active checks failed by taking too long.
    pub const ACTIVE_TIMEOUT: HealthFlags = HealthFlags(1 << 8);
    /// The control plane says that it is on its way out.
    pub const DRAINING: HealthFlags = HealthFlags(1 << 9);
    /// Answers to requests said `x-envoy-degraded`.
    pub const DEGRADED_OUTLIER: HealthFlags = HealthFlags(1 << 10);

    /// With their names in `/clusters`.
    const NAMES: [(HealthFlags, &'static str); 11] = [
        (Self::FAILED_ACTIVE, "/failed_active_hc"),
        (Self::FAILED_OUTLIER, "/failed_outlier_check"),
        (Self::FAILED_EDS, "/failed_eds_health"),
        (Self::DEGRADED_ACTIVE, "/degraded_active_hc"),
        (Self::DEGRADED_EDS, "/degraded_eds_health"),
        (Self::PENDING_REMOVAL, "/pending_dynamic_removal"),
        (Self::PENDING_ACTIVE, "/pending_active_hc"),
        (Self::LEFT_OUT, "/excluded_via_immediate_hc_fail"),
        (Self::ACTIVE_TIMEOUT, "/active_hc_timeout"),
        (Self::DRAINING, "/eds_status_draining"),
        (Self::DEGRADED_OUTLIER, "/degraded_outlier_detection"),
    ];

    /// What the control plane's word comes to.
    pub fn of_eds(health: Health) -> Self {
        match health {
            Health::Unknown | Health::Healthy => HealthFlags::default(),
            Health::Degraded => Self::DEGRADED_EDS,
            Health::Unhealthy | Health::Timeout => Self::FAILED_EDS,
            Health::Draining => Self::DRAINING,
        }
    }

    /// All of both.
    #[must_use]
    pub const fn with(self, other: HealthFlags) -> Self {
        HealthFlags(self.0 | other.0)
    }

    /// Whether any of `some` is held against it.
    pub fn any(self, some: HealthFlags) -> bool {
        self.0 & some.0 != 0
    }

    /// Whether it is not counted where shares of healthy hosts are reckoned; in a panic it may be used all the same.
    pub fn is_excluded(self) -> bool {
        self.any(Self::PENDING_ACTIVE.with(Self::LEFT_OUT).with(Self::DRAINING))
    }

    pub(crate) fn fitness(self) -> Fitness {
        let failed = Self::FAILED_ACTIVE.with(Self::FAILED_OUTLIER).with(Self::FAILED_EDS).with(Self::DRAINING);
        let degraded = Self::DEGRADED_ACTIVE.with(Self::DEGRADED_EDS).with(Self::DEGRADED_OUTLIER);
        match (self.any(failed), self.any(degraded)) {
            (true, _) => Fitness::Unhealthy,
            (false, true) => Fitness::Degraded,
            (false, false) => Fitness::Healthy,
        }
    }
}

/// As `/clusters` has it.
impl fmt::Display for HealthFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == HealthFlags::default() {
            return f.write_str("healthy");
        }
        Self::NAMES.iter().filter(|(flag, _)| self.any(*flag)).try_for_each(|(_, name)| f.write_str(name))
    }
}

/// What is held against a host by what the proxy itself has seen of it, for all workers. The cluster's age grows with each change.
#[derive(Debug, Default)]
pub(crate) struct HealthBits {
    bits: AtomicU32,
    age: Arc<AtomicU64>,
}

impl HealthBits {
    pub(crate) fn new(age: Arc<AtomicU64>) -> Self {
        HealthBits { bits: AtomicU32::default(), age }
    }

    pub(crate) fn get(&self) -> HealthFlags {
        HealthFlags(self.bits.load(Relaxed))
    }

    /// Sets or clears these; whether that changed anything.
    pub(crate) fn set(&self, flags: HealthFlags, on: bool) -> bool {
        let old = if on { self.bits.fetch_or(flags.0, Relaxed) } else { self.bits.fetch_and(!flags.0, Relaxed) };
        let changed = if on { old & flags.0 != flags.0 } else { old & flags.0 != 0 };
        if changed {
            // Who sees the new age sees the bits that made it.
            self.age.fetch_add(1, Release);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        use HealthFlags as F;
        let none = F::default();
        for (flags, text, fitness) in [
            (none, "healthy", Fitness::Healthy),
            (F::FAILED_ACTIVE.with(F::ACTIVE_TIMEOUT), "/failed_active_hc/active_hc_timeout", Fitness::Unhealthy),
            (F::FAILED_OUTLIER, "/failed_outlier_check", Fitness::Unhealthy),
            (F::of_eds(Health::Unhealthy).with(F::FAILED_OUTLIER), "/failed_outlier_check/failed_eds_health", Fitness::Unhealthy),
            (F::of_eds(Health::Timeout), "/failed_eds_health", Fitness::Unhealthy),
            (F::of_eds(Health::Draining), "/eds_status_draining", Fitness::Unhealthy),
            (F::of_eds(Health::Degraded), "/degraded_eds_health", Fitness::Degraded),
            (F::DEGRADED_ACTIVE, "/degraded_active_hc", Fitness::Degraded),
            (F::DEGRADED_OUTLIER.with(F::FAILED_ACTIVE), "/failed_active_hc/degraded_outlier_detection", Fitness::Unhealthy),
            (F::PENDING_REMOVAL, "/pending_dynamic_removal", Fitness::Healthy),
            (F::of_eds(Health::Unknown).with(F::of_eds(Health::Healthy)), "healthy", Fitness::Healthy),
        ] {
            assert_eq!((flags.to_string().as_str(), flags.fitness()), (text, fitness));
        }
    }

    #[test]
    fn the_age_grows_with_changes_alone() {
        let age = Arc::new(AtomicU64::default());
        let bits = HealthBits::new(age.clone());
        for (flags, on, expected) in [
            (HealthFlags::FAILED_ACTIVE, true, 1),
            (HealthFlags::FAILED_ACTIVE, true, 1),
            (HealthFlags::FAILED_ACTIVE.with(HealthFlags::ACTIVE_TIMEOUT), true, 2),
            (HealthFlags::FAILED_OUTLIER, false, 2),
            (HealthFlags::FAILED_ACTIVE.with(HealthFlags::FAILED_OUTLIER), false, 3),
        ] {
            bits.set(flags, on);
            assert_eq!(age.load(Relaxed), expected, "{flags:?} {on}");
        }
        assert_eq!(bits.get(), HealthFlags::ACTIVE_TIMEOUT);
    }
}
