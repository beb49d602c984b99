//! Certificates and roots that the bootstrap gives in place or in files, as the named secrets that the [`crate::store`] knows.
//!
//! Each place that holds one is rewritten to name a static secret, called after that place. Files are looked at every [`EVERY`] and read again
//! when they differ; a version that cannot be read or used leaves the last good one in force.

// The older form of a file's name is still written.
#![allow(deprecated)]

use std::{
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use mizzen_ir::ResourceKind;
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            bootstrap::v3::bootstrap::StaticResources,
            core::v3::{self as core, config_source::ConfigSourceSpecifier, data_source::Specifier},
        },
        extensions::transport_sockets::tls::v3::{
            self as tls,
            common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
            secret::Type,
        },
        service::discovery::v3::DiscoveryResponse,
    },
    json::Unknown,
};
use mizzen_types::Name;
use prost::Message;
use tokio::sync::mpsc;

use crate::text;

/// How often files are looked at.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// A secret that is to be found.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// What it is called; the place in the bootstrap where it is written.
    pub(crate) name: Name,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// In the bootstrap, perhaps with the names of files.
    Secret(Box<tls::Secret>),
    /// In a file that holds resources, under this name.
    Document { path: PathBuf, resource: String },
}

/// What was read: the secret or why there is none, and the files that it was read from, as they were just before.
pub(crate) struct Found {
    pub(crate) secret: Result<Any, String>,
    files: Vec<(PathBuf, Option<Mark>)>,
}

/// Tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Takes all secrets that are given in place or in files out of static resources.
pub(crate) fn extract(fixed: &mut StaticResources) -> Vec<Origin> {
    let mut origins = Vec::new();
    for (i, listener) in fixed.listeners.iter_mut().enumerate() {
        let at = format!("static_resources.listeners[{i}]");
        for (j, chain) in listener.filter_chains.iter_mut().enumerate() {
            socket(chain.transport_socket.as_mut(), &format!("{at}.filter_chains[{j}].transport_socket"), &mut origins);
        }
        if let Some(chain) = &mut listener.default_filter_chain {
            socket(chain.transport_socket.as_mut(), &format!("{at}.default_filter_chain.transport_socket"), &mut origins);
        }
    }
    for (i, cluster) in fixed.clusters.iter_mut().enumerate() {
        let at = format!("static_resources.clusters[{i}]");
        socket(cluster.transport_socket.as_mut(), &format!("{at}.transport_socket"), &mut origins);
        for (j, choice) in cluster.transport_socket_matches.iter_mut().enumerate() {
            socket(choice.transport_socket.as_mut(), &format!("{at}.transport_socket_matches[{j}].transport_socket"), &mut origins);
        }
    }
    for secret in std::mem::take(&mut fixed.secrets) {
        origins.push(Origin { name: Name::from(secret.name.as_str()), what: What::Secret(Box::new(secret)) });
    }
    origins
}

/// What cannot be decoded stays as it is: compiling it says why.
fn socket(socket: Option<&mut core::TransportSocket>, at: &str, origins: &mut Vec<Origin>) {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = socket.and_then(|s| s.config_type.as_mut()) else { return };
    let at = format!("{at}.typed_config.common_tls_context");
    match any.type_url.as_str() {
        DOWNSTREAM => {
            let Ok(mut context) = tls::DownstreamTlsContext::decode(any.value.as_slice()) else { return };
            context.common_tls_context.as_mut().into_iter().for_each(|c| common(c, &at, origins));
            any.value = context.encode_to_vec();
        }
        UPSTREAM => {
            let Ok(mut context) = tls::UpstreamTlsContext::decode(any.value.as_slice()) else { return };
            context.common_tls_context.as_mut().into_iter().for_each(|c| common(c, &at, origins));
            any.value = context.encode_to_vec();
        }
        _ => {}
    }
}

fn common(context: &mut tls::CommonTlsContext, at: &str, origins: &mut Vec<Origin>) {
    for (i, secret) in context.tls_certificate_sds_secret_configs.iter_mut().enumerate() {
        from_document(secret, &format!("{at}.tls_certificate_sds_secret_configs[{i}]"), origins);
    }
    for (i, certificate) in std::mem::take(&mut context.tls_certificates).into_iter().enumerate() {
        let name = format!("{at}.tls_certificates[{i}]");
        context.tls_certificate_sds_secret_configs.push(tls::SdsSecretConfig { name: name.clone(), sds_config: None });
        origins.push(Origin::new(name, Type::TlsCertificate(certificate)));
    }
    let at = format!("{at}.validation_context");
    context.validation_context_type = context.validation_context_type.take().map(|kind| validation(kind, at, origins));
}

fn validation(kind: ValidationContextType, at: String, origins: &mut Vec<Origin>) -> ValidationContextType {
    match kind {
        ValidationContextType::ValidationContextSdsSecretConfig(mut secret) => {
            from_document(&mut secret, &at, origins);
            ValidationContextType::ValidationContextSdsSecretConfig(secret)
        }
        ValidationContextType::CombinedValidationContext(mut combined) => {
            combined.validation_context_sds_secret_config.as_mut().into_iter().for_each(|s| from_document(s, &at, origins));
            ValidationContextType::CombinedValidationContext(combined)
        }
        // Roots in place need no name; and who they are for stands beside them.
        ValidationContextType::ValidationContext(mut context) if !context.trusted_ca.as_ref().is_none_or(is_in_place) => {
            let roots = tls::CertificateValidationContext {
                trusted_ca: context.trusted_ca.take(),
                watched_directory: context.watched_directory.take(),
                ..tls::CertificateValidationContext::default()
            };
            origins.push(Origin::new(at.clone(), Type::ValidationContext(roots)));
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(tls::SdsSecretConfig { name: at, sds_config: None }),
                ..CombinedCertificateValidationContext::default()
            })
        }
        other => other,
    }
}

fn is_in_place(source: &core::DataSource) -> bool {
    !matches!(source.specifier, Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)))
}

/// A secret of a file that holds resources becomes one of our own.
fn from_document(secret: &mut tls::SdsSecretConfig, at: &str, origins: &mut Vec<Origin>) {
    let path = match secret.sds_config.as_ref().and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::PathConfigSource(source)) => PathBuf::from(&source.path),
        Some(ConfigSourceSpecifier::Path(path)) => PathBuf::from(path),
        _ => return,
    };
    let resource = std::mem::replace(&mut secret.name, at.to_owned());
    secret.sds_config = None;
    origins.push(Origin { name: Name::from(at), what: What::Document { path, resource } });
}

impl Origin {
    fn new(name: String, kind: Type) -> Origin {
        let secret = tls::Secret { name: name.clone(), r#type: Some(kind) };
        Origin { name: Name::from(name), what: What::Secret(Box::new(secret)) }
    }

    /// Reads it, with the files that it names.
    pub(crate) fn read(&self) -> Found {
        let mut files = Vec::new();
        let secret = match &self.what {
            What::Secret(secret) => Ok((**secret).clone()),
            What::Document { path, resource } => document(path, resource, &mut files),
        };
        let secret = secret.and_then(|mut secret| {
            secret.name = self.name.to_string();
            fill(&mut secret, &mut files)?;
            Ok(Any { type_url: ResourceKind::Secret.type_url().to_owned(), value: secret.encode_to_vec() })
        });
        Found { secret, files }
    }
}

impl Found {
    /// Whether it was read from files, which may change.
    pub(crate) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether a file is no longer as it was read.
    fn is_old(&self) -> bool {
        self.files.iter().any(|(path, mark)| Mark::of(path) != *mark)
    }
}

impl Mark {
    fn of(path: &Path) -> Option<Mark> {
        let m = std::fs::metadata(path).ok()?;
        Some(Mark { device: m.dev(), inode: m.ino(), size: m.size(), modified: (m.mtime(), m.mtime_nsec()) })
    }
}

/// Reads a file that is not too large, and notes that it was read.
fn read_file(path: &Path, files: &mut Vec<(PathBuf, Option<Mark>)>) -> Result<Vec<u8>, String> {
    // Before the content: what is written meanwhile is seen as a change.
    files.push((path.to_owned(), Mark::of(path)));
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(format!("{}: more than {MAX_FILE} bytes", path.display())),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The named secret of a file that holds a discovery response.
fn document(path: &Path, resource: &str, files: &mut Vec<(PathBuf, Option<Mark>)>) -> Result<tls::Secret, String> {
    let bytes = read_file(path, files)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: no text", path.display()))?;
    let response: DiscoveryResponse = text::read(&text, Unknown::Refused).map_err(|error| format!("{}:{error}", path.display()))?;
    let secrets = response.resources.iter().filter(|any| any.type_url == ResourceKind::Secret.type_url());
    let found = secrets.filter_map(|any| tls::Secret::decode(any.value.as_slice()).ok()).find(|secret| secret.name == resource);
    found.ok_or_else(|| format!("{}: holds no secret `{resource}`", path.display()))
}

/// Puts the content of files in place of their names. Directories need no watching: what is read is looked at again and again.
fn fill(secret: &mut tls::Secret, files: &mut Vec<(PathBuf, Option<Mark>)>) -> Result<(), String> {
    let mut sources: Vec<&mut core::DataSource> = Vec::new();
    match &mut secret.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            certificate.watched_directory = None;
            sources.extend(certificate.certificate_chain.as_mut());
            sources.extend(certificate.private_key.as_mut());
        }
        Some(Type::ValidationContext(context)) => {
            context.watched_directory = None;
            sources.extend(context.trusted_ca.as_mut());
        }
        _ => {}
    }
    for source in sources {
        let bytes = match &source.specifier {
            Some(Specifier::Filename(name)) => read_file(Path::new(name), files)?,
            Some(Specifier::EnvironmentVariable(name)) => {
                std::env::var(name).map_err(|error| format!("environment variable {name}: {error}"))?.into_bytes()
            }
            Some(Specifier::InlineBytes(_) | Specifier::InlineString(_)) | None => continue,
        };
        *source = core::DataSource { watched_directory: None, specifier: Some(Specifier::InlineBytes(bytes)) };
    }
    Ok(())
}

/// Looks at the files again and again; what has changed is sent. Ends with the receiver.
pub(crate) async fn follow(mut all: Vec<(Origin, Found)>, changes: mpsc::Sender<(Name, Result<Any, String>)>) {
    while !all.is_empty() {
        tokio::time::sleep(EVERY).await;
        let looked = tokio::task::spawn_blocking(move || {
            let mut changed = Vec::new();
            for (origin, found) in &mut all {
                if found.is_old() {
                    *found = origin.read();
                    changed.push((origin.name.clone(), found.secret.clone()));
                }
            }
            (all, changed)
        });
        // Without a result the process is about to end.
        let Ok((next, changed)) = looked.await else { return };
        all = next;
        for change in changed {
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}
