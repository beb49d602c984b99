//! DestinationRules that verify nobody.

use mizzen_api::Node;

use super::Own;
use crate::code;

pub(crate) fn look(own: &mut Own<'_>) {
    let node = own.item.node;
    let Some(policy) = node.at("spec.trafficPolicy") else { return };
    let host = node.at("spec.host").and_then(Node::text).unwrap_or_default();
    let (name, namespace) = (own.item.id.place(), own.item.id.namespace.clone());
    let about = |mode: &str| format!("the DestinationRule {name} in namespace {namespace} has TLS mode {mode} and no caCertificates");
    if let Some(mode) = unverified(node, policy) {
        let text = format!("{}: who answers for host {host} is not verified", about(mode));
        own.say(&code::IST0128, "spec.trafficPolicy.tls.mode", text);
    }
    for (number, level) in policy.get("portLevelSettings").map(Node::items).unwrap_or_default().iter().enumerate() {
        let Some(mode) = unverified(node, level) else { continue };
        let port = level.at("port.number").and_then(Node::int).unwrap_or_default();
        let text = format!("{}: who answers for host {host} at port {port} is not verified", about(mode));
        own.say(&code::IST0129, format!("spec.trafficPolicy.portLevelSettings[{number}].tls.mode"), text);
    }
}

/// The mode, if it is one of TLS and nothing is there to verify the server by. A secret is read for gateways alone, which a selector is taken for.
fn unverified<'a>(node: &Node, policy: &'a Node) -> Option<&'a str> {
    let text = |path: &str| policy.at(path).and_then(Node::text).filter(|text| !text.is_empty());
    let is_by_secret = text("tls.credentialName").is_some() && node.at("spec.workloadSelector").is_some();
    let mode = text("tls.mode").filter(|mode| matches!(*mode, "SIMPLE" | "MUTUAL"))?;
    (text("tls.caCertificates").is_none() && !is_by_secret).then_some(mode)
}
