//! Calls of the data path's own: streams whose client is no connection.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mizzen_http::{Head, Reason};
use mizzen_ir::config::{Forward, Hcm, Route, RouteMatch, Target, VirtualHost};
use mizzen_types::Name;

use super::Worker;
use crate::{
    Action, Call, CallAnswer, Eof,
    call::{Caller, Origin},
    event::{Event, Lost, TimerKey},
    flags::Flags,
    id::StreamId,
    record::Record,
    stream::{Client, Due, Half, Progress, Request, Routed, Step, Stream, Traffic},
};

/// What calls have in place of a listener's connection manager and a route configuration's route.
pub(crate) struct Own {
    hcm: Arc<Hcm>,
    host: Arc<VirtualHost>,
}

impl Own {
    pub(crate) fn new() -> Self {
        let host = VirtualHost {
            name: Name::default(),
            domains: Arc::from([]),
            routes: Arc::from([]),
            require_tls: false,
            attempt_count: false,
            attempt_count_in_response: false,
            used: Default::default(),
        };
        Own { hcm: Arc::new(Hcm::internal()), host: Arc::new(host) }
    }

    /// The way to a cluster, as a route would have it.
    fn routed(&self, cluster: &Name, timeout: Option<Duration>) -> Routed {
        let forward =
            Arc::new(Forward::to(Target { cluster: cluster.clone(), headers: Arc::default(), host: None, subset: None }, timeout));
        let route = Route {
            name: Name::default(),
            origin: None,
            matching: RouteMatch::any(),
            action: mizzen_ir::config::Action::Forward(forward.clone()),
            headers: Arc::default(),
            filters: Arc::from([]),
        };
        Routed {
            host: self.host.clone(),
            route: Arc::new(route),
            forward: Some(forward),
            mutations: Arc::default(),
            cluster: None,
            cluster_name: Some(cluster.clone()),
            subset: None,
        }
    }
}

/// The address that a call was meant for, where a cluster asks: there is none.
pub(crate) const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Worker {
    /// Opens a stream for a call; it begins when the inbox comes to it.
    pub(crate) fn open_call(&mut self, call: Call, caller: Caller) -> StreamId {
        let Call { cluster, head, body, timeout, most } = call;
        let now = self.cx.now;
        let tunnel = matches!(caller, Caller::Tunnel(_));
        let request = Request {
            step: Step::Picking(None),
            route: Some(self.own.routed(&cluster, timeout)),
            // What a dead connection has not taken goes on another one.
            replay: Some(Vec::new()),
            ..Request::new(self.own.hcm.clone(), head, false, NOWHERE.ip())
        };
        let mut req = Half { end: !tunnel, bytes: body.len() as u64, ..Half::default() };
        req.buf.extend(&body);
        let id = self.streams.insert(Stream {
            config: self.cx.config.clone(),
            client: Client::Call(Box::new(Origin { caller, most, armed: None })),
            traffic: Traffic::Http(Box::new(request)),
            up: None,
            req,
            resp: Half::default(),
            due: Due { timeout: timeout.map(|t| now.mono + t), moved: now.mono, ..Due::default() },
            record: Record { wall: now.wall, begun: now.mono, ..Record::default() },
        });
        self.cx.inbox.push_back(Event::Call(id));
        id
    }

    /// Finds the cluster of a call and goes on as for any request.
    pub(crate) fn start_call(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if let Some(check) = stream.client.check() {
            return self.start_check_call(id, check);
        }
        let Some(request) = stream.traffic.request_mut() else { return };
        let Some(routed) = &mut request.route else { return };
        let cluster = routed.cluster_name.as_ref().and_then(|name| self.cx.config.clusters.get(name)).cloned();
        let Some(cluster) = cluster else { return self.reply(id, 503, "", Flags::NO_CLUSTER, "cluster_not_found") };
        stream.record.cluster = Some(cluster.clone());
        routed.cluster = Some(cluster);
        self.arm_call(id);
        self.attempt(id);
    }

    /// The final response's head.
    pub(crate) fn call_answered(&mut self, id: StreamId, head: Head) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        request.replay = None;
        if stream.client.is_tunnel() {
            return self.tunnel_answered(id, &head);
        }
        request.step = Step::Responding;
        request.response = head;
        stream.resp.sent = Progress::Head;
        stream.due.per_try = None;
        self.call_progress(id);
    }

    /// Some of a response has come: whether that is all, or too much.
    pub(crate) fn call_progress(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(origin) = stream.client.call() else { return };
        if stream.client.is_tunnel() {
            return self.tunnel_progress(id);
        }
        if stream.client.check().is_some() {
            // The rest of it is not looked at.
            let most = origin.most;
            stream.resp.buf.truncate(most);
        } else if stream.resp.buf.len() > origin.most {
            return self.call_over(id, CallAnswer::Failed("response_too_large".to_owned()));
        }
        let Some(request) = stream.traffic.request_mut() else { return };
        if !stream.resp.open() || !stream.resp.end {
            return;
        }
        let head = std::mem::take(&mut request.response);
        let (body, trailers) = (stream.resp.buf.as_slice().to_vec(), stream.resp.trailers.take());
        stream.resp.buf.clear();
        self.call_over(id, CallAnswer::Answered { head, body, trailers });
    }

    /// The end of a call, with what is told to who called.
    pub(crate) fn call_over(&mut self, id: StreamId, answer: CallAnswer) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(origin) = stream.client.call() else { return };
        let caller = origin.caller;
        let at = stream.up.as_ref().map(|up| up.at);
        let whole = stream.req.done() && stream.resp.end;
        self.finish(id);
        self.leave_upstream(id, at, if whole { None } else { Some(Reason::CANCEL) });
        match caller {
            Caller::Filter(waiter) => self.cx.inbox.push_back(Event::Called(waiter, answer)),
            Caller::Control(number) => self.cx.actions.push(Action::Answer(number, Box::new(answer))),
            Caller::Tunnel(stream) => {
                let why = match answer {
                    CallAnswer::Failed(why) => why,
                    CallAnswer::Answered { head, .. } => format!("the proxy answered {}", head.status()),
                };
                self.cx.inbox.push_back(Event::UpLost(stream, Lost::Connect(why)));
            }
            Caller::Gate(conn) => self.cx.inbox.push_back(Event::Passed(conn, answer)),
            Caller::Check(check) => self.cx.inbox.push_back(Event::Checked(check, id, answer)),
            Caller::Conn(conn) => self.cx.inbox.push_back(Event::Ended(conn, Eof::Reset)),
            Caller::Gone => {}
        }
    }

    /// Makes sure that a call's timer fires at its earliest deadline.
    pub(crate) fn arm_call(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(at) = stream.due.next() else { return };
        let Some(origin) = stream.client.call_mut() else { return };
        if origin.armed.is_none_or(|armed| at < armed) {
            origin.armed = Some(at);
            self.cx.timers.arm(at, TimerKey::Call(id));
        }
    }

    /// A call's timer fires.
    pub(crate) fn call_due(&mut self, id: StreamId, at: Duration) {
        let Some(origin) = self.streams.get_mut(id).and_then(|s| s.client.call_mut()) else { return };
        // Entries that were overtaken by an earlier one fire for nothing.
        if origin.armed == Some(at) {
            origin.armed = None;
            self.stream_due(id);
            self.arm_call(id);
        }
    }
}
