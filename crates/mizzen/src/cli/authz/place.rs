//! Whose a record is: the workload that was called, and who called it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use mizzen_api::{core::Pod, istio::Gateway};
use mizzen_explain::{Caller, Inputs, Recorded, RecordedRequest};
use mizzen_model::{Reader, Snapshot};
use mizzen_types::{Hostname, SpiffeId};

use super::record::{Field, Record, Side};

/// A pod by its number among all of the mesh.
pub(crate) type PodId = usize;

/// The pods of a mesh, by all that a record may call them.
pub(crate) struct Places {
    pub(crate) pods: Vec<PodFacts>,
    by_address: HashMap<IpAddr, PodId>,
    by_host: HashMap<String, Arc<[PodId]>>,
    trust_domain: mizzen_types::TrustDomain,
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct PodFacts {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The name of its Deployment.
    pub(crate) workload: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) account: String,
    pub(crate) ip: IpAddr,
    pub(crate) second_ip: Option<IpAddr>,
    pub(crate) is_gateway: bool,
}

/// Why a record is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// The client's proxy wrote it: policies are the server's.
    Client,
    /// Nothing says whose it is.
    Nobody,
}

impl Places {
    pub(crate) fn new(snapshot: &Snapshot) -> Places {
        let gateways: Vec<&Gateway> = snapshot.objects::<Gateway>().collect();
        let facts = |pod: &Pod| {
            let labels = &pod.meta.labels;
            Some(PodFacts {
                namespace: pod.meta.namespace.to_string(),
                name: pod.meta.name.to_string(),
                workload: labels.get("service.istio.io/workload-name").cloned().unwrap_or_else(|| pod.meta.name.to_string()),
                labels: labels.clone(),
                account: pod.spec.service_account.clone(),
                ip: pod.status.pod_ip?,
                second_ip: pod.status.second_ip,
                is_gateway: gateways.iter().any(|gateway| gateway.selector.matches(labels)),
            })
        };
        let pods: Vec<PodFacts> = snapshot.objects::<Pod>().filter_map(facts).collect();
        let of_pod = |(id, pod): (usize, &PodFacts)| [Some((pod.ip, id)), pod.second_ip.map(|ip| (ip, id))];
        let by_address: HashMap<IpAddr, PodId> = pods.iter().enumerate().flat_map(of_pod).flatten().collect();
        let reader = Reader::new(snapshot);
        let behind = |service: &Arc<mizzen_model::ServiceView>| -> Arc<[PodId]> {
            let mut found: Vec<PodId> = reader
                .endpoints(service)
                .by_port
                .values()
                .flatten()
                .filter_map(|endpoint| match endpoint.address {
                    mizzen_api::istio::EndpointAddress::Ip(ip) => by_address.get(&ip).copied(),
                    mizzen_api::istio::EndpointAddress::Host(_) => None,
                })
                .collect();
            found.sort_unstable();
            found.dedup();
            found.into()
        };
        let by_host = reader.services().map(|service| (service.host.as_str().to_owned(), behind(service))).collect();
        Places { by_address, by_host, pods, trust_domain: snapshot.mesh().trust_domain.clone() }
    }

    /// The pod called `namespace/name`.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<PodId> {
        self.pods.iter().position(|pod| pod.namespace == namespace && pod.name == name)
    }

    /// The pods of which one has written a record; those that cannot be told apart by it are alike to its caller.
    pub(crate) fn server(&self, record: &Record, whose: Option<PodId>) -> Result<Arc<[PodId]>, Passed> {
        let by_address = record.local.and_then(|local| self.by_address.get(&local.ip()).copied());
        let one = whose.or(by_address);
        let is_gateway = one.is_some_and(|id| self.pods[id].is_gateway);
        match record.side() {
            Side::Client if !is_gateway => return Err(Passed::Client),
            // The client's own listener has a service's address, and the server's that of a pod.
            Side::Unknown if one.is_none() => return Err(Passed::Nobody),
            _ => {}
        }
        if let Some(one) = one {
            return Ok([one].into());
        }
        let of_account = |id: &PodId| match &record.server {
            Some(server) => {
                let pod = &self.pods[*id];
                pod.account == *server.service_account && pod.namespace == *server.namespace
            }
            None => true,
        };
        let host = record.server_name.as_deref().and_then(|name| name.strip_prefix("outbound_."));
        let host = host.and_then(|rest| rest.splitn(3, "_.").nth(2)).map(|rest| rest.trim_start_matches('.'));
        let by_host = host.or_else(|| host_of(record)).and_then(|host| self.by_host.get(host));
        let found: Vec<PodId> = match by_host {
            Some(ids) => ids.iter().copied().filter(of_account).collect(),
            None if record.server.is_some() => (0..self.pods.len()).filter(of_account).collect(),
            None => Vec::new(),
        };
        if found.is_empty() { Err(Passed::Nobody) } else { Ok(found.into()) }
    }

    /// Who called. Where the record gives no name, but the call was of the mesh, the pod at the caller's address is taken for it: the second value.
    pub(crate) fn caller(&self, record: &Record) -> (Caller, bool) {
        match &record.caller {
            Field::Value(text) => (text.parse().map_or(Caller::Unknown, Caller::Known), false),
            Field::Empty => (Caller::Nobody, false),
            // Only the mesh's own mutual TLS names services so.
            Field::Missing if record.server_name.as_ref().is_none_or(|name| !name.starts_with("outbound_.")) => (Caller::Nobody, false),
            Field::Missing => {
                let direct = record.remote.filter(|remote| remote.port() != 0);
                match direct.and_then(|remote| self.by_address.get(&remote.ip())) {
                    Some(id) => (Caller::Known(self.identity(*id)), true),
                    None => (Caller::Unknown, false),
                }
            }
        }
    }

    fn identity(&self, id: PodId) -> SpiffeId {
        let pod = &self.pods[id];
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: pod.namespace.as_str().into(),
            service_account: pod.account.as_str().into(),
        }
    }
}

/// The host that was called, by the request's own word.
fn host_of(record: &Record) -> Option<&str> {
    let authority = record.authority.as_deref()?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.parse::<Hostname>().is_ok().then_some(host)
}

/// The call that a record tells of, without what no policy of the workload looks at: calls that are alike are then equal.
pub(crate) fn recorded(record: &Record, caller: Caller, inputs: &Inputs) -> Recorded {
    let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let is_direct = record.remote.is_some_and(|remote| remote.port() != 0);
    let source = record.remote.filter(|_| inputs.addresses).map(|remote| SocketAddr::new(remote.ip(), 0));
    let request = record.method.as_ref().map(|method| {
        let whole = record.path.as_deref().unwrap_or("/");
        let path = if inputs.headers.contains(":path") { whole } else { whole.split('?').next().unwrap_or_default() };
        let wanted = |name: &str| inputs.headers.contains(name) || (name == "x-forwarded-for" && inputs.addresses);
        RecordedRequest {
            method: method.clone(),
            path: path.to_owned(),
            authority: record.authority.clone().filter(|_| inputs.headers.contains(":authority")),
            http2: record.http2,
            headers: record
                .headers
                .iter()
                .filter(|(name, _)| wanted(name))
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    });
    Recorded { source, is_direct, destination: record.local.unwrap_or(nowhere), server_name: record.server_name.clone(), caller, request }
}
