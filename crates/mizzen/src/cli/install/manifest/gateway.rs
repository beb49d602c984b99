//! A gateway: a pod whose only container the control plane fills in, as in any gateway that users deploy themselves, with an account of its own.

use serde_json::{Value, json};

use super::{
    super::{
        gateways::Gateway,
        settings::{NAMESPACE, Settings, merge},
    },
    environment, families, placed,
    rbac::{self, CREDENTIALS_ROLE},
    scaled::Scaled,
    words,
};

/// What names the objects of a gateway.
impl Gateway {
    fn account(&self) -> String {
        format!("{}-service-account", self.name)
    }

    fn meta(&self, name: &str) -> Value {
        json!({ "name": name, "namespace": self.namespace, "labels": self.labels })
    }

    fn path(&self, value: &str) -> String {
        format!("{}.{value}", self.values)
    }
}

pub(super) fn objects(settings: &Settings, gateway: &Gateway) -> Vec<Value> {
    let (metadata, selector, budget) = (gateway.meta(&gateway.name), gateway.selector(), gateway.path("podDisruptionBudget"));
    let scaled = Scaled { metadata: &metadata, selector: &selector, values: &gateway.values, budget: &budget };
    let mut account = gateway.meta(&gateway.account());
    account["annotations"] = words(settings, &gateway.path("serviceAccount.annotations"));
    let service = service(settings, gateway);
    let policy = scaled.network_policy(settings, &open(&service));
    let mut objects = vec![json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account })];
    objects.extend(roles(gateway));
    objects.extend([deployment(settings, gateway, &scaled), service]);
    objects.extend(scaled.objects(settings));
    objects.extend(policy);
    objects
}

fn roles(gateway: &Gateway) -> [Value; 3] {
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    // Istio's name for the role by which the gateway may have Secrets, and the binding by which the control plane reads those of the gateway's namespace.
    let (credentials, read) = (format!("{}-sds", gateway.name), format!("{}-istiod-credentials", gateway.name));
    [
        // What Gateways name as credentialName is given to a gateway whose account may list the Secrets of its namespace, as with Istio, or has this verb.
        // The API server knows no request of it, so that with it nobody reads a Secret: in istio-system the mesh's own keys are among them.
        json!({
            "apiVersion": version, "kind": "Role", "metadata": gateway.meta(&credentials),
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["serve"] }],
        }),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": gateway.meta(&credentials),
            "roleRef": { "apiGroup": group, "kind": "Role", "name": credentials },
            "subjects": [{ "kind": "ServiceAccount", "name": gateway.account(), "namespace": gateway.namespace }],
        }),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": gateway.meta(&read),
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": CREDENTIALS_ROLE },
            "subjects": [{ "kind": "ServiceAccount", "name": rbac::ACCOUNT, "namespace": NAMESPACE }],
        }),
    ]
}

/// The ports of its pods on which others call it: those of its Service, readiness and metrics.
fn open(service: &Value) -> Vec<Value> {
    let mut ports = vec![json!(15020), json!(15021), json!(15090)];
    for port in service["spec"]["ports"].as_array().into_iter().flatten() {
        let target = port.get("targetPort").unwrap_or(&port["port"]);
        if !ports.contains(target) {
            ports.push(target.clone());
        }
    }
    ports
}

/// The Deployment, or the DaemonSet that is wanted in its place.
fn deployment(settings: &Settings, gateway: &Gateway, scaled: &Scaled<'_>) -> Value {
    let mut pod = json!({
        "serviceAccountName": gateway.account(),
        // The proxy is not root, and listens on the ports that Gateways name.
        "securityContext": { "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }] },
        "containers": [{
            "name": "istio-proxy",
            // Injection puts the proxy's image here.
            "image": "auto",
            "ports": [{ "name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP" }],
            "resources": settings.value(&gateway.path("resources")).cloned().unwrap_or_else(|| json!({})),
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "privileged": false, "readOnlyRootFilesystem": true,
                "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true,
            },
        }],
    });
    let mut env = environment(settings, &gateway.path("env"));
    env.extend(settings.value(&gateway.path("envVarFrom")).and_then(Value::as_array).into_iter().flatten().cloned());
    if !env.is_empty() {
        pod["containers"][0]["env"] = json!(env);
    }
    if let Some(policy) = settings.text(&gateway.path("imagePullPolicy")).or_else(|| settings.text("global.imagePullPolicy")) {
        pod["containers"][0]["imagePullPolicy"] = json!(policy);
    }
    mount(&mut pod, settings, gateway);
    placed(&mut pod, settings, &gateway.values);
    if let Some(class) = settings.text(&gateway.path("priorityClassName")) {
        pod["priorityClassName"] = json!(class);
    }
    let mut labels = gateway.labels.clone();
    merge(&mut labels, json!({ "sidecar.istio.io/inject": "true" }));
    let mut notes = json!({ "inject.istio.io/templates": "gateway" });
    merge(&mut notes, words(settings, &gateway.path("podAnnotations")));
    let kind = settings.text(&gateway.path("kind")).unwrap_or_else(|| "Deployment".to_owned());
    let is_counted = kind == "Deployment";
    let mut spec = json!({
        (if is_counted { "strategy" } else { "updateStrategy" }): scaled.strategy(settings),
        "selector": { "matchLabels": scaled.selector },
        "template": { "metadata": { "labels": labels, "annotations": notes }, "spec": pod },
    });
    if is_counted {
        scaled.count(&mut spec, settings);
    }
    json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": scaled.metadata, "spec": spec })
}

/// Volumes as Kubernetes writes them, then Secrets and ConfigMaps by their short forms: as with Istio these need not be there, and are only read.
fn mount(pod: &mut Value, settings: &Settings, gateway: &Gateway) {
    let said = |name: &str| settings.value(&gateway.path(name)).and_then(Value::as_array).cloned().unwrap_or_default();
    let (mut volumes, mut mounts) = (said("volumes"), said("volumeMounts"));
    for (list, source, field, name) in
        [("secretVolumes", "secret", "secretName", "secretName"), ("configVolumes", "configMap", "configMapName", "name")]
    {
        for volume in said(list) {
            volumes.push(json!({ "name": volume["name"], (source): { (name): volume[field], "optional": true } }));
            mounts.push(json!({ "name": volume["name"], "mountPath": volume["mountPath"], "readOnly": true }));
        }
    }
    if !volumes.is_empty() {
        pod["volumes"] = json!(volumes);
    }
    if !mounts.is_empty() {
        pod["containers"][0]["volumeMounts"] = json!(mounts);
    }
}

fn service(settings: &Settings, gateway: &Gateway) -> Value {
    let mut metadata = gateway.meta(&gateway.name);
    metadata["annotations"] = words(settings, &gateway.path("serviceAnnotations"));
    let mut spec = json!({ "selector": gateway.selector() });
    for name in ["type", "ports", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy"] {
        if let Some(value) = settings.value(&gateway.path(name)) {
            spec[name] = value.clone();
        }
    }
    families(&mut spec, settings, |name| gateway.path(name));
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}
