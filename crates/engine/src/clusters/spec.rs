//! How to connect to an endpoint, and whether one would still connect like that.

use std::{net::IpAddr, sync::Arc, time::Duration};

use mizzen_ir::{
    Config,
    config::{Cluster, Discovery, Endpoint, HttpProtocol, TlsCommon, Transport, UpstreamHttp},
};
use mizzen_types::Name;
use rustls::{ClientConfig, pki_types::ServerName};

use super::hosts::{Host, fixed_target};
use crate::{Keepalive, Target, address, context::Context, id::CheckId, lb::HostState};

/// What of a request decides about its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) alpn: Option<&'a [mizzen_types::Name]>,
    pub(crate) authority: &'a str,
    pub(crate) http: bool,
}

/// How to make a connection.
#[derive(Clone, Debug)]
pub(crate) struct UpSpec {
    pub(crate) cluster: Name,
    pub(crate) target: Target,
    pub(crate) source: Option<IpAddr>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_connections: u32,
    pub(crate) tls: Option<UpTls>,
    pub(crate) protocol: HttpProtocol,
    pub(crate) http: UpstreamHttp,
    pub(crate) host: Arc<HostState>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// Whose checks it is for; none: for traffic.
    pub(crate) check: Option<CheckId>,
}

/// TLS of a connection to be made.
#[derive(Clone, Debug)]
pub(crate) struct UpTls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) sni: String,
    pub(crate) alpn: Vec<Vec<u8>>,
    /// The first URI name of the certificate that is shown.
    pub(crate) uri: Option<Name>,
}

impl UpSpec {
    /// The target as it is logged.
    pub(crate) fn address(&self) -> &Name {
        &self.host.address
    }

    /// How to connect to an endpoint.
    ///
    /// # Errors
    /// If a secret is missing.
    pub(crate) fn new(
        cx: &Context,
        config: &Config,
        cluster: &Arc<Cluster>,
        host: &Host,
        protocol: HttpProtocol,
        wish: Wish<'_>,
    ) -> Result<UpSpec, String> {
        let transport = match &host.endpoint {
            Some(endpoint) => cluster.transport.of(endpoint),
            None => &cluster.transport.default,
        };
        let tls = match transport {
            Transport::Raw => None,
            Transport::Tls(tls) => {
                // The newest certificates, whatever configuration the stream keeps.
                let built = cx.config.client_tls(tls).or_else(|| config.client_tls(tls));
                let built = built.cloned().ok_or_else(|| "TLS_error:secret is not supplied by SDS".to_owned())?;
                let hostname = host.endpoint.as_ref().map_or("", |e| &*e.hostname);
                let sni = if cluster.http.auto_sni && wish.http {
                    address::without_port(wish.authority)
                } else if tls.auto_host_sni && !hostname.is_empty() {
                    hostname
                } else {
                    &tls.sni
                };
                let alpn: Vec<Vec<u8>> = match wish.alpn {
                    Some(names) => names.iter().map(|n| n.as_bytes().to_vec()).collect(),
                    None => tls.common.alpn.iter().map(|n| n.as_bytes().to_vec()).collect(),
                };
                let alpn = match (alpn.is_empty(), protocol) {
                    (true, HttpProtocol::Http2) if wish.http => vec![b"h2".to_vec()],
                    (true, HttpProtocol::Alpn) if wish.http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
                    _ => alpn,
                };
                let ip = match &host.target {
                    Target::Tcp(address) => address.ip(),
                    Target::Pipe(_) | Target::Internal(..) => IpAddr::from([127, 0, 0, 1]),
                };
                let name = ServerName::try_from(sni.to_owned()).unwrap_or(ServerName::IpAddress(ip.into()));
                Some(UpTls { config: built, name, sni: sni.to_owned(), alpn, uri: certificate_uri(&cx.config, &tls.common) })
            }
        };
        Ok(UpSpec {
            cluster: cluster.name.clone(),
            target: host.target.clone(),
            source: source_of(cluster, &host.target),
            keepalive: keepalive_of(cluster),
            connect_timeout: cluster.connect_timeout,
            max_connections: cluster.breakers.connections,
            tls,
            protocol,
            http: cluster.http.clone(),
            host: host.state.clone(),
            endpoint: host.endpoint.clone(),
            check: None,
        })
    }
}

/// From which address a cluster's connections come, if it says so.
fn source_of(cluster: &Cluster, target: &Target) -> Option<IpAddr> {
    let bind = cluster.bind.as_ref()?;
    let v4 = matches!(target, Target::Tcp(a) if a.is_ipv4());
    std::iter::once(&bind.source).chain(bind.extra.iter()).find(|a| a.is_ipv4() == v4).map(std::net::SocketAddr::ip)
}

fn keepalive_of(cluster: &Cluster) -> Option<Keepalive> {
    cluster.keepalive.map(|k| Keepalive { idle: k.time, interval: k.interval, probes: k.probes })
}

/// Whether a connection of this kind is what the cluster's options make of one now. The endpoint and TLS are not looked at.
fn has_options(spec: &UpSpec, cluster: &Cluster) -> bool {
    spec.source == source_of(cluster, &spec.target)
        && spec.keepalive == keepalive_of(cluster)
        && spec.connect_timeout == cluster.connect_timeout
        && spec.max_connections == cluster.breakers.connections
        && spec.http == cluster.http
}

/// Whether new requests would go to connections like this.
pub(crate) fn still_wanted(config: &Config, spec: &UpSpec) -> bool {
    let Some(cluster) = config.clusters.get(&spec.cluster).filter(|cluster| has_options(spec, cluster)) else { return false };
    let direct = matches!(cluster.discovery, Discovery::OriginalDst { .. } | Discovery::StrictDns(..) | Discovery::LogicalDns(..));
    let mut endpoints = config.assignment_of(cluster).into_iter().flat_map(|assignment| assignment.endpoints());
    let endpoint = endpoints.find(|endpoint| fixed_target(&endpoint.address).as_ref() == Some(&spec.target));
    if endpoint.is_none() && !direct {
        return false;
    }
    let transport = endpoint.or(spec.endpoint.as_ref()).map_or(&cluster.transport.default, |e| cluster.transport.of(e));
    match (transport, &spec.tls) {
        (Transport::Raw, None) => true,
        (Transport::Tls(tls), Some(old)) => config.client_tls(tls).is_some_and(|new| Arc::ptr_eq(new, &old.config)),
        _ => false,
    }
}

/// The first URI name of the certificate that is shown with these options.
pub(crate) fn certificate_uri(config: &Config, tls: &TlsCommon) -> Option<Name> {
    let secret = config.certificates.get(&tls.certificates.first()?.name)?;
    secret.svid.facts().uris.first().map(|uri| Name::from(uri.as_str()))
}
