//! Namespace, ServiceAccount, ConfigMap, Secret.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    Meta,
    read::{At, Fields, quoted},
};

/// Namespaces of Kubernetes' own, in which nothing of a mesh runs, as Istio has them.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

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

/// Whom a secret's owner trusts, as PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorities<'a> {
    /// The certificates of the authorities.
    pub certificates: &'a [u8],
    /// What they have revoked: lists of theirs; empty: none is there, and nothing is looked up.
    pub revoked: &'a [u8],
}

impl std::fmt::Debug for Secret {
    /// Without the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({}/{}, keys {:?})", self.meta.namespace, self.meta.name, self.data.keys())
    }
}

impl Namespace {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.ignore(&["spec"]);
        Namespace { meta }
    }
}

impl ServiceAccount {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.ignore(&["secrets", "imagePullSecrets", "automountServiceAccountToken"]);
        ServiceAccount { meta }
    }
}

/// A key of a config map or a secret, which may become a file's name.
fn data_key(at: &At<'_>, key: &str) -> String {
    let allowed = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if key.is_empty() || key.len() > 253 || !allowed || key == "." || key.starts_with("..") {
        at.fail(format!("{} is no key: letters, digits, `-`, `_`, `.`", quoted(key)));
    }
    key.to_owned()
}

fn bytes(at: &At<'_>) -> Vec<u8> {
    let text: String = at.text().split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).unwrap_or_else(|_| {
        at.fail("is no base64");
        Vec::new()
    })
}

impl ConfigMap {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.ignore(&["immutable"]);
        let data = root.get("data").map(|at| at.entries()).unwrap_or_default();
        let data: BTreeMap<_, _> = data.into_iter().map(|(key, at)| (data_key(&at, key), at.text())).collect();
        let binary = root.get("binaryData").map(|at| at.entries()).unwrap_or_default();
        for (key, at) in &binary {
            if data.contains_key(*key) {
                at.fail("is in data too");
            }
        }
        ConfigMap { meta, data, binary_data: binary.into_iter().map(|(key, at)| (data_key(&at, key), bytes(&at))).collect() }
    }
}

impl Secret {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.ignore(&["immutable"]);
        let data = root.get("data").map(|at| at.entries()).unwrap_or_default();
        let mut data: BTreeMap<_, _> = data.into_iter().map(|(key, at)| (data_key(&at, key), bytes(&at))).collect();
        let texts = root.get("stringData").map(|at| at.entries()).unwrap_or_default();
        data.extend(texts.into_iter().map(|(key, at)| (data_key(&at, key), at.text().into_bytes())));
        Secret { meta, kind: root.opt_text("type").unwrap_or_else(|| "Opaque".to_owned()), data }
    }

    /// A certificate's chain, leaf first, and its key, as PEM: `cert` and `key`, or `tls.crt` and `tls.key`. `None` if it holds neither pair, in which
    /// nothing may be empty.
    pub fn certificate(&self) -> Option<(&[u8], &[u8])> {
        [("cert", "key"), ("tls.crt", "tls.key")].into_iter().find_map(|(chain, key)| Some((self.bytes(chain)?, self.bytes(key)?)))
    }

    /// The authorities of peers: `cacert` with `crl`, or `ca.crt` with `ca.crl`.
    pub fn authorities(&self) -> Option<Authorities<'_>> {
        let of =
            |(roots, revoked)| Some(Authorities { certificates: self.bytes(roots)?, revoked: self.bytes(revoked).unwrap_or_default() });
        [("cacert", "crl"), ("ca.crt", "ca.crl")].into_iter().find_map(of)
    }

    fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.data.get(key).map(Vec::as_slice).filter(|bytes| !bytes.is_empty())
    }
}
