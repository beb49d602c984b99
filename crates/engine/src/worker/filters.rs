//! A request's way through its filters, with what they wait for.

use mizzen_http::Head;
use mizzen_ir::{apply_headers, config::HeaderSource};

use super::Worker;
use crate::{
    call::{CallAnswer, Caller},
    event::Event,
    facts::Change,
    filter::{self, Cx, Flow, News, Wait},
    id::StreamId,
    kept::State,
    stream::{Pause, Step},
};

impl Worker {
    /// Runs the filters over the request from the one whose turn it is, to which `news` are; then the router.
    pub(crate) fn run_filters(&mut self, id: StreamId, news: News) {
        let mut news = Some(news);
        loop {
            let Some(stream) = self.streams.get_mut(id) else { return };
            let Some(request) = stream.traffic.request_mut() else { return };
            let Some(filter) = request.hcm.filters.get(request.at) else { break };
            let route = request.route.as_ref().and_then(|r| filter.overridden(&r.route.filters));
            if !filter::is_on(filter, route) {
                request.at += 1;
                continue;
            }
            let Some(conn) = stream.client.conn().and_then(|conn| self.conns.get(conn)) else { return };
            let mut none = State::None;
            let state = if filter::keeps_state(filter) {
                request.filters.resize_with(request.filters.len().max(request.at + 1), State::default);
                request.filters.get_mut(request.at).unwrap_or(&mut none)
            } else {
                &mut none
            };
            let mut reroute = false;
            let mut cx = Cx {
                now: self.cx.now,
                rng: &mut self.cx.rng,
                conn,
                head: &mut request.head,
                body: stream.req.buf.as_slice(),
                body_ended: stream.req.end,
                remote: request.remote,
                facts: &mut request.facts,
                record: &mut stream.record,
                filters: &mut self.filters,
                shared: &self.cx.options.shared,
                route,
                reroute: &mut reroute,
            };
            match filter::request(filter, state, news.take().unwrap_or(News::Head), &mut cx) {
                Flow::Go => request.at += 1,
                Flow::Reply(reply) => return self.respond(id, *reply),
                Flow::Wait(wait) => return self.filter_waits(id, wait),
            }
            if reroute {
                return self.cx.inbox.push_back(Event::Reroute(id));
            }
        }
        self.filters_done(id);
    }

    /// All filters have let the request go on.
    fn filters_done(&mut self, id: StreamId) {
        if let Some(request) = self.streams.request_mut(id) {
            request.step = Step::Picking(None);
        }
        self.route(id);
    }

    fn filter_waits(&mut self, id: StreamId, wait: Wait) {
        let pause = match wait {
            Wait::Until(at) => {
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.due.filter = Some(at);
                }
                Pause::Time
            }
            Wait::Call(call) => Pause::Call(self.open_call(*call, Caller::Filter(id))),
            Wait::Body(bytes) => Pause::Body(bytes),
        };
        let Some(stream) = self.streams.get_mut(id) else { return };
        let down = stream.client.conn();
        let Some(request) = stream.traffic.request_mut() else { return };
        request.step = Step::Filtering(pause);
        match pause {
            Pause::Time => self.arm_stream(id),
            Pause::Call(_) => {}
            Pause::Body(_) => {
                // A client that waits to be asked for the body is asked here: the server cannot be asked yet.
                if request.head.remove("expect") {
                    self.interim(id, &Head::response(100));
                }
                if let Some(down) = down.filter(|down| self.conns.get(*down).is_some_and(|c| c.held && !c.is_h2())) {
                    self.conns.hold(&mut self.cx, down, false);
                }
            }
        }
    }

    /// More of the request's body has come: whether a filter has waited for it, and is to go on.
    pub(crate) fn filter_has_body(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get(id) else { return false };
        let wants = stream.traffic.request().map_or(0, |request| request.step.wants());
        let there = wants > 0 && (stream.req.end || stream.req.buf.len() >= wants);
        if there {
            self.cx.inbox.push_back(Event::Body(id));
        }
        there
    }

    /// What a filter waited for of the body is there.
    pub(crate) fn body_is_there(&mut self, id: StreamId) {
        let waits = self.streams.request_mut(id).is_some_and(|request| request.step.wants() > 0);
        if waits {
            self.run_filters(id, News::Body);
        }
    }

    /// The call that a filter waited for is over.
    pub(crate) fn called(&mut self, id: StreamId, answer: CallAnswer) {
        let waits = self.streams.request_mut(id).is_some_and(|request| matches!(request.step, Step::Filtering(Pause::Call(_))));
        if waits {
            self.run_filters(id, News::Answer(Box::new(answer)));
        }
    }

    /// What filters want of a response that is about to be sent on, the server's or our own.
    pub(crate) fn answer_filters(&self, id: StreamId, head: &mut Head) {
        let Some(request) = self.streams.get(id).and_then(|s| s.traffic.request()) else { return };
        for change in &request.facts.response {
            if let Change::Ops(ops) = change {
                apply_headers(ops, head, HeaderSource::Response, &self.view(id));
            }
        }
        filter::answer(&request.hcm, &request.facts, &self.filters, head);
    }
}
