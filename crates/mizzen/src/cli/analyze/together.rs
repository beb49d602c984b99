//! What only the objects that the mesh takes show, together and as what proxies would get.

use std::collections::BTreeMap;

use mizzen_analyze::{Id, Message, refused_by_proxy, warned};
use mizzen_api::{Object, Pos};
use mizzen_explain::{Finding, review_all};
use mizzen_model::{Change, Snapshot, check};

/// Up to so many objects proxies' configurations are made and looked at: of a larger mesh that takes longer than everything else, and the control plane
/// of the running mesh tells what its proxies refuse.
const REVIEWED: usize = 500;
/// And so many resources at most.
const RESOURCES: usize = 20_000;

/// Of objects with one name the last is in force.
pub(super) fn look(objects: Vec<Object>) -> Vec<Message> {
    let count = objects.len();
    let snapshot = Snapshot::empty().apply(objects.into_iter().map(Change::from));
    let mut messages: Vec<Message> = warned(&check(&snapshot)).into_iter().filter(|message| !message.pos.file.is_empty()).collect();
    if count <= REVIEWED {
        let known: BTreeMap<String, (Id, Pos)> = (snapshot.keys())
            .filter_map(|key| Some((key.to_string(), (mizzen_analyze::id_of_key(&key), snapshot.object(&key)?.meta().origin.clone()))))
            .collect();
        messages.extend(review_all(&snapshot, RESOURCES).into_iter().map(|finding| refused(&known, &finding)));
    }
    // The program ends soon: taking all of it apart would take a tenth of its time.
    std::mem::forget(snapshot);
    messages
}

/// What a proxy refuses is told of the object that says most of the resource: a rule or a policy rather than what it is about.
fn refused(known: &BTreeMap<String, (Id, Pos)>, finding: &Finding) -> Message {
    let rank = |object: &&String| {
        let kind = object.split(' ').next().unwrap_or_default();
        ["VirtualService", "DestinationRule", "AuthorizationPolicy", "RequestAuthentication", "Gateway", "ServiceEntry", "Service"]
            .iter()
            .position(|known| *known == kind)
            .unwrap_or(usize::MAX)
    };
    let object = finding.objects.iter().filter(|object| known.contains_key(*object)).min_by_key(rank);
    let (id, pos) = object.and_then(|object| known.get(object)).cloned().unwrap_or_default();
    let field = if finding.field.is_empty() { String::new() } else { format!("{}: ", finding.field) };
    refused_by_proxy(id, pos, format!("proxies refuse {} {}: {field}{}", finding.kind, finding.name, finding.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_which_object_it_is_told() {
        let id = |kind: &str| Id { kind: kind.into(), namespace: "shop".into(), name: "a".into(), ..Id::default() };
        let place = |line| Pos::new("a.yaml", line, 1);
        let known = [("Service shop/a", id("Service"), place(1)), ("VirtualService shop/a", id("VirtualService"), place(7))];
        let known = known.into_iter().map(|(name, id, pos)| (name.to_owned(), (id, pos))).collect();
        let finding = |objects: &[&str]| Finding {
            kind: "Route".to_owned(),
            name: "80".to_owned(),
            field: "virtual_hosts[a]".to_owned(),
            reason: "no".to_owned(),
            objects: objects.iter().map(|object| (*object).to_owned()).collect(),
        };
        let told = |objects: &[&str]| refused(&known, &finding(objects)).to_string();
        let text = "proxies refuse Route 80: virtual_hosts[a]: no";
        assert_eq!(
            told(&["Service shop/a", "VirtualService shop/a", "Pod shop/p"]),
            format!("Error [MZ0005] (VirtualService shop/a a.yaml:7) {text}")
        );
        assert_eq!(told(&["Service shop/a"]), format!("Error [MZ0005] (Service shop/a a.yaml:1) {text}"));
    }
}
