//! What a proxy runs otherwise than its control plane has it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::super::{
    analyze::diff::{Line, unified},
    proxy_config::{Style, resources, text as field},
};

/// One resource that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// `Clusters`, `Listeners`, `Routes` or `Endpoints`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) how: How,
    /// From what it should have to what it has, as a unified diff.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) diff: String,
}

/// How a resource differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum How {
    /// Both have it, and not alike.
    Changed,
    /// It was sent, and the proxy does not run it.
    Missing,
    /// The proxy runs it, and there is none any more.
    Surplus,
}

/// The kinds, with how their sections in both dumps are read.
const KINDS: [&str; 4] = ["Clusters", "Listeners", "Routes", "Endpoints"];

/// All differences.
pub(super) fn all(due: &Value, held: &Value) -> Vec<Difference> {
    let style = Style::load();
    let mut found = Vec::new();
    for kind in KINDS {
        let (due, held) = (of_kind(kind, due, &style), of_kind(kind, held, &style));
        for (name, wanted) in &due {
            let (how, diff) = match held.get(name) {
                Some(has) if has == wanted => continue,
                Some(has) => (How::Changed, compared(name, wanted, has)),
                None => (How::Missing, String::new()),
            };
            found.push(Difference { kind, name: name.clone(), how, diff });
        }
        let surplus = held.keys().filter(|name| !due.contains_key(*name));
        found.extend(surplus.map(|name| Difference { kind, name: name.clone(), how: How::Surplus, diff: String::new() }));
    }
    found
}

/// The dynamic resources of a dump by name, in a form that is the same whoever has written it.
fn of_kind(kind: &str, dump: &Value, style: &Style) -> BTreeMap<String, Value> {
    let section = format!("{kind}ConfigDump");
    let (list, inner, name): (&str, &[&str], &str) = match kind {
        "Clusters" => ("dynamic_active_clusters", &["cluster"], "name"),
        "Listeners" => ("dynamic_listeners", &["active_state", "listener"], "name"),
        "Routes" => ("dynamic_route_configs", &["route_config"], "name"),
        _ => ("dynamic_endpoint_configs", &["endpoint_config"], "cluster_name"),
    };
    let found = resources(dump, &section, &[list], inner);
    let value = |resource: &Value| match kind {
        "Endpoints" => addresses(resource),
        "Routes" => by_name(style.resource(resource)),
        _ => style.resource(resource),
    };
    found.into_iter().map(|resource| (field(&resource[name]), value(resource))).collect()
}

/// Routes with their virtual hosts in order of their names: that in which they came means nothing.
fn by_name(mut routes: Value) -> Value {
    if let Some(hosts) = routes.get_mut("virtualHosts").and_then(Value::as_array_mut) {
        hosts.sort_by_key(|host| field(&host["name"]));
    }
    routes
}

/// The addresses of an assignment: all else an Envoy tells in a form of its own.
fn addresses(assignment: &Value) -> Value {
    let groups = assignment["endpoints"].as_array().into_iter().flatten();
    let hosts = groups.flat_map(|group| group["lb_endpoints"].as_array().into_iter().flatten());
    let mut found: Vec<String> = hosts
        .map(|host| {
            let address = &host["endpoint"]["address"];
            let socket = &address["socket_address"];
            match socket.is_object() {
                true => format!("{}:{}", field(&socket["address"]), field(&socket["port_value"])),
                false => address.to_string(),
            }
        })
        .collect();
    found.sort();
    json!({ "addresses": found })
}

fn compared(name: &str, wanted: &Value, has: &Value) -> String {
    let text = |value: &Value| serde_json::to_string_pretty(&sorted(value)).unwrap_or_default() + "\n";
    let (before, after) = (text(wanted), text(has));
    unified(name, &before, &matched(&before, &after))
}

/// The same with members in order of their names, so that equal parts are equal lines.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(sorted).collect(),
        Value::Object(members) => {
            let members: BTreeMap<&String, Value> = members.iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(members.into_iter().map(|(name, value)| (name.clone(), value)).collect())
        }
        other => other.clone(),
    }
}

/// Cells of the table of what two texts have in common, at most: beyond that what lies between their equal ends is all replaced.
const CELLS: usize = 4_000_000;

/// The lines of the new text, each with the line of the old one that it is: the longest sequence that both have.
fn matched(before: &str, after: &str) -> Vec<Line> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.split_inclusive('\n').collect(), after.split_inclusive('\n').collect());
    let start = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let end = old[start..].iter().rev().zip(new[start..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (inner_old, inner_new) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    let mut origins: Vec<Option<usize>> = (0..start).map(Some).collect();
    origins.extend(common(inner_old, inner_new).into_iter().map(|origin| origin.map(|at| at + start)));
    origins.extend((old.len() - end..old.len()).map(Some));
    origins.into_iter().zip(new).map(|(origin, text)| Line { origin, text: text.to_owned() }).collect()
}

fn common(old: &[&str], new: &[&str]) -> Vec<Option<usize>> {
    if old.len().saturating_mul(new.len()) > CELLS {
        return vec![None; new.len()];
    }
    // lengths[i][j]: of the longest sequence that old[i..] and new[j..] have in common.
    let mut lengths = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if old[i] == new[j] { lengths[i + 1][j + 1] + 1 } else { lengths[i + 1][j].max(lengths[i][j + 1]) };
        }
    }
    let (mut i, mut origins) = (0, Vec::new());
    for (j, line) in new.iter().enumerate() {
        while i < old.len() && old[i] != *line && lengths[i + 1][j] >= lengths[i][j + 1] {
            i += 1;
        }
        if i < old.len() && old[i] == *line {
            origins.push(Some(i));
            i += 1;
        } else {
            origins.push(None);
        }
    }
    origins
}

/// As istioctl says it: whether each kind is the same, and if not what is not.
pub(super) fn text(differences: &[Difference]) -> String {
    let mut text = String::new();
    for kind in KINDS {
        let of_kind: Vec<&Difference> = differences.iter().filter(|one| one.kind == kind).collect();
        text += &match of_kind.is_empty() {
            true => format!("{kind} Match\n"),
            false => format!("{kind} Don't Match\n"),
        };
        for one in of_kind {
            text += &match one.how {
                How::Changed => one.diff.clone(),
                How::Missing => format!("{}: it was sent, and the proxy does not run it\n", one.name),
                How::Surplus => format!("{}: the proxy runs it, and the control plane has no such any more\n", one.name),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(clusters: &[Value], endpoints: &[Value]) -> Value {
        let clusters: Vec<Value> = clusters.iter().map(|cluster| json!({ "cluster": cluster })).collect();
        let endpoints: Vec<Value> = endpoints.iter().map(|one| json!({ "endpoint_config": one })).collect();
        json!({"configs": [
            {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": clusters},
            {"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": endpoints},
        ]})
    }

    fn cluster(name: &str, timeout: &str) -> Value {
        json!({"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": name, "connect_timeout": timeout, "type": "EDS"})
    }

    fn endpoints(hosts: &[&str], more: Value) -> Value {
        let host = |ip: &&str| json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": 80}}}, "health_status": more.clone()});
        json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": hosts.iter().map(host).collect::<Vec<_>>()}]})
    }

    #[test]
    fn differences() {
        let due =
            dump(&[cluster("a", "1s"), cluster("b", "10s"), cluster("c", "1s")], &[endpoints(&["10.0.0.1", "10.0.0.2"], Value::Null)]);
        let held =
            dump(&[cluster("a", "1s"), cluster("b", "5s"), cluster("d", "1s")], &[endpoints(&["10.0.0.2", "10.0.0.1"], json!("HEALTHY"))]);
        let found = all(&due, &held);
        let short: Vec<String> = found.iter().map(|one| format!("{} {} {:?}", one.kind, one.name, one.how)).collect();
        assert_eq!(short, ["Clusters b Changed", "Clusters c Missing", "Clusters d Surplus"]);
        let expected = "\
Clusters Don't Match
--- a/b
+++ b/b
@@ -1,5 +1,5 @@
 {
-  \"connectTimeout\": \"10s\",
+  \"connectTimeout\": \"5s\",
   \"name\": \"b\",
   \"type\": \"EDS\"
 }
c: it was sent, and the proxy does not run it
d: the proxy runs it, and the control plane has no such any more
Listeners Match
Routes Match
Endpoints Match
";
        assert_eq!(text(&found), expected);
        assert!(all(&due, &due).is_empty());
        let fewer = dump(&[], &[endpoints(&["10.0.0.1"], Value::Null)]);
        let more = dump(&[], &[endpoints(&["10.0.0.1", "10.0.0.3"], Value::Null)]);
        assert!(all(&fewer, &more)[0].diff.contains("+    \"10.0.0.3:80\""), "{:?}", all(&fewer, &more));
    }

    #[test]
    fn lines_in_common() {
        let check = |before: &str, after: &str, expected: &[Option<usize>]| {
            let lines = |text: &str| text.chars().map(|c| format!("{c}\n")).collect::<String>();
            let found: Vec<Option<usize>> = matched(&lines(before), &lines(after)).iter().map(|line| line.origin).collect();
            assert_eq!(found, expected, "{before} {after}");
        };
        check("abc", "abc", &[Some(0), Some(1), Some(2)]);
        check("abc", "axc", &[Some(0), None, Some(2)]);
        check("abcd", "acxd", &[Some(0), Some(2), None, Some(3)]);
        check("", "ab", &[None, None]);
        check("ab", "", &[]);
        check("abab", "baba", &[Some(1), Some(2), Some(3), None]);
    }
}
