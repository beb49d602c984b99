//! What is asked of servers, and what their answers come to.

use super::*;
use mizzen_protos::{
    Any,
    envoy::envoy::{config::bootstrap::v3::Bootstrap, service::discovery::v3::Resource},
    index,
};
use prost::Message;

/// What is asked for on the next stream: kinds and names.
fn asked(sources: &mut Sources) -> Vec<(ResourceKind, String)> {
    let Some(link) = sources.links.get_mut(&Source::Aggregated) else { return Vec::new() };
    link.client.disconnected();
    link.client.connected();
    let mut all = Vec::new();
    while let Some(request) = link.client.next_request() {
        let Request::Delta(request) = request else { continue };
        let kind = ResourceKind::of(&request.type_url).unwrap();
        all.extend(request.resource_names_subscribe.into_iter().map(|name| (kind, name)));
    }
    all
}

#[tokio::test]
async fn what_a_worker_waits_for_is_asked_for() {
    let mut plan = Plan::new(Bootstrap::default()).unwrap();
    plan.ads = Some((Server::Pipe("/nowhere".into()), Variant::Delta));
    let (mut sources, _events) = Sources::new(&plan, Process::default(), &Options::default());
    let mut store = Store::new([]);
    sources.demand(ResourceKind::Route, &"r".into(), &"".into(), Duration::ZERO);
    sources.ask(&mut store, Duration::ZERO);
    assert_eq!(asked(&mut sources), [(ResourceKind::Route, "r".to_owned())]);
    // It is not there: nobody asks for it any more.
    sources.demand_no_more(ResourceKind::Route, &"r".into());
    sources.ask(&mut store, Duration::ZERO);
    assert_eq!(asked(&mut sources), []);
}

/// What a server says, as a delta response.
fn says(type_url: &str, nonce: &str, resources: &[(&str, Vec<u8>)], removed: &[&str]) -> Happened {
    let resource = |(name, value): &(&str, Vec<u8>)| Resource {
        name: (*name).to_owned(),
        version: "1".to_owned(),
        resource: Some(Any { type_url: type_url.to_owned(), value: value.clone() }),
        ..Default::default()
    };
    Happened::Response(Box::new(Answer::Delta(DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.iter().map(resource).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    })))
}

fn host(port: u32) -> Vec<u8> {
    index::Host { addresses: vec![vec![10, 0, 0, 1]], http: vec![port], ..Default::default() }.encode_to_vec()
}

/// The requests since the last call, each as its type and what it subscribes to and unsubscribes from.
fn requests(receiver: &mut mpsc::Receiver<Request>) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(request) = receiver.try_recv() {
        let Request::Delta(request) = request else { panic!("the variant is delta") };
        let names = request.resource_names_subscribe.iter().map(|n| format!(" +{n}"));
        let names: String = names.chain(request.resource_names_unsubscribe.iter().map(|n| format!(" -{n}"))).collect();
        if request.response_nonce.is_empty() {
            all.push(format!("{}{names}", types::short(&request.type_url)));
        }
    }
    all
}

fn sidecar(options: &Options) -> (Sources, Store, mpsc::Receiver<Request>) {
    let mut plan = Plan::new(Bootstrap::default()).unwrap();
    plan.ads = Some((Server::Pipe("/nowhere".into()), Variant::Delta));
    plan.dynamic = (true, true);
    plan.node.id = "sidecar~10.0.0.9~web-0.shop~shop.svc.cluster.local".to_owned();
    let (mut sources, _events) = Sources::new(&plan, Process::default(), options);
    let mut store = Store::new([]);
    let (sender, receiver) = mpsc::channel(64);
    sources.happened(&Source::Aggregated, Happened::Open(sender), &mut store, Duration::ZERO);
    (sources, store, receiver)
}

#[tokio::test]
async fn fetched_on_first_use_and_let_go() {
    let remembered = vec![(types::VIRTUAL_HOST.to_owned(), Name::from("80/a.example")), ("other".to_owned(), Name::from("x"))];
    let options = Options { remembered, on_demand_idle: Duration::from_secs(100), ..Options::default() };
    let (mut sources, mut store, mut receiver) = sidecar(&options);
    let offered = sources.node.metadata.as_ref().unwrap().fields.contains_key("MIZZEN_ON_DEMAND");
    assert!(offered && requests(&mut receiver) == ["Host", "Cluster", "Listener"], "the index is asked for first");
    let now = Duration::from_secs(1);
    sources.happened(&Source::Aggregated, says(types::INDEX, "1", &[("a.example", host(80))], &[]), &mut store, now);
    assert_eq!(store.mesh().map(MeshIndex::len), Some(1));
    sources.ask(&mut store, now);
    assert!(receiver.try_recv().is_err(), "neither answered nor asked before workers have it");
    sources.published();
    assert_eq!(requests(&mut receiver), ["VirtualHost +80/a.example"], "what was used before is asked for first");
    sources.demand(ResourceKind::Listener, &"10.0.0.1_80".into(), &"a connection".into(), now);
    sources.ask(&mut store, now);
    assert_eq!(requests(&mut receiver), ["Listener +10.0.0.1_80"]);
    // The index follows.
    sources.happened(&Source::Aggregated, says(types::INDEX, "2", &[("b.example", host(81))], &["a.example"]), &mut store, now);
    assert!(store.mesh().is_some_and(|mesh| mesh.get("b.example").is_some() && mesh.get("a.example").is_none()));
    sources.published();
    // What nothing uses goes.
    let later = now + Duration::from_secs(200);
    assert!(!sources.let_go(later, &store, |kind, _| kind == ResourceKind::Listener), "what is not answered is waited for");
    sources.happened(&Source::Aggregated, says(types::VIRTUAL_HOST, "3", &[], &["80/a.example"]), &mut store, later);
    let later = later + Duration::from_secs(200);
    assert!(sources.let_go(later, &store, |kind, _| kind == ResourceKind::Listener));
    sources.ask(&mut store, later);
    assert_eq!(requests(&mut receiver), ["VirtualHost -80/a.example"]);
    // A server without an index sends everything: nothing is on demand any more.
    sources.happened(&Source::Aggregated, Happened::Closed("gone".to_owned()), &mut store, later);
    let (sender, mut receiver) = mpsc::channel(64);
    sources.happened(&Source::Aggregated, Happened::Open(sender), &mut store, later);
    assert_eq!(store.mesh().map(MeshIndex::len), Some(1), "what is held stays in force");
    requests(&mut receiver);
    sources.happened(&Source::Aggregated, says(types::CLUSTER, "1", &[], &[]), &mut store, later);
    sources.ask(&mut store, later);
    assert!(store.mesh().is_none() && sources.demands().iter().count() == 0);
    assert_eq!(requests(&mut receiver), ["Listener -10.0.0.1_80"]);
}

#[tokio::test]
async fn who_does_not_offer_it_is_told_everything() {
    let options = Options { on_demand: false, ..Options::default() };
    let (sources, _, mut receiver) = sidecar(&options);
    assert!(sources.node.metadata.is_none());
    assert_eq!(requests(&mut receiver), ["Cluster", "Listener"]);
}
