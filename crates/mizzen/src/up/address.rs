//! The addresses of the mesh: pods', services', and its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr},
};

/// The router of every host, its DNS relay included.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The control plane.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// The first pod; what is below is the mesh's own.
const FIRST_POD: u16 = 16;

/// Hands out addresses from 10.244.0.0/16 for pods and 10.96.0.0/16 for services.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    next_pod: u16,
    pods: BTreeSet<Ipv4Addr>,
    services: BTreeMap<String, Ipv4Addr>,
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

    /// The virtual addresses of the host names in `wanted`, each with the address its YAML
    /// asks for, if any. The same name gets the same address in every run unless two names collide; a service keeps its address while it exists.
    pub(crate) fn services(&mut self, wanted: &BTreeMap<String, Option<IpAddr>>) -> BTreeMap<String, Ipv4Addr> {
        self.services.retain(|name, _| wanted.get(name).is_some_and(Option::is_none));
        let fixed: BTreeSet<IpAddr> = wanted.values().flatten().copied().collect();
        for name in wanted.iter().filter(|(_, address)| address.is_none()).map(|(name, _)| name) {
            if self.services.get(name).is_some_and(|a| !fixed.contains(&IpAddr::V4(*a))) {
                continue;
            }
            let taken: BTreeSet<Ipv4Addr> = self.services.values().copied().collect();
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            let start = hasher.finish() as u16;
            let free = (0..u16::MAX).map(|step| virtual_address(start.wrapping_add(step)));
            let free = free.flatten().find(|a| !taken.contains(a) && !fixed.contains(&IpAddr::V4(*a)));
            if let Some(address) = free {
                self.services.insert(name.clone(), address);
            }
        }
        self.services.clone()
    }
}

fn virtual_address(number: u16) -> Option<Ipv4Addr> {
    let [high, low] = number.to_be_bytes();
    (!matches!(low, 0 | 255) && number > 16).then(|| Ipv4Addr::new(10, 96, high, low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(list: &[(&str, Option<&str>)]) -> BTreeMap<String, Option<IpAddr>> {
        list.iter().map(|(name, address)| ((*name).to_owned(), address.map(|a| a.parse().unwrap()))).collect()
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
        let both = wanted(&[("shop/a", None), ("shop/b", None)]);
        let mut one = Addresses::default();
        let first = one.services(&both);
        assert_eq!(Addresses::default().services(&both), first, "the same in every run");
        assert_eq!(
            one.services(&wanted(&[("shop/b", None), ("shop/c", None)]))["shop/b"],
            first["shop/b"],
            "kept while others come and go"
        );
        let taken = first["shop/a"].to_string();
        let moved = one.services(&wanted(&[("shop/a", None), ("shop/fixed", Some(&taken))]));
        assert_ne!(moved["shop/a"].to_string(), taken, "an address that the YAML names is nobody else's");
        assert!(!moved.contains_key("shop/fixed"));
    }
}
