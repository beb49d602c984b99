//! What a proxy was started with.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    super::{
        output::{Output, print, render, table},
        place::Where,
    },
    Dump, Names, Style, Target, text,
};

/// Arguments of `proxy-config bootstrap`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BootstrapArgs {
    #[command(flatten)]
    target: Target,
}

/// The whole of it, as JSON unless something else is asked for.
pub(super) async fn run(place: &Where, args: &BootstrapArgs) -> Result<()> {
    let mesh = args.target.mesh(place).await?;
    let dump = args.target.source(mesh.as_ref()).await?.dump(Dump::Plain).await?;
    let section = section(&dump).context("the dump holds no bootstrap")?;
    let mut whole = Style::load().restyled(section, Names::Json);
    if let Some(members) = whole.as_object_mut() {
        members.remove("@type");
    }
    let output = args.target.output.unwrap_or(Output::Json);
    print(&render(output, &whole, || table(&["BOOTSTRAP", ""], &summary(&section["bootstrap"])))?)
}

fn section(dump: &Value) -> Option<&Value> {
    let mut sections = dump["configs"].as_array().into_iter().flatten();
    sections.find(|section| section["@type"].as_str().is_some_and(|kind| kind.ends_with("BootstrapConfigDump")))
}

/// Who it is, and where from it is configured.
fn summary(bootstrap: &Value) -> Vec<Vec<String>> {
    let node = &bootstrap["node"];
    let clusters = bootstrap["static_resources"]["clusters"].as_array().into_iter().flatten();
    let rows = [
        ("Istio version", text(&node["metadata"]["ISTIO_VERSION"])),
        ("node", text(&node["id"])),
        ("cluster", text(&node["cluster"])),
        ("namespace", text(&node["metadata"]["NAMESPACE"])),
        ("service account", text(&node["metadata"]["SERVICE_ACCOUNT"])),
        ("mesh", text(&node["metadata"]["MESH_ID"])),
        ("static clusters", clusters.map(|cluster| text(&cluster["name"])).collect::<Vec<_>>().join(",")),
    ];
    rows.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| vec![name.to_owned(), value]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn summaries() {
        let bootstrap = json!({"node": {"id": "sidecar~10.0.0.1~web.shop~shop.svc", "metadata": {"ISTIO_VERSION": "1.30.0"}},
            "static_resources": {"clusters": [{"name": "xds-grpc"}, {"name": "sds-grpc"}]}});
        let dump = json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": bootstrap}]});
        let rows: Vec<String> = summary(&section(&dump).unwrap()["bootstrap"]).iter().map(|row| row.join("=")).collect();
        assert_eq!(rows, ["Istio version=1.30.0", "node=sidecar~10.0.0.1~web.shop~shop.svc", "static clusters=xds-grpc,sds-grpc"]);
        assert!(section(&json!({"configs": []})).is_none());
    }
}
