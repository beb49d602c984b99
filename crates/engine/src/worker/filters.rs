//! A filter's turn, and a request's way through its filters, with what they wait for.

use mizzen_http::Head;
use mizzen_ir::{
    apply_headers,
    config::{HeaderSource, HttpFilter},
};

use super::Worker;
use crate::{
    ConnId,
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
        let skip =
            !filter.is_on(route) || matches!(asked, Asked::Body(dir) | Asked::Trailers(dir) if !filter::watches(filter, state, route, dir));
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
            let Some(stream) = self.streams.get_mut(id) else { return };
            stream.req.pause = None;
            let Some(request) = stream.traffic.request_mut() else { return };
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
        let Some(request) = self.streams.request_mut(id) else { return };
        request.step = Step::Filtering;
        // A client that waits to be asked for the body is asked here: the server cannot be asked yet.
        if matches!(wait, Wait::Body(_)) && request.head.remove("expect") {
            self.interim(id, &Head::response(100));
        }
        self.pause(id, Dir::Up, wait);
    }

    /// Begins to wait for what a filter wants.
    pub(crate) fn pause(&mut self, id: StreamId, dir: Dir, wait: Wait) {
        let (pause, until) = match wait {
            Wait::Until(at) => (Pause::Time, Some(at)),
            Wait::Call(call) => (Pause::Call(self.open_call(*call, Caller::Filter(id))), None),
            Wait::Body(bytes) => (Pause::Body(bytes), None),
        };
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.half_mut(dir).pause = Some(pause);
        if let Some(at) = until {
            stream.due.filter = Some(stream.due.filter.map_or(at, |due| due.min(at)));
            return self.arm_stream(id);
        }
        let source = match dir {
            Dir::Up => stream.client.conn(),
            Dir::Down => stream.upstream().map(|(conn, _)| conn),
        };
        if stream.half(dir).wants() > 0 && !self.filter_has_body(id, dir) {
            self.let_go(source);
        }
    }

    /// An HTTP/1 connection that was stopped is read again.
    fn let_go(&mut self, conn: Option<ConnId>) {
        if let Some(conn) = conn.filter(|conn| self.conns.get(*conn).is_some_and(|c| c.held && !c.is_h2())) {
            self.conns.hold(&mut self.cx, conn, false);
        }
    }

    /// Whether a filter holds a head of this direction back for what has come of the body, and is to go on.
    pub(crate) fn filter_has_body(&mut self, id: StreamId, dir: Dir) -> bool {
        let Some(half) = self.streams.get(id).map(|stream| stream.half(dir)) else { return false };
        let wants = half.wants();
        let there = wants > 0 && (half.end || half.buf.len() >= wants);
        if there {
            self.cx.inbox.push_back(Event::Body(id, dir));
        }
        there
    }

    /// What a filter waited for of a body is there.
    pub(crate) fn body_is_there(&mut self, id: StreamId, dir: Dir) {
        if self.streams.get(id).is_some_and(|stream| stream.half(dir).wants() > 0) {
            self.run_again(id, dir, News::Body);
        }
    }

    /// The call that a filter waited for is over.
    pub(crate) fn called(&mut self, id: StreamId, answer: CallAnswer) {
        let Some(stream) = self.streams.get(id) else { return };
        let waits = |dir: &Dir| matches!(stream.half(*dir).pause, Some(Pause::Call(_)));
        if let Some(dir) = [Dir::Up, Dir::Down].into_iter().find(waits) {
            self.run_again(id, dir, News::Answer(Box::new(answer)));
        }
    }

    /// The time that filters waited for has come.
    pub(crate) fn filter_due(&mut self, id: StreamId) {
        for dir in [Dir::Up, Dir::Down] {
            let Some(half) = self.streams.get_mut(id).map(|stream| stream.half_mut(dir)) else { return };
            if half.pause != Some(Pause::Time) {
                continue;
            }
            if half.open() {
                half.pause = None;
                self.pump(id, dir);
            } else {
                self.run_again(id, dir, News::Time);
            }
        }
    }

    /// A filter that held a head back has its turn again.
    fn run_again(&mut self, id: StreamId, dir: Dir, news: News) {
        match dir {
            Dir::Up => self.run_filters(id, news),
            Dir::Down => self.run_answer(id, news),
        }
    }
}
