//! Which filter chain a connection gets.

use std::net::IpAddr;
use std::sync::Arc;

use mizzen_types::IpRange;

use crate::config::{ChainMatch, FilterChain, Listener, SourceType, TransportProtocol};
use crate::{ConnFacts, Trace};

/// The filter chain for a connection: Envoy's order of criteria, in which a more specific match of an earlier criterion wins and there is
/// no way back from it; else the default chain; else none, and the connection is closed.
pub fn find_chain<'c>(listener: &'c Listener, facts: &ConnFacts<'_>, trace: &mut Trace<'_>) -> Option<&'c Arc<FilterChain>> {
    let mut left = Narrow { left: listener.chains.iter().collect(), trace };
    let (to, from, direct) = (facts.destination, facts.source, facts.direct_source);
    left.keep(
        "destination port",
        || to.port().to_string(),
        |m| match m.destination_port {
            Some(port) if port == to.port() => Some(1),
            Some(_) => None,
            None => Some(0),
        },
    );
    left.keep("destination address", || to.ip().to_string(), |m| longest(&m.destination, to.ip()));
    left.keep("server name", || facts.server_name.unwrap_or("none").to_owned(), |m| server_name(m, facts.server_name));
    left.keep(
        "transport",
        || transport_name(facts.transport).to_owned(),
        |m| match m.transport {
            Some(transport) if transport == facts.transport => Some(1),
            Some(_) => None,
            None => Some(0),
        },
    );
    left.keep("application protocols", || protocols(facts.application_protocols), |m| application(m, facts.application_protocols));
    left.keep("direct source", || direct.ip().to_string(), |m| longest(&m.direct_source, direct.ip()));
    let local = from.ip().to_canonical().is_loopback() || from.ip().to_canonical() == to.ip().to_canonical();
    left.keep(
        "source type",
        || if local { "this host" } else { "another host" }.to_owned(),
        |m| match m.source_type {
            SourceType::Any => Some(0),
            SourceType::Local => local.then_some(1),
            SourceType::External => (!local).then_some(1),
        },
    );
    left.keep("source address", || from.ip().to_string(), |m| longest(&m.source, from.ip()));
    left.keep(
        "source port",
        || from.port().to_string(),
        |m| match m.source_ports.contains(&from.port()) {
            true => Some(1),
            false if m.source_ports.is_empty() => Some(0),
            false => None,
        },
    );
    let Narrow { left, trace } = left;
    let found = left.first().copied();
    match (found, &listener.default_chain) {
        (Some(chain), _) => trace.note(true, || format!("filter chain `{}`", chain.name)),
        (None, Some(chain)) => trace.note(true, || format!("no chain matches: the default one, `{}`", chain.name)),
        (None, None) => trace.note(false, || "no chain matches, and there is no default one".to_owned()),
    }
    found.or(listener.default_chain.as_ref())
}

/// The chains that are still possible.
struct Narrow<'c, 'a, 't> {
    left: Vec<&'c Arc<FilterChain>>,
    trace: &'a mut Trace<'t>,
}

impl Narrow<'_, '_, '_> {
    /// Keeps those that a criterion ranks highest; `None` is no match.
    fn keep(&mut self, what: &str, value: impl FnOnce() -> String, rank: impl Fn(&ChainMatch) -> Option<usize>) {
        let best = self.left.iter().filter_map(|c| rank(&c.matching)).max();
        let before = self.left.len();
        self.left.retain(|c| best.is_some() && rank(&c.matching) == best);
        if self.left.len() != before {
            self.trace.note(best.is_some(), || format!("{what} {} leaves {} of {before} chains", value(), self.left.len()));
        }
    }
}

/// The length of the longest range that contains the address; 0 if there are no ranges, which is the same as one of length 0.
fn longest(ranges: &[IpRange], ip: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    ranges.iter().filter(|r| r.contains(ip)).map(|r| usize::from(r.prefix())).max()
}

/// Exact before wildcards, longer wildcards before shorter ones.
fn server_name(m: &ChainMatch, name: Option<&str>) -> Option<usize> {
    if m.server_names.is_empty() {
        return Some(0);
    }
    let name = name?;
    let rank = |pattern: &str| match pattern.strip_prefix('*') {
        None => pattern.eq_ignore_ascii_case(name).then_some(usize::MAX),
        Some(suffix) => {
            let at = name.len().checked_sub(suffix.len()).filter(|at| *at > 0)?;
            name.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(suffix)).then_some(suffix.len())
        }
    };
    m.server_names.iter().filter_map(|p| rank(p)).max()
}

/// The earlier a protocol stands in the client's list, the better.
fn application(m: &ChainMatch, offered: &[Vec<u8>]) -> Option<usize> {
    if m.application_protocols.is_empty() {
        return Some(0);
    }
    let at = offered.iter().position(|o| m.application_protocols.iter().any(|p| p.as_bytes() == o.as_slice()))?;
    Some(offered.len() - at)
}

fn transport_name(transport: TransportProtocol) -> &'static str {
    match transport {
        TransportProtocol::RawBuffer => "raw_buffer",
        TransportProtocol::Tls => "tls",
    }
}

fn protocols(offered: &[Vec<u8>]) -> String {
    let names: Vec<_> = offered.iter().map(|p| String::from_utf8_lossy(p)).collect();
    format!("[{}]", names.join(", "))
}
