//! Certificates for tokens that a real API server has issued.

use mizzen_pki::KeyPair;
use mizzen_testkit::{eventually, kube::ApiServer};
use tonic::Code;

use super::{
    cluster::{SHOP, api, run_pod},
    harness::World,
};
use crate::Options;

/// A token of an account, perhaps bound to a pod.
pub(super) fn token(api: &ApiServer, namespace: &str, account: &str, more: &[&str]) -> String {
    let args: Vec<&str> = ["create", "token", account, "-n", namespace].into_iter().chain(more.iter().copied()).collect();
    api.kubectl(&args, "").ok().trim().to_owned()
}

/// Waits until nobody gets a certificate for a token.
fn until_refused(what: &str, world: &World, token: &str, csr: &str) {
    eventually(what, || {
        let asked = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(world.csr(None, Some(token), csr, 0)));
        match asked {
            Err(status) if status.code() == Code::Unauthenticated => Ok(()),
            other => Err(format!("{:?}", other.map(|chain| chain.len()))),
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_its_own_certificate_and_no_other() {
    let Some(api) = api() else { return };
    run_pod(&api);
    api.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: ratings, namespace: shop}}");
    let world = World::of_cluster(&api.kubeconfig_file()).await;
    let csr = KeyPair::generate().unwrap().csr(None).unwrap();
    let bound = ["--audience=istio-ca", "--bound-object-kind=Pod", "--bound-object-name=reviews-0"];
    let good = token(&api, "shop", "reviews", &bound);
    let key = KeyPair::generate().unwrap();
    // A request may wish for whatever it likes: it gets who the token is.
    let wish = key.csr(Some(&"spiffe://cluster.local/ns/shop/sa/ratings".parse().unwrap())).unwrap();
    let chain = world.csr(None, Some(&good), &wish, 0).await.unwrap();
    let svid = mizzen_pki::Svid::from_chain(&chain, &key).unwrap();
    assert_eq!(svid.identity().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");

    let refused = async |what: &str, token: Option<&str>, code: Code| {
        let status = world.csr(None, token, &csr, 0).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {}", status.message());
    };
    refused("no token", None, Code::Unauthenticated).await;
    refused("an empty one", Some(""), Code::Unauthenticated).await;
    refused("no JWT", Some("abc"), Code::Unauthenticated).await;
    refused("a long one", Some(&"a".repeat(9_000)), Code::Unauthenticated).await;
    let parts: Vec<&str> = good.split('.').collect();
    refused("without its signature", Some(&format!("{}.{}.", parts[0], parts[1])), Code::Unauthenticated).await;
    // The first letter is another one, whatever it was.
    let (first, rest) = parts[2].split_at(1);
    let other = format!("{}.{}.{}{rest}", parts[0], parts[1], if first == "A" { "B" } else { "A" });
    refused("with another's signature", Some(&other), Code::Unauthenticated).await;
    let of_api = token(&api, "shop", "reviews", &["--bound-object-kind=Pod", "--bound-object-name=reviews-0"]);
    refused("meant for the API server", Some(&of_api), Code::Unauthenticated).await;
    let other = token(&api, "shop", "reviews", &["--audience=vault", "--bound-object-kind=Pod", "--bound-object-name=reviews-0"]);
    refused("meant for somebody else", Some(&other), Code::Unauthenticated).await;
    let unbound = token(&api, "shop", "reviews", &["--audience=istio-ca"]);
    refused("bound to no pod", Some(&unbound), Code::Unauthenticated).await;
    // Another's certificate beside one's own token.
    let ratings = token(&api, "shop", "ratings", &["--audience=istio-ca"]);
    refused("of another account, bound to nothing", Some(&ratings), Code::Unauthenticated).await;
    let status = world.csr(Some(&svid), Some(&ratings), &csr, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{}", status.message());
    // The certificate alone renews itself, and nothing else.
    let renewed = world.csr(Some(&svid), None, &csr, 0).await.unwrap();
    assert!(!renewed.is_empty());
    // A pod that is gone, whose token would be good for a long time.
    api.kubectl(&["delete", "pod", "reviews-0", "-n", "shop", "--force", "--grace-period=0"], "").ok();
    until_refused("its token is nothing any more", &world, &good, &csr);
    // A new pod of its name is another one.
    api.apply(SHOP);
    refused("of an earlier pod of this name", Some(&good), Code::Unauthenticated).await;
    // An account that is gone.
    let late = token(&api, "shop", "reviews", &bound);
    assert!(world.csr(None, Some(&late), &csr, 0).await.is_ok());
    api.kubectl(&["delete", "serviceaccount", "reviews", "-n", "shop"], "").ok();
    until_refused("its account is gone", &world, &late, &csr);
    world.running.stop().await;
}

/// Where it is asked for, what a pod shows to the API server is good for a certificate, too, and what is meant for others is still not.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_the_api_server_where_they_are_asked_for() {
    let Some(api) = api() else { return };
    run_pod(&api);
    let first_party = |options: &mut Options| {
        if let Some(cluster) = &mut options.cluster {
            cluster.first_party_tokens = true;
        }
    };
    let world = World::of_cluster_with(&api.kubeconfig_file(), first_party).await;
    let key = KeyPair::generate().unwrap();
    let csr = key.csr(None).unwrap();
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=reviews-0"];
    let reviews = "spiffe://cluster.local/ns/shop/sa/reviews";
    for more in [&bound[..], &[]] {
        let chain = world.csr(None, Some(&token(&api, "shop", "reviews", more)), &csr, 0).await.unwrap();
        assert_eq!(mizzen_pki::Svid::from_chain(&chain, &key).unwrap().identity().unwrap().to_string(), reviews, "{more:?}");
    }
    let good = token(&api, "shop", "reviews", &bound);
    for (what, token) in [
        ("meant for somebody else", token(&api, "shop", "reviews", &[&bound[..], &["--audience=vault"]].concat())),
        ("another's, without its signature", good.rsplit_once('.').unwrap().0.to_owned() + "."),
    ] {
        let status = world.csr(None, Some(&token), &csr, 0).await.expect_err(what);
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {}", status.message());
    }
    api.kubectl(&["delete", "pod", "reviews-0", "-n", "shop", "--force", "--grace-period=0"], "").ok();
    until_refused("its token is nothing any more", &world, &good, &csr);
    world.running.stop().await;
}
