//! Secrets that lie in files: `file-root:PATH`, `file-root:system`, `file-cert:CERT~KEY`, as Istio's agent names them; and `file-root:…~LIST`, with what
//! the authorities have revoked.
//!
//! A file is looked at again and again rather than watched: that also sees links that are swapped, as Kubernetes does with mounted secrets, and
//! needs nothing of the kernel. What cannot be used is never given out; the last good version stays.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mizzen_pki::{Secret, Svid, TrustBundle};
use mizzen_xds::server::Resource;
use tracing::{info, warn};

use crate::secret::{certificate, roots};

/// How often files are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that one stream may follow.
pub(crate) const MAX_FILES: usize = 256;
/// The largest file: the bundle of a system has about 250 KB.
const MAX_SIZE: u64 = 4 << 20;
/// Where systems keep the roots that they believe; the first that exists counts.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// No path: those of the system.
    Roots {
        path: Option<PathBuf>,
        revoked: Option<PathBuf>,
    },
    Certificate {
        chain: PathBuf,
        key: PathBuf,
    },
}

/// Whether a name is one of a file's, well-formed or not.
pub(crate) fn is_file(name: &str) -> bool {
    name.starts_with("file-root:") || name.starts_with("file-cert:")
}

fn place(name: &str) -> Result<Place, String> {
    let path = |text: &str| {
        // A relative path would mean something else wherever the agent is started.
        if text.starts_with('/') { Ok(PathBuf::from(text)) } else { Err(format!("`{text}` is no absolute path")) }
    };
    match name.split_once(':') {
        Some(("file-root", text)) => {
            let (text, revoked) = match text.split('~').collect::<Vec<_>>()[..] {
                [text] => (text, None),
                [text, revoked] => (text, Some(revoked)),
                _ => return Err("the form is file-root:AUTHORITIES or file-root:AUTHORITIES~LIST".to_owned()),
            };
            let roots = if text == "system" { None } else { Some(path(text)?) };
            Ok(Place::Roots { path: roots, revoked: revoked.map(path).transpose()? })
        }
        Some(("file-cert", text)) => match text.split('~').collect::<Vec<_>>()[..] {
            [chain, key] => Ok(Place::Certificate { chain: path(chain)?, key: path(key)? }),
            _ => Err("the form is file-cert:CERTIFICATE~KEY".to_owned()),
        },
        _ => Err("the name is no file's".to_owned()),
    }
}

/// The secrets of files that one stream has asked for.
#[derive(Debug, Default)]
pub(crate) struct Files(BTreeMap<String, File>);

#[derive(Debug, Default)]
struct File {
    good: Option<Resource>,
    /// Why it cannot be used at present: said once.
    bad: Option<String>,
}

impl Files {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Follows one more, if it is a file's name.
    pub(crate) fn follow(&mut self, name: &str) {
        if !is_file(name) || self.0.contains_key(name) {
            return;
        }
        if self.0.len() < MAX_FILES {
            self.0.insert(name.to_owned(), File::default());
        } else {
            warn!(name, "a stream asks for more than {MAX_FILES} secrets of files: this one counts as absent");
        }
    }

    /// Follows only those that `wanted` says.
    pub(crate) fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| wanted(name));
    }

    /// The last good version.
    pub(crate) fn find(&self, name: &str) -> Option<&Resource> {
        self.0.get(name)?.good.as_ref()
    }

    /// Reads all of them; returns whether one has changed.
    pub(crate) async fn look(&mut self) -> bool {
        let names: Vec<String> = self.0.keys().cloned().collect();
        let read = move || names.into_iter().map(|name| (read(&name), name)).collect::<Vec<_>>();
        let Ok(all) = tokio::task::spawn_blocking(read).await else { return false };
        let mut changed = false;
        for (result, name) in all {
            let Some(file) = self.0.get_mut(&name) else { continue };
            match result {
                Ok(new) => {
                    if file.good.as_ref().is_none_or(|good| good.version != new.version) {
                        info!(name, "a secret of a file");
                        file.good = Some(new);
                        changed = true;
                    }
                    file.bad = None;
                }
                Err(reason) => {
                    if file.bad.as_ref() != Some(&reason) {
                        let kept = file.good.is_some();
                        warn!(name, reason, kept, "a secret of a file cannot be used");
                        file.bad = Some(reason);
                    }
                }
            }
        }
        changed
    }
}

fn read(name: &str) -> Result<Resource, String> {
    match place(name)? {
        Place::Roots { path: Some(path), revoked } => {
            let pem = content(&path)?;
            let bundle = TrustBundle::from_pem(&pem).map_err(|e| format!("{}: {e}", path.display()))?;
            with_revoked(name, pem, bundle, revoked.as_deref())
        }
        Place::Roots { path: None, revoked } => {
            let found = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file());
            let found = found.ok_or_else(|| {
                format!(
                    "this system has no roots to verify servers with: there is none of {}; put one there, or name caCertificates",
                    SYSTEM_ROOTS.join(", ")
                )
            })?;
            // A certificate of a kind that nobody here understands is no reason to believe none of the others.
            let bundle = TrustBundle::readable(&content(found)?);
            if bundle.is_empty() {
                return Err(format!("{}: it holds no certificate", found.display()));
            }
            with_revoked(name, bundle.to_pem().into_bytes(), bundle, revoked.as_deref())
        }
        Place::Certificate { chain, key } => {
            let (chain, key) = (content(&chain)?, content(&key)?);
            let key = Secret::new(String::from_utf8(key).map_err(|_| "the key is not PEM".to_owned())?);
            // While the two files are replaced one after the other they do not belong together.
            Svid::from_pem(&chain, key.expose()).map_err(|e| e.to_string())?;
            Ok(certificate(name, chain, &key))
        }
    }
}

/// Roots with what they have revoked. A list that cannot be read leaves nobody to be believed.
fn with_revoked(name: &str, pem: Vec<u8>, mut bundle: TrustBundle, revoked: Option<&Path>) -> Result<Resource, String> {
    let Some(path) = revoked else { return Ok(roots(name, pem, None)) };
    let list = content(path)?;
    bundle.revoke(&list).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(roots(name, pem, Some(list)))
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let error = |e: std::io::Error| format!("{}: {e}", path.display());
    // Opening a pipe would wait for who writes it.
    if !std::fs::metadata(path).map_err(error)?.is_file() {
        return Err(format!("{}: it is no file", path.display()));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(error)?.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(format!("{}: it has more than {MAX_SIZE} bytes", path.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let path = PathBuf::from;
        for (name, expected) in [
            ("file-root:/a", Some(Place::Roots { path: Some(path("/a")), revoked: None })),
            ("file-root:/a~/b", Some(Place::Roots { path: Some(path("/a")), revoked: Some(path("/b")) })),
            ("file-root:system", Some(Place::Roots { path: None, revoked: None })),
            ("file-root:system~/b", Some(Place::Roots { path: None, revoked: Some(path("/b")) })),
            ("file-root:/a~b", None),
            ("file-root:/a~/b~/c", None),
            ("file-cert:/a~/b", Some(Place::Certificate { chain: path("/a"), key: path("/b") })),
            ("file-cert:/a", None),
            ("file-cert:/a~/b~/c", None),
            ("file-cert:a~/b", None),
            ("file-root:", None),
            ("file-root:../a", None),
            ("default", None),
        ] {
            assert_eq!(place(name).ok(), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let root = format!("file-root:{}", path.display());
        let listed = format!("file-root:{0}~{0}", path.display());
        let pair = format!("file-cert:{0}~{0}", path.display());
        let mut files = Files::default();
        [&root, &listed, &pair].into_iter().for_each(|name| files.follow(name));
        assert!(!files.look().await, "there is no file");
        for text in ["", "root:x:0:0", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(!files.look().await, "{text:?}");
            assert!([&root, &listed, &pair].iter().all(|name| files.find(name).is_none()), "{text:?}");
        }
        // Authorities of which it cannot be read what they have revoked.
        let ca = mizzen_pki::Ca::self_signed(&Default::default(), mizzen_pki::UnixTime::now(), Default::default()).unwrap();
        std::fs::write(&path, ca.roots().to_pem()).unwrap();
        assert!(files.look().await && files.find(&root).is_some() && files.find(&listed).is_none());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!files.look().await);
        (0..2 * MAX_FILES).for_each(|n| files.follow(&format!("file-root:/{n}")));
        assert_eq!(files.0.len(), MAX_FILES);
        files.keep(|name| name == root);
        assert_eq!(files.0.len(), 1);
    }
}
