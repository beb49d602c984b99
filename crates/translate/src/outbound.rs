//! Outbound listeners of a sidecar: one for each address and port that services have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mizzen_api::{
    istio::{GatewayRef, OutboundTrafficPolicy},
    routing::{Destination, TcpDestination, TcpMatch, TcpRoute},
};
use mizzen_model::{Endpoint, PortView, Registry, RouteRules, ServiceView, single};
use mizzen_protos::envoy::envoy::{
    config::{
        core::v3::{CidrRange, TrafficDirection},
        listener::v3::{FilterChain, FilterChainMatch, Listener as Head},
    },
    extensions::filters::network::tcp_proxy::v3::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
};
use mizzen_types::{Hostname, IpRange, Protocol};

use crate::{
    access_log,
    draft::{Chain, Listener},
    dynamic,
    filters::{self, Routes, Side},
    listener::{self, ANY, PLAIN_HTTP},
    names,
    route::{self, Caller},
    scope::Scope,
    traffic::{self, Policy},
    wire,
};

/// Addresses and ports that have a listener.
pub(crate) fn list(scope: &Scope<'_, '_>) -> BTreeSet<(IpAddr, u16)> {
    let mut found = BTreeSet::new();
    let mut taken: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
    for (service, port) in scope.ports() {
        let of_services = taken.entry(port.port).or_insert_with_key(|number| of_services(scope, &scope.services_at(*number), *number));
        let binds = binds(scope, service, port).into_iter().filter(|bind| may_have(service, *bind, of_services));
        found.extend(binds.map(|bind| (bind, port.port)));
    }
    found
}

/// Where a service's port is listened for. HTTP is told apart by its Host header, and so on any address.
fn binds(scope: &Scope<'_, '_>, service: &ServiceView, port: &PortView) -> Vec<IpAddr> {
    if port.protocol == Protocol::Udp {
        return Vec::new();
    }
    if port.protocol.is_http() {
        return vec![ANY];
    }
    if service.headless {
        let own = scope.view.own_endpoints(scope.reader, &service.key(), port.port);
        return scope.reachable(pods(scope, service, port.port)).into_iter().filter(|ip| !own.contains(ip)).collect();
    }
    let addresses = scope.addresses(service);
    let vips: Vec<IpAddr> = single(&addresses).collect();
    let any = addresses.is_empty() || addresses.len() > vips.len();
    scope.reachable(vips).into_iter().chain(any.then_some(ANY)).collect()
}

/// The addresses at which Kubernetes Services are called at a port, those of headless ones' pods included: no ServiceEntry has them.
fn of_services(scope: &Scope<'_, '_>, at: &[&Arc<ServiceView>], number: u16) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for service in at.iter().filter(|service| service.registry == Registry::Kubernetes) {
        found.extend(service.vips());
        found.extend(if service.headless { pods(scope, service, number) } else { Vec::new() });
    }
    found
}

fn may_have(service: &ServiceView, bind: IpAddr, of_services: &BTreeSet<IpAddr>) -> bool {
    service.registry == Registry::Kubernetes || !of_services.contains(&bind)
}

/// The ready pods of a headless service.
fn pods(scope: &Scope<'_, '_>, service: &ServiceView, number: u16) -> Vec<IpAddr> {
    scope.reader.endpoints(service).ready(number).flat_map(Endpoint::ips).collect()
}

/// One service's port at a listener.
struct Share<'a> {
    service: &'a Arc<ServiceView>,
    port: &'a PortView,
}

impl Share<'_> {
    fn is_http(&self) -> bool {
        self.port.protocol.is_http()
    }

    fn is_auto(&self) -> bool {
        self.port.protocol == Protocol::Auto
    }
}

pub(crate) fn build(scope: &Scope<'_, '_>, bind: IpAddr, number: u16) -> Option<Listener> {
    let at = scope.services_at(number);
    let mut shares: Vec<Share<'_>> = at.into_iter().filter_map(|service| Some(Share { service, port: service.port(number)? })).collect();
    shares.retain(|share| binds(scope, share.service, share.port).contains(&bind));
    // Asked for only where an entry might take something.
    let entries = shares.iter().any(|share| share.service.registry == Registry::External && !share.is_http());
    let of_services = if entries { of_services(scope, &scope.services_at(number), number) } else { BTreeSet::new() };
    shares.retain(|share| may_have(share.service, bind, &of_services));
    shares.sort_by_key(|share| (share.service.created, share.service.object.name.clone(), share.service.object.namespace.clone()));
    let mut chains = Vec::new();
    let routed = |share: &&Share<'_>| share.is_http() || share.is_auto();
    let dynamic = shares.iter().any(|share| share.is_http() && dynamic::is_one(share.service))
        || (shares.iter().any(|share| routed(&share))
            && dynamic::is_led_to_from(scope, number, |host| shares.iter().filter(routed).any(|share| host.covers(&share.service.host))));
    chains.extend(route_name(&shares, bind).map(|name| http_chain(scope, bind, number, name, dynamic)));
    if bind == ANY
        && let [http] = chains.as_slice()
    {
        // Chains that match by address come before those that match by protocol.
        let within = |ip: &IpAddr| shares.iter().any(|s| !s.is_http() && s.service.addresses.iter().any(|range| range.contains(*ip)));
        let kept: Vec<_> = of_services.iter().filter(|ip| within(ip)).map(|ip| listener::cidr(IpRange::from(*ip))).collect();
        if !kept.is_empty() {
            let mut http = http.clone();
            http.head.filter_chain_match.get_or_insert_default().prefix_ranges = kept;
            chains.insert(0, http);
        }
    }
    let (mut open, mut taken) = (false, BTreeSet::new());
    for share in shares.iter().filter(|share| !share.is_http()) {
        for chain in tcp_chains(scope, share, bind) {
            let catches_all = chain.head.filter_chain_match.is_none();
            // Two services cannot both have all connections of a port: the oldest gets them.
            if !(catches_all && open) {
                open |= catches_all;
                chains.extend(untaken(chain, &mut taken));
            }
        }
    }
    if chains.is_empty() {
        return None;
    }
    // Beside chains that match by more, the chain for all the rest is the default one: a proxy that has found chains for plain bytes
    // looks no further for one that matches anything.
    let rest =
        chains.iter().position(|chain| chain.head.filter_chain_match.is_none()).filter(|_| chains.len() > 1).map(|at| chains.remove(at));
    // The address may be anybody's; what no service claims is as unknown as on any other port.
    let unknown = (bind == ANY && !open).then(|| unknown_chain(scope, "PassthroughFilterChain", Some(FilterChainMatch::default())));
    let default = rest.or(unknown);
    let mut inspectors = Vec::new();
    inspectors.extend(chains.iter().any(listener::needs_tls).then(|| listener::tls_inspector(None)));
    inspectors.extend(chains.iter().any(listener::needs_http).then(|| listener::http_inspector(None)));
    let head = Head {
        name: names::listener(bind, number),
        listener_filters_timeout: Some(wire::duration(scope.mesh().protocol_detection_timeout)),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Outbound.into(),
        bind_to_port: Some(wire::bool_value(false)),
        ..listener::at(scope, bind, number)
    };
    Some(Listener { head, chains, default, filters: inspectors, log: None })
}

/// The name of the routes of a listener, if HTTP may come to it.
fn route_name(shares: &[Share<'_>], bind: IpAddr) -> Option<String> {
    let share = shares.iter().find(|share| share.is_http()).or_else(|| shares.iter().find(|share| share.is_auto()))?;
    let number = share.port.port;
    Some(if bind == ANY { number.to_string() } else { format!("{}:{number}", share.service.host) })
}

fn http_chain(scope: &Scope<'_, '_>, bind: IpAddr, port: u16, routes: String, dynamic: bool) -> Chain {
    let stat = names::stat(&format!("outbound_{}", names::listener(bind, port)));
    let matched = FilterChainMatch {
        transport_protocol: "raw_buffer".into(),
        application_protocols: PLAIN_HTTP.map(String::from).to_vec(),
        ..Default::default()
    };
    let last = if dynamic { dynamic::http_filters(scope) } else { Vec::new() };
    let filters = vec![filters::http_manager(scope, Side::Outbound, stat, Routes::Rds(routes), (Vec::new(), last))];
    Chain { head: timed(Some(matched)), filters: filters.into(), ..Default::default() }
}

/// The cluster of calls to nobody that is known.
pub(crate) fn unknown_cluster(scope: &Scope<'_, '_>) -> String {
    match scope.view.outbound(scope.reader) {
        (OutboundTrafficPolicy::RegistryOnly, _) => names::BLACK_HOLE.to_owned(),
        (OutboundTrafficPolicy::AllowAny, None) => names::PASSTHROUGH.to_owned(),
        // What is not seen is no way out.
        (OutboundTrafficPolicy::AllowAny, Some(to)) => way_through(scope, to).unwrap_or_else(|| names::BLACK_HOLE.to_owned()),
    }
}

fn way_through(scope: &Scope<'_, '_>, to: &Destination) -> Option<String> {
    let (host, port) = (scope.reader.meaning(&to.host), to.port?);
    let (service, _) = scope.ports_of(&host).into_iter().find(|(_, own)| own.port == port)?;
    let is_there = |name: &str| traffic::rule(scope, service).is_some_and(|rule| rule.subsets.iter().any(|subset| subset.name == name));
    let subset = to.subset.as_deref().unwrap_or_default();
    (subset.is_empty() || is_there(subset)).then(|| names::outbound(port, subset, &host))
}

/// The chain of calls to nobody that is known.
pub(crate) fn unknown_chain(scope: &Scope<'_, '_>, name: &str, matched: Option<FilterChainMatch>) -> Chain {
    let mut list: Vec<_> = filters::tcp_stats(scope, Side::Outbound).into_iter().collect();
    list.push(filters::tcp_to(scope, &unknown_cluster(scope)));
    Chain {
        head: FilterChain { filter_chain_match: matched, name: name.into(), ..Default::default() },
        filters: list.into(),
        ..Default::default()
    }
}

fn tcp_chains(scope: &Scope<'_, '_>, share: &Share<'_>, bind: IpAddr) -> Vec<Chain> {
    let own = own_match(scope, share, bind);
    let mut found = Vec::new();
    if share.port.protocol.is_tls() {
        let rules = scope.mesh_rules(&share.service.host);
        let own_rules = tls_chains(scope, share, bind, rules, |_| true);
        if dynamic::is_one(share.service) {
            // Names that it covers, and that are no services' own, may be routed by themselves.
            let is_free = |name: &Hostname| {
                share.service.host.covers(name) && (name.is_wildcard() || scope.service_at(name, share.port.port).is_none())
            };
            found = tls_chains(scope, share, bind, scope.tls_rules_within(&share.service.host), is_free);
        }
        if !own_rules.is_empty() {
            // They say all of the port: a server name that none of them has is nobody's here.
            found.extend(own_rules);
            return found;
        }
    } else {
        for (rules, route, ranges) in tcp_routes(scope, share) {
            let to = to(scope, share, rules, &route.route);
            if ranges.is_empty() {
                found.push(chain(scope, own, to));
                return found;
            }
            let matched = FilterChainMatch { prefix_ranges: ranges.into_iter().map(listener::cidr).collect(), ..Default::default() };
            found.push(chain(scope, Some(matched), to));
        }
    }
    let cluster = names::outbound(share.port.port, "", &share.service.host);
    found.push(chain(scope, own, (cluster.clone(), ClusterSpecifier::Cluster(cluster))));
    found
}

/// The chains of these routes for TLS that concern this caller, as far as their server names are meant.
fn tls_chains<'a>(
    scope: &Scope<'_, 'a>,
    share: &Share<'_>,
    bind: IpAddr,
    of: impl IntoIterator<Item = RouteRules<'a>>,
    is_meant: impl Fn(&Hostname) -> bool,
) -> Vec<Chain> {
    let mut found = Vec::new();
    for rules in of {
        for route in rules.tls {
            for m in route.matches.iter().filter(|m| applies(scope, share, &m.connection)) {
                let names: Vec<&Hostname> = m.sni_hosts.iter().filter(|name| is_meant(name)).collect();
                if names.is_empty() && !m.sni_hosts.is_empty() {
                    continue;
                }
                let own: &[IpRange] = if bind == ANY { &share.service.addresses } else { &[] };
                let ranges = if m.connection.destination_subnets.is_empty() { own } else { &m.connection.destination_subnets };
                // `*` is any name, and none.
                let is_any = names.iter().any(|name| name.as_str() == "*");
                let names = names.into_iter().filter(|_| !is_any).map(ToString::to_string);
                let matched = FilterChainMatch {
                    prefix_ranges: ranges.iter().copied().map(listener::cidr).collect(),
                    server_names: names.collect(),
                    ..Default::default()
                };
                let matched = Some(matched).filter(|matched| *matched != FilterChainMatch::default());
                found.push(chain(scope, matched, to(scope, share, rules, &route.route)));
            }
        }
    }
    found
}

/// An address range and a server name that a chain of a listener matches; none is any.
type Matched = (Option<String>, Option<String>);

/// What is left of a chain without what earlier ones of its listener match: of two chains that match the same a proxy refuses the whole listener.
fn untaken(chain: Chain, taken: &mut BTreeSet<Matched>) -> Vec<Chain> {
    let Some(matched) = &chain.head.filter_chain_match else { return vec![chain] };
    let ranges: Vec<Option<&CidrRange>> =
        if matched.prefix_ranges.is_empty() { vec![None] } else { matched.prefix_ranges.iter().map(Some).collect() };
    let names: Vec<Option<&String>> =
        if matched.server_names.is_empty() { vec![None] } else { matched.server_names.iter().map(Some).collect() };
    let mut groups: BTreeMap<Vec<String>, Vec<CidrRange>> = BTreeMap::new();
    let mut is_left = false;
    for range in ranges {
        let text = range.map(|range| format!("{}/{}", range.address_prefix, range.prefix_len.unwrap_or_default().value));
        let free = |name: &&Option<&String>| taken.insert((text.clone(), name.cloned()));
        let left: Vec<Option<&String>> = names.iter().filter(free).copied().collect();
        if !left.is_empty() {
            is_left = true;
            groups.entry(left.into_iter().flatten().cloned().collect()).or_default().extend(range.cloned());
        }
    }
    if !is_left {
        return Vec::new();
    }
    let of_group = |(server_names, prefix_ranges)| {
        let mut part = chain.clone();
        part.head.filter_chain_match = Some(FilterChainMatch { server_names, prefix_ranges, ..matched.clone() });
        part
    };
    groups.into_iter().map(of_group).collect()
}

/// Whether a condition concerns this caller at this port.
fn applies(scope: &Scope<'_, '_>, share: &Share<'_>, m: &TcpMatch) -> bool {
    (m.gateways.is_empty() || m.gateways.contains(&GatewayRef::Mesh))
        && m.port.is_none_or(|port| port == share.port.port)
        && scope.is_source(m.source_namespace.as_deref(), &m.source_labels)
}

/// What tells a service's connections from others at the same listener: nothing, where the address is its own.
fn own_match(scope: &Scope<'_, '_>, share: &Share<'_>, bind: IpAddr) -> Option<FilterChainMatch> {
    let ranges: Vec<_> = share.service.addresses.iter().copied().filter(|_| bind == ANY).map(listener::cidr).collect();
    if dynamic::is_one(share.service) {
        // Whatever the address, other names are not for it.
        return Some(FilterChainMatch { prefix_ranges: ranges, server_names: vec![share.service.host.to_string()], ..Default::default() });
    }
    if bind != ANY {
        return None;
    }
    if !ranges.is_empty() {
        return Some(FilterChainMatch { prefix_ranges: ranges, ..Default::default() });
    }
    let named = share.port.protocol.is_tls() && share.service.host.as_str() != "*" && share.service.registry == Registry::External;
    named.then(|| {
        let aliases = scope.aliases_of(&share.service.host).into_iter().map(ToString::to_string);
        let server_names = std::iter::once(share.service.host.to_string()).chain(aliases).collect();
        FilterChainMatch { server_names, ..Default::default() }
    })
}

/// The routes for TCP of the first object that has any for this caller, each with the ranges of addresses that it asks for; none: all.
fn tcp_routes<'a>(scope: &Scope<'_, 'a>, share: &Share<'a>) -> Vec<(RouteRules<'a>, &'a TcpRoute, Vec<IpRange>)> {
    let ranges = |route: &TcpRoute| {
        let here: Vec<&TcpMatch> = route.matches.iter().filter(|m| applies(scope, share, m)).collect();
        let open = here.iter().any(|m| m.destination_subnets.is_empty());
        let all = || here.iter().flat_map(|m| m.destination_subnets.iter().copied()).collect();
        match (route.matches.is_empty(), here.is_empty()) {
            (false, true) => None,
            _ => Some(if open { Vec::new() } else { all() }),
        }
    };
    let of = |rules: RouteRules<'a>| -> Vec<_> { rules.tcp.iter().filter_map(|route| Some((rules, route, ranges(route)?))).collect() };
    scope.mesh_rules(&share.service.host).map(of).find(|routes| !routes.is_empty()).unwrap_or_default()
}

/// The destinations of a route of this caller's, and the name under which their statistics stand.
fn to(scope: &Scope<'_, '_>, share: &Share<'_>, rules: RouteRules<'_>, route: &[TcpDestination]) -> (String, ClusterSpecifier) {
    let caller = Caller { gateways: &[GatewayRef::Mesh], port: share.port.port, host: Some(&share.service.host) };
    destinations(scope, rules, route, &caller)
}

/// The destinations of a route for connections, and the name under which their statistics stand.
pub(crate) fn destinations(
    scope: &Scope<'_, '_>,
    rules: RouteRules<'_>,
    route: &[TcpDestination],
    caller: &Caller<'_>,
) -> (String, ClusterSpecifier) {
    let name = |d: &Destination| route::destination_cluster(scope, d, &rules.meta.namespace, caller);
    match route {
        [only] => {
            let cluster = name(&only.destination);
            (cluster.clone(), ClusterSpecifier::Cluster(cluster))
        }
        several => {
            let weighted = several.iter().filter(|d| d.weight > 0);
            let clusters = weighted.map(|d| ClusterWeight { name: name(&d.destination), weight: d.weight, ..Default::default() }).collect();
            let stat = format!("{}.{}", rules.meta.name, rules.meta.namespace);
            (stat, ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }))
        }
    }
}

/// What holds for the way to a destination. Of several, the first one's limits count, and the caller's address is the key if one of them asks for it.
pub(crate) fn policy_to(scope: &Scope<'_, '_>, to: &ClusterSpecifier) -> Policy {
    match to {
        ClusterSpecifier::Cluster(cluster) => traffic::of_cluster(scope, cluster),
        ClusterSpecifier::WeightedClusters(several) => {
            let mut policies = several.clusters.iter().map(|cluster| traffic::of_cluster(scope, &cluster.name));
            let mut first = policies.next().unwrap_or_default();
            if let Some(hashing) = policies.find(Policy::hashes_source).filter(|_| !first.hashes_source()) {
                first.load_balancer = hashing.load_balancer;
            }
            first
        }
    }
}

fn chain(scope: &Scope<'_, '_>, matched: Option<FilterChainMatch>, (stat, to): (String, ClusterSpecifier)) -> Chain {
    let (before, to) = dynamic::of_chain(scope, matched.as_ref(), to);
    let mut list: Vec<_> = filters::tcp_stats(scope, Side::Outbound).into_iter().chain(before).collect();
    list.push(filters::tcp_proxy(&stat, to.clone(), access_log::log(scope.mesh()), &policy_to(scope, &to)));
    Chain { head: timed(matched), filters: list.into(), ..Default::default() }
}

/// A chain that matches so, with a bound for handshakes.
fn timed(matched: Option<FilterChainMatch>) -> FilterChain {
    FilterChain { filter_chain_match: matched, transport_socket_connect_timeout: Some(wire::seconds(15)), ..Default::default() }
}
