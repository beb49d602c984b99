//! A cluster's endpoints, with their names resolved.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use mizzen_ir::config::{Assignment, Cluster, Discovery, DnsFamily, Endpoint, EndpointAddress, Health};
use mizzen_types::Name;

use super::Clusters;
use crate::{Answer, Question, Target, address, context::Context, health::Fitness, lb::HostState, questions::Questions};

/// An endpoint that may be picked.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) target: Target,
    pub(crate) state: Arc<HostState>,
    pub(super) weight: u32,
    /// What the control plane says of it.
    pub(super) eds: Health,
    /// Its locality's place within its priority, and that one's weight.
    pub(super) locality: (usize, u32),
}

/// A cluster's endpoints by priority, names resolved.
pub(crate) struct Flat {
    assignment: Arc<Assignment>,
    names_age: u64,
    /// When a name in it is to be resolved again.
    until: Option<Duration>,
    priorities: Arc<Vec<Vec<Host>>>,
}

/// Why there is no endpoint.
pub(crate) enum NoHost {
    /// There is none, or none is healthy.
    None,
    /// A name has to be resolved first.
    Wait(Question),
}

/// What names stand for, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct KnownNames {
    known: HashMap<Name, Resolved>,
    /// Grows with every answer.
    age: u64,
}

/// A resolved name.
#[derive(Clone, Debug)]
struct Resolved {
    addresses: Vec<IpAddr>,
    until: Duration,
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
}

impl Host {
    /// An address that is not one of a list.
    pub(super) fn direct(target: Target, state: Arc<HostState>) -> Self {
        Host { endpoint: None, target, state, weight: 1, eds: Health::Unknown, locality: (0, 0) }
    }

    /// How fit it is now.
    pub(super) fn fitness(&self) -> Fitness {
        self.state.fitness(self.eds)
    }

    /// Its address as it is logged.
    pub(crate) fn address(&self) -> &Name {
        &self.state.address
    }
}

impl Clusters {
    /// The endpoints by priority, names resolved.
    pub(super) fn hosts(
        &mut self,
        cx: &mut Context,
        questions: &mut Questions,
        cluster: &Arc<Cluster>,
        assignment: &Arc<Assignment>,
    ) -> Result<Arc<Vec<Vec<Host>>>, NoHost> {
        let (now, age) = (cx.now.mono, self.names.age);
        let view = self.view(cx, &cluster.name);
        if let Some(flat) = &view.flat
            && Arc::ptr_eq(&flat.assignment, assignment)
            && flat.until.is_none_or(|until| now < until && flat.names_age == age)
        {
            return Ok(flat.priorities.clone());
        }
        let state = view.state.clone();
        let (mut missing, mut until) = (None, None);
        let mut priorities = Vec::with_capacity(assignment.priorities.len());
        for priority in assignment.priorities.iter() {
            let mut hosts = Vec::new();
            let localities = priority.localities.iter().enumerate();
            let endpoints = localities.flat_map(|(at, locality)| locality.endpoints.iter().map(move |e| (e, (at, locality.weight))));
            for (endpoint, locality) in endpoints.filter(|(e, _)| e.health != Health::Draining) {
                for target in self.targets(cx, questions, cluster, endpoint, &mut missing, &mut until) {
                    let state = state.host(&address::target(&target));
                    hosts.push(Host { endpoint: Some(endpoint.clone()), target, state, weight: endpoint.weight.max(1), eds: endpoint.health, locality });
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

fn of_family(addresses: &[IpAddr], family: DnsFamily) -> Vec<IpAddr> {
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
