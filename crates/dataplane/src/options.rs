//! How the data plane is started, beyond its bootstrap.

use std::{net::SocketAddr, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use mizzen_types::{Name, ports};
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
    /// Whether a sidecar offers its control plane to fetch on first use what it uses, where that has an index of the mesh. Default yes.
    pub on_demand: bool,
    /// What was fetched on first use and was not used for so long is let go. Default 15 min.
    pub on_demand_idle: Duration,
    /// Types and names that an earlier run fetched so: they are asked for at once. Default none.
    pub remembered: Vec<(String, Name)>,
    /// Who is asked for the names of clusters that are found by DNS. Default none: the servers of the system's `resolv.conf`.
    pub name_servers: Vec<SocketAddr>,
    /// How long connections may take to end after the order to stop. Default 5 s, as Istio's `terminationDrainDuration`.
    pub drain_time: Duration,
    /// How long connections are still taken after the order to stop, before `drain_time` begins: clients may not have heard yet. Meanwhile those
    /// that a sidecar has from others, or a gateway from anybody, are asked to end. Default 0.
    pub farewell: Duration,
    /// Whether connections are then taken for as long as there is one, which takes the place of `drain_time`. Default no.
    pub until_deserted: bool,
    /// A socket by which listening sockets arrive, each with its address as text; an address alone closes those that came for it. Default
    /// none.
    pub inherited: Option<Arc<OwnedFd>>,
    /// What `/server_info` and `istio_build` say. Default this crate's version.
    pub version: String,
    /// Told whether the proxy is ready. Default none.
    pub ready: Option<watch::Sender<bool>>,
    /// What is logged at the start, as directives. Default `info`.
    pub log: String,
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
            on_demand: true,
            on_demand_idle: Duration::from_secs(15 * 60),
            remembered: Vec::new(),
            name_servers: Vec::new(),
            drain_time: Duration::from_secs(5),
            farewell: Duration::ZERO,
            until_deserted: false,
            inherited: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: None,
            log: "info".to_owned(),
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
