//! A new configuration: what stays, what is judged again, what drains.

use std::sync::Arc;

use super::{Worker, timer::streams};
use crate::{
    Action, ConnId,
    clusters::still_wanted,
    conn::{Closing, Conn, Proto},
    id::StreamId,
    stream::Step,
};
use mizzen_ir::{
    Config, ConnFacts, Trace,
    config::{FilterChain, Listener, ListenerAddress, Terminal, TransportProtocol},
    find_chain,
};

impl Worker {
    /// Takes a configuration over. Streams keep the one that they have.
    pub(crate) fn take_config(&mut self, config: Arc<Config>) {
        let old = std::mem::replace(&mut self.cx.config, config);
        let config = self.cx.config.clone();
        self.by_address.clear();
        self.filters.take_config();
        for listener in config.listeners.values().filter(|l| !l.bind) {
            for address in listener.addresses.iter() {
                if let ListenerAddress::Socket(address) = address {
                    self.by_address.insert(*address, listener.name.clone());
                }
            }
        }
        for id in self.conns.ids() {
            self.reconcile(id, &config);
        }
        self.retire_pools(|spec| spec.check.is_none() && !still_wanted(&config, spec));
        self.clusters.take_config(&config);
        self.questions.arrived(&mut self.cx, &config);
        self.check_clusters();
        self.cx.actions.push(Action::Dispose(old));
    }

    /// What a new configuration means for a client's connection.
    fn reconcile(&mut self, id: ConnId, config: &Arc<Config>) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(down) = conn.down().filter(|d| !d.draining) else { return };
        let listener = config.listeners.get(&down.listener.name).cloned();
        let Some(listener) = listener.filter(|_| config.listeners.contains_key(&down.socket)) else {
            self.drain_conn(id, self.cx.options.limits.drain);
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
                    self.drain_conn(id, self.cx.options.limits.drain);
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
            self.drain_conn(id, self.cx.options.limits.drain);
            return;
        }
        let is_tcp = matches!(conn.proto, Proto::Tcp(_));
        if let Some(down) = self.conns.get_mut(id).and_then(|c| c.down_mut()) {
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
        self.arm(id);
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
