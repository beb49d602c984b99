//! What an agent is started with.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use mizzen_pki::{TimeProvider, UnixTime, Validity};
use mizzen_types::{SpiffeId, TrustDomain, ports};
use serde_json::Value;
use tokio::sync::watch;

use crate::probes::{Probes, ProgramMetrics};
use crate::token::TokenSource;

/// What kind of proxy the agent stands beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyType {
    /// Beside one workload.
    Sidecar,
    /// A gateway.
    Router,
    /// A waypoint.
    Waypoint,
}

impl ProxyType {
    /// As in a node's id.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyType::Sidecar => "sidecar",
            ProxyType::Router => "router",
            ProxyType::Waypoint => "waypoint",
        }
    }
}

/// A server to be dialled: host (an address or a name) and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// An IP address or a DNS name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// How names are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsOptions {
    /// Where questions are taken, by UDP and TCP.
    pub listen: SocketAddr,
    /// Where they are taken besides: in a pod with addresses of IPv6, whose captured questions come by it, too.
    pub also: Option<SocketAddr>,
    /// Who answers what the mesh does not know; tried in order.
    pub upstreams: Vec<SocketAddr>,
    /// Names below these domains are the mesh's own: one that is not in the table does not exist, and the question goes no further.
    pub local_domains: Vec<String>,
}

/// How an agent is started. Clone it before the start if [`bootstrap()`](crate::bootstrap()) is wanted afterwards: it needs the same values.
#[derive(Clone)]
pub struct Options {
    /// What kind of proxy.
    pub proxy_type: ProxyType,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// The pod's addresses; the first stands in the node's id.
    pub instance_ips: Vec<IpAddr>,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// More of the node's metadata, from `ISTIO_META_*` and `ISTIO_METAJSON_*`.
    pub metadata: BTreeMap<String, Value>,
    /// Whether the proxy asks for its configuration by the delta variant, not for the state of the world each time.
    pub delta: bool,
    /// The cluster's DNS domain.
    pub domain: String,
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Where xDS is.
    pub discovery: Address,
    /// Where the CA is.
    pub ca: Address,
    /// The DNS name that their certificate must have.
    pub server_name: String,
    /// The roots by which they are verified, in PEM.
    pub root_cert_file: PathBuf,
    /// Where workload tokens come from.
    pub token: TokenSource,
    /// The lifetime to ask for; zero leaves it to the CA.
    pub certificate_ttl: Duration,
    /// The folder of the agent's sockets.
    pub dir: PathBuf,
    /// The DNS server; without it names are not answered.
    pub dns: Option<DnsOptions>,
    /// Readiness for the platform; `None` opens no port.
    pub readiness: Option<SocketAddr>,
    /// Metrics and the rest; `None` opens no port.
    pub status: Option<SocketAddr>,
    /// Where the proxy's own metrics are fetched.
    pub proxy_metrics: SocketAddr,
    /// Probes of the program that are asked through the agent; those of a pod whose injector has turned them here.
    pub probes: Probes,
    /// Where the program's own metrics are, which the agent adds to its own and the proxy's.
    pub program_metrics: Option<ProgramMetrics>,
    /// Whether `POST /quitquitquit` from localhost ends the agent. Off by default: the workload is on localhost too.
    pub allow_quit: bool,
    /// The mark on the agent's own connections, which keeps them out of the capture. Needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// Whether the proxy is ready; without it the agent alone decides.
    pub dataplane_ready: Option<watch::Receiver<bool>>,
    /// The clock.
    pub time: Arc<dyn TimeProvider>,
    /// When a certificate is renewed: from its validity, the present, and a random number from 0 to 1.
    pub renewal: fn(&Validity, UnixTime, f64) -> Duration,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// It must be set.
    #[error("{0} must be set")]
    Missing(&'static str),
    /// It is set to something that it cannot be.
    #[error("{name}: {reason}")]
    Invalid {
        /// The setting.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

const DEFAULT_DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
const SERVER_NAME: &str = "istiod.istio-system.svc";

impl Options {
    /// From the environment, with Istio's names where it has one.
    ///
    /// `POD_NAME`, `POD_NAMESPACE`, `SERVICE_ACCOUNT`, `INSTANCE_IP` (several with commas), `INSTANCE_IPS` (all of them), `CA_ADDR`,
    /// `DISCOVERY_ADDRESS` (else `CA_ADDR`),
    /// `DISCOVERY_NAME`, `CA_ROOT_CERT`, `TRUST_DOMAIN`, `DOMAIN`, `PROXY_CONFIG_DIR`, `PROXY_TYPE`, `SECRET_TTL` (seconds), `DNS_PROXY_ADDR` (`off` for
    /// none), `MIZZEN_DNS_UPSTREAMS`, `MIZZEN_TOKEN_FD` or `MIZZEN_TOKEN_FILE`, `MIZZEN_ALLOW_QUIT`, `ISTIO_DELTA_XDS`, `ISTIO_META_*`,
    /// `ISTIO_METAJSON_*`.
    ///
    /// # Errors
    /// If something is missing or makes no sense. The token's descriptor is taken over, so this can succeed only once in a process.
    pub fn from_env() -> Result<Self, OptionsError> {
        let token = TokenSource::from_env().map_err(|e| invalid("MIZZEN_TOKEN_FD", e))?;
        Self::from_vars(std::env::vars(), token)
    }

    /// As [`Options::from_env`], from these variables.
    ///
    /// # Errors
    /// As [`Options::from_env`].
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>, token: Option<TokenSource>) -> Result<Self, OptionsError> {
        let mut vars: BTreeMap<String, String> = vars.into_iter().collect();
        vars.retain(|_, value| !value.is_empty());
        let text = |name: &'static str| vars.get(name).cloned().ok_or(OptionsError::Missing(name));
        let or = |name: &str, default: &str| vars.get(name).cloned().unwrap_or_else(|| default.to_owned());
        let mut metadata = metadata(&vars)?;
        let labels = match metadata.remove("LABELS") {
            Some(labels) => serde_json::from_value(labels).map_err(|e| invalid("ISTIO_METAJSON_LABELS", e))?,
            None => BTreeMap::new(),
        };
        let ca: Address = parse("CA_ADDR", &text("CA_ADDR")?)?;
        let discovery = vars.get("DISCOVERY_ADDRESS").map(|a| parse("DISCOVERY_ADDRESS", a)).transpose()?.unwrap_or_else(|| ca.clone());
        // A name that is dialled is the name that is verified; behind an address stands the control plane's usual one.
        let by_name = discovery.host.parse::<IpAddr>().is_err();
        let server_name = or("DISCOVERY_NAME", if by_name { &discovery.host } else { SERVER_NAME });
        let domain = or("DOMAIN", "cluster.local");
        Ok(Options {
            proxy_type: match or("PROXY_TYPE", "sidecar").as_str() {
                "sidecar" => ProxyType::Sidecar,
                "router" => ProxyType::Router,
                "waypoint" => ProxyType::Waypoint,
                other => return Err(invalid("PROXY_TYPE", format!("`{other}` is none of sidecar, router, waypoint"))),
            },
            pod_name: text("POD_NAME")?,
            namespace: text("POD_NAMESPACE")?,
            service_account: or("SERVICE_ACCOUNT", "default"),
            instance_ips: addresses(&text("INSTANCE_IP")?, vars.get("INSTANCE_IPS").map(String::as_str))?,
            labels,
            metadata,
            delta: parse("ISTIO_DELTA_XDS", &or("ISTIO_DELTA_XDS", "true"))?,
            trust_domain: parse("TRUST_DOMAIN", &or("TRUST_DOMAIN", "cluster.local"))?,
            discovery,
            ca,
            server_name,
            root_cert_file: text("CA_ROOT_CERT")?.into(),
            token: token.ok_or(OptionsError::Missing("MIZZEN_TOKEN_FD or MIZZEN_TOKEN_FILE"))?,
            certificate_ttl: Duration::from_secs(parse("SECRET_TTL", &or("SECRET_TTL", "0"))?),
            dir: text("PROXY_CONFIG_DIR")?.into(),
            dns: dns(&vars, &domain)?,
            domain,
            readiness: Some(any(ports::READINESS)),
            status: Some(any(ports::AGENT)),
            proxy_metrics: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ports::METRICS),
            probes: Probes::default(),
            program_metrics: None,
            allow_quit: parse("MIZZEN_ALLOW_QUIT", &or("MIZZEN_ALLOW_QUIT", "false"))?,
            mark: Some(ports::PROXY_MARK),
            dataplane_ready: None,
            time: mizzen_pki::system_time(),
            renewal: mizzen_pki::renewal_delay,
        })
    }

    /// The identity that the CA is expected to give.
    pub fn identity(&self) -> SpiffeId {
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.as_str().into(),
            service_account: self.service_account.as_str().into(),
        }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.time.current_time().unwrap_or_else(UnixTime::now)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("pod", &self.pod_name)
            .field("identity", &self.identity().to_string())
            .field("discovery", &self.discovery)
            .field("dir", &self.dir)
            .field("dns", &self.dns)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Address { host: socket.ip().to_string(), port: socket.port() });
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains(':') => {
                Ok(Address { host: host.to_owned(), port: port.parse().map_err(|_| format!("`{port}` is not a port"))? })
            }
            _ => Err(format!("`{text}` is not of the form HOST:PORT")),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address { host: address.ip().to_string(), port: address.port() }
    }
}

/// `ISTIO_META_X=text` is metadata X; `ISTIO_METAJSON_X=json` is, too, with structure.
fn metadata(vars: &BTreeMap<String, String>) -> Result<BTreeMap<String, Value>, OptionsError> {
    let mut all = BTreeMap::new();
    for (name, value) in vars {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            all.insert(key.to_owned(), Value::String(value.clone()));
        } else if let Some(key) = name.strip_prefix("ISTIO_METAJSON_") {
            all.insert(key.to_owned(), serde_json::from_str(value).map_err(|e| invalid(name, e))?);
        }
    }
    Ok(all)
}

fn dns(vars: &BTreeMap<String, String>, domain: &str) -> Result<Option<DnsOptions>, OptionsError> {
    let listen = match vars.get("DNS_PROXY_ADDR").map(String::as_str) {
        Some("off") => return Ok(None),
        Some(text) => parse("DNS_PROXY_ADDR", text)?,
        None => DEFAULT_DNS,
    };
    let upstreams = match vars.get("MIZZEN_DNS_UPSTREAMS") {
        Some(text) => text
            .split(',')
            .map(|one| one.parse().or_else(|_| one.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53))))
            .collect::<Result<_, _>>()
            .map_err(|e| invalid("MIZZEN_DNS_UPSTREAMS", e))?,
        None => std::fs::read_to_string("/etc/resolv.conf").map(|t| nameservers(&t)).unwrap_or_default(),
    };
    // A question that is sent to ourselves would never end.
    let upstreams = upstreams.into_iter().filter(|u| *u != listen).collect();
    Ok(Some(DnsOptions { listen, also: None, upstreams, local_domains: vec![domain.to_owned()] }))
}

/// The first address, and those that are beside it.
fn addresses(first: &str, all: Option<&str>) -> Result<Vec<IpAddr>, OptionsError> {
    let mut found: Vec<IpAddr> = list("INSTANCE_IP", first)?;
    for ip in all.map(|all| list("INSTANCE_IPS", all)).transpose()?.unwrap_or_default() {
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    Ok(found)
}

pub(crate) fn nameservers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).map(|ip: IpAddr| SocketAddr::new(ip, 53)).collect()
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

pub(crate) fn parse<T: FromStr<Err: fmt::Display>>(name: &str, text: &str) -> Result<T, OptionsError> {
    text.parse().map_err(|e| invalid(name, e))
}

fn list<T: FromStr<Err: fmt::Display>>(name: &str, text: &str) -> Result<Vec<T>, OptionsError> {
    text.split(',').map(|one| parse(name, one.trim())).collect()
}

pub(crate) fn invalid(name: &str, reason: impl fmt::Display) -> OptionsError {
    OptionsError::Invalid { name: name.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn options(extra: &[(&str, &str)]) -> Result<Options, OptionsError> {
        let base = [
            ("POD_NAME", "reviews-0"),
            ("POD_NAMESPACE", "shop"),
            ("INSTANCE_IP", "10.244.0.7"),
            ("CA_ADDR", "10.244.0.2:15012"),
            ("CA_ROOT_CERT", "/root.pem"),
            ("PROXY_CONFIG_DIR", "/run/pod"),
            ("MIZZEN_DNS_UPSTREAMS", "10.244.0.1,10.0.0.1:5353"),
        ];
        let vars = base.iter().chain(extra).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Options::from_vars(vars, Some(TokenSource::File("/token".into())))
    }

    /// Options that reach nothing, with their files in a folder.
    pub(crate) fn plain(folder: &std::path::Path) -> Options {
        Options { root_cert_file: folder.join("root.pem"), dir: folder.to_owned(), ..options(&[]).unwrap() }
    }

    #[test]
    fn defaults() {
        let o = options(&[]).unwrap();
        assert_eq!(o.identity().to_string(), "spiffe://cluster.local/ns/shop/sa/default");
        assert_eq!((o.server_name.as_str(), o.discovery.to_string().as_str()), (SERVER_NAME, "10.244.0.2:15012"));
        let dns = o.dns.unwrap();
        assert_eq!(dns.upstreams, ["10.244.0.1:53".parse().unwrap(), "10.0.0.1:5353".parse().unwrap()]);
        assert_eq!((dns.listen, dns.local_domains), (DEFAULT_DNS, vec!["cluster.local".to_owned()]));
    }

    #[test]
    fn values() {
        let o = options(&[
            ("ISTIO_METAJSON_LABELS", r#"{"app":"reviews"}"#),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("DISCOVERY_ADDRESS", "istiod.mesh.svc:15012"),
            ("DNS_PROXY_ADDR", "off"),
            ("PROXY_TYPE", "router"),
            ("INSTANCE_IP", "10.244.0.7, fd00::7"),
            ("ISTIO_DELTA_XDS", "false"),
        ])
        .unwrap();
        assert!(!o.delta && options(&[]).unwrap().delta);
        assert_eq!(o.labels.get("app").map(String::as_str), Some("reviews"));
        assert_eq!(o.metadata.get("CLUSTER_ID"), Some(&Value::String("Kubernetes".to_owned())));
        assert_eq!(o.server_name, "istiod.mesh.svc");
        assert_eq!((o.proxy_type, o.instance_ips.len(), o.dns), (ProxyType::Router, 2, None));
    }

    #[test]
    fn refused() {
        for (name, value) in [
            ("POD_NAME", ""),
            ("INSTANCE_IP", "x"),
            ("CA_ADDR", "nowhere"),
            ("CA_ADDR", "::1:15012:"),
            ("TRUST_DOMAIN", "A B"),
            ("PROXY_TYPE", "ztunnel"),
            ("ISTIO_METAJSON_LABELS", "{"),
            ("ISTIO_METAJSON_LABELS", r#"{"a":1}"#),
            ("MIZZEN_DNS_UPSTREAMS", "a"),
        ] {
            let error = options(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn upstreams_from_a_file() {
        assert_eq!(nameservers("# x\nsearch a\nnameserver 10.0.0.1\n nameserver ::1\nnameserver bad\n").len(), 2);
    }
}
