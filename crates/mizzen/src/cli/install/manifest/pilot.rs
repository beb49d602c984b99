//! The control plane: its Deployment, its Service, and what it reads at its start.

use mizzen_control::names;
use serde_json::{Value, json};

use super::{
    super::settings::{NAMESPACE, Settings, merge},
    STATE, environment, families, image, meta, placed,
    rbac::ACCOUNT,
    scaled::Scaled,
    word, words,
};

/// Who runs it in its container: not root, and nobody of the image.
const USER: u32 = 1337;

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let selector = json!({ "app": "istiod", "istio": "pilot" });
    let metadata = meta("istiod", selector.clone());
    let scaled = Scaled { metadata: &metadata, selector: &selector, values: "pilot", budget: "pilot.pdb" };
    let mut objects =
        vec![mesh_config(settings), values(settings), state(settings), service(settings, &selector), deployment(settings, &scaled)];
    objects.extend(scaled.objects(settings));
    objects.extend(scaled.network_policy(settings, &PORTS.map(|(_, port)| json!(port))));
    objects
}

/// What its container listens on for others.
const PORTS: [(&str, u16); 3] = [("grpc-xds", 15012), ("https-webhook", 15017), ("http-monitoring", 15014)];

fn mesh_config(settings: &Settings) -> Value {
    let mesh = serde_saphyr::to_string(&settings.mesh_config).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(names::SETTINGS, json!({})),
        "data": { names::MESH: mesh, "meshNetworks": "networks: {}\n" },
    })
}

/// What injection needs to know; where nothing is said, and no default stands in the table of values, the control plane has its own.
fn values(settings: &Settings) -> Value {
    let mut values = json!({ "global": { "istioNamespace": NAMESPACE }, "sidecarInjectorWebhook": {} });
    for part in ["global", "sidecarInjectorWebhook"] {
        if let Some(said) = settings.value(part) {
            merge(&mut values[part], said.clone());
        }
    }
    // Istio's variable by which it is chosen whether sidecars are native is the control plane's, and read by injection.
    if let Some(env) = settings.filled("pilot.env") {
        values["pilot"] = json!({ "env": env });
    }
    if settings.flag("pilot.cni.enabled") {
        merge(&mut values, json!({ "pilot": { "cni": { "enabled": true } } }));
    }
    values["global"]["hub"] = json!(settings.hub);
    values["global"]["tag"] = json!(settings.tag);
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(names::INJECTOR, json!({})),
        "data": { names::VALUES: format!("{values:#}\n") },
    })
}

/// What was asked for, for those who ask later whether it is there.
fn state(settings: &Settings) -> Value {
    let operator = json!({
        "apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator", "spec": settings.to_spec(),
    });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(STATE, json!({})),
        "data": { "settings": format!("{operator:#}\n") },
    })
}

fn service(settings: &Settings, selector: &Value) -> Value {
    let port = |name: &str, port: u16, target: u16| json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" });
    let mut metadata = meta("istiod", selector.clone());
    metadata["annotations"] = words(settings, "pilot.serviceAnnotations");
    let mut spec = json!({
        "ports": [port("https-dns", 15012, 15012), port("https-webhook", 443, 15017), port("http-monitoring", 15014, 15014)],
        "selector": selector,
    });
    families(&mut spec, settings, |name| format!("pilot.{name}"));
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}

/// Whether it takes from nodes the taint with which they wait for the agent of their plugin.
pub(super) fn takes_taints(settings: &Settings) -> bool {
    settings.flag("pilot.taint.enabled")
}

fn deployment(settings: &Settings, scaled: &Scaled<'_>) -> Value {
    let mut pod = json!({
        "serviceAccountName": ACCOUNT,
        "securityContext": { "fsGroup": USER },
        "containers": [container(settings)],
        "volumes": list(settings, "pilot.volumes", json!({ "name": "run", "emptyDir": { "medium": "Memory" } })),
    });
    if let Some(profile) = settings.filled("pilot.seccompProfile") {
        pod["securityContext"]["seccompProfile"] = profile.clone();
    }
    placed(&mut pod, settings, "pilot");
    if takes_taints(settings) {
        // Where all nodes wait for it, it would wait for a node.
        let theirs = settings.value("pilot.tolerations").and_then(Value::as_array).into_iter().flatten().cloned();
        pod["tolerations"] = theirs.chain([json!({ "key": names::NOT_READY, "operator": "Exists" })]).collect();
    }
    let mut labels = words(settings, "pilot.podLabels");
    merge(&mut labels, scaled.selector.clone());
    // A control plane with a sidecar would wait for itself.
    merge(&mut labels, json!({ "sidecar.istio.io/inject": "false", "istio.io/rev": "default" }));
    let mut notes = json!({ "prometheus.io/port": "15014", "prometheus.io/scrape": "true" });
    merge(&mut notes, words(settings, "pilot.podAnnotations"));
    let mut metadata = meta("istiod", words(settings, "pilot.deploymentLabels"));
    merge(&mut metadata["labels"], scaled.selector.clone());
    metadata["annotations"] = words(settings, "pilot.deploymentAnnotations");
    let mut spec = json!({
        "strategy": scaled.strategy(settings),
        "selector": { "matchLabels": scaled.selector },
        "template": { "metadata": { "labels": labels, "annotations": notes }, "spec": pod },
    });
    scaled.count(&mut spec, settings);
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec })
}

/// What every installation has, and what is said beside it.
fn list(settings: &Settings, path: &str, ours: Value) -> Vec<Value> {
    let said = settings.value(path).and_then(Value::as_array);
    std::iter::once(ours).chain(said.into_iter().flatten().cloned()).collect()
}

fn container(settings: &Settings) -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    if let Some(policy) = settings.text("global.jwtPolicy") {
        env.push(json!({ "name": "JWT_POLICY", "value": policy }));
    }
    let mut own = ["--kubernetes", "--socket-dir", names::SOCKETS].map(str::to_owned).to_vec();
    if takes_taints(settings) {
        env.push(json!({ "name": "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS", "value": "true" }));
        own.extend(settings.text("pilot.taint.namespace").map(|namespace| format!("--cniNamespace={namespace}")));
    }
    env.extend(environment(settings, "pilot.env"));
    env.extend(settings.value("pilot.envVarFrom").and_then(Value::as_array).into_iter().flatten().cloned());
    let more = settings.value("pilot.extraContainerArgs").and_then(Value::as_array);
    let args: Vec<String> = own.into_iter().chain(more.into_iter().flatten().map(word)).collect();
    let mut container = json!({
        "name": "discovery",
        "image": image(settings, "pilot", "pilot"),
        "args": args,
        "env": env,
        "ports": PORTS.map(|(name, port)| json!({ "name": name, "containerPort": port, "protocol": "TCP" })),
        "readinessProbe": { "httpGet": { "path": "/ready", "port": 15014 }, "initialDelaySeconds": 1, "periodSeconds": 3, "timeoutSeconds": 5 },
        "resources": settings.value("pilot.resources").cloned().unwrap_or_else(|| json!({})),
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
            "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true,
        },
        "volumeMounts": list(settings, "pilot.volumeMounts", json!({ "name": "run", "mountPath": "/run/mizzen" })),
    });
    if let Some(policy) = settings.text("global.imagePullPolicy") {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}
