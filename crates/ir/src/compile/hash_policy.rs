//! What requests and connections are hashed by.

use std::fmt::Write;
use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_protos::envoy::envoy::r#type::v3 as types;

use super::cx::{Cx, Res};
use super::matchers;
use crate::config::{HashBy, HashCookie, HashPolicy};

/// What requests are hashed by.
pub(super) fn of_requests(cx: &mut Cx, list: Vec<route::route_action::HashPolicy>) -> Res<Arc<[HashPolicy]>> {
    let list = cx.each("hash_policy", list, of_request)?;
    Ok(list.into_iter().flatten().collect())
}

fn of_request(cx: &mut Cx, m: route::route_action::HashPolicy) -> Res<Option<HashPolicy>> {
    use route::route_action::hash_policy::{ConnectionProperties, Header, PolicySpecifier as P, QueryParameter};
    let route::route_action::HashPolicy { terminal, policy_specifier } = m;
    let by = match policy_specifier {
        Some(P::Header(Header { header_name, regex_rewrite })) => cx.within("header", |cx| {
            let name = matchers::header_name(cx, "header_name", &header_name)?;
            Ok(HashBy::Header(name, cx.some("regex_rewrite", regex_rewrite, matchers::rewrite)?))
        })?,
        Some(P::Cookie(m)) => HashBy::Cookie(cx.within("cookie", |cx| cookie(cx, m))?.into()),
        Some(P::ConnectionProperties(ConnectionProperties { source_ip: true })) => HashBy::SourceIp,
        Some(P::ConnectionProperties(ConnectionProperties { source_ip: false })) => return Ok(None),
        Some(P::QueryParameter(QueryParameter { name })) if name.is_empty() => return cx.refuse("query_parameter.name", "it is required"),
        Some(P::QueryParameter(QueryParameter { name })) => HashBy::Query(name.into()),
        // What filters leave behind here has no hash of its own.
        Some(P::FilterState(_)) => return cx.refuse("filter_state", "not supported"),
        None => return cx.refuse("policy_specifier", "it is required"),
    };
    Ok(Some(HashPolicy { by, terminal }))
}

fn cookie(cx: &mut Cx, m: route::route_action::hash_policy::Cookie) -> Res<HashCookie> {
    let route::route_action::hash_policy::Cookie { name, ttl, path, attributes } = m;
    if !mizzen_http::valid_name(name.as_bytes()) {
        return cx.refuse("name", format!("`{name}` is not a cookie's name"));
    }
    // A fraction of a second does not count.
    let ttl = cx.duration("ttl", ttl)?.map(|ttl| std::time::Duration::from_secs(ttl.as_secs()));
    let mut tail = String::new();
    if let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) {
        let _ = write!(tail, "; Max-Age={}", ttl.as_secs());
    }
    if !path.is_empty() {
        let _ = write!(tail, "; Path={path}");
    }
    for route::route_action::hash_policy::CookieAttribute { name, value } in attributes {
        let _ = if value.is_empty() { write!(tail, "; {name}") } else { write!(tail, "; {name}={value}") };
    }
    tail.push_str("; HttpOnly");
    if tail.bytes().any(|b| b.is_ascii_control()) {
        return cx.refuse("attributes", "a control character in path or attributes");
    }
    Ok(HashCookie { name: name.into(), ttl, attributes: tail.into() })
}

/// Whether connections are hashed by their client's address.
pub(super) fn of_connections(cx: &mut Cx, list: Vec<types::HashPolicy>) -> Res<bool> {
    use types::hash_policy::{PolicySpecifier as P, SourceIp};
    if list.len() > 1 {
        return cx.refuse("hash_policy", "at most one");
    }
    let by = cx.each("hash_policy", list, |cx, types::HashPolicy { policy_specifier }| match policy_specifier {
        Some(P::SourceIp(SourceIp {})) => Ok(true),
        Some(P::FilterState(_)) => cx.refuse("filter_state", "not supported"),
        None => cx.refuse("policy_specifier", "it is required"),
    })?;
    Ok(by.contains(&true))
}
