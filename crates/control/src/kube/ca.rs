//! The CA's key and certificates in Secrets of the control plane's own namespace, under Istio's names.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, pin_mut, stream::select};
use k8s_openapi::{ByteString, api::core::v1 as k8s, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_types::TrustDomain;
use tokio::sync::watch;

use super::watch::{Told, one, words};
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

/// Takes another CA when its Secret has one, without a restart, for as long as it is polled.
///
/// One is taken if whoever believes the present roots believes it: so nobody is refused who has not heard of it yet. A new root comes in three steps, in each
/// of which proxies have time to follow: both roots in `root-cert.pem`, then the new key, then the new root alone.
pub(crate) async fn follow(client: Client, namespace: String, authority: watch::Sender<Arc<Ca>>) {
    let secrets: Api<k8s::Secret> = Api::namespaced(client, &namespace);
    let follow = |name: &'static str| {
        let told = Told::of_own(format!("Secret {namespace}/{name}"), "the present CA stays");
        one(secrets.clone(), name, told).map(move |found| (name, found))
    };
    let secrets = select(follow(PLUGGED_IN), follow(SELF_SIGNED));
    pin_mut!(secrets);
    let (mut known, mut said) = (BTreeMap::new(), None);
    while let Some((name, secret)) = secrets.next().await {
        known.insert(name, secret);
        // Which one counts can be said when both are known.
        let [Some(plugged_in), Some(own)] = SECRETS.map(|name| known.get(name).map(|secret| Some((name, secret.as_ref()?)))) else {
            continue;
        };
        let found = plugged_in.or(own);
        let reason = match found {
            Some((name, secret)) => {
                let next = successor(&authority.borrow(), secret.clone(), UnixTime::now());
                next.map(|next| {
                    if let Some(ca) = next {
                        taken(&authority, ca, &format!("{namespace}/{name}"))
                    }
                })
                .map_err(|reason| format!("Secret {namespace}/{name}: {reason}"))
            }
            None => Err(format!(
                "neither Secret {PLUGGED_IN} nor {SELF_SIGNED} is in namespace {namespace} any more: the next start makes another CA, which no proxy believes"
            )),
        };
        if said != reason.clone().err()
            && let Err(reason) = &reason
        {
            tracing::error!("the present CA stays: {reason}");
        }
        said = reason.err();
    }
}

/// The CA of a Secret, unless it is the present one.
///
/// # Errors
/// If it is none, or nobody would believe it.
fn successor(present: &Ca, secret: k8s::Secret, now: UnixTime) -> Result<Option<Ca>, String> {
    let ca = read(secret, present.limits())?;
    if ca.to_pem().expose() == present.to_pem().expose() {
        return Ok(None);
    }
    ca.is_believed_by(ca.roots(), now).map_err(|error| format!("{ROOT_KEY} is not its root ({error})"))?;
    ca.is_believed_by(present.roots(), now).map_err(|error| {
        format!("its root is not among the present ones ({error}): write both roots into {ROOT_KEY} first, and the new key when all proxies have them")
    })?;
    Ok(Some(ca))
}

fn taken(authority: &watch::Sender<Arc<Ca>>, ca: Ca, secret: &str) {
    let before = authority.borrow().clone();
    let gone = before.roots().roots().iter().filter(|root| !ca.roots().roots().contains(root)).count();
    tracing::info!(secret, until = ca.not_after().as_secs(), roots = ca.roots().roots().len(), "another CA is taken");
    if gone > 0 {
        tracing::warn!(secret, gone, "roots are no longer believed, nor are the certificates under them that are out");
    }
    authority.send_replace(Arc::new(ca));
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

    /// A CA's own Secret with these roots beside it.
    fn with_roots(ca: &Ca, roots: &[&Ca]) -> k8s::Secret {
        let roots = roots.iter().map(|root| root.chain_pem()).collect();
        secret(&[("ca-cert.pem", ca.chain_pem()), ("ca-key.pem", ca.key_pem().expose().to_owned()), ("root-cert.pem", roots)])
    }

    #[test]
    fn a_successor_is_believed() {
        let now = UnixTime::now();
        let [old, new] = [(); 2].map(|()| Ca::self_signed(&TrustDomain::default(), now, CaLimits::default()).unwrap());
        let both = read(with_roots(&old, &[&old, &new]), CaLimits::default()).unwrap();
        let check = |present: &Ca, secret: k8s::Secret, wanted: Result<bool, &str>| {
            let found = successor(present, secret, now).map(|ca| ca.is_some());
            match (found, wanted) {
                (Err(reason), Err(wanted)) => assert!(reason.contains(wanted), "{reason}"),
                (found, wanted) => assert_eq!(found, wanted.map_err(str::to_owned)),
            }
        };
        check(&old, with_roots(&old, &[&old]), Ok(false));
        check(&old, with_roots(&new, &[&new]), Err("write both roots into root-cert.pem first"));
        check(&old, with_roots(&new, &[&old, &new]), Err("write both roots into root-cert.pem first"));
        check(&old, with_roots(&old, &[&old, &new]), Ok(true));
        check(&both, with_roots(&new, &[&old, &new]), Ok(true));
        check(&both, with_roots(&new, &[&new]), Ok(true));
        check(&both, with_roots(&new, &[&old]), Err("root-cert.pem is not its root"));
        check(&both, secret(&[]), Err("has no ca-key.pem"));
    }
}
