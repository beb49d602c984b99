//! Transport sockets: Istio's mutual TLS on either side.

use mizzen_api::istio::{ClientCertificate, ClientRoots, ForeignTls, MeshConfig, ServerTls, ServerTlsMode, TlsVersion};
use mizzen_protos::envoy::envoy::{
    config::core::v3::{
        AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService, api_config_source::ApiType,
        config_source::ConfigSourceSpecifier, grpc_service,
    },
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher, TlsParameters,
        UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};

use crate::{draft::Socket, secrets, wire};

/// Suites of mutual TLS, by OpenSSL's names, as Istio lists them.
const SERVER_CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// A config source: this stream.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(wire::seconds(0)),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// A secret of the agent's, through the static cluster `sds-grpc`.
fn agent_secret(name: &str) -> SdsSecretConfig {
    let service = GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: "sds-grpc".into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.into(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: Some(wire::seconds(0)),
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
            ..Default::default()
        }),
    }
}

/// A secret of files in the proxy, by the agent. It is waited for no longer than usual: a file that is not there holds up nothing but who names it.
fn file_secret(name: String) -> SdsSecretConfig {
    let SdsSecretConfig { sds_config, .. } = agent_secret("");
    SdsSecretConfig { name, sds_config: sds_config.map(|source| ConfigSource { initial_fetch_timeout: None, ..source }) }
}

fn certificate_files(certificate: &str, key: &str) -> SdsSecretConfig {
    file_secret(format!("file-cert:{certificate}~{key}"))
}

fn root_files(authorities: &str, revoked: Option<&str>) -> SdsSecretConfig {
    let revoked = revoked.iter().map(|path| format!("~{path}"));
    file_secret(std::iter::once(format!("file-root:{authorities}")).chain(revoked).collect())
}

/// Own certificate `default`, the peer's checked against `ROOTCA` and these SANs.
fn common(names: Vec<StringMatcher>, ciphers: &[&str], alpn: &[&str]) -> CommonTlsContext {
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names.into_iter().map(typed).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(agent_secret("ROOTCA")),
        ..Default::default()
    };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            cipher_suites: ciphers.iter().map(|&c| c.into()).collect(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![agent_secret("default")],
        alpn_protocols: alpn.iter().map(|&a| a.into()).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    }
}

/// A secret of this stream's. It is waited for no longer than usual: a credential that is not there holds up nothing but its own server.
fn credential(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: Some(ConfigSource { initial_fetch_timeout: None, ..ads() }) }
}

/// TLS that a gateway ends, before bytes (`tcp`) or before HTTP.
pub(crate) fn gateway(mesh: &MeshConfig, tls: &ServerTls, tcp: bool) -> Socket {
    // As with Istio, also before bytes.
    let alpn = ["h2", "http/1.1"];
    let names: Vec<StringMatcher> = tls.subject_alt_names.iter().map(|san| exact(san)).collect();
    let mut made = if tls.mode == ServerTlsMode::IstioMutual {
        common(if names.is_empty() { identities(mesh) } else { names }, &SERVER_CIPHERS, server_alpn(tcp))
    } else {
        let files = tls.files.as_ref();
        let shown = files.iter().flat_map(|files| &files.certificates).map(|(chain, key)| certificate_files(chain, key));
        let certificates = tls.credentials.iter().map(|name| credential(secrets::certificate_name(name))).chain(shown);
        let believed = files.and_then(|files| Some(root_files(files.authorities.as_deref()?, files.revoked.as_deref())));
        let authorities = tls.authorities().map(|owner| credential(secrets::authorities_name(owner))).or(believed);
        // By the list without types, as Istio has it: a name of whatever kind counts.
        #[allow(deprecated)]
        let checked = |authorities| CombinedCertificateValidationContext {
            default_validation_context: Some(CertificateValidationContext { match_subject_alt_names: names, ..Default::default() }),
            validation_context_sds_secret_config: Some(authorities),
            ..Default::default()
        };
        CommonTlsContext {
            tls_certificate_sds_secret_configs: certificates.collect(),
            alpn_protocols: alpn.map(str::to_owned).to_vec(),
            validation_context_type: authorities.map(checked).map(ValidationContextType::CombinedValidationContext),
            ..Default::default()
        }
    };
    let version = |version| match version {
        TlsVersion::Auto => TlsProtocol::TlsAuto,
        TlsVersion::V12 => TlsProtocol::TlSv12,
        TlsVersion::V13 => TlsProtocol::TlSv13,
    };
    let chosen = TlsParameters {
        tls_minimum_protocol_version: version(tls.min).into(),
        tls_maximum_protocol_version: version(tls.max).into(),
        cipher_suites: tls.cipher_suites.clone(),
        ..Default::default()
    };
    if chosen != TlsParameters::default() {
        made.tls_params = Some(chosen);
    }
    Socket::Server(Box::new(DownstreamTlsContext {
        common_tls_context: Some(made),
        require_client_certificate: Some(wire::bool_value(matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::IstioMutual))),
        ..Default::default()
    }))
}

/// All identities of the mesh.
fn identities(mesh: &MeshConfig) -> Vec<StringMatcher> {
    let prefix =
        |domain: &str| StringMatcher { match_pattern: Some(MatchPattern::Prefix(format!("spiffe://{domain}/"))), ..Default::default() };
    let aliases = mesh.trust_domain_aliases.iter().map(String::as_str);
    std::iter::once(mesh.trust_domain.as_str()).chain(aliases).map(prefix).collect()
}

/// Identities are URIs: a DNS name of the same letters is none. What a rule names that is no URI is a DNS name.
fn typed(matcher: StringMatcher) -> SubjectAltNameMatcher {
    let is_name = matches!(&matcher.match_pattern, Some(MatchPattern::Exact(text)) if !text.contains("://"));
    let san_type = if is_name { SanType::Dns } else { SanType::Uri };
    SubjectAltNameMatcher { san_type: san_type.into(), matcher: Some(matcher), ..Default::default() }
}

fn exact(san: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(san.to_owned())), ..Default::default() }
}

/// TLS to a server that is not of the mesh, which must have one of these names in its certificate.
pub(crate) fn foreign(wanted: &ForeignTls, names: &[String], alpn: &[&str]) -> CommonTlsContext {
    let certificate = wanted.certificate.as_ref().map(|shown| match shown {
        ClientCertificate::Files { certificate, key } => certificate_files(certificate, key),
        ClientCertificate::Secret(name) => credential(secrets::certificate_name(name)),
    });
    let roots = match &wanted.roots {
        ClientRoots::Nobody => None,
        ClientRoots::Secret(name) => Some(credential(secrets::authorities_name(name))),
        ClientRoots::File { authorities, revoked } => Some(root_files(authorities.as_deref().unwrap_or("system"), revoked.as_deref())),
    };
    // By the list without types, as Istio has it: a name of whatever kind counts.
    #[allow(deprecated)]
    let expected =
        CertificateValidationContext { match_subject_alt_names: names.iter().map(|san| exact(san)).collect(), ..Default::default() };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: certificate.into_iter().collect(),
        alpn_protocols: alpn.iter().map(|&a| a.into()).collect(),
        validation_context_type: Some(match roots {
            None => ValidationContextType::ValidationContext(CertificateValidationContext::default()),
            Some(secret) => ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(expected),
                validation_context_sds_secret_config: Some(secret),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// What is offered in mutual TLS of the mesh. `istio` itself must not be: a client that lists it too would then agree on it, and speak it, instead of
/// HTTP's own.
fn server_alpn(tcp: bool) -> &'static [&'static str] {
    if tcp { &["istio-peer-exchange", "h2", "http/1.1"] } else { &["h2", "http/1.1"] }
}

/// The server's side of mutual TLS: any identity of the trust domain or its aliases. `tcp` offers the TCP metadata exchange too.
pub(crate) fn server(mesh: &MeshConfig, tcp: bool) -> Socket {
    Socket::Server(Box::new(DownstreamTlsContext {
        common_tls_context: Some(common(identities(mesh), &SERVER_CIPHERS, server_alpn(tcp))),
        require_client_certificate: Some(wire::bool_value(true)),
        ..Default::default()
    }))
}

/// The client's side of mutual TLS: one of these identities, asked for under this server name, which the certificate has to name where it is `compared`.
pub(crate) fn client(sans: &[String], sni: &str, http2: bool, compared: bool) -> Socket {
    let alpn: &[&str] = if http2 { &["istio-peer-exchange", "istio", "h2"] } else { &["istio-peer-exchange", "istio"] };
    Socket::Client(Box::new(UpstreamTlsContext {
        common_tls_context: Some(common(sans.iter().map(|san| exact(san)).collect(), &[], alpn)),
        sni: sni.into(),
        auto_sni_san_validation: compared,
        ..Default::default()
    }))
}
