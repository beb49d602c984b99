//! YAML in, decisions out.

mod calls;
mod policies;
mod recorded;
mod refusals;
mod server;

use std::sync::Arc;

use mizzen_model::Snapshot;

use crate::{Call, Explainer, Explanation, Payload, Source, Verdict, load};

/// reviews in two versions (HTTP), ratings, stock (TCP), one program without a sidecar, two callers, a gateway.
const SHOP: &str = "
kind: Service
apiVersion: v1
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: reviews}, ports: [{name: http, port: 9080, targetPort: 8080}]}
---
kind: Service
apiVersion: v1
metadata: {name: ratings, namespace: shop}
spec: {clusterIP: 10.96.0.12, selector: {app: ratings}, ports: [{name: http, port: 9080, targetPort: 8080}]}
---
kind: Service
apiVersion: v1
metadata: {name: stock, namespace: shop}
spec: {clusterIP: 10.96.0.13, selector: {app: stock}, ports: [{name: tcp, port: 6379}]}
---
kind: Service
apiVersion: v1
metadata: {name: legacy, namespace: shop}
spec: {clusterIP: 10.96.0.14, selector: {app: legacy}, ports: [{name: http, port: 9080, targetPort: 8080}]}
---
kind: Service
apiVersion: v1
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.15, selector: {app: nobody}, ports: [{name: http, port: 9080}]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: door, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]
";

fn pod(namespace: &str, name: &str, labels: &str, account: &str, ip: &str) -> String {
    format!(
        "
kind: Pod
apiVersion: v1
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
spec: {{serviceAccountName: {account}, containers: [{{name: main, image: x, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

fn pods() -> String {
    let mesh = |labels: &str| format!("security.istio.io/tlsMode: istio, {labels}");
    [
        pod("shop", "v1", &mesh("app: reviews, version: v1"), "reviews", "10.0.0.11"),
        pod("shop", "v2", &mesh("app: reviews, version: v2"), "reviews", "10.0.0.12"),
        pod("shop", "ratings", &mesh("app: ratings"), "ratings", "10.0.0.13"),
        pod("shop", "stock", &mesh("app: stock"), "stock", "10.0.0.14"),
        pod("shop", "web", &mesh("app: web"), "web", "10.0.0.21"),
        pod("visit", "guest", &mesh("app: guest"), "guest", "10.0.0.22"),
        pod("shop", "legacy", "app: legacy", "legacy", "10.0.0.30"),
        pod("istio-system", "door", "istio: ingressgateway", "door", "10.0.0.98"),
    ]
    .join("---")
}

/// The shop with more objects, and members of the MeshConfig.
fn shop_with(mesh: &str, objects: &[String]) -> Arc<Snapshot> {
    let config =
        format!("{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{{mesh}}}'}}}}");
    let pods = pods();
    let more: Vec<(&str, &str)> = objects.iter().map(|text| ("more.yaml", text.as_str())).collect();
    let loaded = load([("shop.yaml", SHOP), ("mesh.yaml", &config), ("pods.yaml", &pods)].into_iter().chain(more));
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    loaded.snapshot
}

fn shop(objects: &[String]) -> Arc<Snapshot> {
    shop_with("", objects)
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    let group = if kind.ends_with("Policy") || kind.ends_with("Authentication") { "security" } else { "networking" };
    format!("{{kind: {kind}, apiVersion: {group}.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}")
}

const SUBSETS: &str =
    "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]}";

/// `FROM METHOD HOST:PORT/PATH [name=value …]`, where the method `TCP` or `TLS` is none, and the names `random`, `outside`, `at` and `endpoints` are no headers;
/// nor are `sni`, over which server name it goes by TLS, and `certificate`, whether one is shown there.
pub(crate) fn read(text: &str) -> Call {
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (from, method, to) = (next(), next(), next());
    let (authority, path) = to.split_at(to.find('/').unwrap_or(to.len()));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
    let source = from.parse().map_or(Source::Workload(from.clone()), Source::Address);
    let mut call = Call {
        from: source,
        host: host.to_owned(),
        port: port.parse().unwrap(),
        payload: Payload::Tcp,
        random: None,
        outside: None,
        at: None,
        endpoints: 8,
    };
    let (mut headers, mut server_name, mut certificate) = (Vec::new(), None, false);
    for word in words {
        match word.split_once('=').expect("name=value") {
            ("random", value) => call.random = Some(value.parse().unwrap()),
            ("at", value) => call.at = Some(value.parse().unwrap()),
            ("outside", value) => call.outside = Some(value.parse().unwrap()),
            ("sni", value) => server_name = Some(value.to_owned()),
            ("certificate", value) => certificate = value.parse().unwrap(),
            ("endpoints", value) => call.endpoints = value.parse().unwrap(),
            (name, value) => headers.push((name.to_owned(), value.to_owned())),
        }
    }
    call.payload = match &*method {
        "TCP" => Payload::Tcp,
        "TLS" => Payload::Tls { server_name: None },
        _ => Payload::Http {
            method,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            headers,
            http2: false,
            tls: server_name.is_some(),
            server_name,
            certificate,
        },
    };
    call
}

fn explain(snapshot: &Arc<Snapshot>, text: &str) -> Explanation {
    Explainer::new(snapshot).call(&read(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The verdict with the clusters and pods that calls go to: `outbound|9080||reviews… [shop/v1 shop/v2]: delivered`.
fn summary(explanation: &Explanation) -> String {
    let way = |way: &crate::Way| {
        let used = way.to.iter().filter(|to| to.used);
        let pods: Vec<&str> = used.map(|to| to.workload.as_deref().unwrap_or(&to.address)).collect();
        let share = way.share.map(|share| format!(" {}/{}", share.weight, share.of)).unwrap_or_default();
        format!("{}{share} [{}]", way.cluster.replace(".shop.svc.cluster.local", ""), pods.join(" "))
    };
    let ways: Vec<String> = explanation.hop.ways.iter().map(way).collect();
    let verdict = match &explanation.verdict {
        Verdict::Denied { policy: None, .. } => "denied by none".to_owned(),
        Verdict::Answered { status, .. } => status.to_string(),
        Verdict::Closed { .. } => "closed".to_owned(),
        Verdict::Unknown { .. } => "unknown".to_owned(),
        other => other.to_string(),
    };
    if ways.is_empty() { verdict } else { format!("{} = {verdict}", ways.join(", ")) }
}

/// Each call with its summary.
fn check(snapshot: &Arc<Snapshot>, rows: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (text, expected) in rows {
        let explanation = explain(snapshot, text);
        let got = summary(&explanation);
        if got != *expected {
            wrong.push(format!("{text}\n  got      {got}\n  expected {expected}\n{explanation}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
