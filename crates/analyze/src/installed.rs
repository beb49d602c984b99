//! What an installation of Istio brings along, for configurations that do not hold it.

/// Objects that rules ask for and that those who write files of their own rarely have beside them: the control plane's namespace and service, and the
/// webhooks of injection. Nothing is said of them. Whoever analyzes files puts those that the files do not have themselves; the ingress gateway is that of
/// [`Options::default_gateway`](crate::Options::default_gateway).
pub const INSTALLED: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: istio-system, annotations: {galley.istio.io/analyze-suppress: "*"}}
---
apiVersion: v1
kind: Service
metadata: {name: istiod, namespace: istio-system, annotations: {galley.istio.io/analyze-suppress: "*"}}
spec:
  ports:
  - {name: https-webhook, port: 443, targetPort: 15017}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: istio-sidecar-injector
  labels: {istio.io/rev: default}
  annotations: {galley.istio.io/analyze-suppress: "*"}
webhooks:
- name: namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system}}
  namespaceSelector:
    matchExpressions:
    - {key: istio-injection, operator: In, values: [enabled]}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}
- name: rev.namespace.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system}}
  namespaceSelector:
    matchExpressions:
    - {key: istio.io/rev, operator: Exists}
    - {key: istio-injection, operator: DoesNotExist}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}
- name: object.sidecar-injector.istio.io
  clientConfig: {service: {name: istiod, namespace: istio-system}}
  namespaceSelector:
    matchExpressions:
    - {key: istio.io/rev, operator: DoesNotExist}
    - {key: istio-injection, operator: DoesNotExist}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: In, values: ["true"]}
"#;
