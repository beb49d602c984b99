//! `cargo xtask bench control`: the control plane under a load of simulated proxies, and beside it the floor: what sending the same bytes costs at least.
//!
//! N services (each a ServiceEntry of 5 endpoints, a VirtualService and a DestinationRule with 2 subsets; 10 in a namespace with an
//! AuthorizationPolicy; mutual TLS is STRICT) lie in a folder that `mizzend` follows. M proxies subscribe as Envoy does, over TLS. What counts is the
//! CPU time of `mizzend`, its memory, what it sends, and how long it takes from the rename of a file to the last acknowledgement.
//! All of it is on loopback and in a temporary folder, and ends with this.

pub(crate) mod cluster;
mod delta;
mod demand;
mod fleet;
pub(crate) mod floor;
mod grpc;
pub(super) mod mesh;
pub(super) mod plane;
mod report;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mizzen_testkit::Memory;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    delta::Type,
    fleet::{Fleet, Meter, Proxy, RETURNED, SYNCED, SYNCED_ON_DEMAND},
    floor::{Cost, Floor, Push},
    mesh::{Change, Mesh},
    plane::{Plane, Setup},
};

/// A change is over when nothing has come for so long and the control plane has been at rest.
const QUIET: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);
/// At rest: of one core, in a tick.
const AT_REST: f64 = 0.1;
/// How long one row may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the control plane is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(5);
/// Proxies that get their certificates at the same time.
const CERTIFICATES: usize = 16;

/// The control plane under load.
///
/// CPU is that of the control plane alone, user and system, over the whole of a row: until nothing has come for 1 s. Times go from the rename of the file
/// to the last acknowledgement; a deleted object is waited for half a second, since a save may pass through an empty file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ControlArgs {
    /// How many services there are.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    services: u32,
    /// How many proxies are connected.
    #[arg(long, value_name = "M", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    proxies: u32,
    /// How often all rows are measured, each time with a new control plane; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// All of it once more with proxies that fetch on demand, as Mizzen's own do: each calls so many destinations, one of which is the same for all.
    #[arg(long, value_name = "DESTINATIONS", num_args = 0..=1, default_missing_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    on_demand: Option<u32>,
    /// All of it once more with twice as many services, and with twice as many proxies.
    #[arg(long)]
    grow: bool,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// The binary of package `mizzen`. Default: the release build, which is made first; the proxies and the floor are then a release build too.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Start,
    Cold,
    Idle,
    Change(Change, bool),
    Restart,
}

const ROWS: [Row; 11] = [
    Row::Start,
    Row::Cold,
    Row::Idle,
    Row::Change(Change::Unrelated, true),
    Row::Change(Change::Endpoint, true),
    Row::Change(Change::Unused, true),
    Row::Change(Change::Weight, true),
    Row::Change(Change::Service, true),
    Row::Change(Change::Service, false),
    Row::Change(Change::Mode, true),
    Row::Restart,
];

impl Row {
    fn title(self) -> &'static str {
        match self {
            Row::Start => "start, no proxies",
            Row::Cold => "cold sync",
            Row::Idle => "5 s of nothing",
            Row::Change(Change::Unrelated, _) => "nothing relevant changed",
            Row::Change(Change::Endpoint, _) => "one endpoint",
            Row::Change(Change::Unused, _) => "one endpoint that nobody calls",
            Row::Change(Change::Weight, _) => "one weight",
            Row::Change(Change::Service, true) => "new service",
            Row::Change(Change::Service, false) => "deleted service",
            Row::Change(Change::Mode, _) => "mTLS mode",
            Row::Restart => "restart, all proxies return",
        }
    }

    /// What each proxy must have seen before it can be over.
    fn awaits(self, on_demand: bool) -> u8 {
        match self {
            Row::Start | Row::Idle | Row::Change(Change::Unrelated, _) => 0,
            Row::Cold => {
                if on_demand {
                    SYNCED_ON_DEMAND
                } else {
                    SYNCED
                }
            }
            Row::Change(Change::Unused, _) if on_demand => 0,
            Row::Change(Change::Endpoint | Change::Unused, _) => Type::Endpoints.bit(),
            Row::Change(Change::Weight, _) => if on_demand { Type::VirtualHosts } else { Type::Routes }.bit(),
            Row::Change(Change::Service, _) => if on_demand { Type::Index } else { Type::Clusters }.bit(),
            Row::Change(Change::Mode, _) => Type::Listeners.bit(),
            Row::Restart => RETURNED,
        }
    }
}

/// One measurement, or the median of several. Times in seconds, memory in MiB.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    cpu: f64,
    time: f64,
    resident: f64,
    anonymous: f64,
    peak: f64,
    bytes: f64,
    messages: f64,
    /// Proxies that have got anything.
    concerned: f64,
    /// CPU time of all proxies together.
    proxies: f64,
    /// Entries of the index that have come, and their bytes.
    entries: f64,
    entry_bytes: f64,
    /// Names that an answer should have brought along.
    missed: f64,
}

/// A row beside its floor.
struct Outcome {
    row: Row,
    ours: Measured,
    floor: Option<Cost>,
    /// The same with proxies that fetch on demand, and their floor.
    on_demand: Option<(Measured, Option<Cost>)>,
    /// The same with twice as many services, and with twice as many proxies.
    grown: Option<[Measured; 2]>,
}

/// How large a load is, and of what kind.
#[derive(Clone, Copy, Debug)]
struct Load {
    services: u32,
    proxies: u32,
    /// How many destinations each proxy calls, if it does not hold everything.
    on_demand: Option<u32>,
}

/// Measures and prints.
pub(crate) fn control(mut args: ControlArgs) -> Result<()> {
    let Some(mizzen) = args.mizzen.take() else {
        return super::restart(&["mizzen", "xtask"], |mizzen| vec!["--mizzen".into(), mizzen.into()]);
    };
    // The proxies shall not take the cores that the control plane needs.
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    // What runs ends where this is dropped.
    runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            result = run(&args, &mizzen) => result,
            _ = term.recv() => bail!("interrupted"),
            _ = int.recv() => bail!("interrupted"),
        }
    })
}

async fn run(args: &ControlArgs, mizzen: &Path) -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("proxies and floor are no release build: their own times are worth little");
    }
    let load = Load { services: args.services, proxies: args.proxies, on_demand: None };
    let ours = rounds(args, load, mizzen).await?;
    let on_demand = match args.on_demand {
        Some(destinations) => Some(rounds(args, Load { on_demand: Some(destinations), ..load }, mizzen).await.context("on demand")?),
        None => None,
    };
    let grown = if args.grow {
        let services = rounds(args, Load { services: load.services * 2, ..load }, mizzen).await?;
        Some((services, rounds(args, Load { proxies: load.proxies * 2, ..load }, mizzen).await?))
    } else {
        None
    };
    let floor = measure_floor(args.proxies, &ours).await?;
    let on_demand = match on_demand {
        Some(all) => Some((measure_floor(args.proxies, &all).await.context("on demand")?, all)),
        None => None,
    };
    let outcome = |(at, row): (usize, &Row)| Outcome {
        row: *row,
        ours: ours[at],
        floor: floor[at],
        on_demand: on_demand.as_ref().map(|(floor, all)| (all[at], floor[at])),
        grown: grown.as_ref().map(|(services, proxies)| [services[at], proxies[at]]),
    };
    let results: Vec<Outcome> = ROWS.iter().enumerate().map(outcome).collect();
    if args.json {
        println!("{:#}", report::json(&results, args))
    } else {
        print!("{}", report::table(&results, args))
    }
    Ok(())
}

/// All rows, as the median of all rounds.
async fn rounds(args: &ControlArgs, load: Load, mizzen: &Path) -> Result<Vec<Measured>> {
    let mut all: Vec<Vec<Measured>> = vec![Vec::new(); ROWS.len()];
    for round in 1..=args.rounds {
        let dir = tempfile::Builder::new().prefix("mizzen-bench-").tempdir()?;
        let measured = Round::new(load, mizzen, dir.path()).await?.measure().await.with_context(|| format!("round {round}"))?;
        for (all, one) in all.iter_mut().zip(measured) {
            all.push(one);
        }
    }
    Ok(all.iter().map(|all| Measured::median(all)).collect())
}

/// The same bytes by the floor, row by row.
async fn measure_floor(proxies: u32, rows: &[Measured]) -> Result<Vec<Option<Cost>>> {
    let mut floor = Floor::start(proxies)?;
    let mut costs = Vec::with_capacity(rows.len());
    for (row, ours) in ROWS.into_iter().zip(rows) {
        let clients = ours.concerned as usize;
        let each = |number: f64| (number / ours.concerned).round() as usize;
        let push = Push { clients, messages: each(ours.messages), bytes: each(ours.bytes) };
        let cost = match row {
            Row::Start | Row::Idle => None,
            Row::Cold => Some(floor.connect(proxies, push).await?),
            Row::Restart => {
                // All return, and not only those that get something.
                floor = Floor::start(proxies)?;
                Some(floor.connect(proxies, push).await?)
            }
            Row::Change(..) if clients > 0 && push.messages > 0 => Some(floor.push(push).await?),
            Row::Change(..) => Some(Cost::default()),
        };
        if let Some(Cost { cpu, time }) = cost {
            eprintln!("floor: {}: {:.3} CPU s, {:.0} ms", row.title(), cpu.as_secs_f64(), time.as_secs_f64() * 1e3);
        }
        costs.push(cost);
    }
    Ok(costs)
}

/// Everything once.
struct Round {
    load: Load,
    mesh: Mesh,
    setup: Setup,
}

impl Round {
    async fn new(load: Load, mizzen: &Path, dir: &Path) -> Result<Round> {
        let mesh = Mesh::write(dir, load.services)?;
        let setup = Setup::new(mizzen, dir, mesh.folder())?;
        Ok(Round { load, mesh, setup })
    }

    async fn measure(&self) -> Result<Vec<Measured>> {
        let mut plane = self.setup.start().await?;
        self.setup.complaints()?;
        let mut measured = vec![Watch::of(&plane)?.started(&plane)?];
        self.tell(Row::Start, &measured[0]);
        let proxies = self.proxies().await?;
        let watch = Watch::new(&plane)?;
        let fleet = Fleet::start(self.setup.target(), &proxies);
        for row in ROWS.into_iter().skip(1) {
            let awaits = row.awaits(self.load.on_demand.is_some());
            let one = match row {
                Row::Start => continue,
                Row::Cold => watch.until(&mut plane, &fleet.meter, awaits).await,
                Row::Idle => self.idle(&plane, &fleet.meter).await,
                Row::Change(change, done) => {
                    fleet.meter.clear();
                    let watch = Watch::new(&plane)?;
                    let begun = self.mesh.change(change, done)?;
                    Watch { begun, ..watch }.until(&mut plane, &fleet.meter, awaits).await
                }
                Row::Restart => {
                    fleet.meter.may_break(true);
                    plane.stop().await?;
                    fleet.meter.clear();
                    plane = self.setup.start().await?;
                    let one = Watch::of(&plane)?.until(&mut plane, &fleet.meter, awaits).await;
                    fleet.meter.may_break(false);
                    one
                }
            };
            let one = one.with_context(|| format!("{}: {}", row.title(), self.setup.said()))?;
            self.tell(row, &one);
            measured.push(one);
        }
        drop(fleet);
        plane.stop().await?;
        self.setup.complaints()?;
        Ok(measured)
    }

    fn tell(&self, row: Row, one: &Measured) {
        let Measured { cpu, time, resident, peak, bytes, messages, .. } = one;
        let Load { services, proxies, on_demand } = self.load;
        let how = if on_demand.is_some() { " on demand" } else { "" };
        eprintln!(
            "{services} × {proxies}{how}: {}: {cpu:.3} CPU s, {:.0} ms, {:.2} MB in {messages} messages, {resident:.0} MiB, {peak:.0} at its peak",
            row.title(),
            time * 1e3,
            bytes / 1e6
        );
    }

    /// All proxies with their certificates.
    async fn proxies(&self) -> Result<Vec<Proxy>> {
        let mut proxies = Vec::new();
        for first in (0..self.load.proxies).step_by(CERTIFICATES) {
            let some = first..self.load.proxies.min(first + CERTIFICATES as u32);
            let some = some.map(|number| async move {
                let place = self.mesh.place(number);
                let svid = self.setup.certificate(&place).await.with_context(|| format!("a certificate for proxy {number}"))?;
                let few = || format!("{} services are too few", self.load.services);
                let destinations = self.load.on_demand.map(|hosts| self.mesh.destinations(number, hosts).with_context(few)).transpose()?;
                Ok::<Proxy, anyhow::Error>(Proxy { tls: self.setup.tls(Some(&svid))?, place, destinations })
            });
            proxies.extend(futures_util::future::try_join_all(some).await?);
        }
        Ok(proxies)
    }

    async fn idle(&self, plane: &Plane, meter: &Meter) -> Result<Measured> {
        meter.clear();
        let watch = Watch::new(plane)?;
        tokio::time::sleep(IDLE).await;
        watch.measured(plane, meter, IDLE)
    }
}

/// The beginning of a measurement.
struct Watch {
    begun: Instant,
    cpu: Duration,
    own: Duration,
}

impl Watch {
    fn new(plane: &Plane) -> Result<Watch> {
        plane.process.forget_peak();
        Ok(Watch { begun: Instant::now(), cpu: plane.process.cpu()?, own: plane::own_cpu()? })
    }

    /// From the beginning of the process on.
    fn of(plane: &Plane) -> Result<Watch> {
        Ok(Watch { begun: plane.begun, cpu: Duration::ZERO, own: plane::own_cpu()? })
    }

    /// What it has taken until it was ready.
    fn started(&self, plane: &Plane) -> Result<Measured> {
        self.measured(plane, &Meter::new(0), self.begun.elapsed())
    }

    /// Waits until it is over.
    async fn until(&self, plane: &mut Plane, meter: &Meter, awaits: u8) -> Result<Measured> {
        let time = self.wait(plane, meter, &|| meter.have(awaits)).await?;
        self.measured(plane, meter, if meter.reading().messages > 0 || awaits == RETURNED { time } else { Duration::ZERO })
    }

    /// Waits until all proxies have what they should, as `have` counts them, and nothing happens any more. How long it took to the last acknowledgement.
    async fn wait(&self, plane: &mut Plane, meter: &Meter, have: &dyn Fn() -> usize) -> Result<Duration> {
        let (mut quiet, mut messages, mut cpu, mut tick) = (Instant::now(), 0, plane.process.cpu()?, Instant::now());
        loop {
            tokio::time::sleep(TICK).await;
            meter.check()?;
            plane.running()?;
            let (now, used, reading) = (Instant::now(), plane.process.cpu()?, meter.reading());
            let busy = (used - cpu).as_secs_f64() > AT_REST * (now - tick).as_secs_f64();
            if busy || reading.messages != messages {
                quiet = now;
            }
            (messages, cpu, tick) = (reading.messages, used, now);
            let have = have();
            if have == meter.proxies() && now - quiet >= QUIET {
                break;
            }
            if self.begun.elapsed() > PATIENCE {
                bail!("not over within {} s: {have} of {} proxies have what they should", PATIENCE.as_secs(), meter.proxies());
            }
        }
        Ok(meter.last().saturating_duration_since(self.begun))
    }

    fn measured(&self, plane: &Plane, meter: &Meter, time: Duration) -> Result<Measured> {
        let (reading, Memory { resident, anonymous, peak }) = (meter.reading(), plane.process.memory()?);
        let mib = |kib: u64| kib as f64 / 1024.0;
        if reading.retries > 0 {
            eprintln!("{} times a proxy has dialled again", reading.retries);
        }
        Ok(Measured {
            cpu: (plane.process.cpu()? - self.cpu).as_secs_f64(),
            time: time.as_secs_f64(),
            resident: mib(resident),
            anonymous: mib(anonymous),
            peak: mib(peak),
            bytes: reading.bytes as f64,
            messages: reading.messages as f64,
            concerned: meter.concerned() as f64,
            proxies: (plane::own_cpu()? - self.own).as_secs_f64(),
            entries: reading.entries as f64,
            entry_bytes: reading.entry_bytes as f64,
            missed: reading.missed as f64,
        })
    }
}

impl Measured {
    /// The median of each number.
    fn median(all: &[Measured]) -> Measured {
        let of = |number: fn(&Measured) -> f64| super::load::median(all.iter().map(number).collect());
        Measured {
            cpu: of(|m| m.cpu),
            time: of(|m| m.time),
            resident: of(|m| m.resident),
            anonymous: of(|m| m.anonymous),
            peak: of(|m| m.peak),
            bytes: of(|m| m.bytes),
            messages: of(|m| m.messages),
            concerned: of(|m| m.concerned),
            proxies: of(|m| m.proxies),
            entries: of(|m| m.entries),
            entry_bytes: of(|m| m.entry_bytes),
            missed: of(|m| m.missed),
        }
    }
}
