//! EnvoyFilters, and what telemetry asks of the mesh's settings.

use mizzen_api::Node;
use mizzen_types::Name;

use super::{SelectedFacts, text};

/// An EnvoyFilter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterFacts {
    /// Whom it is for.
    pub selected: SelectedFacts,
    /// `priority` is not written, or 0.
    pub is_unordered: bool,
    /// The patches that are placed beside others, or that hold for some versions of proxies alone.
    pub patches: Vec<PatchFacts>,
}

/// A patch of an EnvoyFilter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatchFacts {
    /// Its number in `configPatches`.
    pub number: usize,
    /// What it is about: the `name` of its value, or `~` and the name of the filter that it matches; empty if neither is written.
    pub name: Name,
    /// Whether what it does depends on what is there already.
    pub is_relative: bool,
    /// Whether it holds for some versions of proxies alone.
    pub is_versioned: bool,
}

/// A Telemetry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TelemetryFacts {
    /// Whom it is for.
    pub selected: SelectedFacts,
    /// The numbers of those of `accessLogging` that name no provider and are not disabled.
    pub unprovided: Vec<usize>,
}

impl FilterFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        let patches = spec.get("configPatches").map(Node::items).unwrap_or_default().iter().enumerate();
        // After one without `patch` Istio looks at no other.
        let patches = patches.take_while(|(_, patch)| patch.get("patch").is_some()).map(|(number, patch)| PatchFacts::read(number, patch));
        FilterFacts {
            selected: SelectedFacts::read(spec),
            is_unordered: spec.get("priority").and_then(Node::int).unwrap_or_default() == 0,
            patches: patches.filter(|patch| patch.is_relative || patch.is_versioned).collect(),
        }
    }
}

impl FilterFacts {
    /// Whether a patch before this number is about this name, and for some versions of proxies alone.
    pub(crate) fn has_versioned(&self, name: &str, before: usize) -> bool {
        self.patches.iter().any(|patch| patch.is_versioned && &*patch.name == name && patch.number < before)
    }
}

impl PatchFacts {
    fn read(number: usize, patch: &Node) -> Self {
        let value = patch.at("patch.value").filter(|value| !value.entries().is_empty());
        let named = value.and_then(|value| value.get("name")).map(|name| Name::from(name.text().unwrap_or_default()));
        let matched = value.and_then(|_| patch.at("match.listener.filterChain.filter.name")).and_then(Node::text);
        let name = named.or_else(|| matched.map(|name| format!("~{name}").into())).unwrap_or_default();
        let applies = text(patch, "applyTo");
        let is_route = matches!(&*applies, "ROUTE_CONFIGURATION" | "HTTP_ROUTE");
        let is_filter = matches!(&*applies, "NETWORK_FILTER" | "HTTP_FILTER");
        let is_relative = match &*text(patch, "patch.operation") {
            "INSERT_BEFORE" | "INSERT_AFTER" => true,
            "REMOVE" => !is_route,
            "REPLACE" => is_filter,
            _ => false,
        };
        PatchFacts { number, name, is_relative, is_versioned: !text(patch, "match.proxy.proxyVersion").is_empty() }
    }
}

impl TelemetryFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        let logs = spec.get("accessLogging").map(Node::items).unwrap_or_default().iter().enumerate();
        let lacks = |log: &Node| {
            let is_provided = log.get("providers").is_some_and(|all| !all.items().is_empty());
            !is_provided && !log.get("disabled").is_some_and(Node::is_true)
        };
        TelemetryFacts {
            selected: SelectedFacts::read(spec),
            unprovided: logs.filter(|(_, log)| lacks(log)).map(|(number, _)| number).collect(),
        }
    }
}
