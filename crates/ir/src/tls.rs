//! rustls' configurations, built from the TLS that resources describe and the secrets they name.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use mizzen_pki::tls::{TlsOptions, Version, client_config, server_config_with};
use mizzen_pki::{PkiError, SanMatch, TimeProvider, TrustBundle};
use mizzen_types::Name;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{
    CertificateSecret, ContentHash, DownstreamTls, Names, Roots, SecretRef, TlsCommon, TlsVersion, UpstreamTls, Validation,
    ValidationSecret,
};

/// Why TLS cannot be built (yet).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsRefusal {
    /// A secret is not there.
    #[error("secret `{0}` is not there")]
    Missing(Name),
    /// It cannot be done.
    #[error("{0}")]
    Unfit(String),
}

impl From<PkiError> for TlsRefusal {
    fn from(error: PkiError) -> Self {
        TlsRefusal::Unfit(error.to_string())
    }
}

/// The secrets that TLS is built from.
#[derive(Clone, Copy, Debug)]
pub struct Secrets<'a> {
    /// Certificates with their keys.
    pub certificates: &'a Names<CertificateSecret>,
    /// Roots.
    pub validations: &'a Names<ValidationSecret>,
    /// The clock by which certificates are judged.
    pub time: &'a Arc<dyn TimeProvider>,
}

/// Something built, and from which secrets: with the same ones it is taken over, sessions included.
#[derive(Clone, Debug)]
struct Built<T> {
    from: Vec<ContentHash>,
    config: Arc<T>,
}

/// What is built, by the content of what it was built from.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsTable {
    server: Arc<HashMap<ContentHash, Built<rustls::ServerConfig>>>,
    client: Arc<HashMap<ContentHash, Built<rustls::ClientConfig>>>,
}

impl TlsTable {
    pub(crate) fn server(&self, tls: &DownstreamTls) -> Option<&Arc<rustls::ServerConfig>> {
        self.server.get(&tls.hash).map(|b| &b.config)
    }

    pub(crate) fn client(&self, tls: &UpstreamTls) -> Option<&Arc<rustls::ClientConfig>> {
        self.client.get(&tls.hash).map(|b| &b.config)
    }

    /// Builds what listeners and clusters need, each under its own name; what is built from the same already is taken over. What cannot be built
    /// is returned.
    pub(crate) fn next<'a>(
        &self,
        listeners: impl Iterator<Item = (&'a Name, &'a DownstreamTls)>,
        clusters: impl Iterator<Item = (&'a Name, &'a UpstreamTls)>,
        secrets: &Secrets<'_>,
    ) -> (TlsTable, Vec<(Name, TlsRefusal)>) {
        let mut problems = Vec::new();
        let (mut server, mut client) = (HashMap::new(), HashMap::new());
        for (name, tls) in listeners {
            if let Entry::Vacant(entry) = server.entry(tls.hash) {
                match reuse(self.server.get(&tls.hash), &tls.common, secrets, || build_server(tls, secrets)) {
                    Ok(built) => drop(entry.insert(built)),
                    Err(e) => problems.push((name.clone(), e)),
                }
            }
        }
        for (name, tls) in clusters {
            if let Entry::Vacant(entry) = client.entry(tls.hash) {
                match reuse(self.client.get(&tls.hash), &tls.common, secrets, || build_client(tls, secrets)) {
                    Ok(built) => drop(entry.insert(built)),
                    Err(e) => problems.push((name.clone(), e)),
                }
            }
        }
        (TlsTable { server: Arc::new(server), client: Arc::new(client) }, problems)
    }
}

fn reuse<T>(
    old: Option<&Built<T>>,
    common: &TlsCommon,
    secrets: &Secrets<'_>,
    build: impl FnOnce() -> Result<Arc<T>, TlsRefusal>,
) -> Result<Built<T>, TlsRefusal> {
    let from = secrets.hashes(common)?;
    match old {
        Some(old) if old.from == from => Ok(Built { from, config: old.config.clone() }),
        _ => Ok(Built { from, config: build()? }),
    }
}

impl<'a> Secrets<'a> {
    fn certificate(&self, secret: &SecretRef) -> Result<&'a Arc<CertificateSecret>, TlsRefusal> {
        self.certificates.get(&secret.name).ok_or_else(|| TlsRefusal::Missing(secret.name.clone()))
    }

    fn validation(&self, secret: &SecretRef) -> Result<&'a Arc<ValidationSecret>, TlsRefusal> {
        self.validations.get(&secret.name).ok_or_else(|| TlsRefusal::Missing(secret.name.clone()))
    }

    fn hashes(&self, common: &TlsCommon) -> Result<Vec<ContentHash>, TlsRefusal> {
        let mut hashes = common.certificates.iter().map(|c| Ok(self.certificate(c)?.hash)).collect::<Result<Vec<_>, TlsRefusal>>()?;
        if let Some(Roots::Secret(secret)) = common.validation.as_ref().map(|v| &v.roots) {
            hashes.push(self.validation(secret)?.hash);
        }
        Ok(hashes)
    }

    /// Who may have signed, and whom the certificate must name. Names of the resource and of the secret add up, as in Envoy.
    fn trust(&self, validation: &Validation) -> Result<(TrustBundle, Vec<SanMatch>), TlsRefusal> {
        let mut names = validation.sans.to_vec();
        match &validation.roots {
            Roots::Inline(given) => Ok((given.roots.clone(), names)),
            Roots::Secret(secret) => {
                let secret = self.validation(secret)?;
                names.extend(secret.sans.iter().cloned());
                Ok((secret.roots.clone(), names))
            }
        }
    }
}

fn options(common: &TlsCommon, resumption: bool, time: &Arc<dyn TimeProvider>) -> Result<TlsOptions, TlsRefusal> {
    let provider = mizzen_pki::restricted_provider(&common.ciphers, &common.curves);
    let provider = provider.ok_or_else(|| TlsRefusal::Unfit("no cipher suite or curve remains".to_owned()))?;
    let version = |v| match v {
        TlsVersion::V12 => Version::Tls12,
        TlsVersion::V13 => Version::Tls13,
    };
    let alpn = common.alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
    Ok(TlsOptions { provider, alpn, min: version(common.min), max: version(common.max), resumption, time: time.clone() })
}

/// rustls' configuration of a server. Sessions that it hands out are resumed by it alone, so under the same checks.
///
/// # Errors
/// If a secret is missing or does not fit.
pub fn build_server(tls: &DownstreamTls, secrets: &Secrets<'_>) -> Result<Arc<rustls::ServerConfig>, TlsRefusal> {
    let certificates = tls.common.certificates.iter().map(|c| Ok(secrets.certificate(c)?.svid.certified_key()));
    let resolver = Resolver(certificates.collect::<Result<_, TlsRefusal>>()?);
    let verifier = match &tls.common.validation {
        None => None,
        Some(validation) => {
            let (roots, names) = secrets.trust(validation)?;
            Some(mizzen_pki::client_verifier(&roots, names, tls.require_client_certificate)?)
        }
    };
    Ok(server_config_with(Arc::new(resolver), verifier, &options(&tls.common, tls.resumption, secrets.time)?)?)
}

/// rustls' configuration of a client. Sessions are kept in it alone, so they are resumed under the same checks.
///
/// # Errors
/// If a secret is missing or does not fit.
pub fn build_client(tls: &UpstreamTls, secrets: &Secrets<'_>) -> Result<Arc<rustls::ClientConfig>, TlsRefusal> {
    let svid = tls.common.certificates.first().map(|c| secrets.certificate(c)).transpose()?.map(|c| &c.svid);
    let verifier = match &tls.common.validation {
        None => mizzen_pki::accept_any_server(),
        Some(validation) => {
            let (roots, names) = secrets.trust(validation)?;
            if tls.verify_server_name { mizzen_pki::server_verifier_by_name(&roots)? } else { mizzen_pki::server_verifier(&roots, names)? }
        }
    };
    Ok(client_config(svid, verifier, &options(&tls.common, true, secrets.time)?)?)
}

/// The first certificate that the client can verify; of none, the first.
#[derive(Debug)]
struct Resolver(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |k: &&Arc<CertifiedKey>| k.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    let suites = &rustls::crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES;
    let hash = suites.iter().find_map(|s| {
        let provider = s.tls13()?.common.hash_provider;
        (provider.output_len() == 32).then(|| provider.hash(bytes))
    });
    hash.map(|h| h.as_ref().iter().map(|b| format!("{b:02x}")).collect()).unwrap_or_default()
}
