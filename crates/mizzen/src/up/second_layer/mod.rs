//! The second layer (`up --second-layer`): the router stops what policies would stop at L4, also for a program that goes around its proxy, and counts it.
//!
//! What it holds is what `mizzen netpol` writes, made of the objects that are in force and of the pods that run. It is made anew when one of these
//! changes, and goes to the kernel when it differs. A pod's program starts when the router knows its address.

mod counts;
mod plan;

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{Json, Router, routing::get};
use mizzen_analyze::netpol::{NetworkPolicy, Options, World, write};
use mizzen_capture::MAX_ATTEMPTS;
use mizzen_types::ports;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch};

use super::{
    address::ROUTER,
    desired::{self, Objects, Wanted},
    mesh::{Mesh, is_set},
    objects, say,
};
pub(crate) use counts::Row;
use counts::{Call, Counts};
use plan::{Plan, Pods};

/// Where the command line asks.
pub(crate) const SOCKET: &str = "second-layer.sock";
/// The path of what was refused, on that socket.
pub(crate) const REFUSED: &str = "/refused";

/// After a change, how long further ones are waited for.
const SETTLE: Duration = Duration::from_millis(20);
/// How often the kernel is asked what it has refused.
const ASK: Duration = Duration::from_secs(1);
/// How long a pod waits for the router. One that is not known yet may call nobody that is guarded.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// What is wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The pods through which alone others may leave the mesh, as `mizzen netpol --egress-through` has it.
    pub(crate) through: Option<String>,
    /// Addresses that pods may reach besides.
    pub(crate) reach: Vec<String>,
}

/// The pods that run, as the second layer gets to know them.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// All of them.
    run: watch::Sender<Pods>,
    /// Those for which the router has its rules.
    guarded: watch::Sender<Pods>,
}

impl Known {
    /// A pod has this address from now on. Returns when the router knows.
    pub(crate) async fn add(&self, address: Ipv4Addr, pod: &Arc<Wanted>, mut ending: watch::Receiver<bool>) {
        self.run.send_modify(|pods| drop(pods.insert(address, pod.clone())));
        let mut guarded = self.guarded.subscribe();
        let is_known = guarded.wait_for(|pods| pods.get(&address).is_some_and(|known| Arc::ptr_eq(known, pod)));
        tokio::select! {
            _ = is_known => {}
            () = is_set(&mut ending) => {}
            () = tokio::time::sleep(KNOWN_WITHIN) => {
                say::warning(&format!("{}/{}: the second layer does not know it yet, and stops what it calls", pod.namespace, pod.name));
            }
        }
    }

    /// Nobody has it any more.
    pub(crate) fn remove(&self, address: Ipv4Addr) {
        self.run.send_if_modified(|pods| pods.remove(&address).is_some());
    }
}

/// Keeps the router's rules up to date, until the mesh ends.
///
/// # Errors
/// If it cannot be asked what is refused.
pub(crate) async fn run(mesh: Arc<Mesh>, settings: Settings) -> Result<()> {
    let counts = Arc::new(Mutex::new(Counts::new()?));
    tokio::spawn(serve(mesh.clone(), counts.clone()));
    let mut layer = Layer::new(mesh.clone(), &settings, counts)?;
    let (mut objects, mut pods) = (mesh.objects.subscribe(), mesh.known.run.subscribe());
    let (mut ending, mut ask) = (mesh.ending.subscribe(), tokio::time::interval(ASK));
    objects.mark_changed();
    loop {
        let mut is_new = false;
        tokio::select! {
            changed = objects.changed() => is_new = changed.map(|()| true)?,
            changed = pods.changed() => changed?,
            _ = ask.tick() => {
                layer.count().await;
                if !layer.is_late {
                    continue;
                }
            }
            () = is_set(&mut ending) => return Ok(()),
        }
        tokio::time::sleep(SETTLE).await;
        is_new |= objects.has_changed()?;
        let (objects, pods) = (objects.borrow_and_update().clone(), pods.borrow_and_update().clone());
        layer.follow(objects, is_new, pods).await?;
    }
}

struct Layer {
    mesh: Arc<Mesh>,
    options: Options,
    counts: Arc<Mutex<Counts>>,
    /// Whether what is in force is not what should be.
    is_late: bool,
    policies: Arc<Vec<NetworkPolicy>>,
    /// Pods that no Deployment of the folder describes.
    strays: BTreeSet<String>,
    /// What is in force.
    plan: Option<Plan>,
    pods: Pods,
    /// What was told.
    notes: BTreeSet<String>,
    error: Option<String>,
}

impl Layer {
    fn new(mesh: Arc<Mesh>, settings: &Settings, counts: Arc<Mutex<Counts>>) -> Result<Layer> {
        let through = settings.through.as_deref().map(str::parse).transpose().map_err(anyhow::Error::msg)?;
        let reach = settings.reach.iter().map(|range| range.parse()).collect::<Result<_, _>>()?;
        let options = Options { through, reach, registry_only: mesh.payload.secure, ..Options::default() };
        Ok(Layer {
            mesh,
            options,
            counts,
            is_late: false,
            policies: Arc::default(),
            strays: BTreeSet::new(),
            plan: None,
            pods: Pods::new(),
            notes: BTreeSet::new(),
            error: None,
        })
    }

    async fn follow(&mut self, objects: Objects, is_new: bool, pods: Pods) -> Result<()> {
        let described = desired::wanted(&objects);
        let is_stray = |pod: &&Arc<Wanted>| described.get(&pod.id()) != Some(&***pod);
        let strays: Vec<Arc<Wanted>> = pods.values().filter(is_stray).cloned().collect();
        let names: BTreeSet<String> = strays.iter().map(|pod| pod.id()).collect();
        let wanted = pods.clone();
        let plan = if is_new || names != self.strays {
            let (options, secure) = (self.options.clone(), self.mesh.payload.secure);
            let make = move || {
                let made = write(&world(&objects, &strays, secure), &options);
                let plan = Plan::new(&made.policies, &wanted);
                (made, plan)
            };
            let (made, plan) = tokio::task::spawn_blocking(make).await.context("the second layer's rules could not be made")?;
            // Notes about no object are about clusters.
            let notes = made.notes.iter().filter(|note| note.object.is_some()).map(ToString::to_string).collect();
            tell(&self.notes, &notes);
            (self.policies, self.strays, self.notes) = (Arc::new(made.policies), names, notes);
            plan
        } else {
            let policies = self.policies.clone();
            tokio::task::spawn_blocking(move || Plan::new(&policies, &wanted))
                .await
                .context("the second layer's rules could not be made")?
        };
        self.put(plan, pods).await;
        Ok(())
    }

    /// Puts a plan into force. If that fails, the one before stays, and it is tried again.
    async fn put(&mut self, plan: Plan, pods: Pods) {
        // Where the kernel has seen very many different attempts it begins anew.
        let is_full = lock(&self.counts).told_apart() > MAX_ATTEMPTS as usize / 2;
        if self.plan.as_ref() != Some(&plan) || is_full {
            match self.mesh.router.guard(plan.inbound.clone(), plan.outbound.clone()).await {
                Ok(last) => {
                    let news = lock(&self.counts).take_last(last, &self.pods);
                    announce(&news);
                    (self.plan, self.error, self.is_late) = (Some(plan), None, false);
                }
                Err(error) => {
                    self.is_late = true;
                    let error = error.to_string();
                    if self.error.as_ref() != Some(&error) {
                        say::error(&format!("the second layer stays as it was, until it works again: {error}"));
                    }
                    self.error = Some(error);
                    return;
                }
            }
        }
        self.is_late = false;
        self.mesh.known.guarded.send_replace(pods.clone());
        self.pods = pods;
    }

    /// Counts what was refused since the last time.
    async fn count(&mut self) {
        if let Ok(refused) = self.mesh.router.refused().await {
            let mut counts = lock(&self.counts);
            announce(&counts.take(refused, &self.pods));
            self.is_late |= counts.told_apart() > MAX_ATTEMPTS as usize / 2;
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that is in force, and pods that nothing describes. Of objects with one name the first counts.
fn world(objects: &Objects, strays: &[Arc<Wanted>], secure: bool) -> World {
    let mut world = World::default();
    let mut add = |object: serde_json::Value| world.add(&object.to_string(), &"".into(), "default");
    if secure {
        objects::closed().into_iter().for_each(&mut add);
    }
    strays.iter().for_each(|pod| add(objects::described(pod, Ipv4Addr::UNSPECIFIED, true)));
    objects.values().for_each(|object| world.put(object));
    world.has_all_pods();
    world
}

fn tell(before: &BTreeSet<String>, now: &BTreeSet<String>) {
    now.difference(before).for_each(|note| say::warning(&format!("{note} (the second layer)")));
}

fn announce(news: &[Call]) {
    for Call { source, destination, port } in news {
        say::warning(&format!(
            "the second layer has refused {source} a connection to {destination} at port {port}; `mizzen x second-layer` counts them"
        ));
    }
}

/// Tells what was refused: as metrics in the mesh, and on a socket.
async fn serve(mesh: Arc<Mesh>, counts: Arc<Mutex<Counts>>) {
    let (text, rows) = (counts.clone(), counts);
    let metrics = Router::new().route("/metrics", get(move || std::future::ready(lock(&text).text())));
    let all = metrics.clone().route(REFUSED, get(move || std::future::ready(Json(lock(&rows).rows()))));
    let served = async {
        let socket = mizzen_net::listen_unix(&mesh.dir(SOCKET))?;
        let tcp = TcpListener::bind((ROUTER, ports::MONITORING)).await?;
        tokio::try_join!(async { axum::serve(socket, all).await }, async { axum::serve(tcp, metrics).await })
    };
    if let Err(error) = served.await {
        say::error(&format!("what the second layer refuses cannot be asked: {error}"));
    }
}
