//! Rules of one AuthorizationPolicy or DestinationRule that say other than they seem to.

use std::collections::BTreeMap;

use mizzen_api::Node;
use mizzen_types::Name;

use super::Own;
use crate::{
    Fix, Sort, code,
    facts::{Of, PolicyFacts, RuleFacts},
};

pub(crate) fn look(own: &mut Own<'_>) {
    match &own.facts.of {
        Of::Policy(policy) => policy_rules(own, policy),
        Of::Destination(_) => unverified(own),
        _ => {}
    }
}

/// TLS to a server whose certificate nobody looks at.
fn unverified(own: &mut Own<'_>) {
    let mut places = vec!["spec.trafficPolicy".to_owned()];
    let mut ports_of = |path: String| {
        let count = own.at(&format!("{path}.portLevelSettings")).map_or(0, |list| list.items().len());
        places.extend((0..count).map(|at| format!("{path}.portLevelSettings[{at}]")));
    };
    ports_of("spec.trafficPolicy".to_owned());
    let subsets = own.at("spec.subsets").map_or(0, |list| list.items().len());
    for at in 0..subsets {
        ports_of(format!("spec.subsets[{at}].trafficPolicy"));
    }
    places.extend((0..subsets).map(|at| format!("spec.subsets[{at}].trafficPolicy")));
    for place in places {
        let path = format!("{place}.tls.insecureSkipVerify");
        if own.at(&path).is_some_and(Node::is_true) {
            let text = "insecureSkipVerify is set: the server's certificate is not verified, so that anybody on the way can answer";
            own.say_with(&code::MZ0102, path.clone(), text, Some(Fix::Remove { path }));
            continue;
        }
        let tls = |name: &str| own.at(&format!("{place}.tls.{name}"));
        let foreign = tls("mode").and_then(Node::text).is_some_and(|mode| matches!(mode, "SIMPLE" | "MUTUAL"));
        let named = tls("sni").and_then(Node::text).is_some_and(|sni| !sni.is_empty());
        if foreign && named && tls("subjectAltNames").is_none_or(|names| names.items().is_empty()) {
            let text = "sni is set without subjectAltNames: whom the server's certificate names is not verified, so that whoever has one of these \
                        authorities can answer";
            own.say(&code::MZ0113, format!("{place}.tls.sni"), text);
        }
    }
}

fn policy_rules(own: &mut Own<'_>, policy: &PolicyFacts) {
    debug_assert_eq!(own.item.id.sort(), Sort::AuthorizationPolicy);
    for (number, rule) in policy.rules.iter().enumerate() {
        let path = format!("spec.rules[{number}]");
        if let Some(why) = never(rule) {
            own.say(&code::MZ0103, path, format!("the rule matches no request: {why}"));
            continue;
        }
        if let Some((other, _)) = policy.rules.iter().enumerate().take(number).find(|(_, other)| *other == rule) {
            own.say_with(&code::MZ0104, path.clone(), format!("the rule is the same as rules[{other}]"), Some(Fix::Remove { path }));
            continue;
        }
        if let Some((other, _)) = policy.rules.iter().enumerate().find(|(at, other)| *at != number && is_all(other) && !is_all(rule)) {
            own.say(&code::MZ0104, path, format!("the rule has no effect: rules[{other}] matches every request"));
            continue;
        }
        if &*policy.action == "ALLOW" && is_for_all(rule) {
            own.say(&code::MZ0107, path, "the rule lets everybody do everything: it names neither who, nor what, nor when");
        }
    }
}

/// Whether it is `{}`, or says no more.
fn is_all(rule: &RuleFacts) -> bool {
    rule.from.is_empty() && rule.to.is_empty() && rule.when.is_empty()
}

/// Whether anybody may do anything by it.
fn is_for_all(rule: &RuleFacts) -> bool {
    let says_nothing = |fields: &BTreeMap<Name, Vec<Name>>| fields.values().all(Vec::is_empty);
    let any_address = |fields: &BTreeMap<Name, Vec<Name>>| {
        fields.len() == 1
            && fields.get("ipBlocks").or_else(|| fields.get("remoteIpBlocks")).is_some_and(|all| all.iter().any(|ip| ip.ends_with("/0")))
    };
    let anybody = rule.from.is_empty() || rule.from.iter().any(|source| says_nothing(source) || any_address(source));
    let anything = rule.to.is_empty() || rule.to.iter().any(says_nothing);
    anybody && anything && rule.when.is_empty()
}

/// Why a rule can match nothing.
fn never(rule: &RuleFacts) -> Option<String> {
    let one = |entries: &[BTreeMap<Name, Vec<Name>>], what: &str| {
        let reasons: Option<Vec<String>> = entries.iter().map(excluded).collect();
        reasons.and_then(|reasons| Some(format!("{what}: {}", reasons.first()?)))
    };
    let terms = rule.when.iter().find_map(|(key, values, not)| {
        let gone = !values.is_empty() && values.iter().all(|value| not.iter().any(|pattern| covers(pattern, value)));
        gone.then(|| format!("when {key}: each of values is one of notValues"))
    });
    one(&rule.from, "from").or_else(|| one(&rule.to, "to")).or(terms)
}

/// The field of which nothing is left, or that nobody can bear.
fn excluded(fields: &BTreeMap<Name, Vec<Name>>) -> Option<String> {
    fields.iter().find_map(|(name, values)| {
        if values.is_empty() {
            return None;
        }
        let mut letters = name.chars();
        let first = letters.next()?.to_ascii_uppercase();
        let not = fields.get(&*format!("not{first}{}", letters.as_str()));
        if not.is_some_and(|not| values.iter().all(|value| not.iter().any(|pattern| covers(pattern, value)))) {
            return Some(format!("each of {name} is one of not{first}{}", name.get(1..).unwrap_or_default()));
        }
        if &**name == "paths" && values.iter().all(|value| !value.starts_with(['/', '*', '{'])) {
            return Some(format!("{} is no path: one starts with a slash", quoted(values)));
        }
        if &**name == "methods" && values.iter().all(|value| value.bytes().any(|b| b.is_ascii_lowercase())) {
            return Some(format!("{} is no method: they are written in capitals", quoted(values)));
        }
        None
    })
}

fn quoted(values: &[Name]) -> String {
    values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", ")
}

/// Whether every text that the second pattern matches is matched by the first: exact, prefix, suffix, or `*`.
pub(crate) fn covers(pattern: &str, other: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(""), _) => true,
        (Some(prefix), _) => other.strip_suffix('*').unwrap_or(other).starts_with(prefix) && !other.starts_with('*'),
        (None, Some(suffix)) => other.ends_with(suffix),
        (None, None) => pattern == other,
    }
}
