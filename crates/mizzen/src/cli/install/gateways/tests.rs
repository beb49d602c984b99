use super::{super::settings::Settings, *};

fn spec(ingress: Value, egress: Value, values: Value) -> Value {
    json!({ "components": { "ingressGateways": ingress, "egressGateways": egress }, "values": { "gateways": values } })
}

/// What an installation says of one ingress gateway beside that of its profile, in a list of both.
fn beside(more: Value) -> Value {
    spec(json!([{ "name": "istio-ingressgateway" }, more]), json!([]), json!({}))
}

fn titles(settings: &Settings) -> Vec<String> {
    settings.gateways.iter().map(|gateway| format!("{}/{} {}", gateway.namespace, gateway.name, gateway.labels)).collect()
}

#[test]
fn which_there_are() {
    let first = r#"istio-system/istio-ingressgateway {"app":"istio-ingressgateway","istio":"ingressgateway"}"#;
    let last = r#"istio-system/istio-egressgateway {"app":"istio-egressgateway","istio":"egressgateway"}"#;
    let check = |spec: Value, expected: &[&str]| {
        let (settings, _) = Settings::of_spec(spec.clone()).unwrap();
        assert_eq!(titles(&settings), expected, "{spec}");
        let (again, _) = Settings::of_spec(settings.to_spec()).unwrap();
        assert_eq!(again, settings, "{spec}");
    };
    let none = json!({});
    check(json!({}), &[first]);
    check(json!({ "profile": "secure" }), &[first]);
    check(json!({ "profile": "minimal" }), &[]);
    check(json!({ "components": { "ingressGateways": null } }), &[first]);
    check(json!({ "profile": "minimal", "components": { "egressGateways": [{ "enabled": true }] } }), &[last]);
    check(spec(json!([]), json!([]), none.clone()), &[]);
    check(spec(json!([{}]), json!([{}]), none.clone()), &[first, last]);
    check(spec(json!([{ "enabled": false }]), json!([{ "enabled": false }]), none.clone()), &[]);
    let payments = r#"istio-system/payments {"app":"payments","istio":"ingressgateway"}"#;
    check(beside(json!({ "name": "payments" })), &[first, payments]);
    check(spec(json!([{ "name": "payments" }]), json!([]), none.clone()), &[payments]);
    let labelled = r#"tills/payments {"app":"payments","istio":"payments","tier":"1"}"#;
    check(beside(json!({ "name": "payments", "namespace": "tills", "label": { "istio": "payments", "tier": 1 } })), &[first, labelled]);
    // Two of one name are two where their namespaces are.
    let elsewhere = r#"tills/istio-ingressgateway {"app":"istio-ingressgateway","istio":"ingressgateway"}"#;
    check(beside(json!({ "namespace": "tills" })), &[first, elsewhere]);
    // One that is not enabled is in nobody's way.
    check(beside(json!({ "name": "istio-ingressgateway", "enabled": false })), &[first]);
}

#[test]
fn what_is_refused() {
    let check = |spec: Value, why: &str| {
        let told = Settings::of_spec(spec.clone()).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(told.starts_with(why) && !told.contains('\n'), "{spec}: {told}");
    };
    for (list, why) in [
        (json!({}), "components.egressGateways: must be a list"),
        (json!(["x"]), "components.egressGateways[0]: must be a map"),
        (json!([{ "hub": "x" }]), "components.egressGateways[0].hub is not supported: must be name, namespace, enabled, label or k8s"),
        (json!([{ "enabled": "yes" }]), "components.egressGateways[0].enabled: must be true or false"),
        (json!([{ "name": 1 }]), "components.egressGateways[0].name: must be a text"),
        (json!([{ "name": "Out" }]), "components.egressGateways[0].name: Out: must be a letter and then"),
        (json!([{ "name": "1st" }]), "components.egressGateways[0].name: 1st: must be a letter and then"),
        (json!([{ "namespace": "a.b" }]), "components.egressGateways[0].namespace: a.b: must be"),
        (json!([{ "label": [] }]), "components.egressGateways[0].label: must be a map of texts"),
        (json!([{ "label": { "a": {} } }]), "components.egressGateways[0].label: must be a map of texts"),
        (json!([{ "label": { "istio": "" } }]), "components.egressGateways[0].label: istio is empty"),
        (json!([{ "label": { "a b": "x" } }]), "components.egressGateways[0].label: a b is no label name"),
        (json!([{ "label": { "a/b/c": "x" } }]), "components.egressGateways[0].label: a/b/c is no label name"),
        (json!([{ "label": { "a": "x y" } }]), "components.egressGateways[0].label: a: x y is no label value"),
        (json!([{ "label": { "istio": "-x" } }]), "components.egressGateways[0].label: istio: -x is no label value"),
        (json!([{ "label": { "istio.io/rev": "x" } }]), "components.egressGateways[0].label: istio.io/rev is the installer's own"),
        (json!([{ "name": "istiod" }]), "components.egressGateways[0].name: istio-system/istiod is the control plane"),
        (
            json!([{ "label": { "app": "istiod", "istio": "pilot" } }]),
            "components.egressGateways[0].label: app and istio are those of istio-system/istiod",
        ),
        (
            json!([{ "name": "istio-ingressgateway" }]),
            "components.egressGateways[0].name: istio-system/istio-ingressgateway is components.ingressGateways[0]: must be another name",
        ),
        (
            json!([{}, { "name": "b", "label": { "app": "istio-egressgateway" } }]),
            "components.egressGateways[1].label: app and istio are those of istio-system/istio-egressgateway, so that",
        ),
    ] {
        check(json!({ "components": { "egressGateways": list } }), why);
    }
    let metric =
        json!([{ "type": "Resource", "resource": { "name": "disk", "target": { "type": "Utilization", "averageUtilization": 1 } } }]);
    for (k8s, why) in [
        (json!([]), ": must be a map"),
        (json!({ "securityContext": {} }), ".securityContext is not supported: must be affinity or env or hpaSpec or "),
        (json!({ "volumes": {} }), ".volumes: must be a list"),
        (json!({ "overlays": [{ "kind": "Service" }] }), ".overlays[0].name: must be a text"),
        (json!({ "service": { "clusterIP": "x" } }), ".service.clusterIP is not supported: must be externalTrafficPolicy or "),
        (json!({ "service": { "type": "ExternalName" } }), ".service.type: must be LoadBalancer or NodePort or ClusterIP"),
        (json!({ "service": { "ports": {} } }), ".service.ports: must be a list"),
        (json!({ "replicaCount": "2" }), ".replicaCount: must be a whole number"),
        (json!({ "strategy": { "type": "Recreate" } }), ".strategy.type: must be RollingUpdate"),
        (json!({ "env": ["A"] }), ".env[0]: must be a map with name and value"),
        (json!({ "env": [{ "value": "x" }] }), ".env[0].name: must be a text"),
        (json!({ "env": [{ "name": "A", "from": "x" }] }), ".env[0].from is not supported: must be name, value or valueFrom"),
        (json!({ "env": [{ "name": "A", "value": [] }] }), ".env[0].value: must be a text"),
        (json!({ "env": [{ "name": "A", "value": "x", "valueFrom": {} }] }), ".env[0]: must have one of value and valueFrom"),
        (json!({ "env": [{ "name": "A" }, { "name": "A" }] }), ".env[1].name: A is there twice"),
        (json!({ "hpaSpec": { "metrics": metric } }), ".hpaSpec.metrics[0]: must be the utilization of cpu or memory, as {type: Resource"),
        (json!({ "hpaSpec": { "scaleTargetRef": { "name": "x" } } }), ".hpaSpec.scaleTargetRef: must be Deployment payments of apps/v1"),
        (json!({ "podDisruptionBudget": { "minAvailable": 1, "maxUnavailable": 1 } }), ".podDisruptionBudget: only one of minAvailable"),
    ] {
        // What is wrong is wrong whether it is enabled or not.
        for enabled in [true, false] {
            let entry = json!({ "name": "payments", "enabled": enabled, "k8s": k8s });
            check(beside(entry), &format!("components.ingressGateways[1].k8s{why}"));
        }
    }
}

#[test]
fn its_own_values_lie_over_those_of_its_border() {
    let common = json!({ "istio-ingressgateway": {
        "env": { "A": "a", "B": "b" }, "nodeSelector": { "zone": "a" }, "podDisruptionBudget": { "minAvailable": 2 }, "autoscaleMax": 3,
    } });
    let check = |common: &Value, k8s: Value, expected: &[(&str, Value)]| {
        let list = json!([{ "name": "first" }, { "name": "payments", "k8s": k8s }]);
        let (settings, _) = Settings::of_spec(spec(list, json!([]), common.clone())).unwrap();
        for (path, value) in expected {
            let found = settings.value(&format!("{}.{path}", settings.gateways[1].values)).cloned().unwrap_or_default();
            assert_eq!(found, *value, "{k8s}: {path}");
        }
        // The other one has what was said of both, and nothing of this.
        let first = &settings.gateways[0].values;
        assert_eq!(settings.value(&format!("{first}.replicaCount")), Some(&json!(1)));
        assert!(!settings.flag(&format!("{first}.autoscaleEnabled")));
    };
    let none = json!({});
    check(&none, json!({}), &[("type", json!("LoadBalancer")), ("autoscaleEnabled", json!(false)), ("autoscaleMax", json!(5))]);
    check(&common, json!({}), &[("env", json!({ "A": "a", "B": "b" })), ("autoscaleMax", json!(3))]);
    let service = json!({ "type": "NodePort", "ports": [{ "port": 443 }], "externalTrafficPolicy": "Local" });
    let expected = [("type", json!("NodePort")), ("ports", json!([{ "port": 443 }])), ("externalTrafficPolicy", json!("Local"))];
    check(&none, json!({ "service": service }), &expected);
    let resources = json!({ "requests": { "cpu": "2" } });
    check(&none, json!({ "resources": resources }), &[("resources", json!({ "requests": { "cpu": "2", "memory": "64Mi" } }))]);
    let from = json!({ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } });
    let variables = json!({ "env": [from, { "name": "C", "value": "c" }] });
    check(&common, variables, &[("env", json!({ "B": "b", "C": "c" })), ("envVarFrom", json!([from]))]);
    let inherited = json!({ "istio-ingressgateway": { "envVarFrom": [from, { "name": "D", "valueFrom": {} }] } });
    let plain = json!({ "env": [{ "name": "A", "value": "a" }] });
    check(&inherited, plain, &[("env", json!({ "A": "a" })), ("envVarFrom", json!([{ "name": "D", "valueFrom": {} }]))]);
    check(&common, json!({ "nodeSelector": { "disk": "x" } }), &[("nodeSelector", json!({ "zone": "a", "disk": "x" }))]);
    check(&common, json!({ "podDisruptionBudget": { "maxUnavailable": 1 } }), &[("podDisruptionBudget", json!({ "maxUnavailable": 1 }))]);
    let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": "25%" } });
    check(&none, json!({ "strategy": strategy }), &[("rollingMaxSurge", json!(1)), ("rollingMaxUnavailable", json!("25%"))]);
    let metric =
        json!({ "type": "Resource", "resource": { "name": "memory", "target": { "type": "Utilization", "averageUtilization": 70 } } });
    let scaled = json!({ "hpaSpec": {
        "minReplicas": 2, "metrics": [metric], "behavior": { "scaleDown": {} },
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "payments" },
    } });
    let expected = [
        ("autoscaleEnabled", json!(true)),
        ("autoscaleMin", json!(2)),
        ("autoscaleMax", json!(3)),
        ("cpu", Value::Null),
        ("memory", json!({ "targetAverageUtilization": 70 })),
        ("autoscaleBehavior", json!({ "scaleDown": {} })),
    ];
    check(&common, scaled.clone(), &expected);
    check(&json!({ "istio-ingressgateway": { "autoscaleEnabled": false } }), scaled, &[("autoscaleEnabled", json!(false))]);
}

/// What a gateway of which there is one on each node may not say.
#[test]
fn one_on_each_node() {
    let check = |values: Value, k8s: Value, why: Option<&str>| {
        let mut values = values;
        values["kind"] = json!("DaemonSet");
        let spec = spec(json!([{ "k8s": k8s }]), json!([]), json!({ "istio-ingressgateway": values }));
        let told = Settings::of_spec(spec).err().map(|error| format!("{error:#}"));
        let why =
            why.map(|rest| format!("components.ingressGateways[0]: values.gateways.istio-ingressgateway.kind: a DaemonSet has {rest}"));
        assert_eq!(told, why, "{values} {k8s}");
    };
    let why = Some("a pod on each node: autoscaleEnabled, hpaSpec and replicaCount must not be said with it");
    let none = || json!({});
    check(none(), none(), None);
    check(json!({ "replicaCount": 1, "autoscaleEnabled": false }), json!({ "hpaSpec": { "minReplicas": 1 } }), None);
    check(json!({ "autoscaleEnabled": true }), none(), why);
    check(json!({ "replicaCount": 2 }), none(), why);
    check(none(), json!({ "replicaCount": 2 }), why);
    check(none(), json!({ "hpaSpec": { "minReplicas": 1 } }), why);
}

#[test]
fn values_without_a_gateway_are_told() {
    let check = |spec: Value, expected: &[&str]| assert_eq!(Settings::of_spec(spec).unwrap().1, expected);
    let values = json!({ "istio-egressgateway": { "type": "NodePort" } });
    let told = "values.gateways.istio-egressgateway has no effect: no gateway of components.egressGateways is enabled";
    check(spec(json!([{}]), json!([]), values.clone()), &[told]);
    check(spec(json!([{}]), json!([{}]), values), &[]);
    // It has the effect that there is none.
    check(spec(json!([{}]), json!([{}]), json!({ "istio-egressgateway": { "enabled": false, "type": "NodePort" } })), &[]);
}
