//! Who the control plane is, and what it may do: each rule with its reason.

use mizzen_api::Kind;
use mizzen_control::names::{self, CLUSTER_ROLE, INJECTOR, UNTAINT_ROLE};
use serde_json::{Value, json};

use super::{super::settings::NAMESPACE, meta, webhooks::VALIDATOR};

/// The control plane's account.
pub(super) const ACCOUNT: &str = "istiod";
/// What following a kind takes.
const FOLLOW: &[&str] = &["list", "watch"];
const READ: &[&str] = &["get", "list", "watch"];

/// A rule, and why it is needed.
pub(super) struct Rule {
    pub(super) why: &'static str,
    pub(super) groups: &'static [&'static str],
    pub(super) resources: &'static [&'static str],
    /// Only these objects; all if it is empty.
    pub(super) names: &'static [&'static str],
    pub(super) verbs: &'static [&'static str],
}

impl Rule {
    /// In words.
    pub(super) fn line(&self) -> String {
        format!("{} {}: {}", self.verbs.join(", "), self.resources.join(", "), self.why)
    }
}

/// What it may do in the whole cluster.
const CLUSTER: [Rule; 9] = [
    Rule {
        why: "services, their endpoints and the pods behind them are the mesh; nodes say in which zone a pod runs, and what their kubelet can do; \
              namespaces carry labels of injection; accounts are identities",
        groups: &[""],
        resources: &["services", "pods", "nodes", "namespaces", "serviceaccounts"],
        names: &[],
        verbs: FOLLOW,
    },
    Rule { why: "the endpoints of services", groups: &["discovery.k8s.io"], resources: &["endpointslices"], names: &[], verbs: FOLLOW },
    Rule {
        why: "a proxy's token is shown to the API server, which says whose it is",
        groups: &["authentication.k8s.io"],
        resources: &["tokenreviews"],
        names: &[],
        verbs: &["create"],
    },
    Rule {
        why: "before a gateway gets a Secret, the API server is asked whether the gateway's account may have it",
        groups: &["authorization.k8s.io"],
        resources: &["subjectaccessreviews"],
        names: &[],
        verbs: &["create"],
    },
    Rule {
        why: "the root certificate is written into every namespace of the mesh, since pods mount it from their own, and put back where it is changed",
        groups: &[""],
        resources: &["configmaps"],
        names: &[names::ROOT],
        verbs: &["list", "watch", "patch"],
    },
    Rule {
        why: "the same where it is missing: a rule about making objects cannot name them, for what is made by POST has no name in its path",
        groups: &[""],
        resources: &["configmaps"],
        names: &[],
        verbs: &["create"],
    },
    Rule {
        why: "the authority by which the API server knows the injector is kept current in its configuration",
        groups: &["admissionregistration.k8s.io"],
        resources: &["mutatingwebhookconfigurations"],
        names: &[INJECTOR],
        verbs: &["list", "watch", "patch"],
    },
    Rule {
        why: "the same for the validator, which closes once it answers",
        groups: &["admissionregistration.k8s.io"],
        resources: &["validatingwebhookconfigurations"],
        names: &[VALIDATOR],
        verbs: &["list", "watch", "patch"],
    },
    Rule {
        why: "what it has to say of an object stands beside the object",
        groups: &["events.k8s.io"],
        resources: &["events"],
        names: &[],
        verbs: &["create", "patch"],
    },
];

/// What it may do in its own namespace.
const OWN: [Rule; 5] = [
    Rule {
        why: "MeshConfig and the values of injection",
        groups: &[""],
        resources: &["configmaps"],
        names: &[names::SETTINGS, INJECTOR],
        verbs: FOLLOW,
    },
    Rule {
        why: "the keys of the certificate authority: brought by somebody, or its own",
        groups: &[""],
        resources: &["secrets"],
        names: &[names::PLUGGED_IN, names::SELF_SIGNED],
        verbs: READ,
    },
    Rule {
        why: "its own keys, once: a rule about making objects cannot name them",
        groups: &[""],
        resources: &["secrets"],
        names: &[],
        verbs: &["create"],
    },
    Rule {
        why: "which of several control planes writes: the holder of this one",
        groups: &["coordination.k8s.io"],
        resources: &["leases"],
        names: &[names::LEASE],
        verbs: &["get", "update"],
    },
    Rule {
        why: "the same where it is missing: a rule about making objects cannot name them",
        groups: &["coordination.k8s.io"],
        resources: &["leases"],
        names: &[],
        verbs: &["create"],
    },
];

/// What it may do where gateways run: in namespaces where this role is bound, and in no other. Whoever runs a gateway elsewhere binds it there.
const CREDENTIALS: [Rule; 1] = [Rule {
    why: "certificates that Gateways name by credentialName are secrets in the namespace of the gateway's pods",
    groups: &[""],
    resources: &["secrets"],
    names: &[],
    verbs: READ,
}];

/// What it may do beside it where it takes a taint from nodes: Kubernetes has no right to a single field of theirs.
const UNTAINT: [Rule; 1] = [Rule {
    why: "the taint cni.istio.io/not-ready is taken from nodes on which the agent of their plugin is ready",
    groups: &[""],
    resources: &["nodes"],
    names: &[],
    verbs: &["get", "patch"],
}];

/// Istio's kinds: read, one by one where a status is written anew, and told what became of them. By plural names, since `*` would also be what is not known.
fn configuration() -> Vec<Value> {
    let mut rules = Vec::new();
    let groups: std::collections::BTreeSet<&str> = istio().map(Kind::group).collect();
    for group in groups {
        let plurals: Vec<&str> = istio().filter(|kind| kind.group() == group).map(Kind::plural).collect();
        let statuses: Vec<String> = plurals.iter().map(|plural| format!("{plural}/status")).collect();
        rules.push(json!({ "apiGroups": [group], "resources": plurals, "verbs": READ }));
        rules.push(json!({ "apiGroups": [group], "resources": statuses, "verbs": ["patch"] }));
    }
    rules
}

/// Istio's kinds that are custom resources.
pub(super) fn istio() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| mizzen_api::crd(*kind).is_some())
}

/// For a role of this name: its rules in words, for whoever reads the manifest.
pub(super) fn reasons(name: &str) -> Vec<String> {
    let rules: &[Rule] = match name {
        CLUSTER_ROLE => &CLUSTER,
        "istiod" => &OWN,
        CREDENTIALS_ROLE => &CREDENTIALS,
        UNTAINT_ROLE => &UNTAINT,
        _ => &[],
    };
    let mut lines: Vec<String> = rules.iter().map(Rule::line).collect();
    if name == CLUSTER_ROLE {
        lines.push("Istio's kinds: the configuration, and its status, addresses of ServiceEntries that name none among it".to_owned());
    }
    lines
}

/// What the control plane may do where gateways run: bound beside each gateway.
pub(super) const CREDENTIALS_ROLE: &str = "istiod-gateway-credentials-istio-system";

/// The group of roles.
const GROUP: &str = "rbac.authorization.k8s.io";

fn app() -> Value {
    json!({ "app": ACCOUNT })
}

/// Metadata of something of the whole cluster.
fn of_cluster(name: &str) -> Value {
    json!({ "name": name, "labels": app() })
}

fn subjects() -> Value {
    json!([{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }])
}

fn role_ref(kind: &str, name: &str) -> Value {
    json!({ "apiGroup": GROUP, "kind": kind, "name": name })
}

fn rules(rules: &[Rule]) -> Vec<Value> {
    rules.iter().map(rule).collect()
}

/// The right to take a taint from nodes, for a control plane that is told to do so.
pub(super) fn untaint() -> Vec<Value> {
    let version = format!("{GROUP}/v1");
    vec![
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": of_cluster(UNTAINT_ROLE), "rules": rules(&UNTAINT) }),
        json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": of_cluster(UNTAINT_ROLE),
            "roleRef": role_ref("ClusterRole", UNTAINT_ROLE), "subjects": subjects(),
        }),
    ]
}

/// The control plane's account, its roles, and what binds them to it.
pub(in super::super) fn objects() -> Vec<Value> {
    let version = format!("{GROUP}/v1");
    let subjects = subjects();
    let whole = [rules(&CLUSTER), configuration()].concat();
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(ACCOUNT, app()) }),
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": of_cluster(CLUSTER_ROLE), "rules": whole }),
        json!({
            "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": of_cluster(CLUSTER_ROLE),
            "roleRef": role_ref("ClusterRole", CLUSTER_ROLE), "subjects": subjects,
        }),
        json!({ "apiVersion": version, "kind": "Role", "metadata": meta(ACCOUNT, app()), "rules": rules(&OWN) }),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": meta(ACCOUNT, app()),
            "roleRef": role_ref("Role", ACCOUNT), "subjects": subjects,
        }),
        json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": of_cluster(CREDENTIALS_ROLE), "rules": rules(&CREDENTIALS) }),
    ]
}

/// As Kubernetes has it.
pub(super) fn rule(rule: &Rule) -> Value {
    let mut value = json!({ "apiGroups": rule.groups, "resources": rule.resources, "verbs": rule.verbs });
    if !rule.names.is_empty() {
        value["resourceNames"] = json!(rule.names);
    }
    value
}
