//! Namespace, ServiceAccount, ConfigMap, Secret.

use std::collections::BTreeMap;

use crate::Meta;

/// A namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// Name, labels, origin.
    pub meta: Meta,
}

/// A service account.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceAccount {
    /// Name, labels, origin.
    pub meta: Meta,
}

/// A config map.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigMap {
    /// Name, labels, origin.
    pub meta: Meta,
    /// Texts.
    pub data: BTreeMap<String, String>,
    /// Bytes; no key is in both.
    pub binary_data: BTreeMap<String, Vec<u8>>,
}

/// A secret.
#[derive(Clone, PartialEq)]
pub struct Secret {
    /// Name, labels, origin.
    pub meta: Meta,
    /// `type`; `Opaque` if none was written.
    pub kind: String,
    /// The bytes, `stringData` included.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Secret {
    /// Without the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({}/{}, keys {:?})", self.meta.namespace, self.meta.name, self.data.keys())
    }
}
