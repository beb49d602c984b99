//! Finding the mesh that runs on this host, and the proxies in it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mizzen_host::RunDir;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long a program of the mesh may take to answer a question of the CLI.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What `up` writes into `mesh.json`, and with `--ready-file` where it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MeshFile {
    /// The address of the Gateway's first port of plain HTTP on the host, or empty if there is none.
    pub(crate) address: String,
    /// All of the Gateways' ports: the port inside the mesh and the address on the host. Those of the gateway that Gateways select by
    /// `istio: ingressgateway` come first.
    pub(crate) gateways: Vec<GatewayPort>,
    /// The process that ends the mesh when it ends.
    pub(crate) pid: u32,
    /// The folder that the mesh follows.
    pub(crate) folder: PathBuf,
    /// Where the mesh keeps its sockets and logs.
    pub(crate) run_dir: PathBuf,
    /// The version of the program.
    pub(crate) version: String,
    /// Whether it was started with `--secure`: nothing leaves it that its registry does not name, whatever its settings say.
    #[serde(default)]
    pub(crate) secure: bool,
    /// With `--https` the certificate of the authority that has signed the gateway's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) https_root: Option<PathBuf>,
}

/// One port of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GatewayPort {
    /// The gateway: `NAMESPACE/NAME` of its workload. Empty in what older programs wrote, which had but one.
    #[serde(default)]
    pub(crate) gateway: String,
    /// The port in the `servers` of Gateways.
    pub(crate) port: u16,
    /// The address on the host's loopback.
    pub(crate) address: String,
}

/// The file in a workload's folder that says whose it is: `NAMESPACE.NAME`.
pub(crate) const POD_FILE: &str = "name";

/// A running mesh.
pub(crate) struct Mesh {
    /// Its folder.
    pub(crate) dir: PathBuf,
}

/// A workload of a running mesh.
pub(crate) struct Pod {
    /// `name.namespace`.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) dir: PathBuf,
}

impl Mesh {
    /// The one mesh that runs, or the one called `name`.
    ///
    /// # Errors
    /// If none runs, or several do and `name` does not say which.
    pub(crate) fn find(name: Option<&str>) -> Result<Mesh> {
        Mesh::running(name)?.context("no mesh is running here as this user; start one with `mizzen up DIR`")
    }

    /// The same, or `None` if none runs.
    ///
    /// # Errors
    /// If several do and `name` does not say which.
    pub(crate) fn running(name: Option<&str>) -> Result<Option<Mesh>> {
        let mut found = RunDir::running(&RunDir::base());
        found.sort();
        if let Some(name) = name {
            found.retain(|dir| dir.file_name().is_some_and(|n| n == name));
        }
        match &found[..] {
            [] => Ok(None),
            [dir] => Ok(Some(Mesh { dir: dir.clone() })),
            several => {
                let names: Vec<_> = several.iter().filter_map(|d| d.file_name()).map(|n| n.to_string_lossy()).collect();
                bail!("several meshes are running: say which with --mesh: {}", names.join(", "))
            }
        }
    }

    /// All workloads, by `name.namespace`.
    pub(crate) fn pods(&self) -> Vec<Pod> {
        let entries = std::fs::read_dir(self.dir.join("pods")).into_iter().flatten().flatten();
        let mut pods: Vec<Pod> = entries.filter_map(|e| Pod::from_dir(e.path())).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }

    /// The workload called `name`: `POD`, `POD.NAMESPACE`, or the beginning of a pod's name, as a deployment's name is.
    ///
    /// # Errors
    /// If there is none, or several that are not replicas of one deployment.
    pub(crate) fn pod(&self, name: &str, namespace: Option<&str>) -> Result<Pod> {
        let mut pods = self.pods();
        let names: Vec<String> = pods.iter().map(|pod| pod.name.clone()).collect();
        let at = choose(&names, name, namespace)?;
        Ok(pods.swap_remove(at))
    }

    /// What the control plane answers at `path` of its debug socket.
    pub(crate) async fn debug(&self, path: &str) -> Result<Value> {
        let (status, body) = self.ask_debug(path).await?;
        answered(status, &body)
    }

    /// The same, as it comes.
    pub(crate) async fn ask_debug(&self, path: &str) -> Result<(http::StatusCode, bytes::Bytes)> {
        let socket = self.dir.join("mizzend/debug.sock");
        let reply = mizzen_net::fetch_unix(&socket, http::Method::GET, path, "", ANSWER_WITHIN).await;
        let reply = reply.context("the control plane does not answer")?;
        Ok((reply.status, reply.body))
    }

    /// What the control plane answers to a change at `path` of its debug socket.
    pub(crate) async fn change(&self, path: &str) -> Result<Value> {
        let body = ask(http::Method::POST, &self.dir.join("mizzend/debug.sock"), path).await?;
        serde_json::from_slice(&body).context("the control plane's answer is no JSON")
    }

    /// What `up` wrote of the mesh.
    pub(crate) fn file(&self) -> Result<MeshFile> {
        let path = self.dir.join("mesh.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Which of these, each `NAME.NAMESPACE`, is called `name`: `POD`, `POD.NAMESPACE`, or the beginning of a pod's name, as a deployment's name is.
///
/// # Errors
/// If there is none, or several that are not replicas of one deployment.
pub(crate) fn choose(pods: &[String], name: &str, namespace: Option<&str>) -> Result<usize> {
    let (kind, short) = kind(name)?;
    if kind == Some(Named::Service) {
        bail!("{name}: a service is no workload: name a pod or a deployment");
    }
    let (wanted, within) = match (namespace, short.rsplit_once('.')) {
        (Some(namespace), _) => (short, Some(namespace)),
        (None, Some((wanted, namespace))) => (wanted, Some(namespace)),
        (None, None) => (short, None),
    };
    let fits = |pod: &str, exact: bool| {
        let (pod_name, pod_namespace) = pod.rsplit_once('.').unwrap_or((pod, ""));
        let same = match (kind, exact) {
            (Some(Named::Deployment), _) => deployment(pod).0 == wanted,
            (_, true) => pod_name == wanted,
            (Some(Named::Pod | Named::Service), false) => false,
            (None, false) => pod_name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-')),
        };
        same && within.is_none_or(|namespace| namespace == pod_namespace)
    };
    let all = |exact: bool| pods.iter().enumerate().filter(|(_, pod)| fits(pod, exact)).collect::<Vec<_>>();
    let found = Some(all(true)).filter(|found| !found.is_empty()).unwrap_or_else(|| all(false));
    match &found[..] {
        [] => bail!("there is no workload {name}; there are: {}", pods.join(", ")),
        [(at, first), others @ ..] if others.iter().all(|(_, other)| deployment(other) == deployment(first)) => Ok(*at),
        several => {
            let names: Vec<_> = several.iter().map(|(_, pod)| pod.as_str()).collect();
            bail!("{name} may be any of {}: say which", names.join(", "))
        }
    }
}

/// What a name is said to be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// `pod/NAME`.
    Pod,
    /// `deployment/NAME`.
    Deployment,
    /// `service/NAME`: any of the pods behind it.
    Service,
}

/// The name and the namespace of a service, which is said by either of both or by its host.
pub(crate) fn service_name<'n>(name: &'n str, namespace: Option<&'n str>) -> (&'n str, Option<&'n str>) {
    match (namespace, name.split_once('.')) {
        (None, Some((name, rest))) => (name, rest.split('.').next()),
        (namespace, _) => (name, namespace),
    }
}

/// A name without the kind before it, and that.
///
/// # Errors
/// If it is a kind that has no one proxy.
pub(crate) fn kind(name: &str) -> Result<(Option<Named>, &str)> {
    let Some((kind, short)) = name.split_once('/') else { return Ok((None, name)) };
    let named = match kind.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => Named::Pod,
        "deployment" | "deployments" | "deploy" | "deployment.apps" => Named::Deployment,
        "service" | "services" | "svc" => Named::Service,
        other => {
            bail!(
                "{name}: `{other}` is no kind of workload that is found by its name; there are pod/NAME, deployment/NAME and service/NAME"
            )
        }
    };
    Ok((Some(named), short))
}

/// The deployment and the namespace of `DEPLOYMENT-HASH-NUMBER.NAMESPACE`.
fn deployment(pod: &str) -> (&str, &str) {
    let (name, namespace) = pod.rsplit_once('.').unwrap_or((pod, ""));
    (name.rsplitn(3, '-').nth(2).unwrap_or(name), namespace)
}

impl Pod {
    /// From its folder.
    fn from_dir(dir: PathBuf) -> Option<Pod> {
        let text = std::fs::read_to_string(dir.join(POD_FILE)).ok()?;
        let (namespace, name) = text.split_once('.')?;
        Some(Pod { name: format!("{name}.{namespace}"), dir })
    }

    /// What the proxy's admin interface answers at `path`.
    pub(crate) async fn admin(&self, path: &str) -> Result<bytes::Bytes> {
        get(&self.dir.join("admin.sock"), path).await.with_context(|| format!("the proxy of {} does not answer", self.name))
    }

    /// What it answers to a change at `path`.
    pub(crate) async fn change(&self, path: &str) -> Result<bytes::Bytes> {
        let answer = ask(http::Method::POST, &self.dir.join("admin.sock"), path).await;
        answer.with_context(|| format!("the proxy of {}", self.name))
    }
}

/// What the control plane has answered.
///
/// # Errors
/// If it does not answer the question.
pub(crate) fn answered(status: http::StatusCode, body: &[u8]) -> Result<Value> {
    match status {
        http::StatusCode::OK => serde_json::from_slice(body).context("the control plane's answer is no JSON"),
        status => bail!("the control plane answers {status}: {}", String::from_utf8_lossy(body).trim()),
    }
}

/// GETs `path` over a Unix socket.
pub(crate) async fn get(socket: &Path, path: &str) -> Result<bytes::Bytes> {
    ask(http::Method::GET, socket, path).await
}

async fn ask(method: http::Method, socket: &Path, path: &str) -> Result<bytes::Bytes> {
    let reply = mizzen_net::fetch_unix(socket, method, path, "", ANSWER_WITHIN).await?;
    if reply.status != http::StatusCode::OK {
        bail!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body).trim());
    }
    Ok(reply.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_meant() {
        let pods = ["web-7d9f8-0.shop", "web-7d9f8-1.shop", "web-admin-6c5d4-0.shop", "web-7d9f8-0.ops", "db-0.ops"].map(str::to_owned);
        let check = |name: &str, namespace: Option<&str>, expected: Result<&str, &str>| match (choose(&pods, name, namespace), expected) {
            (Ok(at), Ok(pod)) => assert_eq!(pods[at], pod, "{name}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{name}: {error}"),
            (found, _) => panic!("{name}: {found:?}"),
        };
        check("web-7d9f8-1", None, Ok("web-7d9f8-1.shop"));
        check("pod/web-7d9f8-1.shop", None, Ok("web-7d9f8-1.shop"));
        check("pod/web", Some("shop"), Err("there is no workload pod/web"));
        check("web", Some("shop"), Err("web may be any of"));
        check("deployment/web", Some("shop"), Ok("web-7d9f8-0.shop"));
        check("deploy/web.ops", None, Ok("web-7d9f8-0.ops"));
        check("deployment/web", None, Err("may be any of"));
        check("deployment/web-7d9f8", Some("shop"), Err("there is no workload"));
        check("po/db-0", None, Ok("db-0.ops"));
        check("service/web", None, Err("a service is no workload: name a pod or a deployment"));
        check("daemonset/web", None, Err("`daemonset` is no kind of workload that is found by its name; there are pod/NAME"));
    }
}
