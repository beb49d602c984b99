//! The CA's key and certificates in Secrets of the control plane's own namespace, under Istio's names.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1 as k8s, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_types::TrustDomain;

use super::watch::words;
use crate::{
    Error,
    names::{PLUGGED_IN, ROOT_KEY, SELF_SIGNED},
};

/// The Secrets of the mesh's authority.
pub(crate) const SECRETS: [&str; 2] = [PLUGGED_IN, SELF_SIGNED];
/// The type of the secret that the control plane makes for itself, as Istio does, with `ca-cert.pem` and `ca-key.pem`. An administrator provides
/// `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`; or `tls.crt`, `tls.key`, `ca.crt`.
const SELF_SIGNED_TYPE: &str = "istio.io/ca-root";

/// The CA of a cluster: what an administrator has provided, else what an earlier start has made, else a new one, which is kept.
///
/// # Errors
/// If a secret cannot be read or written, or what is in it is no CA. Then nothing else is taken in its place: identities of another root would be
/// worth nothing to those that are out.
pub(crate) async fn load(client: &Client, namespace: &str, trust_domain: &TrustDomain, limits: CaLimits) -> Result<Ca, Error> {
    let secrets: Api<k8s::Secret> = Api::namespaced(client.clone(), namespace);
    let get = async |name: &str| {
        let found = secrets.get_opt(name).await;
        found.map_err(|error| Error::Cluster(format!("Secret {namespace}/{name} cannot be read: {}", words(&error))))
    };
    let bad = |name: &str, reason: String| Error::Cluster(format!("Secret {namespace}/{name}: {reason}"));
    for name in SECRETS {
        if let Some(secret) = get(name).await? {
            tracing::info!(secret = format!("{namespace}/{name}"), "the CA is taken from a secret");
            return read(secret, limits).map_err(|reason| bad(name, reason));
        }
    }
    let ca = Ca::self_signed(trust_domain, UnixTime::now(), limits)?;
    let data = BTreeMap::from([
        ("ca-cert.pem".to_owned(), ByteString(ca.chain_pem().into_bytes())),
        ("ca-key.pem".to_owned(), ByteString(ca.key_pem().expose().as_bytes().to_vec())),
        (ROOT_KEY.to_owned(), ByteString(ca.roots().to_pem().into_bytes())),
    ]);
    let metadata = ObjectMeta { name: Some(SELF_SIGNED.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
    let secret = k8s::Secret { metadata, data: Some(data), type_: Some(SELF_SIGNED_TYPE.to_owned()), ..k8s::Secret::default() };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => {
            tracing::info!(secret = format!("{namespace}/{SELF_SIGNED}"), "a new self-signed CA is made");
            Ok(ca)
        }
        // Another replica was faster: there is one CA.
        Err(kube::Error::Api(status)) if status.code == 409 => match get(SELF_SIGNED).await? {
            Some(secret) => read(secret, limits).map_err(|reason| bad(SELF_SIGNED, reason)),
            None => Err(bad(SELF_SIGNED, "was made by somebody else, and is gone".to_owned())),
        },
        Err(error) => Err(bad(SELF_SIGNED, format!("cannot be made: {}", words(&error)))),
    }
}

fn read(secret: k8s::Secret, limits: CaLimits) -> Result<Ca, String> {
    let data = secret.data.unwrap_or_default();
    let text = |names: &[&str]| -> Result<Option<String>, String> {
        let found = names.iter().find_map(|name| Some((name, data.get(*name).filter(|bytes| !bytes.0.is_empty())?)));
        found.map(|(name, bytes)| String::from_utf8(bytes.0.clone()).map_err(|_| format!("{name} is no PEM"))).transpose()
    };
    let need = |names: &[&str]| text(names)?.ok_or_else(|| format!("has no {}", names.join(" or ")));
    let key = need(&["ca-key.pem", "tls.key"])?;
    let own = need(&["ca-cert.pem", "tls.crt"])?;
    let chain = text(&["cert-chain.pem"])?.unwrap_or_default();
    // A CA that has signed itself is its own root.
    let roots = text(&[ROOT_KEY, "ca.crt"])?.unwrap_or_else(|| own.clone());
    Ca::from_parts(&key, format!("{}\n{}", own.trim_end(), chain).as_bytes(), roots.as_bytes(), limits).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: &[(&str, String)]) -> k8s::Secret {
        let data = data.iter().map(|(name, text)| ((*name).to_owned(), ByteString(text.clone().into_bytes()))).collect();
        k8s::Secret { data: Some(data), ..k8s::Secret::default() }
    }

    #[test]
    fn secrets_of_both_kinds() {
        let ca = Ca::self_signed(&TrustDomain::default(), UnixTime::now(), CaLimits::default()).unwrap();
        let (key, own) = (ca.key_pem().expose().to_owned(), ca.chain_pem());
        let limits = CaLimits::default();
        for names in [["ca-cert.pem", "ca-key.pem", "root-cert.pem"], ["tls.crt", "tls.key", "ca.crt"]] {
            let full = secret(&[(names[0], own.clone()), (names[1], key.clone()), (names[2], own.clone())]);
            assert_eq!(read(full, limits).unwrap().roots(), ca.roots(), "{names:?}");
        }
        // Istio's own has no root of its own, and an administrator's chain names the CA's certificate again.
        let doubled = secret(&[("ca-cert.pem", own.clone()), ("ca-key.pem", key.clone()), ("cert-chain.pem", format!("{own}{own}"))]);
        assert_eq!(read(doubled, limits).unwrap().chain_pem(), own);
        for (without, reason) in [("ca-key.pem", "has no ca-key.pem or tls.key"), ("ca-cert.pem", "has no ca-cert.pem or tls.crt")] {
            let parts = [("ca-cert.pem", own.clone()), ("ca-key.pem", key.clone())];
            let parts: Vec<_> = parts.into_iter().filter(|(name, _)| *name != without).collect();
            assert_eq!(read(secret(&parts), limits).unwrap_err(), reason);
        }
        let other = Ca::self_signed(&TrustDomain::default(), UnixTime::now(), limits).unwrap();
        let mixed = secret(&[("ca-cert.pem", own), ("ca-key.pem", other.key_pem().expose().to_owned())]);
        assert!(read(mixed, limits).unwrap_err().contains("does not belong"));
    }
}
