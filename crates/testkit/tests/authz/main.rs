//! What is decided of calls, as Istio documents it: a table of policies, calls and decisions, and each way of deciding held to it.
//!
//! The files of `cases/` have scenarios (`== title`), each with members of MeshConfig (`mesh:`), policies (`policy NAME[@NAMESPACE]: SPEC`, `dry` for dry
//! runs, `peer` for PeerAuthentications, `users` for RequestAuthentications), tokens (`token NAME: …`, which stand in calls as `{NAME}`), and calls to the
//! workload `reviews`: `CALLER METHOD [:PORT]/PATH [name=value …] => DECISION`. Method `TCP` sends bytes to a port that is not HTTP, `RAW` sends them as
//! they stand to the one that is, `H2` the fields as they stand over HTTP/2. A decision is `allow` or `deny`, with the rule that made it or `none`; a
//! status; or `closed`; in brackets what Envoy decides, where that is something else, for the reason that is said beside. A policy holds from its line to
//! the end of its scenario.

mod engine;
mod envoy;
mod explained;
mod frames;
mod own;
mod programs;
mod sockets;
mod table;
mod tokens;

use sockets::Proxy;
use table::{Scenario, scenarios};

const FILES: [(&str, &str); 7] = [
    ("sources", include_str!("cases/sources.txt")),
    ("operations", include_str!("cases/operations.txt")),
    ("conditions", include_str!("cases/conditions.txt")),
    ("bypass", include_str!("cases/bypass.txt")),
    ("tokens", include_str!("cases/tokens.txt")),
    ("custom", include_str!("cases/custom.txt")),
    ("http2", include_str!("cases/http2.txt")),
];

fn all() -> Vec<Scenario> {
    FILES.iter().flat_map(|(file, text)| scenarios(file, text)).collect()
}

/// Holds a way of deciding to the table. `None`: that way cannot make the call.
fn check(decide: impl FnMut(&Scenario) -> Vec<Option<String>>) -> usize {
    check_all(&all(), decide)
}

fn check_all(scenarios: &[Scenario], mut decide: impl FnMut(&Scenario) -> Vec<Option<String>>) -> usize {
    let (mut wrong, mut made) = (Vec::new(), 0);
    for scenario in scenarios {
        let decided = decide(scenario);
        assert_eq!(decided.len(), scenario.calls.len());
        for (call, got) in scenario.calls.iter().zip(decided) {
            let Some(got) = got else { continue };
            made += 1;
            if !call.is(&got) {
                wrong.push(format!("{}, {}\n  {}\n  expected {}, got {got}", scenario.file, scenario.title, call.text, call.expected));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {made}:\n{}", wrong.len(), wrong.join("\n"));
    made
}

#[test]
fn the_table_is_large() {
    let calls: usize = all().iter().map(|scenario| scenario.calls.len()).sum();
    assert!(calls >= 900, "{calls}");
}

#[test]
fn by_the_steps() {
    let made = check(explained::decide);
    assert!(made >= 700, "{made}");
}

/// In a network namespace of its own, which this only starts.
#[test]
fn by_an_envoy() {
    if let Some(path) = mizzen_testkit::envoy() {
        sockets::start_inside("inside_by_an_envoy", &[("MIZZEN_ENVOY", &path)]);
    }
}

#[test]
#[ignore = "is started by the other test, in a namespace"]
fn inside_by_an_envoy() {
    let mut scenarios = all();
    for scenario in &mut scenarios {
        scenario.calls = scenario.calls.iter().map(table::Call::of_envoy).collect();
    }
    by_sockets(Proxy::Envoy, &scenarios, envoy::start);
}

/// In a network namespace of its own, which this only starts.
#[test]
fn by_our_own_proxy() {
    sockets::start_inside("inside_by_our_own_proxy", &[]);
}

#[test]
#[ignore = "is started by the other test, in a namespace"]
fn inside_by_our_own_proxy() {
    by_sockets(Proxy::Own, &all(), own::start);
}

fn by_sockets(proxy: Proxy, scenarios: &[Scenario], start: impl FnOnce(&serde_json::Value) -> Box<dyn std::any::Any>) {
    if !sockets::is_inside() {
        return;
    }
    let mesh = sockets::Mesh::start(proxy, scenarios, start);
    let mut numbers = 0..;
    let made = check_all(scenarios, |scenario| mesh.decide(numbers.next().unwrap_or_default(), scenario));
    assert_eq!(made, scenarios.iter().map(|scenario| scenario.calls.len()).sum::<usize>());
}

#[test]
fn by_the_engine() {
    let made = check(engine::decide());
    let calls: usize = all().iter().map(|scenario| scenario.calls.iter().filter(|call| engine::makes(scenario, call)).count()).sum();
    assert_eq!(made, calls);
}
