//! A new configuration: what stays, what is judged again, what drains.

use std::{collections::HashMap, sync::Arc};

use mizzen_ir::{
    Config, ConnFacts, Trace,
    config::{Discovery, FilterChain, Listener, ListenerAddress, Terminal, Transport, TransportProtocol},
    find_chain,
};
use mizzen_types::Name;

use super::{Event, Worker, timer::streams, upstream::has_options};
use crate::{
    Action, ConnId, Question, Target,
    conn::{Closing, Conn, Proto},
    pool::{PoolId, UpSpec},
    stream::{Kind, StreamId},
};

impl Worker {
    /// Takes a configuration over. Streams keep the one that they have.
    pub(crate) fn take_config(&mut self, config: Arc<Config>) {
        let old = std::mem::replace(&mut self.config, config);
        let config = self.config.clone();
        self.by_address.clear();
        self.buckets.clear();
        for listener in config.listeners.values().filter(|l| !l.bind) {
            for address in listener.addresses.iter() {
                if let ListenerAddress::Socket(address) = address {
                    self.by_address.insert(*address, listener.name.clone());
                }
            }
        }
        self.read_certificates(&config);
        let conns: Vec<ConnId> = self.conns.ids().collect();
        for id in conns {
            self.reconcile(id, &config);
        }
        self.retire_pools(|spec| !still_wanted(&config, spec));
        for view in self.clusters.values_mut() {
            view.specs.clear();
        }
        self.prune_hosts(&config);
        // What waited for a resource that has come.
        let arrived: Vec<_> = self
            .asked
            .iter()
            .filter(|(question, _)| matches!(question, Question::Resource { kind: "route", name } if config.routes.contains_key(name)))
            .map(|(question, id)| (question.clone(), *id))
            .collect();
        for (question, id) in arrived {
            self.asked.remove(&question);
            if let Some(wait) = self.waits.remove(id) {
                self.inbox.extend(wait.streams.into_iter().map(Event::Retry));
            }
        }
        self.actions.push(Action::Dispose(old));
    }

    /// The names in our own certificates.
    fn read_certificates(&mut self, config: &Config) {
        let mut uris = HashMap::new();
        for secret in config.certificates.values() {
            let known = self.uris.get(&secret.name).filter(|(hash, _)| *hash == secret.hash).cloned();
            let entry = known.unwrap_or_else(|| (secret.hash, secret.svid.facts().uris.first().map(|uri| Name::from(uri.as_str()))));
            uris.insert(secret.name.clone(), entry);
        }
        self.uris = uris;
        self.own_uri = self.uris.get("default").and_then(|(_, uri)| uri.clone());
    }

    /// The first URI name of the certificate that a chain presents.
    pub(crate) fn chain_uri(&self, chain: &FilterChain) -> Option<Name> {
        let secret = chain.tls.as_ref()?.common.certificates.first()?;
        self.uris.get(&secret.name).and_then(|(_, uri)| uri.clone())
    }

    /// What a new configuration means for a client's connection.
    fn reconcile(&mut self, id: ConnId, config: &Arc<Config>) {
        let Some(conn) = self.conn_ref(id) else { return };
        let Some(down) = conn.down().filter(|d| !d.draining) else { return };
        let listener = config.listeners.get(&down.listener.name).cloned();
        let Some(listener) = listener.filter(|_| config.listeners.contains_key(&down.socket)) else {
            self.drain_conn(id, self.options.limits.drain);
            return;
        };
        let same = listener.hash == down.listener.hash;
        let chain = match (&down.chain, same) {
            // Not chosen yet, or the listener is what it was.
            (None, _) => None,
            (Some(chain), true) => Some(chain.clone()),
            (Some(_), false) => match chain_for(&listener, conn) {
                Some(chain) => Some(chain),
                None => {
                    // A connection made today would be refused.
                    self.drain_conn(id, self.options.limits.drain);
                    return;
                }
            },
        };
        let changed = match (&down.chain, &chain) {
            (Some(old), Some(new)) => old.hash != new.hash,
            _ => false,
        };
        let fits = match (&down.chain, &chain) {
            (Some(old), Some(new)) => {
                let tls = |c: &FilterChain| c.tls.as_ref().map(|t| t.hash);
                let kind = |c: &FilterChain| std::mem::discriminant(&c.filters.last);
                tls(old) == tls(new) && kind(old) == kind(new)
            }
            _ => true,
        };
        if !fits {
            self.drain_conn(id, self.options.limits.drain);
            return;
        }
        let is_tcp = matches!(conn.proto, Proto::Tcp(_));
        if let Some(down) = self.conn(id).and_then(|c| c.down_mut()) {
            down.config = config.clone();
            down.listener = listener;
            if let (true, Some(chain)) = (changed, &chain) {
                if let Terminal::Http(hcm) = &chain.filters.last {
                    down.hcm = Some(hcm.clone());
                }
                down.chain = Some(chain.clone());
            }
        }
        if let (true, Some(chain)) = (changed, chain) {
            self.bind_policies(id);
            if is_tcp {
                self.judge_again(id, &chain);
            } else {
                self.judge_requests_again(id);
            }
        }
    }

    /// An open TCP connection under new policies: closed if it would be refused now.
    fn judge_again(&mut self, id: ConnId, chain: &FilterChain) {
        let Some(judged) = self.judge(id, chain) else { return };
        let Some(Proto::Tcp(stream)) = self.conn_ref(id).map(|c| &c.proto) else { return };
        let stream = *stream;
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.record.details = Some(judged.details.clone());
            stream.record.termination = Some(judged.details);
            stream.record.policy = Some(judged.policy);
        }
        self.tcp_end(stream, Closing::Close);
    }

    /// Requests in flight under new policies: of those that would be refused now, tunnels end at once, and the others with the drain.
    fn judge_requests_again(&mut self, id: ConnId) {
        let until = self.now.mono + self.options.limits.drain;
        let Some(conn) = self.conn_ref(id) else { return };
        let Some(hcm) = conn.down().and_then(|down| down.hcm.clone()) else { return };
        let open: Vec<StreamId> = streams(conn).collect();
        for stream_id in open {
            let Some(denied) = self.refused_now(stream_id, &hcm) else { continue };
            let Some(stream) = self.streams.get_mut(stream_id) else { continue };
            let Kind::Http(request) = &stream.kind else { continue };
            if request.switched {
                stream.record.details = Some(denied.clone());
                stream.record.termination = Some(denied);
                self.finish_http(stream_id, false);
            } else {
                stream.due.max = Some(stream.due.max.map_or(until, |max| max.min(until)));
            }
        }
        self.arm(id);
    }

    /// Takes the pools out of use that are like this.
    pub(crate) fn retire_pools(&mut self, stale: impl Fn(&UpSpec) -> bool) {
        let pools: Vec<PoolId> = self.pools.ids().collect();
        for id in pools {
            if self.pools.get(id).is_some_and(|pool| stale(&pool.spec)) {
                self.retire_pool(id);
            }
        }
    }

    fn prune_hosts(&mut self, config: &Config) {
        for (name, view) in &self.clusters {
            let Some(cluster) = config.clusters.get(name) else {
                view.state.prune(|_| false);
                continue;
            };
            let assignment = match &cluster.discovery {
                Discovery::Eds { service } => config.assignments.get(service),
                Discovery::Static(assignment) => Some(assignment),
                _ => continue,
            };
            let keep: std::collections::HashSet<String> = assignment
                .iter()
                .flat_map(|a| a.priorities.iter())
                .flat_map(|p| p.localities.iter())
                .flat_map(|l| l.endpoints.iter())
                .filter_map(|e| match &e.address {
                    mizzen_ir::config::EndpointAddress::Socket(address) => Some(address.to_string()),
                    mizzen_ir::config::EndpointAddress::Pipe(path) => Some(path.to_string()),
                    mizzen_ir::config::EndpointAddress::Dns(..) => None,
                })
                .collect();
            view.state.prune(|address| keep.contains(address));
        }
    }
}

/// The chain that a connection would get of a listener now.
fn chain_for(listener: &Listener, conn: &Conn) -> Option<Arc<FilterChain>> {
    let down = conn.down()?;
    let facts = ConnFacts {
        destination: down.destination,
        source: conn.addrs.peer,
        direct_source: conn.addrs.peer,
        server_name: down.server_name.as_deref(),
        transport: if down.is_tls { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
        application_protocols: &down.protocols,
    };
    find_chain(listener, &facts, &mut Trace::off()).cloned()
}

/// Whether new requests would go to connections like this.
fn still_wanted(config: &Config, spec: &UpSpec) -> bool {
    let Some(cluster) = config.clusters.get(&spec.cluster).filter(|cluster| has_options(spec, cluster)) else { return false };
    let assignment = match &cluster.discovery {
        Discovery::OriginalDst { .. } => None,
        Discovery::Eds { service } => config.assignments.get(service),
        other => other.inline(),
    };
    let direct = matches!(cluster.discovery, Discovery::OriginalDst { .. } | Discovery::StrictDns(..) | Discovery::LogicalDns(..));
    let mut endpoints =
        assignment.iter().flat_map(|a| a.priorities.iter()).flat_map(|p| p.localities.iter()).flat_map(|l| l.endpoints.iter());
    let endpoint = endpoints.find(|endpoint| match (&endpoint.address, &spec.target) {
        (mizzen_ir::config::EndpointAddress::Socket(a), Target::Tcp(b)) => a == b,
        (mizzen_ir::config::EndpointAddress::Pipe(a), Target::Pipe(b)) => std::path::Path::new(&**a) == b,
        _ => false,
    });
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
