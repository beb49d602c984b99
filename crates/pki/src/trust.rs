//! Roots of trust.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::PkiError;

/// The roots that are believed, without duplicates, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
}

impl TrustBundle {
    /// From PEM with one or more certificates; other sections are skipped.
    ///
    /// # Errors
    /// If there is none, or one of them is no certificate: a bundle is taken whole or not at all.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PkiError> {
        let mut bundle = TrustBundle::default();
        for der in CertificateDer::pem_slice_iter(pem) {
            bundle.add(der.map_err(|e| PkiError::Pem { what: "trust bundle", reason: format!("{e:?}") })?)?;
        }
        if bundle.is_empty() { Err(PkiError::NoRoots) } else { Ok(bundle) }
    }

    /// From PEM what can be read as roots: for the system's own list, in which a certificate of a kind that is not understood is no reason to
    /// believe none of the others. It may be empty.
    pub fn readable(pem: &[u8]) -> Self {
        let mut bundle = TrustBundle::default();
        for der in CertificateDer::pem_slice_iter(pem).flatten() {
            let _ = bundle.add(der);
        }
        bundle
    }

    /// Adds one root, unless it is there.
    ///
    /// # Errors
    /// If it is no certificate.
    pub fn add(&mut self, root: CertificateDer<'static>) -> Result<(), PkiError> {
        webpki::anchor_from_trusted_cert(&root).map_err(|e| PkiError::Certificate(e.to_string()))?;
        if !self.roots.contains(&root) {
            self.roots.push(root);
        }
        Ok(())
    }

    /// Adds another bundle's roots.
    pub fn merge(&mut self, other: &TrustBundle) {
        for root in &other.roots {
            if !self.roots.contains(root) {
                self.roots.push(root.clone());
            }
        }
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Whether it trusts nobody.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// As PEM, one section after the other.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(|der| crate::svid::certificate_pem(der)).collect()
    }

    /// As webpki wants them.
    pub(crate) fn anchors(&self) -> Vec<TrustAnchor<'static>> {
        self.roots.iter().filter_map(|der| webpki::anchor_from_trusted_cert(der).ok().map(|a| a.to_owned())).collect()
    }
}
