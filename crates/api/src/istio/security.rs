//! PeerAuthentication and AuthorizationPolicy.

use std::collections::BTreeMap;

use mizzen_types::{IpRange, NamespacedName, SpiffeId};

use super::{Pattern, header_name, port_key};
use crate::{
    Meta, Selector,
    metadata::selector,
    read::{At, Fields, Why, nearest, quoted},
    table,
};

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
    /// The extension provider that a CUSTOM policy asks; empty for all others.
    pub provider: String,
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
    /// The policy's provider is asked, before all other policies.
    Custom,
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

pub(crate) const MTLS_MODES: &[(&str, i64, Option<MtlsMode>); 4] = &[
    ("UNSET", 0, Some(MtlsMode::Unset)),
    ("DISABLE", 1, Some(MtlsMode::Disable)),
    ("PERMISSIVE", 2, Some(MtlsMode::Permissive)),
    ("STRICT", 3, Some(MtlsMode::Strict)),
];

pub(crate) const ACTIONS: &[(&str, i64, Option<Action>); 4] =
    &[("ALLOW", 0, Some(Action::Allow)), ("DENY", 1, Some(Action::Deny)), ("AUDIT", 2, None), ("CUSTOM", 3, Some(Action::Custom))];

/// A policy's selector; a star in it would select nothing.
pub(crate) fn policy_selector(f: &Fields<'_>) -> Option<Selector> {
    f.get("selector").map(|at| selector(&at, "matchLabels"))
}

impl MtlsMode {
    fn read(at: &At<'_>) -> MtlsMode {
        at.fields(|f| f.get("mode").and_then(|at| at.choice(MTLS_MODES)).unwrap_or_default())
    }
}

impl PeerAuthentication {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::PEER_AUTHENTICATION, |f| {
            let selector = policy_selector(f);
            let mtls = f.get("mtls").map(|at| MtlsMode::read(&at)).unwrap_or_default();
            let mut port_level_mtls = BTreeMap::new();
            if let Some(at) = f.get("portLevelMtls") {
                if selector.as_ref().is_none_or(Selector::is_empty) {
                    at.fail("needs a selector with labels");
                }
                port_level_mtls = at.entries().iter().map(|(key, at)| (port_key(at, key), MtlsMode::read(at))).collect();
            }
            PeerAuthentication { meta, selector, mtls, port_level_mtls }
        })
    }
}

impl AuthorizationPolicy {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        // Istio takes 1, t and T for true as well: only what clearly says no is enforced.
        let dry = |value: &String| !matches!(value.as_str(), "0" | "f" | "F" | "false" | "FALSE" | "False");
        if meta.annotations.get("istio.io/dry-run").is_some_and(dry) {
            root.at.fail(format!("annotation istio.io/dry-run {}", Why::Who.text()));
        }
        root.spec(&table::AUTHORIZATION_POLICY, |f| {
            let selector = policy_selector(f);
            let action = f.get("action").map_or(Some(Action::default()), |at| at.choice(ACTIONS));
            let provider = provider(f, action);
            let action = action.unwrap_or_default();
            let rules: Vec<_> = f.list("rules").iter().map(|at| at.fields(|f| Rule::read(f, &meta.namespace))).collect();
            if rules.is_empty() && action == Action::Deny {
                f.at.warn("a DENY policy without rules never denies; write `rules: [{}]` to deny all");
            }
            if rules.is_empty() && action == Action::Custom {
                f.at.fail("a CUSTOM policy without rules asks about nothing: write `rules: [{}]` to ask about all");
            }
            AuthorizationPolicy { meta, selector, action, provider, rules }
        })
    }
}

/// Whom a CUSTOM policy asks, and no other one. `None`: the action could not be read, and is told.
fn provider(f: &Fields<'_>, action: Option<Action>) -> String {
    let at = f.get("provider");
    if at.is_none() && action == Some(Action::Custom) {
        f.missing("provider");
    }
    if let (Some(at), Some(Action::Allow | Action::Deny)) = (&at, action) {
        at.fail("is for `action: CUSTOM` only");
    }
    at.map(|at| at.fields(|f| f.need("name").map(|at| at.word()).unwrap_or_default())).unwrap_or_default()
}

/// A list that must not be empty if it is written: it would look like a condition and be none.
fn some<'a>(f: &Fields<'a>, name: &'static str) -> Vec<At<'a>> {
    let list = f.list(name);
    if list.is_empty() && f.written(name) {
        f.slot(name).fail("must not be empty: leave it out to match all");
    }
    list
}

fn patterns(f: &Fields<'_>, name: &'static str) -> Vec<Pattern> {
    some(f, name).iter().map(Pattern::read).collect()
}

fn principals(f: &Fields<'_>, name: &'static str) -> Vec<Pattern> {
    some(f, name).iter().map(principal).collect()
}

fn principal(at: &At<'_>) -> Pattern {
    let pattern = Pattern::read(at);
    match &pattern {
        Pattern::Exact(text) | Pattern::Prefix(text) if text.starts_with("spiffe://") => {
            at.fail("is written without `spiffe://`: TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT");
        }
        Pattern::Exact(text) if format!("spiffe://{text}").parse::<SpiffeId>().is_err() => {
            at.warn(format!("{} is not TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT and matches no workload of the mesh", quoted(text)));
        }
        _ => {}
    }
    pattern
}

fn account(at: &At<'_>, namespace: &str) -> Option<NamespacedName> {
    let text = at.word();
    let full = if text.contains('/') { text } else { format!("{namespace}/{text}") };
    full.parse().map_err(|_| at.expected("a service account or NAMESPACE/SERVICE-ACCOUNT, without `*`")).ok()
}

fn accounts(f: &Fields<'_>, name: &'static str, namespace: &str) -> Vec<NamespacedName> {
    some(f, name).iter().filter_map(|at| account(at, namespace)).collect()
}

fn ranges(f: &Fields<'_>, name: &'static str) -> Vec<IpRange> {
    some(f, name).iter().filter_map(At::parse).collect()
}

/// A port in quotes, as Istio has it.
fn quoted_port(at: &At<'_>) -> u16 {
    match at.text().parse() {
        Ok(port) if port > 0 => return port,
        _ if at.node.text().is_some() => at.expected("a port from 1 to 65535"),
        _ => {}
    }
    0
}

fn path(at: &At<'_>) -> Pattern {
    let pattern = Pattern::read(at);
    if at.node.text().is_some_and(|text| text.contains("{*")) {
        at.fail(format!("a template {}", Why::Who.text()));
    }
    pattern
}

impl Rule {
    fn read(f: &Fields<'_>, namespace: &str) -> Rule {
        let from = |at: &At<'_>| at.fields(|f| f.need("source").map(|at| at.fields(|f| Peer::read(f, namespace))));
        let to = |at: &At<'_>| at.fields(|f| f.need("operation").map(|at| at.fields(Operation::read)));
        Rule {
            from: some(f, "from").iter().filter_map(from).collect(),
            to: some(f, "to").iter().filter_map(to).collect(),
            when: some(f, "when").iter().filter_map(|at| at.fields(|f| Condition::read(f, namespace))).collect(),
        }
    }
}

impl Peer {
    fn read(f: &Fields<'_>, namespace: &str) -> Peer {
        let peer = Peer {
            principals: principals(f, "principals"),
            not_principals: principals(f, "notPrincipals"),
            namespaces: patterns(f, "namespaces"),
            not_namespaces: patterns(f, "notNamespaces"),
            service_accounts: accounts(f, "serviceAccounts", namespace),
            not_service_accounts: accounts(f, "notServiceAccounts", namespace),
            ip_blocks: ranges(f, "ipBlocks"),
            not_ip_blocks: ranges(f, "notIpBlocks"),
        };
        if f.is_empty() {
            f.at.fail("must not be empty: leave `from` out to match all callers");
        }
        let accounts = !peer.service_accounts.is_empty() || !peer.not_service_accounts.is_empty();
        let others = [&peer.principals, &peer.not_principals, &peer.namespaces, &peer.not_namespaces];
        if accounts && others.iter().any(|list| !list.is_empty()) {
            f.at.fail("serviceAccounts exclude principals and namespaces");
        }
        peer
    }
}

impl Operation {
    fn read(f: &Fields<'_>) -> Operation {
        let ports = |name| some(f, name).iter().map(quoted_port).collect();
        let paths = |name| some(f, name).iter().map(path).collect();
        if f.is_empty() {
            f.at.fail("must not be empty: leave `to` out to match all operations");
        }
        Operation {
            hosts: patterns(f, "hosts"),
            not_hosts: patterns(f, "notHosts"),
            ports: ports("ports"),
            not_ports: ports("notPorts"),
            methods: patterns(f, "methods"),
            not_methods: patterns(f, "notMethods"),
            paths: paths("paths"),
            not_paths: paths("notPaths"),
        }
    }
}

const KEYS: &[&str] = &[
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
    "request.headers",
];
const KEYS_LATER: &[&str] = &["remote.ip", "source.trustDomain", "connection.sni"];

impl Condition {
    fn read(f: &Fields<'_>, namespace: &str) -> Option<Condition> {
        let key_at = f.need("key");
        if !f.written("values") && !f.written("notValues") {
            f.at.fail("must have values or notValues");
        }
        fn values<T>(f: &Fields<'_>, read: impl Fn(&At<'_>) -> Option<T>) -> Values<T> {
            let list = |name| some(f, name).iter().filter_map(&read).collect();
            Values { values: list("values"), not_values: list("notValues") }
        }
        let text = |at: &At<'_>| Some(Pattern::read(at));
        let key = key_at.as_ref().map(At::text).unwrap_or_default();
        let condition = match key.as_str() {
            "source.ip" => Condition::SourceIp(values(f, |at| at.parse())),
            "source.namespace" => Condition::SourceNamespace(values(f, text)),
            "source.principal" => Condition::SourcePrincipal(values(f, |at| Some(principal(at)))),
            "source.serviceAccount" => Condition::SourceServiceAccount(values(f, |at| account(at, namespace))),
            "destination.ip" => Condition::DestinationIp(values(f, |at| at.parse())),
            "destination.port" => Condition::DestinationPort(values(f, |at| Some(quoted_port(at)))),
            other => {
                let header = other.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
                match (header, key_at) {
                    (Some(name), Some(at)) if HOP.iter().any(|hop| name.trim().eq_ignore_ascii_case(hop)) => {
                        at.fail(format!("{} is of one connection only and is not seen by policies", quoted(name.trim())));
                        return None;
                    }
                    (Some(name), Some(at)) => Condition::RequestHeader { name: header_name(&at, name.trim()), values: values(f, text) },
                    (None, Some(at)) => {
                        unknown_key(&at, other);
                        return None;
                    }
                    (_, None) => return None,
                }
            }
        };
        Some(condition)
    }
}

/// Headers that the codecs take off: HTTP/2 has none of them.
pub(super) const HOP: [&str; 6] = ["connection", "upgrade", "keep-alive", "proxy-connection", "te", "transfer-encoding"];

fn unknown_key(at: &At<'_>, key: &str) {
    if KEYS_LATER.contains(&key) || key.starts_with("request.auth.") || key.starts_with("experimental.") {
        at.fail(format!("{} {}", quoted(key), Why::Who.text()));
        return;
    }
    match nearest(key, KEYS.iter().copied()) {
        Some("request.headers") => at.fail(format!("unknown key {}, did you mean `request.headers[NAME]`?", quoted(key))),
        Some(near) => at.fail(format!("unknown key {}, did you mean `{near}`?", quoted(key))),
        None => at.fail(format!("unknown key {}", quoted(key))),
    }
}
