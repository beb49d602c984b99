//! No request is lost while everything changes at random and the control plane is killed: `cargo xtask bench churn` on a small scale.

use mizzen_testkit::churn::{self, FirstPlan, Plan};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The variable that makes a process of this test the load.
const ROLE: &str = "MIZZEN_TEST_CHURN";

/// What runs inside the mesh: this very test program, started by `mizzen run`.
#[test]
#[ignore = "the other test starts it, inside the mesh"]
fn inside_the_mesh() {
    if std::env::var_os(ROLE).is_some() {
        churn::load();
    }
}

fn this() -> String {
    std::env::current_exe().expect("this program").display().to_string()
}

fn inside(this: &str) -> [&str; 5] {
    [this, "--exact", "inside_the_mesh", "--ignored", "--nocapture"]
}

#[test]
fn nothing_is_lost_while_everything_changes() {
    let plan = Plan { services: 300, rare: 12, seconds: 15, rate: 150, changes: 20, restarts: 3, idle: 1, seed: 1 };
    let this = this();
    let report = churn::run(MIZZEN, &inside(&this), &[(ROLE, "1")], &plan);
    let lanes: Vec<_> = report.tally.lanes.iter().map(|(name, lane)| (name, lane.requests, lane.lost, &lane.answers)).collect();
    let away: Vec<_> = report.outages.iter().map(|(from, to)| to - from).collect();
    println!("{lanes:?}, changes {:?}, outages in ms {away:?}, refused {}", report.changes, report.refused.len());
    assert!(report.lost() == 0, "lost: {:#?}\n{:#?}", report.tally.lost, report.traces);
    assert_eq!(report.outages.len(), 3);
    // That there was something to lose, and that what changed has arrived: routes to other versions, the last of them to the very one.
    assert!(report.requests() > 500, "{lanes:?}");
    for lane in ["h1", "h1-new", "h1-to-h2", "h2", "tcp", "tcp-new", "gateway", "rare"] {
        assert!(report.tally.lanes.get(lane).is_some_and(|lane| lane.requests > 20), "{lane}: {lanes:?}");
    }
    assert!(report.tally.lanes["h1"].answers.len() > 1, "{lanes:?}");
}

/// Over the counters of a real proxy: `cargo xtask bench on-demand` on a small scale.
#[test]
fn what_changes_elsewhere_is_an_entry_of_the_index_at_most() {
    let plan = FirstPlan { services: 60, destinations: 12, settle: 0 };
    let this = this();
    let report = churn::first_use(MIZZEN, &inside(&this), &[(ROLE, "1")], &plan);
    println!("{report:#?}");
    let kinds = |what: &str| report.changes[what].iter().map(|(kind, one)| (kind.as_str(), one.resources)).collect::<Vec<_>>();
    assert_eq!(kinds("an endpoint of a service that it never called"), []);
    assert_eq!(kinds("a new service that it does not call"), [("Host", 1)]);
    assert_eq!(kinds("that service is gone"), [("Host", 1)]);
    for (what, waited) in &report.requests {
        assert!(waited.lost.is_empty() && waited.count > 0, "{what}: {waited:?}");
    }
}
