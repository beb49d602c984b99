//! Names to addresses, for clusters that are found by DNS, and for names that requests bring.
//!
//! Asked are the servers of [`Options::name_servers`](crate::Options::name_servers), or else those of the system's `resolv.conf`. They must not be the
//! agent's: its answer for a service of the mesh is the virtual address that a cluster is to be found behind.
//!
//! How long an answer holds is the clusters' word, as with Envoy (`dns_refresh_rate`, `dns_jitter`, `respect_dns_ttl`, `dns_failure_refresh_rate`). All
//! workers get the same answer meanwhile; one that fails leaves the last addresses in use.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use mizzen_engine::Answer;
use mizzen_ir::{
    Config,
    config::{Discovery, Dns, DnsFamily},
};
use mizzen_types::Name;

/// The most names whose answers are kept.
const MOST: usize = 1024;
/// For a name that no cluster has any more: Envoy's default.
const NO_CLUSTER: Dns = Dns {
    refresh: Duration::from_secs(5),
    jitter: Duration::ZERO,
    on_failure: None,
    respect_ttl: false,
    least: Duration::ZERO,
    family: DnsFamily::Auto,
};

/// Asks DNS servers; answers are kept for as long as they hold.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    servers: Option<TokioResolver>,
    kept: Arc<Mutex<HashMap<Name, Kept>>>,
}

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    addresses: Vec<IpAddr>,
    until: Option<Instant>,
    /// So many attempts in a row have failed.
    failures: u32,
}

/// What servers said: addresses and how long they hold, no such name, or nothing.
#[derive(Clone, Debug)]
enum Said {
    Addresses(Vec<IpAddr>, Duration),
    NoSuchName,
    Nothing,
}

/// What the clusters say that have a name to resolve; of several, the one that asks most often.
pub(crate) fn terms(config: &Config, host: &str) -> Dns {
    let of = |discovery: &Discovery| match discovery {
        Discovery::StrictDns(_, dns) | Discovery::LogicalDns(_, dns) => Some(*dns),
        Discovery::Dynamic(dynamic) => Some(dynamic.dns),
        Discovery::Static(_) | Discovery::Eds { .. } | Discovery::OriginalDst { .. } => None,
    };
    config.clusters_of_host(host).filter_map(|cluster| of(&cluster.discovery)).min_by_key(|dns| dns.refresh).unwrap_or(NO_CLUSTER)
}

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
            // When to ask again is said by the clusters.
            options.cache_size = 0;
            builder.build()
        });
        let servers = built.inspect_err(|error| {
            tracing::warn!(%error, "no name can be resolved: the system's DNS configuration cannot be used");
        });
        Resolver { servers: servers.ok(), kept: Arc::default() }
    }

    /// The addresses of a host, IPv4 first, and how long they hold by these terms; none where there is no such name, or where nobody has ever answered.
    pub(crate) async fn lookup(&self, host: &Name, terms: Dns) -> Answer {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Answer::Dns { addresses: vec![address], ttl: Duration::from_secs(3600) };
        }
        let fresh = |known: Option<&Kept>| known.and_then(|kept| kept.fresh(Instant::now()));
        if let Some(answer) = fresh(self.kept().get(host)) {
            return answer;
        }
        let said = self.ask(host).await;
        let mut all = self.kept();
        // Another worker may have asked meanwhile.
        if let Some(answer) = fresh(all.get(host)) {
            return answer;
        }
        let mut kept = all.get(host).cloned().unwrap_or_default();
        let ttl = kept.take(said, &terms, fastrand::u64(..));
        let now = Instant::now();
        kept.until = now.checked_add(ttl);
        let answer = Answer::Dns { addresses: kept.addresses.clone(), ttl };
        if all.len() >= MOST && !all.contains_key(host) {
            all.retain(|_, kept| kept.until.is_some_and(|until| until > now));
        }
        if all.len() < MOST || all.contains_key(host) {
            all.insert(host.clone(), kept);
        }
        answer
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Kept>> {
        // Nothing is left half done by whoever panics with it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, host: &str) -> Said {
        let Some(resolver) = &self.servers else { return Said::Nothing };
        match resolver.lookup_ip(host).await {
            Ok(found) => {
                let ttl = found.valid_until().saturating_duration_since(Instant::now());
                let mut addresses: Vec<IpAddr> = found.iter().collect();
                addresses.sort_by_key(IpAddr::is_ipv6);
                Said::Addresses(addresses, ttl)
            }
            Err(error) if error.is_no_records_found() => Said::NoSuchName,
            Err(error) => {
                tracing::debug!(host, %error, "a name could not be resolved");
                Said::Nothing
            }
        }
    }
}

impl Kept {
    /// The answer, while it holds.
    fn fresh(&self, now: Instant) -> Option<Answer> {
        let ttl = self.until?.checked_duration_since(now).filter(|ttl| !ttl.is_zero())?;
        Some(Answer::Dns { addresses: self.addresses.clone(), ttl })
    }

    /// Takes what servers said; returns after how long they are asked again.
    fn take(&mut self, said: Said, terms: &Dns, random: u64) -> Duration {
        let (addresses, ttl) = match said {
            Said::Nothing => {
                self.failures = self.failures.saturating_add(1);
                return self.after_failure(terms, random);
            }
            Said::NoSuchName => (Vec::new(), None),
            // No time at all would be a question for each connection.
            Said::Addresses(addresses, ttl) => (addresses, Some(ttl.max(terms.least)).filter(|ttl| terms.respect_ttl && !ttl.is_zero())),
        };
        (self.addresses, self.failures) = (addresses, 0);
        ttl.unwrap_or(terms.refresh) + part(terms.jitter, random)
    }

    /// Exponential with full jitter, as Envoy backs off; the last addresses stay.
    fn after_failure(&self, terms: &Dns, random: u64) -> Duration {
        let Some(back_off) = terms.on_failure else { return terms.refresh };
        let doubled = back_off.base.saturating_mul(1 << (self.failures - 1).min(20));
        part(doubled.min(back_off.max), random)
    }
}

/// Some part of a duration, less than the whole.
fn part(of: Duration, random: u64) -> Duration {
    of.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
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
    use mizzen_ir::config::Fallible;

    use super::*;

    fn nobody() -> Resolver {
        Resolver { servers: None, kept: Arc::default() }
    }

    const TERMS: Dns = Dns { refresh: Duration::from_secs(60), ..NO_CLUSTER };
    /// The middle of what is random.
    const HALF: u64 = 1 << 63;

    #[tokio::test]
    async fn addresses_are_their_own_answer() {
        let answer = nobody().lookup(&"10.0.0.1".into(), TERMS).await;
        assert!(matches!(answer, Answer::Dns { addresses, .. } if addresses == ["10.0.0.1".parse::<IpAddr>().unwrap()]));
    }

    #[tokio::test]
    async fn answers_are_kept_while_they_hold() {
        let resolver = nobody();
        let known: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap()];
        let keep =
            |until: Instant| resolver.kept().insert("a.example".into(), Kept { addresses: known.clone(), until: Some(until), failures: 0 });
        keep(Instant::now() + Duration::from_secs(3000));
        let held = |answer: &Answer| matches!(answer, Answer::Dns { addresses, ttl } if *addresses == known && *ttl > TERMS.refresh);
        assert!(held(&resolver.lookup(&"a.example".into(), TERMS).await));
        // Nobody answers: what is known stays, and is asked for again.
        keep(Instant::now());
        let answer = resolver.lookup(&"a.example".into(), TERMS).await;
        assert!(matches!(answer, Answer::Dns { addresses, ttl } if addresses == known && ttl == TERMS.refresh));
        assert_eq!(resolver.kept()[&Name::from("a.example")].failures, 1);
        let answer = resolver.lookup(&"b.example".into(), TERMS).await;
        assert!(matches!(answer, Answer::Dns { addresses, .. } if addresses.is_empty()));
    }

    #[tokio::test]
    async fn no_more_names_are_kept_than_may_be() {
        let resolver = nobody();
        for n in 0..MOST + 10 {
            resolver.lookup(&format!("{n}.example").as_str().into(), TERMS).await;
        }
        assert_eq!(resolver.kept().len(), MOST);
    }

    #[test]
    fn when_a_name_is_asked_for_again() {
        let seconds = Duration::from_secs;
        let jitter = Dns { jitter: seconds(10), ..TERMS };
        let ttl = Dns { respect_ttl: true, ..TERMS };
        let slow = Dns { least: seconds(10), ..ttl };
        let back_off = Dns { on_failure: Some(Fallible { base: seconds(2), max: seconds(10) }), ..jitter };
        let found = |ttl: u64| Said::Addresses(vec!["192.0.2.1".parse().unwrap()], seconds(ttl));
        for (terms, failures, said, expected) in [
            (TERMS, 0, found(5), seconds(60)),
            (TERMS, 0, Said::NoSuchName, seconds(60)),
            (TERMS, 0, Said::Nothing, seconds(60)),
            (jitter, 0, found(5), seconds(65)),
            (jitter, 0, Said::Nothing, seconds(60)),
            (ttl, 0, found(5), seconds(5)),
            (ttl, 0, found(0), seconds(60)),
            (slow, 0, found(5), seconds(10)),
            (slow, 0, found(0), seconds(10)),
            (slow, 0, found(20), seconds(20)),
            (ttl, 0, Said::NoSuchName, seconds(60)),
            (back_off, 0, Said::Nothing, seconds(1)),
            (back_off, 1, Said::Nothing, seconds(2)),
            (back_off, 2, Said::Nothing, seconds(4)),
            (back_off, 3, Said::Nothing, seconds(5)),
            (back_off, u32::MAX, Said::Nothing, seconds(5)),
            (back_off, 3, found(5), seconds(65)),
        ] {
            let mut kept = Kept { failures, ..Kept::default() };
            assert_eq!(kept.take(said.clone(), &terms, HALF), expected, "{terms:?} after {failures}: {said:?}");
        }
    }
}
