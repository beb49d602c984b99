//! Route configurations, virtual hosts and what routes match.

use std::collections::HashMap;
use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::core::v3 as core;
use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_types::Name;

use super::Resource;
use super::cx::{Cx, Res, flag, harmless, held, name, number, refused, silent};
use super::headers::{self, Fields, Level};
use super::inherited::Inherited;
use super::{matchers, route_action};
use crate::config::{Action, ContentHash, Direct, PathMatch, Route, RouteConfig, RouteMatch, Used, VirtualHost};
use crate::filter;
use crate::steps::spelling::spelled;

pub(super) fn compile(cx: &mut Cx, bytes: &[u8], hash: ContentHash) -> Res<Resource> {
    let m: route::RouteConfiguration = cx.decode(bytes)?;
    cx.resource = name(&m.name);
    config(cx, m, hash).map(|c| Resource::Route(c.into()))
}

pub(super) fn config(cx: &mut Cx, m: route::RouteConfiguration, hash: ContentHash) -> Res<RouteConfig> {
    let route::RouteConfiguration {
        name: title,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = m;
    // A cluster that is not there is found out when a request comes.
    silent!(validate_clusters, metadata);
    refused!(cx; internal_only_headers, cluster_specifier_plugins, request_mirror_policies, vhost_header,
        ignore_path_parameters_in_path_matching, route_specifiers);
    let open = cx.some("vhds", vhds, |cx, m| open(cx, m, &title))?;
    let overrides = filter::overrides(cx, typed_per_filter_config)?;
    let level = headers::level(
        cx,
        Fields {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    )?;
    let above = Inherited {
        levels: [level, Level::default()],
        specific_wins: most_specific_header_mutations_wins,
        retry: None,
        filters: overrides,
        max_body: number(max_direct_response_body_size_bytes).unwrap_or(4096) as usize,
    };
    let one = |v: route::VirtualHost| {
        let title = cx.name(&v.name);
        let domains = v.domains.iter().map(|d| cx.name(d)).collect();
        let host = cx.within(&format!("virtual_hosts[{title}]"), |cx| virtual_host(cx, v, &above));
        Arc::new(cx.contain(host).unwrap_or_else(|| closed_host(title, domains)))
    };
    let hosts: Arc<[Arc<VirtualHost>]> = virtual_hosts.into_iter().map(one).collect();
    let mut config = RouteConfig {
        name: name(&title),
        hash,
        hosts,
        ignore_port: ignore_port_in_host_matching,
        open,
        above: open.map(|_| Arc::new(above)),
        exact: HashMap::new(),
        suffixes: Arc::default(),
        prefixes: Arc::default(),
        any: None,
    };
    index(cx, &mut config)?;
    Ok(config)
}

/// The port of which a route configuration is whose virtual hosts come one by one.
fn open(cx: &mut Cx, m: route::Vhds, title: &str) -> Res<u16> {
    let route::Vhds { config_source } = m;
    cx.must("config_source", config_source, |cx, m| {
        let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } = m;
        refused!(cx; authorities);
        // How long is waited for one is up to the proxy; there is one version of the API.
        silent!(initial_fetch_timeout, resource_api_version);
        match config_source_specifier {
            Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})) => Ok(()),
            _ => cx.refuse("config_source_specifier", "only the aggregated stream is supported"),
        }
    })?;
    title.parse().map_err(|_| cx.bad("", format!("`{title}` is no port: only the routes of one have virtual hosts that come one by one")))
}

/// Fills the look-up by domain.
fn index(cx: &mut Cx, config: &mut RouteConfig) -> Res<()> {
    let (mut suffixes, mut prefixes) = (Vec::new(), Vec::new());
    for (i, host) in (0u32..).zip(config.hosts.iter()) {
        if host.domains.is_empty() {
            return cx.refuse("virtual_hosts", format!("`{}` has no domains", host.name));
        }
        for domain in host.domains.iter() {
            let lower = domain.to_ascii_lowercase();
            let twice = match self::domain(&lower).map_err(|reason| cx.bad("virtual_hosts", reason))? {
                Domain::Any => config.any.replace(i).is_some(),
                Domain::Suffix(suffix) => add(&mut suffixes, suffix, i),
                Domain::Prefix(prefix) => add(&mut prefixes, prefix, i),
                Domain::Exact(exact) => config.exact.insert(cx.name(exact), i).is_some(),
            };
            if twice {
                return cx.refuse("virtual_hosts", format!("domain `{domain}` is there twice"));
            }
        }
    }
    let longest_first = |list: &mut Vec<(Name, u32)>| list.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    longest_first(&mut suffixes);
    longest_first(&mut prefixes);
    (config.suffixes, config.prefixes) = (held(suffixes), held(prefixes));
    Ok(())
}

/// What a domain stands for.
pub(super) enum Domain<'d> {
    Any,
    Suffix(&'d str),
    Prefix(&'d str),
    Exact(&'d str),
}

/// Reads a domain in lower case; why not.
pub(super) fn domain(lower: &str) -> Result<Domain<'_>, String> {
    match (lower, lower.strip_prefix('*'), lower.strip_suffix('*')) {
        ("*", ..) => Ok(Domain::Any),
        (_, Some(rest), _) | (_, None, Some(rest)) if rest.contains('*') => Err(format!("domain `{lower}` has more than one wildcard")),
        (_, Some(suffix), _) => Ok(Domain::Suffix(suffix)),
        (_, None, Some(prefix)) => Ok(Domain::Prefix(prefix)),
        ("", ..) => Err("a domain is empty".to_owned()),
        (exact, None, None) if exact.contains('*') => Err(format!("domain `{lower}`: a wildcard stands at its begin or end")),
        (exact, None, None) => Ok(Domain::Exact(exact)),
    }
}

/// Whether it was there already.
fn add(list: &mut Vec<(Name, u32)>, text: &str, i: u32) -> bool {
    let twice = list.iter().any(|(t, _)| **t == *text);
    list.push((name(text), i));
    twice
}

/// In place of a virtual host of which something is refused.
pub(super) fn closed_host(title: Name, domains: Arc<[Name]>) -> VirtualHost {
    let matching = RouteMatch::any();
    let action = Action::Direct(Direct { status: 503, body: b"the routes of this host are refused".as_slice().into() }.into());
    let route = Route { name: name("refused"), origin: None, matching, action, headers: Arc::default(), filters: Arc::default() };
    VirtualHost {
        name: title,
        domains,
        routes: Arc::from([Arc::new(route)]),
        require_tls: false,
        attempt_count: false,
        attempt_count_in_response: false,
        used: Used::default(),
    }
}

pub(super) fn virtual_host(cx: &mut Cx, m: route::VirtualHost, above: &Inherited) -> Res<VirtualHost> {
    let route::VirtualHost {
        name: title,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = m;
    silent!(virtual_clusters, metadata);
    refused!(cx; matcher, rate_limits, cors, retry_policy_typed_config, hedge_policy, request_mirror_policies, route_specifiers);
    harmless!(cx; include_is_timeout_retry_header, per_request_buffer_limit_bytes, request_body_buffer_limit);
    let overrides = filter::overrides(cx, typed_per_filter_config)?;
    let level = headers::level(
        cx,
        Fields {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    )?;
    let [config, _] = above.levels.clone();
    let filters = filter::joined(overrides, &above.filters);
    let above = Inherited { levels: [config, level], retry: retry_policy, filters, ..above.clone() };
    let routes = cx.each("routes", routes, |cx, r| one(cx, r, &above).map(Arc::new))?;
    Ok(VirtualHost {
        name: cx.name(&title),
        domains: domains.iter().map(|d| cx.name(d)).collect(),
        routes: routes.into(),
        require_tls: match cx.choice("require_tls", require_tls)? {
            route::virtual_host::TlsRequirementType::None => false,
            route::virtual_host::TlsRequirementType::All => true,
            route::virtual_host::TlsRequirementType::ExternalOnly => return cx.refuse("require_tls", "EXTERNAL_ONLY is not supported"),
        },
        attempt_count: include_request_attempt_count,
        attempt_count_in_response: include_attempt_count_in_response,
        used: Used::default(),
    })
}

fn one(cx: &mut Cx, m: route::Route, above: &Inherited) -> Res<Route> {
    let route::Route {
        name: title,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = m;
    // Names of spans and statistics.
    silent!(decorator, tracing, stat_prefix);
    // What is kept for a retry is bounded by the proxy's own limit.
    harmless!(cx; per_request_buffer_limit_bytes, request_body_buffer_limit);
    refused!(cx; route_specifiers);
    let overrides = filter::overrides(cx, typed_per_filter_config)?;
    let level = headers::level(
        cx,
        Fields {
            request_add: request_headers_to_add,
            request_remove: request_headers_to_remove,
            response_add: response_headers_to_add,
            response_remove: response_headers_to_remove,
        },
    )?;
    let matching = cx.must("match", r#match, matching)?;
    let action = route_action::action(cx, action, &level, above)?;
    let filters = held(filter::joined(overrides, &above.filters));
    let headers = above.joined(cx, &level, None);
    Ok(Route { name: cx.name(&title), origin: origin(metadata), matching, action, headers, filters })
}

/// The Istio object that a route was made from.
fn origin(metadata: Option<core::Metadata>) -> Option<Name> {
    let mut istio = metadata?.filter_metadata.remove("istio")?;
    match istio.fields.remove("config")?.kind? {
        mizzen_protos::wkt::value::Kind::StringValue(text) => Some(name(&text)),
        _ => None,
    }
}

pub(crate) fn matching(cx: &mut Cx, m: route::RouteMatch) -> Res<RouteMatch> {
    use route::route_match::PathSpecifier as P;
    let route::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = m;
    refused!(cx; cookies, tls_context, filter_state);
    let path = match path_specifier {
        Some(P::Prefix(p)) => PathMatch::Prefix(cx.name(&spelled(&p))),
        Some(P::Path(p)) => PathMatch::Exact(spelled(&p).into()),
        Some(P::PathSeparatedPrefix(p)) if p.ends_with('/') || !p.starts_with('/') => {
            return cx.refuse("path_separated_prefix", format!("`{p}` has to begin with a slash and must not end with one"));
        }
        Some(P::PathSeparatedPrefix(p)) => PathMatch::Segments(spelled(&p).into()),
        Some(P::SafeRegex(r)) => PathMatch::Regex(cx.within("safe_regex", |cx| matchers::regex(cx, r))?),
        Some(P::ConnectMatcher(_)) => return cx.refuse("connect_matcher", "not supported"),
        Some(P::PathMatchPolicy(p)) => return cx.refuse("path_match_policy", format!("`{}` is not supported", p.name)),
        None => return cx.refuse("path_specifier", "it is required"),
    };
    Ok(RouteMatch {
        path,
        case_sensitive: flag(case_sensitive).unwrap_or(true),
        headers: held(cx.each("headers", headers, matchers::header)?),
        params: held(cx.each("query_parameters", query_parameters, matchers::param)?),
        metadata: held(cx.each("dynamic_metadata", dynamic_metadata, matchers::metadata)?),
        fraction: cx.some("runtime_fraction", runtime_fraction, matchers::runtime_fraction)?,
        grpc: grpc.is_some_and(|route::route_match::GrpcRouteMatchOptions {}| true),
    })
}
