//! YAML in, answers out: a mesh of sidecars and a gateway in memory. Each row is one request and what becomes of it.

use std::time::Duration;

use mizzen_testkit::memory::{Answer, Call, MemoryMesh, load, load_folder, proxy_of, resources};

/// reviews in two versions (HTTP), ratings, two callers, one program without a sidecar, and a gateway.
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
metadata: {name: legacy, namespace: shop}
spec: {clusterIP: 10.96.0.13, selector: {app: legacy}, ports: [{name: http, port: 9080, targetPort: 8080}]}
---
kind: Service
apiVersion: v1
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.14, selector: {app: nobody}, ports: [{name: http, port: 9080}]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: door, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com']}]
";

const MESH: &str = "accessLogFile: /dev/stdout, accessLogEncoding: JSON";

fn mesh_config(more: &str) -> String {
    format!("{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{{MESH}{more}}}'}}}}")
}

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
        pod("shop", "web", &mesh("app: web"), "web", "10.0.0.21"),
        pod("visit", "guest", &mesh("app: guest"), "guest", "10.0.0.22"),
        pod("shop", "legacy", "app: legacy", "legacy", "10.0.0.30"),
        pod("istio-system", "door", "istio: ingressgateway", "door", "10.0.0.98"),
    ]
    .join("---")
}

/// The shop with more objects, and MeshConfig with more members.
fn shop_with(mesh: &str, objects: &[&str]) -> MemoryMesh {
    let (config, pods) = (mesh_config(mesh), pods());
    let mut files = vec![("shop.yaml", SHOP), ("mesh.yaml", &*config), ("pods.yaml", &*pods)];
    files.extend(objects.iter().map(|text| ("more.yaml", *text)));
    let mut mesh = MemoryMesh::start(7, &files);
    mesh.serve("198.51.100.7:80", "elsewhere");
    mesh
}

fn shop(objects: &[&str]) -> MemoryMesh {
    let mesh = shop_with("", objects);
    assert!(mesh.problems.is_empty(), "{:#?}", mesh.problems);
    mesh
}

/// `POD METHOD URL [name=value …]`.
fn call(mesh: &mut MemoryMesh, text: &str) -> Answer {
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (from, method, url) = (next(), next(), next());
    let headers: Vec<(&str, &str)> = words.map(|word| word.split_once('=').expect("name=value")).collect();
    mesh.call(&Call { from, method, url, headers: &headers })
}

/// Each call with its summary. `{}` in a summary is any pod of reviews.
fn check(mesh: &mut MemoryMesh, rows: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for split in [0, 3] {
        mesh.sim.split = split;
        for (text, expected) in rows {
            let answer = call(mesh, text);
            let summary = answer.summary();
            if !["v1", "v2"].iter().any(|pod| summary == expected.replace("{}", pod)) {
                let lines: Vec<String> = answer.lines.iter().map(ToString::to_string).collect();
                wrong.push(format!("{text}, split at {split}\n  got      {summary}\n  expected {expected}\n  {}", lines.join("\n  ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    let group = if kind.ends_with("Policy") || kind == "PeerAuthentication" { "security" } else { "networking" };
    format!("{{kind: {kind}, apiVersion: {group}.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}")
}

const SUBSETS: &str =
    "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]}";

#[test]
fn plain() {
    check(
        &mut shop(&[]),
        &[
            ("shop/web GET http://reviews:9080/a?b=c", "200 {} GET /a?b=c as web"),
            ("shop/web POST http://reviews.shop.svc.cluster.local:9080", "200 {} POST / as web"),
            ("visit/guest GET http://ratings.shop:9080/", "200 ratings GET / as guest"),
            ("shop/v1 GET http://10.96.0.12:9080/", "200 ratings GET / as reviews"),
            ("shop/web GET http://legacy:9080/", "200 legacy GET /"),
            ("shop/web GET http://empty:9080/", "503 no_healthy_upstream"),
            ("shop/web GET http://198.51.100.7/x", "200 elsewhere GET /x"),
            ("shop/web GET http://198.51.100.8/x", "0 upstream_connection_failure"),
        ],
    );
}

#[test]
fn routes() {
    let rules = object(
        "VirtualService",
        "reviews",
        "{hosts: [reviews], http: [
          {name: first, match: [{uri: {exact: /v2}}], route: [{destination: {host: reviews, subset: v2}}]},
          {name: user, match: [{headers: {end-user: {exact: jason}}, uri: {prefix: /}}], route: [{destination: {host: reviews, subset: v2}}]},
          {name: either, match: [{method: {exact: PUT}}, {queryParams: {to: {exact: v2}}}], route: [{destination: {host: reviews, subset: v2}}]},
          {name: rewrite, match: [{uri: {prefix: /old/}}], rewrite: {uri: /new/, authority: inner}, route: [{destination: {host: reviews, subset: v1}}]},
          {name: regex, match: [{uri: {regex: '/item/[0-9]+'}}], rewrite: {uriRegexRewrite: {match: '/item/([0-9]+)', rewrite: '/x/\\1'}}, route: [{destination: {host: reviews, subset: v1}}]},
          {name: moved, match: [{uri: {prefix: /moved}}], redirect: {uri: /here, authority: other.example, redirectCode: 307}},
          {name: teapot, match: [{uri: {prefix: /teapot}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]},
          {name: answer, match: [{uri: {prefix: /direct}}], directResponse: {status: 203, body: {string: hi}}},
          {name: elsewhere, match: [{uri: {prefix: /ratings}}], route: [{destination: {host: ratings}}]},
          {name: none, match: [{uri: {prefix: /v3}}], route: [{destination: {host: reviews, subset: v3}}]},
          {name: ours, match: [{sourceLabels: {app: guest}}], route: [{destination: {host: reviews, subset: v2}}]},
          {name: rest, headers: {request: {add: {x-added: yes!}, remove: [x-secret]}}, route: [{destination: {host: reviews, subset: v1}}]}]}",
    );
    let subsets = object("DestinationRule", "reviews", SUBSETS);
    let mut mesh = shop(&[&rules, &subsets]);
    check(
        &mut mesh,
        &[
            ("shop/web GET http://reviews:9080/v2", "200 v2 GET /v2 as web"),
            ("shop/web GET http://reviews:9080/v2/", "200 v1 GET /v2/ as web"),
            ("shop/web GET http://reviews:9080/ end-user=jason", "200 v2 GET / as web"),
            ("shop/web GET http://reviews:9080/ end-user=json", "200 v1 GET / as web"),
            ("shop/web PUT http://reviews:9080/", "200 v2 PUT / as web"),
            ("shop/web GET http://reviews:9080/?to=v2", "200 v2 GET /?to=v2 as web"),
            ("shop/web GET http://reviews:9080/old/a?b", "200 v1 GET /new/a?b as web"),
            ("shop/web GET http://reviews:9080/item/17", "200 v1 GET /x/17 as web"),
            ("shop/web GET http://reviews:9080/moved/a", "307 http://other.example/here"),
            ("shop/web GET http://reviews:9080/teapot", "418 fault_filter_abort"),
            ("shop/web GET http://reviews:9080/direct", "203 direct_response"),
            ("shop/web GET http://reviews:9080/ratings", "200 ratings GET /ratings as web"),
            ("shop/web GET http://reviews:9080/v3", "503 no_healthy_upstream"),
            ("visit/guest GET http://reviews.shop:9080/", "200 v2 GET / as guest"),
        ],
    );
    let answer = call(&mut mesh, "shop/web GET http://reviews:9080/ x-secret=1");
    assert_eq!((answer.saw("x-added"), answer.saw("x-secret"), answer.line("route_name")), (Some("yes!"), None, Some("default")));
    let own: Vec<_> = answer.lines.iter().map(|line| line["route_name"].as_str().unwrap_or_default()).collect();
    assert_eq!(own, ["default", "rest"], "the server's proxy, then the client's");
    assert_eq!(call(&mut mesh, "shop/web GET http://reviews:9080/old/a").saw(":authority"), Some("inner"));
}

#[test]
fn weights() {
    let rules = object(
        "VirtualService",
        "reviews",
        "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}, weight: 80}, {destination: {host: reviews, subset: v2}, weight: 20}]}]}",
    );
    let mut mesh = shop(&[&rules, &object("DestinationRule", "reviews", SUBSETS)]);
    let answers: Vec<_> = (0..200).map(|_| call(&mut mesh, "shop/web GET http://reviews:9080/")).collect();
    let of = |pod| answers.iter().filter(|answer| answer.served_by() == Some(pod)).count();
    assert_eq!(of("v1") + of("v2"), 200);
    assert!((20..=60).contains(&of("v2")), "{} of 200 went to v2", of("v2"));
}

#[test]
fn times() {
    let rules = object(
        "VirtualService",
        "reviews",
        "{hosts: [reviews], http: [
          {match: [{uri: {prefix: /slow}}], fault: {delay: {fixedDelay: 5s, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]},
          {match: [{uri: {prefix: /late}}], timeout: 2s, route: [{destination: {host: silent.example}}]},
          {route: [{destination: {host: reviews}}]}]}",
    );
    let silent = object(
        "ServiceEntry",
        "silent",
        "{hosts: [silent.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 198.51.100.9}]}",
    );
    let mut mesh = shop(&[&rules, &silent]);
    mesh.sim.silent.insert("198.51.100.9:80".parse().unwrap());
    for (path, summary, tenths) in [("/slow", "200", 50), ("/late", "504", 20), ("/", "200", 0)] {
        let answer = call(&mut mesh, &format!("shop/web GET http://reviews:9080{path}"));
        assert_eq!(answer.status().to_string(), summary, "{path} {answer:#?}");
        let took = answer.took.as_millis() / 100;
        assert!((tenths..=tenths + 1).contains(&took), "{path} took {:?}", answer.took);
    }
}

#[test]
fn mutual_tls() {
    let plain = "outside GET http://10.0.0.13:8080/ host=ratings:9080";
    let within = "shop/web GET http://ratings:9080/";
    let (open, mutual) = ("200 ratings GET /", "200 ratings GET / as web");
    let disable = object("DestinationRule", "ratings", "{host: ratings, trafficPolicy: {tls: {mode: DISABLE}}}");
    for (mode, rule, from_outside, from_inside) in [
        ("STRICT", None, "0 filter_chain_not_found", mutual),
        ("PERMISSIVE", None, open, mutual),
        ("DISABLE", None, open, open),
        ("STRICT", Some(&disable), "0 filter_chain_not_found", "503 filter_chain_not_found"),
        ("PERMISSIVE", Some(&disable), open, open),
    ] {
        let authentication = object("PeerAuthentication", "default", &format!("{{mtls: {{mode: {mode}}}}}"));
        let objects: Vec<&str> = [&*authentication].into_iter().chain(rule.map(|rule| &**rule)).collect();
        check(&mut shop(&objects), &[(plain, from_outside), (within, from_inside)]);
    }
}

#[test]
fn policies() {
    let identity = |account: &str| format!("cluster.local/ns/{account}");
    let denied = "403 rbac_access_denied_matched_policy";
    let deny = object(
        "AuthorizationPolicy",
        "deny",
        "{selector: {matchLabels: {app: ratings}}, action: DENY, rules: [
        {from: [{source: {principals: [cluster.local/ns/visit/sa/guest]}}], to: [{operation: {paths: [/admin*]}}]},
        {to: [{operation: {methods: [DELETE]}}]}, {when: [{key: 'request.headers[x-bad]', values: [yes!]}]}]}",
    );
    let deny_rule = |rule: usize| format!("{denied}[ns[shop]-policy[deny]-rule[{rule}]]");
    check(
        &mut shop(&[&deny]),
        &[
            ("visit/guest GET http://ratings.shop:9080/admin/x", &deny_rule(0)),
            ("visit/guest GET http://ratings.shop:9080/a/../admin", &deny_rule(0)),
            ("visit/guest GET http://ratings.shop:9080/adm", "200 ratings GET /adm as guest"),
            ("shop/web GET http://ratings:9080/admin", "200 ratings GET /admin as web"),
            ("shop/web DELETE http://ratings:9080/", &deny_rule(1)),
            ("shop/web GET http://ratings:9080/ x-bad=yes!", &deny_rule(2)),
            ("shop/web DELETE http://reviews:9080/", "200 {} DELETE / as web"),
        ],
    );
    let allow = object(
        "AuthorizationPolicy",
        "allow",
        &format!(
            "{{rules: [{{from: [{{source: {{principals: ['{}/sa/web']}}}}], to: [{{operation: {{methods: [GET], paths: [/api/*], notPaths: [/api/x]}}}}]}}]}}",
            identity("shop")
        ),
    );
    let none = format!("{denied}[none]");
    check(
        &mut shop(&[&allow]),
        &[
            ("shop/web GET http://ratings:9080/api/a", "200 ratings GET /api/a as web"),
            ("shop/web GET http://ratings:9080/api/x", &none),
            ("shop/web POST http://ratings:9080/api/a", &none),
            ("visit/guest GET http://ratings.shop:9080/api/a", &none),
            ("outside GET http://10.0.0.13:8080/api/a", &none),
            ("shop/web GET http://legacy:9080/", "200 legacy GET /"),
        ],
    );
    // Of what matches both, the denial counts; a policy that nobody can read closes.
    check(&mut shop(&[&allow, &deny]), &[("shop/web GET http://ratings:9080/api/ x-bad=yes!", &deny_rule(2))]);
    let unreadable =
        object("AuthorizationPolicy", "bad", "{selector: {matchLabels: {app: ratings}}, action: DENY, rules: [{colour: red}]}");
    let mut mesh = shop_with("", &[&unreadable]);
    assert_eq!(mesh.problems.len(), 1);
    let answer = call(&mut mesh, "shop/web GET http://ratings:9080/");
    assert_eq!((answer.status(), answer.served_by()), (403, None), "{answer:#?}");
    check(&mut mesh, &[("shop/web GET http://reviews:9080/", "200 {} GET / as web")]);
}

#[test]
fn what_is_not_known() {
    let entry = object(
        "ServiceEntry",
        "known",
        "{hosts: [known.example], addresses: [198.51.100.20], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 198.51.100.7}]}",
    );
    check(
        &mut shop_with(", outboundTrafficPolicy: {mode: REGISTRY_ONLY}", &[&entry]),
        &[
            ("shop/web GET http://known.example/", "200 elsewhere GET /"),
            ("shop/web GET http://198.51.100.7/ host=unknown.example", "502 direct_response"),
            ("shop/web GET http://198.51.100.7:81/", "0 no_healthy_upstream"),
            ("shop/web GET http://reviews:9080/", "200 {} GET / as web"),
        ],
    );
}

#[test]
fn gateways() {
    let rules = object(
        "VirtualService",
        "front",
        "{hosts: [shop.example.com], gateways: [door], http: [
          {match: [{uri: {prefix: /api}}], rewrite: {uri: /}, route: [{destination: {host: ratings}}]},
          {match: [{uri: {prefix: /two}}], route: [{destination: {host: reviews, subset: v2}}]},
          {match: [{uri: {exact: /gone}}], redirect: {scheme: https}}]}",
    );
    let policy = object(
        "AuthorizationPolicy",
        "only-by-the-door",
        "{selector: {matchLabels: {app: ratings}}, rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/door]}}]}]}",
    );
    check(
        &mut shop(&[&rules, &policy, &object("DestinationRule", "reviews", SUBSETS)]),
        &[
            ("outside GET http://10.0.0.98/api host=shop.example.com", "200 ratings GET / as door"),
            ("outside GET http://10.0.0.98/two host=shop.example.com", "200 v2 GET /two as door"),
            ("outside GET http://10.0.0.98/gone host=shop.example.com", "301 https://shop.example.com/gone"),
            ("outside GET http://10.0.0.98/else host=shop.example.com", "404 route_not_found"),
            ("outside GET http://10.0.0.98/api host=other.example.com", "404 route_not_found"),
            ("shop/web GET http://ratings:9080/", "403 rbac_access_denied_matched_policy[none]"),
        ],
    );
}

#[test]
fn changes_reach_the_proxies() {
    let (config, pods) = (mesh_config(""), pods());
    let to = |subset: &str| {
        object(
            "VirtualService",
            "reviews",
            &format!("{{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]}}"),
        )
    };
    let subsets = object("DestinationRule", "reviews", SUBSETS);
    let mut mesh = shop(&[&to("v1"), &subsets]);
    let web = mesh.proxy("shop/web").unwrap();
    check(&mut mesh, &[("shop/web GET http://reviews:9080/", "200 v1 GET / as web")]);
    let before = mesh.resources("shop/web").unwrap().clone();
    mesh.apply(&[("shop.yaml", SHOP), ("mesh.yaml", &config), ("pods.yaml", &pods), ("more.yaml", &to("v2")), ("subsets.yaml", &subsets)]);
    check(&mut mesh, &[("shop/web GET http://reviews:9080/", "200 v2 GET / as web")]);
    let after = mesh.resources("shop/web").unwrap();
    let changed = before.0.iter().flat_map(|(kind, all)| all.iter().map(move |(name, one)| (kind, name, one)));
    let changed: Vec<_> = changed.filter(|(kind, name, one)| after.0[kind].get(*name) != Some(one)).map(|(_, name, _)| &**name).collect();
    assert_eq!(changed, ["9080"], "one route configuration is sent");
    mesh.apply(&[("shop.yaml", SHOP), ("mesh.yaml", &config), ("pods.yaml", &pods)]);
    check(&mut mesh, &[("shop/web GET http://reviews:9080/", "200 {} GET / as web")]);
    mesh.sim.run_for(Duration::from_secs(60));
    assert_eq!((mesh.sim.snapshot(web).streams, mesh.sim.snapshot(web).buffered), (0, 0));
}

#[test]
fn a_folder() {
    let sample = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop");
    let loaded = load_folder(&sample).unwrap();
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    let web = pod("shop", "web", "app: web", "web", "10.0.0.21");
    let pods = load([("pod.yaml", &*web)]).snapshot;
    let pods = pods.keys().filter_map(|key| pods.object(&key).cloned().map(mizzen_model::Change::Apply));
    let snapshot = loaded.snapshot.apply(pods);
    let found = resources(&snapshot, &proxy_of(&snapshot, "shop", "web").unwrap());
    assert!(found.0[&mizzen_translate::ResourceKind::Cluster].contains_key("outbound|9080||reviews.shop.svc.cluster.local"));
    assert!(proxy_of(&snapshot, "shop", "nobody").is_none());
}
