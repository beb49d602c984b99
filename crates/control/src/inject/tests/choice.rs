//! Which pods get a proxy.

use super::*;

/// The namespace's labels, the pod's labels, the pod's annotations, the values, and what comes of it.
fn check(namespace: &[(&str, &str)], labels: Value, annotations: Value, values: Value, want: Option<Skip>) {
    let facts = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let facts = NamespaceFacts { name: "shop".into(), labels: facts(namespace), ..NamespaceFacts::default() };
    let mut pod = plain();
    pod["metadata"]["labels"] = labels.clone();
    pod["metadata"]["annotations"] = annotations.clone();
    let got = match inject(&pod, &facts, &config(values.clone())).unwrap() {
        Outcome::Skip(skip) => Some(skip),
        Outcome::Patched { .. } => None,
    };
    assert_eq!(got, want, "{namespace:?} {labels} {annotations} {values}");
}

const ENABLED: &[(&str, &str)] = &[("istio-injection", "enabled")];
const DISABLED: &[(&str, &str)] = &[("istio-injection", "disabled")];

#[test]
fn labels_of_namespaces_and_pods() {
    let inject = |text: &str| json!({ "sidecar.istio.io/inject": text });
    let none = || json!({});
    let v = || json!(null);
    check(ENABLED, none(), none(), v(), None);
    check(&[], none(), none(), v(), Some(Skip::NotAsked));
    check(DISABLED, none(), none(), v(), Some(Skip::NamespaceDisabled));
    check(&[("istio-injection", "yes")], none(), none(), v(), Some(Skip::NotAsked));
    // A pod may ask where its namespace says nothing, and not where that says no.
    check(&[], inject("true"), none(), v(), None);
    check(DISABLED, inject("true"), none(), v(), Some(Skip::NamespaceDisabled));
    check(ENABLED, inject("false"), none(), v(), Some(Skip::PodDisabled));
    check(ENABLED, none(), inject("false"), v(), Some(Skip::PodDisabled));
    check(ENABLED, none(), inject("On"), v(), None);
    check(ENABLED, none(), inject("perhaps"), v(), Some(Skip::PodDisabled));
    // The label beats the annotation.
    check(ENABLED, inject("true"), inject("false"), v(), None);
    check(ENABLED, inject("false"), inject("true"), v(), Some(Skip::PodDisabled));
    // Namespaces that say nothing, where they are asked for.
    let by_default = || json!({ "sidecarInjectorWebhook": { "enableNamespacesByDefault": true } });
    check(&[], none(), none(), by_default(), None);
    check(DISABLED, none(), none(), by_default(), Some(Skip::NamespaceDisabled));
    check(&[], inject("false"), none(), by_default(), Some(Skip::PodDisabled));
}

#[test]
fn revisions() {
    let rev = |text: &str| json!({ "istio.io/rev": text });
    let (none, canary) = (|| json!({}), || json!({ "revision": "canary" }));
    check(&[("istio.io/rev", "canary")], none(), none(), canary(), None);
    check(&[("istio.io/rev", "canary")], none(), none(), json!(null), Some(Skip::OtherRevision));
    check(&[("istio.io/rev", "default")], none(), none(), json!(null), None);
    check(&[], rev("canary"), none(), canary(), None);
    check(&[], rev("canary"), none(), json!(null), Some(Skip::OtherRevision));
    // The older label beats the revision's, and means the default one.
    check(&[("istio-injection", "enabled"), ("istio.io/rev", "canary")], none(), none(), canary(), Some(Skip::OtherRevision));
    check(&[("istio-injection", "enabled"), ("istio.io/rev", "canary")], none(), none(), json!(null), None);
}

#[test]
fn selectors_and_the_policy() {
    let webhook = |value: Value| json!({ "sidecarInjectorWebhook": value });
    let matches = json!([{ "matchLabels": { "app": "job" } }]);
    let exists =
        json!([{ "matchExpressions": [{ "key": "app", "operator": "Exists" }, { "key": "tier", "operator": "NotIn", "values": ["db"] }] }]);
    let job = || json!({ "app": "job" });
    check(ENABLED, job(), json!({}), webhook(json!({ "neverInjectSelector": matches })), Some(Skip::NeverSelector));
    check(ENABLED, json!({ "app": "web" }), json!({}), webhook(json!({ "neverInjectSelector": matches })), None);
    check(ENABLED, job(), json!({}), webhook(json!({ "neverInjectSelector": exists })), Some(Skip::NeverSelector));
    let db = json!({ "app": "job", "tier": "db" });
    check(ENABLED, db, json!({}), webhook(json!({ "neverInjectSelector": exists })), None);
    let both = webhook(json!({ "neverInjectSelector": matches, "alwaysInjectSelector": matches }));
    check(ENABLED, job(), json!({}), both.clone(), Some(Skip::NeverSelector));
    // What the pod says comes before.
    check(ENABLED, job(), json!({ "sidecar.istio.io/inject": "true" }), both, None);
    let mut off = json!({ "global": { "proxy": { "autoInject": "disabled" } } });
    check(ENABLED, job(), json!({}), off.clone(), Some(Skip::PolicyDisabled));
    check(ENABLED, json!({ "sidecar.istio.io/inject": "true" }), json!({}), off.clone(), None);
    off["sidecarInjectorWebhook"] = json!({ "alwaysInjectSelector": matches });
    check(ENABLED, job(), json!({}), off, None);
    // A selector without conditions selects nothing.
    check(ENABLED, job(), json!({}), webhook(json!({ "neverInjectSelector": [{}] })), None);
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
