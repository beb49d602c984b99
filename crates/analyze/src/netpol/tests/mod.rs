//! Cases as data, and a search for calls that the mesh allows and the network stops.

mod evaluator;
mod property;

use mizzen_types::IpRange;

use super::{IngressRule, LabelSelector, Netpol, NetworkPeer, NetworkPolicy, NetworkPort, Options, Target, Through, World, write};

/// What is made of a text.
fn made(yaml: &str, options: &Options) -> Netpol {
    let mut world = World::default();
    world.add(yaml, &"a.yaml".into(), "default");
    let made = write(&world, options);
    // What was read before means the same.
    let read = mizzen_api::parse_documents(yaml, &"a.yaml".into()).objects;
    if let Ok(objects) = read.into_iter().collect::<Result<Vec<_>, _>>() {
        let mut again = World::default();
        objects.iter().for_each(|object| again.put(object));
        assert_eq!(write(&again, options), made, "{yaml}");
    }
    made
}

fn labels(selector: &LabelSelector) -> String {
    let all = selector.match_labels.iter().filter(|(name, _)| *name != "security.istio.io/tlsMode").map(|(name, value)| {
        let name = name.rsplit('/').next().unwrap_or_default();
        format!("{name}={value}")
    });
    let more = selector.match_expressions.iter().map(|term| {
        let name = term.key.rsplit('/').next().unwrap_or_default();
        format!("{name} {} {}", term.operator, term.values.join("|"))
    });
    all.chain(more).collect::<Vec<_>>().join(",")
}

fn peer(peer: &NetworkPeer) -> String {
    if let Some(block) = &peer.ip_block {
        let except: String = block.except.iter().map(|range| format!(" - {range}")).collect();
        return format!("{}{except}", block.cidr);
    }
    let namespaces = peer.namespace_selector.as_ref().map(labels).unwrap_or_default().replace("metadata.name=", "");
    let pods = peer.pod_selector.as_ref().map(|pods| format!("[{}]", labels(pods))).unwrap_or_default();
    format!("{}{pods}", if namespaces.is_empty() { "*" } else { &namespaces })
}

fn port(port: &NetworkPort) -> String {
    let first = match &port.port {
        Target::Number(number) => number.to_string(),
        Target::Name(name) => name.clone(),
    };
    let last = port.end_port.map(|last| format!("-{last}")).unwrap_or_default();
    format!("{}{first}{last}", if port.protocol == "TCP" { String::new() } else { format!("{} ", port.protocol) })
}

fn rule(peers: &[NetworkPeer], ports: &[NetworkPort]) -> String {
    let list = |items: Vec<String>| if items.is_empty() { "any".to_owned() } else { items.join(", ") };
    format!("{} to {}", list(peers.iter().map(peer).collect()), list(ports.iter().map(port).collect()))
}

/// `NAMESPACE/NAME [LABELS]`, and its rules, without the one about the proxy's own ports where it says nothing else.
fn shown(policy: &NetworkPolicy) -> String {
    let own = "any to 15020-15021, 15090";
    let ingress = policy.spec.ingress.iter().flatten().map(|IngressRule { from, ports }| rule(from, ports)).filter(|rule| rule != own);
    let egress = policy.spec.egress.iter().flatten().map(|one| rule(&one.to, &one.ports));
    let rules: Vec<String> = ingress.chain(egress).collect();
    format!("{}/{} [{}] {}", policy.metadata.namespace, policy.metadata.name, labels(&policy.spec.pod_selector), rules.join("; "))
}

/// What is made, and of the notes a part of each that is expected; those about nothing in particular are not looked at.
fn check_with(yaml: &str, options: &Options, expected: &[&str], notes: &[&str]) {
    let made = made(yaml, options);
    let lines: Vec<String> = made.policies.iter().map(shown).collect();
    assert_eq!(lines, expected, "{yaml}\n{:#?}", made.notes);
    let told: Vec<String> = made.notes.iter().filter(|note| note.object.is_some()).map(ToString::to_string).collect();
    assert_eq!(told.len(), notes.len(), "{yaml}\n{told:#?}");
    for (line, part) in told.iter().zip(notes) {
        assert!(line.contains(part), "{line}\nlacks {part}");
    }
}

fn check(yaml: &str, expected: &[&str], notes: &[&str]) {
    check_with(yaml, &Options::default(), expected, notes);
}

/// An AuthorizationPolicy of namespace `shop`.
fn policy(name: &str, spec: &str) -> String {
    format!("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
}

fn deployment(namespace: &str, name: &str, account: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}, version: v1}}}}
    spec: {{serviceAccountName: {account}, containers: [{{name: c, image: x}}]}}
"
    )
}

const MESH: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: \"outboundTrafficPolicy: {mode: REGISTRY_ONLY}\"}
";

#[test]
fn callers() {
    let from = |source: &str| policy("p", &format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}"));
    let one = |peers: &str| format!("shop/mizzen-allow.p [] {peers} to any");
    let known = deployment("shop", "web", "web") + &deployment("shop", "web-old", "web");
    let cases: &[(&str, &str, &[&str])] = &[
        ("namespaces: [b, a]", "a, b", &[]),
        ("namespaces: [\"*\"]", "*", &[]),
        ("namespaces: [\"a*\"]", "*", &[]),
        ("namespaces: [\"*\"], notNamespaces: [a]", "metadata.name NotIn a", &[]),
        ("namespaces: [a, b], notNamespaces: [b]", "a", &[]),
        ("principals: [cluster.local/ns/a/sa/x]", "a", &[]),
        ("principals: [cluster.local/ns/shop/sa/web]", "shop[app=web], shop[app=web-old]", &[]),
        ("serviceAccounts: [web]", "shop[app=web], shop[app=web-old]", &[]),
        ("principals: [cluster.local/ns/shop/*]", "shop", &[]),
        ("principals: [\"*/ns/shop/sa/web\"]", "shop[app=web], shop[app=web-old]", &[]),
        ("principals: [\"*/sa/web\"]", "*", &[]),
        ("principals: [cluster.local/ns/shop/sa/web], namespaces: [\"s*\"]", "shop[app=web], shop[app=web-old]", &[]),
        ("principals: [other/ns/shop/sa/web]", "any", &["from outside of the cluster's pods"]),
        ("notNamespaces: [a]", "any", &["who a caller is not is left to the mesh"]),
        ("ipBlocks: [10.0.0.0/8], notIpBlocks: [10.1.0.0/16, 10.1.2.0/24]", "10.0.0.0/8 - 10.1.0.0/16", &[]),
        ("notIpBlocks: [10.0.0.0/8]", "*, 0.0.0.0/0 - 10.0.0.0/8, ::/0", &["addresses of pods are left to the mesh"]),
        ("ipBlocks: [0.0.0.0/0]", "*, 0.0.0.0/0", &["addresses of pods are left to the mesh"]),
        ("ipBlocks: [0.0.0.0/0, \"::/0\"]", "any", &[]),
        ("ipBlocks: [10.1.2.3], namespaces: [a]", "a", &["addresses are left to the mesh where callers are named too"]),
        ("remoteIpBlocks: [10.0.0.0/8]", "any", &["spec.rules[0]: L4 does not show from[0].source.remoteIpBlocks"]),
    ];
    for (source, peers, notes) in cases {
        check(&(from(source) + &known), &[&one(peers)], notes);
    }
    for never in
        ["namespaces: [a], ipBlocks: [10.0.0.0/8], notIpBlocks: [10.0.0.0/8]", "principals: [cluster.local/ns/a/sa/x], namespaces: [b]"]
    {
        check(&(from(never) + &known), &["shop/mizzen-allow.p [] "], &[]);
    }
}

#[test]
fn pods_of_an_account() {
    let from = policy("p", "{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}");
    let pod = |name: &str, owner: &str, labels: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}, ownerReferences: [{owner}]}}\nspec: \
             {{serviceAccountName: web, containers: [{{name: c, image: x}}]}}\n"
        )
    };
    let owner = |kind: &str, name: &str| format!("{{apiVersion: x, kind: {kind}, name: {name}, uid: u}}");
    let of_web = pod("web-1", &owner("ReplicaSet", "web-5d"), "app: web, app.kubernetes.io/version: v1, pod-template-hash: x");
    let of_set = |name: &str, version: &str| {
        pod(name, &owner("StatefulSet", "set"), &format!("app: set, part: {version}, statefulset.kubernetes.io/pod-name: {name}"))
    };
    let as_kind = |kind: &str| deployment("shop", "set", "web").replace("kind: Deployment", &format!("kind: {kind}"));
    let template = "{metadata: {labels: {app: job}}, spec: {serviceAccountName: web, containers: []}}";
    let periodic = format!(
        "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: job, namespace: shop}}\nspec: {{jobTemplate: {{spec: {{template: {template}}}}}}}\n"
    );
    let of_job = "selector: {matchLabels: {batch.kubernetes.io/controller-uid: u}}";
    let job = format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: job-1, namespace: shop}}\nspec: {{{of_job}, template: {template}}}\n"
    );
    let replicas = deployment("shop", "set", "web")
        .replace("kind: Deployment", "kind: ReplicaSet")
        .replace("{matchLabels: {app: set}}", "{matchLabels: {app: set, rollouts-pod-template-hash: x}}");
    let elder = deployment("shop", "old", "web").replace("serviceAccountName", "serviceAccount");
    let cases = [
        (pod("bare", "", "app: x"), "shop[app=x]"),
        (pod("bare", "", ""), "shop"),
        (of_web.clone() + &deployment("shop", "web", "web"), "shop[app=web]"),
        // What makes them is not known, and may give the next ones other labels.
        (of_web, "shop"),
        (of_set("set-0", "a") + &of_set("set-1", "b"), "shop"),
        (of_set("set-0", "a") + &deployment("shop", "set", "web"), "shop"),
        (of_set("set-0", "a") + &as_kind("StatefulSet") + &deployment("shop", "web", "web"), "shop[app=set], shop[app=web]"),
        (as_kind("DaemonSet") + &deployment("shop", "web", "web"), "shop[app=set], shop[app=web]"),
        (pod("set-5d-1", &owner("ReplicaSet", "set"), "app: set, version: v1") + &replicas, "shop[app=set]"),
        (periodic + &deployment("shop", "web", "web"), "shop"),
        (job + &deployment("shop", "web", "web"), "shop"),
        (elder + &deployment("shop", "web", "web"), "shop[app=old], shop[app=web]"),
        (deployment("shop", "web", "other"), "shop"),
    ];
    for (yaml, peers) in cases {
        check(&(from.clone() + &yaml), &[&format!("shop/mizzen-allow.p [] {peers} to any")], &[]);
    }
}

#[test]
fn what_may_not_be_read() {
    let yaml = policy("p", "{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}") + &deployment("shop", "web", "web") + MESH;
    let egress = "shop/mizzen-egress [] * to any; kube-system to UDP 53, 53; istio-system to 15012";
    let check = |kind: &str, ingress: &[&str], is_bounded: bool| {
        let mut world = World::default();
        world.add(&yaml, &"a.yaml".into(), "default");
        world.lacks(kind);
        let lines: Vec<String> = write(&world, &Options::default()).policies.iter().map(shown).collect();
        let expected: Vec<&str> = ingress.iter().copied().chain(is_bounded.then_some(egress)).collect();
        assert_eq!(lines, expected, "{kind}");
    };
    check("PeerAuthentication", &["shop/mizzen-allow.p [] shop[app=web] to any"], true);
    for maker in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"] {
        check(maker, &["shop/mizzen-allow.p [] shop to any"], true);
    }
    check("Pod", &["shop/mizzen-allow.p [] shop to any"], false);
    check("WorkloadEntry", &["shop/mizzen-allow.p [] any to any"], false);
    check("AuthorizationPolicy", &[], true);
    check("ServiceEntry", &["shop/mizzen-allow.p [] shop[app=web] to any"], false);
}

#[test]
fn ports_and_rules() {
    let rules = |rules: &str| policy("p", &format!("{{selector: {{matchLabels: {{app: web}}}}, rules: {rules}}}"));
    let cases: &[(&str, &str, &[&str])] = &[
        ("[{}]", "any to any", &[]),
        ("[]", "", &[]),
        ("[{to: [{operation: {ports: [\"80\", \"443\"]}}]}]", "any to 80, 443", &[]),
        ("[{to: [{operation: {notPorts: [\"80\"]}}]}]", "any to 1-79, 81-65535", &[]),
        (
            "[{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [\"80\"], methods: [GET]}}]}]",
            "a to 80",
            &["a.yaml:5: AuthorizationPolicy shop/p: spec.rules[0]: L4 does not show to[0].operation.methods"],
        ),
        ("[{to: [{operation: {ports: [\"80\"]}}], when: [{key: destination.port, values: [\"81\"]}]}]", "", &[]),
        (
            "[{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [\"80\"]}}]}, {from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [\"81\"]}}]}]",
            "a to 80-81",
            &[],
        ),
        ("[{from: [{source: {namespaces: [a]}}]}, {}]", "any to any", &[]),
        ("[{when: [{key: source.namespace, values: [a]}, {key: source.ip, values: [10.0.0.0/8]}]}]", "a to any", &["addresses are left"]),
    ];
    for (text, expected, notes) in cases {
        check(&rules(text), &[&format!("shop/mizzen-allow.p [app=web] {expected}")], notes);
    }
}

#[test]
fn what_is_denied() {
    let allow = policy("a", "{selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [a, b]}}]}]}");
    let deny = |rules: &str| policy("d", &format!("{{action: DENY, rules: {rules}}}"));
    let cases: &[(&str, &str, usize)] = &[
        ("[{}]", "", 0),
        ("[{from: [{source: {namespaces: [b]}}]}]", "a to any", 0),
        ("[{from: [{source: {notNamespaces: [a, c]}}]}]", "a to any", 0),
        ("[{from: [{source: {notPrincipals: [\"*\"]}}]}]", "a, b to any", 0),
        ("[{to: [{operation: {ports: [\"80\"]}}]}]", "a, b to 1-79, 81-65535", 0),
        ("[{from: [{source: {namespaces: [b]}}], to: [{operation: {ports: [\"80\"]}}]}]", "a to any; a, b to 1-79, 81-65535", 0),
        ("[{to: [{operation: {methods: [GET]}}]}]", "a, b to any", 1),
    ];
    for (rules, expected, left) in cases {
        let of_rest = policy("rest", "{}");
        let expected = [format!("shop/mizzen-allow.a [app=web] {expected}"), "shop/mizzen-allow.rest [] ".to_owned()];
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(&(allow.clone() + &deny(rules) + &of_rest), &expected, &vec!["the rule is left to the mesh"; *left]);
    }
    let block = "[{from: [{source: {ipBlocks: [10.1.0.0/16]}}]}]";
    check(&deny(block), &["shop/mizzen-deny.d [] *, 0.0.0.0/0 - 10.1.0.0/16, ::/0 to any"], &["addresses of pods are left to the mesh"]);
    check(&deny("[{to: [{operation: {methods: [GET]}}]}]"), &[], &["the rule is left to the mesh"]);
    check(
        &(allow.clone() + &deny(block)),
        &["shop/mizzen-allow.a [app=web] a, b to any"],
        &["addresses", "pods of shop that no ALLOW policy selects"],
    );
    let narrow = policy("d", &format!("{{action: DENY, selector: {{matchLabels: {{app: web, v: x}}}}, rules: {block}}}"));
    check(&(allow + &narrow), &["shop/mizzen-allow.a [app=web] a, b to any"], &["not all of them are its own"]);
}

#[test]
fn what_is_passed_over() {
    let dry = policy("p", "{rules: [{}]}").replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: \"true\"}}");
    check(&dry, &[], &["is a dry run"]);
    check(&policy("p", "{action: AUDIT, rules: [{}]}"), &[], &["AUDIT"]);
    check(&policy("p", "{action: CUSTOM, provider: {name: x}, rules: [{}]}"), &[], &["CUSTOM"]);
    let open = policy("q", "{selector: {matchLabels: {app: db}}}");
    let refused = policy("p", "{selector: {matchLabels: {app: web}}, rules: [{form: []}]}");
    let told = ["cannot be read, so that no NetworkPolicy"];
    check(&(refused.clone() + &open), &["shop/mizzen-allow.q [app=db] "], &told);
    // The pods of `q` are `r`'s too, which is not written: `q` alone would stop whom `r` lets in.
    check(&(refused + &open + &policy("r", "{}")), &[], &told);
}

#[test]
fn the_mesh_s_policies_and_scopes() {
    let root = policy("nobody", "{}").replace("namespace: shop", "namespace: istio-system");
    let namespace =
        |name: &str, labels: &str| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n");
    let yaml =
        root + &namespace("shop", "istio-injection: enabled") + &namespace("quiet", "istio-injection: disabled") + &namespace("else", "");
    let of_root = "istio-system/mizzen-allow.nobody [] ";
    check(&yaml, &["else/mizzen-mesh-allow.nobody [] ", of_root, "shop/mizzen-mesh-allow.nobody [] "], &[]);
    let in_cluster = Options { meshed_by_default: false, ..Options::default() };
    check_with(&yaml, &in_cluster, &[of_root, "shop/mizzen-mesh-allow.nobody [] "], &[]);
    let one = Options { namespace: Some("shop".to_owned()), ..Options::default() };
    check_with(&yaml, &one, &["shop/mizzen-mesh-allow.nobody [] "], &[]);
    // A policy of its own, or a proxy that is there, says more than the namespace's label.
    let own = policy("p", "{}").replace("namespace: shop", "namespace: quiet");
    let in_quiet = ["quiet/mizzen-allow.p [] ", "quiet/mizzen-mesh-allow.nobody [] "];
    check(
        &(yaml.clone() + &own),
        &["else/mizzen-mesh-allow.nobody [] ", of_root, in_quiet[0], in_quiet[1], "shop/mizzen-mesh-allow.nobody [] "],
        &[],
    );
    check_with(&(yaml.clone() + &own), &in_cluster, &[of_root, in_quiet[0], in_quiet[1], "shop/mizzen-mesh-allow.nobody [] "], &[]);
    let dry = own.replace("namespace: quiet}", "namespace: quiet, annotations: {istio.io/dry-run: \"true\"}}");
    check_with(&(yaml.clone() + &dry), &in_cluster, &[of_root, "shop/mizzen-mesh-allow.nobody [] "], &["is a dry run"]);
    let injected = deployment("quiet", "web", "web").replace("name: c,", "name: istio-proxy,");
    check_with(&(yaml.clone() + &injected), &in_cluster, &[of_root, in_quiet[1], "shop/mizzen-mesh-allow.nobody [] "], &[]);
    check_with(
        &(yaml + &injected + MESH),
        &in_cluster,
        &[
            of_root,
            in_quiet[1],
            "shop/mizzen-egress [] * to any; kube-system to UDP 53, 53; istio-system to 15012",
            "shop/mizzen-mesh-allow.nobody [] ",
        ],
        &[],
    );
    let gateway = policy("p", "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]}");
    check(&gateway, &["shop/mizzen-allow.p [gateway-name In g] "], &[]);
}

#[test]
fn what_the_mesh_does_not_guard() {
    let all = policy("p", "{}");
    let udp = "---\napiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: shop}\nspec: {selector: {app: dns}, ports: [{name: d, port: 53, \
               targetPort: dns, protocol: UDP}]}\n";
    check(&(all.clone() + udp), &["shop/mizzen-allow.p [] any to 15020-15021, 15090, UDP dns"], &[]);
    let annotated =
        |note: &str| deployment("shop", "web", "web").replace("metadata: {labels", &format!("metadata: {{annotations: {{{note}}}, labels"));
    let excluded = annotated("traffic.sidecar.istio.io/excludeInboundPorts: \"22\"");
    check(&(all.clone() + &excluded), &["shop/mizzen-allow.p [] any to 22, 15020-15021, 15090"], &[]);
    let none = annotated("traffic.sidecar.istio.io/includeInboundPorts: \"\"");
    check(&(all.clone() + &none), &["shop/mizzen-allow.p [] any to any"], &[]);
    let injector = |name: &str, values: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: istio-system}}\ndata: {{values: \"global: {{proxy: {{{values}}}}}\"}}\n"
        )
    };
    let [first, second] = ["excludeInboundPorts: 22, statusPort: 16020", "includeInboundPorts: 8080"];
    let settings = MESH.replace("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "defaultConfig: {statusPort: 17020}");
    let (agents, several) = (annotated("status.sidecar.istio.io/port: \"18020\""), "any to 1-8079, 8081-65535");
    let names = ["istio-sidecar-injector", "istio-sidecar-injector-canary"];
    for (yaml, open) in [
        (injector(names[0], first), "any to 22, 15021, 15090, 16020"),
        (injector(names[0], second), several),
        (injector(names[0], first) + &injector(names[1], second), several),
        (injector(names[1], second) + &injector(names[0], first), several),
        (injector(names[0], "includeInboundPorts: '*', excludeInboundPorts: '22,23'"), "any to 22-23, 15020-15021, 15090"),
        (settings.clone(), "any to 15021, 15090, 17020"),
        (settings.clone() + &injector(names[0], "statusPort: 15020"), ""),
        (settings + &agents, "any to 15021, 15090, 17020, 18020"),
        (annotated("proxy.istio.io/config: \"statusPort: 18020\""), "any to 15020-15021, 15090, 18020"),
    ] {
        check(&(all.clone() + &yaml), &[&format!("shop/mizzen-allow.p [] {open}")], &[]);
    }
    let from = policy("p", "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/vm]}}]}]}");
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: shop}\nspec: {address: 192.0.2.7, \
                 serviceAccount: vm}\n";
    check(&(from.clone() + entry), &["shop/mizzen-allow.p [] shop, 192.0.2.7/32 to any"], &[]);
    let passing = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: east, namespace: istio-system}\nspec: {selector: {istio: \
                   eastwest}, servers: [{port: {number: 15443, name: tls, protocol: TLS}, hosts: [\"*.local\"], tls: {mode: AUTO_PASSTHROUGH}}]}\n";
    check(&(from + passing), &["shop/mizzen-allow.p [] *[istio=eastwest], shop to any"], &[]);
}

#[test]
fn who_leaves() {
    let yaml =
        deployment("shop", "web", "web") + &deployment("istio-system", "egress", "egress").replace("app: egress", "istio: egressgateway");
    let within = "* to any; kube-system to UDP 53, 53; istio-system to 15012";
    let through = Options { through: Some("istio-system/istio=egressgateway".parse().expect("pods")), ..Options::default() };
    let gateway = "istio-system/mizzen-egress-gateway [istio=egressgateway] any to any";
    check(&yaml, &[], &[]);
    check_with(&yaml, &through, &[gateway, &format!("shop/mizzen-egress [] {within}")], &[]);
    let reach = Options { reach: vec!["192.0.2.1".parse::<IpRange>().expect("a range")], ..through.clone() };
    check_with(&yaml, &reach, &[gateway, &format!("shop/mizzen-egress [] {within}; 192.0.2.1/32 to any")], &[]);
    let closed = yaml.clone() + MESH;
    check(&closed, &[&format!("shop/mizzen-egress [] {within}")], &[]);
    let entry = |resolution: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: shop}}\nspec: {{hosts: [e.example], ports: \
             [{{number: 443, name: tls, protocol: TLS}}], {resolution}}}\n"
        )
    };
    let fixed = entry("resolution: STATIC, endpoints: [{address: 192.0.2.9}]");
    check(&(closed.clone() + &fixed), &[&format!("shop/mizzen-egress [] {within}; 192.0.2.9/32 to 443")], &[]);
    check(
        &(closed.clone() + &entry("resolution: DNS")),
        &[],
        &["no NetworkPolicy is written for what leaves namespace shop: it goes to e.example"],
    );
    let named = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: out, namespace: shop}\nspec: {selector: {istio: \
                 egressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]}\n";
    let shop = format!("shop/mizzen-egress [] {within}");
    check(
        &(closed.clone() + named + &entry("resolution: DNS")),
        &[gateway],
        &["no NetworkPolicy is written for what leaves namespace shop: it goes to e.example"],
    );
    check_with(
        &(closed.clone() + named + &entry("resolution: DNS")),
        &through,
        &[gateway, &shop],
        &["no VirtualService leads e.example through the egress gateway"],
    );
    check(&(closed.clone() + named + &fixed), &[gateway, &format!("{shop}; 192.0.2.9/32 to 443")], &[]);
    let route = |matches: &str, to: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r, namespace: shop}}\nspec: {{hosts: [e.example], \
             gateways: [mesh, out], tls: [{{match: [{{{matches}, sniHosts: [e.example]}}], route: [{{destination: {{host: {to}}}}}]}}]}}\n"
        )
    };
    let egress = "egress.istio-system.svc.cluster.local";
    let direct = ["it goes to e.example"];
    let led: &[(String, &[&str], &[&str])] = &[
        (route("gateways: [mesh], port: 443", egress), &[gateway, &shop], &[]),
        (route("gateways: [out], port: 443", egress), &[gateway], &direct),
        (route("gateways: [mesh], port: 444", egress), &[gateway], &direct),
        (route("gateways: [mesh], sourceLabels: {a: b}", egress), &[gateway], &direct),
        (route("gateways: [mesh], port: 443", "e.example"), &[gateway], &direct),
    ];
    for (route, expected, notes) in led {
        check(&(closed.clone() + named + &entry("resolution: DNS") + route), expected, notes);
    }
    check(&(yaml + named), &[], &[]);
}

#[test]
fn what_services_lead_beside_pods() {
    let yaml = deployment("shop", "web", "web") + MESH;
    let shop = "shop/mizzen-egress [] * to any; kube-system to UDP 53, 53; istio-system to 15012";
    let service = |spec: &str| {
        format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {{{spec}, ports: [{{port: 80}}]}}\n")
    };
    let slice = |target: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: db-1, namespace: shop, labels: \
             {{kubernetes.io/service-name: db}}}}\nendpoints: [{{addresses: [192.0.2.1]{target}}}]\n"
        )
    };
    let nodes = deployment("shop", "db", "db").replace("containers:", "hostNetwork: true, containers:");
    let machine = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: shop}\nspec: {address: 192.0.2.7, \
                   labels: {app: db}}\n";
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: shop}\nspec: {hosts: [e.example], ports: \
                 [{number: 443, name: tls, protocol: TLS}], resolution: STATIC, workloadSelector: {labels: {app: db}}}\n";
    let (selecting, plain) = (service("selector: {app: db}"), service("type: ClusterIP"));
    let server = plain.replace("name: db, namespace: shop", "name: kubernetes, namespace: default");
    let forced = Options { through: Some("out/istio=egressgateway".parse().expect("pods")), ..Options::default() };
    let cases: [(String, bool, &[&str]); 9] = [
        (selecting.clone(), true, &[]),
        (selecting.clone() + &nodes, false, &["it goes to db.shop"]),
        (selecting + machine, false, &["it goes to db.shop"]),
        (entry.to_owned(), true, &[]),
        (entry.to_owned() + machine, false, &["it goes to e.example"]),
        (plain.clone() + &slice(""), false, &["it goes to db.shop"]),
        (plain.clone() + &slice(", targetRef: {kind: Pod, name: x}"), true, &[]),
        (plain.clone(), false, &["it goes to db.shop"]),
        (server, true, &["the API server is no pod"]),
    ];
    for (more, is_bounded, notes) in cases {
        check(&(yaml.clone() + &more), &[shop][..usize::from(is_bounded)], notes);
    }
    let gateway = "out/mizzen-egress-gateway [istio=egressgateway] any to any";
    check_with(&(yaml + &plain), &forced, &[gateway, shop], &["calls to db.shop"]);
}

#[test]
fn whose_way_out_is_whose() {
    let yaml = deployment("shop", "web", "web");
    let shop = "shop/mizzen-egress [] * to any; kube-system to UDP 53, 53; istio-system to 15012";
    let sidecar = |name: &str, spec: &str| {
        format!("---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
    };
    let [only, any] = ["outboundTrafficPolicy: {mode: REGISTRY_ONLY}", "outboundTrafficPolicy: {mode: ALLOW_ANY}"];
    let of_web = "workloadSelector: {labels: {app: web}}";
    let gateway =
        deployment("shop", "gw", "gw").replace("metadata: {labels", "metadata: {annotations: {inject.istio.io/templates: gateway}, labels");
    for (more, is_bounded) in [
        (sidecar("all", only), true),
        (sidecar("all", only) + MESH, true),
        (sidecar("all", any) + MESH, false),
        (sidecar("all", only) + &sidecar("web", &format!("{of_web}, {any}")), false),
        // It says nothing, so that the mesh's settings hold, and not the namespace's.
        (sidecar("all", only) + &sidecar("web", of_web), false),
        (sidecar("all", only) + &sidecar("web", of_web) + MESH, true),
        (sidecar("all", only) + &gateway, false),
        (sidecar("all", only) + &gateway + MESH, true),
    ] {
        check(&(yaml.clone() + &more), &[shop][..usize::from(is_bounded)], &[]);
    }
}

#[test]
fn what_an_egress_gateway_is_called() {
    let good: Through = "out/app.kubernetes.io/name=gw,istio=egress".parse().expect("pods");
    assert_eq!((good.namespace.as_str(), good.labels.len()), ("out", 2));
    for wrong in ["", "out", "out/", "out/istio", "Out/istio=x", "/istio=x", "out/=x", "out/a=b=c"] {
        let error = wrong.parse::<Through>().expect_err("no pods");
        assert!(error.contains("NAMESPACE/LABEL=VALUE"), "{wrong}: {error}");
    }
}

#[test]
fn objects_as_kubernetes_takes_them() {
    let made =
        made(&policy("p", "{rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [\"80\"]}}]}]}"), &Options::default());
    let expected = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": "mizzen-allow.p",
            "namespace": "shop",
            "labels": { "app.kubernetes.io/managed-by": "mizzen" },
            "annotations": { "mizzen/made-from": "AuthorizationPolicy shop/p" },
        },
        "spec": {
            "podSelector": { "matchLabels": { "security.istio.io/tlsMode": "istio" } },
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "a" } } }],
                    "ports": [{ "protocol": "TCP", "port": 80 }],
                },
                {
                    "ports": [
                        { "protocol": "TCP", "port": 15020, "endPort": 15021 },
                        { "protocol": "TCP", "port": 15090 },
                    ],
                },
            ],
        },
    });
    assert_eq!(serde_json::to_value(&made.policies[0]).expect("a value"), expected);
    let long = "n".repeat(250);
    let names =
        ["a", "b"].map(|end| self::made(&policy(&format!("{long}{end}"), "{}"), &Options::default()).policies[0].metadata.name.clone());
    assert!(names[0] != names[1] && names.iter().all(|name| name.len() <= 253), "{names:?}");
}

#[test]
fn objects_without_a_namespace() {
    let mut world = World::default();
    let text = policy("p", "{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}").replace(", namespace: shop", "");
    world.add(&text, &"a.yaml".into(), "till");
    let lines: Vec<String> = write(&world, &Options::default()).policies.iter().map(shown).collect();
    assert_eq!(lines, ["till/mizzen-allow.p [] till to any"]);
}
