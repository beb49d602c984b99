//! What an Envoy bootstrap says that concerns us.

use std::{collections::HashMap, net::SocketAddr};

use mizzen_engine::Node;
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
    json::{Descriptors, JsonError},
};
use mizzen_types::Name;
use prost::Message;

use crate::ads::Server;

/// A bootstrap that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// It is not a bootstrap.
    #[error("bootstrap: {0}")]
    Read(#[from] JsonError),
    /// It is not JSON.
    #[error("bootstrap: {0}")]
    Json(#[from] serde_json::Error),
    /// A field of it says what we cannot do.
    #[error("bootstrap: {field}: {reason}")]
    Field {
        /// Which.
        field: String,
        /// Why not.
        reason: String,
    },
}

/// Reads a bootstrap from protojson.
///
/// # Errors
/// If it is no JSON, or not a bootstrap.
pub fn parse_bootstrap(json: &str) -> Result<Bootstrap, BootstrapError> {
    let mut reader = serde_json::Deserializer::from_str(json);
    // The descriptors of all messages are large: they live for this call only.
    let bootstrap = Descriptors::load().from_value(&mut reader)?;
    reader.end()?;
    Ok(bootstrap)
}

/// What is taken from a bootstrap.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Introduces us to servers of resources.
    pub(crate) node: core::Node,
    /// Where the aggregated stream goes; none in a wholly static configuration.
    pub(crate) ads: Option<Server>,
    /// Whether listeners and clusters come by it.
    pub(crate) dynamic: (bool, bool),
    /// Static clusters that are one Unix socket or loopback address, for gRPC services such as SDS.
    pub(crate) servers: HashMap<Name, Server>,
    /// Static clusters, listeners and secrets as resources.
    pub(crate) clusters: Vec<(Name, Any)>,
    pub(crate) listeners: Vec<(Name, Any)>,
    pub(crate) secrets: Vec<(Name, Any)>,
    /// The admin interface's address.
    pub(crate) admin: Option<SocketAddr>,
}

impl Plan {
    pub(crate) fn new(bootstrap: &Bootstrap) -> Result<Plan, BootstrapError> {
        let node = bootstrap.node.clone().unwrap_or_default();
        let fixed = bootstrap.static_resources.clone().unwrap_or_default();
        let servers: HashMap<Name, Server> =
            fixed.clusters.iter().filter_map(|c| Some((Name::from(c.name.as_str()), server(c)?))).collect();
        let any =
            |name: &str, kind: mizzen_ir::Kind, value: Vec<u8>| (Name::from(name), Any { type_url: kind.type_url().to_owned(), value });
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
        Ok(Plan {
            node,
            ads,
            dynamic,
            clusters: fixed.clusters.iter().map(|c| any(&c.name, mizzen_ir::Kind::Cluster, c.encode_to_vec())).collect(),
            listeners: fixed.listeners.iter().map(|l| any(&l.name, mizzen_ir::Kind::Listener, l.encode_to_vec())).collect(),
            secrets: fixed.secrets.iter().map(|s| any(&s.name, mizzen_ir::Kind::Secret, s.encode_to_vec())).collect(),
            servers,
            admin: bootstrap.admin.as_ref().and_then(|a| socket(a.address.as_ref()?)),
        })
    }

    /// The node as the engine wants it.
    pub(crate) fn engine_node(&self) -> Node {
        Node { id: self.node.id.clone(), cluster: self.node.cluster.clone(), metadata: self.node.metadata.clone().unwrap_or_default() }
    }
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

fn ads_server(source: &core::ApiConfigSource, servers: &HashMap<Name, Server>) -> Result<Server, BootstrapError> {
    if !matches!(source.api_type(), ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) {
        return Err(refused("ads_config.api_type", "only DELTA_GRPC is supported"));
    }
    let target = source.grpc_services.first().and_then(|s| s.target_specifier.as_ref());
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = target else {
        return Err(refused("ads_config.grpc_services", "the first must be an envoy_grpc"));
    };
    let found = servers.get(grpc.cluster_name.as_str()).cloned();
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
        let plan = Plan::new(&parse_bootstrap(&text).unwrap()).unwrap();
        assert_eq!(plan.ads, Some(Server::Pipe("./etc/XDS".into())));
        assert_eq!(plan.dynamic, (true, true));
        assert_eq!(plan.admin, Some("127.0.0.1:15000".parse().unwrap()));
        assert_eq!((plan.clusters.len(), plan.servers.len()), (2, 1));
        assert_eq!(plan.engine_node().cluster, "a.b");
        assert!(plan.engine_node().metadata.fields.contains_key("NAMESPACE"));
    }

    #[test]
    fn refuses_by_name() {
        for (text, expected) in [
            (bootstrap(&ads("GRPC", "xds-grpc"), "null"), "ads_config.api_type"),
            (bootstrap(&ads("DELTA_GRPC", "far"), "null"), "`far` is no static cluster"),
            (bootstrap(&ads("DELTA_GRPC", "xds-grpc"), r#"{"path": "/x"}"#), "lds_config"),
            ("{\"nodes\": 1}".to_owned(), "nodes"),
            ("{".to_owned(), "EOF"),
        ] {
            let refused = match parse_bootstrap(&text) {
                Ok(b) => Plan::new(&b).map(|_| ()).unwrap_err(),
                Err(e) => e,
            };
            assert!(refused.to_string().contains(expected), "{refused}");
        }
    }
}
