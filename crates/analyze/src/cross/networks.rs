//! Networks of a mesh of several clusters.

use crate::{Cx, Index, code, facts::Of};

pub(crate) fn look(cx: &Cx<'_>) {
    let Of::Mesh(mesh) = &cx.entry.facts.of else { return };
    for (network, registry, path) in &mesh.registries {
        // A cluster is known by its secret; these always are.
        let is_known = matches!(&**registry, "Kubernetes" | "External" | "Mock") || cx.list(Index::Registry, registry).next().is_some();
        if !is_known {
            let text =
                format!("service registry {registry} of network {network} is unknown: no secret with label istio/multiCluster has it");
            cx.say(&code::IST0126, path.as_str(), text);
        }
    }
}
