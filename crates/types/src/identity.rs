//! Workload identities: SPIFFE ids in Istio's form.

use std::{fmt, str::FromStr, sync::Arc};

use crate::name::{check_dns_label, check_dns_subdomain};

/// A SPIFFE trust domain: lower-case letters, digits, dots, hyphens and underscores, 1 to 255 of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// A workload's identity, `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The Kubernetes service account.
    pub service_account: Arc<str>,
}

/// Why a text is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a trust domain by the SPIFFE-ID specification, section 2.1.
    #[error("`{0}` is not a trust domain: 1 to 255 lower-case letters, digits, dots, hyphens and underscores")]
    TrustDomain(String),
    /// Not of Istio's form.
    #[error("`{0}` is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Form(String),
}

impl TrustDomain {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// Istio's default, `cluster.local`.
    fn default() -> Self {
        TrustDomain("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(TrustDomain(text.into()))
        } else {
            Err(IdentityError::TrustDomain(text.to_owned()))
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(text.to_owned());
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (domain, ns, namespace, sa, account) =
            match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(domain), Some(ns), Some(namespace), Some(sa), Some(account), None) => (domain, ns, namespace, sa, account),
                _ => return Err(form()),
            };
        if ns != "ns" || sa != "sa" || check_dns_label(namespace).is_err() || check_dns_subdomain(account).is_err() {
            return Err(form());
        }
        Ok(SpiffeId { trust_domain: domain.parse()?, namespace: namespace.into(), service_account: account.into() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let text = "spiffe://cluster.local/ns/shop/sa/reviews";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!((id.trust_domain.as_str(), &*id.namespace, &*id.service_account), ("cluster.local", "shop", "reviews"));
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/sa/a/ns/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "spiffe://u@cluster.local/ns/a/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
