//! HTTP from a client: the codec, the request's head, the filters.

use std::sync::Arc;

use mizzen_http::{Codec, ConnError, Head, Limits, Sniff, StreamId as Sid, sniff};
use mizzen_ir::{
    PathOutcome, PolicyFacts, RequestFacts, ResourceKind, Trace, Verdict,
    config::{CodecKind, Hcm, HttpRoutes, RouteConfig, StripPort},
    find_route, normalize_path, wanted_host,
};

use super::Worker;
use crate::{
    ConnId, Question,
    conn::{Conn, Http, Proto},
    event::Event,
    filter::{News, denial, policies},
    flags::Flags,
    headers,
    id::StreamId,
    questions::Waiter,
    record::Record,
    stream::{Client, Due, Half, Request, Routed, Step, Stream, Traffic},
};

impl Worker {
    /// Begins to speak HTTP on a connection.
    pub(crate) fn serve_http(&mut self, id: ConnId, hcm: Arc<Hcm>) {
        if let Some(down) = self.conns.get_mut(id).and_then(|c| c.down_mut()) {
            down.hcm = Some(hcm);
        }
        self.bind_policies(id);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.proto = Proto::Choose;
            // A client that never says a word is as idle as one between requests.
            conn.last = conn.last.max(conn.born);
        }
        self.choose_codec(id);
        self.arm(id);
    }

    /// Which version of HTTP it is: as configured, as ALPN says, or by the first bytes.
    pub(crate) fn choose_codec(&mut self, id: ConnId) {
        let now = self.cx.now.mono;
        let draining = self.cx.draining;
        let Some(conn) = self.conns.get_mut(id) else { return };
        let alpn = conn.tls.as_ref().and_then(|tls| tls.alpn());
        let Some(hcm) = conn.down().and_then(|d| d.hcm.clone()) else { return };
        let h2 = match (hcm.codec, alpn) {
            (CodecKind::Http1, _) => false,
            (CodecKind::Http2, _) => true,
            (CodecKind::Auto, Some(b"h2")) => true,
            (CodecKind::Auto, Some(b"http/1.1" | b"http/1.0")) => false,
            (CodecKind::Auto, _) => match sniff(conn.input.as_slice()) {
                Sniff::Http2 => true,
                Sniff::NeedMore
                    if b"PRI * HTTP/2.0".starts_with(conn.input.as_slice().get(..14.min(conn.input.len())).unwrap_or_default()) =>
                {
                    if conn.eof {
                        self.close(id, crate::conn::Closing::Close);
                    }
                    return;
                }
                _ => false,
            },
        };
        let limits = server_limits(&hcm);
        let codec = if h2 { Codec::h2_server(limits, &mut conn.tx) } else { Codec::h1_server(limits) };
        conn.proto = Proto::Http(Http::new(codec, now, hcm.h2.ping_interval));
        self.conns.mark(id);
        self.conns.queue_parse(&mut self.cx, id);
        if draining {
            self.drain_conn(id, self.cx.options.limits.drain);
        }
    }

    /// A request's head arrived; its connection is in hand.
    pub(crate) fn new_request(&mut self, conn: &mut Conn, sid: Sid, head: Head, end: bool) {
        let now = self.cx.now;
        let Some(down) = conn.down() else { return };
        // A connection whose chain is what it was, or has taken over the new one, runs its requests by the newest configuration.
        let config = down.config.as_ref().unwrap_or(&self.cx.config).clone();
        let Some(hcm) = down.hcm.clone() else { return };
        let request = Request::new(hcm, head, conn.tls.is_some(), conn.addrs.peer.ip());
        let due = Due {
            idle: request.hcm.stream_idle_timeout,
            moved: now.mono,
            max: request.hcm.max_stream_duration.map(|max| now.mono + max),
            request: request.hcm.request_timeout.filter(|_| !end).map(|timeout| now.mono + timeout),
            ..Due::default()
        };
        let stream = Stream {
            config,
            client: Client::Conn(conn.id, sid),
            traffic: Traffic::Http(Box::new(request)),
            up: None,
            req: Half { end, ..Half::default() },
            resp: Half::default(),
            due,
            record: Record { wall: now.wall, begun: now.mono, ..Record::default() },
        };
        let id = self.streams.insert(stream);
        if let Some(http) = conn.http_mut() {
            http.streams.push((sid, id));
            http.requests += 1;
        }
        self.cx.inbox.push_back(Event::Request(id));
    }

    /// The connection manager's part of a request: headers, path, limits.
    pub(crate) fn request(&mut self, id: StreamId) {
        let most = self.cx.options.limits.streams;
        let full = self.streams.len() > most;
        let uuid = [self.cx.rng.next(), self.cx.rng.next()];
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(down_id) = stream.client.conn() else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        let hcm = request.hcm.clone();
        let Some(conn) = self.conns.get(down_id) else { return };
        let Some(down) = conn.down() else { return };
        let requests = conn.http().map_or(0, |h| h.requests);
        let drain = hcm.max_requests_per_connection > 0 && requests >= hcm.max_requests_per_connection.into() && !down.draining;
        let secure = request.secure;
        headers::client_address(&mut request.head, &hcm, conn.addrs.peer.ip(), secure, &mut request.remote);
        headers::client_cert(&mut request.head, &hcm, down.peer.as_deref(), down.local_uri.as_deref());
        headers::request_id(&mut request.head, &hcm, uuid);
        // Other schemes are kept as they are, and count as plain.
        match request.head.get_str("x-forwarded-proto").unwrap_or(if secure { "https" } else { "http" }) {
            "https" => (request.secure, _) = (true, request.head.set_scheme("https")),
            "http" => (request.secure, _) = (false, request.head.set_scheme("http")),
            other => {
                let other = other.to_owned();
                (request.secure, _) = (false, request.head.set_scheme(&other));
            }
        }
        if !hcm.via.is_empty() {
            request.head.append("via", hcm.via.as_bytes());
        }
        if hcm.strip_port != StripPort::No || hcm.strip_trailing_dot {
            let port = down.destination.port();
            headers::strip_host(&mut request.head, &hcm, port);
        }
        if request.head.authority().is_empty() && !hcm.default_host.is_empty() {
            request.head.set_authority(&hcm.default_host);
        }
        if drain {
            self.drain_conn(down_id, hcm.drain_timeout);
        }
        self.arm_stream(id);
        if full {
            return self.reply(id, 503, "overload", Flags::OVERLOAD, "overload");
        }
        self.check_request(id, &hcm);
    }

    fn check_request(&mut self, id: StreamId, hcm: &Arc<Hcm>) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        if hcm.closed {
            return self.reply(id, 503, "", Flags::default(), "http_filter_refused");
        }
        if request.head.authority().is_empty() {
            return self.reply(id, 400, "", Flags::default(), "missing_host_header");
        }
        if request.head.method() == "CONNECT" {
            return self.reply(id, 403, "", Flags::default(), "upgrade_failed");
        }
        match normalize_path(request.head.path(), &hcm.path) {
            PathOutcome::Keep => {}
            PathOutcome::Changed(path) if request.head.set_path(&path) => {}
            PathOutcome::Changed(_) | PathOutcome::Reject => return self.reply(id, 400, "", Flags::default(), "path_normalization_failed"),
            PathOutcome::Redirect(path) => {
                return self.reply_with(id, 307, b"", Flags::default(), "path_normalization_redirect", &[("location", &path)]);
            }
        }
        if !hcm.proxy_100_continue && request.head.get("expect").is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue")) {
            request.head.remove("expect");
            self.interim(id, &Head::response(100));
        }
        self.find(id);
    }

    /// Finds the route, waiting for a bounded time for its configuration or, where that comes on demand, for its virtual host.
    pub(crate) fn find(&mut self, id: StreamId) {
        let random = self.cx.rng.next();
        let wait = self.cx.now.mono + self.cx.options.limits.resource_wait;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        let config = stream.config.clone();
        let routes: Option<&Arc<RouteConfig>> = match &request.hcm.routes {
            HttpRoutes::Inline(routes) => Some(routes),
            HttpRoutes::Named(name) => config.routes.get(name),
        };
        let wanted = match (routes, &request.hcm.routes) {
            (None, HttpRoutes::Named(name)) => Some((ResourceKind::Route, name.clone())),
            (Some(routes), _) if routes.open.is_some() => {
                let name = wanted_host(&config, routes, request.head.authority(), &mut Trace::off());
                // What was asked for already and did not come is known to be absent.
                let name = name.filter(|name| request.sought.as_ref() != Some(name));
                if name.as_ref().is_some_and(|name| ResourceKind::VirtualHost.is_in(&self.cx.config, name)) {
                    // It came since the stream began.
                    stream.config = self.cx.config.clone();
                    return self.cx.inbox.push_back(Event::Reroute(id));
                }
                request.sought = name.clone().or(request.sought.take());
                name.map(|name| (ResourceKind::VirtualHost, name))
            }
            _ => None,
        };
        if let Some((kind, name)) = wanted {
            let why = || format!("a request for {}", request.head.authority()).into();
            let question = Question::Resource { kind, name };
            request.step = Step::Waiting(Some(self.questions.ask_for(&mut self.cx, question, Some(Waiter::Stream(id)), why)));
            stream.due.wait.get_or_insert(wait);
            return self.arm_stream(id);
        }
        let Some(routes) = routes else { return };
        stream.due.wait = None;
        let facts = RequestFacts { head: &request.head, secure: request.secure, metadata: Some(&request.facts.metadata) };
        let found = find_route(routes, &facts, random, &mut Trace::off());
        if let Some(found) = found {
            found.host.used.mark();
        }
        stream.record.vhost = found.map(|f| f.host.name.clone());
        stream.record.route = found.map(|f| f.route.name.clone());
        request.route = found.map(|found| Routed {
            host: found.host.clone(),
            route: found.route.clone(),
            forward: None,
            mutations: found.route.headers.clone(),
            cluster: None,
            cluster_name: None,
            subset: None,
        });
        let tls_needed = found.is_some_and(|f| f.host.require_tls) && !request.secure;
        if tls_needed {
            let location = format!("https://{}{}", request.head.authority(), request.head.path());
            return self.reply_with(id, 301, b"", Flags::default(), "route_tls_redirect", &[("location", &location)]);
        }
        self.run_filters(id, News::Head);
    }

    /// A resource arrived, or a name was resolved, or neither will be.
    pub(crate) fn look_again(&mut self, id: StreamId) {
        let newest = self.cx.config.clone();
        let Some(stream) = self.streams.get_mut(id) else { return };
        let request = match &mut stream.traffic {
            Traffic::Tcp(_) => return self.tcp_connect(id),
            Traffic::Http(request) => request,
        };
        match request.step {
            // What waited for a resource takes the newest configuration and routes anew.
            Step::Waiting(_) => {
                stream.config = newest;
                request.step = Step::Waiting(None);
                match &request.hcm.routes {
                    HttpRoutes::Named(name) if !stream.config.routes.contains_key(name) => self.wait_timeout(id),
                    _ => self.find(id),
                }
            }
            Step::Picking(_) => {
                stream.due.wait = None;
                self.attempt(id);
            }
            Step::Filtering | Step::Backoff | Step::Sent | Step::Responding | Step::Tunnel | Step::Local => {}
        }
    }

    /// What was waited for did not come.
    pub(crate) fn wait_timeout(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.due.wait = None;
        if let Some(wait) = stream.waits_for() {
            self.questions.leave(wait, Waiter::Stream(id));
        }
        let Some(request) = stream.traffic.request() else { return };
        match request.step {
            Step::Picking(_) if stream.record.finds_names() => self.unresolved(id),
            Step::Picking(_) => self.reply(id, 503, "no healthy upstream", Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream"),
            // There is one, but nobody knows yet where it leads: whatever else would take the request may be the wrong one.
            _ if request.sought.is_some() => self.reply(id, 503, "", Flags::NO_ROUTE, "virtual_host_not_supplied"),
            _ => self.reply(id, 404, "", Flags::NO_ROUTE, "route_configuration_not_found"),
        }
    }

    /// Why a request would be refused by these policies, if it would.
    pub(crate) fn refused_now(&self, id: StreamId, hcm: &Hcm) -> Option<String> {
        let stream = self.streams.get(id)?;
        let request = stream.traffic.request()?;
        let conn = self.conns.get(stream.client.conn()?)?;
        let facts = PolicyFacts {
            remote: request.remote,
            request: Some(request.came()),
            metadata: Some(&request.facts.metadata),
            ..conn.down()?.policy_facts(&conn.addrs)
        };
        let overrides = request.route.as_ref().map_or(&[][..], |routed| &routed.route.filters);
        policies(hcm, overrides).find_map(|rules| match mizzen_ir::authorize(rules, &facts, &mut Trace::off()) {
            Verdict::Denied(denied) => Some(denial(denied.as_deref())),
            _ => None,
        })
    }

    /// What a client's codec answered to a request that it could not read is logged too.
    pub(crate) fn note_refused(&mut self, id: ConnId, error: ConnError) {
        let Some(conn) = self.conns.get(id).filter(|conn| error.status > 0 && conn.http().is_some_and(|http| http.streams.is_empty()))
        else {
            return;
        };
        let Some(hcm) = conn.down().and_then(|down| down.hcm.clone()) else { return };
        let mut record = Record {
            wall: self.cx.now.wall,
            begun: self.cx.now.mono,
            status: error.status,
            details: Some(super::respond::codec_error(error.what).into()),
            ..Record::default()
        };
        record.flags.set(Flags::DOWNSTREAM_PROTOCOL_ERROR);
        self.log_connection(id, &hcm.access_log, &record);
    }
}

/// The codec's limits towards clients.
fn server_limits(hcm: &Hcm) -> Limits {
    let default = Limits::default();
    let or = |n: u32, default: usize| if n == 0 { default } else { n as usize };
    Limits {
        header_bytes: if hcm.max_headers_kb == 0 { default.header_bytes } else { hcm.max_headers_kb as usize * 1024 },
        header_count: or(hcm.max_headers, default.header_count),
        accept_http_10: hcm.accept_http_10,
        // Envoy's default would let one client open 2^31 streams: bounded here, as its guide for edges recommends.
        concurrent_streams: hcm.h2.max_streams.min(1024),
        stream_window: hcm.h2.stream_window.clamp(65_535, 1 << 20),
        connection_window: hcm.h2.connection_window.clamp(65_535, 4 << 20),
        extended_connect: hcm.h2.allow_connect,
        ..default
    }
}
