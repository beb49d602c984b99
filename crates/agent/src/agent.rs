//! All of it together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mizzen_protos::envoy::envoy::service::{
    discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::{error, info};

use crate::metrics::Metrics;
use crate::relay::Relay;
use crate::remembered::Remembered;
use crate::sds::Sds;
use crate::status::Status;
use crate::tap::Tap;
use crate::upstream::{MAX_FROM_CONTROL, MAX_FROM_PROXY};
use crate::{Identity, NameTable, Options, SDS_SOCKET, XDS_SOCKET, dns, identity, status};

/// Why an agent cannot start. What may mend itself later is no reason.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A socket.
    #[error("{what}: {source}")]
    Socket {
        /// Which.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A running agent. It ends when it is dropped.
pub struct Agent {
    tasks: JoinSet<()>,
    identity: watch::Receiver<Option<Identity>>,
    names: watch::Receiver<NameTable>,
    remembered: Arc<Remembered>,
    quit: watch::Receiver<bool>,
    dns: Option<SocketAddr>,
    readiness: Option<SocketAddr>,
    status: Option<SocketAddr>,
}

impl Agent {
    /// Opens all sockets, then starts to work; does not wait for the certificate.
    ///
    /// # Errors
    /// If a socket cannot be opened.
    pub async fn start(options: Options) -> Result<Agent, AgentError> {
        let options = Arc::new(options);
        let metrics = Arc::new(Metrics::default());
        let (identity_sender, identity) = watch::channel(None);
        let (quit_sender, quit) = watch::channel(false);
        let domains = options.dns.as_ref().map(|d| d.local_domains.as_slice()).unwrap_or_default();
        let (names_sender, names) = watch::channel(NameTable::empty(&options.namespace, domains));
        let remembered = Arc::new(Remembered::open(&options));

        let sds = unix(&options, SDS_SOCKET)?;
        let xds = unix(&options, XDS_SOCKET)?;
        let readiness = options.readiness.map(|a| tcp(a, "readiness port")).transpose()?;
        let status = options.status.map(|a| tcp(a, "status port")).transpose()?;
        let name_server = match &options.dns {
            None => None,
            Some(dns) => {
                let upstream = dns::Upstream { servers: dns.upstreams.clone(), mark: options.mark };
                let server = dns::Server::bind(dns, names.clone(), upstream, metrics.clone());
                Some(server.map_err(|source| AgentError::Socket { what: "DNS", source })?)
            }
        };
        let mut agent = Agent {
            tasks: JoinSet::new(),
            identity: identity.clone(),
            names: names.clone(),
            remembered: remembered.clone(),
            quit,
            dns: name_server.as_ref().and_then(|s| s.address().ok()),
            readiness: readiness.as_ref().and_then(|l| l.local_addr().ok()),
            status: status.as_ref().and_then(|l| l.local_addr().ok()),
        };
        let tasks = &mut agent.tasks;
        tasks.spawn(serve_sds(sds, Sds { identity: identity.clone() }));
        let tap = Arc::new(Tap::new(name_server.is_some().then_some(names_sender), remembered.clone()));
        tasks.spawn(serve_xds(xds, Relay { options: options.clone(), metrics: metrics.clone(), identity: identity.clone(), tap }));
        tasks.spawn(remembered.keep());
        if let Some(server) = name_server {
            tasks.spawn(server.run());
        }
        let report = Arc::new(Status { options: options.clone(), metrics: metrics.clone(), identity, names, quit: quit_sender });
        if let Some(listener) = readiness {
            tasks.spawn(status::serve(listener, report.clone(), false));
        }
        if let Some(listener) = status {
            tasks.spawn(status::serve(listener, report, true));
        }
        info!(identity = %options.identity(), discovery = %options.discovery, "agent started");
        tasks.spawn(identity::keep(options, metrics, identity_sender));
        Ok(agent)
    }

    /// Waits until there is a certificate and, if names are answered, until they have come; that is on the proxy's stream.
    pub async fn ready(&self) {
        let (mut identity, mut names) = (self.identity.clone(), self.names.clone());
        // If a sender is gone, so is the agent, and it never becomes ready.
        if identity.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        if self.dns.is_some() && names.wait_for(NameTable::is_known).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The certificate, now and as it changes.
    pub fn identity(&self) -> watch::Receiver<Option<Identity>> {
        self.identity.clone()
    }

    /// The names, now and as they change.
    pub fn names(&self) -> watch::Receiver<NameTable> {
        self.names.clone()
    }

    /// Waits until somebody asks the process to end (`/quitquitquit`).
    pub async fn quit(&self) {
        if self.quit.clone().wait_for(|quit| *quit).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Where names are answered.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns
    }

    /// Where readiness is told.
    pub fn readiness_address(&self) -> Option<SocketAddr> {
        self.readiness
    }

    /// Where metrics are.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status
    }

    /// Ends all of it and waits until it has ended.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        self.remembered.save();
    }
}

fn unix(options: &Options, name: &'static str) -> Result<UnixListener, AgentError> {
    mizzen_net::listen_unix(&options.dir.join(name)).map_err(|source| AgentError::Socket { what: name, source })
}

fn tcp(address: SocketAddr, what: &'static str) -> Result<TcpListener, AgentError> {
    let options = mizzen_net::ListenOptions { dual_stack: true, ..mizzen_net::ListenOptions::default() };
    let listener = mizzen_net::listen(address, &options).and_then(TcpListener::from_std);
    listener.map_err(|source| AgentError::Socket { what, source })
}

async fn serve_sds(listener: UnixListener, sds: Sds) {
    let service = SecretDiscoveryServiceServer::new(sds);
    if let Err(error) = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener)).await {
        error!(%error, "SDS server");
    }
}

async fn serve_xds(listener: UnixListener, relay: Relay) {
    let service =
        AggregatedDiscoveryServiceServer::new(relay).max_decoding_message_size(MAX_FROM_PROXY).max_encoding_message_size(MAX_FROM_CONTROL);
    if let Err(error) = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener)).await {
        error!(%error, "xDS relay");
    }
}
