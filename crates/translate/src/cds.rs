//! Clusters.

use std::collections::HashMap;

use mizzen_api::istio::ClientTls;
use mizzen_model::{EffectiveRule, PortView, ProxyType, ServiceView};
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            cluster::v3::{
                Cluster, Filter,
                cluster::{
                    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy, TransportSocketMatch,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                },
            },
            core::v3::{BindConfig, HttpProtocolOptions as CommonOptions},
        },
        extensions::upstreams::http::v3::HttpProtocolOptions,
        r#type::v3::Percent,
    },
    wkt,
};
use mizzen_types::{Name, ports};

use crate::{
    authz, cluster_settings as settings, discovery, eds, filters, inbound, listener, locality, mtls, names,
    scope::Scope,
    tls,
    traffic::{self, Policy},
    wire::{self, Val},
};

/// The field `metadata` of a cluster.
const METADATA: u32 = 25;

pub(crate) fn list(scope: &Scope<'_, '_>) -> Vec<Name> {
    let mut found = of_services(scope);
    if let Some(name) = of_provider(scope)
        && !found.contains(&name)
    {
        found.push(name);
    }
    found.push(names::BLACK_HOLE.into());
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
    of_provider(scope).into_iter().chain(own).collect()
}

fn of_workload(scope: &Scope<'_, '_>) -> Vec<Name> {
    inbound::served(scope).iter().map(|served| Name::from(names::inbound(served.target))).collect()
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

pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
    let sidecar = scope.view.kind(scope.reader) == ProxyType::Sidecar;
    match name {
        names::BLACK_HOLE => Some(wire::any(&black_hole(scope))),
        names::PASSTHROUGH if sidecar => Some(wire::any(&passthrough(scope, false))),
        names::INBOUND_PASSTHROUGH if sidecar => Some(wire::any(&passthrough(scope, true))),
        _ => match names::parse_inbound(name) {
            Some(port) if sidecar => to_workload(scope, port),
            _ => outbound(scope, name),
        },
    }
}

/// What every cluster has.
fn cluster(scope: &Scope<'_, '_>, name: &str, kind: DiscoveryType) -> Cluster {
    Cluster {
        name: name.into(),
        alt_stat_name: names::stat(name),
        connect_timeout: Some(wire::duration(scope.mesh().connect_timeout)),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        ..Default::default()
    }
}

fn black_hole(scope: &Scope<'_, '_>) -> Cluster {
    cluster(scope, names::BLACK_HOLE, DiscoveryType::Static)
}

fn passthrough(scope: &Scope<'_, '_>, inward: bool) -> Cluster {
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonOptions { idle_timeout: Some(wire::seconds(300)), ..Default::default() }),
        upstream_protocol_options: Some(settings::as_downstream(None)),
        ..Default::default()
    };
    Cluster {
        // Istio counts both under one name.
        alt_stat_name: names::stat(names::PASSTHROUGH),
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(settings::limits(&Policy::default())),
        upstream_connection_options: settings::keepalive(scope, &Policy::default()),
        typed_extension_protocol_options: HashMap::from([(settings::HTTP_OPTIONS.to_owned(), wire::any(&options))]),
        upstream_bind_config: inward.then(from_self),
        filters: if inward { Vec::new() } else { metadata_filter(scope) },
        ..cluster(scope, if inward { names::INBOUND_PASSTHROUGH } else { names::PASSTHROUGH }, DiscoveryType::OriginalDst)
    }
}

/// Connections to the own workload come from an address by which the capture knows to leave them alone.
fn from_self() -> BindConfig {
    BindConfig { source_address: Some(listener::socket_address(ports::INBOUND_PASSTHROUGH_V4, 0)), ..Default::default() }
}

fn to_workload(scope: &Scope<'_, '_>, target: u16) -> Option<Any> {
    let served = inbound::served(scope).into_iter().find(|served| served.target == target)?;
    let (service, number) = served.services.first()?;
    // Limits of the service hold at the server too; the rest is the client's business.
    let rule = traffic::rule(scope, service);
    let Policy { pool, retry_budget, .. } = rule.as_ref().map(|rule| traffic::of_rule(rule, *number, None)).unwrap_or_default();
    let policy = Policy { pool, retry_budget, ..Policy::default() };
    let made = Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(settings::limits(&policy)),
        upstream_connection_options: settings::keepalive(scope, &policy),
        // The workload's address never goes stale.
        cleanup_interval: Some(wire::seconds(9_223_372_035)),
        upstream_bind_config: Some(from_self()),
        common_lb_config: Some(CommonLbConfig::default()),
        // How the workload is spoken to is not for a rule of its callers to upgrade.
        typed_extension_protocol_options: settings::http_options(&policy, served.protocol, served.protocol.is_http2()),
        ..cluster(scope, &names::inbound(target), DiscoveryType::OriginalDst)
    };
    let services: Vec<Val> = served.services.iter().map(|(service, _)| service_name(service)).collect();
    let metadata = metadata(rule.as_ref(), false, services, "");
    Some(wire::any_with(&made, &[(METADATA, metadata)]))
}

fn outbound(scope: &Scope<'_, '_>, name: &str) -> Option<Any> {
    let (number, subset, host) = names::parse_outbound(name)?;
    let service = authz::service_of(scope, &host, number)?;
    let port = service.port(number)?;
    let rule = traffic::rule(scope, service);
    let part = match (&rule, subset) {
        (_, "") => None,
        (_, names::ALL) => discovery::has_all(scope, service).then_some(None)?,
        (rule, name) => Some(rule.as_ref()?.subsets.iter().find(|subset| subset.name == name)?),
    };
    let policy = rule.as_ref().map(|rule| traffic::of_rule(rule, number, part)).unwrap_or_default();
    let kind = discovery::kind(scope, service, subset, &policy);
    let (lb_policy, lb_config) = settings::balancer(kind, &policy);
    let weighted = kind != DiscoveryType::OriginalDst && locality::is_weighted(scope, service, &policy);
    let mut made = Cluster {
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
        typed_extension_protocol_options: settings::http_options(&policy, port.protocol, policy.is_http2(scope, port.protocol)),
        filters: metadata_filter(scope),
        ..cluster(scope, name, kind)
    };
    if let Some(timeout) = policy.pool.tcp.connect_timeout {
        made.connect_timeout = Some(wire::duration(timeout));
    }
    discover(&mut made, kind, name);
    // For the other side all of a service is the service.
    let part_name = part.map_or("", |part| part.name.as_str());
    secure(scope, &mut made, &Secured { service, port, subset: part_name, policy: &policy, kind });
    let mut pieces = vec![(METADATA, metadata(rule.as_ref(), service.external, vec![service_name(service)], part_name))];
    if matches!(kind, DiscoveryType::StrictDns | DiscoveryType::LogicalDns) {
        pieces.push((33, eds::assignment(scope, name, service, number, part)));
    }
    Some(wire::any_with(&made, &pieces))
}

// Deprecated for cluster extensions that older proxies lack; Istio sends these.
#[allow(deprecated)]
fn discover(made: &mut Cluster, kind: DiscoveryType, name: &str) {
    match kind {
        DiscoveryType::Eds => {
            made.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(tls::ads()), service_name: name.into() });
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            made.dns_refresh_rate = Some(wire::seconds(60));
            made.dns_jitter = Some(wkt::Duration { seconds: 0, nanos: 100_000_000 });
            made.respect_dns_ttl = true;
            made.dns_lookup_family = DnsLookupFamily::V4Only.into();
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

/// TLS to the endpoints: as the rule says, else mutual TLS with those that have a sidecar.
fn secure(scope: &Scope<'_, '_>, made: &mut Cluster, to: &Secured<'_>) {
    let socket = || {
        let sans = sans(scope, to.service);
        tls::client(&sans, &names::sni(to.port.port, to.subset, &to.service.host), to.policy.is_http2(scope, to.port.protocol))
    };
    match to.policy.tls {
        Some(ClientTls::Disable) => {}
        Some(ClientTls::IstioMutual) => made.transport_socket = Some(socket()),
        None if !mtls::is_auto(scope, to.service) => {}
        // Without a list of endpoints there is no label by which to choose: all of them must take it.
        None if to.kind == DiscoveryType::OriginalDst => {
            let mut endpoints = scope.reader.endpoints(to.service).by_port.get(&to.port.port).into_iter().flatten().peekable();
            if endpoints.peek().is_some() && endpoints.all(|endpoint| mtls::is_taken(scope, endpoint)) {
                made.transport_socket = Some(socket());
            }
        }
        None => {
            let istio = wkt::Struct {
                fields: HashMap::from([("tlsMode".to_owned(), wkt::Value { kind: Some(wkt::value::Kind::StringValue("istio".into())) })]),
            };
            made.transport_socket_matches = vec![
                TransportSocketMatch { name: "tlsMode-istio".into(), r#match: Some(istio), transport_socket: Some(socket()) },
                TransportSocketMatch {
                    name: "tlsMode-disabled".into(),
                    r#match: Some(wkt::Struct::default()),
                    transport_socket: Some(tls::raw()),
                },
            ];
        }
    }
}

/// The identities that a service's endpoints may have.
fn sans(scope: &Scope<'_, '_>, service: &ServiceView) -> Vec<String> {
    let mesh = scope.mesh();
    let domains = std::iter::once(mesh.trust_domain.as_str()).chain(mesh.trust_domain_aliases.iter().map(String::as_str));
    let accounts = scope.reader.accounts(service);
    domains.flat_map(|domain| accounts.iter().map(move |a| format!("spiffe://{domain}/ns/{}/sa/{}", a.namespace, a.name))).collect()
}

fn metadata_filter(scope: &Scope<'_, '_>) -> Vec<Filter> {
    let filter = |config| Filter { name: "istio.metadata_exchange".into(), typed_config: Some(config), ..Default::default() };
    filters::tcp_metadata(scope).map(filter).into_iter().collect()
}

fn service_name(service: &ServiceView) -> Val {
    Val::Obj(vec![("host", service.host.as_str().into()), ("name", service.name().into()), ("namespace", (&**service.namespace()).into())])
}

fn metadata(rule: Option<&EffectiveRule>, external: bool, services: Vec<Val>, subset: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    if let Some(rule) = rule {
        let path = names::config_path("destination-rule", &rule.object.namespace, &rule.object.name);
        fields.push(("config", Val::Str(path)));
    }
    if external {
        fields.push(("external", Val::Bool(true)));
    }
    fields.push(("services", Val::List(services)));
    if !subset.is_empty() {
        fields.push(("subset", subset.into()));
    }
    wire::metadata(&[("istio", Val::Obj(fields))])
}
