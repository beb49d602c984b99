//! What a proxy would refuse.

use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::{
            cluster::v3::Cluster,
            route::v3::{Route, RouteConfiguration, RouteMatch, VirtualHost, route_match::PathSpecifier},
        },
        r#type::matcher::v3::RegexMatcher,
    },
};
use mizzen_translate::ResourceKind;
use prost::Message;

use super::{SUBSETS, object, shop};
use crate::{Built, build, proxy_of, review, review::review_of, review_all};

/// What `translate` makes is understood; what does nothing is told.
#[test]
fn of_ours_nothing() {
    let snapshot = shop(&[]);
    for pod in [("shop", "web"), ("shop", "v1"), ("istio-system", "door")] {
        let review = review(&snapshot, &proxy_of(&snapshot, pod.0, pod.1).unwrap());
        assert!(review.is_good() && review.resources > 2, "{review}");
        let title = format!("{}/{}: {} resources, all of which it takes\n", pod.0, pod.1, review.resources);
        assert!(review.to_string().starts_with(&title), "{review}");
        assert_eq!(review.warnings.iter().any(|warning| warning.field.ends_with("cipher_suites")), pod.0 == "shop", "{review}");
    }
}

/// Of a whole mesh, as far as it is asked for: nothing of ours is refused.
#[test]
fn of_all_proxies() {
    let snapshot = shop(&[]);
    assert_eq!(review_all(&snapshot, 10_000), []);
    assert_eq!(review_all(&snapshot, 0), []);
}

fn built(kind: ResourceKind, name: &str, value: Vec<u8>) -> Built {
    let key = mizzen_api::Key::new(mizzen_api::Kind::VirtualService, "shop", "odd");
    Built { name: name.into(), any: Any { type_url: kind.type_url(), value }, objects: [key].into() }
}

#[test]
fn odd_ones() {
    let host = |name: &str, regex: &str| {
        let path = PathSpecifier::SafeRegex(RegexMatcher { regex: regex.to_owned(), ..Default::default() });
        let matched = RouteMatch { path_specifier: Some(path), ..Default::default() };
        VirtualHost {
            name: name.to_owned(),
            domains: vec![name.to_owned()],
            routes: vec![Route { r#match: Some(matched), ..Default::default() }],
            ..Default::default()
        }
    };
    let routes = RouteConfiguration { name: "80".into(), virtual_hosts: vec![host("a", "(")], ..Default::default() };
    let cluster = Cluster { name: "c".into(), lb_policy: 99, ..Default::default() };
    let resources = [
        built(ResourceKind::Cluster, "c", cluster.encode_to_vec()),
        built(ResourceKind::Cluster, "garbage", vec![0xff]),
        built(ResourceKind::Route, "80", routes.encode_to_vec()),
        built(ResourceKind::NameTable, "", vec![0xff]),
    ];
    let review = review_of("shop/web".to_owned(), resources.into_iter());
    let told = |list: &[crate::Finding]| list.iter().map(|f| format!("{} {} {}", f.kind, f.name, f.field)).collect::<Vec<_>>();
    assert_eq!(review.resources, 3);
    assert_eq!(told(&review.refused), ["Cluster c lb_policy", "Cluster garbage "], "{review}");
    assert_eq!(told(&review.closed), ["Route 80 virtual_hosts[a].routes[0].match.safe_regex.regex"], "{review}");
    assert!(review.to_string().contains("    from VirtualService shop/odd\n"), "{review}");
}

/// A resource knows the objects that it was made of.
#[test]
fn where_it_comes_from() {
    let rules = "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}";
    let snapshot = shop(&[object("VirtualService", "rules", rules), object("DestinationRule", "subsets", SUBSETS)]);
    let view = proxy_of(&snapshot, "shop", "web").unwrap();
    let objects = |kind: ResourceKind, name: &str| -> Vec<String> {
        let built = build(&snapshot, &view, kind, &name.into()).unwrap();
        built.objects.iter().map(ToString::to_string).filter(|name| !name.starts_with("Pod ")).collect()
    };
    let routes = objects(ResourceKind::Route, "9080");
    assert!(routes.contains(&"VirtualService shop/rules".to_owned()), "{routes:?}");
    let cluster = objects(ResourceKind::Cluster, "outbound|9080|v1|reviews.shop.svc.cluster.local");
    for object in ["Service shop/reviews", "DestinationRule shop/subsets"] {
        assert!(cluster.contains(&object.to_owned()), "{cluster:?}");
    }
    assert!(!cluster.contains(&"Service shop/ratings".to_owned()), "{cluster:?}");
}
