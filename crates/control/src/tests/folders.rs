//! A control plane of several folders: each is a source of its own, and the earlier one has precedence.

use mizzen_xds::types::ENDPOINT;

use super::{NODE, REVIEWS, endpoints};
use crate::{
    Error, Options,
    status::Configz,
    tests::harness::{MESH, Proxy, World},
};

const REVIEWS_1: &str = "
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: shop, labels: {app: reviews}}
spec: {serviceAccountName: reviews, containers: [{name: app}]}
status: {podIP: 10.244.0.8, phase: Running, conditions: [{type: Ready, status: 'True'}]}
";

fn rule(host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: rule, namespace: shop}}\nspec: {{host: {host}, subsets: []}}\n"
    )
}

/// Whether the rule that is in force stands there.
fn stands_at(config: &Configz, place: &str) -> bool {
    config.objects.iter().any(|o| (o.kind.as_str(), o.name.as_str()) == ("DestinationRule", "rule") && o.origin.ends_with(place))
}

async fn is_at(world: &World, place: &str) -> Configz {
    world.until("/debug/configz", |config: &Configz| stands_at(config, place)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_folder_has_precedence() {
    let world = World::of_folders(&["mesh", "more"], MESH).await;
    let svid = world.svid("shop", "storefront").await;
    let mut proxy = Proxy::connect(&world, &svid, NODE).await.unwrap();
    proxy.client.subscribe(ENDPOINT, [REVIEWS.into()]);
    proxy.until(|p| p.has(ENDPOINT, REVIEWS)).await;
    // One mesh out of both.
    world.save_in("more", "pods.yaml", REVIEWS_1);
    proxy.until(|p| endpoints(p.get(ENDPOINT, REVIEWS).unwrap()) == 2).await;

    world.save_in("more", "rule.yaml", &rule("reviews"));
    is_at(&world, "more/rule.yaml:1").await;
    world.save_in("mesh", "a.yaml", &format!("# the first\n{}", rule("reviews")));
    is_at(&world, "mesh/a.yaml:2").await;
    // What is hidden is told, and its faults are its own.
    let (more, mesh) = (world.path("more"), world.path("mesh"));
    let hidden = format!(
        "{}/rule.yaml:1: DestinationRule shop/rule: metadata.name: is not in force: the one at {}/a.yaml:2 has precedence",
        more.display(),
        mesh.display()
    );
    world.until("/debug/configz", |config: &Configz| config.warnings.contains(&hidden)).await;
    world.save_in("more", "rule.yaml", &rule("reviews").replace("subsets", "subset"));
    let config: Configz = world.until("/debug/configz", |c: &Configz| !c.refused.is_empty()).await;
    assert!(config.refused.len() == 1 && config.refused[0].kept && config.refused[0].file.ends_with("more/rule.yaml"), "{config:?}");
    assert!(stands_at(&config, "mesh/a.yaml:2"), "{config:?}");

    // Gone from the first, the last good one of the second is in force.
    std::fs::remove_file(mesh.join("a.yaml")).unwrap();
    let config = is_at(&world, "more/rule.yaml:1").await;
    assert!(!config.warnings.contains(&hidden) && config.refused.len() == 1, "{config:?}");

    drop(proxy);

    // So it is after a restart, also in another order, in which the second folder comes first.
    let world = world.again(&["mesh", "more"]).await;
    let config = is_at(&world, "more/rule.yaml:1").await;
    assert!(config.refused[0].kept, "{config:?}");
    world.save_in("mesh", "a.yaml", &rule("reviews"));
    is_at(&world, "mesh/a.yaml:1").await;
    let world = world.again(&["more", "mesh"]).await;
    let config = is_at(&world, "more/rule.yaml:1").await;
    assert!(config.refused[0].kept, "{config:?}");

    // A folder that is moved away says nothing of what lay in it; one that is empty does.
    std::fs::rename(world.path("more"), world.path("away")).unwrap();
    world.save_in("mesh", "b.yaml", &rule("storefront").replace("rule,", "other,"));
    let config: Configz = world.until("/debug/configz", |c: &Configz| c.objects.iter().any(|o| o.name == "other")).await;
    assert!(stands_at(&config, "more/rule.yaml:1"), "{config:?}");
    std::fs::create_dir(world.path("more")).unwrap();
    is_at(&world, "mesh/a.yaml:1").await;
    world.running.stop().await;
}

#[tokio::test]
async fn a_folder_is_given_once() {
    let options = Options { config_dirs: vec!["a".into(), "b".into(), "a/".into()], ..Options::default() };
    let error = crate::start(options).await.unwrap_err();
    assert!(matches!(error, Error::Twice(_)), "{error}");
    assert_eq!(error.to_string(), "a/ is given twice as a folder of configuration");
}
