//! Names that are found on demand (resolution DYNAMIC_DNS): whom a request's Host header or a server name asks for is resolved when it comes, if the
//! service's host covers it, and is called at the service's port, whatever port is written beside it.
//!
//! Envoy's clusters of this kind know neither, and call whatever name and port they are given. So what leads to one says both: a route takes names alone
//! that are covered, and leaves the name without its port, and the port, where the cluster looks first; a chain is found by server names that are
//! covered, and has the port in a filter. Our own proxies read both in the cluster's metadata, and hold to it whatever leads there.

use mizzen_api::{core::TargetPort, istio::GatewayRef};
use mizzen_model::{Resolve, RouteRules, ServiceView, dynamic_name};
use mizzen_protos::{
    Any,
    envoy::{
        envoy::{
            config::{
                core::v3::{DataSource, SubstitutionFormatString, data_source, substitution_format_string},
                listener::v3::FilterChainMatch,
                route::v3::{
                    HeaderMatcher, Route,
                    header_matcher::HeaderMatchSpecifier,
                    route::Action,
                    route_action::{ClusterSpecifier as Routed, HostRewriteSpecifier},
                    weighted_cluster::cluster_weight,
                },
            },
            extensions::{
                clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config::ClusterImplementationSpecifier},
                common::dynamic_forward_proxy::v3::DnsCacheConfig,
                filters::{
                    common::set_filter_state::v3::{FilterStateValue, filter_state_value},
                    http::{
                        dynamic_forward_proxy::v3::{FilterConfig, filter_config::ImplementationSpecifier},
                        header_to_metadata::v3 as header_to_metadata,
                        set_filter_state::v3 as set_filter_state,
                    },
                    network::{sni_dynamic_forward_proxy::v3 as sni, tcp_proxy::v3::tcp_proxy::ClusterSpecifier},
                },
            },
            r#type::matcher::v3::{AddressMatcher, RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern},
        },
        xds::core::v3::CidrRange,
    },
};
use mizzen_types::Hostname;

use crate::{
    cds,
    draft::{self, Cluster, Http, NetworkFilter},
    names,
    route::{self, Caller},
    scope::{Extension, Scope},
    wire,
};

/// What all of them share: whatever is found for one of them is known to all, as Envoy has it.
const CACHE: &str = "dynamic_dns";
/// Where no name leads, whoever answers for it: to the proxy's own machine, to that of its pod, and to what its link alone reaches, such as the
/// metadata of clouds. The first addresses of IPv6 are its own, and stand for those of IPv4.
const NEVER: [(&str, u32); 6] = [("0.0.0.0", 8), ("127.0.0.0", 8), ("169.254.0.0", 16), ("::", 96), ("::ffff:0:0", 96), ("fe80::", 10)];
/// Under which name the request's host is passed on between filters.
const METADATA: &str = "mizzen.dynamic";

/// Whether a service's names are found on demand.
pub(crate) fn is_one(service: &ServiceView) -> bool {
    service.resolve == Resolve::DynamicDns
}

/// How names are resolved, and for how long they are kept.
fn cache(scope: &Scope<'_, '_>) -> DnsCacheConfig {
    let range = |(address, prefix): (&str, u32)| CidrRange { address_prefix: address.into(), prefix_len: Some(wire::u32_value(prefix)) };
    DnsCacheConfig {
        name: CACHE.into(),
        dns_lookup_family: cds::lookup(scope).into(),
        dns_refresh_rate: Some(wire::seconds(60)),
        resolved_address_filter: Some(AddressMatcher { ranges: NEVER.map(range).into(), invert_match: false }),
        ..Default::default()
    }
}

/// Makes a cluster one of a service's port whose names are found on demand.
pub(crate) fn finish(scope: &Scope<'_, '_>, made: &mut Cluster, service: &ServiceView, number: u16) {
    // For our own proxies: which names it calls, and at which port.
    let told = target(service, number).map(|port| {
        let fields = [("dynamic_host", wire::text(service.host.as_str())), ("dynamic_port", wire::number(port.into()))];
        ("mizzen".to_owned(), wire::object(fields))
    });
    made.head.metadata.get_or_insert_default().filter_metadata.extend(told);
    let named = made
        .options
        .as_ref()
        .map(|options| options.upstream_http_protocol_options.as_ref().is_some_and(|http| http.auto_sni && http.auto_san_validation));
    made.dynamic = Some(ClusterConfig {
        // Envoy wants to be told where options do not compare a certificate with the name that is called: a rule says so, or there is no TLS.
        allow_insecure_cluster_options: !named.unwrap_or(made.socket.is_none()),
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(cache(scope))),
        ..Default::default()
    });
}

fn target(service: &ServiceView, number: u16) -> Option<u16> {
    let port = service.port(number)?;
    Some(match port.target {
        TargetPort::Number(target) => target,
        TargetPort::Name(_) => port.port,
    })
}

/// The filters of a connection manager of which routes lead to such clusters; they do nothing for other routes.
pub(crate) fn http_filters(scope: &Scope<'_, '_>) -> Vec<Http> {
    let filter = FilterConfig {
        allow_dynamic_host_from_filter_state: true,
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(cache(scope))),
        ..Default::default()
    };
    let named = [Http::HeaderToMetadata(Box::default()), Http::SetFilterState(Box::default())];
    let named = named.into_iter().filter(|_| !knows(scope));
    named.chain([Http::DynamicForwardProxy(Box::new(filter))]).collect()
}

/// Whether the proxy holds to a cluster's metadata.
fn knows(scope: &Scope<'_, '_>) -> bool {
    scope.has(Extension::DynamicHosts)
}

/// Which names a cluster calls, and at which port.
struct Place {
    host: Hostname,
    port: u16,
}

/// The place of an outbound cluster, if its names are found on demand.
fn place(scope: &Scope<'_, '_>, cluster: &str) -> Option<Place> {
    let (number, _, host) = names::parse_outbound(cluster).filter(|(_, _, host)| host.is_wildcard())?;
    let service = scope.service_at(&host, number).filter(|service| is_one(service))?;
    Some(Place { port: target(service, number)?, host })
}

/// Whether routes for requests lead to names that are found on demand.
pub(crate) fn is_led_to<'a>(scope: &Scope<'_, 'a>, rules: RouteRules<'a>, caller: &Caller<'_>) -> bool {
    let mut to = rules.http_destinations().filter(|to| to.destination.host.is_wildcard());
    to.any(|to| place(scope, &route::destination_cluster(scope, &to.destination, &rules.meta.namespace, caller)).is_some())
}

/// Whether a sidecar's routes of a port lead there that are not those of such a host itself: of hosts that `is_here` says, or at port 80 of hosts that routes
/// alone name. Our own proxies need no filters for it.
pub(crate) fn is_led_to_from<'a>(scope: &Scope<'_, 'a>, port: u16, is_here: impl Fn(&Hostname) -> bool) -> bool {
    if knows(scope) {
        return false;
    }
    let gateways = &[GatewayRef::Mesh];
    let here = |rules: &RouteRules<'a>| rules.parents.contains(&GatewayRef::Mesh) && scope.view.sees(scope.reader, *rules);
    scope.reader.routes_to_wildcards().filter(here).any(|rules| {
        let hosts = rules.hosts.iter().map(|host| scope.qualify(host, &rules.meta.namespace));
        let is_called = |host: &Hostname| is_here(host) || (port == 80 && !host.is_wildcard() && scope.service(host).is_none());
        hosts.into_iter().any(|host| is_called(&host) && is_led_to(scope, rules, &Caller { gateways, port, host: Some(&host) }))
    })
}

/// Holds a route to the names and ports of those of its destinations whose names are found on demand.
pub(crate) fn settle(scope: &Scope<'_, '_>, made: &mut Route, caller: &Caller<'_>) {
    let Some(Action::Route(action)) = &mut made.action else { return };
    let literal = match &action.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host.as_str()),
        _ => None,
    };
    let mut guards: Vec<HeaderMatcher> = Vec::new();
    let mut lead = |cluster: &mut String, rewritten: Option<&str>| {
        let place = place(scope, cluster)?;
        let way = place.way(scope, caller, rewritten);
        let Some(way) = way else {
            names::BLACK_HOLE.clone_into(cluster);
            return None;
        };
        guards.extend(way.guard);
        Some(way.filters)
    };
    match &mut action.cluster_specifier {
        Some(Routed::Cluster(cluster)) => made.typed_per_filter_config.extend(lead(cluster, literal).into_iter().flatten()),
        Some(Routed::WeightedClusters(several)) => {
            for part in &mut several.clusters {
                let own = match &part.host_rewrite_specifier {
                    Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host.as_str()),
                    None => literal,
                };
                part.typed_per_filter_config.extend(lead(&mut part.name, own).into_iter().flatten());
            }
        }
        _ => {}
    }
    if !guards.is_empty() {
        made.r#match.get_or_insert_default().headers.extend(guards);
    }
}

/// How a route comes to a place.
struct Way {
    /// Which requests it takes.
    guard: Option<HeaderMatcher>,
    /// What it says of filters.
    filters: Vec<(String, Any)>,
}

impl Place {
    /// None: nothing may come there so.
    fn way(&self, scope: &Scope<'_, '_>, caller: &Caller<'_>, rewritten: Option<&str>) -> Option<Way> {
        let fixed = match rewritten {
            // None of the names by which the host is called is covered.
            None if caller.host.is_some_and(|called| !self.host.overlaps(called)) => return None,
            None => None,
            Some(authority) => Some(dynamic_name(&self.host, authority)?),
        };
        let guard = fixed.is_none().then(|| self.guard());
        let filters = if knows(scope) { Vec::new() } else { self.filters(fixed.as_ref()) };
        Some(Way { guard, filters })
    }

    /// Requests for names that the host covers.
    fn guard(&self) -> HeaderMatcher {
        let suffix = self.host.as_str().trim_start_matches('*').replace('.', "\\.");
        let regex = RegexMatcher { regex: format!("(?i)[a-z0-9_.-]+{suffix}(:[0-9]+)?"), ..Default::default() };
        let matcher = StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex)), ..Default::default() };
        HeaderMatcher {
            name: ":authority".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
            ..Default::default()
        }
    }

    /// Leaves the name and the port where Envoy's cluster looks first: a port that the Host header has would win over any other.
    fn filters(&self, fixed: Option<&Hostname>) -> Vec<(String, Any)> {
        let name = fixed.map_or_else(|| format!("%DYNAMIC_METADATA({METADATA}:host)%"), ToString::to_string);
        let left = [("envoy.upstream.dynamic_host", name), ("envoy.upstream.dynamic_port", self.port.to_string())];
        let state =
            set_filter_state::Config { on_request_headers: left.map(|(key, value)| state(key, value)).into(), ..Default::default() };
        let bare = fixed.is_none().then(|| (draft::HEADER_TO_METADATA.to_owned(), draft::pack(&without_port())));
        bare.into_iter().chain([(draft::SET_FILTER_STATE.to_owned(), draft::pack(&state))]).collect()
    }
}

fn state(key: &str, value: String) -> FilterStateValue {
    let text = DataSource { specifier: Some(data_source::Specifier::InlineString(value)), ..Default::default() };
    let format =
        SubstitutionFormatString { format: Some(substitution_format_string::Format::TextFormatSource(text)), ..Default::default() };
    FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(key.into())),
        value: Some(filter_state_value::Value::FormatString(format)),
        ..Default::default()
    }
}

/// The request's host without its port.
fn without_port() -> header_to_metadata::Config {
    use header_to_metadata::config::{KeyValuePair, Rule};
    let rewrite = RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: "^(.*?)(:[0-9]*)?$".into(), ..Default::default() }),
        substitution: "\\1".into(),
    };
    let host =
        KeyValuePair { metadata_namespace: METADATA.into(), key: "host".into(), regex_value_rewrite: Some(rewrite), ..Default::default() };
    let rule = Rule { header: ":authority".into(), on_header_present: Some(host), ..Default::default() };
    header_to_metadata::Config { request_rules: vec![rule], ..Default::default() }
}

/// What stands before the proxy of a chain's connections, and where these go: nowhere, if the chain may be found by a name that is not covered.
pub(crate) fn of_chain(
    scope: &Scope<'_, '_>,
    matched: Option<&FilterChainMatch>,
    to: ClusterSpecifier,
) -> (Option<NetworkFilter>, ClusterSpecifier) {
    let places: Vec<Place> = match &to {
        ClusterSpecifier::Cluster(cluster) => place(scope, cluster).into_iter().collect(),
        ClusterSpecifier::WeightedClusters(several) => several.clusters.iter().filter_map(|part| place(scope, &part.name)).collect(),
    };
    let Some(port) = places.first().map(|place| place.port) else { return (None, to) };
    let asked = matched.map_or(&[][..], |matched| &matched.server_names);
    let covers = |place: &Place| asked.iter().all(|name| name.parse().is_ok_and(|name| place.host.covers(&name)));
    if asked.is_empty() || !places.iter().all(|place| place.port == port && covers(place)) {
        return (None, ClusterSpecifier::Cluster(names::BLACK_HOLE.to_owned()));
    }
    let filter = sni::FilterConfig {
        dns_cache_config: Some(cache(scope)),
        port_specifier: Some(sni::filter_config::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    (Some(NetworkFilter::SniForwardProxy(Box::new(filter))), to)
}
