//! What nobody writes in earnest: it ends in an error or a result, soon.

use super::*;

#[test]
fn malformed_pods() {
    let check = |pod: Value, want: &str| assert_eq!(refused(&pod, &config(json!(null))), want, "{pod}");
    check(json!([]), "pod: must be a map, is a list");
    check(json!({}), "spec.containers: must be a list of at least one container");
    check(json!({ "kind": "Deployment", "spec": {} }), "kind: must be Pod, is \"Deployment\"");
    check(json!({ "spec": 1 }), "spec: must be a map, is a number");
    check(json!({ "spec": { "containers": [1] } }), "spec.containers[0]: must be a map");
    check(json!({ "spec": { "containers": [{ "image": "a" }] } }), "spec.containers[0].name: must be the container's name");
    let twice = json!({ "spec": { "containers": [{ "name": "a" }], "initContainers": [{ "name": "a" }] } });
    check(twice, "spec.initContainers[0].name: a is the name of another container too");
    let number = json!({ "metadata": { "labels": { "version": 1 } }, "spec": { "containers": [{ "name": "a" }] } });
    check(number, "metadata.labels.version: must be a text, is a number: put it in quotes");
    check(pod(json!({}), json!({ "volumes": 1 })), "spec.volumes: must be a list, is a number");
    check(pod(json!({}), json!({ "volumes": [1] })), "spec.volumes[0]: must be a map");
}

#[test]
fn ten_thousand_containers() {
    let probe = json!({ "tcpSocket": { "port": "p9" } });
    let ports: Vec<Value> = (0..10).map(|i| json!({ "name": format!("p{i}"), "containerPort": 9000 + i })).collect();
    let containers: Vec<Value> = (0..10_000).map(|i| json!({ "name": format!("c{i}"), "ports": ports, "livenessProbe": probe })).collect();
    let volumes: Vec<Value> = (0..10_000).map(|i| json!({ "name": format!("v{i}"), "emptyDir": {} })).collect();
    let many = pod(json!({}), json!({ "containers": containers, "initContainers": [], "volumes": volumes }));
    let (pod, _) = patched(&many, &config(json!(null)));
    let probers: Value = serde_json::from_str(&variable(&pod, "ISTIO_KUBE_APP_PROBERS").unwrap()).unwrap();
    assert_eq!(probers.as_object().unwrap().len(), 10_000);
    assert_eq!(probers["/app-health/c9999/livez"], json!({ "tcpSocket": { "port": 9009 } }));
}

#[test]
fn a_long_list_of_the_authors_own() {
    let env: Vec<Value> = (0..20_000).map(|i| json!({ "name": format!("A{}", i % 15_000), "value": i.to_string() })).collect();
    let own = json!([{ "name": "app" }, { "name": "istio-proxy", "image": "auto", "env": env }]);
    let (pod, _) = patched(&pod(json!({}), json!({ "containers": own })), &config(json!(null)));
    assert_eq!(variable(&pod, "A14999").as_deref(), Some("14999"));
    assert_eq!(variable(&pod, "A0").as_deref(), Some("15000"), "the last one counts");
}

#[test]
fn long_and_deep_texts() {
    let megabyte = "x".repeat(1 << 20);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let config = config(json!(null));
    for annotation in [
        "proxy.istio.io/config",
        "proxy.istio.io/overrides",
        "inject.istio.io/templates",
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        "sidecar.istio.io/userVolume",
        "status.sidecar.istio.io/port",
        "readiness.status.sidecar.istio.io/periodSeconds",
        "prometheus.io/port",
    ] {
        for text in [&megabyte, &deep] {
            let error = refused(&pod(json!({ annotation: text }), json!({})), &config);
            assert!(error.starts_with(&format!("annotation {annotation}: ")), "{annotation}: {}", &error[..80]);
        }
    }
    let ports = vec!["80"; 300_000].join(",");
    let (pod, _) = patched(&pod(json!({ "traffic.sidecar.istio.io/excludeInboundPorts": ports }), json!({})), &config);
    assert_eq!(flag(&pod, "-d").unwrap(), "15090,15021,15020,80");
}

/// The places of all values.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, &format!("{at}/{i}"), all)),
        Value::Object(map) => {
            map.iter().for_each(|(key, item)| places(item, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all))
        }
        _ => {}
    }
}

/// Each value of a pod in which there is much, replaced by each that it cannot be: an error or a result, and the patch leads to it.
#[test]
fn every_value_is_wrong_once() {
    let get = json!({ "httpGet": { "port": "p", "path": "/", "httpHeaders": [{ "name": "a", "value": "b" }] }, "timeoutSeconds": 1 });
    let app = json!({
        "name": "app", "ports": [{ "name": "p", "containerPort": 80, "protocol": "TCP" }], "livenessProbe": get, "readinessProbe": get,
        "lifecycle": { "preStop": { "tcpSocket": { "port": 1 } } }, "securityContext": { "runAsUser": 1337 }, "restartPolicy": "Always",
    });
    let own = json!({ "name": "istio-proxy", "image": "auto", "env": [{ "name": "A", "value": "b" }], "ports": [{ "containerPort": 1 }], "resources": {} });
    let mut whole = pod(
        json!({
            "proxy.istio.io/config": "concurrency: 1", "proxy.istio.io/overrides": "{\"containers\":[{\"name\":\"istio-proxy\"}]}",
            "sidecar.istio.io/userVolume": "{}", "prometheus.io/scrape": "true", "prometheus.io/port": "80", "sidecar.istio.io/nativeSidecar": "false",
        }),
        json!({ "containers": [app, own], "securityContext": { "sysctls": [{ "name": "a" }] }, "imagePullSecrets": [{ "name": "s" }] }),
    );
    whole["spec"]["initContainers"] = json!([{ "name": "init", "restartPolicy": "Always", "startupProbe": get }]);
    whole["spec"]["volumes"] = json!([{ "name": "istio-data", "emptyDir": {} }]);
    let values = json!({ "global": { "imagePullSecrets": ["pull"], "network": "n" }, "pilot": { "env": { "ENABLE_LEGACY_FSGROUP_INJECTION": "true" } } });
    let config = config(values);
    let mut all = Vec::new();
    places(&whole, "", &mut all);
    assert!(all.len() > 80, "{}", all.len());
    let (mut good, mut bad) = (0, 0);
    for template in ["sidecar", "gateway"] {
        whole["metadata"]["annotations"]["inject.istio.io/templates"] = template.into();
        for place in &all {
            for wrong in [
                json!(null),
                json!(1),
                json!(-1),
                json!(1e300),
                json!(""),
                json!("x"),
                json!(true),
                json!([]),
                json!([1]),
                json!({}),
                json!([[]]),
                json!({ "name": 1 }),
            ] {
                let mut pod = whole.clone();
                *pod.pointer_mut(place).unwrap() = wrong;
                match inject(&pod, &shop(), &config) {
                    Ok(Outcome::Patched { pod: new, patch, .. }) => {
                        json_patch::patch(&mut pod, &patch).unwrap();
                        assert_eq!(pod, new);
                        good += 1;
                    }
                    Ok(Outcome::Skip(_)) => {}
                    Err(error) => {
                        assert!(!error.to_string().contains('\n'), "{error}");
                        bad += 1;
                    }
                }
            }
        }
    }
    assert!(good > 100 && bad > 100, "{good} {bad}");
}
