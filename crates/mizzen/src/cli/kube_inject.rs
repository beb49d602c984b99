//! `mizzen kube-inject`: manifests whose pods have their proxy, for clusters in which no webhook injects.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::kube::Api;
use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1 as k8s;
use mizzen_api::{Problem, istio::MeshConfig};
use mizzen_control::{
    inject::{InjectConfig, NamespaceFacts, Outcome, inject},
    names,
};
use serde_json::{Map, Value, json};

use super::{
    kube, output,
    place::{Cluster, Where},
};
use crate::up::say;

/// Arguments of `kube-inject`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Pods of Deployments, StatefulSets, DaemonSets, ReplicaSets, ReplicationControllers, Jobs and CronJobs get their proxy, and so do Pods and \
the items of Lists. All other documents stay as they are. A pod is left out if it says so (sidecar.istio.io/inject: \"false\"), if it has the host's \
network, or if it has a proxy already; labels of namespaces are not looked at."
)]
pub(crate) struct KubeInjectArgs {
    /// A file of YAML or JSON, or `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    filename: PathBuf,
    /// A file with the mesh's MeshConfig. Without any file of settings they are those of the mesh in the cluster of the kubeconfig, and without a
    /// kubeconfig, as where another file of settings is given, Istio's defaults.
    #[arg(long = "meshConfigFile", visible_alias = "mesh-config-file", value_name = "FILE")]
    mesh_config: Option<PathBuf>,
    /// A file with the values of injection, as YAML or JSON: what key `values` of ConfigMap `istio-sidecar-injector` holds.
    #[arg(long = "valuesFile", visible_alias = "values-file", value_name = "FILE")]
    values: Option<PathBuf>,
    /// Istio's templates of injection. They are not read: what is injected is built in.
    #[arg(long = "injectConfigFile", value_name = "FILE", hide = true)]
    templates: Option<PathBuf>,
    /// Whether the proxy is a native sidecar, an init container that goes on running, where neither the pod nor the values say. All nodes of the cluster must
    /// have Kubernetes 1.29 or later. By default as the cluster's webhook does it if its settings are taken, else not.
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1)]
    native_sidecars: Option<bool>,
    /// The namespace of objects that name none.
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Where the result goes. Without it, to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// If a file cannot be read or written, or a pod cannot be injected.
pub(crate) fn run(place: &Where, args: &KubeInjectArgs) -> Result<()> {
    if let Some(path) = &args.templates {
        bail!("--injectConfigFile {}: what is injected is built in, and no template is read; use --valuesFile", path.display());
    }
    let config = settings(place, args)?;
    config.warnings.iter().for_each(|warning| say::warning(warning));
    let (text, name): (String, Arc<str>) = if args.filename == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        (text, "standard input".into())
    } else {
        (read(&args.filename)?, args.filename.display().to_string().into())
    };
    let mut warnings = Vec::new();
    let result = rewrite(&text, &name, &args.namespace, &config, &mut warnings)?;
    warnings.iter().for_each(|warning| say::warning(warning));
    match &args.output {
        None => output::print(&result),
        Some(path) => std::fs::write(path, result).with_context(|| path.display().to_string()),
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn settings(place: &Where, args: &KubeInjectArgs) -> Result<InjectConfig> {
    if args.mesh_config.is_none() && args.values.is_none() {
        match place.known_cluster()? {
            Some(cluster) => {
                let asked = super::runtime(of_cluster(&cluster, args.native_sidecars));
                return asked.context(
                    "the settings of the mesh in the cluster cannot be had (files can take their place: --meshConfigFile, --valuesFile)",
                );
            }
            None => say::warning("no cluster is known, by --kubeconfig, KUBECONFIG or ~/.kube/config: Istio's defaults are taken"),
        }
    } else if place.is_explicit() {
        bail!("--kubeconfig or --context beside files of settings: it is either the cluster's settings or those of files");
    }
    let mesh = match &args.mesh_config {
        None => MeshConfig::default(),
        Some(path) => mesh_config(&read(path)?, &path.display().to_string())?,
    };
    let values = match &args.values {
        None => Value::Null,
        Some(path) => mizzen_api::parse_value(&read(path)?, &path.display().to_string().into(), 0)?.to_json(),
    };
    let config = InjectConfig::new(&mesh, &values, args.native_sidecars.unwrap_or(false));
    config.with_context(|| args.values.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
}

fn mesh_config(text: &str, file: &str) -> Result<MeshConfig> {
    let first = |problems: Vec<Problem>| anyhow!("{}", problems.first().map(ToString::to_string).unwrap_or_default());
    Ok(mizzen_api::parse_mesh_config(text, &file.into()).map_err(first)?.0)
}

/// The settings by which the cluster's webhook injects.
async fn of_cluster(cluster: &Cluster, native: Option<bool>) -> Result<InjectConfig> {
    let client = cluster.client().await?;
    let maps: Api<k8s::ConfigMap> = Api::namespaced(client.clone(), &cluster.namespace);
    let text = async |name: &str, key: &str| {
        let map = maps.get_opt(name).await.map_err(kube::say)?;
        let map = map.with_context(|| format!("no mesh is installed: there is no ConfigMap {}/{name}", cluster.namespace))?;
        Ok::<_, anyhow::Error>(map.data.and_then(|mut data| data.remove(key)).unwrap_or_default())
    };
    let mesh = mesh_config(&text(names::SETTINGS, names::MESH).await?, &format!("ConfigMap {}/{}", cluster.namespace, names::SETTINGS))?;
    let file = format!("ConfigMap {}/{}", cluster.namespace, names::INJECTOR);
    let values = match text(names::INJECTOR, names::VALUES).await? {
        empty if empty.trim().is_empty() => Value::Null,
        text => mizzen_api::parse_value(&text, &file.as_str().into(), 0)?.to_json(),
    };
    let native = match native {
        Some(native) => native,
        None => mizzen_control::has_native_sidecars(&client).await,
    };
    InjectConfig::new(&mesh, &values, native).context(file)
}

/// The text with the proxy in its pods; documents without pods keep their bytes.
fn rewrite(text: &str, file: &Arc<str>, namespace: &str, config: &InjectConfig, warnings: &mut Vec<String>) -> Result<String> {
    let mut result = String::with_capacity(text.len() * 2);
    for (line, document) in documents(text) {
        let (mark, body) = split_mark(document);
        let mut object = mizzen_api::parse_value(body, file, line + u32::from(!mark.is_empty()))?.to_json();
        let mut place = Place { file, line, namespace, config, warnings: &mut *warnings };
        result.push_str(mark);
        if place.inject(&mut object)? {
            result.push_str(&serde_saphyr::to_string(&object)?);
        } else {
            result.push_str(body);
        }
    }
    Ok(result)
}

/// Documents with the lines before them; the mark `---` stands at the beginning of what it begins.
fn documents(text: &str) -> Vec<(u32, &str)> {
    let mut found = Vec::new();
    let (mut from, mut from_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_mark(line) && at > from {
            found.push((from_line, &text[from..at]));
            (from, from_line) = (at, u32::try_from(number).unwrap_or(u32::MAX));
        }
        at += line.len();
    }
    if at > from {
        found.push((from_line, &text[from..at]));
    }
    found
}

/// A document's mark stands at the start of a line, and nothing but a space or a comment follows it. What follows it on the line is left to the parser.
fn is_mark(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with('#'))
}

fn split_mark(document: &str) -> (&str, &str) {
    let first = document.split_inclusive('\n').next().unwrap_or_default();
    if is_mark(first) { document.split_at(first.len()) } else { ("", document) }
}

/// Where in a file an object stands, and what is needed to inject its pods.
struct Place<'a> {
    file: &'a Arc<str>,
    line: u32,
    namespace: &'a str,
    config: &'a InjectConfig,
    warnings: &'a mut Vec<String>,
}

/// The kinds whose pods are made from a template, their groups, and where it is.
const TEMPLATES: [(&str, &str, &[&str]); 7] = [
    ("apps/", "Deployment", &["spec", "template"]),
    ("apps/", "StatefulSet", &["spec", "template"]),
    ("apps/", "DaemonSet", &["spec", "template"]),
    ("apps/", "ReplicaSet", &["spec", "template"]),
    ("v1", "ReplicationController", &["spec", "template"]),
    ("batch/", "Job", &["spec", "template"]),
    ("batch/", "CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

impl Place<'_> {
    /// Puts the proxy into the object's pods; whether there was one to be put in.
    fn inject(&mut self, object: &mut Value) -> Result<bool> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version == "v1" && kind.ends_with("List") {
            let mut any = false;
            for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                any |= self.inject(item)?;
            }
            return Ok(any);
        }
        if version == "v1" && kind == "Pod" {
            return self.pod(object, None, "Pod");
        }
        let Some((.., path)) = TEMPLATES.iter().find(|(group, of, _)| *of == kind && version.starts_with(group)) else { return Ok(false) };
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        let Some(template) = path.iter().try_fold(object, |value, key| value.get_mut(*key)) else { return Ok(false) };
        let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
        let owner = json!({ "apiVersion": version, "kind": kind, "name": name, "controller": true });
        self.pod(template, Some((&metadata, owner)), &kind)
    }

    /// Puts the proxy into a pod, or into the template of pods that this owner is to have.
    fn pod(&mut self, pod: &mut Value, owner: Option<(&Value, Value)>, kind: &str) -> Result<bool> {
        let of = |metadata: Option<&Value>, key: &str| metadata.and_then(|m| m.get(key)).and_then(Value::as_str).map(str::to_owned);
        let outer = owner.as_ref().map(|(metadata, _)| *metadata).or_else(|| pod.get("metadata"));
        let name = of(outer, "name").or_else(|| of(outer, "generateName")).unwrap_or_default();
        let namespace = of(outer, "namespace").unwrap_or_else(|| self.namespace.to_owned());
        let at = format!("{}:{}: {kind} {namespace}/{name}", self.file, self.line + 1);
        let mut with_owner = pod.clone();
        if let (Some((_, owner)), Some(pod)) = (owner.as_ref(), with_owner.as_object_mut()) {
            let metadata = pod.entry("metadata").or_insert(Value::Null);
            if metadata.is_null() {
                *metadata = Map::new().into();
            }
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.insert("ownerReferences".to_owned(), json!([owner]));
                metadata.insert("namespace".to_owned(), namespace.clone().into());
            }
        }
        let facts = NamespaceFacts { name: namespace, ..NamespaceFacts::default() };
        match inject(&with_owner, &facts, self.config).with_context(|| at.clone())? {
            Outcome::Skip(skip) => {
                self.warnings.push(format!("{at}: left as it is: {skip}"));
                Ok(false)
            }
            Outcome::Patched { pod: mut injected, warnings, .. } => {
                self.warnings.extend(warnings.into_iter().map(|warning| format!("{at}: {warning}")));
                if owner.is_some()
                    && let Some(metadata) = injected.get_mut("metadata").and_then(Value::as_object_mut)
                {
                    metadata.shift_remove("ownerReferences");
                    metadata.shift_remove("namespace");
                }
                *pod = injected;
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> InjectConfig {
        InjectConfig::new(&MeshConfig::default(), &Value::Null, false).unwrap()
    }

    fn injected(text: &str) -> (String, Vec<String>) {
        let mut warnings = Vec::new();
        let text = rewrite(text, &"a.yaml".into(), "default", &config(), &mut warnings).unwrap();
        (text, warnings)
    }

    const SERVICE: &str =
        "# What others call.\napiVersion: v1\nkind: Service\nmetadata: {name: web}   # kept\nspec: {ports: [{port: 80}]}\n";
    const TEMPLATE: &str = "{metadata: {labels: {app: web, on: \"yes\"}}, spec: {containers: [{name: web, image: \"web:1\", env: [{name: N, value: \"012\"}]}]}}";

    /// The pod of a workload, read again.
    fn pod_of(text: &str, path: &str) -> Value {
        let object = mizzen_api::parse_value(text, &"out".into(), 0).unwrap().to_json();
        object.pointer(path).cloned().unwrap_or_else(|| panic!("{path}: {text}"))
    }

    #[test]
    fn each_kind() {
        let check = |version: &str, kind: &str, spec: &str, path: &str, owner: &str| {
            let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n");
            let (out, warnings) = injected(&text);
            assert_eq!(warnings, [""; 0], "{kind}");
            let pod = pod_of(&out, path);
            let proxy = pod["spec"]["containers"].as_array().unwrap().iter().find(|c| c["name"] == "istio-proxy").expect(kind);
            let value = proxy["env"].as_array().unwrap().iter().find(|v| v["name"] == "ISTIO_META_OWNER").unwrap();
            assert_eq!(value["value"], format!("kubernetes://apis/{version}/namespaces/shop/{owner}/web"));
            assert!(pod["metadata"].get("ownerReferences").is_none(), "{kind}");
            assert_eq!(
                (&pod["metadata"]["labels"]["on"], &pod["spec"]["containers"][0]["env"][0]["value"]),
                (&json!("yes"), &json!("012"))
            );
        };
        let template = format!("{{template: {TEMPLATE}}}");
        for (version, kind, owner) in [
            ("apps/v1", "Deployment", "deployments"),
            ("apps/v1", "StatefulSet", "statefulsets"),
            ("apps/v1", "DaemonSet", "daemonsets"),
            ("apps/v1", "ReplicaSet", "replicasets"),
            ("v1", "ReplicationController", "replicationcontrollers"),
            ("batch/v1", "Job", "jobs"),
        ] {
            check(version, kind, &template, "/spec/template", owner);
        }
        check("batch/v1", "CronJob", &format!("{{jobTemplate: {{spec: {template}}}}}"), "/spec/jobTemplate/spec/template", "cronjobs");
    }

    #[test]
    fn several_documents() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: alone}\nspec: {containers: [{name: a}]}\n";
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}}}\n- {{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web}}, spec: {{template: {TEMPLATE}}}}}\n"
        );
        let text = format!("{SERVICE}--- # next\n{pod}---\n# nothing\n---\n{list}");
        let (out, warnings) = injected(&text);
        assert_eq!(warnings, [""; 0]);
        let parts: Vec<&str> = out.split_inclusive('\n').collect();
        assert!(out.starts_with(&format!("{SERVICE}--- # next\n")), "{out}");
        assert_eq!(parts.iter().filter(|line| line.starts_with("---")).count(), 3);
        assert!(out.contains("\n---\n# nothing\n---\n"), "{out}");
        assert_eq!(out.matches("name: istio-proxy").count(), 2, "{out}");
        // What was injected once stays as it is.
        let (again, warnings) = injected(&out);
        assert_eq!((again == out, warnings.len()), (true, 2), "{warnings:?}");
        assert_eq!(warnings[0], "a.yaml:6: Pod default/alone: left as it is: the pod has a proxy already");
    }

    #[test]
    fn what_cannot_be() {
        let check = |text: &str, want: &str| {
            let error = rewrite(text, &"a.yaml".into(), "default", &config(), &mut Vec::new()).unwrap_err();
            assert_eq!(format!("{error:#}"), want);
        };
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n";
        check(&format!("{SERVICE}---\n{pod}"), "a.yaml:6: Pod default/a: spec.containers: must be a list of at least one container");
        // The words are the YAML library's.
        let error = rewrite("a: 1\n---\na: {\n", &"a.yaml".into(), "default", &config(), &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").starts_with("a.yaml:"), "{error:#}");
    }
}
