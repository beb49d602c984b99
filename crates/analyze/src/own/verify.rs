//! DestinationRules that do not say who verifies the server.

use mizzen_api::Node;

use super::Own;
use crate::code;

pub(crate) fn look(own: &mut Own<'_>) {
    let node = own.item.node;
    let Some(policy) = node.at("spec.trafficPolicy") else { return };
    let host = node.at("spec.host").and_then(Node::text).unwrap_or_default();
    let (name, namespace) = (own.item.id.place(), own.item.id.namespace.clone());
    let about = |mode: &str| format!("the DestinationRule {name} in namespace {namespace} has TLS mode {mode} and no caCertificates");
    if let Some(mode) = without_authorities(node, policy) {
        let text = format!("{}: {} host {host}", about(mode), instead(policy));
        own.say(&code::IST0128, "spec.trafficPolicy.tls.mode", text);
    }
    for (number, level) in policy.get("portLevelSettings").map(Node::items).unwrap_or_default().iter().enumerate() {
        let Some(mode) = without_authorities(node, level) else { continue };
        let port = level.at("port.number").and_then(Node::int).unwrap_or_default();
        let text = format!("{}: {} host {host} at port {port}", about(mode), instead(level));
        own.say(&code::IST0129, format!("spec.trafficPolicy.portLevelSettings[{number}].tls.mode"), text);
    }
}

/// Who verifies in their place.
fn instead(policy: &Node) -> &'static str {
    if policy.at("tls.insecureSkipVerify").is_some_and(Node::is_true) {
        "nobody verifies who answers for"
    } else if policy.at("tls.credentialName").is_some() {
        "without a workloadSelector, too, sidecars do not connect to"
    } else {
        "the roots of the proxy's system alone verify who answers for"
    }
}

/// The mode, if it is one of TLS and the rule does not say who verifies the server. A Secret is read where a selector is.
fn without_authorities<'a>(node: &Node, policy: &'a Node) -> Option<&'a str> {
    let text = |path: &str| policy.at(path).and_then(Node::text).filter(|text| !text.is_empty());
    let is_by_secret = text("tls.credentialName").is_some() && node.at("spec.workloadSelector").is_some();
    let mode = text("tls.mode").filter(|mode| matches!(*mode, "SIMPLE" | "MUTUAL"))?;
    (text("tls.caCertificates").is_none() && !is_by_secret).then_some(mode)
}
