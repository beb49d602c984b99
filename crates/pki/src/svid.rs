//! A certificate chain with its private key.

use std::fmt;
use std::sync::Arc;

use mizzen_types::SpiffeId;
use pem::{EncodeConfig, LineEnding, Pem};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{KeyPair, PkiError, Secret, Validity, peer, provider};

/// A certificate chain with its key: a workload's SVID, or a gateway's certificate with DNS names. Cheap to clone.
#[derive(Clone)]
pub struct Svid(Arc<Inner>);

struct Inner {
    certified: Arc<CertifiedKey>,
    key: Secret,
    facts: peer::CertificateFacts,
    identity: Option<SpiffeId>,
}

impl Svid {
    /// From PEM: the chain, leaf first, and its key.
    ///
    /// # Errors
    /// If either cannot be read, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &str) -> Result<Self, PkiError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|e| PkiError::Pem { what: "certificate chain", reason: format!("{e:?}") })?;
        Self::new(chain, key)
    }

    /// From a chain that [`Ca::sign_csr`](crate::Ca::sign_csr) gave, leaf first, and the key of the request.
    ///
    /// # Errors
    /// As [`Svid::from_pem`].
    pub fn from_chain(chain: &[String], key: &KeyPair) -> Result<Self, PkiError> {
        Self::from_pem(chain.concat().as_bytes(), key.to_pem().expose())
    }

    /// From parsed certificates, leaf first, and the key of the request.
    ///
    /// # Errors
    /// As [`Svid::from_pem`].
    pub fn from_certificates(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, PkiError> {
        Self::new(chain, key.to_pem().expose())
    }

    fn new(mut chain: Vec<CertificateDer<'static>>, key_pem: &str) -> Result<Self, PkiError> {
        chain.shrink_to_fit();
        let leaf = chain.first().ok_or(PkiError::Pem { what: "certificate chain", reason: "no certificate".to_owned() })?;
        let facts = peer::facts(leaf)?;
        let identity = facts.identity();
        let der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|e| PkiError::Pem { what: "private key", reason: format!("{e:?}") })?;
        let certified = CertifiedKey::from_der(chain, der, &provider()).map_err(|e| PkiError::Key(e.to_string()))?;
        certified.keys_match().map_err(|e| PkiError::Key(e.to_string()))?;
        Ok(Svid(Arc::new(Inner { certified: Arc::new(certified), key: Secret::new(key_pem.to_owned()), facts, identity })))
    }

    /// As rustls wants it.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.0.certified.clone()
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

    /// The chain as PEM, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain().iter().map(|der| certificate_pem(der)).collect()
    }

    /// The key as PEM.
    pub fn key_pem(&self) -> &Secret {
        &self.0.key
    }

    /// What the leaf says.
    pub fn facts(&self) -> &peer::CertificateFacts {
        &self.0.facts
    }

    /// The workload's identity, if the leaf names exactly one of Istio's form.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.0.identity.as_ref()
    }

    /// From when to when the leaf is valid.
    pub fn validity(&self) -> Validity {
        self.0.facts.validity
    }

    /// The leaf's serial number, in lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.0.facts.serial
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("uris", &self.0.facts.uris).field("serial", &self.0.facts.serial).finish_non_exhaustive()
    }
}

/// One certificate as PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode_config(&Pem::new("CERTIFICATE", der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}
