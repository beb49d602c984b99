//! The name table: what a proxy's DNS answers.

use std::collections::BTreeSet;

use mizzen_model::{Endpoint, Registry, ServiceView};
use mizzen_protos::nds::{NameTable, name_table::NameInfo};
use mizzen_types::{Hostname, Name};

use crate::{draft::NameEntry, scope::Scope};

/// The hosts that the proxy sees.
pub(crate) fn parts(scope: &Scope<'_, '_>) -> Vec<Name> {
    let ports = scope.ports().into_iter().map(|(service, _)| service);
    let services = scope.view.services(scope.reader).into_iter().chain(ports).map(|service| &service.host);
    let aliases = scope.view.aliases(scope.reader);
    let hosts: BTreeSet<&Hostname> = services.chain(aliases.iter().map(|alias| &alias.host)).collect();
    hosts.into_iter().map(|host| Name::from(host.as_str())).collect()
}

/// All of it.
pub(crate) fn table(scope: &Scope<'_, '_>) -> NameTable {
    let entries = parts(scope).into_iter().filter_map(|host| Some((host.to_string(), entry(scope, &host)?)));
    NameTable { table: entries.collect() }
}

/// The entry of a host: its services' virtual addresses, of a headless one its pods'; of an alias what it names has. None without an address.
fn entry(scope: &Scope<'_, '_>, host: &str) -> Option<NameInfo> {
    let host: Hostname = host.parse().ok()?;
    let found = of_services(scope, &host);
    // Nearly all are services. One of the same name comes before an alias, also without an address.
    if found.is_some() || !scope.view.under(scope.reader, &host).is_empty() {
        return found;
    }
    let alias = scope.view.alias(scope.reader, &host)?;
    let target = scope.reader.meaning(&host);
    let ips = of_services(scope, &target).map(|info| info.ips).unwrap_or_default();
    let (shortname, namespace) = (alias.object.name.to_string(), alias.object.namespace.to_string());
    Some(NameInfo { ips, registry: "Kubernetes".into(), shortname, namespace, alias_of: target.to_string() })
}

fn of_services(scope: &Scope<'_, '_>, host: &Hostname) -> Option<NameInfo> {
    // The service that the host means, before others whose ports it has too.
    let all = scope.view.under(scope.reader, host);
    let owners: BTreeSet<_> = scope.ports_of(host).into_iter().map(|(service, _)| service.key()).collect();
    let mut found: Option<NameInfo> = None;
    for (at, service) in all.into_iter().enumerate() {
        if at > 0 && !owners.contains(&service.key()) {
            continue;
        }
        let ips = addresses(scope, service);
        if ips.is_empty() {
            continue;
        }
        if let Some(NameInfo { ips: known, .. }) = &mut found {
            known.extend(ips.into_iter().filter(|ip| !known.contains(ip)).collect::<Vec<_>>());
            continue;
        }
        let kubernetes = service.registry == Registry::Kubernetes;
        found = Some(NameInfo {
            ips,
            registry: if kubernetes { "Kubernetes" } else { "External" }.into(),
            shortname: if kubernetes { service.object.name.to_string() } else { String::new() },
            namespace: if kubernetes { service.namespace().to_string() } else { String::new() },
            alias_of: String::new(),
        });
    }
    found
}

fn addresses(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<String> {
    let found = if service.headless {
        let endpoints = scope.reader.endpoints(service);
        let ready = endpoints.by_port.keys().flat_map(|port| endpoints.ready(*port));
        ready.flat_map(Endpoint::ips).collect::<BTreeSet<_>>().into_iter().collect()
    } else {
        scope.vips(service)
    };
    scope.reachable(found).iter().map(ToString::to_string).collect()
}

/// The entry of a host in the table, as a message of its own.
pub(crate) fn build_entry(scope: &Scope<'_, '_>, host: &str) -> Option<NameEntry> {
    entry(scope, host).map(|info| NameEntry { host: host.to_owned(), info: Some(info) })
}
