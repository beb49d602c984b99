//! PeerAuthentication and AuthorizationPolicy.

use std::collections::BTreeMap;

use mizzen_types::{IpRange, NamespacedName};

use super::Pattern;
use crate::{Meta, Selector};

/// Who must speak mutual TLS to a workload. Workload before namespace before mesh; `Unset` inherits.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The workloads; `None` is the namespace, or in the root namespace the mesh.
    pub selector: Option<Selector>,
    /// For all ports.
    pub mtls: MtlsMode,
    /// For single ports of the workload; only with a selector.
    pub port_level_mtls: BTreeMap<u16, MtlsMode>,
}

/// The mode of mutual TLS towards a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MtlsMode {
    /// Inherited.
    #[default]
    Unset,
    /// Plain text only.
    Disable,
    /// Both.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// Who may call a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The workloads; `None` is the namespace, or in the root namespace the mesh.
    pub selector: Option<Selector>,
    /// What a match means.
    pub action: Action,
    /// The rules, of which one must match. None: never matches, so an ALLOW policy without rules denies all.
    pub rules: Vec<Rule>,
}

/// What a matching rule means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The call is allowed.
    #[default]
    Allow,
    /// The call is denied.
    Deny,
}

/// One rule: each of its non-empty lists must have an entry that matches. `{}` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The caller: one of these.
    pub from: Vec<Peer>,
    /// The operation: one of these.
    pub to: Vec<Operation>,
    /// Further conditions: all of these.
    pub when: Vec<Condition>,
}

/// A caller (`from[].source`). Of each non-empty list one must match, of each `not_` list none; all lists must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub principals: Vec<Pattern>,
    /// Not these.
    pub not_principals: Vec<Pattern>,
    /// The caller's namespace.
    pub namespaces: Vec<Pattern>,
    /// Not these.
    pub not_namespaces: Vec<Pattern>,
    /// Service accounts; a bare name was completed by the policy's namespace.
    pub service_accounts: Vec<NamespacedName>,
    /// Not these.
    pub not_service_accounts: Vec<NamespacedName>,
    /// The address of the connection's other end.
    pub ip_blocks: Vec<IpRange>,
    /// Not these.
    pub not_ip_blocks: Vec<IpRange>,
}

/// An operation (`to[].operation`). Of each non-empty list one must match, of each `not_` list none; all lists must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// HTTP hosts, without regard to case.
    pub hosts: Vec<Pattern>,
    /// Not these.
    pub not_hosts: Vec<Pattern>,
    /// The workload's ports.
    pub ports: Vec<u16>,
    /// Not these.
    pub not_ports: Vec<u16>,
    /// HTTP methods.
    pub methods: Vec<Pattern>,
    /// Not these.
    pub not_methods: Vec<Pattern>,
    /// HTTP paths, normalized, without the query.
    pub paths: Vec<Pattern>,
    /// Not these.
    pub not_paths: Vec<Pattern>,
}

impl Operation {
    /// Whether anything here needs an HTTP request.
    pub fn is_http(&self) -> bool {
        [&self.hosts, &self.not_hosts, &self.methods, &self.not_methods, &self.paths, &self.not_paths].iter().any(|list| !list.is_empty())
    }
}

/// The values of a condition: one of `values` if there are any, and none of `not_values`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<T> {
    /// One must match.
    pub values: Vec<T>,
    /// None may match.
    pub not_values: Vec<T>,
}

/// A further condition (`when[]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `request.headers[NAME]`.
    RequestHeader {
        /// The header's name, lower case.
        name: String,
        /// Its values.
        values: Values<Pattern>,
    },
    /// `source.ip`.
    SourceIp(Values<IpRange>),
    /// `source.namespace`.
    SourceNamespace(Values<Pattern>),
    /// `source.principal`.
    SourcePrincipal(Values<Pattern>),
    /// `source.serviceAccount`; a bare name was completed by the policy's namespace.
    SourceServiceAccount(Values<NamespacedName>),
    /// `destination.ip`.
    DestinationIp(Values<IpRange>),
    /// `destination.port`.
    DestinationPort(Values<u16>),
}

impl Condition {
    /// Whether it needs an HTTP request.
    pub fn is_http(&self) -> bool {
        matches!(self, Condition::RequestHeader { .. })
    }
}
