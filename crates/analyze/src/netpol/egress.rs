//! Where pods may go: within the cluster, and out of it through the egress gateway alone.
//!
//! It is for all pods of a namespace, those without a proxy too: what a program reaches beside its proxy is what it is about.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{
    Key, Kind, Meta, Problem,
    istio::{EndpointAddress, ExportTo, Gateway, GatewayRef, OutboundTrafficPolicy, Resolution, ServiceEntry, Sidecar},
};
use mizzen_types::{IpRange, ports};

use super::{
    Netpol, Options, Through,
    led::is_led,
    object::{EgressRule, LabelSelector, NetworkPeer, NetworkPolicy, NetworkPort, tcp},
    ports::{Ports, Target},
    world::{API_SERVER, Service, World},
};

/// By which Istio's egress gateway is known.
const EGRESS: (&str, &str) = ("istio", "egressgateway");
/// Where the cluster's DNS is.
const DNS: (&str, u16) = ("kube-system", 53);
/// Without these nobody knows where the mesh lets its pods go.
const NEEDED: [&str; 7] = ["EndpointSlice", "Gateway", "Pod", "Service", "ServiceEntry", "Sidecar", "WorkloadEntry"];
/// Why addresses are not known.
const LATER: &str = "whose addresses are known only when it is called";
const BESIDE: &str = "whose endpoints may be no pods, or pods in their host's network";
/// What stays in the cluster.
const OF_CLUSTER: &str = ".svc.cluster.local";

/// What the registry names and no pod of the cluster is.
struct Outside {
    /// Its addresses with their ports; `None`: not known before it is called.
    addresses: Option<BTreeMap<IpRange, Ports>>,
    /// Where it stands, for notes, and what it is.
    note: Problem,
}

/// All of them.
pub(super) fn write(world: &World, options: &Options, out: &mut Netpol) {
    let gateways = gateways(world, options, out);
    let is_asked = |name: &str| options.namespace.as_deref().is_none_or(|asked| asked == name);
    let is_forced = options.through.is_some();
    let (mut bounded, mut open) = (false, Vec::new());
    if let Some(kind) = world.unseen(&NEEDED).filter(|_| !is_forced) {
        return out.remark(format!("objects of kind {kind} may not be read: no NetworkPolicy is written for what leaves namespaces"));
    }
    for name in world.namespaces().filter(|name| is_bounded(world, options, name)) {
        if !is_forced && mode(world, options, name) == OutboundTrafficPolicy::AllowAny {
            open.extend(is_asked(name).then_some(name));
            continue;
        }
        bounded = true;
        if !is_asked(name) {
            continue;
        }
        let Some(rules) = rules(world, options, name, &gateways, out) else { continue };
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
    if is_forced {
        unrouted(world, &gateways, out);
    }
    let is_api_server = |service: &&Service| (&*service.id.namespace, &*service.id.name) == API_SERVER;
    if let Some(service) = world.services.iter().find(is_api_server) {
        out.notes.push(problem_of(service, "the API server is no pod of the cluster: who calls it needs --egress-to ADDRESS"));
    } else {
        out.remark("the API server is no pod of the cluster: for pods that call it, name its addresses by --egress-to ADDRESS".to_owned());
    }
}

/// Whether it is a namespace of the mesh whose pods need nothing of the outside themselves.
fn is_bounded(world: &World, options: &Options, name: &str) -> bool {
    // The control plane calls the API server, and fetches keys of issuers of tokens.
    let is_of_control = name == options.control_plane || name == world.mesh().root_namespace;
    !is_of_control && !world.is_left_alone(name) && world.is_meshed(name, options.meshed_by_default)
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
    let general = match options.registry_only {
        true => OutboundTrafficPolicy::RegistryOnly,
        false => world.mesh().outbound_traffic_policy,
    };
    let of = |sidecar: &Sidecar| sidecar.outbound.unwrap_or(general);
    let selecting = world.sidecars.iter().filter(|sidecar| *sidecar.meta.namespace == *name && sidecar.selector.is_some());
    let rest = wide(name).or_else(|| wide(&world.mesh().root_namespace)).map_or(general, of);
    // No Sidecar is about gateways.
    let of_gateways = world.has_gateways(name).then_some(general);
    let mut all = selecting.map(of).chain(of_gateways).chain([rest]);
    if all.any(|mode| mode == OutboundTrafficPolicy::AllowAny) {
        OutboundTrafficPolicy::AllowAny
    } else {
        OutboundTrafficPolicy::RegistryOnly
    }
}

/// Where pods of a namespace may go; `None` if the mesh lets them go where no NetworkPolicy can say.
fn rules(world: &World, options: &Options, name: &str, gateways: &BTreeSet<Through>, out: &mut Netpol) -> Option<Vec<EgressRule>> {
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
    // What somebody names is all that there is; else proxies go to what no gateway is for themselves.
    if options.through.is_some() {
        return Some(rules);
    }
    let mut by_ports: BTreeMap<Ports, BTreeSet<IpRange>> = BTreeMap::new();
    for outside in outside(world, name, !gateways.is_empty()) {
        let Some(addresses) = outside.addresses else {
            let message = format!(
                "no NetworkPolicy is written for what leaves namespace {name}: it goes to {}; with an egress gateway (--egress-through) it is",
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

/// What of the registry a namespace sees that no pod of the cluster is. Where there is a gateway, without what its proxies send there.
fn outside(world: &World, namespace: &str, has_gateway: bool) -> Vec<Outside> {
    let default = &world.mesh().default_service_export_to;
    let is_visible = |entry: &&ServiceEntry| {
        let list: &[ExportTo] = if entry.export_to.is_empty() { default } else { &entry.export_to };
        ExportTo::visible(list, &entry.meta.namespace, namespace)
    };
    let is_direct = |entry: &&ServiceEntry| !has_gateway || !is_led(world, entry, namespace);
    let of_entry = |entry: &ServiceEntry| {
        let (addresses, why) = match &entry.workload_selector {
            None => (addresses(entry), LATER),
            Some(selector) if world.is_any_beside(&entry.meta.namespace, &selector.labels) => (None, BESIDE),
            Some(_) => return None,
        };
        Some(Outside { addresses, note: problem(&entry.meta, Kind::ServiceEntry, "spec.hosts", format!("{}, {why}", hosts(entry))) })
    };
    let entries = world.entries.iter().filter(is_visible).filter(is_direct).filter_map(of_entry);
    let services = world.services.iter().filter_map(|service| {
        let what = what_is_out(world, service)?;
        Some(Outside { addresses: None, note: problem_of(service, &what) })
    });
    let mut all: Vec<Outside> = entries.chain(services).collect();
    all.sort_by(|a, b| a.note.cmp(&b.note));
    all
}

/// What a service is if it is no pods of the cluster.
fn what_is_out(world: &World, service: &Service) -> Option<String> {
    let name = service.external_name.as_ref();
    if let Some(name) = name.filter(|name| !name.trim_end_matches('.').ends_with(OF_CLUSTER)) {
        return Some(format!("{name}, {LATER}"));
    }
    world.leads_beside(service).then(|| format!("{}.{}, {BESIDE}", service.id.name, service.id.namespace))
}

fn hosts(entry: &ServiceEntry) -> String {
    entry.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The addresses of a ServiceEntry; `None` if only DNS or the caller knows them.
fn addresses(entry: &ServiceEntry) -> Option<BTreeMap<IpRange, Ports>> {
    let mut found: BTreeMap<IpRange, Ports> = BTreeMap::new();
    match entry.resolution {
        Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns => return None,
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

/// What is beyond the cluster and not led through the gateway: calls to it are stopped.
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
    for service in &world.services {
        if let Some(what) = what_is_out(world, service) {
            out.notes.push(problem_of(service, &format!("calls to {what}, are stopped where --egress-to does not name its addresses")));
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
