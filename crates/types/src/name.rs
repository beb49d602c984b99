//! Kubernetes names.

use std::{fmt, str::FromStr, sync::Arc};

/// The name of an object in a namespace, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace; empty for what belongs to none.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// Why a text is not a Kubernetes name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a label of RFC 1123.
    #[error("`{0}` is not a valid name: 1 to 63 lower-case letters, digits and inner hyphens")]
    Label(String),
    /// Not a subdomain of RFC 1123.
    #[error("`{0}` is not a valid name: lower-case letters, digits, inner hyphens and dots, at most 253 characters")]
    Subdomain(String),
    /// No slash.
    #[error("`{0}` is not of the form namespace/name")]
    Form(String),
}

/// Checks a label of RFC 1123: the names of namespaces, services and ports' owners.
///
/// # Errors
/// If `text` is not 1 to 63 lower-case letters, digits and inner hyphens.
pub fn check_dns_label(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    let ends = !text.starts_with('-') && !text.ends_with('-');
    if inner && ends && (1..=63).contains(&bytes.len()) { Ok(()) } else { Err(NameError::Label(text.to_owned())) }
}

/// Checks a subdomain of RFC 1123: the names of most Kubernetes objects.
///
/// # Errors
/// If `text` is longer than 253 characters or one of its dotted parts is no label (parts may be longer than 63).
pub fn check_dns_subdomain(text: &str) -> Result<(), NameError> {
    let part = |p: &str| {
        !p.is_empty()
            && !p.starts_with('-')
            && !p.ends_with('-')
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 253 && text.split('.').all(part) { Ok(()) } else { Err(NameError::Subdomain(text.to_owned())) }
}

impl NamespacedName {
    /// From its parts, which the caller has checked.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        NamespacedName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for NamespacedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameError::Form(text.to_owned()))?;
        check_dns_label(namespace)?;
        check_dns_subdomain(name)?;
        Ok(NamespacedName::new(namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, ok) in
            [("shop/reviews", true), ("shop/a.b", true), ("shop", false), ("Shop/a", false), ("a/", false), ("/a", false), ("a/b/c", false)]
        {
            assert_eq!(text.parse::<NamespacedName>().is_ok(), ok, "{text}");
        }
    }
}
