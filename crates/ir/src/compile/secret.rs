//! Secrets.

use mizzen_pki::Svid;
use mizzen_protos::envoy::envoy::extensions::transport_sockets::tls::v3 as tls;

use super::Resource;
use super::access_log::inline;
use super::cx::{Cx, Res, name, refused};
use super::tls::validation_context;
use crate::config::{CertificateSecret, ContentHash};

pub(super) fn compile(cx: &mut Cx, bytes: &[u8], hash: ContentHash) -> Res<Resource> {
    use tls::secret::Type as T;
    let tls::Secret { name: title, r#type } = cx.decode(bytes)?;
    cx.resource = name(&title);
    match r#type {
        Some(T::TlsCertificate(m)) => cx.within("tls_certificate", |cx| certificate(cx, m, hash)),
        Some(T::ValidationContext(m)) => cx.within("validation_context", |cx| {
            let secret = validation_context(cx, m, cx.resource.clone(), Some(hash))?;
            if secret.roots.is_empty() {
                return cx.refuse("trusted_ca", "it is required");
            }
            Ok(Resource::Validation(secret.into()))
        }),
        Some(T::SessionTicketKeys(_)) => cx.refuse("session_ticket_keys", "not supported"),
        Some(T::GenericSecret(_)) => cx.refuse("generic_secret", "not supported"),
        None => cx.refuse("type", "it is required"),
    }
}

fn certificate(cx: &mut Cx, m: tls::TlsCertificate, hash: ContentHash) -> Res<Resource> {
    let tls::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = m;
    refused!(cx; pkcs12, watched_directory, private_key_provider, password, tls_params);
    super::cx::harmless!(cx; ocsp_staple, signed_certificate_timestamp);
    let chain = cx.must("certificate_chain", certificate_chain, |cx, s| inline(cx, s))?;
    let key = cx.must("private_key", private_key, |cx, s| inline(cx, s))?;
    let key = String::from_utf8(key).map_err(|_| cx.bad("private_key", "not PEM"))?;
    let svid = Svid::from_pem(&chain, &key).map_err(|e| cx.bad("certificate_chain", e.to_string()))?;
    Ok(Resource::Certificate(CertificateSecret { name: cx.resource.clone(), hash, svid }.into()))
}
