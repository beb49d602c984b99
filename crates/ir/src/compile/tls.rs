//! TLS contexts.

use std::sync::Arc;
use std::time::Duration;

use mizzen_pki::{SanKind, SanMatch, SanPattern, TrustBundle};
use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::extensions::transport_sockets::tls::v3 as tls;
use mizzen_protos::envoy::envoy::r#type::matcher::v3 as matcher;
use mizzen_types::Name;

use super::access_log::inline;
use super::cx::{Cx, Res, flag, harmless, hash, held, name, refused, silent, type_name};
use crate::config::{
    ContentHash, DownstreamTls, Roots, SecretRef, SecretSource, TlsCommon, TlsVersion, Transport, UpstreamTls, Validation, ValidationSecret,
};
use crate::filter::metadata_exchange;

/// A listener's transport socket; none is plain.
pub(super) fn downstream(cx: &mut Cx, socket: core::TransportSocket) -> Res<Option<Arc<DownstreamTls>>> {
    let core::TransportSocket { name, config_type } = socket;
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = config_type else {
        return cx.refuse("typed_config", format!("transport socket `{name}` has none"));
    };
    cx.within("typed_config", |cx| match type_name(&any) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(None),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            downstream_context(cx, cx.unpack(&any)?, hash(&any.value)).map(|t| Some(Arc::new(t)))
        }
        other => cx.refuse("", format!("transport socket {other} is not supported")),
    })
}

/// A cluster's transport socket.
pub(super) fn upstream(cx: &mut Cx, socket: core::TransportSocket) -> Res<Transport> {
    let core::TransportSocket { name, config_type } = socket;
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = config_type else {
        return cx.refuse("typed_config", format!("transport socket `{name}` has none"));
    };
    cx.within("typed_config", |cx| match type_name(&any) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(Transport::Raw),
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            upstream_context(cx, cx.unpack(&any)?, hash(&any.value)).map(|t| Transport::Tls(Arc::new(t)))
        }
        other => cx.refuse("", format!("transport socket {other} is not supported")),
    })
}

fn downstream_context(cx: &mut Cx, m: tls::DownstreamTlsContext, hash: ContentHash) -> Res<DownstreamTls> {
    use tls::downstream_tls_context::SessionTicketKeysType as K;
    let tls::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers,
        session_ticket_keys_type,
    } = m;
    refused!(cx; ocsp_staple_policy);
    silent!(full_scan_certs_on_sni_mismatch, prefer_client_ciphers);
    harmless!(cx; session_timeout);
    let stateless = match session_ticket_keys_type {
        None => true,
        Some(K::DisableStatelessSessionResumption(disabled)) => !disabled,
        Some(K::SessionTicketKeys(_) | K::SessionTicketKeysSdsSecretConfig(_)) => {
            cx.warn("session_ticket_keys", "sessions are resumed by keys of our own only");
            true
        }
    };
    let common = cx.must("common_tls_context", common_tls_context, common)?;
    let require_client_certificate = flag(require_client_certificate).unwrap_or(false);
    if common.certificates.is_empty() {
        return cx.refuse("common_tls_context", "a server needs a certificate");
    }
    if require_client_certificate && common.validation.is_none() {
        return cx.refuse("require_client_certificate", "nothing says how a client's certificate is checked");
    }
    Ok(DownstreamTls {
        common,
        require_client_certificate,
        require_sni: flag(require_sni).unwrap_or(false),
        resumption: stateless || !disable_stateful_session_resumption,
        hash,
    })
}

fn upstream_context(cx: &mut Cx, m: tls::UpstreamTlsContext, hash: ContentHash) -> Res<UpstreamTls> {
    let tls::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys,
        enforce_rsa_key_usage,
    } = m;
    silent!(max_session_keys, enforce_rsa_key_usage);
    harmless!(cx; allow_renegotiation);
    let common = cx.must("common_tls_context", common_tls_context, common)?;
    if auto_sni_san_validation && common.validation.is_none() {
        return cx.refuse("auto_sni_san_validation", "nothing says who may have signed the certificate");
    }
    Ok(UpstreamTls { common, sni: name(&sni), auto_host_sni, verify_server_name: auto_sni_san_validation, hash })
}

fn common(cx: &mut Cx, m: tls::CommonTlsContext) -> Res<TlsCommon> {
    let tls::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = m;
    refused!(cx; tls_certificate_provider_instance, custom_tls_certificate_selector, tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance, custom_handshaker, tls_certificates);
    harmless!(cx; key_log);
    let certificates = cx.each("tls_certificate_sds_secret_configs", tls_certificate_sds_secret_configs, secret_ref)?;
    let validation = match validation_context_type {
        None => None,
        Some(v) => cx.within("validation_context", |cx| validation(cx, v))?,
    };
    let (min, max, ciphers, curves) = match tls_params {
        Some(p) => cx.within("tls_params", |cx| params(cx, p))?,
        None => (TlsVersion::V12, TlsVersion::V13, Vec::new(), Vec::new()),
    };
    // Never agreed on: see there.
    let alpn: Vec<Name> = alpn_protocols
        .iter()
        .flat_map(|a| a.split(','))
        .filter(|a| !a.is_empty() && *a != metadata_exchange::PROTOCOL)
        .map(|a| cx.name(a))
        .collect();
    Ok(TlsCommon { certificates: held(certificates), validation, alpn: held(alpn), min, max, ciphers: held(ciphers), curves: held(curves) })
}

type Params = (TlsVersion, TlsVersion, Vec<Name>, Vec<Name>);

fn params(cx: &mut Cx, m: tls::TlsParameters) -> Res<Params> {
    use tls::tls_parameters::TlsProtocol as P;
    let tls::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = m;
    refused!(cx; compliance_policies);
    harmless!(cx; signature_algorithms);
    let min = match cx.choice("tls_minimum_protocol_version", tls_minimum_protocol_version)? {
        P::TlSv13 => TlsVersion::V13,
        P::TlsAuto | P::TlSv12 | P::TlSv10 | P::TlSv11 => TlsVersion::V12,
    };
    let max = match cx.choice("tls_maximum_protocol_version", tls_maximum_protocol_version)? {
        P::TlsAuto | P::TlSv13 => TlsVersion::V13,
        P::TlSv12 => TlsVersion::V12,
        P::TlSv10 | P::TlSv11 => return cx.refuse("tls_maximum_protocol_version", "versions below 1.2 are not spoken"),
    };
    if min > max {
        return cx.refuse("tls_minimum_protocol_version", "it is above the highest version");
    }
    let ciphers = cut(cx, "cipher_suites", cipher_suites, |n| mizzen_pki::restricted_provider(&[n], &[] as &[&str]).is_some())?;
    let curves = cut(cx, "ecdh_curves", ecdh_curves, |n| mizzen_pki::restricted_provider(&[] as &[&str], &[n]).is_some())?;
    Ok((min, max, ciphers, curves))
}

/// A list of preferences, cut to what we can do.
fn cut(cx: &mut Cx, field: &str, list: Vec<String>, can: impl Fn(&str) -> bool) -> Res<Vec<Name>> {
    let wanted = !list.is_empty();
    let (kept, gone): (Vec<_>, Vec<_>) = list.iter().flat_map(|n| n.trim_matches(['[', ']']).split('|')).partition(|n| can(n));
    if wanted && kept.is_empty() {
        return cx.refuse(field, format!("none of them can be done: {}", gone.join(", ")));
    }
    if !gone.is_empty() {
        cx.warn(field, format!("left out: {}", gone.join(", ")));
    }
    Ok(kept.into_iter().map(name).collect())
}

/// Envoy's default for `initial_fetch_timeout`.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn secret_ref(cx: &mut Cx, m: tls::SdsSecretConfig) -> Res<SecretRef> {
    let tls::SdsSecretConfig { name: title, sds_config } = m;
    let (source, fetch_timeout) = match sds_config {
        None => (SecretSource::Static, Some(FETCH_TIMEOUT)),
        Some(source) => cx.within("sds_config", |cx| secret_source(cx, source))?,
    };
    if title.is_empty() {
        return cx.refuse("name", "it is required");
    }
    Ok(SecretRef { name: name(&title), source, fetch_timeout })
}

/// Where a secret comes from, and how long it is waited for.
fn secret_source(cx: &mut Cx, m: core::ConfigSource) -> Res<(SecretSource, Option<Duration>)> {
    use core::config_source::ConfigSourceSpecifier as S;
    let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } = m;
    silent!(resource_api_version);
    refused!(cx; authorities);
    let timeout = cx.duration("initial_fetch_timeout", initial_fetch_timeout)?.unwrap_or(FETCH_TIMEOUT);
    let source = match config_source_specifier {
        Some(S::Ads(core::AggregatedConfigSource {})) => Ok(SecretSource::Ads),
        Some(S::ApiConfigSource(api)) => cx.within("api_config_source", |cx| {
            let core::ApiConfigSource {
                api_type,
                transport_api_version,
                cluster_names,
                grpc_services,
                refresh_delay,
                request_timeout,
                rate_limit_settings,
                set_node_on_first_message_only,
                config_validators,
            } = api;
            silent!(transport_api_version, refresh_delay, request_timeout, rate_limit_settings, set_node_on_first_message_only);
            refused!(cx; cluster_names, config_validators);
            use core::api_config_source::ApiType;
            let delta = match ApiType::try_from(api_type) {
                Ok(ApiType::Grpc) => false,
                Ok(ApiType::DeltaGrpc) => true,
                _ => return cx.refuse("api_type", "only GRPC and DELTA_GRPC are supported"),
            };
            let mut clusters = grpc_services.into_iter().filter_map(|g| match g.target_specifier {
                Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(g)) => Some(g.cluster_name),
                _ => None,
            });
            match clusters.next() {
                Some(cluster) => Ok(SecretSource::Grpc { cluster: name(&cluster), delta }),
                None => cx.refuse("grpc_services", "one of Envoy's own gRPC is required"),
            }
        }),
        _ => cx.refuse("config_source_specifier", "only aggregated and gRPC sources are supported"),
    }?;
    Ok((source, (!timeout.is_zero()).then_some(timeout)))
}

fn validation(cx: &mut Cx, m: tls::common_tls_context::ValidationContextType) -> Res<Option<Validation>> {
    use tls::common_tls_context::ValidationContextType as V;
    let empty: Arc<[SanMatch]> = Arc::from([]);
    match m {
        V::ValidationContext(context) => {
            let context = validation_context(cx, context, Name::default(), None)?;
            let sans = context.sans.clone();
            if !context.roots.is_empty() {
                return Ok(Some(Validation { roots: Roots::Inline(context.into()), sans }));
            }
            if !sans.is_empty() {
                return cx.refuse("trusted_ca", "names are checked only where it is said who may have signed");
            }
            Ok(None)
        }
        V::ValidationContextSdsSecretConfig(secret) => Ok(Some(Validation { roots: Roots::Secret(secret_ref(cx, secret)?), sans: empty })),
        V::CombinedValidationContext(combined) => {
            let tls::common_tls_context::CombinedCertificateValidationContext {
                default_validation_context,
                validation_context_sds_secret_config,
                validation_context_certificate_provider,
                validation_context_certificate_provider_instance,
            } = combined;
            refused!(cx; validation_context_certificate_provider, validation_context_certificate_provider_instance);
            let default = cx
                .some("default_validation_context", default_validation_context, |cx, c| validation_context(cx, c, Name::default(), None))?;
            if default.as_ref().is_some_and(|d| !d.roots.is_empty()) {
                return cx.refuse("default_validation_context.trusted_ca", "not together with those of a secret");
            }
            let secret = cx.must("validation_context_sds_secret_config", validation_context_sds_secret_config, secret_ref)?;
            Ok(Some(Validation { roots: Roots::Secret(secret), sans: default.map_or(empty, |d| d.sans.clone()) }))
        }
        V::ValidationContextCertificateProvider(_) | V::ValidationContextCertificateProviderInstance(_) => {
            cx.refuse("validation_context_certificate_provider", "not supported")
        }
    }
}

/// A validation context, in place or in a secret.
pub(super) fn validation_context(
    cx: &mut Cx,
    m: tls::CertificateValidationContext,
    title: Name,
    hash: Option<ContentHash>,
) -> Res<ValidationSecret> {
    let tls::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = m;
    refused!(cx; ca_certificate_provider_instance, system_root_certs, watched_directory, verify_certificate_spki, verify_certificate_hash,
        require_signed_certificate_timestamp, allow_expired_certificate, trust_chain_verification, custom_validator_config,
        only_verify_leaf_cert_crl, max_verify_depth);
    silent!(suppress_client_ca_list);
    let roots = cx.some("trusted_ca", trusted_ca, |cx, source| {
        let pem = inline(cx, source)?;
        let bundle = TrustBundle::from_pem(&pem).map_err(|e| cx.bad("", e.to_string()))?;
        Ok((bundle, pem))
    })?;
    let (mut roots, mut content) = roots.unwrap_or_default();
    cx.some("crl", crl, |cx, source| {
        if roots.is_empty() {
            return cx.refuse("", "there is no trusted_ca beside it, which alone can revoke");
        }
        let pem = inline(cx, source)?;
        roots.revoke(&pem).map_err(|e| cx.bad("", e.to_string()))?;
        content.extend(pem);
        Ok(())
    })?;
    let mut sans = cx.each("match_typed_subject_alt_names", match_typed_subject_alt_names, typed_san)?;
    sans.extend(cx.each("match_subject_alt_names", match_subject_alt_names, |cx, m| san(cx, SanKind::Any, m))?);
    Ok(ValidationSecret { name: title, hash: hash.unwrap_or_else(|| super::cx::hash(&content)), roots, sans: sans.into() })
}

fn typed_san(cx: &mut Cx, m: tls::SubjectAltNameMatcher) -> Res<SanMatch> {
    use tls::subject_alt_name_matcher::SanType as T;
    let tls::SubjectAltNameMatcher { san_type, matcher, oid } = m;
    refused!(cx; oid);
    let kind = match cx.choice("san_type", san_type)? {
        T::Dns => SanKind::Dns,
        T::Uri => SanKind::Uri,
        other => return cx.refuse("san_type", format!("{} is not supported", other.as_str_name())),
    };
    cx.must("matcher", matcher, |cx, m| san(cx, kind, m))
}

fn san(cx: &mut Cx, kind: SanKind, m: matcher::StringMatcher) -> Res<SanMatch> {
    use matcher::string_matcher::MatchPattern as P;
    let matcher::StringMatcher { ignore_case, match_pattern } = m;
    let pattern = match match_pattern {
        Some(P::Exact(s)) => SanPattern::Exact(s),
        Some(P::Prefix(s)) => SanPattern::Prefix(s),
        Some(P::Suffix(s)) => SanPattern::Suffix(s),
        Some(P::Contains(s)) => SanPattern::Contains(s),
        Some(P::SafeRegex(_)) => return cx.refuse("safe_regex", "not supported for names of certificates"),
        Some(P::Custom(_)) => return cx.refuse("custom", "not supported"),
        None => return cx.refuse("match_pattern", "it is required"),
    };
    Ok(SanMatch { kind, pattern, ignore_case })
}
