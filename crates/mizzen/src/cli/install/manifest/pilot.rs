//! The control plane: its Deployment, its Service, and what it reads at its start.

use mizzen_control::names;
use serde_json::{Map, Value, json};

use super::{
    super::settings::{NAMESPACE, Settings, merge},
    STATE, annotations, budget, meta, placed,
    rbac::ACCOUNT,
    replicas, resources,
};

/// Who runs it in its container: not root, and nobody of the image.
const USER: u32 = 1337;

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let selector = json!({ "app": "istiod", "istio": "pilot" });
    vec![
        mesh_config(settings),
        values(settings),
        state(settings),
        service(&selector),
        deployment(settings, &selector),
        budget("istiod", &selector),
    ]
}

fn mesh_config(settings: &Settings) -> Value {
    let mesh = serde_saphyr::to_string(&settings.mesh_config).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(names::SETTINGS, json!({})),
        "data": { names::MESH: mesh, "meshNetworks": "networks: {}\n" },
    })
}

/// What injection needs to know; where nothing is said, the control plane has its defaults.
fn values(settings: &Settings) -> Value {
    let mut values = json!({ "global": { "istioNamespace": NAMESPACE }, "sidecarInjectorWebhook": {} });
    for part in ["global", "sidecarInjectorWebhook"] {
        if let Some(said) = settings.value(part) {
            merge(&mut values[part], said.clone());
        }
    }
    // Istio's variable by which it is chosen whether sidecars are native is the control plane's, and read by injection.
    if let Some(env) = settings.value("pilot.env") {
        values["pilot"] = json!({ "env": env });
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

fn service(selector: &Value) -> Value {
    let port = |name: &str, port: u16, target: u16| json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" });
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta("istiod", selector.clone()),
        "spec": {
            "ports": [port("https-dns", 15012, 15012), port("https-webhook", 443, 15017), port("http-monitoring", 15014, 15014)],
            "selector": selector,
        },
    })
}

fn deployment(settings: &Settings, selector: &Value) -> Value {
    let mut pod = json!({
        "serviceAccountName": ACCOUNT,
        "securityContext": { "fsGroup": USER, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container(settings)],
        "volumes": [{ "name": "run", "emptyDir": { "medium": "Memory" } }],
    });
    placed(&mut pod, settings, "pilot");
    let mut labels = selector.clone();
    // A control plane with a sidecar would wait for itself.
    merge(&mut labels, json!({ "sidecar.istio.io/inject": "false", "istio.io/rev": "default" }));
    let mut notes = json!({ "prometheus.io/port": "15014", "prometheus.io/scrape": "true" });
    merge(&mut notes, annotations(settings, "pilot.podAnnotations"));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("istiod", selector.clone()),
        "spec": {
            "replicas": replicas(settings, "pilot"),
            // The new one serves before the old one goes.
            "strategy": { "rollingUpdate": { "maxSurge": "100%", "maxUnavailable": 0 } },
            "selector": { "matchLabels": selector },
            "template": { "metadata": { "labels": labels, "annotations": notes }, "spec": pod },
        },
    })
}

fn container(settings: &Settings) -> Value {
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    if let Some(policy) = settings.value("global.jwtPolicy") {
        env.push(json!({ "name": "JWT_POLICY", "value": policy }));
    }
    let said = settings.value("pilot.env").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
    env.extend(said.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        json!({ "name": name, "value": text })
    }));
    let mut container = json!({
        "name": "discovery",
        "image": format!("{}/pilot:{}", settings.hub, settings.tag),
        "args": ["--kubernetes", "--socket-dir", "/run/mizzen"],
        "env": env,
        "ports": [port("grpc-xds", 15012), port("https-webhook", 15017), port("http-monitoring", 15014)],
        "readinessProbe": { "httpGet": { "path": "/ready", "port": 15014 }, "initialDelaySeconds": 1, "periodSeconds": 3, "timeoutSeconds": 5 },
        "resources": resources(settings, "pilot", "100m", "128Mi"),
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
            "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true,
        },
        "volumeMounts": [{ "name": "run", "mountPath": "/run/mizzen" }],
    });
    if let Some(policy) = settings.value("global.imagePullPolicy") {
        container["imagePullPolicy"] = policy.clone();
    }
    container
}
