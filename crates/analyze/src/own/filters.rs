//! Patches of EnvoyFilters that do nothing.

use mizzen_api::Node;

use super::Own;
use crate::code;

pub(crate) fn look(own: &mut Own<'_>) {
    let patches = own.at("spec.configPatches").map(Node::items).unwrap_or_default();
    // After one without `patch` Istio looks at no other.
    for (number, patch) in patches.iter().enumerate().take_while(|(_, patch)| patch.get("patch").is_some()) {
        let applies = patch.get("applyTo").and_then(Node::text).unwrap_or_default();
        let is_route = matches!(applies, "ROUTE_CONFIGURATION" | "HTTP_ROUTE");
        let is_filter = matches!(applies, "NETWORK_FILTER" | "HTTP_FILTER");
        let path = format!("spec.configPatches[{number}].patch.operation");
        match patch.at("patch.operation").and_then(Node::text) {
            Some("ADD") if is_route => own.say(&code::IST0153, path, format!("the operation ADD does nothing with applyTo {applies}")),
            Some("REMOVE") if is_route => {
                own.say(&code::IST0154, path, format!("the operation REMOVE does nothing with applyTo {applies}"))
            }
            Some("REPLACE") if !is_filter => {
                own.say(&code::IST0152, path, "the operation REPLACE is for applyTo HTTP_FILTER and NETWORK_FILTER alone");
            }
            _ => {}
        }
    }
}
