//! What a certificate says.

use mizzen_types::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{PkiError, Validity};

/// What a certificate says, for people, logs and headers; nothing here is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject, as text; empty for SVIDs.
    pub subject: String,
    /// The issuer, as text.
    pub issuer: String,
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// From when to when.
    pub validity: Validity,
    /// The URI names.
    pub uris: Vec<String>,
    /// The DNS names.
    pub dns: Vec<String>,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
}

impl CertificateFacts {
    /// The identity, if there is exactly one URI name and it has Istio's form.
    pub fn identity(&self) -> Option<SpiffeId> {
        match self.uris.as_slice() {
            [uri] => uri.parse().ok(),
            _ => None,
        }
    }
}

/// Reads a certificate without verifying anything. For the data path there is [`peer_uris`], which is cheaper.
///
/// # Errors
/// If it cannot be parsed.
pub fn facts(der: &CertificateDer<'_>) -> Result<CertificateFacts, PkiError> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|e| PkiError::Certificate(e.to_string()))?;
    if !rest.is_empty() {
        return Err(PkiError::Certificate("there are bytes after its end".to_owned()));
    }
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    let names = cert.subject_alternative_name().map_err(|e| PkiError::Certificate(e.to_string()))?;
    for name in names.iter().flat_map(|n| &n.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            _ => {}
        }
    }
    // A gateway holds those of a thousand hosts, and most have one name.
    uris.shrink_to_fit();
    dns.shrink_to_fit();
    let time = |t: &x509_parser::time::ASN1Time| UnixTime::since_unix_epoch(Duration::from_secs(t.timestamp().try_into().unwrap_or(0)));
    Ok(CertificateFacts {
        subject: cert.subject().to_string(),
        issuer: cert.issuer().to_string(),
        serial: cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
        validity: Validity { not_before: time(&cert.validity().not_before), not_after: time(&cert.validity().not_after) },
        uris,
        dns,
        is_ca: cert.is_ca(),
    })
}

/// The URI names of a peer's certificate.
///
/// # Errors
/// If it cannot be parsed.
pub fn peer_uris(der: &CertificateDer<'_>) -> Result<Vec<String>, PkiError> {
    let cert = EndEntityCert::try_from(der).map_err(|e| PkiError::Certificate(e.to_string()))?;
    Ok(cert.valid_uri_names().map(str::to_owned).collect())
}

/// The identity of a peer whose certificate TLS has verified: its one URI name.
///
/// # Errors
/// If the certificate cannot be parsed, or has no or several URI names, or the one is not of Istio's form.
pub fn peer_identity(der: &CertificateDer<'_>) -> Result<SpiffeId, PkiError> {
    let cert = EndEntityCert::try_from(der).map_err(|e| PkiError::Certificate(e.to_string()))?;
    let mut uris = cert.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|e: mizzen_types::IdentityError| PkiError::Identity(e.to_string())),
        (None, _) => Err(PkiError::Identity("the certificate has no URI name".to_owned())),
        (Some(_), Some(_)) => Err(PkiError::Identity("the certificate has several URI names".to_owned())),
    }
}
