//! Resources that hold many things.

use mizzen_xds::types::ROUTE;

use super::*;

fn service(i: usize, timeout: usize) -> String {
    let meta = |version: &str| format!("apiVersion: {version}, metadata: {{name: s{i}, namespace: ns{}}}", i % 10);
    format!(
        "{{kind: Service, {}, spec: {{clusterIP: 10.96.{}.{}, selector: {{app: s{i}}}, ports: [{{name: http, port: 80}}]}}}}\n---\n\
         {{kind: VirtualService, {}, spec: {{hosts: [s{i}], http: [{{timeout: {timeout}s, route: [{{destination: {{host: s{i}}}}}]}}]}}}}\n---\n",
        meta("v1"),
        i / 250,
        i % 250 + 1,
        meta("networking.istio.io/v1")
    )
}

/// One rule among many at one port, as it is with Kubernetes' services: what is built does not hang on how many there are, nor on the namespaces.
#[test]
fn one_rule_of_a_port_is_one_part() {
    let check = |services: usize| {
        let mut mesh = Mesh::new(&(0..services).map(|i| service(i, 1)).collect::<String>());
        for i in 0..20 {
            mesh.connect(facts(i, &format!("ns{}", i % 10)));
            let names = vec!["80".to_owned()];
            mesh.proxies[i].request(DeltaDiscoveryRequest {
                type_url: ROUTE.into(),
                resource_names_subscribe: names,
                ..Default::default()
            });
            mesh.proxies[i].sync(&mesh.memo);
        }
        let table = |mesh: &Mesh, at: usize| mesh.proxies[at].has[&(ROUTE.into(), "80".into())].clone();
        let (one, other) = (table(&mesh, 0), table(&mesh, 1));
        assert!(one.version != other.version, "names of one word hang on the namespace");
        let (one, other) = (one.parts.unwrap(), other.parts.unwrap());
        let (one, other) = (one.messages(), other.messages());
        assert_eq!((one.len(), other.len()), (services + 1, services + 1));
        let same = one.iter().zip(other).filter(|(a, b)| Arc::ptr_eq(&a.1, &b.1)).count();
        assert_eq!(same, services + 1 - services / 5, "what is the same in both is there once");
        let rule = mesh.cost(objects(&service(7, 2)));
        assert_eq!((rule.woken, rule.sent), (20, 20), "{rule:?}");
        let new = mesh.cost(objects(&service(services, 1)));
        let gone = mesh.cost(
            ["VirtualService", "Service"]
                .map(|kind| {
                    let kind = mizzen_api::Kind::called(kind).unwrap();
                    Change::Delete(mizzen_api::Key::new(kind, format!("ns{}", services % 10), format!("s{services}")))
                })
                .into(),
        );
        // Parts that are no more are held by nobody.
        mesh.cost(objects("{kind: ConfigMap, apiVersion: v1, metadata: {name: x, namespace: ns0}, data: {a: b}}"));
        let slots = mesh.memo.counts().slots;
        mesh.cost(objects(&service(services, 1)));
        assert!(mesh.memo.counts().slots > slots);
        [rule.built, new.built, gone.built]
    };
    let few = check(20);
    assert_eq!(few, check(40));
    assert!(few.iter().all(|built| *built < 20), "{few:?}");
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut mesh = Mesh::new(&(0..5).map(|i| service(i, 1)).collect::<String>());
    mesh.connect(facts(0, "ns0"));
    let nothing = |mesh: &mut Mesh, n: usize| {
        mesh.cost(objects(&format!("{{kind: ConfigMap, apiVersion: v1, metadata: {{name: x, namespace: ns0}}, data: {{a: b{n}}}}}")));
        mesh.memo.counts().slots
    };
    let before = nothing(&mut mesh, 0);
    for i in 0..3 {
        mesh.cost(objects(&service(10, 1)));
        let kind = |kind: &str| mizzen_api::Kind::called(kind).unwrap();
        let gone = ["VirtualService", "Service"].map(|name| Change::Delete(mizzen_api::Key::new(kind(name), "ns0", "s10")));
        mesh.cost(gone.into());
        assert_eq!(nothing(&mut mesh, i + 1), before);
    }
}
