//! Services, of Kubernetes and of others.

use mizzen_api::{Labels, Node, istio::AUTO_ALLOCATE};
use mizzen_types::{Name, Protocol};

use super::{labels, list, number, text, texts};

/// A Kubernetes Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFacts {
    /// `type`; empty is ClusterIP.
    pub of_type: Name,
    /// `selector`; empty selects nothing.
    pub selector: Labels,
    /// The ports.
    pub ports: Vec<PortFacts>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortFacts {
    /// The name; empty if none was written.
    pub name: Name,
    /// The number.
    pub port: u16,
    /// `targetPort` as written, a number or a name; empty if none was.
    pub target: Name,
    /// `protocol` as written: the transport of a Service's, the protocol of a ServiceEntry's port.
    pub protocol: Name,
    /// `appProtocol`; empty if none was written.
    pub app_protocol: Name,
}

/// A ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryFacts {
    /// The hosts, in lower case.
    pub hosts: Vec<Name>,
    /// The ports.
    pub ports: Vec<PortFacts>,
    /// `location`.
    pub location: Name,
    /// `resolution`.
    pub resolution: Name,
    /// `addresses`.
    pub addresses: Vec<Name>,
    /// Whether `status` tells addresses that were allocated.
    pub is_allocated: bool,
    /// Whether addresses are allocated to it, if any are: its endpoints are not what callers ask for, and no label says no.
    pub is_allocatable: bool,
    /// `workloadSelector.labels`.
    pub selector: Labels,
    /// The labels of the endpoints.
    pub endpoints: Vec<Labels>,
    /// `exportTo`; empty is the mesh's default.
    pub export_to: Vec<Name>,
}

impl ServiceFacts {
    pub(crate) fn read(spec: &Node) -> Self {
        ServiceFacts {
            of_type: text(spec, "type"),
            selector: labels(spec.get("selector")),
            ports: list(spec.get("ports"), |port| PortFacts::read(port, "port")),
        }
    }

    /// Whether it is a name for another host.
    pub fn is_external_name(&self) -> bool {
        &*self.of_type == "ExternalName"
    }
}

impl EntryFacts {
    pub(crate) fn read(node: &Node, spec: &Node) -> Self {
        let said_no = node.at("metadata.labels").and_then(|labels| labels.get(AUTO_ALLOCATE)).and_then(Node::text);
        EntryFacts {
            hosts: texts(spec.get("hosts")).iter().map(|host| host.to_ascii_lowercase().into()).collect(),
            ports: list(spec.get("ports"), |port| PortFacts::read(port, "number")),
            location: text(spec, "location"),
            resolution: text(spec, "resolution"),
            addresses: texts(spec.get("addresses")),
            is_allocated: node.at("status.addresses").is_some_and(|all| !all.items().is_empty()),
            is_allocatable: !matches!(&*text(spec, "resolution"), "" | "NONE")
                && !said_no.is_some_and(|value| value.eq_ignore_ascii_case("false")),
            selector: labels(spec.at("workloadSelector.labels")),
            endpoints: list(spec.get("endpoints"), |endpoint| labels(endpoint.get("labels"))),
            export_to: texts(spec.get("exportTo")),
        }
    }
}

impl PortFacts {
    fn read(port: &Node, number_at: &str) -> Self {
        let target = port.get("targetPort");
        let target = target.and_then(|node| node.int().map(|n| n.to_string().into()).or_else(|| node.text().map(Name::from)));
        PortFacts {
            name: text(port, "name"),
            port: number(port, number_at),
            target: target.unwrap_or_default(),
            protocol: text(port, "protocol"),
            app_protocol: text(port, "appProtocol"),
        }
    }

    /// The protocol of a Service's port, by Istio's rules; [`Protocol::Auto`] is to be detected.
    pub fn spoken(&self) -> Protocol {
        let some = |text: &'_ Name| Some(text.to_string()).filter(|text| !text.is_empty());
        Protocol::of_port(some(&self.protocol).as_deref(), some(&self.app_protocol).as_deref(), some(&self.name).as_deref(), self.port)
    }

    /// `targetPort`, or the port itself.
    pub fn target(&self) -> Name {
        if self.target.is_empty() { self.port.to_string().into() } else { self.target.clone() }
    }
}
