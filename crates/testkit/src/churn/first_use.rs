//! What it costs a proxy, and who waits, that what is used is fetched on first use.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use super::{
    inside,
    orders::{Order, Remote, Speaks, Target, Told, Took},
    pod, servers, usage,
    world::{World, write, write_base},
    yaml::{VERSIONS, called},
};
use crate::{Mesh, Options, PATIENCE, eventually};

/// What is run.
#[derive(Clone, Debug, Serialize)]
pub struct FirstPlan {
    /// Services in all.
    pub services: u32,
    /// How many of them are called for the first time.
    pub destinations: u32,
    /// For how long memory settles before it is read, in seconds.
    pub settle: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct FirstReport {
    /// What was run.
    pub plan: FirstPlan,
    /// Anonymous memory of the proxy whose workload calls three services, in KiB.
    pub anonymous: u64,
    /// The most that it held until then, files included, in KiB.
    pub peak: u64,
    /// What it had received by then, by type.
    pub received: BTreeMap<String, Received>,
    /// Anonymous memory after all destinations were called, in KiB.
    pub anonymous_after_all: u64,
    /// Requests by what they were.
    pub requests: BTreeMap<&'static str, Waited>,
    /// What the proxy received because of a change, by the change and the type.
    pub changes: BTreeMap<&'static str, BTreeMap<String, Received>>,
}

/// Resources, or names of removed ones, and the bytes of the messages that brought them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Received {
    /// How many.
    pub resources: u64,
    /// Their messages' bytes.
    pub bytes: u64,
}

impl Received {
    fn less(self, other: Received) -> Received {
        Received { resources: self.resources.saturating_sub(other.resources), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// How long requests took, in microseconds from the begin of connecting to the first byte.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Waited {
    /// Answered ones.
    pub count: usize,
    /// Half of them took no longer.
    pub median: u64,
    /// All but one in a hundred.
    pub p99: u64,
    /// The longest.
    pub max: u64,
    /// Half of them were connected after so long.
    pub connected: u64,
    /// Those that got no answer, and why.
    pub lost: Vec<String>,
}

impl Waited {
    fn of(asked: Vec<Result<Took, String>>) -> Waited {
        let (took, lost): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
        let took: Vec<Took> = took.into_iter().flatten().collect();
        let at = |mut all: Vec<u64>, part: f64| {
            all.sort_unstable();
            all.get(((all.len() as f64 * part) as usize).min(all.len().saturating_sub(1))).copied().unwrap_or(0)
        };
        let first: Vec<u64> = took.iter().map(|took| took.first_byte).collect();
        Waited {
            count: took.len(),
            median: at(first.clone(), 0.5),
            p99: at(first.clone(), 0.99),
            max: at(first, 1.0),
            connected: at(took.iter().map(|took| took.connected).collect(), 0.5),
            lost: lost.into_iter().filter_map(Result::err).collect(),
        }
    }
}

/// The Internet, as the mesh sees it: an address that nobody in it knows, at ports that services of the mesh have too, and at one that none has.
const INTERNET: &str = "192.0.2.80";
const INTERNET_PORTS: [u16; 4] = [80, 443, 8000, 9080];
/// Requests of a kind, where they are not to new destinations.
const AGAIN: usize = 50;
/// The services that the proxy calls all the time are the first ones.
const CALLED: u32 = 3;

/// Runs it. Arguments as of [`run`](super::run).
///
/// # Panics
/// If the mesh does not do what it must to be measured.
pub fn first_use(program: &str, client: &[&str], env: &[(&str, &str)], plan: &FirstPlan) -> FirstReport {
    let dir = tempfile::tempdir().expect("a folder");
    write_base(dir.path());
    let mut mesh = Mesh::start_with(program, dir.path(), Options { args: internet(), ..Options::default() });
    let servers = [servers(&mesh, "echo-", &VERSIONS), servers(&mesh, "stock-", &[])];
    let live = plan.destinations + CALLED;
    let (_world, _) = World::fill(&mesh.folder, plan.services.saturating_sub(live), 0, servers.clone(), 0, 0);
    for number in 0..live {
        save(&mesh, number, &servers);
    }
    let mut load = Remote::start(inside(&mesh, client, env));
    (0..live).for_each(|number| load.order(&Order::Await(target(number))));
    for _ in 0..live {
        load.event(PATIENCE * 5);
    }
    (0..CALLED).for_each(|number| load.order(&Order::Use(target(number), 400)));
    std::thread::sleep(Duration::from_secs(plan.settle));
    let held = memory(&mesh);
    let received = received(&mesh);
    let mut requests = BTreeMap::new();
    let all = |http: bool| (CALLED..live).map(target).filter(|target| (target.speaks == Speaks::H1) == http).collect::<Vec<_>>();
    for (what, targets) in [("first, HTTP", all(true)), ("first, TCP", all(false)), ("again, HTTP", all(true)), ("again, TCP", all(false))]
    {
        requests.insert(what, Waited::of(ask(&mut load, targets)));
    }
    let after_all = memory(&mesh);
    let changes = changes(&mesh, &servers);
    requests.extend(without_control_plane(&mesh, &mut load));
    load.end();
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
    FirstReport { plan: plan.clone(), anonymous: held.0, peak: held.1, received, anonymous_after_all: after_all.0, requests, changes }
}

fn save(mesh: &Mesh, number: u32, servers: &[Vec<Ipv4Addr>; 2]) {
    let http = target(number).speaks == Speaks::H1;
    write(&mesh.folder, Path::new(&format!("called-{number}.yaml")), &called(number, http, &servers[usize::from(!http)]));
}

/// Every fourth one speaks lines over TCP, at an address of its own; the others share a port over HTTP.
fn target(number: u32) -> Target {
    let (speaks, port) = if number % 4 == 3 { (Speaks::Lines, 7070) } else { (Speaks::H1, 9080) };
    Target { host: format!("r{number}.rare.test"), port, speaks }
}

fn ask(load: &mut Remote, targets: Vec<Target>) -> Vec<Result<Took, String>> {
    load.order(&Order::Ask(targets));
    loop {
        if let Told::Asked(asked) = load.event(PATIENCE * 5) {
            return asked;
        }
    }
}

/// A server beyond the mesh. The arguments of `up` that make it reachable.
fn internet() -> Vec<String> {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = server.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let body = r#"{"version": "outside"}"#;
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        }
    });
    INTERNET_PORTS.iter().flat_map(|port| ["--outside".to_owned(), format!("{INTERNET}:{port}={at}")]).collect()
}

/// Anonymous memory and peak of the client's proxy, in KiB.
fn memory(mesh: &Mesh) -> (u64, u64) {
    let mut proxies = mesh.running("mizzen-proxy").into_iter();
    let pid = proxies.find(|pid| pod(*pid).is_some_and(|name| name.starts_with("client-run"))).expect("the client's proxy");
    let usage = usage(pid).expect("it lives");
    (usage.anonymous, usage.peak)
}

/// What the client's proxy has received, by type.
fn received(mesh: &Mesh) -> BTreeMap<String, Received> {
    let page = admin(mesh, "/stats?filter=mizzen_xds_received").expect("the proxy's statistics");
    let mut all: BTreeMap<String, Received> = BTreeMap::new();
    for (name, value) in page.lines().filter_map(|line| line.split_once(": ")) {
        let (Some(kind), Ok(value)) = (name.rsplit('.').next(), value.trim().parse::<f64>()) else { continue };
        let one = all.entry(kind.to_owned()).or_default();
        match name {
            _ if name.starts_with("mizzen_xds_received_bytes_total") => one.bytes = value as u64,
            _ if name.starts_with("mizzen_xds_received_resources_total") => one.resources = value as u64,
            _ => {}
        }
    }
    all
}

/// A page of the client's proxy.
fn admin(mesh: &Mesh, path: &str) -> Result<String, String> {
    let mut stream = UnixStream::connect(mesh.pod_dir("churn", "client-run").join("admin.sock")).map_err(|e| e.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n").map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(text)
}

/// What a change makes the proxy receive.
fn changes(mesh: &Mesh, servers: &[Vec<Ipv4Addr>; 2]) -> BTreeMap<&'static str, BTreeMap<String, Received>> {
    let mut changes = BTreeMap::new();
    let (one, more) = (mesh.folder.join("e0/s0.yaml"), mesh.folder.join("e0/more.yaml"));
    let text = fs::read_to_string(&one).expect("a service elsewhere");
    let moved = text.replace("100.64.0.0", "100.64.0.9");
    let new = text
        .replace("name: s0,", "name: more,")
        .replace("[s0.", "[more.")
        .replace("host: s0.", "host: more.")
        .replace("172.16.0.1]", "172.31.0.1]");
    assert!(moved != text && new != text);
    let gone = || fs::remove_file(&more).expect("remove a file");
    let alone = measure(mesh, servers, &|| {}, None);
    changes.insert("an endpoint of a service that it calls, there and back", alone.clone());
    let moves = || write(&mesh.folder, Path::new("e0/s0.yaml"), &moved);
    let comes = || write(&mesh.folder, Path::new("e0/more.yaml"), &new);
    let kinds: [(_, &dyn Fn(), _); 3] = [
        ("an endpoint of a service that it never called", &moves, None),
        ("a new service that it does not call", &comes, Some("Host")),
        ("that service is gone", &gone, Some("Host")),
    ];
    for (what, change, awaited) in kinds {
        let mut all = measure(mesh, servers, change, awaited);
        for (kind, less) in &alone {
            all.entry(kind.clone()).and_modify(|one| *one = one.less(*less));
        }
        all.retain(|_, one| one.resources > 0);
        changes.insert(what, all);
    }
    changes
}

/// What the proxy receives of a change and of one more, which comes after it for sure: an endpoint of a service that it calls, there and back. `awaited` is what
/// the first has to bring.
fn measure(mesh: &Mesh, servers: &[Vec<Ipv4Addr>; 2], change: &dyn Fn(), awaited: Option<&str>) -> BTreeMap<String, Received> {
    let begun = received(mesh);
    let count = |all: &BTreeMap<String, Received>, kind: &str| all.get(kind).map_or(0, |one| one.resources);
    let comes = |kind: &str, before: &BTreeMap<String, Received>| {
        eventually(&format!("a {kind}"), || {
            let now = received(mesh);
            if count(&now, kind) > count(before, kind) { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
        });
    };
    change();
    awaited.into_iter().for_each(|kind| comes(kind, &begun));
    let one = [vec![servers[0][0]], servers[1].clone()];
    for endpoints in [&one, servers] {
        let before = received(mesh);
        save(mesh, 0, endpoints);
        comes("ClusterLoadAssignment", &before);
    }
    let mut all = received(mesh);
    for (kind, before) in &begun {
        all.entry(kind.clone()).and_modify(|one| *one = one.less(*before));
    }
    all.retain(|_, one| one.resources > 0);
    all
}

/// Requests while the control plane runs, stands still, and is gone.
fn without_control_plane(mesh: &Mesh, load: &mut Remote) -> BTreeMap<&'static str, Waited> {
    let internet = || {
        let ports = INTERNET_PORTS.iter().cycle().take(AGAIN);
        ports.map(|port| Target { host: INTERNET.to_owned(), port: *port, speaks: Speaks::H1 }).collect::<Vec<_>>()
    };
    let known = || (0..CALLED).cycle().take(AGAIN).map(target).collect::<Vec<_>>();
    let mut requests = BTreeMap::new();
    requests.insert("Internet", Waited::of(ask(load, internet())));
    let signal = |signal: Signal| {
        for pid in mesh.running("mizzend") {
            kill(Pid::from_raw(pid), signal).expect("a signal to the control plane");
        }
    };
    signal(Signal::SIGSTOP);
    requests.insert("Internet, control plane stopped", Waited::of(ask(load, internet())));
    requests.insert("again, control plane stopped", Waited::of(ask(load, known())));
    signal(Signal::SIGCONT);
    // Without its program it is not started again.
    let (link, away) = (mesh.run_dir().join("bin/mizzend"), mesh.run_dir().join("bin/mizzend.away"));
    fs::rename(&link, &away).expect("rename the control plane's program");
    signal(Signal::SIGKILL);
    eventually("the control plane is gone", || if mesh.running("mizzend").is_empty() { Ok(()) } else { Err("it runs") });
    requests.insert("Internet, control plane killed", Waited::of(ask(load, internet())));
    requests.insert("again, control plane killed", Waited::of(ask(load, known())));
    fs::rename(&away, &link).expect("rename the control plane's program");
    eventually("the control plane is back", || if mesh.running("mizzend").is_empty() { Err("not yet") } else { Ok(()) });
    requests
}
