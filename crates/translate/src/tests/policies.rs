//! Authorization.

use mizzen_model::{ProxyView, Reader, Snapshot};
use mizzen_protos::envoy::envoy::{
    config::listener::v3::{Listener, filter},
    extensions::filters::{
        http::rbac::v3::Rbac as HttpRbac,
        network::{
            http_connection_manager::v3::{HttpConnectionManager, http_filter},
            rbac::v3::Rbac as TcpRbac,
        },
    },
};

use super::{
    closed, reviews, shop,
    summary::{decode, rule, show},
    visitor,
};
use crate::{ResourceKind, build};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {{name: {name}, namespace: shop}}
spec: {spec}
"
    )
}

/// All rules of the sidecar of reviews, those for requests first.
fn rules(snapshot: &Snapshot, view: &ProxyView) -> String {
    let any = build(&Reader::new(snapshot), view, ResourceKind::Listener, &"virtualInbound".into()).unwrap().any;
    let listener: Listener = decode(&any);
    let mut lines = Vec::new();
    let mut add = |on: &str, rules: mizzen_protos::envoy::envoy::config::rbac::v3::Rbac| {
        let mut policies: Vec<_> = rules.policies.iter().collect();
        policies.sort_by(|a, b| a.0.cmp(b.0));
        lines.push(format!("{on} {}", rules.action().as_str_name()));
        lines.extend(policies.into_iter().map(|(name, policy)| format!("  {name}: {}", rule(policy))));
    };
    // The port of reviews, and the chain for TCP to any other.
    for chain in &listener.filter_chains {
        let port = chain.filter_chain_match.as_ref().and_then(|m| m.destination_port).map(|p| p.value);
        for filter in &chain.filters {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
            if filter.name.ends_with("rbac") && chain.transport_socket.is_some() {
                add("tcp", decode::<TcpRbac>(any).rules.unwrap());
            } else if filter.name.ends_with("manager") && port == Some(8080) && chain.transport_socket.is_some() {
                for filter in decode::<HttpConnectionManager>(any).http_filters.iter().filter(|f| f.name.ends_with("rbac")) {
                    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
                    add("http", decode::<HttpRbac>(any).rules.unwrap());
                }
            }
        }
    }
    lines.join("\n")
}

fn check(policies: &[&str]) -> String {
    rules(&shop(policies), &reviews())
}

#[test]
fn nothing_without_policies() {
    assert_eq!(check(&[]), "");
    assert_eq!(check(&[&policy("others", "{selector: {matchLabels: {app: ratings}}, rules: [{}]}")]), "");
}

#[test]
fn deny_then_allow() {
    let allow = policy(
        "from-storefront",
        "
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/storefront]}}]
    to: [{operation: {methods: [GET], paths: ['/reviews/*']}}]
    when: [{key: 'request.headers[x-tenant]', values: [blue]}]
  - from: [{source: {namespaces: [ops, 'team-*']}}, {source: {ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16]}}]
    to: [{operation: {ports: ['8080']}}]
",
    );
    let deny = policy("no-admin", "{action: DENY, rules: [{to: [{operation: {paths: ['/admin*'], hosts: [Admin.Example.com]}}]}]}");
    insta::assert_snapshot!(check(&[&allow, &deny]));
}

#[test]
fn all_patterns() {
    let allow = policy(
        "patterns",
        "
  rules:
  - from:
    - source: {principals: ['*'], notPrincipals: ['*/sa/evil', 'other.domain/ns/a/*'], notNamespaces: [bad]}
    - source: {serviceAccounts: [storefront, ops/admin]}
    when:
    - {key: source.ip, notValues: [10.9.9.9]}
    - {key: destination.port, values: ['8080']}
    - {key: destination.ip, values: [10.0.0.11]}
    - {key: source.namespace, values: [shop]}
",
    );
    insta::assert_snapshot!(check(&[&allow]));
}

#[test]
fn namespaces_are_no_expressions() {
    let lines = check(&[&policy("odd", r"{rules: [{from: [{source: {namespaces: ['a.b<é\d', 'x+y*']}}]}]}")]);
    assert!(lines.contains(r".*/ns/a\.b<é\\d/.*") && lines.contains(r".*/ns/x\+y[^/]*/.*"), "{lines}");
}

#[test]
fn empty_forms() {
    assert_eq!(check(&[&policy("nobody", "{}")]), "tcp ALLOW\nhttp ALLOW");
    assert_eq!(check(&[&policy("never", "{action: DENY}")]), "");
    insta::assert_snapshot!(check(&[&policy("everybody", "{rules: [{}]}")]));
}

#[test]
fn refused_policies_close() {
    let good = policy("everybody", "{rules: [{}]}");
    let snapshot = shop(&[&good]).apply([closed("shop", "broken")]);
    insta::assert_snapshot!(rules(&snapshot, &reviews()));
    let elsewhere = shop(&[]).apply([closed("other", "broken")]);
    assert_eq!(rules(&elsewhere, &reviews()), "");
    let mended = snapshot.apply(super::parse(&policy("broken", "{action: DENY}")));
    assert!(!rules(&mended, &reviews()).contains("closed"));
}

#[test]
fn the_root_namespace_rules_all() {
    let root = "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: all, namespace: istio-system}
spec: {}
";
    assert_eq!(check(&[root]), "tcp ALLOW\nhttp ALLOW");
    assert!(show(&shop(&[root]), &visitor(), ResourceKind::Listener, "virtualInbound").contains("ALLOW()"));
}

#[test]
fn trust_domains() {
    let mesh = "
kind: ConfigMap
apiVersion: v1
metadata: {name: istio, namespace: istio-system}
data: {mesh: '{trustDomain: new.example, trustDomainAliases: [old.example]}'}
";
    let allow = policy("who", "{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b, foreign/ns/a/sa/b]}}]}]}");
    insta::assert_snapshot!(check(&[mesh, &allow]));
}
