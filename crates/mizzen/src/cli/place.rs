//! Where a mesh is: on this host, or in a Kubernetes cluster.
//!
//! Questions are the same. On a host they go to sockets, in a cluster to ports of pods, forwarded by the API server, so that whoever may not forward
//! learns nothing.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::core::v1 as k8s;
use kube::{
    Api, Client,
    api::{AttachParams, AttachedProcess, ListParams, LogParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
};
use mizzen_api::Kind;
use mizzen_control::{ClusterOptions, names};
use mizzen_model::Reader;
use mizzen_types::ports;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    analyze::files::File,
    describe::{find_service, pods_of},
    find::{Mesh, Named, answered, choose, kind, service_name},
    state::snapshot_of,
};
use crate::up::say;

/// How long a question to a cluster may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The container of the proxy.
pub(crate) const PROXY: &str = "istio-proxy";

/// Which mesh is meant.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Where {
    /// The mesh's name, if several run on this host.
    #[arg(long, global = true, value_name = "NAME", conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) mesh: Option<String>,
    /// A kubeconfig: the mesh is in the cluster of it. Without it, a mesh on this host comes first, and then the cluster of $KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, other than its current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace of the control plane in the cluster.
    #[arg(
        short = 'i',
        long = "istioNamespace",
        visible_alias = "istio-namespace",
        global = true,
        value_name = "NAMESPACE",
        default_value = "istio-system"
    )]
    pub(crate) istio_namespace: String,
}

/// A mesh.
pub(crate) enum Place {
    /// On this host.
    Host(Mesh),
    /// In a cluster.
    Cluster(Cluster),
}

/// A cluster with a mesh in it.
pub(crate) struct Cluster {
    /// How it is found. A client lives in one runtime, and some verbs have several.
    place: Where,
    /// The namespace of the control plane.
    pub(crate) namespace: String,
    /// How it is reached.
    pub(crate) options: Box<ClusterOptions>,
}

/// How much of a cluster is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What the mesh reads.
    #[default]
    Mesh,
    /// That, and all that pods are made from, or that has an identity and is no pod.
    Callers,
}

/// What a cluster has.
pub(crate) struct Documents {
    /// The objects.
    pub(crate) files: Vec<File>,
    /// The kinds that may not be read.
    pub(crate) refused: Vec<String>,
}

/// Group, version, kind and plural of what callers are made from, and of what says who they are.
const CALLERS: [(&str, &str, &str, &str); 7] = [
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
    ("networking.istio.io", "v1", "WorkloadEntry", "workloadentries"),
    ("networking.istio.io", "v1", "WorkloadGroup", "workloadgroups"),
];
/// Endpoints that somebody else than Kubernetes writes.
const WRITTEN: &str = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io";

impl Extent {
    /// Whether a ConfigMap of the control plane's namespace is looked at.
    fn is_setting(self, name: Option<&str>) -> bool {
        // Pods may have been injected by one of several revisions.
        let of_revision = |name: &str| self == Extent::Callers && name.starts_with(names::INJECTOR);
        name.is_some_and(|name| name == names::SETTINGS || name == names::INJECTOR || of_revision(name))
    }

    /// The kinds.
    fn resources(self) -> Vec<ApiResource> {
        let is_meant = |kind: &Kind| match kind {
            Kind::Secret => false,
            Kind::EndpointSlice => self == Extent::Callers,
            _ => true,
        };
        let resource = |group: &str, version: &str, name: &str, plural: &str| {
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural)
        };
        let read = Kind::ALL.iter().copied().filter(is_meant).filter_map(|kind| {
            let version = kind.stored_version()?;
            Some(resource(kind.group(), version, kind.name(), kind.plural()))
        });
        let callers: &[_] = if self == Extent::Callers { &CALLERS } else { &[] };
        read.chain(callers.iter().map(|(group, version, name, plural)| resource(group, version, name, plural))).collect()
    }
}

/// A workload of a mesh.
pub(crate) enum Workload<'p> {
    /// On this host.
    Host(super::find::Pod),
    /// In a cluster.
    Cluster(&'p Cluster, Box<k8s::Pod>),
}

impl Where {
    /// Whether somebody has said that a cluster is meant.
    pub(crate) fn is_explicit(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// A kubeconfig that is meant, or that there is.
    fn kubeconfig(&self) -> Option<PathBuf> {
        let usual = || {
            let file = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
            std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from).or(file).filter(|path| path.is_file())
        };
        self.kubeconfig.clone().or_else(usual)
    }

    /// The cluster that is meant, or that there is a kubeconfig of; whether it answers, and has a mesh, is not known.
    ///
    /// # Errors
    /// If one is meant, and there is no kubeconfig.
    pub(crate) fn known_cluster(&self) -> Result<Option<Cluster>> {
        match self.kubeconfig() {
            Some(path) => Ok(Some(self.cluster(path))),
            None if self.is_explicit() => bail!("there is no kubeconfig: name one with --kubeconfig"),
            None => Ok(None),
        }
    }

    /// The mesh that runs.
    ///
    /// # Errors
    /// If there is none, or it cannot be told which is meant.
    pub(crate) async fn find(&self) -> Result<Place> {
        self.running().await?.context("no mesh is running here as this user, and there is no kubeconfig; start one with `mizzen up DIR`")
    }

    /// The same; `None` if there is none.
    ///
    /// # Errors
    /// As [`Where::find`].
    pub(crate) async fn running(&self) -> Result<Option<Place>> {
        if !self.is_explicit()
            && let Some(mesh) = Mesh::running(self.mesh.as_deref())?
        {
            return Ok(Some(Place::Host(mesh)));
        }
        // A name is that of a mesh on a host.
        Ok(if self.mesh.is_none() { self.known_cluster()?.map(Place::Cluster) } else { None })
    }

    fn cluster(&self, kubeconfig: PathBuf) -> Cluster {
        let options = ClusterOptions {
            kubeconfig: Some(kubeconfig.clone()),
            context: self.context.clone(),
            only_read: true,
            ..ClusterOptions::default()
        };
        let place = Where { kubeconfig: Some(kubeconfig), ..self.clone() };
        Cluster { place, namespace: self.istio_namespace.clone(), options: Box::new(options) }
    }
}

impl Place {
    /// What the control plane answers at a path of its debug interface.
    pub(crate) async fn debug(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask_debug(path).await?;
        answered(status, &body)
    }

    /// The same; `None` if the control plane, of another version, does not know the question.
    pub(crate) async fn debug_if_known(&self, path: &str) -> Result<Option<Value>> {
        match self.ask_debug(path).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => answered(status, &body).map(Some),
        }
    }

    async fn ask_debug(&self, path: &str) -> Result<(StatusCode, bytes::Bytes)> {
        match self {
            Place::Host(mesh) => mesh.ask_debug(path).await,
            Place::Cluster(cluster) => cluster.debug(path).await,
        }
    }

    /// What the control plane answers to a change.
    pub(crate) async fn change(&self, path: &str) -> Result<Value> {
        match self {
            Place::Host(mesh) => mesh.change(path).await,
            Place::Cluster(cluster) => {
                let pod = cluster.control_plane().await?;
                let answer = cluster.change(&pod, "discovery", "mizzend", path).await?;
                serde_json::from_str(&answer).context("the control plane's answer is no JSON")
            }
        }
    }

    /// The workload called `name`: `POD`, `POD.NAMESPACE`, or the beginning of a pod's name, as a deployment's name is; or the first pod behind a service,
    /// `service/NAME`.
    ///
    /// # Errors
    /// If there is none, or several that are not replicas of one deployment.
    pub(crate) async fn pod(&self, name: &str, namespace: Option<&str>) -> Result<Workload<'_>> {
        let (named, short) = kind(name)?;
        if named == Some(Named::Service) {
            return self.behind(short, namespace).await?.with_context(|| format!("{name}: no pod with a proxy that runs is behind it"));
        }
        match self {
            Place::Host(mesh) => Ok(Workload::Host(mesh.pod(name, namespace)?)),
            Place::Cluster(cluster) => {
                let (name, within) = match (namespace, short.rsplit_once('.')) {
                    (None, Some((_, namespace))) => (name.strip_suffix(&format!(".{namespace}")).unwrap_or(name), Some(namespace)),
                    (namespace, _) => (name, namespace),
                };
                let mut pods = cluster.pods(within).await?;
                let names: Vec<String> = pods.iter().map(full_name).collect();
                let at = choose(&names, name, within)?;
                Ok(Workload::Cluster(cluster, Box::new(pods.swap_remove(at))))
            }
        }
    }

    /// The first pod behind a service.
    async fn behind(&self, service: &str, namespace: Option<&str>) -> Result<Option<Workload<'_>>> {
        match self {
            Place::Host(mesh) => {
                let snapshot = snapshot_of(mesh)?;
                let reader = Reader::new(&snapshot);
                let pods = pods_of(&reader, find_service(&reader, service, namespace)?);
                let name = |pod: &String| pod.split_once('/').map(|(namespace, name)| format!("{name}.{namespace}"));
                let names: Vec<String> = pods.iter().filter_map(name).collect();
                Ok(mesh.pods().into_iter().find(|pod| names.contains(&pod.name)).map(Workload::Host))
            }
            Place::Cluster(cluster) => {
                let (name, namespace) = service_name(service, namespace);
                Ok(cluster.behind(name, namespace).await?.map(|pod| Workload::Cluster(cluster, Box::new(pod))))
            }
        }
    }

    /// All workloads with a proxy.
    pub(crate) async fn workloads(&self) -> Result<Vec<Workload<'_>>> {
        Ok(match self {
            Place::Host(mesh) => mesh.pods().into_iter().map(Workload::Host).collect(),
            Place::Cluster(cluster) => {
                let pods = cluster.pods(None).await?.into_iter().filter(has_proxy);
                pods.map(|pod| Workload::Cluster(cluster, Box::new(pod))).collect()
            }
        })
    }
}

/// `NAME.NAMESPACE`.
fn full_name(pod: &k8s::Pod) -> String {
    let (name, namespace) = (pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref());
    format!("{}.{}", name.unwrap_or_default(), namespace.unwrap_or_default())
}

/// Whether it has a sidecar, or is a gateway.
fn has_proxy(pod: &k8s::Pod) -> bool {
    let spec = pod.spec.as_ref();
    let first = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    spec.is_some_and(|spec| spec.containers.iter().chain(first).any(|container| container.name == PROXY))
}

/// # Errors
/// If it has none.
fn in_the_mesh(pod: &k8s::Pod) -> Result<()> {
    if has_proxy(pod) { Ok(()) } else { bail!("{} is not in the mesh: it has no container {PROXY}", full_name(pod)) }
}

fn is_running(pod: &k8s::Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")) && pod.metadata.deletion_timestamp.is_none()
}

impl Cluster {
    /// A client of it.
    pub(crate) async fn client(&self) -> Result<Client> {
        super::kube::client(&self.place).await
    }

    /// Its pods that run, or those of a namespace.
    async fn pods(&self, namespace: Option<&str>) -> Result<Vec<k8s::Pod>> {
        let api: Api<k8s::Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client().await?, namespace),
            None => Api::all(self.client().await?),
        };
        let found = api.list(&ListParams::default()).await.context("the pods of the cluster")?;
        Ok(found.items.into_iter().filter(is_running).collect())
    }

    /// Of the pods that a service selects, the first that runs and has a proxy.
    async fn behind(&self, name: &str, namespace: Option<&str>) -> Result<Option<k8s::Pod>> {
        let client = self.client().await?;
        let services: Api<k8s::Service> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let found =
            services.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await.context("the services of the cluster")?;
        let within = |service: &k8s::Service| service.metadata.namespace.clone().unwrap_or_default();
        let service = match &found.items[..] {
            [one] => one,
            [] => bail!("there is no service {name} in {}", namespace.unwrap_or("the cluster")),
            several => {
                let names: Vec<String> = several.iter().map(|service| format!("{name}.{}", within(service))).collect();
                bail!("service/{name} may be any of {}: say which", names.join(", "))
            }
        };
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
        let selector = selector.with_context(|| format!("service/{name}.{} selects no pods", within(service)))?;
        let labels: Vec<String> = selector.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let pods: Api<k8s::Pod> = Api::namespaced(client, &within(service));
        let found = pods.list(&ListParams::default().labels(&labels.join(","))).await.context("the pods of the service")?;
        let behind = found.items.into_iter().filter(|pod| is_running(pod) && has_proxy(pod));
        Ok(behind.min_by(|one, other| one.metadata.name.cmp(&other.metadata.name)))
    }

    /// A pod of the control plane.
    ///
    /// # Errors
    /// If none runs.
    pub(crate) async fn control_plane(&self) -> Result<k8s::Pod> {
        let api: Api<k8s::Pod> = Api::namespaced(self.client().await?, &self.namespace);
        let found = api.list(&ListParams::default().labels("app=istiod")).await.context("the pods of the control plane")?;
        let running = found.items.into_iter().find(is_running);
        running.with_context(|| format!("no pod of the control plane runs in namespace {} (label app=istiod)", self.namespace))
    }

    /// Namespace and name of all pods with a proxy.
    pub(crate) async fn proxies(&self) -> Result<Vec<(String, String)>> {
        let pods = self.pods(None).await?.into_iter().filter(has_proxy);
        Ok(pods.map(|pod| (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default())).collect())
    }

    /// All that the API server has of a container's log.
    pub(crate) async fn log(&self, namespace: &str, name: &str, container: &str) -> Result<String> {
        let api: Api<k8s::Pod> = Api::namespaced(self.client().await?, namespace);
        let params = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        api.logs(name, &params).await.with_context(|| format!("the log of {name}.{namespace}"))
    }

    /// What is looked at, as documents. A kind that is not there, or may not be read, is left out; the latter is told.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub(crate) async fn documents(&self, extent: Extent) -> Result<Documents> {
        let (mut text, mut refused, client) = (String::new(), Vec::new(), self.client().await?);
        for resource in extent.resources() {
            let is = |kind: Kind| resource.group == kind.group() && resource.kind == kind.name();
            let api: Api<DynamicObject> = match is(Kind::ConfigMap) {
                // All others may hold anything.
                true => Api::namespaced_with(client.clone(), &self.namespace, &resource),
                false => Api::all_with(client.clone(), &resource),
            };
            let params = if is(Kind::EndpointSlice) { ListParams::default().labels(WRITTEN) } else { ListParams::default() };
            let found = match api.list(&params).await {
                Ok(found) => found.items,
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    say::problem(&format!("{} are not looked at: {}", resource.plural, status.message));
                    refused.push(resource.kind);
                    continue;
                }
                Err(error) => return Err(error).context("the cluster"),
            };
            let meant = |object: &DynamicObject| !is(Kind::ConfigMap) || extent.is_setting(object.metadata.name.as_deref());
            for mut object in found.into_iter().filter(meant) {
                object.metadata.managed_fields = None;
                // Lists do not repeat what each of their items is.
                object.types = Some(TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() });
                text += &format!("---\n{}\n", serde_json::to_string(&object)?);
            }
        }
        Ok(Documents { files: vec![File { name: "cluster".into(), path: None, text }], refused })
    }

    async fn debug(&self, path: &str) -> Result<(StatusCode, bytes::Bytes)> {
        let pod = self.control_plane().await?;
        self.ask(&pod, ports::DEBUG, path).await.context("the control plane does not answer")
    }

    /// One change, by the socket of a program, which is in its pod alone: a command there makes it.
    async fn change(&self, pod: &k8s::Pod, container: &str, program: &str, path: &str) -> Result<String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<k8s::Pod> = Api::namespaced(self.client().await?, namespace);
        let params = AttachParams::default().container(container).stdin(false);
        let asked = async {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            ended(api.exec(name, [program, "request", "POST", path], &params).await?).await
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"));
        asked.with_context(|| format!("{program} in {}", full_name(pod)))
    }

    /// One GET to a port of localhost in a pod.
    async fn ask(&self, pod: &k8s::Pod, port: u16, path: &str) -> Result<(StatusCode, bytes::Bytes)> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<k8s::Pod> = Api::namespaced(self.client().await?, namespace);
        let asked = async {
            let mut forwarder = api.portforward(pod.metadata.name.as_deref().unwrap_or_default(), &[port]).await?;
            let stream = forwarder.take_stream(port).context("no stream")?;
            let reply = mizzen_net::fetch(stream, Method::GET, "localhost", path, HeaderMap::new(), "").await;
            forwarder.abort();
            let reply = reply.with_context(|| format!("port {port} of {}", full_name(pod)))?;
            Ok((reply.status, reply.body))
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"))
    }
}

async fn text(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut text = String::new();
    if let Some(mut stream) = stream {
        stream.read_to_string(&mut text).await?;
    }
    Ok(text)
}

/// What a command in a container has written, and how it ended.
async fn ended(mut process: AttachedProcess) -> Result<String> {
    let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
    let (out, err) = tokio::try_join!(text(stdout), text(stderr)).context("its output")?;
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    match status {
        Some(status) if status.status.as_deref() == Some("Success") => Ok(out),
        Some(status) if err.trim().is_empty() => bail!("{}", status.message.unwrap_or_default()),
        _ => bail!("{}", err.trim()),
    }
}

impl Workload<'_> {
    /// `NAME.NAMESPACE`.
    pub(crate) fn name(&self) -> String {
        match self {
            Workload::Host(pod) => pod.name.clone(),
            Workload::Cluster(_, pod) => full_name(pod),
        }
    }

    /// What the proxy's admin interface answers at a path, which is JSON.
    pub(crate) async fn admin(&self, path: &str) -> Result<Value> {
        serde_json::from_slice(&self.admin_bytes(path).await?).context("the proxy's answer is no JSON")
    }

    /// The same where the answer is a text.
    pub(crate) async fn admin_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.admin_bytes(path).await?).into_owned())
    }

    /// What it answers to a change at a path.
    ///
    /// # Errors
    /// If the proxy refuses it, or in a cluster if who asks may not run commands in its pod.
    pub(crate) async fn change(&self, path: &str) -> Result<String> {
        match self {
            Workload::Host(pod) => Ok(String::from_utf8_lossy(&pod.change(path).await?).into_owned()),
            Workload::Cluster(cluster, pod) => {
                in_the_mesh(pod)?;
                cluster.change(pod, PROXY, "mizzen-proxy", path).await
            }
        }
    }

    async fn admin_bytes(&self, path: &str) -> Result<bytes::Bytes> {
        match self {
            Workload::Host(pod) => pod.admin(path).await,
            Workload::Cluster(cluster, pod) => {
                in_the_mesh(pod)?;
                let answered = cluster.ask(pod, ports::ADMIN, path).await;
                match answered.with_context(|| format!("the proxy of {} does not answer", full_name(pod)))? {
                    (StatusCode::OK, body) => Ok(body),
                    (status, body) => bail!("the proxy answers {status}: {}", String::from_utf8_lossy(&body).trim()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at() {
        let kinds = |extent: Extent| -> Vec<String> {
            extent
                .resources()
                .into_iter()
                .map(|resource| format!("{} {} {}", resource.api_version, resource.kind, resource.plural))
                .collect()
        };
        let (mesh, callers) = (kinds(Extent::Mesh), kinds(Extent::Callers));
        for kind in [
            "apps/v1 StatefulSet statefulsets",
            "apps/v1 DaemonSet daemonsets",
            "apps/v1 ReplicaSet replicasets",
            "batch/v1 Job jobs",
            "batch/v1 CronJob cronjobs",
            "networking.istio.io/v1 WorkloadEntry workloadentries",
            "networking.istio.io/v1 WorkloadGroup workloadgroups",
            "discovery.k8s.io/v1 EndpointSlice endpointslices",
        ] {
            assert!(callers.contains(&kind.to_owned()) && !mesh.contains(&kind.to_owned()), "{kind}");
        }
        assert!(mesh.iter().all(|kind| callers.contains(kind)) && !callers.iter().any(|kind| kind.contains("Secret")), "{callers:?}");
        for (name, is_read, is_read_for_callers) in [
            ("istio", true, true),
            ("istio-sidecar-injector", true, true),
            ("istio-sidecar-injector-canary", false, true),
            ("x", false, false),
        ] {
            let found = (Extent::Mesh.is_setting(Some(name)), Extent::Callers.is_setting(Some(name)));
            assert_eq!(found, (is_read, is_read_for_callers), "{name}");
        }
    }
}
