//! What a proxy does with a connection: listener, chain, TLS, policies over connections.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use mizzen_ir::{
    ConnFacts, Metadata, Peer, PolicyFacts, Trace, Verdict as Judged, authorize,
    config::{FilterChain, Listener, ListenerAddress, ListenerFilter, NetworkFilter, Rbac, Terminal, TransportProtocol},
    find_chain, nearest_miss,
};

use super::{
    Carried, Explainer, Flow, Given, Hello,
    filters::{ask, watch},
    way::Target,
};
use crate::{
    call::{Hop, ResourceType, Side, Step, StepKind, Verdict},
    proxy::{Found, Proxy},
};

/// Under which name policies over connections leave what they found.
const RBAC: &str = "envoy.filters.network.rbac";

/// What is known of a connection once it is served.
pub(super) struct Conn {
    pub(super) flow: Flow,
    pub(super) server_name: Option<String>,
    pub(super) peer: Option<Peer>,
    pub(super) secure: bool,
}

impl Conn {
    /// What policies look at.
    pub(super) fn facts(&self) -> PolicyFacts<'_> {
        let remote = self.flow.source.ip();
        PolicyFacts {
            destination: self.flow.destination,
            direct_remote: remote,
            remote,
            server_name: self.server_name.as_deref(),
            peer: self.peer.as_ref(),
            request: None,
            metadata: None,
        }
    }
}

impl Explainer {
    /// A connection from its arrival to its end; the error is the end that came early.
    pub(super) fn serve(&mut self, proxy: &Rc<Proxy>, hop: &mut Hop, flow: Flow, given: Given) -> Result<Verdict, Verdict> {
        let listener = listener(proxy, hop, flow.destination)?;
        let chain = chain(&listener, &flow, &mut hop.steps)?;
        let conn = secured(&chain, flow, &mut hop.steps)?;
        let unknown = gate(&chain, &conn, given, &mut hop.steps)?;
        let served = self.served(proxy, hop, &chain, conn, given)?;
        Ok(match unknown {
            Some(why) if !matches!(served, Verdict::Denied { .. }) => Verdict::unknown(why),
            _ => served,
        })
    }

    /// What the last filter of a chain does with a connection.
    fn served(&mut self, proxy: &Rc<Proxy>, hop: &mut Hop, chain: &FilterChain, conn: Conn, given: Given) -> Result<Verdict, Verdict> {
        match &chain.filters.last {
            Terminal::Close => Err(Verdict::closed("the filter chain has no filter that serves: the connection is closed")),
            Terminal::Http(hcm) => self.requests(proxy, hop, hcm, conn, given),
            Terminal::Tcp(tcp) => {
                if tcp.tunnel.is_some() {
                    return Err(Verdict::unknown("what the HTTP proxy does through which the connection is sent"));
                }
                let total: u64 = tcp.clusters.iter().map(|target| u64::from(target.weight)).sum();
                let mut lower = 0;
                let mut verdicts = Vec::new();
                for one in tcp.clusters.iter().filter(|one| one.weight > 0) {
                    let at = given.random.map_or(lower, |random| random);
                    lower += u64::from(one.weight);
                    if given.random.is_some() && tcp.pick(at) != Some(one) {
                        continue;
                    }
                    let share = (tcp.clusters.len() > 1).then_some((u64::from(one.weight), total));
                    let target = Target { cluster: one.cluster.clone(), share, when: None, flow: conn.flow.clone(), http: None };
                    let way = self.way(proxy, hop.side, target, given);
                    verdicts.push(way.verdict.clone());
                    hop.ways.push(way);
                }
                Ok(Verdict::of(verdicts).unwrap_or_else(|| Verdict::closed("no cluster has a weight")))
            }
        }
    }
}

/// The filters of a chain before the one that serves. The error is a refusal; else who was asked, if nobody knows the answer.
fn gate(chain: &FilterChain, conn: &Conn, given: Given, steps: &mut Vec<Step>) -> Result<Option<String>, Verdict> {
    let mut metadata = Metadata::default();
    let mut unknown = None;
    for filter in chain.filters.before.iter() {
        match filter {
            NetworkFilter::Rbac(filter) => {
                watch(filter, RBAC, &conn.facts(), &mut metadata, steps);
                if let Some(rules) = &filter.rules {
                    judge(rules, &PolicyFacts { metadata: Some(&metadata), ..conn.facts() }, "connection", steps)?;
                }
            }
            NetworkFilter::ExtAuthz(authz) => {
                if authz.enabled_metadata.as_ref().is_none_or(|wanted| wanted.matches(&metadata)) {
                    ask(authz, given, &mut unknown, steps)?;
                }
            }
            NetworkFilter::Stats(_) => {}
        }
    }
    Ok(unknown)
}

fn has_ipv6(listener: &Listener) -> bool {
    listener.addresses.iter().any(|address| matches!(address, ListenerAddress::Socket(SocketAddr::V6(_))))
}

/// The listener that gets a connection.
pub(super) fn listener(proxy: &Proxy, hop: &mut Hop, destination: SocketAddr) -> Result<Arc<Listener>, Verdict> {
    // It is called so for both families.
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let at = |ip: IpAddr| format!("{ip}_{}", destination.port());
    let names = match hop.side {
        Side::Inbound => vec!["virtualInbound".to_owned()],
        Side::Gateway => vec![at(destination.ip()), at(any)],
        Side::Outbound | Side::Bare => vec![at(destination.ip()), at(any), "virtualOutbound".to_owned()],
    };
    for name in &names {
        match proxy.listener(name) {
            Found::There(listener) if *name == at(any) && destination.is_ipv6() && !has_ipv6(&listener) => {}
            Found::There(listener) => {
                let step = Step::new(StepKind::Listener, format!("{name} for {destination}"));
                hop.steps.push(step.by(ResourceType::Listener, name));
                return Ok(listener);
            }
            Found::Refused(why) => {
                return Err(Verdict::unknown(format!("the proxy refuses its listener, and keeps the last good one: {why}")));
            }
            Found::Absent => {}
        }
    }
    Err(Verdict::closed(format!("nothing listens on {destination}")))
}

pub(super) fn chain(listener: &Listener, flow: &Flow, steps: &mut Vec<Step>) -> Result<Arc<FilterChain>, Verdict> {
    let port = flow.destination.port();
    let inspects = |tls: bool| {
        listener.listener_filters.iter().any(|filter| match filter {
            ListenerFilter::TlsInspector(off) => tls && !off.holds(port),
            ListenerFilter::HttpInspector(off) => !tls && !off.holds(port),
            ListenerFilter::OriginalDst(_) | ListenerFilter::OriginalSrc(..) | ListenerFilter::ProxyProtocol(_) => false,
        })
    };
    let hello = flow.layers.last().filter(|_| inspects(true));
    let protocols = match (&flow.payload, hello) {
        (_, Some(hello)) => hello.protocols.clone(),
        (Carried::Http { http2, .. }, None) if flow.layers.is_empty() && inspects(false) => {
            vec![if *http2 { b"h2c".to_vec() } else { b"http/1.1".to_vec() }]
        }
        _ => Vec::new(),
    };
    let facts = ConnFacts {
        destination: flow.destination,
        source: flow.source,
        direct_source: flow.source,
        server_name: hello.and_then(|hello| hello.server_name.as_deref()),
        transport: if hello.is_some() { TransportProtocol::Tls } else { TransportProtocol::RawBuffer },
        application_protocols: &protocols,
    };
    let mut notes = Vec::new();
    let found = find_chain(listener, &facts, &mut Trace::to(&mut notes)).cloned();
    let came = match (hello.is_some(), flow.layers.is_empty()) {
        (true, _) => "TLS",
        (false, true) => "plaintext",
        (false, false) => "TLS at which nobody looks",
    };
    let title = |chain: &Arc<FilterChain>| {
        let kind = match &chain.filters.last {
            Terminal::Http(_) => "HTTP",
            Terminal::Tcp(_) => "TCP",
            Terminal::Close => "nothing",
        };
        let tls = if chain.tls.is_some() { " over TLS" } else { "" };
        format!("`{}` ({kind}{tls}) for {came}", chain.name)
    };
    let outcome = found.as_ref().map_or_else(|| format!("none for {came}"), title);
    steps.push(Step::new(StepKind::Chain, outcome).because(notes));
    found.ok_or_else(|| Verdict::closed(format!("no filter chain of {} is for {came}", listener.name)))
}

/// The TLS that the chain asks for.
pub(super) fn secured(chain: &FilterChain, mut flow: Flow, steps: &mut Vec<Step>) -> Result<Conn, Verdict> {
    let seen = flow.layers.last().and_then(|hello| hello.server_name.clone());
    let Some(tls) = &chain.tls else { return Ok(Conn { flow, server_name: seen, peer: None, secure: false }) };
    let Some(Hello { server_name, peer, certificate, .. }) = flow.layers.pop() else {
        return Err(Verdict::closed("TLS is expected, and plaintext came"));
    };
    if tls.require_sni && server_name.is_none() {
        return Err(Verdict::closed("no server name is sent, and one is required"));
    }
    let asked = tls.common.validation.as_ref();
    let outcome = match &peer {
        None if certificate && asked.is_some() => "with a certificate of the client's, which is taken to be a good one".to_owned(),
        None if tls.require_client_certificate => return Err(Verdict::closed("the client shows no certificate, and must")),
        Some(peer) if asked.is_some_and(|validation| !validation.names(&peer.to_string())) => {
            return Err(Verdict::closed(format!("the client's certificate is of {peer}, which is none of those that are accepted")));
        }
        Some(peer) if asked.is_some() => format!("the client is {peer}"),
        _ => "without a certificate of the client's".to_owned(),
    };
    steps.push(Step::new(StepKind::Tls, outcome));
    let peer = peer.filter(|_| asked.is_some()).map(|id| Peer::of(&id));
    Ok(Conn { flow, server_name, peer, secure: true })
}

/// One set of policies.
pub(super) fn judge(rules: &Rbac, facts: &PolicyFacts<'_>, what: &str, steps: &mut Vec<Step>) -> Result<(), Verdict> {
    let mut notes = Vec::new();
    let judged = authorize(rules, facts, &mut Trace::to(&mut notes));
    let (outcome, end) = match judged {
        Judged::Allowed(Some(policy)) => (format!("{policy} allows the {what}"), Ok(())),
        Judged::Allowed(None) => (format!("no policy denies the {what}"), Ok(())),
        Judged::Denied(Some(policy)) => {
            let why = format!("{policy} denies the {what}");
            (why.clone(), Err(Verdict::Denied { policy: Some(policy.to_string()), why }))
        }
        Judged::Denied(None) => {
            let why = match nearest_miss(rules, facts) {
                Some(miss) => format!("no policy allows it; nearest is {}: {}", miss.policy, miss.lacking.join("; ")),
                None => "no policy allows it".to_owned(),
            };
            (why.clone(), Err(Verdict::Denied { policy: None, why }))
        }
    };
    steps.push(Step::new(StepKind::Policy, outcome).because(notes));
    end
}
