//! Two control planes beside one API server: one of them writes.

use mizzen_testkit::{eventually, kube::ApiServer};
use serde_json::{Value, json};

use super::{
    cluster::{ROUTE, api, get},
    harness::World,
};
use crate::{
    Options, names,
    status::{Configz, ElectionStatus, Selfz},
};

/// A control plane of a pod.
async fn start(api: &ApiServer, pod: &str) -> World {
    let change = |options: &mut Options| {
        if let Some(cluster) = &mut options.cluster {
            cluster.pod = Some(pod.to_owned());
        }
    };
    World::of_cluster_with(&api.kubeconfig_file(), change).await
}

/// Waits until it knows who leads, and whether that is itself.
async fn knows(world: &World, leads: bool, leader: &str) {
    let wanted = ElectionStatus { lease: names::LEASE.to_owned(), leads, leader: Some(leader.to_owned()) };
    world.until("/debug/selfz", |found: &Selfz| found.election.as_ref() == Some(&wanted)).await;
}

fn lease(holder: &str) -> String {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": names::LEASE, "namespace": "istio-system"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 3600},
    })
    .to_string()
}

fn validator(port: u16) -> String {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "istio-validator-istio-system"},
        "webhooks": [{
            "name": "validate.istio.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/validate")},
            "rules": [{"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["*"], "resources": ["none"]}],
        }],
    })
    .to_string()
}

/// What a control plane has written: the root beside pods, that of the webhook, the condition of an object, and who says so in an event.
fn written(api: &ApiServer) -> [String; 4] {
    let text = |args: &[&str], path: &str| get(api, args, path).unwrap_or_default();
    let bundle = text(&["validatingwebhookconfiguration", "istio-validator-istio-system"], "{.webhooks[0].clientConfig.caBundle}");
    [
        text(&["configmap", names::ROOT, "-n", "shop"], "{.data.root-cert\\.pem}"),
        if bundle.is_empty() { String::new() } else { "a bundle".to_owned() },
        text(&["virtualservice", "reviews", "-n", "shop"], "{.status.conditions[?(@.type==\"Reconciled\")].status}"),
        text(&["events.events.k8s.io", "-n", "shop"], "{.items[*].reportingInstance}"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_control_planes_writes() {
    let Some(api) = api() else { return };
    // Somebody else has it for an hour: whoever comes serves, and writes nothing.
    api.apply(&lease("istiod-0"));
    api.apply(&ROUTE.replace("timeout: 3s", "timeout: 3s, rewrite: {uriRegexRewrite: {match: '(', rewrite: x}}"));
    let first = start(&api, "istiod-1").await;
    api.apply(&validator(first.running.webhooks.unwrap().port()));
    knows(&first, false, "istiod-0").await;
    first.until("/debug/configz", |config: &Configz| config.refused.len() == 1).await;
    assert_eq!(written(&api), [""; 4]);

    // It has ended, and what was due is written.
    api.apply(&lease(""));
    knows(&first, true, "istiod-1").await;
    let expected = [first.root.as_str(), "a bundle", "False", "istiod-1"].map(str::to_owned);
    eventually("what was due is written", || match written(&api) {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?}")),
    });

    // A second one has the same CA, and follows as soon as the first one ends.
    let second = start(&api, "istiod-2").await;
    assert_eq!(second.root, first.root);
    knows(&second, false, "istiod-1").await;
    first.running.stop().await;
    knows(&second, true, "istiod-2").await;
    let wrong = r#"{"data": {"root-cert.pem": "other"}}"#;
    api.kubectl(&["patch", "configmap", names::ROOT, "-n", "shop", "--type=merge", "-p", wrong], "").ok();
    eventually("the second one puts it back", || match &written(&api)[0] {
        found if *found == expected[0] => Ok(()),
        found => Err(found.clone()),
    });
    let transitions: Value =
        get(&api, &["lease", names::LEASE, "-n", "istio-system"], "{.spec.leaseTransitions}").unwrap().parse().unwrap();
    assert_eq!(transitions, json!(2));

    // Who ends, as the last one, leaves it to whoever comes.
    second.running.stop().await;
    let holder = get(&api, &["lease", names::LEASE, "-n", "istio-system"], "{.spec.holderIdentity}").unwrap();
    assert_eq!(holder, "");
}

/// Two control planes that start at the same time in a cluster without a CA have one, and one of them leads.
#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_at_once() {
    let Some(api) = api() else { return };
    let (first, second) = tokio::join!(start(&api, "istiod-1"), start(&api, "istiod-2"));
    assert_eq!(first.root, second.root);
    let settled = |found: &Selfz| found.election.as_ref().is_some_and(|election| election.leader.is_some());
    let one = first.until("/debug/selfz", settled).await;
    let other = second.until("/debug/selfz", settled).await;
    let leads = |found: &Selfz| found.election.as_ref().is_some_and(|election| election.leads);
    assert_ne!(leads(&one), leads(&other), "{:?} {:?}", one.election, other.election);
    first.running.stop().await;
    second.running.stop().await;
}
