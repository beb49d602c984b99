//! Where the rules of policies stand that a decision names, and which resources a running proxy holds.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::{Key, Kind, Object};
use mizzen_model::Snapshot;

use crate::call::{Explanation, Hop, ResourceType, Step, To, Verdict, Way};

/// The names of rules in a text: `ns[shop]-policy[web]-rule[0]`.
pub fn rule_names(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("ns[")?;
            let after = &rest[start..];
            let Some(end) = end_of_name(after) else {
                rest = &after["ns[".len()..];
                continue;
            };
            rest = &after[end..];
            return Some(&after[..end]);
        }
    })
}

/// Where the name that the text begins with ends.
fn end_of_name(text: &str) -> Option<usize> {
    let (namespace, rest) = text.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, rest) = rest.split_once("]-rule[")?;
    let (rule, after) = rest.split_once(']')?;
    let is_word = |text: &str| !text.contains([' ', '[', ']']);
    [namespace, name, rule].into_iter().all(is_word).then(|| text.len() - after.len())
}

/// Where a rule stands, by its name: `FILE:LINE`. `None` if it comes from no file.
pub fn place_of(snapshot: &Snapshot, rule: &str) -> Option<String> {
    let (namespace, rest) = rule.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, index) = rest.strip_suffix(']')?.split_once("]-rule[")?;
    let object = snapshot.object(&Key::new(Kind::AuthorizationPolicy, namespace, name))?;
    let Object::AuthorizationPolicy(policy) = &**object else { return None };
    let place = policy.meta.position(&format!("spec.rules[{index}]"));
    (place.line > 0).then(|| place.to_string())
}

/// The places of all rules that an explanation names.
pub(crate) fn of(snapshot: &Snapshot, explanation: &Explanation) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut texts = |text: &str| {
        for name in rule_names(text) {
            if !found.contains_key(name)
                && let Some(place) = place_of(snapshot, name)
            {
                found.insert(name.to_owned(), place);
            }
        }
    };
    verdict(&explanation.verdict, &mut texts);
    let mut steps = |_: &str, step: &Step| {
        texts(&step.outcome);
        step.reasons.iter().for_each(|reason| texts(&reason.text));
    };
    explanation.steps.iter().for_each(|step| steps("", step));
    let mut copy = explanation.hop.clone();
    hop(&mut copy, &mut |proxy, step| steps(proxy, step));
    found
}

fn verdict(verdict: &Verdict, texts: &mut impl FnMut(&str)) {
    match verdict {
        Verdict::Denied { policy, why } => {
            policy.iter().for_each(|policy| texts(policy));
            texts(why);
        }
        Verdict::Differs { verdicts } => verdicts.iter().for_each(|one| self::verdict(one, texts)),
        _ => {}
    }
}

/// All steps of proxies, each with its proxy's name.
fn hop(of: &mut Hop, each: &mut dyn FnMut(&str, &mut Step)) {
    let Hop { proxy, steps, ways, .. } = of;
    steps.iter_mut().for_each(|step| each(proxy, step));
    for Way { steps, to, .. } in ways {
        steps.iter_mut().for_each(|step| each(proxy, step));
        for To { steps, next, .. } in to {
            steps.iter_mut().for_each(|step| each(proxy, step));
            if let Some(next) = next {
                hop(next, each);
            }
        }
    }
}

impl Explanation {
    /// The proxies that the call goes through: `namespace/pod`.
    pub fn proxies(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        hop(&mut self.hop.clone(), &mut |proxy, _| {
            found.insert(proxy.to_owned());
        });
        found
    }

    /// Notes of each resource whether the running proxy holds it; `None` where that is not known.
    pub fn mark(&mut self, mut holds: impl FnMut(&str, ResourceType, &str) -> Option<bool>) {
        hop(&mut self.hop, &mut |proxy, step| {
            step.held = step.resource.as_ref().and_then(|resource| holds(proxy, resource.kind, &resource.name));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_texts() {
        let check = |text: &str, expected: &[&str]| assert_eq!(rule_names(text).collect::<Vec<_>>(), expected, "{text}");
        check("", &[]);
        check("nearest is ns[a]-policy[b]-rule[0]: path", &["ns[a]-policy[b]-rule[0]"]);
        check(
            "istio-ext-authz-ns[a]-policy[b]-rule[1], ns[c]-policy[d]-rule[closed]",
            &["ns[a]-policy[b]-rule[1]", "ns[c]-policy[d]-rule[closed]"],
        );
        check("ns[a ns[b]-policy[c]-rule[2]", &["ns[b]-policy[c]-rule[2]"]);
        check("ns[é", &[]);
    }
}
