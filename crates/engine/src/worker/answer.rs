//! A response's way back through the filters, from the last to the first, and to the client; and what filters that watch a body let go on.

use mizzen_ir::{
    apply_headers,
    config::{HeaderSource, ServerHeader},
};

use super::{Worker, filters::Asked};
use crate::{
    event::Dir,
    facts::Change,
    filter::{self, Flow, News, Pass, Wait},
    headers,
    id::StreamId,
    stream::{Progress, Step},
};

impl Worker {
    /// The final response is there, the server's or one made here: `Request::response`.
    pub(crate) fn answer(&mut self, id: StreamId) {
        let Some(request) = self.streams.request_mut(id) else { return };
        request.at = request.hcm.filters.len();
        self.run_answer(id, News::Head);
    }

    /// Runs the filters over the response from the one whose turn it is, to which `news` are.
    pub(crate) fn run_answer(&mut self, id: StreamId, news: News) {
        let mut news = Some(news);
        loop {
            let Some(stream) = self.streams.get_mut(id) else { return };
            stream.resp.pause = None;
            let Some(request) = stream.traffic.request_mut() else { return };
            let Some(at) = request.at.checked_sub(1) else { break };
            if !request.hcm.filters.get(at).is_some_and(filter::sees_responses) {
                request.at = at;
                continue;
            }
            let news = news.take().unwrap_or(News::Head);
            let said = self.at_filter(id, at, Asked::Response, Flow::Go, |filter, _, cx| filter::response(filter, &news, cx));
            let Some(said) = said else { return };
            match said.what {
                Flow::Go => {}
                Flow::Reply(reply) => return self.respond(id, *reply),
                Flow::Wait(wait) => return self.pause(id, Dir::Down, wait),
            }
            if let Some(request) = self.streams.request_mut(id) {
                request.at = at;
            }
        }
        self.answer_done(id);
    }

    /// All filters have let the response go on: the connection manager's part, and the client's.
    pub(crate) fn answer_done(&mut self, id: StreamId) {
        let Some(request) = self.streams.request_mut(id) else { return };
        let changes = std::mem::take(&mut request.facts.response);
        let mut head = std::mem::take(&mut request.response);
        for change in &changes {
            match change {
                Change::Ops(ops) => apply_headers(ops, &mut head, HeaderSource::Response, &self.view(id)),
                fixed => fixed.apply(&mut head),
            }
        }
        let wall = self.cx.now.wall;
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request_mut() else { return };
        if !head.contains("date") {
            head.set("date", headers::date(wall));
        }
        let server = match request.hcm.server_header {
            _ if request.step == Step::Local => !head.contains("server"),
            ServerHeader::Overwrite => true,
            ServerHeader::AppendIfAbsent => !head.contains("server"),
            ServerHeader::PassThrough => false,
        };
        if server && !request.hcm.server_name.is_empty() {
            head.set("server", request.hcm.server_name.as_bytes());
        }
        if request.hcm.request_id_in_response
            && let Some(value) = request.head.get("x-request-id")
        {
            head.set("x-request-id", value);
        }
        stream.record.status = head.status();
        request.response = head;
        self.watch(id, Dir::Down);
        self.send_response(id);
    }

    fn send_response(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some((down, sid)) = stream.client.place() else { return };
        let Some(request) = stream.traffic.request() else { return };
        let tunnel = request.step == Step::Tunnel;
        let end = !tunnel && stream.resp.end && stream.resp.buf.is_empty() && stream.resp.trailers.is_none();
        if let Some((codec, tx)) = self.conns.codec(down) {
            codec.send_head(sid, &request.response, end, tx);
        }
        stream.resp.sent = Progress::head(end);
        self.conns.mark(down);
        if tunnel {
            // Bytes behind the offer have waited for this.
            self.conns.queue_parse(&mut self.cx, down);
        }
        self.pump(id, Dir::Down);
    }

    /// Whether filters are asked about what follows a head of this direction.
    pub(crate) fn watch(&mut self, id: StreamId, dir: Dir) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Some(request) = stream.traffic.request() else { return };
        let watched = !request.is_upgrade
            && request.hcm.filters.iter().enumerate().any(|(at, filter)| {
                let route = request.route.as_ref().and_then(|routed| filter.overridden(&routed.route.filters));
                let state = request.filters.get(at).unwrap_or(&crate::kept::State::None);
                filter.is_on(route) && filter::watches(filter, state, route, dir)
            });
        stream.half_mut(dir).watched = watched;
    }

    /// How many bytes of a body filters let go on now; nothing if one waits.
    pub(crate) fn watched(&mut self, id: StreamId, dir: Dir) -> Option<usize> {
        let stream = self.streams.get(id)?;
        let half = stream.half(dir);
        if !half.watched {
            return Some(usize::MAX);
        }
        if half.pause.is_some() {
            return None;
        }
        let trailers = half.end && half.trailers.is_some();
        let all = stream.traffic.request()?.hcm.filters.len();
        // The response's filters have their turn from the last to the first.
        let place = |turn: usize| if dir == Dir::Up { turn } else { all - 1 - turn };
        let mut most = usize::MAX;
        for turn in 0..all {
            let said = self.at_filter(id, place(turn), Asked::Body(dir), Pass::Go, filter::body)?;
            most = most.min(said.most);
            if !self.passes(id, dir, said.what) {
                return (most > 0).then_some(most);
            }
        }
        let first = self.streams.get(id)?.half(dir).turn;
        for turn in if trailers { first..all } else { 0..0 } {
            let said =
                self.at_filter(id, place(turn), Asked::Trailers(dir), Pass::Go, |filter, _, cx| filter::trailers(filter, dir, cx))?;
            if !self.passes(id, dir, said.what) {
                return None;
            }
            self.streams.get_mut(id)?.half_mut(dir).turn = turn + 1;
        }
        Some(most)
    }

    /// Whether a body goes on past a filter.
    fn passes(&mut self, id: StreamId, dir: Dir, pass: Pass) -> bool {
        let Pass::Until(at) = pass else { return true };
        self.pause(id, dir, Wait::Until(at));
        false
    }
}
