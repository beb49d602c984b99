//! Drafts and their bytes.

use mizzen_model::{ProxyType, ProxyView, Reader, Snapshot};
use mizzen_protos::canonical::canonicalize;

use super::{facts, reviews, shop, visitor};
use crate::{
    ResourceKind, draft,
    draft::{Cluster, Draft, Listener, NetworkFilter},
    list,
    scope::Scope,
};

/// A log with many keys, and policies with several rules.
const MORE: &str = "
kind: ConfigMap
apiVersion: v1
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{accessLogFile: /dev/stdout, accessLogEncoding: JSON}'}
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: p, namespace: shop}
spec: {rules: [{from: [{source: {namespaces: [a]}}]}, {from: [{source: {namespaces: [b]}}]}, {to: [{operation: {ports: ['80']}}]}]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: g, namespace: shop}
spec: {selector: {app: gate}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: wide, namespace: shop}
spec: {hosts: ['*.wide.example'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]}
";

/// What stands beside a head is not in it: packing puts it there.
fn is_bare(draft: &Draft) -> bool {
    let cluster = |Cluster { head, .. }: &Cluster| {
        head.transport_socket.is_none()
            && head.transport_socket_matches.is_empty()
            && head.typed_extension_protocol_options.is_empty()
            && head.filters.is_empty()
    };
    let filter = |filter: &NetworkFilter| match filter {
        NetworkFilter::Tcp(proxy) => proxy.head.access_log.is_empty(),
        NetworkFilter::Http(manager) => {
            let head = &manager.head;
            head.http_filters.is_empty() && head.request_id_extension.is_none() && head.access_log.is_empty()
        }
        NetworkFilter::MetadataExchange(_)
        | NetworkFilter::Rbac(_)
        | NetworkFilter::ExtAuthz(_)
        | NetworkFilter::Stats(_)
        | NetworkFilter::SniForwardProxy(_) => true,
    };
    let listener = |Listener { head, chains, default, .. }: &Listener| {
        head.filter_chains.is_empty()
            && head.default_filter_chain.is_none()
            && head.listener_filters.is_empty()
            && head.access_log.is_empty()
            && chains
                .iter()
                .chain(default)
                .all(|chain| chain.head.filters.is_empty() && chain.head.transport_socket.is_none() && chain.filters.iter().all(filter))
    };
    match draft {
        Draft::Cluster(made) => cluster(made),
        Draft::Listener(made) => listener(made),
        _ => true,
    }
}

/// Draws up everything that a proxy has, several times.
fn check(snapshot: &Snapshot, view: &ProxyView) {
    for kind in ResourceKind::ALL {
        for name in list(&Reader::new(snapshot), view, kind) {
            let reader = Reader::new(snapshot);
            let make = || draft(&Scope::new(&reader, view), kind, &name).unwrap_or_else(|| panic!("{kind:?} {name}"));
            let made = make();
            assert_eq!(made.kind(), kind, "{name}");
            assert!(is_bare(&made), "{kind:?} {name}: {made:#?}");
            let bytes = made.encode();
            assert_eq!(bytes.type_url, kind.type_url());
            let mut ordered = bytes.value.clone();
            canonicalize(&bytes.type_url, &mut ordered);
            assert!(ordered == bytes.value, "{kind:?} {name}: maps are out of order");
            assert!((0..4).all(|_| make().encode() == bytes), "{kind:?} {name}: other bytes each time");
        }
    }
}

#[test]
fn equal_drafts_have_equal_bytes() {
    let snapshot = shop(&[MORE]);
    let gateway = facts(ProxyType::Router, "10.0.0.90", "shop", &[("app", "gate")]).into();
    [reviews(), visitor(), gateway].iter().for_each(|view| check(&snapshot, view));
}
