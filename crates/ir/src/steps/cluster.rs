//! Which cluster a request goes to.

use std::sync::Arc;

use mizzen_http::Head;
use mizzen_types::Name;

use crate::Trace;
use crate::config::{ClusterChoice, Criteria, Forward, Mutations, Target, TcpProxy, TcpTarget};

/// A cluster that was picked.
#[derive(Clone, Debug)]
pub struct Picked<'c> {
    /// Its name. Whether it is known is for the caller to see ([`Forward::not_found_status`]).
    pub cluster: Name,
    /// All changes to headers that this way means.
    pub headers: &'c Arc<Mutations>,
    /// A host in place of the request's.
    pub host: Option<&'c Name>,
    /// What its endpoints must have, where it has groups of them.
    pub subset: Option<&'c Criteria>,
}

/// The cluster of a request. None: the header that should name it is not there.
pub fn pick_cluster<'c>(forward: &'c Forward, head: &Head, random: u64, trace: &mut Trace<'_>) -> Option<Picked<'c>> {
    let target =
        |t: &'c Target| Picked { cluster: t.cluster.clone(), headers: &t.headers, host: t.host.as_ref(), subset: t.subset.as_ref() };
    match &forward.cluster {
        ClusterChoice::One(t) => {
            trace.note(true, || format!("cluster `{}`", t.cluster));
            Some(target(t))
        }
        ClusterChoice::Weighted(all) => {
            let total = all.last().map_or(0, |(sum, _)| *sum);
            let at = random.checked_rem(total)?;
            let (_, t) = all.iter().find(|(sum, _)| at < *sum)?;
            trace.note(true, || format!("cluster `{}` by {at} of {total}", t.cluster));
            Some(target(t))
        }
        ClusterChoice::Header(name, headers, subset) => {
            let Some(cluster) = head.get_str(name).filter(|c| !c.is_empty()) else {
                trace.note(false, || format!("header {name} names no cluster"));
                return None;
            };
            trace.note(true, || format!("cluster `{cluster}` by header {name}"));
            Some(Picked { cluster: cluster.into(), headers, host: None, subset: subset.as_ref() })
        }
    }
}

impl TcpProxy {
    /// The cluster of a connection.
    pub fn pick(&self, random: u64) -> Option<&TcpTarget> {
        let total: u64 = self.clusters.iter().map(|target| u64::from(target.weight)).sum();
        let mut rest = random.checked_rem(total)?;
        self.clusters.iter().find(|target| match rest.checked_sub(u64::from(target.weight)) {
            None => true,
            Some(less) => {
                rest = less;
                false
            }
        })
    }
}
