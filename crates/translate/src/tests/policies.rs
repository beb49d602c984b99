//! Authorization.

use mizzen_model::{ProxyView, Reader, Snapshot};
use mizzen_protos::envoy::envoy::{
    config::{
        listener::v3::{Listener, filter},
        rbac::v3::Rbac,
    },
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
    let mut lines = Vec::new();
    each(snapshot, view, |on, what, _, rules| {
        let mut policies: Vec<_> = rules.policies.iter().collect();
        policies.sort_by(|a, b| a.0.cmp(b.0));
        lines.push(format!("{on} {what}{}", rules.action().as_str_name()));
        lines.extend(policies.into_iter().map(|(name, policy)| format!("  {name}: {}", rule(policy))));
    });
    lines.join("\n")
}

/// All sets of rules of a sidecar: on what they are, `` or `dry `, the prefix of what a dry run leaves, and they themselves.
fn each(snapshot: &Snapshot, view: &ProxyView, mut add: impl FnMut(&str, &str, &str, Rbac)) {
    let any = build(&Reader::new(snapshot), view, ResourceKind::Listener, &"virtualInbound".into()).unwrap().any;
    let listener: Listener = decode(&any);
    let mut both = |on: &str, rules: Option<Rbac>, shadow: Option<Rbac>, prefix: &str| {
        rules.into_iter().for_each(|rules| add(on, "", prefix, rules));
        shadow.into_iter().for_each(|rules| add(on, "dry ", prefix, rules));
    };
    // The port of reviews, and the chain for TCP to any other.
    for chain in &listener.filter_chains {
        let port = chain.filter_chain_match.as_ref().and_then(|m| m.destination_port).map(|p| p.value);
        for filter in &chain.filters {
            let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
            if filter.name.ends_with("rbac") && chain.transport_socket.is_some() {
                let TcpRbac { rules, shadow_rules, shadow_rules_stat_prefix, .. } = decode(any);
                both("tcp", rules, shadow_rules, &shadow_rules_stat_prefix);
            } else if filter.name.ends_with("manager") && port == Some(8080) && chain.transport_socket.is_some() {
                for filter in decode::<HttpConnectionManager>(any).http_filters.iter().filter(|f| f.name.ends_with("rbac")) {
                    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
                    let HttpRbac { rules, shadow_rules, shadow_rules_stat_prefix, .. } = decode(any);
                    both("http", rules, shadow_rules, &shadow_rules_stat_prefix);
                }
            }
        }
    }
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

#[test]
fn all_of_a_request() {
    let allow = policy(
        "request",
        "
  rules:
  - from:
    - source: {requestPrincipals: ['*', iss/sub], notRequestPrincipals: ['iss/b*']}
    - source: {remoteIpBlocks: [203.0.113.0/24], notRemoteIpBlocks: [203.0.113.9], trustDomains: [cluster.local, 'a*'], notTrustDomains: ['*.b', '*']}
    to: [{operation: {paths: ['/a/{*}/{**}', /b], notPaths: ['/a/{*}']}}]
    when:
    - {key: remote.ip, values: [198.51.100.0/24]}
    - {key: connection.sni, values: ['*.example.com'], notValues: [a.example.com]}
    - {key: source.trustDomain, notValues: [evil]}
    - {key: request.auth.principal, values: ['iss/*']}
    - {key: request.auth.audiences, values: [a, b*]}
    - {key: request.auth.presenter, notValues: [x]}
    - {key: 'request.auth.claims[realm][roles]', values: [admin]}
    - {key: 'experimental.envoy.filters.network.mysql_proxy[db.t]', values: ['[update]', read]}
",
    );
    insta::assert_snapshot!(check(&[&allow]));
    // On TCP an ALLOW rule that asks for a token never matches; a DENY rule matches without it.
    let rule = "{from: [{source: {requestPrincipals: ['*'], namespaces: [a]}}]}";
    let allowed = check(&[&policy("p", &format!("{{rules: [{rule}]}}"))]);
    assert!(allowed.starts_with("tcp ALLOW\nhttp ALLOW\n  ns[shop]-policy[p]-rule[0]"), "{allowed}");
    let denied = check(&[&policy("p", &format!("{{action: DENY, rules: [{rule}]}}"))]);
    assert!(denied.starts_with("tcp DENY\n  ns[shop]-policy[p]-rule[0]: to all(any) from all(one(~.*/ns/a/.*~))\nhttp DENY"), "{denied}");
}

#[test]
fn aliases_of_the_trust_domain() {
    let mesh = "{kind: ConfigMap, apiVersion: v1, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{trustDomain: new.example, trustDomainAliases: [old.example]}'}}";
    let of = |domain: &str| {
        let text = check(&[mesh, &policy("p", &format!("{{rules: [{{from: [{{source: {{trustDomains: [{domain}]}}}}]}}]}}"))]);
        text.lines().last().unwrap().split_once(" from ").unwrap().1.to_owned()
    };
    let both = "all(one(spiffe://new.example/*; spiffe://old.example/*))";
    assert_eq!(["new.example", "old.example", "cluster.local"].map(of), [both, both, "all(one(spiffe://cluster.local/*))"]);
}

#[test]
fn dry_runs_and_audit() {
    let dry = |name: &str, value: &str, spec: &str| {
        policy(name, spec).replace("namespace: shop", &format!("namespace: shop, annotations: {{istio.io/dry-run: '{value}'}}"))
    };
    let (deny, allow) =
        ("{action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]}", "{rules: [{to: [{operation: {ports: ['8080']}}]}]}");
    let found = |texts: &[&str]| {
        let mut found = Vec::new();
        each(&shop(texts), &reviews(), |on, dry, prefix, rules| {
            let mut names: Vec<&str> = rules.policies.keys().map(String::as_str).collect();
            names.sort_unstable();
            found.push(format!("{on} {dry}{} {prefix} {}", rules.action().as_str_name(), names.join(" ")));
        });
        found.sort();
        found
    };
    let rule = |name: &str| format!("ns[shop]-policy[{name}]-rule[0]");
    let both = |what: &str, name: &str| ["http", "tcp"].map(|on| format!("{on} {what} {}", rule(name))).to_vec();
    assert_eq!(found(&[&dry("p", "true", deny)]), both("dry DENY istio_dry_run_deny_", "p"));
    assert_eq!(found(&[&dry("p", "1", allow)]), both("dry ALLOW istio_dry_run_allow_", "p"));
    assert_eq!(found(&[&dry("p", "false", deny)]), both("DENY istio_dry_run_allow_", "p"));
    // A dry run of nothing that is allowed denies nobody.
    assert_eq!(found(&[&dry("p", "true", "{}")]), ["http dry ALLOW istio_dry_run_allow_ ", "tcp dry ALLOW istio_dry_run_allow_ "]);
    let mixed = found(&[&dry("p", "true", deny), &policy("q", deny), &policy("r", allow)]);
    let mut expected =
        [both("ALLOW istio_dry_run_allow_", "r"), both("DENY istio_dry_run_deny_", "q"), both("dry DENY istio_dry_run_deny_", "p")]
            .concat();
    expected.sort();
    assert_eq!(mixed, expected);
    assert_eq!(found(&[&policy("p", "{action: AUDIT, rules: [{}]}")]), both("LOG istio_dry_run_allow_", "p"));
}

#[test]
fn policies_for_a_gateway() {
    let gateway = "{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: g, namespace: gate}, spec: {selector: {app: gate}, \
        servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}";
    let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]";
    let in_gate = |name: &str| policy("p", &format!("{{{target}}}")).replace("namespace: shop", &format!("namespace: {name}"));
    let check = |labels: &[(&str, &str)], namespace: &str, denies: bool| {
        let snapshot = shop(&[gateway, &in_gate(namespace)]);
        let view: ProxyView = super::facts(mizzen_model::ProxyType::Router, "10.0.0.90", "gate", labels).into();
        let listener = show(&snapshot, &view, ResourceKind::Listener, "0.0.0.0_80");
        assert_eq!(listener.contains("ALLOW()"), denies, "{listener}");
    };
    let named = ("gateway.networking.k8s.io/gateway-name", "front");
    check(&[("app", "gate"), named], "gate", true);
    check(&[("app", "gate"), named], "shop", false);
    check(&[("app", "gate"), named], "istio-system", false);
    check(&[("app", "gate")], "gate", false);
    check(&[("app", "gate"), (named.0, "back")], "gate", false);
    // A sidecar is no Gateway's proxy.
    assert_eq!(self::check(&[&in_gate("shop")]), "");
}
