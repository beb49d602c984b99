//! Credentials replaced a thousand times under load: no call fails, nothing is held of what is gone, and connections go on.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use mizzen_testkit::{Connection, Credential, Dialer, Options, churn, eventually, memory, skip};

use crate::world::{World, servers};

/// Hosts with a certificate each, and how often all of them are replaced.
const HOSTS: usize = 5;
const ROUNDS: usize = 200;
/// Memory is compared from the round on after which a hundred credentials were replaced.
const SETTLED: usize = 100 / HOSTS;
/// Rounds of which the least that is held counts: what a load holds for a moment is no one's loss.
const LOOKS: usize = 10;
/// How much more may be held after all of the rounds, in KiB: of 900 credentials, not even 5 KiB each. A certificate with its key and the
/// configuration that is made of it are more.
const MORE: u64 = 4096;
/// Calls of a client on one connection.
const KEPT: usize = 10;
/// What is called: the program answers it itself, whoever else is there.
const PATH: &str = "/healthz";

fn host(number: usize) -> String {
    format!("h{number}.example")
}

/// Where the hosts are, and who calls them.
struct Edge<'w> {
    world: &'w World,
    address: SocketAddr,
    /// Takes no session of an earlier connection, so that it is shown what is in force.
    fresh: Dialer,
}

impl<'w> Edge<'w> {
    fn open(world: &'w World) -> Edge<'w> {
        let none = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut edge = Edge { world, address: none, fresh: Dialer::new(&world.server.root, false) };
        world.mesh.save(
            "replaced.yaml",
            &servers("replaced", (0..HOSTS).map(|number| (host(number), format!("mode: SIMPLE, credentialName: h{number}")))),
        );
        let first = edge.replace();
        edge.address.set_port(eventually("the port", || match world.port(443) {
            0 => Err(world.mesh.logs()),
            port => Ok(port),
        }));
        edge.wait_for(&first);
        for number in 0..HOSTS {
            eventually("the route", || called(&mut edge.fresh.dial(edge.address, &host(number))?));
        }
        edge
    }

    /// Writes new credentials for all hosts, as one change of the folder.
    fn replace(&self) -> Vec<Credential> {
        let all: Vec<Credential> = (0..HOSTS).map(|number| self.world.server.issue(&[&host(number)])).collect();
        let text: String = all.iter().enumerate().map(|(i, one)| one.secret("istio-system", &format!("h{i}"), &[])).collect();
        self.world.mesh.save("credentials.yaml", &text);
        all
    }

    /// Until each host shows the newest one.
    fn wait_for(&self, newest: &[Credential]) {
        for (number, credential) in newest.iter().enumerate() {
            eventually("the new certificate is shown", || {
                let shown = self.fresh.dial(self.address, &host(number))?.shown();
                if is_same(&shown, &credential.certificate) { Ok(()) } else { Err(shown) }
            });
        }
    }

    /// A client of a thread's own: a connection, ten calls, and the next connection to the next host, which may resume a session.
    fn client(&self, number: usize, over: &Arc<AtomicBool>) -> JoinHandle<(usize, Vec<String>)> {
        let (address, over) = (self.address, over.clone());
        let dialer = Dialer::new(&self.world.server.root, true);
        thread::spawn(move || {
            let (mut calls, mut failures) = (0, Vec::new());
            for turn in number.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                match dialer.dial(address, &host(turn % HOSTS)) {
                    Err(error) => failures.push(error),
                    Ok(mut connection) => {
                        failures.extend((0..KEPT).filter_map(|_| called(&mut connection).err()));
                        calls += KEPT;
                    }
                }
            }
            (calls, failures)
        })
    }
}

fn is_same(a: &str, b: &str) -> bool {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    !a.is_empty() && bare(a) == bare(b)
}

fn called(connection: &mut Connection) -> Result<(), String> {
    match connection.get(PATH)? {
        200 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

/// The process of the gateway's proxy, where it may be found.
fn proxy(world: &World) -> Option<i32> {
    let found =
        world.mesh.running("mizzen-proxy").into_iter().find(|pid| churn::pod(*pid).is_some_and(|pod| pod == "istio-ingressgateway"));
    if found.is_none() {
        skip("whose proxy is whose is shown to the mesh's own user alone: the gateway's memory is not looked at");
    }
    found
}

#[test]
fn credentials_replaced_under_load() {
    let mut world = World::start(Options::default());
    let edge = Edge::open(&world);
    let listeners = || world.mesh.cli(&["proxy-config", "listener", "istio-ingressgateway.istio-system", "-o", "json"]).ok();
    let (before, gateway) = (listeners(), proxy(&world));
    // Connections of the very first credentials, one of them to each host.
    let mut old: Vec<Connection> = (0..HOSTS).map(|number| edge.fresh.dial(edge.address, &host(number)).expect("a connection")).collect();
    let shown: Vec<String> = old.iter().map(Connection::shown).collect();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2).map(|number| edge.client(number, &over)).collect();
    let mut held: Vec<u64> = Vec::new();
    for round in 0..ROUNDS {
        let newest = edge.replace();
        edge.wait_for(&newest);
        held.extend(gateway.map(|pid| memory(pid).expect("the gateway lives").anonymous));
        if round % SETTLED == 0 {
            for connection in &mut old {
                assert_eq!(called(connection), Ok(()), "round {round}: a connection of an old credential goes on");
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let (mut calls, mut failures) = (0, Vec::new());
    for client in clients {
        let (of_client, failed) = client.join().expect("a client");
        calls += of_client;
        failures.extend(failed);
    }
    let least = |upto: usize| held[upto - LOOKS..upto].iter().min().copied().unwrap_or_default();
    let numbers = gateway.map(|_| (least(SETTLED), least(ROUNDS)));
    println!("{calls} calls during {} replacements; held, in KiB: {numbers:?}", HOSTS * ROUNDS);
    assert!(failures.is_empty() && calls > HOSTS * ROUNDS, "{} of {calls} calls: {:?}", failures.len(), failures.first());
    if let Some((first, last)) = numbers {
        assert!(last <= first + MORE, "the gateway held {first} KiB after a hundred replacements, and {last} KiB after all: {held:?}");
    }
    for (connection, first) in old.iter_mut().zip(&shown) {
        assert_eq!((called(connection), &connection.shown()), (Ok(()), first));
    }
    assert_eq!(listeners(), before, "no listener is another one for a new credential");
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}
