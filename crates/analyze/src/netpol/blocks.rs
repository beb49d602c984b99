//! Sets of addresses, in the form that a NetworkPolicy can say.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mizzen_types::IpRange;

/// A range without some within it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    /// The range.
    pub(super) range: IpRange,
    /// None of them covers another one, or is the whole range.
    pub(super) except: BTreeSet<IpRange>,
}

/// What is asked of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Of each list it is in one range.
    pub(super) of: Vec<Vec<IpRange>>,
    /// It is in none of these.
    pub(super) not: Vec<IpRange>,
}

impl Addresses {
    /// Whether any address will do.
    pub(super) fn is_any(&self) -> bool {
        self.of.is_empty() && self.not.is_empty()
    }

    /// The addresses that are so.
    pub(super) fn blocks(&self) -> BTreeSet<Block> {
        let mut ranges = everything();
        for list in &self.of {
            ranges = ranges.iter().flat_map(|range| list.iter().filter_map(|other| common(range, other))).collect();
        }
        let whole = self.not.iter().collect::<BTreeSet<_>>();
        let left = ranges.into_iter().filter(|range| !whole.iter().any(|not| covers(not, range)));
        let block = |range: IpRange| {
            let within: Vec<&IpRange> = whole.iter().copied().filter(|not| covers(&range, not)).collect();
            let widest = |not: &&IpRange| !within.iter().any(|other| *other != *not && covers(other, not));
            Block { range, except: within.iter().copied().filter(widest).copied().collect() }
        };
        let blocks: BTreeSet<Block> = left.map(block).collect();
        // Of two ranges of which one is within the other the wider one says it all: what is taken from both is the same.
        let is_widest = |block: &&Block| !blocks.iter().any(|other| other.range != block.range && covers(&other.range, &block.range));
        blocks.iter().filter(is_widest).cloned().collect()
    }
}

/// All addresses.
fn everything() -> BTreeSet<IpRange> {
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    all.into_iter().filter_map(|address| IpRange::new(address, 0).ok()).collect()
}

/// Whether one range holds the other. An IPv4 address that is written as one of IPv6 is never compared as such: such a range holds nobody.
pub(super) fn covers(range: &IpRange, other: &IpRange) -> bool {
    range.prefix() <= other.prefix() && range.contains(other.address())
}

/// What two ranges have in common: the one that is within the other.
fn common(one: &IpRange, other: &IpRange) -> Option<IpRange> {
    if covers(one, other) {
        Some(*other)
    } else if covers(other, one) {
        Some(*one)
    } else {
        None
    }
}
