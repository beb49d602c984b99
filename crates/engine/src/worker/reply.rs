//! Answers made here.

use mizzen_http::Head;
use mizzen_ir::{apply_headers, config::HeaderSource};

use super::Worker;
use crate::{
    CallAnswer,
    filter::Reply,
    flags::Flags,
    headers,
    log::View,
    stream::{Kind, Step, StreamId},
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
        if stream.origin.is_some() {
            return self.call_over(id, CallAnswer::Failed(details));
        }
        stream.record.details = Some(details);
        if stream.resp.open {
            // The response was begun: it can only be cut off.
            return self.finish_http(id, false);
        }
        let Kind::Http(request) = &stream.kind else { return };
        let is_grpc = request.is_grpc;
        let mut head;
        let mut text = &body[..];
        if is_grpc {
            head = Head::response(200);
            head.set("content-type", "application/grpc");
            let code = grpc.unwrap_or(grpc_code(status));
            head.set("grpc-status", code.to_string());
            if !body.is_empty() {
                head.set("grpc-message", percent(&body));
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
        self.respond_locally(id, head, text);
    }

    /// Sends a response that was made here.
    pub(crate) fn respond_locally(&mut self, id: StreamId, mut head: Head, body: &[u8]) {
        let now = self.now;
        // What the route does to responses, it does to these as well.
        let ops = self.streams.get(id).and_then(|s| match &s.kind {
            Kind::Http(request) => request.route.as_ref().map(|r| r.mutations.clone()),
            Kind::Tcp(_) | Kind::Taken => None,
        });
        if let Some(ops) = ops {
            apply_headers(&ops.response, &mut head, HeaderSource::Response, &View::of(self, id, None));
        }
        let Some(stream) = self.streams.get_mut(id) else { return };
        let up = stream.up.take().map(|up| up.at);
        let Kind::Http(request) = &mut stream.kind else { return };
        request.step = Step::Local;
        request.replay = None;
        let hcm = request.hcm.clone();
        if !head.contains("date") {
            head.set("date", headers::date(now.wall));
        }
        if !head.contains("server") && !hcm.server_name.is_empty() {
            head.set("server", hcm.server_name.as_bytes());
        }
        let Some(request) = self.take_request(id) else { return };
        self.answer_filters(id, &request, &mut head);
        self.give_request(id, request);
        let Some(stream) = self.streams.get_mut(id) else { return };
        let Kind::Http(request) = &mut stream.kind else { return };
        stream.record.status = head.status();
        stream.record.response_first.get_or_insert(now.mono);
        stream.due = crate::stream::Due { idle: stream.due.idle, moved: now.mono, ..Default::default() };
        let (down, sid) = (stream.down, stream.down_sid);
        let end = body.is_empty() || request.is_head;
        stream.resp.buf.clear();
        stream.resp.trailers = None;
        stream.resp.end = true;
        if !end {
            stream.resp.buf.extend(body);
            stream.resp.bytes = body.len() as u64;
        }
        stream.resp.open = true;
        stream.resp.done = end;
        request.response = head;
        let Kind::Http(request) = &stream.kind else { return };
        if let Some((codec, tx)) = self.conns.get_mut(down).and_then(Option::as_mut).and_then(|c| c.codec()) {
            codec.send_head(sid, &request.response, end, tx);
        }
        self.mark(down);
        self.leave_upstream(id, up, Some(mizzen_http::Reason::CANCEL));
        self.pump(id, super::Dir::Down);
    }

    /// Sends an interim response.
    pub(crate) fn interim(&mut self, id: StreamId, head: &Head) {
        let Some(stream) = self.streams.get(id) else { return };
        let (down, sid) = (stream.down, stream.down_sid);
        if let Some((codec, tx)) = self.conn(down).and_then(|c| c.codec()) {
            codec.send_head(sid, head, false, tx);
        }
        self.mark(down);
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

/// gRPC's percent-encoding of messages.
fn percent(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &b in text {
        if (0x20..0x7f).contains(&b) && b != b'%' { out.push(b as char) } else { out.push_str(&format!("%{b:02X}")) }
    }
    out
}
