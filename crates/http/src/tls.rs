//! The ClientHello, looked at before TLS begins.

/// What the first bytes of a connection are, as far as TLS goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// They may still become a ClientHello.
    NeedMore,
    /// No TLS, or a ClientHello that is broken or too long.
    NotTls,
    /// A whole ClientHello.
    Hello {
        /// Server name, lower-cased, where one was sent.
        sni: Option<String>,
        /// Application protocols in the client's order.
        alpn: Vec<Vec<u8>>,
    },
}

/// Longest ClientHello that is waited for.
pub const MAX_HELLO: usize = 16 * 1024;

/// Looks at the first bytes of a connection. Never says `NeedMore` beyond [`MAX_HELLO`].
pub fn sniff(bytes: &[u8]) -> Sniff {
    let _ = bytes;
    unimplemented!()
}
