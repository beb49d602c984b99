//! The bootstrap's own resources. What of them cannot be used does not stop the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mizzen_ir::ResourceKind;
use mizzen_protos::{Any, envoy::envoy::config::bootstrap::v3::Bootstrap};
use mizzen_types::Name;

use crate::{
    bootstrap::Plan,
    error::BootstrapError,
    secrets::{Found, Origin},
    store::Store,
    text::Places,
};

/// What of a bootstrap cannot be used; nothing is opened.
///
/// # Errors
/// If it cannot be used at all.
pub fn validate(bootstrap: &Bootstrap, places: &Places) -> Result<Vec<String>, BootstrapError> {
    Ok(Fixed::new(&mut Plan::new(bootstrap.clone())?, places).faults.into_values().collect())
}

/// The resources, as they are at the start.
pub(crate) struct Fixed {
    pub(crate) store: Store,
    /// What the bootstrap holds.
    pub(crate) names: BTreeSet<(ResourceKind, Name)>,
    /// What of it cannot be used, and why.
    pub(crate) faults: BTreeMap<(ResourceKind, Name), String>,
    /// Secrets of files as they were read, to be followed.
    pub(crate) secrets: Vec<(Origin, Found)>,
}

impl Fixed {
    /// Takes the resources out of the plan.
    pub(crate) fn new(plan: &mut Plan, places: &Places) -> Fixed {
        let mut complete = Vec::new();
        if !plan.dynamic.0 {
            complete.push(ResourceKind::Listener);
        }
        if !plan.dynamic.1 {
            complete.push(ResourceKind::Cluster);
        }
        if plan.ads.is_none() {
            complete.extend([ResourceKind::Route, ResourceKind::Assignment]);
        }
        let mut fixed = Fixed { store: Store::new(complete), names: BTreeSet::new(), faults: BTreeMap::new(), secrets: Vec::new() };
        for origin in std::mem::take(&mut plan.secrets) {
            let found = origin.read();
            // Written anew, and what it was read of goes before the next one comes: what stayed of each would hold the memory around it.
            let name = Name::from(&*origin.name);
            let place = || places.at(&name);
            if found.has_files() {
                fixed.put(ResourceKind::Secret, &name, found.secret.clone(), place);
                fixed.secrets.push((origin, found));
            } else {
                drop(origin);
                fixed.put(ResourceKind::Secret, &name, found.secret, place);
            }
        }
        let (clusters, listeners) = (std::mem::take(&mut plan.clusters), std::mem::take(&mut plan.listeners));
        for (kind, field, all) in [(ResourceKind::Cluster, "clusters", clusters), (ResourceKind::Listener, "listeners", listeners)] {
            for (i, (name, body)) in all.into_iter().enumerate() {
                let field = format!("static_resources.{field}[{i}]");
                if fixed.names.contains(&(kind, name.clone())) {
                    fixed.fault((kind, name.clone()), format!("{}: `{name}`: there is another one of this name", places.at(&field)));
                    continue;
                }
                // Only where it is refused does it cost to find the field.
                let place = || {
                    let refused = match mizzen_ir::compile(kind, &body.value) {
                        Err(refusal) => Some(refusal.field),
                        Ok(compiled) => compiled.closed.into_iter().next().map(|refusal| refusal.field),
                    };
                    places.at(&refused.map_or(field.clone(), |refused| format!("{field}.{refused}")))
                };
                // A cluster that only leads to a server of resources may be beyond what the data path understands.
                if kind == ResourceKind::Cluster && plan.servers.contains_key(&name) && mizzen_ir::compile(kind, &body.value).is_err() {
                    tracing::debug!(%name, "no cluster for traffic");
                    continue;
                }
                fixed.put(kind, &name, Ok(body.clone()), place);
            }
        }
        fixed
    }

    fn put(&mut self, kind: ResourceKind, name: &Name, body: Result<Any, String>, place: impl FnOnce() -> String) {
        let key = (kind, name.clone());
        if let Err(reason) = body.and_then(|body| self.store.put(name, "", body, Duration::ZERO)) {
            self.fault(key.clone(), format!("{}: {reason}", place()));
        }
        self.names.insert(key);
    }

    fn fault(&mut self, key: (ResourceKind, Name), reason: String) {
        tracing::error!("{reason}: the others serve, and the proxy will not be ready");
        self.faults.insert(key, reason);
    }
}

#[cfg(test)]
#[path = "fixed_tests.rs"]
mod tests;
