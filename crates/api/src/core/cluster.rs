//! Kubernetes' kinds as a cluster's API server has them: already checked, so that nothing is refused, and only what the mesh acts on is taken.
//!
//! Files are read strictly, by position. Here an object is one that exists and runs: what the mesh does not do of it is no reason not to know it.

use std::net::IpAddr;

use k8s_openapi::{
    api::{core::v1 as k8s, discovery::v1 as discovery},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use mizzen_types::{Hostname, Protocol};
use serde_json::json;

use super::{
    ClusterIp, Container, ContainerPort, EndpointSlice, Namespace, Pod, PodPhase, PodSpec, PodStatus, Secret, Service, ServiceAccount,
    ServicePort, SliceEndpoint, SlicePort, TargetPort,
};
use crate::{
    Entry, Meta, Node, Object, Value,
    istio::{ExportTo, TrafficDistribution},
};

/// An annotation that a tool writes for itself, of any size.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The metadata, of an object of this `apiVersion`.
fn meta(from: ObjectMeta, api_version: &str) -> Meta {
    let mut annotations = from.annotations.unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    Meta {
        api_version: api_version.into(),
        namespace: from.namespace.unwrap_or_default().into(),
        name: from.name.unwrap_or_default().into(),
        labels: from.labels.unwrap_or_default(),
        annotations,
        created: from.creation_timestamp.map_or(0, |time| time.0.as_second()),
        ..Meta::default()
    }
}

impl Namespace {
    /// What a cluster has.
    pub fn from_cluster(metadata: ObjectMeta) -> Namespace {
        Namespace { meta: meta(metadata, "v1") }
    }
}

impl Secret {
    /// What a cluster has.
    pub fn from_cluster(from: k8s::Secret) -> Secret {
        let data = from.data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0)).collect();
        Secret { meta: meta(from.metadata, "v1"), kind: from.type_.unwrap_or_else(|| "Opaque".to_owned()), data }
    }
}

impl ServiceAccount {
    /// What a cluster has.
    pub fn from_cluster(metadata: ObjectMeta) -> ServiceAccount {
        ServiceAccount { meta: meta(metadata, "v1") }
    }
}

impl Service {
    /// What a cluster has; `None` for an ExternalName whose name is none.
    pub fn from_cluster(from: k8s::Service) -> Option<Service> {
        let mut spec = from.spec.unwrap_or_default();
        let external_name = match spec.type_.as_deref() {
            Some("ExternalName") => {
                // What such a service keeps of an earlier type has no effect.
                let host = spec.external_name.take()?.parse().ok().filter(|host: &Hostname| !host.is_wildcard())?;
                spec = k8s::ServiceSpec { cluster_ip: Some("None".to_owned()), ..k8s::ServiceSpec::default() };
                Some(host)
            }
            _ => None,
        };
        let meta = meta(from.metadata, "v1");
        let addresses: Vec<String> = spec.cluster_ips.into_iter().flatten().chain(spec.cluster_ip).collect();
        let cluster_ip = addresses.first().map(|text| cluster_ip(text)).unwrap_or_default();
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let exported = meta.annotations.get("networking.istio.io/exportTo").map(|text| text.split(',').map(str::trim));
        let distribution = spec.traffic_distribution.or_else(|| meta.annotations.get("networking.istio.io/traffic-distribution").cloned());
        Some(Service {
            second_ip: cluster_ip.beside(&addresses),
            cluster_ip,
            external_name,
            ports: spec.ports.into_iter().flatten().filter_map(service_port).collect(),
            selector: spec.selector.unwrap_or_default(),
            publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or_default(),
            // What cannot be read hides nothing: with Istio, too, it is the default then.
            export_to: exported.into_iter().flatten().filter_map(|part| ExportTo::parse(part).ok()).collect(),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            distribution: distribution.and_then(|text| TrafficDistribution::named(&text)).unwrap_or_default(),
            meta,
        })
    }
}

fn cluster_ip(text: &str) -> ClusterIp {
    match text {
        "None" => ClusterIp::Headless,
        text => text.parse().map_or(ClusterIp::Auto, ClusterIp::Address),
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Nothing where the transport is neither TCP nor UDP.
fn service_port(from: k8s::ServicePort) -> Option<ServicePort> {
    let port = number(from.port)?;
    let transport = from.protocol.as_deref().unwrap_or("TCP");
    if !matches!(transport, "TCP" | "UDP") {
        return None;
    }
    let name = from.name.unwrap_or_default();
    let target_port = match from.target_port {
        Some(IntOrString::Int(target)) => TargetPort::Number(number(target).unwrap_or(port)),
        Some(IntOrString::String(name)) => name.parse().map_or(TargetPort::Name(name), TargetPort::Number),
        None => TargetPort::Number(port),
    };
    let protocol =
        Protocol::of_port(Some(transport), from.app_protocol.as_deref(), Some(name.as_str()).filter(|name| !name.is_empty()), port);
    Some(ServicePort { port, target_port, protocol, name })
}

impl EndpointSlice {
    /// What a cluster has.
    pub fn from_cluster(from: discovery::EndpointSlice) -> EndpointSlice {
        let called = matches!(from.address_type.as_str(), "IPv4" | "IPv6");
        let endpoint = |from: discovery::Endpoint| {
            let address = from.addresses.first()?.parse().ok()?;
            let ready = from.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let pod = from.target_ref.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|target| target.name);
            Some(SliceEndpoint { address, ready, pod, zone: from.zone.unwrap_or_default() })
        };
        let port = |from: discovery::EndpointPort| {
            let udp = from.protocol.as_deref() == Some("UDP");
            Some(SlicePort { name: from.name.unwrap_or_default(), port: number(from.port?)?, udp })
        };
        EndpointSlice {
            meta: meta(from.metadata, "discovery.k8s.io/v1"),
            ports: from.ports.into_iter().flatten().filter_map(port).collect(),
            endpoints: from.endpoints.into_iter().filter(|_| called).filter_map(endpoint).collect(),
        }
    }
}

impl Pod {
    /// What a cluster has, and the node on which it runs. One that is being deleted is not ready, whatever its probes say.
    pub fn from_cluster(from: k8s::Pod) -> (Pod, Option<String>) {
        let spec = from.spec.unwrap_or_default();
        let status = from.status.unwrap_or_default();
        let leaving = from.metadata.deletion_timestamp.is_some();
        let controller = from.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let label = |name: &str| from.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
        let controller = controller.map(|owner| Workload::of(&owner.api_version, &owner.kind, &owner.name, label).name);
        let node = spec.node_name.clone();
        // Native sidecars may serve, too.
        let lasting = spec.init_containers.into_iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let containers = spec.containers.into_iter().chain(lasting).map(|container| Container {
            name: container.name,
            image: container.image.unwrap_or_default(),
            ports: container.ports.into_iter().flatten().filter_map(container_port).collect(),
            ..Container::default()
        });
        let addresses = status.pod_ips.into_iter().flatten().map(|ip| ip.ip).chain(status.pod_ip);
        let addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
        let ready = status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let pod = Pod {
            spec: PodSpec {
                service_account: spec.service_account_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
                containers: containers.collect(),
                ..PodSpec::default()
            },
            status: PodStatus {
                pod_ip: addresses.first().copied(),
                second_ip: PodStatus::beside(&addresses),
                phase: phase(status.phase.as_deref()),
                ready: ready && !leaving,
            },
            controller,
            meta: meta(from.metadata, "v1"),
        };
        (pod, node)
    }
}

fn container_port(from: k8s::ContainerPort) -> Option<ContainerPort> {
    let udp = match from.protocol.as_deref() {
        None | Some("TCP") => false,
        Some("UDP") => true,
        Some(_) => return None,
    };
    Some(ContainerPort { name: from.name.unwrap_or_default(), port: number(from.container_port)?, udp })
}

fn phase(text: Option<&str>) -> PodPhase {
    match text {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        Some("Unknown") => PodPhase::Unknown,
        _ => PodPhase::Pending,
    }
}

/// What people made, of which pods came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `apps/v1`
    pub api_version: String,
    /// `Deployment`
    pub kind: String,
    /// Its name, which is not empty unless the pod's controller has none.
    pub name: String,
}

impl Workload {
    /// By what controls a pod, and the pod's labels: Deployments make ReplicaSets, CronJobs make Jobs, OpenShift's DeploymentConfigs make
    /// ReplicationControllers.
    pub fn of<'a>(api_version: &str, kind: &str, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> Workload {
        let maker = match kind {
            // Its Deployment's name and a hash, which the pod carries, too.
            "ReplicaSet" => label("pod-template-hash")
                .filter(|hash| !hash.is_empty())
                .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
                .map(|name| ("apps/v1", "Deployment", name)),
            "ReplicationController" => label("deploymentconfig")
                .filter(|config| !config.is_empty() && name.starts_with(config))
                .map(|name| ("apps.openshift.io/v1", "DeploymentConfig", name)),
            // The time of its schedule follows.
            "Job" => name
                .rsplit_once('-')
                .filter(|(_, time)| (8..=11).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit()))
                .map(|(name, _)| ("batch/v1", "CronJob", name)),
            _ => None,
        };
        let (api_version, kind, name) = maker.filter(|(_, _, name)| !name.is_empty()).unwrap_or((api_version, kind, name));
        Workload { api_version: api_version.to_owned(), kind: kind.to_owned(), name: name.to_owned() }
    }
}

/// An object as a document, as far as it is known: for whoever looks at documents, of objects that were never one.
pub fn document(object: &Object) -> Node {
    let meta = object.meta();
    let mut metadata = json!({"name": &*meta.name, "labels": meta.labels, "annotations": meta.annotations});
    if !meta.namespace.is_empty() {
        metadata["namespace"] = json!(&*meta.namespace);
    }
    let spec = match object {
        Object::Service(Service { external_name: Some(host), .. }) => json!({"type": "ExternalName", "externalName": host.as_str()}),
        Object::Service(service) => json!({
            "selector": service.selector,
            "clusterIP": match service.cluster_ip {
                ClusterIp::Auto => String::new(),
                ClusterIp::Headless => "None".to_owned(),
                ClusterIp::Address(ip) => ip.to_string(),
            },
            "ports": service.ports.iter().map(port_document).collect::<Vec<_>>(),
        }),
        Object::Pod(pod) => json!({
            "serviceAccountName": pod.spec.service_account,
            "containers": pod.spec.containers.iter().map(|container| {
                let ports = container.ports.iter();
                let ports = ports.map(|port| json!({"name": port.name, "containerPort": port.port, "protocol": transport(port.udp)}));
                json!({"name": container.name, "image": container.image, "ports": ports.collect::<Vec<_>>()})
            }).collect::<Vec<_>>(),
        }),
        _ => json!({}),
    };
    node(json!({"apiVersion": &*meta.api_version, "kind": object.kind().name(), "metadata": metadata, "spec": spec}))
}

fn transport(udp: bool) -> &'static str {
    if udp { "UDP" } else { "TCP" }
}

fn port_document(port: &ServicePort) -> serde_json::Value {
    let target = match &port.target_port {
        TargetPort::Number(number) => json!(number),
        TargetPort::Name(name) => json!(name),
    };
    let mut document =
        json!({"name": port.name, "port": port.port, "targetPort": target, "protocol": transport(port.protocol == Protocol::Udp)});
    if !matches!(port.protocol, Protocol::Auto | Protocol::Udp) {
        document["appProtocol"] = json!(port.protocol.name().to_ascii_lowercase());
    }
    document
}

/// A value in no place.
fn node(value: serde_json::Value) -> Node {
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or_default()), Value::Int),
        serde_json::Value::String(text) => Value::Text(text.into()),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(node).collect()),
        serde_json::Value::Object(fields) => {
            Value::Map(fields.into_iter().map(|(key, value)| Entry { key: key.into(), line: 0, column: 0, value: node(value) }).collect())
        }
    };
    Node { value, line: 0, column: 0 }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn documents_of_what_was_never_one() {
        let service = json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"clusterIP": "None", "selector": {"app": "a"},
            "ports": [{"name": "x", "port": 80, "appProtocol": "http", "targetPort": "web"}, {"name": "d", "port": 53, "protocol": "UDP"}]}});
        let service = Service::from_cluster(serde_json::from_value(service).unwrap()).unwrap();
        let node = document(&service.into());
        let text = |path: &str| node.at(path).and_then(Node::text).map(str::to_owned);
        for (path, expected) in [
            ("kind", "Service"),
            ("metadata.namespace", "shop"),
            ("spec.clusterIP", "None"),
            ("spec.ports[0].appProtocol", "http"),
            ("spec.ports[0].targetPort", "web"),
            ("spec.ports[1].protocol", "UDP"),
        ] {
            assert_eq!(text(path).as_deref(), Some(expected), "{path}");
        }
        let (read, _) = pod(json!({}));
        let node = document(&read.into());
        assert_eq!(node.at("spec.containers[0].name").and_then(Node::text), Some("a"));
    }

    fn pod(more: Value) -> (Pod, Option<String>) {
        let mut pod = json!({
            "metadata": {"name": "reviews-5d9-x", "namespace": "shop", "labels": {"app": "reviews", "pod-template-hash": "5d9"},
                "annotations": {LAST_APPLIED: "…"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-5d9", "uid": "1", "controller": true}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "a", "ports": [{"containerPort": 9080, "name": "http"},
                {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 7, "protocol": "SCTP"}]}]},
            "status": {"phase": "Running", "podIP": "fd00::7", "podIPs": [{"ip": "fd00::7"}, {"ip": "10.0.0.7"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        });
        json_merge(&mut pod, more);
        Pod::from_cluster(serde_json::from_value(pod).unwrap())
    }

    fn json_merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(key, value)| json_merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn pods() {
        let (read, node) = pod(json!({}));
        assert_eq!((node.as_deref(), read.controller.as_deref()), (Some("n1"), Some("reviews")));
        assert_eq!((read.status.ready, read.status.phase, read.status.pod_ip), (true, PodPhase::Running, "fd00::7".parse().ok()));
        assert_eq!(read.status.second_ip, "10.0.0.7".parse().ok());
        assert_eq!(read.spec.service_account, "default");
        assert!(read.meta.annotations.is_empty());
        let ports: Vec<_> = read.spec.containers[0].ports.iter().map(|p| (p.name.as_str(), p.port, p.udp)).collect();
        assert_eq!(ports, [("http", 9080, false), ("", 53, true)]);
        let (leaving, _) = pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert!(!leaving.status.ready, "what is being deleted gets no traffic");
        let (pending, _) = pod(json!({"status": {"phase": "Pending", "podIP": null, "podIPs": null}}));
        assert_eq!((pending.status.pod_ip, pending.status.second_ip, pending.status.phase), (None, None, PodPhase::Pending));
        let (one, _) = pod(json!({"status": {"podIPs": [{"ip": "fd00::7"}]}}));
        assert_eq!((one.status.pod_ip, one.status.second_ip), ("fd00::7".parse().ok(), None));
    }

    #[test]
    fn workloads() {
        let label = |name: &str| match name {
            "pod-template-hash" => Some("5d9"),
            "deploymentconfig" => Some("web"),
            _ => None,
        };
        for (kind, name, expected) in [
            ("ReplicaSet", "reviews-v1-5d9", ("apps/v1", "Deployment", "reviews-v1")),
            ("ReplicaSet", "by-hand", ("v", "ReplicaSet", "by-hand")),
            ("ReplicaSet", "hand5d9", ("v", "ReplicaSet", "hand5d9")),
            ("ReplicaSet", "-5d9", ("v", "ReplicaSet", "-5d9")),
            ("ReplicationController", "web-3", ("apps.openshift.io/v1", "DeploymentConfig", "web")),
            ("ReplicationController", "other-3", ("v", "ReplicationController", "other-3")),
            ("StatefulSet", "db", ("v", "StatefulSet", "db")),
            ("Job", "backup-28374650", ("batch/v1", "CronJob", "backup")),
            ("Job", "import-2024", ("v", "Job", "import-2024")),
            ("Job", "import-123456789012", ("v", "Job", "import-123456789012")),
            ("DaemonSet", "agent", ("v", "DaemonSet", "agent")),
        ] {
            let found = Workload::of("v", kind, name, label);
            assert_eq!((&*found.api_version, &*found.kind, &*found.name), expected, "{kind} {name}");
        }
        assert_eq!(Workload::of("apps/v1", "ReplicaSet", "a-5d9", |_| None).kind, "ReplicaSet");
    }

    #[test]
    fn services() {
        let read = |spec: Value| Service::from_cluster(serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).unwrap());
        let both = read(json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"], "ports": [
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "x", "port": 7, "protocol": "SCTP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}));
        let both = both.unwrap();
        assert_eq!((both.cluster_ip, both.second_ip), (ClusterIp::Address("fd00::1".parse().unwrap()), "10.0.0.1".parse().ok()));
        let one = read(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]})).unwrap();
        assert_eq!((one.cluster_ip, one.second_ip), (ClusterIp::Address("10.0.0.1".parse().unwrap()), None));
        let ports: Vec<_> = both.ports.iter().map(|p| (p.port, p.protocol, p.target_port.clone())).collect();
        assert_eq!(ports, [(80, Protocol::Http, TargetPort::Name("web".to_owned())), (53, Protocol::Udp, TargetPort::Number(53)),]);
        assert_eq!(read(json!({"clusterIP": "None"})).unwrap().cluster_ip, ClusterIp::Headless);
        // The field comes before Istio's annotation, of which an unknown word is none; what is for calls from beyond the cluster is not for the mesh.
        let near = |spec: Value, annotation: &str| {
            let metadata = json!({"name": "a", "annotations": {"networking.istio.io/traffic-distribution": annotation}});
            let read = Service::from_cluster(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()).unwrap();
            (read.distribution, read.node_local)
        };
        use TrafficDistribution::{Any, SameNode, SameZone};
        assert_eq!(near(json!({}), "PreferClose"), (SameZone, false));
        assert_eq!(near(json!({"trafficDistribution": "PreferSameNode"}), "PreferClose"), (SameNode, false));
        assert_eq!(near(json!({"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}), "Nearby"), (Any, true));
        let named = read(json!({"type": "ExternalName", "externalName": "A.example.", "clusterIP": "10.0.0.9", "selector": {"a": "b"},
            "ports": [{"port": 80}]}));
        let named = named.unwrap();
        assert_eq!(
            (named.external_name.as_ref().map(Hostname::as_str), named.ports.len(), named.selector.len()),
            (Some("a.example"), 0, 0)
        );
        assert_eq!(read(json!({"type": "ExternalName", "externalName": "1..2"})), None);
    }

    #[test]
    fn slices() {
        let read = |family: &str, first: &str| {
            let slice = json!({"metadata": {"name": "a-1", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": family,
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}, {"name": "all", "port": null}],
            "endpoints": [
                {"addresses": [first, "10.0.0.9"], "conditions": {}, "zone": "z", "targetRef": {"kind": "Pod", "name": "p"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ]});
            EndpointSlice::from_cluster(serde_json::from_value(slice).unwrap())
        };
        let slice = read("IPv4", "10.0.0.1");
        assert_eq!((slice.service(), slice.ports.len()), (Some("a"), 1));
        let endpoints: Vec<_> =
            slice.endpoints.iter().map(|e| (e.address.to_string(), e.ready, e.pod.as_deref(), e.zone.as_str())).collect();
        assert_eq!(endpoints, [("10.0.0.1".to_owned(), true, Some("p"), "z"), ("10.0.0.2".to_owned(), false, None, "")]);
        assert_eq!(read("IPv6", "fd00::1").endpoints[0].address.to_string(), "fd00::1");
        assert!(read("FQDN", "a.example").endpoints.is_empty());
    }
}
