//! Which of a service's endpoints come into question for a caller, by where both run.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use mizzen_api::{
    LabelSet,
    istio::{Distribute, Failover, FailoverLabel, LocalityLbSetting, TrafficDistribution},
};
use mizzen_model::{CLUSTER, Endpoint, NODE_LABEL, REGION_LABEL, Resolve, SUBZONE_LABEL, ServiceView, ZONE_LABEL};
use mizzen_types::Locality;

use crate::{scope::Scope, traffic::Policy};

const NETWORK_LABEL: &str = "topology.istio.io/network";
const CLUSTER_LABEL: &str = "topology.istio.io/cluster";

/// Endpoints of one locality and priority.
#[derive(Clone, Debug)]
pub(crate) struct Group<'e> {
    pub(crate) locality: &'e Locality,
    /// The lowest is called as long as its endpoints are well.
    pub(crate) priority: u32,
    /// Its share among the groups of its priority.
    pub(crate) weight: u32,
    pub(crate) endpoints: Vec<&'e Endpoint>,
}

impl<'e> Group<'e> {
    fn new(locality: &'e Locality, priority: u32, endpoints: Vec<&'e Endpoint>) -> Self {
        let weight = endpoints.iter().fold(0u32, |sum, endpoint| sum.saturating_add(endpoint.weight));
        Group { locality, priority, weight, endpoints }
    }
}

/// What holds for a cluster: the setting, and whether there may be more than one priority.
struct Setting<'s> {
    setting: Cow<'s, LocalityLbSetting>,
    fails_over: bool,
}

/// The rule's setting counts, else the service's, else the mesh's.
fn setting<'s>(scope: &Scope<'s, 's>, service: &ServiceView, policy: &'s Policy) -> Option<Setting<'s>> {
    // Without detection nobody would ever turn to another priority.
    let fails_over = policy.outlier.is_some();
    if let Some(own) = policy.load_balancer.as_ref().and_then(|balancer| balancer.locality.as_ref()) {
        return own.enabled.then_some(Setting { setting: Cow::Borrowed(own), fails_over });
    }
    let near: &[&str] = match service.distribution {
        TrafficDistribution::Any => {
            let mesh = &scope.mesh().locality_lb_setting;
            return mesh.enabled.then_some(Setting { setting: Cow::Borrowed(mesh), fails_over });
        }
        TrafficDistribution::SameZone => &[NETWORK_LABEL, REGION_LABEL, ZONE_LABEL],
        TrafficDistribution::SameNode => &[NETWORK_LABEL, REGION_LABEL, ZONE_LABEL, SUBZONE_LABEL, NODE_LABEL],
    };
    let failover_priority = near.iter().map(|name| FailoverLabel { name: (*name).to_owned(), value: None }).collect();
    let setting = LocalityLbSetting { failover_priority, ..LocalityLbSetting::default() };
    Some(Setting { setting: Cow::Owned(setting), fails_over: true })
}

/// Whether a cluster's localities are chosen by their weights, not only their endpoints by theirs.
pub(crate) fn is_weighted(scope: &Scope<'_, '_>, service: &ServiceView, policy: &Policy) -> bool {
    setting(scope, service, policy).is_some_and(|Setting { setting, fails_over }| {
        !setting.distribute.is_empty() || (fails_over && !(setting.failover.is_empty() && setting.failover_priority.is_empty()))
    })
}

/// Whether an endpoint is one that the caller may reach at all, by the node on which both run.
pub(crate) fn is_reached(scope: &Scope<'_, '_>, service: &ServiceView, endpoint: &Endpoint) -> bool {
    !service.node_local || endpoint.labels.label(NODE_LABEL).unwrap_or_default() == scope.view.node(scope.reader)
}

/// Endpoints by locality, and by how near they are to the caller if that matters. Who asks is read only where the answer depends on it.
pub(crate) fn groups<'e>(
    scope: &Scope<'_, '_>,
    service: &ServiceView,
    policy: &Policy,
    endpoints: impl Iterator<Item = &'e Endpoint>,
) -> Vec<Group<'e>> {
    let mut by_locality: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        by_locality.entry(&endpoint.locality).or_default().push(endpoint);
    }
    let groups: Vec<Group<'_>> = by_locality.into_iter().map(|(locality, endpoints)| Group::new(locality, 0, endpoints)).collect();
    // Of one name there is nothing to choose, and a proxy takes it only if it is there.
    let several = !groups.is_empty() && service.resolve != Resolve::DnsRoundRobin;
    let Some(Setting { setting, fails_over }) = setting(scope, service, policy).filter(|_| several) else { return groups };
    if !setting.distribute.is_empty() {
        return distribute(groups, &setting.distribute, scope.view.locality(scope.reader));
    }
    if !fails_over {
        return groups;
    }
    let labels = &setting.failover_priority;
    let mut groups = if labels.is_empty() { groups } else { by_labels(scope, groups, labels) };
    if groups.len() > 1 && (labels.is_empty() || !setting.failover.is_empty()) {
        by_region(&mut groups, &setting.failover, scope.view.locality(scope.reader));
    }
    renumber(&mut groups);
    groups
}

/// The shares that are said for the caller's locality; endpoints that have none are left out.
fn distribute<'e>(groups: Vec<Group<'e>>, shares: &[Distribute], own: &Locality) -> Vec<Group<'e>> {
    let Some(shares) = shares.iter().find(|shares| shares.from.matches(own)) else { return groups };
    let mut made = Vec::new();
    for (pattern, share) in &shares.to {
        let here = || groups.iter().filter(|group| pattern.matches(group.locality));
        let sum: u64 = here().map(|group| u64::from(group.weight)).sum();
        // Among the localities of one pattern its share is divided by their weights.
        let part = |group: &Group<'e>| {
            let weight = (u64::from(group.weight) * u64::from(*share)).div_ceil(sum.max(1));
            Group { weight: u32::try_from(weight).unwrap_or(u32::MAX), ..group.clone() }
        };
        made.extend(here().map(part));
    }
    made.sort_by_key(|group| group.locality);
    made
}

/// Splits groups by how many of the labels, from the first on, their endpoints share with the caller.
fn by_labels<'e>(scope: &Scope<'_, '_>, groups: Vec<Group<'e>>, labels: &[FailoverLabel]) -> Vec<Group<'e>> {
    let priority = |endpoint: &Endpoint| {
        let differs = labels.iter().position(|label| !shares(scope, endpoint, label));
        differs.map_or(0, |at| u32::try_from(labels.len() - at).unwrap_or(u32::MAX))
    };
    let mut made = Vec::new();
    for group in groups {
        let mut parts: BTreeMap<u32, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in group.endpoints {
            parts.entry(priority(endpoint)).or_default().push(endpoint);
        }
        made.extend(parts.into_iter().map(|(priority, endpoints)| Group::new(group.locality, priority, endpoints)));
    }
    made
}

/// Whether an endpoint has the label as the caller has it, or as is written. What a locality says stands for labels of the topology.
fn shares(scope: &Scope<'_, '_>, endpoint: &Endpoint, label: &FailoverLabel) -> bool {
    type Part = fn(&Locality) -> &String;
    let part: Option<Part> = match &*label.name {
        REGION_LABEL => Some(|locality| &locality.region),
        ZONE_LABEL => Some(|locality| &locality.zone),
        SUBZONE_LABEL => Some(|locality| &locality.subzone),
        _ => None,
    };
    let has = match (part, &*label.name) {
        (Some(part), _) => part(&endpoint.locality).as_str(),
        // All that there is runs in one cluster, the caller's.
        (None, CLUSTER_LABEL) => CLUSTER,
        (None, name) => endpoint.labels.label(name).unwrap_or_default(),
    };
    match (&label.value, part, &*label.name) {
        (Some(value), ..) => has == value,
        (None, Some(part), _) => has == part(scope.view.locality(scope.reader)),
        (None, None, CLUSTER_LABEL) => true,
        (None, None, NODE_LABEL) => has == scope.view.node(scope.reader),
        (None, None, name) => has == scope.view.label(scope.reader, name).unwrap_or_default(),
    }
}

/// Lowers each group by how far it is: another subzone, zone, region; and last regions that the caller's is not to turn to.
fn by_region(groups: &mut [Group<'_>], failover: &[Failover], own: &Locality) {
    for group in groups {
        let there = group.locality;
        let distance = if there.region != own.region {
            let turns = failover.iter().find(|failover| failover.from == own.region);
            if turns.is_none_or(|failover| failover.to == there.region) { 3 } else { 4 }
        } else if there.zone != own.zone {
            2
        } else {
            u32::from(there.subzone != own.subzone)
        };
        group.priority = group.priority * 5 + distance;
    }
}

/// Priorities count from 0 without gaps.
fn renumber(groups: &mut [Group<'_>]) {
    let all: BTreeSet<u32> = groups.iter().map(|group| group.priority).collect();
    for group in groups {
        let before = all.range(..group.priority).count();
        group.priority = u32::try_from(before).unwrap_or(u32::MAX);
    }
}
