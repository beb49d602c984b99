//! What an Envoy bootstrap says that concerns us.

use std::{collections::HashMap, net::SocketAddr};

use mizzen_engine::{ConnectionLimits, Node};
use mizzen_ir::{DYNAMIC_HOSTS, ISTIO_FILTERS};
use mizzen_protos::{
    Any,
    envoy::envoy::config::{
        bootstrap::v3::Bootstrap,
        cluster::v3::Cluster,
        core::v3::{
            self as core, address, api_config_source::ApiType, config_source::ConfigSourceSpecifier, grpc_service::TargetSpecifier,
        },
        endpoint::v3::lb_endpoint::HostIdentifier,
    },
    json::Unknown,
};
use mizzen_types::Name;
use prost::Message;

use crate::{
    ads::{Server, Variant},
    error::BootstrapError,
    runtime,
    secrets::{self, Origin},
    text,
};

/// Reads a bootstrap from protojson, written as YAML or JSON.
///
/// # Errors
/// If it is neither, or not a bootstrap; with line and field.
pub fn parse_bootstrap(text: &str, unknown: Unknown) -> Result<Bootstrap, BootstrapError> {
    text::read(text, unknown)
}

/// What is taken from a bootstrap.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Introduces us to servers of resources.
    pub(crate) node: core::Node,
    /// Where the aggregated stream goes, and its variant; none in a wholly static configuration.
    pub(crate) ads: Option<(Server, Variant)>,
    /// Whether listeners and clusters come by it.
    pub(crate) dynamic: (bool, bool),
    /// Static clusters that are one Unix socket or loopback address, for gRPC services such as SDS.
    pub(crate) servers: HashMap<Name, Server>,
    /// Static clusters, listeners and secrets as resources.
    pub(crate) clusters: Vec<(Name, Any)>,
    pub(crate) listeners: Vec<(Name, Any)>,
    /// Secrets of the bootstrap, which may be in files.
    pub(crate) secrets: Vec<Origin>,
    /// What is set in the bootstrap and does nothing.
    pub(crate) unused: Vec<String>,
    /// How many connections listeners may have.
    pub(crate) connections: ConnectionLimits,
    /// The admin interface's address.
    pub(crate) admin: Option<SocketAddr>,
}

impl Plan {
    /// Takes the bootstrap with it: what stays of a large one is made where it was.
    pub(crate) fn new(mut bootstrap: Bootstrap) -> Result<Plan, BootstrapError> {
        let node = with_extensions(bootstrap.node.take().unwrap_or_default());
        let mut fixed = bootstrap.static_resources.take().unwrap_or_default();
        // Where a name is optional, as Envoy makes one up.
        for (i, listener) in fixed.listeners.iter_mut().enumerate().filter(|(_, l)| l.name.is_empty()) {
            listener.name = format!("static_resources.listeners[{i}]");
        }
        let secrets = secrets::extract(&mut fixed);
        let servers: HashMap<Name, Server> =
            fixed.clusters.iter().filter_map(|c| Some((Name::from(c.name.as_str()), server(c)?))).collect();
        let any = |name: &str, kind: mizzen_ir::ResourceKind, value: Vec<u8>| {
            (Name::from(name), Any { type_url: kind.type_url().to_owned(), value })
        };
        let (mut ads, mut dynamic) = (None, (false, false));
        if let Some(resources) = &bootstrap.dynamic_resources {
            if let Some(source) = &resources.ads_config {
                ads = Some(ads_server(source, &servers)?);
            }
            dynamic = (
                aggregated("lds_config", resources.lds_config.as_ref(), ads.is_some())?,
                aggregated("cds_config", resources.cds_config.as_ref(), ads.is_some())?,
            );
        }
        let mut unused: Vec<String> = unused(&bootstrap)?.into_iter().map(str::to_owned).collect();
        let connections = runtime::connection_limits(&bootstrap, &mut unused)?;
        Ok(Plan {
            node,
            ads,
            dynamic,
            clusters: fixed.clusters.into_iter().map(|c| any(&c.name, mizzen_ir::ResourceKind::Cluster, c.encode_to_vec())).collect(),
            listeners: fixed.listeners.into_iter().map(|l| any(&l.name, mizzen_ir::ResourceKind::Listener, l.encode_to_vec())).collect(),
            secrets,
            unused,
            connections,
            servers,
            admin: bootstrap.admin.as_ref().and_then(|a| socket(a.address.as_ref()?)),
        })
    }

    /// The node as the engine wants it.
    pub(crate) fn engine_node(&self) -> Node {
        Node { id: self.node.id.clone(), cluster: self.node.cluster.clone(), metadata: self.node.metadata.clone().unwrap_or_default() }
    }
}

/// The fields that are set and do nothing here: they concern Envoy's own process, what it counts and how it looks names up.
///
/// # Errors
/// Of one without which traffic would be other than what was meant.
// Deprecated fields are decided like any other.
#[allow(deprecated)]
fn unused(bootstrap: &Bootstrap) -> Result<Vec<&'static str>, BootstrapError> {
    let b = bootstrap;
    let refused = [
        ("hds_config", b.hds_config.is_some()),
        ("default_config_source", b.default_config_source.is_some()),
        ("config_sources", !b.config_sources.is_empty()),
        ("certificate_provider_instances", !b.certificate_provider_instances.is_empty()),
        ("xds_delegate_extension", b.xds_delegate_extension.is_some()),
        ("default_socket_interface", !b.default_socket_interface.is_empty()),
        ("header_prefix", !matches!(b.header_prefix.as_str(), "" | "x-envoy")),
    ];
    if let Some((field, _)) = refused.iter().find(|(_, set)| *set) {
        return Err(BootstrapError::Field { field: (*field).to_owned(), reason: "not supported".to_owned() });
    }
    let harmless = [
        ("node_context_params", !b.node_context_params.is_empty()),
        ("cluster_manager", b.cluster_manager.is_some()),
        ("flags_path", !b.flags_path.is_empty()),
        ("stats_sinks", !b.stats_sinks.is_empty()),
        ("deferred_stat_options", b.deferred_stat_options.is_some()),
        ("stats_config", b.stats_config.is_some()),
        ("stats_flush_interval", b.stats_flush_interval.is_some() || b.stats_flush.is_some()),
        ("stats_eviction_interval", b.stats_eviction.is_some()),
        ("watchdog", b.watchdog.is_some()),
        ("watchdogs", b.watchdogs.is_some()),
        ("tracing", b.tracing.is_some()),
        ("enable_dispatcher_stats", b.enable_dispatcher_stats),
        ("stats_server_version_override", b.stats_server_version_override.is_some()),
        ("use_tcp_for_dns_lookups", b.use_tcp_for_dns_lookups),
        ("dns_resolution_config", b.dns_resolution_config.is_some()),
        ("typed_dns_resolver_config", b.typed_dns_resolver_config.is_some()),
        ("bootstrap_extensions", !b.bootstrap_extensions.is_empty()),
        ("fatal_actions", !b.fatal_actions.is_empty()),
        ("perf_tracing_file_path", !b.perf_tracing_file_path.is_empty()),
        ("default_regex_engine", b.default_regex_engine.is_some()),
        ("inline_headers", !b.inline_headers.is_empty()),
        ("xds_config_tracker_extension", b.xds_config_tracker_extension.is_some()),
        ("listener_manager", b.listener_manager.is_some()),
        ("application_log_config", b.application_log_config.is_some()),
        ("grpc_async_client_manager_config", b.grpc_async_client_manager_config.is_some()),
        ("memory_allocator_manager", b.memory_allocator_manager.is_some()),
        ("enable_worker_cpu_affinity", b.enable_worker_cpu_affinity),
    ];
    Ok(harmless.into_iter().filter_map(|(field, set)| set.then_some(field)).collect())
}

/// Lists those filters, and what else a control plane may count on, in the node, besides what the bootstrap lists.
fn with_extensions(mut node: core::Node) -> core::Node {
    for (category, name) in ISTIO_FILTERS.into_iter().chain([DYNAMIC_HOSTS]) {
        if !node.extensions.iter().any(|e| e.category == category && e.name == name) {
            node.extensions.push(core::Extension { name: name.to_owned(), category: category.to_owned(), ..Default::default() });
        }
    }
    node
}

fn refused(field: &str, reason: impl Into<String>) -> BootstrapError {
    BootstrapError::Field { field: format!("dynamic_resources.{field}"), reason: reason.into() }
}

/// Whether a kind comes by the aggregated stream; there is no other way.
fn aggregated(field: &str, source: Option<&core::ConfigSource>, ads: bool) -> Result<bool, BootstrapError> {
    match source.map(|s| &s.config_source_specifier) {
        None => Ok(false),
        Some(Some(ConfigSourceSpecifier::Ads(_))) if ads => Ok(true),
        Some(Some(ConfigSourceSpecifier::Ads(_))) => Err(refused(field, "there is no ads_config")),
        Some(_) => Err(refused(field, "only the aggregated stream (ads) is supported")),
    }
}

fn ads_server(source: &core::ApiConfigSource, servers: &HashMap<Name, Server>) -> Result<(Server, Variant), BootstrapError> {
    let variant = match source.api_type() {
        ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc => Variant::Delta,
        ApiType::Grpc | ApiType::AggregatedGrpc => Variant::Sotw,
        _ => return Err(refused("ads_config.api_type", "only GRPC and DELTA_GRPC are supported")),
    };
    let target = source.grpc_services.first().and_then(|s| s.target_specifier.as_ref());
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = target else {
        return Err(refused("ads_config.grpc_services", "the first must be an envoy_grpc"));
    };
    let found = servers.get(grpc.cluster_name.as_str()).map(|server| (server.clone(), variant));
    found.ok_or_else(|| {
        refused("ads_config.grpc_services", format!("`{}` is no static cluster of one Unix socket or loopback address", grpc.cluster_name))
    })
}

/// The one endpoint of a static cluster, if it is local: control traffic leaves this host only through the agent.
fn server(cluster: &Cluster) -> Option<Server> {
    let mut endpoints = cluster.load_assignment.iter().flat_map(|a| &a.endpoints).flat_map(|l| &l.lb_endpoints);
    let (first, None) = (endpoints.next()?, endpoints.next()) else { return None };
    let Some(HostIdentifier::Endpoint(endpoint)) = &first.host_identifier else { return None };
    let address = endpoint.address.as_ref()?;
    match address.address.as_ref()? {
        address::Address::Pipe(pipe) => Some(Server::Pipe(pipe.path.as_str().into())),
        _ => socket(address).filter(|a| a.ip().is_loopback()).map(Server::Tcp),
    }
}

fn socket(address: &core::Address) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else { return None };
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some(SocketAddr::new(socket.address.parse().ok()?, u16::try_from(port).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(ads: &str, lds: &str) -> String {
        format!(
            r#"{{
              "node": {{"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "cluster": "a.b", "metadata": {{"NAMESPACE": "b"}}}},
              "admin": {{"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": 15000}}}}}},
              "static_resources": {{"clusters": [
                {{"name": "xds-grpc", "type": "STATIC", "load_assignment": {{"cluster_name": "xds-grpc", "endpoints": [{{"lb_endpoints": [
                  {{"endpoint": {{"address": {{"pipe": {{"path": "./etc/XDS"}}}}}}}}]}}]}}}},
                {{"name": "far", "type": "STATIC", "loadAssignment": {{"clusterName": "far", "endpoints": [{{"lbEndpoints": [
                  {{"endpoint": {{"address": {{"socketAddress": {{"address": "10.1.1.1", "portValue": 1}}}}}}}}]}}]}}}}
              ]}},
              "dynamic_resources": {{"lds_config": {lds}, "cds_config": {{"ads": {{}}}}, "ads_config": {ads}}}
            }}"#
        )
    }

    fn ads(kind: &str, cluster: &str) -> String {
        format!(r#"{{"api_type": "{kind}", "grpc_services": [{{"envoy_grpc": {{"cluster_name": "{cluster}"}}}}]}}"#)
    }

    #[test]
    fn reads_what_an_agent_writes() {
        let text = bootstrap(&ads("DELTA_GRPC", "xds-grpc"), r#"{"ads": {}}"#);
        let plan = Plan::new(parse_bootstrap(&text, Unknown::Refused).unwrap()).unwrap();
        assert_eq!(plan.ads, Some((Server::Pipe("./etc/XDS".into()), Variant::Delta)));
        let whole = bootstrap(&ads("GRPC", "xds-grpc"), r#"{"ads": {}}"#);
        assert_eq!(
            Plan::new(parse_bootstrap(&whole, Unknown::Refused).unwrap()).unwrap().ads.map(|(_, variant)| variant),
            Some(Variant::Sotw)
        );
        assert_eq!(plan.dynamic, (true, true));
        assert_eq!(plan.admin, Some("127.0.0.1:15000".parse().unwrap()));
        assert_eq!((plan.clusters.len(), plan.servers.len()), (2, 1));
        assert_eq!(plan.engine_node().cluster, "a.b");
        assert!(plan.engine_node().metadata.fields.contains_key("NAMESPACE"));
        assert!(plan.node.extensions.iter().any(|e| e.name == "istio.alpn"), "the control plane is told of Istio's filters");
    }

    #[test]
    fn refuses_by_name() {
        for (text, expected) in [
            (bootstrap(&ads("REST", "xds-grpc"), "null"), "ads_config.api_type"),
            (bootstrap(&ads("DELTA_GRPC", "far"), "null"), "`far` is no static cluster"),
            (bootstrap(&ads("DELTA_GRPC", "xds-grpc"), r#"{"path": "/x"}"#), "lds_config"),
            ("{\"nodes\": 1}".to_owned(), "nodes"),
            ("{".to_owned(), "1: "),
            (r#"{"header_prefix": "x-shop"}"#.to_owned(), "header_prefix: not supported"),
        ] {
            let refused = match parse_bootstrap(&text, Unknown::Refused) {
                Ok(b) => Plan::new(b).map(|_| ()).unwrap_err(),
                Err(e) => e,
            };
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }
}
