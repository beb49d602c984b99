//! What logs, header formats and metrics see of a stream or a connection.

use mizzen_ir::config::HeaderSource;

use crate::{
    Now,
    conn::{Conn, Down},
    record::Record,
    stream::{Request, Stream},
};

/// What a line is made of.
pub(crate) struct View<'a> {
    pub(crate) record: Option<&'a Record>,
    pub(crate) stream: Option<&'a Stream>,
    pub(crate) request: Option<&'a Request>,
    pub(crate) conn: Option<&'a Conn>,
    pub(crate) now: Now,
}

impl<'a> View<'a> {
    pub(crate) fn down(&self) -> Option<&'a Down> {
        self.conn.and_then(Conn::down)
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.stream.map_or((0, 0), |s| (s.req.bytes, s.resp.bytes))
    }

    pub(crate) fn source_principal(&self) -> Option<&str> {
        self.down()?.peer.as_ref()?.uris.first().map(|u| &**u)
    }

    pub(crate) fn header(&self, from: HeaderSource, name: &str) -> Option<&[u8]> {
        let request = self.request?;
        match from {
            HeaderSource::Request => request.head.get(name),
            HeaderSource::Response => request.response.get(name),
            HeaderSource::Trailers => None,
        }
    }
}
