//! Resources as short text: what decides, one line each.

// Istiod speaks of metadata by the older of RBAC's two ways.
#![allow(deprecated)]

use std::{collections::HashMap, fmt::Write as _};

use mizzen_model::{ProxyView, Reader, Snapshot};
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType},
            },
            core::v3::{
                Address, HeaderValueOption, TransportSocket, address, data_source, substitution_format_string::Format, transport_socket,
            },
            endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
            listener::v3::{Filter, FilterChain, Listener, ListenerFilterChainMatchPredicate, filter},
            rbac::v3::Rbac,
            route::v3::{
                HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
                header_matcher::HeaderMatchSpecifier,
                query_parameter_matcher::QueryParameterMatchSpecifier,
                redirect_action::PathRewriteSpecifier,
                route::Action,
                route_action::{ClusterSpecifier, HostRewriteSpecifier},
                route_match::PathSpecifier,
            },
        },
        extensions::{
            clusters::dynamic_forward_proxy::v3::ClusterConfig,
            filters::{
                common::set_filter_state::v3::filter_state_value::{Key, Value},
                http::{rbac::v3::Rbac as HttpRbac, set_filter_state::v3::Config as SetFilterState},
                network::{
                    http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter},
                    rbac::v3::Rbac as TcpRbac,
                    sni_dynamic_forward_proxy::v3::{FilterConfig as SniForwardProxy, filter_config::PortSpecifier},
                    tcp_proxy::v3::{TcpProxy, tcp_proxy},
                },
            },
            transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
                common_tls_context::ValidationContextType, subject_alt_name_matcher::SanType,
            },
            upstreams::http::v3::HttpProtocolOptions,
        },
        r#type::matcher::v3::StringMatcher,
    },
};
use prost::Message;

use crate::{ResourceKind, build};

/// A resource in short.
pub(super) fn show(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &str) -> String {
    let any = build(&Reader::new(snapshot), view, kind, &name.into()).unwrap_or_else(|| panic!("no {kind:?} {name}")).any;
    assert_eq!(any.type_url, kind.type_url());
    match kind {
        ResourceKind::Listener => listener(&decode(&any)),
        ResourceKind::Cluster => cluster(&decode(&any)),
        ResourceKind::Route => routes(&decode(&any)),
        ResourceKind::Endpoints => endpoints(&decode(&any)),
        other => panic!("{other:?}: compared as it is"),
    }
}

pub(super) fn decode<M: Message + Default>(any: &Any) -> M {
    M::decode(&*any.value).unwrap()
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

pub(super) fn socket(address: Option<&Address>) -> String {
    match address.and_then(|a| a.address.as_ref()) {
        Some(address::Address::SocketAddress(s)) => {
            let port = match s.port_specifier {
                Some(mizzen_protos::envoy::envoy::config::core::v3::socket_address::PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            format!("{}:{port}", s.address)
        }
        _ => "?".into(),
    }
}

fn listener(l: &Listener) -> String {
    let mut out = format!("{} {}", l.name, socket(l.address.as_ref()));
    for filter in &l.listener_filters {
        write!(out, " {}", last(&filter.name)).unwrap();
        if let Some(except) = &filter.filter_disabled {
            write!(out, "(except {})", predicate(except)).unwrap();
        }
    }
    for line in l.filter_chains.iter().map(chain).chain(l.default_filter_chain.as_ref().map(|c| format!("else {}", chain(c)))) {
        write!(out, "\n  {line}").unwrap();
    }
    out
}

fn predicate(p: &ListenerFilterChainMatchPredicate) -> String {
    use mizzen_protos::envoy::envoy::config::listener::v3::listener_filter_chain_match_predicate::Rule;
    match p.rule.as_ref().unwrap() {
        Rule::DestinationPortRange(range) if range.end == range.start + 1 => range.start.to_string(),
        Rule::OrMatch(set) => set.rules.iter().map(predicate).collect::<Vec<_>>().join("|"),
        Rule::NotMatch(inner) => format!("!({})", predicate(inner)),
        other => format!("{other:?}"),
    }
}

fn chain(c: &FilterChain) -> String {
    let mut parts = vec![if c.name.is_empty() { "-".to_owned() } else { c.name.clone() }];
    if let Some(m) = &c.filter_chain_match {
        parts.extend(m.destination_port.map(|p| format!("port={}", p.value)));
        parts.extend(m.prefix_ranges.iter().map(|r| format!("to={}/{}", r.address_prefix, r.prefix_len.unwrap().value)));
        parts.extend((!m.server_names.is_empty()).then(|| format!("sni={}", m.server_names.join(","))));
        parts.extend((!m.transport_protocol.is_empty()).then(|| m.transport_protocol.clone()));
        parts.extend((!m.application_protocols.is_empty()).then(|| format!("alpn={}", m.application_protocols.join(","))));
    }
    parts.extend(c.transport_socket.as_ref().map(|s| format!("[{}]", tls_server(s))));
    parts.push("=>".into());
    parts.extend(c.filters.iter().map(network));
    parts.join(" ")
}

fn config(socket: &TransportSocket) -> &Any {
    match socket.config_type.as_ref().unwrap() {
        transport_socket::ConfigType::TypedConfig(any) => any,
    }
}

fn sans(common: &CommonTlsContext) -> String {
    let Some(ValidationContextType::CombinedValidationContext(combined)) = &common.validation_context_type else { return "?".into() };
    assert_eq!(combined.validation_context_sds_secret_config.as_ref().unwrap().name, "ROOTCA");
    assert_eq!(common.tls_certificate_sds_secret_configs[0].name, "default");
    let sans = &combined.default_validation_context.as_ref().unwrap().match_typed_subject_alt_names;
    let uri = |san: &SubjectAltNameMatcher| {
        assert_eq!(san.san_type(), SanType::Uri);
        string(san.matcher.as_ref().unwrap())
    };
    sans.iter().map(uri).collect::<Vec<_>>().join(",")
}

fn tls_server(socket: &TransportSocket) -> String {
    let context: DownstreamTlsContext = decode(config(socket));
    let common = context.common_tls_context.unwrap();
    if common.tls_certificate_sds_secret_configs[0].name != "default" {
        return tls_gateway(context.require_client_certificate.unwrap().value, &common);
    }
    assert!(context.require_client_certificate.unwrap().value);
    format!("mtls from {} offers {}", sans(&common), common.alpn_protocols.join(","))
}

fn tls_gateway(required: bool, common: &CommonTlsContext) -> String {
    let names: Vec<&str> = common.tls_certificate_sds_secret_configs.iter().map(|secret| secret.name.as_str()).collect();
    let mut out = format!("tls {} offers {}", names.join("+"), common.alpn_protocols.join(","));
    if let Some(ValidationContextType::CombinedValidationContext(combined)) = &common.validation_context_type {
        let secret = combined.validation_context_sds_secret_config.as_ref().unwrap();
        let names: Vec<String> =
            combined.default_validation_context.iter().flat_map(|c| c.match_subject_alt_names.iter().map(string)).collect();
        write!(out, " {} clients of {} {names:?}", if required { "needs" } else { "takes" }, secret.name).unwrap();
    }
    if let Some(params) = &common.tls_params {
        let (min, max) = (params.tls_minimum_protocol_version(), params.tls_maximum_protocol_version());
        write!(out, " {}..{} {}", min.as_str_name(), max.as_str_name(), params.cipher_suites.join(",")).unwrap();
    }
    out
}

fn tls_client(socket: &TransportSocket) -> String {
    if socket.name.ends_with("raw_buffer") {
        return "plain".into();
    }
    let context: UpstreamTlsContext = decode(config(socket));
    let common = context.common_tls_context.as_ref().unwrap();
    if common.tls_certificate_sds_secret_configs.first().is_none_or(|secret| secret.name != "default") {
        return tls_foreign(&context, common);
    }
    let compared = if context.auto_sni_san_validation { " (verified)" } else { "" };
    format!("mtls to {} sni {}{compared} alpn {}", sans(common), context.sni, common.alpn_protocols.join(","))
}

fn tls_foreign(context: &UpstreamTlsContext, common: &CommonTlsContext) -> String {
    let certificates: Vec<&str> = common.tls_certificate_sds_secret_configs.iter().map(|secret| secret.name.as_str()).collect();
    let by = match common.validation_context_type.as_ref().unwrap() {
        ValidationContextType::ValidationContext(nothing) => {
            assert_eq!(*nothing, Default::default());
            "nobody".to_owned()
        }
        ValidationContextType::CombinedValidationContext(combined) => {
            let names = &combined.default_validation_context.as_ref().unwrap().match_subject_alt_names;
            let names: Vec<String> = names.iter().map(string).collect();
            format!("{} names {names:?}", combined.validation_context_sds_secret_config.as_ref().unwrap().name)
        }
        other => panic!("{other:?}"),
    };
    let sni = if context.auto_sni_san_validation { format!("{} (verified)", context.sni) } else { context.sni.clone() };
    format!("tls shows {certificates:?} verified by {by} sni {sni:?} alpn {:?}", common.alpn_protocols)
}

fn network(f: &Filter) -> String {
    let Some(filter::ConfigType::TypedConfig(any)) = &f.config_type else { return last(&f.name).into() };
    match last(&f.name) {
        "tcp_proxy" => {
            let proxy: TcpProxy = decode(any);
            match proxy.cluster_specifier.unwrap() {
                tcp_proxy::ClusterSpecifier::Cluster(cluster) => format!("tcp({cluster})"),
                tcp_proxy::ClusterSpecifier::WeightedClusters(w) => {
                    let shares: Vec<_> = w.clusters.iter().map(|c| format!("{}*{}", c.weight, c.name)).collect();
                    format!("tcp({})", shares.join(" "))
                }
            }
        }
        "rbac" => rbac(decode::<TcpRbac>(any).rules.as_ref()),
        "sni_dynamic_forward_proxy" => {
            let Some(PortSpecifier::PortValue(port)) = decode::<SniForwardProxy>(any).port_specifier else { panic!("no port") };
            format!("by-sni(:{port})")
        }
        "http_connection_manager" => {
            let hcm: HttpConnectionManager = decode(any);
            let to = match hcm.route_specifier.as_ref().unwrap() {
                RouteSpecifier::Rds(rds) => format!("rds {}", rds.route_config_name),
                RouteSpecifier::RouteConfig(inline) => inline.name.clone(),
                RouteSpecifier::ScopedRoutes(_) => "scoped".into(),
            };
            let filters = hcm.http_filters.iter().map(|f| match (&f.config_type, last(&f.name)) {
                (Some(http_filter::ConfigType::TypedConfig(any)), "rbac") => rbac(decode::<HttpRbac>(any).rules.as_ref()),
                (_, name) => name.to_owned(),
            });
            format!("http({to}: {})", Join::join(filters, " "))
        }
        name => name.to_owned(),
    }
}

trait Join {
    fn join(self, by: &str) -> String;
}

impl<I: Iterator<Item = String>> Join for I {
    fn join(self, by: &str) -> String {
        self.collect::<Vec<_>>().join(by)
    }
}

fn rbac(rules: Option<&Rbac>) -> String {
    let Some(rules) = rules else { return "rbac(none)".into() };
    let mut names: Vec<_> = rules.policies.keys().map(String::as_str).collect();
    names.sort_unstable();
    format!("{}({})", rules.action().as_str_name(), names.join(" "))
}

fn string(m: &StringMatcher) -> String {
    use mizzen_protos::envoy::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    let text = match m.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(it) => it.clone(),
        MatchPattern::Prefix(it) => format!("{it}*"),
        MatchPattern::Suffix(it) => format!("*{it}"),
        MatchPattern::SafeRegex(it) => format!("~{}~", it.regex),
        other => format!("{other:?}"),
    };
    if m.ignore_case { format!("{text} (any case)") } else { text }
}

fn dynamic(config: &Any) -> &'static str {
    assert_eq!(config.type_url.rsplit('/').next(), Some("envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"));
    if decode::<ClusterConfig>(config).allow_insecure_cluster_options { "ON_DEMAND (unverified)" } else { "ON_DEMAND" }
}

fn cluster(c: &Cluster) -> String {
    let kind = match &c.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind).unwrap().as_str_name(),
        Some(ClusterDiscoveryType::ClusterType(custom)) => dynamic(custom.typed_config.as_ref().unwrap()),
        None => "?",
    };
    let mut out = format!("{} {kind} {}", c.name, c.lb_policy().as_str_name());
    if let Some(any) = c.typed_extension_protocol_options.get("envoy.extensions.upstreams.http.v3.HttpProtocolOptions") {
        use mizzen_protos::envoy::envoy::extensions::upstreams::http::v3::http_protocol_options::{
            UpstreamProtocolOptions as U, explicit_http_config::ProtocolConfig as P,
        };
        let options: HttpProtocolOptions = decode(any);
        out.push_str(match options.upstream_protocol_options.as_ref().unwrap() {
            U::ExplicitHttpConfig(explicit) => match explicit.protocol_config.as_ref().unwrap() {
                P::Http2ProtocolOptions(_) => " http2",
                _ => " http1",
            },
            U::UseDownstreamProtocolConfig(_) => " as-received",
            U::AutoConfig(_) => " auto",
        });
        if let Some(auto) = &options.upstream_http_protocol_options {
            out.push_str(if auto.auto_sni { " auto-sni" } else { "" });
            out.push_str(if auto.auto_san_validation { " auto-san" } else { "" });
        }
        if let Some(idle) = options.common_http_protocol_options.and_then(|o| o.idle_timeout) {
            write!(out, " idle={}s", idle.seconds).unwrap();
        }
    }
    if let Some(limits) = c.circuit_breakers.as_ref().and_then(|b| b.thresholds.first()) {
        for (name, limit) in [
            ("connections", limits.max_connections),
            ("pending", limits.max_pending_requests),
            ("requests", limits.max_requests),
            ("retries", limits.max_retries),
        ] {
            if let Some(limit) = limit.filter(|limit| limit.value != u32::MAX) {
                write!(out, " {name}<={}", limit.value).unwrap();
            }
        }
    }
    if let Some(outlier) = &c.outlier_detection {
        let count = |n: Option<mizzen_protos::wkt::UInt32Value>| n.map_or("-".into(), |n| n.value.to_string());
        write!(out, " eject(5xx={} gateway={})", count(outlier.consecutive_5xx), count(outlier.consecutive_gateway_failure)).unwrap();
    }
    for chosen in &c.transport_socket_matches {
        write!(out, "\n  {}: {}", chosen.name, tls_client(chosen.transport_socket.as_ref().unwrap())).unwrap();
    }
    if let Some(always) = &c.transport_socket {
        write!(out, "\n  always: {}", tls_client(always)).unwrap();
    }
    if let Some(metadata) = &c.metadata {
        write!(out, "\n  {}", metadata_text(metadata)).unwrap();
    }
    if let Some(inline) = &c.load_assignment {
        write!(out, "\n  {}", endpoints(inline)).unwrap();
    }
    out
}

fn metadata_text(m: &mizzen_protos::envoy::envoy::config::core::v3::Metadata) -> String {
    let mut spaces: Vec<_> = m.filter_metadata.iter().collect();
    spaces.sort_by(|a, b| a.0.cmp(b.0));
    spaces.into_iter().map(|(name, fields)| format!("{name}{}", object(fields))).join(" ")
}

fn object(fields: &mizzen_protos::wkt::Struct) -> String {
    let mut entries: Vec<_> = fields.fields.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    format!("{{{}}}", entries.into_iter().map(|(key, value)| format!("{key}: {}", value_text(value))).join(", "))
}

fn value_text(value: &mizzen_protos::wkt::Value) -> String {
    use mizzen_protos::wkt::value::Kind;
    match value.kind.as_ref().unwrap() {
        Kind::StringValue(text) => text.clone(),
        Kind::BoolValue(flag) => flag.to_string(),
        Kind::StructValue(fields) => object(fields),
        Kind::ListValue(list) => format!("[{}]", list.values.iter().map(value_text).join(", ")),
        other => format!("{other:?}"),
    }
}

fn endpoints(a: &ClusterLoadAssignment) -> String {
    let mut out = a.cluster_name.clone();
    for locality in &a.endpoints {
        for endpoint in &locality.lb_endpoints {
            let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else { panic!("no address") };
            write!(out, "\n  {} {}", socket(host.address.as_ref()), endpoint.metadata.as_ref().map_or_else(String::new, metadata_text))
                .unwrap();
        }
    }
    out
}

fn routes(config: &RouteConfiguration) -> String {
    let mut out = config.name.clone();
    for host in &config.virtual_hosts {
        let secure = if host.require_tls == 0 { "" } else { " over TLS alone" };
        write!(out, "\n  {} [{}]{secure}", host.name, host.domains.join(" ")).unwrap();
        for line in host.routes.iter().map(route) {
            write!(out, "\n    {line}").unwrap();
        }
    }
    out
}

fn route(r: &Route) -> String {
    let name = if r.name.is_empty() { "-" } else { &r.name };
    let action = match r.action.as_ref().unwrap() {
        Action::Route(action) => forward(action),
        Action::Redirect(to) => {
            let path = match &to.path_rewrite_specifier {
                Some(PathRewriteSpecifier::PathRedirect(path)) => path.clone(),
                Some(PathRewriteSpecifier::PrefixRewrite(path)) => format!("{path}..."),
                other => format!("{other:?}"),
            };
            format!("redirect {} {}:{} {path}", to.response_code().as_str_name(), to.host_redirect, to.port_redirect)
        }
        Action::DirectResponse(answer) => format!("answer {}", answer.status),
        other => format!("{other:?}"),
    };
    let ops = header_ops(&r.request_headers_to_add, &r.request_headers_to_remove, "request")
        + &header_ops(&r.response_headers_to_add, &r.response_headers_to_remove, "response");
    let filters = left(&r.typed_per_filter_config);
    format!("{name}: {} => {action}{ops}{filters}", matching(r.r#match.as_ref().unwrap()))
}

/// What a route leaves in the state of filters.
fn left(filters: &HashMap<String, Any>) -> String {
    let Some(config) = filters.get("envoy.filters.http.set_filter_state") else { return String::new() };
    let config: SetFilterState = decode(config);
    let entries = config.on_request_headers.iter().map(|entry| {
        let (Some(Key::ObjectKey(key)), Some(Value::FormatString(format))) = (&entry.key, &entry.value) else { panic!("{entry:?}") };
        let Some(Format::TextFormatSource(text)) = &format.format else { panic!("{format:?}") };
        let Some(data_source::Specifier::InlineString(text)) = &text.specifier else { panic!("{text:?}") };
        format!(" {}={text}", last(key))
    });
    let named = if filters.contains_key("envoy.filters.http.header_to_metadata") { " by-host" } else { "" };
    entries.join("") + named
}

fn header_ops(add: &[HeaderValueOption], remove: &[String], which: &str) -> String {
    let added = add.iter().map(|option| {
        let header = option.header.as_ref().unwrap();
        let sign = if option.append_action().as_str_name().starts_with("OVERWRITE") { "=" } else { "+=" };
        format!(" {which}.{}{sign}{}", header.key, header.value)
    });
    added.chain(remove.iter().map(|name| format!(" {which}.{name} removed"))).join("")
}

fn matching(m: &RouteMatch) -> String {
    let mut out = match m.path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(prefix) => format!("{prefix}*"),
        PathSpecifier::Path(path) => path.clone(),
        PathSpecifier::SafeRegex(regex) => format!("~{}~", regex.regex),
        other => format!("{other:?}"),
    };
    if m.case_sensitive.is_some_and(|flag| !flag.value) {
        out.push_str(" (any case)");
    }
    for header in &m.headers {
        write!(out, " {}", header_text(header)).unwrap();
    }
    for query in &m.query_parameters {
        let wanted = match query.query_parameter_match_specifier.as_ref().unwrap() {
            QueryParameterMatchSpecifier::StringMatch(text) => string(text),
            QueryParameterMatchSpecifier::PresentMatch(_) => "present".into(),
        };
        write!(out, " ?{}: {wanted}", query.name).unwrap();
    }
    out
}

pub(super) fn header_text(m: &HeaderMatcher) -> String {
    let wanted = match m.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::StringMatch(text) => string(text),
        HeaderMatchSpecifier::PresentMatch(true) => "present".into(),
        other => format!("{other:?}"),
    };
    let not = if m.invert_match { "not " } else { "" };
    let missing = if m.treat_missing_header_as_empty { " (missing is empty)" } else { "" };
    format!("{not}{}: {wanted}{missing}", m.name)
}

fn forward(action: &RouteAction) -> String {
    let mut out = match action.cluster_specifier.as_ref().unwrap() {
        ClusterSpecifier::Cluster(cluster) => cluster.clone(),
        ClusterSpecifier::WeightedClusters(w) => w
            .clusters
            .iter()
            .map(|c| {
                let ops = header_ops(&c.request_headers_to_add, &c.request_headers_to_remove, "request");
                format!("{}*{}{ops}{}", c.weight.unwrap().value, c.name, left(&c.typed_per_filter_config))
            })
            .join(" "),
        other => format!("{other:?}"),
    };
    if !action.prefix_rewrite.is_empty() {
        write!(out, " path:={}", action.prefix_rewrite).unwrap();
    }
    if let Some(rewrite) = &action.regex_rewrite {
        write!(out, " path:=~{}~{}", rewrite.pattern.as_ref().unwrap().regex, rewrite.substitution).unwrap();
    }
    if let Some(host) = &action.host_rewrite_specifier {
        let HostRewriteSpecifier::HostRewriteLiteral(host) = host else { panic!("{host:?}") };
        write!(out, " host:={host}").unwrap();
    }
    if let Some(timeout) = action.timeout.filter(|t| t.seconds != 0 || t.nanos != 0) {
        write!(out, " timeout={}ms", timeout.seconds * 1000 + i64::from(timeout.nanos / 1_000_000)).unwrap();
    }
    out + &action.retry_policy.as_ref().map_or_else(String::new, retries)
}

fn retries(policy: &RetryPolicy) -> String {
    const DEFAULT: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    if policy.retry_on == DEFAULT && policy.num_retries.is_some_and(|n| n.value == 2) && policy.per_try_timeout.is_none() {
        return " retries".into();
    }
    let each = policy.per_try_timeout.map_or_else(String::new, |t| format!(" each {}s", t.seconds));
    let codes = policy.retriable_status_codes.iter().map(ToString::to_string).join(",");
    format!(" retries={} on {} {codes}{each}", policy.num_retries.unwrap().value, policy.retry_on)
}

/// A policy's rule as text: permissions, then principals.
pub(super) fn rule(policy: &mizzen_protos::envoy::envoy::config::rbac::v3::Policy) -> String {
    let to = policy.permissions.iter().map(permission).join(" | ");
    let from = policy.principals.iter().map(principal).join(" | ");
    format!("to {to} from {from}")
}

fn permission(p: &mizzen_protos::envoy::envoy::config::rbac::v3::Permission) -> String {
    use mizzen_protos::envoy::envoy::{config::rbac::v3::permission::Rule, r#type::matcher::v3::path_matcher};
    match p.rule.as_ref().unwrap() {
        Rule::AndRules(set) => format!("all({})", set.rules.iter().map(permission).join("; ")),
        Rule::OrRules(set) => format!("one({})", set.rules.iter().map(permission).join("; ")),
        Rule::NotRule(inner) => format!("not {}", permission(inner)),
        Rule::Any(_) => "any".into(),
        Rule::Header(header) => header_text(header),
        Rule::UrlPath(path) => match path.rule.as_ref().unwrap() {
            path_matcher::Rule::Path(text) => format!("path {}", string(text)),
        },
        Rule::DestinationPort(port) => format!("port {port}"),
        Rule::DestinationIp(ip) => format!("to {}/{}", ip.address_prefix, ip.prefix_len.unwrap().value),
        Rule::RequestedServerName(name) => format!("server name {}", string(name)),
        Rule::Metadata(metadata) => matched_metadata(metadata),
        Rule::UriTemplate(template) => {
            let any = template.typed_config.as_ref().unwrap();
            let template: mizzen_protos::envoy::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig = decode(any);
            format!("template {}", template.path_template)
        }
        other => format!("{other:?}"),
    }
}

fn principal(p: &mizzen_protos::envoy::envoy::config::rbac::v3::Principal) -> String {
    use mizzen_protos::envoy::envoy::config::rbac::v3::principal::Identifier;
    match p.identifier.as_ref().unwrap() {
        Identifier::AndIds(set) => format!("all({})", set.ids.iter().map(principal).join("; ")),
        Identifier::OrIds(set) => format!("one({})", set.ids.iter().map(principal).join("; ")),
        Identifier::NotId(inner) => format!("not {}", principal(inner)),
        Identifier::Any(_) => "any".into(),
        Identifier::Authenticated(who) => string(who.principal_name.as_ref().unwrap()),
        Identifier::Header(header) => header_text(header),
        Identifier::DirectRemoteIp(ip) => format!("from {}/{}", ip.address_prefix, ip.prefix_len.unwrap().value),
        Identifier::RemoteIp(ip) => format!("client {}/{}", ip.address_prefix, ip.prefix_len.unwrap().value),
        Identifier::Metadata(metadata) => matched_metadata(metadata),
        other => format!("{other:?}"),
    }
}

/// `FILTER:a.b = VALUE`, where `[VALUE]` is an item of a list.
fn matched_metadata(metadata: &mizzen_protos::envoy::envoy::r#type::matcher::v3::MetadataMatcher) -> String {
    use mizzen_protos::envoy::envoy::r#type::matcher::v3::{
        ValueMatcher, list_matcher, metadata_matcher::path_segment::Segment, value_matcher::MatchPattern,
    };
    fn value(matcher: &ValueMatcher) -> String {
        match matcher.match_pattern.as_ref().unwrap() {
            MatchPattern::StringMatch(text) => string(text),
            MatchPattern::OrMatch(or) => or.value_matchers.iter().map(value).join("|"),
            MatchPattern::ListMatch(list) => match list.match_pattern.as_ref().unwrap() {
                list_matcher::MatchPattern::OneOf(item) => format!("[{}]", value(item)),
            },
            other => format!("{other:?}"),
        }
    }
    let path = metadata.path.iter().map(|part| match part.segment.as_ref().unwrap() {
        Segment::Key(key) => key.as_str(),
    });
    let filter = metadata.filter.rsplit('.').next().unwrap();
    format!("{filter}:{} = {}", path.collect::<Vec<_>>().join("."), value(metadata.value.as_ref().unwrap()))
}
