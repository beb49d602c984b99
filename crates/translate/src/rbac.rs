//! Authorization: a workload's policies as filters for requests and for connections: CUSTOM before tokens before AUDIT before DENY before ALLOW.

use std::{collections::HashMap, sync::Arc};

use mizzen_api::Kind;
use mizzen_api::istio::{Action, AuthorizationPolicy, Condition, MeshConfig, Operation, Peer, Rule};
use mizzen_model::WorkloadPolicies;
use mizzen_protos::envoy::envoy::{
    config::rbac::v3::{
        Permission, Policy, Principal, Rbac,
        permission::{self, Rule as P},
        principal::{self, Identifier as I},
        rbac::Action as RbacAction,
    },
    extensions::filters::{http::rbac::v3::Rbac as HttpRbac, network::rbac::v3::Rbac as TcpRbac},
};

use crate::{
    authz,
    draft::{Http, NetworkFilter},
    filters::Side,
    jwt,
    rbac_match::{any_permission, any_principal, operation, peer, permission, principal, source_condition, target_condition},
    scope::Scope,
};

/// Before what dry runs of ALLOW policies leave; also where there is no dry run, as with Istio.
const SHADOW_ALLOW: &str = "istio_dry_run_allow_";
/// The same of DENY policies.
const SHADOW_DENY: &str = "istio_dry_run_deny_";

/// The authorization filters of a workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters {
    pub(crate) http: Vec<Http>,
    pub(crate) tcp: Vec<NetworkFilter>,
}

/// The filters of the proxy's own workload.
pub(crate) fn filters(scope: &Scope<'_, '_>, side: Side) -> Filters {
    let found = scope.policies();
    let mut filters = custom(scope, &found);
    filters.http.extend(jwt::filter(scope, side).map(|config| Http::JwtAuthn(Arc::new(config))));
    for action in [Action::Audit, Action::Deny, Action::Allow] {
        filters.http.extend(Rules::of(scope.mesh(), &found, action, false).map(|rules| http_filter(action, rules)));
        filters.tcp.extend(Rules::of(scope.mesh(), &found, action, true).map(|rules| tcp_filter(action, rules)));
    }
    filters
}

/// The filters of CUSTOM policies. Where nobody can be asked, what the rules match is refused.
fn custom<'a>(scope: &Scope<'_, 'a>, found: &WorkloadPolicies<'a>) -> Filters {
    let of = |tcp| rules(scope.mesh(), found, Action::Custom, tcp, false);
    match authz::asked(scope, found) {
        None => Filters::default(),
        Some(Err(_)) => {
            let closed = |tcp| of(tcp).map(|rules| Rules::enforced(rules.into_iter().map(|(name, p)| (name + authz::NOBODY, p)).collect()));
            Filters {
                http: closed(false).map(|rules| http_filter(Action::Deny, rules)).into_iter().collect(),
                tcp: closed(true).map(|rules| tcp_filter(Action::Deny, rules)).into_iter().collect(),
            }
        }
        Some(Ok((asked, cluster))) => {
            let tcp = authz::tcp_filter(&asked, &cluster).into_iter().flat_map(|ask| {
                let rules = of(true).unwrap_or_default();
                [tcp_shadow_filter(rules), NetworkFilter::ExtAuthz(Box::new(ask))]
            });
            Filters {
                http: vec![shadow_filter(of(false).unwrap_or_default()), Http::ExtAuthz(Box::new(authz::filter(&asked, &cluster)))],
                tcp: tcp.collect(),
            }
        }
    }
}

/// Rules by their names.
type Policies = HashMap<String, Policy>;

/// The rules of one action.
struct Rules {
    /// What is enforced; `None`: nothing is to be checked.
    enforced: Option<Policies>,
    /// What is only watched.
    shadow: Option<Policies>,
}

impl Rules {
    fn enforced(policies: Policies) -> Rules {
        Rules { enforced: Some(policies), shadow: None }
    }

    fn of(mesh: &MeshConfig, found: &WorkloadPolicies<'_>, action: Action, tcp: bool) -> Option<Rules> {
        let rules = Rules { enforced: rules(mesh, found, action, tcp, false), shadow: rules(mesh, found, action, tcp, true) };
        (rules.enforced.is_some() || rules.shadow.is_some()).then_some(rules)
    }

    fn prefix(&self, action: Action) -> String {
        match action {
            Action::Deny if self.shadow.is_some() => SHADOW_DENY,
            Action::Audit if self.shadow.is_some() => "",
            _ => SHADOW_ALLOW,
        }
        .to_owned()
    }
}

fn rbac(action: Action, policies: Policies) -> Rbac {
    let action = match action {
        Action::Allow => RbacAction::Allow,
        // What a CUSTOM rule matches is asked about: for the rules it is as if it were denied.
        Action::Deny | Action::Custom => RbacAction::Deny,
        Action::Audit => RbacAction::Log,
    };
    Rbac { action: action.into(), policies, ..Default::default() }
}

fn http_filter(action: Action, rules: Rules) -> Http {
    let shadow_rules_stat_prefix = rules.prefix(action);
    let [rules, shadow_rules] = [rules.enforced, rules.shadow].map(|p| p.map(|p| rbac(action, p)));
    Http::Rbac(Arc::new(HttpRbac { rules, shadow_rules, shadow_rules_stat_prefix, ..Default::default() }))
}

/// Rules that are not enforced: they say about which requests is asked.
fn shadow_filter(policies: Policies) -> Http {
    let shadow_rules = Some(rbac(Action::Custom, policies));
    Http::Rbac(Arc::new(HttpRbac { shadow_rules, shadow_rules_stat_prefix: authz::SHADOW_PREFIX.into(), ..Default::default() }))
}

/// The same about connections.
fn tcp_shadow_filter(policies: Policies) -> NetworkFilter {
    let (shadow_rules, shadow_rules_stat_prefix) = (Some(rbac(Action::Custom, policies)), authz::SHADOW_PREFIX.into());
    NetworkFilter::Rbac(Arc::new(TcpRbac { shadow_rules, shadow_rules_stat_prefix, stat_prefix: "tcp.".into(), ..Default::default() }))
}

fn tcp_filter(action: Action, rules: Rules) -> NetworkFilter {
    let shadow_rules_stat_prefix = rules.prefix(action);
    let [rules, shadow_rules] = [rules.enforced, rules.shadow].map(|p| p.map(|p| rbac(action, p)));
    NetworkFilter::Rbac(Arc::new(TcpRbac {
        rules,
        shadow_rules,
        shadow_rules_stat_prefix,
        stat_prefix: "tcp.".into(),
        ..Default::default()
    }))
}

fn everything() -> Policy {
    Policy { permissions: vec![any_permission()], principals: vec![any_principal()], ..Default::default() }
}

/// The rules of one action by name, those of dry runs or the others; `None` if there is no policy of it, so that nothing is to be checked.
fn rules(mesh: &MeshConfig, found: &WorkloadPolicies<'_>, action: Action, tcp: bool, dry_run: bool) -> Option<Policies> {
    let mut all = HashMap::new();
    let mut any = false;
    for policy in found.policies.iter().filter(|p| p.action == action && p.dry_run == dry_run) {
        // An ALLOW policy counts even if no rule of it remains: then nobody may call.
        any |= action == Action::Allow;
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(made) = of_rule(mesh, rule, action, tcp) {
                all.insert(rule_name(policy, index), made);
            }
        }
    }
    if action == Action::Deny && !dry_run {
        // Without its RequestAuthentication nobody knows whose a request is; connections are not asked for tokens.
        for closed in found.closed.iter().filter(|closed| !tcp || closed.key.kind != Kind::RequestAuthentication) {
            all.insert(format!("ns[{}]-policy[{}]-rule[closed]", closed.key.namespace, closed.key.name), everything());
        }
    }
    (any || !all.is_empty()).then_some(all)
}

fn rule_name(policy: &AuthorizationPolicy, index: usize) -> String {
    let name = format!("ns[{}]-policy[{}]-rule[{index}]", policy.meta.namespace, policy.meta.name);
    if policy.action == Action::Custom { format!("{}-{}-{name}", authz::RULE_PREFIX, policy.provider) } else { name }
}

/// One rule. On TCP there is no request: an ALLOW rule that asks for one never matches, others are taken without that part, and match more.
fn of_rule(mesh: &MeshConfig, rule: &Rule, action: Action, tcp: bool) -> Option<Policy> {
    let asks_http =
        rule.from.iter().any(Peer::is_http) || rule.to.iter().any(Operation::is_http) || rule.when.iter().any(Condition::is_http);
    if tcp && asks_http && action == Action::Allow {
        return None;
    }
    let conditions: Vec<&Condition> = rule.when.iter().filter(|c| !(tcp && c.is_http())).collect();
    let on_target: Vec<Permission> = conditions.iter().flat_map(|c| target_condition(c)).collect();
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
        if rule.from.is_empty() { vec![whole(Vec::new())] } else { rule.from.iter().map(|from| whole(peer(mesh, from, tcp))).collect() };
    Some(Policy { permissions, principals, ..Default::default() })
}
