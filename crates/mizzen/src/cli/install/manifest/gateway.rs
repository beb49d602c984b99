//! The ingress gateway: a pod whose only container the control plane fills in, as in any gateway that users deploy themselves.

use serde_json::{Value, json};

use super::{
    super::settings::{NAMESPACE, Settings, merge},
    annotations, budget, meta, placed, replicas, resources,
};

const NAME: &str = "istio-ingressgateway";
const ACCOUNT: &str = "istio-ingressgateway-service-account";
/// Istio's name for the role by which the gateway may have Secrets.
const CREDENTIALS: &str = "istio-ingressgateway-sds";
const VALUES: &str = "gateways.istio-ingressgateway";

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let selector = json!({ "app": NAME, "istio": "ingressgateway" });
    let group = "rbac.authorization.k8s.io";
    let version = format!("{group}/v1");
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(ACCOUNT, selector.clone()) }),
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
        deployment(settings, &selector),
        service(settings, &selector),
        budget(NAME, &selector),
    ]
}

fn deployment(settings: &Settings, selector: &Value) -> Value {
    let mut pod = json!({
        "serviceAccountName": ACCOUNT,
        // The proxy is not root, and listens on the ports that Gateways name.
        "securityContext": { "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }] },
        "containers": [{
            "name": "istio-proxy",
            // Injection puts the proxy's image here.
            "image": "auto",
            "ports": [{ "name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP" }],
            "resources": resources(settings, VALUES, "100m", "64Mi"),
            "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "privileged": false, "readOnlyRootFilesystem": true,
                "runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true,
            },
        }],
    });
    placed(&mut pod, settings, VALUES);
    let mut labels = selector.clone();
    merge(&mut labels, json!({ "sidecar.istio.io/inject": "true" }));
    let mut notes = json!({ "inject.istio.io/templates": "gateway" });
    merge(&mut notes, annotations(settings, &format!("{VALUES}.podAnnotations")));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(NAME, selector.clone()),
        "spec": {
            "replicas": replicas(settings, VALUES),
            "strategy": { "rollingUpdate": { "maxSurge": "100%", "maxUnavailable": 0 } },
            "selector": { "matchLabels": selector },
            "template": { "metadata": { "labels": labels, "annotations": notes }, "spec": pod },
        },
    })
}

fn service(settings: &Settings, selector: &Value) -> Value {
    let said = |name: &str| settings.value(&format!("{VALUES}.{name}")).cloned();
    let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": port, "protocol": "TCP" });
    let ports = || json!([port("status-port", 15021), port("http2", 80), port("https", 443)]);
    let mut metadata = meta(NAME, selector.clone());
    metadata["annotations"] = annotations(settings, &format!("{VALUES}.serviceAnnotations"));
    let mut spec = json!({
        "type": said("type").unwrap_or_else(|| json!("LoadBalancer")),
        "selector": selector,
        "ports": said("ports").unwrap_or_else(ports),
    });
    if let Some(ranges) = said("loadBalancerSourceRanges") {
        spec["loadBalancerSourceRanges"] = ranges;
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })
}
