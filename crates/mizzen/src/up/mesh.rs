//! What all parts of the inner process share: the router, the folders, the objects of the moment, and who runs.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use mizzen_host::{Link, Router, Supervisor};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use super::{
    Payload,
    address::Addresses,
    desired::{Objects, Serving},
    gateway::Open,
    objects::Folder,
    second_layer::Known,
};
use crate::programs::mizzend;

/// So many hosts are made at a time.
const STARTS: usize = 16;

/// The mesh, as its inner process sees it.
pub(crate) struct Mesh {
    pub(crate) payload: Payload,
    pub(crate) link: Link,
    pub(crate) router: Router,
    pub(crate) supervisor: Supervisor,
    /// What the control plane is told.
    pub(crate) told: Folder,
    /// The objects of the user's folder.
    pub(crate) objects: watch::Sender<Objects>,
    /// Whether the mesh is ending: programs are then ended at once, without draining.
    pub(crate) ending: watch::Sender<bool>,
    /// Who is ready, by `namespace/name`; changes are seen by whoever waits for all.
    pub(crate) ready: watch::Sender<BTreeMap<String, Ready>>,
    /// Which Gateways are served, and how.
    pub(crate) serving: Serving,
    /// Which ports of gateways are open on the host.
    pub(crate) doors: watch::Sender<Open>,
    /// Who runs, if there is a second layer.
    pub(crate) known: Known,
    /// How many hosts are made at a time: a mesh of hundreds of programs can then be ended while it starts.
    pub(crate) starts: Semaphore,
    addresses: Mutex<Addresses>,
}

/// How a workload is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Ready {
    /// Its address.
    pub(crate) address: Option<Ipv4Addr>,
    /// Whether it takes traffic.
    pub(crate) ready: bool,
    /// How often its program was started again.
    pub(crate) restarts: u32,
    /// Why it is not ready, if that is known.
    pub(crate) reason: Option<String>,
}

impl Mesh {
    pub(crate) fn new(payload: Payload, link: Link, router: Router, supervisor: Supervisor) -> Result<Mesh> {
        let told = Folder::create(payload.run_dir.join("objects")).context("cannot make the mesh's folders")?;
        if payload.secure {
            told.closed().context("cannot make the mesh's folders")?;
        }
        for folder in ["pods", "mizzend", "last-good", "scratch", "bin", "sample"] {
            std::fs::create_dir_all(payload.run_dir.join(folder)).context("cannot make the mesh's folders")?;
        }
        let serving = Serving { https: payload.https.is_some(), stay_home: mizzend::gateways_stay_home()? };
        Ok(Mesh {
            payload,
            link,
            router,
            supervisor,
            told,
            objects: watch::Sender::default(),
            ending: watch::Sender::new(false),
            ready: watch::Sender::default(),
            serving,
            doors: watch::Sender::default(),
            known: Known::default(),
            starts: Semaphore::new(STARTS),
            addresses: Mutex::default(),
        })
    }

    /// Who has which address.
    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A path in the run folder.
    pub(crate) fn dir(&self, path: &str) -> PathBuf {
        self.payload.run_dir.join(path)
    }

    /// Links to this binary, by which its other programs are started.
    pub(crate) fn link_programs(&self) -> Result<()> {
        // The very file that this process runs, whatever lies in its place by now: a new build, or what a workload, which may write
        // where its user may, has put there.
        let programs = ["mizzend", "mizzen-proxy"].map(|p| ("bin", p, Path::new("/proc/self/exe")));
        let sample = crate::bookshop::PROGRAMS.map(|p| ("sample", p, self.payload.program.as_path()));
        for (folder, name, program) in programs.into_iter().chain(sample) {
            let link = self.dir(folder).join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(program, &link).with_context(|| link.display().to_string())?;
        }
        Ok(())
    }

    /// Notes how a workload is.
    pub(crate) fn note(&self, workload: &str, change: impl FnOnce(&mut Ready)) {
        self.ready.send_if_modified(|all| {
            let entry = all.entry(workload.to_owned()).or_default();
            let before = entry.clone();
            change(entry);
            *entry != before
        });
    }

    /// Forgets a workload.
    pub(crate) fn forget(&self, workload: &str) {
        self.ready.send_if_modified(|all| all.remove(workload).is_some());
    }
}

/// Waits until the flag is set, or nobody can set it any more.
pub(crate) async fn is_set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}
