//! What is in the mesh's folder, and one random change of it after the other. Each change replaces or removes one file in one step.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::{
    orders::{Order, Speaks, Target},
    yaml::{BASE, Elsewhere, FLEETING, HTTP, NAMESPACE, Rare, Routing, TRAFFIC_POLICIES, VERSIONS, mode, namespaces, policies, sidecar},
};
use crate::echo::{echo, stock};

/// The longest pause between two requests to a rare name, in times of what a proxy waits before it lets go what is not used.
const PAUSES: u64 = 4;

/// Writes the mesh without anything that only a running one has.
pub(super) fn write_base(folder: &Path) {
    let put = |name: &str, text: &str| write(folder, Path::new(name), text);
    put("base.yaml", BASE);
    put("mode-mesh.yaml", &mode("istio-system", "PERMISSIVE"));
    put("routing.yaml", &Routing::only(VERSIONS[0]).yaml());
    put("allow.yaml", &policies()[0]);
    put("stock.yaml", &stock(NAMESPACE, 2));
    VERSIONS.iter().for_each(|version| put(&format!("echo-{version}.yaml"), &echo(NAMESPACE, version, 1)));
    put(&format!("echo-{FLEETING}.yaml"), &echo(NAMESPACE, FLEETING, 1));
}

/// The folder, and what it holds.
pub(super) struct World {
    folder: PathBuf,
    rng: fastrand::Rng,
    elsewhere: BTreeMap<u32, Elsewhere>,
    /// Numbers of services that there may be.
    most: u32,
    rare: BTreeMap<u32, Rare>,
    /// Those that the load was told to leave: they go when it has.
    leaving: BTreeSet<u32>,
    /// Those that the load uses.
    known: BTreeSet<u32>,
    next_rare: u32,
    routing: Routing,
    /// Where HTTP and where lines are spoken, for good.
    servers: [Vec<Ipv4Addr>; 2],
    /// The longest pause of rare names, in milliseconds.
    pause: u64,
    /// By the kind of change.
    pub(super) made: BTreeMap<&'static str, u64>,
}

/// A kind of change, and how often it comes beside the others.
const KINDS: [(&str, u32); 15] = [
    ("endpoint elsewhere", 20),
    ("weight elsewhere", 10),
    ("rule elsewhere", 10),
    ("new service elsewhere", 8),
    ("service elsewhere gone", 8),
    ("weights of the load", 8),
    ("rule of the load", 6),
    ("route of the load", 6),
    ("mode of mutual TLS", 5),
    ("policy", 5),
    ("endpoints of a rare name", 10),
    ("rule of a rare name", 6),
    ("new rare name", 6),
    ("rare name gone", 6),
    ("scope or replicas", 2),
];

impl World {
    /// Fills the folder of a running mesh: so many services, and names that the load is told of.
    pub(super) fn fill(folder: &Path, services: u32, rare: u32, servers: [Vec<Ipv4Addr>; 2], idle: u64, seed: u64) -> (World, Vec<Order>) {
        let mut world = World {
            folder: folder.to_owned(),
            rng: fastrand::Rng::with_seed(seed),
            elsewhere: (0..services).map(|number| (number, Elsewhere::new(number))).collect(),
            most: services * 2 + 20,
            rare: BTreeMap::new(),
            leaving: BTreeSet::new(),
            known: BTreeSet::new(),
            next_rare: 0,
            routing: Routing::only(VERSIONS[0]),
            servers,
            pause: idle * PAUSES,
            made: BTreeMap::new(),
        };
        for (name, text) in namespaces(services) {
            world.write(&name, &text);
        }
        for service in world.elsewhere.values() {
            world.write(&service.file(), &service.yaml());
        }
        let orders = (0..rare).map(|_| world.new_rare()).collect();
        (world, orders)
    }

    /// One random change. What the load has to be told.
    pub(super) fn change(&mut self) -> Option<Order> {
        let total: u32 = KINDS.iter().map(|(_, often)| often).sum();
        let mut at = self.rng.u32(..total);
        let kind = KINDS.iter().find(|(_, often)| {
            let hit = at < *often;
            at = at.saturating_sub(*often);
            hit
        });
        let kind = kind.map(|(kind, _)| *kind)?;
        *self.made.entry(kind).or_default() += 1;
        match kind {
            "endpoint elsewhere" => self.elsewhere(|service, _| service.moved += 1),
            "weight elsewhere" => self.elsewhere(|service, rng| service.weight = rng.u32(0..=100)),
            "rule elsewhere" => self.elsewhere(|service, rng| service.connections = rng.u32(1..=1000)),
            "new service elsewhere" => self.new_elsewhere(),
            "service elsewhere gone" => self.elsewhere_gone(),
            "weights of the load" | "rule of the load" | "route of the load" => self.route(kind),
            "mode of mutual TLS" => self.mode(),
            "policy" => {
                let text = self.one_of(&policies()).clone();
                self.write("allow.yaml", &text);
            }
            "endpoints of a rare name" | "rule of a rare name" => self.change_rare(kind),
            "new rare name" => return Some(self.new_rare()),
            "rare name gone" => return self.leave_rare(),
            _ => self.scope_or_replicas(),
        }
        None
    }

    /// All of the load's requests to `echo` go to this version.
    pub(super) fn only(&mut self, version: &'static str) {
        self.routing = Routing::only(version);
        self.write("routing.yaml", &self.routing.yaml());
    }

    /// The load knows this name.
    pub(super) fn known(&mut self, host: &str) {
        self.known.extend(number(host));
    }

    /// The load asks there no more: the name may go.
    pub(super) fn left(&mut self, host: &str) {
        let Some(rare) = number(host).filter(|number| self.leaving.remove(number)).and_then(|number| self.rare.remove(&number)) else {
            return;
        };
        let _ = fs::remove_file(self.folder.join(rare.file()));
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.rng.usize(..all.len())]
    }

    fn elsewhere(&mut self, change: impl FnOnce(&mut Elsewhere, &mut fastrand::Rng)) {
        let at = self.rng.usize(..self.elsewhere.len().max(1));
        let Some(service) = self.elsewhere.values_mut().nth(at) else { return };
        change(service, &mut self.rng);
        let service = *service;
        self.write(&service.file(), &service.yaml());
    }

    fn new_elsewhere(&mut self) {
        let number = self.rng.u32(..self.most);
        let service = *self.elsewhere.entry(number).or_insert_with(|| Elsewhere::new(number));
        self.write(&service.file(), &service.yaml());
    }

    fn elsewhere_gone(&mut self) {
        let at = self.rng.usize(..self.elsewhere.len().max(1));
        let Some(number) = self.elsewhere.keys().nth(at).copied() else { return };
        if let Some(service) = self.elsewhere.remove(&number) {
            let _ = fs::remove_file(self.folder.join(service.file()));
        }
    }

    fn route(&mut self, kind: &str) {
        match kind {
            "rule of the load" => self.routing.traffic_policy = *self.one_of(&TRAFFIC_POLICIES),
            "route of the load" => self.routing.http = *self.one_of(&HTTP),
            _ => {
                let mut versions = VERSIONS;
                self.rng.shuffle(&mut versions);
                let used = self.rng.usize(..=versions.len());
                let first = if used > 1 { self.rng.u32(1..=98) } else { 100 };
                let weights = match used {
                    0 | 1 => vec![first; used],
                    2 => vec![first, 100 - first],
                    _ => vec![first, 1, 99 - first],
                };
                self.routing.weights = versions.into_iter().zip(weights).collect();
            }
        }
        self.write("routing.yaml", &self.routing.yaml());
    }

    fn mode(&mut self) {
        let mode_now = *self.one_of(&["STRICT", "PERMISSIVE"]);
        if self.rng.bool() {
            self.write("mode-mesh.yaml", &mode("istio-system", mode_now));
        } else if self.rng.bool() {
            self.write("mode-churn.yaml", &mode("churn", mode_now));
        } else {
            let _ = fs::remove_file(self.folder.join("mode-churn.yaml"));
        }
    }

    fn scope_or_replicas(&mut self) {
        match self.rng.u32(..4) {
            0 => self.write("sidecar.yaml", &sidecar(true)),
            1 => self.write("sidecar.yaml", &sidecar(false)),
            2 => drop(fs::remove_file(self.folder.join("sidecar.yaml"))),
            _ => {
                let replicas = self.rng.u32(1..=2);
                self.write(&format!("echo-{FLEETING}.yaml"), &echo(NAMESPACE, FLEETING, replicas));
            }
        }
    }

    /// Some of the servers, at least one.
    fn endpoints(&mut self, http: bool) -> Vec<Ipv4Addr> {
        let mut servers = self.servers[usize::from(!http)].clone();
        self.rng.shuffle(&mut servers);
        servers.truncate(self.rng.usize(1..=servers.len().max(1)));
        servers
    }

    fn new_rare(&mut self) -> Order {
        let (number, http) = (self.next_rare, !self.next_rare.is_multiple_of(3));
        self.next_rare += 1;
        let endpoints = self.endpoints(http);
        let rare = Rare { number, http, endpoints, traffic_policy: None, route: None };
        self.write(&rare.file(), &rare.yaml());
        let speaks = if http { Speaks::H1 } else { Speaks::Lines };
        let order = Order::Use(Target { host: rare.host(), port: rare.port(), speaks }, self.pause);
        self.rare.insert(number, rare);
        order
    }

    fn leave_rare(&mut self) -> Option<Order> {
        let able: Vec<u32> = self.known.iter().copied().filter(|number| !self.leaving.contains(number)).collect();
        if able.len() < 2 {
            return None;
        }
        let number = *self.one_of(&able);
        self.known.remove(&number);
        self.leaving.insert(number);
        self.rare.get(&number).map(|rare| Order::Leave(rare.host()))
    }

    fn change_rare(&mut self, kind: &str) {
        let at = self.rng.usize(..self.rare.len().max(1));
        let Some(mut rare) = self.rare.values().nth(at).cloned() else { return };
        if kind == "endpoints of a rare name" {
            rare.endpoints = self.endpoints(rare.http);
        } else if self.rng.bool() {
            rare.traffic_policy = if self.rng.bool() { None } else { Some(*self.one_of(&TRAFFIC_POLICIES)) };
        } else {
            rare.route = if self.rng.bool() { None } else { Some(*self.one_of(&HTTP)) };
        }
        self.write(&rare.file(), &rare.yaml());
        self.rare.insert(rare.number, rare);
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.folder, Path::new(name), text);
    }
}

/// As an editor saves it: written beside and renamed.
pub(super) fn write(folder: &Path, name: &Path, text: &str) {
    let path = folder.join(name);
    let parent = path.parent().expect("a folder");
    let partial = parent.join(".partial");
    fs::create_dir_all(parent).and_then(|()| fs::write(&partial, text)).and_then(|()| fs::rename(&partial, &path)).expect("save a file");
}

/// The number of a rare name.
fn number(host: &str) -> Option<u32> {
    host.strip_prefix('r')?.split('.').next()?.parse().ok()
}
