//! Every bound of the codecs, in one place.

/// Interim responses to one request.
pub(crate) const INTERIM: u8 = 16;

/// The bounds of one connection. `Default` holds the documented values; `new` is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one head or trailer block, names and values with their separators. Default 60 KiB, as Envoy.
    pub header_bytes: usize,
    /// Fields of one head or trailer block. Default 100, as Envoy.
    pub header_count: usize,
    /// HTTP/1: answer HTTP/1.0 requests (default `true`); otherwise they get 426.
    pub accept_http_10: bool,
    /// HTTP/1: bytes of an unwanted request body that are read and dropped to keep the connection. Default 64 KiB.
    pub drain_body: usize,
    /// HTTP/2: streams that the peer may have open at once. Default 100.
    pub concurrent_streams: u32,
    /// HTTP/2: streams that we open at once, whatever the peer allows. Default 1024.
    pub open_streams: u32,
    /// HTTP/2: receive window of a stream. Default 256 KiB. What a stream may make us buffer while `consumed` is withheld.
    pub stream_window: u32,
    /// HTTP/2: receive window of the connection, given back as it is used. Default 1 MiB.
    pub connection_window: u32,
    /// HTTP/2: bytes of body, all streams together, beyond which the connection's window is not given back until some are consumed: what a peer
    /// may make us buffer is this and one connection window, however many streams it opens. Default 16 MiB.
    pub unconsumed_bodies: u32,
    /// HTTP/2: largest frame that we take. Default 16,384, the smallest legal value.
    pub frame_size: u32,
    /// HTTP/2: size of the HPACK table that the peer may use towards us. Default 4096.
    pub hpack_table: u32,
    /// HTTP/2: CONTINUATION frames of one header block. Default 8.
    pub continuations: u32,
    /// HTTP/2: streams reset early (by the peer, or by us for the peer's fault) beyond those that ended well, between two calls
    /// of `refill`. Default 200.
    pub resets: u32,
    /// HTTP/2: PING, SETTINGS, PRIORITY and empty DATA frames between two calls of `refill`; useful frames give some back.
    /// Default 1000.
    pub control_frames: u32,
    /// HTTP/2: allow `:protocol` (extended CONNECT, RFC 8441). Default `true`.
    pub extended_connect: bool,
}

impl Limits {
    /// The documented defaults.
    pub const fn new() -> Self {
        Limits {
            header_bytes: 60 * 1024,
            header_count: 100,
            accept_http_10: true,
            drain_body: 64 * 1024,
            concurrent_streams: 100,
            open_streams: 1024,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            unconsumed_bodies: 16 * 1024 * 1024,
            frame_size: 16_384,
            hpack_table: 4096,
            continuations: 8,
            resets: 200,
            control_frames: 1000,
            extended_connect: true,
        }
    }

    /// The most bytes that `next` may leave untaken while it waits for more; a read buffer must hold as much.
    pub const fn unconsumed(&self) -> usize {
        let frame = 9 + self.frame_size as usize;
        let head = self.header_bytes + 4;
        if frame > head { frame } else { head }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::new()
    }
}
