//! A control plane beside a real API server.

use std::{fmt::Write, time::Duration};

use mizzen_api::Kind;
use mizzen_pki::{Ca, CaLimits, KeyPair, Svid, UnixTime};
use mizzen_protos::{
    envoy::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type},
    wkt,
};
use mizzen_testkit::{eventually, kube::ApiServer};
use mizzen_types::TrustDomain;
use mizzen_xds::types::SECRET;
use prost::Message;
use serde_json::{Value, json};

use super::{
    cluster_tokens::token,
    harness::{PATIENCE, Proxy, World, node},
};
use crate::status::{Configz, ServiceStatus};

const NAMESPACES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
";

/// What an installation brings of kinds.
fn definitions() -> String {
    let all = Kind::ALL.iter().filter_map(|kind| mizzen_api::crd(*kind)).filter(|crd| crd["spec"]["group"] != "");
    all.fold(String::new(), |mut text, crd| {
        let _ = write!(text, "---\n{crd}\n");
        text
    })
}

/// An API server with the mesh's kinds and two namespaces.
pub(super) fn api() -> Option<ApiServer> {
    let api = ApiServer::start()?;
    api.apply(&definitions());
    api.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"], "").ok();
    api.apply(NAMESPACES);
    Some(api)
}

pub(super) const SHOP: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: reviews, namespace: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z}}
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, clusterIP: 10.96.0.70, ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: shop}
spec: {clusterIP: 10.96.0.71, ports: [{name: tcp, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: elsewhere-1, namespace: shop, labels: {kubernetes.io/service-name: elsewhere}}
addressType: IPv4
ports: [{name: tcp, port: 5432}]
endpoints: [{addresses: [192.0.2.1]}]
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-0, namespace: shop, labels: {app: reviews}}
spec: {serviceAccountName: reviews, nodeName: n1, containers: [{name: app, image: x, ports: [{containerPort: 9080}]}]}
";

const READY: &str = r#"{"status": {"phase": "Running", "podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}], "conditions": [{"type": "Ready", "status": "True"}]}}"#;

pub(super) fn run_pod(api: &ApiServer) {
    api.apply(SHOP);
    api.kubectl(&["patch", "pod", "reviews-0", "-n", "shop", "--subresource=status", "--type=merge", "-p", READY], "").ok();
}

pub(super) fn get(api: &ApiServer, args: &[&str], path: &str) -> Result<String, String> {
    let path = format!("jsonpath={path}");
    let args: Vec<&str> = ["get"].into_iter().chain(args.iter().copied()).chain(["-o", &path]).collect();
    let found = api.kubectl(&args, "");
    if found.code == 0 { Ok(found.out) } else { Err(found.err) }
}

/// What gives user `mizzen` these rights in the whole cluster.
pub(super) fn role(name: &str, rules: &str) -> String {
    format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules: {rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: mizzen}}]
"
    )
}

pub(super) const ROUTE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec: {hosts: [reviews], http: [{timeout: 3s, route: [{destination: {host: reviews}}]}]}
";

pub(super) fn has(config: &Configz, kind: &str, name: &str) -> bool {
    config.objects.iter().any(|object| object.kind == kind && object.name == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_has_is_in_force() {
    let Some(mut api) = api() else { return };
    run_pod(&api);
    api.apply(ROUTE);
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let services: Vec<ServiceStatus> = world
        .until("/debug/registryz", |services: &Vec<ServiceStatus>| {
            services.iter().filter(|service| service.namespace == "shop" && service.endpoints == 1).count() == 2
        })
        .await;
    let found: Vec<String> = services.iter().filter(|s| s.namespace == "shop").map(|s| format!("{} {:?}", s.host, s.addresses)).collect();
    assert_eq!(found, [r#"elsewhere.shop.svc.cluster.local ["10.96.0.71/32"]"#, r#"reviews.shop.svc.cluster.local ["10.96.0.70/32"]"#]);
    let config: Configz = world.debug("/debug/configz").await;
    assert!(has(&config, "VirtualService", "reviews") && has(&config, "ServiceAccount", "reviews"), "{config:?}");

    // What is wrong is told where it was written, and its last good version stays. No webhook is installed here.
    api.apply(&ROUTE.replace("timeout: 3s", "timeout: 3s, rewrite: {uriRegexRewrite: {match: '(', rewrite: x}}"));
    world.until("/debug/configz", |config: &Configz| config.refused.len() == 1 && config.refused[0].kept).await;
    let condition = |field: &str| {
        let path = format!("{{.status.conditions[?(@.type==\"Reconciled\")].{field}}}");
        get(&api, &["virtualservice", "reviews", "-n", "shop"], &path)
    };
    eventually("a condition", || match condition("status")?.as_str() {
        "False" => Ok(()),
        other => Err(format!("`{other}`")),
    });
    assert!(condition("message").unwrap().contains("spec.http[0].rewrite"), "{:?}", condition("message"));
    eventually("an event", || match get(&api, &["events", "-n", "shop"], "{.items[*].reason}")? {
        reasons if reasons.contains("Invalid") || reasons.contains("NotSupportedYet") => Ok(()),
        reasons => Err(reasons),
    });
    api.apply(ROUTE);
    world.until("/debug/configz", |config: &Configz| config.refused.is_empty()).await;
    eventually("the condition turns", || match condition("status")?.as_str() {
        "True" => Ok(()),
        other => Err(format!("`{other}`")),
    });

    // Without the API server what is known stays, and what happened meanwhile comes when it is back.
    api.outage();
    let config: Configz = world.debug("/debug/configz").await;
    assert!(has(&config, "VirtualService", "reviews"));
    api.back();
    api.kubectl(&["delete", "virtualservice", "reviews", "-n", "shop"], "").ok();
    world.until("/debug/configz", |config: &Configz| !has(config, "VirtualService", "reviews")).await;
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_and_its_root_are_the_clusters() {
    let Some(api) = api() else { return };
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let root = world.root.clone();
    let in_map = |namespace: &str| get(&api, &["configmap", "istio-ca-root-cert", "-n", namespace], "{.data.root-cert\\.pem}");
    let everywhere = |namespaces: &[&str]| {
        for namespace in namespaces {
            eventually("the root", || match in_map(namespace)? {
                found if found == root => Ok(()),
                other => Err(other),
            });
        }
    };
    everywhere(&["istio-system", "shop", "default"]);
    assert!(in_map("kube-system").is_err());
    // It is put back, and follows a new namespace.
    api.kubectl(&["delete", "configmap", "istio-ca-root-cert", "-n", "shop"], "").ok();
    let wrong = r#"{"data": {"root-cert.pem": "other"}}"#;
    api.kubectl(&["patch", "configmap", "istio-ca-root-cert", "-n", "default", "--type=merge", "-p", wrong], "").ok();
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: late}}");
    everywhere(&["shop", "default", "late"]);
    // Another process has the same CA.
    world.running.stop().await;
    let again = World::of_cluster(&api.kubeconfig_file()).await;
    assert_eq!(again.root, root);
    again.running.stop().await;
    // What an administrator provides comes first; what is no CA starts nothing else.
    api.apply("{apiVersion: v1, kind: Secret, metadata: {name: cacerts, namespace: istio-system}, stringData: {ca-key.pem: bad, ca-cert.pem: bad}}");
    let cluster = crate::ClusterOptions { kubeconfig: Some(api.kubeconfig_file()), ..crate::ClusterOptions::default() };
    let folder = tempfile::tempdir().unwrap();
    let options =
        crate::Options { cluster: Some(cluster), xds_port: 0, monitoring_port: 0, socket_dir: folder.path().into(), ..Default::default() };
    let error = crate::start(options).await.unwrap_err().to_string();
    assert!(error.starts_with("Secret istio-system/cacerts: "), "{error}");
}

/// The API server's side of the webhooks, which are here on a port of this host.
fn configurations(port: u16) -> String {
    let hook = |path: &str| {
        json!({"name": format!("{path}.istio.io"), "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/{path}")}})
    };
    let rules = |groups: &[&str], resources: &[&str]| json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": groups, "apiVersions": ["*"], "resources": resources}]);
    let mut validate = hook("validate");
    validate["rules"] = rules(&["security.istio.io", "networking.istio.io"], &["*"]);
    let config = |kind: &str, name: &str, hook: Value| json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [hook]});
    config("ValidatingWebhookConfiguration", "istio-validator-istio-system", validate).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_not_written() {
    let Some(api) = api() else { return };
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    api.apply(&configurations(world.running.webhooks.unwrap().port()));
    let bundle = || get(&api, &["validatingwebhookconfiguration", "istio-validator-istio-system"], "{.webhooks[0].failurePolicy}");
    eventually("the webhooks are on", || match bundle()?.as_str() {
        "Fail" => Ok(()),
        other => Err(other.to_owned()),
    });
    // The API server acts on it a moment later.
    let wrong = ROUTE.replace("timeout: 3s", "timeout: 3s, match: [{headers: {a: {regex: '('}}}]");
    let said = eventually("it is refused", || match api.kubectl(&["apply", "--dry-run=server", "-f", "-"], &wrong) {
        refused if refused.code != 0 => Ok(refused.err),
        _ => Err("it was taken"),
    });
    assert!(said.contains("spec.http[0].match[0].headers.a.regex"), "{said}");
    api.apply(ROUTE);
    let warned = api.kubectl(
        &["apply", "-f", "-"],
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: later, namespace: shop}
spec: {targetRefs: [{kind: Service, group: '', name: reviews}], action: DENY, rules: [{}]}
",
    );
    assert!(warned.code == 0 && warned.err.contains("not supported yet") && warned.err.contains("not in force"), "{warned:?}");
    // It closes what it would have protected, as it has no good version.
    world.until("/debug/configz", |config: &Configz| config.closed.iter().any(|closed| closed.contains("later"))).await;
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing() {
    let Some(api) = api() else { return };
    run_pod(&api);
    api.apply(ROUTE);
    // All that is needed but routes.
    let most = "
- {apiGroups: [''], resources: [namespaces, services, pods, nodes, serviceaccounts, configmaps, secrets, events], verbs: ['*']}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [security.istio.io], resources: ['*'], verbs: [get, list, watch]}
- {apiGroups: [networking.istio.io], resources: [destinationrules, gateways, proxyconfigs, serviceentries, sidecars], verbs: [get, list, watch]}";
    api.apply(&role("most", most));
    let file = api.dir().join("mizzen.kubeconfig");
    std::fs::write(&file, api.kubeconfig_for("mizzen", &[])).unwrap();
    let world = World::of_cluster(&file).await;
    let config: Configz =
        world.until("/debug/configz", |config: &Configz| config.warnings.iter().any(|warning| warning.contains("virtualservices"))).await;
    let told: Vec<&String> = config.warnings.iter().filter(|warning| warning.contains("may not be read")).collect();
    assert!(told.len() == 1 && told[0].contains("istiod-clusterrole-istio-system must allow list and watch"), "{told:?}");
    assert!(has(&config, "Service", "reviews") && !has(&config, "VirtualService", "reviews"), "{config:?}");
    world.running.stop().await;
}

/// Two gateways of the same labels in two namespaces, one beside them, and a Gateway that selects all.
const EDGE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: bank}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: gate, namespace: istio-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: other, namespace: istio-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: gate, namespace: bank}}
---
{apiVersion: v1, kind: Pod, metadata: {name: gate-0, namespace: istio-system, labels: {istio: gate}}, spec: {serviceAccountName: gate, containers: [{name: a, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: other-0, namespace: istio-system, labels: {istio: gate}}, spec: {serviceAccountName: other, containers: [{name: a, image: x}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: gate-0, namespace: bank, labels: {istio: gate}}, spec: {serviceAccountName: gate, containers: [{name: a, image: x}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web, namespace: bank}
spec:
  selector: {istio: gate}
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example], tls: {mode: MUTUAL, credentialName: web}}
  - {port: {number: 443, name: b, protocol: HTTPS}, hosts: [b.example], tls: {mode: SIMPLE, credentialName: istio-ca-secret}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: gate, namespace: istio-system}
rules: [{apiGroups: [''], resources: [secrets], verbs: [serve]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gate, namespace: istio-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gate}
subjects: [{kind: ServiceAccount, name: gate, namespace: istio-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: gate, namespace: bank}
rules: [{apiGroups: [''], resources: [secrets], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: gate, namespace: bank}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: gate}
subjects: [{kind: ServiceAccount, name: gate, namespace: bank}]
";

/// A gateway's stream, on which it asks for these.
async fn gate(api: &ApiServer, world: &World, namespace: &str, account: &str, names: &[&str]) -> Proxy {
    let pod = format!("{account}-0");
    let bound = format!("--bound-object-name={pod}");
    let token = token(api, namespace, account, &["--audience=istio-ca", "--bound-object-kind=Pod", &bound]);
    let key = KeyPair::generate().unwrap();
    let chain = world.csr(None, Some(&token), &key.csr(None).unwrap(), 0).await.unwrap();
    let svid = Svid::from_chain(&chain, &key).unwrap();
    let mut node = node(&format!("router~10.0.0.9~{pod}.{namespace}~{namespace}.svc.cluster.local"), account);
    let text = |text: &str| wkt::Value { kind: Some(wkt::value::Kind::StringValue(text.to_owned())) };
    let labels = wkt::Struct { fields: [("istio".to_owned(), text("gate"))].into() };
    let labels = wkt::Value { kind: Some(wkt::value::Kind::StructValue(labels)) };
    node.metadata.as_mut().unwrap().fields.insert("LABELS".to_owned(), labels);
    let mut proxy = Proxy::connect_as(world, &svid, node).await.unwrap();
    proxy.client.subscribe(SECRET, names.iter().map(|name| mizzen_types::Name::from(*name)));
    proxy
}

/// What a proxy has of a certificate.
fn chain(proxy: &Proxy, name: &str) -> Option<String> {
    let secret = Secret::decode(proxy.get(SECRET, name)?).unwrap();
    match secret.r#type.unwrap() {
        Type::TlsCertificate(made) => match made.certificate_chain.unwrap().specifier.unwrap() {
            mizzen_protos::envoy::envoy::config::core::v3::data_source::Specifier::InlineBytes(bytes) => String::from_utf8(bytes).ok(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn web(namespace: &str, chain: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: web, namespace: {namespace}}}, stringData: {{tls.crt: {chain}, tls.key: k, ca.crt: c}}}}"
    )
}

const WEB: &str = "kubernetes://web";
const WEB_CA: &str = "kubernetes://web-cacert";

#[tokio::test(flavor = "multi_thread")]
async fn secrets_go_to_the_gateways_that_may_have_them() {
    let Some(api) = api() else { return };
    api.apply(EDGE);
    api.apply(&web("istio-system", "one"));
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    world.until("/debug/configz", |config: &Configz| has(config, "Gateway", "web")).await;
    // The mesh's own keys are nobody's certificate, even where they look like one.
    let own = r#"{"stringData": {"tls.crt": "the root", "tls.key": "the root's key"}}"#;
    api.kubectl(&["patch", "secret", "istio-ca-secret", "-n", "istio-system", "--type=merge", "-p", own], "").ok();

    let ca = "kubernetes://istio-ca-secret";
    let mut ours = gate(&api, &world, "istio-system", "gate", &[WEB, WEB_CA, ca, "kubernetes://cacerts", "kubernetes://bank/web"]).await;
    ours.until(|proxy| chain(proxy, WEB).as_deref() == Some("one") && proxy.has(SECRET, WEB_CA) && proxy.lacks(SECRET, ca)).await;
    assert!(ours.lacks(SECRET, "kubernetes://cacerts") && ours.lacks(SECRET, "kubernetes://bank/web"), "what no Gateway names");
    // A tenant has a gateway of the same labels, a Gateway that names the Secret, and all rights in the tenant's own namespace.
    let mut theirs = gate(&api, &world, "bank", "gate", &[WEB, WEB_CA, "kubernetes://istio-system/web"]).await;
    theirs.until(|proxy| proxy.lacks(SECRET, WEB) && proxy.lacks(SECRET, WEB_CA)).await;
    // An account of the right namespace, which may not.
    let mut other = gate(&api, &world, "istio-system", "other", &[WEB]).await;
    other.until(|proxy| proxy.lacks(SECRET, WEB)).await;

    api.apply(&web("bank", "theirs"));
    theirs.until(|proxy| chain(proxy, WEB).as_deref() == Some("theirs")).await;
    api.apply(&web("istio-system", "two"));
    ours.until(|proxy| chain(proxy, WEB).as_deref() == Some("two")).await;
    // A control plane that is new knows nothing, and takes nothing away before it knows better.
    world.running.stop().await;
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let mut ours = gate(&api, &world, "istio-system", "gate", &[WEB]).await;
    ours.until(|proxy| proxy.lacks(SECRET, WEB) || proxy.has(SECRET, WEB)).await;
    assert_eq!(chain(&ours, WEB).as_deref(), Some("two"), "it is not told that there is none");
    api.kubectl(&["delete", "secret", "web", "-n", "istio-system"], "").ok();
    ours.until(|proxy| proxy.lacks(SECRET, WEB)).await;
    let config: Configz = world.debug("/debug/configz").await;
    assert!(
        !serde_json::to_string(&config).unwrap().contains("the root's key"),
        "no Secret but those that are asked for, and none is told"
    );
    world.running.stop().await;
}

/// A Gateway of a tenant names the Secret of another namespace's gateway: it is bound to it only where Gateways select pods of all namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stays_at_home_gets_nobody_elses_secret() {
    let Some(api) = api() else { return };
    api.apply(EDGE);
    ["istio-system", "bank"].iter().for_each(|namespace| api.apply(&web(namespace, namespace)));
    let world = World::of_cluster_with(&api.kubeconfig_file(), |options| options.gateways_stay_home = true).await;
    world.until("/debug/configz", |config: &Configz| has(config, "Gateway", "web")).await;
    let mut theirs = gate(&api, &world, "bank", "gate", &[WEB]).await;
    theirs.until(|proxy| chain(proxy, WEB).as_deref() == Some("bank")).await;
    let mut ours = gate(&api, &world, "istio-system", "gate", &[WEB]).await;
    ours.until(|proxy| proxy.lacks(SECRET, WEB)).await;
    world.running.stop().await;
}

/// `cacerts` with a CA of the tests' own, and these roots.
fn cacerts(ca: &Ca, roots: &[&Ca]) -> String {
    let roots: String = roots.iter().map(|root| root.chain_pem()).collect();
    let data = serde_json::json!({"ca-cert.pem": ca.chain_pem(), "ca-key.pem": ca.key_pem().expose(), "root-cert.pem": roots});
    serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "istio-system"}, "stringData": data})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_without_a_restart() {
    let Some(api) = api() else { return };
    api.apply(EDGE);
    let [old, new] = [(); 2].map(|()| Ca::self_signed(&TrustDomain::default(), UnixTime::now(), CaLimits::default()).unwrap());
    api.apply(&cacerts(&old, &[&old]));
    let mut world = World::of_cluster(&api.kubeconfig_file()).await;
    world.until("/debug/configz", |config: &Configz| has(config, "Gateway", "web")).await;
    let bound = ["--audience=istio-ca", "--bound-object-kind=Pod", "--bound-object-name=gate-0"];
    let token = token(&api, "istio-system", "gate", &bound);
    let request = KeyPair::generate().unwrap().csr(None).unwrap();
    let published = async |wanted: &[&Ca]| {
        let wanted: String = wanted.iter().map(|root| root.chain_pem()).collect();
        let path = ["get", "configmap", "istio-ca-root-cert", "-n", "bank", "-o", "jsonpath={.data.root-cert\\.pem}"];
        tokio::time::timeout(PATIENCE, async {
            while api.kubectl(&path, "").out != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .expect("the roots in a namespace");
    };
    published(&[&old]).await;
    // Nobody believes it, so it is not taken: else what comes next would not be.
    api.apply(&cacerts(&new, &[&new]));
    api.apply(&cacerts(&old, &[&old, &new]));
    published(&[&old, &new]).await;
    let chain = world.csr(None, Some(&token), &request, 0).await.unwrap();
    assert_eq!(chain[1], old.chain_pem());

    api.apply(&cacerts(&new, &[&old, &new]));
    world.root = old.chain_pem() + &new.chain_pem();
    tokio::time::timeout(PATIENCE, async {
        while world.csr(None, Some(&token), &request, 0).await.unwrap()[1] != new.chain_pem() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the new key signs");
    // Its own port shows a certificate of the new one, as soon as that is the only root.
    api.apply(&cacerts(&new, &[&new]));
    published(&[&new]).await;
    world.root = new.chain_pem();
    world.csr(None, Some(&token), &request, 0).await.unwrap();
    world.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_may_not_be_read() {
    let Some(api) = api() else { return };
    api.apply(EDGE);
    api.apply(&web("bank", "theirs"));
    let role_in = |namespace: &str, rules: &str| {
        let of_namespace = format!("metadata: {{namespace: {namespace}, ");
        role("mizzen", rules).replace("ClusterRole", "Role").replace("metadata: {", &of_namespace)
    };
    let most = "
- {apiGroups: [''], resources: [namespaces, services, pods, nodes, serviceaccounts, configmaps, events], verbs: ['*']}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [security.istio.io, networking.istio.io], resources: ['*'], verbs: [get, list, watch, patch]}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}";
    api.apply(&role("mizzen", most));
    api.apply(&role_in("istio-system", "[{apiGroups: [''], resources: [secrets], verbs: ['*']}]"));
    let file = api.dir().join("mizzen.kubeconfig");
    std::fs::write(&file, api.kubeconfig_for("mizzen", &[])).unwrap();
    let world = World::of_cluster(&file).await;
    world.until("/debug/configz", |config: &Configz| has(config, "Gateway", "web")).await;
    let mut theirs = gate(&api, &world, "bank", "gate", &[WEB]).await;
    theirs.flush().await;
    let config: Configz =
        world.until("/debug/configz", |config: &Configz| config.warnings.iter().any(|warning| warning.contains("Secret bank/web"))).await;
    let told: Vec<&String> = config.warnings.iter().filter(|warning| warning.contains("bank/web")).collect();
    let line = "bind ClusterRole istiod-gateway-credentials-istio-system to the control plane's account in namespace bank";
    assert!(told.len() == 1 && told[0].contains(line), "{told:?}");
    // A right to this one by its name is enough.
    let one = "[{apiGroups: [''], resources: [secrets], resourceNames: [web], verbs: [get, list, watch]}]";
    api.apply(&role_in("bank", one));
    theirs.until(|proxy| chain(proxy, WEB).as_deref() == Some("theirs")).await;
    world.until("/debug/configz", |config: &Configz| !config.warnings.iter().any(|warning| warning.contains("bank/web"))).await;
    world.running.stop().await;
}
