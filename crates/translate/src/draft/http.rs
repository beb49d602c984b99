//! Connection managers, with their HTTP filters.

use std::sync::Arc;

use mizzen_protos::{
    alpn,
    envoy::envoy::extensions::{
        filters::{
            http::{
                cors::v3::Cors, dynamic_forward_proxy::v3::FilterConfig as DynamicForwardProxy, ext_authz::v3::ExtAuthz,
                fault::v3::HttpFault, grpc_stats::v3::FilterConfig as GrpcStats, header_to_metadata::v3::Config as HeaderToMetadata,
                jwt_authn::v3::JwtAuthentication, rbac::v3::Rbac, router::v3::Router, set_filter_state::v3::Config as SetFilterState,
            },
            network::http_connection_manager::v3::{HttpConnectionManager, HttpFilter, RequestIdExtension, http_filter},
        },
        request_id::uuid::v3::UuidRequestIdConfig,
    },
};

use super::{Istio, Log, listener::METADATA_EXCHANGE, pack, pack_as};

/// The name of the filter that delays and aborts, under which routes speak of it.
pub(crate) const FAULT: &str = "envoy.filters.http.fault";

/// The name of the filter that keeps what headers say, under which routes speak of it.
pub(crate) const HEADER_TO_METADATA: &str = "envoy.filters.http.header_to_metadata";
/// The name of the filter that leaves what others look for, under which routes speak of it.
pub(crate) const SET_FILTER_STATE: &str = "envoy.filters.http.set_filter_state";

/// A connection manager. Its head has the routes, or their name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Manager {
    pub(crate) head: HttpConnectionManager,
    pub(crate) filters: Vec<Http>,
    pub(crate) request_id: Option<UuidRequestIdConfig>,
    pub(crate) log: Option<Log>,
}

/// An HTTP filter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Http {
    PeerMetadata(&'static Istio),
    /// Shared by the chains of a listener.
    Rbac(Arc<Rbac>),
    ExtAuthz(Box<ExtAuthz>),
    JwtAuthn(Arc<JwtAuthentication>),
    GrpcStats(GrpcStats),
    Alpn(alpn::FilterConfig),
    Fault(Box<HttpFault>),
    Cors(Cors),
    Stats(&'static Istio),
    HeaderToMetadata(Box<HeaderToMetadata>),
    SetFilterState(Box<SetFilterState>),
    DynamicForwardProxy(Box<DynamicForwardProxy>),
    Router(Router),
}

impl Manager {
    pub(super) fn pack(self) -> HttpConnectionManager {
        let Manager { head, filters, request_id, log } = self;
        HttpConnectionManager {
            http_filters: filters.into_iter().map(Http::pack).collect(),
            request_id_extension: request_id.map(|config| RequestIdExtension { typed_config: Some(pack(&config)) }),
            access_log: log.map(Log::pack).into_iter().collect(),
            ..head
        }
    }
}

impl Http {
    fn pack(self) -> HttpFilter {
        let (name, config) = match self {
            Http::PeerMetadata(config) => (METADATA_EXCHANGE, config.pack()),
            Http::Rbac(config) => ("envoy.filters.http.rbac", pack(&*config)),
            Http::ExtAuthz(config) => ("envoy.filters.http.ext_authz", pack(&*config)),
            Http::JwtAuthn(config) => (crate::jwt::FILTER, pack(&*config)),
            Http::GrpcStats(config) => ("envoy.filters.http.grpc_stats", pack(&config)),
            Http::Alpn(config) => ("istio.alpn", pack_as("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig", &config)),
            Http::Fault(config) => (FAULT, pack(&*config)),
            Http::Cors(config) => ("envoy.filters.http.cors", pack(&config)),
            Http::Stats(config) => ("istio.stats", config.pack()),
            Http::HeaderToMetadata(config) => (HEADER_TO_METADATA, pack(&*config)),
            Http::SetFilterState(config) => (SET_FILTER_STATE, pack(&*config)),
            Http::DynamicForwardProxy(config) => ("envoy.filters.http.dynamic_forward_proxy", pack(&*config)),
            Http::Router(config) => ("envoy.filters.http.router", pack(&config)),
        };
        HttpFilter { name: name.into(), config_type: Some(http_filter::ConfigType::TypedConfig(config)), ..Default::default() }
    }
}
