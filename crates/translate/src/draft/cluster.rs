//! Clusters.

use mizzen_protos::envoy::envoy::{
    config::{
        cluster::v3::{
            Cluster as Head, Filter,
            cluster::{ClusterDiscoveryType, CustomClusterType, TransportSocketMatch},
        },
        core::v3::{TransportSocket, transport_socket::ConfigType},
    },
    extensions::{
        clusters::dynamic_forward_proxy::v3::ClusterConfig,
        transport_sockets::{
            raw_buffer::v3::RawBuffer,
            tls::v3::{DownstreamTlsContext, UpstreamTlsContext},
        },
        upstreams::http::v3::HttpProtocolOptions,
    },
};

use super::{Istio, listener::METADATA_EXCHANGE, pack};

/// The options' place in a cluster.
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) head: Head,
    pub(crate) socket: Option<Socket>,
    pub(crate) matches: Vec<SocketMatch>,
    pub(crate) options: Option<HttpProtocolOptions>,
    pub(crate) metadata_exchange: Option<&'static Istio>,
    /// Its names are found on demand: this in place of the head's kind.
    pub(crate) dynamic: Option<ClusterConfig>,
}

/// The transport socket of the endpoints that match.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketMatch {
    pub(crate) head: TransportSocketMatch,
    pub(crate) socket: Socket,
}

/// How a connection's bytes are wrapped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Socket {
    Server(Box<DownstreamTlsContext>),
    Client(Box<UpstreamTlsContext>),
    Raw,
}

impl Cluster {
    pub(super) fn pack(self) -> Head {
        let Cluster { head, socket, matches, options, metadata_exchange, dynamic } = self;
        let custom = |config| {
            let name = "envoy.clusters.dynamic_forward_proxy".into();
            ClusterDiscoveryType::ClusterType(CustomClusterType { name, typed_config: Some(pack(&config)) })
        };
        let chosen = |SocketMatch { head, socket }| TransportSocketMatch { transport_socket: Some(socket.pack()), ..head };
        let exchange = |config: &Istio| Filter { name: METADATA_EXCHANGE.into(), typed_config: Some(config.pack()), ..Default::default() };
        Head {
            cluster_discovery_type: dynamic.map(custom).or(head.cluster_discovery_type),
            transport_socket: socket.map(Socket::pack),
            transport_socket_matches: matches.into_iter().map(chosen).collect(),
            typed_extension_protocol_options: options.iter().map(|options| (OPTIONS.to_owned(), pack(options))).collect(),
            filters: metadata_exchange.map(exchange).into_iter().collect(),
            ..head
        }
    }
}

impl Socket {
    pub(super) fn pack(self) -> TransportSocket {
        let (name, config) = match self {
            Socket::Server(context) => ("envoy.transport_sockets.tls", pack(&*context)),
            Socket::Client(context) => ("envoy.transport_sockets.tls", pack(&*context)),
            Socket::Raw => ("envoy.transport_sockets.raw_buffer", pack(&RawBuffer {})),
        };
        TransportSocket { name: name.into(), config_type: Some(ConfigType::TypedConfig(config)) }
    }
}
