//! The router: where a request goes, and its tries.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mizzen_ir::{
    Trace, apply_headers,
    config::{Action, Cluster, Forward, HeaderSource, HostRewrite, HttpProtocol, PathRewrite},
    pick_cluster, redirect_location, request_hash, request_timeout, rewrite_path,
};

use super::{Worker, calls::NOWHERE, retry::Ended};
use crate::{
    HealthFlags,
    clusters::{Again, Ask, DNS_WAIT, Host, NoHost, UpSpec, Wish},
    event::{Dir, Event, Lost},
    facts::Change,
    filter,
    flags::Flags,
    id::{PoolId, StreamId},
    lb::Limit,
    outlier::Seen,
    questions::Waiter,
    same::Same,
    stream::{Attempt, Progress, Step},
};

impl Worker {
    /// Acts upon the route that was found.
    pub(crate) fn route(&mut self, id: StreamId) {
        let random = self.cx.rng.next();
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        let Some(routed) = &mut request.route else {
            return self.reply(id, 404, "", Flags::NO_ROUTE, "route_not_found");
        };
        let route = routed.route.clone();
        let forward = match &route.action {
            Action::Forward(forward) => forward.clone(),
            Action::Direct(direct) => {
                return self.reply_with(id, direct.status, &direct.body, Flags::default(), "direct_response", &[]);
            }
            Action::Redirect(redirect) => {
                let location = redirect_location(redirect, &route.matching, &request.head, request.secure);
                return self.reply_with(id, redirect.status, b"", Flags::default(), "direct_response", &[("location", &location)]);
            }
        };
        if !self.settle_upgrade(id, &forward) {
            return self.reply(id, 403, "", Flags::default(), "upgrade_failed");
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        let Some(routed) = &mut request.route else { return };
        let Some(picked) = pick_cluster(&forward, &request.head, random, &mut Trace::off()) else {
            return self.reply(id, forward.not_found_status, "", Flags::NO_CLUSTER, "cluster_not_found");
        };
        routed.mutations = picked.headers.clone();
        routed.subset = picked.subset.cloned();
        routed.cluster_name = Some(picked.cluster.clone());
        let host = picked.host.cloned();
        routed.forward = Some(forward.clone());
        let cluster = stream.config.clusters.get(&picked.cluster).or_else(|| self.cx.config.clusters.get(&picked.cluster)).cloned();
        let Some(cluster) = cluster else {
            return self.reply(id, forward.not_found_status, "", Flags::NO_CLUSTER, "cluster_not_found");
        };
        routed.cluster = Some(cluster.clone());
        stream.record.cluster = Some(cluster.clone());
        let attempt_count = routed.host.attempt_count;
        // A retry needs what was sent; an upgrade cannot be sent again.
        if forward.retry.is_some() && !request.is_upgrade {
            request.replay = Some(Vec::new());
        }
        stream.due.whole = request_timeout(&forward, &request.head).filter(|_| !request.is_upgrade);
        match forward.idle_timeout {
            Some(Duration::ZERO) => stream.due.idle = None,
            Some(idle) => stream.due.idle = Some(idle),
            None => {}
        }
        match forward.max_stream_duration.or(cluster.http.max_stream_duration) {
            Some(Duration::ZERO) => stream.due.max = None,
            Some(max) => stream.due.max = Some(now + max),
            None => {}
        }
        let end = stream.req.end;
        let rewrites = forward.path_rewrite != PathRewrite::Keep || forward.host_rewrite != HostRewrite::Keep || host.is_some();
        if rewrites || !routed.mutations.request.ops.is_empty() {
            request.came = Some(Box::new(request.head.clone()));
        }
        self.hash_request(id, &forward, &cluster);
        let Some(request) = self.streams.request_mut(id) else { return };
        let hcm = request.hcm.clone();
        filter::upstream(&hcm, &request.facts, &self.filters, &cluster, &mut request.head);
        self.change_request(id, &forward, host.as_deref(), attempt_count);
        if end {
            self.request_came(id);
        }
        self.arm_stream(id);
        self.attempt(id);
    }

    /// By what a balancer that hashes will choose: the request as it came. A client that came without its cookie gets it with the response.
    fn hash_request(&mut self, id: StreamId, forward: &Forward, cluster: &Cluster) {
        let policies = if cluster.lb.hash.is_empty() { &forward.hash } else { &cluster.lb.hash };
        if policies.is_empty() || !cluster.lb.hashes() {
            return;
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        let conn = stream.client.conn().and_then(|conn| self.conns.get(conn));
        let Some(request) = stream.traffic.request_mut() else { return };
        // Our own calls come from nowhere.
        let ends = conn.and_then(|conn| {
            let peer = conn.addrs.peer;
            // A client that another proxy has told of has no port.
            let client = if peer.ip() == request.remote { peer } else { SocketAddr::new(request.remote, 0) };
            Some([client, conn.down()?.destination])
        });
        let made = request_hash(policies, &request.head, ends);
        request.hash = made.hash;
        let cookies = made.cookies.into_iter().map(|cookie| Change::Append("set-cookie".to_owned(), cookie.into_bytes()));
        request.facts.response.extend(cookies);
    }

    /// Settles which of the protocols that a client offers is asked of the server: the first that is configured. A websocket that is not allowed
    /// and an extended CONNECT are refused (`false`); other offers are ignored, and the request is an ordinary one (RFC 9110, section 7.8).
    fn settle_upgrade(&mut self, id: StreamId, forward: &Forward) -> bool {
        let Some(stream) = self.streams.get_mut(id) else { return true };
        let Some((down, sid)) = stream.client.place() else { return true };
        let Some(request) = stream.traffic.request_mut() else { return true };
        let Some(offer) = request.head.protocol().map(str::to_owned) else { return true };
        let allowed = |name: &&str| {
            let own = forward.upgrades.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, on)| *on);
            own.unwrap_or_else(|| request.hcm.upgrades.iter().any(|known| known.eq_ignore_ascii_case(name)))
        };
        if let Some(name) = offer.split(',').find(allowed) {
            return request.head.set_protocol(Some(name));
        }
        let Some((codec, _)) = self.conns.get_mut(down).and_then(|conn| conn.codec()) else { return true };
        if codec.is_h2() || offer.split(',').any(|name| name.eq_ignore_ascii_case("websocket")) {
            return false;
        }
        codec.decline_upgrade(sid);
        request.head.set_protocol(None);
        request.is_upgrade = false;
        stream.req.end = true;
        stream.due.request = None;
        true
    }

    /// What the route does to the request's head.
    fn change_request(&mut self, id: StreamId, forward: &Arc<Forward>, host: Option<&str>, attempt_count: bool) {
        let Some(request) = self.streams.request_mut(id) else { return };
        // What the route's headers say may change the path.
        let rewritten = forward.path_rewrite != PathRewrite::Keep || matches!(forward.host_rewrite, HostRewrite::Path(_));
        let original = if rewritten { request.head.path().to_owned() } else { String::new() };
        let suppress = request.hcm.router.suppress_envoy_headers;
        if let Some(ops) = request.route.as_ref().map(|r| r.mutations.clone()) {
            let mut head = std::mem::take(&mut request.head);
            apply_headers(&ops.request, &mut head, HeaderSource::Request, &self.view(id));
            if let Some(request) = self.streams.request_mut(id) {
                request.head = head;
            }
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        let timeout = stream.due.whole;
        let Some(request) = stream.traffic.request_mut() else { return };
        if let Some(routed) = &request.route
            && let Some(path) = rewrite_path(forward, &routed.route.matching, &original)
        {
            if !suppress {
                request.head.set("x-envoy-original-path", &original);
            }
            request.head.set_path(&path);
        }
        let rewritten = match (&forward.host_rewrite, host) {
            (_, Some(host)) => Some(host.to_owned()),
            (HostRewrite::Literal(host), None) => Some(host.to_string()),
            (HostRewrite::Header(name), None) => request.head.get_str(name).map(str::to_owned),
            (HostRewrite::Path(regex), None) => Some(regex.apply(original.split('?').next().unwrap_or_default())),
            (HostRewrite::Keep | HostRewrite::Endpoint, None) => None,
        };
        if let Some(host) = rewritten.filter(|h| !h.is_empty()) {
            if forward.append_forwarded_host {
                let authority = request.head.authority().to_owned();
                request.head.append("x-forwarded-host", &authority);
            }
            request.head.set_authority(&host);
        }
        if attempt_count {
            request.head.set("x-envoy-attempt-count", "1");
        }
        if let Some(timeout) = timeout.filter(|_| !suppress) {
            request.head.set("x-envoy-expected-rq-timeout-ms", itoa::Buffer::new().format(timeout.as_millis()));
        }
    }

    /// Picks an endpoint and asks its pool for a connection.
    pub(crate) fn attempt(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let config = stream.config.clone();
        let client = stream.client.conn();
        let Some(request) = stream.traffic.request_mut() else { return };
        let Some((forward, cluster)) = request.route.as_ref().and_then(|r| Some((r.forward.clone()?, r.cluster.clone()?))) else { return };
        request.step = Step::Picking(None);
        let (down_h2, destination, from) = match client {
            None => (request.is_grpc, NOWHERE, None),
            Some(conn) => {
                let Some(conn) = self.conns.get(conn) else { return };
                let Some(down) = conn.down() else { return };
                (conn.is_h2(), down.destination, down.client_address(&conn.addrs))
            }
        };
        // The newest form of the cluster, as long as there is one of the name.
        let cluster = self.cx.config.clusters.get(&cluster.name).cloned().unwrap_or(cluster);
        let subset = request.route.as_ref().and_then(|route| route.subset.as_ref());
        let policy = forward.retry.as_ref().map(|retry| &retry.elsewhere).filter(|_| !request.tried.is_empty());
        let again = policy.map(|policy| Again { policy, tried: &mut request.tried, attempts: request.attempts });
        let ask = Ask { destination, again, hash: request.hash, subset, named: Some((request.head.authority(), None)) };
        let host = match self.clusters.pick(&mut self.cx, &mut self.questions, &config, &cluster, ask) {
            Ok(host) => host,
            Err(NoHost::None) => return self.reply(id, 503, "no healthy upstream", Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream"),
            Err(NoHost::Unresolved) => return self.unresolved(id),
            Err(NoHost::Overflow) => return self.reply(id, 503, "DNS cache overflow", Flags::UPSTREAM_OVERFLOW, "dns_cache_overflow"),
            Err(NoHost::Wait(question)) => {
                let wait = self.questions.ask(&mut self.cx, question, Some(Waiter::Stream(id)));
                request.step = Step::Picking(Some(wait));
                stream.due.wait = Some(self.cx.now.mono + DNS_WAIT);
                return self.arm_stream(id);
            }
        };
        let protocol = match cluster.http.protocol {
            HttpProtocol::Downstream if down_h2 => HttpProtocol::Http2,
            HttpProtocol::Downstream => HttpProtocol::Http1,
            other => other,
        };
        let alpn = request.facts.alpn.as_ref().filter(|_| cluster.alpn_override);
        let key = (host.target.clone(), protocol, alpn.cloned().map(Same));
        // Each client has ways of its own.
        if from.is_none()
            && let Some((spec, pool)) = self.clusters.known_spec(&self.cx, &cluster.name, &key)
        {
            return self.start(id, &forward, cluster, &host, spec, pool);
        }
        // Istio's filter chooses ALPN by what is spoken to the server.
        let names = alpn.and_then(|alpn| match protocol {
            HttpProtocol::Http2 => Some(&*alpn.http2),
            HttpProtocol::Http1 => Some(&*alpn.http11),
            HttpProtocol::Alpn | HttpProtocol::Downstream => None,
        });
        let wish = Wish { alpn: names.filter(|names| !names.is_empty()), authority: request.head.authority(), http: true, client: from };
        match UpSpec::new(&self.cx, &config, &cluster, &host, protocol, wish) {
            Ok(spec) => {
                let spec = Arc::new(spec);
                let pool = self.clusters.pool_for(&spec);
                // Where an address or the server name depends on the request, there is no end of specs.
                if host.endpoint.is_some() && !cluster.http.auto_sni && from.is_none() {
                    self.clusters.keep_spec(&self.cx, &cluster.name, key, spec.clone(), pool);
                }
                self.start(id, &forward, cluster, &host, spec, pool);
            }
            Err(error) => {
                stream.record.upstream_failure = Some(error.clone());
                stream.record.upstream = Some(host.address().clone());
                self.cx.inbox.push_back(Event::UpLost(id, Lost::Connect(error)));
            }
        }
    }

    /// The name that a request brings could not be found.
    pub(crate) fn unresolved(&mut self, id: StreamId) {
        self.reply(id, 503, "DNS resolution failure", Flags::DNS_RESOLUTION_FAILED, "dns_resolution_failure");
    }

    fn start(&mut self, id: StreamId, forward: &Arc<Forward>, cluster: Arc<Cluster>, host: &Host, spec: Arc<UpSpec>, pool: PoolId) {
        let now = self.cx.now.mono;
        let breakers = if forward.high_priority { cluster.breakers_high } else { cluster.breakers };
        let state = self.clusters.state(&self.cx, &cluster.name);
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        request.attempts += 1;
        stream.record.attempts = request.attempts;
        stream.record.upstream = Some(spec.address().clone());
        stream.record.endpoint.clone_from(&spec.endpoint);
        stream.due.try_idle = forward.retry.as_ref().and_then(|r| r.per_try_idle_timeout).filter(|t| !t.is_zero());
        stream.due.moved = now;
        stream.due.per_try = per_try(forward).filter(|_| stream.req.end).map(|t| now + t);
        if matches!(forward.host_rewrite, HostRewrite::Endpoint)
            && let Some(name) = host.endpoint.as_ref().map(|e| e.hostname.clone()).filter(|n| !n.is_empty())
        {
            request.head.set_authority(&name);
        }
        if request.attempts > 1 && request.route.as_ref().is_some_and(|r| r.host.attempt_count) {
            request.head.set("x-envoy-attempt-count", request.attempts.to_string());
        }
        let guard = state.acquire(Limit::Requests, breakers.requests);
        let pending = state.acquire(Limit::Pending, breakers.pending);
        let over = guard.is_none() || pending.is_none();
        let active = Some(spec.host.begin());
        stream.up =
            Some(Attempt { active, priority: host.priority, _guard: guard, pending, ..Attempt::uncounted(cluster, spec, state, now) });
        if over {
            return self.cx.inbox.push_back(Event::UpLost(id, Lost::Overflow));
        }
        self.arm_stream(id);
        self.checkout(id, pool);
    }

    /// The stream is on a connection: sends the head and what there is of the body.
    pub(crate) fn send_request(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some((conn, sid)) = stream.upstream() else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        request.step = Step::Sent;
        let end = stream.req.end && stream.req.buf.is_empty() && stream.req.trailers.is_none();
        if let Some((codec, tx)) = self.conns.codec(conn) {
            codec.send_head(sid, &request.head, end, tx);
        }
        stream.req.sent = Progress::head(end);
        self.conns.mark(conn);
        if end {
            self.check_done(id);
        } else {
            self.pump(id, Dir::Up);
        }
    }

    /// All of the request has come: from now on the answer is waited for.
    pub(crate) fn request_came(&mut self, id: StreamId) {
        let now = self.cx.now.mono;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request() else { return };
        if stream.resp.open() {
            return;
        }
        let whole = stream.due.whole.take();
        let one = request.route.as_ref().and_then(|r| r.forward.as_ref()).and_then(|f| per_try(f));
        let one = one.filter(|_| stream.up.is_some() && stream.due.per_try.is_none());
        if whole.is_none() && one.is_none() {
            return;
        }
        stream.due.timeout = whole.map(|t| now + t).or(stream.due.timeout);
        stream.due.per_try = one.map(|t| now + t).or(stream.due.per_try);
        self.arm_stream(id);
    }

    /// The whole response takes too long.
    pub(crate) fn route_timeout(&mut self, id: StreamId) {
        // Once it has answered, the host is not to blame for how long the rest takes.
        if self.streams.get(id).is_some_and(|stream| !stream.answered()) {
            self.host_seen(id, Seen::TooLong);
        }
        self.reply(id, 504, "upstream request timeout", Flags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout");
    }

    /// One try takes too long.
    pub(crate) fn per_try_timeout(&mut self, id: StreamId) {
        self.host_seen(id, Seen::TooLong);
        if self.retry(id, Ended::PerTry) {
            return;
        }
        self.reply(id, 504, "upstream request timeout", Flags::UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_timeout");
    }

    pub(crate) fn max_duration(&mut self, id: StreamId) {
        self.reply(id, 408, "downstream duration timeout", Flags::DURATION_TIMEOUT, "max_duration_timeout");
    }

    /// A stream that stands still.
    pub(crate) fn stream_idle(&mut self, id: StreamId) {
        let request_done = self.streams.get(id).is_some_and(|s| s.req.done());
        let status = if request_done { 504 } else { 408 };
        self.reply(id, status, "stream timeout", Flags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout");
    }

    /// Tells outlier detection what was seen of the host of a try.
    pub(crate) fn host_seen(&mut self, id: StreamId, seen: Seen) {
        let Some(stream) = self.streams.get(id).filter(|stream| stream.client.check().is_none()) else { return };
        let Some(up) = &stream.up else { return };
        if seen == Seen::Connected && up.cluster.outlier.as_ref().is_none_or(|outlier| !outlier.split) {
            return;
        }
        let (cluster, state, host) = (up.cluster.clone(), up.state.clone(), up.spec.host.clone());
        match seen {
            Seen::Answer(status) => host.ended(status < 500),
            Seen::Failed => host.ended(false),
            Seen::TooLong => {
                host.ended(false);
                host.too_long();
            }
            Seen::Connected | Seen::Served => {}
        }
        self.clusters.host_seen(&mut self.cx, &cluster, &state, &host, seen);
    }

    /// The host of a try asks to be left out: where hosts are checked, until a check finds it well.
    pub(crate) fn host_leaves(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id).filter(|stream| stream.client.check().is_none()) else { return };
        let Some(up) = &stream.up else { return };
        let is_off = up.spec.endpoint.as_ref().and_then(|endpoint| endpoint.check.as_ref()).is_some_and(|check| check.is_off);
        if up.cluster.health_check.is_some() && !is_off {
            up.spec.host.health.set(HealthFlags::FAILED_ACTIVE.with(HealthFlags::LEFT_OUT), true);
        }
    }

    /// The host of a try says of itself that it is degraded.
    pub(crate) fn host_degraded(&mut self, id: StreamId) {
        let Some(up) = self.streams.get(id).and_then(|s| s.up.as_ref()) else { return };
        self.clusters.host_degraded(&mut self.cx, &up.cluster, &up.state, &up.spec.host);
    }
}

/// How long one try may take, from the end of the request on.
fn per_try(forward: &Forward) -> Option<Duration> {
    forward.retry.as_ref().and_then(|r| r.per_try_timeout).filter(|t| !t.is_zero())
}
