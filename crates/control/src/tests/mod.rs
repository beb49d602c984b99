//! A whole control plane on loopback, with clients that speak the wire's protocols.

mod allocated;
mod cluster;
mod cluster_election;
mod cluster_rough;
mod cluster_tokens;
mod folders;
mod harness;
mod sotw;
mod untaint;

use std::{sync::Arc, time::Duration};

use mizzen_api::{Meta, Object, istio::IssuerKeys};
use mizzen_pki::{Ca, CaLimits, KeyPair, UnixTime};
use mizzen_protos::{
    ca::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    envoy::envoy::{
        config::endpoint::v3::ClusterLoadAssignment,
        service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    nds::NameTable,
    wkt,
};
use mizzen_xds::types::{CLUSTER, ENDPOINT, LISTENER, NAME_TABLE};
use prost::Message;
use tonic::{Code, Request};

use crate::{
    source::Event,
    status::{Configz, IssuerKeysStatus, Live, SyncState, Syncz},
    tests::harness::{MESH, Proxy, World, objects},
    token::CA_AUDIENCE,
};

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";
const NODE: &str = "sidecar~10.244.0.9~storefront-0.shop~shop.svc.cluster.local";

fn endpoints(bytes: &[u8]) -> usize {
    ClusterLoadAssignment::decode(bytes).unwrap().endpoints.iter().map(|l| l.lb_endpoints.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_token_to_the_configuration() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    assert_eq!(svid.identity().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/storefront");
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    for type_url in [CLUSTER, LISTENER, NAME_TABLE] {
        proxy.client.watch_all(type_url);
    }
    proxy.client.subscribe(ENDPOINT, [REVIEWS.into()]);
    proxy
        .until(|p| p.has(LISTENER, "virtualInbound") && p.has(CLUSTER, REVIEWS) && p.has(ENDPOINT, REVIEWS) && p.has(NAME_TABLE, ""))
        .await;
    assert_eq!(endpoints(proxy.get(ENDPOINT, REVIEWS).unwrap()), 1);
    let table = NameTable::decode(proxy.get(NAME_TABLE, "").unwrap()).unwrap();
    assert_eq!(table.table["reviews.shop.svc.cluster.local"].ips, ["10.96.0.7"]);

    // A change reaches the proxy, and only what it concerns is sent.
    let before = proxy.received;
    let second = "apiVersion: v1\nkind: Pod\nmetadata: {name: reviews-1, namespace: shop, labels: {app: reviews}}\nspec: {serviceAccountName: reviews, containers: [{name: app}]}\nstatus: {podIP: 10.244.0.8, phase: Running, conditions: [{type: Ready, status: 'True'}]}";
    world.apply(second);
    proxy.until(|p| endpoints(p.get(ENDPOINT, REVIEWS).unwrap()) == 2).await;
    assert_eq!(proxy.received - before, 1, "one resource is sent");
    world.send(Event::Delete(objects(second)[0].key()));
    proxy.until(|p| endpoints(p.get(ENDPOINT, REVIEWS).unwrap()) == 1).await;

    // The client's last word may be on its way.
    let is_done = |s: &Syncz| s.proxies.iter().all(|p| p.snapshot == s.snapshot && p.types.iter().all(|t| t.state == SyncState::Synced));
    let status: Syncz = world.until("/debug/syncz", is_done).await;
    let states: Vec<_> = status.proxies[0].types.iter().map(|t| (t.name.as_str(), t.state)).collect();
    assert_eq!(
        states,
        [
            ("Cluster", SyncState::Synced),
            ("ClusterLoadAssignment", SyncState::Synced),
            ("Listener", SyncState::Synced),
            ("NameTable", SyncState::Synced)
        ]
    );
    assert_eq!(status.proxies[0].proxy, "storefront-0.shop");
    let metrics = world.metrics().await;
    for line in ["citadel_server_csr_count 1", "citadel_server_success_cert_issuance_count 1", "pilot_services 1"] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    world.running.stop().await;
    assert_eq!(proxy.end().await, Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_not_for_everybody() {
    let world = World::start(MESH).await;
    let earlier = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() - 7200));
    let who = crate::token::Workload { namespace: "shop".into(), service_account: "reviews".into(), pod: "reviews-0".into() };
    let stranger = crate::token::Tokens::new(&KeyPair::generate().unwrap().to_pem(), &Default::default()).unwrap();
    let hour = Duration::from_secs(3600);
    let own = world.tokens();
    for (case, token) in [
        ("nothing", None),
        ("expired", Some(own.issue(&who, CA_AUDIENCE, hour, earlier).unwrap())),
        ("audience", Some(own.issue(&who, "other", hour, UnixTime::now()).unwrap())),
        ("another's key", Some(stranger.issue(&who, CA_AUDIENCE, hour, UnixTime::now()).unwrap())),
        ("garbage", Some("a.b.c".to_owned())),
    ] {
        let status = world.csr(None, token.as_deref(), &KeyPair::generate().unwrap().csr(None).unwrap(), 0).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{case}: {status}");
    }
    let token = own.issue(&who, CA_AUDIENCE, hour, UnixTime::now()).unwrap();
    assert_eq!(world.csr(None, Some(&token), "no request", 0).await.unwrap_err().code(), Code::InvalidArgument);
    let metrics = world.metrics().await;
    assert!(metrics.contains("citadel_server_authentication_failure_count 5\n"), "{metrics}");
    assert!(metrics.contains("citadel_server_success_cert_issuance_count 0\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wishes_of_a_request_are_ignored() {
    let world = World::start(MESH).await;
    let key = KeyPair::generate().unwrap();
    let wish = key.csr(Some(&"spiffe://cluster.local/ns/bank/sa/vault".parse().unwrap())).unwrap();
    let token = world.token("shop", "reviews").await;
    let chain = world.csr(None, Some(&token), &wish, 60).await.unwrap();
    let svid = mizzen_pki::Svid::from_chain(&chain, &key).unwrap();
    assert_eq!(svid.identity().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
    assert!(svid.validity().remaining(UnixTime::now()) <= Duration::from_secs(60));
    // The certificate is good for the next one, without a token; and not for another's.
    let chain = world.csr(Some(&svid), None, &key.csr(None).unwrap(), i64::MAX).await.unwrap();
    let renewed = mizzen_pki::Svid::from_chain(&chain, &key).unwrap();
    assert_eq!(renewed.identity(), svid.identity());
    assert!(renewed.validity().remaining(UnixTime::now()) <= Duration::from_secs(24 * 3600));
    assert_eq!(chain.len(), 2);
    assert_eq!(world.root, chain[1]);
    let other = world.token("bank", "vault").await;
    assert_eq!(world.csr(Some(&svid), Some(&other), &wish, 0).await.unwrap_err().code(), Code::Unauthenticated);
    let mut request = Request::new(IstioCertificateRequest { csr: wish, validity_duration: 0, metadata: Some(wkt::Struct::default()) });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let wished = wkt::Value { kind: Some(wkt::value::Kind::StringValue("spiffe://cluster.local/ns/bank/sa/vault".into())) };
    request.get_mut().metadata.as_mut().unwrap().fields.insert("ImpersonatedIdentity".into(), wished);
    let mut client = IstioCertificateServiceClient::new(world.channel(None).await.unwrap());
    assert_eq!(client.create_certificate(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_not_for_everybody() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    for (case, svid, node, code) in [
        ("no certificate", None, NODE, Code::Unauthenticated),
        ("another namespace", Some(&svid), "sidecar~10.244.0.9~vault-0.bank~bank.svc.cluster.local", Code::PermissionDenied),
        ("no node", Some(&svid), "", Code::InvalidArgument),
    ] {
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel(svid).await.unwrap());
        assert_eq!(harness::first_answer(&mut client, node, "storefront").await.unwrap_err().code(), code, "{case}");
    }
    let mut client = AggregatedDiscoveryServiceClient::new(world.channel(Some(&svid)).await.unwrap());
    let account = harness::first_answer(&mut client, NODE, "vault").await.unwrap_err();
    assert_eq!(account.code(), Code::PermissionDenied);
    assert!(account.message().contains("service account `vault`"), "{account}");

    // A certificate of another CA, or of another trust domain, does not come past the handshake.
    let other = Ca::self_signed(&Default::default(), UnixTime::now(), CaLimits::default()).unwrap();
    let foreign = other.issue(svid.identity().unwrap(), Duration::ZERO, UnixTime::now()).unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(world.channel(Some(&foreign)).await.unwrap());
    assert!(harness::first_answer(&mut client, NODE, "storefront").await.is_err());
}

/// As Istio's agent comes: without a certificate, with the token that it shows the CA.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_alone_is_good_for_a_configuration() {
    let world = World::start(MESH).await;
    let who = |account: &str| crate::token::Workload { namespace: "shop".into(), service_account: account.into(), pod: "p-0".into() };
    let own = world.tokens();
    let issue = |account: &str, audience: &str, from: u64| {
        let from = UnixTime::since_unix_epoch(Duration::from_secs(from));
        own.issue(&who(account), audience, Duration::from_secs(3600), from).unwrap()
    };
    let now = UnixTime::now().as_secs();
    for (case, token, expected) in [
        ("good", issue("storefront", CA_AUDIENCE, now), None),
        ("another account", issue("reviews", CA_AUDIENCE, now), Some(Code::PermissionDenied)),
        ("another audience", issue("storefront", "other", now), Some(Code::Unauthenticated)),
        ("expired", issue("storefront", CA_AUDIENCE, now - 7200), Some(Code::Unauthenticated)),
        ("garbage", "a.b.c".to_owned(), Some(Code::Unauthenticated)),
    ] {
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel(None).await.unwrap());
        let answer = harness::first_answer_to(&mut client, NODE, "storefront", Some(&token)).await;
        assert_eq!(answer.err().map(|status| status.code()), expected, "{case}");
    }
    // A certificate and a token must be of one identity.
    let svid = world.svid("shop", "storefront").await;
    for (account, good) in [("storefront", true), ("reviews", false)] {
        let mut client = AggregatedDiscoveryServiceClient::new(world.channel(Some(&svid)).await.unwrap());
        let token = issue(account, CA_AUDIENCE, now);
        assert_eq!(harness::first_answer_to(&mut client, NODE, "storefront", Some(&token)).await.is_ok(), good, "{account}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_are_known() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    proxy.reject = Some((CLUSTER, REVIEWS));
    proxy.client.watch_all(CLUSTER);
    proxy.client.watch_all(LISTENER);
    proxy.until(|p| p.rejected > 0 && p.has(LISTENER, "virtualInbound")).await;
    proxy.flush().await;
    let status: Syncz = world.until("/debug/syncz", |s: &Syncz| s.proxies[0].types.iter().all(|t| t.state != SyncState::Stale)).await;
    let clusters = &status.proxies[0].types[0];
    assert_eq!((clusters.state, clusters.nacked), (SyncState::Error, 1));
    let taken = status.proxies[0].types.iter().find(|of_type| of_type.name == "Listener").unwrap();
    assert!(clusters.last_nack.is_some() && taken.last_ack.is_some() && taken.last_nack.is_none(), "{status:?}");
    assert_eq!(clusters.error.as_deref(), Some("outbound|9080||reviews.shop.svc.cluster.local: not today"));
    let (bad, good): (Vec<_>, Vec<_>) = clusters.resources.iter().partition(|r| r.rejected.is_some());
    assert_eq!((bad[0].name.as_str(), bad[0].acked.as_deref(), bad.len()), (REVIEWS, None, 1));
    assert!(good.iter().all(|r| r.acked.is_some() && r.acked == r.sent));
    let live: Live = world.debug("/debug/live?kind=Service&namespace=shop&name=reviews").await;
    assert_eq!((live.live.len(), live.rejected[0].proxy.as_str()), (0, "storefront-0.shop"));
    let said: Vec<mizzen_analyze::Message> = world.debug("/debug/analyze").await;
    let lines: Vec<String> = said.iter().filter(|m| m.code.id == "MZ0005").map(ToString::to_string).collect();
    assert_eq!(lines, [format!("Error [MZ0005] (Pod shop/storefront-0) the proxy refuses Cluster {REVIEWS}: not today")]);
    // Under any name that kubectl takes.
    assert_eq!(world.debug::<Live>("/debug/live?kind=svc&namespace=shop&name=reviews").await, live);
    assert!(world.metrics().await.contains("pilot_total_xds_rejects{type=\"cds\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_not_noticed() {
    let first = World::start(MESH).await;
    let svid = first.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&first, &svid, NODE).await.unwrap();
    proxy.client.watch_all(CLUSTER);
    proxy.client.watch_all(LISTENER);
    proxy.until(|p| p.has(LISTENER, "virtualInbound")).await;
    proxy.flush().await;
    let token = first.token("shop", "reviews").await;
    let received = proxy.received;
    let second = first.restart().await;

    proxy.reconnect(&second, &svid).await.unwrap();
    proxy.responses = 0;
    proxy.until(|p| p.responses == 2).await;
    assert_eq!(proxy.received, received, "nothing is sent again");
    let key = KeyPair::generate().unwrap();
    assert!(second.csr(None, Some(&token), &key.csr(None).unwrap(), 0).await.is_ok(), "tokens that are out stay good");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_build_for_all_that_read_the_same() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let built =
        |metrics: &str| -> u64 { metrics.lines().find_map(|l| l.strip_prefix("mizzen_resources_built ")).unwrap().parse().unwrap() };
    let mut counts = Vec::new();
    for replica in 0..3 {
        let node = NODE.replace("storefront-0", &format!("storefront-{replica}"));
        let mut proxy = Proxy::connect(&world, &svid, &node).await.unwrap();
        proxy.client.subscribe(ENDPOINT, [REVIEWS.into()]);
        proxy.until(|p| p.has(ENDPOINT, REVIEWS)).await;
        counts.push(built(&world.metrics().await));
    }
    assert_eq!(counts, [1, 1, 1]);
}

/// All that there is for a proxy is told, also what it has not asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_for_a_proxy() {
    let world = World::start(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    proxy.client.subscribe(ENDPOINT, [REVIEWS.into()]);
    proxy.until(|p| p.has(ENDPOINT, REVIEWS)).await;
    let names = |dump: &serde_json::Value, list: &str, field: &str| -> Vec<String> {
        let entries = dump["configs"].as_array().unwrap().iter().flat_map(|section| section[list].as_array().into_iter().flatten());
        entries.map(|entry| entry.pointer(field).unwrap().as_str().unwrap().to_owned()).collect()
    };
    let dump: serde_json::Value = world.debug("/debug/config_dump?proxyID=storefront-0.shop").await;
    assert!(names(&dump, "dynamic_active_clusters", "/cluster/name").contains(&REVIEWS.to_owned()));
    assert!(names(&dump, "dynamic_listeners", "/active_state/listener/name").contains(&"virtualInbound".to_owned()));
    assert_eq!(names(&dump, "dynamic_endpoint_configs", "/endpoint_config/cluster_name"), [REVIEWS]);
    assert_eq!(names(&dump, "dynamic_route_configs", "/route_config/name"), ["9080"]);
    let one: serde_json::Value = world.debug("/debug/config_dump?proxyID=storefront-0.shop&section=routes").await;
    assert_eq!(one["configs"].as_array().unwrap().len(), 1);
    assert_eq!(names(&one, "dynamic_route_configs", "/route_config/name"), ["9080"]);
    // Of what it was sent, what it should be now.
    let sent: serde_json::Value = world.debug("/debug/config_dump?proxyID=storefront-0.shop&sent=true").await;
    assert_eq!(names(&sent, "dynamic_endpoint_configs", "/endpoint_config/cluster_name"), [REVIEWS]);
    let endpoints = |dump: &serde_json::Value| {
        let mut sections = dump["configs"].as_array().unwrap().iter();
        sections.find_map(|section| section.get("dynamic_endpoint_configs").cloned()).unwrap()
    };
    assert_eq!(endpoints(&sent), endpoints(&dump));
    let whole: usize = names(&dump, "dynamic_active_clusters", "/cluster/name").len();
    assert!(names(&sent, "dynamic_active_clusters", "/cluster/name").len() < whole, "{sent}");
    for (query, status, part) in [
        ("proxyID=vault-0.bank", 404, "no proxy vault-0.bank is connected"),
        ("proxyID=storefront-0.shop&section=secrets", 400, "`secrets` is no section; there are clusters"),
    ] {
        let (code, text) = world.refused(&format!("/debug/config_dump?{query}")).await;
        assert!(code == status && text.contains(part), "{code} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told() {
    let world = World::start(MESH).await;
    let config: Configz = world.debug("/debug/configz").await;
    assert!(config.objects.iter().any(|o| (o.kind.as_str(), o.name.as_str()) == ("Service", "reviews")));
    for (body, part) in [
        ("{", "EOF"),
        ("{\"namespace\":\"Shop\",\"service_account\":\"a\",\"pod\":\"p\"}", "Shop"),
        ("{\"namespace\":\"shop\",\"service_account\":\"a\",\"pod\":\"p\",\"ttl_seconds\":0}", "ttl_seconds"),
        ("{\"namespace\":\"shop\",\"service_account\":\"a\",\"pod\":\"p\",\"extra\":0}", "extra"),
    ] {
        let (status, text) = world.post_token(body).await;
        assert_eq!(status, 400);
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_fetched_are_told() {
    let world = World::start(MESH).await;
    assert_eq!(world.debug::<Vec<IssuerKeysStatus>>("/debug/keysz").await, []);
    let (from, keys) = ("https://issuer.example/keys".to_owned(), r#"{"keys":[]}"#.to_owned());
    let meta = Meta { name: from.as_str().into(), ..Meta::default() };
    world.send(Event::Apply(Arc::new(Object::IssuerKeys(IssuerKeys { meta, keys: keys.clone() }))));
    let told = world.until("/debug/keysz", |told: &Vec<IssuerKeysStatus>| !told.is_empty()).await;
    assert_eq!(told, [IssuerKeysStatus { from, keys }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_followed() {
    let world = World::of_folder(MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    proxy.client.subscribe(ENDPOINT, [REVIEWS.into()]);
    proxy.until(|p| p.has(ENDPOINT, REVIEWS)).await;
    world.save("all.yaml", &MESH.replace("10.244.0.7", "10.244.0.17"));
    let wanted = b"10.244.0.17";
    proxy.until(|p| p.get(ENDPOINT, REVIEWS).unwrap().windows(wanted.len()).any(|w| w == wanted)).await;

    // A broken service stays as it was, and everybody can be told why.
    world.save("all.yaml", &MESH.replace("port: 9080", "port: 90800").replace("10.244.0.7", "10.244.0.18"));
    let config: Configz = world.until("/debug/configz", |c: &Configz| !c.refused.is_empty()).await;
    assert!(
        config.refused[0].kept && config.refused[0].problems[0].contains("all.yaml:9: Service shop/reviews: spec.ports[0].port"),
        "{config:?}"
    );
    let wanted = b"10.244.0.18";
    proxy.until(|p| p.get(ENDPOINT, REVIEWS).unwrap().windows(wanted.len()).any(|w| w == wanted)).await;
    world.save("all.yaml", MESH);
    world.until("/debug/configz", |c: &Configz| c.refused.is_empty()).await;
}
