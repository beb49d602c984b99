//! The inner process: pid 1 of the mesh.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, anyhow};
use mizzen_api::{Key, Kind};
use mizzen_control::source::{Event, Files, Options};
use mizzen_host::{Router, RouterOptions, Supervisor};
use tokio::sync::{mpsc, watch};

use super::{
    Payload, control_plane,
    desired::{self, Wanted},
    findings, gateway, https,
    mesh::{Mesh, is_set},
    pod, requests,
    runnable::Folder,
    say, second_layer, workload,
};
use crate::cli::find::{GatewayPort, MeshFile};

/// Runs the mesh. Called before any thread exists.
pub(crate) fn main(inner: mizzen_host::Inner) -> u8 {
    // What the libraries warn of, such as output that is lost for a full disk; the rest is said by this program itself.
    // Netlink's is silent: the kernel's answers that are errors reach whoever asked, and to some of them a missing link is an answer.
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("warn,nlink=off"))
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let result = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Into::into);
    match result.and_then(|runtime| runtime.block_on(run(inner))) {
        Ok(()) => 0,
        Err(error) => {
            say::error(&format!("{error:#}"));
            1
        }
    }
}

async fn run(inner: mizzen_host::Inner) -> Result<()> {
    let payload: Payload = serde_json::from_value(inner.payload.clone()).context("the inner process was started wrongly")?;
    let link = inner.link()?;
    let router = Router::start(&link, RouterOptions::default()).await?;
    let supervisor = Supervisor::start()?;
    let mesh = Arc::new(Mesh::new(payload, link.clone(), router, supervisor)?);
    mesh.link_programs()?;
    let control = tokio::spawn(said("the control plane", control_plane::run(mesh.clone())));
    let doors = tokio::spawn(said("the gateways' ports", gateway::keep(mesh.clone())));
    if let Some(folder) = mesh.payload.https.clone() {
        tokio::spawn(said("the gateways' certificates", https::keep(mesh.clone(), folder)));
    }
    if let Some(settings) = mesh.payload.second_layer.clone() {
        tokio::spawn(said("the second layer", second_layer::run(mesh.clone(), settings)));
    }
    tokio::spawn(requests::serve(mesh.clone()));
    tokio::spawn(findings::tell(mesh.clone()));
    tokio::spawn(said("the description of the mesh", describe(mesh.clone())));
    let pods = tokio::spawn(reconcile(mesh.clone()));
    tokio::spawn(follow(mesh.clone()));
    link.stopped().await;
    mesh.ending.send_replace(true);
    // Programs first, then what they need.
    pods.await?;
    let (doors, control) = (doors.await?, control.await?);
    if doors && control { Ok(()) } else { Err(anyhow!("a part of the mesh has failed")) }
}

/// Runs a part of the mesh; if it fails, that is said when it happens, not at the end. Returns whether it did well.
async fn said(part: &str, work: impl Future<Output = Result<()>>) -> bool {
    let result = work.await;
    if let Err(error) = &result {
        say::error(&format!("{part}: {error:#}"));
    }
    result.is_ok()
}

/// Follows the folder and tells the person what is refused, mended and not acted on.
async fn follow(mesh: Arc<Mesh>) {
    let mut files = Files::follow(Options::new(vec![mesh.payload.folder.clone()]));
    let mut next = Folder::default();
    let mut complete = false;
    let mut first = true;
    while let Some(event) = files.next().await {
        take(event, &mut next, &mut complete, first, mesh.payload.secure);
        while let Some(event) = files.try_next() {
            take(event, &mut next, &mut complete, first, mesh.payload.secure);
        }
        for key in next.retry() {
            say::good(&format!("{key} is in order again"));
        }
        if complete {
            first = false;
            mesh.objects.send_if_modified(|now| {
                let changed = *now != next.objects;
                now.clone_from(&next.objects);
                changed
            });
        }
    }
}

fn kept(is: bool) -> &'static str {
    if is { " (its last good version stays in force)" } else { "" }
}

fn take(event: Event, folder: &mut Folder, complete: &mut bool, first: bool, secure: bool) {
    let changed = |key: &Key, what: &str| {
        if !first {
            say::step(&format!("{key} {what}"));
        }
    };
    match event {
        Event::Init => *folder = Folder::default(),
        Event::InitDone => *complete = true,
        Event::Apply(object) => {
            let key = object.key();
            let known = folder.objects.get(&key);
            let (is_known, differs) = (known.is_some(), known.is_none_or(|before| *before != object));
            let was_refused = folder.refuses(&key);
            if secure && differs && super::objects::CLOSED.contains(&(key.kind, &*key.namespace, &*key.name)) {
                say::warning(&format!("{key} is not in force: the mesh was started with --secure, which has one of that name"));
            }
            match folder.apply(object) {
                Err(problem) => say::problem(&format!("{problem}{}", kept(is_known))),
                Ok(()) if was_refused => say::good(&format!("{key} is in order again")),
                Ok(()) if differs => changed(&key, "changed"),
                Ok(()) => {}
            }
        }
        Event::Delete(key) => {
            let was_known = folder.objects.contains_key(&key);
            match folder.remove(&key) {
                true if !was_known => say::good(&format!("{key} is in order again")),
                _ => changed(&key, "is gone"),
            }
        }
        Event::Refused(refused) => {
            let kept = kept(refused.kept);
            refused.problems.iter().for_each(|problem| say::problem(&format!("{problem}{kept}")));
        }
        Event::Closed(closed) => {
            let meanwhile = if closed.key.kind == Kind::PeerAuthentication { "take mutual TLS only" } else { "are closed" };
            say::warning(&format!(
                "{}: the workloads that it selects {meanwhile} until it is mended, for it has no last good version",
                closed.key
            ));
        }
        Event::Mended(fault) => match &fault.key {
            Some(key) => say::good(&format!("{key} is in order again")),
            None => say::good(&format!("{} is in order again", fault.file)),
        },
        // Those of the start were shown by the outer process.
        Event::Warnings(_, warnings) if !first => warnings.iter().for_each(|warning| say::warning(&warning.to_string())),
        Event::Warnings(..) => {}
    }
}

/// A workload that was started.
struct Running {
    stop: watch::Sender<bool>,
    pod: Arc<Wanted>,
    task: tokio::task::JoinHandle<()>,
}

/// Makes what runs be what the folder says, until the mesh ends.
async fn reconcile(mesh: Arc<Mesh>) {
    let mut objects = mesh.objects.subscribe();
    let mut ending = mesh.ending.subscribe();
    let mut ready = mesh.ready.subscribe();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    let (over, mut ended) = mpsc::unbounded_channel();
    loop {
        let now = objects.borrow_and_update().clone();
        let (names, named) = desired::virtual_addresses(&now);
        let addresses = mesh.addresses().services(&names, &named);
        if let Err(error) = mesh.told.virtual_addresses(&addresses) {
            say::error(&format!("cannot write the services' addresses: {error}"));
        }
        let wanted = gateway::wanted(&now, mesh.serving, |folder| running.contains_key(folder));
        for (folder, pod) in &wanted {
            let pod = Arc::new(pod.clone());
            let entry = running.entry(folder.clone()).or_insert_with(|| start(&mesh, folder, &pod, &over));
            workload::refresh(&mesh, &entry.pod, &now);
        }
        // What is not wanted any more goes when what takes its place is ready: a rollout drops nothing.
        let now_ready = ready.borrow_and_update().clone();
        let replaced = |old: &Wanted| {
            let mut new = wanted.values().filter(|new| gateway::follows(new, old));
            new.all(|new| now_ready.get(&format!("{}/{}", new.namespace, new.name)).is_some_and(|r| r.ready))
        };
        for (_, entry) in running.iter().filter(|(folder, entry)| !wanted.contains_key(*folder) && replaced(&entry.pod)) {
            entry.stop.send_replace(true);
        }
        tokio::select! {
            changed = objects.changed() => if changed.is_err() { break },
            changed = ready.changed() => if changed.is_err() { break },
            // What was taken away and is wanted again starts when it has ended.
            folder = ended.recv() => drop(folder.and_then(|folder| running.remove(&folder))),
            () = is_set(&mut ending) => break,
        }
    }
    for entry in running.values() {
        entry.stop.send_replace(true);
    }
    for (_, entry) in running {
        let _ = entry.task.await;
    }
}

/// Starts a workload; `over` gets its folder when it has ended.
fn start(mesh: &Arc<Mesh>, folder: &str, pod: &Arc<Wanted>, over: &mpsc::UnboundedSender<String>) -> Running {
    let (stop, stopped) = watch::channel(false);
    let (folder, over) = (folder.to_owned(), over.clone());
    let life = match pod.is_gateway {
        true => tokio::spawn(gateway::live(mesh.clone(), pod.clone(), stopped)),
        false => tokio::spawn(pod::live(mesh.clone(), pod.clone(), stopped)),
    };
    let task = tokio::spawn(async move {
        // One that has panicked has ended, too.
        let _ = life.await;
        // At the end of the mesh nobody asks any more.
        let _ = over.send(folder);
    });
    Running { stop, pod: pod.clone(), task }
}

/// Writes `mesh.json` when every workload is ready for the first time, and anew when the gateways' ports change, which is said then.
async fn describe(mesh: Arc<Mesh>) -> Result<()> {
    let mut open = mesh.doors.subscribe();
    let mut ready = mesh.ready.subscribe();
    let mut objects = mesh.objects.subscribe();
    objects.wait_for(|o| !o.is_empty()).await?;
    loop {
        let all = {
            let (wanted, plan) = {
                let objects = mesh.objects.borrow();
                (gateway::wanted(&objects, mesh.serving, |_| false), gateway::Plan::new(&objects, mesh.serving))
            };
            let ready = ready.borrow_and_update();
            // A gateway whose certificate is missing still serves what it can: whoever announces the mesh waits for it, but not for ever.
            let is_there = |pod: &Wanted| {
                let found = ready.get(&format!("{}/{}", pod.namespace, pod.name));
                found.is_some_and(|r| r.ready || (pod.is_gateway && r.address.is_some()))
            };
            wanted.values().all(is_there) && open.borrow_and_update().has_all(&plan)
        };
        if all {
            break;
        }
        tokio::select! {
            changed = ready.changed() => changed?,
            changed = open.changed() => changed?,
        }
    }
    let mut told: Option<Vec<GatewayPort>> = None;
    loop {
        let gateways = open.borrow_and_update().described();
        if let Some(before) = told.replace(gateways.clone()) {
            moved(&before, &gateways);
        }
        let file = MeshFile {
            address: gateways.iter().find(|g| g.address.starts_with("http://")).map(|g| g.address.clone()).unwrap_or_default(),
            gateways,
            pid: mesh.payload.pid,
            folder: mesh.payload.folder.clone(),
            run_dir: mesh.payload.run_dir.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            secure: mesh.payload.secure,
            https_root: mesh.payload.https.as_deref().map(https::root),
        };
        let partial = mesh.dir("mesh.json.partial");
        std::fs::write(&partial, serde_json::to_vec_pretty(&file)?)?;
        std::fs::rename(partial, mesh.dir("mesh.json"))?;
        open.changed().await?;
    }
}

/// Says which ports have opened and closed since.
fn moved(before: &[GatewayPort], now: &[GatewayPort]) {
    for GatewayPort { gateway, port, address } in now.iter().filter(|port| !before.contains(port)) {
        say::step(&format!("port {port} of gateway {gateway} is open at {address}"));
    }
    let is_there = |old: &GatewayPort| now.iter().any(|new| new.gateway == old.gateway && new.port == old.port);
    for GatewayPort { gateway, port, .. } in before.iter().filter(|port| !is_there(port)) {
        say::step(&format!("port {port} of gateway {gateway} is closed"));
    }
}
