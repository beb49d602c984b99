//! How to connect to an endpoint, and whether one would still connect like that.

use std::{collections::HashMap, net::IpAddr, ops::Deref, sync::Arc, time::Duration};

use mizzen_ir::{
    Config,
    config::{Cluster, Discovery, Endpoint, HttpProtocol, TlsCommon, Transport, UpstreamHttp},
};
use mizzen_types::Name;
use rustls::{ClientConfig, pki_types::ServerName};

use super::hosts::{Host, fixed_target};
use crate::{Keepalive, Target, address, context::Context, id::CheckId, lb::HostState, same::Same};

/// What of a request decides about its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) alpn: Option<&'a [Name]>,
    pub(crate) authority: &'a str,
    pub(crate) http: bool,
    pub(crate) client: Option<ClientAddress>,
}

/// A client's address, from which a connection to a server is dialled (`envoy.filters.listener.original_src`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress {
    pub(crate) ip: IpAddr,
    /// The socket's mark; 0: that of all others.
    pub(crate) mark: u32,
}

impl ClientAddress {
    /// Whether a server can be called from it: not one of the other family, and not one at a loopback address, whose answers the kernel would send nowhere.
    fn reaches(self, target: &Target) -> bool {
        let Target::Tcp(server) = target else { return false };
        let server = server.ip().to_canonical();
        server.is_ipv4() == self.ip.is_ipv4() && (!server.is_loopback() || self.ip.is_loopback())
    }
}

/// What makes two connections interchangeable: all that shapes one. Where it differs from what a new connection would have now, no new stream goes
/// to the old one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnKey {
    pub(crate) cluster: Name,
    pub(crate) target: Target,
    pub(crate) source: Option<IpAddr>,
    /// The client that it comes from, which then is the only one whose streams it carries; in the place of `source`.
    pub(crate) client: Option<ClientAddress>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_connections: u32,
    pub(crate) tls: Option<UpTls>,
    pub(crate) protocol: HttpProtocol,
    /// What of HTTP is configured: idle timeout, lifetime, limits, HTTP/2's settings.
    pub(crate) http: UpstreamHttp,
    /// Whether HTTP is spoken on it; else it carries one TCP stream.
    is_http: bool,
    /// Whose checks it is for; none: for traffic. Checks have connections of their own.
    pub(crate) check: Option<CheckId>,
}

/// How to make a connection.
#[derive(Clone, Debug)]
pub(crate) struct UpSpec {
    pub(crate) key: ConnKey,
    pub(crate) host: Arc<HostState>,
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    copied: Copied,
}

/// What was copied from the request, to tell what it would lead to under another configuration.
#[derive(Clone, Debug)]
struct Copied {
    alpn: Option<Box<[Name]>>,
    /// Only where the server name is taken from it.
    authority: Box<str>,
}

/// TLS of a connection to be made. The configuration is the same as long as its options and secrets are: with it the SANs, roots and certificates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct UpTls {
    pub(crate) config: Same<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    pub(crate) sni: String,
    pub(crate) alpn: Vec<Vec<u8>>,
    /// The local identity: the first URI name of the certificate that is shown.
    pub(crate) uri: Option<Name>,
}

impl Deref for UpSpec {
    type Target = ConnKey;

    fn deref(&self) -> &ConnKey {
        &self.key
    }
}

impl ConnKey {
    /// What a connection to an endpoint has. `newest` is asked for secrets first, whatever configuration a stream keeps.
    ///
    /// # Errors
    /// If a secret is missing.
    fn new(
        [newest, config]: [&Config; 2],
        cluster: &Cluster,
        (endpoint, target): (Option<&Arc<Endpoint>>, &Target),
        protocol: HttpProtocol,
        wish: Wish<'_>,
    ) -> Result<ConnKey, String> {
        let transport = endpoint.map_or(&cluster.transport.default, |endpoint| cluster.transport.of(endpoint));
        let tls = match transport {
            Transport::Raw => None,
            Transport::Tls(tls) => {
                let built = newest.client_tls(tls).or_else(|| config.client_tls(tls));
                let built = built.cloned().ok_or_else(|| "TLS_error:secret is not supplied by SDS".to_owned())?;
                let hostname = endpoint.map_or("", |e| &*e.hostname);
                let sni = if cluster.http.auto_sni && wish.http {
                    address::without_port(wish.authority)
                } else if tls.auto_host_sni && !hostname.is_empty() {
                    hostname
                } else {
                    &tls.sni
                };
                let ip = match target {
                    Target::Tcp(address) => address.ip(),
                    Target::Pipe(_) | Target::Internal(..) => IpAddr::from([127, 0, 0, 1]),
                };
                Some(UpTls {
                    config: Same(built),
                    name: ServerName::try_from(sni.to_owned()).unwrap_or(ServerName::IpAddress(ip.into())),
                    sni: sni.to_owned(),
                    alpn: alpn_of(wish, &tls.common, protocol),
                    uri: certificate_uri(newest, &tls.common),
                })
            }
        };
        Ok(ConnKey {
            cluster: cluster.name.clone(),
            target: target.clone(),
            source: source_of(cluster, target),
            client: wish.client.filter(|client| client.reaches(target)),
            keepalive: keepalive_of(cluster),
            connect_timeout: cluster.connect_timeout,
            max_connections: cluster.breakers.connections,
            tls,
            protocol,
            http: cluster.http.clone(),
            is_http: wish.http,
            check: None,
        })
    }
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
        let key = ConnKey::new([&cx.config, config], cluster, (host.endpoint.as_ref(), &host.target), protocol, wish)?;
        let authority = if cluster.http.auto_sni { wish.authority } else { "" };
        let copied = Copied { alpn: wish.alpn.map(Into::into), authority: authority.into() };
        Ok(UpSpec { key, host: host.state.clone(), endpoint: host.endpoint.clone(), copied })
    }
}

/// The protocols that are offered: those that are wished for, else the cluster's, else what the version of HTTP is called.
fn alpn_of(wish: Wish<'_>, tls: &TlsCommon, protocol: HttpProtocol) -> Vec<Vec<u8>> {
    let names = wish.alpn.unwrap_or(&tls.alpn);
    match protocol {
        HttpProtocol::Http2 if names.is_empty() && wish.http => vec![b"h2".to_vec()],
        HttpProtocol::Alpn if names.is_empty() && wish.http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        _ => names.iter().map(|name| name.as_bytes().to_vec()).collect(),
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

/// A cluster as it is now, to judge its connections by: the endpoints by where they are.
pub(crate) struct Judge<'a> {
    config: &'a Config,
    /// None: there is no such cluster any more.
    cluster: Option<&'a Arc<Cluster>>,
    endpoints: HashMap<Target, &'a Arc<Endpoint>>,
    /// Its targets are not only those of endpoints: names stand for them, or clients choose.
    open: bool,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(config: &'a Config, cluster: &str) -> Self {
        let cluster = config.clusters.get(cluster);
        let open = |c: &Arc<Cluster>| !matches!(c.discovery, Discovery::Eds { .. } | Discovery::Static(_));
        let endpoints = cluster.and_then(|c| config.assignment_of(c)).into_iter().flat_map(|assignment| assignment.endpoints());
        let endpoints = endpoints.filter_map(|endpoint| Some((fixed_target(&endpoint.address)?, endpoint))).collect();
        Judge { config, cluster, endpoints, open: cluster.is_some_and(open) }
    }

    /// Whether new requests would go to connections like this.
    pub(crate) fn wants(&self, spec: &UpSpec) -> bool {
        let Some(cluster) = self.cluster else { return false };
        let endpoint = self.endpoints.get(&spec.target).copied();
        if endpoint.is_none() && !self.open {
            return false;
        }
        let protocol = if cluster.http.protocol == HttpProtocol::Downstream { spec.protocol } else { cluster.http.protocol };
        let wish = Wish { alpn: spec.copied.alpn.as_deref(), authority: &spec.copied.authority, http: spec.is_http, client: spec.client };
        let place = (endpoint.or(spec.endpoint.as_ref()), &spec.target);
        ConnKey::new([self.config, self.config], cluster, place, protocol, wish).is_ok_and(|key| key == spec.key)
    }
}

/// The first URI name of the certificate that is shown with these options.
pub(crate) fn certificate_uri(config: &Config, tls: &TlsCommon) -> Option<Name> {
    let secret = config.certificates.get(&tls.certificates.first()?.name)?;
    secret.svid.facts().uris.first().map(|uri| Name::from(uri.as_str()))
}

/// Its subject, if it has one.
pub(crate) fn certificate_subject(config: &Config, tls: &TlsCommon) -> Option<Name> {
    let secret = config.certificates.get(&tls.certificates.first()?.name)?;
    Some(secret.svid.facts().subject.as_str()).filter(|subject| !subject.is_empty()).map(Name::from)
}
