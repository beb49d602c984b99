//! Under steady load, through the gateway and from a program in the mesh, changes lose no request.
//!
//! Each test runs both loads until they have made [`ENOUGH`] requests, and makes its changes meanwhile; a request that has another answer than 200,
//! no answer, or none in time has failed, and none may. The loads speak HTTP/1.1 and HTTP/2, over hops of both kinds, and TCP. The connections are
//! kept alive and closed by nobody but the client, every so many requests: what the other side closes without saying so before costs a
//! request, and is counted. The one of TCP is never closed.

mod folder;
mod generator;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Stdio},
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mizzen_control::status::{ProxyStatus, SyncState, Syncz};
use mizzen_testkit::{
    Mesh, Options,
    echo::{echo, stock},
    eventually,
};

use folder::{AMBIGUOUS, ENTRY, GATEWAY, NAMESPACE, allow, folder, mtls, routing};
use generator::{Generator, INSIDE, OUTSIDE, Tally, connect, get, lock};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// Requests of one test, through the gateway and inside the mesh together.
const ENOUGH: u64 = 20_000;
/// After so many requests it is plain where the traffic goes.
const PLAIN: u64 = 300;
/// The variable that makes a process of this test a load inside the mesh: `load` or `once`.
const ROLE: &str = "MIZZEN_TEST_LOAD";
/// What ends a load inside.
const ENOUGH_WORD: &str = "enough\n";
/// How a load's lines begin, among the test harness' own.
const LINE: &str = "LOAD ";

/// What runs inside the mesh: this very test program, started by `mizzen run`.
#[test]
#[ignore = "the other tests start it, inside the mesh"]
fn inside_the_mesh() {
    let Ok(role) = std::env::var(ROLE) else { return };
    if role == "once" {
        let target = "echo:9080";
        let answer = connect(target).and_then(|stream| get(stream, target, "/reviews/1", true)).map(|(_, version)| version);
        println!("\n{LINE}{}", serde_json::to_string(&answer).expect("JSON"));
        return;
    }
    let load = Generator::start(INSIDE, "");
    let (tally, stop) = (load.tally.clone(), load.stop.clone());
    let teller = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            println!("\n{LINE}{}", serde_json::to_string(&*lock(&tally)).expect("JSON"));
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    // Whoever started it says so when it is enough.
    let mut word = String::new();
    let read = std::io::stdin().read_line(&mut word);
    assert!(word == ENOUGH_WORD, "instead of the word there came {word:?}: {read:?}");
    let stop = load.stop.clone();
    stop.store(true, Ordering::Relaxed);
    teller.join().expect("the teller");
    println!("\n{LINE}{}", serde_json::to_string(&load.finish()).expect("JSON"));
}

/// A program of the mesh with the identity of `account`: this test, in a role.
fn program(mesh: &Mesh, account: &str, role: &str) -> std::process::Command {
    let this = std::env::current_exe().expect("this program").display().to_string();
    let mut command =
        mesh.cli_command(&["run", "-n", "shop", "-s", account, "--", &this, "--exact", "inside_the_mesh", "--ignored", "--nocapture"]);
    command.env(ROLE, role);
    command
}

/// The answer that a program with the identity of `account` has from `echo`.
fn once(mesh: &Mesh, account: &str) -> Result<String, String> {
    let output = program(mesh, account, "once").stdin(Stdio::null()).output().expect("start the CLI");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(LINE));
    let line = line.unwrap_or_else(|| panic!("no answer of {account}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(line).expect("JSON")
}

/// Both loads.
struct Load {
    outside: Generator,
    inside: Child,
    /// Where the load inside hears that it is enough.
    word: ChildStdin,
    told: Arc<Mutex<Tally>>,
    /// What else it wrote.
    said: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    since: Instant,
}

impl Load {
    fn start(mesh: &Mesh) -> Load {
        let mut inside = program(mesh, "client", "load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start the CLI");
        let (told, lines) = (Arc::new(Mutex::default()), BufReader::new(inside.stdout.take().expect("a pipe")));
        let (into, said) = (told.clone(), Arc::new(Mutex::new(String::new())));
        let others = said.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                match line.strip_prefix(LINE).map(serde_json::from_str) {
                    Some(Ok(tally)) => *lock(&into) = tally,
                    _ => lock(&others).push_str(&format!("{line}\n")),
                }
            }
        });
        let address = mesh.address();
        let outside = Generator::start(OUTSIDE, address.strip_prefix("http://").expect("an address"));
        let load = Load { outside, word: inside.stdin.take().expect("a pipe"), inside, told, said, reader, since: Instant::now() };
        load.settled("both loads run", |answers| answers.len() == 1 && answers.contains_key("a"));
        load
    }

    fn tallies(&self) -> [Tally; 2] {
        [lock(&self.outside.tally).clone(), lock(&self.told).clone()]
    }

    fn requests(&self) -> u64 {
        self.tallies().iter().map(|t| t.requests).sum()
    }

    /// Waits until the newest answers of both loads are as `holds` says, and tells how long that took.
    fn settled(&self, what: &str, holds: impl Fn(&BTreeMap<String, u64>) -> bool) -> Duration {
        let start = Instant::now();
        eventually(what, || {
            let before = self.tallies();
            let after = eventually("the loads go on", || {
                let now = self.tallies();
                let moved = now.iter().zip(&before).all(|(now, before)| now.requests >= before.requests + PLAIN);
                if moved { Ok(now) } else { Err(format!("{before:?}\n{now:?}")) }
            });
            let newest = |(now, before): (&Tally, &Tally)| -> BTreeMap<String, u64> {
                let since = |(version, count): (&String, &u64)| (version.clone(), count - before.answers.get(version).unwrap_or(&0));
                now.answers.iter().filter(|(version, _)| *version != "stock").map(since).filter(|(_, count)| *count > 0).collect()
            };
            let answers: Vec<_> = after.iter().zip(&before).map(newest).collect();
            if answers.iter().all(&holds) { Ok(()) } else { Err(format!("{answers:?}, failures {:?}", after.map(|t| t.failures))) }
        });
        start.elapsed()
    }

    /// Waits until only this version answers.
    fn only(&self, version: &str) -> Duration {
        self.settled(&format!("only {version} answers"), |answers| answers.len() == 1 && answers.contains_key(version))
    }

    /// Ends both loads after [`ENOUGH`] requests. None may have failed.
    fn finish(mut self, what: &str, mesh: &Mesh) {
        eventually("enough requests", || {
            let counts = self.tallies().map(|t| t.requests);
            if counts.iter().sum::<u64>() >= ENOUGH && counts.iter().all(|count| *count >= ENOUGH / 10) {
                Ok(())
            } else {
                Err(format!("{counts:?}"))
            }
        });
        let took = self.since.elapsed();
        self.word.write_all(ENOUGH_WORD.as_bytes()).expect("the load inside listens");
        let outside = self.outside.finish();
        let status = eventually("the load's end", || self.inside.wait_timeout());
        self.reader.join().expect("the reader of the load's lines");
        let inside = lock(&self.told).clone();
        println!("{what}: in {took:?}");
        for (from, tally) in [("through the gateway", &outside), ("inside the mesh", &inside)] {
            let Tally { requests, failed, connections, slowest, answers, failures } = tally;
            println!(
                "  {from}: {requests} requests on {connections} connections, {failed} failed, slowest {slowest:?}, {answers:?} {failures:#?}"
            );
        }
        assert!(status.success(), "the load inside ended with {status}: {}", lock(&self.said));
        assert!(outside.failed + inside.failed == 0, "{what}: {} requests failed\n{}", outside.failed + inside.failed, mesh.said());
    }
}

/// [`Child::try_wait`] for [`eventually`].
trait WaitTimeout {
    fn wait_timeout(&mut self) -> Result<std::process::ExitStatus, String>;
}

impl WaitTimeout for Child {
    fn wait_timeout(&mut self) -> Result<std::process::ExitStatus, String> {
        self.try_wait().map_err(|e| e.to_string())?.ok_or_else(|| "it runs".to_owned())
    }
}

/// A mesh for one test. The tests run one after the other: each is to have the machine for itself.
fn start(args: &[&str]) -> (MutexGuard<'static, ()>, Mesh) {
    static ONE: Mutex<()> = Mutex::new(());
    let turn = lock(&ONE);
    let args = args.iter().map(|a| (*a).to_owned()).collect();
    (turn, Mesh::start_with(MIZZEN, folder().path(), Options { args, ..Options::default() }))
}

#[test]
fn weights_change() {
    let (_turn, mut mesh) = start(&[]);
    let load = Load::start(&mesh);
    let mut took = Vec::new();
    while load.requests() < ENOUGH {
        mesh.save("routing.yaml", &routing(&[("a", 90), ("b", 10)]));
        load.settled("nine of ten go to a", |answers| {
            let (a, b) = (answers.get("a").copied().unwrap_or(0), answers.get("b").copied().unwrap_or(0));
            // Of at least 300, a tenth: less than 5 or more than a quarter is less likely than one in a million.
            answers.len() == 2 && b > 4 && b * 3 < a
        });
        mesh.save("routing.yaml", &routing(&[("a", 0), ("b", 100)]));
        took.push(load.only("b"));
        // The subset comes with the route to it, and the others go with theirs.
        mesh.save("routing.yaml", &routing(&[("c", 100)]));
        took.push(load.only("c"));
        mesh.save("routing.yaml", &routing(&[("a", 100)]));
        took.push(load.only("a"));
    }
    println!("seen after {took:?}");
    load.finish("weights change", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn policies_of_others_change() {
    let (_turn, mut mesh) = start(&[]);
    let load = Load::start(&mesh);
    assert_eq!(once(&mesh, "visitor"), Err("403: RBAC: access denied".to_owned()));
    for round in 0.. {
        mesh.save("allow.yaml", &allow(", cluster.local/ns/shop/sa/visitor"));
        eventually("the visitor is let in", || once(&mesh, "visitor"));
        let deny = allow("").replace("name: echo,", "name: not-visitors,").replace("  rules:", "  action: DENY\n  rules:");
        let deny = deny.split("        principals").next().unwrap_or_default().to_owned();
        mesh.save("deny.yaml", &format!("{deny}        principals: [cluster.local/ns/shop/sa/visitor]\n"));
        eventually("the visitor is denied", || once(&mesh, "visitor").err().ok_or("it is let in"));
        mesh.remove("deny.yaml");
        mesh.save("allow.yaml", &allow(""));
        if round > 0 && load.requests() >= ENOUGH {
            break;
        }
    }
    load.finish("policies of others change", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// The serial number of a proxy's certificate.
fn serial(mesh: &Mesh, workload: &str) -> String {
    let table =
        mesh.cli(&["proxy-config", "secret", workload, "-n", if workload.starts_with("istio") { "istio-system" } else { "shop" }]).ok();
    let row = table.lines().find(|line| line.starts_with("default ")).unwrap_or_default();
    let cells: Vec<&str> = row.split("     ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert!(cells.get(3) == Some(&"true"), "a valid certificate: {table}");
    cells.get(4).copied().unwrap_or_default().to_owned()
}

#[test]
fn certificates_rotate() {
    let (_turn, mut mesh) = start(&["--workload-cert-ttl", "6s"]);
    let load = Load::start(&mesh);
    let mut seen: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let proxies = ["echo-a", "client-run", "istio-ingressgateway"];
    let mut enough = false;
    while !enough || load.requests() < ENOUGH {
        for proxy in proxies {
            seen.entry(proxy).or_default().insert(serial(&mesh, proxy));
        }
        enough = seen.values().all(|serials| serials.len() >= 5);
        std::thread::sleep(Duration::from_millis(200));
    }
    let counts: Vec<_> = seen.iter().map(|(proxy, serials)| (proxy, serials.len())).collect();
    println!("certificates: {counts:?}");
    load.finish("certificates rotate", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

fn nothing_is_rejected(mesh: &Mesh) {
    eventually("no proxy rejects anything", || {
        let status = mesh.cli(&["proxy-status", "-o", "json"]).ok();
        if status.contains("\"ERROR\"") { Err(status) } else { Ok(()) }
    });
}

#[test]
fn configuration_is_broken_and_mended() {
    let (_turn, mut mesh) = start(&[]);
    let load = Load::start(&mesh);
    let said = |what: &str| eventually(what, || if mesh.said().contains(what) { Ok(()) } else { Err(mesh.said()) });
    let mut rounds = 0;
    while rounds < 2 || load.requests() < ENOUGH {
        rounds += 1;
        // Not YAML; a wrong type; a field that is none. What was last good stays in force.
        let good = routing(&[("a", 100)]);
        for (bad, reason) in [
            (good.replace("subset: a}", "subset: a"), "routing.yaml:"),
            (good.replace("weight: 100", "weight: many"), "spec.http[0].route[0].weight"),
            (good.replace("weight: 100", "wieght: 100"), "spec.http[0].route[0].wieght"),
        ] {
            mesh.save("routing.yaml", &bad);
            said(reason);
            load.only("a");
        }
        mesh.save("routing.yaml", &routing(&[("b", 100)]));
        load.only("b");
        // Of two routes for the same connections the first counts: proxies take what comes of it.
        mesh.save("stock.yaml", &format!("{}{AMBIGUOUS}", stock(NAMESPACE, 1)));
        mesh.save("routing.yaml", &routing(&[("c", 100)]));
        load.only("c");
        nothing_is_rejected(&mesh);
        mesh.save("stock.yaml", &stock(NAMESPACE, 1));
        mesh.save("routing.yaml", &good);
        load.only("a");
        nothing_is_rejected(&mesh);
    }
    load.finish("configuration is broken and mended", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn control_plane_is_killed() {
    let (_turn, mut mesh) = start(&[]);
    let load = Load::start(&mesh);
    for version in ["b", "c", "a"] {
        let pid = eventually("the control plane", || mesh.running("mizzend").first().copied().ok_or("there is none"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill the control plane");
        // What changes while it is away is in force soon after it is back.
        mesh.save("routing.yaml", &routing(&[(version, 100)]));
        println!("in force {:?} after the end of the control plane", load.only(version));
        assert!(!mesh.running("mizzend").contains(&pid));
        // Its CA is the one that it was: a newcomer is known to those who are there.
        assert_eq!(once(&mesh, "client"), Ok(version.to_owned()));
    }
    load.finish("the control plane is killed", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// Waits until every proxy has taken a newer snapshot than `before`; returns its number. Each change makes one.
fn taken(mesh: &Mesh, before: u64) -> u64 {
    eventually("all proxies have the newest configuration", || {
        let text = mesh.cli(&["proxy-status", "-o", "json"]).ok();
        let status: Syncz = serde_json::from_str(&text).expect("JSON");
        let settled = |proxy: &ProxyStatus| {
            proxy.snapshot == status.snapshot && proxy.types.iter().all(|t| matches!(t.state, SyncState::Synced | SyncState::NotSent))
        };
        if status.snapshot > before && status.proxies.iter().all(settled) { Ok(status.snapshot) } else { Err(text) }
    })
}

#[test]
fn all_else_changes() {
    let (_turn, mut mesh) = start(&[]);
    let load = Load::start(&mesh);
    let mut snapshot = taken(&mesh, 0);
    let routing = routing(&[("a", 100)]);
    let policy = |text: &str| routing.replace("  host: echo\n", &format!("  host: echo\n  trafficPolicy: {{{text}}}\n"));
    let rule = |text: &str| routing.replace("  - route:", &format!("  - {text}\n    route:"));
    let port = "  - port: {number: 81, name: http-more, protocol: HTTP}\n    hosts: [other.example]\n";
    while load.requests() < ENOUGH {
        for (file, text) in [
            ("mtls.yaml", mtls("PERMISSIVE")),
            ("mtls.yaml", mtls("STRICT")),
            ("routing.yaml", policy("loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {http: {http2MaxRequests: 100}}")),
            ("routing.yaml", policy("outlierDetection: {consecutive5xxErrors: 3}, connectionPool: {tcp: {maxConnections: 50}}")),
            ("routing.yaml", rule("timeout: 5s")),
            ("routing.yaml", rule("headers: {request: {set: {x-by: mesh}}}")),
            ("routing.yaml", routing.clone()),
            ("gateway.yaml", format!("{GATEWAY}{port}")),
            ("gateway.yaml", GATEWAY.to_owned()),
            ("more.yaml", ENTRY.to_owned()),
        ] {
            mesh.save(file, &text);
            snapshot = taken(&mesh, snapshot);
        }
        mesh.remove("more.yaml");
        snapshot = taken(&mesh, snapshot);
    }
    load.finish("all else changes", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn replicas_come_and_go() {
    let (_turn, mut mesh) = start(&[]);
    let load = Load::start(&mesh);
    let replicas = |count: usize, other_than: &[String]| {
        eventually("the replicas", || {
            let status: Syncz = serde_json::from_str(&mesh.cli(&["proxy-status", "-o", "json"]).ok()).expect("JSON");
            let names: Vec<String> = status.proxies.into_iter().map(|p| p.proxy).filter(|p| p.starts_with("echo-a-")).collect();
            let new = names.len() == count && !names.iter().any(|name| other_than.contains(name));
            if new { Ok(names) } else { Err(format!("{names:?}")) }
        })
    };
    let file = echo(NAMESPACE, "a", 1);
    let mut now = replicas(1, &[]);
    let mut round = 0;
    while round < 2 || load.requests() < ENOUGH {
        round += 1;
        let file = file.replace("env: [", &format!("env: [{{name: ROUND, value: '{round}'}}, "));
        mesh.save("echo-a.yaml", &file);
        now = replicas(1, &now);
        mesh.save("echo-a.yaml", &file.replace("replicas: 1", "replicas: 3"));
        replicas(3, &[]);
        mesh.save("echo-a.yaml", &file);
        replicas(1, &[]);
    }
    load.finish("replicas come and go", &mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}
