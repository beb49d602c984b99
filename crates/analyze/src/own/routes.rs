//! Routes of a VirtualService that no call can take, and gateways of it that it cannot mean.

use std::collections::BTreeMap;

use mizzen_api::{Node, Value};

use super::Own;
use crate::{Fix, code};

pub(crate) fn look(own: &mut Own<'_>) {
    let node = own.item.node;
    for protocol in ["http", "tcp", "tls"] {
        let routes = node.get("spec").and_then(|spec| spec.get(protocol)).map(Node::items).unwrap_or_default();
        unreachable(own, protocol, routes);
    }
    gateways(own);
}

/// A match with the name of its rule and its own.
struct Match<'a> {
    node: &'a Node,
    path: String,
    rule: String,
    name: String,
}

fn unreachable(own: &mut Own<'_>, protocol: &str, routes: &[Node]) {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    let mut open: Option<usize> = None;
    let mut overlapping = Vec::new();
    for (number, route) in routes.iter().enumerate().filter(|(_, route)| !matches!(route.value, Value::Null)) {
        let (rule, path) = (name_of(route, number), format!("spec.{protocol}[{number}]"));
        let matches = route.get("match").map(Node::items).unwrap_or_default();
        if matches.is_empty() {
            if open.is_some() {
                unused(own, &path, &rule, "only the last rule can have no matches");
            }
            open = Some(number);
            continue;
        }
        if open.is_some() {
            unused(own, &path, &rule, "route without matches defined before");
            continue;
        }
        let mut again = 0;
        for (at, node) in matches.iter().enumerate() {
            let one = Match { node, path: format!("{path}.match[{at}]"), rule: rule.clone(), name: name_of(node, at) };
            let content = content(node, protocol == "http");
            let Some(first) = known.get(&content).copied() else {
                known.insert(content, number);
                overlapping.push(one);
                continue;
            };
            again += 1;
            let first = routes.get(first).map(|route| name_of(route, first)).unwrap_or_default();
            ineffective(own, &one, &one.name, &first);
        }
        if again == matches.len() {
            unused(own, &path, &rule, "all matches used by prior rules");
        }
    }
    if protocol == "http" {
        overlaps(own, &overlapping);
    }
}

fn unused(own: &mut Own<'_>, path: &str, rule: &str, why: &str) {
    own.say(&code::IST0130, path, format!("rule {rule} of the VirtualService is never taken ({why})"));
}

fn ineffective(own: &mut Own<'_>, one: &Match<'_>, name: &str, first: &str) {
    let text =
        format!("match {name} of rule {} of the VirtualService has no effect: it repeats or overlaps a match of rule {first}", one.rule);
    own.say(&code::IST0131, one.path.clone(), text);
}

/// The name that is written, else the number.
fn name_of(node: &Node, number: usize) -> String {
    match node.get("name").and_then(Node::text).filter(|name| !name.is_empty()) {
        Some(name) => format!("{name:?}"),
        None => format!("#{number}"),
    }
}

/// What a match says, alike for matches that say the same; the name of a match is no part of it.
fn content(node: &Node, is_named: bool) -> String {
    let is_said = |entry: &&mizzen_api::Entry| {
        let is_empty = match &entry.value.value {
            Value::Null | Value::Bool(false) | Value::Int(0) => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => {
                entries.is_empty() && matches!(&*entry.key, "headers" | "withoutHeaders" | "queryParams" | "sourceLabels")
            }
            _ => false,
        };
        !is_empty && (!is_named || &*entry.key != "name")
    };
    let mut parts: Vec<String> =
        node.entries().iter().filter(is_said).map(|entry| format!("{:?}: {}", entry.key, plain(&entry.value))).collect();
    parts.sort();
    parts.join(", ")
}

fn plain(node: &Node) -> String {
    match &node.value {
        Value::Map(entries) => {
            let mut parts: Vec<String> = entries.iter().map(|entry| format!("{:?}: {}", entry.key, plain(&entry.value))).collect();
            parts.sort();
            format!("{{{}}}", parts.join(", "))
        }
        Value::List(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        Value::Text(text) => format!("{text:?}"),
        other => format!("{other:?}"),
    }
}

/// What counts of a match by prefix, where it is compared with another. What is matched by regular expression counts as not written.
struct Prefixed<'a> {
    prefix: &'a str,
    port: i64,
    method: String,
    authority: String,
    maps: [BTreeMap<&'a str, String>; 3],
}

impl<'a> Prefixed<'a> {
    fn of(node: &'a Node) -> Option<Prefixed<'a>> {
        let prefix = node.at("uri.prefix").and_then(Node::text).filter(|prefix| !prefix.is_empty())?;
        let method = node.get("method").map(pattern).filter(|pattern| !pattern.is_empty());
        let map = |field: &str| {
            let entries = node.get(field).map(Node::entries).unwrap_or_default();
            entries.iter().map(|entry| (&*entry.key, pattern(&entry.value))).collect()
        };
        Some(Prefixed {
            prefix,
            port: node.get("port").and_then(Node::int).unwrap_or_default(),
            // As Istio has it: a match by prefix without a method is compared as one of GET.
            method: method.unwrap_or_else(|| "exact GET".to_owned()),
            authority: node.get("authority").map(pattern).unwrap_or_default(),
            maps: ["headers", "queryParams", "withoutHeaders"].map(map),
        })
    }

    /// Whether Istio takes a later match to be covered by this one. Each pattern of this one may go on where that of the other ends.
    fn covers(&self, later: &Prefixed<'_>) -> bool {
        let maps = self.maps.iter().zip(&later.maps).all(|(own, other)| {
            own.len() == other.len()
                && own.iter().all(|(key, pattern)| other.get(key).is_some_and(|other| pattern.starts_with(other.as_str())))
        });
        later.prefix != self.prefix
            && later.prefix.starts_with(self.prefix)
            && later.port == self.port
            && self.method.starts_with(later.method.as_str())
            && self.authority.starts_with(later.authority.as_str())
            && maps
    }
}

fn pattern(node: &Node) -> String {
    let written = |kind: &str| node.get(kind).and_then(Node::text).filter(|text| !text.is_empty()).map(|text| format!("{kind} {text}"));
    written("exact").or_else(|| written("prefix")).unwrap_or_default()
}

fn overlaps(own: &mut Own<'_>, matches: &[Match<'_>]) {
    let prefixed: Vec<_> = matches.iter().filter_map(|one| Some((one, Prefixed::of(one.node)?))).collect();
    // Few of many are below another; a match is told once for each that covers it.
    for (at, (later, of_later)) in prefixed.iter().enumerate() {
        for (first, of_first) in prefixed.iter().take(at).filter(|(_, of_first)| of_first.covers(of_later)) {
            let name = format!("{} of prefix {}", later.name, of_later.prefix);
            let other = format!("{} (match {} of prefix {})", first.rule, first.name, of_first.prefix);
            ineffective(own, later, &name, &other);
        }
    }
}

fn gateways(own: &mut Own<'_>) {
    let gateways = own.at("spec.gateways").map(Node::items).unwrap_or_default();
    let name = own.item.id.place();
    for (number, gateway) in gateways.iter().enumerate().filter_map(|(number, node)| Some((number, node.text()?))) {
        let path = format!("spec.gateways[{number}]");
        if is_internal(gateway) {
            let text = format!("the VirtualService {name} names a Gateway that an implementation made for itself: {gateway}");
            own.say(&code::IST0165, path, text);
        } else if let Some((first, rest)) = gateway.split_once('.').filter(|_| !gateway.contains('/')) {
            let namespace = rest.split('.').next().unwrap_or_default();
            let value = format!("{namespace}/{first}");
            let text = format!("the gateway {gateway:?} is named as of old, by host: NAMESPACE/NAME is better, {value:?}");
            own.say_with(&code::IST0133, path.clone(), text, Some(Fix::Set { path, value }));
        }
    }
}

/// Whether a gateway's name is one of those that Istio makes of Gateways of the Gateway API.
pub(crate) fn is_internal(gateway: &str) -> bool {
    let name = gateway.split_once('/').map_or(gateway, |(_, name)| name);
    ["~istio-autogenerated-k8s-gateway~", "-istio-autogenerated-k8s-gateway-"].iter().any(|mark| name.contains(mark))
}
