//! `mizzen x precheck`: what of a cluster's configuration the mesh would not take, before it is installed.

use std::process::ExitCode;

use anyhow::{Context, Result};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use mizzen_api::{Problem, parse_documents};
use serde_json::{Value, json};

use super::{
    kube::{client, say},
    output::print,
    place::Where,
};

/// Objects are read in parts: a cluster may have many, and some are large.
const PART: u32 = 500;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    objects: usize,
    refused: Vec<String>,
    warnings: Vec<String>,
}

/// Prints what is refused and what is warned of. The exit code is 1 if something is refused.
pub(crate) async fn run(place: &Where) -> Result<ExitCode> {
    let client = client(place).await?;
    let mut found = Found::default();
    for resource in resources(&client).await? {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let mut params = ListParams::default().limit(PART);
        loop {
            let list = api.list(&params).await.map_err(|error| say(error).context(format!("listing {}", resource.plural)))?;
            for object in &list.items {
                let mut object = serde_json::to_value(object)?;
                object["apiVersion"] = json!(resource.api_version);
                object["kind"] = json!(resource.kind);
                judge(&object, &mut found);
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
    }
    let mut text = String::new();
    found.refused.iter().for_each(|line| text += &format!("Error {line}\n"));
    found.warnings.iter().for_each(|line| text += &format!("Warning {line}\n"));
    let counts = format!("{} objects of Istio's and the Gateway API's groups", found.objects);
    text += &match (found.refused.len(), found.warnings.len()) {
        (0, 0) => format!("✔ {counts}: all are supported\n"),
        (refused, warnings) => format!("{counts}: {refused} problems that keep an object out, {warnings} warnings\n"),
    };
    print(&text)?;
    Ok(if found.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kinds of these groups that the cluster serves, each in the version that it prefers.
async fn resources(client: &Client) -> Result<Vec<ApiResource>> {
    let groups = client.list_api_groups().await.map_err(say).context("the cluster does not answer")?;
    let mut resources = Vec::new();
    for group in groups.groups.iter().filter(|group| is_read(&group.name)) {
        let Some(version) = group.preferred_version.as_ref().or(group.versions.first()) else { continue };
        let list = client.list_api_group_resources(&version.group_version).await.map_err(say)?;
        let whole = list.resources.iter().filter(|resource| !resource.name.contains('/'));
        resources.extend(whole.filter(|resource| resource.verbs.iter().any(|verb| verb == "list")).map(|resource| {
            let kind = GroupVersionKind::gvk(&group.name, &version.version, &resource.kind);
            ApiResource::from_gvk_with_plural(&kind, &resource.name)
        }));
    }
    Ok(resources)
}

fn is_read(group: &str) -> bool {
    group == "gateway.networking.k8s.io" || group.ends_with(".istio.io")
}

/// Holds an object against what the mesh takes. What the API server has added to it is no business of its writer's.
fn judge(object: &Value, found: &mut Found) {
    found.objects += 1;
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
    let parsed = parse_documents(&object.to_string(), &"".into());
    let line = |problem: &Problem| match problem.field.as_str() {
        "" => format!("({name}) {}", problem.message),
        field => format!("({name}) {field}: {}", problem.message),
    };
    let refused = parsed.objects.iter().filter_map(|object| object.as_ref().err());
    found.refused.extend(refused.flat_map(|refusal| &refusal.problems).map(line));
    found.warnings.extend(parsed.warnings.iter().map(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let object = |group: &str, kind: &str, spec: Value| {
            json!({
                "apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec,
                "metadata": { "name": "a", "namespace": "shop", "managedFields": [{ "manager": "kubectl" }], "uid": "1", "generation": 2 },
            })
        };
        for (given, refused, warned) in [
            (object("security.istio.io", "PeerAuthentication", json!({ "mtls": { "mode": "STRICT" } })), None, None),
            (object("telemetry.istio.io", "Telemetry", json!({})), Some("(Telemetry shop/a) kind: "), None),
            (object("networking.istio.io", "VirtualService", json!({ "hosts": [] })), Some("(VirtualService shop/a) spec"), None),
            (
                object("security.istio.io", "AuthorizationPolicy", json!({ "action": "DENY" })),
                None,
                Some("(AuthorizationPolicy shop/a) spec"),
            ),
        ] {
            let mut found = Found::default();
            judge(&given, &mut found);
            let starts = |lines: &[String], part: Option<&str>| match part {
                Some(part) => lines.len() == 1 && lines[0].starts_with(part),
                None => lines.is_empty(),
            };
            assert!(found.objects == 1 && starts(&found.refused, refused) && starts(&found.warnings, warned), "{given}: {found:?}");
        }
        assert!(is_read("networking.istio.io") && is_read("gateway.networking.k8s.io") && !is_read("apps") && !is_read("istio.io.example"));
    }
}
