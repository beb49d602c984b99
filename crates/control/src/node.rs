//! Who a proxy says it is, held against who it has proved to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mizzen_api::{
    Key,
    istio::{GatewayTopology, ProxyConfig},
};
use mizzen_model::{ALLOCATED, Families, IPV6, NO_IPV4, ON_DEMAND, ProxyFacts, ProxyType, Snapshot, locality_of};
use mizzen_protos::{
    envoy::envoy::config::core::v3::{Node, node::UserAgentVersionType},
    wkt::{Struct, Value, value::Kind},
};
use mizzen_types::{Locality, Name, SpiffeId};

/// More addresses than these beside its first one no workload has.
const MOST_ADDRESSES: usize = 32;

/// Why a proxy is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the first request has no node")]
    Missing,
    #[error("node id `{0}` is not of the form TYPE~IP~POD.NAMESPACE~DOMAIN")]
    Id(String),
    #[error("{0}")]
    Type(#[from] mizzen_model::UnknownProxyType),
    #[error("the proxy's own settings (PROXY_CONFIG): {0}")]
    Settings(String),
    #[error("the proxy says that it is {field} `{said}`, but it has proved to be `{proved}`")]
    Identity { field: &'static str, said: String, proved: String },
}

/// A proxy's facts, of which namespace and service account are what it has proved.
pub(crate) fn facts(node: &Node, identity: &SpiffeId) -> Result<ProxyFacts, NodeError> {
    let bad = || NodeError::Id(node.id.clone());
    let parts: Vec<&str> = node.id.split('~').collect();
    let [kind, ip, workload, _domain] = parts[..] else { return Err(bad()) };
    let kind: ProxyType = kind.parse()?;
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
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
    // As with Istio: what is no address there is none.
    let all = entry("INSTANCE_IPS").unwrap_or_default();
    // Every interface has one that reaches its link alone.
    let is_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let others = all.split(',').filter_map(|text| text.trim().parse().ok()).filter(|other| *other != ip && !is_local(other));
    let mut more_ips: Vec<IpAddr> = others.collect();
    more_ips.truncate(MOST_ADDRESSES);
    // What stands for its addresses there follows from them alone.
    let claimed = node.extensions.iter().map(|e| &e.name).filter(|name| ![IPV6, NO_IPV4, ALLOCATED].contains(&name.as_str()));
    let mut extensions: BTreeSet<String> = claimed.cloned().collect();
    extensions.extend(Families::of(more_ips.iter().chain([&ip])).extensions().map(str::to_owned));
    if kind == ProxyType::Sidecar && entry("MIZZEN_ON_DEMAND").is_some_and(|version| version == "1") {
        extensions.insert(ON_DEMAND.to_owned());
    }
    if entry("DNS_CAPTURE").is_some_and(|value| value == "true") {
        extensions.insert(ALLOCATED.to_owned());
    }
    let topology = match kind {
        ProxyType::Router => topology(metadata)?,
        ProxyType::Sidecar => GatewayTopology::default(),
    };
    Ok(ProxyFacts {
        kind,
        ip,
        more_ips,
        id: node.id.as_str().into(),
        pod: pod.into(),
        namespace: identity.namespace.clone(),
        service_account: identity.service_account.clone(),
        workload: entry("WORKLOAD_NAME").map_or_else(|| Name::from(pod), Name::from),
        cluster: entry("CLUSTER_ID").map_or_else(|| Name::from("Kubernetes"), Name::from),
        locality: if locality == Locality::default() { locality_of(&labels) } else { locality },
        labels,
        extensions,
        topology,
        metadata: metadata.map(texts).unwrap_or_default(),
    })
}

/// What stands before a gateway, as far as the settings say that it was started with. What an agent sends of them beside that is its own affair.
fn topology(metadata: Option<&Struct>) -> Result<GatewayTopology, NodeError> {
    const FIELD: &str = "gatewayTopology";
    let settings = match metadata.and_then(|m| m.fields.get("PROXY_CONFIG")) {
        Some(Value { kind: Some(Kind::StructValue(settings)) }) => settings,
        _ => return Ok(GatewayTopology::default()),
    };
    let Some(said) = settings.fields.get(FIELD) else { return Ok(GatewayTopology::default()) };
    let text = serde_json::json!({ FIELD: json(said, 8) }).to_string();
    let read = mizzen_api::parse_proxy_config(&text, &ProxyConfig::default(), &"".into());
    read.map(|(read, _)| read.gateway_topology)
        .map_err(|problems| NodeError::Settings(problems.first().map(ToString::to_string).unwrap_or_default()))
}

/// A value as JSON, down to this depth.
fn json(value: &Value, depth: u8) -> serde_json::Value {
    let Some(below) = depth.checked_sub(1) else { return serde_json::Value::Null };
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(flag)) => (*flag).into(),
        // Whole numbers are written as such.
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => (*number as i64).into(),
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(|item| json(item, below)).collect(),
        Some(Kind::StructValue(fields)) => fields.fields.iter().map(|(name, value)| (name.clone(), json(value, below))).collect(),
    }
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
    fn addresses_of_a_workload() {
        let check = |first: &str, all: &str, expected: (&[&str], &[&str])| {
            let facts = check(&format!("sidecar~{first}~a.shop~shop.svc.cluster.local"), &[("INSTANCE_IPS", all)]).unwrap();
            let ips: Vec<String> = facts.ips().map(|ip| ip.to_string()).collect();
            let extensions: Vec<&str> = facts.extensions.iter().map(String::as_str).collect();
            assert_eq!(
                (ips.iter().map(String::as_str).collect::<Vec<_>>(), extensions),
                (expected.0.to_vec(), expected.1.to_vec()),
                "{all}"
            );
        };
        check("10.0.0.1", "", (&["10.0.0.1"], &[]));
        check("10.0.0.1", "10.0.0.1,10.1.0.1", (&["10.0.0.1", "10.1.0.1"], &[]));
        check("10.0.0.1", "10.0.0.1, fd00::1", (&["10.0.0.1", "fd00::1"], &["mizzen.ipv6"]));
        check("fd00::1", "fd00::1,10.0.0.1,fe80::1%eth0", (&["fd00::1", "10.0.0.1"], &["mizzen.ipv6"]));
        check("fd00::1", "", (&["fd00::1"], &["mizzen.ipv6", "mizzen.no_ipv4"]));
    }

    /// Which families it has is not for a proxy to say beside its addresses: who has none of IPv6 would listen there, too.
    #[test]
    fn families_are_not_claimed() {
        let extensions = [IPV6, NO_IPV4, ALLOCATED, "istio.stats"]
            .map(|name| mizzen_protos::envoy::envoy::config::core::v3::Extension { name: name.to_owned(), ..Default::default() });
        let node = Node { id: "sidecar~10.0.0.1~a.shop~x".to_owned(), extensions: extensions.into(), ..Default::default() };
        let facts = facts(&node, &"spiffe://cluster.local/ns/shop/sa/a".parse().unwrap()).unwrap();
        assert_eq!(facts.extensions, ["istio.stats".to_owned()].into());
    }

    #[test]
    fn which_allocated_addresses_it_takes() {
        let check = |ip: &str, metadata: &[(&str, &str)], expected: &[&str]| {
            let facts = check(&format!("sidecar~{ip}~a.shop~shop.svc.cluster.local"), metadata).unwrap();
            assert_eq!(facts.extensions.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{ip} {metadata:?}");
        };
        let names = ("DNS_CAPTURE", "true");
        check("10.0.0.1", &[], &[]);
        check("10.0.0.1", &[("DNS_CAPTURE", "false"), ("INSTANCE_IPS", "10.0.0.1,fd00::1")], &[IPV6]);
        check("10.0.0.1", &[names], &[ALLOCATED]);
        check("fd00::1", &[names], &[ALLOCATED, IPV6, NO_IPV4]);
        check("::ffff:10.0.0.1", &[names], &[ALLOCATED]);
        check("10.0.0.1", &[names, ("INSTANCE_IPS", "10.0.0.1, fd00::1")], &[ALLOCATED, IPV6]);
        check("10.0.0.1", &[names, ("INSTANCE_IPS", "10.0.0.1,fe80::1,what")], &[ALLOCATED]);
    }

    #[test]
    fn what_stands_before_a_gateway() {
        let check = |kind: &str, said: Option<serde_json::Value>| {
            fn value(json: &serde_json::Value) -> Value {
                let kind = match json {
                    serde_json::Value::Object(map) => Kind::StructValue(fields(map)),
                    serde_json::Value::String(text) => Kind::StringValue(text.clone()),
                    other => Kind::NumberValue(other.as_f64().expect("a number")),
                };
                Value { kind: Some(kind) }
            }
            fn fields(map: &serde_json::Map<String, serde_json::Value>) -> Struct {
                Struct { fields: map.iter().map(|(name, of)| (name.clone(), value(of))).collect() }
            }
            let settings = said.map(|said| ("PROXY_CONFIG".to_owned(), value(&said)));
            let node = Node {
                id: format!("{kind}~10.244.0.7~gate-0.shop~shop.svc.cluster.local"),
                metadata: Some(Struct { fields: settings.into_iter().collect() }),
                ..Default::default()
            };
            facts(&node, &"spiffe://cluster.local/ns/shop/sa/gate".parse().unwrap()).map(|facts| facts.topology).map_err(|e| e.to_string())
        };
        let all = serde_json::json!({ "numTrustedProxies": 2, "forwardClientCertDetails": "SANITIZE", "proxyProtocol": {} });
        let topology = GatewayTopology {
            trusted_proxies: Some(2),
            client_cert: Some(mizzen_api::istio::ForwardClientCert::Sanitize),
            proxy_protocol: Some(true),
        };
        let settings = serde_json::json!({ "gatewayTopology": all, "tracing": { "x": 1 } });
        assert_eq!(check("router", Some(settings.clone())), Ok(topology));
        assert_eq!(check("sidecar", Some(settings)), Ok(GatewayTopology::default()));
        for nothing in [None, Some(serde_json::json!({})), Some(serde_json::json!({ "gatewayTopology": {} }))] {
            assert_eq!(check("router", nothing), Ok(GatewayTopology::default()));
        }
        for wrong in [serde_json::json!({ "numTrustedProxies": -1 }), serde_json::json!({ "other": 1 }), serde_json::json!("x")] {
            let refused = check("router", Some(serde_json::json!({ "gatewayTopology": wrong }))).unwrap_err();
            assert!(refused.contains("PROXY_CONFIG") && refused.contains("gatewayTopology"), "{refused}");
        }
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
