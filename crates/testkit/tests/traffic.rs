//! Traffic policies, from YAML to where the requests go: a service of pods in four places, and callers in one of them.

use std::collections::BTreeMap;

use mizzen_testkit::memory::{Answer, Call, MemoryMesh};

const SERVICE: &str = "
kind: Service
apiVersion: v1
metadata: {name: books, namespace: shop}
spec: {clusterIP: 10.96.0.11, selector: {app: books}, ports: [{name: http, port: 9080, targetPort: 8080}] MORE}
";

/// Pods of the service, and where they run. All have a sidecar.
const PODS: [(&str, &str, &str); 4] =
    [("near", "10.0.0.11", "eu.a.1"), ("close", "10.0.0.12", "eu.a.2"), ("far", "10.0.0.13", "eu.b"), ("abroad", "10.0.0.14", "us.a")];

fn pod(name: &str, app: &str, ip: &str, locality: &str) -> String {
    format!(
        "
kind: Pod
apiVersion: v1
metadata: {{name: {name}, namespace: shop, labels: {{security.istio.io/tlsMode: istio, app: {app}, pod: {name}, topology.istio.io/locality: {locality}}}}}
spec: {{serviceAccountName: {app}, containers: [{{name: main, image: x, ports: [{{containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}
"
    )
}

/// The mesh with a DestinationRule of this traffic policy, and further objects.
fn mesh_with(service: &str, policy: &str, more: &[&str]) -> MemoryMesh {
    let service = SERVICE.replace("MORE", service);
    let callers = [("web", "10.0.0.21"), ("shelf", "10.0.0.22"), ("desk", "10.0.0.23")].map(|(name, ip)| pod(name, "caller", ip, "eu.a.1"));
    let pods: Vec<String> = PODS.iter().map(|(name, ip, locality)| pod(name, "books", ip, locality)).chain(callers).collect();
    let pods = pods.join("---");
    let rule = format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: books, namespace: shop}}, \
         spec: {{host: books, trafficPolicy: {{{policy}}}}}}}"
    );
    let mut files = vec![("service.yaml", &*service), ("pods.yaml", &*pods), ("rule.yaml", &*rule)];
    files.extend(more.iter().map(|text| ("more.yaml", *text)));
    let mesh = MemoryMesh::start(11, &files);
    assert!(mesh.problems.is_empty(), "{:#?}", mesh.problems);
    mesh
}

fn mesh(policy: &str) -> MemoryMesh {
    mesh_with("", policy, &[])
}

fn call(mesh: &mut MemoryMesh, from: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    mesh.call(&Call { from: &format!("shop/{from}"), method: "GET", url: &format!("http://books:9080{path}"), headers })
}

/// Who answers, or the status if nobody does.
fn who(answer: &Answer) -> String {
    match (answer.status(), answer.served_by()) {
        (200, Some(pod)) => pod.to_owned(),
        (status, _) => status.to_string(),
    }
}

/// How often each answers of so many calls.
fn shares(mesh: &mut MemoryMesh, calls: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..calls {
        *shares.entry(who(&call(mesh, "web", "/", &[]))).or_default() += 1;
    }
    shares
}

/// The nearest pods answer as long as they are well.
#[test]
fn failover() {
    let detect = "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1h, maxEjectionPercent: 100}";
    let check = |policy: &str, order: &[&str]| {
        let mut mesh = mesh(&format!("{detect}{policy}"));
        for pod in order {
            assert_eq!(shares(&mut mesh, 8), BTreeMap::from([((*pod).to_owned(), 8)]), "{policy}");
            assert_eq!(call(&mut mesh, "web", "/", &[("x-fails", pod)]).status(), 503);
        }
    };
    check("", &["near", "close", "far", "abroad"]);
    check(", loadBalancer: {localityLbSetting: {failoverPriority: ['pod=far', 'pod=abroad']}}", &["far"]);
    check(", loadBalancer: {localityLbSetting: {failoverPriority: [topology.istio.io/subzone, topology.kubernetes.io/region]}}", &["near"]);
    // Without detection, or where it is turned off, all are alike.
    for policy in ["", &format!("{detect}, loadBalancer: {{localityLbSetting: {{enabled: false}}}}")] {
        assert_eq!(shares(&mut mesh(policy), 60).len(), PODS.len(), "{policy}");
    }
}

#[test]
fn traffic_distribution() {
    let zone = shares(&mut mesh_with(", trafficDistribution: PreferClose", "", &[]), 40);
    assert_eq!(zone.keys().map(String::as_str).collect::<Vec<_>>(), ["close", "near"]);
}

#[test]
fn distribution() {
    let policy = "loadBalancer: {localityLbSetting: {distribute: [{from: eu/a/*, to: {eu/b: 80, us: 20}}]}}";
    let found = shares(&mut mesh(policy), 300);
    let of = |pod: &str| found.get(pod).copied().unwrap_or_default();
    assert_eq!(of("far") + of("abroad"), 300, "{found:?}");
    assert!((210..=270).contains(&of("far")), "{found:?}");
}

/// One retry at once there may always be, however small the budget.
#[test]
fn retry_budgets() {
    let route = "{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: books, namespace: shop}, \
                 spec: {hosts: [books], http: [{route: [{destination: {host: books}}], retries: {attempts: 1, retryOn: '503'}}]}}";
    for policy in ["retryBudget: {percent: 0, minRetryConcurrency: 1}", "retryBudget: {}"] {
        let mut mesh = mesh_with("", policy, &[route]);
        for _ in 0..20 {
            assert_eq!(call(&mut mesh, "web", "/", &[("x-fails", "near")]).status(), 200, "{policy}");
        }
    }
}

/// However the way to the pods is set up, they answer.
#[test]
fn connections() {
    for policy in [
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1}}",
        "connectionPool: {http: {useClientProtocol: true}}",
        "connectionPool: {tcp: {maxConnectionDuration: 1s, tcpKeepalive: {probes: 3, time: 10s, interval: 5s}, idleTimeout: 2s}}",
        "connectionPool: {tcp: {maxConnections: 1}, http: {maxRequestsPerConnection: 1}}",
        "loadBalancer: {warmup: {duration: 30s, aggression: 2, minimumPercent: 20}}",
        "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s}}",
        "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2}",
    ] {
        let mut mesh = mesh(policy);
        for _ in 0..12 {
            assert_eq!(call(&mut mesh, "web", "/", &[]).status(), 200, "{policy}");
        }
    }
}
