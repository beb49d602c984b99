//! TLS that a rule begins to servers that are not of the mesh.

use mizzen_api::istio::{ClientCertificate, ClientRoots, ClientTls, DestinationRule, ExportTo, ForeignTls, TrafficPolicy};
use mizzen_model::{ProxyType, ServiceView};
use mizzen_protos::envoy::envoy::{
    config::core::v3::{Http1ProtocolOptions, UpstreamHttpProtocolOptions},
    extensions::{
        transport_sockets::tls::v3::UpstreamTlsContext,
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
        },
    },
};
use mizzen_types::Protocol;

use crate::{
    draft::{Cluster, Socket},
    scope::Scope,
    tls,
    traffic::Policy,
};

/// Whether a policy names a Secret that this proxy is not given: a sidecar takes one only by a rule that selects workloads, since else each caller of the
/// host would have to have it.
pub(crate) fn is_barred(scope: &Scope<'_, '_>, policy: &Policy) -> bool {
    let Some(ClientTls::Foreign(tls)) = &policy.tls else { return false };
    tls.credential().is_some() && !policy.is_selective && scope.view.kind(scope.reader) == ProxyType::Sidecar
}

/// TLS of a cluster. Whom its certificate must name, and by which name it is asked for, is for HTTP the request's host, as with Istio; for other
/// connections the service's host.
pub(crate) fn secure(made: &mut Cluster, wanted: &ForeignTls, service: &ServiceView, protocol: Protocol, http2: bool) {
    let (expected, host) = (&wanted.expected, &service.host);
    // Whom the rule does not name, the ServiceEntry may.
    let own = &expected.subject_alt_names;
    let said = if own.is_empty() { &service.subject_alt_names } else { own };
    let verifies = wanted.roots != ClientRoots::Nobody && expected.sni.is_none() && said.is_empty();
    // What is declared as HTTPS is HTTP where routes send it, and bytes else.
    let (carries_http, carries_bytes) = (protocol.is_http() || matches!(protocol, Protocol::Auto | Protocol::Https), !protocol.is_http());
    let own_name = Some(host.as_str()).filter(|_| carries_bytes && !host.is_wildcard());
    if carries_http && expected.sni.is_none() {
        by_authority(made, verifies);
    }
    let mut names = said.clone();
    if verifies && !carries_http {
        names.extend(own_name.map(str::to_owned));
    }
    let alpn: &[&str] = if http2 { &["h2"] } else { &[] };
    made.socket = Some(Socket::Client(Box::new(UpstreamTlsContext {
        common_tls_context: Some(tls::foreign(wanted, &names, alpn)),
        sni: expected.sni.as_deref().or(own_name).unwrap_or_default().to_owned(),
        // Of the two kinds of connections the one that is no request's has no other name to be compared with.
        auto_sni_san_validation: verifies && carries_http && own_name.is_some(),
        ..Default::default()
    })));
}

/// A cluster's server is asked for by the request's host, and if it is verified its certificate has to name that.
pub(crate) fn by_authority(made: &mut Cluster, verifies: bool) {
    made.options.get_or_insert_with(http1).upstream_http_protocol_options =
        Some(UpstreamHttpProtocolOptions { auto_sni: true, auto_san_validation: verifies, ..Default::default() });
}

fn http1() -> HttpProtocolOptions {
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
        })),
        ..Default::default()
    }
}

/// What a rule names of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The certificate with its key.
    Certificate,
    /// The authorities.
    Authorities,
}

/// Whether a rule that holds for this proxy has it connect with this part of a Secret.
pub(crate) fn names(scope: &Scope<'_, '_>, credential: &str, part: Part) -> bool {
    scope.reader.all::<DestinationRule>().any(|rule| policies(rule).any(|policy| wants(policy, credential, part)) && holds(scope, rule))
}

/// All policies of a rule.
fn policies(rule: &DestinationRule) -> impl Iterator<Item = &TrafficPolicy> {
    let whole = rule.traffic_policy.iter().chain(rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
    whole.flat_map(|policy| std::iter::once(&**policy).chain(policy.port_level_settings.values()))
}

fn wants(policy: &TrafficPolicy, credential: &str, part: Part) -> bool {
    let Some(ClientTls::Foreign(tls)) = &policy.tls else { return false };
    match part {
        Part::Certificate => matches!(&tls.certificate, Some(ClientCertificate::Secret(name)) if name == credential),
        Part::Authorities => matches!(&tls.roots, ClientRoots::Secret(name) if name == credential),
    }
}

/// Whether a rule holds for this proxy, were there no nearer one.
fn holds(scope: &Scope<'_, '_>, rule: &DestinationRule) -> bool {
    let own = || scope.is_in(&rule.meta.namespace);
    if let Some(selector) = &rule.selector {
        return own() && scope.view.selected(scope.reader, &selector.labels);
    }
    let default = &scope.mesh().default_destination_rule_export_to;
    let list = if rule.export_to.is_empty() { default } else { &rule.export_to };
    let seen = list.is_empty()
        || list.iter().any(|to| match to {
            ExportTo::All => true,
            ExportTo::Own => own(),
            ExportTo::Nobody => false,
            ExportTo::Namespace(name) => scope.is_in(name),
        });
    seen && scope.view.kind(scope.reader) == ProxyType::Router
}
