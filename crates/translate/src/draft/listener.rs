//! Listeners, with their chains and filters.

use std::sync::Arc;

use mizzen_protos::envoy::envoy::{
    config::{
        accesslog::v3::{AccessLog, AccessLogFilter, access_log},
        listener::v3::{
            Filter, FilterChain, Listener as Head, ListenerFilter as Inspecting, ListenerFilterChainMatchPredicate, filter, listener_filter,
        },
    },
    extensions::{
        access_loggers::file::v3::FileAccessLog,
        filters::{
            listener::{
                http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, original_src::v3::OriginalSrc,
                proxy_protocol::v3::ProxyProtocol, tls_inspector::v3::TlsInspector,
            },
            network::{
                ext_authz::v3::ExtAuthz, rbac::v3::Rbac, sni_dynamic_forward_proxy::v3::FilterConfig as SniForwardProxy,
                tcp_proxy::v3::TcpProxy,
            },
        },
    },
};

use super::{Istio, Manager, Socket, pack};

/// The name of the filter, at both ends of a connection.
pub(super) const METADATA_EXCHANGE: &str = "istio.metadata_exchange";

/// A listener.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Listener {
    pub(crate) head: Head,
    pub(crate) chains: Vec<Chain>,
    pub(crate) default: Option<Chain>,
    pub(crate) filters: Vec<ListenerFilter>,
    pub(crate) log: Option<Log>,
}

/// A filter that looks at connections before there is a chain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ListenerFilter {
    pub(crate) disabled: Option<ListenerFilterChainMatchPredicate>,
    pub(crate) config: Inspector,
}

/// What it looks at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inspector {
    OriginalDst(OriginalDst),
    OriginalSrc(OriginalSrc),
    ProxyProtocol(ProxyProtocol),
    Tls(TlsInspector),
    Http(HttpInspector),
}

/// A filter chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chain {
    pub(crate) head: FilterChain,
    pub(crate) socket: Option<Socket>,
    /// Chains that lie side by side may share them: they are then packed once.
    pub(crate) filters: Arc<Vec<NetworkFilter>>,
}

/// A filter of a chain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NetworkFilter {
    MetadataExchange(&'static Istio),
    /// Shared by the chains of a listener.
    Rbac(Arc<Rbac>),
    ExtAuthz(Box<ExtAuthz>),
    Stats(&'static Istio),
    SniForwardProxy(Box<SniForwardProxy>),
    Tcp(Box<Tcp>),
    Http(Box<Manager>),
}

/// A TCP proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tcp {
    pub(crate) head: TcpProxy,
    pub(crate) log: Option<Log>,
}

/// A line for each connection or request that meets the condition, if there is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) condition: Option<AccessLogFilter>,
    pub(crate) file: FileAccessLog,
}

impl Listener {
    pub(super) fn pack(self) -> Head {
        let Listener { head, chains, default, filters, log } = self;
        Head {
            filter_chains: pack_all(chains),
            default_filter_chain: pack_all(default).pop(),
            listener_filters: filters.into_iter().map(ListenerFilter::pack).collect(),
            access_log: log.map(Log::pack).into_iter().collect(),
            ..head
        }
    }
}

impl ListenerFilter {
    fn pack(self) -> Inspecting {
        let (name, config) = match self.config {
            Inspector::OriginalDst(config) => ("envoy.filters.listener.original_dst", pack(&config)),
            Inspector::OriginalSrc(config) => ("envoy.filters.listener.original_src", pack(&config)),
            Inspector::ProxyProtocol(config) => ("envoy.filters.listener.proxy_protocol", pack(&config)),
            Inspector::Tls(config) => ("envoy.filters.listener.tls_inspector", pack(&config)),
            Inspector::Http(config) => ("envoy.filters.listener.http_inspector", pack(&config)),
        };
        let config = Some(listener_filter::ConfigType::TypedConfig(config));
        Inspecting { name: name.into(), filter_disabled: self.disabled, config_type: config }
    }
}

fn pack_all(chains: impl IntoIterator<Item = Chain>) -> Vec<FilterChain> {
    let mut chains = chains.into_iter().peekable();
    let mut packed = Vec::new();
    while let Some(Chain { head, socket, filters }) = chains.next() {
        let mut alike = vec![(head, socket)];
        while let Some(Chain { head, socket, .. }) = chains.next_if(|next| Arc::ptr_eq(&next.filters, &filters)) {
            alike.push((head, socket));
        }
        let filters: Vec<Filter> = Arc::unwrap_or_clone(filters).into_iter().map(NetworkFilter::pack).collect();
        let chain = |(head, socket): (FilterChain, Option<Socket>)| FilterChain {
            filters: filters.clone(),
            transport_socket: socket.map(Socket::pack),
            ..head
        };
        packed.extend(alike.into_iter().map(chain));
    }
    packed
}

impl NetworkFilter {
    fn pack(self) -> Filter {
        let (name, config) = match self {
            NetworkFilter::MetadataExchange(config) => (METADATA_EXCHANGE, config.pack()),
            NetworkFilter::Rbac(config) => ("envoy.filters.network.rbac", pack(&*config)),
            NetworkFilter::ExtAuthz(config) => ("envoy.filters.network.ext_authz", pack(&*config)),
            NetworkFilter::Stats(config) => ("istio.stats", config.pack()),
            NetworkFilter::SniForwardProxy(config) => ("envoy.filters.network.sni_dynamic_forward_proxy", pack(&*config)),
            NetworkFilter::Tcp(proxy) => ("envoy.filters.network.tcp_proxy", pack(&proxy.pack())),
            NetworkFilter::Http(manager) => ("envoy.filters.network.http_connection_manager", pack(&manager.pack())),
        };
        Filter { name: name.into(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
    }
}

impl Tcp {
    fn pack(self) -> TcpProxy {
        TcpProxy { access_log: self.log.map(Log::pack).into_iter().collect(), ..self.head }
    }
}

impl Log {
    pub(super) fn pack(self) -> AccessLog {
        AccessLog {
            name: "envoy.access_loggers.file".into(),
            filter: self.condition,
            config_type: Some(access_log::ConfigType::TypedConfig(pack(&self.file))),
        }
    }
}
