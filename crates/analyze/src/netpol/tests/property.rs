//! Random policies, and all calls of a small world: what the mesh may let in, the network lets in.

use std::{collections::BTreeSet, net::IpAddr};

use mizzen_api::{Object, istio::AuthorizationPolicy, parse_documents};

use super::{
    MESH, deployment,
    evaluator::{Call, DOMAINS, Identity, Pod, ROOT, is_admitted, may_pass},
    made,
};
use crate::netpol::{NetworkPolicy, Options};

/// A generator that gives the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("a number") % end
    }

    fn is(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// One or two, as a list of YAML.
    fn list(&mut self, of: &[&str]) -> String {
        let count = 1 + self.below(2);
        let items: Vec<String> = (0..count).map(|_| format!("{:?}", self.one(of))).collect();
        format!("[{}]", items.join(", "))
    }
}

const PRINCIPALS: [&str; 12] = [
    "cluster.local/ns/a/sa/web",
    "old.domain/ns/a/sa/db",
    "cluster.local/ns/b/sa/*",
    "cluster.local/ns/a/*",
    "cluster.local/ns/b/sa/w*",
    "cluster.local/*",
    "cluster.*",
    "*/sa/web",
    "*/ns/b/sa/web",
    "*b",
    "*",
    "other.domain/ns/a/sa/web",
];
const NAMESPACES: [&str; 7] = ["a", "b", "istio-system", "*", "istio-*", "*b", "none"];
const ACCOUNTS: [&str; 4] = ["web", "a/db", "b/web", "a/none"];
const RANGES: [&str; 8] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1", "203.0.113.0/24", "0.0.0.0/0", "::/0", "198.51.100.7"];
const DOMAIN_PATTERNS: [&str; 4] = ["cluster.local", "old.domain", "other.domain", "*"];
const PORTS: [&str; 3] = ["80", "443", "9090"];

/// What sources, operations and conditions are made from.
type Fields<'a> = &'a [(&'a str, &'a [&'a str])];

const SOURCES: Fields<'static> = &[
    ("principals", &PRINCIPALS),
    ("notPrincipals", &PRINCIPALS),
    ("namespaces", &NAMESPACES),
    ("notNamespaces", &NAMESPACES),
    ("ipBlocks", &RANGES),
    ("notIpBlocks", &RANGES),
    ("trustDomains", &DOMAIN_PATTERNS),
    ("notTrustDomains", &DOMAIN_PATTERNS),
    ("remoteIpBlocks", &RANGES),
    ("requestPrincipals", &["*"]),
    ("namespaces", &NAMESPACES),
    ("principals", &PRINCIPALS),
];
const OF_ACCOUNTS: Fields<'static> =
    &[("serviceAccounts", &ACCOUNTS), ("notServiceAccounts", &ACCOUNTS), ("serviceAccounts", &ACCOUNTS), ("ipBlocks", &RANGES)];
const OPERATIONS: Fields<'static> =
    &[("ports", &PORTS), ("notPorts", &PORTS), ("methods", &["GET"]), ("notPaths", &["/x"]), ("ports", &PORTS)];
const CONDITIONS: Fields<'static> = &[
    ("source.ip", &RANGES),
    ("source.namespace", &NAMESPACES),
    ("source.principal", &PRINCIPALS),
    ("source.serviceAccount", &ACCOUNTS),
    ("source.trustDomain", &DOMAIN_PATTERNS),
    ("destination.port", &PORTS),
    ("request.headers[x]", &["y"]),
    ("connection.sni", &["y"]),
];

/// A map with one to three of these fields.
fn map(random: &mut Random, fields: Fields<'_>, most: usize) -> String {
    let mut names = BTreeSet::new();
    let mut text = String::new();
    for _ in 0..=random.below(most) {
        let (name, values) = fields[random.below(fields.len())];
        if names.insert(name) {
            text += &format!("{name}: {}, ", random.list(values));
        }
    }
    format!("{{{}}}", text.trim_end_matches(", "))
}

fn rule(random: &mut Random, exact: bool) -> String {
    let mut text = String::new();
    let mut several = |random: &mut Random, name: &str, make: &dyn Fn(&mut Random) -> String| {
        let items: Vec<String> = (0..=random.below(2)).map(|_| make(random)).collect();
        text += &format!("{name}: [{}], ", items.join(", "));
    };
    if exact {
        const BY_NAME: Fields<'static> = &[("namespaces", &["a", "b", "istio-system"])];
        const BY_ACCOUNT: Fields<'static> = &[("serviceAccounts", &["a/web", "a/db", "b/web"])];
        const BY_ADDRESS: Fields<'static> = &[("ipBlocks", &RANGES), ("notIpBlocks", &RANGES)];
        let source = |random: &mut Random| {
            let fields = [BY_NAME, BY_ACCOUNT, BY_ADDRESS][random.below(3)];
            format!("{{source: {}}}", map(random, fields, fields.len()))
        };
        several(random, "from", &source);
        if random.is(50) {
            several(random, "to", &|random: &mut Random| format!("{{operation: {}}}", map(random, &OPERATIONS[..2], 1)));
        }
        return format!("{{{}}}", text.trim_end_matches(", "));
    }
    if random.is(75) {
        several(random, "from", &|random: &mut Random| {
            let fields = if random.is(20) { OF_ACCOUNTS } else { SOURCES };
            format!("{{source: {}}}", map(random, fields, 3))
        });
    }
    if random.is(45) {
        several(random, "to", &|random: &mut Random| format!("{{operation: {}}}", map(random, OPERATIONS, 2)));
    }
    if random.is(30) {
        several(random, "when", &|random: &mut Random| {
            let (key, values) = CONDITIONS[random.below(CONDITIONS.len())];
            let field = if random.is(70) { "values" } else { "notValues" };
            format!("{{key: {key:?}, {field}: {}}}", random.list(values))
        });
    }
    format!("{{{}}}", text.trim_end_matches(", "))
}

/// Some policies; with `exact` those of which L4 can say all.
fn policies(random: &mut Random, exact: bool) -> String {
    let mut yaml = String::new();
    for number in 0..=random.below(4) {
        let action = if exact || random.is(60) { "ALLOW" } else { random.one(&["DENY", "DENY", "DENY", "AUDIT"]) };
        let dry = if !exact && random.is(5) { ", annotations: {istio.io/dry-run: \"true\"}" } else { "" };
        let namespace = random.one(&["a", "a", "b", ROOT]);
        let selector = random.one(&["", "", "selector: {matchLabels: {app: web}}, ", "selector: {matchLabels: {app: db}}, "]);
        let rules: Vec<String> = (0..random.below(3)).map(|_| rule(random, exact)).collect();
        yaml += &format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, namespace: {namespace}{dry}}}\n\
             spec: {{{selector}action: {action}, rules: [{}]}}\n",
            rules.join(", ")
        );
    }
    yaml
}

/// The pods of the world, one for each Deployment.
const PODS: [(&str, &str, &str, bool); 7] = [
    ("a", "web", "web", true),
    ("a", "web-two", "web", true),
    ("a", "db", "db", true),
    ("a", "job", "job", false),
    ("b", "web", "web", true),
    ("b", "db", "default", true),
    (ROOT, "gateway", "gateway", true),
];
const MACHINE: &str = "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: a}
spec: {address: 10.9.0.7, serviceAccount: web}
";
const PASSING: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east, namespace: istio-system}
spec:
  selector: {app: gateway}
  servers:
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: [\"*.local\"], tls: {mode: AUTO_PASSTHROUGH}}
";

struct Case {
    yaml: String,
    policies: Vec<AuthorizationPolicy>,
    made: Vec<NetworkPolicy>,
    /// Whether it is told that addresses of pods are left to the mesh.
    is_wide: bool,
    has_machine: bool,
    is_passing: bool,
}

fn case(seed: u64, exact: bool) -> Case {
    let mut random = Random(seed);
    let mut yaml = policies(&mut random, exact);
    let parsed = parse_documents(&yaml, &"a.yaml".into());
    assert_eq!(parsed.problems().map(ToString::to_string).collect::<Vec<_>>(), [""; 0], "seed {seed}\n{yaml}");
    let policies: Vec<AuthorizationPolicy> = parsed
        .good()
        .filter_map(|object| if let Object::AuthorizationPolicy(policy) = object { Some(policy.clone()) } else { None })
        .collect();
    // Of an account all workloads are known, or none.
    let unknown = if exact { "" } else { random.one(&["", "web", "db"]) };
    for (namespace, name, account, _) in PODS.iter().filter(|(_, _, account, _)| *account != unknown) {
        yaml += &deployment(namespace, name, account);
    }
    let (has_machine, is_passing) = (!exact && random.is(30), !exact && random.is(30));
    yaml += if has_machine { MACHINE } else { "" };
    yaml += if is_passing { PASSING } else { "" };
    yaml += &MESH.replace("outboundTrafficPolicy: {mode: REGISTRY_ONLY}", &format!("trustDomainAliases: [{}]", DOMAINS[1]));
    let made = made(&yaml, &Options::default());
    assert_eq!(made, self::made(&yaml, &Options::default()), "seed {seed}: the same bytes");
    let is_wide = made.notes.iter().any(|note| note.message.starts_with("addresses of pods"));
    Case { yaml, policies, made: made.policies, is_wide, has_machine, is_passing }
}

fn pods() -> Vec<Pod> {
    let pod = |(number, (namespace, name, account, has_proxy)): (usize, &(&'static str, &str, &'static str, bool))| Pod {
        namespace,
        // Two workloads of one account, and pods of two with one label.
        labels: [("app".to_owned(), (*name).to_owned())].into(),
        account,
        ip: format!("10.1.{}.{number}", number % 3).parse().expect("an address"),
        has_proxy: *has_proxy,
    };
    PODS.iter().enumerate().map(pod).collect()
}

/// All calls of the world to a pod.
fn calls<'a>(case: &Case, pods: &'a [Pod], to: &'a Pod) -> Vec<Call<'a>> {
    let mut callers: Vec<(Option<&Pod>, IpAddr, Identity)> = Vec::new();
    for pod in pods {
        callers.push((Some(pod), pod.ip, None));
        if pod.has_proxy {
            callers.push((Some(pod), pod.ip, Some((pod.namespace, pod.account))));
        }
    }
    for outside in ["203.0.113.5", "198.51.100.7", "2001:db8::1", "10.200.0.1"] {
        callers.push((None, outside.parse().expect("an address"), None));
    }
    if case.has_machine {
        callers.push((None, "10.9.0.7".parse().expect("an address"), Some(("a", "web"))));
    }
    if let Some(gateway) = pods.iter().find(|pod| case.is_passing && pod.namespace == ROOT) {
        callers.extend(pods.iter().map(|pod| (Some(gateway), gateway.ip, Some((pod.namespace, pod.account)))));
    }
    let with_port =
        |port: u16| callers.iter().map(move |(from, ip, identity)| Call { from: *from, ip: *ip, identity: *identity, to, port });
    [80, 443, 9090].into_iter().flat_map(with_port).collect()
}

fn objects_are_valid(case: &Case) {
    let names: BTreeSet<_> = case.made.iter().map(|policy| (&policy.metadata.namespace, &policy.metadata.name)).collect();
    assert_eq!(names.len(), case.made.len(), "{}", case.yaml);
    for rule in case.made.iter().flat_map(|policy| policy.spec.ingress.iter().flatten()) {
        for block in rule.from.iter().filter_map(|peer| peer.ip_block.as_ref()) {
            let is_within = |range: &mizzen_types::IpRange| block.cidr.contains(range.address()) && range.prefix() > block.cidr.prefix();
            assert!(block.except.iter().all(is_within), "{block:?}\n{}", case.yaml);
        }
    }
}

#[test]
fn what_the_mesh_allows_is_never_stopped() {
    let (pods, mut stopped, mut judged) = (pods(), 0, 0);
    for seed in 0..3000 {
        let case = case(seed, false);
        objects_are_valid(&case);
        for call in pods.iter().flat_map(|to| calls(&case, &pods, to)) {
            let (passes, is_let_in) = (may_pass(&case.policies, &call), is_admitted(&case.made, &call));
            assert!(is_let_in || !passes, "seed {seed}\n{}\n{call:#?}\n{:#?}", case.yaml, case.made);
            (judged, stopped) = (judged + 1, stopped + usize::from(!is_let_in));
        }
    }
    assert!(stopped * 10 > judged, "of {judged} calls {stopped} were stopped: the search shows nothing");
}

#[test]
fn what_l4_can_say_is_said_exactly() {
    let pods = pods();
    for seed in 0..2000 {
        let case = case(seed, true);
        // Who comes without an identity from a pod that has one is told apart by the mesh alone.
        for call in pods.iter().flat_map(|to| calls(&case, &pods, to)) {
            let is_plain = call.from.is_some_and(|pod| pod.has_proxy) && (call.identity.is_none() || case.is_wide);
            let (passes, is_let_in) = (may_pass(&case.policies, &call), is_admitted(&case.made, &call));
            assert!(
                is_plain || !call.from.is_none_or(|pod| pod.has_proxy) || passes == is_let_in,
                "seed {seed}\n{}\n{call:#?}\n{:#?}",
                case.yaml,
                case.made
            );
        }
    }
}
