//! `mizzen version`.

use anyhow::Result;
use serde_json::json;

use super::{
    find::Mesh,
    output::{Output, print, render},
};

/// Arguments of `version`.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(mesh: Option<&str>, args: VersionArgs) -> Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    let running = Mesh::find(mesh).ok();
    let mut value = json!({"client": client});
    let mut lines = format!("client version: {client}\n");
    if let Some(mesh) = running {
        let control = mesh.file()?.version;
        let proxies = mesh.pods().len();
        value["controlPlane"] = json!(control);
        value["dataPlane"] = json!({"version": control, "proxies": proxies});
        lines += &format!("control plane version: {control}\ndata plane version: {control} ({proxies} proxies)\n");
    }
    print(&render(args.output, &value, || Ok(lines))?)
}
