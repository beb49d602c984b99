//! Private keys, and the requests made with them.

use std::fmt;

use mizzen_types::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, SanType};
use zeroize::Zeroizing;

use crate::PkiError;

/// Text that must not be seen: a PEM key. It is never printed by `Debug` and is overwritten when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps.
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// The text. Whoever calls this takes care of it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A private key with its public half; new ones are ECDSA on P-256.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// A new key.
    ///
    /// # Errors
    /// If the library has no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        rcgen::KeyPair::generate().map(KeyPair).map_err(|e| PkiError::Crypto(e.to_string()))
    }

    /// From PEM: PKCS #8, SEC1 or PKCS #1.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        rcgen::KeyPair::from_pem(pem).map(KeyPair).map_err(|e| PkiError::Key(e.to_string()))
    }

    /// As PEM.
    pub fn to_pem(&self) -> Secret {
        Secret::new(self.0.serialize_pem())
    }

    /// A PKCS #10 request in PEM, with an empty subject and, if given, the identity as its only name. The CA does not believe the name.
    ///
    /// # Errors
    /// If signing fails.
    pub fn csr(&self, id: Option<&SpiffeId>) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            let name = id.to_string().try_into().map_err(|e: rcgen::Error| PkiError::Crypto(e.to_string()))?;
            params.subject_alt_names = vec![SanType::URI(name)];
        }
        let request = params.serialize_request(&self.0).map_err(|e| PkiError::Crypto(e.to_string()))?;
        request.pem().map_err(|e| PkiError::Crypto(e.to_string()))
    }

    pub(crate) fn inner(&self) -> &rcgen::KeyPair {
        &self.0
    }

    pub(crate) fn into_inner(self) -> rcgen::KeyPair {
        self.0
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair([redacted])")
    }
}
