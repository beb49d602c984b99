//! How the data plane is started, beyond its bootstrap.

use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use mizzen_types::ports;
use tokio::sync::watch;

/// Changes what is logged, by directives such as `info,mizzen_engine=debug`; says what holds now, or why not.
pub type SetLogging = Arc<dyn Fn(&str) -> Result<String, String> + Send + Sync>;

/// What the bootstrap does not say.
#[derive(Clone)]
pub struct Options {
    /// Worker threads. Default 1.
    pub workers: usize,
    /// A Unix socket on which the admin interface also takes verbs that change something. Default none.
    pub admin_socket: Option<PathBuf>,
    /// Where Prometheus finds `/stats/prometheus`. Default `0.0.0.0:15090`; `None` opens no port.
    pub metrics: Option<SocketAddr>,
    /// The socket mark of upstream connections, 0 for none. Default [`ports::PROXY_MARK`], which needs CAP_NET_ADMIN.
    pub mark: u32,
    /// Whether a connection to a destination that no listener has asks for one, by Istio's name (`ADDRESS_PORT`), before the listener that
    /// accepted may have it. Default no: the control plane sends all listeners.
    pub listeners_on_demand: bool,
    /// Who is asked for the names of clusters that are found by DNS. Default none: the servers of the system's `resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// How long connections may take to end after the order to stop. Default 5 s, as Istio's `terminationDrainDuration`.
    pub drain_time: Duration,
    /// A socket by which listening sockets arrive, each with its address as text. Default none.
    pub inherited: Option<Arc<OwnedFd>>,
    /// What `/server_info` and `istio_build` say. Default this crate's version.
    pub version: String,
    /// Told whether the proxy is ready. Default none.
    pub ready: Option<watch::Sender<bool>>,
    /// What `/logging` calls. Default none.
    pub logging: Option<SetLogging>,
    /// Where the bootstrap's fields are written, for messages. Default nowhere.
    pub places: crate::Places,
    /// The engine's limits.
    pub limits: mizzen_engine::Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            workers: 1,
            admin_socket: None,
            metrics: Some(SocketAddr::from(([0, 0, 0, 0], ports::METRICS))),
            mark: ports::PROXY_MARK,
            listeners_on_demand: false,
            name_servers: Vec::new(),
            drain_time: Duration::from_secs(5),
            inherited: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: None,
            logging: None,
            places: crate::Places::default(),
            limits: mizzen_engine::Limits::default(),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Options { workers, admin_socket, metrics, mark, drain_time, version, .. } = self;
        f.debug_struct("Options")
            .field("workers", workers)
            .field("admin_socket", admin_socket)
            .field("metrics", metrics)
            .field("mark", mark)
            .field("drain_time", drain_time)
            .field("version", version)
            .finish_non_exhaustive()
    }
}
