use std::collections::BTreeSet;

use super::*;

fn settings(spec: Value) -> Settings {
    Settings::of_spec(spec).unwrap().0
}

fn titles(spec: Value) -> Vec<String> {
    objects(&settings(spec))
        .unwrap()
        .iter()
        .map(|part| title(&part.object))
        .filter(|t| !t.starts_with("CustomResourceDefinition"))
        .collect()
}

fn one(spec: Value, name: &str) -> Value {
    let parts = objects(&settings(spec)).unwrap();
    parts.into_iter().find(|part| title(&part.object) == name).unwrap_or_else(|| panic!("no {name}")).object
}

#[test]
fn what_a_profile_has() {
    let minimal = [
        "Namespace istio-system",
        "ServiceAccount istio-system/istiod",
        "ClusterRole istiod-clusterrole-istio-system",
        "ClusterRoleBinding istiod-clusterrole-istio-system",
        "Role istio-system/istiod",
        "RoleBinding istio-system/istiod",
        "ClusterRole istiod-gateway-credentials-istio-system",
        "ValidatingWebhookConfiguration istio-validator-istio-system",
        "MutatingWebhookConfiguration istio-sidecar-injector",
        "ConfigMap istio-system/istio",
        "ConfigMap istio-system/istio-sidecar-injector",
        "ConfigMap istio-system/mizzen-installed-state",
        "Service istio-system/istiod",
        "Deployment istio-system/istiod",
        "PodDisruptionBudget istio-system/istiod",
    ];
    let gateway = [
        "RoleBinding istio-system/istio-ingressgateway-istiod-credentials",
        "ServiceAccount istio-system/istio-ingressgateway-service-account",
        "Role istio-system/istio-ingressgateway-sds",
        "RoleBinding istio-system/istio-ingressgateway-sds",
        "Deployment istio-system/istio-ingressgateway",
        "Service istio-system/istio-ingressgateway",
        "PodDisruptionBudget istio-system/istio-ingressgateway",
    ];
    let policies = ["PeerAuthentication istio-system/default", "AuthorizationPolicy istio-system/allow-nothing"];
    assert_eq!(titles(json!({ "profile": "minimal" })), minimal);
    let with = |more: &[&[&str]]| -> BTreeSet<String> {
        [&minimal[..], &gateway].iter().chain(more).flat_map(|t| t.iter()).map(|t| (*t).to_owned()).collect()
    };
    assert_eq!(titles(json!({})).into_iter().collect::<BTreeSet<_>>(), with(&[]));
    let secure = titles(json!({ "profile": "secure" }));
    assert_eq!(secure.iter().cloned().collect::<BTreeSet<_>>(), with(&[&policies]));
    // The gateway opens after the mesh is closed.
    let at = |name: &str| secure.iter().position(|title| title == name);
    assert!(at(policies[1]) < at("Deployment istio-system/istio-ingressgateway"), "{secure:?}");
}

fn with_cni(values: Value) -> Value {
    json!({ "components": { "cni": { "enabled": true } }, "values": { "cni": values } })
}

#[test]
fn the_nodes_plugin() {
    assert!(!titles(json!({})).iter().any(|title| title.contains("cni")));
    let all = titles(with_cni(json!({})));
    let of_cni: Vec<&str> = all.iter().map(String::as_str).filter(|title| title.contains("cni")).collect();
    let expected = [
        "ServiceAccount istio-system/istio-cni",
        "ClusterRole istio-cni",
        "ClusterRoleBinding istio-cni",
        "Role istio-system/istio-cni-node",
        "RoleBinding istio-system/istio-cni-node",
        "DaemonSet istio-system/istio-cni-node",
    ];
    assert_eq!(of_cni, expected);
    // It is there before anybody who needs it.
    let at = |name: &str| all.iter().position(|title| title == name);
    assert!(at(expected[5]) < at("MutatingWebhookConfiguration istio-sidecar-injector"), "{all:?}");
    let values = |spec: Value| -> Value {
        serde_json::from_str(one(spec, "ConfigMap istio-system/istio-sidecar-injector")["data"]["values"].as_str().unwrap()).unwrap()
    };
    assert_eq!(values(with_cni(json!({})))["pilot"], json!({ "cni": { "enabled": true } }));
    assert!(values(json!({})).get("pilot").is_none());
}

#[test]
fn what_is_done_about_pods_without_their_capture() {
    let check = |repair: Value, mode: &str, role: Option<(&str, &str)>| {
        let spec = with_cni(json!({ "repair": repair }));
        let set = one(spec.clone(), "DaemonSet istio-system/istio-cni-node");
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["args"][1], format!("--repair={mode}"), "{repair}");
        // Only who sets rules has a capability for it, and sees the node's processes.
        let mends = mode == "repair";
        let security = &container["securityContext"];
        assert_eq!(security["capabilities"].get("add").is_some(), mends, "{repair}");
        assert_eq!(security["allowPrivilegeEscalation"], mends, "{repair}");
        assert_eq!(security.get("appArmorProfile").is_some(), mends, "{repair}");
        assert_eq!(set.to_string().contains("/host/proc"), mends, "{repair}");
        let roles: Vec<Value> = objects(&settings(spec))
            .unwrap()
            .into_iter()
            .map(|part| part.object)
            .filter(|object| object["kind"] == "ClusterRole")
            .collect();
        let found =
            roles.iter().find(|found| ["istio-cni-delete", "istio-cni-label"].iter().any(|name| found["metadata"]["name"] == *name));
        let found = found.map(|found| (found["metadata"]["name"].as_str().unwrap(), found["rules"][0]["verbs"][0].as_str().unwrap()));
        assert_eq!(found, role, "{repair}");
    };
    check(json!({}), "repair", None);
    check(json!({ "deletePods": true }), "repair", None);
    check(json!({ "repairPods": false }), "off", None);
    check(json!({ "enabled": false }), "off", None);
    check(json!({ "repairPods": false, "labelPods": true }), "label", Some(("istio-cni-label", "patch")));
    check(json!({ "repairPods": false, "labelPods": true, "deletePods": true }), "delete", Some(("istio-cni-delete", "delete")));
}

#[test]
fn nodes_that_wait_for_the_plugin() {
    let of = |values: Value| json!({ "profile": "minimal", "values": { "pilot": values } });
    let role = format!("ClusterRole {}", mizzen_control::names::UNTAINT_ROLE);
    let binding = role.replace("ClusterRole ", "ClusterRoleBinding ");
    let check = |values: Value, enabled: bool, arg: Option<&str>, tolerations: Value| {
        let all = titles(of(values.clone()));
        assert_eq!([&role, &binding].map(|title| all.contains(title)), [enabled; 2], "{values}");
        let pod = one(of(values.clone()), "Deployment istio-system/istiod")["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0];
        let variable = container["env"].as_array().unwrap().iter().find(|one| one["name"] == "PILOT_ENABLE_NODE_UNTAINT_CONTROLLERS");
        assert_eq!(variable.map(|variable| variable["value"].clone()), enabled.then(|| json!("true")), "{values}");
        let found = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).find(|arg| arg.starts_with("--cniNamespace"));
        assert_eq!(found, arg, "{values}");
        assert_eq!(pod["tolerations"], tolerations, "{values}");
    };
    let ours = || json!({ "key": "cni.istio.io/not-ready", "operator": "Exists" });
    let theirs = || json!({ "key": "dedicated", "operator": "Exists" });
    check(json!({}), false, None, Value::Null);
    check(json!({ "taint": { "enabled": false, "namespace": "x" }, "tolerations": [theirs()] }), false, None, json!([theirs()]));
    check(json!({ "taint": { "enabled": true } }), true, None, json!([ours()]));
    let elsewhere = json!({ "taint": { "enabled": true, "namespace": "kube-system" }, "tolerations": [theirs()] });
    check(elsewhere, true, Some("--cniNamespace=kube-system"), json!([theirs(), ours()]));
}

#[test]
fn every_object_is_found_again() {
    for part in objects(&settings(json!({ "profile": "secure", "components": { "cni": { "enabled": true } } }))).unwrap() {
        let what = title(&part.object);
        let kind = super::super::cluster::Installed::of(&part.object).unwrap();
        assert_eq!(part.object["kind"], kind.kind);
        assert_eq!(part.object["metadata"]["labels"][OWNER.0], OWNER.1, "{what}");
        assert_eq!(part.object["metadata"]["labels"][COMPONENT], part.component.name(), "{what}");
        let namespaced = part.object["metadata"]["namespace"].is_string();
        assert!(!namespaced || part.object["metadata"]["namespace"] == "istio-system", "{what}");
    }
    let names: Vec<String> = objects(&settings(json!({}))).unwrap().iter().map(|part| title(&part.object)).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "each has one place");
}

#[test]
fn no_role_may_more_than_it_says() {
    let cni = |mode: &str| with_cni(json!({ "repair": { "repairPods": false, mode: true } }));
    for (spec, name) in [
        (json!({}), "ClusterRole istiod-clusterrole-istio-system"),
        (json!({}), "ClusterRole istiod-gateway-credentials-istio-system"),
        (json!({}), "Role istio-system/istiod"),
        (json!({ "values": { "pilot": { "taint": { "enabled": true } } } }), "ClusterRole istiod-untaint-istio-system"),
        (with_cni(json!({})), "ClusterRole istio-cni"),
        (with_cni(json!({})), "Role istio-system/istio-cni-node"),
        (cni("deletePods"), "ClusterRole istio-cni-delete"),
        (cni("labelPods"), "ClusterRole istio-cni-label"),
    ] {
        let role = one(spec, name);
        let rules = role["rules"].as_array().unwrap();
        assert!(!rules.is_empty());
        for rule in rules {
            assert!(!rule.to_string().contains("\"*\""), "{name}: {rule}");
            let secrets = rule["resources"].as_array().unwrap().contains(&json!("secrets"));
            assert!(!secrets || !name.contains("clusterrole"), "secrets of the whole cluster are not its business: {rule}");
        }
        let reasons = reasons(role["metadata"]["name"].as_str().unwrap());
        let configuration = rules.iter().filter(|rule| rule["apiGroups"][0].as_str().unwrap().ends_with("istio.io")).count();
        let told = reasons.len() - usize::from(configuration > 0);
        assert_eq!(told, rules.len() - configuration, "{name}");
    }
}

/// Whether a selector takes labels.
fn selects(selector: &Value, labels: &[(&str, &str)]) -> bool {
    selector["matchExpressions"].as_array().unwrap().iter().all(|expression| {
        let value = labels.iter().find(|(name, _)| expression["key"] == *name).map(|(_, value)| json!(value));
        let within = |value: &Value| expression["values"].as_array().unwrap().contains(value);
        match expression["operator"].as_str().unwrap() {
            "In" => value.is_some_and(|value| within(&value)),
            "NotIn" => !value.is_some_and(|value| within(&value)),
            "DoesNotExist" => value.is_none(),
            other => panic!("{other}"),
        }
    })
}

#[test]
fn which_pods_the_injector_is_asked_about() {
    let named = |spec: Value| one(spec, "MutatingWebhookConfiguration istio-sidecar-injector");
    let injector = named(json!({}));
    let asked = |injector: &Value, namespace: &[(&str, &str)], pod: &[(&str, &str)]| -> Vec<String> {
        let webhooks = injector["webhooks"].as_array().unwrap().iter();
        let takes = |w: &&Value| selects(&w["namespaceSelector"], namespace) && selects(&w["objectSelector"], pod);
        webhooks.filter(takes).map(|w| w["name"].as_str().unwrap().trim_end_matches(".sidecar-injector.istio.io").to_owned()).collect()
    };
    let (on, off) = (("istio-injection", "enabled"), ("istio-injection", "disabled"));
    let (default, other) = (("istio.io/rev", "default"), ("istio.io/rev", "canary"));
    let (yes, no) = (("sidecar.istio.io/inject", "true"), ("sidecar.istio.io/inject", "false"));
    for (namespace, pod, webhook) in [
        (vec![], vec![], None),
        (vec![on], vec![], Some("namespace")),
        (vec![on], vec![yes], Some("namespace")),
        (vec![on], vec![no], None),
        (vec![on, other], vec![], Some("namespace")),
        (vec![off], vec![yes], None),
        (vec![off], vec![default], None),
        (vec![default], vec![], Some("rev.namespace")),
        (vec![default], vec![no], None),
        (vec![other], vec![], None),
        (vec![other], vec![yes], None),
        (vec![], vec![yes], Some("object")),
        (vec![], vec![default], Some("rev.object")),
        (vec![], vec![default, yes], Some("rev.object")),
        (vec![], vec![other, yes], None),
        (vec![], vec![default, no], None),
    ] {
        let found = asked(&injector, &namespace, &pod);
        assert_eq!(found, webhook.into_iter().collect::<Vec<_>>(), "{namespace:?} {pod:?}");
    }
    let injector =
        named(json!({ "values": { "sidecarInjectorWebhook": { "enableNamespacesByDefault": true, "reinvocationPolicy": "IfNeeded" } } }));
    assert!(injector["webhooks"].as_array().unwrap().iter().all(|webhook| webhook["reinvocationPolicy"] == "IfNeeded"));
    let system = ("kubernetes.io/metadata.name", "kube-system");
    for (namespace, pod, webhook) in [
        (vec![], vec![], Some("auto")),
        (vec![on], vec![], Some("namespace")),
        (vec![off], vec![], None),
        (vec![other], vec![], None),
        (vec![system], vec![], None),
        (vec![], vec![no], None),
        (vec![], vec![yes], Some("object")),
        (vec![], vec![default], Some("rev.object")),
        (vec![], vec![other], None),
    ] {
        let found = asked(&injector, &namespace, &pod);
        assert_eq!(found, webhook.into_iter().collect::<Vec<_>>(), "{namespace:?} {pod:?}");
    }
}

#[test]
fn pods_that_are_counted() {
    let values = |values: Value| json!({ "values": values });
    let scaled = values(json!({ "pilot": { "autoscaleEnabled": true, "autoscaleMin": 2, "memory": { "targetAverageUtilization": 70 } } }));
    let scaler = one(scaled.clone(), "HorizontalPodAutoscaler istio-system/istiod");
    let metric = |name: &str, share: u32| json!({ "type": "Resource", "resource": { "name": name, "target": { "type": "Utilization", "averageUtilization": share } } });
    let spec = json!({
        "minReplicas": 2, "maxReplicas": 5, "metrics": [metric("cpu", 80), metric("memory", 70)],
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "istiod" },
    });
    assert_eq!(scaler["spec"], spec);
    assert!(one(scaled, "Deployment istio-system/istiod")["spec"].get("replicas").is_none(), "two would count");
    let budget = |said: Value| one(values(json!({ "pilot": { "pdb": said } })), "PodDisruptionBudget istio-system/istiod")["spec"].clone();
    let selector = json!({ "matchLabels": { "app": "istiod", "istio": "pilot" } });
    assert_eq!(budget(json!({})), json!({ "minAvailable": 1, "selector": selector }));
    assert_eq!(budget(json!({ "maxUnavailable": 0 })), json!({ "maxUnavailable": 0, "selector": selector }));
    let none = titles(values(json!({ "global": { "defaultPodDisruptionBudget": { "enabled": false } } })));
    assert!(!none.iter().any(|title| title.starts_with("PodDisruptionBudget")), "{none:?}");
}

#[test]
fn families_of_services() {
    let of = |values: Value, name: &str| {
        let spec = one(json!({ "values": values }), &format!("Service istio-system/{name}"))["spec"].take();
        (spec["ipFamilies"].clone(), spec["ipFamilyPolicy"].clone())
    };
    let none = (Value::Null, Value::Null);
    let empty = json!({ "global": { "ipFamilies": [], "ipFamilyPolicy": "" } });
    let all = json!({ "global": { "dualStack": true, "ipFamilyPolicy": "PreferDualStack" } });
    let single = json!({ "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack" });
    let own = |mut values: Value| {
        values["pilot"] = single.clone();
        values["gateways"] = json!({ "istio-ingressgateway": single });
        values
    };
    for name in ["istiod", "istio-ingressgateway"] {
        assert_eq!(of(json!({}), name), none, "{name}");
        assert_eq!(of(empty.clone(), name), none, "{name}");
        assert_eq!(of(all.clone(), name), (Value::Null, json!("PreferDualStack")), "{name}");
        assert_eq!(of(own(all.clone()), name), (json!(["IPv6"]), json!("SingleStack")), "{name}");
    }
}

#[test]
fn who_may_call_the_meshs_own_pods() {
    assert!(!titles(json!({})).iter().any(|title| title.starts_with("NetworkPolicy")));
    let ports =
        json!([{ "name": "http", "port": 80, "targetPort": 8080 }, { "name": "tls", "port": 443 }, { "name": "status", "port": 15021 }]);
    let spec = json!({ "values": {
        "global": { "networkPolicy": { "enabled": true }, "priorityClassName": "first" },
        "gateways": { "istio-ingressgateway": { "ports": ports } },
    } });
    for (name, ports) in [("istiod", vec![15012, 15017, 15014]), ("istio-ingressgateway", vec![15020, 15021, 15090, 8080, 443])] {
        let policy = one(spec.clone(), &format!("NetworkPolicy istio-system/{name}"));
        let open: Vec<Value> = ports.into_iter().map(|port| json!({ "port": port, "protocol": "TCP" })).collect();
        assert_eq!(policy["spec"]["ingress"], json!([{ "ports": open }]), "{name}");
        let deployment = one(spec.clone(), &format!("Deployment istio-system/{name}"));
        assert_eq!(policy["spec"]["podSelector"], deployment["spec"]["selector"], "{name}");
        assert_eq!(deployment["spec"]["template"]["spec"]["priorityClassName"], "first", "{name}");
    }
}

#[test]
fn what_settings_change() {
    let spec = json!({
        "hub": "registry.test", "tag": "v2",
        "meshConfig": { "accessLogFile": "/dev/stdout" },
        "values": {
            "global": { "jwtPolicy": "first-party-jwt", "proxy": { "logLevel": "debug" }, "imagePullPolicy": "Never", "imagePullSecrets": ["key", { "name": "other" }] },
            "pilot": { "replicaCount": 2, "env": { "A": true }, "nodeSelector": { "zone": "a" } },
            "gateways": { "istio-ingressgateway": { "type": "NodePort", "serviceAnnotations": { "a": "b" } } },
        },
    });
    let deployment = one(spec.clone(), "Deployment istio-system/istiod");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["containers"][0]["image"], "registry.test/pilot:v2");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Never");
    assert_eq!(pod["imagePullSecrets"], json!([{ "name": "key" }, { "name": "other" }]));
    assert_eq!(pod["nodeSelector"], json!({ "zone": "a" }));
    assert!(pod["containers"][0]["env"].as_array().unwrap().contains(&json!({ "name": "A", "value": "true" })));
    let policy = json!({ "name": "JWT_POLICY", "value": "first-party-jwt" });
    assert!(pod["containers"][0]["env"].as_array().unwrap().contains(&policy));
    let map = one(spec.clone(), "ConfigMap istio-system/istio-sidecar-injector");
    let values: Value = serde_json::from_str(map["data"]["values"].as_str().unwrap()).unwrap();
    assert_eq!((&values["global"]["hub"], &values["global"]["tag"]), (&json!("registry.test"), &json!("v2")));
    assert_eq!((&values["global"]["proxy"]["logLevel"], &values["pilot"]["env"]["A"]), (&json!("debug"), &json!(true)));
    let mesh = one(spec.clone(), "ConfigMap istio-system/istio");
    let (read, warnings) = mizzen_api::parse_mesh_config(mesh["data"]["mesh"].as_str().unwrap(), &"mesh".into()).unwrap();
    assert_eq!(read.access_log_file, "/dev/stdout");
    assert!(warnings.is_empty(), "{warnings:?}");
    let service = one(spec, "Service istio-system/istio-ingressgateway");
    assert_eq!((&service["spec"]["type"], &service["metadata"]["annotations"]["a"]), (&json!("NodePort"), &json!("b")));
}

/// A gateway is an account, roles, a Deployment and a Service of its own, in its namespace and by its labels.
#[test]
fn several_gateways() {
    let check = |components: Value, gateways: &[(&str, Component)]| {
        let spec = json!({
            "components": components,
            "values": { "global": { "networkPolicy": { "enabled": true } }, "gateways": {
                "istio-ingressgateway": { "autoscaleEnabled": true }, "istio-egressgateway": { "autoscaleEnabled": true },
            } },
        });
        let expected: Vec<(String, Component)> = gateways
            .iter()
            .flat_map(|(name, component)| {
                let title = |kind: &str, suffix: &str| (format!("{kind} {name}{suffix}"), *component);
                [
                    title("ServiceAccount", "-service-account"),
                    title("Role", "-sds"),
                    title("RoleBinding", "-sds"),
                    title("RoleBinding", "-istiod-credentials"),
                    title("Deployment", ""),
                    title("Service", ""),
                    title("PodDisruptionBudget", ""),
                    title("HorizontalPodAutoscaler", ""),
                    title("NetworkPolicy", ""),
                ]
            })
            .collect();
        let parts = objects(&settings(spec)).unwrap();
        let found: Vec<(String, Component)> =
            parts.iter().filter(|part| part.component.is_gateways()).map(|part| (title(&part.object), part.component)).collect();
        assert_eq!(found, expected, "{components}");
        let all: BTreeSet<String> = parts.iter().map(|part| title(&part.object)).collect();
        assert_eq!(all.len(), parts.len(), "each has one place");
        for part in parts.iter().filter(|part| part.component.is_gateways()) {
            assert_eq!(part.object["metadata"]["labels"][COMPONENT], part.component.name());
            assert_eq!(part.object["metadata"]["labels"][OWNER.0], OWNER.1);
        }
    };
    let (ingress, egress) = (Component::IngressGateways, Component::EgressGateways);
    let first = ("istio-system/istio-ingressgateway", ingress);
    let payments = json!({ "name": "payments", "namespace": "tills", "label": { "istio": "payments" } });
    check(json!({}), &[first]);
    check(json!({ "ingressGateways": [] }), &[]);
    check(json!({ "egressGateways": [{}] }), &[first, ("istio-system/istio-egressgateway", egress)]);
    check(json!({ "ingressGateways": [{}, payments] }), &[first, ("tills/payments", ingress)]);
    check(
        json!({ "ingressGateways": [payments], "egressGateways": [{ "name": "out" }] }),
        &[("tills/payments", ingress), ("istio-system/out", egress)],
    );
}

#[test]
fn what_a_gateway_is_made_of() {
    let payments = json!({
        "name": "payments", "namespace": "tills", "label": { "istio": "payments", "tier": "front" },
        "k8s": {
            "replicaCount": 3, "imagePullPolicy": "Always", "priorityClassName": "first", "podAnnotations": { "a": 1 },
            "service": { "type": "ClusterIP", "ports": [{ "name": "https", "port": 443, "targetPort": 8443 }] },
            "serviceAnnotations": { "b": true }, "nodeSelector": { "zone": "a" }, "tolerations": [{ "key": "k" }],
            "affinity": { "nodeAffinity": {} },
            "env": [{ "name": "A", "value": "x" }, { "name": "B", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        },
    });
    let spec = json!({
        "components": { "ingressGateways": [{}, payments], "egressGateways": [{}] },
        "values": { "global": { "networkPolicy": { "enabled": true } } },
    });
    let check = |title: &str, pointer: &str, value: Value| {
        let object = one(spec.clone(), title);
        assert_eq!(object.pointer(pointer).cloned().unwrap_or_default(), value, "{title} {pointer}");
    };
    let (deployment, service, pod) = ("Deployment tills/payments", "Service tills/payments", "/spec/template/spec");
    let selector = json!({ "app": "payments", "istio": "payments" });
    check(deployment, "/spec/selector/matchLabels", selector.clone());
    check(deployment, "/spec/replicas", json!(3));
    let labels = json!({ "app": "payments", "istio": "payments", "tier": "front", "sidecar.istio.io/inject": "true" });
    check(deployment, "/spec/template/metadata/labels", labels);
    check(deployment, "/spec/template/metadata/annotations", json!({ "inject.istio.io/templates": "gateway", "a": "1" }));
    for (field, value) in [
        ("serviceAccountName", json!("payments-service-account")),
        ("priorityClassName", json!("first")),
        ("nodeSelector", json!({ "zone": "a" })),
        ("tolerations", json!([{ "key": "k" }])),
        ("affinity", json!({ "nodeAffinity": {} })),
        ("containers/0/image", json!("auto")),
        ("containers/0/imagePullPolicy", json!("Always")),
        (
            "containers/0/env",
            json!([{ "name": "A", "value": "x" }, { "name": "B", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]),
        ),
    ] {
        check(deployment, &format!("{pod}/{field}"), value);
    }
    check(service, "/metadata/labels/tier", json!("front"));
    check(service, "/metadata/annotations", json!({ "b": "true" }));
    let ports = json!([{ "name": "https", "port": 443, "targetPort": 8443 }]);
    check(service, "/spec", json!({ "selector": selector, "type": "ClusterIP", "ports": ports }));
    check("PodDisruptionBudget tills/payments", "/spec/selector/matchLabels", selector.clone());
    check("NetworkPolicy tills/payments", "/spec/podSelector/matchLabels", selector);
    check("NetworkPolicy tills/payments", "/spec/ingress/0/ports/3/port", json!(8443));
    // The control plane reads the Secrets there, and this account alone may have them.
    let account = |name: &str, namespace: &str| json!([{ "kind": "ServiceAccount", "name": name, "namespace": namespace }]);
    check("RoleBinding tills/payments-sds", "/subjects", account("payments-service-account", "tills"));
    check("RoleBinding tills/payments-sds", "/roleRef/name", json!("payments-sds"));
    check("RoleBinding tills/payments-istiod-credentials", "/subjects", account("istiod", "istio-system"));
    // The one beside it is as it would be alone.
    let alone = one(json!({ "values": spec["values"] }), "Deployment istio-system/istio-ingressgateway");
    check("Deployment istio-system/istio-ingressgateway", "", alone);
    let egress = "istio-system/istio-egressgateway";
    check(&format!("Service {egress}"), "/spec/type", json!("ClusterIP"));
    check(&format!("Service {egress}"), "/spec/selector", json!({ "app": "istio-egressgateway", "istio": "egressgateway" }));
    check(&format!("Deployment {egress}"), &format!("{pod}/serviceAccountName"), json!("istio-egressgateway-service-account"));
    check("RoleBinding istio-system/istio-egressgateway-sds", "/roleRef/name", json!("istio-egressgateway-sds"));
}

/// A gateway of which each node has one, and what is mounted into it.
#[test]
fn a_gateway_on_each_node() {
    let volume = |name: &str, source: Value| {
        let mut volume = json!({ "name": name });
        merge(&mut volume, source);
        volume
    };
    let values = json!({
        "kind": "DaemonSet",
        "volumes": [volume("of-all", json!({ "emptyDir": {} }))],
        "volumeMounts": [{ "name": "of-all", "mountPath": "/all" }],
        "secretVolumes": [volume("certs", json!({ "secretName": "edge", "mountPath": "/etc/certs" }))],
        "configVolumes": [volume("pages", json!({ "configMapName": "texts", "mountPath": "/pages" }))],
    });
    let own = json!({ "volumes": [volume("own", json!({ "emptyDir": {} }))], "volumeMounts": [{ "name": "own", "mountPath": "/own" }] });
    let spec = json!({
        "components": { "ingressGateways": [{}, { "name": "payments", "k8s": own }] },
        "values": { "gateways": { "istio-ingressgateway": values } },
    });
    for (name, first) in [("istio-ingressgateway", "of-all"), ("payments", "own")] {
        let set = one(spec.clone(), &format!("DaemonSet istio-system/{name}"));
        assert!(set["spec"].get("replicas").is_none() && set["spec"].get("strategy").is_none(), "{set}");
        assert_eq!(set["spec"]["updateStrategy"], json!({ "rollingUpdate": { "maxSurge": "100%", "maxUnavailable": 0 } }));
        let pod = &set["spec"]["template"]["spec"];
        let volumes = json!([
            { "name": first, "emptyDir": {} },
            { "name": "certs", "secret": { "secretName": "edge", "optional": true } },
            { "name": "pages", "configMap": { "name": "texts", "optional": true } },
        ]);
        assert_eq!(pod["volumes"], volumes, "{name}");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let mounts: Vec<_> = mounts.iter().map(|mount| (mount["name"].as_str().unwrap(), mount["readOnly"] == true)).collect();
        assert_eq!(mounts, [(first, false), ("certs", true), ("pages", true)], "{name}");
    }
    let plain = one(json!({}), "Deployment istio-system/istio-ingressgateway");
    let pod = &plain["spec"]["template"]["spec"];
    assert!(pod.get("volumes").is_none() && pod["containers"][0].get("volumeMounts").is_none(), "{pod}");
}

fn overlay(kind: &str, name: &str, path: &str, value: &Value) -> Value {
    json!({ "overlays": [{ "kind": kind, "name": name, "patches": [{ "path": path, "value": value }] }] })
}

#[test]
fn overlays_of_components() {
    let port = overlay("Service", "payments", "spec.ports.[port:443].port", &json!(8443));
    let spec = json!({ "components": {
        "base": { "k8s": overlay("Namespace", "istio-system", "metadata.labels", &json!({ "team": "net" })) },
        "pilot": { "enabled": true, "k8s": overlay("Deployment", "istiod", "spec.template.spec.containers.[name:discovery].args.[-1]", &json!("--x")) },
        "cni": { "enabled": true, "k8s": overlay("DaemonSet", "istio-cni-node", "spec.template.spec.hostNetwork", &json!(true)) },
        "ingressGateways": [{}, { "name": "payments", "k8s": port }],
    } });
    let check = |title: &str, pointer: &str, value: Value| {
        assert_eq!(one(spec.clone(), title).pointer(pointer).cloned().unwrap_or_default(), value, "{title} {pointer}");
    };
    check("Namespace istio-system", "/metadata/labels/team", json!("net"));
    // By these it is found again, whatever is said.
    check("Namespace istio-system", "/metadata/labels/install.operator.istio.io~1owning-resource", json!("mizzen"));
    check("Deployment istio-system/istiod", "/spec/template/spec/containers/0/args/3", json!("--x"));
    check("DaemonSet istio-system/istio-cni-node", "/spec/template/spec/hostNetwork", json!(true));
    check("Service istio-system/payments", "/spec/ports/2/port", json!(8443));
    check("Service istio-system/istio-ingressgateway", "/spec/ports/2/port", json!(443));
    let installed = settings(spec.clone());
    assert_eq!(settings(installed.to_spec()), installed);

    let refused = |components: Value, why: &str| {
        let told = Settings::of_spec(json!({ "components": components })).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(told.starts_with(why), "{told}");
    };
    // Each component has its own objects alone.
    let of_pilot = || overlay("Deployment", "istiod", "spec.paused", &json!(true));
    refused(json!({ "base": { "k8s": of_pilot() } }), "components.base.k8s.overlays[0]: Deployment istiod is no object of this component");
    let of_gateway = json!({ "ingressGateways": [{ "k8s": of_pilot() }] });
    refused(of_gateway, "components.ingressGateways[0].k8s.overlays[0]: Deployment istiod is no object of this component");
    let nothing = overlay("Deployment", "istiod", "spec.template.spec.containers.[name:other].args", &Value::Null);
    refused(
        json!({ "pilot": { "k8s": nothing } }),
        "components.pilot.k8s.overlays[0].patches[0].path: spec.template.spec.containers.[name:other].args: leads to nothing",
    );
    let (_, warnings) = Settings::of_spec(json!({ "components": { "cni": { "k8s": of_pilot() } } })).unwrap();
    assert_eq!(warnings, ["components.cni.k8s has no effect without components.cni.enabled=true"]);
}
