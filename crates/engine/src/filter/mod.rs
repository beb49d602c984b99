//! Filters: one file for each, with its hooks and what it keeps of a stream.
//!
//! A filter is asked when a head, a part of a body or trailers are about to be sent on: the request's from the first filter to the last, the
//! response's, also one made here, from the last to the first. It may let them go on, changed or not, or wait; and before a head is sent on,
//! answer by itself. What it needs to know of others, and what others may know of it, is in the stream's [`Facts`]. The closed set of filters
//! is matched on here and nowhere else.

mod alpn;
mod decisions;
mod ext_authz;
mod fault;
mod grpc_http1_bridge;
mod grpc_stats;
mod header_mutation;
mod jwt_authn;
mod local_ratelimit;
pub(crate) mod network;
mod peer_metadata;
mod rbac;
mod stats;

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::{
    Changes, Config,
    config::{Cluster, ContentHash, FilterOverride, Hcm, HeaderOps, HttpFilter, HttpFilterKind},
};

use crate::{
    Node, Now,
    bucket::Bucket,
    call::{Call, CallAnswer},
    conn::Conn,
    context::Context,
    event::Dir,
    facts::Facts,
    flags::Flags,
    kept::State,
    lb::{Rng, Shared},
    metrics::Table,
    peer::LocalNode,
    record::Record,
    view::View,
};

pub(crate) use alpn::is_http2;
pub(crate) use ext_authz::{connection_answered, connection_question};
pub(crate) use rbac::{denial, policies};

/// What the filters of a worker keep beyond single streams.
pub(crate) struct Filters {
    /// This proxy's own workload, and what others have said of theirs.
    pub(crate) node: LocalNode,
    stats: stats::StatsCache,
    /// The header in which a client that is refused is told why, if it is to be told: the node's metadata `MIZZEN_DENIAL_HEADER`.
    pub(crate) denial_header: Option<String>,
    /// How often policies decided.
    pub(crate) decisions: decisions::Decisions,
    /// Token buckets by what they are of, looked up once for each configuration: the process' table has a lock.
    pub(crate) buckets: HashMap<ContentHash, Arc<Bucket>>,
    /// Tokens that were checked, and keys.
    tokens: jwt_authn::Tokens,
}

impl Filters {
    pub(crate) fn new(node: &Node) -> Self {
        Filters {
            node: LocalNode::new(node),
            stats: Default::default(),
            decisions: Default::default(),
            denial_header: denial_header(node),
            buckets: HashMap::new(),
            tokens: Default::default(),
        }
    }

    /// The sizes of the tables.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 6] {
        let [clusters, keys, endpoints] = self.stats.sizes();
        let [tokens, issuers] = self.tokens.sizes();
        [("buckets of a worker", self.buckets.len()), clusters, keys, endpoints, tokens, issuers]
    }

    /// A new configuration: what is kept of what it changed goes.
    pub(crate) fn take_config(&mut self, old: &Config, config: &Config, changes: &Changes, cx: &Context) {
        self.stats.take_config(old, config, changes);
        if !changes.listeners.is_empty() || !changes.routes.is_empty() {
            self.decisions.forget();
            self.buckets.clear();
            self.tokens.forget();
            cx.options.shared.forget_buckets(cx.now.mono);
        }
    }
}

fn denial_header(node: &Node) -> Option<String> {
    use mizzen_protos::wkt::value::Kind;
    match node.metadata.fields.get("MIZZEN_DENIAL_HEADER")?.kind.as_ref()? {
        Kind::StringValue(name) => Some(name.to_ascii_lowercase()).filter(|name| mizzen_http::valid_name(name.as_bytes())),
        _ => None,
    }
}

/// What a filter wants.
pub(crate) enum Flow {
    /// The next one's turn.
    Go,
    /// The request is answered here.
    Reply(Box<Reply>),
    /// It is asked again when this has happened.
    Wait(Wait),
}

/// What a filter wants of a body or of trailers whose head was sent on. One that may answer itself because of them, or has to ask somebody
/// else, waits at the head for the body's end.
pub(crate) enum Pass {
    /// They go on.
    Go,
    /// It is asked again at this time on the monotonic clock.
    Until(Duration),
}

/// What a filter waits for.
pub(crate) enum Wait {
    /// An answer.
    Call(Box<Call>),
    /// A time on the monotonic clock.
    Until(Duration),
    /// The end of the body, or so many bytes of it.
    Body(usize),
}

/// Why a filter is asked.
pub(crate) enum News {
    /// What it is asked about has reached it.
    Head,
    /// Its call was answered.
    Answer(Box<CallAnswer>),
    /// The time has come.
    Time,
    /// The body has.
    Body,
}

/// An answer made here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) flags: Flags,
    pub(crate) details: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// gRPC's status, where it is not the one that stands for the HTTP status.
    pub(crate) grpc: Option<u32>,
}

impl Reply {
    pub(crate) fn flow(status: u16, body: &str, flags: Flags, details: impl Into<String>) -> Flow {
        Flow::Reply(Box::new(Reply { status, body: body.as_bytes().to_vec(), flags, details: details.into(), ..Reply::default() }))
    }
}

/// What a filter sees of its stream, and what it says besides its answer.
pub(crate) struct Cx<'a> {
    pub(crate) now: Now,
    pub(crate) rng: &'a mut Rng,
    /// The client's connection.
    pub(crate) conn: &'a Conn,
    /// The head in question: the request's, the response's; or the trailers.
    pub(crate) head: &'a mut Head,
    /// What has come of the body and was not sent on, and whether that is all.
    pub(crate) body: &'a [u8],
    pub(crate) body_ended: bool,
    /// How many bytes of the body were sent on.
    pub(crate) passed: u64,
    /// The trailers that come after it, if they are there.
    pub(crate) trailers: &'a mut Option<Head>,
    pub(crate) remote: IpAddr,
    pub(crate) is_grpc: bool,
    pub(crate) facts: &'a mut Facts,
    pub(crate) record: &'a mut Record,
    pub(crate) filters: &'a mut Filters,
    pub(crate) shared: &'a Shared,
    /// What the route says of this filter.
    pub(crate) route: Option<&'a FilterOverride>,
    /// Set by a filter after whose changes the route is to be found anew.
    pub(crate) reroute: bool,
    /// How many bytes of the body may be sent on at most, whatever else it waits for.
    pub(crate) most: usize,
    /// Changes to the head that are made when it has answered, by whoever knows the values of their commands.
    pub(crate) changes: Vec<HeaderOps>,
}

/// Whether a filter keeps something of a stream between its hooks.
pub(crate) fn keeps_state(filter: &HttpFilter) -> bool {
    matches!(filter.kind, HttpFilterKind::Fault(_))
}

/// Whether a filter is asked about bodies and trailers of this direction.
pub(crate) fn watches(filter: &HttpFilter, state: &State, route: Option<&FilterOverride>, dir: Dir) -> bool {
    match &filter.kind {
        HttpFilterKind::Fault(_) => dir == Dir::Down && fault::watches(state),
        HttpFilterKind::HeaderMutation(own) => header_mutation::watches(own, route, dir),
        _ => false,
    }
}

/// The request's turn at a filter.
pub(crate) fn request(filter: &HttpFilter, state: &mut State, news: News, cx: &mut Cx<'_>) -> Flow {
    match &filter.kind {
        HttpFilterKind::Stats(_) | HttpFilterKind::GrpcStats | HttpFilterKind::GrpcHttp1Bridge => Flow::Go,
        HttpFilterKind::Alpn(alpn) => alpn::request(alpn, cx),
        HttpFilterKind::PeerMetadata(exchange) => peer_metadata::request(exchange, cx),
        HttpFilterKind::Rbac(rbac) => rbac::request(rbac, cx),
        HttpFilterKind::ExtAuthz(authz) => ext_authz::request(authz, news, cx),
        HttpFilterKind::JwtAuthn(authn) => jwt_authn::request(authn, news, cx),
        HttpFilterKind::LocalRateLimit(limit) => local_ratelimit::request(limit, cx),
        HttpFilterKind::Fault(fault) => fault::request(fault, state, news, cx),
        HttpFilterKind::HeaderMutation(own) => header_mutation::head(own, Dir::Up, cx),
    }
}

/// Whether a filter is asked about responses at all.
pub(crate) fn sees_responses(filter: &HttpFilter) -> bool {
    matches!(filter.kind, HttpFilterKind::GrpcHttp1Bridge | HttpFilterKind::HeaderMutation(_) | HttpFilterKind::PeerMetadata(_))
}

/// The response's turn at a filter that sees it.
pub(crate) fn response(filter: &HttpFilter, news: &News, cx: &mut Cx<'_>) -> Flow {
    match &filter.kind {
        HttpFilterKind::GrpcHttp1Bridge => grpc_http1_bridge::response(news, cx),
        HttpFilterKind::HeaderMutation(own) => header_mutation::head(own, Dir::Down, cx),
        HttpFilterKind::PeerMetadata(_) => peer_metadata::response(cx),
        _ => Flow::Go,
    }
}

/// A body's turn at a filter that watches it, each time that some of it could be sent on.
pub(crate) fn body(filter: &HttpFilter, state: &mut State, cx: &mut Cx<'_>) -> Pass {
    match &filter.kind {
        HttpFilterKind::Fault(_) => fault::body(state, cx),
        _ => Pass::Go,
    }
}

/// The trailers' turn at a filter that watches them.
pub(crate) fn trailers(filter: &HttpFilter, dir: Dir, cx: &mut Cx<'_>) -> Pass {
    match &filter.kind {
        HttpFilterKind::HeaderMutation(own) => header_mutation::trailers(own, dir, cx),
        _ => Pass::Go,
    }
}

/// The cluster is known: what is sent to the server beside the request.
pub(crate) fn upstream(hcm: &Hcm, facts: &Facts, filters: &Filters, cluster: &Cluster, head: &mut Head) {
    for filter in hcm.filters.iter() {
        if let HttpFilterKind::PeerMetadata(_) = &filter.kind {
            filters.node.send_up(head, &facts.peers, cluster.external);
        }
    }
}

/// A server's response has come: what it says of the server's workload.
pub(crate) fn answered(facts: &mut Facts, filters: &mut Filters, head: &mut Head) {
    filters.node.read_response(head, &mut facts.peers);
}

/// An interim response of the server's is about to be sent on.
pub(crate) fn interim(head: &mut Head) {
    LocalNode::hide_exchange(head);
}

/// Some of a body, towards the server or back.
pub(crate) fn data(is_grpc: bool, facts: &mut Facts, back: bool, data: &[u8]) {
    if is_grpc {
        grpc_stats::data(facts, back, data);
    }
}

/// The end of a request.
pub(crate) fn finish(hcm: &Hcm, filters: &mut Filters, table: &mut Table, view: &View<'_>) {
    filters.decisions.tell(table);
    for filter in hcm.filters.iter() {
        match &filter.kind {
            HttpFilterKind::Stats(config) => stats::finish(config, filters, table, view),
            HttpFilterKind::JwtAuthn(_) => filters.tokens.tell(table),
            _ => {}
        }
    }
}

/// What filters left under a key of filter state, for logs and header formats.
pub(crate) fn text<'a>(key: &str, facts: Option<&'a Facts>, record: Option<&'a Record>) -> Option<&'a str> {
    peer_metadata::text(key, facts?).or_else(|| rbac::text(key, record?))
}
