//! What captures pods on their nodes: a DaemonSet that installs a plugin for it, and what that may do.

use serde_json::{Value, json};

use super::{
    super::settings::{NAMESPACE, Settings, merge},
    image, meta, on_nodes,
    rbac::{Rule, rule},
    word, words,
};

const NAME: &str = "istio-cni-node";
const ACCOUNT: &str = "istio-cni";
/// The role for what it sees of the cluster.
const SEES: &str = "istio-cni";
const VALUES: &str = "cni";
/// The class of its pods.
const CLASS: &str = "system-node-critical";
/// The folder that the agent shares with the plugin, for a socket.
const RUN: &str = "/var/run/istio-cni";

/// What is done about pods that have started without their capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Repair,
    Delete,
    Label,
    Off,
}

impl Mode {
    fn of(settings: &Settings) -> Mode {
        let is = |name: &str| settings.flag(&format!("{VALUES}.repair.{name}"));
        match () {
            () if !is("enabled") => Mode::Off,
            () if is("repairPods") => Mode::Repair,
            () if is("deletePods") => Mode::Delete,
            () if is("labelPods") => Mode::Label,
            () => Mode::Off,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Mode::Repair => "repair",
            Mode::Delete => "delete",
            Mode::Label => "label",
            Mode::Off => "off",
        }
    }

    /// What it takes of the API server: a role's name and its rule.
    fn role(self) -> Option<(&'static str, &'static Rule)> {
        match self {
            Mode::Delete => Some(("istio-cni-delete", &DELETE)),
            Mode::Label => Some(("istio-cni-label", &LABEL)),
            Mode::Repair | Mode::Off => None,
        }
    }
}

const PODS: Rule = Rule {
    why: "pods of its node that wait for their capture; where a container runtime does not pass a pod's annotations to the plugin, the agent reads them",
    groups: &[""],
    resources: &["pods"],
    names: &[],
    verbs: &["list", "watch"],
};
const DELETE: Rule =
    Rule { why: "pods that wait for their capture are made again", groups: &[""], resources: &["pods"], names: &[], verbs: &["delete"] };
const LABEL: Rule =
    Rule { why: "pods that wait for their capture get a label", groups: &[""], resources: &["pods"], names: &[], verbs: &["patch"] };
const ITSELF: Rule = Rule {
    why: "whether it ends because it is removed, with the plugin, or because it is replaced",
    groups: &["apps"],
    resources: &["daemonsets"],
    names: &[NAME],
    verbs: &["get", "list", "watch"],
};

/// For a role of this name: its rules in words.
pub(super) fn reasons(name: &str) -> Vec<String> {
    let more = [Mode::Delete, Mode::Label].into_iter().filter_map(Mode::role);
    let roles = [(SEES, &PODS), (NAME, &ITSELF)].into_iter().chain(more);
    roles.filter(|(role, _)| *role == name).map(|(_, rule)| rule.line()).collect()
}

fn labels() -> Value {
    json!({ "k8s-app": NAME })
}

/// All of it: the account before its rights, and these before whoever needs them.
pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let repair = Mode::of(settings);
    let mut objects = vec![json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(ACCOUNT, labels()) })];
    objects.extend(settings.flag("cni.resourceQuotas.enabled").then(|| quota(settings)));
    objects.extend(bound("ClusterRole", SEES, &PODS));
    objects.extend(bound("Role", NAME, &ITSELF));
    objects.extend(repair.role().into_iter().flat_map(|(name, rule)| bound("ClusterRole", name, rule)));
    objects.push(daemon_set(settings, repair));
    objects
}

/// What allows pods of the agent's class where a cluster has that only for namespaces in which something does.
fn quota(settings: &Settings) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta("istio-cni-resource-quota", labels()),
        "spec": {
            "hard": { "pods": settings.text("cni.resourceQuotas.pods").unwrap_or_default() },
            "scopeSelector": { "matchExpressions": [{ "operator": "In", "scopeName": "PriorityClass", "values": [CLASS] }] },
        },
    })
}

/// A role with one rule, and what binds it to the account.
fn bound(kind: &str, name: &str, of: &Rule) -> [Value; 2] {
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let metadata = match kind {
        "Role" => meta(name, labels()),
        _ => json!({ "name": name, "labels": labels() }),
    };
    [
        json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "rules": [rule(of)] }),
        json!({
            "apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": kind, "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
        }),
    ]
}

fn daemon_set(settings: &Settings, repair: Mode) -> Value {
    let path = |name: &str| settings.text(&format!("{VALUES}.{name}")).unwrap_or_default();
    let folder = |name: &str, path: &str, kind: &str| json!({ "name": name, "hostPath": { "path": path, "type": kind } });
    let mut volumes = vec![
        folder("cni-bin-dir", &path("cniBinDir"), "DirectoryOrCreate"),
        folder("cni-net-dir", &path("cniConfDir"), "DirectoryOrCreate"),
        folder("cni-run-dir", RUN, "DirectoryOrCreate"),
    ];
    if repair == Mode::Repair {
        volumes.push(folder("proc", "/proc", "Directory"));
    }
    let mut pod = json!({
        "serviceAccountName": ACCOUNT,
        // It has to start on a node whose network names a plugin that is not there.
        "hostNetwork": true,
        "priorityClassName": CLASS,
        "terminationGracePeriodSeconds": 30,
        "containers": [container(settings, repair)],
        "volumes": volumes,
    });
    on_nodes(&mut pod, settings, VALUES);
    let mut more = words(settings, "cni.podLabels");
    merge(&mut more, labels());
    merge(&mut more, json!({ "sidecar.istio.io/inject": "false", "istio.io/rev": "default" }));
    let mut notes = json!({ "prometheus.io/port": "15014", "prometheus.io/scrape": "true" });
    merge(&mut notes, words(settings, "cni.podAnnotations"));
    let missing = settings.value("cni.rollingMaxUnavailable").cloned().unwrap_or_else(|| json!(1));
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta(NAME, labels()),
        "spec": {
            "selector": { "matchLabels": labels() },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": missing } },
            "template": { "metadata": { "labels": more, "annotations": notes }, "spec": pod },
        },
    })
}

fn container(settings: &Settings, repair: Mode) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut args = vec!["agent".to_owned(), format!("--repair={}", repair.name())];
    let excluded = settings.value("cni.excludeNamespaces").and_then(Value::as_array);
    args.push(format!("--exclude-namespaces={}", excluded.into_iter().flatten().map(word).collect::<Vec<_>>().join(",")));
    if let Some(file) = settings.text("cni.cniConfFileName") {
        args.push(format!("--conf-file={file}"));
    }
    if let Some(level) = settings.text("cni.logging.level") {
        args.push(format!("--log_output_level={level}"));
    }
    let mut mounts = vec![
        json!({ "name": "cni-bin-dir", "mountPath": "/host/opt/cni/bin" }),
        json!({ "name": "cni-net-dir", "mountPath": "/host/etc/cni/net.d" }),
        json!({ "name": "cni-run-dir", "mountPath": RUN }),
    ];
    let mut capabilities = json!({ "drop": ["ALL"] });
    if repair == Mode::Repair {
        mounts.push(json!({ "name": "proc", "mountPath": "/host/proc", "readOnly": true }));
        // Another pod's namespace is found by a process of it (SYS_PTRACE), entered (SYS_ADMIN), and its rules are set (NET_ADMIN).
        capabilities["add"] = json!(["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
    }
    let mut security = json!({
        // The node's folders are root's. With SYS_ADMIN Kubernetes takes no other value here than true.
        "allowPrivilegeEscalation": repair == Mode::Repair,
        "capabilities": capabilities,
        "privileged": false, "readOnlyRootFilesystem": true, "runAsGroup": 0, "runAsNonRoot": false, "runAsUser": 0,
    });
    if let Some(profile) = settings.filled("cni.seccompProfile") {
        security["seccompProfile"] = profile.clone();
    }
    if repair == Mode::Repair {
        // The profile that runtimes give lets a process look at none but those of its own profile, whatever its capabilities.
        security["appArmorProfile"] = json!({ "type": "Unconfined" });
    }
    let mut container = json!({
        "name": "install-cni",
        "image": image(settings, VALUES, "install-cni"),
        "args": args,
        "env": [field("NODE_NAME", "spec.nodeName"), field("POD_NAMESPACE", "metadata.namespace")],
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": 8000 }, "periodSeconds": 2, "timeoutSeconds": 5 },
        "resources": settings.value("cni.resources").cloned().unwrap_or_else(|| json!({})),
        "securityContext": security,
        "volumeMounts": mounts,
    });
    if let Some(policy) = settings.text("global.imagePullPolicy") {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}
