//! Pods, deployments and services as they stand: users, injected images, names of ports.

use mizzen_api::{LabelSet, Labels, Node};
use mizzen_types::Protocol;

use super::Own;
use crate::{
    Sort, code,
    facts::{Of, PortFacts},
};

/// The user of the proxy, whose traffic is not captured.
const PROXY_USER: i64 = 1337;

pub(crate) fn look(own: &mut Own<'_>) {
    match own.item.id.sort() {
        Sort::Pod => {
            user(own, "spec");
            let text = || format!("Pod \"{}\" has the image \"auto\": a pod that exists is injected no more", own.item.id.name);
            if let Some(field) = auto_image(own.at("spec"), "spec") {
                let text = text();
                own.say(&code::IST0147, field, text);
            }
        }
        Sort::Deployment => user(own, "spec.template.spec"),
        Sort::Service => ports(own),
        _ => {}
    }
}

/// Where a pod asks injection for the image of its proxy.
pub(crate) fn auto_image(spec: Option<&Node>, path: &str) -> Option<String> {
    let containers = spec?.get("containers")?.items();
    let is_auto = |node: &Node| {
        let is = |key: &str, text: &str| node.get(key).and_then(Node::text) == Some(text);
        is("name", "istio-proxy") && is("image", "auto")
    };
    containers.iter().position(is_auto).map(|at| format!("{path}.containers[{at}].image"))
}

/// Whether an object is a part of Istio itself, by its labels.
pub(crate) fn is_of_istio(labels: &Labels) -> bool {
    labels.label("istio").is_some() || labels.label("release") == Some("istio")
}

fn user(own: &mut Own<'_>, path: &str) {
    let Some(spec) = own.at(path).filter(|_| !is_of_istio(&own.facts.labels)) else { return };
    let is_proxys = |node: &Node| node.at("securityContext.runAsUser").and_then(Node::int) == Some(PROXY_USER);
    let mut fields = Vec::new();
    if is_proxys(spec) {
        fields.push(format!("{path}.securityContext.runAsUser"));
    }
    for (at, container) in spec.get("containers").map(Node::items).unwrap_or_default().iter().enumerate() {
        let name = container.get("name").and_then(Node::text).unwrap_or_default();
        if name != "istio-proxy" && name != "istio-operator" && is_proxys(container) {
            fields.push(format!("{path}.containers[{at}].securityContext.runAsUser"));
        }
    }
    for field in fields {
        own.say(&code::IST0144, field, "user 1337 is the proxy's: what another program sends as that user goes past the proxy");
    }
}

fn ports(own: &mut Own<'_>) {
    let labels = &own.facts.labels;
    let managed = labels.label("gateway.istio.io/managed");
    let is_made = matches!(managed, Some("istio.io-gateway-controller" | "istio.io-mesh-controller" | "istio.io-eastwest-controller"));
    let Of::Service(service) = &own.facts.of else { return };
    if is_made || is_of_istio(labels) {
        return;
    }
    for (at, port) in service.ports.iter().enumerate() {
        let field = format!("spec.ports[{at}].name");
        if service.is_external_name() && (!is_declared(port) || &*port.name == "tcp") {
            let text = format!(
                "port name \"{}\" of an ExternalName service takes the traffic of that port to all hosts: name it after its protocol, but not tcp",
                port.name
            );
            own.say(&code::IST0150, field, text);
        } else if !is_declared(port) {
            let text = format!(
                "port name \"{}\" (port: {}, targetPort: {}) tells no protocol: it should be a protocol, or start with one and a hyphen",
                port.name,
                port.port,
                port.target()
            );
            own.say(&code::IST0118, field, text);
        }
    }
}

/// Whether a port's protocol is told, by Istio's rules.
fn is_declared(port: &PortFacts) -> bool {
    // Well-known ports are of bytes whatever `appProtocol` says, if that is no protocol.
    if port.spoken() != Protocol::Auto || matches!(port.port, 25 | 53 | 3306 | 27017) {
        return true;
    }
    let name = if port.app_protocol.is_empty() { &port.name } else { &port.app_protocol };
    let name = name.to_ascii_lowercase();
    // What the data plane calls so is no protocol to speak, and yet a name. Everything that starts like gRPC-Web is taken for it.
    let is_named = matches!(name.split('-').next(), Some("hbone" | "http_proxy")) || name.starts_with("grpc-web");
    let prefix = name.split('-').next().unwrap_or_default();
    is_named || Protocol::from_name(prefix).is_some()
}
