//! Which endpoint, and the connection to it.

use std::{net::IpAddr, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use mizzen_ir::{
    Config,
    config::{Assignment, Cluster, Discovery, DnsFamily, Endpoint, EndpointAddress, Health, HttpProtocol, LbPolicy, Transport},
};
use rustls::pki_types::ServerName;

use super::{Gone, Lost, TimerKey, Worker};
use crate::{
    Action, Addrs, ConnId, ConnTag, Dial, DialError, DialId, Keepalive, Question, Target,
    conn::{Closing, Conn, Dialing, Owner, Proto, Role, Up},
    lb::{Guard, HostState, Limit},
    pool::{UpSpec, UpTls},
    stream::StreamId,
    tls::Tls,
};

/// Istio's exchange on TCP, which is not spoken yet: never offered.
const PEER_EXCHANGE: &str = "istio-peer-exchange";

/// An endpoint that may be picked.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    pub(crate) target: Target,
    pub(crate) state: Arc<HostState>,
    weight: u32,
    healthy: bool,
    /// Its locality's place within its priority, and that one's weight.
    locality: (usize, u32),
}

/// A cluster's endpoints by priority, names resolved.
pub(crate) struct Flat {
    assignment: Arc<Assignment>,
    names_age: u64,
    /// When a name in it is to be resolved again.
    until: Option<Duration>,
    priorities: Arc<Vec<Vec<Host>>>,
}

/// Why there is no endpoint.
pub(crate) enum NoHost {
    /// There is none, or none is healthy.
    None,
    /// A name has to be resolved first.
    Wait(Question),
}

/// What of a request decides about its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) alpn: Option<&'a [mizzen_types::Name]>,
    pub(crate) authority: &'a str,
    pub(crate) http: bool,
}

impl Worker {
    /// Picks an endpoint of `cluster`. `tried` are avoided for as long as `again` allows.
    pub(crate) fn pick(
        &mut self,
        config: &Config,
        cluster: &Arc<Cluster>,
        destination: std::net::SocketAddr,
        tried: &[String],
        again: u32,
    ) -> Result<Host, NoHost> {
        let newest = self.config.clone();
        let assignment = match &cluster.discovery {
            Discovery::OriginalDst { port } => {
                let mut address = destination;
                address.set_port(port.unwrap_or(address.port()));
                let state = self.cluster_view(&cluster.name).state.host(&address.to_string());
                return Ok(Host { endpoint: None, target: Target::Tcp(address), state, weight: 1, healthy: true, locality: (0, 0) });
            }
            Discovery::Eds { service } => newest.assignments.get(service).or_else(|| config.assignments.get(service)).cloned(),
            other => other.inline().cloned(),
        };
        let Some(assignment) = assignment else { return Err(NoHost::None) };
        let priorities = self.hosts(cluster, &assignment)?;
        let mut found = None;
        for _ in 0..=again {
            let host = self.choose(cluster, &assignment, &priorities).ok_or(NoHost::None)?;
            let fresh = tried.is_empty() || !tried.contains(&host.state_address());
            found = Some(host);
            if fresh {
                break;
            }
        }
        found.ok_or(NoHost::None)
    }

    /// The endpoints by priority, names resolved.
    fn hosts(&mut self, cluster: &Arc<Cluster>, assignment: &Arc<Assignment>) -> Result<Arc<Vec<Vec<Host>>>, NoHost> {
        let (now, age) = (self.now.mono, self.names_age);
        let view = self.cluster_view(&cluster.name);
        if let Some(flat) = &view.flat
            && Arc::ptr_eq(&flat.assignment, assignment)
            && flat.until.is_none_or(|until| now < until && flat.names_age == age)
        {
            return Ok(flat.priorities.clone());
        }
        let state = view.state.clone();
        let (mut missing, mut until) = (None, None);
        let mut priorities = Vec::with_capacity(assignment.priorities.len());
        for priority in assignment.priorities.iter() {
            let mut hosts = Vec::new();
            let localities = priority.localities.iter().enumerate();
            let endpoints = localities.flat_map(|(at, locality)| locality.endpoints.iter().map(move |e| (e, (at, locality.weight))));
            for (endpoint, locality) in endpoints.filter(|(e, _)| e.health != Health::Draining) {
                for target in self.targets(cluster, endpoint, &mut missing, &mut until) {
                    let state = state.host(&address_of(&target));
                    let healthy = endpoint.health != Health::Unhealthy;
                    hosts.push(Host { endpoint: Some(endpoint.clone()), target, state, weight: endpoint.weight.max(1), healthy, locality });
                }
            }
            priorities.push(hosts);
        }
        match missing {
            Some(question) if priorities.iter().all(Vec::is_empty) => return Err(NoHost::Wait(question)),
            // Some names are known, others are not: those go on being asked for.
            Some(question) => {
                self.ask(question, None);
                until = Some(now);
            }
            None => {}
        }
        let priorities = Arc::new(priorities);
        let flat = Flat { assignment: assignment.clone(), names_age: self.names_age, until, priorities: priorities.clone() };
        self.cluster_view(&cluster.name).flat = Some(flat);
        Ok(priorities)
    }

    fn targets(
        &mut self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        missing: &mut Option<Question>,
        until: &mut Option<Duration>,
    ) -> Vec<Target> {
        match &endpoint.address {
            EndpointAddress::Socket(address) => vec![Target::Tcp(*address)],
            EndpointAddress::Pipe(path) => vec![Target::Pipe(std::path::PathBuf::from(&**path))],
            EndpointAddress::Dns(host, port) => {
                let question = Question::Dns { host: host.clone() };
                let now = self.now.mono;
                let Some(resolved) = self.names.get(host).cloned() else {
                    *missing = Some(question);
                    return Vec::new();
                };
                *until = Some(until.map_or(resolved.until, |u| u.min(resolved.until)));
                if resolved.until <= now {
                    self.ask(question, None);
                }
                let (family, one) = match &cluster.discovery {
                    Discovery::LogicalDns(_, dns) => (dns.family, true),
                    Discovery::StrictDns(_, dns) => (dns.family, false),
                    _ => (DnsFamily::All, false),
                };
                let mut addresses = of_family(&resolved.addresses, family);
                if one {
                    addresses.truncate(1);
                }
                addresses.into_iter().map(|ip| Target::Tcp((ip, *port).into())).collect()
            }
        }
    }

    /// Chooses among the endpoints: the priority by health, then by the cluster's policy.
    fn choose(&mut self, cluster: &Cluster, assignment: &Assignment, priorities: &[Vec<Host>]) -> Option<Host> {
        let now = self.now.mono;
        let is_usable = |h: &&Host| h.healthy && !h.state.is_ejected(now);
        let health = |hosts: &Vec<Host>| {
            let usable = hosts.iter().filter(is_usable).count() as u64;
            if hosts.is_empty() { 0 } else { (usable * u64::from(assignment.overprovisioning.max(100)) / hosts.len() as u64).min(100) }
        };
        // Each priority takes as much of the traffic as its health allows of what is left.
        let total = priorities.iter().map(health).sum::<u64>().min(100);
        let mut rest = if total == 0 { 0 } else { self.rng.next() % total };
        let level = priorities.iter().find(|hosts| {
            let share = health(hosts);
            let hit = share > rest;
            rest = rest.saturating_sub(share);
            hit
        });
        let level = level.or_else(|| priorities.iter().find(|hosts| !hosts.is_empty()))?;
        let usable: Vec<&Host> = level.iter().filter(is_usable).collect();
        let share = usable.len() as f32 * 100.0 / level.len().max(1) as f32;
        // Where too few are healthy, all are used: better some answers than none.
        let panic = cluster.panic_threshold > 0.0 && share < cluster.panic_threshold;
        let mut among: Vec<&Host> = if panic { level.iter().collect() } else { usable };
        if cluster.locality_weighted && !panic {
            self.within_locality(level, assignment.overprovisioning, &mut among);
        }
        let weights: u64 = among.iter().map(|h| u64::from(h.weight)).sum();
        if weights == 0 {
            return None;
        }
        let at = |mut place: u64| {
            among.iter().find(|h| {
                let hit = place < u64::from(h.weight);
                place = place.saturating_sub(u64::from(h.weight));
                hit
            })
        };
        let picked = match cluster.lb {
            LbPolicy::RoundRobin => {
                let view = self.cluster_view(&cluster.name);
                view.turn = view.turn.wrapping_add(1);
                at((view.turn as u64).wrapping_mul(spread(weights)) % weights)
            }
            LbPolicy::LeastRequest { choices } => {
                let mut best: Option<&&Host> = None;
                for _ in 0..choices.max(2) {
                    let candidate = at(self.rng.next() % weights)?;
                    // Compared as fractions, so that a heavier host may hold more.
                    let load = |h: &Host, other: &Host| u64::from(h.state.load()) * u64::from(other.weight);
                    if best.is_none_or(|b| load(candidate, b) < load(b, candidate)) {
                        best = Some(candidate);
                    }
                }
                best
            }
            LbPolicy::Random | LbPolicy::Provided => at(self.rng.next() % weights),
        };
        picked.map(|host| (*host).clone())
    }

    /// Keeps the endpoints of one locality: by the localities' weights, each as far as its health allows.
    fn within_locality(&mut self, level: &[Host], overprovisioning: u32, among: &mut Vec<&Host>) {
        let mut shares: Vec<(usize, u64)> = Vec::new();
        for host in among.iter() {
            if shares.iter().any(|(at, _)| *at == host.locality.0) {
                continue;
            }
            let all = level.iter().filter(|h| h.locality.0 == host.locality.0).count() as u64;
            let usable = among.iter().filter(|h| h.locality.0 == host.locality.0).count() as u64;
            let health = (usable * u64::from(overprovisioning.max(100)) / all.max(1)).min(100);
            shares.push((host.locality.0, health * u64::from(host.locality.1)));
        }
        let total: u64 = shares.iter().map(|(_, share)| share).sum();
        if total == 0 {
            return;
        }
        let mut place = self.rng.next() % total;
        let picked = shares.iter().find(|(_, share)| {
            let hit = place < *share;
            place = place.saturating_sub(*share);
            hit
        });
        if let Some((at, _)) = picked {
            among.retain(|h| h.locality.0 == *at);
        }
    }

    /// How to connect to an endpoint.
    ///
    /// # Errors
    /// If a secret is missing.
    pub(crate) fn spec(
        &self,
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
                let built = self.config.client_tls(tls).or_else(|| config.client_tls(tls));
                let built = built.cloned().ok_or_else(|| "TLS_error:secret is not supplied by SDS".to_owned())?;
                let hostname = host.endpoint.as_ref().map_or("", |e| &*e.hostname);
                let sni = if cluster.http.auto_sni && wish.http {
                    without_port(wish.authority)
                } else if tls.auto_host_sni && !hostname.is_empty() {
                    hostname
                } else {
                    &tls.sni
                };
                let alpn: Vec<Vec<u8>> = match wish.alpn {
                    Some(names) => names.iter().map(|n| n.as_bytes().to_vec()).collect(),
                    None => tls.common.alpn.iter().filter(|n| &***n != PEER_EXCHANGE).map(|n| n.as_bytes().to_vec()).collect(),
                };
                let alpn = match (alpn.is_empty(), protocol) {
                    (true, HttpProtocol::Http2) if wish.http => vec![b"h2".to_vec()],
                    (true, HttpProtocol::Alpn) if wish.http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
                    _ => alpn,
                };
                let ip = match &host.target {
                    Target::Tcp(address) => address.ip(),
                    Target::Pipe(_) => IpAddr::from([127, 0, 0, 1]),
                };
                let name = ServerName::try_from(sni.to_owned()).unwrap_or(ServerName::IpAddress(ip.into()));
                Some(UpTls { config: built, name, sni: sni.to_owned(), alpn })
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
        })
    }

    /// Starts a dial.
    pub(crate) fn dial(&mut self, spec: Arc<UpSpec>, owner: Owner, guard: Option<Guard>) -> DialId {
        let deadline = self.now.mono + spec.connect_timeout;
        let (target, source, keepalive) = (spec.target.clone(), spec.source, spec.keepalive);
        let id = self.dial_id(Dialing { spec, owner, guard, deadline });
        self.timers.arm(deadline, TimerKey::Dial(id));
        self.actions.push(Action::Dial(Dial { id, target, source, mark: self.options.mark, keepalive }));
        id
    }

    /// A connection of the cluster's, if its breaker allows.
    pub(crate) fn connection_guard(&mut self, spec: &UpSpec) -> Option<Guard> {
        self.cluster_view(&spec.cluster).state.acquire(Limit::Connections, spec.max_connections)
    }

    pub(crate) fn dial_ended(&mut self, id: DialId, result: Result<Addrs, DialError>) -> Option<ConnId> {
        let dialing = self.dials.remove(id)?;
        self.dial_over(id, dialing.owner);
        let spec = dialing.spec;
        match result {
            Err(DialError(error)) => {
                spec.host.connect_failures.fetch_add(1, Relaxed);
                self.dial_failed(dialing.owner, Lost::Connect(error));
                None
            }
            Ok(addrs) => {
                let conn_id = self.conns.insert::<ConnTag>(None);
                let up = Up { spec: spec.clone(), owner: dialing.owner, guard: dialing.guard, draining: false, served: false, peer: None };
                let mut conn = Conn::new(conn_id, addrs, Role::Up(Box::new(up)), Proto::Handshake, self.now.mono);
                conn.deadline = Some(dialing.deadline);
                spec.host.connections.fetch_add(1, Relaxed);
                spec.host.connections_total.fetch_add(1, Relaxed);
                let session = spec.tls.as_ref().map(|tls| Tls::client(tls.config.clone(), tls.name.clone(), tls.alpn.clone()));
                let broken = match session {
                    None => None,
                    Some(Ok(session)) => {
                        conn.tls = Some(Box::new(session));
                        None
                    }
                    Some(Err(error)) => Some(error),
                };
                let plain = conn.tls.is_none();
                if let Some(place) = self.conns.get_mut(conn_id) {
                    *place = Some(conn);
                }
                match dialing.owner {
                    Owner::Stream(stream) => self.tcp_handshake(stream, conn_id),
                    Owner::Pool(pool) => {
                        if let Some(pool) = self.pools.get_mut(pool) {
                            pool.shaking.push(conn_id);
                        }
                    }
                }
                if let Some(error) = broken {
                    self.tls_failed(conn_id, &error);
                } else if plain {
                    self.connected(conn_id);
                } else {
                    self.decrypt(conn_id, &[]);
                    self.arm(conn_id);
                }
                Some(conn_id)
            }
        }
    }

    /// A dial took too long.
    pub(crate) fn dial_timeout(&mut self, id: DialId) {
        let Some(dialing) = self.dials.remove(id) else { return };
        self.dial_over(id, dialing.owner);
        self.actions.push(Action::Cancel(id));
        dialing.spec.host.connect_failures.fetch_add(1, Relaxed);
        self.dial_failed(dialing.owner, Lost::ConnectTimeout);
    }

    /// A dial is off its owner's list.
    fn dial_over(&mut self, id: DialId, owner: Owner) {
        if let Owner::Pool(pool) = owner
            && let Some(pool) = self.pools.get_mut(pool)
        {
            pool.dials.retain(|dial| *dial != id);
        }
    }

    fn dial_failed(&mut self, owner: Owner, lost: Lost) {
        match owner {
            Owner::Stream(stream) => self.inbox.push_back(super::Event::UpLost(stream, lost)),
            Owner::Pool(pool) => self.pool_dial_failed(pool, lost),
        }
    }

    /// Nobody wants this dial any more.
    pub(crate) fn cancel_dial(&mut self, id: DialId) {
        if self.dials.remove(id).is_some() {
            self.actions.push(Action::Cancel(id));
        }
    }

    /// A handshake took too long.
    pub(crate) fn handshake_timeout(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        if conn.down().is_some() {
            self.connection_failed(id, Some("TLS handshake timed out".to_owned()));
            if let Some(conn) = self.conn(id) {
                conn.proto = Proto::Dead;
            }
        } else if let Some(up) = conn.up() {
            up.spec.host.connect_failures.fetch_add(1, Relaxed);
        }
        self.drop_conn(id, Gone::Closed, Lost::ConnectTimeout);
        self.close(id, Closing::Reset);
    }

    /// An upstream connection is ready for its owner.
    pub(crate) fn connected(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.deadline = None;
        let Some(up) = conn.up() else { return };
        match up.owner {
            Owner::Stream(stream) => self.tcp_connected(stream, id),
            Owner::Pool(pool) => self.pool_connected(pool, id),
        }
    }

    /// Judges an answer for outlier detection.
    pub(crate) fn host_answered(&mut self, cluster: &Arc<Cluster>, host: &Arc<HostState>, status: u16) {
        let eject = host.answered(status, cluster.outlier.as_ref());
        let Some(outlier) = cluster.outlier.as_ref().filter(|_| eject) else { return };
        let now = self.now.mono;
        let config = self.config.clone();
        let assignment = match &cluster.discovery {
            Discovery::Eds { service } => config.assignments.get(service),
            other => other.inline(),
        };
        let all = assignment.map_or(1, |a| a.priorities.iter().flat_map(|p| p.localities.iter()).map(|l| l.endpoints.len()).sum());
        let out = self.cluster_view(&cluster.name).state.ejected(now);
        // One may always be left out.
        if out == 0 || (out + 1) * 100 <= all * outlier.max_percent as usize {
            host.eject(now, outlier);
        }
    }

    /// A stream of TCP knows on which connection its handshake runs.
    fn tcp_handshake(&mut self, stream: StreamId, conn: ConnId) {
        if let Some(up) = self.streams.get_mut(stream).and_then(|s| s.up.as_mut()) {
            up.at = crate::stream::At::Handshake(conn);
        }
    }
}

impl Host {
    pub(crate) fn state_address(&self) -> String {
        address_of(&self.target)
    }
}

/// A target as it is logged.
pub(crate) fn address_of(target: &Target) -> String {
    match target {
        Target::Tcp(address) => address.to_string(),
        Target::Pipe(path) => path.display().to_string(),
    }
}

/// A step that visits all places below `n` in an even order.
fn spread(n: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let mut step = (n as f64 * 0.618) as u64;
    while step > 1 && gcd(step, n) != 1 {
        step -= 1;
    }
    step.max(1)
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
pub(crate) fn has_options(spec: &UpSpec, cluster: &Cluster) -> bool {
    spec.source == source_of(cluster, &spec.target)
        && spec.keepalive == keepalive_of(cluster)
        && spec.connect_timeout == cluster.connect_timeout
        && spec.max_connections == cluster.breakers.connections
        && spec.http == cluster.http
}

fn of_family(addresses: &[IpAddr], family: DnsFamily) -> Vec<IpAddr> {
    let only = |v4: bool| addresses.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect::<Vec<_>>();
    let first = |v4: bool| Some(only(v4)).filter(|list| !list.is_empty()).unwrap_or_else(|| only(!v4));
    match family {
        DnsFamily::V4 => only(true),
        DnsFamily::V6 => only(false),
        DnsFamily::V4Preferred => first(true),
        DnsFamily::Auto => first(false),
        DnsFamily::All => addresses.to_vec(),
    }
}

/// The host of an authority.
pub(crate) fn without_port(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// How long a name that cannot be resolved is waited for.
pub(crate) const DNS_WAIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_visits_all() {
        for n in 1..200 {
            let step = spread(n);
            let seen: std::collections::HashSet<u64> = (0..n).map(|turn| turn * step % n).collect();
            assert_eq!(seen.len() as u64, n, "{n}");
        }
    }

    #[test]
    fn hosts() {
        for (authority, host) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "::1"), ("::1", "::1"), ("1.2.3.4:1", "1.2.3.4")] {
            assert_eq!(without_port(authority), host);
        }
    }
}
