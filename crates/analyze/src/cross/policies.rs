//! Who may call whom, by all policies together: what is left open, and what can never hold.

use std::collections::BTreeSet;

use mizzen_api::LabelSet;
use mizzen_types::Protocol;

use crate::{
    Cx, Entry, Index, Sort, code,
    facts::{Mode, Of, PolicyFacts, RuleFacts, SelectedFacts},
};

pub(crate) fn look(cx: &Cx<'_>) {
    match (&cx.entry.facts.of, cx.entry.sort()) {
        (Of::Policy(policy), _) => {
            trust_domains(cx, policy);
            denied(cx, policy);
            without_identity(cx, policy);
        }
        (Of::Selected(selected), Sort::RequestAuthentication) => tokens(cx, selected),
        (Of::Service(_), _) => guessed(cx),
        (_, Sort::Namespace) => default_deny(cx),
        _ => {}
    }
}

/// The policies that hold in a namespace: its own, and the mesh's.
fn policies<'a>(cx: &Cx<'a>, namespace: &str) -> Vec<(&'a Entry, &'a PolicyFacts)> {
    let root = &cx.mesh().root;
    let own = cx.within(Sort::AuthorizationPolicy, namespace);
    let of_root = (**root != *namespace).then(|| cx.within(Sort::AuthorizationPolicy, root)).into_iter().flatten();
    own.chain(of_root).filter_map(|entry| Some((entry, entry.policy()?))).collect()
}

/// Whether a policy is for all of a namespace.
fn is_for_all(selected: &SelectedFacts) -> bool {
    selected.targets.is_empty() && selected.selector.iter().next().is_none()
}

fn selects(selected: &SelectedFacts, labels: &impl LabelSet) -> bool {
    selected.targets.is_empty() && selected.selector.is_within(labels)
}

/// Principals of trust domains that nobody has.
fn trust_domains(cx: &Cx<'_>, policy: &PolicyFacts) {
    let known = &cx.mesh().trust_domains;
    for (rule, facts) in policy.rules.iter().enumerate() {
        for (from, source) in facts.from.iter().enumerate() {
            for field in ["principals", "notPrincipals"] {
                for (at, value) in source.get(field).into_iter().flatten().enumerate() {
                    let mut parts = value.split('/');
                    let (domain, is_whole) = (parts.next().unwrap_or_default(), parts.count() == 4);
                    if !is_whole || domain.contains('*') || known.iter().any(|known| **known == *domain) {
                        continue;
                    }
                    let names: Vec<&str> = known.iter().map(|name| &**name).collect();
                    let path = format!("spec.rules[{rule}].from[{from}].source.{field}[{at}]");
                    let text = format!(
                        "\"{value}\" is of trust domain \"{domain}\", which is neither the mesh's nor one of its aliases ({})",
                        names.join(", ")
                    );
                    cx.say(&code::MZ0109, path, text);
                }
            }
        }
    }
}

/// ALLOW policies beneath a policy that denies everything.
fn denied(cx: &Cx<'_>, policy: &PolicyFacts) {
    if &*policy.action != "ALLOW" || policy.rules.is_empty() {
        return;
    }
    let empty = |rule: &RuleFacts| rule.from.is_empty() && rule.to.is_empty() && rule.when.is_empty();
    let over = policies(cx, &cx.entry.id.namespace).into_iter().find(|(_, other)| {
        let whole = is_for_all(&other.selected) || (!is_for_all(&policy.selected) && selects(&other.selected, &policy.selected.selector));
        &*other.action == "DENY" && whole && other.rules.iter().any(empty)
    });
    if let Some((other, _)) = over {
        let text = format!("the policy allows nobody: {} denies every request to its workloads, and a denial comes first", other.id);
        cx.say(&code::MZ0104, "spec.rules", text);
    }
}

/// Names of callers at workloads that take plaintext only.
fn without_identity(cx: &Cx<'_>, policy: &PolicyFacts) {
    let needs = |rule: &RuleFacts| {
        let named = |field: &str| rule.from.iter().all(|source| source.get(field).is_some_and(|all| !all.is_empty()));
        !rule.from.is_empty() && ["principals", "namespaces", "serviceAccounts"].into_iter().any(named)
    };
    let namespace = &cx.entry.id.namespace;
    if !policy.rules.iter().any(needs) || !policy.selected.targets.is_empty() || **namespace == *cx.mesh().root {
        return;
    }
    let workloads = cx.workloads(namespace, &policy.selected.selector);
    let plain = |workload: &&&Entry| {
        workload.workload().is_some_and(|facts| super::mutual_tls::mode_of(cx, namespace, &facts.labels) == Mode::Disable)
    };
    let Some(workload) = workloads.iter().find(plain) else { return };
    for (number, _) in policy.rules.iter().enumerate().filter(|(_, rule)| needs(rule)) {
        let text = format!(
            "the rule never matches at {}: mutual TLS is disabled there, and without it nobody has a principal, a namespace or an account",
            workload.id
        );
        cx.say(&code::MZ0103, format!("spec.rules[{number}].from"), text);
    }
}

/// Tokens that are checked if they come, and need not come.
fn tokens(cx: &Cx<'_>, selected: &SelectedFacts) {
    let (namespace, root) = (&cx.entry.id.namespace, &cx.mesh().root);
    if !selected.targets.is_empty() {
        return;
    }
    let asks = |rule: &RuleFacts| {
        let field = |name: &str| rule.from.iter().any(|source| source.get(name).is_some_and(|all| !all.is_empty()));
        field("requestPrincipals") || field("notRequestPrincipals") || rule.when.iter().any(|(key, ..)| key.starts_with("request.auth."))
    };
    // What holds for the mesh is required where its workloads are: anywhere.
    let all = if namespace == root {
        cx.all(Sort::AuthorizationPolicy).filter_map(|entry| Some((entry, entry.policy()?))).collect()
    } else {
        policies(cx, namespace)
    };
    let is_required = all.iter().any(|(_, policy)| {
        let meets = selects(&policy.selected, &selected.selector)
            || is_for_all(selected)
            || policy.selected.selector.iter().all(|(name, value)| selected.selector.label(name).is_none_or(|own| own == value));
        (meets || !policy.selected.targets.is_empty()) && policy.rules.iter().any(asks)
    });
    let routed = || cx.list(Index::ByClaims, "").next().is_some();
    if !is_required && !routed() {
        let text = "a token is checked if there is one, and a request without any passes: no AuthorizationPolicy asks for requestPrincipals or claims";
        cx.say(&code::MZ0110, "spec", text);
    }
}

/// Ports whose protocol is found out by looking, where a policy is about HTTP.
fn guessed(cx: &Cx<'_>) {
    let Some(service) = cx.entry.service() else { return };
    let open: Vec<usize> = service.ports.iter().enumerate().filter(|(_, port)| port.spoken() == Protocol::Auto).map(|(at, _)| at).collect();
    if open.is_empty() || service.selector.iter().next().is_none() {
        return;
    }
    let about_http = |rule: &RuleFacts| {
        let http = |field: &str| matches!(field, "paths" | "notPaths" | "methods" | "notMethods" | "hosts" | "notHosts");
        let by_token = |field: &str| matches!(field, "requestPrincipals" | "notRequestPrincipals");
        rule.to.iter().any(|to| to.keys().any(|field| http(field)))
            || rule.from.iter().any(|from| from.keys().any(|field| by_token(field)))
            || rule.when.iter().any(|(key, ..)| key.starts_with("request."))
    };
    let namespace = &cx.entry.id.namespace;
    let workloads = cx.workloads(namespace, &service.selector);
    let policy = policies(cx, namespace).into_iter().find(|(_, policy)| {
        let selected = |workload: &&Entry| workload.workload().is_some_and(|facts| selects(&policy.selected, &facts.labels));
        policy.rules.iter().any(about_http) && workloads.iter().any(selected)
    });
    let Some((policy, _)) = policy else { return };
    for at in open {
        let port = service.ports.get(at).map_or(0, |port| port.port);
        let text = format!(
            "the protocol of port {port} is guessed from its first bytes, and {} is about HTTP: what is not taken for HTTP is judged without it; name the port http or set appProtocol",
            policy.id
        );
        cx.say(&code::MZ0106, format!("spec.ports[{at}]"), text);
    }
}

/// Workloads that anybody may call, where others are guarded.
fn default_deny(cx: &Cx<'_>) {
    let namespace = &cx.entry.id.name;
    let all = policies(cx, namespace);
    let allow: Vec<&SelectedFacts> = all.iter().filter(|(_, p)| &*p.action == "ALLOW").map(|(_, p)| &p.selected).collect();
    let guards = |selected: &&&SelectedFacts| selected.targets.is_empty();
    if allow.iter().filter(guards).count() == 0 || allow.iter().any(|selected| is_for_all(selected)) {
        return;
    }
    let open: BTreeSet<String> = (cx.workloads(namespace, &Default::default()).into_iter())
        .filter(|entry| entry.workload().is_some_and(|facts| !allow.iter().any(|selected| selects(selected, &facts.labels))))
        .map(|entry| entry.id.to_string())
        .collect();
    let Some(first) = open.first() else { return };
    let more = if open.len() > 1 { format!(" and {} more", open.len() - 1) } else { String::new() };
    let text = format!(
        "namespace \"{namespace}\" has no default deny: no ALLOW policy is for {first}{more}, which anybody may call (an AuthorizationPolicy with an empty spec closes the rest)"
    );
    cx.say(&code::MZ0108, "", text);
}
