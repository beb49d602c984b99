//! Where the API server asks the control plane: about pods that get a sidecar, and about Istio's objects.

use mizzen_api::core::SYSTEM_NAMESPACES;
use mizzen_control::names::INJECTOR;
use serde_json::{Value, json};

use super::{
    super::settings::{NAMESPACE, Settings},
    rbac::istio,
};

/// The configuration of validation, of the control plane in this namespace.
pub(super) const VALIDATOR: &str = "istio-validator-istio-system";

const INJECT: &str = "sidecar.istio.io/inject";
const NAMESPACE_LABEL: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";

/// Four questions, of which a pod meets one at most: is it asked for by the namespace or by the pod, by a revision or at large?
/// A pod that says no is never asked about, and a namespace that says anything is not overruled by a pod's label of a revision.
pub(super) fn injector(settings: &Settings) -> Value {
    let is = |key: &str, values: &[&str]| json!({ "key": key, "operator": "In", "values": values });
    let is_not = |key: &str, values: &[&str]| json!({ "key": key, "operator": "NotIn", "values": values });
    let unset = |key: &str| json!({ "key": key, "operator": "DoesNotExist" });
    let not_refused = is_not(INJECT, &["false"]);
    let again = settings.value("sidecarInjectorWebhook.reinvocationPolicy").cloned().unwrap_or_else(|| json!("Never"));
    let webhook = |name: &str, namespace: Value, object: Value| {
        json!({
            "name": format!("{name}.sidecar-injector.istio.io"),
            "clientConfig": service("/inject"),
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "*" }],
            "namespaceSelector": { "matchExpressions": namespace },
            "objectSelector": { "matchExpressions": object },
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            // A pod without its sidecar would be in the mesh's namespaces and outside of its rules.
            "failurePolicy": "Fail",
            "reinvocationPolicy": again,
            "matchPolicy": "Equivalent",
            "timeoutSeconds": 10,
        })
    };
    let silent = || json!([unset(NAMESPACE_LABEL), unset(REVISION)]);
    let mut webhooks = vec![
        webhook("rev.namespace", json!([is(REVISION, &["default"]), unset(NAMESPACE_LABEL)]), json!([not_refused])),
        webhook("rev.object", silent(), json!([not_refused, is(REVISION, &["default"])])),
        webhook("namespace", json!([is(NAMESPACE_LABEL, &["enabled"])]), json!([not_refused])),
        webhook("object", silent(), json!([is(INJECT, &["true"]), unset(REVISION)])),
    ];
    if settings.flag("sidecarInjectorWebhook.enableNamespacesByDefault") {
        let namespaces = json!([unset(NAMESPACE_LABEL), unset(REVISION), is_not("kubernetes.io/metadata.name", &SYSTEM_NAMESPACES)]);
        webhooks.push(webhook("auto", namespaces, json!([unset(INJECT), unset(REVISION)])));
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": INJECTOR, "labels": { "app": "sidecar-injector" } },
        "webhooks": webhooks,
    })
}

/// The configuration of validation, open as it is before the control plane closes it.
pub(in super::super) fn validator() -> Value {
    let groups: std::collections::BTreeSet<&str> = istio().map(mizzen_api::Kind::group).collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": VALIDATOR, "labels": { "app": "istiod", "istio": "istiod" } },
        "webhooks": [{
            "name": "validation.istio.io",
            "clientConfig": service("/validate"),
            "rules": [{ "apiGroups": groups, "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": ["*"], "scope": "*" }],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            // Nobody answers yet. The control plane sets Fail when it does.
            "failurePolicy": "Ignore",
            "matchPolicy": "Equivalent",
            "timeoutSeconds": 10,
        }],
    })
}

/// The control plane's server of webhooks. Its authority is not known yet: the control plane writes it there.
fn service(path: &str) -> Value {
    json!({ "service": { "name": "istiod", "namespace": NAMESPACE, "path": path, "port": 443 } })
}
