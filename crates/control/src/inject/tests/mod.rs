//! Pods in, pods out; three whole ones as reviewed text (`snapshots/`), all else as tables.

mod choice;
mod limits;
mod parts;

use mizzen_api::istio::MeshConfig;
use serde_json::{Value, json};

use super::*;

fn shop() -> NamespaceFacts {
    NamespaceFacts { name: "shop".into(), ..NamespaceFacts::default() }
}

fn mesh(text: &str) -> MeshConfig {
    mizzen_api::parse_mesh_config(text, &"mesh".into()).unwrap().0
}

fn config(values: Value) -> InjectConfig {
    let mut config = InjectConfig::new(&MeshConfig::default(), &values, true).unwrap();
    // Of the build, which changes.
    config.proxy.tag = "1.0".to_owned();
    config
}

/// A pod of a Deployment, with these annotations and this over its spec.
fn pod(annotations: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "reviews-6f7c9-",
            "labels": { "app": "reviews", "version": "v1", "pod-template-hash": "6f7c9" },
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-6f7c9", "uid": "u", "controller": true }],
        },
        "spec": {
            "serviceAccountName": "reviews",
            "containers": [{
                "name": "reviews", "image": "reviews:1", "ports": [{ "name": "http", "containerPort": 9080, "protocol": "TCP" }],
            }],
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn plain() -> Value {
    pod(json!({}), json!({}))
}

/// The pod with its proxy, and the warnings; and the patch leads there.
fn patched(pod: &Value, config: &InjectConfig) -> (Value, Vec<String>) {
    match inject(pod, &shop(), config).unwrap() {
        Outcome::Patched { pod: new, patch, warnings } => {
            let mut by_patch = pod.clone();
            json_patch::patch(&mut by_patch, &patch).unwrap();
            assert_eq!(by_patch, new);
            (new, warnings)
        }
        Outcome::Skip(skip) => panic!("{skip}"),
    }
}

fn refused(pod: &Value, config: &InjectConfig) -> String {
    inject(pod, &shop(), config).unwrap_err().to_string()
}

/// A container by its name, in whichever list it is.
fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    lists.flatten().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}: {pod:#}"))
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let items = pod["spec"][list].as_array().into_iter().flatten();
    items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

fn variable(pod: &Value, name: &str) -> Option<String> {
    let env = container(pod, "istio-proxy")["env"].as_array().unwrap();
    env.iter().find(|variable| variable["name"] == name)?["value"].as_str().map(str::to_owned)
}

/// What follows a flag of istio-init.
fn flag(pod: &Value, flag: &str) -> Option<String> {
    let args = container(pod, "istio-init")["args"].as_array().unwrap();
    let place = args.iter().position(|arg| arg == flag)?;
    Some(args[place + 1].as_str().unwrap().to_owned())
}

fn text(pod: &Value) -> String {
    format!("{pod:#}")
}

#[test]
fn a_native_sidecar() {
    let probe = json!({ "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 2 });
    let mut pod = plain();
    pod["spec"]["containers"][0]["readinessProbe"] = probe;
    pod["spec"]["initContainers"] = json!([{ "name": "migrate", "image": "migrate:1" }]);
    let (pod, warnings) = patched(&pod, &config(json!(null)));
    assert_eq!(warnings, [""; 0]);
    insta::assert_snapshot!(text(&pod));
}

#[test]
fn a_plain_sidecar() {
    let mesh = mesh(
        "{trustDomain: example.org, defaultConfig: {holdApplicationUntilProxyStarts: true, concurrency: 2, proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}}}",
    );
    let values = json!({
        "global": {
            "hub": "registry.example/mizzen", "tag": "1.0", "network": "here", "imagePullSecrets": ["pull"], "imagePullPolicy": "Never",
            "proxy": { "resources": { "requests": { "cpu": "10m" } }, "logLevel": "info" },
        },
    });
    let config = InjectConfig::new(&mesh, &values, false).unwrap();
    let (pod, warnings) = patched(&pod(json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "9080" }), json!({})), &config);
    assert_eq!(warnings, [""; 0]);
    insta::assert_snapshot!(text(&pod));
}

#[test]
fn a_gateway() {
    let mut gateway = pod(json!({ "inject.istio.io/templates": "gateway" }), json!({}));
    let ports = json!([{ "containerPort": 80, "name": "http" }]);
    gateway["spec"]["containers"] =
        json!([{ "name": "istio-proxy", "image": "auto", "ports": ports, "env": [{ "name": "A", "value": "b" }] }]);
    let (pod, warnings) = patched(&gateway, &config(json!(null)));
    assert_eq!(warnings, [""; 0]);
    insta::assert_snapshot!(text(&pod));
}
