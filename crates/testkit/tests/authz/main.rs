//! What is decided of calls, as Istio documents it: a table of policies, calls and decisions, and each way of deciding held to it.
//!
//! The files of `cases/` have scenarios (`== title`), each with members of MeshConfig (`mesh:`), policies (`policy NAME[@NAMESPACE]: SPEC`, `dry` for dry
//! runs, `peer` for PeerAuthentications), and calls to the workload `reviews`: `CALLER METHOD [:PORT]/PATH [name=value …] => DECISION`. Method `TCP` sends
//! bytes to a port that is not HTTP, `RAW` sends them as they stand to the one that is. A decision is `allow` or `deny`, with the rule that made it or `none`;
//! a status; or `closed`. A policy holds from its line to the end of its scenario.

mod engine;
mod explained;
mod table;

use table::{Scenario, scenarios};

const FILES: [(&str, &str); 4] = [
    ("sources", include_str!("cases/sources.txt")),
    ("operations", include_str!("cases/operations.txt")),
    ("conditions", include_str!("cases/conditions.txt")),
    ("bypass", include_str!("cases/bypass.txt")),
];

fn all() -> Vec<Scenario> {
    FILES.iter().flat_map(|(file, text)| scenarios(file, text)).collect()
}

/// Holds a way of deciding to the table. `None`: that way cannot make the call.
fn check(mut decide: impl FnMut(&Scenario) -> Vec<Option<String>>) -> usize {
    let (mut wrong, mut made) = (Vec::new(), 0);
    for scenario in all() {
        let decided = decide(&scenario);
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
    assert!(calls >= 400, "{calls}");
}

#[test]
fn by_the_steps() {
    let made = check(explained::decide);
    assert!(made >= 400, "{made}");
}

#[test]
fn by_the_engine() {
    let made = check(engine::decide());
    let calls: usize = all().iter().map(|scenario| scenario.calls.len()).sum();
    assert_eq!(made, calls);
}
