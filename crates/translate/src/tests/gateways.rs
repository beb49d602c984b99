//! Gateways.

use std::sync::Arc;

use mizzen_api::istio::{ForwardClientCert, GatewayTopology, MeshConfig, ProxyConfig};
use mizzen_model::{Change, ProxyFacts, ProxyType, ProxyView, Reader, Snapshot};
use mizzen_protos::envoy::envoy::{
    config::{
        core::v3::{DataSource, data_source::Specifier},
        listener::v3::{Listener, filter::ConfigType},
    },
    extensions::{
        filters::network::http_connection_manager::v3::HttpConnectionManager,
        transport_sockets::tls::v3::{Secret, secret::Type},
    },
};

use super::{
    facts, names, shop,
    summary::{decode, show},
};
use crate::{ResourceKind, build};

const GATEWAY: &str = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: shop, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com, './*.shop.example.com', 'ops/ops.example.com']}
  - {port: {number: 8080, name: http2, protocol: HTTP2}, hosts: ['*']}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: other, namespace: shop}
spec:
  selector: {istio: other}
  servers: [{port: {number: 81, name: http, protocol: HTTP}, hosts: ['*']}]
";

fn rule(name: &str, namespace: &str, hosts: &str, http: &str) -> String {
    format!(
        "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{hosts: [{hosts}], gateways: [shop/shop], http: [{http}]}}
"
    )
}

fn gateway() -> ProxyView {
    facts(ProxyType::Router, "10.0.0.98", "istio-system", &[("istio", "ingressgateway")]).into()
}

#[test]
fn gateways_that_stay_at_home() {
    let snapshot = shop(&[GATEWAY]);
    let mesh = MeshConfig { gateways_stay_home: true, ..(**snapshot.mesh()).clone() };
    let apart = snapshot.apply(vec![Change::Apply(Arc::new(mesh.into()))]);
    let at_home = facts(ProxyType::Router, "10.0.0.98", "shop", &[("istio", "ingressgateway")]).into();
    let listeners = |snapshot: &Snapshot, view: &ProxyView| names(snapshot, view, ResourceKind::Listener).len();
    assert_eq!([&snapshot, &apart].map(|snapshot| listeners(snapshot, &gateway())), [2, 0]);
    assert_eq!([&snapshot, &apart].map(|snapshot| listeners(snapshot, &at_home)), [2, 2]);
}

/// The listener filters of a listener, and what the connection manager of its first chain makes of who stands before it.
fn before(snapshot: &Snapshot, view: &ProxyView, name: &str) -> String {
    let resource = build(&Reader::new(snapshot), view, ResourceKind::Listener, &name.into()).unwrap();
    let listener: Listener = decode(&resource.any);
    let mut parts: Vec<String> =
        listener.listener_filters.iter().map(|filter| filter.name.replace("envoy.filters.listener.", "")).collect();
    let last = listener.filter_chains[0].filters.last().unwrap();
    if let (true, Some(ConfigType::TypedConfig(any))) = (last.name.ends_with("http_connection_manager"), &last.config_type) {
        let manager: HttpConnectionManager = decode(any);
        assert!(manager.use_remote_address.unwrap().value && !manager.skip_xff_append);
        let details = manager.set_current_client_cert_details.as_ref().unwrap();
        assert!(details.subject.unwrap().value && details.cert && details.dns && details.uri);
        parts.push(format!("hops={} {}", manager.xff_num_trusted_hops, manager.forward_client_cert_details().as_str_name()));
    }
    parts.join(" ")
}

#[test]
fn what_stands_before() {
    let tcp = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: tcp, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: tcp, namespace: shop}
spec: {hosts: ['*'], gateways: [tcp], tcp: [{route: [{destination: {host: stock}}]}]}
";
    let snapshot = shop(&[GATEWAY, TLS, tcp]);
    let own = |topology: GatewayTopology| {
        let facts = facts(ProxyType::Router, "10.0.0.98", "istio-system", &[("istio", "ingressgateway")]);
        ProxyView::from(ProxyFacts { topology, ..facts })
    };
    let check = |mesh: GatewayTopology, view: &ProxyView, expected: [&str; 3]| {
        let default_config = ProxyConfig { gateway_topology: mesh, ..snapshot.mesh().default_config.clone() };
        let mesh = MeshConfig { default_config, ..(**snapshot.mesh()).clone() };
        let snapshot = snapshot.apply(vec![Change::Apply(Arc::new(mesh.into()))]);
        assert_eq!(["0.0.0.0_8080", "0.0.0.0_443", "0.0.0.0_9000"].map(|name| before(&snapshot, view, name)), expected);
    };
    let nothing = GatewayTopology::default();
    let some = GatewayTopology { trusted_proxies: Some(2), client_cert: Some(ForwardClientCert::AppendForward), proxy_protocol: None };
    let told = GatewayTopology { proxy_protocol: Some(true), ..nothing };
    let usual = ["hops=0 SANITIZE_SET", "tls_inspector hops=0 SANITIZE_SET", ""];
    check(nothing, &own(nothing), usual);
    check(some, &own(nothing), ["hops=2 APPEND_FORWARD", "tls_inspector hops=2 APPEND_FORWARD", ""]);
    let proxied = ["proxy_protocol hops=0 SANITIZE_SET", "proxy_protocol tls_inspector hops=0 SANITIZE_SET", "proxy_protocol"];
    check(told, &own(nothing), proxied);
    check(nothing, &own(told), proxied);
    // What a gateway's own settings do not say, the mesh's do.
    let sanitize = GatewayTopology { client_cert: Some(ForwardClientCert::Sanitize), ..told };
    check(some, &own(sanitize), ["proxy_protocol hops=2 SANITIZE", "proxy_protocol tls_inspector hops=2 SANITIZE", "proxy_protocol"]);
}

#[test]
fn hosts_in_common() {
    let to = |name: &str| format!("{{name: {name}, route: [{{destination: {{host: reviews.shop.svc.cluster.local}}}}]}}");
    let snapshot = shop(&[
        GATEWAY,
        &rule("b", "shop", "shop.example.com", &to("b")),
        &rule("a", "shop", "shop.example.com", "{name: a, match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}"),
        &rule("wide", "shop", "'*.example.com'", &to("wide")),
        &rule("theirs", "ops", "ops.example.com", &to("theirs")),
        &rule("not-theirs", "shop", "ops.example.com", &to("not-theirs")),
    ]);
    insta::assert_snapshot!(show(&snapshot, &gateway(), ResourceKind::Route, "http.80"));
}

#[test]
fn the_gateway_is_the_source() {
    let rules = "
      {name: theirs, match: [{sourceLabels: {team: blue}}, {sourceNamespace: shop}], route: [{destination: {host: reviews}}]},
      {name: ours, match: [{sourceLabels: {istio: ingressgateway}, sourceNamespace: istio-system}], route: [{destination: {host: reviews}}]}";
    let text = show(&shop(&[GATEWAY, &rule("a", "shop", "'*'", rules)]), &gateway(), ResourceKind::Route, "http.8080");
    assert!(text.contains("    ours: ") && !text.contains("    theirs"), "{text}");
}

#[test]
fn rules_for_all_paths_come_last() {
    let to = |name: &str, matching: &str| format!("{{name: {name}, {matching} route: [{{destination: {{host: reviews}}}}]}}");
    let snapshot = shop(&[
        GATEWAY,
        &rule("a", "shop", "'*'", &(to("a1", "match: [{uri: {prefix: /a}}],") + ", " + &to("all-of-a", ""))),
        &rule("b", "shop", "'*'", &to("all-of-b", "match: [{uri: {prefix: /}}],")),
        &rule(
            "c",
            "shop",
            "'*'",
            &(to("c1", "match: [{uri: {prefix: /}, headers: {x: {exact: one}}}],") + ", " + &to("c2", "match: [{uri: {exact: /c}}],")),
        ),
    ]);
    let text = show(&snapshot, &gateway(), ResourceKind::Route, "http.8080");
    let places: Vec<_> = ["a1", "c1", "c2", "all-of-a", "all-of-b"].map(|name| text.find(&format!("    {name}: "))).into();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}\n{text}");
}

#[test]
fn resources() {
    let policy = "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: entry, namespace: istio-system}
spec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {paths: [/private]}}]}]}
";
    let snapshot = shop(&[GATEWAY, policy]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Listener), ["0.0.0.0_80", "0.0.0.0_8080"]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Route), ["http.80", "http.8080"]);
    assert!(
        !names(&snapshot, &gateway(), ResourceKind::Cluster).iter().any(|name| name.starts_with("inbound") || name.contains("Passthrough"))
    );
    let store = "outbound|7000||store.shop.svc.cluster.local";
    assert!(show(&snapshot, &gateway(), ResourceKind::Cluster, store).contains(" EDS "));
    assert_eq!(show(&snapshot, &gateway(), ResourceKind::Endpoints, store).lines().count(), 3);
    insta::assert_snapshot!(
        [show(&snapshot, &gateway(), ResourceKind::Listener, "0.0.0.0_80"), show(&snapshot, &gateway(), ResourceKind::Route, "http.8080")]
            .join("\n")
    );
}

#[test]
fn ports_of_the_gateways_own_service() {
    let service = "
kind: Service
apiVersion: v1
metadata: {name: ingress, namespace: istio-system}
spec: {clusterIP: 10.96.0.90, selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 18080}]}
---
kind: Pod
apiVersion: v1
metadata: {name: ingress-0, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {containers: [{name: main, image: x}]}
status: {phase: Running, podIP: 10.0.0.98, conditions: [{type: Ready, status: 'True'}]}
";
    let snapshot = shop(&[GATEWAY, service]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Listener), ["0.0.0.0_8080", "0.0.0.0_18080"]);
    assert_eq!(names(&snapshot, &gateway(), ResourceKind::Route), ["http.80", "http.8080"]);
}

/// Servers that end TLS, of two Gateways; the younger one also names what is taken.
const TLS: &str = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: a, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example, b.example], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https-a, protocol: HTTPS}, hosts: [a.example, '*.a.example'], tls: {mode: SIMPLE, credentialName: a}}
  - port: {number: 443, name: https-b, protocol: HTTPS}
    hosts: [shop/b.example]
    tls: {mode: MUTUAL, credentialNames: [b-rsa, b-ecdsa], subjectAltNames: [ann], minProtocolVersion: TLSV1_3, cipherSuites: [AES128-SHA]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: b, namespace: bank}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: taken, protocol: HTTPS}, hosts: [b.example, c.example], tls: {mode: SIMPLE, credentialName: bank}}
  - {port: {number: 443, name: plain, protocol: HTTP}, hosts: [d.example]}
  - {port: {number: 443, name: rest, protocol: HTTPS}, hosts: ['*'], tls: {mode: OPTIONAL_MUTUAL, credentialName: rest, caCertCredentialName: clients}}
  - {port: {number: 8443, name: mesh, protocol: HTTPS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}
";

#[test]
fn servers_that_end_tls() {
    let to = |name: &str| format!("{{name: {name}, route: [{{destination: {{host: reviews.shop.svc.cluster.local}}}}]}}");
    let rules = rule("r", "shop", "a.example, b.example, x.a.example", &to("r")).replace("shop/shop", "shop/a");
    let snapshot = shop(&[TLS, &rules]);
    let view = gateway();
    assert_eq!(names(&snapshot, &view, ResourceKind::Listener), ["0.0.0.0_80", "0.0.0.0_443", "0.0.0.0_8443"]);
    let routes = ["http.80", "https.443.https-a.a.shop", "https.443.https-b.a.shop", "https.443.rest.b.bank", "https.8443.mesh.b.bank"];
    assert_eq!(names(&snapshot, &view, ResourceKind::Route), routes);
    let listeners = ["0.0.0.0_443", "0.0.0.0_8443"].map(|name| show(&snapshot, &view, ResourceKind::Listener, name));
    let routes = routes.map(|name| show(&snapshot, &view, ResourceKind::Route, name));
    insta::assert_snapshot!([listeners.join("\n"), routes.join("\n")].join("\n"));
}

const SECRETS: &str = "
kind: Secret
apiVersion: v1
metadata: {name: a, namespace: istio-system}
type: kubernetes.io/tls
stringData: {tls.crt: chain of a, tls.key: key of a}
---
kind: Secret
apiVersion: v1
metadata: {name: b-rsa, namespace: istio-system}
stringData: {cert: chain of b, key: key of b, cacert: ca of b, crl: crl of b, tls.crt: other, tls.key: other, ca.crt: other}
---
kind: Secret
apiVersion: v1
metadata: {name: clients, namespace: istio-system}
stringData: {ca.crt: own ca of clients}
---
kind: Secret
apiVersion: v1
metadata: {name: clients-cacert, namespace: istio-system}
stringData: {ca.crt: ca of clients, ca.crl: crl of clients}
---
kind: Secret
apiVersion: v1
metadata: {name: rest, namespace: istio-system}
stringData: {tls.crt: chain without a key}
---
kind: Secret
apiVersion: v1
metadata: {name: unnamed, namespace: istio-system}
stringData: {tls.crt: chain, tls.key: key, ca.crt: ca}
---
kind: Secret
apiVersion: v1
metadata: {name: b-ecdsa, namespace: shop}
stringData: {tls.crt: of another namespace, tls.key: key}
---
kind: Secret
apiVersion: v1
metadata: {name: bank, namespace: istio-system}
stringData: {tls.crt: of a server that stands nowhere, tls.key: key}
";

fn secret(snapshot: &Snapshot, view: &ProxyView, name: &str) -> Option<String> {
    let resource = build(&Reader::new(snapshot), view, ResourceKind::Secret, &name.into())?;
    assert_eq!((&*resource.name, resource.any.type_url.as_str()), (name, ResourceKind::Secret.type_url().as_str()));
    let secret: Secret = decode(&resource.any);
    assert_eq!(secret.name, name);
    let text = |source: Option<DataSource>| match source.and_then(|source| source.specifier) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        None => "none".to_owned(),
        Some(other) => panic!("{other:?}"),
    };
    Some(match secret.r#type.unwrap() {
        Type::TlsCertificate(made) => format!("{}, {}", text(made.certificate_chain), text(made.private_key)),
        Type::ValidationContext(made) => format!("{}, {}", text(made.trusted_ca), text(made.crl)),
        other => panic!("{other:?}"),
    })
}

#[test]
fn secrets_of_the_gateways_own_namespace() {
    let snapshot = shop(&[TLS, SECRETS]);
    for (name, expected) in [
        ("kubernetes://a", Some("chain of a, key of a")),
        ("kubernetes://a-cacert", None),
        ("kubernetes://b-rsa", Some("chain of b, key of b")),
        ("kubernetes://b-rsa-cacert", Some("ca of b, crl of b")),
        ("kubernetes://clients-cacert", Some("ca of clients, crl of clients")),
        ("kubernetes://clients", None),
        // It has no key; it is in another namespace; no Gateway names it; the one that does is left out.
        ("kubernetes://rest", None),
        ("kubernetes://b-ecdsa", None),
        ("kubernetes://unnamed", None),
        ("kubernetes://unnamed-cacert", None),
        ("kubernetes://bank", None),
        ("kubernetes://istio-system/a", None),
        ("a", None),
        ("default", None),
    ] {
        assert_eq!(secret(&snapshot, &gateway(), name).as_deref(), expected, "{name}");
    }
    let named = "
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: named, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 9443, name: a, protocol: HTTPS}, hosts: [a.example], tls: {mode: SIMPLE, credentialName: istio-system/a}}
  - {port: {number: 9443, name: b, protocol: HTTPS}, hosts: [b.example], tls: {mode: SIMPLE, credentialName: shop/b-ecdsa}}
";
    let with_namespaces = shop(&[TLS, SECRETS, named]);
    assert_eq!(secret(&with_namespaces, &gateway(), "kubernetes://istio-system/a").as_deref(), Some("chain of a, key of a"));
    assert_eq!(secret(&with_namespaces, &gateway(), "kubernetes://shop/b-ecdsa"), None, "whatever a Gateway names");
    assert!(names(&snapshot, &gateway(), ResourceKind::Secret).is_empty(), "who asks for all gets none");
    // Neither a gateway of the same labels elsewhere, nor one of other labels here, nor a sidecar.
    let elsewhere = facts(ProxyType::Router, "10.0.0.97", "bank", &[("istio", "ingressgateway")]).into();
    let other = facts(ProxyType::Router, "10.0.0.96", "istio-system", &[("istio", "egressgateway")]).into();
    let sidecar = facts(ProxyType::Sidecar, "10.0.0.95", "istio-system", &[("istio", "ingressgateway")]).into();
    for view in [&elsewhere, &other, &sidecar] {
        assert_eq!(secret(&snapshot, view, "kubernetes://a"), None);
    }
    assert_eq!(secret(&snapshot, &elsewhere, "kubernetes://b-ecdsa"), None);
    let drafted = format!(
        "{:?}",
        crate::draft(&crate::scope::Scope::new(&Reader::new(&snapshot), &gateway()), ResourceKind::Secret, "kubernetes://a")
    );
    assert!(drafted.contains("kubernetes://a") && !drafted.contains("key of"), "{drafted}");
}

#[test]
fn formats_of_logs() {
    use mizzen_protos::envoy::envoy::{
        config::{accesslog::v3::access_log::ConfigType as Log, core::v3::substitution_format_string::Format},
        extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
    };
    let check = |settings: &str, expected: &str| {
        let mesh = format!(
            "kind: ConfigMap\napiVersion: v1\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n{settings}"
        );
        let snapshot = shop(&[GATEWAY, &mesh]);
        let resource = build(&Reader::new(&snapshot), &gateway(), ResourceKind::Listener, &"0.0.0.0_80".into()).unwrap();
        let listener: Listener = decode(&resource.any);
        let Some(ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters.last().unwrap().config_type else {
            panic!("{listener:?}")
        };
        let manager: HttpConnectionManager = decode(any);
        let Some(Log::TypedConfig(any)) = &manager.access_log[0].config_type else { panic!("{manager:?}") };
        let file: FileAccessLog = decode(any);
        let Some(AccessLogFormat::LogFormat(format)) = file.access_log_format else { panic!("{file:?}") };
        let text = match format.format.unwrap() {
            Format::TextFormatSource(DataSource { specifier: Some(Specifier::InlineString(line)), .. }) => line,
            Format::JsonFormat(members) => {
                let mut members: Vec<String> =
                    members.fields.iter().map(|(key, value)| format!("{key}={:?}", value.kind.as_ref().unwrap())).collect();
                members.sort();
                members.join("; ")
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(text, expected);
    };
    check("    accessLogFormat: '%PROTOCOL%'\n", "%PROTOCOL%\n");
    check(
        "    accessLogEncoding: JSON\n    accessLogFormat: '{\"a\": \"%PROTOCOL%\", \"n\": 1, \"no\": null}'\n",
        "a=StringValue(\"%PROTOCOL%\"); n=NumberValue(1.0); no=NullValue(NullValue)",
    );
}
