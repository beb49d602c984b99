//! Addresses of ServiceEntries that name none, beside a real API server.

use mizzen_pki::Svid;
use mizzen_protos::{index::Host, nds::NameTable, wkt};
use mizzen_testkit::{eventually, kube::ApiServer};
use mizzen_xds::types::{INDEX, LISTENER, NAME_TABLE};
use prost::Message;
use serde_json::{Value, json};

use super::{
    cluster::{api, get, role, run_pod},
    cluster_tokens::token,
    harness::{Proxy, World, node},
};
use crate::{AutoAllocate, status::ServiceStatus};

fn entry(name: &str, more: &str) -> String {
    let labels = if more.contains("label") { ", labels: {networking.istio.io/enable-autoallocate-ip: 'false'}" } else { "" };
    let rest = if more.contains("own") { ", addresses: [192.0.2.7]" } else { "" };
    let resolution = if more.contains("none") { "NONE" } else { "DNS" };
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: shop{labels}}}, \
         spec: {{hosts: [{name}.example.com], ports: [{{number: 5432, name: tcp, protocol: TCP}}], resolution: {resolution}{rest}}}}}"
    )
}

fn status(api: &ApiServer, name: &str) -> Result<Value, String> {
    let text = get(api, &["serviceentry", name, "-n", "shop"], "{.status}")?;
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text).map_err(|error| error.to_string())? })
}

/// The values of all addresses of an entry, which are of its one host.
fn addresses(api: &ApiServer, name: &str) -> Result<Vec<String>, String> {
    let status = status(api, name)?;
    let list = status["addresses"].as_array().cloned().unwrap_or_default();
    let host = format!("{name}.example.com");
    list.iter().map(|item| item["value"].as_str().filter(|_| item["host"] == *host).map(str::to_owned).ok_or(status.to_string())).collect()
}

/// Waits until an entry has an address of each family, other than these.
fn both(api: &ApiServer, name: &str, not: &[String]) -> Vec<String> {
    eventually(&format!("addresses of {name}"), || {
        let found = addresses(api, name)?;
        let fits = found.len() == 2 && found[0].starts_with("240.240.") && found[1].starts_with("2001:2:");
        if fits && !found.iter().any(|one| not.contains(one)) { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

fn none(api: &ApiServer, name: &str) {
    eventually(&format!("no addresses of {name}"), || match addresses(api, name)? {
        found if found.is_empty() => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

fn say(api: &ApiServer, name: &str, status: &Value) {
    let patch = json!({ "status": status }).to_string();
    api.kubectl(&["patch", "serviceentry", name, "-n", "shop", "--subresource=status", "--type=merge", "-p", &patch], "").ok();
}

/// A sidecar of the pod, whose agent answers questions for names or does not; with its index, if it fetches on demand.
async fn sidecar(api: &ApiServer, world: &World, metadata: &[(&str, &str)]) -> Proxy {
    let token = token(api, "shop", "reviews", &["--audience=istio-ca", "--bound-object-kind=Pod", "--bound-object-name=reviews-0"]);
    let key = mizzen_pki::KeyPair::generate().unwrap();
    let chain = world.csr(None, Some(&token), &key.csr(None).unwrap(), 0).await.unwrap();
    let svid = Svid::from_chain(&chain, &key).unwrap();
    let mut node = node("sidecar~10.244.0.7~reviews-0.shop~shop.svc.cluster.local", "reviews");
    let fields = &mut node.metadata.as_mut().unwrap().fields;
    for (name, value) in metadata {
        fields.insert((*name).to_owned(), wkt::Value { kind: Some(wkt::value::Kind::StringValue((*value).to_owned())) });
    }
    let mut proxy = Proxy::connect_as(world, &svid, node).await.unwrap();
    let kinds = if metadata.contains(&("MIZZEN_ON_DEMAND", "1")) { &[INDEX][..] } else { &[LISTENER, NAME_TABLE] };
    kinds.iter().for_each(|kind| proxy.client.watch_all(kind));
    proxy
}

fn answers(proxy: &Proxy, host: &str) -> Vec<String> {
    let table = proxy.get(NAME_TABLE, "").map(|bytes| NameTable::decode(bytes).unwrap()).unwrap_or_default();
    table.table.get(host).map(|info| info.ips.clone()).unwrap_or_default()
}

/// Each entry gets one of each family, in its status beside what is said of it there; sidecars that answer DNS tell hosts apart by them. What is another's
/// is replaced, what shall not be there goes, and what is there stays when the control plane starts anew.
#[tokio::test(flavor = "multi_thread")]
async fn entries_get_addresses() {
    let Some(api) = api() else { return };
    run_pod(&api);
    for (name, more) in [("db", ""), ("quiet", "label"), ("own", "own"), ("any", "none")] {
        api.apply(&entry(name, more));
    }
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let of_db = both(&api, "db", &[]);
    api.apply(&entry("other", ""));
    let of_other = both(&api, "other", &of_db);

    // What proxies get of it.
    let mut knows = sidecar(&api, &world, &[("DNS_CAPTURE", "true")]).await;
    let (db, other) = (format!("{}_5432", of_db[0]), format!("{}_5432", of_other[0]));
    let open = "0.0.0.0_5432";
    knows.until(|proxy| proxy.has(LISTENER, &db) && proxy.has(LISTENER, &other) && !answers(proxy, "other.example.com").is_empty()).await;
    assert_eq!(
        [answers(&knows, "db.example.com"), answers(&knows, "other.example.com")],
        [vec![of_db[0].clone()], vec![of_other[0].clone()]]
    );
    let mut asks = sidecar(&api, &world, &[("DNS_CAPTURE", "true"), ("MIZZEN_ON_DEMAND", "1")]).await;
    asks.until(|proxy| proxy.has(INDEX, "db.example.com")).await;
    let index = Host::decode(asks.get(INDEX, "db.example.com").unwrap()).unwrap();
    let ip: std::net::Ipv4Addr = of_db[0].parse().unwrap();
    assert_eq!((index.addresses, index.own, index.any), (vec![ip.octets().to_vec()], vec![5432], vec![]));
    let mut plain = sidecar(&api, &world, &[]).await;
    plain.until(|proxy| proxy.has(LISTENER, open) && proxy.has(NAME_TABLE, "")).await;
    assert!(answers(&plain, "db.example.com").is_empty() && !plain.has(LISTENER, &db), "its workload does not get to know the address");

    // A younger one that has the same ones gets others, and the older one keeps its own.
    say(
        &api,
        "other",
        &json!({ "addresses": of_db.iter().map(|ip| json!({ "host": "other.example.com", "value": ip })).collect::<Vec<_>>() }),
    );
    let of_other = both(&api, "other", &of_db);
    assert_eq!(addresses(&api, "db").unwrap(), of_db);
    // Neither of those who write into the status wipes what the other has written, nor what a third one has.
    say(&api, "db", &json!({ "conditions": [{ "type": "Ours", "status": "True" }] }));
    api.apply(&entry("db", "").replace("resolution: DNS", "subjectAltNames: [''], resolution: DNS"));
    let types = eventually("what is said of it", || {
        let status = status(&api, "db")?;
        let types: Vec<String> = status["conditions"].as_array().into_iter().flatten().map(|one| one["type"].to_string()).collect();
        if types.len() == 2 { Ok(types) } else { Err(format!("{status}")) }
    });
    assert_eq!(types, [r#""Ours""#, r#""Reconciled""#]);
    assert_eq!(addresses(&api, "db").unwrap(), of_db, "an entry that cannot be read keeps them");
    api.apply(&entry("db", ""));

    // No more: by label, by its own addresses, by its resolution; what else the status says stays.
    say(&api, "quiet", &json!({ "addresses": [{ "host": "quiet.example.com", "value": "240.240.9.9" }] }));
    none(&api, "quiet");
    for (name, more) in [("other", "label"), ("other", ""), ("other", "own"), ("other", ""), ("other", "none")] {
        api.apply(&entry(name, more));
        if more.is_empty() { drop(both(&api, name, &of_db)) } else { none(&api, name) }
    }
    knows.until(|proxy| proxy.has(LISTENER, &db) && !proxy.has(LISTENER, &other)).await;
    assert_eq!((addresses(&api, "own").unwrap().len(), addresses(&api, "any").unwrap().len()), (0, 0));
    api.apply(&entry("other", ""));
    assert_eq!(both(&api, "other", &of_db), of_other, "by its names");

    // A control plane that starts finds what there is, with other ranges, too; new ones are of those.
    world.running.stop().await;
    let ranges = AutoAllocate::new(true, "10.200.0.0/16", "fd00:9::/64").unwrap();
    let world = World::of_cluster_with(&api.kubeconfig_file(), |options| options.cluster.as_mut().unwrap().allocate = ranges).await;
    api.apply(&entry("late", ""));
    eventually("addresses of other ranges", || match addresses(&api, "late")? {
        found if found.len() == 2 && found[0].starts_with("10.200.") && found[1].starts_with("fd00:9:") => Ok(()),
        found => Err(format!("{found:?}")),
    });
    assert_eq!([addresses(&api, "db").unwrap(), addresses(&api, "other").unwrap()], [of_db.clone(), of_other]);
    world.running.stop().await;

    // Where none are allocated, none are used, and none taken away.
    let off = AutoAllocate::new(false, "", "").unwrap();
    let world = World::of_cluster_with(&api.kubeconfig_file(), |options| options.cluster.as_mut().unwrap().allocate = off).await;
    api.apply(&entry("never", ""));
    let services = world.until("/debug/registryz", |all: &Vec<ServiceStatus>| all.iter().any(|one| one.host == "never.example.com")).await;
    let known = services.iter().find(|one| one.host == "db.example.com").unwrap();
    assert!(known.addresses.is_empty(), "{known:?}");
    assert_eq!((addresses(&api, "db").unwrap(), addresses(&api, "never").unwrap()), (of_db, vec![]));
    world.running.stop().await;
}

/// Without the right it is said, and tried again; other kinds' statuses are written meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right() {
    let Some(api) = api() else { return };
    let most = "
- {apiGroups: [''], resources: [namespaces, services, pods, nodes, serviceaccounts, configmaps, secrets, events], verbs: ['*']}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
- {apiGroups: [security.istio.io, networking.istio.io], resources: ['*'], verbs: [get, list, watch]}";
    api.apply(&role("most", most));
    let file = api.dir().join("mizzen.kubeconfig");
    std::fs::write(&file, api.kubeconfig_for("mizzen", &[])).unwrap();
    api.apply(&entry("db", ""));
    let world = World::of_cluster(&file).await;
    world.until("/debug/registryz", |all: &Vec<ServiceStatus>| all.iter().any(|one| one.host == "db.example.com")).await;
    let leads = |found: &crate::status::Selfz| found.election.as_ref().is_some_and(|election| election.leads);
    world.until("/debug/selfz", leads).await;
    assert_eq!(status(&api, "db"), Ok(Value::Null));
    api.apply(&role("status", "[{apiGroups: [networking.istio.io], resources: [serviceentries/status], verbs: [patch]}]"));
    both(&api, "db", &[]);
    world.running.stop().await;
}
