//! Where hashes go.

use serde_json::{Value, json};

use super::{Bench, end, ends, policy};

/// Where each of 1,000 keys goes.
fn places(bench: &mut Bench) -> Vec<String> {
    (0..1000u64).map(|key| bench.pick(Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), None)).collect()
}

#[test]
fn hashes_stay_where_they_are() {
    // On a ring, others have more places where there are fewer of them.
    for (name, most) in [("RING_HASH", 150), ("MAGLEV", 40)] {
        let at = |endpoints: &str| places(&mut Bench::new(policy(name), ends(endpoints)));
        let all = at("a: 1 2 3 4 5");
        assert_eq!(all, at("a: 1 2 3 4 5"), "{name}");
        if name == "MAGLEV" {
            assert_eq!(all, at("a: 5 3 1 2 4"), "{name}: in any order");
        }
        let fewer = at("a: 1 2 3! 4 5");
        let moved = all.iter().zip(&fewer).filter(|(old, new)| old != new && *old != "3").count();
        assert!(fewer.iter().all(|place| place != "3") && moved < most, "{name}: {moved} of others have moved");
        let more = at("a: 1 2 3 4 5 6");
        let moved = all.iter().zip(&more).filter(|(old, new)| old != new && *new != "6").count();
        assert!(more.iter().any(|place| place == "6") && moved < most, "{name}: {moved} to others have moved");
    }
}

#[test]
fn what_endpoints_are_hashed_by() {
    let named = |keys: [&str; 3], field: &str| {
        let one = |(last, key): (u8, &str)| {
            let mut end = end(last, json!({}));
            match field {
                "hostname" => end["endpoint"]["hostname"] = key.into(),
                _ => end["metadata"] = json!({"filter_metadata": {"envoy.lb": {"hash_key": key}}}),
            }
            end
        };
        json!({"endpoints": [{"lb_endpoints": (1..).zip(keys).map(one).collect::<Vec<_>>()}]})
    };
    let hostnames = json!({"consistent_hashing_lb_config": {"use_hostname_for_hashing": true}});
    for name in ["RING_HASH", "MAGLEV"] {
        let (plain, by_name) = (policy(name), json!({"lb_policy": name, "common_lb_config": hostnames}));
        let at = |cluster: &Value, keys, field| places(&mut Bench::new(cluster.clone(), named(keys, field)));
        let swap = |all: Vec<String>| -> Vec<String> {
            all.into_iter()
                .map(|p| {
                    if p == "1" {
                        "2".into()
                    } else if p == "2" {
                        "1".into()
                    } else {
                        p
                    }
                })
                .collect()
        };
        for (cluster, field) in [(&by_name, "hostname"), (&plain, "hash_key"), (&by_name, "hash_key")] {
            let there = at(cluster, ["x", "y", "z"], field);
            let turned = at(cluster, ["y", "x", "z"], field);
            assert_eq!(swap(there), turned, "{cluster} {field}: the keys decide");
        }
        assert_eq!(at(&plain, ["x", "y", "z"], "hostname"), at(&plain, ["y", "x", "z"], "hostname"), "{name}: the address decides");
        assert_eq!(at(&by_name, ["", "", ""], "hostname"), at(&plain, ["", "", ""], "hostname"), "{name}: no name is no key");
    }
}

#[test]
fn bounded_loads() {
    for name in ["RING_HASH", "MAGLEV"] {
        let bound = json!({"lb_policy": name, "common_lb_config": {"consistent_hashing_lb_config": {"hash_balance_factor": 120}}});
        let mut bench = Bench::new(bound, ends("a: 1 2 3"));
        let idle = places(&mut bench);
        assert_eq!(idle, places(&mut Bench::new(policy(name), ends("a: 1 2 3"))), "{name}: without load it is as ever");
        let first = bench.state(1);
        // Nothing else is in flight, so that its share is one.
        let _requests = [first.begin(), first.begin()];
        let busy = places(&mut bench);
        assert!(busy.iter().all(|place| place != "1"), "{name}");
        assert!(idle.iter().zip(&busy).all(|(old, new)| old == "1" || old == new), "{name}: only the busy one gives way");
        assert_eq!(busy, places(&mut bench), "{name}: always to the same");
        // All are over their share: the one that is the least serves.
        let (second, third) = (bench.state(2), bench.state(3));
        let _more = [second.begin(), second.begin(), second.begin(), third.begin(), third.begin(), third.begin()];
        assert!(places(&mut bench).iter().all(|place| place == "1"), "{name}");
    }
}
