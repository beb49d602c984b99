//! What a control plane has written into an object: conditions that do not hold.

use mizzen_api::Node;

use super::Own;
use crate::{Sort, code};

pub(crate) fn look(own: &mut Own<'_>) {
    let sort = own.item.id.sort();
    let watched: &[&str] = match sort {
        Sort::Service | Sort::ServiceEntry => &["istio.io/WaypointBound"],
        Sort::AuthorizationPolicy => &["ZtunnelAccepted", "WaypointAccepted"],
        Sort::K8sGateway | Sort::HttpRoute | Sort::GrpcRoute => &["Accepted", "Programmed", "ResolvedRefs"],
        _ => return,
    };
    let conditions = if matches!(sort, Sort::HttpRoute | Sort::GrpcRoute) {
        let parents = own.at("status.parents").map(Node::items).unwrap_or_default();
        let of = |(at, parent): (usize, _)| listed(Some(parent), &format!("status.parents[{at}].conditions"));
        parents.iter().enumerate().flat_map(of).collect()
    } else {
        listed(own.at("status"), "status.conditions")
    };
    for (field, condition) in conditions {
        let text = |key: &str| condition.get(key).and_then(Node::text).unwrap_or_default();
        let (kind, reason) = (text("type"), text("reason"));
        let is_false = text("status") == "False" && watched.contains(&kind);
        // It holds for some of the policy only, and says so by its reason alone.
        let is_partly = sort == Sort::AuthorizationPolicy && kind == "WaypointAccepted" && reason == "PartiallyInvalid";
        if is_false || is_partly {
            let message = text("message").split_whitespace().collect::<Vec<_>>().join(" ");
            own.say(&code::IST0171, field, format!("condition does not hold: type={kind}, reason={reason}, message={message}"));
        }
    }
}

fn listed<'a>(node: Option<&'a Node>, path: &str) -> Vec<(String, &'a Node)> {
    let conditions = node.and_then(|node| node.get("conditions")).map(Node::items).unwrap_or_default();
    conditions.iter().enumerate().map(|(at, condition)| (format!("{path}[{at}]"), condition)).collect()
}
