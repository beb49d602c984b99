//! Routes: one for each condition of a rule, or the default.

// `max_grpc_timeout` is deprecated for what older proxies lack; Istio sends it.
#![allow(deprecated)]

use std::collections::BTreeMap;

use mizzen_api::{
    istio::{GatewayRef, HeaderOps, StringMatch},
    routing::{
        Destination, DirectResponse, HttpAction, HttpDestination, HttpMatch, HttpRoute, Redirect, RedirectPort, Retries, Rewrite,
        claim_path,
    },
};
use mizzen_model::RouteRules;
use mizzen_protos::{
    envoy::envoy::{
        config::{
            core::v3::{DataSource, HeaderValue, HeaderValueOption, Metadata, data_source, header_value_option::HeaderAppendAction},
            route::v3::{
                Decorator, DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, Route, RouteAction,
                RouteMatch, WeightedCluster,
                header_matcher::HeaderMatchSpecifier,
                query_parameter_matcher::QueryParameterMatchSpecifier,
                redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
                retry_policy::{RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority},
                route::Action,
                route_action::{ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration},
                route_match::PathSpecifier,
                weighted_cluster::{ClusterWeight, cluster_weight},
            },
        },
        extensions::retry::{
            host::previous_hosts::v3::PreviousHostsPredicate, priority::previous_priorities::v3::PreviousPrioritiesConfig,
        },
        r#type::matcher::v3::{
            ListMatcher, MetadataMatcher, OrMatcher, RegexMatchAndSubstitute, RegexMatcher, StringMatcher, ValueMatcher, list_matcher,
            metadata_matcher::{PathSegment, path_segment::Segment},
            string_matcher::MatchPattern,
            value_matcher::MatchPattern as ValuePattern,
        },
    },
    wkt,
};
use mizzen_types::Hostname;

use crate::{discovery, draft, dynamic, filters, hash, jwt, names, scope::Scope, traffic, wire};

/// Retries of routes that say nothing: only what surely did not reach the application.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// For whom routes are made.
pub(crate) struct Caller<'c> {
    /// The sidecars, or a gateway (which may stand for several Gateways).
    pub(crate) gateways: &'c [GatewayRef],
    /// The port that is called.
    pub(crate) port: u16,
    /// The host that is called; none at a gateway.
    pub(crate) host: Option<&'c Hostname>,
}

/// The cluster of a destination that an object of `namespace` wrote. Without a port it is the service's only one, else the port that was called.
pub(crate) fn destination_cluster(scope: &Scope<'_, '_>, to: &Destination, namespace: &str, caller: &Caller<'_>) -> String {
    // An alias has no cluster: it is the host that it names.
    let host = scope.reader.meaning(&scope.qualify(&to.host, namespace));
    let port = to.port.or_else(|| scope.only_port(&host)).unwrap_or(caller.port);
    // Who has called the headless service itself has one of its pods' addresses, and means that pod.
    let elsewhere = || caller.host.is_some_and(|called| *called != host);
    let all = || scope.service_at(&host, port).is_some_and(|service| discovery::has_all(scope, service)) && elsewhere();
    let subset = match &to.subset {
        Some(subset) => subset,
        None if all() => names::ALL,
        None => "",
    };
    names::outbound(port, subset, &host)
}

/// The routes of one object for one caller; what comes after a route for all requests is left out.
pub(crate) fn of_rules(scope: &Scope<'_, '_>, rules: RouteRules<'_>, caller: &Caller<'_>) -> Vec<Route> {
    let mut made = Vec::new();
    for rule in rules.http {
        if rule.matches.is_empty() {
            made.extend(of_rule(scope, rules, rule, None, caller));
            break;
        }
        for condition in rule.matches.iter().filter(|m| applies(scope, m, caller)) {
            made.extend(of_rule(scope, rules, rule, Some(condition), caller));
            if is_open(condition) {
                return made;
            }
        }
    }
    made
}

/// Whether a condition concerns this caller at all.
fn applies(scope: &Scope<'_, '_>, condition: &HttpMatch, caller: &Caller<'_>) -> bool {
    let bound = condition.gateways.is_empty() || condition.gateways.iter().any(|gateway| caller.gateways.contains(gateway));
    // At a gateway the gateway itself is the source.
    let from = || scope.is_source(condition.source_namespace.as_deref(), &condition.source_labels);
    bound && condition.port.is_none_or(|port| port == caller.port) && from()
}

/// Whether every request meets it.
fn is_open(m: &HttpMatch) -> bool {
    let any_path = match &m.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(_) => false,
    };
    any_path
        && m.headers.is_empty()
        && m.without_headers.is_empty()
        && m.query_params.is_empty()
        && m.method.is_none()
        && m.authority.is_none()
        && m.scheme.is_none()
}

/// None of what is left to others and that these do not have.
fn of_rule(
    scope: &Scope<'_, '_>,
    rules: RouteRules<'_>,
    rule: &HttpRoute,
    condition: Option<&HttpMatch>,
    caller: &Caller<'_>,
) -> Option<Route> {
    let name = match (&rule.name, condition.and_then(|m| m.name.as_ref())) {
        (Some(rule), Some(condition)) => format!("{rule}.{condition}"),
        (Some(name), None) | (None, Some(name)) => name.clone(),
        (None, None) => String::new(),
    };
    let (action, operation) = match &rule.action {
        HttpAction::Route(to) => {
            let operation = match to.as_slice() {
                [only] => {
                    let cluster = destination_cluster(scope, &only.destination, &rules.meta.namespace, caller);
                    names::parse_outbound(&cluster).map_or(cluster.clone(), |(port, _, host)| format!("{host}:{port}"))
                }
                _ => format!("{}:{}", rules.meta.name, caller.port),
            };
            (Action::Route(forward(scope, rules, rule, to, caller)), Some(format!("{operation}{}", operation_path(condition))))
        }
        HttpAction::Redirect(to) => (Action::Redirect(redirect(to, caller)), None),
        HttpAction::DirectResponse(answer) => (Action::DirectResponse(direct(answer)), None),
        HttpAction::Delegate(_) => return None,
    };
    let mut route = Route {
        name,
        r#match: Some(condition.map_or_else(any_path, matching)),
        metadata: Some(config_metadata(&names::config_path("virtual-service", &rules.meta.namespace, &rules.meta.name))),
        decorator: operation.map(decorator),
        action: Some(action),
        ..Default::default()
    };
    if let Some(fault) = &rule.fault {
        route.typed_per_filter_config.insert(draft::FAULT.to_owned(), draft::pack(&filters::fault(fault)));
    }
    let (request, response) = (&rule.headers.request, &rule.headers.response);
    route.request_headers_to_add = header_values(request);
    route.request_headers_to_remove.clone_from(&request.remove);
    route.response_headers_to_add = header_values(response);
    route.response_headers_to_remove.clone_from(&response.remove);
    if let HttpAction::Route(to) = &rule.action
        && let [only] = to.as_slice()
    {
        // After the route's, so that they win.
        route.request_headers_to_add.extend(header_values(&only.headers.request));
        route.request_headers_to_remove.extend(only.headers.request.remove.iter().cloned());
        route.response_headers_to_add.extend(header_values(&only.headers.response));
        route.response_headers_to_remove.extend(only.headers.response.remove.iter().cloned());
    }
    dynamic::settle(scope, &mut route, caller);
    Some(route)
}

/// What traces say of a route: the path as far as it is fixed.
fn operation_path(condition: Option<&HttpMatch>) -> String {
    match condition.and_then(|m| m.uri.as_ref()) {
        Some(StringMatch::Exact(path)) => path.clone(),
        Some(StringMatch::Prefix(prefix)) => format!("{prefix}*"),
        Some(StringMatch::Regex(regex)) => regex.clone(),
        Some(StringMatch::Present) | None => "/*".to_owned(),
    }
}

fn decorator(operation: String) -> Decorator {
    Decorator { operation, propagate: None }
}

/// `istio: {config: PATH}`.
fn config_metadata(path: &str) -> Metadata {
    wire::metadata([("istio", wire::object([("config", wire::text(path))]))])
}

fn any_path() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }
}

fn regex(expression: &str) -> RegexMatcher {
    RegexMatcher { regex: expression.to_owned(), ..Default::default() }
}

/// `None` where presence is all that is asked for.
fn string(wanted: &StringMatch) -> Option<StringMatcher> {
    let pattern = match wanted {
        StringMatch::Exact(it) => MatchPattern::Exact(it.clone()),
        StringMatch::Prefix(it) => MatchPattern::Prefix(it.clone()),
        StringMatch::Regex(it) => MatchPattern::SafeRegex(regex(it)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

fn header(name: &str, wanted: &StringMatch) -> HeaderMatcher {
    let specifier = string(wanted).map_or(HeaderMatchSpecifier::PresentMatch(true), HeaderMatchSpecifier::StringMatch);
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn without(name: &str, wanted: &StringMatch) -> HeaderMatcher {
    // A request that lacks the header meets the condition.
    HeaderMatcher { invert_match: true, treat_missing_header_as_empty: *wanted != StringMatch::Present, ..header(name, wanted) }
}

/// A token's claim in the place of a header: a text, or a list that has it.
fn claim(name: &str, wanted: &StringMatch) -> Option<MetadataMatcher> {
    let path = claim_path(name)?.ok()?;
    let of = |pattern| ValueMatcher { match_pattern: Some(pattern) };
    let value = match string(wanted) {
        None => of(ValuePattern::PresentMatch(true)),
        Some(text) => {
            let text = of(ValuePattern::StringMatch(text));
            let listed = ListMatcher { match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(text.clone()))) };
            of(ValuePattern::OrMatch(OrMatcher { value_matchers: vec![of(ValuePattern::ListMatch(Box::new(listed))), text] }))
        }
    };
    let keys = std::iter::once(jwt::PAYLOAD.to_owned()).chain(path);
    Some(MetadataMatcher {
        filter: jwt::FILTER.into(),
        path: keys.map(|key| PathSegment { segment: Some(Segment::Key(key)) }).collect(),
        value: Some(value),
        ..Default::default()
    })
}

fn matching(m: &HttpMatch) -> RouteMatch {
    let path = match &m.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(expression)) => PathSpecifier::SafeRegex(regex(expression)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".into()),
    };
    let is_header = |(name, _): &(&String, &StringMatch)| claim_path(name).is_none();
    let mut headers: Vec<HeaderMatcher> = m.headers.iter().filter(is_header).map(|(name, wanted)| header(name, wanted)).collect();
    headers.extend(m.without_headers.iter().filter(is_header).map(|(name, wanted)| without(name, wanted)));
    let mut claims: Vec<MetadataMatcher> = m.headers.iter().filter_map(|(name, wanted)| claim(name, wanted)).collect();
    let without = m.without_headers.iter().filter_map(|(name, wanted)| claim(name, wanted));
    claims.extend(without.map(|matcher| MetadataMatcher { invert: true, ..matcher }));
    for (name, wanted) in [(":method", &m.method), (":authority", &m.authority), (":scheme", &m.scheme)] {
        headers.extend(wanted.as_ref().map(|wanted| header(name, wanted)));
    }
    let query = |(name, wanted): (&String, &StringMatch)| {
        let specifier = string(wanted).map_or(QueryParameterMatchSpecifier::PresentMatch(true), QueryParameterMatchSpecifier::StringMatch);
        QueryParameterMatcher { name: name.clone(), query_parameter_match_specifier: Some(specifier) }
    };
    RouteMatch {
        case_sensitive: Some(wire::bool_value(!m.ignore_uri_case)),
        headers,
        dynamic_metadata: claims,
        query_parameters: m.query_params.iter().map(query).collect(),
        path_specifier: Some(path),
        ..Default::default()
    }
}

/// The Host header is no header to a route; setting it is rewriting it.
fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn header_values(ops: &HeaderOps) -> Vec<HeaderValueOption> {
    let made = |values: &BTreeMap<String, String>, action: HeaderAppendAction| {
        let option = move |(key, value): (&String, &String)| HeaderValueOption {
            header: Some(HeaderValue { key: key.clone(), value: value.clone(), ..Default::default() }),
            append_action: action.into(),
            ..Default::default()
        };
        values.iter().filter(|(key, _)| !is_host(key)).map(option).collect::<Vec<_>>()
    };
    let mut all = made(&ops.set, HeaderAppendAction::OverwriteIfExistsOrAdd);
    all.extend(made(&ops.add, HeaderAppendAction::AppendIfExistsOrAdd));
    all
}

fn host_set(ops: &HeaderOps) -> Option<String> {
    ops.set.iter().find(|(key, _)| is_host(key)).map(|(_, value)| value.clone())
}

fn forward(scope: &Scope<'_, '_>, rules: RouteRules<'_>, rule: &HttpRoute, to: &[HttpDestination], caller: &Caller<'_>) -> RouteAction {
    let timeout = wire::duration(rule.timeout.unwrap_or_default());
    let mut action = RouteAction { timeout: Some(timeout), max_grpc_timeout: Some(timeout), ..Default::default() };
    let rewrite = rule.rewrite.clone().unwrap_or_default();
    rewrite_path(&mut action, &rewrite);
    let own = || to.first().filter(|_| to.len() == 1).and_then(|only| host_set(&only.headers.request));
    let host = rewrite.authority.or_else(|| host_set(&rule.headers.request)).or_else(own);
    action.host_rewrite_specifier = host.map(HostRewriteSpecifier::HostRewriteLiteral);
    let cluster = |d: &HttpDestination| destination_cluster(scope, &d.destination, &rules.meta.namespace, caller);
    let mut sticky = false;
    match to {
        [only] => {
            let cluster = cluster(only);
            let policy = traffic::of_cluster(scope, &cluster);
            sticky = policy.hash().is_some();
            action.hash_policy.extend(policy.hash().and_then(hash::of_requests));
            action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster));
        }
        several => {
            let clusters: Vec<(&HttpDestination, String)> = several.iter().filter(|d| d.weight > 0).map(|d| (d, cluster(d))).collect();
            for (_, name) in &clusters {
                let key = traffic::of_cluster(scope, name).hash().and_then(hash::of_requests);
                // Several destinations may share one key.
                if let Some(key) = key.filter(|key| !action.hash_policy.contains(key)) {
                    action.hash_policy.push(key);
                }
            }
            let clusters = clusters.into_iter().map(|(d, name)| ClusterWeight {
                name,
                weight: Some(wire::u32_value(d.weight)),
                request_headers_to_add: header_values(&d.headers.request),
                request_headers_to_remove: d.headers.request.remove.clone(),
                response_headers_to_add: header_values(&d.headers.response),
                response_headers_to_remove: d.headers.response.remove.clone(),
                host_rewrite_specifier: host_set(&d.headers.request).map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
                ..Default::default()
            });
            action.cluster_specifier =
                Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect(), ..Default::default() }));
        }
    }
    action.retry_policy = retries(scope, rule.retries.as_ref(), sticky);
    action
}

fn rewrite_path(action: &mut RouteAction, rewrite: &Rewrite) {
    if let Some(uri) = &rewrite.uri {
        action.prefix_rewrite.clone_from(uri);
    } else if let Some(by) = &rewrite.uri_regex {
        action.regex_rewrite = Some(RegexMatchAndSubstitute { pattern: Some(regex(&by.pattern)), substitution: by.substitution.clone() });
    }
}

fn previous_hosts() -> RetryHostPredicate {
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(draft::pack(&PreviousHostsPredicate {}))),
    }
}

fn default_retries() -> RetryPolicy {
    RetryPolicy {
        retry_on: RETRY_ON.into(),
        num_retries: Some(wire::u32_value(2)),
        retry_host_predicate: vec![previous_hosts()],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}

/// A rule's retries, else the mesh's, else Istio's. No attempts: none. `sticky`: the destination takes hosts by a key, and what is tried again stays
/// with its host.
fn retries(scope: &Scope<'_, '_>, own: Option<&Retries>, sticky: bool) -> Option<RetryPolicy> {
    let mut policy = default_retries();
    if sticky {
        policy.retry_host_predicate.clear();
    }
    let Some(wanted) = own.or(scope.mesh().default_http_retry_policy.as_ref()) else { return Some(policy) };
    if wanted.attempts == 0 {
        return None;
    }
    policy.num_retries = Some(wire::u32_value(wanted.attempts));
    policy.per_try_timeout = wanted.per_try_timeout.map(wire::duration);
    if !wanted.retry_on.is_empty() {
        let (codes, words): (Vec<_>, Vec<_>) = wanted.retry_on.iter().partition(|word| word.parse::<u32>().is_ok());
        policy.retriable_status_codes = codes.iter().filter_map(|code| code.parse().ok()).collect();
        let mut words: Vec<&str> = words.into_iter().map(String::as_str).collect();
        if !codes.is_empty() && !words.contains(&"retriable-status-codes") {
            words.push("retriable-status-codes");
        }
        policy.retry_on = words.join(",");
    }
    if let Some(ignores) = wanted.retry_ignore_previous_hosts {
        policy.retry_host_predicate = if ignores { vec![previous_hosts()] } else { Vec::new() };
    }
    if wanted.retry_remote_localities {
        let config = PreviousPrioritiesConfig { update_frequency: 2 };
        policy.retry_priority = Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".into(),
            config_type: Some(retry_priority::ConfigType::TypedConfig(draft::pack(&config))),
        });
    }
    policy.retry_back_off = wanted.backoff.map(|base| RetryBackOff { base_interval: Some(wire::duration(base)), max_interval: None });
    Some(policy)
}

fn redirect(to: &Redirect, caller: &Caller<'_>) -> RedirectAction {
    let (port, path) = (to.port, to.uri.clone().map(PathRewriteSpecifier::PathRedirect));
    let code = match to.code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let own = if to.scheme.as_deref() == Some("https") { 443 } else { 80 };
    let wanted = match port {
        Some(RedirectPort::Number(number)) => number,
        Some(RedirectPort::Request) => caller.port,
        Some(RedirectPort::ProtocolDefault) => own,
        None => 0,
    };
    // What goes without saying is not said; but a Host header that stays may have a port, which only another one replaces.
    let is_default = wanted == own && to.authority.is_some();
    RedirectAction {
        host_redirect: to.authority.clone().unwrap_or_default(),
        port_redirect: if is_default { 0 } else { wanted.into() },
        response_code: code.into(),
        strip_query: false,
        scheme_rewrite_specifier: to.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path.or_else(|| to.prefix_rewrite.clone().map(PathRewriteSpecifier::PrefixRewrite)),
    }
}

fn direct(answer: &DirectResponse) -> DirectResponseAction {
    let specifier = match String::from_utf8(answer.body.clone()) {
        Ok(text) => data_source::Specifier::InlineString(text),
        Err(bytes) => data_source::Specifier::InlineBytes(bytes.into_bytes()),
    };
    let body = (!answer.body.is_empty()).then(|| DataSource { specifier: Some(specifier), ..Default::default() });
    DirectResponseAction { status: answer.status.into(), body, ..Default::default() }
}

fn no_limit() -> Option<wkt::Duration> {
    Some(wire::seconds(0))
}

/// The route of a service that no rule bears on.
pub(crate) fn default(cluster: String, operation: String) -> Route {
    let action = RouteAction {
        timeout: no_limit(),
        max_grpc_timeout: no_limit(),
        retry_policy: Some(default_retries()),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    };
    Route {
        name: "default".into(),
        r#match: Some(any_path()),
        decorator: Some(decorator(operation)),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

/// [`default`] with the mesh's own retry policy and the service's key.
pub(crate) fn default_in(scope: &Scope<'_, '_>, cluster: String, operation: String, caller: &Caller<'_>) -> Route {
    let key = traffic::of_cluster(scope, &cluster).hash().and_then(hash::of_requests);
    let mut route = default(cluster, operation);
    if let Some(Action::Route(action)) = &mut route.action {
        action.retry_policy = retries(scope, None, false);
        action.hash_policy.extend(key);
    }
    dynamic::settle(scope, &mut route, caller);
    route
}

/// The route to the own workload: repeated only where the application cannot have seen the request.
pub(crate) fn inbound(cluster: &str, operation: &str, retries: bool) -> Route {
    let policy = RetryPolicy { retry_on: "reset-before-request".into(), num_retries: Some(wire::u32_value(2)), ..Default::default() };
    let action = RouteAction {
        timeout: no_limit(),
        retry_policy: retries.then_some(policy),
        max_stream_duration: Some(MaxStreamDuration {
            max_stream_duration: no_limit(),
            grpc_timeout_header_max: no_limit(),
            ..Default::default()
        }),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    Route {
        name: "default".into(),
        r#match: Some(any_path()),
        decorator: Some(decorator(operation.into())),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

/// The route of calls to nobody that is known: passed on.
pub(crate) fn allow_any(cluster: &str) -> Route {
    let action = RouteAction {
        timeout: no_limit(),
        max_grpc_timeout: no_limit(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    Route { name: "allow_any".into(), r#match: Some(any_path()), action: Some(Action::Route(action)), ..Default::default() }
}

/// The route of calls to nobody that is known: refused.
pub(crate) fn block_all() -> Route {
    let action = DirectResponseAction { status: 502, ..Default::default() };
    Route { name: "block_all".into(), r#match: Some(any_path()), action: Some(Action::DirectResponse(action)), ..Default::default() }
}
