//! Host names, with Istio's wildcards.

use std::{fmt, str::FromStr, sync::Arc};

use crate::name::check_dns_label;

/// A DNS name, lower case, without a trailing dot; `*` or `*.suffix` where a wildcard is allowed.
///
/// Istio compares hosts without regard to case; the lower case is kept from the start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

/// Why a text is not a host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Longer than the 253 characters of RFC 1035, or empty.
    #[error("a host name has 1 to 253 characters, this one has {0}")]
    Length(usize),
    /// A label is not made of letters, digits and inner hyphens, or `*` stands elsewhere than first.
    #[error("`{0}` is not a valid part of a host name (letters, digits and inner hyphens, 1 to 63 of them)")]
    Label(String),
}

impl Hostname {
    /// The text, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `*` or starts with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether it has no dot: a short name, to be completed by the namespace of who wrote it.
    pub fn is_short(&self) -> bool {
        !self.0.contains('.') && !self.is_wildcard()
    }

    /// The host name that a short name means in `namespace`; others stay as they are.
    ///
    /// A name with dots is taken as it is written, as Istio does: `reviews.shop` is not completed.
    #[must_use]
    pub fn qualify(&self, namespace: &str, domain: &str) -> Hostname {
        if self.is_short() { Hostname(format!("{}.{namespace}.svc.{domain}", self.0).into()) } else { self.clone() }
    }

    /// Whether every name that `other` stands for is one that `self` stands for. `*.x` does not cover `x`.
    pub fn covers(&self, other: &Hostname) -> bool {
        if &*self.0 == "*" {
            return true;
        }
        match self.0.strip_prefix('*') {
            None => self.0 == other.0,
            Some(suffix) => {
                let rest = other.0.strip_prefix('*').unwrap_or(&other.0);
                rest.ends_with(suffix) && (rest.len() > suffix.len() || other.is_wildcard())
            }
        }
    }

    /// Whether some name is covered by both.
    pub fn overlaps(&self, other: &Hostname) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 253 {
            return Err(HostnameError::Length(name.len()));
        }
        if name != "*" {
            for label in name.strip_prefix("*.").unwrap_or(name).split('.') {
                let lower = label.to_ascii_lowercase();
                // Underscores are no host names by RFC 952, but real external services have them.
                check_dns_label(&lower.replace('_', "a")).map_err(|_| HostnameError::Label(label.to_owned()))?;
            }
        }
        Ok(Hostname(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        text.parse().unwrap()
    }

    #[test]
    fn covers() {
        for (wide, narrow, expected) in [
            ("*", "a.b", true),
            ("*.b", "a.b", true),
            ("*.b", "x.a.b", true),
            ("*.b", "b", false),
            ("*.b", "*.b", true),
            ("*.b", "*.a.b", true),
            ("*.a.b", "*.b", false),
            ("a.b", "A.B.", true),
            ("a.b", "*", false),
            ("*.b", "ab", false),
        ] {
            assert_eq!(host(wide).covers(&host(narrow)), expected, "{wide} covers {narrow}");
        }
    }

    #[test]
    fn refused() {
        for text in ["", ".", "a..b", "-a", "a-", "a.*", "*a.b", "a b", &"a".repeat(64), &"a.".repeat(130)] {
            assert!(text.parse::<Hostname>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn qualify() {
        assert_eq!(host("reviews").qualify("shop", "cluster.local").as_str(), "reviews.shop.svc.cluster.local");
        assert_eq!(host("reviews.shop").qualify("x", "cluster.local").as_str(), "reviews.shop");
        assert_eq!(host("*").qualify("x", "cluster.local").as_str(), "*");
    }
}
