//! What objects say of each other.

mod deployments;
mod exposure;
mod gateways;
mod hosts;
mod injection;
mod mutual_tls;
mod networks;
mod policies;
mod routes;
mod selectors;
mod services;
mod webhooks;

use mizzen_api::Labels;

use crate::{Cx, Sort, code};

/// Looks at one object among all others.
pub(crate) fn look(cx: &Cx<'_>) {
    exposure::look(cx);
    mutual_tls::look(cx);
    policies::look(cx);
    if !cx.entry.id.is_of_system() {
        deployments::look(cx);
        injection::look(cx);
        networks::look(cx);
        webhooks::look(cx);
        references(cx);
    }
}

/// What the objects of Istio name, and whom they select.
fn references(cx: &Cx<'_>) {
    match cx.entry.sort() {
        Sort::VirtualService => {
            hosts::destinations(cx);
            routes::look(cx);
        }
        Sort::DestinationRule => hosts::rule(cx),
        Sort::ServiceEntry => services::look(cx),
        Sort::Gateway => gateways::look(cx),
        Sort::Sidecar => selectors::sidecar(cx),
        Sort::Telemetry => selectors::telemetry(cx),
        Sort::AuthorizationPolicy => selectors::policy(cx),
        Sort::RequestAuthentication | Sort::WasmPlugin => selectors::ineffective(cx),
        Sort::EnvoyFilter => selectors::filter(cx),
        _ => {}
    }
}

/// Says that something is referred to that is not there.
pub(crate) fn missing(cx: &Cx<'_>, what: &str, name: &str, field: impl Into<String>) {
    cx.say(&code::IST0101, field, format!("the {what} that is referred to does not exist: {name:?}"));
}

/// A selector as Kubernetes writes it.
pub(crate) fn written(selector: &Labels) -> String {
    selector.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// The path of a selector's first label.
pub(crate) fn label_path(path: &str, selector: &Labels) -> String {
    selector.iter().next().map_or_else(|| path.to_owned(), |(name, _)| format!("{path}[{name:?}]"))
}
