//! Balancers, in the old words and in the new; what requests are hashed by; metadata that endpoints must have.

use std::time::Duration;

use serde_json::{Value, json};

use super::{compiled, hcm, listener, one_chain, resource, routes, tcp_proxy};
use crate::config::{
    Action, Balancing, ClusterChoice, Criteria, Forward, HashBy, Hashing, LbPolicy, LbValue, SlowStart, SubsetFallback, Terminal,
};
use crate::{Resource, ResourceKind};

fn cluster(more: Value) -> Value {
    let mut cluster = json!({"name": "c", "type": "STATIC"});
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    cluster
}

/// What a cluster with these fields does; else the refusal's field and reason.
fn balancing(more: Value) -> Result<Balancing, String> {
    match compiled(ResourceKind::Cluster, &cluster(more)) {
        Ok(compiled) => match compiled.resource {
            Resource::Cluster(cluster) => Ok((*cluster.lb).clone()),
            other => panic!("{other:?}"),
        },
        Err(refusal) => Err(format!("{}: {}", refusal.field, refusal.reason)),
    }
}

/// A list of policies, by the ends of their types' names.
fn typed(policies: &[(&str, Value)]) -> Value {
    let one = |(kind, value): &(&str, Value)| {
        let mut config = value.clone();
        let package = if kind.contains('/') { "" } else { "type.googleapis.com/envoy.extensions.load_balancing_policies." };
        config["@type"] = format!("{package}{kind}").into();
        json!({"typedExtensionConfig": {"name": kind, "typedConfig": config}})
    };
    json!({"loadBalancingPolicy": {"policies": policies.iter().map(one).collect::<Vec<_>>()}})
}

const RING: LbPolicy = LbPolicy::RingHash { min: 1024, max: 8_388_608, murmur: false, hashing: HASHING };
const MAGLEV: LbPolicy = LbPolicy::Maglev { size: 65537, hashing: HASHING };
const HASHING: Hashing = Hashing { by_hostname: false, balance_factor: 0 };
const LEAST: LbPolicy = LbPolicy::LeastRequest { choices: Some(2), bias: 1.0, slow_start: None };

#[test]
fn policies_in_both_forms() {
    let slow = Some(SlowStart { window: Duration::from_secs(60), aggression: 2.0, min_share: 0.2 });
    let slow_json =
        || json!({"slowStartWindow": "60s", "aggression": {"defaultValue": 2.0, "runtimeKey": ""}, "minWeightPercent": {"value": 20.0}});
    let hashing = Hashing { by_hostname: true, balance_factor: 150 };
    let hashing_json = || json!({"useHostnameForHashing": true, "hashBalanceFactor": 150});
    let least_json =
        || json!({"choiceCount": 5, "activeRequestBias": {"defaultValue": 0.5, "runtimeKey": ""}, "slowStartConfig": slow_json()});
    for (old, new, policy) in [
        (json!({}), ("round_robin.v3.RoundRobin", json!({})), LbPolicy::RoundRobin { slow_start: None }),
        (
            json!({"roundRobinLbConfig": {"slowStartConfig": slow_json()}}),
            ("round_robin.v3.RoundRobin", json!({"slowStartConfig": slow_json()})),
            LbPolicy::RoundRobin { slow_start: slow },
        ),
        (json!({"lbPolicy": "LEAST_REQUEST"}), ("least_request.v3.LeastRequest", json!({})), LEAST),
        (
            json!({"lbPolicy": "LEAST_REQUEST", "leastRequestLbConfig": least_json()}),
            ("least_request.v3.LeastRequest", least_json()),
            LbPolicy::LeastRequest { choices: Some(5), bias: 0.5, slow_start: slow },
        ),
        (json!({"lbPolicy": "RANDOM"}), ("random.v3.Random", json!({})), LbPolicy::Random),
        // Another policy's words do not count.
        (json!({"lbPolicy": "RANDOM", "ringHashLbConfig": {}}), ("random.v3.Random", json!({})), LbPolicy::Random),
        (json!({"lbPolicy": "RING_HASH"}), ("ring_hash.v3.RingHash", json!({})), RING),
        (
            json!({"lbPolicy": "RING_HASH", "ringHashLbConfig": {"minimumRingSize": 5, "maximumRingSize": 7, "hashFunction": "MURMUR_HASH_2"},
                   "commonLbConfig": {"consistentHashingLbConfig": hashing_json()}}),
            (
                "ring_hash.v3.RingHash",
                json!({"minimumRingSize": 5, "maximumRingSize": 7, "hashFunction": "MURMUR_HASH_2", "consistentHashingLbConfig": hashing_json()}),
            ),
            LbPolicy::RingHash { min: 5, max: 7, murmur: true, hashing },
        ),
        (
            json!({"lbPolicy": "RING_HASH", "commonLbConfig": {"consistentHashingLbConfig": hashing_json()}}),
            ("ring_hash.v3.RingHash", json!({"useHostnameForHashing": true, "hashBalanceFactor": 150})),
            LbPolicy::RingHash { min: 1024, max: 8_388_608, murmur: false, hashing },
        ),
        (json!({"lbPolicy": "MAGLEV"}), ("maglev.v3.Maglev", json!({})), MAGLEV),
        (
            json!({"lbPolicy": "MAGLEV", "maglevLbConfig": {"tableSize": 251}, "commonLbConfig": {"consistentHashingLbConfig": hashing_json()}}),
            ("maglev.v3.Maglev", json!({"tableSize": 251, "consistentHashingLbConfig": hashing_json()})),
            LbPolicy::Maglev { size: 251, hashing },
        ),
    ] {
        assert_eq!(balancing(old.clone()).map(|lb| lb.policy), Ok(policy), "{old}");
        assert_eq!(balancing(typed(std::slice::from_ref(&new))).map(|lb| lb.policy), Ok(policy), "{new:?}");
    }
    let full = typed(&[("least_request.v3.LeastRequest", json!({"selectionMethod": "FULL_SCAN"}))]);
    assert_eq!(balancing(full).map(|lb| lb.policy), Ok(LbPolicy::LeastRequest { choices: None, bias: 1.0, slow_start: None }));
}

#[test]
fn the_first_policy_that_is_known() {
    let client_side = ("client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin", json!({}));
    let unknown = || ("type.googleapis.com/google.protobuf.StringValue", json!({"value": "x"}));
    let (random, maglev) = (("random.v3.Random", json!({})), ("maglev.v3.Maglev", json!({})));
    let policy = |policies: &[(&str, Value)]| balancing(typed(policies)).map(|lb| lb.policy);
    assert_eq!(policy(&[client_side.clone(), random.clone(), maglev.clone()]), Ok(LbPolicy::Random));
    assert_eq!(policy(&[unknown(), maglev, random]), Ok(MAGLEV));
    let refused = policy(&[client_side, unknown()]).unwrap_err();
    let expected = "load_balancing_policy.policies: none of them is supported here: client_side_weighted_round_robin.v3.\
        ClientSideWeightedRoundRobin, type.googleapis.com/google.protobuf.StringValue";
    assert_eq!(refused, expected);
    assert_eq!(policy(&[]).unwrap_err(), "load_balancing_policy.policies: none of them is supported here: ");
}

#[test]
fn panic_and_localities() {
    let common =
        |more: Value| balancing(json!({"commonLbConfig": more})).map(|lb| (lb.panic_threshold, lb.fail_on_panic, lb.locality_weighted));
    assert_eq!(common(json!({})), Ok((50, false, false)));
    assert_eq!(common(json!({"healthyPanicThreshold": {}})), Ok((0, false, false)));
    assert_eq!(common(json!({"healthyPanicThreshold": {"value": 66.6}})), Ok((67, false, false)));
    assert_eq!(common(json!({"zoneAwareLbConfig": {"failTrafficOnPanic": true}})), Ok((50, true, false)));
    assert_eq!(common(json!({"localityWeightedLbConfig": {}})), Ok((50, false, true)));
    let locality = |policies: &[(&str, Value)]| balancing(typed(policies)).map(|lb| (lb.fail_on_panic, lb.locality_weighted));
    let weighted = || json!({"localityLbConfig": {"localityWeightedLbConfig": {}}});
    assert_eq!(locality(&[("round_robin.v3.RoundRobin", weighted())]), Ok((false, true)));
    assert_eq!(locality(&[("random.v3.Random", weighted())]), Ok((false, true)));
    let zone = json!({"localityLbConfig": {"zoneAwareLbConfig": {"failTrafficOnPanic": true}}});
    assert_eq!(locality(&[("least_request.v3.LeastRequest", zone)]), Ok((true, false)));
    let inner = typed(&[("round_robin.v3.RoundRobin", json!({}))])["loadBalancingPolicy"].clone();
    assert_eq!(locality(&[("wrr_locality.v3.WrrLocality", json!({"endpointPickingPolicy": inner}))]), Ok((false, true)));
    // What the old field says of localities belongs to old policies; of panic, to all.
    let mut both = typed(&[("random.v3.Random", json!({}))]);
    both["commonLbConfig"] = json!({"localityWeightedLbConfig": {}, "healthyPanicThreshold": {"value": 10}});
    assert_eq!(balancing(both).map(|lb| (lb.locality_weighted, lb.panic_threshold)), Ok((false, 10)));
}

#[test]
fn what_is_refused() {
    let check = |more: Value, expected: &str| {
        let refused = balancing(more.clone()).expect_err(expected);
        assert!(refused.starts_with(expected), "{refused}\nexpected {expected}\n{more}");
    };
    check(json!({"lbPolicy": "CLUSTER_PROVIDED"}), "lb_policy: CLUSTER_PROVIDED belongs");
    check(json!({"type": "ORIGINAL_DST"}), "lb_policy: CLUSTER_PROVIDED belongs");
    check(typed(&[("cluster_provided.v3.ClusterProvided", json!({}))]), "load_balancing_policy: CLUSTER_PROVIDED belongs");
    check(json!({"lbPolicy": "LOAD_BALANCING_POLICY_CONFIG"}), "lb_policy: LOAD_BALANCING_POLICY_CONFIG without");
    let ring = |more: Value| json!({"lbPolicy": "RING_HASH", "ringHashLbConfig": more});
    check(ring(json!({"minimumRingSize": 9, "maximumRingSize": 8})), "ring_hash_lb_config.minimum_ring_size: 9 is not");
    check(ring(json!({"maximumRingSize": 8_388_609})), "ring_hash_lb_config.maximum_ring_size: 8388609 is above");
    for size in [0, 1, 4, 65536, 5_000_013] {
        let maglev = json!({"lbPolicy": "MAGLEV", "maglevLbConfig": {"tableSize": size}});
        check(maglev, &format!("maglev_lb_config.table_size: {size} is not a prime"));
    }
    let least = |more: Value| json!({"lbPolicy": "LEAST_REQUEST", "leastRequestLbConfig": more});
    check(least(json!({"choiceCount": 1})), "least_request_lb_config.choice_count: 1 is below 2");
    check(least(json!({"activeRequestBias": {"defaultValue": -1.0, "runtimeKey": ""}})), "least_request_lb_config.active_request_bias: -1");
    check(least(json!({"slowStartConfig": {}})), "least_request_lb_config.slow_start_config.slow_start_window: it is required");
    let slow = json!({"slowStartConfig": {"slowStartWindow": "1s", "aggression": {"defaultValue": 0.0, "runtimeKey": ""}}});
    check(json!({"roundRobinLbConfig": slow}), "round_robin_lb_config.slow_start_config.aggression: 0 is not above 0");
    let factor = json!({"consistentHashingLbConfig": {"hashBalanceFactor": 99}});
    check(json!({"commonLbConfig": factor}), "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: 99 is below 100");
    let subsets = |more: Value| json!({"lbSubsetConfig": {"subsetSelectors": [more]}});
    let at = "lb_subset_config.subset_selectors[0]";
    check(subsets(json!({})), &format!("{at}.keys: at least one"));
    check(subsets(json!({"keys": ["a"], "singleHostPerSubset": true})), &format!("{at}.single_host_per_subset: not supported"));
    let keys = |fewer: Value| subsets(json!({"keys": ["a", "b"], "fallbackPolicy": "KEYS_SUBSET", "fallbackKeysSubset": fewer}));
    for fewer in [json!([]), json!(["a", "b"]), json!(["c"])] {
        check(keys(fewer), &format!("{at}.fallback_keys_subset: some of"));
    }
    check(
        json!({"lbSubsetConfig": {"metadataFallbackPolicy": "FALLBACK_LIST"}}),
        "lb_subset_config.metadata_fallback_policy: not supported",
    );
    check(json!({"lbSubsetConfig": {"scaleLocalityWeight": true}}), "lb_subset_config.scale_locality_weight: only with");
    let inner = typed(&[("random.v3.Random", json!({}))])["loadBalancingPolicy"].clone();
    let nested = typed(&[("subset.v3.Subset", json!({"subsetLbPolicy": inner}))])["loadBalancingPolicy"].clone();
    let twice = typed(&[("subset.v3.Subset", json!({"subsetLbPolicy": nested}))]);
    let at = "load_balancing_policy.policies[0].typed_extension_config.typed_config.subset_lb_policy.policies: none of them";
    check(twice, at);
    let mut both = typed(&[("random.v3.Random", json!({}))]);
    both["lbSubsetConfig"] = json!({"subsetSelectors": [{"keys": ["a"]}]});
    check(both, "lb_subset_config: not together with");
}

#[test]
fn subsets() {
    let of = |config: Value| balancing(json!({"lbSubsetConfig": config})).unwrap().subsets;
    assert_eq!(of(json!({"fallbackPolicy": "ANY_ENDPOINT"})), None, "without selectors there are no groups");
    let config = json!({
        "fallbackPolicy": "DEFAULT_SUBSET",
        "defaultSubset": {"z": true, "a": ["x", 1]},
        "subsetSelectors": [{"keys": ["b", "a"]}, {"keys": ["a", "b", "c"], "fallbackPolicy": "KEYS_SUBSET", "fallbackKeysSubset": ["b", "a"]}],
        "localityWeightAware": true,
        "panicModeAny": true,
    });
    let subsets = of(config).unwrap();
    assert_eq!(subsets.fallback, SubsetFallback::Default);
    let list = LbValue::List([LbValue::Text("x".into()), LbValue::Number(1f64.to_bits())].into());
    assert_eq!(*subsets.default, [("a".into(), list), ("z".into(), LbValue::Bool(true))]);
    let selectors: Vec<_> = subsets.selectors.iter().map(|s| (s.keys.join(" "), s.fallback.clone())).collect();
    let fewer = SubsetFallback::Keys(["a".into(), "b".into()].into());
    assert_eq!(selectors, [("a b".to_owned(), None), ("a b c".to_owned(), Some(fewer))]);
    assert!(subsets.locality_weights && subsets.panic_any && !subsets.scaled_weights && !subsets.list_as_any && !subsets.redundant_keys);
}

fn route(action: Value) -> Result<std::sync::Arc<Forward>, String> {
    let table =
        json!({"name": "80", "virtualHosts": [{"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}]});
    let all = compiled(ResourceKind::Route, &table).unwrap();
    if let Some(bad) = all.closed.first() {
        return Err(format!("{}: {}", bad.field.rsplit("route.").next().unwrap(), bad.reason));
    }
    let table = routes(&table);
    match &table.hosts[0].routes[0].action {
        Action::Forward(forward) => Ok(forward.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hash_policies() {
    let policies = json!([
        {"header": {"headerName": "X-User", "regexRewrite": {"pattern": {"regex": "a(.)"}, "substitution": "\\1"}}, "terminal": true},
        {"header": {"headerName": "host"}},
        {"cookie": {"name": "c", "ttl": "3600.5s", "path": "/p", "attributes": [{"name": "SameSite", "value": "Strict"}, {"name": "Secure"}]}},
        {"cookie": {"name": "d"}},
        {"connectionProperties": {"sourceIp": true}},
        {"connectionProperties": {}},
        {"queryParameter": {"name": "Q"}},
    ]);
    let forward = route(json!({"cluster": "c", "hashPolicy": policies})).unwrap();
    let said: Vec<String> = forward
        .hash
        .iter()
        .map(|policy| {
            let by = match &policy.by {
                HashBy::Header(name, rewrite) => format!("{name} {}", rewrite.is_some()),
                HashBy::Cookie(cookie) => format!("{}={:?}{}", cookie.name, cookie.ttl, cookie.attributes),
                HashBy::SourceIp => "source".to_owned(),
                HashBy::Query(name) => format!("?{name}"),
            };
            format!("{by}{}", if policy.terminal { " !" } else { "" })
        })
        .collect();
    let expected = [
        "x-user true !",
        ":authority false",
        "c=Some(3600s); Max-Age=3600; Path=/p; SameSite=Strict; Secure; HttpOnly",
        "d=None; HttpOnly",
        "source",
        "?Q",
    ];
    assert_eq!(said, expected);
    for (policy, expected) in [
        (json!({"filterState": {"key": "x"}}), "hash_policy[0].filter_state: not supported"),
        (json!({}), "hash_policy[0].policy_specifier: it is required"),
        (json!({"header": {"headerName": "a b"}}), "hash_policy[0].header.header_name: `a b` is not"),
        (json!({"cookie": {"name": "a;b"}}), "hash_policy[0].cookie.name: `a;b` is not"),
        (json!({"cookie": {"name": "a", "path": "/\r\nx"}}), "hash_policy[0].cookie.attributes: a control character"),
        (json!({"queryParameter": {}}), "hash_policy[0].query_parameter.name: it is required"),
    ] {
        let refused = route(json!({"cluster": "c", "hashPolicy": [policy]})).unwrap_err();
        assert!(refused.starts_with(expected), "{refused}\nexpected {expected}");
    }
    // A balancer may have its own.
    let own = json!({"consistentHashingLbConfig": {"hashPolicy": [{"header": {"headerName": "a"}}]}});
    assert_eq!(balancing(typed(&[("maglev.v3.Maglev", own)])).unwrap().hash.len(), 1);
}

fn with(proxy: &Value) -> Result<(bool, Vec<String>), String> {
    let all = one_chain(json!([proxy]));
    let made = compiled(ResourceKind::Listener, &all).unwrap();
    if let Some(bad) = made.closed.first() {
        return Err(format!("{}: {}", bad.field.rsplit("typed_config.").next().unwrap(), bad.reason));
    }
    let listener = listener(&all);
    match &listener.chains[0].filters.last {
        Terminal::Tcp(proxy) => Ok((proxy.hash_source, proxy.clusters.iter().map(|t| said(&t.cluster, t.subset.as_ref())).collect())),
        other => panic!("{other:?}"),
    }
}

/// A cluster and what its endpoints must have.
fn said(cluster: &str, subset: Option<&Criteria>) -> String {
    let one = |(key, value): &(mizzen_types::Name, LbValue)| match value {
        LbValue::Text(text) => format!(" {key}={text}"),
        other => format!(" {key}={other:?}"),
    };
    format!("{cluster}{}", subset.into_iter().flat_map(|c| c.iter()).map(one).collect::<String>())
}

#[test]
fn tcp() {
    let proxy = |more: Value| {
        let mut proxy = tcp_proxy("c");
        proxy["typedConfig"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        proxy
    };
    assert_eq!(with(&proxy(json!({}))), Ok((false, vec!["c".to_owned()])));
    let hashed = proxy(
        json!({"hashPolicy": [{"sourceIp": {}}], "metadataMatch": {"filterMetadata": {"envoy.lb": {"v": "1"}, "other": {"w": "2"}}}}),
    );
    assert_eq!(with(&hashed), Ok((true, vec!["c v=1".to_owned()])));
    let mut weighted = proxy(
        json!({"metadataMatch": {"filterMetadata": {"envoy.lb": {"v": "1", "w": "1"}}}, "weightedClusters": {"clusters": [
        {"name": "a", "weight": 1}, {"name": "b", "weight": 2, "metadataMatch": {"filterMetadata": {"envoy.lb": {"w": "2", "x": "2"}}}}]}}),
    );
    weighted["typedConfig"].as_object_mut().unwrap().remove("cluster");
    assert_eq!(with(&weighted), Ok((false, vec!["a v=1 w=1".to_owned(), "b v=1 w=2 x=2".to_owned()])));
    let state = proxy(json!({"hashPolicy": [{"filterState": {"key": "x"}}]}));
    assert_eq!(with(&state), Err("hash_policy[0].filter_state: not supported".to_owned()));
}

#[test]
fn metadata_match_of_routes() {
    let lb = |value: Value| json!({"filterMetadata": {"envoy.lb": value}});
    let targets = |action: Value| match &route(action).unwrap().cluster {
        ClusterChoice::One(target) => vec![said(&target.cluster, target.subset.as_ref())],
        ClusterChoice::Weighted(all) => all.iter().map(|(_, target)| said(&target.cluster, target.subset.as_ref())).collect(),
        ClusterChoice::Header(name, _, subset) => vec![said(name, subset.as_ref())],
    };
    assert_eq!(targets(json!({"cluster": "c"})), ["c"]);
    assert_eq!(targets(json!({"cluster": "c", "metadataMatch": lb(json!({"w": "2", "v": "1"}))})), ["c v=1 w=2"]);
    assert_eq!(targets(json!({"clusterHeader": "h", "metadataMatch": lb(json!({"v": "1"}))})), ["h v=1"]);
    let weighted = json!({"metadataMatch": lb(json!({"v": "1"})), "weightedClusters": {"clusters": [
        {"name": "a", "weight": 1}, {"name": "b", "weight": 1, "metadataMatch": lb(json!({"v": "2"}))}]}});
    assert_eq!(targets(weighted), ["a v=1", "b v=2"]);
}

#[test]
fn endpoints_metadata() {
    let endpoint = json!({"endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 80}}},
        "metadata": {"filterMetadata": {"envoy.lb": {"hash_key": "k", "n": -0.0}, "istio": {"workload": "w"}}}});
    let message = json!({"clusterName": "c", "endpoints": [{"lbEndpoints": [endpoint]}], "policy": {"weightedPriorityHealth": true}});
    let Resource::Assignment(assignment) = resource(ResourceKind::Assignment, &message) else { panic!() };
    assert!(assignment.weighted_health);
    let lb = assignment.endpoints().next().unwrap().lb.clone().unwrap();
    assert_eq!(*lb, [("hash_key".into(), LbValue::Text("k".into())), ("n".into(), LbValue::Number(0))], "both zeros are one");
    // A connection manager's routes in place are compiled alike.
    let inline = json!({"name": "80", "virtualHosts": [{"name": "h", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": "c", "hashPolicy": [{"connectionProperties": {"sourceIp": true}}]}}]}]});
    let mut manager = hcm(json!({"routeConfig": inline}));
    manager["typedConfig"].as_object_mut().unwrap().remove("rds");
    assert!(compiled(ResourceKind::Listener, &one_chain(json!([manager]))).unwrap().closed.is_empty());
}
