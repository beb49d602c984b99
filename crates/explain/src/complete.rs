//! What stands in files, with what somebody would make of it: pods of Deployments, a gateway for Gateways, addresses for services.
//!
//! A folder of YAML says neither who runs nor where. One pod stands for each Deployment that has none, since its replicas are decided alike; it bears
//! the Deployment's name. Addresses are of ranges that nobody uses, for benchmarks (RFC 2544).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use mizzen_api::{
    Key, Kind, Meta, Object, Selector,
    core::{ClusterIp, ConfigMap, Deployment, Namespace, Pod, PodPhase, PodSpec, PodStatus, Service},
    istio::{Gateway, ServiceEntry},
};
use mizzen_model::{Change, Snapshot, TLS_MODE_LABEL, VIPS};

/// The name of Istio's gateway in its default installation, and the label by which it is selected.
const GATEWAY: &str = "istio-ingressgateway";

/// A mesh in which everything that its objects ask for runs, and has an address.
pub fn complete(snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
    let pods: Vec<&Pod> = snapshot.objects::<Pod>().collect();
    let mut free = addresses(Ipv4Addr::new(198, 18, 0, 10));
    let mut made: Vec<Pod> = Vec::new();
    for deployment in snapshot.objects::<Deployment>().filter(|deployment| deployment.replicas > 0) {
        let runs = |pod: &&Pod| pod.meta.namespace == deployment.meta.namespace && deployment.selector.matches(&pod.meta.labels);
        if !pods.iter().any(runs) {
            made.push(pod_of(deployment, is_injected(snapshot, deployment), next(&mut free)));
        }
    }
    let mut selectors: BTreeSet<&Selector> = snapshot.objects::<Gateway>().map(|gateway| &gateway.selector).collect();
    selectors.retain(|selector| !selector.is_empty());
    for selector in selectors {
        let taken = pods.iter().map(|pod| &pod.meta.labels).chain(made.iter().map(|pod| &pod.meta.labels)).any(|l| selector.matches(l));
        if !taken {
            made.push(gateway(snapshot, selector, next(&mut free)));
        }
    }
    let mut changes: Vec<Change> = made.into_iter().map(Object::from).map(Change::from).collect();
    changes.extend(virtual_addresses(snapshot).map(Object::from).map(Change::from));
    snapshot.apply(changes)
}

fn addresses(first: Ipv4Addr) -> impl Iterator<Item = IpAddr> {
    (first.to_bits()..).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
}

fn next(free: &mut impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    free.next()
}

/// Whether a Deployment's pods get a sidecar: all do, unless they or their namespace say no, or they are gateways.
fn is_injected(snapshot: &Snapshot, deployment: &Deployment) -> bool {
    let says_no = |map: &BTreeMap<String, String>| map.get("sidecar.istio.io/inject").is_some_and(|value| value == "false");
    let key = Key::new(Kind::Namespace, "", deployment.meta.namespace.clone());
    let namespace = snapshot.object(&key).and_then(|object| match &**object {
        Object::Namespace(Namespace { meta, .. }) => meta.labels.get("istio-injection"),
        _ => None,
    });
    let template = &deployment.template;
    !template.is_gateway()
        && !says_no(&template.labels)
        && !says_no(&template.annotations)
        && namespace.is_none_or(|value| value != "disabled")
}

fn running(ip: Option<IpAddr>) -> PodStatus {
    PodStatus { pod_ip: ip, second_ip: None, phase: PodPhase::Running, ready: true }
}

fn pod_of(deployment: &Deployment, injected: bool, ip: Option<IpAddr>) -> Pod {
    let template = &deployment.template;
    let mut labels = template.labels.clone();
    if injected {
        labels.entry(TLS_MODE_LABEL.to_owned()).or_insert_with(|| "istio".to_owned());
    }
    let meta = Meta { labels, annotations: template.annotations.clone(), ..deployment.meta.clone() };
    Pod { meta, spec: template.spec.clone(), status: running(ip), controller: None }
}

/// A gateway in the place where Istio's installation and `mizzen up` put theirs.
fn gateway(snapshot: &Snapshot, selector: &Selector, ip: Option<IpAddr>) -> Pod {
    let name = match selector.labels.get("istio").map(String::as_str) {
        None | Some("ingressgateway") => GATEWAY.to_owned(),
        Some(other) => format!("istio-{other}"),
    };
    let mut labels = selector.labels.clone();
    labels.entry("app".to_owned()).or_insert_with(|| name.clone());
    let namespace = snapshot.mesh().root_namespace.as_str().into();
    let spec = PodSpec { service_account: format!("{name}-service-account"), ..PodSpec::default() };
    Pod { meta: Meta { name: name.into(), namespace, labels, ..Meta::default() }, spec, status: running(ip), controller: None }
}

/// Addresses for all that should have one and has none; `None` if nothing lacks one.
fn virtual_addresses(snapshot: &Snapshot) -> Option<ConfigMap> {
    let (namespace, name) = VIPS;
    let key = Key::new(Kind::ConfigMap, namespace, name);
    let mut known = match snapshot.object(&key).map(|object| &**object) {
        Some(Object::ConfigMap(map)) => map.clone(),
        _ => ConfigMap {
            meta: Meta { name: name.into(), namespace: namespace.into(), ..Meta::default() },
            data: BTreeMap::new(),
            binary_data: BTreeMap::new(),
        },
    };
    let auto = snapshot.objects::<Service>().filter(|service| service.cluster_ip == ClusterIp::Auto);
    let services = auto.map(|service| format!("{}.{}.svc.cluster.local", service.meta.name, service.meta.namespace));
    let hosts = snapshot.objects::<ServiceEntry>().flat_map(ServiceEntry::allocatable_hosts);
    let hosts = hosts.filter(|host| !host.is_wildcard()).map(|host| host.as_str().to_owned());
    let missing: BTreeSet<String> = services.chain(hosts).filter(|host| !known.data.contains_key(host)).collect();
    if missing.is_empty() {
        return None;
    }
    let free = addresses(Ipv4Addr::new(198, 19, 0, 10)).map(|ip| ip.to_string());
    known.data.extend(missing.into_iter().zip(free));
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Explainer, load, tests::read};

    const FOLDER: &str = "
{kind: Service, apiVersion: v1, metadata: {name: reviews, namespace: shop}, spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: reviews-v1, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: reviews}}
  template: {metadata: {labels: {app: reviews}}, spec: {serviceAccountName: reviews, containers: [{name: c, image: x, command: [x]}]}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{name: c, image: x, command: [x]}]}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: old, namespace: shop}
spec:
  selector: {matchLabels: {app: old}}
  template:
    metadata: {labels: {app: old, sidecar.istio.io/inject: 'false'}}
    spec: {containers: [{name: c, image: x, command: [x]}]}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: payments, namespace: shop}
spec:
  selector: {matchLabels: {istio: payments}}
  template:
    metadata: {labels: {istio: payments}, annotations: {inject.istio.io/templates: gateway}}
    spec: {containers: [{name: istio-proxy, image: auto}]}
---
{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: own, namespace: shop},
 spec: {selector: {istio: payments}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}
---
{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: door, namespace: shop},
 spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}
---
{kind: PeerAuthentication, apiVersion: security.istio.io/v1, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}
";

    #[test]
    fn a_folder_alone_is_enough() {
        let loaded = load([("folder.yaml", FOLDER)]);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        let mesh = complete(&loaded.snapshot);
        let mut names: Vec<String> = mesh.objects::<Pod>().map(|pod| format!("{}/{}", pod.meta.namespace, pod.meta.name)).collect();
        names.sort();
        assert_eq!(names, ["istio-system/istio-ingressgateway", "shop/old", "shop/payments", "shop/reviews-v1", "shop/web"]);
        let beside: Vec<String> =
            mesh.objects::<Pod>().filter(|pod| pod.meta.labels.contains_key(TLS_MODE_LABEL)).map(|pod| pod.meta.name.to_string()).collect();
        assert_eq!(beside.len(), 2, "neither what says no nor gateways have sidecars: {beside:?}");
        let verdict = |call: &str| Explainer::new(&mesh).call(&read(call)).expect("a call").verdict.to_string();
        assert_eq!(verdict("shop/web GET reviews:9080/"), "delivered");
        assert_eq!(verdict("shop/old GET reviews:9080/"), "closed: no filter chain of virtualInbound is for plaintext");
        // What runs already is not made again.
        assert_eq!(complete(&mesh).version(), mesh.version());
    }
}
