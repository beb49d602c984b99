//! Clusters.

use mizzen_api::istio::{ClientTls, Expected};
use mizzen_model::{EffectiveRule, Families, PortView, ProxyType, ServiceView};
use mizzen_protos::{
    envoy::envoy::{
        config::{
            cluster::v3::{
                Cluster as Head,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy, TransportSocketMatch,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                },
            },
            core::v3::{BindConfig, ExtraSourceAddress, HttpProtocolOptions as CommonOptions, Metadata},
        },
        extensions::upstreams::http::v3::HttpProtocolOptions,
        r#type::v3::Percent,
    },
    wkt,
};
use mizzen_types::{Name, Protocol, ports};

use crate::{
    authz, cluster_settings as settings, discovery,
    draft::{Cluster, Socket, SocketMatch},
    dynamic, eds, filters, gateway_tcp, inbound, listener, locality, mtls, names, origination,
    scope::Scope,
    tls,
    traffic::{self, Policy},
    wire,
};

pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = of_services(scope);
    if let Some(name) = of_provider(scope)
        && !found.contains(&name)
    {
        found.push(name);
    }
    found.push(names::BLACK_HOLE.into());
    found.extend(passed_on(scope));
    if scope.view.kind(scope.reader) == ProxyType::Sidecar {
        found.push(names::PASSTHROUGH.into());
        found.extend(of_workload(scope));
        found.push(names::INBOUND_PASSTHROUGH.into());
    }
    found
}

/// Those of [`list`] that have nothing to do with the proxy's own workload.
pub(crate) fn list_mesh(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = of_services(scope);
    found.push(names::BLACK_HOLE.into());
    if scope.view.kind(scope.reader) == ProxyType::Sidecar {
        found.extend([names::PASSTHROUGH.into(), names::INBOUND_PASSTHROUGH.into()]);
    }
    found
}

/// The others.
pub(crate) fn list_own(scope: &Scope<'_, '_>) -> Vec<Name> {
    let sidecar = scope.view.kind(scope.reader) == ProxyType::Sidecar;
    let own = if sidecar { of_workload(scope) } else { Vec::new() };
    of_provider(scope).into_iter().chain(own).chain(passed_on(scope)).collect()
}

fn of_workload(scope: &Scope<'_, '_>) -> Vec<Name> {
    inbound::served(scope).iter().map(|served| Name::from(names::inbound(served.target))).collect()
}

/// Those to which a gateway passes mutual TLS on as it came.
fn passed_on(scope: &Scope<'_, '_>) -> impl Iterator<Item = Name> {
    let clusters = gateway_tcp::clusters(scope).into_iter();
    clusters.map(|(service, port, subset)| Name::from(names::sni(port, &subset, &service.host)))
}

fn of_provider(scope: &Scope<'_, '_>) -> Option<Name> {
    authz::own(scope).map(|(_, cluster)| Name::from(cluster))
}

fn of_services(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = Vec::new();
    if scope.is_on_demand() {
        return found;
    }
    for (service, port) in scope.cluster_ports() {
        let rule = traffic::rule(scope, service);
        let all = discovery::has_all(scope, service).then_some(names::ALL);
        let subsets = rule.iter().flat_map(|rule| rule.subsets.iter().map(|subset| subset.name.as_str()));
        let names = std::iter::once("").chain(all).chain(subsets);
        found.extend(names.map(|subset| Name::from(names::outbound(port.port, subset, &service.host))));
    }
    found
}

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Cluster> {
    let sidecar = scope.view.kind(scope.reader) == ProxyType::Sidecar;
    match name {
        names::BLACK_HOLE => Some(black_hole(scope)),
        names::PASSTHROUGH if sidecar => Some(passthrough(scope, false)),
        names::INBOUND_PASSTHROUGH if sidecar => Some(passthrough(scope, true)),
        _ => match names::parse_inbound(name) {
            Some(port) if sidecar => to_workload(scope, port),
            _ => outbound(scope, name).or_else(|| onward(scope, name)),
        },
    }
}

/// What every cluster has.
fn head(scope: &Scope<'_, '_>, name: &str, kind: DiscoveryType) -> Head {
    Head {
        name: name.into(),
        alt_stat_name: names::stat(name),
        connect_timeout: Some(wire::duration(scope.mesh().connect_timeout)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        ..Default::default()
    }
}

fn black_hole(scope: &Scope<'_, '_>) -> Cluster {
    Cluster { head: head(scope, names::BLACK_HOLE, DiscoveryType::Static), ..Default::default() }
}

fn passthrough(scope: &Scope<'_, '_>, inward: bool) -> Cluster {
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonOptions { idle_timeout: Some(wire::seconds(300)), ..Default::default() }),
        upstream_protocol_options: Some(settings::as_downstream(None)),
        ..Default::default()
    };
    let head = Head {
        // Istio counts both under one name.
        alt_stat_name: names::stat(names::PASSTHROUGH),
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(settings::limits(&Policy::default())),
        upstream_connection_options: settings::keepalive(scope, &Policy::default()),
        upstream_bind_config: inward.then(|| from_self(scope)),
        ..head(scope, if inward { names::INBOUND_PASSTHROUGH } else { names::PASSTHROUGH }, DiscoveryType::OriginalDst)
    };
    let metadata_exchange = if inward { None } else { filters::tcp_metadata(scope) };
    Cluster { head, options: Some(options), metadata_exchange, ..Default::default() }
}

/// Connections to the own workload come from an address by which the capture knows to leave them alone.
fn from_self(scope: &Scope<'_, '_>) -> BindConfig {
    let v4 = || listener::socket_address(ports::INBOUND_PASSTHROUGH_V4, 0);
    let v6 = || listener::socket_address(ports::INBOUND_PASSTHROUGH_V6, 0);
    let families = scope.view.families(scope.reader);
    let more = (families.v4 && families.v6).then(|| ExtraSourceAddress { address: Some(v6()), ..Default::default() });
    BindConfig {
        source_address: Some(if families.v4 { v4() } else { v6() }),
        extra_source_addresses: more.into_iter().collect(),
        ..Default::default()
    }
}

fn to_workload(scope: &Scope<'_, '_>, target: u16) -> Option<Cluster> {
    let served = inbound::served(scope).into_iter().find(|served| served.target == target)?;
    let (service, number) = served.services.first()?;
    // Limits of the service hold at the server too; the rest is the client's business.
    let rule = traffic::rule_inbound(scope, service);
    let Policy { pool, retry_budget, .. } = rule.as_ref().map(|rule| traffic::of_rule(rule, *number, None)).unwrap_or_default();
    let policy = Policy { pool, retry_budget, ..Policy::default() };
    let services = served.services.iter().map(|(service, _)| service_name(service)).collect();
    let head = Head {
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(settings::limits(&policy)),
        upstream_connection_options: settings::keepalive(scope, &policy),
        // The workload's address never goes stale.
        cleanup_interval: Some(wire::seconds(9_223_372_035)),
        upstream_bind_config: Some(from_self(scope)),
        common_lb_config: Some(CommonLbConfig::default()),
        metadata: Some(metadata(rule.as_ref(), false, services, "", false)),
        ..head(scope, &names::inbound(target), DiscoveryType::OriginalDst)
    };
    // How the workload is spoken to is not for a rule of its callers to upgrade.
    let options = settings::http_options(&policy, served.protocol, served.protocol.is_http2());
    Some(Cluster { head, options, ..Default::default() })
}

fn outbound(scope: &Scope<'_, '_>, name: &str) -> Option<Cluster> {
    let (number, subset, host) = names::parse_outbound(name)?;
    let service = authz::service_of(scope, &host, number)?;
    to_service(scope, name, service, number, subset, false)
}

/// To where a gateway passes mutual TLS on as it came: it has no TLS of its own.
fn onward(scope: &Scope<'_, '_>, name: &str) -> Option<Cluster> {
    let (number, subset, host) = names::parse_sni(name)?;
    let service = gateway_tcp::passed_to(scope, &host, number)?;
    to_service(scope, name, service, number, subset, true)
}

fn to_service(scope: &Scope<'_, '_>, name: &str, service: &ServiceView, number: u16, subset: &str, passed: bool) -> Option<Cluster> {
    let port = service.port(number)?;
    let rule = traffic::rule(scope, service);
    let part = match (&rule, subset) {
        (_, "") => None,
        (_, names::ALL) => discovery::has_all(scope, service).then_some(None)?,
        (rule, name) => Some(rule.as_ref()?.subsets.iter().find(|subset| subset.name == name)?),
    };
    let policy = rule.as_ref().map(|rule| traffic::of_rule(rule, number, part)).unwrap_or_default();
    let kind = discovery::kind(scope, service, subset, &policy);
    // TLS around a program's own would verify nobody: the name is within.
    let within = port.protocol == Protocol::Tls && matches!(policy.tls, Some(ClientTls::Foreign(_)));
    let dynamic = discovery::is_dynamic(scope, service, &policy) && !within;
    let (lb_policy, lb_config) = if dynamic { (LbPolicy::ClusterProvided, None) } else { settings::balancer(kind, &policy) };
    let weighted = kind != DiscoveryType::OriginalDst && !dynamic && locality::is_weighted(scope, service, &policy);
    let foreign = match &policy.tls {
        Some(ClientTls::Foreign(tls)) if !passed => Some(&**tls),
        _ => None,
    };
    // For the other side all of a service is the service.
    let part_name = part.map_or("", |part| part.name.as_str());
    let mut head = Head {
        lb_policy: lb_policy.into(),
        lb_config,
        circuit_breakers: Some(settings::limits(&policy)),
        upstream_connection_options: settings::keepalive(scope, &policy),
        outlier_detection: policy.outlier.as_ref().map(settings::outlier),
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: policy.outlier.as_ref().map(|o| Percent { value: f64::from(o.min_health_percent.unwrap_or(0)) }),
            locality_config_specifier: weighted.then_some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})),
            ..Default::default()
        }),
        metadata: Some(metadata(rule.as_ref(), service.external, vec![service_name(service)], part_name, foreign.is_some())),
        ..head(scope, name, kind)
    };
    if let Some(timeout) = policy.pool.tcp.connect_timeout {
        head.connect_timeout = Some(wire::duration(timeout));
    }
    discover(scope, &mut head, kind, name);
    if matches!(kind, DiscoveryType::StrictDns | DiscoveryType::LogicalDns) {
        head.load_assignment = Some(eds::assignment(scope, name, service, number, part));
    }
    let is_http2 = policy.is_http2(scope, port.protocol);
    let options = settings::http_options(&policy, port.protocol, is_http2);
    let mut made = Cluster { head, options, metadata_exchange: filters::tcp_metadata(scope), ..Default::default() };
    match foreign {
        _ if passed => {}
        Some(_) if kind == DiscoveryType::Static && !dynamic => {}
        Some(tls) => origination::secure(&mut made, tls, service, port.protocol, is_http2),
        None => secure(scope, &mut made, &Secured { service, port, subset: part_name, policy: &policy, kind }),
    }
    if dynamic {
        dynamic::finish(scope, &mut made, service, number);
    }
    Some(made)
}

/// Which addresses of a name are called. Of both families those of IPv4 first, while Istio with `ISTIO_DUAL_STACK` takes all: names beyond the mesh have
/// addresses of IPv6 that pods with local ones of that family do not reach.
pub(crate) fn lookup(scope: &Scope<'_, '_>) -> DnsLookupFamily {
    match scope.view.families(scope.reader) {
        Families { v6: false, .. } => DnsLookupFamily::V4Only,
        Families { v4: false, .. } => DnsLookupFamily::V6Only,
        Families { .. } => DnsLookupFamily::V4Preferred,
    }
}

// Deprecated for cluster extensions that older proxies lack; Istio sends these.
#[allow(deprecated)]
fn discover(scope: &Scope<'_, '_>, made: &mut Head, kind: DiscoveryType, name: &str) {
    match kind {
        DiscoveryType::Eds => {
            made.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(tls::ads()), service_name: name.into() });
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            made.dns_refresh_rate = Some(wire::seconds(60));
            made.dns_jitter = Some(wkt::Duration { seconds: 0, nanos: 100_000_000 });
            made.respect_dns_ttl = true;
            made.dns_lookup_family = lookup(scope).into();
        }
        _ => {}
    }
}

/// What it takes to decide on TLS.
struct Secured<'s> {
    service: &'s ServiceView,
    port: &'s PortView,
    subset: &'s str,
    policy: &'s Policy,
    kind: DiscoveryType,
}

/// TLS to endpoints of the mesh: as the rule says, else mutual TLS with those that have a sidecar.
fn secure(scope: &Scope<'_, '_>, made: &mut Cluster, to: &Secured<'_>) {
    let socket_for = |expected: &Expected| {
        let sans = if expected.subject_alt_names.is_empty() { sans(scope, to.service) } else { expected.subject_alt_names.clone() };
        let sni = expected.sni.clone().unwrap_or_else(|| names::sni(to.port.port, to.subset, &to.service.host));
        let unknown = sans.is_empty() && dynamic::is_one(to.service);
        tls::client(&sans, &sni, to.policy.is_http2(scope, to.port.protocol), unknown)
    };
    let socket = || socket_for(&Expected::default());
    match &to.policy.tls {
        Some(ClientTls::Disable | ClientTls::Foreign(_)) => {}
        Some(ClientTls::IstioMutual(expected)) => {
            made.socket = Some(socket_for(expected));
            // Who is called on demand has no account that is known here: it is to have the name by which it is called.
            if dynamic::is_one(to.service) && expected.sni.is_none() && to.port.protocol.is_http() {
                let verifies = expected.subject_alt_names.is_empty() && to.service.subject_alt_names.is_empty();
                origination::by_authority(made, verifies);
            }
        }
        None if !mtls::is_auto(scope, to.service) || dynamic::is_one(to.service) => {}
        // Without a list of endpoints there is no label by which to choose: all of them must take it.
        None if to.kind == DiscoveryType::OriginalDst => {
            let mut endpoints = scope.reader.endpoints(to.service).by_port.get(&to.port.port).into_iter().flatten().peekable();
            if endpoints.peek().is_some() && endpoints.all(|endpoint| mtls::is_taken(scope, endpoint)) {
                made.socket = Some(socket());
            }
        }
        None => {
            let chosen = |name: &str, labels, socket| {
                let head = TransportSocketMatch { name: name.into(), r#match: Some(labels), transport_socket: None };
                SocketMatch { head, socket }
            };
            made.matches = vec![
                chosen("tlsMode-istio", wire::object([("tlsMode", wire::text("istio"))]), socket()),
                chosen("tlsMode-disabled", wkt::Struct::default(), Socket::Raw),
            ];
        }
    }
}

/// The identities that a service's endpoints may have.
fn sans(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<String> {
    let mesh = scope.mesh();
    let domains = std::iter::once(mesh.trust_domain.as_str()).chain(mesh.trust_domain_aliases.iter().map(String::as_str));
    let accounts = scope.reader.accounts(service);
    let by_account = domains.flat_map(|domain| accounts.iter().map(move |a| format!("spiffe://{domain}/ns/{}/sa/{}", a.namespace, a.name)));
    let mut found: Vec<String> = by_account.collect();
    found.extend(service.subject_alt_names.iter().cloned());
    found
}

fn service_name(service: &ServiceView) -> wkt::Value {
    wire::nested(wire::object([
        ("host", wire::text(service.host.as_str())),
        ("name", wire::text(service.name())),
        ("namespace", wire::text(&**service.namespace())),
    ]))
}

fn metadata(rule: Option<&EffectiveRule>, external: bool, services: Vec<wkt::Value>, subset: &str, foreign: bool) -> Metadata {
    let config = rule.map(|rule| names::config_path("destination-rule", &rule.object.namespace, &rule.object.name));
    let fields = [
        // The names of protocols by which the mesh's proxies know each other are not for others.
        foreign.then(|| ("alpn_override", wire::text("false"))),
        config.map(|path| ("config", wire::text(path))),
        external.then(|| ("external", wire::flag(true))),
        Some(("services", wire::list(services))),
        (!subset.is_empty()).then(|| ("subset", wire::text(subset))),
    ];
    wire::metadata([("istio", wire::object(fields.into_iter().flatten()))])
}
