//! A filter's turn, and a request's way through its filters, with what they wait for.

use mizzen_http::Head;
use mizzen_ir::{
    apply_headers,
    config::{HeaderSource, HttpFilter},
};

use super::Worker;
use crate::{
    call::{CallAnswer, Caller},
    event::{Dir, Event},
    filter::{self, Cx, Flow, News, Wait},
    id::StreamId,
    kept::State,
    stream::{Pause, Step, Stream},
};

/// What a filter is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Request,
    Response,
    Body(Dir),
    Trailers(Dir),
}

/// What a filter has said.
pub(crate) struct Said<R> {
    pub(crate) what: R,
    pub(crate) reroute: bool,
    /// How much of the body may go on.
    pub(crate) most: usize,
}

impl Asked {
    fn dir(self) -> Dir {
        match self {
            Asked::Request => Dir::Up,
            Asked::Response => Dir::Down,
            Asked::Body(dir) | Asked::Trailers(dir) => dir,
        }
    }

    /// The head in question; for a body there is none.
    fn head(self, stream: &mut Stream) -> Option<&mut Head> {
        match self {
            Asked::Request => stream.traffic.request_mut().map(|request| &mut request.head),
            Asked::Response => stream.traffic.request_mut().map(|request| &mut request.response),
            Asked::Body(_) => None,
            Asked::Trailers(Dir::Up) => stream.req.trailers.as_mut(),
            Asked::Trailers(Dir::Down) => stream.resp.trailers.as_mut(),
        }
    }

    /// Which commands of a header's format read that head.
    fn source(self) -> HeaderSource {
        match self {
            Asked::Request | Asked::Body(Dir::Up) => HeaderSource::Request,
            Asked::Response | Asked::Body(Dir::Down) => HeaderSource::Response,
            Asked::Trailers(_) => HeaderSource::Trailers,
        }
    }
}

impl Worker {
    /// One filter's turn, by its place; `none` if it is off or does not watch, and nothing if the stream is gone.
    pub(crate) fn at_filter<R>(
        &mut self,
        id: StreamId,
        at: usize,
        asked: Asked,
        none: R,
        ask: impl FnOnce(&HttpFilter, &mut State, &mut Cx<'_>) -> R,
    ) -> Option<Said<R>> {
        let stream = self.streams.get_mut(id)?;
        let conn = self.conns.get(stream.client.conn()?)?;
        // In hand for its turn: it is a part of what else the filter sees.
        let mut head = asked.head(stream).map(std::mem::take).unwrap_or_default();
        let request = stream.traffic.request_mut()?;
        let filter = request.hcm.filters.get(at)?;
        let route = request.route.as_ref().and_then(|routed| filter.overridden(&routed.route.filters));
        let half = if asked.dir() == Dir::Up { &mut stream.req } else { &mut stream.resp };
        let mut nothing = State::None;
        let state = if filter::keeps_state(filter) {
            request.filters.resize_with(request.filters.len().max(at + 1), State::default);
            request.filters.get_mut(at).unwrap_or(&mut nothing)
        } else {
            &mut nothing
        };
        let skip = !filter::is_on(filter, route)
            || matches!(asked, Asked::Body(dir) | Asked::Trailers(dir) if !filter::watches(filter, state, route, dir));
        let mut cx = Cx {
            now: self.cx.now,
            rng: &mut self.cx.rng,
            conn,
            head: &mut head,
            body: half.buf.as_slice(),
            body_ended: half.end,
            passed: half.passed(),
            trailers: &mut half.trailers,
            remote: request.remote,
            is_grpc: request.is_grpc,
            facts: &mut request.facts,
            record: &mut stream.record,
            filters: &mut self.filters,
            shared: &self.cx.options.shared,
            route,
            reroute: false,
            most: usize::MAX,
            changes: Vec::new(),
        };
        let what = if skip { none } else { ask(filter, state, &mut cx) };
        let (reroute, most, changes) = (cx.reroute, cx.most, cx.changes);
        for ops in &changes {
            apply_headers(ops, &mut head, asked.source(), &self.view(id));
        }
        if let Some(place) = self.streams.get_mut(id).and_then(|stream| asked.head(stream)) {
            *place = head;
        }
        Some(Said { what, reroute, most })
    }

    /// Runs the filters over the request from the one whose turn it is, to which `news` are; then the router.
    pub(crate) fn run_filters(&mut self, id: StreamId, news: News) {
        let mut news = Some(news);
        loop {
            let Some(request) = self.streams.request_mut(id) else { return };
            let at = request.at;
            if at >= request.hcm.filters.len() {
                break;
            }
            let news = news.take().unwrap_or(News::Head);
            let said = self.at_filter(id, at, Asked::Request, Flow::Go, |filter, state, cx| filter::request(filter, state, news, cx));
            let Some(said) = said else { return };
            match said.what {
                Flow::Go => {}
                Flow::Reply(reply) => return self.respond(id, *reply),
                Flow::Wait(wait) => return self.filter_waits(id, wait),
            }
            if let Some(request) = self.streams.request_mut(id) {
                request.at += 1;
            }
            if said.reroute {
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
        self.watch(id, Dir::Up);
        self.route(id);
    }

    fn filter_waits(&mut self, id: StreamId, wait: Wait) {
        let pause = self.pause(id, wait);
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
                self.let_go(down);
            }
        }
    }

    /// Begins to wait for what a filter wants.
    pub(crate) fn pause(&mut self, id: StreamId, wait: Wait) -> Pause {
        match wait {
            Wait::Until(at) => {
                if let Some(stream) = self.streams.get_mut(id) {
                    stream.due.filter = Some(stream.due.filter.map_or(at, |due| due.min(at)));
                }
                Pause::Time
            }
            Wait::Call(call) => Pause::Call(self.open_call(*call, Caller::Filter(id))),
            Wait::Body(bytes) => Pause::Body(bytes),
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

    /// What a filter waited for of a body is there.
    pub(crate) fn body_is_there(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else { return };
        if stream.traffic.request().is_some_and(|request| request.step.wants() > 0) {
            self.run_filters(id, News::Body);
        } else if stream.resp.wants() > 0 && !stream.resp.open() {
            self.run_answer(id, News::Body);
        }
    }

    /// The call that a filter waited for is over.
    pub(crate) fn called(&mut self, id: StreamId, answer: CallAnswer) {
        let Some(stream) = self.streams.get(id) else { return };
        let news = News::Answer(Box::new(answer));
        if stream.traffic.request().is_some_and(|request| matches!(request.step, Step::Filtering(Pause::Call(_)))) {
            self.run_filters(id, news);
        } else if matches!(stream.resp.pause, Some(Pause::Call(_))) && !stream.resp.open() {
            self.run_answer(id, news);
        }
    }

    /// The time that filters waited for has come.
    pub(crate) fn filter_due(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        if stream.traffic.request().is_some_and(|request| request.step == Step::Filtering(Pause::Time)) {
            return self.run_filters(id, News::Time);
        }
        if stream.resp.pause == Some(Pause::Time) && !stream.resp.open() {
            return self.run_answer(id, News::Time);
        }
        for dir in [Dir::Up, Dir::Down] {
            let Some(stream) = self.streams.get_mut(id) else { return };
            let half = if dir == Dir::Up { &mut stream.req } else { &mut stream.resp };
            if half.pause.take_if(|pause| *pause == Pause::Time).is_some() {
                self.pump(id, dir);
            }
        }
    }
}
