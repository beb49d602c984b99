//! What is known of a connection, its peer and a request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mizzen_http::Head;
use mizzen_pki::{CertificateDer, PkiError, UnixTime};
use mizzen_types::{Name, SpiffeId};

use crate::{Metadata, config::TransportProtocol};

/// What is known of a connection before its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ConnFacts<'a> {
    /// Where the client meant to go.
    pub destination: SocketAddr,
    /// The client.
    pub source: SocketAddr,
    /// The peer of the socket; the same unless a proxy in front told of another.
    pub direct_source: SocketAddr,
    /// The server name of the ClientHello.
    pub server_name: Option<&'a str>,
    /// What the TLS inspector found; [`TransportProtocol::RawBuffer`] if it did not look.
    pub transport: TransportProtocol,
    /// ALPN protocols of the ClientHello, or what the HTTP inspector found: `http/1.0`, `http/1.1`, `h2c`.
    pub application_protocols: &'a [Vec<u8>],
}

/// A peer whose certificate TLS has verified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peer {
    /// The URI names.
    pub uris: Arc<[Name]>,
    /// The DNS names.
    pub dns: Arc<[Name]>,
    /// The subject; empty for SVIDs.
    pub subject: Name,
    /// The issuer.
    pub issuer: Name,
    /// The serial number in lower-case hexadecimal.
    pub serial: Name,
    /// SHA-256 of the certificate in lower-case hexadecimal.
    pub fingerprint: Name,
    /// The identity, if there is exactly one URI name and it has Istio's form.
    pub identity: Option<SpiffeId>,
    /// When the certificate ends, in seconds since 1970.
    pub not_after: u64,
    /// The certificate in DER.
    pub der: Arc<[u8]>,
}

impl Peer {
    /// A peer with a workload's certificate, as far as anybody but a log looks at it: without serial number, end and bytes.
    pub fn of(id: &SpiffeId) -> Peer {
        Peer { uris: [Name::from(id.to_string())].into(), identity: Some(id.clone()), ..Peer::default() }
    }
}

/// The facts of the peer's certificate, which TLS has verified. `chain` is what rustls calls the peer's certificates, leaf first; `now`
/// guards against a resumed session that outlived its certificate.
///
/// # Errors
/// If there is no certificate, or it cannot be read or has ended.
pub fn authenticate(chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Peer, PkiError> {
    let leaf = chain.first().ok_or_else(|| PkiError::Certificate("there is none".to_owned()))?;
    let facts = mizzen_pki::facts(leaf)?;
    let not_after = facts.validity.not_after.as_secs();
    if now.as_secs() > not_after {
        return Err(PkiError::Certificate("it has ended".to_owned()));
    }
    let names = |list: &[String]| list.iter().map(|n| Name::from(n.as_str())).collect();
    Ok(Peer {
        uris: names(&facts.uris),
        dns: names(&facts.dns),
        subject: facts.subject.as_str().into(),
        issuer: facts.issuer.as_str().into(),
        serial: facts.serial.as_str().into(),
        fingerprint: crate::tls::sha256_hex(leaf).into(),
        identity: facts.identity(),
        not_after,
        der: leaf.as_ref().into(),
    })
}

/// A request, as far as routes look at it. Its path has been through [`crate::normalize_path`].
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// The head.
    pub head: &'a Head,
    /// Whether it came by TLS, or a trusted proxy in front says so.
    pub secure: bool,
    /// What its filters left behind so far, where they have had their turn.
    pub metadata: Option<&'a Metadata>,
}

/// What policies look at.
#[derive(Clone, Copy, Debug)]
pub struct PolicyFacts<'a> {
    /// Where the client meant to go.
    pub destination: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: IpAddr,
    /// The client: from X-Forwarded-For where that is trusted, else the same.
    pub remote: IpAddr,
    /// The server name of the TLS handshake.
    pub server_name: Option<&'a str>,
    /// The verified peer; none: plain, or TLS without a verified certificate.
    pub peer: Option<&'a Peer>,
    /// The request; none on TCP, where conditions on it do not match.
    pub request: Option<&'a Head>,
    /// What the request's filters left behind so far.
    pub metadata: Option<&'a Metadata>,
}
