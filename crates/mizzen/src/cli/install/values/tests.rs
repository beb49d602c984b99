use super::*;

#[test]
fn tables() {
    for rows in [GLOBAL, REVISION, PROFILE, BASE, ISTIOD, CNI, INSTALLED_GATEWAY, INSTALLED_EGRESS, GATEWAY] {
        for row in rows {
            if let Some(default) = row.default() {
                assert_eq!(wrong(row.shape, &default), None, "{}", row.path);
            }
            assert!(row.default.is_empty() || row.default().is_some(), "{}: the default is no JSON", row.path);
            if let Only(allowed) = row.shape {
                assert!(allowed.iter().all(|text| serde_json::from_str::<Value>(text).is_ok()), "{}", row.path);
            }
        }
    }
}

#[test]
fn what_is_judged() {
    for (values, why) in [
        (json!({ "global": { "proxy": { "resources": { "any": 1 } }, "tag": 1.5 } }), ""),
        (json!({ "pilot": null, "global": { "hub": null, "externalIstiod": false } }), ""),
        (json!({ "pilot": { "env": { "A": true, "B": 1, "C": "c" }, "rollingMaxSurge": "25%" } }), ""),
        (json!({ "global": { "defaultTolerations": [] } }), "values.global.defaultTolerations is not supported"),
        (json!({ "global": { "externalIstiod": true } }), "values.global.externalIstiod: must be false"),
        (json!({ "global": { "platform": "gke" } }), "values.global.platform: must be empty"),
        (json!({ "global": { "caName": "x" } }), "values.global.caName: must be Istiod"),
        (json!({ "pilot": { "replicaCount": -1 } }), "values.pilot.replicaCount: must be a whole number"),
        (json!({ "pilot": { "rollingMaxSurge": "much" } }), "values.pilot.rollingMaxSurge: must be a number or a share as 25%"),
        (json!({ "pilot": { "env": { "A": [] } } }), "values.pilot.env: must be a map of texts"),
        (json!({ "pilot": { "tolerations": {} } }), "values.pilot.tolerations: must be a list"),
        (json!({ "pilot": { "pdb": { "minAvailable": 1, "maxUnavailable": 1 } } }), "values.pilot.pdb: only one of"),
        (json!({ "gateways": { "istio-egressgateway": { "type": "NodePort", "env": { "A": 1 } } } }), ""),
        (
            json!({ "gateways": { "istio-egressgateway": { "secretVolumes": [{ "name": "a", "secretName": "b", "mountPath": "/c" }] } } }),
            "",
        ),
        (
            json!({ "gateways": { "istio-egressgateway": { "secretVolumes": [{ "name": "a", "secretName": "b" }] } } }),
            "values.gateways.istio-egressgateway.secretVolumes: must be a list of maps with name, secretName and mountPath",
        ),
        (
            json!({ "gateways": { "istio-egressgateway": { "configVolumes": [{ "name": "a", "secretName": "b", "mountPath": "/c" }] } } }),
            "values.gateways.istio-egressgateway.configVolumes: must be a list of maps with name, configMapName and mountPath",
        ),
        (json!({ "gateways": { "istio-egressgateway": { "zone": 1 } } }), "values.gateways.istio-egressgateway.zone is not supported"),
        (
            json!({ "gateways": { "istio-egressgateway": { "podDisruptionBudget": { "minAvailable": 1, "maxUnavailable": 1 } } } }),
            "values.gateways.istio-egressgateway.podDisruptionBudget: only one of",
        ),
        (json!({ "gateways": { "payments": {} } }), "values.gateways.payments is not supported"),
        (json!("x"), "values: must be a map"),
        (json!({ "gateways": [] }), "values.gateways: must be a map"),
    ] {
        let told = judge(&values).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(if why.is_empty() { told.is_empty() } else { told.starts_with(why) }, "{values}: {told}");
    }
}

#[test]
fn what_is_said_lies_over_defaults() {
    let whole =
        completed(&json!({ "pilot": { "resources": { "requests": { "cpu": "1" } }, "autoscaleMax": null }, "global": { "meshID": "m" } }));
    assert_eq!(whole["pilot"]["resources"], json!({ "requests": { "cpu": "1", "memory": "128Mi" } }));
    assert_eq!(
        (&whole["pilot"]["autoscaleMax"], &whole["global"]["meshID"], &whole["pilot"]["replicaCount"]),
        (&Value::Null, &json!("m"), &json!(1))
    );
}
