//! Active checks: which hosts are checked, and how a check is made. See `checks` for what becomes of them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::{
    apply_headers,
    config::{CheckKind, Cluster, HeaderOps, HeaderSource, HttpProtocol, Transport},
};
use mizzen_types::Name;

use super::Worker;
use crate::{
    Call, CallAnswer, ConnId,
    call::Caller,
    checks::{self, Checked, Checks, Outcome, Running, Session, Tracker, answer},
    clusters::{Host, Owner, UpSpec, Wish},
    conn::{Closing, Proto},
    event::TimerKey,
    id::{CheckId, StreamId},
    stream::Attempt,
};

/// How much longer a connection may take than a check: the check's own time is to come first.
const LONGER: Duration = Duration::from_secs(1);

impl Checks {
    /// Whether a host's timer means what it says.
    pub(crate) fn is_due(&self, id: CheckId, at: Duration) -> bool {
        self.sessions.get(id).is_some_and(|session| session.due == Some(at))
    }
}

impl Worker {
    /// Looks which hosts are to be checked of the clusters that a new configuration has changed.
    pub(crate) fn checks_follow(&mut self, changed: &BTreeSet<Name>) {
        for name in changed {
            let cluster = self.cx.config.clusters.get(name).filter(|cluster| cluster.health_check.is_some()).cloned();
            let Some(checks) = &mut self.checks else { return };
            match cluster {
                Some(cluster) => {
                    checks.names.insert(name.clone());
                    if !self.cx.draining {
                        self.check_cluster(&cluster);
                    }
                }
                None if checks.names.remove(name) => self.end_checks(name),
                None => {}
            }
        }
    }

    /// Looks which hosts are to be checked: names are resolved.
    pub(crate) fn check_clusters(&mut self) {
        if self.cx.draining {
            return;
        }
        let names = self.checks.as_ref().map(|checks| checks.names.clone()).unwrap_or_default();
        for cluster in names.iter().filter_map(|name| self.cx.config.clusters.get(name).cloned()).collect::<Vec<_>>() {
            self.check_cluster(&cluster);
        }
    }

    /// No host of this cluster is checked any more.
    fn end_checks(&mut self, cluster: &Name) {
        let Some(checked) = self.checks.as_mut().and_then(|checks| checks.clusters.remove(cluster)) else { return };
        for id in checked.sessions.into_values() {
            self.end_check(id);
        }
    }

    /// Looks which hosts of a cluster are to be checked.
    fn check_cluster(&mut self, cluster: &Arc<Cluster>) {
        let Some(hosts) = self.clusters.checked_hosts(&mut self.cx, &mut self.questions, cluster) else { return };
        let Some(check) = &cluster.health_check else { return };
        let now = self.cx.now.mono;
        let Some(checks) = &mut self.checks else { return };
        if checks.clusters.get(&cluster.name).is_some_and(|old| Arc::ptr_eq(&old.hosts, &hosts) && Arc::ptr_eq(&old.cluster, cluster)) {
            return;
        }
        let mut old = checks.clusters.remove(&cluster.name).map(|old| old.sessions).unwrap_or_default();
        let mut checked = Checked { cluster: cluster.clone(), hosts: hosts.clone(), sessions: Default::default() };
        let mut changed = Vec::new();
        for host in hosts.iter().flatten() {
            let Some(probe) = checks::probe(host, check) else { continue };
            let address = host.address().clone();
            if checked.sessions.contains_key(&address) {
                continue;
            }
            if let Some(id) = old.remove(&address) {
                checked.sessions.insert(address, id);
                changed.push((id, probe));
                continue;
            }
            let state = self.clusters.state(&self.cx, &cluster.name);
            let due = now + checks::first(&check.pace, &mut self.cx.rng);
            let session = Session {
                cluster: cluster.clone(),
                check: check.clone(),
                state,
                host: host.state.clone(),
                probe,
                tracker: Tracker::new(),
                running: Running::No,
                kept: None,
                pool: None,
                due: Some(due),
            };
            let id = checks.sessions.insert(session);
            self.cx.timers.arm(due, TimerKey::Check(id));
            checked.sessions.insert(address, id);
        }
        checks.clusters.insert(cluster.name.clone(), checked);
        for (id, probe) in changed {
            self.change_check(id, cluster, probe);
        }
        for id in old.into_values() {
            self.end_check(id);
        }
    }

    /// A host goes on being checked, maybe in another way: what was found so far holds, connections are made anew.
    fn change_check(&mut self, id: CheckId, cluster: &Arc<Cluster>, probe: Host) {
        let Some(check) = &cluster.health_check else { return };
        let Some(session) = self.session(id) else { return };
        if Arc::ptr_eq(&session.cluster, cluster) && session.probe.target == probe.target && session.probe.endpoint == probe.endpoint {
            return;
        }
        session.cluster = cluster.clone();
        session.check = check.clone();
        session.probe = probe;
        if session.running == Running::No {
            self.drop_check_connection(id);
        }
    }

    /// A host is not checked any more, and nothing that checks found is held against it.
    fn end_check(&mut self, id: CheckId) {
        self.stop_check(id);
        self.drop_check_connection(id);
        if let Some(session) = self.checks.as_mut().and_then(|checks| checks.sessions.remove(id)) {
            session.host.health.set(checks::BY_CHECKS, false);
        }
    }

    fn session(&mut self, id: CheckId) -> Option<&mut Session> {
        self.checks.as_mut()?.sessions.get_mut(id)
    }

    /// A host's timer fires: the next check, or the end of the present one.
    pub(crate) fn check_due(&mut self, id: CheckId, at: Duration) {
        let draining = self.cx.draining;
        let Some(session) = self.session(id).filter(|session| session.due == Some(at)) else { return };
        session.due = None;
        if session.running != Running::No {
            self.stop_check(id);
            self.drop_check_connection(id);
            return self.check_over(id, Outcome::TooLong);
        }
        if draining {
            return;
        }
        let cluster = session.cluster.clone();
        // Names may be due to be resolved again.
        self.check_cluster(&cluster);
        self.start_check(id);
    }

    /// Gives up what a check is doing.
    fn stop_check(&mut self, id: CheckId) {
        let Some(session) = self.session(id) else { return };
        match std::mem::replace(&mut session.running, Running::No) {
            Running::No => {}
            Running::Call(stream) => self.give_up(stream),
            Running::Dial(dial) => self.clusters.cancel_dial(&mut self.cx, dial),
            Running::Conn(conn) => self.close_check_conn(conn),
        }
    }

    /// What is kept for the next check is closed.
    fn drop_check_connection(&mut self, id: CheckId) {
        let Some(session) = self.session(id) else { return };
        let (kept, pool) = (session.kept.take(), session.pool.take());
        if let Some(conn) = kept {
            self.close_check_conn(conn);
        }
        if let Some(pool) = pool {
            self.retire_pool(pool);
        }
    }

    fn close_check_conn(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(conn) {
            conn.proto = Proto::Dead;
        }
        self.close(conn, Closing::Close);
    }

    fn start_check(&mut self, id: CheckId) {
        let now = self.cx.now.mono;
        let Some(session) = self.session(id) else { return };
        let check = session.check.clone();
        let due = now + check.timeout;
        session.due = Some(due);
        let tls = match &session.probe.endpoint {
            Some(endpoint) => session.cluster.transport.of(endpoint),
            None => &session.cluster.transport.default,
        };
        let scheme = if matches!(tls, Transport::Tls(_)) { "https" } else { "http" };
        let cluster = session.cluster.name.clone();
        match &check.kind {
            CheckKind::Tcp(_) => self.start_check_connection(id),
            CheckKind::Http(http) => {
                let mut head = Head::request(http.method, scheme, session.authority(&http.host), &http.path);
                if !http.send.is_empty() {
                    head.set("content-length", http.send.len().to_string());
                }
                let most = usize::try_from(http.response_buffer).ok().filter(|most| *most > 0).unwrap_or(answer::MOST).min(answer::MOST);
                let call = Call { cluster, head, body: http.send.to_vec(), timeout: None, most };
                self.open_check_call(id, call, &http.headers);
            }
            CheckKind::Grpc(grpc) => {
                let mut head = Head::request("POST", scheme, session.authority(&grpc.authority), "/grpc.health.v1.Health/Check");
                head.set("content-type", "application/grpc");
                head.set("te", "trailers");
                head.set("grpc-timeout", format!("{}m", check.timeout.as_millis().clamp(1, 99_999_999)));
                let call = Call { cluster, head, body: answer::question(&grpc.service), timeout: None, most: answer::MOST };
                self.open_check_call(id, call, &grpc.headers);
            }
        }
        self.cx.timers.arm(due, TimerKey::Check(id));
    }

    fn open_check_call(&mut self, id: CheckId, mut call: Call, headers: &HeaderOps) {
        call.head.set("user-agent", "Envoy/HC");
        let stream = self.open_call(call, Caller::Check(id));
        if let Some(request) = self.streams.request_mut(stream) {
            let mut head = std::mem::take(&mut request.head);
            apply_headers(headers, &mut head, HeaderSource::Request, &self.view(stream));
            if let Some(request) = self.streams.request_mut(stream) {
                request.head = head;
            }
        }
        if let Some(session) = self.session(id) {
            session.running = Running::Call(stream);
        }
    }

    /// How a check connects. The second is why it cannot.
    fn check_spec(&mut self, id: CheckId, protocol: HttpProtocol, http: bool) -> Option<Result<Arc<UpSpec>, String>> {
        let session = self.checks.as_ref()?.sessions.get(id)?;
        let authority = match &session.check.kind {
            CheckKind::Http(check) => session.authority(&check.host),
            CheckKind::Grpc(check) => session.authority(&check.authority),
            CheckKind::Tcp(_) => "",
        };
        let wish = Wish { alpn: session.check.alpn.as_deref(), authority, http, client: None };
        let made = UpSpec::new(&self.cx, &self.cx.config, &session.cluster, &session.probe, protocol, wish);
        Some(made.map(|mut spec| {
            spec.key.check = Some(id);
            spec.key.connect_timeout = session.check.timeout + LONGER;
            Arc::new(spec)
        }))
    }

    /// A check's request goes to its host, and to no other.
    pub(crate) fn start_check_call(&mut self, stream_id: StreamId, id: CheckId) {
        let now = self.cx.now.mono;
        let Some(session) = self.session(id).filter(|session| session.running == Running::Call(stream_id)) else {
            return self.give_up(stream_id);
        };
        let (cluster, state) = (session.cluster.clone(), session.state.clone());
        let is_h2 = match &session.check.kind {
            CheckKind::Http(check) => check.is_h2,
            CheckKind::Grpc(_) => true,
            CheckKind::Tcp(_) => false,
        };
        let protocol = if is_h2 { HttpProtocol::Http2 } else { HttpProtocol::Http1 };
        let spec = match self.check_spec(id, protocol, true) {
            Some(Ok(spec)) => spec,
            Some(Err(why)) => return self.call_over(stream_id, CallAnswer::Failed(why)),
            None => return self.give_up(stream_id),
        };
        let pool = self.clusters.pool_for(&spec);
        if let Some(session) = self.session(id) {
            session.pool = Some(pool);
        }
        let Some(stream) = self.streams.get_mut(stream_id) else { return };
        stream.record.upstream = Some(spec.address().clone());
        stream.record.cluster = Some(cluster.clone());
        if let Some(request) = stream.traffic.request_mut() {
            request.attempts = 1;
        }
        stream.up = Some(Attempt::uncounted(cluster, spec, state, now));
        self.checkout(stream_id, pool);
    }

    /// A check's request was answered, or will not be.
    pub(crate) fn check_answered(&mut self, id: CheckId, stream: StreamId, answered: CallAnswer) {
        let Some(session) = self.session(id).filter(|session| session.running == Running::Call(stream)) else { return };
        session.running = Running::No;
        let keeps = session.check.reuse_connection;
        let outcome = match (answered, &session.check.kind) {
            (CallAnswer::Answered { head, body, .. }, CheckKind::Http(check)) => {
                let (outcome, leave_out) = answer::http(check, &head, &body);
                if leave_out {
                    session.host.health.set(crate::HealthFlags::LEFT_OUT, true);
                }
                outcome
            }
            (CallAnswer::Answered { head, body, trailers }, CheckKind::Grpc(_)) => answer::grpc(&head, &body, trailers.as_ref()),
            (CallAnswer::Answered { .. } | CallAnswer::Failed(_), _) => Outcome::Lost,
        };
        if !keeps {
            self.drop_check_connection(id);
        }
        self.check_over(id, outcome);
    }

    /// A check of TCP: on the connection that is kept, or on a new one.
    fn start_check_connection(&mut self, id: CheckId) {
        if let Some(conn) = self.session(id).and_then(|session| session.kept) {
            return self.ask_on(id, conn);
        }
        match self.check_spec(id, HttpProtocol::Http1, false) {
            Some(Ok(_)) if self.clusters.dials_full(&self.cx) => self.check_over(id, Outcome::Lost),
            Some(Ok(spec)) => {
                let dial = self.clusters.dial(&mut self.cx, spec, Owner::Check(id), None);
                if let Some(session) = self.session(id) {
                    session.running = Running::Dial(dial);
                }
            }
            Some(Err(_)) => self.check_over(id, Outcome::Lost),
            None => {}
        }
    }

    /// A check's connection shakes hands.
    pub(crate) fn check_handshake(&mut self, id: CheckId, conn: ConnId) {
        match self.session(id) {
            Some(session) => session.running = Running::Conn(conn),
            None => self.close_check_conn(conn),
        }
    }

    /// A check's connection is there.
    pub(crate) fn check_connected(&mut self, id: CheckId, conn: ConnId) {
        let Some(session) = self.session(id).filter(|session| session.running == Running::Conn(conn)) else {
            return self.close_check_conn(conn);
        };
        if matches!(&session.check.kind, CheckKind::Tcp(check) if !check.receive.is_empty()) {
            session.kept = Some(conn);
            if let Some(conn) = self.conns.get_mut(conn) {
                conn.proto = Proto::Check(id);
            }
            return self.ask_on(id, conn);
        }
        session.running = Running::No;
        self.close_check_conn(conn);
        self.check_over(id, Outcome::Well { degraded: false });
    }

    /// Sends a check's bytes.
    fn ask_on(&mut self, id: CheckId, conn_id: ConnId) {
        let Some(session) = self.session(id) else { return };
        session.running = Running::Conn(conn_id);
        let CheckKind::Tcp(check) = &session.check.kind else { return };
        let send = check.send.clone();
        if let Some(conn) = self.conns.get_mut(conn_id) {
            conn.tx.extend_from_slice(&send);
        }
        self.conns.mark(conn_id);
        self.conns.queue_parse(&mut self.cx, conn_id);
    }

    /// Bytes for a check have come, or their end.
    pub(crate) fn check_input(&mut self, id: CheckId, conn_id: ConnId) {
        let Some(conn) = self.conns.get_mut(conn_id) else { return };
        let (mut input, ended) = (std::mem::take(&mut conn.input), conn.eof);
        let Some(session) = self.session(id) else { return self.close_check_conn(conn_id) };
        let CheckKind::Tcp(check) = &session.check.kind else { return self.close_check_conn(conn_id) };
        let asked = session.running == Running::Conn(conn_id);
        if asked && answer::contains(&check.receive, input.as_slice()) {
            session.running = Running::No;
            if !session.check.reuse_connection || ended {
                self.drop_check_connection(id);
            }
            return self.check_over(id, Outcome::Well { degraded: false });
        }
        if ended {
            self.close_check_conn(conn_id);
            return self.check_lost(id, conn_id);
        }
        if !asked {
            input.clear();
        }
        if let Some(conn) = self.conns.get_mut(conn_id) {
            conn.input = input;
        }
    }

    /// A check's connection is gone. That counts between two checks as well.
    pub(crate) fn check_lost(&mut self, id: CheckId, conn: ConnId) {
        let Some(session) = self.session(id) else { return };
        if session.kept == Some(conn) || session.running == Running::Conn(conn) {
            (session.kept, session.running) = (None, Running::No);
            self.check_over(id, Outcome::Lost);
        }
    }

    /// A check's connection was not made.
    pub(crate) fn check_unreached(&mut self, id: CheckId) {
        let Some(session) = self.session(id) else { return };
        session.running = Running::No;
        self.check_over(id, Outcome::Lost);
    }

    /// A check has ended: what that means for the host, and when the next one is.
    fn check_over(&mut self, id: CheckId, outcome: Outcome) {
        let now = self.cx.now.mono;
        let Some(session) = self.checks.as_mut().and_then(|checks| checks.sessions.get_mut(id)) else { return };
        let verdict = session.tracker.take(&session.host, &session.check, outcome);
        let failed = session.host.health.get().any(crate::HealthFlags::FAILED_ACTIVE);
        if let Some(outlier) = session.cluster.outlier.as_ref().filter(|_| verdict.well && !failed) {
            session.state.checked_well(&session.host, outlier, now);
        }
        let due = now + checks::wait(&session.check.pace, verdict, session.state.has_traffic(), &mut self.cx.rng);
        session.due = Some(due);
        self.cx.timers.arm(due, TimerKey::Check(id));
    }
}
