//! The gateways' ports on the host's loopback: which sockets are open, and whose they are. All pods of a gateway accept from the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use mizzen_host::HostError;
use tokio::time::Instant;

use super::plan::Plan;
use crate::{
    cli::find::GatewayPort,
    up::{
        mesh::{Mesh, is_set},
        say,
    },
};

/// How long a gateway may take to let a port go that another one is to have, and how often it is looked.
const LET_GO: Duration = Duration::from_millis(50);
const LET_GO_TRIES: u32 = 60;
/// For so long a port that was closed may be one that a gateway is about to let go.
const RECENT: Duration = Duration::from_secs(10);

/// An open port.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Of what comes there.
    scheme: &'static str,
    /// Where it is on the host.
    address: SocketAddr,
    pub(crate) socket: Arc<TcpListener>,
}

impl PartialEq for Door {
    fn eq(&self, other: &Door) -> bool {
        self.scheme == other.scheme && Arc::ptr_eq(&self.socket, &other.socket)
    }
}

/// Which ports are open: of each gateway, by its name, by their numbers in the Gateways.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Open {
    /// The gateway that stands where the default one does.
    front: String,
    gateways: BTreeMap<String, BTreeMap<u16, Door>>,
}

impl Open {
    /// The ports of a gateway; `None` if there is none of this name any more.
    pub(crate) fn of(&self, gateway: &str) -> Option<&BTreeMap<u16, Door>> {
        self.gateways.get(gateway)
    }

    /// All sockets.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.gateways.values().flat_map(BTreeMap::values).map(|door| &door.socket)
    }

    /// Whether all is open that should be.
    pub(crate) fn has_all(&self, plan: &Plan) -> bool {
        let is_open = |id: &String, port: &u16| self.of(id).is_some_and(|doors| doors.contains_key(port));
        plan.gateways.iter().all(|(id, planned)| planned.ports.keys().all(|port| is_open(id, port)))
    }

    /// The ports as the description of the mesh lists them, those of the gateway in front first.
    pub(crate) fn described(&self) -> Vec<GatewayPort> {
        let others = self.gateways.iter().filter(|(id, _)| **id != self.front);
        let all = self.gateways.get_key_value(&self.front).into_iter().chain(others);
        let described = |gateway: &str, port: u16, door: &Door| {
            // Only what has paths ends in one.
            let path = if door.scheme.starts_with("http") { "/" } else { "" };
            GatewayPort { gateway: gateway.to_owned(), port, address: format!("{}://{}{path}", door.scheme, door.address) }
        };
        all.flat_map(|(id, doors)| doors.iter().map(move |(port, door)| described(id, *port, door))).collect()
    }

    /// Closes what the plan does not have; the ports of this host that are free once the gateways have let them go.
    fn close(&mut self, plan: &Plan) -> BTreeSet<u16> {
        if self.front != plan.front {
            // Who takes its place takes over its ports: its pods have them still, so that they could not be opened once more.
            let is_over = !plan.gateways.contains_key(&self.front) && !self.gateways.contains_key(&plan.front);
            if let Some(doors) = is_over.then(|| self.gateways.remove(&self.front)).flatten() {
                self.gateways.insert(plan.front.clone(), doors);
            }
            self.front.clone_from(&plan.front);
        }
        let mut closed = BTreeSet::new();
        self.gateways.retain(|id, doors| {
            let planned = plan.gateways.get(id);
            doors.retain(|port, door| {
                let stays = planned.is_some_and(|planned| planned.ports.contains_key(port));
                if !stays {
                    closed.insert(door.address.port());
                }
                stays
            });
            planned.is_some()
        });
        closed
    }

    /// Opens what the plan has and is not open yet, by `listen`.
    async fn open<F>(&mut self, plan: &Plan, closed: &BTreeSet<u16>, listen: impl Fn(SocketAddr) -> F)
    where
        F: Future<Output = Result<TcpListener, HostError>>,
    {
        for (id, planned) in plan.in_order() {
            let doors = self.gateways.entry(id.clone()).or_default();
            for (port, scheme) in planned.ports.iter().map(|(port, scheme)| (*port, *scheme)) {
                if let Some(door) = doors.get_mut(&port) {
                    door.scheme = scheme;
                    continue;
                }
                match open(port, closed, &listen).await {
                    Ok((address, socket)) => drop(doors.insert(port, Door { scheme, address, socket: Arc::new(socket) })),
                    Err(error) => say::error(&format!("port {port} of gateway {id} cannot be opened on this host: {error}")),
                }
            }
        }
    }
}

/// The same number on the host if an ordinary user may use it, else 8000 more (80 → 8080, 443 → 8443); a free one if that is taken. One of `closed` another
/// gateway is about to let go.
async fn open<F>(port: u16, closed: &BTreeSet<u16>, listen: &impl Fn(SocketAddr) -> F) -> Result<(SocketAddr, TcpListener), HostError>
where
    F: Future<Output = Result<TcpListener, HostError>>,
{
    let number = if port < 1024 { port + 8000 } else { port };
    let at = |number: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    let mut socket = listen(at(number)).await;
    for _ in 0..if closed.contains(&number) { LET_GO_TRIES } else { 0 } {
        if socket.is_ok() {
            break;
        }
        tokio::time::sleep(LET_GO).await;
        socket = listen(at(number)).await;
    }
    let socket = match socket {
        Ok(socket) => socket,
        Err(_) => listen(at(0)).await?,
    };
    let address = socket.local_addr().map_err(|error| HostError::Outer(error.to_string()))?;
    Ok((address, socket))
}

/// Keeps those ports open that Gateways name, until the mesh ends.
pub(crate) async fn keep(mesh: Arc<Mesh>) -> Result<()> {
    let mut objects = mesh.objects.subscribe();
    let mut ending = mesh.ending.subscribe();
    let mut now = Open::default();
    let mut recent: BTreeMap<u16, Instant> = BTreeMap::new();
    let publish = |now: &Open| {
        mesh.doors.send_if_modified(|before| {
            let changed = before != now;
            before.clone_from(now);
            changed
        })
    };
    loop {
        let plan = Plan::new(&objects.borrow_and_update(), mesh.serving);
        recent.retain(|_, at| at.elapsed() < RECENT);
        recent.extend(now.close(&plan).into_iter().map(|port| (port, Instant::now())));
        // Their pods hear of it before anybody else gets these ports.
        publish(&now);
        let closed = recent.keys().copied().collect();
        now.open(&plan, &closed, |address| {
            let link = mesh.link.clone();
            async move { link.listen(address).await }
        })
        .await;
        publish(&now);
        tokio::select! {
            changed = objects.changed() => changed?,
            () = is_set(&mut ending) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::{super::plan::Planned, *};

    /// A host on which nothing is opened twice, unless it is let go after so many tries; sockets are those of ports that the system chose.
    #[derive(Default)]
    struct Host {
        taken: RefCell<BTreeSet<u16>>,
        let_go_after: Cell<Option<u32>>,
        asked: Cell<u32>,
    }

    impl Host {
        async fn follow(&self, open: &mut Open, front: &str, gateways: &[(&str, &[u16])]) {
            let planned = |ports: &[u16]| Planned { ports: ports.iter().map(|port| (*port, "http")).collect(), ..Planned::default() };
            let gateways = gateways.iter().map(|(id, ports)| ((*id).to_owned(), planned(ports))).collect();
            let plan = Plan { front: front.to_owned(), is_default: false, gateways };
            // As if the host's ports had the numbers that were wanted.
            let closed = open.close(&plan);
            let closed = if closed.is_empty() { closed } else { self.taken.borrow().clone() };
            open.open(&plan, &closed, |address| std::future::ready(self.listen(address.port()))).await;
            assert!(open.has_all(&plan));
        }

        fn listen(&self, port: u16) -> Result<TcpListener, HostError> {
            self.asked.set(self.asked.get() + 1);
            let is_free = port == 0 || self.taken.borrow_mut().insert(port) || self.let_go_after.get() == Some(0);
            self.let_go_after.set(self.let_go_after.get().map(|tries| tries.saturating_sub(1)));
            if is_free { Ok(TcpListener::bind("127.0.0.1:0").expect("a port")) } else { Err(HostError::Outer("taken".to_owned())) }
        }
    }

    fn ports(open: &Open) -> Vec<(String, u16)> {
        open.described().into_iter().map(|port| (port.gateway, port.port)).collect()
    }

    fn named(all: &[(&str, u16)]) -> Vec<(String, u16)> {
        all.iter().map(|(gateway, port)| ((*gateway).to_owned(), *port)).collect()
    }

    #[tokio::test]
    async fn each_gateway_has_ports_of_its_own() {
        let (host, mut open) = (Host::default(), Open::default());
        host.follow(&mut open, "b/front", &[("a/one", &[80, 443]), ("b/front", &[80])]).await;
        assert_eq!(ports(&open), named(&[("b/front", 80), ("a/one", 80), ("a/one", 443)]));
        // Both want 8080: the one in front has it.
        assert_eq!(host.taken.borrow().iter().copied().collect::<Vec<_>>(), [8080, 8443]);
        let addresses: BTreeSet<String> = open.described().into_iter().map(|port| port.address).collect();
        assert_eq!(addresses.len(), 3, "{addresses:?}");
        assert!(addresses.iter().all(|address| address.starts_with("http://127.0.0.1:") && address.ends_with('/')), "{addresses:?}");
        let before = open.clone();
        host.follow(&mut open, "b/front", &[("a/one", &[443]), ("b/front", &[80])]).await;
        assert_eq!(ports(&open), named(&[("b/front", 80), ("a/one", 443)]));
        assert!(before.of("a/one").is_some_and(|doors| doors.get(&443) == open.of("a/one").and_then(|doors| doors.get(&443))));
        host.follow(&mut open, "b/front", &[("b/front", &[80])]).await;
        assert!(open.of("a/one").is_none() && open.of("b/front") == before.of("b/front"));
    }

    #[tokio::test]
    async fn who_takes_the_place_in_front_takes_over_its_ports() {
        let (host, mut open) = (Host::default(), Open::default());
        host.follow(&mut open, "a/default", &[("a/default", &[80])]).await;
        let before = open.clone();
        host.follow(&mut open, "a/own", &[("a/own", &[80])]).await;
        assert_eq!((open.of("a/own"), open.of("a/default")), (before.of("a/default"), None));
        // One that stood elsewhere already has its own.
        host.follow(&mut open, "a/own", &[("a/own", &[80]), ("c/other", &[80])]).await;
        let other = open.of("c/other").cloned();
        host.follow(&mut open, "c/other", &[("c/other", &[80])]).await;
        assert_eq!((open.of("c/other"), open.of("a/own")), (other.as_ref(), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_moves_is_waited_for() {
        let (host, mut open) = (Host::default(), Open::default());
        host.follow(&mut open, "a/one", &[("a/one", &[443]), ("b/two", &[])]).await;
        assert_eq!(host.asked.take(), 1, "nobody has it");
        host.let_go_after.set(Some(3));
        host.follow(&mut open, "a/one", &[("a/one", &[]), ("b/two", &[443])]).await;
        assert_eq!((ports(&open), host.asked.take()), (named(&[("b/two", 443)]), 4));
        // Of who does not let go the port is not had, but another one.
        host.let_go_after.set(None);
        host.follow(&mut open, "a/one", &[("a/one", &[443]), ("b/two", &[])]).await;
        assert_eq!((ports(&open), host.asked.take()), (named(&[("a/one", 443)]), 1 + LET_GO_TRIES + 1));
        // One that is somebody else's is not waited for.
        host.taken.borrow_mut().insert(8080);
        host.follow(&mut open, "a/one", &[("a/one", &[80, 443]), ("b/two", &[])]).await;
        assert_eq!((ports(&open), host.asked.take()), (named(&[("a/one", 80), ("a/one", 443)]), 2));
    }
}
