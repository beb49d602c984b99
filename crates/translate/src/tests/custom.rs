//! CUSTOM policies: who is asked about what, and what is refused where nobody can be asked.

use mizzen_model::{ProxyType, ProxyView, Reader, Snapshot};
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            listener::v3::{Filter, Listener, filter},
            rbac::v3::Rbac,
        },
        extensions::filters::{
            http::{ext_authz::v3::ExtAuthz, rbac::v3::Rbac as HttpRbac},
            network::{
                ext_authz::v3::ExtAuthz as TcpExtAuthz,
                http_connection_manager::v3::{HttpConnectionManager, HttpFilter, http_filter},
                rbac::v3::Rbac as TcpRbac,
            },
        },
    },
    json::{Names, to_value},
};

use super::{
    facts, names, reviews, shop,
    summary::{decode, rule, show},
    visitor,
};
use crate::{ResourceKind, build};

/// Services that can be asked: one of the mesh, one beyond it that only its own namespace sees, a headless one, and a local program.
const SERVICES: &str = "
kind: Service
apiVersion: v1
metadata: {name: authz, namespace: auth}
spec: {clusterIP: 10.96.0.50, selector: {app: authz}, ports: [{name: http, port: 8000}, {name: grpc, port: 9000}]}
---
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: outer, namespace: auth}
spec: {hosts: [authz.example], exportTo: [.], resolution: STATIC, endpoints: [{address: 192.0.2.1}], ports: [{number: 80, name: http, protocol: HTTP}]}
---
kind: Service
apiVersion: v1
metadata: {name: many, namespace: auth}
spec: {clusterIP: None, selector: {app: many}, ports: [{name: http, port: 8000}]}
";

fn mesh(providers: &str) -> String {
    let config = format!("extensionProviders: [{providers}]");
    format!("{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{config}'}}}}")
}

fn providers() -> String {
    mesh(
        "{name: http, envoyExtAuthzHttp: {service: authz.auth.svc.cluster.local, port: 8000}}, \
         {name: grpc, envoyExtAuthzGrpc: {service: auth/authz.auth.svc.cluster.local, port: 9000}}, \
         {name: hidden, envoyExtAuthzHttp: {service: authz.example, port: 80}}, \
         {name: many, envoyExtAuthzHttp: {service: many.auth.svc.cluster.local, port: 8000}}, \
         {name: port, envoyExtAuthzHttp: {service: many.auth.svc.cluster.local, port: 8001}}",
    )
}

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "{{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}"
    )
}

fn custom(provider: &str, rule: &str) -> String {
    policy(
        "ask",
        "shop",
        &format!("selector: {{matchLabels: {{app: reviews}}}}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{rule}]"),
    )
}

/// What asks and decides in the chains of reviews: those for requests first. Those of a shadow are in brackets.
struct Deciding {
    http: Vec<HttpFilter>,
    tcp: Vec<Filter>,
}

fn deciding(snapshot: &Snapshot, view: &ProxyView, listener: &str, port: u32) -> Deciding {
    let any = build(&Reader::new(snapshot), view, ResourceKind::Listener, &listener.into()).unwrap().any;
    let mut found = Deciding { http: Vec::new(), tcp: Vec::new() };
    for chain in decode::<Listener>(&any).filter_chains {
        let at = chain.filter_chain_match.as_ref().and_then(|m| m.destination_port).map(|p| p.value);
        for filter in chain.filters {
            let tells = filter.name.ends_with("rbac") || filter.name.ends_with("authz");
            if tells && found.tcp.iter().all(|known| known.name != filter.name) {
                found.tcp.push(filter.clone());
            } else if filter.name.ends_with("manager") && at.is_none_or(|at| at == port) {
                let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
                found.http = decode::<HttpConnectionManager>(any).http_filters;
                found.http.retain(|f| f.name.ends_with("rbac") || f.name.ends_with("authz"));
            }
        }
    }
    found
}

fn config(filter: &HttpFilter) -> &Any {
    let Some(http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("{} has no configuration", filter.name) };
    any
}

fn rules(rules: Option<Rbac>) -> String {
    let Some(rules) = rules else { return "nothing".to_owned() };
    let mut all: Vec<_> = rules.policies.iter().map(|(name, policy)| format!("{name}: {}", rule(policy))).collect();
    all.sort();
    format!("{} {}", rules.action().as_str_name(), all.join(", "))
}

fn summary(deciding: &Deciding) -> String {
    let http = deciding.http.iter().map(|filter| {
        if filter.name.ends_with("authz") {
            return format!("http asks {}", decode::<ExtAuthz>(config(filter)).failure_mode_allow);
        }
        let rbac: HttpRbac = decode(config(filter));
        match rbac.shadow_rules {
            Some(shadow) => format!("http [{} {}]", rbac.shadow_rules_stat_prefix, rules(Some(shadow))),
            None => format!("http {}", rules(rbac.rules)),
        }
    });
    let tcp = deciding.tcp.iter().map(|filter| {
        let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no configuration") };
        if filter.name.ends_with("authz") {
            let asks: TcpExtAuthz = decode(any);
            return format!("tcp asks {} about {}", asks.failure_mode_allow, asks.filter_enabled_metadata.unwrap().filter);
        }
        let rbac: TcpRbac = decode(any);
        match rbac.shadow_rules {
            Some(shadow) => format!("tcp [{} {}]", rbac.shadow_rules_stat_prefix, rules(Some(shadow))),
            None => format!("tcp {}", rules(rbac.rules)),
        }
    });
    http.chain(tcp).collect::<Vec<_>>().join("\n")
}

fn of_reviews(texts: &[&str]) -> String {
    let snapshot = shop(&[&[SERVICES], texts].concat());
    summary(&deciding(&snapshot, &reviews(), "virtualInbound", 8080))
}

#[test]
fn the_shadow_says_about_what_is_asked() {
    let ask = custom("http", "{to: [{operation: {paths: ['/admin*']}}]}, {from: [{source: {namespaces: [visit]}}]}");
    let deny = policy("deny", "shop", "action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]");
    let allow = policy("allow", "shop", "rules: [{}]");
    insta::assert_snapshot!(of_reviews(&[&providers(), &allow, &deny, &ask]));
}

#[test]
fn over_grpc_is_asked_about_connections_too() {
    let rules = "{to: [{operation: {paths: ['/admin*'], ports: ['8080']}}]}, {from: [{source: {namespaces: [visit]}}]}";
    insta::assert_snapshot!(of_reviews(&[&providers(), &custom("grpc", rules)]));
}

/// What the rules match is refused, and nobody is asked.
#[test]
fn who_cannot_be_asked_closes() {
    let check = |texts: &[&str], closed: bool| {
        let found = of_reviews(texts);
        let names = found.matches("-deny-due-to-bad-CUSTOM-action: to all(any) from all(any)").count();
        assert_eq!(names > 0 && !found.contains("asks"), closed, "{texts:#?}: {found}");
        assert_eq!(
            found.lines().filter(|line| line.contains("bad-CUSTOM")).count(),
            if closed { 2 } else { 0 },
            "for requests and for connections"
        );
    };
    let with = |provider: &str, closed: bool| check(&[&providers(), &custom(provider, "{}")], closed);
    ["http", "grpc", "hidden", "many"].into_iter().for_each(|provider| with(provider, false));
    ["port", "absent"].into_iter().for_each(|provider| with(provider, true));
    check(&[&custom("http", "{}")], true);
    // A second provider of the same workload, and of another one.
    let second = |app: &str| {
        let spec = format!("selector: {{matchLabels: {{app: {app}}}}}, action: CUSTOM, provider: {{name: grpc}}, rules: [{{}}]");
        policy("second", "shop", &spec)
    };
    check(&[&providers(), &custom("http", "{}"), &second("reviews")], true);
    check(&[&providers(), &custom("http", "{}"), &second("ratings")], false);
    let same = custom("http", "{}").replace("name: ask", "name: same");
    check(&[&providers(), &custom("http", "{}"), &same], false);
    let everywhere = policy("root", "istio-system", "action: CUSTOM, provider: {name: grpc}, rules: [{}]");
    check(&[&providers(), &everywhere], false);
    check(&[&providers(), &everywhere, &custom("http", "{}")], true);
    // Who may declare hosts here does not become the provider.
    let mine = "{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: mine, namespace: shop}, spec: {hosts: [authz.example], \
        resolution: STATIC, endpoints: [{address: 192.0.2.66}], ports: [{number: 80, name: http, protocol: HTTP}]}}";
    let providers = mesh("{name: hidden, envoyExtAuthzHttp: {service: auth/authz.example, port: 80}}");
    check(&[&providers, &custom("hidden", "{}")], false);
    check(&[mine, &providers, &custom("hidden", "{}")], true);
    // Nothing was dialled to which a question could go.
    let dialled = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: authz, namespace: auth}, \
        spec: {host: authz.example, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}}";
    check(&[dialled, &providers, &custom("hidden", "{}")], true);
}

#[test]
fn clusters_of_providers_are_there() {
    let check = |provider: &str, view: &ProxyView, cluster: &str, eds: bool| {
        let ask = policy("ask", "istio-system", &format!("action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]"));
        let snapshot = shop(&[SERVICES, &providers(), &ask]);
        let count = |kind| names(&snapshot, view, kind).into_iter().filter(|name| name == cluster).count();
        assert_eq!((count(ResourceKind::Cluster), count(ResourceKind::Endpoints)), (1, usize::from(eds)), "{provider}: {cluster}");
        show(&snapshot, view, ResourceKind::Cluster, cluster)
    };
    let gateway: ProxyView = facts(ProxyType::Router, "10.0.0.90", "gate", &[("app", "gate")]).into();
    for view in [reviews(), visitor(), gateway.clone()] {
        check("http", &view, "outbound|8000||authz.auth.svc.cluster.local", true);
        check("grpc", &view, "outbound|9000||authz.auth.svc.cluster.local", true);
        let hidden = check("hidden", &view, "outbound|80||authz.example", true);
        assert!(hidden.starts_with("outbound|80||authz.example EDS"), "{hidden}");
    }
    check("many", &reviews(), "outbound|8000|*|many.auth.svc.cluster.local", true);
    check("many", &gateway, "outbound|8000||many.auth.svc.cluster.local", true);
    // Nobody else has those that are hidden.
    let snapshot = shop(&[SERVICES, &providers(), &custom("hidden", "{}")]);
    let has = |view: &ProxyView| names(&snapshot, view, ResourceKind::Cluster).contains(&"outbound|80||authz.example".to_owned());
    assert!(has(&reviews()) && !has(&visitor()));
}

#[test]
fn a_gateway_asks_too() {
    let gateway = "{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: g, namespace: gate}, spec: {selector: {app: gate}, \
        servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}";
    let ask = policy("ask", "gate", "action: CUSTOM, provider: {name: http}, rules: [{}]");
    let snapshot = shop(&[SERVICES, &providers(), gateway, &ask]);
    let view: ProxyView = facts(ProxyType::Router, "10.0.0.90", "gate", &[("app", "gate")]).into();
    insta::assert_snapshot!(summary(&deciding(&snapshot, &view, "0.0.0.0_80", 80)));
}

#[test]
fn what_no_rule_matches_stays_open() {
    let rules = "{to: [{operation: {paths: ['/admin*'], ports: ['8080']}}]}, {from: [{source: {namespaces: [visit]}}]}";
    insta::assert_snapshot!(of_reviews(&[&providers(), &custom("absent", rules)]));
}

/// The filter of a provider, whole.
fn asks(provider: &str) -> String {
    let snapshot = shop(&[SERVICES, &mesh(&format!("{{name: p, {provider}}}")), &custom("p", "{}")]);
    let found = deciding(&snapshot, &reviews(), "virtualInbound", 8080);
    let [_, filter] = &found.http[..] else { panic!("{} filters", found.http.len()) };
    format!("{:#}", to_value(config(filter), Names::Proto).unwrap())
}

#[test]
fn all_of_a_provider() {
    let least = "envoyExtAuthzHttp: {service: authz.auth.svc.cluster.local, port: 8000}";
    let http = "envoyExtAuthzHttp: {service: auth/authz.auth.svc.cluster.local, port: 8000, timeout: 0.5s, pathPrefix: /check, failOpen: true, \
        clearRouteCache: true, statusOnError: \"503\", includeRequestHeadersInCheck: [X-Token, x-b3-*, \"*-id\"], \
        includeAdditionalHeadersInCheck: {x-mesh: mizzen, x-a: b}, \
        includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}, headersToUpstreamOnAllow: [x-user], \
        headersToDownstreamOnAllow: [x-limit], headersToDownstreamOnDeny: [x-why]}";
    let grpc = "envoyExtAuthzGrpc: {service: auth/authz.auth.svc.cluster.local, port: 9000, timeout: 2s, failOpen: true, clearRouteCache: true, \
        statusOnError: \"429\", includeRequestBodyInCheck: {maxRequestBytes: 1024}}";
    insta::assert_snapshot!([least, http, grpc].map(asks).join("\n\n"));
}
