//! From YAML to what is printed.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_model::Snapshot;
use serde_json::json;

use super::{
    super::state::tests::{deployment, snapshot},
    Held, Status, of_files, text,
};

const SERVICES: &str = "
kind: Service
apiVersion: v1
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 90, targetPort: 9090}]}
---
{kind: Service, apiVersion: v1, metadata: {name: empty, namespace: shop}, spec: {selector: {app: nobody}, ports: [{name: http, port: 80}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: far, namespace: shop},
 spec: {hosts: [far.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.7}]}}
";

fn shop(objects: &[String]) -> Arc<Snapshot> {
    let pods = [deployment("shop", "reviews-v1", "reviews"), deployment("shop", "reviews-v2", "reviews"), deployment("shop", "web", "web")];
    let more: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
    snapshot(&(SERVICES.to_owned() + &pods.concat() + &more))
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    let group = if kind == "PeerAuthentication" { "security" } else { "networking" };
    format!("{{kind: {kind}, apiVersion: {group}.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}")
}

/// The rows of reviews as `PORT STATUS SERVER CLIENT POLICY RULE`.
fn check(objects: &[String], expected: &[&str]) {
    let rows = of_files(&shop(objects), "shop/web", &Held::new()).unwrap();
    let rows: Vec<_> = rows.into_iter().filter(|row| row.host.starts_with("reviews")).collect();
    let shown = text(&rows).unwrap();
    let lines: Vec<String> = shown
        .lines()
        .skip(1)
        .take(rows.len())
        .map(|line| line.split_whitespace().take(6).collect::<Vec<_>>().join(" ").replace("reviews.shop.svc.cluster.local:", ""))
        .collect();
    assert_eq!(lines, expected, "{objects:?}\n{shown}");
}

#[test]
fn what_is_sent_and_taken() {
    let strict = object("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}");
    let plain = object("DestinationRule", "plain", "{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}");
    let mutual = object("DestinationRule", "mutual", "{host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}");
    let off = object("PeerAuthentication", "plain-in", "{mtls: {mode: DISABLE}}");
    let by_port = object(
        "PeerAuthentication",
        "ports",
        "{selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}}}",
    );
    let one = object("PeerAuthentication", "one", "{selector: {matchLabels: {at: reviews-v1}}, mtls: {mode: DISABLE}}");
    let subsets = object(
        "DestinationRule",
        "subsets",
        "{host: reviews, subsets: [{name: v1, labels: {at: reviews-v1}, trafficPolicy: {tls: {mode: DISABLE}}}, {name: v2, labels: {at: reviews-v2}}]}",
    );
    let of = |objects: &[&String]| objects.iter().map(|object| (*object).clone()).collect::<Vec<_>>();
    check(&[], &["80 OK PERMISSIVE ISTIO_MUTUAL - -", "90 OK PERMISSIVE ISTIO_MUTUAL - -"]);
    check(&of(&[&strict]), &["80 OK STRICT ISTIO_MUTUAL strict/shop -", "90 OK STRICT ISTIO_MUTUAL strict/shop -"]);
    check(&of(&[&plain]), &["80 OK PERMISSIVE DISABLE - plain/shop", "90 OK PERMISSIVE DISABLE - plain/shop"]);
    check(
        &of(&[&strict, &plain]),
        &["80 CONFLICT STRICT DISABLE strict/shop plain/shop", "90 CONFLICT STRICT DISABLE strict/shop plain/shop"],
    );
    check(&of(&[&off]), &["80 OK DISABLE DISABLE plain-in/shop -", "90 OK DISABLE DISABLE plain-in/shop -"]);
    check(
        &of(&[&off, &mutual]),
        &["80 CONFLICT DISABLE ISTIO_MUTUAL plain-in/shop mutual/shop", "90 CONFLICT DISABLE ISTIO_MUTUAL plain-in/shop mutual/shop"],
    );
    check(&of(&[&by_port]), &["80 OK STRICT ISTIO_MUTUAL ports/shop -", "90 OK DISABLE DISABLE ports/shop -"]);
    check(&of(&[&strict, &one]), &["80 OK MIXED MIXED one/shop,strict/shop -", "90 OK MIXED MIXED one/shop,strict/shop -"]);
    check(
        &of(&[&strict, &subsets]),
        &[
            "80 OK STRICT ISTIO_MUTUAL strict/shop subsets/shop",
            "80|v1 CONFLICT STRICT DISABLE strict/shop subsets/shop",
            "90 OK STRICT ISTIO_MUTUAL strict/shop subsets/shop",
            "90|v1 CONFLICT STRICT DISABLE strict/shop subsets/shop",
        ],
    );
}

#[test]
fn reasons_name_both_sides() {
    let strict = object("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}");
    let plain = object("DestinationRule", "plain", "{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}");
    let rows = of_files(&shop(&[strict, plain]), "shop/web", &Held::new()).unwrap();
    let shown = text(&rows).unwrap();
    let line = shown.lines().find(|line| line.contains(":80: ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(
        line.starts_with(
            "reviews.shop.svc.cluster.local:80: the server takes mutual TLS alone (PeerAuthentication strict/shop at test.yaml:"
        )
    );
    assert!(line.contains("and the client sends plain text (DestinationRule plain/shop at test.yaml:"), "{line}");
    assert!(line.ends_with(": shop/reviews-v1, shop/reviews-v2"), "{line}");
    let value = serde_json::to_value(&rows).unwrap();
    let reviews = value.as_array().unwrap().iter().find(|row| row["host"] == "reviews.shop.svc.cluster.local").unwrap();
    assert_eq!(
        (&reviews["status"], &reviews["held"], &reviews["automatic"]),
        (&json!("CONFLICT"), &json!(false), &json!(false)),
        "{value:#}"
    );
    assert_eq!(reviews["authenticationPolicies"][0]["name"], "strict/shop");
}

#[test]
fn servers_beyond_and_none() {
    let rows = of_files(&shop(&[]), "shop/web", &Held::new()).unwrap();
    let of = |host: &str| rows.iter().find(|row| row.host.starts_with(host)).map(|row| (row.status, &*row.server, &*row.client));
    assert_eq!(of("empty"), Some((Status::Nobody, "-", "-")));
    assert_eq!(of("far"), Some((Status::Fits, "EXTERNAL", "DISABLE")));
}

/// What the proxy runs counts more than what it would be sent.
#[test]
fn what_the_client_holds_is_what_it_sends() {
    let strict = object("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}");
    let name = "outbound|80||reviews.shop.svc.cluster.local";
    let socket = |secret: &str| {
        json!({"typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": secret}]}}})
    };
    for (cluster, expected) in [
        (json!({"name": name}), "CONFLICT DISABLE"),
        (json!({"name": name, "transport_socket": socket("default")}), "OK ISTIO_MUTUAL"),
        (json!({"name": name, "transport_socket": socket("kubernetes://mine")}), "CONFLICT MUTUAL"),
        (
            json!({"name": name, "transport_socket": {"typed_config": {"@type": "x.UpstreamTlsContext", "common_tls_context": {}}}}),
            "CONFLICT SIMPLE",
        ),
        (
            json!({"name": name, "transport_socket": {"typed_config": {"@type": "x.ProxyProtocolUpstreamTransport", "transport_socket": socket("default")}}}),
            "OK ISTIO_MUTUAL",
        ),
    ] {
        let held: Held = BTreeMap::from([(name.to_owned(), cluster)]);
        let rows = of_files(&shop(std::slice::from_ref(&strict)), "shop/web", &held).unwrap();
        let row = rows.iter().find(|row| row.host.starts_with("reviews") && row.port == 80).unwrap();
        assert!(row.held, "{row:?}");
        assert_eq!(format!("{} {}", row.status.as_str(), row.client), expected);
    }
}
