//! The ingress gateway: a pod whose only container the control plane fills in, as in any gateway that users deploy themselves.

use serde_json::{Value, json};

use super::{
    super::settings::{NAMESPACE, Settings, merge},
    environment, meta, placed,
    rbac::{self, CREDENTIALS_ROLE},
    scaled::Scaled,
    words,
};

const NAME: &str = "istio-ingressgateway";
const ACCOUNT: &str = "istio-ingressgateway-service-account";
/// Istio's name for the role by which the gateway may have Secrets.
const CREDENTIALS: &str = "istio-ingressgateway-sds";
const VALUES: &str = "gateways.istio-ingressgateway";
/// By this binding the control plane reads the Secrets of the gateway's namespace.
const READ: &str = "istio-ingressgateway-istiod-credentials";

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let selector = json!({ "app": NAME, "istio": "ingressgateway" });
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    let budget = format!("{VALUES}.podDisruptionBudget");
    let scaled = Scaled { name: NAME, selector: &selector, values: VALUES, budget: &budget };
    let mut account = meta(ACCOUNT, selector.clone());
    account["annotations"] = words(settings, &format!("{VALUES}.serviceAccount.annotations"));
    let service = service(settings, &selector);
    let policy = scaled.network_policy(settings, &open(&service));
    let mut objects = vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account }),
        // What Gateways name as credentialName is given to a gateway whose account may list the Secrets of its namespace, as with Istio, or has this verb.
        // The API server knows no request of it, so that with it nobody reads a Secret: in this namespace the mesh's own keys are among them.
        json!({
            "apiVersion": version, "kind": "Role", "metadata": meta(CREDENTIALS, selector.clone()),
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["serve"] }],
        }),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": meta(CREDENTIALS, selector.clone()),
            "roleRef": { "apiGroup": group, "kind": "Role", "name": CREDENTIALS },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
        }),
        json!({
            "apiVersion": version, "kind": "RoleBinding", "metadata": meta(READ, selector.clone()),
            "roleRef": { "apiGroup": group, "kind": "ClusterRole", "name": CREDENTIALS_ROLE },
            "subjects": [{ "kind": "ServiceAccount", "name": rbac::ACCOUNT, "namespace": NAMESPACE }],
        }),
        deployment(settings, &scaled),
        service,
    ];
    objects.extend(scaled.objects(settings));
    objects.extend(policy);
    objects
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

fn deployment(settings: &Settings, scaled: &Scaled<'_>) -> Value {
    let mut pod = json!({
        "serviceAccountName": ACCOUNT,
        // The proxy is not root, and listens on the ports that Gateways name.
        "securityContext": { "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }] },
        "containers": [{
            "name": "istio-proxy",
            // Injection puts the proxy's image here.
            "image": "auto",
            "ports": [{ "name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP" }],
            "resources": settings.value(&format!("{VALUES}.resources")).cloned().unwrap_or_else(|| json!({})),
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "privileged": false, "readOnlyRootFilesystem": true,
                "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true,
            },
        }],
    });
    let env = environment(settings, &format!("{VALUES}.env"));
    if !env.is_empty() {
        pod["containers"][0]["env"] = json!(env);
    }
    if let Some(policy) = settings.text("global.imagePullPolicy") {
        pod["containers"][0]["imagePullPolicy"] = json!(policy);
    }
    placed(&mut pod, settings, VALUES);
    let mut labels = scaled.selector.clone();
    merge(&mut labels, json!({ "sidecar.istio.io/inject": "true" }));
    let mut notes = json!({ "inject.istio.io/templates": "gateway" });
    merge(&mut notes, words(settings, &format!("{VALUES}.podAnnotations")));
    let mut spec = json!({
        "strategy": scaled.strategy(settings),
        "selector": { "matchLabels": scaled.selector },
        "template": { "metadata": { "labels": labels, "annotations": notes }, "spec": pod },
    });
    scaled.count(&mut spec, settings);
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(NAME, scaled.selector.clone()), "spec": spec })
}

fn service(settings: &Settings, selector: &Value) -> Value {
    let said = |name: &str| settings.value(&format!("{VALUES}.{name}")).cloned();
    let mut metadata = meta(NAME, selector.clone());
    metadata["annotations"] = words(settings, &format!("{VALUES}.serviceAnnotations"));
    let mut spec = json!({ "selector": selector });
    for name in ["type", "ports", "loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy"] {
        if let Some(value) = said(name) {
            spec[name] = value;
        }
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}
