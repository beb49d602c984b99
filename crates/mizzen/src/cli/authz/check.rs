//! `mizzen x authz check`: the authorization policies that a proxy enforces, in istioctl's form.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{
    output::{Output, print, render, table},
    place::Where,
    proxy_config::resources,
};

/// `x authz`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum XAuthzVerb {
    /// Show the authorization policies that a proxy enforces, read from the proxy itself.
    Check(CheckArgs),
}

/// Arguments of `x authz check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The workload: POD, POD.NAMESPACE, or the name of its deployment.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    workload: Option<String>,
    /// The namespace, if the workload's name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    /// A proxy's answer at /config_dump, as JSON, instead of a workload.
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Where, args: &CheckArgs) -> Result<()> {
    let dump: Value = match (&args.file, &args.workload) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            serde_json::from_str(&text).with_context(|| format!("{}: is no JSON", path.display()))?
        }
        (None, Some(name)) => place.find().await?.pod(name, args.namespace.as_deref()).await?.admin("/config_dump").await?,
        (None, None) => bail!("which workload?"),
    };
    if !dump["configs"].is_array() {
        bail!("this is no config dump");
    }
    let found = policies(&dump);
    print(&render(args.output, &found, || text(&found))?)
}

/// One policy as it is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Enforced {
    action: String,
    /// `name.namespace`.
    policy: String,
    /// How many rules of it are enforced.
    rules: usize,
}

/// What stands in the place of a policy's name where no rule is left: then no policy can allow anything.
const NOTHING: &str = "(none: nobody may call)";

fn policies(dump: &Value) -> Vec<Enforced> {
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut listeners = resources(dump, "ListenersConfigDump", &["dynamic_listeners"], &["active_state", "listener"]);
    listeners.extend(resources(dump, "ListenersConfigDump", &["static_listeners"], &["listener"]));
    listeners.into_iter().for_each(|listener| walk(listener, &mut found));
    // Where one policy is left of several on one port and none on another, the one says more.
    if found.keys().filter(|(action, _)| action == "ALLOW").count() > 1 {
        found.remove(&("ALLOW".to_owned(), NOTHING.to_owned()));
    }
    found
        .into_iter()
        .map(|((action, policy), rules)| Enforced { action, rules: if policy == NOTHING { 0 } else { rules.len() }, policy })
        .collect()
}

/// All RBAC filters below a value, wherever they are.
fn walk(value: &Value, found: &mut BTreeMap<(String, String), BTreeSet<String>>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
        Value::Object(members) => {
            if members.get("@type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with(".rbac.v3.RBAC")) {
                add(&value["rules"], "", found);
                add(&value["shadow_rules"], " (dry run)", found);
            }
            members.values().for_each(|value| walk(value, found));
        }
        _ => {}
    }
}

fn add(rules: &Value, mode: &str, found: &mut BTreeMap<(String, String), BTreeSet<String>>) {
    if !rules.is_object() {
        return;
    }
    let action = rules["action"].as_str().unwrap_or("ALLOW");
    let names: Vec<&String> = rules["policies"].as_object().into_iter().flat_map(|policies| policies.keys()).collect();
    if names.is_empty() && action == "ALLOW" && mode.is_empty() {
        found.entry((action.to_owned(), NOTHING.to_owned())).or_default();
    }
    for name in names {
        // What an external authorizer is asked about stands among the rules that are not enforced.
        let (action, mode) = match (name.starts_with("istio-ext-authz-"), action) {
            (true, _) => ("CUSTOM", ""),
            (false, "LOG") => ("AUDIT", mode),
            (false, action) => (action, mode),
        };
        let policy = policy_of(name).unwrap_or_else(|| name.clone());
        found.entry((format!("{action}{mode}"), policy)).or_default().insert(name.clone());
    }
}

/// `name.namespace` of a rule's name.
fn policy_of(rule: &str) -> Option<String> {
    let (_, rest) = rule.split_once("ns[")?;
    let (namespace, rest) = rest.split_once("]-policy[")?;
    let (name, _) = rest.split_once("]-rule[")?;
    Some(format!("{name}.{namespace}"))
}

fn text(found: &[Enforced]) -> Result<String> {
    let row = |one: &Enforced| vec![one.action.clone(), one.policy.clone(), one.rules.to_string()];
    table(&["ACTION", "AuthorizationPolicy", "RULES"], &found.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(filters: Value, expected: &str) {
        let listener = json!({"name": "virtualInbound", "filter_chains": [{"filters": [{"typed_config": {"http_filters": filters.clone()}}]}, {"filters": filters}]});
        let dump = json!({"configs": [
            {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [{"active_state": {"listener": listener}}]},
        ]});
        assert_eq!(text(&policies(&dump)).unwrap(), expected);
    }

    fn filter(rules: Value) -> Value {
        let mut config = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"});
        config.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        json!({"name": "envoy.filters.http.rbac", "typed_config": config})
    }

    #[test]
    fn what_is_enforced() {
        check(json!([]), "ACTION     AuthorizationPolicy     RULES\n");
        check(
            json!([filter(json!({"rules": {}}))]),
            "ACTION     AuthorizationPolicy         RULES\nALLOW      (none: nobody may call)     0\n",
        );
        check(
            json!([
                filter(json!({"shadow_rules": {"action": "DENY", "policies": {"istio-ext-authz-ns[shop]-policy[ask]-rule[0]": {}}}})),
                filter(json!({"rules": {"action": "DENY", "policies": {"ns[shop]-policy[no]-rule[0]": {}}}})),
                filter(json!({"rules": {"policies": {"ns[shop]-policy[yes]-rule[0]": {}, "ns[shop]-policy[yes]-rule[1]": {}}},
                    "shadow_rules": {"policies": {"ns[istio-system]-policy[try]-rule[0]": {}}}})),
                filter(json!({"rules": {}})),
                filter(json!({"rules": {"action": "LOG", "policies": {"ns[shop]-policy[watch]-rule[0]": {}}}})),
            ]),
            "\
ACTION              AuthorizationPolicy     RULES
ALLOW               yes.shop                2
ALLOW (dry run)     try.istio-system        1
AUDIT               watch.shop              1
CUSTOM              ask.shop                1
DENY                no.shop                 1
",
        );
    }
}
