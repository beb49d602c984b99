//! Sets of IPv4 addresses.

use std::net::{IpAddr, Ipv4Addr};

use mizzen_types::IpRange;

/// IPv4 addresses, as ranges in ascending order between which others lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addresses(Vec<(Ipv4Addr, Ipv4Addr)>);

impl Addresses {
    /// Those of a range; none of one of IPv6.
    pub fn of(range: &IpRange) -> Addresses {
        let IpAddr::V4(first) = range.address() else { return Addresses::default() };
        let last = u32::from(first) | u32::MAX.checked_shr(u32::from(range.prefix())).unwrap_or(0);
        Addresses(vec![(first, last.into())])
    }

    /// Those of both together.
    #[must_use]
    pub fn and(self, others: Addresses) -> Addresses {
        self.0.into_iter().chain(others.0).collect()
    }

    /// Those that are not among the others.
    #[must_use]
    pub fn without(&self, others: &Addresses) -> Addresses {
        let mut left = Vec::new();
        for &(first, last) in &self.0 {
            let (mut next, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
            for &(from, to) in &others.0 {
                let (from, to) = (u64::from(u32::from(from)), u64::from(u32::from(to)));
                if to < next || from > last {
                    continue;
                }
                left.extend(from.checked_sub(1).filter(|end| *end >= next).map(|end| (next, end)));
                next = to + 1;
            }
            left.extend((next <= last).then_some((next, last)));
        }
        // All of them lie within ranges of addresses.
        let address = |number: u64| Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX));
        Addresses(left.into_iter().map(|(first, last)| (address(first), address(last))).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, each by its first and its last address.
    pub fn ranges(&self) -> &[(Ipv4Addr, Ipv4Addr)] {
        &self.0
    }
}

impl FromIterator<Ipv4Addr> for Addresses {
    fn from_iter<T: IntoIterator<Item = Ipv4Addr>>(all: T) -> Addresses {
        all.into_iter().map(|address| (address, address)).collect()
    }
}

impl FromIterator<(Ipv4Addr, Ipv4Addr)> for Addresses {
    fn from_iter<T: IntoIterator<Item = (Ipv4Addr, Ipv4Addr)>>(all: T) -> Addresses {
        let mut all: Vec<(Ipv4Addr, Ipv4Addr)> = all.into_iter().collect();
        all.sort_unstable();
        let mut merged: Vec<(Ipv4Addr, Ipv4Addr)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end).saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Addresses(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ranges: &[&str]) -> Addresses {
        ranges.iter().map(|range| Addresses::of(&range.parse().unwrap())).fold(Addresses::default(), Addresses::and)
    }

    fn check(addresses: Addresses, expected: &str) {
        let text: Vec<String> = addresses.ranges().iter().map(|(first, last)| format!("{first}-{last}")).collect();
        assert_eq!(text.join(" "), expected);
    }

    #[test]
    fn together_and_apart() {
        check(all(&["10.0.0.2", "10.0.0.0/31", "10.0.0.4", "fd00::/8"]), "10.0.0.0-10.0.0.2 10.0.0.4-10.0.0.4");
        check(all(&["0.0.0.0/0", "10.0.0.1"]), "0.0.0.0-255.255.255.255");
        let whole = all(&["0.0.0.0/0"]);
        check(whole.without(&all(&["10.0.0.0/8", "255.255.255.255"])), "0.0.0.0-9.255.255.255 11.0.0.0-255.255.255.254");
        check(whole.without(&all(&["0.0.0.0/1"])), "128.0.0.0-255.255.255.255");
        check(
            all(&["10.0.0.0/30", "10.0.1.0/30"]).without(&all(&["10.0.0.1", "10.0.0.3", "10.0.1.0/24"])),
            "10.0.0.0-10.0.0.0 10.0.0.2-10.0.0.2",
        );
        check(whole.without(&whole), "");
        check(all(&["10.0.0.1"]).without(&all(&["10.0.0.2"])), "10.0.0.1-10.0.0.1");
    }
}
