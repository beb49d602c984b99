//! rustls' configurations, built from the TLS that resources describe and the secrets they name.

use std::collections::BTreeSet;
use std::sync::Arc;

use mizzen_pki::tls::{TlsOptions, Version, client_config, server_config_like, server_config_with};
use mizzen_pki::{PkiError, SanMatch, TimeProvider, TrustBundle};
use mizzen_types::Name;
use rpds::{HashTrieMapSync, RedBlackTreeSetSync};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{
    CertificateSecret, Cluster, ContentHash, DownstreamTls, Listener, Names, Roots, SecretRef, TlsCommon, TlsVersion, Transport,
    UpstreamTls, Validation, ValidationSecret,
};
use crate::few::Few;

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

/// What is built, by the content of what it was built from. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsTable {
    server: Side<DownstreamTls, rustls::ServerConfig>,
    client: Side<UpstreamTls, rustls::ClientConfig>,
}

/// One direction's.
#[derive(Clone, Debug)]
struct Side<O, T> {
    made: HashTrieMapSync<ContentHash, Made<O, T>>,
    /// Which name a secret.
    by_secret: HashTrieMapSync<Name, Few<ContentHash>>,
    /// Those that could not be built.
    failed: RedBlackTreeSetSync<ContentHash>,
    /// Those that are new since the last building, and those that somebody has left.
    due: Vec<ContentHash>,
    left: Vec<ContentHash>,
}

/// Options, who has them, and what was built of them.
#[derive(Debug)]
struct Made<O, T> {
    options: Arc<O>,
    /// Listeners or clusters.
    users: Few<Name>,
    built: Result<Built<T>, TlsRefusal>,
}

/// Something built, and from which secrets: with the same ones it is kept, sessions included.
#[derive(Debug)]
struct Built<T> {
    from: Arc<[ContentHash]>,
    config: Arc<T>,
}

/// What both directions' options have.
trait Options {
    fn hash(&self) -> ContentHash;
    fn common(&self) -> &TlsCommon;
}

impl Options for DownstreamTls {
    fn hash(&self) -> ContentHash {
        self.hash
    }

    fn common(&self) -> &TlsCommon {
        &self.common
    }
}

impl Options for UpstreamTls {
    fn hash(&self) -> ContentHash {
        self.hash
    }

    fn common(&self) -> &TlsCommon {
        &self.common
    }
}

impl TlsTable {
    pub(crate) fn server(&self, tls: &DownstreamTls) -> Option<&Arc<rustls::ServerConfig>> {
        self.server.get(tls.hash)
    }

    pub(crate) fn client(&self, tls: &UpstreamTls) -> Option<&Arc<rustls::ClientConfig>> {
        self.client.get(tls.hash)
    }

    /// A listener is there instead of another one, or of none; or is gone.
    pub(crate) fn replace_listener(&mut self, old: Option<&Listener>, new: Option<&Listener>) {
        let all = |l: &Listener| l.all_chains().filter_map(|chain| chain.tls.clone()).collect();
        self.server.replace(old.map(|l| (&l.name, all(l))), new.map(|l| (&l.name, all(l))));
    }

    /// A cluster is there instead of another one, or of none; or is gone.
    pub(crate) fn replace_cluster(&mut self, old: Option<&Cluster>, new: Option<&Cluster>) {
        let tls = |transport: &Transport| if let Transport::Tls(tls) = transport { Some(tls.clone()) } else { None };
        let all = |c: &Cluster| c.transport.all().filter_map(tls).collect();
        self.client.replace(old.map(|c| (&c.name, all(c))), new.map(|c| (&c.name, all(c))));
    }

    /// Builds what is new, and what these secrets concern; the clusters of which something was built anew, or cannot be any more.
    pub(crate) fn build(&mut self, changed: &BTreeSet<Name>, secrets: &Secrets<'_>) -> Vec<Name> {
        // Hosts of a gateway mostly differ by their certificates alone.
        let mut like = Vec::new();
        self.server.build(changed, secrets, |tls, secrets| build_server_like(&mut like, tls, secrets));
        self.client.build(changed, secrets, |tls, secrets| build_client(tls, secrets))
    }

    /// How much there is.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.server.len() + self.client.len()
    }

    /// What could not be built, each under one name of those that have it.
    pub(crate) fn unfit(&self) -> Vec<(Name, TlsRefusal)> {
        self.server.unfit().chain(self.client.unfit()).collect()
    }
}

impl<O: Options, T> Side<O, T> {
    fn get(&self, hash: ContentHash) -> Option<&Arc<T>> {
        self.made.get(&hash).and_then(|made| made.built.as_ref().ok()).map(|built| &built.config)
    }

    fn replace(&mut self, old: Option<(&Name, Vec<Arc<O>>)>, new: Option<(&Name, Vec<Arc<O>>)>) {
        let had = old.as_ref().map(|(_, all)| all.as_slice()).unwrap_or_default();
        if let Some((name, all)) = &new {
            all.iter().for_each(|options| self.add(options, name));
        }
        let stays = |hash| new.as_ref().is_some_and(|(_, all)| all.iter().any(|options| options.hash() == hash));
        if let Some((name, _)) = old {
            had.iter().filter(|options| !stays(options.hash())).for_each(|options| self.leave(options, name));
        }
    }

    fn add(&mut self, options: &Arc<O>, user: &Name) {
        let hash = options.hash();
        if let Some(made) = self.made.get_mut(&hash) {
            return made.users.insert(user.clone());
        }
        for secret in secrets_of(options.common()) {
            match self.by_secret.get_mut(&secret.name) {
                Some(all) => all.insert(hash),
                None => self.by_secret.insert_mut(secret.name.clone(), Few::One(hash)),
            }
        }
        let users = Few::One(user.clone());
        let unbuilt = Err(TlsRefusal::Unfit("it is not built yet".to_owned()));
        self.made.insert_mut(hash, Made { options: options.clone(), users, built: unbuilt });
        self.due.push(hash);
    }

    fn leave(&mut self, options: &Arc<O>, user: &Name) {
        if let Some(made) = self.made.get_mut(&options.hash()) {
            made.users.remove(user);
            self.left.push(options.hash());
        }
    }

    /// Drops what nobody has any more.
    fn drop_unused(&mut self) {
        for hash in std::mem::take(&mut self.left) {
            let unused = self.made.get(&hash).filter(|made| made.users.is_empty()).map(|made| made.options.clone());
            if let Some(options) = unused {
                self.forget(hash, &options);
            }
        }
    }

    fn forget(&mut self, hash: ContentHash, options: &O) {
        self.made.remove_mut(&hash);
        self.failed.remove_mut(&hash);
        for secret in secrets_of(options.common()) {
            if let Some(all) = self.by_secret.get_mut(&secret.name) {
                all.remove(&hash);
                if all.is_empty() {
                    self.by_secret.remove_mut(&secret.name);
                }
            }
        }
    }

    /// Builds what is due; whose it is of which another one was there before.
    fn build(
        &mut self,
        changed: &BTreeSet<Name>,
        secrets: &Secrets<'_>,
        mut build: impl FnMut(&Arc<O>, &Secrets<'_>) -> Result<Arc<T>, TlsRefusal>,
    ) -> Vec<Name> {
        self.drop_unused();
        let mut due: BTreeSet<ContentHash> = std::mem::take(&mut self.due).into_iter().collect();
        due.extend(changed.iter().filter_map(|name| self.by_secret.get(name)).flat_map(|all| all.iter()).copied());
        let mut rebuilt = Vec::new();
        for hash in due {
            let Some(made) = self.made.get(&hash) else { continue };
            let from = secrets.hashes(made.options.common());
            if let (Ok(old), Ok(from)) = (&made.built, &from)
                && *old.from == **from
            {
                continue;
            }
            let built = from.and_then(|from| Ok(Built { from: from.into(), config: build(&made.options, secrets)? }));
            if built.is_ok() || made.built.is_ok() {
                rebuilt.extend(made.users.iter().cloned());
            }
            if built.is_ok() {
                self.failed.remove_mut(&hash);
            } else {
                self.failed.insert_mut(hash);
            }
            if let Some(made) = self.made.get_mut(&hash) {
                made.built = built;
            }
        }
        rebuilt
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.made.size() + self.by_secret.size() + self.failed.size()
    }

    fn unfit(&self) -> impl Iterator<Item = (Name, TlsRefusal)> {
        let made = self.failed.iter().filter_map(|hash| self.made.get(hash));
        made.filter_map(|made| Some((made.users.first()?.clone(), made.built.as_ref().err()?.clone())))
    }
}

impl<O, T> Default for Side<O, T> {
    fn default() -> Self {
        Side {
            made: HashTrieMapSync::new_sync(),
            by_secret: HashTrieMapSync::new_sync(),
            failed: RedBlackTreeSetSync::new_sync(),
            due: Vec::new(),
            left: Vec::new(),
        }
    }
}

impl<O, T> Clone for Made<O, T> {
    fn clone(&self) -> Self {
        Made { options: self.options.clone(), users: self.users.clone(), built: self.built.clone() }
    }
}

impl<T> Clone for Built<T> {
    fn clone(&self) -> Self {
        Built { from: self.from.clone(), config: self.config.clone() }
    }
}

/// The secrets that options name.
fn secrets_of(common: &TlsCommon) -> impl Iterator<Item = &SecretRef> {
    let roots = common.validation.as_ref().and_then(|validation| match &validation.roots {
        Roots::Secret(secret) => Some(secret),
        Roots::Inline(_) => None,
    });
    common.certificates.iter().chain(roots)
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
    let resolver = resolver(tls, secrets)?;
    let verifier = match &tls.common.validation {
        None => None,
        Some(validation) => {
            let (roots, names) = secrets.trust(validation)?;
            Some(mizzen_pki::client_verifier(&roots, names, tls.require_client_certificate)?)
        }
    };
    Ok(server_config_with(Arc::new(resolver), verifier, &options(&tls.common, tls.resumption, secrets.time)?)?)
}

/// Configurations of servers that ask for no certificate of their clients, and what they were built of: one for each way to be set.
type Like = Vec<(Arc<DownstreamTls>, Arc<rustls::ServerConfig>)>;

/// So many ways are known: who has more shares less.
const WAYS: usize = 16;

/// As [`build_server`]: what is the same as in another one is shared with it.
fn build_server_like(like: &mut Like, tls: &Arc<DownstreamTls>, secrets: &Secrets<'_>) -> Result<Arc<rustls::ServerConfig>, TlsRefusal> {
    let is_same = |other: &DownstreamTls| {
        // All that a configuration is built of but certificates.
        let all = |tls: &DownstreamTls| {
            let TlsCommon { certificates: _, validation: _, alpn, min, max, ciphers, curves } = &tls.common;
            (alpn.clone(), *min, *max, ciphers.clone(), curves.clone(), tls.resumption)
        };
        all(other) == all(tls)
    };
    if tls.common.validation.is_some() {
        return build_server(tls, secrets);
    }
    if let Some((_, config)) = like.iter().find(|(other, _)| is_same(other)) {
        return Ok(server_config_like(config, Arc::new(resolver(tls, secrets)?)));
    }
    let config = build_server(tls, secrets)?;
    if like.len() < WAYS {
        like.push((tls.clone(), config.clone()));
    }
    Ok(config)
}

fn resolver(tls: &DownstreamTls, secrets: &Secrets<'_>) -> Result<Resolver, TlsRefusal> {
    let certificates = tls.common.certificates.iter().map(|c| Ok(secrets.certificate(c)?.svid.certified_key()));
    Ok(Resolver(certificates.collect::<Result<_, TlsRefusal>>()?))
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
struct Resolver(Box<[Arc<CertifiedKey>]>);

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
