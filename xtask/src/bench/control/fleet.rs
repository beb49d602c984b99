//! The simulated proxies: each has a certificate and a connection of its own, and holds nothing but names and versions.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mizzen_net::Backoff;
use rustls::ClientConfig;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    delta::{self, Names, Subscriber, Type},
    demand,
    grpc::{Status, Stream, Target},
    mesh::Place,
    wire::{self, Kind, Node, Reader, Struct, Value},
};

/// First syncs at the same time, so that the load is bounded.
pub(super) const AT_ONCE: usize = 50;
/// Envoy's waits before it dials again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), MAX_BACKOFF);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// gRPC's RESOURCE_EXHAUSTED and UNAVAILABLE: come again later.
const LATER: [u32; 2] = [8, 14];

/// A proxy's bit for having told what it holds on a new stream.
pub(super) const RETURNED: u8 = 1 << 7;
/// All types of a proxy that holds everything.
pub(super) const SYNCED: u8 = 0b1111;
/// And of one that fetches on demand.
pub(super) const SYNCED_ON_DEMAND: u8 = 0b11_1111;

/// What has come to all proxies, and when the last of it was acknowledged.
#[derive(Debug)]
pub(super) struct Meter {
    begun: Instant,
    bytes: AtomicU64,
    messages: AtomicU64,
    retries: AtomicU64,
    /// Of the index: entries that have come, and their bytes. Names that should have been brought along.
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    missed: AtomicU64,
    /// Microseconds since the beginning.
    last: AtomicU64,
    /// Which types each proxy has got since [`Meter::clear`].
    seen: Vec<AtomicU8>,
    /// How many endpoints each proxy holds, if their bodies are read.
    endpoints: Vec<AtomicU64>,
    /// Why the measurement is worth nothing.
    failed: Mutex<Option<String>>,
    /// Whether streams may end.
    restarting: AtomicBool,
}

/// What a meter shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) retries: u64,
    pub(super) entries: u64,
    pub(super) entry_bytes: u64,
    pub(super) missed: u64,
}

impl Meter {
    pub(super) fn new(proxies: u32) -> Meter {
        Meter {
            begun: Instant::now(),
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            entry_bytes: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            last: AtomicU64::new(0),
            seen: (0..proxies).map(|_| AtomicU8::new(0)).collect(),
            endpoints: (0..proxies).map(|_| AtomicU64::new(0)).collect(),
            failed: Mutex::default(),
            restarting: AtomicBool::new(false),
        }
    }

    /// What was seen before does not count any more.
    pub(super) fn clear(&self) {
        for number in [&self.bytes, &self.messages, &self.retries, &self.entries, &self.entry_bytes, &self.missed] {
            number.store(0, Relaxed);
        }
        self.seen.iter().for_each(|seen| seen.store(0, Relaxed));
    }

    pub(super) fn may_break(&self, may: bool) {
        self.restarting.store(may, Relaxed);
    }

    pub(super) fn arrived(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A message was acknowledged.
    pub(super) fn acknowledged(&self, proxy: usize, bit: u8) {
        self.messages.fetch_add(1, Relaxed);
        self.mark(proxy, bit);
    }

    fn noticed(&self, taken: &delta::Taken) {
        for (number, more) in [(&self.entries, taken.entries), (&self.entry_bytes, taken.bytes), (&self.missed, taken.missed)] {
            number.fetch_add(more as u64, Relaxed);
        }
    }

    fn mark(&self, proxy: usize, bit: u8) {
        self.seen[proxy].fetch_or(bit, Relaxed);
        self.last.fetch_max(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(super) fn fail(&self, why: impl fmt::Display) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_string());
    }

    /// An error if something went wrong that should not.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }

    pub(super) fn reading(&self) -> Reading {
        let of = |number: &AtomicU64| number.load(Relaxed);
        Reading {
            bytes: of(&self.bytes),
            messages: of(&self.messages),
            retries: of(&self.retries),
            entries: of(&self.entries),
            entry_bytes: of(&self.entry_bytes),
            missed: of(&self.missed),
        }
    }

    /// When the last acknowledgement was sent.
    pub(super) fn last(&self) -> Instant {
        self.begun + Duration::from_micros(self.last.load(Relaxed))
    }

    /// The least and the most endpoints that a proxy holds.
    pub(super) fn endpoints(&self) -> (u64, u64) {
        let of = || self.endpoints.iter().map(|endpoints| endpoints.load(Relaxed));
        (of().min().unwrap_or_default(), of().max().unwrap_or_default())
    }

    /// How many there are.
    pub(super) fn proxies(&self) -> usize {
        self.seen.len()
    }

    /// How many proxies have seen all of this.
    pub(super) fn have(&self, bits: u8) -> usize {
        self.seen.iter().filter(|seen| seen.load(Relaxed) & bits == bits).count()
    }

    /// How many proxies have got anything.
    pub(super) fn concerned(&self) -> usize {
        self.seen.iter().filter(|seen| seen.load(Relaxed) & SYNCED_ON_DEMAND != 0).count()
    }
}

/// A proxy before it is connected.
pub(super) struct Proxy {
    pub(super) place: Place,
    pub(super) tls: Arc<ClientConfig>,
    /// The hosts that it calls; without them it holds everything.
    pub(super) destinations: Option<Vec<String>>,
}

/// Proxies that run. They end with this.
pub(super) struct Fleet {
    pub(super) meter: Arc<Meter>,
    _proxies: JoinSet<()>,
}

/// What all proxies share.
struct Shared {
    target: Target,
    meter: Arc<Meter>,
    names: Mutex<Names>,
    first: Arc<Semaphore>,
    /// What reads responses.
    reader: fn() -> Reader,
}

impl Fleet {
    /// Has them dial.
    pub(super) fn start(target: Target, proxies: &[Proxy]) -> Fleet {
        Fleet::dial(target, proxies, Reader::default)
    }

    /// The same, with proxies that count the endpoints that they hold.
    pub(super) fn start_counting(target: Target, proxies: &[Proxy]) -> Fleet {
        Fleet::dial(target, proxies, Reader::of_endpoints)
    }

    fn dial(target: Target, proxies: &[Proxy], reader: fn() -> Reader) -> Fleet {
        let meter = Arc::new(Meter::new(u32::try_from(proxies.len()).unwrap_or(u32::MAX)));
        let shared =
            Arc::new(Shared { target, meter: meter.clone(), names: Mutex::default(), first: Arc::new(Semaphore::new(AT_ONCE)), reader });
        let mut tasks = JoinSet::new();
        for (number, proxy) in proxies.iter().enumerate() {
            let (shared, tls) = (shared.clone(), proxy.tls.clone());
            let mut node = node(&proxy.place, number);
            let (mut session, synced): (Box<dyn Subscriber>, u8) = match proxy.destinations.clone() {
                None => (Box::new(delta::Session::new(node)), SYNCED),
                Some(destinations) => {
                    let offer = Value { kind: Some(Kind::Text("1".to_owned())) };
                    node.metadata.get_or_insert_default().fields.insert("MIZZEN_ON_DEMAND".to_owned(), offer);
                    (Box::new(demand::Session::new(node, destinations)), SYNCED_ON_DEMAND)
                }
            };
            tasks.spawn(async move { shared.run(number, tls, &mut *session, synced).await });
        }
        Fleet { meter, _proxies: tasks }
    }
}

impl Shared {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One proxy's life.
    async fn run(&self, number: usize, tls: Arc<ClientConfig>, session: &mut dyn Subscriber, all: u8) {
        let mut first = self.first.acquire().await.ok();
        let mut backoff = BACKOFF;
        loop {
            let synced = |seen| first = if seen == all { None } else { first.take() };
            let Err(error) = self.stream(number, &tls, session, synced, &mut backoff).await else { return };
            let later = error.downcast_ref::<Status>().is_some_and(|status| LATER.contains(&status.code));
            if !later && !self.meter.restarting.load(Relaxed) {
                self.meter.fail(format!("proxy {number}: {error:#}"));
                return;
            }
            self.meter.retries.fetch_add(1, Relaxed);
            tokio::time::sleep(backoff.spread_wait(MAX_BACKOFF)).await;
        }
    }

    /// One stream, until it breaks. `progress` hears of the types of which it has had a response.
    async fn stream(
        &self,
        number: usize,
        tls: &Arc<ClientConfig>,
        session: &mut dyn Subscriber,
        mut progress: impl FnMut(u8),
        backoff: &mut Backoff,
    ) -> Result<()> {
        let returned = session.was_there();
        let requests = session.start(&self.names());
        let frames = requests.iter().map(wire::frame).collect();
        let mut stream = Stream::open(&self.target.from(number), tls.clone(), PATH, frames).await?;
        if returned {
            self.meter.mark(number, RETURNED);
        }
        let (mut reader, mut seen) = ((self.reader)(), 0);
        loop {
            let data = stream.data().await?;
            self.meter.arrived(data.len());
            reader.feed(&data);
            drop(data);
            while let Some(item) = reader.next().context("a response")? {
                let Some(taken) = session.take(item, &mut self.names())? else { continue };
                for request in &taken.requests {
                    stream.send.send_data(wire::frame(request), false)?;
                }
                self.meter.noticed(&taken);
                if let Some(endpoints) = taken.endpoints {
                    self.meter.endpoints[number].store(endpoints as u64, Relaxed);
                }
                self.meter.acknowledged(number, taken.kind.bit());
                backoff.reset();
                seen |= taken.kind.bit();
                progress(seen);
            }
        }
    }
}

fn node(place: &Place, number: usize) -> Node {
    let Place { namespace, app, ip } = place;
    let text = |text: &str| Value { kind: Some(Kind::Text(text.to_owned())) };
    let labels = Struct { fields: [("app".to_owned(), text(app))].into() };
    let fields = [
        ("NAMESPACE".to_owned(), text(namespace)),
        ("SERVICE_ACCOUNT".to_owned(), text(app)),
        ("WORKLOAD_NAME".to_owned(), text(app)),
        ("CLUSTER_ID".to_owned(), text("Kubernetes")),
        ("LABELS".to_owned(), Value { kind: Some(Kind::Struct(labels)) }),
    ];
    let id = format!("sidecar~{ip}~{app}-{number}.{namespace}~{namespace}.svc.cluster.local");
    Node { id, metadata: Some(Struct { fields: fields.into() }) }
}

const _: () = assert!(SYNCED_ON_DEMAND & RETURNED == 0 && Type::Routes as u8 == 3 && Type::Index as u8 == 5);
