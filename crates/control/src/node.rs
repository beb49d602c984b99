//! Who a proxy says it is, held against who it has proved to be.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::Key;
use mizzen_model::{ON_DEMAND, ProxyFacts, ProxyType, Snapshot, locality_of};
use mizzen_protos::{
    envoy::envoy::config::core::v3::{Node, node::UserAgentVersionType},
    wkt::{Struct, Value, value::Kind},
};
use mizzen_types::{Locality, Name, SpiffeId};

/// Why a proxy is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the first request has no node")]
    Missing,
    #[error("node id `{0}` is not of the form TYPE~IP~POD.NAMESPACE~DOMAIN")]
    Id(String),
    #[error("{0}")]
    Type(#[from] mizzen_model::UnknownProxyType),
    #[error("the proxy says that it is {field} `{said}`, but it has proved to be `{proved}`")]
    Identity { field: &'static str, said: String, proved: String },
}

/// A proxy's facts, of which namespace and service account are what it has proved.
pub(crate) fn facts(node: &Node, identity: &SpiffeId) -> Result<ProxyFacts, NodeError> {
    let bad = || NodeError::Id(node.id.clone());
    let parts: Vec<&str> = node.id.split('~').collect();
    let [kind, ip, workload, _domain] = parts[..] else { return Err(bad()) };
    let kind: ProxyType = kind.parse()?;
    let ip = ip.parse().map_err(|_| bad())?;
    // A pod's name may hold dots, a namespace may not.
    let (pod, namespace) = workload.rsplit_once('.').ok_or_else(bad)?;
    let metadata = node.metadata.as_ref();
    let entry = |name: &str| metadata.and_then(|m| m.fields.get(name)).and_then(text);
    same("namespace", Some(namespace.to_owned()), &identity.namespace)?;
    same("namespace", entry("NAMESPACE"), &identity.namespace)?;
    same("service account", entry("SERVICE_ACCOUNT"), &identity.service_account)?;
    let labels = match metadata.and_then(|m| m.fields.get("LABELS")) {
        Some(Value { kind: Some(Kind::StructValue(labels)) }) => texts(labels),
        _ => BTreeMap::new(),
    };
    let locality = node.locality.clone().unwrap_or_default();
    let locality = Locality { region: locality.region, zone: locality.zone, subzone: locality.sub_zone };
    let mut extensions: BTreeSet<String> = node.extensions.iter().map(|e| e.name.clone()).collect();
    if kind == ProxyType::Sidecar && entry("MIZZEN_ON_DEMAND").is_some_and(|version| version == "1") {
        extensions.insert(ON_DEMAND.to_owned());
    }
    Ok(ProxyFacts {
        kind,
        ip,
        id: node.id.as_str().into(),
        pod: pod.into(),
        namespace: identity.namespace.clone(),
        service_account: identity.service_account.clone(),
        workload: entry("WORKLOAD_NAME").map_or_else(|| Name::from(pod), Name::from),
        cluster: entry("CLUSTER_ID").map_or_else(|| Name::from("Kubernetes"), Name::from),
        locality: if locality == Locality::default() { locality_of(&labels) } else { locality },
        labels,
        extensions,
        metadata: metadata.map(texts).unwrap_or_default(),
    })
}

/// Where a proxy runs that does not know it itself: where its pod's node is.
pub(crate) fn place(facts: &mut ProxyFacts, snapshot: &Snapshot) {
    if facts.locality == Locality::default()
        && let Some(pod) = snapshot.object(&Key::new(mizzen_api::Kind::Pod, facts.namespace.clone(), facts.pod.clone()))
    {
        facts.locality = locality_of(&pod.meta().labels);
    }
}

/// The version that a proxy says it has.
pub(crate) fn version(node: &Node) -> String {
    let metadata = node.metadata.as_ref().and_then(|m| m.fields.get("ISTIO_VERSION")).and_then(text);
    let agent = || match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            build.version.as_ref().map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch)).unwrap_or_default()
        }
        None => String::new(),
    };
    metadata.unwrap_or_else(agent)
}

fn same(field: &'static str, said: Option<String>, proved: &str) -> Result<(), NodeError> {
    match said {
        Some(said) if said != proved => Err(NodeError::Identity { field, said, proved: proved.to_owned() }),
        _ => Ok(()),
    }
}

fn text(value: &Value) -> Option<String> {
    match value.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        Kind::BoolValue(flag) => Some(flag.to_string()),
        Kind::NumberValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn texts(from: &Struct) -> BTreeMap<String, String> {
    from.fields.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, metadata: &[(&str, &str)]) -> Result<ProxyFacts, NodeError> {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let mut fields: std::collections::HashMap<String, Value> = metadata.iter().map(|(k, v)| ((*k).to_owned(), value(v))).collect();
        let labels = Struct { fields: [("app".to_owned(), value("reviews"))].into() };
        fields.insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(labels)) });
        let node = Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() };
        facts(&node, &"spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap())
    }

    #[test]
    fn where_a_proxy_runs() {
        let check = |told: [&str; 3], labels: &[(&str, &str)], expected: &str| {
            let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
            let labels = Struct { fields: labels.iter().map(|(k, v)| ((*k).to_owned(), value(v))).collect() };
            let fields = [("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(labels)) })].into();
            let [region, zone, sub_zone] = told.map(str::to_owned);
            let node = Node {
                id: "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local".to_owned(),
                metadata: Some(Struct { fields }),
                locality: Some(mizzen_protos::envoy::envoy::config::core::v3::Locality { region, zone, sub_zone }),
                ..Default::default()
            };
            let facts = facts(&node, &"spiffe://cluster.local/ns/shop/sa/a".parse().unwrap()).unwrap();
            assert_eq!(facts.locality.to_string(), expected);
        };
        let zone = [("topology.kubernetes.io/region", "eu"), ("topology.kubernetes.io/zone", "eu-1")];
        check(["", "", ""], &[], "");
        check(["us", "a", "1"], &zone, "us/a/1");
        check(["", "", ""], &zone, "eu/eu-1");
        check(["", "", ""], &[zone[0], zone[1], ("topology.istio.io/subzone", "rack")], "eu/eu-1/rack");
        check(["", "", ""], &[zone[0], ("topology.istio.io/locality", "ap.a.b.c")], "ap/a/b.c");
        check(["", "", ""], &[zone[0], ("istio-locality", "ap")], "ap");
    }

    #[test]
    fn where_its_pod_runs() {
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1}}, spec: {containers: [{name: a, image: a}]}}";
        let object = mizzen_api::parse_documents(pod, &"a".into()).objects.remove(0).unwrap();
        let snapshot = Snapshot::empty().apply([mizzen_model::Change::from(object)]);
        let at = |pod: &str, told: &str| {
            let mut facts = check(&format!("sidecar~10.0.0.1~{pod}.shop~shop.svc.cluster.local"), &[]).unwrap();
            facts.locality = told.parse().unwrap();
            place(&mut facts, &snapshot);
            facts.locality.to_string()
        };
        assert_eq!([at("a", ""), at("a", "us"), at("b", "")], ["eu/eu-1", "us", ""]);
    }

    #[test]
    fn facts_of_a_node() {
        let facts = check(
            "sidecar~10.244.0.7~reviews-v1.0-x.shop~shop.svc.cluster.local",
            &[("WORKLOAD_NAME", "reviews-v1"), ("SERVICE_ACCOUNT", "reviews"), ("NAMESPACE", "shop")],
        )
        .unwrap();
        assert_eq!((&*facts.pod, &*facts.namespace, &*facts.workload), ("reviews-v1.0-x", "shop", "reviews-v1"));
        assert_eq!((&*facts.service_account, &*facts.cluster, facts.ip.to_string()), ("reviews", "Kubernetes", "10.244.0.7".to_owned()));
        assert_eq!(facts.labels["app"], "reviews");
        assert_eq!(facts.metadata["WORKLOAD_NAME"], "reviews-v1");
    }

    #[test]
    fn refused() {
        let id = "sidecar~10.244.0.7~reviews-0.shop~shop.svc.cluster.local";
        for (id, metadata) in [
            ("", &[][..]),
            ("sidecar~10.244.0.7~reviews-0.shop", &[]),
            ("sidecar~nowhere~reviews-0.shop~x", &[]),
            ("sidecar~10.244.0.7~reviews-0~x", &[]),
            ("ztunnel~10.244.0.7~reviews-0.shop~x", &[]),
            ("sidecar~10.244.0.7~reviews-0.bank~x", &[]),
            (id, &[("NAMESPACE", "bank")]),
            (id, &[("SERVICE_ACCOUNT", "payment")]),
        ] {
            assert!(check(id, metadata).is_err(), "{id} {metadata:?}");
        }
    }
}
