//! YAML in, resources out.

mod aliases;
mod clusters;
mod custom;
mod drafts;
mod dynamic;
mod families;
mod gateways;
mod inbound;
mod jwt;
mod memo;
mod on_demand;
mod origination;
mod outbound;
mod places;
mod policies;
mod routes;
mod sni;
mod summary;
mod traffic;

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::Object;
use mizzen_model::{Change, Closed, ProxyFacts, ProxyType, ProxyView, Reader, Snapshot};

use crate::{ResourceKind, build, list};

/// A shop: reviews in two versions (HTTP), ratings (gRPC), stock (TCP), a headless store, and one service whose protocol is not declared.
const SHOP: &str = "
kind: Service
apiVersion: v1
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: reviews}, ports: [{name: http, port: 9080, targetPort: web}]}
---
kind: Service
apiVersion: v1
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.12, selector: {app: ratings}, ports: [{name: grpc, port: 9090}]}
---
kind: Service
apiVersion: v1
metadata: {name: stock, namespace: shop}
spec: {clusterIP: 10.96.0.13, selector: {app: stock}, ports: [{name: tcp, port: 6379}]}
---
kind: Service
apiVersion: v1
metadata: {name: store, namespace: shop}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: tcp, port: 7000}]}
---
kind: Service
apiVersion: v1
metadata: {name: anything, namespace: shop}
spec: {clusterIP: 10.96.0.14, selector: {app: anything}, ports: [{name: what, port: 5000}]}
";

/// A pod with a sidecar.
fn pod(name: &str, labels: &str, ip: &str, ports: &str, ready: bool) -> String {
    let account = name.split('-').next().unwrap();
    format!(
        "
kind: Pod
apiVersion: v1
metadata: {{name: {name}, namespace: shop, labels: {{security.istio.io/tlsMode: istio, {labels}}}}}
spec: {{serviceAccountName: {account}, containers: [{{name: main, image: x, ports: [{ports}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: '{}'}}]}}
",
        if ready { "True" } else { "False" }
    )
}

fn pods() -> String {
    let web = "{name: web, containerPort: 8080}";
    [
        pod("reviews-v1-0", "app: reviews, version: v1", "10.0.0.11", web, true),
        pod("reviews-v2-0", "app: reviews, version: v2", "10.0.0.12", web, true),
        pod("ratings-0", "app: ratings", "10.0.0.13", "", true),
        pod("stock-0", "app: stock", "10.0.0.14", "", true),
        pod("store-0", "app: store", "10.0.0.15", "", true),
        pod("store-1", "app: store", "10.0.0.16", "", true),
        pod("anything-0", "app: anything", "10.0.0.17", "", true),
    ]
    .join("---")
}

/// The objects of a text, all of which must be good.
fn parse(text: &str) -> Vec<Change> {
    let parsed = mizzen_api::parse_documents(text, &Arc::from("test.yaml"));
    let object = |result: Result<Object, mizzen_api::Refusal>| result.unwrap_or_else(|refusal| panic!("{:#?}", refusal.problems));
    parsed.objects.into_iter().map(|result| Change::from(object(result))).collect()
}

/// The shop and these texts.
fn shop(more: &[&str]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::empty().apply(parse(SHOP)).apply(parse(&pods()));
    for text in more {
        snapshot = snapshot.apply(parse(text));
    }
    snapshot
}

/// The filters of Istio's own, as a proxy that has them lists them.
const ISTIO_FILTERS: [&str; 4] = ["istio.alpn", "istio.metadata_exchange", "istio.stats", "envoy.filters.network.metadata_exchange"];

fn facts(kind: ProxyType, ip: &str, namespace: &str, labels: &[(&str, &str)]) -> ProxyFacts {
    ProxyFacts {
        kind,
        ip: ip.parse().unwrap(),
        more_ips: Vec::new(),
        id: format!("{}~{ip}~pod.{namespace}~{namespace}.svc.cluster.local", kind.as_str()).into(),
        pod: "pod".into(),
        namespace: namespace.into(),
        service_account: labels.iter().find(|(key, _)| *key == "app").map_or("default", |(_, app)| *app).into(),
        workload: "pod".into(),
        cluster: "Kubernetes".into(),
        locality: Default::default(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        extensions: ISTIO_FILTERS.map(str::to_owned).into(),
        topology: Default::default(),
        metadata: BTreeMap::new(),
    }
}

/// The sidecar of `reviews-v1`.
fn reviews() -> ProxyView {
    facts(ProxyType::Sidecar, "10.0.0.11", "shop", &[("app", "reviews"), ("version", "v1")]).into()
}

/// The sidecar of a program that serves nothing, in another namespace.
fn visitor() -> ProxyView {
    facts(ProxyType::Sidecar, "10.0.0.99", "visit", &[("app", "visitor")]).into()
}

fn names(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind) -> Vec<String> {
    let reader = Reader::new(snapshot);
    let names = list(&reader, view, kind);
    for name in &names {
        let made = build(&Reader::new(snapshot), view, kind, name).unwrap_or_else(|| panic!("{kind:?} {name} is listed and not built"));
        assert_eq!(made, build(&Reader::new(snapshot), view, kind, name).unwrap(), "{kind:?} {name}: other bytes each time");
    }
    names.iter().map(ToString::to_string).collect()
}

fn closed(namespace: &str, name: &str) -> Change {
    let key = mizzen_api::Key::new(mizzen_api::Kind::AuthorizationPolicy, namespace, name);
    Change::Close(Closed { key, selector: None })
}
