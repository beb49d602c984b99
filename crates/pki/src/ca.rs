//! The certificate authority.

use std::time::Duration;

use mizzen_types::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use time::OffsetDateTime;

use crate::svid::certificate_pem;
use crate::{KeyPair, PkiError, Secret, Svid, TrustBundle, client_verifier, peer};

/// What lifetimes the CA gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaLimits {
    /// When none is asked for.
    pub default_ttl: Duration,
    /// More is refused.
    pub max_ttl: Duration,
    /// How far `notBefore` is set back for clocks that are slow; at most a tenth of the lifetime.
    pub slack: Duration,
}

impl Default for CaLimits {
    /// Istio's: 24 h, at most 90 days, two minutes.
    fn default() -> Self {
        CaLimits {
            default_ttl: Duration::from_secs(24 * 3600),
            max_ttl: Duration::from_secs(90 * 24 * 3600),
            slack: Duration::from_secs(120),
        }
    }
}

/// A certificate authority: a key, its certificate, the certificates between it and the root, and the roots.
///
/// It signs for the identity that its caller states, never for what a request wishes: of a request only the public key and the proof of its possession
/// are used.
pub struct Ca {
    issuer: Issuer<'static, rcgen::KeyPair>,
    /// The CA's own certificate first; the root last unless the root is the CA's own.
    chain: Vec<CertificateDer<'static>>,
    roots: TrustBundle,
    not_after: UnixTime,
    limits: CaLimits,
}

/// A request's size beyond which it is not looked at.
const MAX_REQUEST: usize = 64 * 1024;
const ROOT_TTL: Duration = Duration::from_secs(3650 * 24 * 3600);

impl Ca {
    /// A new root with a new P-256 key, valid for ten years from `now`.
    ///
    /// # Errors
    /// If the library has no randomness.
    pub fn self_signed(trust_domain: &TrustDomain, now: UnixTime, limits: CaLimits) -> Result<Self, PkiError> {
        Self::self_signed_as(trust_domain.as_str(), now, limits)
    }

    /// The same for an organization of this name.
    ///
    /// # Errors
    /// As [`Ca::self_signed`].
    pub fn self_signed_as(organization: &str, now: UnixTime, limits: CaLimits) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = blank(now, limits.slack, later(now, ROOT_TTL))?;
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(key.inner()).map_err(crypto)?.der().clone();
        Self::new(key, vec![root.clone()], vec![root], limits)
    }

    /// From what an administrator provides: the signing key, its certificate (first) with those between it and the root, and the roots.
    ///
    /// # Errors
    /// If a part cannot be read, the certificate is no CA's, or the key is not its key.
    pub fn from_parts(key: &str, chain: &[u8], roots: &[u8], limits: CaLimits) -> Result<Self, PkiError> {
        let read = |pem: &[u8], what| {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            all.map_err(|e| PkiError::Pem { what, reason: format!("{e:?}") })
        };
        Self::new(KeyPair::from_pem(key)?, read(chain, "CA certificate")?, read(roots, "root certificate")?, limits)
    }

    /// From [`Ca::to_pem`].
    ///
    /// # Errors
    /// As [`Ca::from_parts`].
    pub fn from_pem(state: &str, limits: CaLimits) -> Result<Self, PkiError> {
        let mut parts = state.splitn(3, SEPARATOR);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(key), Some(chain), Some(roots)) => Self::from_parts(key, chain.as_bytes(), roots.as_bytes(), limits),
            _ => Err(PkiError::Pem { what: "CA state", reason: "it has not its three parts".to_owned() }),
        }
    }

    /// Everything as text, the key included, so that a restarted control plane keeps its CA.
    pub fn to_pem(&self) -> Secret {
        Secret::new(format!("{}{SEPARATOR}{}{SEPARATOR}{}", self.key_pem().expose(), self.chain_pem(), self.roots.to_pem()))
    }

    /// The CA's own certificate and those between it and the root, as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| certificate_pem(der)).collect()
    }

    /// The CA's private key, as PEM.
    pub fn key_pem(&self) -> Secret {
        Secret::new(self.issuer.key().serialize_pem())
    }

    fn new(
        key: KeyPair,
        mut chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        limits: CaLimits,
    ) -> Result<Self, PkiError> {
        // People repeat a certificate in the chain, and put the root at its end.
        let mut seen = std::collections::BTreeSet::new();
        chain.retain(|der| seen.insert(der.to_vec()));
        let own = chain.first().ok_or(PkiError::Pem { what: "CA certificate", reason: "there is none".to_owned() })?;
        let facts = peer::facts(own)?;
        if !facts.is_ca {
            return Err(PkiError::Certificate("it is not a CA's (basicConstraints)".to_owned()));
        }
        let cert = webpki::EndEntityCert::try_from(own).map_err(|e| PkiError::Certificate(e.to_string()))?;
        if cert.subject_public_key_info().as_ref() != key.inner().subject_public_key_info().as_slice() {
            return Err(PkiError::Key("it does not belong to the CA's certificate".to_owned()));
        }
        let mut bundle = TrustBundle::default();
        for root in roots {
            bundle.add(root)?;
        }
        if bundle.is_empty() {
            return Err(PkiError::NoRoots);
        }
        let issuer = Issuer::from_ca_cert_der(own, key.into_inner()).map_err(|e| PkiError::Certificate(format!("the CA's own: {e}")))?;
        Ok(Ca { issuer, not_after: facts.validity.not_after, chain, roots: bundle, limits })
    }

    /// The roots that a peer needs in order to believe this CA.
    pub fn roots(&self) -> &TrustBundle {
        &self.roots
    }

    /// What lifetimes it gives.
    pub fn limits(&self) -> CaLimits {
        self.limits
    }

    /// Until when the CA's own certificate is valid.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Whether whoever believes `trust` believes what this CA signs at `now`.
    ///
    /// # Errors
    /// If not, or if it cannot sign any more.
    pub fn is_believed_by(&self, trust: &TrustBundle, now: UnixTime) -> Result<(), PkiError> {
        let svid = self.issue_for(vec![SanType::DnsName(ia5("probe.invalid")?)], Duration::ZERO, now)?;
        let verifier = client_verifier(trust, Vec::new(), true)?;
        let (leaf, between) = svid.chain().split_first().ok_or(PkiError::NoRoots)?;
        verifier.verify_client_cert(leaf, between, now).map_err(|error| PkiError::Certificate(error.to_string()))?;
        Ok(())
    }

    /// Signs a workload's request: the chain as PEM, one certificate each, the leaf first, the root last.
    ///
    /// The leaf has an empty subject and `id` as its only name. A `ttl` of zero means the default.
    ///
    /// # Errors
    /// If the request is not a valid one, the lifetime too long, or the CA's own certificate has expired.
    pub fn sign_csr(&self, csr_pem: &str, id: &SpiffeId, ttl: Duration, now: UnixTime) -> Result<Vec<String>, PkiError> {
        if csr_pem.len() > MAX_REQUEST {
            return Err(PkiError::Request(format!("longer than {MAX_REQUEST} bytes")));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
            .map_err(|e| PkiError::Pem { what: "certificate request", reason: format!("{e:?}") })?;
        // This proves possession of the key. `params` holds the request's wishes and is dropped unread.
        let CertificateSigningRequestParams { params: _, public_key } =
            CertificateSigningRequestParams::from_der(&der).map_err(|e| PkiError::Request(e.to_string()))?;
        let names = vec![SanType::URI(ia5(&id.to_string())?)];
        let leaf = self.leaf(names, &public_key, ttl, now)?;
        Ok(self.with_chain(&leaf).iter().map(|der| certificate_pem(der)).collect())
    }

    /// A certificate with a new key for one identity: for the control plane itself, and tests.
    ///
    /// # Errors
    /// As [`Ca::sign_csr`].
    pub fn issue(&self, id: &SpiffeId, ttl: Duration, now: UnixTime) -> Result<Svid, PkiError> {
        self.issue_for(vec![SanType::URI(ia5(&id.to_string())?)], ttl, now)
    }

    /// A server certificate with a new key for DNS names and IP addresses: for the control plane's own port.
    ///
    /// # Errors
    /// As [`Ca::sign_csr`]; or if a name is neither a DNS name nor an address.
    pub fn server_certificate(&self, names: &[impl AsRef<str>], ttl: Duration, now: UnixTime) -> Result<Svid, PkiError> {
        let name = |n: &str| {
            let ip = n.parse().ok().map(SanType::IpAddress);
            ip.map_or_else(|| ia5(n).map(SanType::DnsName), Ok)
        };
        let names: Result<Vec<_>, _> = names.iter().map(|n| name(n.as_ref())).collect();
        self.issue_for(names?, ttl, now)
    }

    fn issue_for(&self, names: Vec<SanType>, ttl: Duration, now: UnixTime) -> Result<Svid, PkiError> {
        let key = KeyPair::generate()?;
        let leaf = self.leaf(names, key.inner(), ttl, now)?;
        let chain: String = self.with_chain(&leaf).iter().map(|der| certificate_pem(der)).collect();
        Svid::from_pem(chain.as_bytes(), key.to_pem().expose())
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        public_key: &impl PublicKeyData,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let ttl = if ttl.is_zero() { self.limits.default_ttl } else { ttl };
        if ttl > self.limits.max_ttl {
            return Err(PkiError::Lifetime { wished: ttl.as_secs(), max: self.limits.max_ttl.as_secs() });
        }
        if self.not_after <= now {
            return Err(PkiError::CaExpired { not_after: self.not_after.as_secs() });
        }
        let mut params = blank(now, self.limits.slack.min(ttl / 10), later(now, ttl).min(self.not_after))?;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(public_key, &self.issuer).map_err(crypto)?.der().clone())
    }

    /// The leaf, the CA's chain, and the first root unless it is the chain's end already.
    fn with_chain(&self, leaf: &CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        let mut all = vec![leaf.clone()];
        all.extend(self.chain.iter().cloned());
        all.extend(self.roots.roots().first().filter(|root| !self.chain.contains(root)).cloned());
        all
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("not_after", &self.not_after).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Between the parts of a CA's state; no line of PEM looks like it.
const SEPARATOR: &str = "=====\n";

/// Parameters without any name or right, and a random serial number of 127 bits.
fn blank(now: UnixTime, slack: Duration, not_after: UnixTime) -> Result<CertificateParams, PkiError> {
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| PkiError::Crypto("no randomness".to_owned()))?;
    // Positive, and without a leading zero byte, whatever the randomness was.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_sub(slack.as_secs()))))?;
    params.not_after = date(not_after)?;
    Ok(params)
}

fn later(now: UnixTime, by: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_add(by.as_secs())))
}

fn date(at: UnixTime) -> Result<OffsetDateTime, PkiError> {
    let seconds = i64::try_from(at.as_secs()).ok();
    seconds
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .ok_or_else(|| PkiError::Crypto("a time beyond the calendar".to_owned()))
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, PkiError> {
    text.try_into().map_err(|e: rcgen::Error| PkiError::Identity(e.to_string()))
}

fn crypto(e: rcgen::Error) -> PkiError {
    PkiError::Crypto(e.to_string())
}
