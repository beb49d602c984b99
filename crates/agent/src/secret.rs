//! Secrets as Envoy's secret discovery carries them.

use mizzen_protos::Any;
use mizzen_protos::envoy::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret},
};
use mizzen_xds::server::Resource;
use mizzen_xds::types::SECRET;
use prost::Message;

/// A chain with its key, both in PEM.
pub(crate) fn certificate(name: &str, chain: Vec<u8>, key: &mizzen_pki::Secret) -> Resource {
    let certificate =
        TlsCertificate { certificate_chain: inline(chain), private_key: inline(key.expose().as_bytes().to_vec()), ..Default::default() };
    resource(name, secret::Type::TlsCertificate(certificate))
}

/// Roots in PEM, with lists of what they have revoked.
pub(crate) fn roots(name: &str, pem: Vec<u8>, revoked: Option<Vec<u8>>) -> Resource {
    let context = CertificateValidationContext { trusted_ca: inline(pem), crl: revoked.and_then(inline), ..Default::default() };
    resource(name, secret::Type::ValidationContext(context))
}

fn inline(bytes: Vec<u8>) -> Option<DataSource> {
    Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() })
}

fn resource(name: &str, body: secret::Type) -> Resource {
    let secret = Secret { name: name.to_owned(), r#type: Some(body) };
    Resource::new(Any { type_url: SECRET.to_owned(), value: secret.encode_to_vec() })
}
