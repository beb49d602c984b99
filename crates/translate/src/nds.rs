//! The name table: what a proxy's DNS answers.

use std::collections::{BTreeSet, HashMap};

use mizzen_api::istio::EndpointAddress;
use mizzen_model::Registry;
use mizzen_protos::{
    Any,
    nds::{NameTable, name_table::NameInfo},
};
use prost::Message as _;

use crate::{ResourceKind, scope::Scope, wire};

/// Each service's host with its virtual addresses; a headless one with its pods'.
pub(crate) fn table(scope: &Scope<'_, '_>) -> NameTable {
    let mut table: HashMap<String, NameInfo> = HashMap::new();
    // Of each host the service that it means, before others whose ports it has too.
    let firsts = scope.view.services(scope.reader).into_iter();
    let mut seen = BTreeSet::new();
    for service in firsts.chain(scope.ports().into_iter().map(|(service, _)| service)).filter(|service| seen.insert(service.key())) {
        let ips: Vec<String> = if service.headless {
            let endpoints = scope.reader.endpoints(service);
            let mut ips: Vec<_> = endpoints
                .by_port
                .keys()
                .flat_map(|port| endpoints.ready(*port))
                .filter_map(|endpoint| match &endpoint.address {
                    EndpointAddress::Ip(ip) => Some(*ip),
                    EndpointAddress::Host(_) => None,
                })
                .collect();
            ips.sort();
            ips.dedup();
            ips.iter().map(ToString::to_string).collect()
        } else {
            service.vips().map(|ip| ip.to_string()).collect()
        };
        if ips.is_empty() {
            continue;
        }
        if let Some(first) = table.get_mut(service.host.as_str()) {
            let NameInfo { ips: known, .. } = first;
            known.extend(ips.into_iter().filter(|ip| !known.contains(ip)).collect::<Vec<_>>());
            continue;
        }
        let kubernetes = service.registry == Registry::Kubernetes;
        let info = NameInfo {
            ips,
            registry: if kubernetes { "Kubernetes" } else { "External" }.into(),
            shortname: if kubernetes { service.object.name.to_string() } else { String::new() },
            namespace: if kubernetes { service.namespace().to_string() } else { String::new() },
        };
        table.insert(service.host.to_string(), info);
    }
    NameTable { table }
}

/// The table in the order of its names.
pub(crate) fn encode(table: &NameTable) -> Any {
    let mut names: Vec<_> = table.table.iter().collect();
    names.sort_by(|a, b| a.0.cmp(b.0));
    let mut value = Vec::new();
    for (name, info) in names {
        wire::entry(&mut value, 1, name, &info.encode_to_vec());
    }
    Any { type_url: ResourceKind::NameTable.type_url(), value }
}
