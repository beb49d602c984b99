//! What ends a connection or a stream.

use std::fmt;

/// An HTTP/2 error code (RFC 9113 §7). HTTP/1.1 uses the same words for what ends its streams.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u32);

#[allow(missing_docs)]
impl Reason {
    pub const NO_ERROR: Reason = Reason(0x0);
    pub const PROTOCOL_ERROR: Reason = Reason(0x1);
    pub const INTERNAL_ERROR: Reason = Reason(0x2);
    pub const FLOW_CONTROL_ERROR: Reason = Reason(0x3);
    pub const SETTINGS_TIMEOUT: Reason = Reason(0x4);
    pub const STREAM_CLOSED: Reason = Reason(0x5);
    pub const FRAME_SIZE_ERROR: Reason = Reason(0x6);
    pub const REFUSED_STREAM: Reason = Reason(0x7);
    pub const CANCEL: Reason = Reason(0x8);
    pub const COMPRESSION_ERROR: Reason = Reason(0x9);
    pub const CONNECT_ERROR: Reason = Reason(0xa);
    pub const ENHANCE_YOUR_CALM: Reason = Reason(0xb);
    pub const INADEQUATE_SECURITY: Reason = Reason(0xc);
    pub const HTTP_1_1_REQUIRED: Reason = Reason(0xd);
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x0 => "NO_ERROR",
            0x1 => "PROTOCOL_ERROR",
            0x2 => "INTERNAL_ERROR",
            0x3 => "FLOW_CONTROL_ERROR",
            0x4 => "SETTINGS_TIMEOUT",
            0x5 => "STREAM_CLOSED",
            0x6 => "FRAME_SIZE_ERROR",
            0x7 => "REFUSED_STREAM",
            0x8 => "CANCEL",
            0x9 => "COMPRESSION_ERROR",
            0xa => "CONNECT_ERROR",
            0xb => "ENHANCE_YOUR_CALM",
            0xc => "INADEQUATE_SECURITY",
            0xd => "HTTP_1_1_REQUIRED",
            other => return write!(f, "{other:#x}"),
        };
        f.write_str(name)
    }
}

/// The peer broke the protocol in a way that ends the whole connection.
///
/// What has to be said to the peer (a GOAWAY; a bare 4xx answer when an HTTP/1.1 request could not be read) is already in the
/// `out` buffer of the call that failed: flush it, then close. The codec takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({code})")]
pub struct ConnError {
    /// The HTTP/2 code that names the error.
    pub code: Reason,
    /// The status with which an HTTP/1.1 server answered, 0 where no answer was possible.
    pub status: u16,
    /// What was wrong, for the log.
    pub what: &'static str,
}

impl ConnError {
    pub(crate) const fn h2(code: Reason, what: &'static str) -> Self {
        ConnError { code, status: 0, what }
    }

    pub(crate) const fn h1(status: u16, what: &'static str) -> Self {
        ConnError { code: Reason::PROTOCOL_ERROR, status, what }
    }
}
