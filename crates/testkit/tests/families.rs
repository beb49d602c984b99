//! What proxies with addresses of IPv6 are sent, alone or beside IPv4: a real Envoy takes it, and so does our own proxy.

use std::process::Command;

use mizzen_explain::{ResourceKind, build, list, load, proxy_of, review};
use mizzen_model::{IPV6, NO_IPV4, ProxyView, Snapshot};
use mizzen_protos::json::{Names, to_value};
use mizzen_testkit::envoy;
use serde_json::{Value, json};

const MESH: &str = "
{kind: Service, apiVersion: v1, metadata: {name: both, namespace: shop}, spec: {clusterIP: 10.96.0.50, clusterIPs: [10.96.0.50, 'fd00:96::50'],
  selector: {app: both}, ports: [{name: tcp, port: 7070}, {name: http, port: 8080}, {name: what, port: 9090}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: bare, namespace: shop}, spec: {clusterIP: None, selector: {app: both}, ports: [{name: tcp, port: 7071}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: outside, namespace: shop}, spec: {hosts: [api.example.com],
  addresses: ['2001:db8:1::/64', 192.0.2.0/24], resolution: NONE, ports: [{number: 8443, name: tcp, protocol: TCP}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: dynamic, namespace: shop}, spec: {hosts: ['*.example.org'],
  resolution: DYNAMIC_DNS, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: named, namespace: shop}, spec: {hosts: [named.example.com],
  resolution: DNS, ports: [{number: 8444, name: tls, protocol: TLS}]}}
---
{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: door, namespace: shop}, spec: {selector: {app: door},
  servers: [{port: {number: 8081, name: http, protocol: HTTP}, hosts: ['*']}]}}
---
{kind: PeerAuthentication, apiVersion: security.istio.io/v1, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: STRICT}}}
---
{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {name: both, namespace: shop}, spec: {selector: {matchLabels: {app: both}},
  rules: [{from: [{source: {ipBlocks: ['fd00::/8'], notIpBlocks: ['fd00::1']}}]}]}}
";

fn pod(name: &str, app: &str, ips: &[&str]) -> String {
    let all: Vec<String> = ips.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    format!(
        "---\n{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, namespace: shop, labels: {{app: {app}, security.istio.io/tlsMode: istio}}}},
  spec: {{serviceAccountName: {app}, containers: [{{name: main, image: x}}]}},
  status: {{phase: Running, podIP: '{}', podIPs: [{}], conditions: [{{type: Ready, status: 'True'}}]}}}}\n",
        ips[0],
        all.join(", ")
    )
}

/// All that a proxy without Istio's filters gets, as a bootstrap has it.
fn bootstrap(snapshot: &Snapshot, view: &ProxyView) -> Value {
    let mut facts = view.facts().clone();
    facts.extensions.retain(|name| name == IPV6 || name == NO_IPV4);
    let view = ProxyView::from(facts);
    let all = |kind: ResourceKind| -> Vec<Value> {
        let names = list(snapshot, &view, kind);
        let made = names.iter().map(|name| {
            let mut value = to_value(&build(snapshot, &view, kind, name).expect("what is listed").any, Names::Proto).expect("JSON");
            value.as_object_mut().expect("a message").remove("@type");
            value
        });
        made.collect()
    };
    let own = |name: &str| {
        let address = json!({ "pipe": { "path": format!("/nowhere/{name}") } });
        let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address } }] }]);
        json!({ "name": name, "type": "STATIC", "load_assignment": { "cluster_name": name, "endpoints": endpoints } })
    };
    let mut clusters = all(ResourceKind::Cluster);
    clusters.extend(["xds-grpc", "sds-grpc"].map(own));
    let ads = json!({ "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds-grpc" } }] });
    json!({
        "node": { "id": "a", "cluster": "b" },
        "static_resources": { "listeners": all(ResourceKind::Listener), "clusters": clusters },
        "dynamic_resources": { "ads_config": ads },
    })
}

/// Each kind of proxy with each choice of families.
fn check(taken: impl Fn(&Snapshot, &ProxyView, &str)) {
    for ips in [&["10.0.0.70"][..], &["fd00::70"], &["10.0.0.70", "fd00::70"], &["fd00::70", "10.0.0.70"]] {
        for app in ["both", "door"] {
            let text = format!("{MESH}{}{}", pod("this-0", app, ips), pod("other-0", "both", &["10.0.0.71", "fd00::71"]));
            let loaded = load([("mesh.yaml", text.as_str())]);
            assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
            let view = proxy_of(&loaded.snapshot, "shop", "this-0").expect("a proxy");
            taken(&loaded.snapshot, &view, &format!("{app} at {ips:?}"));
        }
    }
}

#[test]
fn by_our_own() {
    check(|snapshot, view, of| {
        let review = review(snapshot, view);
        assert!(review.refused.is_empty() && review.closed.is_empty(), "{of}: {:?} {:?}", review.refused, review.closed);
    });
}

#[test]
fn by_an_envoy() {
    let Some(program) = envoy() else { return };
    check(|snapshot, view, of| {
        let file = tempfile::NamedTempFile::with_suffix(".json").expect("a file");
        let bootstrap = bootstrap(snapshot, view);
        std::fs::write(&file, bootstrap.to_string()).expect("write");
        let has = |what: &str| bootstrap.to_string().contains(what);
        assert_eq!(has("\"additional_addresses\""), view.facts().ips().count() == 2, "{of}");
        let output = Command::new(&program).args(["--mode", "validate", "-c"]).arg(file.path()).output().expect("an Envoy");
        assert!(output.status.success(), "{of}: {}", String::from_utf8_lossy(&output.stderr));
    });
}
