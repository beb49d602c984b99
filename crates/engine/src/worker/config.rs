//! A new configuration: what stays, what is judged again, what drains. The work is that of what has changed, a few connections in each turn.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Worker, down::reads_proxy_header, timer::streams};
use crate::{
    Action, ConnId,
    conn::{Closing, Conn, Down, Proto},
    id::StreamId,
    stream::Step,
};
use mizzen_ir::{
    Config, ConnFacts, Trace,
    config::{FilterChain, Listener, ListenerAddress, Terminal, TransportProtocol},
    find_chain,
};
use mizzen_types::Name;

/// Connections and pools that are looked at in one turn. One that has something to do before its turn comes is looked at first.
pub(crate) const EACH_TURN: usize = 64;

/// What a worker has not followed yet of configurations that it has.
#[derive(Default)]
pub(crate) struct Behind {
    batches: VecDeque<Batch>,
    /// Clusters whose pools may not be as they would be made now.
    clusters: VecDeque<Name>,
}

/// Connections of clients whose listeners a configuration has changed.
struct Batch {
    /// The configuration before it: what drains goes on by it.
    before: Arc<Config>,
    conns: Vec<ConnId>,
}

impl Behind {
    /// Whether nothing is left to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.clusters.is_empty()
    }

    /// The configuration that a connection was served by up to now.
    fn before(&self, down: &Down) -> Option<&Arc<Config>> {
        let served = |config: &&Arc<Config>| config.listeners.get(&down.listener.name).is_some_and(|l| l.hash == down.listener.hash);
        self.batches.iter().rev().map(|batch| &batch.before).find(served)
    }
}

impl Worker {
    /// Takes a configuration over. Streams keep the one that they have.
    pub(crate) fn take_config(&mut self, config: Arc<Config>) {
        let old = std::mem::replace(&mut self.cx.config, config);
        let config = self.cx.config.clone();
        let changes = config.changes_since(&old);
        self.follow_listeners(&old, &changes.listeners);
        self.filters.take_config(&old, &config, &changes, &self.cx);
        self.clusters.take_config(&old, &config, &changes);
        self.checks_follow(&changes.reached);
        self.behind.clusters.extend(changes.reached.iter().filter(|name| self.clusters.has_pools(name)).cloned());
        self.questions.arrived(&mut self.cx, &config);
        let conns: Vec<ConnId> = changes.listeners.iter().flat_map(|name| self.conns.of_listener(name)).collect();
        if conns.is_empty() {
            self.cx.actions.push(Action::Dispose(old));
        } else {
            self.behind.batches.push_back(Batch { before: old, conns });
        }
    }

    /// Keeps the listeners by address.
    fn follow_listeners(&mut self, old: &Config, changed: &BTreeSet<Name>) {
        for name in changed {
            for address in old.listeners.get(name).into_iter().flat_map(|l| handed(l)) {
                if let Some(names) = self.by_address.get_mut(address) {
                    names.retain(|other| other != name);
                    if names.is_empty() {
                        self.by_address.remove(address);
                    }
                }
            }
            for address in self.cx.config.listeners.get(name).into_iter().flat_map(|l| handed(l)) {
                self.by_address.entry(*address).or_default().push(name.clone());
            }
        }
    }

    /// Follows a part of what has changed.
    pub(crate) fn catch_up(&mut self) {
        let mut left = EACH_TURN;
        while left > 0
            && let Some(batch) = self.behind.batches.front_mut()
        {
            match batch.conns.pop() {
                Some(id) => {
                    left -= 1;
                    self.reconcile(id);
                }
                None => {
                    let over = self.behind.batches.pop_front();
                    self.cx.actions.extend(over.map(|batch| Action::Dispose(batch.before)));
                }
            }
        }
        while left > 0
            && let Some(cluster) = self.behind.clusters.pop_front()
        {
            left = left.saturating_sub(self.retire_stale(&cluster).max(1));
        }
    }

    /// Looks at one connection before its turn: it has something to do.
    pub(crate) fn catch_up_with(&mut self, id: ConnId) {
        if !self.behind.batches.is_empty() {
            self.reconcile(id);
        }
    }

    /// What the newest configuration means for a client's connection. Nothing if it has followed it already.
    fn reconcile(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(down) = conn.down() else { return };
        self.looked += 1;
        let listeners = &self.cx.config.listeners;
        let listener = listeners.get(&down.listener.name).filter(|_| listeners.contains_key(&down.socket)).cloned();
        if listener.as_ref().is_some_and(|listener| Arc::ptr_eq(listener, &down.listener)) {
            return;
        }
        if down.draining {
            return self.keep_config(id);
        }
        let Some(listener) = listener else { return self.outlive(id) };
        let same = listener.hash == down.listener.hash;
        let chain = match (&down.chain, same) {
            // Not chosen yet, or the listener is what it was.
            (None, _) => None,
            (Some(chain), true) => Some(chain.clone()),
            (Some(_), false) => match chain_for(&listener, conn) {
                Some(chain) => Some(chain),
                // A connection made today would be refused.
                None => return self.outlive(id),
            },
        };
        let changed = match (&down.chain, &chain) {
            (Some(old), Some(new)) => old.hash != new.hash,
            _ => false,
        };
        // Who the client is was found out in another way.
        let expects = |listener: &Listener| reads_proxy_header(listener, down.destination.port());
        let fits = match (&down.chain, &chain) {
            (Some(_), _) if expects(&listener) != expects(&down.listener) => false,
            (Some(old), Some(new)) => {
                let tls = |c: &FilterChain| c.tls.as_ref().map(|t| t.hash);
                let kind = |c: &FilterChain| std::mem::discriminant(&c.filters.last);
                tls(old) == tls(new) && kind(old) == kind(new)
            }
            _ => true,
        };
        if !fits {
            return self.outlive(id);
        }
        let is_tcp = matches!(conn.proto, Proto::Tcp(_));
        if let Some(down) = self.conns.get_mut(id).and_then(|c| c.down_mut()) {
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

    /// A connection drains that the newest configuration would not make: it ends by the one that it was served by.
    fn outlive(&mut self, id: ConnId) {
        self.keep_config(id);
        self.drain_conn(id, self.cx.options.limits.drain);
    }

    fn keep_config(&mut self, id: ConnId) {
        let Some(down) = self.conns.get(id).and_then(Conn::down).filter(|down| down.config.is_none()) else { return };
        let before = self.behind.before(down).cloned();
        if let Some(down) = self.conns.get_mut(id).and_then(|c| c.down_mut()) {
            down.config = before;
        }
    }

    /// An open TCP connection under new policies: closed if it would be refused now.
    fn judge_again(&mut self, id: ConnId, chain: &FilterChain) {
        let Some(refusal) = self.refused(id, chain) else { return };
        let Some(Proto::Tcp(stream)) = self.conns.get(id).map(|c| &c.proto) else { return };
        let stream = *stream;
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.record.details = Some(refusal.details.clone().into());
            stream.record.termination = Some(refusal.details);
            stream.record.policy = Some(refusal.policy);
        }
        self.tcp_end(stream, Closing::Close);
    }

    /// Requests in flight under new policies: of those that would be refused now, tunnels end at once, and the others with the drain.
    fn judge_requests_again(&mut self, id: ConnId) {
        let until = self.cx.now.mono + self.cx.options.limits.drain;
        let Some(conn) = self.conns.get(id) else { return };
        let Some(hcm) = conn.down().and_then(|down| down.hcm.clone()) else { return };
        let open: Vec<StreamId> = streams(conn).collect();
        for stream_id in open {
            let Some(denied) = self.refused_now(stream_id, &hcm) else { continue };
            let Some(stream) = self.streams.get_mut(stream_id) else { continue };
            let Some(request) = stream.traffic.request() else { continue };
            if request.step == Step::Tunnel {
                stream.record.details = Some(denied.clone().into());
                stream.record.termination = Some(denied);
                self.finish_http(stream_id, false);
            } else {
                stream.due.max = Some(stream.due.max.map_or(until, |max| max.min(until)));
            }
        }
        self.arm_all(id);
    }
}

/// The addresses for which a listener has connections handed over to it.
fn handed(listener: &Listener) -> impl Iterator<Item = &std::net::SocketAddr> {
    listener.addresses.iter().filter(|_| !listener.bind).filter_map(|address| match address {
        ListenerAddress::Socket(address) => Some(address),
        _ => None,
    })
}

/// The chain that a connection would get of a listener now.
fn chain_for(listener: &Listener, conn: &Conn) -> Option<Arc<FilterChain>> {
    let down = conn.down()?;
    let facts = ConnFacts {
        destination: down.destination,
        source: conn.addrs.peer,
        direct_source: down.direct,
        server_name: down.server_name.as_deref(),
        transport: if down.is_tls { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
        application_protocols: &down.protocols,
    };
    find_chain(listener, &facts, &mut Trace::off()).cloned()
}
