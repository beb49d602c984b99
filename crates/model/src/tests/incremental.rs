//! After any sequence of changes a snapshot is as one that was made at once, and says truly what changed.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{Key, Kind, Object};
use proptest::prelude::*;

use super::{host, parse};
use crate::{Change, Query, Reader, Snapshot};

const NAMESPACES: [&str; 2] = ["shop", "bank"];
const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

/// One object of a small world, in one of several forms.
#[derive(Clone, Debug)]
struct Form {
    kind: usize,
    namespace: usize,
    name: usize,
    form: usize,
}

fn form() -> impl Strategy<Value = Form> {
    (0..8usize, 0..2usize, 0..2usize, 0..6usize).prop_map(|(kind, namespace, name, form)| Form { kind, namespace, name, form })
}

impl Form {
    fn yaml(&self) -> String {
        let Form { kind, namespace, name, form } = self;
        let (namespace, pick) = (NAMESPACES[*namespace], |all: &[&str]| all[form % all.len()].to_owned());
        let (kind, version, rest) = match kind {
            0 => (
                "Service",
                "v1",
                pick(&[
                    "spec: {selector: {app: a}, ports: [{name: http, port: 80}]}",
                    "spec: {selector: {app: b, version: v1}, ports: [{name: http, port: 80}, {name: tcp, port: 90, targetPort: named}]}",
                    "spec: {clusterIP: None, selector: {app: a}, ports: [{name: tcp, port: 90}]}",
                    "spec: {ports: [{name: http, port: 80}]}",
                    "spec: {type: ExternalName, externalName: x.example}",
                    "spec: {type: ExternalName, externalName: n1.bank.svc.cluster.local}",
                ]),
            ),
            1 => {
                let labels = pick(&["app: a", "app: b, version: v1", "app: b", "app: a, security.istio.io/tlsMode: istio", "app: c"]);
                let (phase, ready) = [("Running", "True"), ("Running", "False"), ("Succeeded", "True")][form % 3];
                return format!(
                    "{{kind: Pod, apiVersion: v1, metadata: {{name: p{name}, namespace: {namespace}, labels: {{{labels}}}}}, \
                     spec: {{serviceAccountName: s{}, containers: [{{name: c, image: x, ports: [{{name: named, containerPort: 91}}]}}]}}, \
                     status: {{phase: {phase}, podIP: {}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}",
                    form % 2,
                    ADDRESSES[(form + name) % 3],
                );
            }
            2 => (
                "ServiceEntry",
                "networking.istio.io/v1",
                pick(&[
                    "spec: {hosts: [x.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 10.0.0.1}]}",
                    "spec: {hosts: [x.example, y.example], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.9}]}",
                    "spec: {hosts: ['*.example'], ports: [{number: 90, name: tcp}], resolution: NONE, exportTo: ['.']}",
                    "spec: {hosts: [y.example], ports: [{number: 90, name: tcp}], resolution: STATIC, workloadSelector: {labels: {app: a}}}",
                    "spec: {hosts: [n0.shop.svc.cluster.local], ports: [{number: 80, name: http}], resolution: DNS}",
                ]),
            ),
            3 => (
                "DestinationRule",
                "networking.istio.io/v1",
                pick(&[
                    "spec: {host: n0}",
                    "spec: {host: x.example}",
                    "spec: {host: '*.example'}",
                    "spec: {host: '*', exportTo: ['.']}",
                    "spec: {host: '*.shop.svc.cluster.local'}",
                ]),
            ),
            4 => (
                "VirtualService",
                "networking.istio.io/v1",
                pick(&[
                    "spec: {hosts: [n0], http: [{route: [{destination: {host: n0}}]}]}",
                    "spec: {hosts: [x.example, y.example], gateways: [mesh, g], http: [{route: [{destination: {host: n0}}]}], \
                     tls: [{match: [{sniHosts: [x.example]}], route: [{destination: {host: n0}}]}]}",
                    "spec: {hosts: ['*.example'], http: [{route: [{destination: {host: '*.example'}}]}]}",
                    "spec: {hosts: [x.example, '*.example'], gateways: [shop/g], http: [{route: [{destination: {host: n1}}]}]}",
                    "spec: {hosts: [x.example], gateways: [mesh, shop/g], http: [{match: [{uri: {prefix: /a}}], delegate: {name: n1, namespace: bank}}, \
                     {delegate: {name: n0}}]}",
                    "spec: {http: [{name: d, match: [{uri: {prefix: /a/b}}], route: [{destination: {host: '*.example'}}]}, {redirect: {uri: /}}]}",
                ]),
            ),
            5 => {
                let rest = pick(&[
                    "ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p0}}]",
                    "ports: [{name: http, port: 80}], endpoints: [{addresses: [10.0.0.2], targetRef: {kind: Pod, name: p1}}, {addresses: [10.0.0.9]}]",
                    "ports: [{name: tcp, port: 91}], endpoints: [{addresses: [10.0.0.3], conditions: {ready: false}, zone: z}]",
                    "ports: [{name: http, port: 81}], endpoints: []",
                ]);
                return format!(
                    "{{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, addressType: IPv4, metadata: {{name: s{name}, namespace: {namespace}, \
                     labels: {{kubernetes.io/service-name: n{}}}}}, {rest}}}",
                    form % 2,
                );
            }
            6 => {
                let mesh =
                    pick(&["defaultVirtualServiceExportTo: [.]", "defaultVirtualServiceExportTo: [shop, bank]", "enableAutoMtls: false"]);
                return format!(
                    "{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{mesh}'}}}}"
                );
            }
            _ => {
                let (name, data) = match form % 3 {
                    0 => ("mizzen-vips", "n0.shop.svc.cluster.local: 10.96.0.1"),
                    1 => ("mizzen-vips", "n1.bank.svc.cluster.local: 10.96.0.2, x.example: 10.96.0.3"),
                    _ => ("other", "a: b"),
                };
                return format!(
                    "{{kind: ConfigMap, apiVersion: v1, metadata: {{name: {name}, namespace: kube-system}}, data: {{{data}}}}}"
                );
            }
        };
        let created = 1 + form % 3;
        format!(
            "{{kind: {kind}, apiVersion: {version}, metadata: {{name: n{name}, namespace: {namespace}, \
             creationTimestamp: '2026-01-0{created}T00:00:00Z'}}, {rest}}}"
        )
    }

    fn object(&self) -> Arc<Object> {
        match parse(&self.yaml()).remove(0) {
            Change::Apply(object) => match Object::clone(&object) {
                // What was allocated comes with an entry, and without a text.
                Object::ServiceEntry(mut entry) if self.form.is_multiple_of(2) => {
                    let ip = std::net::Ipv4Addr::new(240, 240, 0, u8::try_from(self.form).unwrap()).into();
                    entry.allocated = entry.hosts.first().map(|host| (host.clone(), ip)).into_iter().collect();
                    Arc::new(entry.into())
                }
                _ => object,
            },
            other => panic!("{other:?}"),
        }
    }
}

/// Everything that can be asked about in the small world.
fn queries(snapshot: &Snapshot, other: &Snapshot) -> Vec<Query> {
    let mut all = vec![Query::Services, Query::Mesh, Query::RoutedHosts, Query::RoutesToWildcards, Query::TlsRoutes, Query::Aliases];
    for name in ["n0.shop.svc.cluster.local", "n1.bank.svc.cluster.local", "x.example", "y.example", "*.example", "z.example", "elsewhere"]
    {
        all.extend([Query::Service(host(name)), Query::Alias(host(name)), Query::Routes(host(name)), Query::DestinationRules(host(name))]);
    }
    for namespace in NAMESPACES {
        all.push(Query::ServicesOf(namespace.into()));
        all.push(Query::BoundTo(format!("{namespace}/g").parse().unwrap()));
        all.extend([Kind::Service, Kind::Pod, Kind::VirtualService].map(|kind| Query::Namespace(kind, namespace.into())));
    }
    all.extend([80, 90].map(Query::Port));
    for ip in ADDRESSES.iter().chain(&["10.0.0.9"]) {
        all.extend([Query::Pod(ip.parse().unwrap()), Query::Instances(ip.parse().unwrap())]);
    }
    for snapshot in [snapshot, other] {
        for service in snapshot.derived().all() {
            let key = service.value.key();
            all.extend([Query::ServiceView(key.clone()), Query::Endpoints(key.clone()), Query::Accounts(key)]);
        }
    }
    all
}

/// The answers, without stamps.
fn answers(snapshot: &Snapshot, queries: &[Query]) -> BTreeMap<String, String> {
    let derived = snapshot.derived();
    let reader = Reader::new(snapshot);
    let views = |found: Vec<&Arc<crate::ServiceView>>| format!("{found:?}");
    let rules = |found: Vec<(&mizzen_types::Hostname, &crate::index::Stamped<Object>)>| {
        format!("{:?}", found.iter().map(|(host, stored)| (host.as_str(), &*stored.value)).collect::<Vec<_>>())
    };
    let answer = |query: &Query| match query {
        Query::Services => views(reader.services().collect()),
        Query::ServicesOf(namespace) => views(reader.services_of(namespace).collect()),
        Query::Service(host) => views(derived.under_host(host).map(|stored| &stored.value).collect()),
        Query::ServiceView(key) => views(derived.under_host(&key.0).map(|stored| &stored.value).filter(|s| s.key() == *key).collect()),
        Query::Alias(host) => format!("{:?}", reader.alias(host)),
        Query::Aliases => format!("{:?}", derived.aliases().map(|stored| &stored.value).collect::<Vec<_>>()),
        Query::Port(port) => views(reader.services_at(*port).collect()),
        Query::Endpoints(key) => format!("{:?}", derived.endpoints(key)),
        Query::Accounts(key) => format!("{:?}", derived.accounts(key).filter(|found| !found.is_empty())),
        Query::Instances(ip) => format!("{:?}", reader.instances(*ip)),
        Query::Pod(ip) => format!("{:?}", reader.pod(*ip)),
        Query::Routes(host) => rules(snapshot.rules().routes.find(host)),
        Query::DestinationRules(host) => rules(snapshot.rules().destination_rules.find(host)),
        Query::BoundTo(gateway) => format!("{:?}", reader.bound_to(gateway)),
        Query::RoutedHosts => format!("{:?}", reader.routed_hosts().collect::<Vec<_>>()),
        Query::TlsRoutes => format!("{:?}", reader.tls_routes().collect::<Vec<_>>()),
        Query::RoutesToWildcards => format!("{:?}", reader.routes_to_wildcards().collect::<Vec<_>>()),
        Query::Namespace(kind, namespace) => {
            format!("{:?}", snapshot.all().in_namespace(*kind, namespace).map(|stored| &stored.value).collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    };
    queries.iter().map(|query| (format!("{query:?}"), answer(query))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn as_made_at_once(steps in prop::collection::vec(prop::collection::vec((form(), any::<bool>()), 1..4), 1..25)) {
        let mut objects: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
        let mut snapshot = Snapshot::empty();
        for step in steps {
            let mut changes = Vec::new();
            for (form, there) in step {
                let object = form.object();
                if there {
                    objects.insert(object.key(), object.clone());
                    changes.push(Change::Apply(object));
                } else {
                    objects.remove(&object.key());
                    changes.push(Change::Delete(object.key()));
                }
            }
            let next = snapshot.apply(changes);
            let at_once = Snapshot::empty().apply(objects.values().cloned().map(Change::Apply));
            let all = queries(&snapshot, &next);
            prop_assert_eq!(answers(&next, &all), answers(&at_once, &all));
            if !Arc::ptr_eq(&snapshot, &next) {
                let (before, after) = (answers(&snapshot, &all), answers(&next, &all));
                for query in &all {
                    let same = before[&format!("{query:?}")] == after[&format!("{query:?}")];
                    let (was, is) = (snapshot.stamp(query), next.stamp(query));
                    prop_assert!(same || was != is, "{:?} differs under one stamp", query);
                    prop_assert!(was == is || next.changes().touches(query), "{:?} is not said to be touched", query);
                }
            }
            snapshot = next;
        }
    }
}

#[test]
fn a_pod_touches_its_own() {
    let service = |i: usize| {
        format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: s{i}, namespace: shop}}, spec: {{selector: {{app: a{i}}}, ports: [{{name: http, port: 80}}]}}}}"
        )
    };
    let pod = |i: usize, ready: &str| {
        format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: p{i}, namespace: shop, labels: {{app: a{i}}}}}, spec: {{containers: [{{name: c, image: x}}]}}, \
             status: {{phase: Running, podIP: 10.0.{}.{}, conditions: [{{type: Ready, status: '{ready}'}}]}}}}",
            i / 200,
            i % 200 + 1
        )
    };
    let touched = |services: usize| {
        let all = (0..services).flat_map(|i| parse(&service(i)).into_iter().chain(parse(&pod(i, "True"))));
        let snapshot = Snapshot::empty().apply(all.collect::<Vec<_>>());
        let next = snapshot.apply(parse(&pod(7, "False")));
        // All else is shared, not equal.
        let shared = snapshot.derived().all().zip(next.derived().all()).all(|(a, b)| Arc::ptr_eq(&a.value, &b.value));
        assert!(shared);
        next.changes().queries().count()
    };
    assert_eq!((touched(20), touched(400)), (5, 5));
}
