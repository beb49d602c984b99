//! `cargo xtask bench edge`: what TLS costs a gateway, ours and Envoy in turn, by the same bootstraps, and nginx by a configuration that says the same.
//!
//! What counts is the gateway's CPU time for one handshake or one request, and what it holds. The client and the server behind are in this process and
//! count for nothing; all of it is on loopback, and what is started ends with this. Each load ends by its number or by its time, whichever comes first.

mod client;
mod config;
mod gateway;
mod nginx;
mod report;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mizzen_testkit::Memory;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use self::{
    client::{Bound, Client, Connections, Done, Manner},
    config::{Door, HOST, LOADS, MOST_HOSTS, Ports},
    gateway::Gateway,
};
use super::{contender::Contender, load::median};

/// Handshakes of a load, at most.
const HANDSHAKES: u32 = 3_000;
/// Requests of a load, at most.
const REQUESTS: u32 = 60_000;
/// Requests before anything counts, at most.
const FIRST: u32 = 2_000;
/// How long a load lasts, at most.
const LENGTH: Duration = Duration::from_millis(2_500);
/// And what comes before anything counts.
const FIRST_LENGTH: Duration = Duration::from_millis(500);
/// How long handshakes with all hosts may take.
const ALL_HOSTS: Duration = Duration::from_secs(60);
/// A gateway is done when it has been at rest for so long.
const DONE: Duration = Duration::from_millis(150);
/// Its memory is what it is after that: Mizzen gives back what a start has needed two seconds later.
const SETTLED: Duration = Duration::from_millis(2_500);

/// A gateway's TLS, with one worker.
///
/// TLS 1.3 with X25519, AES-128-GCM and certificates of ECDSA P-256, a request with each handshake. CPU is that of the gateway alone, user and system. A
/// load ends after 3,000 handshakes or 60,000 requests, and after 2.5 s.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct EdgeArgs {
    /// How often each contender takes its turn; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many hosts the listener has whose memory is measured, each with a chain and a certificate of its own.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=MOST_HOSTS))]
    hosts: u32,
    /// The binary of package `mizzen`. Default: the release build, which is made first; the client is then a release build too.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
    /// Envoy's binary. Without one Mizzen alone is measured.
    #[arg(long, value_name = "PATH", env = "MIZZEN_ENVOY")]
    envoy: Option<PathBuf>,
    /// nginx's binary. Default: what is found in PATH; without one its column is left out.
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Full,
    Mutual,
    Resumed,
    Http1,
    Http2,
    Hosts,
}

impl Row {
    const LOADS: [Row; 5] = [Row::Full, Row::Mutual, Row::Resumed, Row::Http1, Row::Http2];
    /// Those first, then memory.
    const ALL: [Row; 6] = [Row::Full, Row::Mutual, Row::Resumed, Row::Http1, Row::Http2, Row::Hosts];

    /// Those of a contender. nginx is there for handshakes and requests alone: its hosts are no chains of one listener.
    fn of(contender: &Contender) -> &'static [Row] {
        if contender.is_nginx() { &Row::LOADS } else { &Row::ALL }
    }

    fn title(self, hosts: u32) -> String {
        match self {
            Row::Full => "full handshakes".to_owned(),
            Row::Mutual => "full handshakes, mutual".to_owned(),
            Row::Resumed => "resumed handshakes".to_owned(),
            Row::Http1 => "HTTP/1.1".to_owned(),
            Row::Http2 => "HTTP/2".to_owned(),
            Row::Hosts => format!("{hosts} hosts"),
        }
    }
}

/// One measurement, or the median of several.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    /// CPU time for each handshake or request, in microseconds.
    cpu: f64,
    /// Of these so many there were.
    count: f64,
    /// Of a hundred handshakes so many resumed a session.
    resumed: f64,
    /// After the load; with many hosts before any handshake; in MiB.
    resident: f64,
    anonymous: f64,
    /// With many hosts: after a handshake with each.
    resident_after: f64,
    anonymous_after: f64,
    /// What one more host makes resident, in KiB: before and after.
    per_host: f64,
    per_host_after: f64,
}

impl Measured {
    fn new(done: Done, cpu: Duration, memory: Memory) -> Measured {
        let count = f64::from(done.count.max(1));
        Measured {
            cpu: cpu.as_secs_f64() * 1e6 / count,
            count: f64::from(done.count),
            resumed: f64::from(done.resumed) * 100.0 / count,
            resident: mib(memory.resident),
            anonymous: mib(memory.anonymous),
            ..Measured::default()
        }
    }

    /// Memory with one host, and with so many: each before and after the handshakes.
    fn of_hosts(one: [Memory; 2], many: [Memory; 2], hosts: u32) -> Measured {
        let each = |one: Memory, many: Memory| (many.resident as f64 - one.resident as f64) / f64::from(hosts.saturating_sub(1).max(1));
        let [before, after] = many;
        Measured {
            count: f64::from(hosts),
            resident: mib(before.resident),
            anonymous: mib(before.anonymous),
            resident_after: mib(after.resident),
            anonymous_after: mib(after.anonymous),
            per_host: each(one[0], before),
            per_host_after: each(one[1], after),
            ..Measured::default()
        }
    }

    /// The median of each number.
    fn median(all: &[Measured]) -> Measured {
        let of = |number: fn(&Measured) -> f64| median(all.iter().map(number).collect());
        Measured {
            cpu: of(|m| m.cpu),
            count: of(|m| m.count),
            resumed: of(|m| m.resumed),
            resident: of(|m| m.resident),
            anonymous: of(|m| m.anonymous),
            resident_after: of(|m| m.resident_after),
            anonymous_after: of(|m| m.anonymous_after),
            per_host: of(|m| m.per_host),
            per_host_after: of(|m| m.per_host_after),
        }
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// A row of all who were measured.
struct Outcome {
    row: Row,
    mizzen: Measured,
    envoy: Option<Measured>,
    nginx: Option<Measured>,
}

/// Measures and prints.
pub(crate) fn edge(mut args: EdgeArgs) -> Result<()> {
    let Some(mizzen) = args.mizzen.take() else {
        return super::restart(&["mizzen", "xtask"], |mizzen| vec!["--mizzen".into(), mizzen.into()]);
    };
    // The client shall not take the core that the gateway needs.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    // What runs ends where this is dropped.
    let outcomes = runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            result = run(&args, &mizzen) => result,
            _ = term.recv() => bail!("interrupted"),
            _ = int.recv() => bail!("interrupted"),
        }
    })?;
    if args.json {
        println!("{:#}", report::json(&outcomes, &args));
    } else {
        print!("{}", report::table(&outcomes, args.hosts));
    }
    Ok(())
}

async fn run(args: &EdgeArgs, mizzen: &Path) -> Result<Vec<Outcome>> {
    let dir = tempfile::Builder::new().prefix("mizzen-bench-").tempdir()?;
    let ports = Ports::free()?;
    let mut server = JoinSet::new();
    let upstream = client::serve(&mut server)?;
    let (roots, shown) = config::write(dir.path(), ports, upstream, args.hosts)?;
    let bench = Bench { dir: dir.path(), ports, client: Client::new(roots, shown)?, hosts: args.hosts };
    let mut contenders = vec![Contender::mizzen(mizzen, dir.path(), ports.metrics())?];
    match &args.envoy {
        Some(envoy) => contenders.push(Contender::envoy(envoy)?),
        None => eprintln!("{}", report::NO_ENVOY),
    }
    match args.nginx.clone().or_else(|| super::find("nginx")) {
        Some(nginx) => contenders.push(Contender::nginx(&nginx)?),
        None => eprintln!("{}", report::NO_NGINX),
    }
    // By contender and row.
    let mut all = vec![vec![Vec::new(); Row::ALL.len()]; contenders.len()];
    for round in 1..=args.rounds {
        for (contender, all) in contenders.iter().zip(&mut all) {
            let measured = bench.measure(contender, round).await.with_context(|| format!("{}, round {round}", contender.name))?;
            for (all, one) in all.iter_mut().zip(measured) {
                all.push(one);
            }
        }
    }
    let median = |name: &str, at: usize| {
        let (_, rows) = contenders.iter().zip(&all).find(|(contender, _)| contender.name == name)?;
        rows.get(at).filter(|measured| !measured.is_empty()).map(|measured| Measured::median(measured))
    };
    let outcome = |(at, row): (usize, Row)| Outcome {
        row,
        mizzen: median("mizzen", at).unwrap_or_default(),
        envoy: median("envoy", at),
        nginx: median("nginx", at),
    };
    Ok(Row::ALL.into_iter().enumerate().map(outcome).collect())
}

/// What all measurements share.
struct Bench<'a> {
    dir: &'a Path,
    ports: Ports,
    client: Client,
    hosts: u32,
}

impl Bench<'_> {
    /// All rows of a contender once.
    async fn measure(&self, contender: &Contender, round: u32) -> Result<Vec<Measured>> {
        let file = if contender.is_nginx() { nginx::FILE } else { LOADS };
        let mut gateway = Gateway::start(contender, self.dir, file)?;
        for door in Door::LOADS {
            let config = self.client.tls(Manner { mutual: door == Door::Mutual, ..Manner::default() })?;
            gateway.until(async || client::visit(config.clone(), self.ports.of(door), HOST).await.map(drop)).await?;
        }
        let mut gateway = Some(gateway);
        let mut measured = Vec::new();
        for row in Row::of(contender).iter().copied() {
            let title = row.title(self.hosts);
            let one = match row {
                Row::Hosts => {
                    // Its ports and its core are free then.
                    drop(gateway.take());
                    self.many(contender).await
                }
                _ => {
                    let gateway = gateway.as_ref().context("many hosts come last")?;
                    self.load(gateway, row).await.with_context(|| gateway.said())
                }
            };
            let one = one.with_context(|| title.clone())?;
            eprintln!("{}, round {round}: {title}: {}", contender.name, told(row, &one));
            measured.push(one);
        }
        Ok(measured)
    }

    /// One load on a gateway that is running.
    async fn load(&self, gateway: &Gateway, row: Row) -> Result<Measured> {
        let (door, manner) = match row {
            Row::Mutual => (Door::Mutual, Manner { mutual: true, ..Manner::default() }),
            Row::Resumed => (Door::Usual, Manner { resumption: true, ..Manner::default() }),
            Row::Http1 => (Door::Usual, Manner::default()),
            Row::Http2 => (Door::Usual, Manner { h2: true, ..Manner::default() }),
            Row::Full | Row::Hosts => (Door::Once, Manner::default()),
        };
        let address = self.ports.of(door);
        if matches!(row, Row::Http1 | Row::Http2) {
            return self.requests(gateway, Connections::open(&self.client, address, manner.h2).await?).await;
        }
        let clients = self.client.many(manner)?;
        // What is made once is made, and each client has a session that it may resume.
        for config in &clients {
            client::visit(config.clone(), address, HOST).await?;
        }
        gateway.rest(DONE).await?;
        let before = gateway.cpu()?;
        let done = client::handshakes(&clients, address, &Bound::new(HANDSHAKES, LENGTH)).await?;
        gateway.rest(DONE).await?;
        Ok(Measured::new(done, gateway.cpu()?.saturating_sub(before), gateway.memory()?))
    }

    async fn requests(&self, gateway: &Gateway, mut connections: Connections) -> Result<Measured> {
        // Connections to the server and memory are what they will be before anything counts.
        connections.load(&Bound::new(FIRST, FIRST_LENGTH)).await?;
        gateway.rest(DONE).await?;
        let before = gateway.cpu()?;
        let done = connections.load(&Bound::new(REQUESTS, LENGTH)).await?;
        gateway.rest(DONE).await?;
        Ok(Measured::new(done, gateway.cpu()?.saturating_sub(before), gateway.memory()?))
    }

    /// Memory with many hosts, beside that with one.
    async fn many(&self, contender: &Contender) -> Result<Measured> {
        let one = self.hosts(contender, 1).await?;
        Ok(Measured::of_hosts(one, self.hosts(contender, self.hosts).await?, self.hosts))
    }

    /// Memory of a new gateway with so many hosts: before any handshake, and after one with each.
    async fn hosts(&self, contender: &Contender, hosts: u32) -> Result<[Memory; 2]> {
        let address = self.ports.of(Door::Hosts);
        let mut gateway = Gateway::start(contender, self.dir, &config::hosts_file(hosts))?;
        // That it listens is all that can be asked without a handshake.
        gateway.until(async || Ok(TcpStream::connect(address).await.map(drop)?)).await?;
        gateway.rest(SETTLED).await?;
        let before = gateway.memory()?;
        let clients = self.client.many(Manner::default())?;
        let done = client::each_host(&clients, address, &Bound::new(hosts, ALL_HOSTS)).await.with_context(|| gateway.said())?;
        ensure!(done.count == hosts, "only {} of {hosts} hosts have answered within {} s", done.count, ALL_HOSTS.as_secs());
        gateway.rest(SETTLED).await?;
        Ok([before, gateway.memory()?])
    }
}

/// A measurement in one line, while others follow.
fn told(row: Row, one: &Measured) -> String {
    let Measured { cpu, count, resident, resident_after, per_host, per_host_after, .. } = one;
    match row {
        Row::Hosts => format!("{resident:.1} MiB, then {resident_after:.1}; {per_host:.1} KiB a host, then {per_host_after:.1}"),
        _ => format!("{cpu:.1} µs each of {count:.0}, {:.0} % resumed, {resident:.1} MiB", one.resumed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(resident: u64) -> Memory {
        Memory { resident, anonymous: resident / 2, peak: resident }
    }

    #[test]
    fn what_one_costs() {
        let done = Done { count: 200, resumed: 50 };
        let one = Measured::new(done, Duration::from_millis(100), memory(2048));
        assert_eq!((one.cpu, one.count, one.resumed, one.resident, one.anonymous), (500.0, 200.0, 25.0, 2.0, 1.0));
        let nothing = Measured::new(Done::default(), Duration::ZERO, memory(0));
        assert_eq!((nothing.cpu, nothing.resumed), (0.0, 0.0));
    }

    #[test]
    fn what_a_host_costs() {
        let one = Measured::of_hosts([memory(1024), memory(2048)], [memory(3024), memory(6048)], 1_001);
        assert_eq!((one.per_host, one.per_host_after), (2.0, 4.0));
        // Less is no mistake of the arithmetic: a kernel counts as it likes.
        assert_eq!(Measured::of_hosts([memory(1024); 2], [memory(1014); 2], 11).per_host, -1.0);
    }

    #[test]
    fn medians() {
        let all = [3.0, 1.0, 2.0].map(|cpu| Measured { cpu, per_host: cpu * 2.0, ..Measured::default() });
        let median = Measured::median(&all);
        assert_eq!((median.cpu, median.per_host), (2.0, 4.0));
    }
}
