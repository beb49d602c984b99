//! PeerAuthentication and AuthorizationPolicy.

use std::collections::BTreeMap;

use mizzen_types::{IpRange, NamespacedName, SpiffeId};

use super::{Condition, Pattern, RequestPrincipal, port_key};
use crate::{
    Meta, Selector,
    metadata::selector,
    read::{At, Fields, quoted},
    source::child_path,
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
    /// The names of the Gateways of its namespace for whose proxies alone it holds; empty: the selector says for whom.
    pub gateways: Vec<String>,
    /// Whether it is only watched what it would decide (annotation `istio.io/dry-run`).
    pub dry_run: bool,
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
    /// The call is marked, and decided by other policies.
    Audit,
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
    /// Of the request's token.
    pub request_principals: Vec<RequestPrincipal>,
    /// Not these.
    pub not_request_principals: Vec<RequestPrincipal>,
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
    /// The address of the first client, from X-Forwarded-For where that is trusted.
    pub remote_ip_blocks: Vec<IpRange>,
    /// Not these.
    pub not_remote_ip_blocks: Vec<IpRange>,
    /// The trust domain of the caller's certificate.
    pub trust_domains: Vec<Pattern>,
    /// Not these.
    pub not_trust_domains: Vec<Pattern>,
}

impl Peer {
    /// Whether anything here needs an HTTP request.
    pub fn is_http(&self) -> bool {
        !self.request_principals.is_empty() || !self.not_request_principals.is_empty()
    }
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
    pub paths: Vec<PathPattern>,
    /// Not these.
    pub not_paths: Vec<PathPattern>,
}

/// A pattern of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// As of any text.
    Text(Pattern),
    /// With `{*}` for a segment or `{**}` for any number of them, as it is written.
    Template(String),
}

impl Operation {
    /// Whether anything here needs an HTTP request.
    pub fn is_http(&self) -> bool {
        let texts = [&self.hosts, &self.not_hosts, &self.methods, &self.not_methods];
        texts.iter().any(|list| !list.is_empty()) || !self.paths.is_empty() || !self.not_paths.is_empty()
    }
}

pub(crate) const MTLS_MODES: &[(&str, i64, Option<MtlsMode>); 4] = &[
    ("UNSET", 0, Some(MtlsMode::Unset)),
    ("DISABLE", 1, Some(MtlsMode::Disable)),
    ("PERMISSIVE", 2, Some(MtlsMode::Permissive)),
    ("STRICT", 3, Some(MtlsMode::Strict)),
];

pub(crate) const ACTIONS: &[(&str, i64, Option<Action>); 4] = &[
    ("ALLOW", 0, Some(Action::Allow)),
    ("DENY", 1, Some(Action::Deny)),
    ("AUDIT", 2, Some(Action::Audit)),
    ("CUSTOM", 3, Some(Action::Custom)),
];

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
        let dry_run = dry_run(root, &meta);
        root.spec(&table::AUTHORIZATION_POLICY, |f| {
            f.one_of(&["selector", "targetRef", "targetRefs"]);
            let selector = policy_selector(f);
            let gateways = target_gateways(f);
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
            match action {
                Action::Custom if dry_run => {
                    root.at.fail(format!(
                        "annotation {DRY_RUN}: a CUSTOM policy cannot be a dry run: its provider would be asked all the same"
                    ));
                }
                // A dry run decides nothing either way.
                Action::Audit => {
                    f.at.warn("an AUDIT policy decides nothing: requests that match are only marked, for a plugin that acts on the mark")
                }
                _ => {}
            }
            AuthorizationPolicy { meta, selector, gateways, dry_run, action, provider, rules }
        })
    }
}

const DRY_RUN: &str = "istio.io/dry-run";

/// Whether a policy is only watched. What does not clearly say so would be enforced by Istio: that is told.
fn dry_run(root: &Fields<'_>, meta: &Meta) -> bool {
    match meta.annotations.get(DRY_RUN).map(String::as_str) {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("") if root.at.cx.is_wrong(&child_path("metadata.annotations", DRY_RUN)) => false,
        Some(other) => {
            root.at.fail(format!("annotation {DRY_RUN}: must be true or false, is {}", quoted(other)));
            false
        }
    }
}

/// The Gateways that `targetRefs` name. What else could be named there is served by proxies that do not exist here.
fn target_gateways(f: &Fields<'_>) -> Vec<String> {
    let single = f.get("targetRef").into_iter();
    single.chain(f.list("targetRefs")).filter_map(|at| at.fields(|f| target(f))).collect()
}

fn target(f: &Fields<'_>) -> Option<String> {
    const GATEWAYS: &str = "gateway.networking.k8s.io";
    let kind = f.need("kind").map(|at| at.word())?;
    let name = f.need("name").map(|at| at.word())?;
    let group = f.text("group");
    if let Some(at) = f.get("namespace") {
        at.fail("a policy holds for Gateways of its own namespace: leave it out");
    }
    if kind == "Gateway" && group == GATEWAYS {
        return Some(name);
    }
    if f.get("group").is_some_and(|at| at.node.text().is_none()) {
        return None;
    }
    let whole = if group.is_empty() { kind } else { format!("{kind}.{group}") };
    f.at.fail(match whole.as_str() {
        "Gateway" => format!("a Gateway is of `group: {GATEWAYS}`"),
        "Gateway.networking.istio.io" => format!("a target is a Gateway of {GATEWAYS}: for one of networking.istio.io write a selector"),
        "Service" | "ServiceEntry.networking.istio.io" | "GatewayClass.gateway.networking.k8s.io" => {
            format!("{whole} is a target for waypoints, which are not supported yet")
        }
        _ => format!("{} is no target: it must be Gateway.{GATEWAYS}", quoted(&whole)),
    });
    None
}

/// Whom a CUSTOM policy asks, and no other one. `None`: the action could not be read, and is told.
fn provider(f: &Fields<'_>, action: Option<Action>) -> String {
    let at = f.get("provider");
    if at.is_none() && action == Some(Action::Custom) {
        f.missing("provider");
    }
    if let (Some(at), Some(Action::Allow | Action::Deny | Action::Audit)) = (&at, action) {
        at.fail("is for `action: CUSTOM` only");
    }
    at.map(|at| at.fields(|f| f.need("name").map(|at| at.word()).unwrap_or_default())).unwrap_or_default()
}

/// A list that must not be empty if it is written: it would look like a condition and be none.
pub(super) fn some<'a>(f: &Fields<'a>, name: &'static str) -> Vec<At<'a>> {
    let list = f.list(name);
    if f.written(name) && f.get(name).is_none_or(|at| at.is_empty_list()) {
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

pub(super) fn principal(at: &At<'_>) -> Pattern {
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

pub(super) fn account(at: &At<'_>, namespace: &str) -> Option<NamespacedName> {
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
pub(super) fn quoted_port(at: &At<'_>) -> u16 {
    match at.text().parse() {
        Ok(port) if port > 0 => return port,
        _ if at.node.text().is_some() => at.expected("a port from 1 to 65535"),
        _ => {}
    }
    0
}

/// A trust domain, or a pattern of one.
pub(super) fn trust_domain(at: &At<'_>) -> Pattern {
    let pattern = Pattern::read(at);
    if let Pattern::Exact(text) | Pattern::Prefix(text) | Pattern::Suffix(text) = &pattern
        && text.contains('/')
    {
        at.fail(format!("{} is no trust domain, which has no `/`", quoted(text)));
    }
    pattern
}

/// A template takes whole segments and has no star outside of its braces; braces have no other meaning.
fn path(at: &At<'_>) -> PathPattern {
    let text = at.node.text().unwrap_or_default();
    if !text.contains(['{', '}']) {
        return PathPattern::Text(Pattern::read(at));
    }
    let text = at.word();
    let mut after_any = false;
    for segment in text.trim_matches('/').split('/') {
        match segment {
            "" => at.fail(format!("{}: an empty segment matches nothing", quoted(&text))),
            "{*}" | "{**}" if after_any => at.fail(format!("{}: `{{**}}` must be the last of its templates", quoted(&text))),
            "{**}" => after_any = true,
            "{*}" => {}
            _ if segment.contains(['{', '}']) => {
                at.fail(format!("{}: `{{*}}` and `{{**}}` are whole segments, and braces have no other use", quoted(&text)));
            }
            _ if segment.contains('*') => at.fail(format!("{}: beside a template there is no other `*`", quoted(&text))),
            _ if !segment.bytes().all(is_literal) => {
                at.fail(format!("{}: beside a template, {} must be written with escapes", quoted(&text), quoted(segment)));
            }
            _ => {}
        }
    }
    if !text.starts_with('/') {
        at.fail(format!("{}: a template begins with `/`", quoted(&text)));
    }
    PathPattern::Template(text)
}

/// What RFC 3986 has in a path's segment, but for the star.
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
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
        let trust_domains = |name| some(f, name).iter().map(trust_domain).collect();
        let tokens = |name| some(f, name).iter().map(RequestPrincipal::read).collect();
        let peer = Peer {
            principals: principals(f, "principals"),
            not_principals: principals(f, "notPrincipals"),
            namespaces: patterns(f, "namespaces"),
            not_namespaces: patterns(f, "notNamespaces"),
            service_accounts: accounts(f, "serviceAccounts", namespace),
            not_service_accounts: accounts(f, "notServiceAccounts", namespace),
            ip_blocks: ranges(f, "ipBlocks"),
            not_ip_blocks: ranges(f, "notIpBlocks"),
            remote_ip_blocks: ranges(f, "remoteIpBlocks"),
            not_remote_ip_blocks: ranges(f, "notRemoteIpBlocks"),
            trust_domains: trust_domains("trustDomains"),
            not_trust_domains: trust_domains("notTrustDomains"),
            request_principals: tokens("requestPrincipals"),
            not_request_principals: tokens("notRequestPrincipals"),
        };
        if f.is_empty() {
            f.at.fail("must not be empty: leave `from` out to match all callers");
        }
        let accounts = !peer.service_accounts.is_empty() || !peer.not_service_accounts.is_empty();
        let others = [&peer.principals, &peer.not_principals, &peer.namespaces, &peer.not_namespaces];
        if accounts && others.iter().any(|list| !list.is_empty()) {
            f.at.fail("serviceAccounts exclude principals and namespaces: write them in a source of their own");
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
