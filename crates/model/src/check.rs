//! What is written and has no effect, or another one than it seems: what only the objects together show.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mizzen_api::{
    Kind, Meta, Problem, Selector, core,
    istio::{self, Action, AuthzProtocol, Condition, GatewayRef, Operation, Peer},
    routing::HttpAction,
};
use mizzen_types::{Hostname, Name, NamespacedName, Protocol};

use crate::{
    check_dynamic, check_names, delegates,
    derive::DOMAIN,
    index::HostIndex,
    provider,
    rules::by_age,
    servers::{Conflict, OpenServer},
    service::{Registry, ServiceView},
    snapshot::Snapshot,
};

/// Warnings about the objects of a snapshot, in the order of their places.
pub fn check(snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Vec::new();
    let services: Vec<&ServiceView> = snapshot.derived().all().map(|stored| &*stored.value).collect();
    entries(&services, snapshot, &mut found);
    destination_rules(snapshot, &mut found);
    virtual_services(snapshot, &services, &mut found);
    check_dynamic::check(snapshot, &services, &mut found);
    gateways(snapshot, &mut found);
    let workloads = Workloads::of(snapshot, &services);
    peer_authentications(snapshot, &workloads, &mut found);
    authorization_policies(snapshot, &workloads, &mut found);
    custom_policies(snapshot, &workloads, &mut found);
    found.sort();
    found.dedup();
    found
}

pub(crate) fn warn(found: &mut Vec<Problem>, kind: Kind, meta: &Meta, field: String, message: String) {
    let object = Some(mizzen_api::Key::new(kind, meta.namespace.clone(), meta.name.clone()));
    found.push(Problem { pos: meta.position(&field), object, field, message });
}

/// ServiceEntries that claim what is another's already.
fn entries(services: &[&ServiceView], snapshot: &Snapshot, found: &mut Vec<Problem>) {
    let meta = |object: &NamespacedName| {
        let key = mizzen_api::Key::new(Kind::ServiceEntry, object.namespace.clone(), object.name.clone());
        snapshot.object(&key).map(|object| object.meta())
    };
    // Each service by its addresses and by its name, so that none is compared with all others.
    let mut at_address: BTreeMap<IpAddr, Vec<&ServiceView>> = BTreeMap::new();
    let mut by_name: BTreeMap<(&Hostname, &Name), Vec<&ServiceView>> = BTreeMap::new();
    for service in services {
        by_name.entry((&service.host, service.namespace())).or_default().push(service);
        if service.registry == Registry::Kubernetes {
            service.vips().for_each(|ip| at_address.entry(ip).or_default().push(service));
        }
    }
    for entry in services.iter().filter(|service| service.registry == Registry::External) {
        let Some(meta) = meta(&entry.object) else { continue };
        for (at, range) in entry.addresses.iter().enumerate() {
            let within = at_address.range(range.address()..).take_while(|(ip, _)| range.contains(**ip));
            // Of a service with several addresses the first one is told.
            let mut told = BTreeSet::new();
            let claimed = within.flat_map(|(ip, at)| at.iter().map(move |service| (*ip, *service)));
            for (ip, service) in claimed.filter(|(_, service)| service.host != entry.host && told.insert(service.key())) {
                for port in entry.ports.iter().filter(|port| service.port(port.port).is_some()) {
                    let message = format!("{ip} port {} stays with Service {}", port.port, service.object);
                    warn(found, Kind::ServiceEntry, meta, format!("spec.addresses[{at}]"), message);
                }
            }
        }
        // Of one namespace the order is the same for every caller.
        let order = |service: &ServiceView| (service.registry, service.created, service.object.clone());
        for (at, port) in entry.ports.iter().enumerate() {
            let rivals = by_name.get(&(&entry.host, entry.namespace())).into_iter().flatten();
            let first = rivals.filter(|other| other.port(port.port).is_some()).min_by_key(|other| order(other));
            if let Some(first) = first.filter(|first| first.key() != entry.key()) {
                let kind = if first.registry == Registry::Kubernetes { "Service" } else { "ServiceEntry" };
                let message = format!("port {} of {} is ignored: {kind} {} has it", port.port, entry.host, first.object);
                warn(found, Kind::ServiceEntry, meta, format!("spec.ports[{at}]"), message);
            }
        }
    }
}

/// Parts that an older rule of the same host and namespace overrides.
fn destination_rules(snapshot: &Snapshot, found: &mut Vec<Problem>) {
    type Of<'a> = (&'a str, Hostname, Option<&'a Selector>);
    let mut by_host: BTreeMap<Of<'_>, Vec<&istio::DestinationRule>> = BTreeMap::new();
    for rule in snapshot.objects::<istio::DestinationRule>() {
        credentials(rule, found);
        let host = rule.host.qualify(&rule.meta.namespace, DOMAIN);
        by_host.entry((&rule.meta.namespace, host, rule.selector.as_ref())).or_default().push(rule);
    }
    for rules in by_host.values_mut() {
        rules.sort_by(|a, b| by_age(&a.meta, &b.meta));
        for (at, rule) in rules.iter().enumerate() {
            let older = rules.iter().take(at);
            let has = |what: &str, other: &istio::DestinationRule| {
                format!(
                    "{what} is ignored: DestinationRule {} has one for the same host ({})",
                    other.meta.namespaced_name(),
                    other.meta.origin
                )
            };
            if let Some(other) = older.clone().find(|other| rule.traffic_policy.is_some() && other.traffic_policy.is_some()) {
                warn(found, Kind::DestinationRule, &rule.meta, "spec.trafficPolicy".to_owned(), has("it", other));
            }
            for (number, subset) in rule.subsets.iter().enumerate() {
                if let Some(other) = older.clone().find(|other| other.subsets.iter().any(|s| s.name == subset.name)) {
                    let what = format!("subset `{}`", subset.name);
                    warn(found, Kind::DestinationRule, &rule.meta, format!("spec.subsets[{number}]"), has(&what, other));
                }
            }
        }
    }
}

/// All policies of a rule, with their places.
pub(crate) fn traffic_policies(rule: &istio::DestinationRule) -> impl Iterator<Item = (String, &istio::TrafficPolicy)> {
    let own = std::iter::once(("spec.trafficPolicy".to_owned(), rule.traffic_policy.as_deref()));
    let subsets = rule.subsets.iter().enumerate();
    let subsets = subsets.map(|(at, subset)| (format!("spec.subsets[{at}].trafficPolicy"), subset.traffic_policy.as_deref()));
    own.chain(subsets).filter_map(|(path, policy)| Some((path, policy?)))
}

/// Secrets that sidecars do not take, since each caller of the host would have to be given them.
fn credentials(rule: &istio::DestinationRule, found: &mut Vec<Problem>) {
    if rule.selector.is_some() {
        return;
    }
    for (path, policy) in traffic_policies(rule) {
        let of_ports = policy.port_level_settings.iter().map(|(port, level)| (Some(*port), level));
        for (port, level) in std::iter::once((None, policy)).chain(of_ports) {
            let Some(istio::ClientTls::Foreign(tls)) = &level.tls else { continue };
            if tls.credential().is_some() {
                let at = port.map_or_else(String::new, |port| format!(" (port {port})"));
                let message = format!("sidecars do not connect by it{at}: without a workloadSelector only gateways take a credentialName");
                let below = if port.is_some() { ".portLevelSettings" } else { ".tls.credentialName" };
                warn(found, Kind::DestinationRule, &rule.meta, format!("{path}{below}"), message);
            }
        }
    }
}

/// Hosts of the mesh that nothing bears. What else a VirtualService names that there is not is an error, which analysis tells.
fn virtual_services(snapshot: &Snapshot, services: &[&ServiceView], found: &mut Vec<Problem>) {
    let mut known: HostIndex<()> = HostIndex::default();
    services.iter().for_each(|service| known.insert(service.host.clone(), ()));
    snapshot.derived().aliases().for_each(|stored| known.insert(stored.value.host.clone(), ()));
    for rules in snapshot.objects::<istio::VirtualService>() {
        for (at, host) in rules.hosts.iter().enumerate().filter(|_| rules.gateways.contains(&GatewayRef::Mesh)) {
            let host = host.qualify(&rules.meta.namespace, DOMAIN);
            // Others may be answered by a server of names beyond the mesh.
            if host.as_str().ends_with(&format!(".svc.{DOMAIN}")) && !host.is_wildcard() && known.find(&host).is_empty() {
                warn(found, Kind::VirtualService, &rules.meta, format!("spec.hosts[{at}]"), format!("there is no service {host}"));
            }
        }
        delegated(snapshot, rules, found);
    }
}

/// Routes that are left to others, and which these do not have.
fn delegated(snapshot: &Snapshot, rules: &istio::VirtualService, found: &mut Vec<Problem>) {
    for (at, route) in rules.http.iter().enumerate() {
        let HttpAction::Delegate(name) = &route.action else { continue };
        let mut tell = |message: String| warn(found, Kind::VirtualService, &rules.meta, format!("spec.http[{at}].delegate"), message);
        let Some((delegate, _)) = delegates::delegate(snapshot.all(), rules, name) else {
            tell(format!(
                "there is no VirtualService {name} without hosts that namespace {} may use: nothing is routed so",
                rules.meta.namespace
            ));
            continue;
        };
        for (number, of) in delegate.http.iter().enumerate() {
            if delegates::merge(route, of, &delegate.meta.namespace).is_none() {
                tell(format!(
                    "route {number} of {name} ({}) is left out: its conditions are not within those that stand here",
                    delegate.meta.origin
                ));
            }
        }
    }
}

/// Servers beside which an older one of the same pods stands, and which are therefore left out.
fn gateways(snapshot: &Snapshot, found: &mut Vec<Problem>) {
    let mut all: Vec<&istio::Gateway> = snapshot.objects::<istio::Gateway>().collect();
    all.sort_by(|a, b| by_age(&a.meta, &b.meta));
    let stay_home = snapshot.mesh().gateways_stay_home;
    let mut standing: BTreeMap<(&str, &Selector, u16), Vec<OpenServer<'_>>> = BTreeMap::new();
    for gateway in all {
        for (at, server) in gateway.servers.iter().enumerate() {
            let home = if stay_home { &*gateway.meta.namespace } else { "" };
            let on_port = standing.entry((home, &gateway.selector, server.port.number)).or_default();
            let open = OpenServer { gateway, server };
            let why = on_port.iter().find_map(|older| Some((older, open.conflict(older)?)));
            match why {
                None => on_port.push(open),
                Some((older, conflict)) => {
                    let (meta, why) = (&older.gateway.meta, left_out(conflict, older.server));
                    let message = format!("is left out: Gateway {} ({}) has {why}", meta.namespaced_name(), meta.origin);
                    warn(found, Kind::Gateway, &gateway.meta, format!("spec.servers[{at}]"), message);
                }
            }
        }
    }
    check_names::check(snapshot, standing.values(), found);
}

/// What an older server on the same port has that keeps another one from it.
fn left_out(conflict: Conflict<'_>, theirs: &istio::Server) -> String {
    let port = theirs.port.number;
    let kind = match (theirs.is_tls(), theirs.is_http()) {
        (true, true) => "HTTPS",
        (true, false) => "TLS",
        (false, true) => "plain text",
        (false, false) => "TCP",
    };
    match conflict {
        Conflict::Kind => format!("{kind} on port {port}"),
        Conflict::Host(host) => format!("host {host} over {kind} on port {port}"),
        Conflict::PortName => format!("a port of the same name, {}, by which routes are told apart", theirs.port.name),
    }
}

/// A kind of workload, and what it serves.
struct Workload<'a> {
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    /// Its ports that belong to services, with the protocol.
    served: BTreeMap<u16, Protocol>,
    /// Its other ports, as far as they are declared.
    declared: BTreeSet<u16>,
}

/// All of them, by namespace.
struct Workloads<'a>(BTreeMap<&'a str, Vec<Workload<'a>>>);

impl<'a> Workloads<'a> {
    /// By Deployments and Pods: before the first pod runs, its Deployment says the same.
    fn of(snapshot: &'a Snapshot, services: &[&ServiceView]) -> Self {
        let mut of_namespace: BTreeMap<&str, Vec<&ServiceView>> = BTreeMap::new();
        for service in services {
            of_namespace.entry(service.namespace()).or_default().push(service);
        }
        let deployments = snapshot.objects::<core::Deployment>().map(|d| (&d.meta, &d.template.labels, &d.template.spec));
        let pods = snapshot.objects::<core::Pod>().map(|pod| (&pod.meta, &pod.meta.labels, &pod.spec));
        let workload = |(meta, labels, spec): (&'a Meta, &'a BTreeMap<String, String>, &'a core::PodSpec)| {
            let ports: Vec<&core::ContainerPort> = spec.containers.iter().flat_map(|c| &c.ports).filter(|port| !port.udp).collect();
            let mut served = BTreeMap::new();
            for service in of_namespace.get(&*meta.namespace).into_iter().flatten() {
                if service.selector.as_ref().is_some_and(|selector| selector.matches(labels)) {
                    for port in service.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
                        let target = match &port.target {
                            core::TargetPort::Number(number) => Some(*number),
                            core::TargetPort::Name(name) => ports.iter().find(|port| port.name == *name).map(|port| port.port),
                        };
                        served.extend(target.map(|target| (target, port.protocol)));
                    }
                }
            }
            Workload { namespace: &meta.namespace, labels, served, declared: ports.iter().map(|port| port.port).collect() }
        };
        let mut all: BTreeMap<&str, Vec<Workload<'_>>> = BTreeMap::new();
        deployments.chain(pods).map(workload).for_each(|workload| all.entry(workload.namespace).or_default().push(workload));
        Workloads(all)
    }

    fn selected(&self, namespace: &str, root: &str, selector: Option<&Selector>) -> impl Iterator<Item = &Workload<'a>> {
        let all = (namespace == root).then(|| self.0.values().flatten());
        let own = (namespace != root).then(|| self.0.get(namespace).into_iter().flatten());
        all.into_iter()
            .flatten()
            .chain(own.into_iter().flatten())
            .filter(move |w| selector.is_none_or(|selector| selector.matches(w.labels)))
    }

    /// The first port that carries TCP of a workload that a policy selects, as far as one of its rules concerns it.
    fn tcp_port(&self, policy: &istio::AuthorizationPolicy, root: &str, rule: &istio::Rule) -> Option<u16> {
        let concerns = |port: &u16| {
            let by = |to: &Operation| (to.ports.is_empty() || to.ports.contains(port)) && !to.not_ports.contains(port);
            rule.to.is_empty() || rule.to.iter().any(by)
        };
        let selected = self.selected(&policy.meta.namespace, root, policy.selector.as_ref()).filter(|_| policy.gateways.is_empty());
        let tcp = selected.flat_map(|w| &w.served).filter(|(_, protocol)| !protocol.is_http() && **protocol != Protocol::Auto);
        tcp.map(|(port, _)| *port).filter(concerns).min()
    }

    /// Whether two policies select one workload. One of which nothing is known yet may be any that both mean by the same words.
    fn share(&self, one: &istio::AuthorizationPolicy, other: &istio::AuthorizationPolicy, root: &str) -> bool {
        let (at, by) = (&one.meta.namespace, &other.meta.namespace);
        if !one.gateways.is_empty() || !other.gateways.is_empty() {
            return at == by && one.gateways.iter().any(|name| other.gateways.contains(name));
        }
        let same = one.selector == other.selector && (at == by || **at == *root || **by == *root);
        same || self
            .selected(at, root, one.selector.as_ref())
            .any(|w| (w.namespace == &**by || **by == *root) && other.selector.as_ref().is_none_or(|selector| selector.matches(w.labels)))
    }
}

/// Modes of ports that no workload has.
fn peer_authentications(snapshot: &Snapshot, workloads: &Workloads<'_>, found: &mut Vec<Problem>) {
    for policy in snapshot.objects::<istio::PeerAuthentication>() {
        // With a selector it bears on its own namespace alone, also in the root namespace.
        let selected: Vec<_> = workloads.selected(&policy.meta.namespace, "", policy.selector.as_ref()).collect();
        for port in policy.port_level_mtls.keys().filter(|_| !selected.is_empty()) {
            if !selected.iter().any(|w| w.served.contains_key(port) || w.declared.contains(port)) {
                let message = "no workload that is selected serves this port: it is the workload's own, not the Service's".to_owned();
                warn(found, Kind::PeerAuthentication, &policy.meta, format!("spec.portLevelMtls.{port}"), message);
            }
        }
    }
}

/// Rules about HTTP where a port carries bytes.
fn authorization_policies(snapshot: &Snapshot, workloads: &Workloads<'_>, found: &mut Vec<Problem>) {
    let root = snapshot.mesh().root_namespace.as_str();
    for policy in snapshot.objects::<istio::AuthorizationPolicy>() {
        let effect = match policy.action {
            Action::Allow => "never matches",
            Action::Deny => "matches without what it says of HTTP",
            Action::Audit => "marks what it matches without what it says of HTTP",
            // What it means there depends on its provider.
            Action::Custom => continue,
        };
        for (at, rule) in policy.rules.iter().enumerate() {
            let asks =
                rule.from.iter().any(Peer::is_http) || rule.to.iter().any(Operation::is_http) || rule.when.iter().any(Condition::is_http);
            if let Some(port) = workloads.tcp_port(policy, root, rule).filter(|_| asks) {
                let message = format!("is about HTTP, and port {port} of a workload that is selected carries TCP: there it {effect}");
                warn(found, Kind::AuthorizationPolicy, &policy.meta, format!("spec.rules[{at}]"), message);
            }
        }
    }
}

/// Providers that cannot be asked, wherever or at some ports.
fn custom_policies(snapshot: &Snapshot, workloads: &Workloads<'_>, found: &mut Vec<Problem>) {
    let root = snapshot.mesh().root_namespace.as_str();
    let all: Vec<&istio::AuthorizationPolicy> =
        snapshot.objects::<istio::AuthorizationPolicy>().filter(|policy| policy.action == Action::Custom).collect();
    for policy in &all {
        let name = &policy.provider;
        let mut tell = |message: String| warn(found, Kind::AuthorizationPolicy, &policy.meta, "spec.provider.name".to_owned(), message);
        let asked = match provider::find(snapshot, name) {
            Ok(asked) => asked,
            Err(why) => {
                tell(format!("{why}: the workloads that are selected refuse what the rules match"));
                continue;
            }
        };
        let namespaces: BTreeSet<&str> =
            workloads.selected(&policy.meta.namespace, root, policy.selector.as_ref()).map(|w| w.namespace).collect();
        for namespace in namespaces {
            if let Some(other) = provider::other_here(snapshot, &asked, namespace) {
                let (host, port, object) = (&other.host, asked.port.port, &other.object);
                tell(format!(
                    "in namespace {namespace}, {host} port {port} is {object} and not the provider: the workloads that are selected there refuse what the rules match"
                ));
            }
        }
        if let Some(other) = all.iter().find(|other| other.provider != *name && workloads.share(policy, other, root)) {
            let (named, theirs) = (other.meta.namespaced_name(), &other.provider);
            tell(format!(
                "AuthorizationPolicy {named} has another provider, `{theirs}`, for the same workload, which refuses what the rules match: only one can be asked"
            ));
        }
        let of_provider = asked.service.selector.as_ref();
        let mut selected = workloads.selected(&policy.meta.namespace, root, policy.selector.as_ref());
        let own = selected.any(|w| *w.namespace == **asked.service.namespace() && of_provider.is_some_and(|s| s.matches(w.labels)));
        if own && policy.rules.contains(&istio::Rule::default()) {
            tell(format!("the workload of provider `{name}` is selected itself: each question would be asked about again"));
        }
        let grpc = asked.authz.protocol == AuthzProtocol::Grpc;
        if grpc && !asked.port.protocol.is_http2() {
            let port = asked.port.port;
            tell(format!(
                "provider `{name}` is asked over gRPC, and port {port} of {} is not declared as gRPC or HTTP/2",
                asked.service.host
            ));
        }
        if !grpc && let Some(port) = policy.rules.iter().filter_map(|rule| workloads.tcp_port(policy, root, rule)).min() {
            tell(format!(
                "port {port} of a workload that is selected carries TCP: there nobody is asked, since the provider is asked over HTTP"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{Change, Snapshot};

    const SHOP: &str = "
{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: main}, {name: tcp, port: 6379, targetPort: 7000}]}}
---
{kind: Deployment, apiVersion: apps/v1, metadata: {name: web, namespace: shop}, spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: x, command: [x], ports: [{name: main, containerPort: 8080}]}]}}}}
---
{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: g, namespace: shop}, spec: {selector: {a: b}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}
---
{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: first, namespace: shop}, spec: {host: web, trafficPolicy: {}, subsets: [{name: v1}]}}
";

    /// The warnings about one more object of namespace `shop`, each as `field: message`.
    fn check(kind: &str, name: &str, spec: &str, expected: &[&str]) {
        check_with("", kind, name, spec, expected);
    }

    /// The same with more objects around it, about which nothing is said.
    fn check_with(more: &str, kind: &str, name: &str, spec: &str, expected: &[&str]) {
        let place = format!("test.yaml:4: {kind} shop/{name}: spec.");
        let expected: Vec<String> = expected.iter().map(|line| format!("{place}{line}")).collect();
        assert_eq!(all(more, kind, name, spec), expected, "{kind} {spec}");
    }

    fn all(more: &str, kind: &str, name: &str, spec: &str) -> Vec<String> {
        let version = if kind.ends_with("Policy") || kind.starts_with("Peer") { "security.istio.io/v1" } else { "networking.istio.io/v1" };
        let one = format!("kind: {kind}\napiVersion: {version}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n");
        let changes = [SHOP, more, one.as_str()].into_iter().flat_map(|text| {
            let parsed = mizzen_api::parse_documents(text, &Arc::from("test.yaml"));
            parsed.objects.into_iter().map(|object| Change::from(object.unwrap_or_else(|refusal| panic!("{:#?}", refusal.problems))))
        });
        let found = super::check(&Snapshot::empty().apply(changes.collect::<Vec<_>>()));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn service_entries() {
        let entry = |address: &str, port: u16| {
            format!("hosts: [e.example], addresses: ['{address}'], resolution: NONE, ports: [{{number: {port}, name: p, protocol: TCP}}]")
        };
        let kept = |port: u16| format!("addresses[0]: 10.96.0.1 port {port} stays with Service shop/web");
        check("ServiceEntry", "e", &entry("10.96.0.1", 6379), &[&kept(6379)]);
        check("ServiceEntry", "e", &entry("10.96.0.0/16", 80), &[&kept(80)]);
        check("ServiceEntry", "e", &entry("10.96.0.1", 81), &[]);
        check("ServiceEntry", "e", &entry("10.97.0.1", 80), &[]);
        let same = "hosts: [web.shop.svc.cluster.local], resolution: DNS, ports: [{number: 81, name: a}, {number: 80, name: b}]";
        check("ServiceEntry", "e", same, &["ports[1]: port 80 of web.shop.svc.cluster.local is ignored: Service shop/web has it"]);
    }

    #[test]
    fn second_destination_rules() {
        let first = "is ignored: DestinationRule shop/first has one for the same host (test.yaml:8)";
        check("DestinationRule", "second", "host: web, trafficPolicy: {}", &[&format!("trafficPolicy: it {first}")]);
        let subsets = "host: web.shop.svc.cluster.local, subsets: [{name: v2}, {name: v1}]";
        check("DestinationRule", "second", subsets, &[&format!("subsets[1]: subset `v1` {first}")]);
        check("DestinationRule", "second", "host: '*.shop.svc.cluster.local', trafficPolicy: {}", &[]);
    }

    #[test]
    fn hosts_that_nothing_bears() {
        let to = |to: &str| format!("http: [{{route: [{{destination: {{{to}}}}}]}}]");
        let virtual_service = |spec: &str, expected: &[&str]| check("VirtualService", "v", spec, expected);
        virtual_service(&format!("hosts: [web], {}", to("host: web, subset: v1")), &[]);
        virtual_service(&format!("hosts: [web.example], {}", to("host: web")), &[]);
        virtual_service(&format!("hosts: [wbe], {}", to("host: web")), &["hosts[0]: there is no service wbe.shop.svc.cluster.local"]);
        virtual_service(&format!("hosts: [wbe], gateways: [g], {}", to("host: web")), &[]);
    }

    #[test]
    fn modes_of_ports_that_nobody_serves() {
        let modes =
            |app: &str, port: u16| format!("selector: {{matchLabels: {{app: {app}}}}}, portLevelMtls: {{{port}: {{mode: DISABLE}}}}");
        for port in [8080, 7000] {
            check("PeerAuthentication", "p", &modes("web", port), &[]);
        }
        let message = "no workload that is selected serves this port: it is the workload's own, not the Service's";
        for port in [80, 6379] {
            check("PeerAuthentication", "p", &modes("web", port), &[&format!("portLevelMtls.{port}: {message}")]);
        }
        check("PeerAuthentication", "p", &modes("later", 80), &[]);
    }

    #[test]
    fn providers_of_custom_policies() {
        let mesh = "
---
{kind: ConfigMap, apiVersion: v1, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{extensionProviders: [
  {name: http, envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 80}},
  {name: grpc, envoyExtAuthzGrpc: {service: shop/authz.shop.svc.cluster.local, port: 90}},
  {name: wrong, envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 80}},
  {name: port, envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 81}},
  {name: absent, envoyExtAuthzHttp: {service: other/authz.shop.svc.cluster.local, port: 80}},
  {name: none, envoyExtAuthzHttp: {service: none.example, port: 80}},
  {name: three, envoyExtAuthzHttp: {service: a/three.example, port: 80}},
  {name: two, envoyExtAuthzHttp: {service: two.example, port: 80}},
  {name: log, envoyFileAccessLog: {path: /dev/stdout}}]}'}}
---
{kind: Service, apiVersion: v1, metadata: {name: authz, namespace: shop}, spec: {selector: {app: authz}, ports: [{name: http, port: 80}, {name: grpc, port: 90}]}}
---
{kind: Deployment, apiVersion: apps/v1, metadata: {name: authz, namespace: shop}, spec: {selector: {matchLabels: {app: authz}}, template: {metadata: {labels: {app: authz}}, spec: {containers: [{name: authz, image: x, command: [x]}]}}}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: none, namespace: shop}, spec: {hosts: [none.example], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: three, namespace: a}, spec: {hosts: [three.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: mine, namespace: shop}, spec: {hosts: [three.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: two, namespace: a}, spec: {hosts: [two.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: two, namespace: b}, spec: {hosts: [two.example], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}}
---
{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {name: first, namespace: shop}, spec: {selector: {matchLabels: {app: first}}, action: CUSTOM, provider: {name: http}, rules: [{}]}}
";
        let custom = |selector: &str, provider: &str, rule: &str, expected: &[&str]| {
            let spec =
                format!("selector: {{matchLabels: {{app: {selector}}}}}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{rule}]");
            let expected: Vec<String> = expected.iter().map(|message| format!("provider.name: {message}")).collect();
            check_with(mesh, "AuthorizationPolicy", "p", &spec, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        };
        let closed = "the workloads that are selected refuse what the rules match";
        custom("a", "http", "{}", &[]);
        custom("a", "grpc", "{}", &[]);
        let other = "in namespace shop, three.example port 80 is shop/mine and not the provider: the workloads that are selected there refuse what the rules match";
        custom("authz", "three", "{to: [{operation: {paths: [/a]}}]}", &[other]);
        let http2 = "provider `wrong` is asked over gRPC, and port 80 of authz.shop.svc.cluster.local is not declared as gRPC or HTTP/2";
        custom("a", "wrong", "{}", &[http2]);
        for (name, why) in [
            ("missing", "MeshConfig has no extension provider `missing`"),
            ("log", "extension provider `log` is of kind envoyFileAccessLog, which does not authorize"),
            ("port", "provider `port`: service authz.shop.svc.cluster.local has no port 81"),
            ("absent", "provider `absent`: there is no service authz.shop.svc.cluster.local in namespace other"),
            ("none", "provider `none`: service none.example has resolution NONE, and so no endpoint that could be asked"),
            ("two", "provider `two`: there is a service two.example in each of a, b: write NAMESPACE/two.example"),
        ] {
            custom("a", name, "{}", &[&format!("{why}: {closed}")]);
        }
        let tcp = "port 7000 of a workload that is selected carries TCP: there";
        custom("web", "http", "{}", &[&format!("{tcp} nobody is asked, since the provider is asked over HTTP")]);
        custom("web", "grpc", "{}", &[]);
        custom("web", "grpc", "{to: [{operation: {ports: ['8080']}}]}", &[]);
        custom("authz", "http", "{}", &["the workload of provider `http` is selected itself: each question would be asked about again"]);
        custom("authz", "http", "{to: [{operation: {paths: [/a]}}]}", &[]);
    }

    #[test]
    fn two_providers_of_one_workload() {
        let mesh = "
---
{kind: ConfigMap, apiVersion: v1, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{extensionProviders: [
  {name: a, envoyExtAuthzHttp: {service: web.shop.svc.cluster.local, port: 80}}, {name: b, envoyExtAuthzHttp: {service: web.shop.svc.cluster.local, port: 80}}]}'}}
---
{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {name: all, namespace: istio-system}, spec: {action: CUSTOM, provider: {name: a}, rules: [{to: [{operation: {ports: ['8080']}}]}]}}
";
        let other = |name: &str, theirs: &str| {
            format!(
                "provider.name: AuthorizationPolicy {name} has another provider, `{theirs}`, for the same workload, which refuses what the rules match: only one can be asked"
            )
        };
        let spec = |app: &str, provider: &str| {
            format!(
                "selector: {{matchLabels: {{app: {app}}}}}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{ports: ['8080']}}}}]}}]"
            )
        };
        check_with(mesh, "AuthorizationPolicy", "p", &spec("web", "a"), &[]);
        check_with(mesh, "AuthorizationPolicy", "p", &spec("nobody", "b"), &[]);
        let found = all(mesh, "AuthorizationPolicy", "p", &spec("web", "b"));
        let place = |name: &str| format!("AuthorizationPolicy {name}: spec.");
        let lines = [place("istio-system/all") + &other("shop/p", "b"), place("shop/p") + &other("istio-system/all", "a")];
        assert!(found.len() == 2 && lines.iter().all(|line| found.iter().any(|f| f.ends_with(line.as_str()))), "{found:#?}");
    }

    #[test]
    fn http_rules_at_tcp_ports() {
        let rule = |action: &str, rule: &str| format!("action: {action}, rules: [{{}}, {rule}]");
        let policy = |spec: &str, expected: &[&str]| check("AuthorizationPolicy", "p", spec, expected);
        let told =
            |effect: &str| format!("rules[1]: is about HTTP, and port 7000 of a workload that is selected carries TCP: there it {effect}");
        let paths = "{to: [{operation: {paths: [/a]}}]}";
        policy(&rule("ALLOW", paths), &[&told("never matches")]);
        policy(&rule("DENY", paths), &[&told("matches without what it says of HTTP")]);
        policy(&rule("DENY", "{when: [{key: 'request.headers[x]', values: [a]}]}"), &[&told("matches without what it says of HTTP")]);
        policy(&rule("ALLOW", "{to: [{operation: {paths: [/a], ports: ['8080']}}]}"), &[]);
        policy(&rule("ALLOW", "{to: [{operation: {paths: [/a], notPorts: ['7000']}}]}"), &[]);
        policy(&rule("ALLOW", "{from: [{source: {namespaces: [a]}}]}"), &[]);
        policy(&format!("selector: {{matchLabels: {{app: other}}}}, {}", rule("ALLOW", paths)), &[]);
    }
}
