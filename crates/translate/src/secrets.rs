//! Secrets that a proxy serves and connects with, from its own namespace and no other.

use mizzen_api::{core::Secret, istio::ServerTls};
use mizzen_model::ProxyType;
use mizzen_protos::envoy::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3 as tls,
};
use mizzen_types::Name;

use crate::{
    draft, gateway,
    origination::{self, Part},
    scope::Scope,
};

const SCHEME: &str = "kubernetes://";
/// Ends the names of authorities.
const CA: &str = "-cacert";

/// The resource of a Secret's certificate and key.
pub(crate) fn certificate_name(credential: &str) -> String {
    format!("{SCHEME}{credential}")
}

/// The resource of the authorities in a Secret, or in its companion.
pub(crate) fn authorities_name(credential: &str) -> String {
    format!("{SCHEME}{credential}{CA}")
}

/// What a resource's name asks for.
enum Asked<'n> {
    /// The certificate and key of a Secret.
    Certificate(&'n str),
    /// The authorities of the companion of a Secret, or its own.
    Authorities(&'n str),
}

/// Reads a resource's name. None if it is no such name, or if neither a Gateway that this proxy serves nor a rule by which it connects names the Secret: a
/// proxy is given what it serves and connects with, and nothing else of its namespace.
fn asked<'n>(scope: &Scope<'_, '_>, name: &'n str) -> Option<Asked<'n>> {
    let wanted = name.strip_prefix(SCHEME)?;
    let ended = |named: &dyn Fn(&ServerTls) -> bool| scope.view.kind(scope.reader) == ProxyType::Router && gateway::ended(scope).any(named);
    let (asked, is_named) = match wanted.strip_suffix(CA) {
        None => {
            let is_served = ended(&|tls| tls.credentials.iter().any(|named| named == wanted));
            (Asked::Certificate(wanted), is_served || origination::names(scope, wanted, Part::Certificate))
        }
        Some(owner) => {
            let is_served = ended(&|tls| tls.authorities() == Some(owner));
            (Asked::Authorities(owner), is_served || origination::names(scope, owner, Part::Authorities))
        }
    };
    is_named.then_some(asked)
}

/// The name of a Secret of the proxy's own namespace; `None` if it is written with another one's.
fn own<'n>(scope: &Scope<'_, '_>, credential: &'n str) -> Option<&'n str> {
    match credential.split_once('/') {
        Some((namespace, name)) => scope.is_in(namespace).then_some(name),
        None => Some(credential),
    }
}

/// The Secrets of the proxy's namespace in which a resource may be found; none if it may have none of that name.
pub(crate) fn behind(scope: &Scope<'_, '_>, name: &str) -> Vec<Name> {
    match asked(scope, name) {
        None => Vec::new(),
        Some(Asked::Certificate(credential)) => own(scope, credential).map(Name::from).into_iter().collect(),
        Some(Asked::Authorities(owner)) => {
            own(scope, owner).map(|owner| vec![format!("{owner}{CA}").into(), owner.into()]).unwrap_or_default()
        }
    }
}

/// A secret by its resource's name.
///
/// What a tenant may read of others' secrets hangs on this: they are those of the namespace of the identity that the proxy has proved.
pub(crate) fn build(scope: &Scope<'_, '_>, name: &str) -> Option<draft::Secret> {
    let secret = match asked(scope, name)? {
        Asked::Certificate(credential) => certificate(scope, credential)?,
        Asked::Authorities(owner) => authorities(scope, owner)?,
    };
    Some(draft::Secret(tls::Secret { name: name.into(), r#type: Some(secret) }.into()))
}

fn certificate(scope: &Scope<'_, '_>, credential: &str) -> Option<tls::secret::Type> {
    let (chain, key) = scope.view.own_secret(scope.reader, own(scope, credential)?)?.certificate()?;
    Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ..Default::default()
    }))
}

/// The companion's come first, as with Istio; where there is no companion, the Secret's own.
fn authorities(scope: &Scope<'_, '_>, owner: &str) -> Option<tls::secret::Type> {
    let owner = own(scope, owner)?;
    let companion = scope.view.own_secret(scope.reader, &format!("{owner}{CA}"));
    let found = companion.or_else(|| scope.view.own_secret(scope.reader, owner)).and_then(Secret::authorities)?;
    Some(tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
        trusted_ca: Some(inline(found.certificates)),
        crl: (!found.revoked.is_empty()).then(|| inline(found.revoked)),
        ..Default::default()
    }))
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..Default::default() }
}
