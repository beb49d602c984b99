//! Answers made here.

use mizzen_http::Head;
use mizzen_ir::{apply_headers, config::HeaderSource};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::Worker;
use crate::{
    CallAnswer,
    event::Event,
    filter::Reply,
    flags::Flags,
    id::StreamId,
    stream::{Due, Step},
};

impl Worker {
    /// Answers a request here, or ends its response if that was begun.
    pub(crate) fn reply(&mut self, id: StreamId, status: u16, body: &str, flags: Flags, details: &str) {
        self.reply_with(id, status, body.as_bytes(), flags, details, &[]);
    }

    /// The same, with more headers, and any bytes for a body.
    pub(crate) fn reply_with(&mut self, id: StreamId, status: u16, body: &[u8], flags: Flags, details: &str, more: &[(&str, &str)]) {
        let headers = more.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        self.respond(id, Reply { status, body: body.to_vec(), flags, details: details.to_owned(), headers, grpc: None });
    }

    /// Answers a request here, or ends its response if that was begun.
    pub(crate) fn respond(&mut self, id: StreamId, reply: Reply) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Reply { status, body, flags, details, headers, grpc } = reply;
        stream.record.flags.set(flags);
        if stream.client.is_call() {
            return self.call_over(id, CallAnswer::Failed(details));
        }
        stream.record.details = Some(details.into());
        if stream.resp.open() {
            // The response was begun: it can only be cut off.
            return self.finish_http(id, false);
        }
        let Some(request) = stream.traffic.request() else { return };
        let is_grpc = request.is_grpc;
        let mut head;
        let mut text = &body[..];
        if is_grpc {
            head = Head::response(200);
            head.set("content-type", "application/grpc");
            let code = grpc.unwrap_or(grpc_code(status));
            head.set("grpc-status", code.to_string());
            if !body.is_empty() {
                head.set("grpc-message", percent_encode(&body, ESCAPED).to_string());
            }
            stream.record.grpc_status = Some(code);
            text = b"";
        } else {
            head = Head::response(status);
            if !body.is_empty() {
                head.set("content-length", body.len().to_string());
                head.set("content-type", "text/plain");
            } else if status != 204 && status != 304 && status >= 200 {
                head.set("content-length", "0");
            }
        }
        let mut named: Vec<&str> = Vec::new();
        for (name, value) in headers.iter().filter(|(name, _)| !(is_grpc && name.starts_with("content-"))) {
            // The first one takes the place of ours; several of one name stay several.
            if named.contains(&name.as_str()) {
                head.append(name, value);
            } else {
                head.set(name, value);
            }
            named.push(name);
        }
        if let (Some(name), Some(why)) = (&self.filters.denial_header, &stream.record.policy) {
            // Values of the request may be in it.
            head.set(name, why.replace(|c: char| !matches!(c, ' '..='~'), "?"));
        }
        self.respond_locally(id, head, text);
    }

    /// Sends a response that was made here.
    pub(crate) fn respond_locally(&mut self, id: StreamId, mut head: Head, body: &[u8]) {
        let now = self.cx.now;
        // What the route does to responses, it does to these as well.
        let ops = self.streams.get(id).and_then(|s| s.traffic.request()?.route.as_ref()).map(|route| route.mutations.clone());
        if let Some(ops) = ops {
            apply_headers(&ops.response, &mut head, HeaderSource::Response, &self.view(id));
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        self.cx.inbox.extend(stream.calls().map(Event::Cancel));
        // One that takes the place of another, on whose way back filters were, is not shown to them.
        let again = stream.answered();
        let up = stream.up.take().map(|up| up.at);
        let Some(request) = stream.traffic.request_mut() else { return };
        request.step = Step::Local;
        request.replay = None;
        stream.record.status = head.status();
        request.response = head;
        stream.record.response_first.get_or_insert(now.mono);
        stream.due = Due { idle: stream.due.idle, moved: now.mono, ..Due::default() };
        stream.req.pause = None;
        stream.resp.pause = None;
        stream.resp.buf.clear();
        stream.resp.bytes = 0;
        stream.resp.trailers = None;
        stream.resp.end = true;
        if !request.is_head {
            stream.resp.buf.extend(body);
            stream.resp.bytes = body.len() as u64;
        }
        self.leave_upstream(id, up, Some(mizzen_http::Reason::CANCEL));
        if again { self.answer_done(id) } else { self.answer(id) }
    }

    /// Sends an interim response.
    pub(crate) fn interim(&mut self, id: StreamId, head: &Head) {
        let Some(stream) = self.streams.get(id) else { return };
        let Some((down, sid)) = stream.client.place() else { return };
        if let Some((codec, tx)) = self.conns.codec(down) {
            codec.send_head(sid, head, false, tx);
        }
        self.conns.mark(down);
    }
}

/// The gRPC status that stands for an HTTP status.
fn grpc_code(status: u16) -> u32 {
    match status {
        200 => 0,
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// What gRPC escapes in its messages, beside all that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');
