//! Which cluster a request goes to.

use std::sync::Arc;

use mizzen_http::Head;
use mizzen_types::Name;

use crate::Trace;
use crate::config::{Forward, Mutations, TcpProxy};

/// A cluster that was picked.
#[derive(Clone, Debug)]
pub struct Picked<'c> {
    /// Its name. Whether it is known is for the caller to see ([`Forward::not_found_status`]).
    pub cluster: Name,
    /// All changes to headers that this way means.
    pub headers: &'c Arc<Mutations>,
    /// A host in place of the request's.
    pub host: Option<&'c Name>,
}

/// The cluster of a request. None: the header that should name it is not there.
pub fn pick_cluster<'c>(forward: &'c Forward, head: &Head, random: u64, trace: &mut Trace<'_>) -> Option<Picked<'c>> {
    let _ = (forward, head, random, trace);
    unimplemented!()
}

impl TcpProxy {
    /// The cluster of a connection.
    pub fn pick(&self, random: u64) -> Option<&Name> {
        let total: u64 = self.clusters.iter().map(|(_, w)| u64::from(*w)).sum();
        let mut rest = random.checked_rem(total)?;
        self.clusters
            .iter()
            .find(|(_, w)| {
                let hit = rest < u64::from(*w);
                rest = rest.wrapping_sub(u64::from(*w));
                hit
            })
            .map(|(name, _)| name)
    }
}
