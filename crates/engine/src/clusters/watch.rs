//! Outlier detection of the clusters' hosts: what is seen of them, and the sweeps that this worker has promised.

use std::{sync::Arc, time::Duration};

use mizzen_ir::config::{Cluster, Outlier};
use mizzen_types::Name;

use super::{Clusters, NoHost, hosts::Priorities};
use crate::{
    context::Context,
    event::TimerKey,
    id::SweepId,
    lb::{ClusterState, HostState},
    outlier::Seen,
    questions::Questions,
};

/// A cluster that this worker sweeps, for the whole process.
pub(super) struct Sweep {
    cluster: Name,
    state: Arc<ClusterState>,
}

impl Clusters {
    /// Something was seen of a host, which may be reason enough to leave it out.
    pub(crate) fn host_seen(&mut self, cx: &mut Context, cluster: &Cluster, state: &Arc<ClusterState>, host: &Arc<HostState>, seen: Seen) {
        let Some(outlier) = &cluster.outlier else { return };
        if state.saw(host, outlier, seen, cx.now.mono, &mut cx.rng) {
            let id = self.sweeps.insert(Sweep { cluster: cluster.name.clone(), state: state.clone() });
            arm(cx, id, outlier);
        }
    }

    /// A host says of itself that it is degraded.
    pub(crate) fn host_degraded(&mut self, cx: &mut Context, cluster: &Cluster, state: &Arc<ClusterState>, host: &HostState) {
        let Some(outlier) = &cluster.outlier else { return };
        state.saw_degraded(host, outlier, cx.now.mono, &mut cx.rng);
    }

    /// The hosts of a cluster that are to be checked; none: its names are not resolved yet, which is seen to.
    pub(crate) fn checked_hosts(&mut self, cx: &mut Context, questions: &mut Questions, cluster: &Arc<Cluster>) -> Option<Arc<Priorities>> {
        let Some(assignment) = cx.config.assignment_of(cluster).cloned() else { return Some(Arc::default()) };
        match self.hosts(cx, questions, cluster, &assignment) {
            Ok(hosts) => Some(hosts),
            Err(NoHost::None | NoHost::Unresolved | NoHost::Overflow) => Some(Arc::default()),
            Err(NoHost::Wait(question)) => {
                questions.ask(cx, question, None);
                None
            }
        }
    }

    /// An interval is over.
    pub(crate) fn sweep(&mut self, cx: &mut Context, id: SweepId) {
        let Some(Sweep { cluster, state }) = self.sweeps.get(id) else { return };
        let outlier = cx.config.clusters.get(cluster).and_then(|cluster| cluster.outlier.clone());
        if state.sweep(outlier.as_deref(), cx.now.mono, &mut cx.rng)
            && let Some(outlier) = outlier
        {
            arm(cx, id, &outlier);
        } else {
            self.sweeps.remove(id);
        }
    }

    /// Whether a sweep is to come.
    pub(crate) fn sweeps(&self, id: SweepId) -> bool {
        self.sweeps.get(id).is_some()
    }
}

fn arm(cx: &mut Context, id: SweepId, outlier: &Outlier) {
    cx.timers.arm(cx.now.mono.saturating_add(outlier.interval.max(Duration::from_millis(1))), TimerKey::Sweep(id));
}
