//! Filters: one file for each, with its hooks and what it keeps of a stream.
//!
//! A filter sees the request's head before it is sent on, may look at the body, wait, answer by itself, and change the response. What it needs to
//! know of others, and what others may know of it, is in the stream's [`Facts`]. The closed set of filters is matched on here and nowhere else.

mod alpn;
mod ext_authz;
mod fault;
mod grpc_stats;
mod local_ratelimit;
pub(crate) mod network;
mod peer_metadata;
mod rbac;
mod stats;

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::config::{Cluster, ContentHash, FilterOverride, Hcm, HttpFilter, HttpFilterKind};

use crate::{
    Node, Now,
    bucket::Bucket,
    call::{Call, CallAnswer},
    conn::Conn,
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
pub(crate) use rbac::{denial, policies};

/// What the filters of a worker keep beyond single streams.
pub(crate) struct Filters {
    /// This proxy's own workload, and what others have said of theirs.
    pub(crate) node: LocalNode,
    stats: stats::StatsCache,
    /// Token buckets by what they are of, looked up once for each configuration: the process' table has a lock.
    pub(crate) buckets: HashMap<ContentHash, Arc<Bucket>>,
}

impl Filters {
    pub(crate) fn new(node: &Node) -> Self {
        Filters { node: LocalNode::new(node), stats: Default::default(), buckets: HashMap::new() }
    }

    /// A new configuration.
    pub(crate) fn take_config(&mut self) {
        self.buckets.clear();
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

/// What a filter waits for.
pub(crate) enum Wait {
    /// An answer.
    Call(Box<Call>),
    /// A time on the monotonic clock.
    Until(Duration),
    /// The end of the request's body, or so many bytes of it.
    Body(usize),
}

/// Why a filter is asked.
pub(crate) enum News {
    /// The request has reached it.
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

/// What a filter sees of its stream.
pub(crate) struct Cx<'a> {
    pub(crate) now: Now,
    pub(crate) rng: &'a mut Rng,
    /// The client's connection.
    pub(crate) conn: &'a Conn,
    /// The request as it is by now.
    pub(crate) head: &'a mut Head,
    /// What has come of the body, and whether that is all.
    pub(crate) body: &'a [u8],
    pub(crate) body_ended: bool,
    pub(crate) remote: IpAddr,
    pub(crate) facts: &'a mut Facts,
    pub(crate) record: &'a mut Record,
    pub(crate) filters: &'a mut Filters,
    pub(crate) shared: &'a Shared,
    /// What the route says of this filter.
    pub(crate) route: Option<&'a FilterOverride>,
    /// Set by a filter after whose changes the route is to be found anew.
    pub(crate) reroute: &'a mut bool,
}

/// Whether a filter acts on a request of this route.
pub(crate) fn is_on(filter: &HttpFilter, route: Option<&FilterOverride>) -> bool {
    match route {
        Some(FilterOverride::Off) => false,
        Some(_) => true,
        None => !filter.disabled,
    }
}

/// Whether a filter keeps something of a stream between its hooks.
pub(crate) fn keeps_state(filter: &HttpFilter) -> bool {
    matches!(filter.kind, HttpFilterKind::Fault(_))
}

/// The request's turn at a filter.
pub(crate) fn request(filter: &HttpFilter, state: &mut State, news: News, cx: &mut Cx<'_>) -> Flow {
    match &filter.kind {
        HttpFilterKind::Stats(_) | HttpFilterKind::GrpcStats => Flow::Go,
        HttpFilterKind::Alpn(alpn) => alpn::request(alpn, cx),
        HttpFilterKind::PeerMetadata(exchange) => peer_metadata::request(exchange, cx),
        HttpFilterKind::Rbac(rbac) => rbac::request(rbac, cx),
        HttpFilterKind::ExtAuthz(authz) => ext_authz::request(authz, news, cx),
        HttpFilterKind::LocalRateLimit(limit) => local_ratelimit::request(limit, cx),
        HttpFilterKind::Fault(fault) => fault::request(fault, state, news, cx),
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

/// The server's response has come, before anything else is done to it.
pub(crate) fn response(hcm: &Hcm, facts: &mut Facts, filters: &mut Filters, head: &mut Head) {
    for filter in hcm.filters.iter() {
        if let HttpFilterKind::PeerMetadata(_) = &filter.kind {
            filters.node.read_response(head, &mut facts.peers);
        }
    }
}

/// An interim response of the server's is about to be sent on.
pub(crate) fn interim(head: &mut Head) {
    LocalNode::hide_exchange(head);
}

/// A response, the server's or one made here, is about to be sent on.
pub(crate) fn answer(hcm: &Hcm, facts: &Facts, filters: &Filters, head: &mut Head) {
    facts.response.iter().for_each(|change| change.apply(head));
    for filter in hcm.filters.iter() {
        if let HttpFilterKind::PeerMetadata(_) = &filter.kind {
            filters.node.exchange_response(head, &facts.peers);
        }
    }
}

/// Some of a body, towards the server or back.
pub(crate) fn data(is_grpc: bool, facts: &mut Facts, back: bool, data: &[u8]) {
    if is_grpc {
        grpc_stats::data(facts, back, data);
    }
}

/// The end of a request.
pub(crate) fn finish(hcm: &Hcm, filters: &mut Filters, table: &mut Table, view: &View<'_>) {
    for filter in hcm.filters.iter() {
        if let HttpFilterKind::Stats(config) = &filter.kind {
            stats::finish(config, filters, table, view);
        }
    }
}

/// What filters left under a key of filter state, for logs and header formats.
pub(crate) fn text<'a>(key: &str, facts: Option<&'a Facts>, record: Option<&'a Record>) -> Option<&'a str> {
    peer_metadata::text(key, facts?).or_else(|| rbac::text(key, record?))
}
