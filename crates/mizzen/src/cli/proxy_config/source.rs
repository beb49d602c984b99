//! Where what is shown comes from: a proxy, or a dump in a file.

use std::{io::Read, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    super::{
        output::Output,
        place::{Place, Where, Workload},
    },
    Names, Style, checked,
};

/// Whose configuration is shown, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Target {
    /// The workload: POD, POD.NAMESPACE, deployment/NAME, pod/NAME, service/NAME (the first pod behind it), or the name of its deployment alone.
    #[arg(required_unless_present = "file")]
    pub(super) workload: Option<String>,
    /// What a proxy has answered at /config_dump, in place of a workload: Mizzen's or an Envoy's. `-` is standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "workload")]
    pub(super) file: Option<PathBuf>,
    /// The namespace, if the workload's name does not say it.
    #[arg(short, long)]
    pub(super) namespace: Option<String>,
    /// The form of the output.
    #[arg(short, long, value_enum)]
    pub(super) output: Option<Output>,
}

/// What of a proxy's configuration is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dump {
    /// All but the endpoints.
    Plain,
    /// All.
    WithEndpoints,
}

/// A proxy, or what one has said.
pub(super) enum Source<'p> {
    /// One that is asked.
    Proxy(&'p Place, Box<Workload<'p>>),
    /// A file.
    File {
        /// Its name.
        name: String,
        /// What is in it, with fields as Envoy's dumps have them.
        dump: Value,
    },
}

impl Target {
    /// The mesh that is asked; none if a file is.
    pub(super) async fn mesh(&self, place: &Where) -> Result<Option<Place>> {
        if self.file.is_some() { Ok(None) } else { place.find().await.map(Some) }
    }

    /// What is shown, out of [`Target::mesh`].
    ///
    /// # Errors
    /// If there is no such workload, or the file is no JSON.
    pub(super) async fn source<'p>(&self, mesh: Option<&'p Place>) -> Result<Source<'p>> {
        match (mesh, &self.workload, &self.file) {
            (Some(mesh), Some(workload), _) => {
                let pod = mesh.pod(workload, self.namespace.as_deref()).await?;
                Ok(Source::Proxy(mesh, Box::new(pod)))
            }
            (_, _, Some(path)) => {
                let name = path.display().to_string();
                let mut text = String::new();
                if name == "-" {
                    std::io::stdin().read_to_string(&mut text).context("--file -")?;
                } else {
                    text = std::fs::read_to_string(path).with_context(|| name.clone())?;
                }
                let dump: Value = serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))?;
                Ok(Source::File { name, dump: as_dumped(dump) })
            }
            _ => bail!("which workload?"),
        }
    }
}

/// A dump in Envoy's names, whichever it was written with.
fn as_dumped(dump: Value) -> Value {
    let sections = dump["configs"].as_array().into_iter().flatten();
    let mut keys = sections.filter_map(Value::as_object).flat_map(|section| section.keys()).filter(|key| !key.starts_with('@'));
    if keys.any(|key| key.contains(char::is_uppercase)) { Style::load().restyled(&dump, Names::Proto) } else { dump }
}

impl Source<'_> {
    /// The config dump.
    pub(super) async fn dump(&self, what: Dump) -> Result<Value> {
        match self {
            Source::Proxy(_, pod) => {
                let path = if what == Dump::Plain { "/config_dump" } else { "/config_dump?include_eds" };
                checked(pod.admin(path).await?, &format!("what the proxy of {} answers", pod.name()))
            }
            Source::File { name, dump } => checked(dump.clone(), name),
        }
    }

    /// What the proxy answers at a page of its own.
    ///
    /// # Errors
    /// If no proxy is asked.
    pub(super) async fn page(&self, path: &str) -> Result<Value> {
        match self {
            Source::Proxy(_, pod) => pod.admin(path).await,
            Source::File { name, .. } => bail!("{name}: a dump does not hold what a proxy answers at {path}"),
        }
    }

    /// A section of all that the control plane has for the proxy.
    ///
    /// # Errors
    /// If no proxy is asked.
    pub(super) async fn known(&self, section: &str) -> Result<Value> {
        match self {
            Source::Proxy(mesh, pod) => mesh.debug(&format!("/debug/config_dump?proxyID={}&section={section}", pod.name())).await,
            Source::File { name, .. } => bail!("{name}: a dump does not hold what its control plane has"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.json");
        let check = async |text: &str, expected: Result<&str, &str>| {
            std::fs::write(&path, text).unwrap();
            let target = Target { file: Some(path.clone()), ..Target::default() };
            let found = match target.source(None).await {
                Ok(source) => source.dump(Dump::Plain).await,
                Err(error) => Err(error),
            };
            match (found, expected) {
                (Ok(dump), Ok(name)) => {
                    assert_eq!(dump["configs"][0]["dynamic_active_clusters"][0]["cluster"]["alt_stat_name"], name, "{dump}");
                }
                (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        };
        let cluster = |key: &str| json!({"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "a", key: "b"});
        let section = "type.googleapis.com/envoy.admin.v3.ClustersConfigDump";
        let proto = json!({"configs": [{"@type": section, "dynamic_active_clusters": [{"cluster": cluster("alt_stat_name")}]}]});
        let camel = json!({"configs": [{"@type": section, "dynamicActiveClusters": [{"cluster": cluster("altStatName")}]}]});
        check(&proto.to_string(), Ok("b")).await;
        check(&camel.to_string(), Ok("b")).await;
        check("{\"configs\": 1}", Err("dump.json is no config dump: it has no list `configs`")).await;
        check("configs:", Err("dump.json is no JSON")).await;
        let missing = Target { file: Some(folder.path().join("none")), ..Target::default() };
        assert!(missing.source(None).await.is_err());
    }
}
