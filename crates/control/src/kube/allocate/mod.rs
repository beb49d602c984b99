//! Addresses for ServiceEntries that name none: one of each family for each host, of ranges that nobody uses, written into the entry's status as Istio does
//! it. Proxies whose agents answer questions for names tell hosts apart by them.
//!
//! The status is the memory: every control plane reads what is there, and the one that leads writes what is missing, gives a new address to whoever has one
//! that is another's, and takes away what an entry shall have no more. Nothing else in the status is touched, and nothing is written over a version that
//! was not read ([`status`](super::status) keeps to the same).

mod book;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use mizzen_api::{Kind, Object};
use mizzen_types::{Hostname, IpRange, NamespacedName};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::sleep};

use super::{
    fold::Reading,
    watch::{AGAIN, words},
};
use crate::{names::CLUSTER_ROLE, source::Event};
use book::{Book, Entry, HostAddress, Plan};

/// The variable with the range of IPv4, Istio's.
pub const IPV4_PREFIX: &str = "PILOT_IP_AUTOALLOCATE_IPV4_PREFIX";
/// The variable with the range of IPv6, Istio's.
pub const IPV6_PREFIX: &str = "PILOT_IP_AUTOALLOCATE_IPV6_PREFIX";

/// Whether addresses are allocated to ServiceEntries that name none, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoAllocate {
    /// Whether they are, and whether those are used that statuses have.
    pub is_on: bool,
    /// Of this range of IPv4.
    v4: IpRange,
    /// And of this one of IPv6.
    v6: IpRange,
}

impl AutoAllocate {
    /// With these ranges; an empty text is the default one, Istio's.
    ///
    /// # Errors
    /// If a text is no range of its family, one without an address to give away, or one of addresses that mean something else.
    pub fn new(is_on: bool, v4: &str, v6: &str) -> Result<AutoAllocate, String> {
        let range = |name: &str, text: &str, default: IpRange, smallest: u8| {
            let wrong = |why: &str| Err(format!("{name}={text}: {why}"));
            let is_family = |range: &IpRange| range.address().is_ipv4() == default.address().is_ipv4();
            match text.parse::<IpRange>().ok().filter(is_family) {
                _ if text.is_empty() => Ok(default),
                None => wrong(&format!("must be a range of addresses of its family, as {default}")),
                Some(range) if range.prefix() > smallest => wrong(&format!("is too small: the prefix may be /{smallest} at most")),
                Some(range) if !is_usable(range.address()) => wrong("its addresses mean something else, and lead to no service"),
                Some(range) => Ok(range),
            }
        };
        let default = AutoAllocate::default();
        Ok(AutoAllocate { is_on, v4: range(IPV4_PREFIX, v4, default.v4, 30)?, v6: range(IPV6_PREFIX, v6, default.v6, 126)? })
    }
}

impl Default for AutoAllocate {
    fn default() -> Self {
        let [v4, v6] = [(IpAddr::from([240, 240, 0, 0]), 16), (IpAddr::from([0x2001, 2, 0, 0, 0, 0, 0, 0]), 48)];
        let range = |(ip, prefix): (IpAddr, u8)| IpRange::new(ip, prefix).unwrap_or_else(|_| ip.into());
        AutoAllocate { is_on: true, v4: range(v4), v6: range(v6) }
    }
}

/// Whether a service may have this address.
fn is_usable(ip: IpAddr) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    !special
        && match ip {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast() && ip.octets()[0] != 0,
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
}

/// What a status says of addresses; and whether there is more among them than can be used.
fn said(object: &DynamicObject) -> (Vec<HostAddress>, bool) {
    let said = &object.data["status"]["addresses"];
    let Some(list) = said.as_array() else { return (Vec::new(), !said.is_null()) };
    let one = |item: &Value| {
        let host: Hostname = item["host"].as_str()?.parse().ok()?;
        let ip: IpAddr = item["value"].as_str()?.parse().ok()?;
        Some((host, ip.to_canonical())).filter(|(_, ip)| is_usable(*ip))
    };
    let mut seen = BTreeSet::new();
    let found: Vec<HostAddress> = list.iter().filter_map(one).filter(|address| seen.insert(address.clone())).collect();
    let is_more = found.len() < list.len();
    (found, is_more)
}

/// Adds to a ServiceEntry that was read what its status says that was allocated to it. Only what an API server has may be believed: there a status is
/// written by whoever has the right to, and by nobody else.
pub(crate) fn attach(object: &DynamicObject, reading: &mut Reading) {
    let Ok(Object::ServiceEntry(entry)) = &mut reading.object else { return };
    let hosts: BTreeSet<&Hostname> = entry.allocatable_hosts().collect();
    let (mut allocated, _) = said(object);
    allocated.retain(|(host, _)| hosts.contains(host));
    entry.allocated = allocated;
}

/// What an object says, as far as its addresses are concerned.
fn entry(object: &DynamicObject, reading: &Reading) -> Entry {
    let hosts = match &reading.object {
        Ok(Object::ServiceEntry(entry)) => Some(entry.allocatable_hosts().cloned().collect()),
        _ => None,
    };
    let (has, unclear) = said(object);
    let own = object.data["spec"]["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let own = own.filter_map(|text| text.parse::<IpRange>().ok()).filter(|range| *range == IpRange::from(range.address()));
    Entry {
        version: object.resource_version().unwrap_or_default(),
        created: object.creation_timestamp().map_or(0, |time| time.0.as_second()),
        own: own.map(|range| range.address().to_canonical()).collect(),
        hosts,
        has,
        unclear,
    }
}

/// What is known of the addresses of all entries, until whoever leads writes what is missing.
#[derive(Debug)]
pub(crate) struct Allocations {
    book: Mutex<Book>,
    news: Notify,
}

impl Allocations {
    pub(crate) fn new(ranges: &AutoAllocate) -> Allocations {
        Allocations { book: Mutex::new(Book::new(ranges)), news: Notify::new() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry was read.
    pub(crate) fn read(&self, object: &DynamicObject, reading: &Reading) {
        let name = NamespacedName { namespace: reading.key.namespace.clone(), name: reading.key.name.clone() };
        self.book().put(name, entry(object, reading));
        self.news.notify_one();
    }

    /// What else is told of entries: that all were listed, or that one is gone.
    pub(crate) fn hear(&self, events: &[Event]) {
        for event in events {
            match event {
                Event::Init => self.book().begin(),
                Event::InitDone => self.book().complete(),
                Event::Delete(key) => {
                    self.book().remove(&NamespacedName { namespace: key.namespace.clone(), name: key.name.clone() });
                }
                _ => continue,
            }
            self.news.notify_one();
        }
    }

    /// What is to be written next.
    fn next(&self) -> Option<Plan> {
        let mut book = self.book();
        let plan = book.next();
        for range in book.newly_empty() {
            let variable = if range.address().is_ipv4() { IPV4_PREFIX } else { IPV6_PREFIX };
            tracing::error!("no address of {range} is left for ServiceEntries: some have none. {variable} must name a larger range");
        }
        plan
    }
}

impl Plan {
    /// What makes of a status one with these addresses, as long as nobody else has changed the object.
    fn patch(&self) -> Value {
        let address = |(host, ip): &HostAddress| json!({ "value": ip.to_string(), "host": host.as_str() });
        let addresses = match self.addresses.is_empty() {
            true => Value::Null,
            false => self.addresses.iter().map(address).collect(),
        };
        json!({ "metadata": { "resourceVersion": self.version }, "status": { "addresses": addresses } })
    }
}

/// Writes the addresses that entries should have, one after the other, for as long as it is polled.
pub(crate) async fn write(client: Client, allocations: Arc<Allocations>) {
    let resource = super::resource(Kind::ServiceEntry);
    allocations.book().restart();
    let mut is_dropped_told = false;
    loop {
        let Some(plan) = allocations.next() else {
            allocations.news.notified().await;
            continue;
        };
        let NamespacedName { namespace, name } = &plan.entry;
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(plan.patch())).await {
            Ok(object) if said(&object).0 == plan.addresses => {
                for (ip, of) in &plan.lost {
                    tracing::warn!(entry = %plan.entry, "address {ip} is ServiceEntry {of}'s: it has another one now");
                }
                tracing::debug!(entry = %plan.entry, addresses = plan.addresses.len(), "addresses are written into its status");
            }
            Ok(_) => {
                allocations.book().failed(&plan, false);
                if !std::mem::replace(&mut is_dropped_told, true) {
                    let what = "the API server drops status.addresses of ServiceEntries, which therefore get none";
                    tracing::error!(entry = %plan.entry, "{what}: their definition is too old, that of mizzen install has the field");
                }
            }
            // It is gone, or has changed and comes again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => allocations.book().failed(&plan, false),
            Err(error) => {
                // Other entries come first: one that the API server does not take keeps none of them waiting.
                allocations.book().failed(&plan, true);
                let forbidden = matches!(&error, kube::Error::Api(status) if status.code == 403);
                let right = match forbidden {
                    true => format!(": ClusterRole {CLUSTER_ROLE} must allow patch of serviceentries/status"),
                    false => String::new(),
                };
                tracing::warn!(entry = %plan.entry, reason = words(&error), "its addresses are not written yet{right}");
                sleep(AGAIN).await;
            }
        }
    }
}
