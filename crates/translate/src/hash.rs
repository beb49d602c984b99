//! Keys by which requests and connections find their endpoints.

use mizzen_api::istio::{ConsistentHash, HashCookie, HashKey};
use mizzen_protos::envoy::envoy::{
    config::route::v3::route_action::{
        HashPolicy,
        hash_policy::{ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter},
    },
    r#type::v3::{HashPolicy as TcpHashPolicy, hash_policy as tcp},
};

use crate::wire;

/// The key of requests; none without one.
pub(crate) fn of_requests(hash: &ConsistentHash) -> Option<HashPolicy> {
    let specifier = match hash.key.as_ref()? {
        HashKey::Header(name) => PolicySpecifier::Header(Header { header_name: name.clone(), regex_rewrite: None }),
        HashKey::Cookie(HashCookie { name, path, ttl, attributes }) => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: ttl.map(wire::duration),
            path: path.clone(),
            attributes: attributes.iter().map(|(name, value)| CookieAttribute { name: name.clone(), value: value.clone() }).collect(),
        }),
        HashKey::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        HashKey::QueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }),
    };
    Some(HashPolicy { terminal: false, policy_specifier: Some(specifier) })
}

/// The key of connections: the caller's address.
pub(crate) fn of_connections() -> TcpHashPolicy {
    TcpHashPolicy { policy_specifier: Some(tcp::PolicySpecifier::SourceIp(tcp::SourceIp {})) }
}
