//! Which endpoint is picked: policies, priorities, panic, localities, groups, slow start, kinds of endpoints.

mod again;
mod hashes;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use allocation_counter::measure;
use mizzen_ir::{
    Config, ResourceKind,
    config::{Criteria, LbValue},
};
use serde_json::{Value, json};

use super::mesh::put;
use crate::{
    Answer, Node, Now, Options, Target,
    clusters::{Again, Ask, Clusters, NoHost},
    context::Context,
    lb::{HostState, Rng},
    questions::Questions,
};

/// A worker's clusters without the worker; the cluster is `c`.
struct Bench {
    clusters: Clusters,
    questions: Questions,
    cx: Context,
}

impl Bench {
    /// A cluster of these fields, and the endpoints' message.
    fn new(cluster: Value, endpoints: Value) -> Bench {
        let options = Options { node: Node::default(), limits: Default::default(), seed: 7, shared: Default::default(), mark: 0 };
        let now = Now { mono: Duration::from_secs(1000), wall: Duration::from_secs(1_800_000_000) };
        let cx = Context {
            options,
            now,
            rng: Rng::new(7),
            config: Arc::default(),
            inbox: VecDeque::new(),
            actions: Vec::new(),
            timers: Default::default(),
            draining: false,
        };
        let mut bench = Bench { clusters: Clusters::default(), questions: Questions::default(), cx };
        bench.put(cluster, endpoints);
        bench
    }

    /// Another configuration.
    fn put(&mut self, cluster: Value, endpoints: Value) {
        let mut whole = json!({"name": "c", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}});
        merge(&mut whole, cluster);
        let mut assignment = json!({"cluster_name": "c"});
        merge(&mut assignment, endpoints);
        let mut resources = vec![];
        if whole["type"] == "EDS" {
            resources.push((ResourceKind::Assignment, assignment));
        } else {
            whole["load_assignment"] = assignment;
        }
        resources.push((ResourceKind::Cluster, whole));
        self.cx.config = put(&Config::default(), &resources);
    }

    fn try_pick(&mut self, hash: Option<u64>, subset: Option<&Criteria>, again: Option<Again<'_>>) -> Result<Target, NoHost> {
        let config = self.cx.config.clone();
        let cluster = config.clusters["c"].clone();
        let ask = Ask { destination: ([0, 0, 0, 0], 0).into(), again, hash, subset, named: None };
        self.clusters.pick(&mut self.cx, &mut self.questions, &config, &cluster, ask).map(|host| host.target.clone())
    }

    /// The last part of the address that is picked, or `-`.
    fn pick(&mut self, hash: Option<u64>, subset: Option<&Criteria>) -> String {
        Self::last(self.try_pick(hash, subset, None))
    }

    fn last(picked: Result<Target, NoHost>) -> String {
        match picked {
            Ok(Target::Tcp(address)) => address.ip().to_string().rsplit('.').next().unwrap().to_owned(),
            Ok(other) => crate::address::target(&other),
            Err(NoHost::None) => "-".to_owned(),
            Err(NoHost::Wait(question)) => format!("{question:?}"),
            Err(NoHost::Unresolved) => "unresolved".to_owned(),
            Err(NoHost::Overflow) => "overflow".to_owned(),
        }
    }

    /// How often each is picked, without a hash.
    fn shares(&mut self, n: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        (0..n).for_each(|_| *shares.entry(self.pick(None, None)).or_default() += 1);
        shares
    }

    /// The state of an endpoint of [`ends`].
    fn state(&mut self, last: u8) -> Arc<HostState> {
        self.clusters.state(&self.cx, &"c".into()).host(&format!("10.0.0.{last}:80"))
    }
}

fn merge(into: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    more.into_iter().for_each(|(key, value)| into[key] = value);
}

fn end(last: u8, more: Value) -> Value {
    let mut end = json!({"endpoint": {"address": {"socket_address": {"address": format!("10.0.0.{last}"), "port_value": 80}}}});
    merge(&mut end, more);
    end
}

/// Endpoints 10.0.0.N:80 by locality: `zone[*weight][@priority]: endpoints`, of which each is `N[*weight][!]`; `!`, `~` and `%` after it stand for
/// unhealthy, degraded and draining.
fn ends(text: &str) -> Value {
    let locality = |part: &str| {
        let (head, list) = part.split_once(':').unwrap();
        let (head, priority) = head.trim().split_once('@').unwrap_or((head.trim(), "0"));
        let (zone, weight) = head.split_once('*').unwrap_or((head, "1"));
        let one = |word: &str| {
            let health = match word.chars().last() {
                Some('!') => "UNHEALTHY",
                Some('~') => "DEGRADED",
                Some('%') => "DRAINING",
                _ => "HEALTHY",
            };
            let word = word.trim_end_matches(['!', '~', '%']);
            let (last, weight) = word.split_once('*').unwrap_or((word, "1"));
            end(last.parse().unwrap(), json!({"health_status": health, "load_balancing_weight": weight.parse::<u32>().unwrap()}))
        };
        let list: Vec<Value> = list.split_whitespace().map(one).collect();
        json!({"locality": {"zone": zone}, "load_balancing_weight": weight.parse::<u32>().unwrap(), "priority": priority.parse::<u32>().unwrap(), "lb_endpoints": list})
    };
    json!({"endpoints": text.split(';').map(locality).collect::<Vec<_>>()})
}

/// Checks shares of 10,000 picks in percent, within two points.
#[track_caller]
fn check(cluster: Value, endpoints: &str, expected: &[(&str, usize)]) {
    let mut bench = Bench::new(cluster.clone(), ends(endpoints));
    check_shares(&mut bench, expected, &format!("{cluster} {endpoints}"));
}

#[track_caller]
fn check_shares(bench: &mut Bench, expected: &[(&str, usize)], what: &str) {
    let shares = bench.shares(10_000);
    let names: BTreeSet<&str> = shares.keys().map(String::as_str).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| *name).collect(), "{what}: {shares:?}");
    for (name, percent) in expected {
        assert!(shares[*name].abs_diff(percent * 100) <= 200, "{what}: {shares:?}, not {expected:?}");
    }
}

fn policy(name: &str) -> Value {
    json!({"lb_policy": name})
}

#[test]
fn policies() {
    let even = [("1", 25), ("2", 25), ("3", 25), ("4", 25)];
    for name in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV"] {
        // A ring's places are where their hashes are, not at even distances: many of them make it even.
        let mut cluster = policy(name);
        if name == "RING_HASH" {
            cluster["ring_hash_lb_config"] = json!({"minimum_ring_size": 262_144});
        }
        check(cluster.clone(), "a: 1 2 3 4", &even);
        check(cluster.clone(), "a: 1", &[("1", 100)]);
        check(cluster.clone(), "a:", &[("-", 100)]);
        if name != "RANDOM" {
            check(cluster.clone(), "a: 1*1 2*2 3*7", &[("1", 10), ("2", 20), ("3", 70)]);
        } else {
            check(cluster.clone(), "a: 1*1 2*4", &[("1", 50), ("2", 50)]);
        }
    }
}

#[test]
fn round_robin_takes_turns() {
    let turns = |endpoints: &str, n: usize| {
        let mut bench = Bench::new(policy("ROUND_ROBIN"), ends(endpoints));
        (0..n).map(|_| bench.pick(None, None)).collect::<Vec<_>>()
    };
    let even = turns("a: 1 2 3", 9);
    assert!(even.windows(4).all(|w| w[0] == w[3] && w[0] != w[1] && w[1] != w[2] && w[0] != w[2]), "{even:?}");
    let weighted = turns("a: 1*4 2*1", 15);
    assert!(weighted.windows(5).all(|w| w.iter().filter(|one| *one == "1").count() == 4), "{weighted:?}");

    // A change of health goes on where the round was.
    let mut bench = Bench::new(policy("ROUND_ROBIN"), ends("a: 1 2 3 4"));
    let first = bench.pick(None, None);
    let state = bench.state(9);
    state.health.set(crate::HealthFlags::FAILED_OUTLIER, true);
    assert_ne!(bench.pick(None, None), first);
}

#[test]
fn least_request_avoids_who_is_busy() {
    for (lb, endpoints, busy, expected) in [
        // Two of four are looked at: the busy one is taken only where it is both.
        (policy("LEAST_REQUEST"), "a: 1 2 3 4", 3, &[("1", 6), ("2", 31), ("3", 31), ("4", 31)][..]),
        (json!({"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": 40}}), "a: 1 2 3", 1, &[("2", 50), ("3", 50)]),
        // Of different weights: in turn by weight over load.
        (policy("LEAST_REQUEST"), "a: 1*4 2*1", 3, &[("1", 50), ("2", 50)]),
        (
            json!({"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"active_request_bias": {"default_value": 0.0, "runtime_key": "x"}}}),
            "a: 1*4 2*1",
            3,
            &[("1", 80), ("2", 20)],
        ),
        (
            json!({"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"active_request_bias": {"default_value": 0.5, "runtime_key": "x"}}}),
            "a: 1*4 2*1",
            3,
            &[("1", 67), ("2", 33)],
        ),
        (
            typed(json!([{"@type": of("least_request.v3.LeastRequest"), "selection_method": "FULL_SCAN"}])),
            "a: 1 2 3",
            1,
            &[("2", 50), ("3", 50)],
        ),
    ] {
        let mut bench = Bench::new(lb.clone(), ends(endpoints));
        let state = bench.state(1);
        let _requests: Vec<_> = (0..busy).map(|_| state.begin()).collect();
        check_shares(&mut bench, expected, &format!("{lb} {endpoints}"));
    }
}

fn of(policy: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{policy}")
}

/// The new form: a list of policies.
fn typed(policies: Value) -> Value {
    let one = |config: &Value| json!({"typed_extension_config": {"name": "x", "typed_config": config}});
    json!({"load_balancing_policy": {"policies": policies.as_array().unwrap().iter().map(one).collect::<Vec<_>>()}})
}

#[test]
fn panic() {
    let threshold = |percent: u32| json!({"lb_policy": "ROUND_ROBIN", "common_lb_config": {"healthy_panic_threshold": {"value": percent}}});
    // Half of them are enough.
    check(policy("ROUND_ROBIN"), "a: 1 2 3! 4!", &[("1", 50), ("2", 50)]);
    let all = [("1", 25), ("2", 25), ("3", 25), ("4", 25)];
    check(policy("ROUND_ROBIN"), "a: 1 2! 3! 4!", &all);
    check(policy("ROUND_ROBIN"), "a: 1! 2! 3! 4!", &all);
    check(threshold(20), "a: 1 2! 3! 4!", &[("1", 100)]);
    check(threshold(0), "a: 1 2! 3! 4!", &[("1", 100)]);
    check(threshold(0), "a: 1! 2!", &[("-", 100)]);
    check(policy("RANDOM"), "a: 1 2! 3! 4!", &all);
    check(policy("MAGLEV"), "a: 1 2! 3! 4!", &all);
    check(policy("MAGLEV"), "a: 1 2 3!", &[("1", 50), ("2", 50)]);
    let fails = json!({"lb_policy": "ROUND_ROBIN", "common_lb_config": {"zone_aware_lb_config": {"fail_traffic_on_panic": true}}});
    check(fails.clone(), "a: 1 2! 3! 4!", &[("-", 100)]);
    check(fails, "a: 1 2 3!", &[("1", 50), ("2", 50)]);
    // Who drains does not count, but serves in a panic.
    check(policy("ROUND_ROBIN"), "a: 1 2% 3% 4%", &[("1", 100)]);
    check(policy("ROUND_ROBIN"), "a: 1 2! 3! 4%", &all);
}

#[test]
fn priorities() {
    let rr = || policy("ROUND_ROBIN");
    check(rr(), "a: 1 2; b@1: 3 4", &[("1", 50), ("2", 50)]);
    check(rr(), "a: 1 2!; b@1: 3 4", &[("1", 70), ("3", 15), ("4", 15)]);
    check(rr(), "a: 1! 2!; b@1: 3 4", &[("3", 50), ("4", 50)]);
    check(rr(), "b@2: 3", &[("3", 100)]);
    // Degraded ones take what the healthy ones cannot, of all priorities.
    check(rr(), "a: 1 2~", &[("1", 70), ("2", 30)]);
    check(rr(), "a: 1 2~; b@1: 3", &[("1", 70), ("3", 30)]);
    check(rr(), "a: 1~ 2~", &[("1", 50), ("2", 50)]);
    // Too few in all: shares grow in proportion, 28 and 28 of 56 to 50 and 50, and each uses what it has.
    check(
        rr(),
        "a: 1 2! 3! 4! 5!; b@1: 6 7! 8! 9! 10!",
        &[("1", 10), ("2", 10), ("3", 10), ("4", 10), ("5", 10), ("6", 10), ("7", 10), ("8", 10), ("9", 10), ("10", 10)],
    );
    for name in ["RANDOM", "MAGLEV", "RING_HASH"] {
        check(policy(name), "a: 1 2!; b@1: 3", &[("1", 70), ("3", 30)]);
        check(policy(name), "a: 1! 2!; b@1: 3", &[("3", 100)]);
    }
    let factor = |percent: u32, weighted: bool| {
        let mut ends = ends("a: 1*3 2*1!; b@1: 3");
        ends["policy"] = json!({"overprovisioning_factor": percent, "weighted_priority_health": weighted});
        ends
    };
    check_shares(&mut Bench::new(rr(), factor(100, false)), &[("1", 50), ("3", 50)], "a factor of 100 %");
    check_shares(&mut Bench::new(rr(), factor(100, true)), &[("1", 75), ("3", 25)], "by weight");
    check_shares(&mut Bench::new(rr(), factor(200, false)), &[("1", 100)], "a factor of 200 %");
}

#[test]
fn localities_by_weight() {
    let weighted = |name: &str| json!({"lb_policy": name, "common_lb_config": {"locality_weighted_lb_config": {}}});
    let new = |inner: &str| {
        typed(
            json!([{"@type": of("wrr_locality.v3.WrrLocality"), "endpoint_picking_policy": typed(json!([{"@type": of(inner)}]))["load_balancing_policy"]}]),
        )
    };
    for lb in [
        weighted("ROUND_ROBIN"),
        weighted("LEAST_REQUEST"),
        weighted("RANDOM"),
        weighted("MAGLEV"),
        new("round_robin.v3.RoundRobin"),
        typed(json!([{"@type": of("random.v3.Random"), "locality_lb_config": {"locality_weighted_lb_config": {}}}])),
        typed(json!([{"@type": of("maglev.v3.Maglev"), "locality_weighted_lb_config": {}}])),
    ] {
        check(lb.clone(), "a*3: 1; b*1: 2 3", &[("1", 75), ("2", 13), ("3", 13)]);
        check(lb.clone(), "a*0: 1; b*1: 2 3", &[("2", 50), ("3", 50)]);
    }
    // Without it, only endpoints count.
    check(policy("ROUND_ROBIN"), "a*8: 1; b*1: 2 3", &[("1", 33), ("2", 33), ("3", 33)]);
    // A locality gives up what its health does not allow: 1 × 1.4 × 1/2.
    check(weighted("ROUND_ROBIN"), "a: 1 2!; b: 3 4", &[("1", 41), ("3", 29), ("4", 29)]);
    // No locality has a weight: all endpoints are alike.
    check(weighted("ROUND_ROBIN"), "a*0: 1; b*0: 2 3", &[("1", 33), ("2", 33), ("3", 33)]);
    check(weighted("MAGLEV"), "a*0: 1; b*0: 2 3", &[("-", 100)]);
    // In a panic localities do not count.
    check(weighted("ROUND_ROBIN"), "a*9: 1! 2!; b*1: 3 4!", &[("1", 25), ("2", 25), ("3", 25), ("4", 25)]);
    // A locality that is told twice is one.
    check(weighted("ROUND_ROBIN"), "a: 1; b: 2; a: 3", &[("1", 25), ("2", 50), ("3", 25)]);
}

#[test]
fn slow_start() {
    let slow = |name: &str, config: Value| {
        let field = format!("{}_lb_config", name.to_lowercase());
        json!({"lb_policy": name, field: {"slow_start_config": config}})
    };
    let linear = json!({"slow_start_window": "100s"});
    let squared = json!({"slow_start_window": "100s", "aggression": {"default_value": 0.5, "runtime_key": "x"}, "min_weight_percent": {"value": 1.0}});
    for (lb, after, percent) in [
        // Its weight is a tenth at first, then what share of the window has passed.
        (slow("ROUND_ROBIN", linear.clone()), 0, 9),
        (slow("ROUND_ROBIN", linear.clone()), 25, 20),
        (slow("ROUND_ROBIN", linear.clone()), 50, 33),
        (slow("ROUND_ROBIN", linear.clone()), 100, 50),
        (slow("LEAST_REQUEST", linear.clone()), 25, 20),
        (slow("ROUND_ROBIN", squared.clone()), 0, 1),
        (slow("ROUND_ROBIN", squared.clone()), 50, 20),
    ] {
        let mut bench = Bench::new(lb.clone(), ends("a: 1"));
        bench.pick(None, None);
        bench.cx.now.mono += Duration::from_secs(1000);
        bench.put(lb.clone(), ends("a: 1 2"));
        bench.pick(None, None);
        bench.cx.now.mono += Duration::from_secs(after);
        let what = format!("{lb} after {after} s");
        check_shares(&mut bench, &[("1", 100 - percent), ("2", percent)], &what);
    }
    // Those that begin together are alike.
    check(slow("ROUND_ROBIN", linear), "a: 1 2", &[("1", 50), ("2", 50)]);
}

fn text(value: &str) -> LbValue {
    LbValue::Text(value.into())
}

fn criteria(all: &[(&str, LbValue)]) -> Criteria {
    all.iter().map(|(key, value)| ((*key).into(), value.clone())).collect()
}

/// Endpoints with metadata of `envoy.lb`, by zone.
fn with_metadata(all: &[(u8, &str, Value)]) -> Value {
    let one = |(last, zone, metadata): &(u8, &str, Value)| {
        let end = end(*last, json!({"metadata": {"filter_metadata": {"envoy.lb": metadata}}}));
        json!({"locality": {"zone": zone}, "load_balancing_weight": 1, "lb_endpoints": [end]})
    };
    json!({"endpoints": all.iter().map(one).collect::<Vec<_>>()})
}

#[test]
fn subsets() {
    let stage = |stage: &str, version: Value| json!({"stage": stage, "version": version});
    let endpoints = || {
        with_metadata(&[
            (1, "a", stage("prod", json!("1"))),
            (2, "b", stage("prod", json!("2"))),
            (3, "a", stage("dev", json!("2"))),
            (4, "a", json!({"stage": "dev"})),
            (5, "b", json!({"list": ["x", "y"], "stage": "prod", "number": 1})),
        ])
    };
    let subsets = |more: Value| {
        let mut config =
            json!({"subset_selectors": [{"keys": ["stage"]}, {"keys": ["version", "stage"]}, {"keys": ["list"]}, {"keys": ["number"]}]});
        merge(&mut config, more);
        config
    };
    let old = |more: Value| json!({"lb_policy": "RANDOM", "lb_subset_config": subsets(more)});
    let new = |more: Value| {
        let mut config = subsets(more);
        config["@type"] = of("subset.v3.Subset").into();
        config["subset_lb_policy"] = typed(json!([{"@type": of("random.v3.Random")}]))["load_balancing_policy"].clone();
        typed(json!([config]))
    };
    let check = |cluster: &Value, wanted: &[(&str, LbValue)], expected: &str| {
        let mut bench = Bench::new(cluster.clone(), endpoints());
        let wanted = criteria(wanted);
        let subset = (!wanted.is_empty()).then_some(&wanted);
        let seen: BTreeSet<String> = (0..200).map(|_| bench.pick(None, subset)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>().join(" "), expected, "{cluster} {wanted:?}");
    };
    for form in [&old as &dyn Fn(Value) -> Value, &new] {
        let none = form(json!({"fallback_policy": "NO_FALLBACK"}));
        check(&none, &[("stage", text("prod"))], "1 2 5");
        check(&none, &[("stage", text("prod")), ("version", text("2"))], "2");
        check(&none, &[("stage", text("test"))], "-");
        check(&none, &[("version", text("2"))], "-");
        check(&none, &[], "-");
        check(&none, &[("number", LbValue::Number(1f64.to_bits()))], "5");
        check(&none, &[("number", text("1"))], "-");
        check(&none, &[("list", text("x"))], "-");
        check(&none, &[("list", LbValue::List([text("x"), text("y")].into()))], "5");
        let any = form(json!({"fallback_policy": "ANY_ENDPOINT"}));
        check(&any, &[("stage", text("dev"))], "3 4");
        check(&any, &[("stage", text("test"))], "1 2 3 4 5");
        check(&any, &[], "1 2 3 4 5");
        let default = form(json!({"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"version": "2"}}));
        check(&default, &[("stage", text("test"))], "2 3");
        check(&default, &[], "2 3");
        let panic =
            |any: bool| form(json!({"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"version": "9"}, "panic_mode_any": any}));
        check(&panic(false), &[], "-");
        check(&panic(true), &[], "1 2 3 4 5");
        let lists = form(json!({"list_as_any": true}));
        check(&lists, &[("list", text("y"))], "5");
        check(&lists, &[("list", text("z"))], "-");
        // By selector.
        let own = |fallback: Value| {
            let mut selector = json!({"keys": ["stage", "version"]});
            merge(&mut selector, fallback);
            form(
                json!({"fallback_policy": "ANY_ENDPOINT", "default_subset": {"version": "1"}, "subset_selectors": [selector, {"keys": ["stage"]}]}),
            )
        };
        let wanted = [("stage", text("dev")), ("version", text("7"))];
        check(&own(json!({"fallback_policy": "NO_FALLBACK"})), &wanted, "-");
        check(&own(json!({"fallback_policy": "ANY_ENDPOINT"})), &wanted, "1 2 3 4 5");
        check(&own(json!({"fallback_policy": "DEFAULT_SUBSET"})), &wanted, "1");
        check(&own(json!({"fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["stage"]})), &wanted, "3 4");
        check(&own(json!({})), &wanted, "1 2 3 4 5");
    }
    let redundant = new(json!({"allow_redundant_keys": true}));
    check(&redundant, &[("stage", text("dev")), ("other", text("x"))], "3 4");
    check(&new(json!({})), &[("other", text("x")), ("stage", text("dev"))], "-");
}

#[test]
fn localities_within_subsets() {
    let endpoints = with_metadata(&[
        (1, "a", json!({"v": "1"})),
        (2, "b", json!({"v": "1"})),
        (3, "b", json!({"v": "1"})),
        (4, "b", json!({"v": "2"})),
        (5, "b", json!({"v": "2"})),
    ]);
    for (more, expected) in [
        (json!({}), [33, 33, 33]),
        (json!({"locality_weight_aware": true}), [50, 25, 25]),
        // Of b's four endpoints two are in the group.
        (json!({"locality_weight_aware": true, "scale_locality_weight": true}), [67, 17, 17]),
    ] {
        let mut subsets = json!({"subset_selectors": [{"keys": ["v"]}]});
        merge(&mut subsets, more);
        let mut weighed = endpoints.clone();
        weighed["endpoints"].as_array_mut().unwrap().iter_mut().for_each(|e| e["load_balancing_weight"] = 10.into());
        let cluster =
            json!({"lb_policy": "ROUND_ROBIN", "lb_subset_config": subsets, "common_lb_config": {"locality_weighted_lb_config": {}}});
        let mut bench = Bench::new(cluster, weighed);
        let wanted = criteria(&[("v", text("1"))]);
        let mut seen = BTreeMap::<String, usize>::new();
        (0..10_000).for_each(|_| *seen.entry(bench.pick(None, Some(&wanted))).or_default() += 1);
        let near = ["1", "2", "3"].iter().zip(expected).all(|(name, percent)| seen[*name].abs_diff(percent * 100) <= 200);
        assert!(near && seen.len() == 3, "{subsets}: {seen:?}");
    }
}

#[test]
fn kinds_of_endpoints() {
    let list = |ends: Value| json!({"endpoints": [{"lb_endpoints": ends}]});
    let at = |address: Value| json!({"endpoint": {"address": address}});
    let pipes = list(json!([at(json!({"pipe": {"path": "/a.sock"}})), at(json!({"pipe": {"path": "/b.sock"}}))]));
    let inside = |id: &str| at(json!({"envoy_internal_address": {"server_listener_name": "l", "endpoint_id": id}}));
    for name in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "MAGLEV"] {
        let cluster = json!({"lb_policy": name, "type": "STATIC"});
        check_shares(&mut Bench::new(cluster.clone(), pipes.clone()), &[("/a.sock", 50), ("/b.sock", 50)], name);
        let inside = list(json!([inside("x"), inside("y")]));
        check_shares(&mut Bench::new(cluster, inside), &[("envoy://l/x", 50), ("envoy://l/y", 50)], name);
    }
    // An endpoint that is told twice is one, where endpoints come from a control plane.
    check(policy("ROUND_ROBIN"), "a: 1 2; b: 1 1", &[("1", 50), ("2", 50)]);
    let name = at(json!({"socket_address": {"address": "a.test", "port_value": 80}}));
    for (kind, expected) in [("LOGICAL_DNS", &[("1", 100)][..]), ("STRICT_DNS", &[("1", 50), ("2", 50)])] {
        for policy in ["ROUND_ROBIN", "MAGLEV"] {
            let cluster = json!({"type": kind, "lb_policy": policy, "dns_lookup_family": "V4_ONLY"});
            let mut bench = Bench::new(cluster, list(json!([name])));
            assert!(matches!(bench.try_pick(None, None, None), Err(NoHost::Wait(_))), "{kind}: the name is asked for first");
            let answer = |all: &[u8]| {
                let addresses = all.iter().map(|last| [10, 0, 0, *last].into()).collect();
                Answer::Dns { addresses, ttl: Duration::from_secs(60) }
            };
            bench.clusters.resolved(&bench.cx, &"a.test".into(), answer(&[1, 2]));
            check_shares(&mut bench, expected, kind);
            bench.clusters.resolved(&bench.cx, &"a.test".into(), answer(&[3]));
            check_shares(&mut bench, &[("3", 100)], kind);
        }
    }
}

#[test]
fn a_pick_allocates_nothing() {
    let subsets = json!({"subset_selectors": [{"keys": ["v", "w"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["v"]}, {"keys": ["v"]}]});
    let wanted = criteria(&[("v", text("1")), ("w", text("7"))]);
    let metadata = with_metadata(&[(1, "a", json!({"v": "1"})), (2, "b", json!({"v": "1"})), (3, "b", json!({"v": "2", "w": "1"}))]);
    let bounded = json!({"consistent_hashing_lb_config": {"hash_balance_factor": 100}, "locality_weighted_lb_config": {}});
    for name in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV"] {
        for (cluster, endpoints) in [
            (policy(name), ends("a: 1 2 3~; b@1: 4")),
            (json!({"lb_policy": name, "common_lb_config": bounded}), ends("a*2: 1*1 2*3; b: 3")),
            (json!({"lb_policy": name, "lb_subset_config": subsets}), metadata.clone()),
        ] {
            let mut bench = Bench::new(cluster.clone(), endpoints);
            let busy = bench.state(1);
            let _requests = [busy.begin(), busy.begin()];
            let config = bench.cx.config.clone();
            let mut pick = |hash: u64| {
                let ask = Ask { destination: ([0, 0, 0, 0], 0).into(), again: None, hash: Some(hash), subset: Some(&wanted), named: None };
                bench.clusters.pick(&mut bench.cx, &mut bench.questions, &config, &config.clusters["c"], ask).is_ok()
            };
            assert!(pick(0), "{cluster}");
            let count = measure(|| assert!((1..200).all(|i: u64| pick(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))))).count_total;
            assert_eq!(count, 0, "{cluster}");
        }
    }
}
