//! Where pods may go: within the cluster, and out of it through the egress gateway alone.
//!
//! It is for all pods of a namespace, those without a proxy too: what a program reaches beside its proxy is what it is about.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{
    Key, Kind, Meta, Problem,
    istio::{EndpointAddress, ExportTo, Gateway, GatewayRef, OutboundTrafficPolicy, Resolution, ServiceEntry},
};
use mizzen_types::{IpRange, ports};

use super::{
    Netpol, Options, Through,
    object::{EgressRule, LabelSelector, NetworkPeer, NetworkPolicy, NetworkPort, tcp},
    ports::{Ports, Target},
    world::{Service, World},
};

/// By which Istio's egress gateway is known.
const EGRESS: (&str, &str) = ("istio", "egressgateway");
/// Where the cluster's DNS is.
const DNS: (&str, u16) = ("kube-system", 53);
/// What stays in the cluster.
const OF_CLUSTER: &str = ".svc.cluster.local";

/// What the registry names and no pod of the cluster is.
struct Outside {
    /// Its addresses with their ports; `None`: not known before it is called.
    addresses: Option<BTreeMap<IpRange, Ports>>,
    /// Where it stands, for notes.
    note: Problem,
}

/// All of them.
pub(super) fn write(world: &World, options: &Options, out: &mut Netpol) {
    let gateways = gateways(world, options, out);
    let is_asked = |name: &str| options.namespace.as_deref().is_none_or(|asked| asked == name);
    let is_forced = options.through.is_some();
    let (mut bounded, mut open) = (false, Vec::new());
    for name in world.namespaces().filter(|name| is_bounded(world, options, name)) {
        if !is_forced && mode(world, options, name) == OutboundTrafficPolicy::AllowAny {
            open.extend(is_asked(name).then_some(name));
            continue;
        }
        bounded = true;
        if !is_asked(name) {
            continue;
        }
        let Some(rules) = rules(world, options, name, gateways.is_empty(), out) else { continue };
        let from = if is_forced { "--egress-through" } else { "outboundTrafficPolicy REGISTRY_ONLY" };
        out.policies.push(NetworkPolicy::egress("mizzen-egress", name, LabelSelector::default(), rules, from));
    }
    if !open.is_empty() && (!gateways.is_empty() || bounded) {
        out.remark(format!(
            "pods of {} may go anywhere by outboundTrafficPolicy, and no NetworkPolicy stops them: --egress-through NAMESPACE/LABEL=VALUE says that \
             they may not",
            open.join(", ")
        ));
    }
    if !bounded {
        return;
    }
    write_gateways(options, &gateways, out);
    if !gateways.is_empty() {
        unrouted(world, &gateways, out);
    }
    if let Some(service) = world.services.iter().find(|service| &*service.id.namespace == "default" && &*service.id.name == "kubernetes") {
        out.notes.push(problem_of(service, "the API server is no pod of the cluster: who calls it needs --egress-to ADDRESS"));
    } else {
        out.remark("the API server is no pod of the cluster: for pods that call it, name its addresses by --egress-to ADDRESS".to_owned());
    }
}

/// Whether it is a namespace of the mesh whose pods need nothing of the outside themselves.
fn is_bounded(world: &World, options: &Options, name: &str) -> bool {
    // The control plane calls the API server, and fetches keys of issuers of tokens.
    let is_of_control = name == options.control_plane || name == world.mesh().root_namespace;
    !is_of_control && world.is_meshed(name, options.meshed_by_default)
}

/// The egress gateways' pods: those that somebody names, else those that the documents have.
fn gateways(world: &World, options: &Options, out: &mut Netpol) -> BTreeSet<Through> {
    if let Some(through) = &options.through {
        return BTreeSet::from([through.clone()]);
    }
    let mut found = BTreeSet::new();
    for gateway in world.gateways.iter().filter(|gateway| is_egress(gateway)) {
        let labels = gateway.selector.labels.clone();
        let mut namespaces: Vec<&str> = world.namespaces_of(&labels).into_iter().collect();
        if namespaces.is_empty() {
            namespaces.push(&options.control_plane);
            let text = format!("no pods with its labels are known: they are taken to be in {}", options.control_plane);
            out.notes.push(problem(&gateway.meta, Kind::Gateway, "spec.selector", text));
        }
        found.extend(namespaces.into_iter().map(|name| Through { namespace: name.to_owned(), labels: labels.clone() }));
    }
    found
}

fn is_egress(gateway: &Gateway) -> bool {
    gateway.selector.labels.get(EGRESS.0).is_some_and(|value| value == EGRESS.1)
}

/// What becomes of calls of a namespace to what nobody knows; where some of its pods may make them, all may.
fn mode(world: &World, options: &Options, name: &str) -> OutboundTrafficPolicy {
    let wide = |namespace: &str| {
        let of = world.sidecars.iter().filter(|sidecar| *sidecar.meta.namespace == *namespace && sidecar.selector.is_none());
        // Of several the oldest holds.
        of.min_by_key(|sidecar| (sidecar.meta.created, sidecar.meta.name.clone()))
    };
    let of_some = |outbound: Option<OutboundTrafficPolicy>| outbound == Some(OutboundTrafficPolicy::AllowAny);
    let own = world.sidecars.iter().filter(|sidecar| *sidecar.meta.namespace == *name && sidecar.selector.is_some());
    if own.into_iter().any(|sidecar| of_some(sidecar.outbound)) {
        return OutboundTrafficPolicy::AllowAny;
    }
    let general = match options.registry_only {
        true => OutboundTrafficPolicy::RegistryOnly,
        false => world.mesh().outbound_traffic_policy,
    };
    wide(name).or_else(|| wide(&world.mesh().root_namespace)).and_then(|sidecar| sidecar.outbound).unwrap_or(general)
}

/// Where pods of a namespace may go; `None` if the mesh lets them go where no NetworkPolicy can say.
fn rules(world: &World, options: &Options, name: &str, is_direct: bool, out: &mut Netpol) -> Option<Vec<EgressRule>> {
    let port = |protocol, port| NetworkPort { protocol, port: Target::Number(port), end_port: None };
    let dns = ["UDP", "TCP"].map(|protocol| port(protocol, DNS.1)).to_vec();
    // The first rule says the next two as well: they remain when somebody makes it narrower.
    let within = EgressRule {
        to: vec![NetworkPeer { namespace_selector: Some(LabelSelector::default()), ..NetworkPeer::default() }],
        ports: Vec::new(),
    };
    let mut rules = vec![
        within,
        EgressRule { to: vec![NetworkPeer::namespace(DNS.0)], ports: dns },
        EgressRule { to: vec![NetworkPeer::namespace(&options.control_plane)], ports: vec![port("TCP", ports::XDS)] },
    ];
    let reach: BTreeSet<IpRange> = options.reach.iter().copied().collect();
    if !reach.is_empty() {
        rules.push(EgressRule { to: reach.into_iter().map(NetworkPeer::range).collect(), ports: Vec::new() });
    }
    if !is_direct {
        return Some(rules);
    }
    // Without a gateway proxies go there themselves.
    let mut by_ports: BTreeMap<Ports, BTreeSet<IpRange>> = BTreeMap::new();
    for outside in outside(world, name) {
        let Some(addresses) = outside.addresses else {
            let message = format!(
                "no NetworkPolicy is written for what leaves namespace {name}: it goes to {}, whose addresses are known only when it is called; \
                 with an egress gateway (--egress-through) it is",
                outside.note.message
            );
            out.notes.push(Problem { message, ..outside.note });
            return None;
        };
        for (range, ports) in addresses {
            by_ports.entry(ports).or_default().insert(range);
        }
    }
    for (ports, ranges) in by_ports {
        rules.push(EgressRule { to: ranges.into_iter().map(NetworkPeer::range).collect(), ports: tcp(&ports) });
    }
    Some(rules)
}

/// What of the registry a namespace sees that no pod of the cluster is.
fn outside(world: &World, namespace: &str) -> Vec<Outside> {
    let default = &world.mesh().default_service_export_to;
    let is_visible = |entry: &&ServiceEntry| {
        let list: &[ExportTo] = if entry.export_to.is_empty() { default } else { &entry.export_to };
        ExportTo::visible(list, &entry.meta.namespace, namespace)
    };
    let entries = world.entries.iter().filter(is_visible).filter(|entry| entry.workload_selector.is_none());
    let of_entry = |entry: &ServiceEntry| Outside {
        addresses: addresses(entry),
        note: problem(&entry.meta, Kind::ServiceEntry, "spec.hosts", hosts(entry)),
    };
    let is_out = |service: &&Service| service.external_name.as_ref().is_some_and(|name| !name.trim_end_matches('.').ends_with(OF_CLUSTER));
    let of_service = |service: &Service| {
        let name = service.external_name.clone().unwrap_or_default();
        Outside { addresses: None, note: problem_of(service, &name) }
    };
    let mut all: Vec<Outside> = entries.map(of_entry).chain(world.services.iter().filter(is_out).map(of_service)).collect();
    all.sort_by(|a, b| a.note.cmp(&b.note));
    all
}

fn hosts(entry: &ServiceEntry) -> String {
    entry.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The addresses of a ServiceEntry; `None` if only DNS or the caller knows them.
fn addresses(entry: &ServiceEntry) -> Option<BTreeMap<IpRange, Ports>> {
    let mut found: BTreeMap<IpRange, Ports> = BTreeMap::new();
    match entry.resolution {
        Resolution::Dns | Resolution::DnsRoundRobin => return None,
        Resolution::None if entry.addresses.is_empty() => return None,
        Resolution::None => {
            let ports = Ports::of(entry.ports.iter().map(|port| port.number));
            found.extend(entry.addresses.iter().map(|range| (*range, ports.clone())));
        }
        Resolution::Static => {
            for endpoint in &entry.endpoints {
                let EndpointAddress::Ip(address) = endpoint.address else { return None };
                let number =
                    |port: &mizzen_api::istio::ServiceEntryPort| endpoint.ports.get(&port.name).copied().unwrap_or(port.target_port);
                let ports = Ports::of(entry.ports.iter().map(number));
                let range = IpRange::from(address);
                let all = found.get(&range).map_or_else(|| ports.clone(), |known| known.or(&ports));
                found.insert(range, all);
            }
        }
    }
    Some(found)
}

/// The gateways' pods go where they like: what they carry the mesh decides.
fn write_gateways(options: &Options, gateways: &BTreeSet<Through>, out: &mut Netpol) {
    // A later one of a namespace has a number.
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for through in gateways {
        let number = count.entry(&through.namespace).and_modify(|number| *number += 1).or_insert(1);
        let name = if *number > 1 { format!("mizzen-egress-gateway-{number}") } else { "mizzen-egress-gateway".to_owned() };
        let labels: Vec<String> = through.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let from = format!("the egress gateway {}/{}", through.namespace, labels.join(","));
        if options.namespace.as_deref().is_some_and(|asked| asked != through.namespace) {
            continue;
        }
        let pods = LabelSelector::of(through.labels.clone());
        out.policies.push(NetworkPolicy::egress(&name, &through.namespace, pods, vec![EgressRule::default()], &from));
    }
}

/// Hosts beyond the cluster that no route leads through the gateway: calls to them are stopped.
fn unrouted(world: &World, gateways: &BTreeSet<Through>, out: &mut Netpol) {
    let of_egress = |gateway: &&Gateway| is_egress(gateway) || gateways.iter().any(|through| through.labels == gateway.selector.labels);
    let named: BTreeSet<String> =
        world.gateways.iter().filter(of_egress).map(|gateway| gateway.meta.namespaced_name().to_string()).collect();
    let is_of_egress = |bound: &GatewayRef| matches!(bound, GatewayRef::Named(name) if named.contains(&name.to_string()));
    let routes: Vec<_> = world.routes.iter().filter(|route| route.gateways.iter().any(is_of_egress)).collect();
    for entry in world.entries.iter().filter(|entry| entry.workload_selector.is_none()) {
        let is_routed = |host: &&mizzen_types::Hostname| routes.iter().any(|route| route.hosts.iter().any(|routed| routed.overlaps(host)));
        let left: Vec<String> = entry.hosts.iter().filter(|host| !is_routed(host)).map(ToString::to_string).collect();
        if !left.is_empty() {
            let text = format!(
                "no VirtualService leads {} through the egress gateway: proxies go there themselves, and are stopped",
                left.join(", ")
            );
            out.notes.push(problem(&entry.meta, Kind::ServiceEntry, "spec.hosts", text));
        }
    }
}

fn problem(meta: &Meta, kind: Kind, field: &str, message: String) -> Problem {
    let object = Key::new(kind, meta.namespace.clone(), meta.name.clone());
    Problem { pos: meta.position(field), object: Some(object), field: field.to_owned(), message }
}

fn problem_of(service: &Service, message: &str) -> Problem {
    let object = Key::new(Kind::Service, service.id.namespace.clone(), service.id.name.clone());
    Problem { pos: service.pos.clone(), object: Some(object), field: "spec".to_owned(), message: message.to_owned() }
}
