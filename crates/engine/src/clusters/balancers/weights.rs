//! What share of the whole each endpoint has, for the hashing balancers. The arithmetic is Envoy's, step by step: another order of the same sums
//! would give another last bit, and another endpoint to some request.

use std::sync::Arc;

use mizzen_ir::config::{Hashing, LbValue};

use super::super::hosts::Host;

/// Endpoints with their shares.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) all: Vec<(Arc<Host>, f64)>,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { all: Vec::new(), least: 1.0, most: 0.0 }
    }
}

impl Weights {
    /// All of these share `share` by their weights.
    pub(super) fn add(&mut self, hosts: &[Arc<Host>], share: f64) {
        let sum: u64 = hosts.iter().map(|host| u64::from(host.weight)).sum();
        for host in hosts {
            let weight = f64::from(host.weight) * share / sum as f64;
            self.all.push((host.clone(), weight));
            self.least = self.least.min(weight);
            self.most = self.most.max(weight);
        }
    }

    pub(super) fn into_hosts(self) -> Box<[Arc<Host>]> {
        self.all.into_iter().map(|(host, _)| host).collect()
    }
}

/// What an endpoint is hashed by: what its metadata says, else its host name if that is wished for, else its address.
pub(super) fn key(host: &Host, hashing: Hashing) -> &str {
    let said = host.endpoint.as_ref().and_then(|e| e.lb.as_ref()?.iter().find(|(key, _)| &**key == "hash_key"));
    match said {
        Some((_, LbValue::Text(key))) if !key.is_empty() => key,
        _ if hashing.by_hostname && !host.hostname().is_empty() => host.hostname(),
        _ => host.address(),
    }
}
