//! From a host to an address, and from an address to whoever is there.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mizzen_model::{ProxyType, Reader, ServiceView};
use mizzen_types::Hostname;

use super::{Explainer, Flow, Given, OUTSIDE};
use crate::{
    call::{CallError, Hop, Security, Side, Step, StepKind, To, Verdict, Way},
    proxy::Proxy,
};

/// The domain of Kubernetes services.
const DOMAIN: &str = "cluster.local";

impl Explainer {
    /// The address of a host, as DNS in the mesh answers who asks in a namespace from an address.
    pub(super) fn resolve(
        &mut self,
        host: &str,
        port: u16,
        (namespace, from): (&str, IpAddr),
        steps: &mut Vec<Step>,
    ) -> Result<SocketAddr, CallError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        let written: Hostname =
            host.parse().map_err(|error: mizzen_types::HostnameError| CallError::Host(host.to_owned(), error.to_string()))?;
        let proxy = self.proxy(from);
        let reader = Reader::new(&self.snapshot);
        let find = |host: &Hostname| reader.service_at(host, port, namespace).or_else(|| reader.service(host, namespace));
        let found = candidates(&written, namespace).iter().find_map(find);
        let (ip, outcome) = match found {
            None => (OUTSIDE, format!("no service here is called {host}: taken to be outside of the mesh, at {OUTSIDE}")),
            Some(service) => {
                let named = format!("{} in {}", service.host, service.namespace());
                match (address(&reader, service, port, proxy.as_deref()), service.allocated.is_empty()) {
                    (Some(ip), _) => (ip, format!("{ip}, of service {named}")),
                    (None, true) => (OUTSIDE, format!("{named} has no address of its own: taken to be at {OUTSIDE}")),
                    (None, false) => {
                        let who = "answered to pods with ISTIO_META_DNS_CAPTURE alone";
                        (OUTSIDE, format!("the addresses that were allocated to {named} are {who}: taken to be at {OUTSIDE}"))
                    }
                }
            }
        };
        steps.push(Step::new(StepKind::Resolve, outcome));
        Ok(SocketAddr::new(ip, port))
    }

    /// A call without a proxy: what Kubernetes does with it.
    pub(super) fn bare(&mut self, caller: String, flow: &Flow, given: Given) -> Hop {
        let destination = flow.destination;
        let behind = self.behind(destination);
        let (cluster, targets) = match behind {
            Some((host, targets)) => (format!("{host}:{}", destination.port()), targets),
            None => (destination.to_string(), vec![destination]),
        };
        let mut to: Vec<To> = Vec::new();
        for (at, target) in targets.into_iter().enumerate() {
            let mut one = To {
                address: target.to_string(),
                workload: self.pods.get(&target.ip()).map(|pod| pod.name.clone()),
                used: true,
                security: Security::Plaintext,
                steps: Vec::new(),
                next: None,
                verdict: None,
            };
            if at < given.endpoints {
                self.arrive(&mut one, target, Flow { destination: target, ..flow.clone() }, given);
            }
            to.push(one);
        }
        let verdict = Verdict::of(to.iter().filter_map(|to| to.verdict.clone()));
        let verdict = verdict.unwrap_or_else(|| Verdict::closed("the service has no endpoint that is ready"));
        let way = Way { cluster, share: None, when: None, steps: Vec::new(), to, verdict: verdict.clone() };
        Hop { proxy: caller, side: Side::Bare, steps: Vec::new(), ways: vec![way], verdict }
    }

    /// The service at a virtual address, and its endpoints.
    fn behind(&self, address: SocketAddr) -> Option<(Hostname, Vec<SocketAddr>)> {
        let reader = Reader::new(&self.snapshot);
        let service = reader.services_at(address.port()).find(|service| service.vips().any(|ip| ip == address.ip()))?;
        let ready = reader.endpoints(service).ready(address.port());
        // The cluster's own proxy keeps to the family of the address that was called.
        let of_family = |ip: &IpAddr| ip.is_ipv4() == address.is_ipv4();
        let target = |endpoint: &mizzen_model::Endpoint| {
            let ip = endpoint.ips().find(of_family).or(endpoint.ips().next())?;
            Some(SocketAddr::new(ip, endpoint.port))
        };
        Some((service.host.clone(), ready.filter_map(target).collect()))
    }

    /// A call comes to an address.
    pub(super) fn arrive(&mut self, to: &mut To, address: SocketAddr, flow: Flow, given: Given) {
        let meshed = flow.layers.last().is_some_and(|hello| hello.peer.is_some());
        let verdict = match self.pods.get(&address.ip()).map(|pod| pod.proxy) {
            Some(Some(kind)) => {
                let side = match kind {
                    ProxyType::Sidecar => Side::Inbound,
                    ProxyType::Router => Side::Gateway,
                };
                let hop = self.hop(address.ip(), side, flow, given);
                let verdict = hop.verdict.clone();
                to.next = Some(Box::new(hop));
                verdict
            }
            Some(None) if meshed => Verdict::closed("the pod has no proxy that takes the mesh's mutual TLS"),
            None if meshed => Verdict::unknown("whether it takes the mesh's mutual TLS, outside of the mesh"),
            Some(None) | None => Verdict::Delivered,
        };
        to.verdict = Some(verdict);
    }
}

/// The names under which a host may be known, as a pod's resolver completes them.
fn candidates(written: &Hostname, namespace: &str) -> Vec<Hostname> {
    let text = written.as_str();
    let completed = [format!("{text}.{namespace}.svc.{DOMAIN}"), format!("{text}.svc.{DOMAIN}"), format!("{text}.{DOMAIN}")];
    std::iter::once(written.clone()).chain(completed.iter().filter_map(|text| text.parse().ok())).collect()
}

/// The first address of a service for who has this proxy: its own, or a pod's where its name stands for its pods.
fn address(reader: &Reader<'_>, service: &Arc<ServiceView>, port: u16, proxy: Option<&Proxy>) -> Option<IpAddr> {
    let pod = |endpoint: &mizzen_model::Endpoint| endpoint.ips().next();
    let own = proxy.map_or_else(|| service.vips().next(), |proxy| proxy.view.vips(reader, service).first().copied());
    own.or_else(|| if service.headless { reader.endpoints(service).ready(port).find_map(pod) } else { None })
}
