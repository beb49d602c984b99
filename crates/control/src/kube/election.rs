//! Which of several control planes writes into the cluster: whoever holds a Lease. All of them serve proxies, sign and answer webhooks.
//!
//! Time is counted from when this process has seen the Lease change, never by what somebody else's clock has written into it. Who leads stops by itself
//! before anybody may take its place, also when the API server does not answer ([`TIMES`]); what it had begun to write is dropped. What arrives all the
//! same does no harm: statuses and webhooks are written only where they are as they were read, and a root that is not the leader's is put back by it.

use std::{future::Future, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::watch::words;
use crate::names::{CONTROL_PLANE, LEASE};

/// How often the Lease is read and written again where somebody has written meanwhile.
const TRIES: usize = 3;
/// How long giving it back may take: the process is on its way out.
const RELEASE: Duration = Duration::from_secs(2);

/// What everybody keeps to.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// A Lease that was not renewed for so long is free.
    lease: Duration,
    /// Who could not renew it for so long leads no more. Shorter, so that there are never two.
    deadline: Duration,
    /// After so long it is looked at again.
    retry: Duration,
}

/// Those of Kubernetes' own controllers.
const TIMES: Times = Times { lease: Duration::from_secs(15), deadline: Duration::from_secs(10), retry: Duration::from_secs(2) };

/// Who leads, as far as this control plane knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether it does itself.
    pub(crate) leads: bool,
    /// Whoever holds the Lease, if anybody does.
    pub(crate) leader: Option<String>,
}

/// One of those that want to lead. Knows no cluster and no clock.
#[derive(Debug)]
struct Candidate {
    name: String,
    /// What the Lease says, and since when it does.
    seen: Option<(LeaseSpec, Instant)>,
    /// Until when it leads, if it does not renew the Lease.
    until: Option<Instant>,
}

impl Candidate {
    fn new(name: String) -> Candidate {
        Candidate { name, seen: None, until: None }
    }

    /// What is to be written of the Lease, given what it is; nothing while it is somebody else's.
    fn step(&mut self, found: Option<&Lease>, now: Instant, clock: Timestamp) -> Option<Lease> {
        let spec = found.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let (has_holder, is_own) = (holder(&spec).is_some(), holder(&spec) == Some(&self.name));
        if !is_own {
            // Somebody has taken it, or removed it: by right or not, it is not to be written any more on its account.
            self.until = None;
        }
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        self.seen = Some((spec.clone(), since));
        let told = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        if has_holder && !is_own && now < since + told.map_or(TIMES.lease, Duration::from_secs) {
            return None;
        }
        let mut lease = found.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let before = spec.lease_transitions.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: i32::try_from(TIMES.lease.as_secs()).ok(),
            renew_time: Some(MicroTime(clock)),
            acquire_time: if is_own { spec.acquire_time.clone() } else { Some(MicroTime(clock)) },
            lease_transitions: Some(if is_own || found.is_none() { before } else { before.saturating_add(1) }),
            ..spec
        });
        Some(lease)
    }

    /// It has been written, by a request that began then.
    fn wrote(&mut self, lease: Lease, began: Instant) {
        self.seen = Some((lease.spec.unwrap_or_default(), began));
        self.until = Some(began + TIMES.deadline);
    }

    /// Until when it leads, if it does now.
    fn leads_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }

    fn standing(&self, now: Instant) -> Standing {
        let leads = self.leads_until(now).is_some();
        let leader = self.seen.as_ref().and_then(|(spec, _)| holder(spec));
        // A Lease of its own that it could not renew says nothing.
        Standing { leads, leader: leader.filter(|leader| leads || *leader != self.name).map(str::to_owned) }
    }

    /// What is to be written so that the next one need not wait; nothing if it is not its own.
    fn given_back(&self, found: Lease, clock: Timestamp) -> Option<Lease> {
        let spec = found.spec.clone().filter(|spec| holder(spec) == Some(&self.name))?;
        Some(Lease { spec: Some(LeaseSpec { holder_identity: None, renew_time: Some(MicroTime(clock)), ..spec }), ..found })
    }

    /// Looks at the Lease, and takes or renews it if that may be.
    async fn turn(&mut self, store: &impl Store) -> Result<(), kube::Error> {
        for _ in 0..TRIES {
            let began = Instant::now();
            let found = store.find().await?;
            let Some(lease) = self.step(found.as_ref(), Instant::now(), Timestamp::now()) else { return Ok(()) };
            match store.write(&lease).await {
                Ok(written) => {
                    self.wrote(written, began);
                    return Ok(());
                }
                // Somebody was faster: perhaps with the Lease, perhaps with a label of it.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells who leads, if that is news.
    fn tell(&self, told: &watch::Sender<Standing>) {
        let now = self.standing(Instant::now());
        told.send_if_modified(|known| {
            if *known == now {
                return false;
            }
            match (known.leads, now.leads, &now.leader) {
                (false, true, _) => {
                    tracing::info!(lease = LEASE, "this control plane leads: it writes statuses, addresses of ServiceEntries, root certificates and the webhooks' root")
                }
                (true, false, leader) => tracing::warn!(lease = LEASE, leader, "this control plane leads no more, and writes nothing"),
                (_, _, Some(leader)) => tracing::info!(lease = LEASE, leader, "another control plane leads"),
                (_, _, None) => {}
            }
            *known = now;
            true
        });
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// Where the Lease is kept.
pub(crate) trait Store: Send + Sync {
    /// As it is now; `None` if there is none.
    fn find(&self) -> impl Future<Output = Result<Option<Lease>, kube::Error>> + Send;
    /// Makes it, or changes it if it is still as it was found. Says what is written.
    fn write(&self, lease: &Lease) -> impl Future<Output = Result<Lease, kube::Error>> + Send;
}

impl Store for Api<Lease> {
    async fn find(&self) -> Result<Option<Lease>, kube::Error> {
        self.get_opt(LEASE).await
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        match lease.metadata.resource_version {
            Some(_) => self.replace(LEASE, &PostParams::default(), lease).await,
            None => self.create(&PostParams::default(), lease).await,
        }
    }
}

/// What this process is called among those that want to lead: its pod, so that it has its Lease again when it is started anew there.
pub(crate) fn own_name(pod: Option<&str>) -> String {
    pod.filter(|pod| !pod.is_empty()).map_or_else(|| format!("mizzend-{}-{:08x}", std::process::id(), fastrand::u32(..)), str::to_owned)
}

/// Tries to lead, and tells who does, until it is stopped; then the Lease is given back.
pub(crate) async fn run(store: impl Store, name: String, told: watch::Sender<Standing>, mut stopping: watch::Receiver<bool>) {
    let mut candidate = Candidate::new(name);
    let (mut trouble, mut under_way) = (None, false);
    loop {
        let began = Instant::now();
        // Nothing keeps it from stopping when its time is over.
        let limit = candidate.leads_until(began).unwrap_or(began + TIMES.deadline);
        let tried = tokio::select! {
            () = stopped(&mut stopping) => {
                under_way = true;
                break;
            }
            tried = timeout_at(limit, candidate.turn(&store)) => tried,
        };
        candidate.tell(&told);
        let failed = match tried {
            Ok(Ok(())) => None,
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                Some(format!("Role {CONTROL_PLANE} in its namespace must allow get, create and update of leases ({})", status.message))
            }
            Ok(Err(error)) => Some(words(&error)),
            Err(_) => Some("no answer".to_owned()),
        };
        if let Some(reason) = failed.as_ref().filter(|_| failed != trouble) {
            tracing::warn!(lease = LEASE, reason, "which control plane leads cannot be found out: while none does nothing is written");
        }
        trouble = failed;
        let next = candidate.leads_until(Instant::now()).map_or(began + TIMES.retry, |until| until.min(began + TIMES.retry));
        tokio::select! {
            () = stopped(&mut stopping) => break,
            () = sleep_until(next) => candidate.tell(&told),
        }
    }
    // Writers end before anybody else may begin.
    told.send_replace(Standing::default());
    // What was under way may arrive all the same.
    if under_way || candidate.seen.as_ref().is_some_and(|(spec, _)| holder(spec) == Some(&candidate.name)) {
        match timeout(RELEASE, give_back(&store, &candidate)).await {
            Ok(Ok(true)) => tracing::info!(lease = LEASE, "given back: the next control plane may lead"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(lease = LEASE, reason = words(&error), "cannot be given back: the next one waits for its end"),
            Err(_) => tracing::warn!(lease = LEASE, reason = "no answer", "cannot be given back: the next one waits for its end"),
        }
    }
}

/// Whether it was ours to give.
async fn give_back(store: &impl Store, candidate: &Candidate) -> Result<bool, kube::Error> {
    let mut tries = 1;
    loop {
        let found = store.find().await?;
        let Some(lease) = found.and_then(|found| candidate.given_back(found, Timestamp::now())) else { return Ok(false) };
        match store.write(&lease).await {
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
            written => return written.map(|_| true),
        }
    }
}

/// Done when it is to stop, or nobody is left who could say so.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Does something for as long as this control plane leads: from the beginning each time, and dropped with all that is under way as soon as it does not.
/// Done when that is.
pub(crate) async fn while_leading<F: Future<Output = ()>>(mut standing: watch::Receiver<Standing>, make: impl Fn() -> F) {
    while standing.wait_for(|standing| standing.leads).await.is_ok() {
        let lost = async { standing.wait_for(|standing| !standing.leads).await.is_ok() };
        tokio::select! {
            biased;
            may_come_again = lost => if !may_come_again { break },
            () = make() => return,
        }
    }
    // The election has ended, since the control plane does: that is told by whoever ends it.
    std::future::pending().await
}

#[cfg(test)]
mod tests;
