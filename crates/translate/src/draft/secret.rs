//! Secrets.

use std::fmt;

use mizzen_protos::envoy::envoy::extensions::transport_sockets::tls::v3 as tls;

/// A secret: a certificate with its key, or authorities.
#[derive(Clone, PartialEq)]
pub(crate) struct Secret(pub(crate) Box<tls::Secret>);

impl fmt::Debug for Secret {
    /// Without the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.0.name)
    }
}
