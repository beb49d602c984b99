//! The configuration that a question is asked of: that of the running mesh, or what files alone say.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use mizzen_api::{
    Kind, Meta, Object, Problem,
    core::Pod,
    istio::{IssuerKeys, MeshConfig, OutboundTrafficPolicy},
};
use mizzen_control::{load_cluster, source::load_state, status::IssuerKeysStatus};
use mizzen_model::{Change, Snapshot};

use super::{
    find::Mesh,
    place::{Place, Where},
};
use crate::up::say;

/// How long a cluster may take to list what it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct From {
    /// A folder or a file of YAML to ask instead of the running mesh. Several may be given: of objects with one name that of the first is in force.
    /// Each Deployment counts as one pod that runs, with a sidecar.
    #[arg(short, long = "file", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
}

/// A configuration.
pub(crate) struct State {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The running mesh that has it, if it is none of files alone.
    pub(crate) mesh: Option<Place>,
}

impl From {
    /// Reads it. What is refused of it is told on standard error: its last good version counts, or what it selects is closed.
    ///
    /// # Errors
    /// If no mesh runs and no file is given, or a file is not there.
    pub(crate) async fn read(&self, place: &Where) -> Result<State> {
        if let Some(path) = self.files.iter().find(|path| !path.exists()) {
            bail!("{}: there is no such file or folder", path.display());
        }
        let (changes, problems, mesh) = if self.files.is_empty() {
            let place = place.find().await.context("there is no configuration to ask: start a mesh, or name files with -f")?;
            let (changes, problems) = match &place {
                Place::Host(mesh) => of_host(mesh)?,
                Place::Cluster(cluster) => load_cluster((*cluster.options).clone(), &cluster.namespace, PATIENCE).await?,
            };
            (changes, problems, Some(place))
        } else {
            let (changes, problems) = load_state(&self.files, None);
            (changes, problems, None)
        };
        for problem in &problems {
            say::problem(&problem.to_string());
        }
        let snapshot = Snapshot::empty().apply(changes);
        let snapshot = if mesh.is_some() { snapshot } else { mizzen_explain::complete(&snapshot) };
        Ok(State { snapshot, mesh })
    }
}

/// What the control plane of a mesh on this host has in force, for whoever does not tell what is refused of it.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn snapshot_of(mesh: &Mesh) -> Result<Arc<Snapshot>> {
    Ok(Snapshot::empty().apply(of_host(mesh)?.0))
}

/// What the control plane of a mesh on this host has in force.
fn of_host(mesh: &Mesh) -> Result<(Vec<Change>, Vec<Problem>)> {
    let file = mesh.file()?;
    let (mut changes, problems) = load_state(&[mesh.dir.join("objects"), file.folder], Some(&mesh.dir.join("last-good")));
    let is_settings = |change: &Change| matches!(change, Change::Apply(object) if object.kind() == Kind::MeshConfig);
    if !changes.iter().any(is_settings) {
        changes.push(settings(mesh)?);
    }
    if file.secure {
        changes = changes.into_iter().map(closed_outwards).collect();
    }
    Ok((changes, problems))
}

impl State {
    /// Adds the issuers' keys that the control plane of the mesh has fetched. Without an answer there are none: whoever needs them says so.
    pub(crate) async fn take_issuer_keys(&mut self) {
        let Some(mesh) = &self.mesh else { return };
        let answer = mesh.debug("/debug/keysz").await.and_then(|value| Ok(serde_json::from_value::<Vec<IssuerKeysStatus>>(value)?));
        let keys = |IssuerKeysStatus { from, keys }| {
            let meta = Meta { name: from.into(), ..Meta::default() };
            Change::Apply(Arc::new(Object::IssuerKeys(IssuerKeys { meta, keys })))
        };
        self.snapshot = self.snapshot.apply(answer.unwrap_or_default().into_iter().map(keys));
    }
}

/// The same, if it is the mesh's settings, as a control plane takes them that was started with `--registry-only`.
fn closed_outwards(change: Change) -> Change {
    match change {
        Change::Apply(object) => match &*object {
            Object::MeshConfig(given) => {
                Object::from(MeshConfig { outbound_traffic_policy: OutboundTrafficPolicy::RegistryOnly, ..(**given).clone() }).into()
            }
            _ => Change::Apply(object),
        },
        other => other,
    }
}

/// The settings that the mesh was started with, for a folder that has none.
fn settings(mesh: &Mesh) -> Result<Change> {
    let path = mesh.dir.join("mizzend/mesh.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let parsed = mizzen_api::parse_mesh_config(&text, &path.to_string_lossy().into());
    let (config, _) =
        parsed.map_err(|problems| anyhow::anyhow!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))?;
    Ok(Change::from(Object::from(config)))
}

/// The Deployment of a pod, or what else made it.
fn workload(pod: &Pod) -> Option<&str> {
    pod.meta.labels.get("service.istio.io/workload-name").or(pod.controller.as_ref()).map(String::as_str)
}

/// The pod that somebody means by POD, POD.NAMESPACE, NAMESPACE/POD, or the name of its Deployment in the place of its own.
///
/// # Errors
/// If there is none, or several of different workloads.
pub(crate) fn find_pod<'s>(snapshot: &'s Snapshot, text: &str, namespace: Option<&str>) -> Result<&'s Pod> {
    let all: Vec<&Pod> = snapshot.objects::<Pod>().filter(|pod| pod.status.pod_ip.is_some()).collect();
    let (wanted, within) = match (namespace, text.split_once('/'), text.rsplit_once('.')) {
        (_, Some((namespace, name)), _) => (name, Some(namespace)),
        (Some(namespace), None, _) => (text, Some(namespace)),
        (None, None, Some((name, namespace))) => (name, Some(namespace)),
        (None, None, None) => (text, None),
    };
    let inside = |pod: &&&Pod| within.is_none_or(|namespace| *pod.meta.namespace == *namespace);
    let of = |pod: &Pod| workload(pod) == Some(wanted);
    let begins = |pod: &Pod| pod.meta.name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
    let app = |pod: &Pod| pod.meta.labels.get("app").is_some_and(|app| app == wanted) || pod.spec.service_account == wanted;
    let named = |pod: &Pod| *pod.meta.name == *wanted;
    let tries: [&dyn Fn(&Pod) -> bool; 4] = [&named, &of, &begins, &app];
    for fits in tries {
        let found: Vec<&&Pod> = all.iter().filter(inside).filter(|pod| fits(pod)).collect();
        let Some(first) = found.first() else { continue };
        // Replicas and versions of one identity are decided alike, unless a policy selects by version.
        let same = |pod: &&&Pod| (&pod.meta.namespace, &pod.spec.service_account) == (&first.meta.namespace, &first.spec.service_account);
        if found.iter().all(same) {
            return Ok(first);
        }
        let names: Vec<String> = found.iter().map(|pod| format!("{}.{}", pod.meta.name, pod.meta.namespace)).collect();
        bail!("{text} may be any of {}: say which", names.join(", "));
    }
    let mut known: Vec<String> =
        all.iter().map(|pod| format!("{}.{}", workload(pod).unwrap_or(&pod.meta.name), pod.meta.namespace)).collect();
    known.sort();
    known.dedup();
    let short = known.iter().map(|name| name.split('.').next().unwrap_or_default());
    let near = mizzen_api::nearest(wanted, short).map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
    bail!("there is no workload {text}{near} There are: {}", known.join(", "))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a folder with this file says.
    pub(crate) fn snapshot(yaml: &str) -> Arc<Snapshot> {
        let loaded = mizzen_explain::load([("test.yaml", yaml)]);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        mizzen_explain::complete(&loaded.snapshot)
    }

    pub(crate) fn deployment(namespace: &str, name: &str, account: &str) -> String {
        format!(
            "
---
kind: Deployment
apiVersion: apps/v1
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {account}, at: {name}}}}}
  template:
    metadata: {{labels: {{app: {account}, at: {name}}}}}
    spec: {{serviceAccountName: {account}, containers: [{{name: c, image: x, command: [x], ports: [{{containerPort: 8080}}]}}]}}
"
        )
    }

    #[test]
    fn who_is_meant() {
        let yaml = [("shop", "reviews-v1", "reviews"), ("shop", "reviews-v2", "reviews"), ("ops", "web", "web"), ("shop", "web", "web")];
        let snapshot = snapshot(&yaml.map(|(namespace, name, account)| deployment(namespace, name, account)).concat());
        let check = |text: &str, namespace: Option<&str>, expected: Result<&str, &str>| {
            let found = find_pod(&snapshot, text, namespace).map(|pod| format!("{}/{}", pod.meta.namespace, pod.meta.name));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text}: {error}"),
                (found, expected) => panic!("{text}: {found:?}, not {expected:?}"),
            }
        };
        check("reviews-v2", None, Ok("shop/reviews-v2"));
        check("reviews", None, Ok("shop/reviews-v1"));
        check("web.ops", None, Ok("ops/web"));
        check("ops/web", Some("shop"), Ok("ops/web"));
        check("web", Some("shop"), Ok("shop/web"));
        check("web", None, Err("web may be any of"));
        check("revews-v1", None, Err("did you mean `reviews-v1`?"));
        check("reviews", Some("ops"), Err("there is no workload reviews"));
    }
}
