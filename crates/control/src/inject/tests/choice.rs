//! Which pods get a proxy.

use super::*;

/// The pod's labels, its annotations, the values, and what comes of it.
fn check(labels: Value, annotations: Value, values: Value, want: Option<Skip>) {
    let mut pod = plain();
    pod["metadata"]["labels"] = labels.clone();
    pod["metadata"]["annotations"] = annotations.clone();
    let got = match inject(&pod, &shop(), &config(values.clone())).unwrap() {
        Outcome::Skip(skip) => Some(skip),
        Outcome::Patched { .. } => None,
    };
    assert_eq!(got, want, "{labels} {annotations} {values}");
}

#[test]
fn what_pods_say() {
    let inject = |text: &str| json!({ "sidecar.istio.io/inject": text });
    let none = || json!({});
    let v = || json!(null);
    // Whoever asks has looked at the labels of the namespace.
    check(none(), none(), v(), None);
    check(inject("true"), none(), v(), None);
    check(inject("false"), none(), v(), Some(Skip::PodDisabled));
    check(none(), inject("false"), v(), Some(Skip::PodDisabled));
    check(none(), inject("On"), v(), None);
    check(none(), inject("perhaps"), v(), Some(Skip::PodDisabled));
    // The label beats the annotation.
    check(inject("true"), inject("false"), v(), None);
    check(inject("false"), inject("true"), v(), Some(Skip::PodDisabled));
}

#[test]
fn selectors_and_the_policy() {
    let webhook = |value: Value| json!({ "sidecarInjectorWebhook": value });
    let matches = json!([{ "matchLabels": { "app": "job" } }]);
    let exists =
        json!([{ "matchExpressions": [{ "key": "app", "operator": "Exists" }, { "key": "tier", "operator": "NotIn", "values": ["db"] }] }]);
    let job = || json!({ "app": "job" });
    check(job(), json!({}), webhook(json!({ "neverInjectSelector": matches })), Some(Skip::NeverSelector));
    check(json!({ "app": "web" }), json!({}), webhook(json!({ "neverInjectSelector": matches })), None);
    check(job(), json!({}), webhook(json!({ "neverInjectSelector": exists })), Some(Skip::NeverSelector));
    let db = json!({ "app": "job", "tier": "db" });
    check(db, json!({}), webhook(json!({ "neverInjectSelector": exists })), None);
    let both = webhook(json!({ "neverInjectSelector": matches, "alwaysInjectSelector": matches }));
    check(job(), json!({}), both.clone(), Some(Skip::NeverSelector));
    // What the pod says comes before.
    check(job(), json!({ "sidecar.istio.io/inject": "true" }), both, None);
    let mut off = json!({ "global": { "proxy": { "autoInject": "disabled" } } });
    check(job(), json!({}), off.clone(), Some(Skip::PolicyDisabled));
    check(json!({ "sidecar.istio.io/inject": "true" }), json!({}), off.clone(), None);
    off["sidecarInjectorWebhook"] = json!({ "alwaysInjectSelector": matches });
    check(job(), json!({}), off, None);
    // A selector without conditions selects nothing.
    check(job(), json!({}), webhook(json!({ "neverInjectSelector": [{}] })), None);
}

#[test]
fn what_is_never_injected() {
    let skip = |pod: &Value, facts: &NamespaceFacts| match inject(pod, facts, &config(json!(null))).unwrap() {
        Outcome::Skip(skip) => skip,
        Outcome::Patched { pod, .. } => panic!("{pod:#}"),
    };
    assert_eq!(skip(&pod(json!({}), json!({ "hostNetwork": true })), &shop()), Skip::HostNetwork);
    assert_eq!(skip(&plain(), &NamespaceFacts { name: "kube-system".into(), ..shop() }), Skip::SystemNamespace);
    let (injected, _) = patched(&plain(), &config(json!(null)));
    assert_eq!(skip(&injected, &shop()), Skip::Injected);
}
