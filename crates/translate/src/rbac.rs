//! Authorization: a workload's policies as filters for requests and for connections: CUSTOM before DENY before ALLOW.

use std::{collections::HashMap, sync::Arc};

use mizzen_api::istio::{Action, AuthorizationPolicy, AuthzProtocol, Condition, MeshConfig, Operation, Pattern, Peer, Rule, Values};
use mizzen_model::WorkloadPolicies;
use mizzen_protos::envoy::envoy::{
    config::{
        core::v3::CidrRange,
        rbac::v3::{
            Permission, Policy, Principal, Rbac,
            permission::{self, Rule as P},
            principal::{self, Identifier as I},
            rbac::Action as RbacAction,
        },
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::filters::{http::rbac::v3::Rbac as HttpRbac, network::rbac::v3::Rbac as TcpRbac},
    r#type::matcher::v3::{PathMatcher, RegexMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern},
};
use mizzen_types::{IpRange, NamespacedName};

use crate::{
    authz,
    draft::{Http, NetworkFilter},
    listener,
    scope::Scope,
};

/// Dry runs' results are told apart by this.
const SHADOW_PREFIX: &str = "istio_dry_run_allow_";

/// The authorization filters of a workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    pub(crate) http: Vec<Http>,
    pub(crate) tcp: Vec<NetworkFilter>,
}

/// The filters of the proxy's own workload.
pub(crate) fn filters(scope: &Scope<'_, '_>) -> Filters {
    let found = scope.policies();
    let mut filters = custom(scope, &found);
    for action in [Action::Deny, Action::Allow] {
        filters.http.extend(rules(scope.mesh(), &found, action, false).map(|rules| http_filter(action, rules)));
        filters.tcp.extend(rules(scope.mesh(), &found, action, true).map(|rules| tcp_filter(action, rules)));
    }
    filters
}

/// The filters of CUSTOM policies.
fn custom<'a>(scope: &Scope<'_, 'a>, found: &WorkloadPolicies<'a>) -> Filters {
    let of = |tcp| rules(scope.mesh(), found, Action::Custom, tcp);
    match authz::asked(scope, found) {
        None => Filters::default(),
        Some(Err(_)) => {
            let all = HashMap::from([(authz::NOBODY.to_owned(), everything())]);
            Filters { http: vec![http_filter(Action::Deny, all.clone())], tcp: vec![tcp_filter(Action::Deny, all)] }
        }
        Some(Ok((asked, cluster))) => {
            let shadow = of(false).unwrap_or_default();
            let closed = of(true).filter(|_| asked.authz.protocol == AuthzProtocol::Grpc);
            Filters {
                http: vec![shadow_filter(shadow), Http::ExtAuthz(Box::new(authz::filter(&asked, &cluster)))],
                tcp: closed.map(|rules| tcp_filter(Action::Deny, rules)).into_iter().collect(),
            }
        }
    }
}

/// Rules by their names.
type Policies = HashMap<String, Policy>;

fn rbac(action: Action, policies: Policies) -> Option<Rbac> {
    // What a CUSTOM rule matches is asked about: for the rules it is as if it were denied.
    let action = if action == Action::Allow { RbacAction::Allow } else { RbacAction::Deny };
    Some(Rbac { action: action.into(), policies, ..Default::default() })
}

fn http_filter(action: Action, policies: Policies) -> Http {
    let rules = rbac(action, policies);
    Http::Rbac(Arc::new(HttpRbac { rules, shadow_rules_stat_prefix: SHADOW_PREFIX.into(), ..Default::default() }))
}

/// Rules that are not enforced: they say about which requests is asked.
fn shadow_filter(policies: Policies) -> Http {
    let shadow_rules = rbac(Action::Custom, policies);
    Http::Rbac(Arc::new(HttpRbac { shadow_rules, shadow_rules_stat_prefix: authz::SHADOW_PREFIX.into(), ..Default::default() }))
}

fn tcp_filter(action: Action, policies: Policies) -> NetworkFilter {
    let (rules, stat_prefix) = (rbac(action, policies), "tcp.".into());
    NetworkFilter::Rbac(Arc::new(TcpRbac { rules, shadow_rules_stat_prefix: SHADOW_PREFIX.into(), stat_prefix, ..Default::default() }))
}

fn everything() -> Policy {
    Policy { permissions: vec![any_permission()], principals: vec![any_principal()], ..Default::default() }
}

/// The rules of one action by name; `None` if there is no policy of it, so that nothing is to be checked.
fn rules(mesh: &MeshConfig, found: &WorkloadPolicies<'_>, action: Action, tcp: bool) -> Option<Policies> {
    let mut all = HashMap::new();
    let mut any = false;
    for policy in found.policies.iter().filter(|p| p.action == action) {
        // An ALLOW policy counts even if no rule of it remains: then nobody may call.
        any |= action == Action::Allow;
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(made) = of_rule(mesh, rule, action, tcp) {
                all.insert(rule_name(policy, index), made);
            }
        }
    }
    if action == Action::Deny {
        for closed in &found.closed {
            all.insert(format!("ns[{}]-policy[{}]-rule[closed]", closed.key.namespace, closed.key.name), everything());
        }
    }
    (any || !all.is_empty()).then_some(all)
}

fn rule_name(policy: &AuthorizationPolicy, index: usize) -> String {
    let name = format!("ns[{}]-policy[{}]-rule[{index}]", policy.meta.namespace, policy.meta.name);
    if policy.action == Action::Custom { format!("{}-{name}", authz::RULE_PREFIX) } else { name }
}

/// One rule. On TCP there is no request: an ALLOW rule that asks for one never matches, others are taken without that part, and match more.
fn of_rule(mesh: &MeshConfig, rule: &Rule, action: Action, tcp: bool) -> Option<Policy> {
    let asks_http = rule.to.iter().any(Operation::is_http) || rule.when.iter().any(Condition::is_http);
    if tcp && asks_http && action == Action::Allow {
        return None;
    }
    let conditions: Vec<&Condition> = rule.when.iter().filter(|c| !(tcp && c.is_http())).collect();
    let on_target: Vec<Permission> = conditions.iter().filter_map(|c| target_condition(c)).collect();
    let on_source: Vec<Principal> = conditions.iter().flat_map(|c| source_condition(mesh, c)).collect();
    let whole = |own: Vec<Permission>| {
        let mut rules = own;
        rules.extend(on_target.iter().cloned());
        if rules.is_empty() {
            rules.push(any_permission());
        }
        permission(P::AndRules(permission::Set { rules }))
    };
    let permissions =
        if rule.to.is_empty() { vec![whole(Vec::new())] } else { rule.to.iter().map(|to| whole(operation(to, tcp))).collect() };
    let whole = |own: Vec<Principal>| {
        let mut ids = own;
        ids.extend(on_source.iter().cloned());
        if ids.is_empty() {
            ids.push(any_principal());
        }
        principal(I::AndIds(principal::Set { ids }))
    };
    let principals =
        if rule.from.is_empty() { vec![whole(Vec::new())] } else { rule.from.iter().map(|from| whole(peer(mesh, from))).collect() };
    Some(Policy { permissions, principals, ..Default::default() })
}

fn permission(rule: P) -> Permission {
    Permission { rule: Some(rule) }
}

fn any_permission() -> Permission {
    permission(P::Any(true))
}

fn principal(id: I) -> Principal {
    Principal { identifier: Some(id) }
}

fn any_principal() -> Principal {
    principal(I::Any(true))
}

/// One of `yes`, none of `no`; nothing for an empty list.
fn permissions<T>(into: &mut Vec<Permission>, yes: &[T], no: &[T], make: impl Fn(&T) -> P) {
    let or = |list: &[T]| permission(P::OrRules(permission::Set { rules: list.iter().map(|item| permission(make(item))).collect() }));
    if !yes.is_empty() {
        into.push(or(yes));
    }
    if !no.is_empty() {
        into.push(permission(P::NotRule(Box::new(or(no)))));
    }
}

fn principals<T>(into: &mut Vec<Principal>, yes: &[T], no: &[T], make: impl Fn(&T) -> Vec<I>) {
    let or = |list: &[T]| principal(I::OrIds(principal::Set { ids: list.iter().flat_map(&make).map(principal).collect() }));
    if !yes.is_empty() {
        into.push(or(yes));
    }
    if !no.is_empty() {
        into.push(principal(I::NotId(Box::new(or(no)))));
    }
}

fn operation(to: &Operation, tcp: bool) -> Vec<Permission> {
    let mut made = Vec::new();
    if !tcp {
        permissions(&mut made, &to.hosts, &to.not_hosts, |p| P::Header(header(":authority", p, true)));
        permissions(&mut made, &to.methods, &to.not_methods, |p| P::Header(header(":method", p, false)));
        permissions(&mut made, &to.paths, &to.not_paths, |p| {
            P::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text(p, "", false))) })
        });
    }
    permissions(&mut made, &to.ports, &to.not_ports, |port| P::DestinationPort((*port).into()));
    made
}

fn peer(mesh: &MeshConfig, from: &Peer) -> Vec<Principal> {
    let mut made = Vec::new();
    principals(&mut made, &from.ip_blocks, &from.not_ip_blocks, |range| vec![I::DirectRemoteIp(cidr(range))]);
    principals(&mut made, &from.namespaces, &from.not_namespaces, |p| vec![in_namespace(p)]);
    principals(&mut made, &from.service_accounts, &from.not_service_accounts, |account| service_account(mesh, account));
    principals(&mut made, &from.principals, &from.not_principals, |p| identity(mesh, p));
    made
}

fn target_condition(condition: &Condition) -> Option<Permission> {
    let mut made = Vec::new();
    match condition {
        Condition::DestinationIp(v) => permissions(&mut made, &v.values, &v.not_values, |range| P::DestinationIp(cidr(range))),
        Condition::DestinationPort(v) => permissions(&mut made, &v.values, &v.not_values, |port| P::DestinationPort((*port).into())),
        _ => return None,
    }
    if made.len() <= 1 { made.pop() } else { Some(permission(P::AndRules(permission::Set { rules: made }))) }
}

fn source_condition(mesh: &MeshConfig, condition: &Condition) -> Vec<Principal> {
    fn all<T>(v: &Values<T>, make: impl Fn(&T) -> Vec<I>) -> Vec<Principal> {
        let mut made = Vec::new();
        principals(&mut made, &v.values, &v.not_values, make);
        made
    }
    match condition {
        Condition::RequestHeader { name, values } => all(values, |p| vec![I::Header(header(name, p, false))]),
        Condition::SourceIp(v) => all(v, |range| vec![I::DirectRemoteIp(cidr(range))]),
        Condition::SourceNamespace(v) => all(v, |p| vec![in_namespace(p)]),
        Condition::SourcePrincipal(v) => all(v, |p| identity(mesh, p)),
        Condition::SourceServiceAccount(v) => all(v, |account| service_account(mesh, account)),
        Condition::DestinationIp(_) | Condition::DestinationPort(_) => Vec::new(),
    }
}

fn cidr(range: &IpRange) -> CidrRange {
    listener::cidr(*range)
}

fn authenticated(matcher: StringMatcher) -> I {
    I::Authenticated(principal::Authenticated { principal_name: Some(matcher) })
}

fn matcher(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
    StringMatcher { ignore_case, match_pattern: Some(pattern) }
}

fn regex(expression: String) -> StringMatcher {
    matcher(MatchPattern::SafeRegex(RegexMatcher { regex: expression, ..Default::default() }), false)
}

/// A pattern over a text; `before` stands before what is anchored at the start.
fn text(pattern: &Pattern, before: &str, ignore_case: bool) -> StringMatcher {
    match pattern {
        Pattern::Exact(it) => matcher(MatchPattern::Exact(format!("{before}{it}")), ignore_case),
        Pattern::Prefix(it) => matcher(MatchPattern::Prefix(format!("{before}{it}")), ignore_case),
        Pattern::Suffix(it) => matcher(MatchPattern::Suffix(it.clone()), ignore_case),
        Pattern::Present => regex(".+".into()),
    }
}

fn header(name: &str, pattern: &Pattern, ignore_case: bool) -> HeaderMatcher {
    let specifier = match pattern {
        Pattern::Present => HeaderMatchSpecifier::PresentMatch(true),
        other => HeaderMatchSpecifier::StringMatch(text(other, "", ignore_case)),
    };
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

/// The mesh's trust domain goes by several names: its own, the aliases, and the literal `cluster.local`.
fn identity(mesh: &MeshConfig, pattern: &Pattern) -> Vec<I> {
    let (Pattern::Exact(whole) | Pattern::Prefix(whole)) = pattern else { return vec![authenticated(text(pattern, "spiffe://", false))] };
    let Some((domain, rest)) = whole.split_once('/') else { return vec![authenticated(text(pattern, "spiffe://", false))] };
    if domain != "cluster.local" && !domains(mesh).any(|d| d == domain) {
        return vec![authenticated(text(pattern, "spiffe://", false))];
    }
    let under = |d: &str| {
        let whole = format!("{d}/{rest}");
        let pattern = if matches!(pattern, Pattern::Exact(_)) { Pattern::Exact(whole) } else { Pattern::Prefix(whole) };
        authenticated(text(&pattern, "spiffe://", false))
    };
    domains(mesh).map(under).collect()
}

fn domains(mesh: &MeshConfig) -> impl Iterator<Item = &str> {
    std::iter::once(mesh.trust_domain.as_str()).chain(mesh.trust_domain_aliases.iter().map(String::as_str))
}

fn service_account(mesh: &MeshConfig, account: &NamespacedName) -> Vec<I> {
    let under = |d: &str| format!("spiffe://{d}/ns/{}/sa/{}", account.namespace, account.name);
    domains(mesh).map(|d| authenticated(matcher(MatchPattern::Exact(under(d)), false))).collect()
}

fn in_namespace(pattern: &Pattern) -> I {
    let middle = match pattern {
        Pattern::Exact(it) => escape(it),
        // A part of a namespace's name never reaches into the next segment of the identity.
        Pattern::Prefix(it) => format!("{}[^/]*", escape(it)),
        Pattern::Suffix(it) => format!("[^/]*{}", escape(it)),
        Pattern::Present => "[^/]+".to_owned(),
    };
    authenticated(regex(format!(".*/ns/{middle}/.*")))
}

/// Only what has a meaning of its own is escaped: of other characters the escaped form is refused, or means something else (`\<`).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
