//! The client's end alone: what it asks for, and what it takes an answer for.

use mizzen_protos::{
    Any,
    envoy::envoy::{config::core::v3::Node, service::discovery::v3::DeltaDiscoveryResponse},
};

use crate::{
    client::Client,
    types::{self, CLUSTER, ENDPOINT},
};

/// A response of one type that holds these.
fn bring(type_url: &str, names: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |name: &&str| mizzen_protos::envoy::envoy::service::discovery::v3::Resource {
        name: (*name).to_owned(),
        version: "1".into(),
        resource: Some(Any { type_url: type_url.to_owned(), value: vec![1] }),
        ..Default::default()
    };
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        resources: names.iter().map(resource).collect(),
        nonce: "n".into(),
        ..Default::default()
    }
}

/// Takes a response; the names in it that count.
fn take(client: &mut Client, response: DeltaDiscoveryResponse) -> Vec<String> {
    let (receipt, events) = client.receive(response).unwrap();
    let names = events.iter().map(|event| event.name().to_string()).collect();
    client.settle(receipt, []);
    names
}

/// What is requested: the type, what is subscribed to, what no more, and what is told as held. Mere answers are left out.
fn requests(client: &mut Client) -> Vec<(String, String, String, String)> {
    let mut all = Vec::new();
    while let Some(request) = client.next_request() {
        let mut held: Vec<_> = request.initial_resource_versions.into_keys().collect();
        held.sort();
        let (more, less) = (request.resource_names_subscribe.join(" "), request.resource_names_unsubscribe.join(" "));
        if !(more.is_empty() && less.is_empty() && held.is_empty()) {
            all.push((types::short(&request.type_url).to_owned(), more, less, held.join(" ")));
        }
    }
    all
}

fn row(kind: &str, more: &str, less: &str, held: &str) -> (String, String, String, String) {
    (kind.into(), more.into(), less.into(), held.into())
}

#[test]
fn what_an_answer_brings_along_is_subscribed_to() {
    let mut client = Client::new(Node::default());
    client.connected();
    client.watch_all(CLUSTER);
    client.subscribe(types::VIRTUAL_HOST, ["80/a".into()]);
    assert_eq!(requests(&mut client), [row("VirtualHost", "80/a", "", "")], "clusters by an empty request");
    assert!(client.receive(bring(ENDPOINT, &["a"])).is_err(), "nobody brings anything along");

    client.set_brings_along(true);
    assert_eq!(take(&mut client, bring(CLUSTER, &["own", "a"])), ["own", "a"]);
    assert_eq!(take(&mut client, bring(ENDPOINT, &["a"])), ["a"], "of a type that nothing was asked of yet");
    assert_eq!(take(&mut client, bring(types::VIRTUAL_HOST, &["80/a"])), ["80/a"]);
    // What came along is wanted: that needs no request. Another one does.
    client.subscribe(CLUSTER, ["a".into(), "b".into()]);
    client.subscribe(ENDPOINT, ["a".into(), "b".into()]);
    assert!(client.is_subscribed(ENDPOINT, "a") && client.accepted(ENDPOINT, "a") == Some("1"));
    assert_eq!(requests(&mut client), [row("Cluster", "b", "", ""), row("ClusterLoadAssignment", "b", "", "")]);

    // The next stream is told of all of it, with versions.
    client.connected();
    assert_eq!(
        requests(&mut client),
        [row("Cluster", "* a b", "", "a own"), row("ClusterLoadAssignment", "a b", "", "a"), row("VirtualHost", "80/a", "", "80/a"),]
    );
    // What is let go is forgotten wholly, also where all are subscribed to.
    client.unsubscribe(CLUSTER, ["a".into()]);
    client.unsubscribe(ENDPOINT, ["a".into()]);
    assert_eq!(requests(&mut client), [row("Cluster", "", "a", ""), row("ClusterLoadAssignment", "", "a", "")]);
    assert_eq!((client.accepted(CLUSTER, "a"), client.accepted(ENDPOINT, "a")), (None, None));
}

#[test]
fn the_answer_to_an_end_is_none_to_a_new_beginning() {
    let mut client = Client::new(Node::default());
    client.connected();
    client.watch_all(CLUSTER);
    client.subscribe(CLUSTER, ["a".into()]);
    requests(&mut client);
    client.unsubscribe(CLUSTER, ["a".into()]);
    assert_eq!(requests(&mut client), [row("Cluster", "", "a", "")]);
    client.subscribe(CLUSTER, ["a".into()]);
    assert_eq!(requests(&mut client), [row("Cluster", "a", "", "")]);
    let gone = || DeltaDiscoveryResponse { removed_resources: vec!["a".to_owned()], ..bring(CLUSTER, &[]) };
    let hears = |client: &mut Client| {
        let (receipt, events) = client.receive(gone()).unwrap();
        client.settle(receipt, []);
        client.next_request();
        events.len()
    };
    assert_eq!(hears(&mut client), 0, "that may be the answer to the end");
    assert_eq!(requests(&mut client), [row("Cluster", "a", "", "")]);
    assert_eq!(hears(&mut client), 1, "the answer to this question is one");
    // Without a new beginning it is one at once.
    client.unsubscribe(CLUSTER, ["a".into()]);
    requests(&mut client);
    assert_eq!((hears(&mut client), requests(&mut client)), (1, vec![]));
}

#[test]
fn what_crosses_an_unsubscription_is_asked_for_again() {
    let mut client = Client::new(Node::default());
    client.connected();
    client.set_brings_along(true);
    client.watch_all(CLUSTER);
    client.subscribe(CLUSTER, ["a".into()]);
    client.subscribe(ENDPOINT, ["a".into()]);
    requests(&mut client);
    client.unsubscribe(CLUSTER, ["a".into()]);
    client.unsubscribe(ENDPOINT, ["a".into()]);
    requests(&mut client);
    // Either the server had not heard it yet, or these came along with something: only a request makes sure.
    take(&mut client, bring(CLUSTER, &["a"]));
    take(&mut client, bring(ENDPOINT, &["a"]));
    client.subscribe(CLUSTER, ["a".into()]);
    assert_eq!(requests(&mut client), [row("Cluster", "a", "", ""), row("ClusterLoadAssignment", "a", "", "")]);
    assert_eq!(requests(&mut client), []);
}
