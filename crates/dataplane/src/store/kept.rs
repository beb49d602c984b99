//! Bytes that are kept for dumps alone.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use mizzen_ir::{Resource, config::CertificateSecret};
use mizzen_protos::envoy::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, TlsCertificate, secret::Type},
};
use prost::Message;

/// Fewer are left as they are: alone they hold next to nothing twice.
const LEAST: usize = 4096;

/// A message as it arrived, for dumps. A large one is packed once nothing has come for a while: the chains of a gateway's listener say nearly the same, and a
/// thirtieth is left of them.
pub struct Kept(Mutex<Form>);

enum Form {
    Plain(Box<[u8]>),
    Packed(Box<[u8]>),
    /// Packing it gains nothing.
    Final(Box<[u8]>),
    /// It is written again of what is in use.
    Again(Box<Certificate>),
}

/// A certificate that says nothing but its chain, as all do that control planes send.
#[derive(Clone)]
struct Certificate {
    secret: Arc<CertificateSecret>,
    /// Whether its chain is text, and whether its key was.
    text: [bool; 2],
}

impl Certificate {
    fn write(&self) -> Vec<u8> {
        let source = |text: String, is_text: bool| {
            let specifier = if is_text { Specifier::InlineString(text) } else { Specifier::InlineBytes(text.into()) };
            Some(DataSource { specifier: Some(specifier), ..DataSource::default() })
        };
        let [chain, key] = self.text;
        let certificate = TlsCertificate {
            certificate_chain: source(self.secret.svid.chain_pem(), chain),
            private_key: source(String::new(), key),
            ..TlsCertificate::default()
        };
        Secret { name: self.secret.name.to_string(), r#type: Some(Type::TlsCertificate(certificate)) }.encode_to_vec()
    }
}

impl Kept {
    /// These bytes, as they are.
    pub fn new(bytes: Vec<u8>) -> Kept {
        let form = if bytes.len() < LEAST { Form::Final } else { Form::Plain };
        Kept(Mutex::new(form(bytes.into())))
    }

    /// A resource. Of a certificate's key dumps say that it is there: that it was there is all that is kept.
    pub(super) fn of(resource: &Resource, bytes: Vec<u8>) -> Kept {
        let Resource::Certificate(secret) = resource else { return Kept::new(bytes) };
        let Some((bare, text)) = without_key(&bytes) else { return Kept::new(bytes) };
        let certificate = Certificate { secret: secret.clone(), text };
        if certificate.write() == bare { Kept(Mutex::new(Form::Again(certificate.into()))) } else { Kept::new(bare) }
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match &*self.form() {
            Form::Plain(bytes) | Form::Final(bytes) => bytes.to_vec(),
            Form::Packed(packed) => unpack(packed),
            Form::Again(certificate) => certificate.write(),
        }
    }

    /// Packs them, where that gains something. Takes some milliseconds for each megabyte, once.
    pub fn pack(&self) {
        let mut form = self.form();
        let Form::Plain(bytes) = &mut *form else { return };
        let packed = pack(bytes).filter(|packed| packed.len() < bytes.len() / 2);
        let next = match packed {
            Some(packed) => Form::Packed(packed.into()),
            None => Form::Final(std::mem::take(bytes)),
        };
        *form = next;
    }

    /// What is held of them.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        match &*self.form() {
            Form::Plain(bytes) | Form::Packed(bytes) | Form::Final(bytes) => bytes.len(),
            Form::Again(_) => 0,
        }
    }

    /// Nothing that runs under the lock can leave it half done.
    fn form(&self) -> MutexGuard<'_, Form> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate without its key, and whether its chain and its key are text; none if they are not in it.
fn without_key(bytes: &[u8]) -> Option<(Vec<u8>, [bool; 2])> {
    let mut secret = Secret::decode(bytes).ok()?;
    let Some(Type::TlsCertificate(certificate)) = &mut secret.r#type else { return None };
    let is_text = |source: Option<&DataSource>| source.is_some_and(|source| matches!(source.specifier, Some(Specifier::InlineString(_))));
    let text = [certificate.certificate_chain.as_ref(), certificate.private_key.as_ref()].map(is_text);
    match certificate.private_key.as_mut()?.specifier.as_mut()? {
        Specifier::InlineBytes(key) => key.clear(),
        Specifier::InlineString(key) => key.clear(),
        Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => return None,
    }
    Some((secret.encode_to_vec(), text))
}

fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = DeflateDecoder::new(packed).read_to_end(&mut bytes) {
        // It is our own: nothing else than a fault of the memory can have changed it.
        tracing::error!(%error, "what was packed for dumps cannot be read");
    }
    bytes
}

impl Clone for Kept {
    fn clone(&self) -> Kept {
        Kept(Mutex::new(match &*self.form() {
            Form::Plain(bytes) => Form::Plain(bytes.clone()),
            Form::Packed(bytes) => Form::Packed(bytes.clone()),
            Form::Final(bytes) => Form::Final(bytes.clone()),
            Form::Again(certificate) => Form::Again(certificate.clone()),
        }))
    }
}

/// There may be keys in it.
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use mizzen_ir::ResourceKind;
    use mizzen_protos::{
        Any,
        json::{Descriptors, Names},
    };
    use mizzen_testkit::Authority;
    use serde_json::{Value, json};

    use super::*;

    /// Packs twice; what is held then, of how many bytes.
    fn check(bytes: Vec<u8>) -> (usize, usize) {
        let kept = Kept::new(bytes.clone());
        assert_eq!((kept.bytes(), kept.held()), (bytes.clone(), bytes.len()));
        for _ in 0..2 {
            kept.pack();
            assert_eq!((kept.bytes(), kept.clone().bytes()), (bytes.clone(), bytes.clone()));
        }
        assert_eq!(kept.clone().held(), kept.held());
        (kept.held(), bytes.len())
    }

    /// A secret as it comes, and what is held of it for dumps; those show no difference.
    fn secret(descriptors: &Descriptors, certificate: Value) -> (usize, usize) {
        let kind = ResourceKind::Secret;
        let whole = descriptors.any_from_value(kind.type_url(), json!({"name": "shop", "tls_certificate": certificate})).unwrap();
        let compiled = mizzen_ir::compile(kind, &whole.value).unwrap();
        let kept = Kept::of(&compiled.resource, whole.value.clone());
        kept.pack();
        let shown = |value: Vec<u8>| descriptors.any_to_value(&Any { type_url: whole.type_url.clone(), value }, Names::Proto).unwrap();
        let (held, length) = (kept.held(), whole.value.len());
        assert!(!String::from_utf8_lossy(&kept.bytes()).contains("PRIVATE KEY"));
        let dump = shown(kept.bytes());
        assert_eq!(dump, shown(whole.value.clone()));
        assert!(dump["tls_certificate"]["private_key"].to_string().contains("[redacted]"), "{dump}");
        (held, length)
    }

    #[test]
    fn of_a_certificate_nothing_is_kept_twice_and_no_key() {
        let descriptors = Descriptors::load();
        let credential = Authority::new("kept").issue(&["shop.example.com"]);
        let text = |text: &str| json!({"inline_string": text});
        let bytes = |text: &str| json!({"inline_bytes": STANDARD.encode(text)});
        let (chain, key) = (&*credential.certificate, &*credential.key);
        for (chain, key) in [(text(chain), text(key)), (text(chain), bytes(key)), (bytes(chain), text(key)), (bytes(chain), bytes(key))] {
            assert_eq!(secret(&descriptors, json!({"certificate_chain": chain, "private_key": key})).0, 0);
        }
        // What it says besides is kept, as it was written.
        for more in [
            json!({"certificate_chain": text(&format!("{chain}\n")), "private_key": text(key)}),
            json!({"certificate_chain": text(chain), "private_key": text(key), "ocsp_staple": text("x")}),
        ] {
            let (held, whole) = secret(&descriptors, more);
            assert!(0 < held && held < whole - key.len(), "{held} of {whole}");
        }
    }

    #[test]
    fn packs_what_is_large_and_gains() {
        let (held, all) = check(b"{\"key\": \"value\"}".repeat(4096));
        assert!(held < all / 20, "{held} of {all}");
        // It is small; or it is as good as random.
        let mut random = fastrand::Rng::with_seed(7);
        for bytes in [b"key".repeat(100), (0..LEAST * 2).map(|_| random.u8(..)).collect(), Vec::new()] {
            let (held, all) = check(bytes);
            assert_eq!(held, all);
        }
    }
}
