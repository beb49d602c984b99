//! What a control plane is started with.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

use mizzen_api::istio::JwksBy;
use mizzen_types::{TrustDomain, ports};

use crate::{ClusterOptions, SetLogging};

/// How `mizzend` is started. Every field has the default that Istio has, if it has one.
pub struct Options {
    /// The folders of YAML that are followed, each a source of its own: of objects with one name that of the earliest one is in force. None twice.
    pub config_dirs: Vec<PathBuf>,
    /// A Kubernetes cluster that is followed, and in which the CA is kept. Folders have precedence over it.
    pub cluster: Option<ClusterOptions>,
    /// Where the last good text of every object is kept, in one folder for each source, so that a restart with a broken edit keeps serving.
    pub last_good: Option<PathBuf>,
    /// The address of the xDS and CA port and of the monitoring port.
    pub address: IpAddr,
    /// The port of xDS and the CA. 0 takes a free one.
    pub xds_port: u16,
    /// The port of metrics and readiness. 0 takes a free one.
    pub monitoring_port: u16,
    /// A port on localhost on which is told what `debug.sock` tells; nothing can be changed there. `None` opens none.
    pub debug_port: Option<u16>,
    /// An open file (a memfd) with the CA's and the tokens' keys; if it is empty they are made and written to it. Without one they live as long as the process.
    pub state: Option<OwnedFd>,
    /// Where `debug.sock` and `token.sock` are made.
    pub socket_dir: PathBuf,
    /// A file that is written with the root certificates.
    pub root_cert_file: Option<PathBuf>,
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// A file with a MeshConfig.
    pub mesh_config: Option<PathBuf>,
    /// Whether only what the registry names can be called from the mesh, whatever its MeshConfig says.
    pub registry_only: bool,
    /// A Secret of the gateways' namespace. Gateways that serve plain HTTP alone are served over HTTPS on port 443 as well, with its certificate.
    pub https_credential: Option<String>,
    /// The lifetime of workload certificates.
    pub workload_cert_ttl: Duration,
    /// The namespace of the mesh's own configuration.
    pub root_namespace: String,
    /// The version that is told to clients and tools.
    pub version: String,
    /// What is logged, as directives; it is told to tools.
    pub log: String,
    /// What changes that, while it runs; without it nothing does.
    pub set_log: Option<SetLogging>,
    /// Who fetches the keys of issuers of tokens.
    pub jwks: JwksOptions,
    /// Whether a Gateway selects the pods of its own namespace alone.
    pub gateways_stay_home: bool,
    /// Whether what is in force is analyzed, in the background.
    pub analysis: bool,
}

/// How keys of issuers of tokens are fetched.
#[derive(Clone, Debug)]
pub struct JwksOptions {
    /// Who fetches them.
    pub by: JwksBy,
    /// After how long they are fetched again; 20 min by default.
    pub refresh: Duration,
    /// Roots of servers, in PEM; none: the system's.
    pub roots: Option<String>,
}

impl Default for JwksOptions {
    fn default() -> Self {
        JwksOptions { by: JwksBy::default(), refresh: Duration::from_secs(20 * 60), roots: None }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            config_dirs: Vec::new(),
            cluster: None,
            last_good: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            xds_port: ports::XDS,
            monitoring_port: ports::MONITORING,
            debug_port: None,
            state: None,
            socket_dir: PathBuf::from("."),
            root_cert_file: None,
            trust_domain: TrustDomain::default(),
            mesh_config: None,
            registry_only: false,
            https_credential: None,
            workload_cert_ttl: Duration::from_secs(24 * 60 * 60),
            root_namespace: "istio-system".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log: String::new(),
            jwks: JwksOptions::default(),
            gateways_stay_home: false,
            set_log: None,
            analysis: true,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("config_dirs", &self.config_dirs).field("address", &self.address).finish_non_exhaustive()
    }
}
