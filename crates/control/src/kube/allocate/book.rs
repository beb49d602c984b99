//! Which addresses are taken, by whom, and who is to get one; knows neither network nor clock.
//!
//! What is taken is kept by address and changed with each entry that is read: an entry costs what it has itself, however many there are. Which address an
//! entry gets follows from its names, so that one that was deleted and comes again mostly has its old one, and one that was given back is rarely somebody
//! else's soon.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mizzen_types::{Hostname, IpRange, NamespacedName};

use super::AutoAllocate;

/// A host, and an address that is its own.
pub(super) type HostAddress = (Hostname, IpAddr);

/// A ServiceEntry as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The object's version, over which is written what is written.
    pub(super) version: String,
    /// When it was made, in seconds since 1970.
    pub(super) created: i64,
    /// The single addresses that it names itself.
    pub(super) own: Vec<IpAddr>,
    /// The hosts that are to have an address of each family. `None`: it cannot be read, and keeps what it has.
    pub(super) hosts: Option<Vec<Hostname>>,
    /// What was allocated to it, by its status.
    pub(super) has: Vec<HostAddress>,
    /// Whether its status has more among the addresses than can be used.
    pub(super) unclear: bool,
}

/// What is to be written of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) entry: NamespacedName,
    /// The version over which it is written.
    pub(super) version: String,
    /// All of its addresses, host by host; none to take away what it has.
    pub(super) addresses: Vec<HostAddress>,
    /// Those that it loses, and whose they are.
    pub(super) lost: Vec<(IpAddr, NamespacedName)>,
}

/// Why somebody has an address. Of several the first one keeps it: an entry that names it itself, then the oldest one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    by: By,
    created: i64,
    entry: NamespacedName,
    /// Of an address that was allocated.
    host: Option<Hostname>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Spec,
    Status,
}

#[derive(Debug, Default)]
struct Known {
    entry: Entry,
    /// What it is about to get, until it is read again.
    reserved: Vec<HostAddress>,
    is_due: bool,
}

impl Known {
    /// All that it has or is to have.
    fn claims(&self, name: &NamespacedName) -> Vec<(IpAddr, Claim)> {
        let claim = |by, host| Claim { by, created: self.entry.created, entry: name.clone(), host };
        let own = self.entry.own.iter().map(|ip| (*ip, claim(By::Spec, None)));
        let allocated = self.entry.has.iter().chain(&self.reserved);
        own.chain(allocated.map(|(host, ip)| (*ip, claim(By::Status, Some(host.clone()))))).collect()
    }
}

/// The addresses of one family that are given away.
#[derive(Debug)]
struct Pool {
    range: IpRange,
    /// The first one, as a number: not the range's own.
    first: u128,
    /// How many there are.
    size: u128,
    /// How many of them are somebody's.
    taken: u128,
    /// For whom there was none left.
    waiting: BTreeSet<NamespacedName>,
    /// Whether it was said that there are none left.
    is_empty_told: bool,
}

impl Pool {
    fn new(range: IpRange) -> Pool {
        let (bits, first) = match range.address() {
            IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (128, ip.to_bits()),
        };
        let all = 1_u128.checked_shl(bits - u32::from(range.prefix())).unwrap_or(u128::MAX);
        // The last one of a range of IPv4 is its broadcast address.
        let without = if range.address().is_ipv4() { 2 } else { 1 };
        Pool { range, first: first + 1, size: all.saturating_sub(without), taken: 0, waiting: BTreeSet::new(), is_empty_told: false }
    }

    fn has(&self, ip: IpAddr) -> bool {
        let number = match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        ip.is_ipv4() == self.range.address().is_ipv4() && number.checked_sub(self.first).is_some_and(|at| at < self.size)
    }

    /// One of them by its number.
    fn at(&self, number: u128) -> IpAddr {
        let bits = self.first + number % self.size;
        match self.range.address() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        }
    }
}

/// All entries and addresses.
#[derive(Debug)]
pub(super) struct Book {
    pools: [Pool; 2],
    known: HashMap<NamespacedName, Known>,
    /// Who claims an address; nobody has none.
    claims: HashMap<IpAddr, BTreeSet<Claim>>,
    /// Whose addresses may not be as they should, in order; what is not due any more is passed over.
    due: VecDeque<NamespacedName>,
    /// What a list that is under way has named so far.
    listing: Option<HashSet<NamespacedName>>,
    /// Whether all entries are known: before that nothing is known to be free.
    listed: bool,
    #[cfg(test)]
    pub(super) looked_at: usize,
}

impl Book {
    pub(super) fn new(ranges: &AutoAllocate) -> Book {
        Book {
            pools: [ranges.v4, ranges.v6].map(Pool::new),
            known: HashMap::new(),
            claims: HashMap::new(),
            due: VecDeque::new(),
            listing: None,
            listed: false,
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.listing = Some(HashSet::new());
        self.listed = false;
    }

    /// A list is complete: what it has not named is gone.
    pub(super) fn complete(&mut self) {
        let named = self.listing.take().unwrap_or_default();
        let gone: Vec<NamespacedName> = self.known.keys().filter(|name| !named.contains(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        self.listed = true;
    }

    /// An entry, of a list or changed.
    pub(super) fn put(&mut self, name: NamespacedName, entry: Entry) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        self.remove_claims(&name);
        let is_due = self.known.remove(&name).is_some_and(|known| known.is_due);
        let known = Known { entry, is_due, ..Known::default() };
        let claims = known.claims(&name);
        self.known.insert(name.clone(), known);
        claims.into_iter().for_each(|(ip, claim)| self.claim(ip, claim));
        if !self.is_settled(&name) {
            self.make_due(&name);
        }
    }

    /// An entry is gone, and its addresses are free.
    pub(super) fn remove(&mut self, name: &NamespacedName) {
        if let Some(listing) = &mut self.listing {
            listing.remove(name);
        }
        self.remove_claims(name);
        self.known.remove(name);
    }

    /// Whoever wrote writes no more, or not yet: nothing is under way.
    pub(super) fn restart(&mut self) {
        let under_way = self.known.iter().filter(|(_, known)| !known.reserved.is_empty()).map(|(name, _)| name.clone());
        for name in under_way.collect::<Vec<_>>() {
            self.release(&name);
            self.make_due(&name);
        }
    }

    /// What is to be written next, if anything: what it adds is reserved.
    pub(super) fn next(&mut self) -> Option<Plan> {
        if !self.listed {
            return None;
        }
        while let Some(name) = self.due.pop_front() {
            let was_due = self.known.get_mut(&name).is_some_and(|known| std::mem::take(&mut known.is_due));
            if let Some(plan) = was_due.then(|| self.plan(&name)).flatten() {
                return Some(plan);
            }
        }
        None
    }

    /// A plan was not carried out. What is read meanwhile is judged by itself.
    pub(super) fn failed(&mut self, plan: &Plan, again: bool) {
        if self.known.get(&plan.entry).is_some_and(|known| known.entry.version == plan.version) {
            self.release(&plan.entry);
            if again {
                self.make_due(&plan.entry);
            }
        }
    }

    /// The ranges of which no address is left for somebody, each told once until there is one again.
    pub(super) fn newly_empty(&mut self) -> Vec<IpRange> {
        let empty = self.pools.iter_mut().filter(|pool| !pool.waiting.is_empty() && !pool.is_empty_told);
        empty
            .map(|pool| {
                pool.is_empty_told = true;
                pool.range
            })
            .collect()
    }

    fn make_due(&mut self, name: &NamespacedName) {
        if let Some(known) = self.known.get_mut(name).filter(|known| !known.is_due) {
            known.is_due = true;
            self.due.push_back(name.clone());
        }
    }

    /// Of what an entry has: what it keeps, and what is another one's before it.
    fn divided(&self, name: &NamespacedName, known: &Known) -> (Vec<HostAddress>, Vec<(IpAddr, NamespacedName)>) {
        let hosts: BTreeSet<&Hostname> = known.entry.hosts.iter().flatten().collect();
        let (mut kept, mut lost) = (Vec::new(), Vec::new());
        for (host, ip) in known.entry.has.iter().filter(|(host, _)| hosts.contains(host)) {
            match self.claims.get(ip).and_then(|claims| claims.first()) {
                Some(first) if first.entry != *name || first.host.as_ref() != Some(host) => lost.push((*ip, first.entry.clone())),
                _ => kept.push((host.clone(), *ip)),
            }
        }
        (kept, lost)
    }

    /// Whether an entry has what it should have, and nothing else.
    fn is_settled(&self, name: &NamespacedName) -> bool {
        let Some(known) = self.known.get(name) else { return true };
        let Some(hosts) = &known.entry.hosts else { return true };
        let (kept, _) = self.divided(name, known);
        let mut families: BTreeMap<&Hostname, [bool; 2]> = hosts.iter().map(|host| (host, [false; 2])).collect();
        for (host, ip) in &kept {
            if let Some([v4, v6]) = families.get_mut(host) {
                *(if ip.is_ipv4() { v4 } else { v6 }) = true;
            }
        }
        kept.len() == known.entry.has.len() && !known.entry.unclear && families.values().all(|of| *of == [true; 2])
    }

    fn plan(&mut self, name: &NamespacedName) -> Option<Plan> {
        self.release(name);
        if self.is_settled(name) {
            return None;
        }
        let known = self.known.get(name)?;
        let (kept, lost) = self.divided(name, known);
        let (version, created, had, unclear) =
            (known.entry.version.clone(), known.entry.created, known.entry.has.len(), known.entry.unclear);
        let hosts = known.entry.hosts.clone().unwrap_or_default();
        let mut of_host: BTreeMap<Hostname, Vec<IpAddr>> = BTreeMap::new();
        let is_all_kept = kept.len() == had && !unclear;
        kept.into_iter().for_each(|(host, ip)| of_host.entry(host).or_default().push(ip));
        let (mut addresses, mut reserved, mut lacks) = (Vec::new(), Vec::new(), [false; 2]);
        for host in hosts {
            let mut ips = of_host.remove(&host).unwrap_or_default();
            for (pool, lacks) in lacks.iter_mut().enumerate() {
                if ips.iter().any(|ip| ip.is_ipv4() == (pool == 0)) {
                    continue;
                }
                let Some(ip) = self.free(pool, name, &host) else {
                    *lacks = true;
                    continue;
                };
                self.claim(ip, Claim { by: By::Status, created, entry: name.clone(), host: Some(host.clone()) });
                reserved.push((host.clone(), ip));
                ips.push(ip);
            }
            ips.sort_by_key(IpAddr::is_ipv6);
            addresses.extend(ips.into_iter().map(|ip| (host.clone(), ip)));
        }
        let nothing_new = reserved.is_empty() && is_all_kept;
        if let Some(known) = self.known.get_mut(name) {
            known.reserved = reserved;
        }
        for (pool, _) in self.pools.iter_mut().zip(lacks).filter(|(_, lacks)| *lacks) {
            pool.waiting.insert(name.clone());
        }
        (!nothing_new).then(|| Plan { entry: name.clone(), version, addresses, lost })
    }

    /// An address that is nobody's, the first one from where the names lead.
    fn free(&mut self, pool: usize, name: &NamespacedName, host: &Hostname) -> Option<IpAddr> {
        let pool = &self.pools[pool];
        if pool.taken >= pool.size {
            return None;
        }
        let start = u128::from(hash(&[&*name.namespace, &*name.name, host.as_str()]));
        // Among so many numbers there is one more than are taken.
        for step in 0..=pool.taken {
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
            let ip = pool.at(start + step);
            if !self.claims.contains_key(&ip) {
                return Some(ip);
            }
        }
        None
    }

    /// Takes back what an entry was about to get.
    fn release(&mut self, name: &NamespacedName) {
        let Some(known) = self.known.get_mut(name) else { return };
        let created = known.entry.created;
        for (host, ip) in std::mem::take(&mut known.reserved) {
            self.unclaim(ip, &Claim { by: By::Status, created, entry: name.clone(), host: Some(host) });
        }
    }

    fn remove_claims(&mut self, name: &NamespacedName) {
        for pool in &mut self.pools {
            pool.waiting.remove(name);
        }
        let claims = self.known.get(name).map(|known| known.claims(name)).unwrap_or_default();
        claims.iter().for_each(|(ip, claim)| self.unclaim(*ip, claim));
    }

    fn claim(&mut self, ip: IpAddr, claim: Claim) {
        let claims = self.claims.entry(ip).or_default();
        let first = claims.first().cloned();
        claims.insert(claim.clone());
        match first {
            None => self.pools.iter_mut().filter(|pool| pool.has(ip)).for_each(|pool| pool.taken += 1),
            // It is not the first one's any more.
            Some(first) if claim < first && first.entry != claim.entry => self.make_due(&first.entry),
            Some(_) => {}
        }
    }

    fn unclaim(&mut self, ip: IpAddr, claim: &Claim) {
        let Some(claims) = self.claims.get_mut(&ip) else { return };
        claims.remove(claim);
        if !claims.is_empty() {
            return;
        }
        self.claims.remove(&ip);
        let Some(pool) = self.pools.iter_mut().find(|pool| pool.has(ip)) else { return };
        pool.taken = pool.taken.saturating_sub(1);
        // One that waits may have it.
        if let Some(name) = pool.waiting.pop_first() {
            self.make_due(&name);
        } else {
            pool.is_empty_told = false;
        }
    }
}

/// FNV-1a, which is the same in every version of every control plane.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
