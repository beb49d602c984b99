//! The mesh's gateway: a proxy without a program, whose ports are opened on the host's loopback.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::Result;
use mizzen_api::core::PodSpec;
use mizzen_host::HostError;
use mizzen_model::TLS_MODE_LABEL;
use tokio::sync::watch;

use super::{
    desired::{self, Wanted},
    entrance::Entrance,
    mesh::{Mesh, is_set},
    pod::Place,
    proxy::Role,
    say,
};
use crate::cli::find::GatewayPort;

/// The name of the gateway and the value of its label `istio`, as in Istio's default installation.
const NAME: &str = "istio-ingressgateway";

/// The labels that a Gateway's `selector` has to name.
pub(crate) fn labels() -> BTreeMap<String, String> {
    [("app", NAME), ("istio", "ingressgateway")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn pod() -> Wanted {
    let mut labels = labels();
    // What its servers say is what it takes: sidecars that call it begin mutual TLS where a DestinationRule says so, as with Istio's gateways.
    labels.insert(TLS_MODE_LABEL.to_owned(), "disabled".to_owned());
    Wanted {
        name: NAME.to_owned(),
        namespace: "istio-system".to_owned(),
        workload: NAME.to_owned(),
        labels,
        annotations: BTreeMap::new(),
        spec: PodSpec { service_account: format!("{NAME}-service-account"), ..PodSpec::default() },
    }
}

/// Which ports are open, by their number in the Gateways, each with the scheme of what comes there.
pub(crate) type Open = BTreeMap<u16, (SocketAddr, &'static str)>;

/// The ports that Gateways name, each with the scheme of what comes there.
pub(crate) fn wanted(mesh: &Mesh, objects: &desired::Objects) -> BTreeMap<u16, &'static str> {
    desired::gateway_ports(objects, &labels(), mesh.payload.https.is_some())
}

/// Runs the gateway from the first Gateway on until the mesh ends, and opens each port as soon as a Gateway names it.
pub(crate) async fn run(mesh: Arc<Mesh>, open: watch::Sender<Open>) -> Result<()> {
    let mut objects = mesh.objects.subscribe();
    let mut ending = mesh.ending.subscribe();
    tokio::select! {
        first = objects.wait_for(|o| !wanted(&mesh, o).is_empty()) => drop(first?),
        () = is_set(&mut ending) => return Ok(()),
    }
    let pod = Arc::new(pod());
    let (mut entrance, inherit) = match mesh.payload.data_plane.foreign() {
        None => Entrance::pass().map(|(entrance, socket)| (entrance, Some(socket)))?,
        Some(_) => (Entrance::carry(), None),
    };
    let place = Place::make(&mesh, &pod, Role::Router, inherit).await?;
    let mut ready = place.proxy.ready.clone();
    let mut sockets: BTreeMap<u16, TcpListener> = BTreeMap::new();
    loop {
        let wanted = wanted(&mesh, &objects.borrow_and_update());
        open_ports(&mesh, &wanted, &mut sockets, &open).await;
        entrance.lead(&sockets, place.address, &ready).await?;
        tokio::select! {
            changed = objects.changed() => changed?,
            changed = ready.changed() => {
                changed?;
                let now = *ready.borrow_and_update();
                place.tell(now);
                entrance.forget();
                if now {
                    say::step(&format!("{}/{} is ready", pod.namespace, pod.name));
                }
            }
            () = is_set(&mut ending) => break,
        }
    }
    place.remove().await;
    Ok(())
}

/// Opens the ports that are wanted and not open yet, and closes those that no Gateway names any more.
async fn open_ports(
    mesh: &Mesh,
    wanted: &BTreeMap<u16, &'static str>,
    sockets: &mut BTreeMap<u16, TcpListener>,
    open: &watch::Sender<Open>,
) {
    sockets.retain(|port, _| wanted.contains_key(port));
    for port in wanted.keys() {
        if sockets.contains_key(port) {
            continue;
        }
        match listen(mesh, *port).await {
            Ok(socket) => drop(sockets.insert(*port, socket)),
            Err(error) => say::error(&format!("port {port} of the gateway cannot be opened on this host: {error}")),
        }
    }
    let address = |port: &u16, socket: &TcpListener| Some((*port, (socket.local_addr().ok()?, wanted.get(port).copied()?)));
    let now: Open = sockets.iter().filter_map(|(port, socket)| address(port, socket)).collect();
    open.send_if_modified(|before| {
        let changed = *before != now;
        *before = now;
        changed
    });
}

/// The same number on the host if an ordinary user may use it, else 8000 more (80 → 8080, 443 → 8443); a free one if that is taken.
async fn listen(mesh: &Mesh, port: u16) -> Result<TcpListener, HostError> {
    let number = if port < 1024 { port + 8000 } else { port };
    let at = |number: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    match mesh.link.listen(at(number)).await {
        Ok(socket) => Ok(socket),
        Err(_) => mesh.link.listen(at(0)).await,
    }
}

/// The ports as the description of the mesh lists them.
pub(crate) fn described(open: &Open) -> Vec<GatewayPort> {
    let described = |(port, (address, scheme)): (&u16, &(SocketAddr, &'static str))| {
        // Only what has paths ends in one.
        let path = if scheme.starts_with("http") { "/" } else { "" };
        GatewayPort { port: *port, address: format!("{scheme}://{address}{path}") }
    };
    open.iter().map(described).collect()
}
