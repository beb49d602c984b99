//! Who is believed: certificate verifiers for rustls.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::{PkiError, TrustBundle, provider};

/// Which names of a certificate a [`SanMatch`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SanKind {
    /// URI names: SPIFFE.
    Uri,
    /// DNS names.
    Dns,
    /// Both, as Envoy's untyped list means it.
    Any,
}

/// How a name is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SanPattern {
    /// The whole name. A certificate's DNS name `*.a` covers `b.a`.
    Exact(String),
    /// How it begins.
    Prefix(String),
    /// How it ends.
    Suffix(String),
    /// What it holds.
    Contains(String),
}

/// One acceptable name of a peer. A list of them accepts what any one accepts; an empty list accepts every name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SanMatch {
    /// Which names.
    pub kind: SanKind,
    /// How they are compared.
    pub pattern: SanPattern,
    /// Without regard to case.
    pub ignore_case: bool,
}

impl SanMatch {
    /// Exactly this URI.
    pub fn uri(text: impl Into<String>) -> Self {
        SanMatch { kind: SanKind::Uri, pattern: SanPattern::Exact(text.into()), ignore_case: false }
    }

    /// Any URI that begins so.
    pub fn uri_prefix(text: impl Into<String>) -> Self {
        SanMatch { kind: SanKind::Uri, pattern: SanPattern::Prefix(text.into()), ignore_case: false }
    }

    /// Whether one of the certificate's names is accepted.
    fn accepts(&self, cert: &EndEntityCert<'_>) -> bool {
        let uri = self.kind != SanKind::Dns && cert.valid_uri_names().any(|name| self.matches(name));
        uri || self.kind != SanKind::Uri && (cert.valid_dns_names().any(|name| self.matches(name)) || self.covered(cert))
    }

    /// Whether a certificate with this URI name is accepted for it.
    pub fn accepts_uri(&self, name: &str) -> bool {
        self.kind != SanKind::Dns && self.matches(name)
    }

    fn matches(&self, name: &str) -> bool {
        let test = |name: &str, pattern: &SanPattern| match pattern {
            SanPattern::Exact(text) => name == text,
            SanPattern::Prefix(text) => name.starts_with(text.as_str()),
            SanPattern::Suffix(text) => name.ends_with(text.as_str()),
            SanPattern::Contains(text) => name.contains(text.as_str()),
        };
        if !self.ignore_case {
            return test(name, &self.pattern);
        }
        let lower = match &self.pattern {
            SanPattern::Exact(text) => SanPattern::Exact(text.to_ascii_lowercase()),
            SanPattern::Prefix(text) => SanPattern::Prefix(text.to_ascii_lowercase()),
            SanPattern::Suffix(text) => SanPattern::Suffix(text.to_ascii_lowercase()),
            SanPattern::Contains(text) => SanPattern::Contains(text.to_ascii_lowercase()),
        };
        test(&name.to_ascii_lowercase(), &lower)
    }

    /// Whether a wildcard name of the certificate covers the exact DNS name.
    fn covered(&self, cert: &EndEntityCert<'_>) -> bool {
        let SanPattern::Exact(text) = &self.pattern else { return false };
        let Ok(name @ ServerName::DnsName(_)) = ServerName::try_from(text.as_str()) else { return false };
        cert.verify_is_valid_for_subject_name(&name).is_ok()
    }
}

/// Verifies clients by `trust` and `names`. If `required` is false, a client may come without a certificate, but not with a wrong one.
///
/// A certificate with several SPIFFE names is refused, as SPIFFE demands.
///
/// # Errors
/// If `trust` has no roots.
pub fn client_verifier(trust: &TrustBundle, names: Vec<SanMatch>, required: bool) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    Ok(Arc::new(Verifier { required, ..Verifier::new(trust, names, false)? }))
}

/// Verifies servers by `trust` and `names`; the name in the ClientHello does not count. This is the mesh's mode.
///
/// # Errors
/// If `trust` has no roots.
pub fn server_verifier(trust: &TrustBundle, names: Vec<SanMatch>) -> Result<Arc<dyn ServerCertVerifier>, PkiError> {
    Ok(Arc::new(Verifier::new(trust, names, false)?))
}

/// Verifies servers by `trust` and the name that is dialled, as HTTPS does: for control traffic.
///
/// # Errors
/// If `trust` has no roots.
pub fn server_verifier_by_name(trust: &TrustBundle) -> Result<Arc<dyn ServerCertVerifier>, PkiError> {
    Ok(Arc::new(Verifier::new(trust, Vec::new(), true)?))
}

/// Believes every server, whatever its certificate: only for a configuration that says so in words (`insecureSkipVerify`), and for probes, which ask
/// whether somebody answers.
pub fn accept_any_server() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AcceptAny(provider().signature_verification_algorithms))
}

#[derive(Debug)]
struct Verifier {
    anchors: Vec<TrustAnchor<'static>>,
    /// What the authorities have revoked; none: nobody asks.
    revoked: Vec<CertRevocationList<'static>>,
    names: Vec<SanMatch>,
    /// Compare the name that was dialled.
    by_name: bool,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(trust: &TrustBundle, names: Vec<SanMatch>, by_name: bool) -> Result<Self, PkiError> {
        if trust.is_empty() {
            return Err(PkiError::NoRoots);
        }
        let algorithms = provider().signature_verification_algorithms;
        Ok(Verifier { anchors: trust.anchors(), revoked: trust.revocations(), names, by_name, required: true, algorithms })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        usage: KeyUsage,
        dialled: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let cert = EndEntityCert::try_from(leaf).map_err(webpki_error)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        cert.verify_for_usage(self.algorithms.all, &self.anchors, between, now, usage, revocation, None).map_err(webpki_error)?;
        if cert.valid_uri_names().filter(|uri| uri.starts_with("spiffe://")).nth(1).is_some() {
            return Err(refused("the certificate has several SPIFFE names"));
        }
        if let Some(name) = dialled {
            cert.verify_is_valid_for_subject_name(name).map_err(webpki_error)?;
        }
        if !self.names.is_empty() && !self.names.iter().any(|name| name.accepts(&cert)) {
            let has: Vec<&str> = cert.valid_uri_names().chain(cert.valid_dns_names()).take(4).collect();
            return Err(refused(&format!("none of the expected names is in the certificate, which has {has:?}")));
        }
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, between, KeyUsage::server_auth(), self.by_name.then_some(name), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    // No hints: while roots rotate, a client must not hold its certificate back because of an old list.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, between, KeyUsage::client_auth(), None, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(why: &str) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(why.to_owned())))))
}

/// The errors for which TLS has an alert of its own; others travel in words.
fn webpki_error(e: webpki::Error) -> Error {
    use webpki::Error as W;
    let kind = match e {
        W::BadDer | W::BadDerTime | W::TrailingData(_) => CertificateError::BadEncoding,
        W::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        W::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        W::UnknownIssuer => CertificateError::UnknownIssuer,
        W::CertRevoked => CertificateError::Revoked,
        W::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        W::CertNotValidForName(_) => CertificateError::NotValidForName,
        W::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(Refused(other.to_string())))),
    };
    Error::InvalidCertificate(kind)
}
