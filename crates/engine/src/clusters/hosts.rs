//! A cluster's endpoints, with their names resolved.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use mizzen_ir::config::{Assignment, Cluster, Discovery, DnsFamily, Endpoint, EndpointAddress, Health, LbValue};
use mizzen_types::Name;

use super::Clusters;
use crate::{
    Answer, Question, Target, address, checks,
    context::Context,
    health::{Fitness, HealthFlags},
    lb::HostState,
    questions::Questions,
};

/// An endpoint that may be picked.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) target: Target,
    pub(crate) state: Arc<HostState>,
    pub(super) weight: u32,
    /// What the control plane says of it.
    pub(super) eds: Health,
    /// Its priority; 0 comes first.
    pub(crate) priority: usize,
    /// Its locality's place within its priority.
    pub(super) locality: usize,
}

/// Endpoints by priority.
pub(crate) type Priorities = Vec<Vec<Arc<Host>>>;

/// A cluster's endpoints by priority, names resolved.
pub(crate) struct Flat {
    assignment: Arc<Assignment>,
    names_age: u64,
    /// When a name in it is to be resolved again.
    until: Option<Duration>,
    priorities: Arc<Priorities>,
}

/// Why there is no endpoint.
pub(crate) enum NoHost {
    /// There is none, or none is healthy.
    None,
    /// A name has to be resolved first.
    Wait(Question),
    /// The name that was asked for is nobody's, or none that may be asked for.
    Unresolved,
    /// Too many names are asked for.
    Overflow,
}

/// What names stand for, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct KnownNames {
    pub(super) known: HashMap<Name, Resolved>,
    /// Grows with every answer.
    age: u64,
}

/// A resolved name.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) until: Duration,
}

impl KnownNames {
    pub(super) fn resolved(&mut self, now: Duration, host: &Name, answer: Answer) {
        let (addresses, ttl) = match answer {
            Answer::Dns { addresses, ttl } => (addresses, ttl),
            // What is known of the name goes on being used.
            Answer::Absent => (self.known.get(host).map(|r| r.addresses.clone()).unwrap_or_default(), Duration::from_secs(5)),
        };
        let until = now + ttl.max(Duration::from_secs(1));
        self.known.insert(host.clone(), Resolved { addresses, until });
        self.age += 1;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Nobody asks for this one any more.
    pub(super) fn forget(&mut self, host: &str) {
        self.known.remove(host);
    }
}

impl Host {
    /// An address that is not one of a list.
    pub(crate) fn direct(target: Target, state: Arc<HostState>) -> Self {
        Host { endpoint: None, target, state, weight: 1, eds: Health::Unknown, priority: 0, locality: 0 }
    }

    /// How fit it is now.
    pub(super) fn fitness(&self) -> Fitness {
        self.state.fitness(self.eds)
    }

    /// Whether it is left out where endpoints are counted.
    pub(super) fn is_excluded(&self) -> bool {
        self.state.flags(self.eds).any(HealthFlags::PENDING_ACTIVE.with(HealthFlags::LEFT_OUT).with(HealthFlags::DRAINING))
    }

    /// Whether it has all of these in its metadata. `list_as_any`: a list of its own has what one of its values is.
    pub(super) fn has(&self, wanted: &[(Name, LbValue)], list_as_any: bool) -> bool {
        wanted.iter().all(|(key, value)| match self.value_of(key) {
            Some(LbValue::List(list)) if list_as_any => list.contains(value),
            Some(own) => own == value,
            None => false,
        })
    }

    /// Its metadata's value for a key.
    pub(super) fn value_of(&self, key: &str) -> Option<&LbValue> {
        self.endpoint.as_ref()?.lb.as_ref()?.iter().find(|(name, _)| **name == *key).map(|(_, value)| value)
    }

    /// Whether it says of itself that it is a canary.
    pub(super) fn is_canary(&self) -> bool {
        self.value_of("canary") == Some(&LbValue::Bool(true))
    }

    /// Its address as it is logged.
    pub(crate) fn address(&self) -> &Name {
        &self.state.address
    }

    /// Its host name: its own, or the name that was resolved to its address; may be empty.
    pub(super) fn hostname(&self) -> &str {
        let Some(endpoint) = &self.endpoint else { return "" };
        match &endpoint.address {
            EndpointAddress::Dns(name, _) if endpoint.hostname.is_empty() => name,
            _ => &endpoint.hostname,
        }
    }
}

impl Flat {
    /// The endpoints, if they are still those of this assignment.
    pub(super) fn of(&self, assignment: &Arc<Assignment>, now: Duration, names: &KnownNames) -> Option<&Arc<Priorities>> {
        let names_hold = self.until.is_none_or(|until| now < until && self.names_age == names.age);
        (Arc::ptr_eq(&self.assignment, assignment) && names_hold).then_some(&self.priorities)
    }
}

impl Clusters {
    /// The endpoints by priority, names resolved: as they are known, or found anew.
    pub(super) fn hosts(
        &mut self,
        cx: &mut Context,
        questions: &mut Questions,
        cluster: &Arc<Cluster>,
        assignment: &Arc<Assignment>,
    ) -> Result<Arc<Priorities>, NoHost> {
        let flat = self.views.get(&cluster.name).and_then(|view| view.flat.as_ref());
        match flat.and_then(|flat| flat.of(assignment, cx.now.mono, &self.names)) {
            Some(hosts) => Ok(hosts.clone()),
            None => self.flatten(cx, questions, cluster, assignment),
        }
    }

    /// The endpoints by priority, names resolved.
    fn flatten(
        &mut self,
        cx: &mut Context,
        questions: &mut Questions,
        cluster: &Arc<Cluster>,
        assignment: &Arc<Assignment>,
    ) -> Result<Arc<Priorities>, NoHost> {
        let now = cx.now.mono;
        let state = self.view(cx, &cluster.name).state.clone();
        // Of endpoints that are told twice, the first counts.
        let mut known = HashSet::new();
        let once = matches!(cluster.discovery, Discovery::Eds { .. });
        let (mut missing, mut until) = (None, None);
        let mut priorities = Vec::with_capacity(assignment.priorities.len());
        for (priority, given) in assignment.priorities.iter().enumerate() {
            let mut hosts = Vec::new();
            let localities = given.localities.iter().enumerate();
            for (endpoint, locality) in localities.flat_map(|(at, locality)| locality.endpoints.iter().map(move |e| (e, at))) {
                for target in self.targets(cx, questions, cluster, endpoint, &mut missing, &mut until) {
                    if once && !known.insert(target.clone()) {
                        continue;
                    }
                    let state = state.host_with(&address::target(&target), checks::unchecked(cluster, endpoint.check.as_deref()));
                    let (endpoint, weight, eds) = (Some(endpoint.clone()), endpoint.weight.max(1), endpoint.health);
                    hosts.push(Arc::new(Host { endpoint, target, state, weight, eds, priority, locality }));
                }
            }
            priorities.push(hosts);
        }
        match missing {
            Some(question) if priorities.iter().all(Vec::is_empty) => return Err(NoHost::Wait(question)),
            // Some names are known, others are not: those go on being asked for.
            Some(question) => {
                questions.ask(cx, question, None);
                until = Some(now);
            }
            None => {}
        }
        let priorities = Arc::new(priorities);
        state.set_members(priorities.iter().flatten().map(|host| (host.state.clone(), host.endpoint.clone())));
        let flat = Flat { assignment: assignment.clone(), names_age: self.names.age, until, priorities: priorities.clone() };
        self.view(cx, &cluster.name).flat = Some(flat);
        Ok(priorities)
    }

    fn targets(
        &self,
        cx: &mut Context,
        questions: &mut Questions,
        cluster: &Cluster,
        endpoint: &Endpoint,
        missing: &mut Option<Question>,
        until: &mut Option<Duration>,
    ) -> Vec<Target> {
        match &endpoint.address {
            EndpointAddress::Socket(_) | EndpointAddress::Pipe(_) | EndpointAddress::Internal(..) => {
                fixed_target(&endpoint.address).into_iter().collect()
            }
            EndpointAddress::Dns(host, port) => {
                let question = Question::Dns { host: host.clone() };
                let now = cx.now.mono;
                let Some(resolved) = self.names.known.get(host).cloned() else {
                    *missing = Some(question);
                    return Vec::new();
                };
                *until = Some(until.map_or(resolved.until, |u| u.min(resolved.until)));
                if resolved.until <= now {
                    questions.ask(cx, question, None);
                }
                let (family, one) = match &cluster.discovery {
                    Discovery::LogicalDns(_, dns) => (dns.family, true),
                    Discovery::StrictDns(_, dns) => (dns.family, false),
                    _ => (DnsFamily::All, false),
                };
                let mut addresses = of_family(&resolved.addresses, family);
                if one {
                    addresses.truncate(1);
                }
                addresses.into_iter().map(|ip| Target::Tcp((ip, *port).into())).collect()
            }
        }
    }
}

/// Where an endpoint is, unless its name has to be resolved.
pub(super) fn fixed_target(address: &EndpointAddress) -> Option<Target> {
    Some(match address {
        EndpointAddress::Socket(address) => Target::Tcp(*address),
        EndpointAddress::Pipe(path) => Target::Pipe(std::path::PathBuf::from(&**path)),
        EndpointAddress::Internal(listener, id) => Target::Internal(listener.clone(), id.clone()),
        EndpointAddress::Dns(..) => return None,
    })
}

pub(super) fn of_family(addresses: &[IpAddr], family: DnsFamily) -> Vec<IpAddr> {
    let only = |v4: bool| addresses.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect::<Vec<_>>();
    let first = |v4: bool| Some(only(v4)).filter(|list| !list.is_empty()).unwrap_or_else(|| only(!v4));
    match family {
        DnsFamily::V4 => only(true),
        DnsFamily::V6 => only(false),
        DnsFamily::V4Preferred => first(true),
        DnsFamily::Auto => first(false),
        DnsFamily::All => addresses.to_vec(),
    }
}
