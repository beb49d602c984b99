//! What the API server is told: every schema keeps Kubernetes' rules for it, and takes what the readers take.

use std::{fs, path::Path};

use mizzen_api::{Class, Kind, crd, fields, parse_documents};
use serde_json::Value;

fn all() -> impl Iterator<Item = (Kind, Value)> {
    Kind::ALL.iter().filter_map(|kind| Some((*kind, crd(*kind)?)))
}

fn schema<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    let versions = crd["spec"]["versions"].as_array()?;
    versions.iter().find(|one| one["name"] == version).map(|one| &one["schema"]["openAPIV3Schema"])
}

#[test]
fn names() {
    let named = |kind: Kind| {
        let crd = crd(kind)?;
        let spec = &crd["spec"];
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let versions: Vec<_> = spec["versions"].as_array()?.iter().map(|v| (text(&v["name"]), v["storage"] == true)).collect();
        assert!(versions.iter().enumerate().all(|(i, (_, stored))| *stored == (i == 0)), "{kind}: one is stored");
        let versions: Vec<_> = versions.into_iter().map(|(name, _)| name).collect();
        let columns = spec["versions"][0]["additionalPrinterColumns"].as_array().map_or(0, Vec::len);
        let names = &spec["names"];
        assert_eq!(crd["metadata"]["name"], format!("{}.{}", text(&names["plural"]), text(&spec["group"])));
        Some(format!("{} {} {} {columns}", text(&crd["metadata"]["name"]), text(&names["shortNames"][0]), versions.join(",")))
    };
    for (kind, expected) in [
        (Kind::PeerAuthentication, "peerauthentications.security.istio.io pa v1,v1beta1 2"),
        (Kind::AuthorizationPolicy, "authorizationpolicies.security.istio.io ap v1,v1beta1 2"),
        (Kind::RequestAuthentication, "requestauthentications.security.istio.io ra v1,v1beta1 0"),
        (Kind::VirtualService, "virtualservices.networking.istio.io vs v1,v1beta1,v1alpha3 3"),
        (Kind::DestinationRule, "destinationrules.networking.istio.io dr v1,v1beta1,v1alpha3 2"),
        (Kind::ServiceEntry, "serviceentries.networking.istio.io se v1,v1beta1,v1alpha3 4"),
        (Kind::Gateway, "gateways.networking.istio.io gw v1,v1beta1,v1alpha3 0"),
        (Kind::ProxyConfig, "proxyconfigs.networking.istio.io - v1beta1 0"),
        (Kind::Sidecar, "sidecars.networking.istio.io - v1,v1beta1,v1alpha3 0"),
    ] {
        assert_eq!(named(kind).as_deref(), Some(expected));
    }
    assert_eq!(all().count(), 9, "Kubernetes' own kinds, MeshConfig and IssuerKeys are no custom resources");
}

#[test]
fn versions_are_those_that_are_read() {
    for (kind, crd) in all() {
        let group = crd["spec"]["group"].as_str().unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let served: Vec<_> = versions.iter().map(|version| format!("{group}/{}", version["name"].as_str().unwrap())).collect();
        let parsed = parse_documents(&format!("apiVersion: {group}/v0\nkind: {kind}\nmetadata: {{name: x}}\n"), &"a.yaml".into());
        let told: Vec<_> = parsed.problems().map(|problem| problem.message.clone()).collect();
        assert_eq!(told, [format!("{kind} is read in {}, not in `{group}/v0`", served.join(", "))]);
    }
}

/// What a node of a structural schema may hold.
const KEYWORDS: [&str; 19] = [
    "additionalProperties",
    "anyOf",
    "description",
    "enum",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minimum",
    "not",
    "properties",
    "required",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
];

fn check_node(node: &Value, at: &str) {
    let Value::Object(fields) = node else { panic!("{at}: {node}") };
    for key in fields.keys().filter(|key| *key != "x-kubernetes-validations") {
        assert!(KEYWORDS.contains(&key.as_str()), "{at}: {key}");
    }
    let int_or_string = node.get("x-kubernetes-int-or-string").is_some();
    assert_eq!(node.get("type").is_none(), int_or_string, "{at}: a node has a type, or is a number in quotes or not");
    assert_eq!(node.get("anyOf").is_some(), int_or_string, "{at}");
    let of = |kind: &str| node["type"] == kind;
    assert!(node.get("items").is_some() == of("array"), "{at}");
    assert!(!(node.get("properties").is_some() && node.get("additionalProperties").is_some()), "{at}");
    let open = node.get("x-kubernetes-preserve-unknown-fields").is_some();
    let inner = ["properties", "additionalProperties"].iter().any(|key| node.get(key).is_some());
    assert_eq!(of("object"), inner || open, "{at}: what an object holds");
    for name in node["required"].as_array().into_iter().flatten() {
        assert!(node["properties"].get(name.as_str().unwrap()).is_some(), "{at}: {name} is required and not declared");
    }
    for key in node["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
        assert!(node["items"]["required"].as_array().is_some_and(|names| names.contains(key)), "{at}: key {key} may be missing");
    }
    for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let filled = |key: &str| rule[key].as_str().is_some_and(|text| !text.is_empty() && !text.contains('\n'));
        assert!(filled("rule") && filled("message"), "{at}: {rule}");
        let cel = rule["rule"].as_str().unwrap();
        for name in cel.split("has(self.").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path: Vec<_> = name.split('.').collect();
            let found = path.iter().try_fold(node, |node, name| node["properties"].get(name));
            assert!(found.is_some(), "{at}: {cel} names what is not declared");
        }
    }
    for (name, inner) in node["properties"].as_object().into_iter().flatten() {
        check_node(inner, &format!("{at}.{name}"));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = node.get(key) {
            check_node(inner, &format!("{at}[]"));
        }
    }
}

#[test]
fn schemas_are_structural() {
    for (kind, crd) in all() {
        for version in crd["spec"]["versions"].as_array().unwrap() {
            assert_eq!(version["subresources"]["status"], serde_json::json!({}), "{kind}");
            let root = &version["schema"]["openAPIV3Schema"];
            check_node(root, &format!("{kind} "));
            assert_eq!(root["properties"]["status"]["x-kubernetes-preserve-unknown-fields"], true, "{kind}");
        }
    }
}

/// Protojson's name of a field; the API server knows that one alone.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &part[..1].to_uppercase() + &part[1..])
}

/// What a schema, without its expressions, has against a value.
fn against(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if value.is_null() || schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => value.is_i64() || value.is_string(),
    };
    let mut fault = |what: &str| found.push(format!("{at}: {what}"));
    if !fits {
        return fault("is of another type");
    }
    let bound = |key: &str| schema[key].as_f64();
    if value.as_f64().is_some_and(|n| bound("minimum").is_some_and(|least| n < least) || bound("maximum").is_some_and(|most| n > most)) {
        fault("is out of range");
    }
    let size = value.as_array().map(Vec::len).or(value.as_object().map(|map| map.len())).or(value.as_str().map(str::len));
    let most = bound("maxItems").or(bound("maxProperties")).or(bound("maxLength"));
    if size.is_some_and(|size| bound("minItems").is_some_and(|least| (size as f64) < least) || most.is_some_and(|most| size as f64 > most))
    {
        fault("is of another size");
    }
    if schema["enum"].as_array().is_some_and(|names| !names.contains(value)) {
        fault("is no such name");
    }
    let has =
        |name: &Value| name.as_str().is_some_and(|name| value.as_object().is_some_and(|map| map.keys().any(|key| camel(key) == name)));
    for name in schema["required"].as_array().into_iter().flatten().filter(|name| !has(name)) {
        fault(&format!("lacks {name}"));
    }
    for pair in schema["not"]["anyOf"].as_array().into_iter().flatten() {
        if pair["required"].as_array().is_some_and(|names| names.iter().all(has)) {
            fault(&format!("has both of {pair}"));
        }
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        against(&schema["items"], item, &format!("{at}[{i}]"), found);
    }
    for (key, item) in value.as_object().into_iter().flatten() {
        let inner = schema["properties"].get(camel(key)).or(schema.get("additionalProperties"));
        match inner {
            Some(inner) => against(inner, item, &format!("{at}.{key}"), found),
            None => found.push(format!("{at}.{key}: would be dropped")),
        }
    }
}

/// Holds each of Istio's objects in a text against the schema of its version; how many there were.
#[track_caller]
fn check(text: &str) -> usize {
    let mut count = 0;
    for object in parse_documents(text, &"a.yaml".into()).good() {
        let Some(crd) = crd(object.kind()) else { continue };
        let mut value: Value = serde_json::from_str(&object.meta().source.to_json()).unwrap();
        for name in ["apiVersion", "kind", "metadata"] {
            value.as_object_mut().unwrap().remove(name);
        }
        let version = object.meta().api_version.split('/').next_back().unwrap();
        let mut found = Vec::new();
        against(schema(&crd, version).unwrap(), &value, "", &mut found);
        assert!(found.is_empty(), "{}: {found:#?}", object.key());
        count += 1;
    }
    count
}

fn check_folder(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let one = |path: std::path::PathBuf| match path.extension() {
        _ if path.is_dir() => check_folder(&path),
        Some(ending) if ending == "yaml" => check(&fs::read_to_string(&path).unwrap()),
        _ => 0,
    };
    entries.map(one).sum()
}

#[test]
fn good_objects_are_taken() {
    assert!(check(include_str!("good.yaml")) >= 7);
    assert!(check_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")) > 5);
}

/// That the checker above finds something.
#[test]
fn bad_objects_are_not_taken() {
    let crd = crd(Kind::VirtualService).unwrap();
    for (spec, expected) in [
        (r#"{"hosts": ["a"], "http": [{"timeuot": "1s"}]}"#, ".spec.http[0].timeuot: would be dropped"),
        (r#"{"tls": [{"match": [], "route": [{"destination": {"host": "a"}}]}]}"#, ".spec.tls[0].match: is of another size"),
        (r#"{"tls": [{"route": [{"destination": {"host": "a"}}]}]}"#, r#".spec.tls[0]: lacks "match""#),
        (r#"{"hosts": ["a"], "http": [{"match": [{"port": 0}]}]}"#, ".spec.http[0].match[0].port: is out of range"),
        (r#"{"hosts": ["a"], "http": [{"timeout": 5}]}"#, ".spec.http[0].timeout: is of another type"),
        (r#"{"hosts": ["a"], "http": [{"redirect": {"derivePort": "ANY"}}]}"#, ".spec.http[0].redirect.derivePort: is no such name"),
        (
            r#"{"hosts": ["a"], "http": [{"match": [{"uri": {"exact": "a", "regex": "b"}}]}]}"#,
            r#".spec.http[0].match[0].uri: has both of {"required":["exact","regex"]}"#,
        ),
    ] {
        let mut found = Vec::new();
        let object = serde_json::json!({ "spec": serde_json::from_str::<Value>(spec).unwrap() });
        against(schema(&crd, "v1").unwrap(), &object, "", &mut found);
        assert_eq!(found, [expected], "{spec}");
    }
}

#[test]
fn lists_of_fields() {
    let found = fields(Kind::DestinationRule);
    let field = |path: &str| found.iter().find(|field| field.path == path).unwrap();
    let connect = field("trafficPolicy.connectionPool.tcp.connectTimeout");
    assert_eq!((connect.kind.as_str(), connect.class, connect.default), ("duration from 1ms", Class::Done, Some("10s")));
    assert_eq!(field("trafficPolicy.tls.mode").kind, "DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL");
    assert_eq!(field("trafficPolicy.tunnel").why, Some("what is sent"));
    assert_eq!(field("subsets[].trafficPolicy").kind, "TrafficPolicy, as trafficPolicy");
    assert!(field("host").required && field("subsets[].name").required);
    assert_eq!(field("trafficPolicy.loadBalancer.simple").rules, ["only one of simple, consistentHash may be written"]);
    let json = serde_json::to_string(&field("trafficPolicy.tunnel")).unwrap();
    assert!(json.contains(r#""class":"refused","why":"what is sent""#), "{json}");
    for kind in Kind::ALL {
        let fields = fields(*kind);
        assert_eq!(fields.is_empty(), crd(*kind).is_none() && *kind != Kind::MeshConfig, "{kind}");
        let mut paths: Vec<_> = fields.iter().map(|field| &field.path).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), fields.len(), "{kind}: a path twice");
    }
}
