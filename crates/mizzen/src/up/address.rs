//! The addresses of the mesh: pods', services', and its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The router of every host, its DNS relay included.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The control plane.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// The first pod; what is below is the mesh's own.
const FIRST_POD: u16 = 16;

/// Hands out addresses from 10.244.0.0/16 for pods, 10.96.0.0/16 for services, and 240.240.0.0/16 and 2001:2::/48 for hosts of ServiceEntries.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    next_pod: u16,
    pods: BTreeSet<Ipv4Addr>,
    services: BTreeMap<String, Virtual>,
}

/// Of what a host name is that is to have virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum VirtualOf {
    /// Of a service, which has one.
    Service,
    /// Of a ServiceEntry, which has one of each family.
    Entry,
}

/// A name's number in the ranges that names of its kind have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Virtual {
    of: VirtualOf,
    number: u16,
}

impl Addresses {
    /// An address for a pod. One that was given back is handed out again as late as possible: somebody may still know its old owner.
    ///
    /// Returns `None` if all 65,000 are in use.
    pub(crate) fn pod(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..=u16::MAX {
            self.next_pod = self.next_pod.checked_add(1).unwrap_or(FIRST_POD).max(FIRST_POD);
            let [high, low] = self.next_pod.to_be_bytes();
            let address = Ipv4Addr::new(10, 244, high, low);
            // .0 and .255 are ordinary here, but many programs take them for a network's own.
            if !matches!(low, 0 | 255) && self.pods.insert(address) {
                return Some(address);
            }
        }
        None
    }

    /// Gives a pod's address back.
    pub(crate) fn release_pod(&mut self, address: Ipv4Addr) {
        self.pods.remove(&address);
    }

    /// The virtual addresses of the host names in `wanted`, of which none is among those that somebody names.
    /// The same name gets the same addresses in every run unless two names collide; it keeps them while it exists.
    pub(crate) fn services(&mut self, wanted: &BTreeMap<String, VirtualOf>, named: &BTreeSet<IpAddr>) -> BTreeMap<String, Vec<IpAddr>> {
        let is_free = |number: Virtual| !number.addresses().iter().any(|address| named.contains(address));
        self.services.retain(|name, known| wanted.get(name) == Some(&known.of) && is_free(*known));
        let mut taken: BTreeSet<Virtual> = self.services.values().copied().collect();
        for (name, of) in wanted {
            if self.services.contains_key(name) {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            let start = hasher.finish() as u16;
            let mut all = (0..u16::MAX).map(|step| Virtual { of: *of, number: start.wrapping_add(step) });
            if let Some(free) = all.find(|number| number.is_usable() && !taken.contains(number) && is_free(*number)) {
                taken.insert(free);
                self.services.insert(name.clone(), free);
            }
        }
        self.services.iter().map(|(name, number)| (name.clone(), number.addresses())).collect()
    }
}

impl Virtual {
    fn is_usable(self) -> bool {
        !matches!(self.number.to_be_bytes()[1], 0 | 255) && self.number > 16
    }

    fn addresses(self) -> Vec<IpAddr> {
        let [high, low] = self.number.to_be_bytes();
        match self.of {
            VirtualOf::Service => vec![Ipv4Addr::new(10, 96, high, low).into()],
            VirtualOf::Entry => {
                vec![Ipv4Addr::new(240, 240, high, low).into(), Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, self.number).into()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(list: &[(&str, VirtualOf)]) -> BTreeMap<String, VirtualOf> {
        list.iter().map(|(name, wanted)| ((*name).to_owned(), *wanted)).collect()
    }

    #[test]
    fn pods_are_distinct_and_come_back_late() {
        let mut addresses = Addresses::default();
        let first = addresses.pod().unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 244, 0, 16));
        addresses.release_pod(first);
        assert_ne!(addresses.pod().unwrap(), first);
        let mut seen = BTreeSet::new();
        while let Some(address) = addresses.pod() {
            assert!(seen.insert(address) && address > CONTROL, "{address}");
        }
        assert!(seen.len() > 64_000);
    }

    #[test]
    fn services_are_stable() {
        use VirtualOf::{Entry, Service};
        let none = BTreeSet::new();
        let both = wanted(&[("shop/a", Service), ("shop/b", Service)]);
        let mut one = Addresses::default();
        let first = one.services(&both, &none);
        assert_eq!(Addresses::default().services(&both, &none), first, "the same in every run");
        let later = one.services(&wanted(&[("shop/b", Service), ("shop/c", Service)]), &none);
        assert_eq!(later["shop/b"], first["shop/b"], "kept while others come and go");
        let taken = first["shop/a"][0];
        let moved = one.services(&wanted(&[("shop/a", Service)]), &[taken].into());
        assert_ne!(moved["shop/a"][0], taken, "an address that somebody names is nobody else's");
        // What becomes something else gets addresses of that.
        let a = wanted(&[("shop/a", Entry)]);
        let entry = one.services(&a, &none);
        let [IpAddr::V4(four), IpAddr::V6(six)] = entry["shop/a"][..] else { panic!("{entry:?}") };
        assert_eq!((&four.octets()[..2], &six.segments()[..7]), (&[240, 240][..], &[0x2001, 2, 0, 0, 0, 0, 0][..]));
        let moved = one.services(&a, &[six.into()].into());
        assert!(moved["shop/a"][0] != entry["shop/a"][0] && moved["shop/a"][1] != entry["shop/a"][1], "{moved:?}");
    }

    /// No two names have one address, however many there are.
    #[test]
    fn services_are_distinct() {
        let kind = |n: u32| if n.is_multiple_of(2) { VirtualOf::Entry } else { VirtualOf::Service };
        let names = (0..10_000).map(|n| (format!("shop/{n}"), kind(n))).collect();
        let given = Addresses::default().services(&names, &BTreeSet::new());
        let all: BTreeSet<IpAddr> = given.values().flatten().copied().collect();
        assert_eq!((given.len(), all.len()), (10_000, 15_000));
    }
}
