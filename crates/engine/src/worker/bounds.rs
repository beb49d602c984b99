//! What each owner may hold, in one place. A fault if it is more: [`Sim`](crate::sim) asks after every turn.
//!
//! | owner | what | bound |
//! | --- | --- | --- |
//! | connection | bytes received and not taken, decrypted or not | [`Conn::most_stored`], enforced in `Worker::bytes` and `Worker::lend` |
//! | connection | bytes on their way out | what stops its own reading (`Context::most_out`), its partners' stopping mark and a read of theirs, a head for each stream |
//! | connection | streams that wait for room, sealed batches | its streams; bytes on their way out |
//! | stream | body of one direction | HTTP/1 and TCP: the stopping mark and what its connection stores; HTTP/2: the window |
//! | stream | request kept for a retry | `Limits::replay` |
//! | stream | heads not yet acted upon | interim answers that a codec lets through, and the final one |
//! | pool | requests that wait, dials | its streams, once each; as many as wait |
//! | worker | handshakes that wait, questions' waiters | its connections, once each; its streams and connections |
//! | worker | timer entries | [`Worker::most_timers`] |

use super::Worker;
#[cfg(any(test, feature = "sim"))]
use crate::{
    conn::Conn,
    stream::{Step, Stream},
};

#[cfg(any(test, feature = "sim"))]
/// The widest window that a stream of HTTP/2 is given, see `server_limits` and `client_limits`.
const WIDEST: usize = 1 << 20;
#[cfg(any(test, feature = "sim"))]
/// Interim answers that a codec lets through, and the final one.
const HEADS: usize = 17;

impl Worker {
    /// Timer entries, beyond which those that fire for nothing are dropped.
    pub(crate) fn most_timers(&self) -> usize {
        1024 + 4 * (self.conns.len() + self.clusters.dials())
    }
}

#[cfg(any(test, feature = "sim"))]
impl Worker {
    /// What is over its bound, if anything is; for tests.
    pub fn over_bound(&self) -> Option<String> {
        let conn = |conn: &Conn| self.conn_over_bound(conn).map(|what| format!("connection {:?}: {what}", conn.id));
        let stream =
            |stream: &Stream| self.stream_over_bound(stream).map(|what| format!("stream of connection {:?}: {what}", stream.client.conn()));
        let conns = self.conns.iter().find_map(conn);
        conns.or_else(|| self.streams.iter().find_map(stream)).or_else(|| self.worker_over_bound())
    }

    fn conn_over_bound(&self, conn: &Conn) -> Option<String> {
        let high = conn.high(&self.cx.options.limits);
        let streams = conn.http().map_or(1, |http| http.streams.len());
        let head = conn.http().map_or(0, |http| http.codec.unconsumed());
        let out = self.cx.most_out() + 2 * high + conn.most_stored() + (streams + 1) * head;
        first_over(&[
            ("bytes received", conn.stored(), conn.most_stored()),
            ("bytes to be sent", conn.backlog(), out),
            ("batches", conn.batches.len(), conn.out.len() + 1),
            ("streams that wait for room", conn.blocked.len(), streams.max(conn.http().map_or(1, |http| http.codec.active()))),
        ])
    }

    fn stream_over_bound(&self, stream: &Stream) -> Option<String> {
        let body = |source: Option<&Conn>| match source {
            Some(conn) if !conn.is_h2() => self.cx.options.limits.stream_buffer + conn.most_stored(),
            _ => WIDEST,
        };
        let up = stream.upstream().and_then(|(conn, _)| self.conns.get(conn));
        let replay = self.cx.options.limits.replay;
        let Some(request) = stream.traffic.http() else {
            return first_over(&[("bytes of TCP", stream.req.buf.len() + stream.resp.buf.len(), 0)]);
        };
        // An answer made here is as long as the configuration has it.
        let kept = stream.client.call().map(|origin| origin.most + WIDEST);
        let answer = if request.step == Step::Local { usize::MAX } else { body(up) };
        first_over(&[
            ("body of the request", stream.req.buf.len(), body(stream.client.conn().and_then(|conn| self.conns.get(conn))) + replay),
            ("body of the response", stream.resp.buf.len(), kept.unwrap_or(answer).saturating_add(stream.resp.wants())),
            ("request kept for a retry", request.replay.as_ref().map_or(0, Vec::len), replay),
            ("heads", request.heads.len(), HEADS),
        ])
    }

    fn worker_over_bound(&self) -> Option<String> {
        let streams = self.streams.len();
        let waiting = self.conns.waiting_handshakes();
        let asking = self.questions.most_waiters();
        let pools = self.clusters.pools().find_map(|(_, pool)| {
            first_over(&[
                ("requests in a pool's queue", pool.queue.len(), streams),
                ("dials of a pool", pool.dials.len(), self.clusters.dials()),
            ])
        });
        let fixed = [
            ("handshakes that wait", waiting, self.conns.len()),
            ("waiters of a question", asking, streams + self.conns.len()),
            ("timer entries", self.cx.timers.len(), self.most_timers() + self.conns.len() + self.clusters.dials()),
            ("dials", self.clusters.dials(), self.cx.options.limits.dials),
        ];
        pools.or_else(|| first_over(&fixed))
    }
}

#[cfg(any(test, feature = "sim"))]
fn first_over(all: &[(&str, usize, usize)]) -> Option<String> {
    all.iter().find(|(_, n, most)| n > most).map(|(what, n, most)| format!("{n} {what}, at most {most}"))
}
