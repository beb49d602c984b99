//! A request's way through its filters, with what they wait for.

use mizzen_http::Head;
use mizzen_ir::{apply_headers, config::HeaderSource};

use super::Worker;
use crate::{
    call::{CallAnswer, Caller},
    facts::Change,
    filter::{self, Cx, Flow, News, State, Wait},
    log::View,
    stream::{Kind, Request, Step, StreamId},
};

impl Worker {
    /// Runs the filters over the request from the one whose turn it is, to which `news` are; then the router.
    pub(crate) fn run_filters(&mut self, id: StreamId, news: News) {
        let mut news = Some(news);
        loop {
            let Some(stream) = self.streams.get_mut(id) else { return };
            let Kind::Http(request) = &mut stream.kind else { return };
            let request = &mut **request;
            let Some(filter) = request.hcm.filters.get(request.at) else { break };
            let route = request.route.as_ref().and_then(|r| filter.overridden(&r.route.filters));
            if !filter::is_on(filter, route) {
                request.at += 1;
                continue;
            }
            let Some(conn) = self.conns.get(stream.down).and_then(Option::as_deref) else { return };
            let mut none = State::None;
            let state = if filter::keeps_state(filter) {
                request.filters.resize_with(request.filters.len().max(request.at + 1), State::default);
                request.filters.get_mut(request.at).unwrap_or(&mut none)
            } else {
                &mut none
            };
            let mut reroute = false;
            let mut cx = Cx {
                now: self.now,
                rng: &mut self.rng,
                conn,
                head: &mut request.head,
                body: stream.req.buf.as_slice(),
                body_ended: stream.req.end,
                remote: request.remote,
                facts: &mut request.facts,
                record: &mut stream.record,
                local: &mut self.local,
                shared: &self.options.shared,
                buckets: &mut self.buckets,
                route,
                reroute: &mut reroute,
            };
            match filter::request(filter, state, news.take().unwrap_or(News::Head), &mut cx) {
                Flow::Go => request.at += 1,
                Flow::Reply(reply) => return self.respond(id, *reply),
                Flow::Wait(wait) => return self.filter_waits(id, wait),
            }
            if reroute {
                return self.find(id);
            }
        }
        self.filters_done(id);
    }

    /// All filters have let the request go on.
    fn filters_done(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id)
            && let Kind::Http(request) = &mut stream.kind
        {
            request.wants = 0;
            request.step = Step::Picking;
        }
        self.route(id);
    }

    fn filter_waits(&mut self, id: StreamId, wait: Wait) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Kind::Http(request) = &mut stream.kind else { return };
        request.step = Step::Filtering;
        match wait {
            Wait::Until(at) => {
                stream.due.filter = Some(at);
                self.arm_stream(id);
            }
            Wait::Call(call) => {
                let call = self.open_call(*call, Caller::Filter(id));
                if let Some(Kind::Http(request)) = self.streams.get_mut(id).map(|s| &mut s.kind) {
                    request.call = Some(call);
                }
            }
            Wait::Body(bytes) => {
                request.wants = bytes;
                // A client that waits to be asked for the body is asked here: the server cannot be asked yet.
                if request.head.remove("expect") {
                    self.interim(id, &Head::response(100));
                }
                let down = self.streams.get(id).map(|s| s.down);
                if let Some(down) = down.filter(|down| self.conn_ref(*down).is_some_and(|c| c.held && !c.is_h2())) {
                    self.hold(down, false);
                }
            }
        }
    }

    /// More of the request's body has come: whether a filter has waited for it and goes on.
    pub(crate) fn filter_has_body(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(id) else { return false };
        let Kind::Http(request) = &mut stream.kind else { return false };
        let waits = request.step == Step::Filtering && request.wants > 0;
        if !waits || !(stream.req.end || stream.req.buf.len() >= request.wants) {
            return false;
        }
        request.wants = 0;
        self.run_filters(id, News::Body);
        true
    }

    /// The call that a filter waited for is over.
    pub(crate) fn called(&mut self, id: StreamId, answer: CallAnswer) {
        let Some(Kind::Http(request)) = self.streams.get_mut(id).map(|s| &mut s.kind) else { return };
        request.call = None;
        if request.step == Step::Filtering {
            self.run_filters(id, News::Answer(Box::new(answer)));
        }
    }

    /// What filters want of a response that is about to be sent on, the server's or our own.
    pub(crate) fn answer_filters(&self, id: StreamId, request: &Request, head: &mut Head) {
        for change in &request.facts.response {
            if let Change::Ops(ops) = change {
                apply_headers(ops, head, HeaderSource::Response, &View::of(self, id, Some(request)));
            }
        }
        filter::answer(&request.hcm, &request.facts, &self.local, head);
    }
}
