//! A mesh under a bounded load while everything in it changes at random: whether a request is lost, and what it costs.
//!
//! Real control plane, real proxies, real connections, in a mesh of `mizzen up`. Beside what carries the load there are services that nobody calls,
//! and names that are used now and then: they come and go, and proxies let them go between two uses. Meanwhile endpoints, weights, rules, routes, modes
//! of mutual TLS and policies change, all of them so that every request of the load may pass before and after, and the control plane is killed again
//! and again. The same seed makes the same changes in the same order.

mod first_use;
mod inside;
mod orders;
mod usage;
mod world;
mod yaml;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use self::{
    orders::{Lane, Order, Remote, Speaks, Target, Told, now},
    usage::Meter,
    world::World,
    yaml::VERSIONS,
};
use crate::{Mesh, Options, PATIENCE};

pub use first_use::{FirstPlan, FirstReport, Received, Waited, first_use};
pub use inside::run as load;
pub use orders::{LaneTally, Lost, Tally};
pub use usage::{Usage, pod, usage};

/// What is run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Services that nobody calls.
    pub services: u32,
    /// Names that are used now and then, at the start.
    pub rare: u32,
    /// How long everything changes, in seconds.
    pub seconds: u64,
    /// Requests in a second, about.
    pub rate: u32,
    /// Changes in a second, about.
    pub changes: u32,
    /// How often the control plane is killed.
    pub restarts: u32,
    /// What a proxy has not used for so many seconds it lets go.
    pub idle: u64,
    /// Of all that is random.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was run.
    pub plan: Plan,
    /// What the load has done.
    pub tally: Tally,
    /// For each lost request that has left a trace in the proxies' logs, that line.
    pub traces: BTreeMap<String, Vec<String>>,
    /// Changes, by their kind.
    pub changes: BTreeMap<&'static str, u64>,
    /// When the control plane was killed and when it served again, in milliseconds since 1970.
    pub outages: Vec<(u64, u64)>,
    /// Of the lost requests those that were the first for a name while the control plane was away for as long as a proxy waits: it refuses them, and must.
    pub refused: Vec<Lost>,
    /// Seconds until a last change was seen by the load after all others.
    pub last_change: f64,
    /// What each program has used.
    pub usage: BTreeMap<String, Usage>,
}

impl Report {
    /// Requests.
    pub fn requests(&self) -> u64 {
        self.tally.lanes.values().map(|lane| lane.requests).sum()
    }

    /// Requests that were lost, but for those that had to be [refused](Report::refused).
    pub fn lost(&self) -> u64 {
        self.tally.lanes.values().map(|lane| lane.lost).sum::<u64>().saturating_sub(self.refused.len() as u64)
    }
}

/// How long a proxy waits for a name, in milliseconds, less what it may take to notice that its control plane is back.
const WAIT: u64 = 15_000 - 3_000;

/// How often it is looked what the processes use.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs it. `program` is the binary of package `mizzen`; `client` is the command that runs [`load`] in the mesh, for `mizzen run`.
///
/// # Panics
/// If the mesh does not do what it must for the load to begin or to end. Lost requests are no reason.
pub fn run(program: &str, client: &[&str], env: &[(&str, &str)], plan: &Plan) -> Report {
    let dir = tempfile::tempdir().expect("a folder");
    world::write_base(dir.path());
    let args = ["--on-demand-idle", &format!("{}s", plan.idle)].map(str::to_owned).into();
    let mut mesh = Mesh::start_with(program, dir.path(), Options { args, ..Options::default() });
    let servers = [servers(&mesh, "echo-", &VERSIONS), servers(&mesh, "stock-", &[])];
    let (mut world, uses) = World::fill(&mesh.folder, plan.services, plan.rare, servers, plan.idle * 1000, plan.seed);
    let mut load = Remote::start(inside(&mesh, client, env));
    let mut outside = Remote::start(through_gateway(client, env));
    outside.order(&Order::Keep(gateway(&mesh, plan.rate)));
    lanes(plan.rate).into_iter().for_each(|lane| load.order(&Order::Keep(lane)));
    uses.iter().for_each(|order| load.order(order));
    let mut missing = uses.len();
    while missing > 0 {
        if let Told::Known(host) = load.event(PATIENCE * 5) {
            world.known(&host);
            missing -= 1;
        }
    }
    eprintln!("the load runs, with {} services", plan.services);
    let (mut meter, begun) = (Meter::default(), Instant::now());
    let outages = shake(&mesh, &mut load, &mut world, &mut meter, plan);
    eprintln!("changes for {:?}: {:?}", begun.elapsed(), world.made);
    let last_change = settle(&mut load, &mut world);
    meter.look(&mesh);
    // With a program of `mizzen run` its proxy's log goes.
    let traces = traces(&mesh, &load.tally());
    let mut tally = load.end();
    tally.add(outside.end());
    let refused = refused(&mut tally, &outages);
    let report = Report {
        plan: plan.clone(),
        tally,
        traces,
        changes: world.made,
        outages,
        refused,
        last_change: last_change.as_secs_f64(),
        usage: meter.total(),
    };
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
    report
}

/// Everything changes. When the control plane was killed, and when it served again.
fn shake(mesh: &Mesh, load: &mut Remote, world: &mut World, meter: &mut Meter, plan: &Plan) -> Vec<(u64, u64)> {
    let (begun, whole) = (Instant::now(), Duration::from_secs(plan.seconds));
    let (mut made, mut outages, mut away, mut looked) = (0, Vec::new(), None, begun);
    // Longer, if it takes the control plane longer to come back as often as it shall.
    while begun.elapsed() < whole || outages.len() < plan.restarts as usize && begun.elapsed() < whole + PATIENCE * 3 {
        for told in load.events() {
            match told {
                Told::Known(host) => world.known(&host),
                Told::Left(host) => world.left(&host),
                Told::Tally(_) | Told::Asked(_) => {}
            }
        }
        // What the clock says is due: a machine that is slow makes up for it.
        let due = (begun.elapsed().as_secs_f64() * f64::from(plan.changes)) as u64;
        if made < due {
            made += 1;
            world.change().iter().for_each(|order| load.order(order));
        }
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            meter.look(mesh);
            let share = begun.elapsed().as_secs_f64() / whole.as_secs_f64();
            if let Some(since) = away {
                // Its process is another one: what is killed does not answer any more.
                if serves(mesh) {
                    outages.push((since, now()));
                    away = None;
                }
            } else if outages.len() as f64 + 0.5 < share * f64::from(plan.restarts)
                && let Some(pid) = mesh.running("mizzend").first()
            {
                kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("kill the control plane");
                away = Some(now());
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    outages
}

/// Takes out of the lost requests those that had to be refused.
fn refused(tally: &mut Tally, outages: &[(u64, u64)]) -> Vec<Lost> {
    let waited = |at: u64, outage: &(u64, u64)| outage.1.min(at + 15_000).saturating_sub(outage.0.max(at)) >= WAIT;
    let is_refused = |lost: &Lost| lost.id.starts_with("rare-") && outages.iter().any(|outage| waited(lost.at, outage));
    let (refused, lost) = std::mem::take(&mut tally.lost).into_iter().partition(is_refused);
    tally.lost = lost;
    refused
}

/// Whether the control plane serves the client's proxy, and has answered all that was asked while it was away.
fn serves(mesh: &Mesh) -> bool {
    let status = mesh.cli(&["proxy-status"]);
    let held = mesh.cli(&["proxy-config", "on-demand", "client-run-1.churn"]);
    status.code == 0 && status.out.contains("client-run") && held.code == 0 && !held.out.contains("AWAITED")
}

/// One last change, after all others: how long it takes until the load sees nothing else.
fn settle(load: &mut Remote, world: &mut World) -> Duration {
    let begun = Instant::now();
    world.only("b");
    let answers = |load: &Remote| load.tally().lanes.get("h1").map(|lane| lane.answers.clone()).unwrap_or_default();
    let patience = PATIENCE * 3;
    let mut before = answers(load);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let after = answers(load);
        let new = |version: &str| after.get(version).copied().unwrap_or(0) - before.get(version).copied().unwrap_or(0);
        let others: u64 = after.keys().filter(|version| *version != "b").map(|version| new(version)).sum();
        if new("b") >= 10 && others == 0 {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < patience, "the last change does not arrive: {before:?} {:?}", load.tally());
        before = after;
    }
}

/// The load as a program of the mesh.
fn inside(mesh: &Mesh, client: &[&str], env: &[(&str, &str)]) -> Command {
    let mut args = vec!["run", "-n", "churn", "-s", "client", "-l", "app=client", "--"];
    args.extend(client);
    let mut command = mesh.cli_command(&args);
    command.envs(env.iter().copied());
    command
}

/// The load as a program beyond the mesh.
fn through_gateway(client: &[&str], env: &[(&str, &str)]) -> Command {
    let mut words = client.iter();
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).envs(env.iter().copied());
    command
}

/// What comes from beyond the mesh.
fn gateway(mesh: &Mesh, rate: u32) -> Lane {
    let address = mesh.address();
    let (host, port) = address.trim_start_matches("http://").split_once(':').expect("an address and a port");
    let target = Target { host: host.to_owned(), port: port.parse().expect("a port"), speaks: Speaks::H1 };
    Lane { name: "gateway".to_owned(), target, every: 20_000_000 / u64::from(rate), per_connection: 100 }
}

/// The addresses of the pods whose names begin so, with one of these words after it.
fn servers(mesh: &Mesh, prefix: &str, words: &[&str]) -> Vec<Ipv4Addr> {
    let pods = mesh.pods("churn", prefix);
    let stays = |name: &str| words.is_empty() || words.iter().any(|word| name.starts_with(&format!("{prefix}{word}-")));
    pods.iter().filter(|(name, _)| stays(name)).filter_map(|(_, pod)| pod["status"]["podIP"].as_str()?.parse().ok()).collect()
}

/// The load that goes on: the shares of these lanes make one.
fn lanes(rate: u32) -> Vec<Lane> {
    let lane = |name: &str, host: &str, port: u16, speaks: Speaks, share: f64, per_connection: u64| Lane {
        name: name.to_owned(),
        target: Target { host: host.to_owned(), port, speaks },
        every: (1e6 / (f64::from(rate) * share)) as u64,
        per_connection,
    };
    let mut lanes = vec![
        lane("h1-new", "echo", 9080, Speaks::H1, 0.05, 1),
        lane("h1-to-h2", "echo", 9081, Speaks::H1, 0.1, 200),
        lane("tcp-new", "stock", 7070, Speaks::Lines, 0.04, 1),
        // Not for ever: the server ends what is a minute old.
        lane("tcp", "stock", 7070, Speaks::Lines, 0.02, u64::from(rate) * 2 / 5),
    ];
    lanes.extend((0..4).map(|_| lane("h1", "echo", 9080, Speaks::H1, 0.11, 500)));
    lanes.extend((0..2).map(|_| lane("h2", "echo", 9081, Speaks::H2, 0.15, 1000)));
    lanes
}

/// What the proxies' logs have of lost requests.
fn traces(mesh: &Mesh, tally: &Tally) -> BTreeMap<String, Vec<String>> {
    let mut traces: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if tally.lost.is_empty() {
        return traces;
    }
    for entry in std::fs::read_dir(mesh.run_dir().join("pods")).into_iter().flatten().flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        let log = std::fs::read_to_string(entry.path().join("proxy.log")).unwrap_or_default();
        for line in log.lines() {
            for lost in &tally.lost {
                if line.contains(&format!("?{}\"", lost.id)) {
                    traces.entry(lost.id.clone()).or_default().push(format!("{name}: {line}"));
                }
            }
        }
    }
    traces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_to_be_refused() {
        let lost = |id: &str, at: u64| Lost { at, id: id.to_owned(), target: String::new(), what: String::new() };
        let outages = [(10_000, 30_000), (60_000, 70_000)];
        for (id, at, expected) in [
            ("rare-1", 11_000, true),
            // It came back in time; another one was short; it was there all the time; the routes of others were known.
            ("rare-1", 20_000, false),
            ("rare-1", 60_000, false),
            ("rare-1", 40_000, false),
            ("h1-1", 11_000, false),
        ] {
            let mut tally = Tally { lost: vec![lost(id, at)], ..Tally::default() };
            assert_eq!((refused(&mut tally, &outages).len(), tally.lost.is_empty()), (usize::from(expected), expected), "{id} {at}");
        }
    }
}
