//! What a resource was made from decides when it is stale, and for whom it holds.

use std::sync::Arc;

use mizzen_model::{Change, ProxyType, ProxyView, Reach, Reader, Reads, Snapshot};

use super::{facts, parse, pod, reviews, shop, visitor};
use crate::{ResourceKind, build, list};

fn reads(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &str) -> Reads {
    let reader = Reader::new(snapshot);
    build(&reader, view, kind, &name.into());
    reader.finish()
}

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";
const POLICY: &str = "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: p, namespace: shop}
spec: {rules: [{}]}
";
const OTHER_RULE: &str = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: ratings, namespace: shop}
spec: {hosts: [ratings], http: [{route: [{destination: {host: ratings}}]}]}
";
const OWN_RULE: &str = "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}
";
const OTHER_SERVICE: &str = "
kind: Service
apiVersion: v1
metadata: {name: new, namespace: shop}
spec: {clusterIP: 10.96.0.70, selector: {app: new}, ports: [{name: http, port: 1234}]}
";

/// Whether a change leaves alone what was made before it.
fn check(kind: ResourceKind, name: &str, change: &str, holds: bool) {
    let before = shop(&[]);
    let made = reads(&before, &visitor(), kind, name);
    assert!(made.stands_in(&before, &visitor()) && made.fits(&before, &visitor()));
    let after = before.apply(parse(change));
    assert!(after.version() > before.version());
    assert_eq!(made.fits(&after, &visitor()), holds, "{kind:?} {name} after {change}");
    // What is not touched stands; what is touched may.
    let touched = made.queries().any(|query| after.changes().touches(query));
    assert!(touched || holds, "{kind:?} {name} after {change}");
}

#[test]
fn only_what_was_read_counts() {
    let new_pod = pod("ratings-1", "app: ratings", "10.0.0.31", "", true);
    let more = pod("reviews-v1-1", "app: reviews, version: v1", "10.0.0.32", "{name: web, containerPort: 8080}", true);
    for (kind, name) in [
        (ResourceKind::Cluster, REVIEWS),
        (ResourceKind::Endpoints, REVIEWS),
        (ResourceKind::Route, "9080"),
        (ResourceKind::Listener, "0.0.0.0_9080"),
    ] {
        check(kind, name, POLICY, true);
        check(kind, name, OTHER_RULE, true);
        check(kind, name, OTHER_SERVICE, true);
        check(kind, name, &new_pod, true);
        check(kind, name, OWN_RULE, kind != ResourceKind::Route);
        check(kind, name, &more, kind != ResourceKind::Endpoints);
    }
    check(ResourceKind::Listener, "virtualInbound", OTHER_RULE, true);
    check(ResourceKind::Cluster, REVIEWS, "{kind: ConfigMap, apiVersion: v1, metadata: {name: x, namespace: shop}, data: {a: b}}", true);
}

#[test]
fn what_is_missing_was_read_too() {
    check(ResourceKind::Cluster, "outbound|1234||new.shop.svc.cluster.local", OTHER_SERVICE, false);
    check(ResourceKind::Cluster, "outbound|1234||new.shop.svc.cluster.local", OWN_RULE, true);
    check(ResourceKind::Listener, "0.0.0.0_1234", OTHER_SERVICE, false);
}

#[test]
fn lists_too() {
    let before = shop(&[]);
    let reader = Reader::new(&before);
    list(&reader, &visitor(), ResourceKind::Cluster);
    let made = reader.finish();
    let fits = |change: &str| made.fits(&before.apply(parse(change)), &visitor());
    assert!(fits(OTHER_RULE) && fits(POLICY) && !fits(OTHER_SERVICE));
}

#[test]
fn proxies_share_what_they_read_alike() {
    let snapshot = shop(&[OWN_RULE, POLICY]);
    let twin: ProxyView = facts(ProxyType::Sidecar, "10.0.0.77", "visit", &[("app", "other")]).into();
    let stranger: ProxyView = facts(ProxyType::Sidecar, "10.0.0.78", "elsewhere", &[("app", "visitor")]).into();
    for (kind, name) in [
        (ResourceKind::Cluster, REVIEWS),
        (ResourceKind::Endpoints, REVIEWS),
        (ResourceKind::Route, "9080"),
        (ResourceKind::Listener, "0.0.0.0_9080"),
    ] {
        let made = reads(&snapshot, &visitor(), kind, name);
        assert!(made.fits(&snapshot, &twin), "{kind:?} {name} {made:?}");
        // No rule tells the namespaces apart, and no name of theirs is short for a service of another.
        assert!(made.fits(&snapshot, &stranger), "{kind:?} {name} {made:?}");
        assert_eq!(made.reach() == Reach::All, kind != ResourceKind::Route, "{kind:?} {name} {made:?}");
    }
    // A rule for one namespace does.
    let private = snapshot.apply(parse(
        "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: r, namespace: visit}, \
         spec: {host: reviews.shop.svc.cluster.local, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}}",
    ));
    let made = reads(&private, &visitor(), ResourceKind::Cluster, REVIEWS);
    assert!(made.fits(&private, &twin) && !made.fits(&private, &stranger));
    let made = reads(&private, &stranger, ResourceKind::Cluster, REVIEWS);
    assert!(made.reach() == Reach::Alike && !made.fits(&private, &visitor()));
    // A label that no selector asks for does not part two replicas; the ports that are served do.
    let made = reads(&snapshot, &reviews(), ResourceKind::Listener, "virtualInbound");
    let mut labelled = reviews().facts().clone();
    labelled.labels.insert("pod-template-hash".into(), "x".into());
    assert!(made.fits(&snapshot, &labelled.into()));
    assert!(!made.fits(&snapshot, &visitor()));
}

#[test]
fn the_same_again_is_no_change() {
    let snapshot = shop(&[POLICY]);
    assert!(Arc::ptr_eq(&snapshot, &snapshot.apply(parse(POLICY))));
    let gone = snapshot.apply([Change::Delete(mizzen_api::Key::new(mizzen_api::Kind::AuthorizationPolicy, "shop", "p"))]);
    assert!(gone.version() > snapshot.version());
    assert!(!reads(&snapshot, &reviews(), ResourceKind::Listener, "virtualInbound").fits(&gone, &reviews()));
}
