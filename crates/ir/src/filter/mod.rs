//! HTTP filters: for each one file, with what it is configured by, what a route may say of it, and how both are read from their messages.
//!
//! A new filter is a file here, a line in each of the two tables below, and a file of the engine's.

// Deprecated fields are decided like any other: control planes still send them.
#![allow(deprecated)]

mod alpn;
mod compressor;
mod cors;
mod dynamic_forward_proxy;
mod ext_authz;
mod fault;
mod grpc_http1_bridge;
mod header_mutation;
mod jwt_authn;
mod local_ratelimit;
pub(crate) mod metadata_exchange;
pub(crate) mod payload;
mod peer_metadata;
mod rbac;
mod router;
mod stats;

use std::collections::HashMap;
use std::sync::Arc;

use mizzen_protos::Any;
use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_protos::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use mizzen_types::Name;

use crate::compile::cx::{Cx, Res, name, type_name};
use payload::{Payload, payload};

pub use alpn::AlpnOverride;
pub use ext_authz::{AuthzHeaders, AuthzService, ExtAuthz, ExtAuthzOverride, RequestBody};
pub use fault::{Abort, AbortWith, Delay, DelayWith, Fault, RateWith, ResponseRate};
pub use header_mutation::{HeaderMutation, MessageMutations};
pub(crate) use jwt_authn::audience;
pub use jwt_authn::{ClaimHeader, JwtAuthn, JwtKeys, JwtProvider, JwtRequirement, JwtRule, RemoteJwks, TokenLocation};
pub use local_ratelimit::{LocalRateLimit, TokenBucket};
pub use peer_metadata::{PeerExchange, PeerMetadata};
pub use rbac::RbacFilter;
pub use router::RouterOptions;
pub use stats::StatsConfig;

pub(crate) use ext_authz::{NETWORK as NETWORK_EXT_AUTHZ, network as network_ext_authz};
pub(crate) use rbac::network as network_rbac;
pub(crate) use router::only_upstream_codec;
pub(crate) use stats::compile as compile_stats;

/// Istio's own filters by kind and name: a control plane sends them only to proxies that list them, since not every Envoy has them.
pub const ISTIO_FILTERS: [(&str, &str); 5] = [
    ("envoy.filters.http", "istio.alpn"),
    ("envoy.filters.http", "istio.metadata_exchange"),
    ("envoy.filters.http", "istio.stats"),
    ("envoy.filters.network", "envoy.filters.network.metadata_exchange"),
    ("envoy.filters.network", "istio.stats"),
];

/// What is told beside [`ISTIO_FILTERS`]: clusters of names that are found on demand hold to the host and the port that their metadata says. Its kind and name.
pub const DYNAMIC_HOSTS: (&str, &str) = ("mizzen", "mizzen.dynamic_hosts");

/// An HTTP filter and its name in the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpFilter {
    /// Its name.
    pub name: Name,
    /// What it does.
    pub kind: HttpFilterKind,
    /// Whether it does so only where a route switches it on.
    pub disabled: bool,
}

/// What an HTTP filter does.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpFilterKind {
    /// Judges the request.
    Rbac(Arc<RbacFilter>),
    /// Asks somebody else about the request.
    ExtAuthz(Arc<ExtAuthz>),
    /// Checks the request's tokens.
    JwtAuthn(Arc<JwtAuthn>),
    /// Bounds the rate of requests.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Delays, aborts and slow responses, for tests.
    Fault(Arc<Fault>),
    /// Changes headers and trailers.
    HeaderMutation(Arc<HeaderMutation>),
    /// Puts the gRPC status of trailers into the head, for clients that speak HTTP/1.1.
    GrpcHttp1Bridge,
    /// Exchanges Istio's peer metadata.
    PeerMetadata(Arc<PeerMetadata>),
    /// Istio's metrics.
    Stats(Arc<StatsConfig>),
    /// Chooses ALPN towards the upstream by the request's protocol.
    Alpn(Arc<AlpnOverride>),
    /// Counts gRPC calls and messages, and leaves the counts for the log.
    GrpcStats,
}

/// What a route, a virtual host or a route configuration says of a filter (`typed_per_filter_config`).
#[derive(Clone, Debug, PartialEq)]
pub enum FilterOverride {
    /// It does nothing.
    Off,
    /// It does what it is configured to do, even if it is disabled.
    On,
    /// Other rules; none: nothing is enforced.
    Rbac(Arc<RbacFilter>),
    /// Other settings for asking.
    ExtAuthz(Arc<ExtAuthzOverride>),
    /// Another requirement of tokens, by its name in the filter's configuration.
    JwtRequirement(Name),
    /// Another bound.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Other faults.
    Fault(Arc<Fault>),
    /// More changes, of all levels, the most specific first.
    HeaderMutation(Arc<[Arc<MessageMutations>]>),
}

/// Overrides by the filter's name: of a route, with those of the levels above that it does not replace.
pub type Overrides = Arc<[(Name, FilterOverride)]>;

impl HttpFilter {
    /// The clusters that it calls.
    pub fn clusters(&self) -> Vec<&Name> {
        match &self.kind {
            HttpFilterKind::ExtAuthz(authz) => vec![authz.cluster()],
            HttpFilterKind::JwtAuthn(authn) => authn.clusters().collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it is the same thing wherever the same is said of it. A bound on the rate counts what comes to its own place.
    pub(crate) fn is_same_anywhere(&self) -> bool {
        !matches!(self.kind, HttpFilterKind::LocalRateLimit(_))
    }

    /// Whether it does something, where this is said of it.
    pub fn is_on(&self, route: Option<&FilterOverride>) -> bool {
        match route {
            Some(FilterOverride::Off) => false,
            Some(_) => true,
            None => !self.disabled,
        }
    }

    /// What the most specific level says of this filter.
    pub fn overridden<'a>(&self, overrides: &'a [(Name, FilterOverride)]) -> Option<&'a FilterOverride> {
        overrides.iter().find(|(name, _)| *name == self.name).map(|(_, what)| what)
    }
}

/// What the place of a filter holds.
enum Item {
    Filter(HttpFilterKind),
    Router(RouterOptions),
    /// It does nothing unless a route says more, and routes that do are refused.
    Nothing,
}

/// The table of filters.
fn kind(cx: &mut Cx, payload: &Payload) -> Res<Option<Item>> {
    Ok(Some(Item::Filter(match payload.kind.as_str() {
        router::TYPE => return router::compile(cx, payload.bytes(cx)?).map(|options| Some(Item::Router(options))),
        compressor::TYPE => return compressor::compile(cx, payload.bytes(cx)?).map(|()| Some(Item::Nothing)),
        cors::TYPE => return Ok(Some(Item::Nothing)),
        dynamic_forward_proxy::TYPE => {
            return dynamic_forward_proxy::compile(cx, payload.bytes(cx)?).map(|()| Some(Item::Nothing));
        }
        rbac::TYPE => HttpFilterKind::Rbac(rbac::compile(cx, payload.bytes(cx)?)?.into()),
        ext_authz::TYPE => HttpFilterKind::ExtAuthz(ext_authz::compile(cx, payload.bytes(cx)?)?.into()),
        jwt_authn::TYPE => HttpFilterKind::JwtAuthn(jwt_authn::compile(cx, payload.bytes(cx)?)?.into()),
        local_ratelimit::TYPE => HttpFilterKind::LocalRateLimit(local_ratelimit::compile(cx, payload.bytes(cx)?)?.into()),
        fault::TYPE => HttpFilterKind::Fault(fault::compile(cx, payload.bytes(cx)?)?.into()),
        header_mutation::TYPE => HttpFilterKind::HeaderMutation(header_mutation::compile(cx, payload.bytes(cx)?)?.into()),
        grpc_http1_bridge::TYPE => {
            grpc_http1_bridge::compile(cx, payload.bytes(cx)?)?;
            HttpFilterKind::GrpcHttp1Bridge
        }
        peer_metadata::TYPE => {
            let json = payload.json(cx);
            HttpFilterKind::PeerMetadata(peer_metadata::compile(cx, json).into())
        }
        stats::TYPE => {
            let json = payload.json(cx);
            HttpFilterKind::Stats(stats::compile(cx, json)?.into())
        }
        alpn::TYPE => HttpFilterKind::Alpn(alpn::compile(cx, payload.bytes(cx)?)?.into()),
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => HttpFilterKind::GrpcStats,
        _ => return Ok(None),
    })))
}

/// The table of what routes may say of filters.
fn override_kind(cx: &mut Cx, payload: &Payload) -> Res<Option<FilterOverride>> {
    Ok(Some(match payload.kind.as_str() {
        rbac::PER_ROUTE => rbac::per_route(cx, payload.bytes(cx)?)?,
        ext_authz::PER_ROUTE => ext_authz::per_route(cx, payload.bytes(cx)?)?,
        jwt_authn::PER_ROUTE => jwt_authn::per_route(cx, payload.bytes(cx)?)?,
        local_ratelimit::TYPE => FilterOverride::LocalRateLimit(local_ratelimit::compile(cx, payload.bytes(cx)?)?.into()),
        fault::TYPE => FilterOverride::Fault(fault::compile(cx, payload.bytes(cx)?)?.into()),
        header_mutation::PER_ROUTE => FilterOverride::HeaderMutation([header_mutation::per_route(cx, payload.bytes(cx)?)?.into()].into()),
        _ => return Ok(None),
    }))
}

/// Filters before the router, and the router's options.
pub(crate) fn list(cx: &mut Cx, filters: Vec<hcm::HttpFilter>) -> Res<(Arc<[HttpFilter]>, RouterOptions)> {
    let found = cx.each("http_filters", filters, filter)?;
    let (mut before, mut router) = (Vec::new(), None);
    for (i, (title, disabled, item)) in found.into_iter().enumerate() {
        if router.is_some() {
            return cx.refuse(&format!("http_filters[{i}]"), "nothing comes after the router");
        }
        match item {
            Item::Filter(kind) => before.push(HttpFilter { name: title, kind, disabled }),
            Item::Router(options) => router = Some(options),
            Item::Nothing => {}
        }
    }
    match router {
        Some(router) => Ok((before.into(), router)),
        None => cx.refuse("http_filters", "the last filter has to be the router"),
    }
}

fn filter(cx: &mut Cx, m: hcm::HttpFilter) -> Res<(Name, bool, Item)> {
    let hcm::HttpFilter { name: title, is_optional, disabled, config_type } = m;
    let any = match config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        Some(hcm::http_filter::ConfigType::ConfigDiscovery(_)) => return cx.refuse("config_discovery", "not supported"),
        None => return cx.refuse("typed_config", format!("filter `{title}` has none")),
    };
    let item = cx.within("typed_config", |cx| {
        let payload = payload(cx, &any)?;
        match kind(cx, &payload)? {
            Some(item) => Ok(item),
            // A route that switches it on is refused there.
            None if disabled => Ok(Item::Nothing),
            None if is_optional => {
                cx.warn("", format!("optional filter `{title}` of type {} is left out", payload.kind));
                Ok(Item::Nothing)
            }
            None => cx.refuse("", format!("filter `{title}` of type {} is not supported", payload.kind)),
        }
    })?;
    Ok((name(&title), disabled, item))
}

/// What one level says of filters; a filter that nothing is known of must not be spoken of.
pub(crate) fn overrides(cx: &mut Cx, map: HashMap<String, Any>) -> Res<Vec<(Name, FilterOverride)>> {
    let mut all: Vec<_> = map.into_iter().collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let one = |(title, any): (String, Any)| {
        let what = cx.within(&format!("typed_per_filter_config[{title}]"), |cx| override_of(cx, &any))?;
        Ok(what.map(|what| (name(&title), what)))
    };
    all.into_iter().map(one).filter_map(Result::transpose).collect()
}

fn override_of(cx: &mut Cx, any: &Any) -> Res<Option<FilterOverride>> {
    if type_name(any) == "envoy.config.route.v3.FilterConfig" {
        let route::FilterConfig { config, is_optional, disabled } = cx.unpack(any)?;
        return match config {
            _ if disabled => Ok(Some(FilterOverride::Off)),
            None => Ok(Some(FilterOverride::On)),
            Some(any) => match cx.within("config", |cx| known(cx, &any)) {
                Err(bad) if is_optional => {
                    cx.warn("config", format!("optional, and left out: {}", bad.reason));
                    Ok(None)
                }
                other => other.map(Some),
            },
        };
    }
    known(cx, any).map(Some)
}

fn known(cx: &mut Cx, any: &Any) -> Res<FilterOverride> {
    let payload = payload(cx, any)?;
    match override_kind(cx, &payload)? {
        Some(what) => Ok(what),
        None => cx.refuse("", format!("{} is not supported for a route", payload.kind)),
    }
}

/// `specific` before what `general` says of other filters. Changes to headers are made by all levels.
pub(crate) fn joined(mut specific: Vec<(Name, FilterOverride)>, general: &[(Name, FilterOverride)]) -> Vec<(Name, FilterOverride)> {
    for (name, what) in general {
        match (specific.iter_mut().find(|(known, _)| known == name).map(|(_, known)| known), what) {
            (None, _) => specific.push((name.clone(), what.clone())),
            (Some(FilterOverride::HeaderMutation(levels)), FilterOverride::HeaderMutation(more)) => {
                *levels = levels.iter().chain(more.iter()).cloned().collect();
            }
            (Some(_), _) => {}
        }
    }
    specific
}
