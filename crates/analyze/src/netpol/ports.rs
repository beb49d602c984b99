//! Sets of ports.

use serde::Serialize;

/// The last port.
const LAST: u16 = u16::MAX;

/// Ports of TCP, as ranges in ascending order between which others lie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports(Vec<(u16, u16)>);

/// A port by number, or by the name that the container gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// A port of a protocol that the mesh does not carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Open {
    /// `UDP` or `SCTP`.
    pub(super) protocol: &'static str,
    /// The port.
    pub(super) port: Target,
}

impl Ports {
    /// All.
    pub(super) fn all() -> Ports {
        Ports(vec![(1, LAST)])
    }

    /// These.
    pub(super) fn of(ports: impl IntoIterator<Item = u16>) -> Ports {
        Ports::merged(ports.into_iter().filter(|port| *port > 0).map(|port| (port, port)).collect())
    }

    fn merged(mut ranges: Vec<(u16, u16)>) -> Ports {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Ports(merged)
    }

    /// The ranges.
    pub(super) fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether it is all of them.
    pub(super) fn is_all(&self) -> bool {
        self.0 == [(1, LAST)]
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All others.
    pub(super) fn others(&self) -> Ports {
        let (mut others, mut next) = (Vec::new(), 1_u32);
        for (first, last) in &self.0 {
            if let Some(before) = first.checked_sub(1).filter(|before| u32::from(*before) >= next) {
                others.push((u16::try_from(next).unwrap_or(LAST), before));
            }
            next = u32::from(*last) + 1;
        }
        if let Ok(first) = u16::try_from(next) {
            others.push((first, LAST));
        }
        Ports(others)
    }

    /// Those of both together.
    pub(super) fn or(&self, other: &Ports) -> Ports {
        Ports::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Those that are in both.
    pub(super) fn and(&self, other: &Ports) -> Ports {
        self.others().or(&other.others()).others()
    }
}
