//! rustls configurations from credentials, verifiers and a clock.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use crate::sessions::{LazySessions, ServerSessions};
use crate::{PkiError, Svid, provider, system_time};

/// A version of TLS. Older ones are not spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// What both sides of TLS are made from, besides credential and verifier.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The cryptography.
    pub provider: Arc<CryptoProvider>,
    /// The clock.
    pub time: Arc<dyn TimeProvider>,
    /// ALPN names in order of preference; none means that none is offered or asked for.
    pub alpn: Vec<Vec<u8>>,
    /// The lowest version.
    pub min: Version,
    /// The highest version.
    pub max: Version,
    /// Whether sessions are resumed. A resumed session keeps the identity that was verified in the first handshake.
    pub resumption: bool,
}

impl Default for TlsOptions {
    /// The one provider, the system's clock, TLS 1.2 and 1.3, no ALPN, resumption.
    fn default() -> Self {
        TlsOptions {
            provider: provider(),
            time: system_time(),
            alpn: Vec::new(),
            min: Version::Tls12,
            max: Version::Tls13,
            resumption: true,
        }
    }
}

impl TlsOptions {
    fn versions(&self) -> Result<&'static [&'static SupportedProtocolVersion], PkiError> {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match (self.min, self.max) {
            (Version::Tls12, Version::Tls13) => Ok(&BOTH),
            (Version::Tls13, Version::Tls13) => Ok(&BOTH[..1]),
            (Version::Tls12, Version::Tls12) => Ok(&BOTH[1..]),
            (Version::Tls13, Version::Tls12) => Err(PkiError::Tls("the lowest version is above the highest".to_owned())),
        }
    }
}

/// A server's configuration with one certificate. Without a verifier no client certificate is asked for.
///
/// # Errors
/// If versions and cipher suites exclude each other.
pub fn server_config(
    svid: &Svid,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    options: &TlsOptions,
) -> Result<Arc<ServerConfig>, PkiError> {
    server_config_with(Arc::new(SingleCertAndKey::from(svid.certified_key())), verifier, options)
}

/// A server's configuration whose certificate a resolver chooses at each handshake.
///
/// # Errors
/// If versions and cipher suites exclude each other.
pub fn server_config_with(
    resolver: Arc<dyn ResolvesServerCert>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    options: &TlsOptions,
) -> Result<Arc<ServerConfig>, PkiError> {
    let builder = ServerConfig::builder_with_details(options.provider.clone(), options.time.clone())
        .with_protocol_versions(options.versions()?)
        .map_err(|e| PkiError::Tls(e.to_string()))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols.clone_from(&options.alpn);
    if options.resumption {
        // Of this configuration alone: another one may ask for other certificates of its clients.
        config.session_storage = Arc::new(ServerSessions::default());
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// The configuration of another server, which differs by its certificates alone: it has sessions of its own, and shares all else.
pub fn server_config_like(other: &ServerConfig, resolver: Arc<dyn ResolvesServerCert>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(other);
    config.cert_resolver = resolver;
    if config.session_storage.can_cache() {
        config.session_storage = Arc::new(ServerSessions::default());
    }
    Arc::new(config)
}

/// A client's configuration. Without a certificate the client stays anonymous.
///
/// # Errors
/// If versions and cipher suites exclude each other.
pub fn client_config(
    svid: Option<&Svid>,
    verifier: Arc<dyn ServerCertVerifier>,
    options: &TlsOptions,
) -> Result<Arc<ClientConfig>, PkiError> {
    let resolver = svid.map(|svid| -> Arc<dyn ResolvesClientCert> { Arc::new(SingleCertAndKey::from(svid.certified_key())) });
    let builder = ClientConfig::builder_with_details(options.provider.clone(), options.time.clone())
        .with_protocol_versions(options.versions()?)
        .map_err(|e| PkiError::Tls(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match resolver {
        Some(resolver) => builder.with_client_cert_resolver(resolver),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols.clone_from(&options.alpn);
    config.resumption = if options.resumption { Resumption::store(Arc::new(LazySessions::default())) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}
