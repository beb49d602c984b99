//! Roots of trust.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::PkiError;

/// The roots that are believed, without duplicates, in the order given; and what they have revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrustBundle {
    roots: Vec<CertificateDer<'static>>,
    /// Lists in DER, each of which can be read.
    revoked: Vec<Vec<u8>>,
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

    /// Adds lists of revoked certificates from PEM. As soon as there is one, each authority of a chain must have a list that has not expired: of whom it is
    /// not known what is revoked, nothing is believed.
    ///
    /// # Errors
    /// If there is none, or one of them cannot be read: they are taken whole or not at all.
    pub fn revoke(&mut self, pem: &[u8]) -> Result<(), PkiError> {
        let bad = |reason: String| PkiError::Pem { what: "list of revoked certificates", reason };
        let mut lists = Vec::new();
        for der in CertificateRevocationListDer::pem_slice_iter(pem) {
            let der = der.map_err(|e| bad(format!("{e:?}")))?;
            OwnedCertRevocationList::from_der(&der).map_err(|e| bad(e.to_string()))?;
            lists.push(der.to_vec());
        }
        if lists.is_empty() {
            return Err(bad("there is none".to_owned()));
        }
        self.revoked.extend(lists);
        Ok(())
    }

    /// Adds another bundle's roots, and what they have revoked.
    pub fn merge(&mut self, other: &TrustBundle) {
        for root in &other.roots {
            if !self.roots.contains(root) {
                self.roots.push(root.clone());
            }
        }
        for list in &other.revoked {
            if !self.revoked.contains(list) {
                self.revoked.push(list.clone());
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

    /// The lists as webpki wants them.
    pub(crate) fn revocations(&self) -> Vec<CertRevocationList<'static>> {
        self.revoked.iter().filter_map(|der| OwnedCertRevocationList::from_der(der).ok().map(CertRevocationList::Owned)).collect()
    }
}
