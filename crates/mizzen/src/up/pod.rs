//! One workload from its start to its end: a host, the capture, a proxy, the program, its readiness.

use std::{convert::Infallible, net::Ipv4Addr, os::fd::OwnedFd, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mizzen_api::core::{Probe, ProbeAction, TargetPort};
use mizzen_capture::{Plan, Settings};
use mizzen_host::{Host, Io, LogFile, Process, RestartDelay, Spec, probe};
use tokio::{sync::watch, time::Instant};

use super::{
    desired::Wanted,
    mesh::{Mesh, is_set},
    proxy::{self, Proxy, Role},
    say, settings, workload,
};
use crate::cli::find::POD_FILE;

/// A program's log is kept up to this size, twice.
const LOG_LIMIT: u64 = 16 << 20;
/// After a workload has left the endpoints, how long it goes on before it is told to end: proxies hear of it meanwhile.
const LEAVE_FIRST: Duration = Duration::from_secs(1);
/// How long programs get when the whole mesh ends.
const END_GRACE: Duration = Duration::from_secs(2);

/// A host with its proxy, made for one workload.
pub(crate) struct Place {
    pub(crate) host: Arc<Host>,
    pub(crate) proxy: Proxy,
    pub(crate) address: Ipv4Addr,
    pub(crate) pod: Arc<Wanted>,
    mesh: Arc<Mesh>,
}

impl Place {
    /// Makes the host, captures its traffic, and starts the proxy.
    ///
    /// # Errors
    /// If an annotation cannot be understood, or the kernel refuses a step.
    pub(crate) async fn make(mesh: &Arc<Mesh>, pod: &Arc<Wanted>, role: Role, inherit: Option<OwnedFd>) -> Result<Place> {
        let address = mesh.addresses().pod().context("all addresses of the mesh are in use")?;
        let name = format!("{}/{}", pod.namespace, pod.name);
        let folder = proxy::folder(mesh, pod);
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join(POD_FILE), pod.id()))
            .with_context(|| folder.display().to_string())?;
        mesh.told.pod(pod, address, false)?;
        mesh.note(&name, |ready| ready.address = Some(address));
        let host = Arc::new(Host::create(&mesh.router, address).await?);
        if role == Role::Sidecar {
            host.capture(&Plan::new(&Settings::from_annotations(&pod.annotations)?)).await?;
        }
        let proxy = Proxy::start(mesh.clone(), host.clone(), pod.clone(), role, inherit);
        if mesh.payload.second_layer.is_some() {
            mesh.known.add(address, pod, mesh.ending.subscribe()).await;
        }
        Ok(Place { host, proxy, address, pod: pod.clone(), mesh: mesh.clone() })
    }

    /// Tells everybody whether the workload takes traffic.
    pub(crate) fn tell(&self, ready: bool) {
        if let Err(error) = self.mesh.told.pod(&self.pod, self.address, ready) {
            say::error(&format!("cannot write that {}/{} is ready: {error}", self.pod.namespace, self.pod.name));
        }
        self.mesh.note(&format!("{}/{}", self.pod.namespace, self.pod.name), |entry| {
            entry.ready = ready;
            entry.reason = None;
        });
    }

    /// Takes the workload out of the endpoints and gives the others time to hear of it.
    pub(crate) async fn leave(&self) {
        self.mesh.told.remove_pod(&self.pod);
        if !*self.mesh.ending.borrow() {
            tokio::time::sleep(LEAVE_FIRST).await;
        }
    }

    /// Ends the proxy and removes the host. The program has ended before.
    pub(crate) async fn remove(self) {
        self.mesh.told.remove_pod(&self.pod);
        self.proxy.stop().await;
        if let Ok(host) = Arc::try_unwrap(self.host) {
            // What is left of it goes with its last process.
            let _ = host.delete(&self.mesh.router).await;
        }
        self.mesh.known.remove(self.address);
        self.mesh.addresses().release_pod(self.address);
        self.mesh.forget(&format!("{}/{}", self.pod.namespace, self.pod.name));
        let _ = std::fs::remove_dir_all(proxy::folder(&self.mesh, &self.pod));
    }
}

/// Makes the place of a pod when its turn comes. `None`: it was to end before that, or could not be made and has ended since.
pub(crate) async fn place(
    mesh: &Arc<Mesh>,
    pod: &Arc<Wanted>,
    role: Role,
    inherit: Option<OwnedFd>,
    stop: &mut watch::Receiver<bool>,
) -> Option<Place> {
    // What is wrong with it keeps the proxy from starting, and is said there.
    let (_, told) = settings::own(&pod.annotations).unwrap_or_default();
    told.iter().for_each(|line| say::warning(&format!("{}/{}: {line}", pod.namespace, pod.name)));
    let turn = tokio::select! {
        biased;
        () = is_set(stop) => return None,
        turn = mesh.starts.acquire() => turn,
    };
    let made = Place::make(mesh, pod, role, inherit).await;
    drop(turn);
    match made {
        Ok(place) => Some(place),
        Err(error) => {
            failed(mesh, pod, &error, stop).await;
            None
        }
    }
}

/// Says that a pod cannot be started, and waits until nobody wants it any more.
pub(crate) async fn failed(mesh: &Mesh, pod: &Wanted, error: &anyhow::Error, stop: &mut watch::Receiver<bool>) {
    let name = format!("{}/{}", pod.namespace, pod.name);
    say::error(&format!("{name} cannot be started: {error:#}"));
    mesh.note(&name, |ready| ready.reason = Some(format!("{error:#}")));
    is_set(stop).await;
    mesh.forget(&name);
}

/// Runs a workload until `stop`.
pub(crate) async fn live(mesh: Arc<Mesh>, pod: Arc<Wanted>, mut stop: watch::Receiver<bool>) {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let Some(mut place) = place(&mesh, &pod, Role::Sidecar, None, &mut stop).await else { return };
    tokio::select! {
        () = place.proxy.is_ready() => {}
        () = is_set(&mut stop) => return place.remove().await,
    }
    if let Err(error) = keep(&mesh, &pod, &place, stop).await {
        say::error(&format!("{name}: {error:#}"));
    }
    place.remove().await;
}

/// Keeps the program running until `stop`, and ends it then.
async fn keep(mesh: &Arc<Mesh>, pod: &Arc<Wanted>, place: &Place, mut stop: watch::Receiver<bool>) -> Result<()> {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let log = LogFile::open(&proxy::folder(mesh, pod).join("log"), LOG_LIMIT)?;
    let mut restart = RestartDelay::default();
    loop {
        restart.started(Instant::now().into_std());
        let objects = mesh.objects.borrow().clone();
        let started = match workload::spec(mesh, pod, place.address, &objects) {
            Ok(spec) => mesh.supervisor.spawn(&place.host, &spec, Io::to(log.pipe()?)?).await.map(|p| (p, spec)).map_err(Into::into),
            Err(error) => Err(error),
        };
        let reason = match started {
            Ok((process, spec)) => {
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    never = watch_readiness(mesh, pod, place, &process, &spec) => match never {},
                    () = is_set(&mut stop) => {
                        place.leave().await;
                        let grace = if *mesh.ending.borrow() { END_GRACE } else { pod.spec.termination_grace_period };
                        process.stop(grace).await;
                        return Ok(());
                    }
                };
                place.tell(false);
                format!("its program ended ({})", say::end(ended, &log).await)
            }
            Err(error) => format!("its program does not start: {error:#}"),
        };
        let delay = restart.ended(Instant::now().into_std());
        say::error(&format!("{name}: {reason}; it is started again in {delay:?}, see `mizzen logs {}.{}`", pod.name, pod.namespace));
        log.note(&reason);
        mesh.note(&name, |ready| {
            ready.restarts += 1;
            ready.reason = Some(reason);
        });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = is_set(&mut stop) => return Ok(()),
        }
    }
}

/// Follows the readiness of program and proxy, and tells of every change, until it is dropped.
async fn watch_readiness(mesh: &Mesh, pod: &Wanted, place: &Place, process: &Process, spec: &Spec) -> Infallible {
    let found = pod.container().readiness_probe.as_ref();
    let mut proxy = place.proxy.ready.clone();
    let (mut ready, mut successes, mut failures) = (false, 0, 0);
    if let Some(probe) = found {
        tokio::time::sleep(probe.initial_delay).await;
    }
    loop {
        let result = match found {
            Some(probe) => try_once(mesh, pod, place, process, spec, probe).await,
            None => Ok(()),
        };
        let (need, tolerate) = found.map_or((1, 1), |p| (p.success_threshold, p.failure_threshold));
        match &result {
            Ok(()) => (successes, failures) = (successes + 1, 0),
            Err(_) => (successes, failures) = (0, failures + 1),
        }
        let program = if ready { failures < tolerate } else { successes >= need };
        let now = program && *proxy.borrow_and_update();
        if now != ready {
            ready = now;
            place.tell(ready);
            let (name, namespace) = (&pod.name, &pod.namespace);
            match (&result, ready) {
                (_, true) => say::step(&format!("{namespace}/{name} is ready")),
                (Err(why), _) => say::step(&format!("{namespace}/{name} is not ready any more: {why}")),
                (Ok(()), _) => say::step(&format!("{namespace}/{name} is not ready any more: its proxy is not")),
            }
        } else if let Err(why) = &result {
            mesh.note(&format!("{}/{}", pod.namespace, pod.name), |entry| entry.reason = Some(why.0.clone()));
        }
        // Until it is ready for the first time it is asked more often than the manifest says: nobody likes to wait for a mesh.
        let period = found.map_or(Duration::from_secs(3600), |p| p.period);
        let pause = if ready { period } else { period.min(Duration::from_millis(250)) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = proxy.changed() => {}
        }
    }
}

async fn try_once(mesh: &Mesh, pod: &Wanted, place: &Place, process: &Process, spec: &Spec, probe: &Probe) -> Result<(), probe::Failure> {
    let number = |port: &TargetPort| match port {
        TargetPort::Number(number) => Ok(*number),
        TargetPort::Name(name) => {
            let found = pod.container().ports.iter().find(|p| p.name == *name);
            found.map(|p| p.port).ok_or_else(|| probe::Failure(format!("the container has no port called {name}")))
        }
    };
    match &probe.action {
        ProbeAction::HttpGet { path, port, headers } => {
            let http = probe::Http { port: number(port)?, path: path.clone(), headers: headers.clone() };
            probe::http(&place.host, &http, probe.timeout).await
        }
        ProbeAction::TcpSocket { port } => probe::tcp(&place.host, number(port)?, probe.timeout).await,
        ProbeAction::Exec { command } => {
            let spec = Spec { argv: command.clone(), ..spec.clone() };
            probe::exec(&mesh.supervisor, process, &spec, probe.timeout).await
        }
    }
}
