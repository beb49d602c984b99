//! Where a request is tried again.

use mizzen_ir::config::Elsewhere;

use super::*;
use crate::clusters::Tried;

/// Tries until `n` were made, noting each; where they went.
fn tries(bench: &mut Bench, policy: &Elsewhere, hash: Option<u64>, n: u32) -> Vec<String> {
    let mut tried = Tried::default();
    let one = |attempts| {
        let again = (!tried.is_empty()).then_some(Again { policy, tried: &mut tried, attempts });
        let last = Bench::last(bench.try_pick(hash, None, again));
        // Endpoints of priority 1 are from 20 on, those of priority 2 from 40 on.
        if let Ok(number) = last.parse::<usize>() {
            tried.note(&format!("10.0.0.{last}:80").as_str().into(), number / 20);
        }
        last
    };
    (0..n).map(one).collect()
}

#[test]
fn endpoints_are_avoided() {
    let canary = |mut ends: Value, at: usize| {
        ends["endpoints"][0]["lb_endpoints"][at]["metadata"] =
            json!({"filter_metadata": {"envoy.lb": {"canary": true, "zones": ["a", "b"], "zone": "a"}}});
        ends
    };
    let host_attempts = 40;
    let avoid = Some([("zones".into(), LbValue::Text("b".into()))].into());
    for name in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV"] {
        for hash in 0..40 {
            let go = |elsewhere: Elsewhere, n| {
                let mut bench = Bench::new(policy(name), canary(ends("a: 1 2 3"), 1));
                tries(&mut bench, &Elsewhere { host_attempts, ..elsewhere }, Some(hash), n)
            };
            // Each once.
            let mut all = go(Elsewhere { avoid_previous_hosts: true, ..Elsewhere::default() }, 3);
            all.sort();
            assert_eq!(all, ["1", "2", "3"], "{name}");
            // The first try goes anywhere; others where there is no canary, or nothing of zone b.
            for elsewhere in
                [Elsewhere { avoid_canaries: true, ..Elsewhere::default() }, Elsewhere { avoid: avoid.clone(), ..Elsewhere::default() }]
            {
                let all = go(elsewhere.clone(), 8);
                assert!(all[1..].iter().all(|last| last != "2"), "{name} {elsewhere:?}: {all:?}");
            }
            // Once all were tried, any will do.
            let all = go(Elsewhere { avoid_previous_hosts: true, ..Elsewhere::default() }, 4);
            assert_ne!(all[3], "-", "{name}");
        }
    }
}

#[test]
fn priorities_are_left_out() {
    let check = |endpoints: &str, priorities_after, expected: &[&str]| {
        for name in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV"] {
            let mut bench = Bench::new(policy(name), ends(endpoints));
            let elsewhere = Elsewhere { host_attempts: 1, priorities_after, ..Elsewhere::default() };
            assert_eq!(tries(&mut bench, &elsewhere, Some(7), expected.len() as u32), expected, "{name}: {endpoints} {priorities_after}");
        }
    };
    let three = "a: 1; b@1: 20; c@2: 40";
    check(three, 0, &["1", "1", "1", "1"]);
    check(three, 1, &["1", "20", "40", "1", "20"]);
    // Istio's `retryRemoteLocalities`.
    check(three, 2, &["1", "1", "20", "20", "40", "40", "1", "1", "20"]);
    // One that serves nobody is passed by, and is no reason to start over.
    check("a: 1; b@1: 20!; c@2: 40", 1, &["1", "40", "1"]);
    // With one priority nothing changes; with none there is none.
    check("a: 1", 1, &["1", "1", "1"]);
    check("a:", 1, &["-", "-"]);
}
