//! What is asked about a proxy's own workload: its policies, and the ports that it serves.

use std::{net::IpAddr, sync::Arc};

use mizzen_api::{Key, Kind, Selector, core::TargetPort};
use mizzen_types::Protocol;

use crate::{
    policy::{PeerModes, WorkloadPolicies},
    proxy::{ProxyType, ProxyView},
    query::Query,
    question::{Item, Question, Reach},
    reader::Reader,
    service::{Instance, PodView, ServiceKey, ServiceView},
};

/// Says of which Gateway of the Gateway API a pod is a proxy.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

impl ProxyView {
    fn bears(&self, selector: &Selector) -> bool {
        selector.matches(&self.facts().labels)
    }

    /// The policies of the proxy's own workload.
    pub fn policies<'a>(&self, reader: &Reader<'a>) -> WorkloadPolicies<'a> {
        reader.question(Question::Policies, || {
            let facts = self.facts();
            let gateway = facts.labels.get(GATEWAY_LABEL).filter(|_| facts.kind == ProxyType::Router);
            let found = reader.policies(&facts.namespace, gateway.map(String::as_str), |selector| self.bears(selector));
            let mut answer = Vec::new();
            for policy in &found.policies {
                let key = Key::new(Kind::AuthorizationPolicy, policy.meta.namespace.clone(), policy.meta.name.clone());
                let stamp = reader.snapshot().content_version(&key).unwrap_or_default();
                answer.push(Item::Object(key, stamp));
            }
            // Beside its name there is nothing to know of a closed one.
            answer.push(Item::Number(found.closed.len() as u64));
            answer.extend(found.closed.iter().map(|closed| Item::Object(closed.key.clone(), 0)));
            (found, answer.into_iter().collect(), Reach::Alike)
        })
    }

    /// The effective modes of mutual TLS of the proxy's own workload.
    pub fn peer_modes(&self, reader: &Reader<'_>) -> PeerModes {
        reader.question(Question::PeerModes, || {
            let modes = reader.peer_modes(&self.facts().namespace, |selector| self.bears(selector));
            let ports = modes.ports.iter().flat_map(|(port, mode)| [u64::from(*port), *mode as u64]);
            let answer = std::iter::once(modes.workload as u64).chain(ports).map(Item::Number).collect();
            (modes, answer, Reach::Alike)
        })
    }

    /// The services' ports that the workload serves: by the pod at the proxy's address. A pod that is not known yet is taken to have the proxy's own
    /// labels.
    pub fn served(&self, reader: &Reader<'_>) -> Vec<Instance> {
        reader.question(Question::Served, || {
            let found = self.instances(reader);
            let answer = found.iter().flat_map(|instance| {
                let key = instance.service.key();
                let stamp = reader.snapshot().stamp(&Query::ServiceView(key.clone()));
                [Item::Service(key, stamp), Item::Number(instance.port.into()), Item::Number(instance.target.into())]
            });
            let answer = answer.collect();
            (found, answer, Reach::Own)
        })
    }

    fn instances(&self, reader: &Reader<'_>) -> Vec<Instance> {
        let facts = self.facts();
        let pods: Vec<&Arc<PodView>> = facts.ips().filter_map(|ip| reader.pod(ip)).collect();
        // The addresses are the proxy's own word: what is at them must be who its certificate says.
        let foreign = |pod: &&Arc<PodView>| pod.object.namespace != facts.namespace || pod.service_account != facts.service_account;
        if pods.iter().any(foreign) {
            return Vec::new();
        }
        let mut found: Vec<Instance> = Vec::new();
        for instance in facts.ips().flat_map(|ip| reader.instances(ip)) {
            // A service of two families has it at both.
            let is_same = |known: &Instance| {
                (known.port, known.target) == (instance.port, instance.target) && known.service.key() == instance.service.key()
            };
            if !found.iter().any(is_same) {
                found.push(instance.clone());
            }
        }
        if !found.is_empty() || !pods.is_empty() {
            return found;
        }
        let selects = |service: &&Arc<ServiceView>| service.selector.as_ref().is_some_and(|selector| self.bears(selector));
        let mut guessed = Vec::new();
        for service in reader.services_of(&facts.namespace).filter(selects) {
            guessed.extend(service.ports.iter().filter(|p| p.protocol != Protocol::Udp).filter_map(|port| match port.target {
                TargetPort::Number(target) => Some(Instance { service: service.clone(), port: port.port, target, protocol: port.protocol }),
                TargetPort::Name(_) => None,
            }));
        }
        guessed
    }

    /// The workload's port to which its own service sends a port; that port itself, if there is no such service.
    pub fn target(&self, reader: &Reader<'_>, port: u16) -> u16 {
        reader.question(Question::Target(port), || {
            let mut own = self.facts().ips().flat_map(|ip| reader.instances(ip));
            let target = own.find(|instance| instance.port == port).map_or(port, |instance| instance.target);
            (target, [Item::Number(target.into())].into_iter().collect(), Reach::Own)
        })
    }

    /// Those of the proxy's own addresses that are ready endpoints of a service's port.
    pub fn own_endpoints(&self, reader: &Reader<'_>, service: &ServiceKey, port: u16) -> Vec<IpAddr> {
        reader.question(Question::OwnEndpoints(service.clone(), port), || {
            let ready = || reader.endpoints_of(service).ready(port);
            let is_one = |own: &IpAddr| ready().any(|endpoint| endpoint.ips().any(|ip| ip == *own));
            let found: Vec<IpAddr> = self.facts().ips().filter(is_one).collect();
            let answer = found.iter().map(|ip| Item::Text(ip.to_string().into())).collect();
            (found, answer, if ready().next().is_none() { Reach::All } else { Reach::Own })
        })
    }
}
