//! TLS as it is configured: names of secrets, not their contents. `crate::tls` builds rustls' configurations from it.

use std::{sync::Arc, time::Duration};

use mizzen_pki::{SanMatch, Svid, TrustBundle};
use mizzen_types::Name;

use super::ContentHash;

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq)]
pub struct DownstreamTls {
    /// What both sides share.
    pub common: TlsCommon,
    /// Whether a client must present a certificate (which is then verified).
    pub require_client_certificate: bool,
    /// Whether a client must send a server name.
    pub require_sni: bool,
    /// Whether sessions may be resumed by tickets or ids.
    pub resumption: bool,
    /// Of the content; the key of what is built.
    pub hash: ContentHash,
}

/// TLS towards servers.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    /// What both sides share.
    pub common: TlsCommon,
    /// The server name to send; empty: none.
    pub sni: Name,
    /// Whether the server name is the endpoint's host name instead.
    pub auto_host_sni: bool,
    /// Whether the certificate must name the server name that was sent (or dialled), in place of [`Validation::sans`].
    pub verify_server_name: bool,
    /// Of the content; the key of what is built.
    pub hash: ContentHash,
}

/// What both sides share.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsCommon {
    /// Our certificate; several only where the client's choice picks one (RSA and ECDSA).
    pub certificates: Arc<[SecretRef]>,
    /// How the peer's certificate is checked; none: it is not asked for (server) or not checked (client).
    pub validation: Option<Validation>,
    /// ALPN protocols in order of preference.
    pub alpn: Arc<[Name]>,
    /// The lowest version.
    pub min: TlsVersion,
    /// The highest version.
    pub max: TlsVersion,
    /// The cipher suites of TLS 1.2 in order, by OpenSSL's names, cut to those we can do; empty: the provider's.
    pub ciphers: Arc<[Name]>,
    /// The key exchange groups in order, cut to those we can do; empty: the provider's.
    pub curves: Arc<[Name]>,
}

/// How the peer's certificate is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// Who may have signed it.
    pub roots: Roots,
    /// Whom it must name: one of these; empty: anybody.
    pub sans: Arc<[SanMatch]>,
}

impl Validation {
    /// Whether a certificate with this URI name and no other name is one of those that are asked for. Who signed it is another question.
    pub fn names(&self, uri: &str) -> bool {
        self.sans.is_empty() || self.sans.iter().any(|san| san.accepts_uri(uri))
    }
}

/// Who may have signed a certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum Roots {
    /// The roots of a secret; its own further checks apply too.
    Secret(SecretRef),
    /// These, given in place.
    Inline(Arc<ValidationSecret>),
}

/// A secret by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretRef {
    /// Its name, such as `default` or `ROOTCA`.
    pub name: Name,
    /// Where it is asked for.
    pub source: SecretSource,
    /// How long it is waited for at first (`initial_fetch_timeout`); none: for ever. Default 15 s.
    pub fetch_timeout: Option<Duration>,
}

/// Where a secret is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SecretSource {
    /// The aggregated stream.
    Ads,
    /// A gRPC service.
    Grpc {
        /// Its cluster's name (of the bootstrap).
        cluster: Name,
        /// Whether it is asked in the delta variant (`DELTA_GRPC`), not that of the state of the world (`GRPC`).
        delta: bool,
    },
    /// The bootstrap's static secrets, or inline in the resource.
    Static,
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct CertificateSecret {
    /// Its name.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// Chain and key.
    pub svid: Svid,
}

/// Roots and further checks.
#[derive(Clone, Debug)]
pub struct ValidationSecret {
    /// Its name; empty if given in place.
    pub name: Name,
    /// Of the content.
    pub hash: ContentHash,
    /// The roots; empty: not given, they come from the other half of a combined context.
    pub roots: TrustBundle,
    /// Whom the certificate must name, as in [`Validation::sans`].
    pub sans: Arc<[SanMatch]>,
}

impl PartialEq for ValidationSecret {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.hash) == (&other.name, other.hash)
    }
}
