//! Names to addresses, for clusters that are found by DNS.
//!
//! Asked are the servers of [`Options::name_servers`](crate::Options::name_servers), or else those of the system's `resolv.conf`. They must not be the
//! agent's: its answer for a service of the mesh is the virtual address that a cluster is to be found behind.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use mizzen_engine::Answer;

/// How long an answer holds that says nothing of it.
const DEFAULT_TTL: Duration = Duration::from_secs(5);
/// What is not there is asked for again after this.
const ABSENT_TTL: Duration = Duration::from_secs(5);

/// Asks the system's DNS servers; answers are kept for as long as they hold.
#[derive(Clone, Debug)]
pub(crate) struct Resolver(Option<TokioResolver>);

impl Resolver {
    /// Asks these servers; none: those of the system. Without usable ones, no name resolves.
    pub(crate) fn new(servers: &[SocketAddr]) -> Resolver {
        let builder = if servers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        };
        let built = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            options.cache_size = 1024;
            builder.build()
        });
        match built {
            Ok(resolver) => Resolver(Some(resolver)),
            Err(error) => {
                tracing::warn!(%error, "no name can be resolved: the system's DNS configuration cannot be used");
                Resolver(None)
            }
        }
    }

    /// The addresses of a host, IPv4 first. An empty answer is an answer; `Absent` means that nobody answered.
    pub(crate) async fn lookup(&self, host: &str) -> Answer {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Answer::Dns { addresses: vec![address], ttl: Duration::from_secs(3600) };
        }
        let Some(resolver) = &self.0 else { return Answer::Absent };
        match resolver.lookup_ip(host).await {
            Ok(found) => {
                let ttl = found.valid_until().checked_duration_since(Instant::now()).unwrap_or(DEFAULT_TTL);
                let mut addresses: Vec<IpAddr> = found.iter().collect();
                addresses.sort_by_key(IpAddr::is_ipv6);
                Answer::Dns { addresses, ttl }
            }
            Err(error) if error.is_no_records_found() => Answer::Dns { addresses: Vec::new(), ttl: ABSENT_TTL },
            Err(error) => {
                tracing::debug!(host, %error, "a name could not be resolved");
                Answer::Absent
            }
        }
    }
}

/// By UDP, and by TCP for long answers.
fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_their_own_answer() {
        let none = Resolver(None);
        assert!(
            matches!(none.lookup("10.0.0.1").await, Answer::Dns { addresses, .. } if addresses == ["10.0.0.1".parse::<IpAddr>().unwrap()])
        );
        assert!(matches!(none.lookup("a.example").await, Answer::Absent));
    }
}
