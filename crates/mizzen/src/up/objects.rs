//! What `up` tells the control plane: pods and virtual addresses, as YAML files of Kubernetes objects in a folder that it follows.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use mizzen_api::Kind;
use mizzen_pki::Svid;
use serde_json::json;

use super::desired::Wanted;

/// What closes a mesh for whoever is not allowed in: its kinds, namespaces and names.
pub(crate) const CLOSED: [(Kind, &str, &str); 2] =
    [(Kind::PeerAuthentication, "istio-system", "default"), (Kind::AuthorizationPolicy, "istio-system", "allow-nothing")];

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn create(dir: PathBuf) -> io::Result<Folder> {
        std::fs::create_dir_all(&dir)?;
        Ok(Folder(dir))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a pod, as running or not and ready or not.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn pod(&self, pod: &Wanted, address: Ipv4Addr, ready: bool) -> io::Result<()> {
        self.write(&file(pod), &described(pod, address, ready))
    }

    /// Removes a pod.
    pub(crate) fn remove_pod(&self, pod: &Wanted) {
        let _ = std::fs::remove_file(self.0.join(file(pod)));
    }

    /// Writes the virtual addresses of services.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn virtual_addresses(&self, addresses: &BTreeMap<String, Vec<IpAddr>>) -> io::Result<()> {
        let text = |all: &Vec<IpAddr>| all.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        let addresses: BTreeMap<&String, String> = addresses.iter().map(|(name, all)| (name, text(all))).collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "mizzen-vips", "namespace": "kube-system"},
            "data": addresses,
        });
        self.write("vips.yaml", &object)
    }

    /// Writes what closes the mesh for whoever is not allowed in. It comes before the folder's objects: none of the same name is in force beside it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn closed(&self) -> io::Result<()> {
        for ((_, _, name), object) in CLOSED.into_iter().zip(closed()) {
            self.write(&format!("secure-{name}.yaml"), &object)?;
        }
        Ok(())
    }

    /// Writes a certificate with its key as a Secret of a gateway's namespace.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn credential(&self, namespace: &str, name: &str, svid: &Svid) -> io::Result<()> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": svid.chain_pem(), "tls.key": svid.key_pem().expose()},
        });
        self.write(&credential_file(namespace), &object)
    }

    /// Removes it.
    pub(crate) fn remove_credential(&self, namespace: &str) {
        let _ = std::fs::remove_file(self.0.join(credential_file(namespace)));
    }

    /// JSON is YAML. For this user alone. Renamed into place, so that no reader sees half a file.
    fn write(&self, name: &str, object: &serde_json::Value) -> io::Result<()> {
        let partial = self.0.join(format!(".{name}.partial"));
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&serde_json::to_vec_pretty(object)?)?;
        std::fs::rename(&partial, self.0.join(name))
    }
}

/// What closes a mesh for whoever is not allowed in.
pub(crate) fn closed() -> Vec<serde_json::Value> {
    // A policy without rules matches nothing, and beside it only what another one allows is allowed.
    let specs = [json!({"mtls": {"mode": "STRICT"}}), json!({})];
    let object = |((kind, namespace, name), spec): ((Kind, &str, &str), serde_json::Value)| {
        let metadata = json!({"name": name, "namespace": namespace});
        json!({"apiVersion": "security.istio.io/v1", "kind": kind.name(), "metadata": metadata, "spec": spec})
    };
    CLOSED.into_iter().zip(specs).map(object).collect()
}

/// A pod as Kubernetes has it.
pub(crate) fn described(pod: &Wanted, address: Ipv4Addr, ready: bool) -> serde_json::Value {
    let container = pod.spec.containers.first();
    let ports: Vec<_> = container
        .into_iter()
        .flat_map(|c| &c.ports)
        .map(|p| json!({"name": p.name, "containerPort": p.port, "protocol": if p.udp { "UDP" } else { "TCP" }}))
        .map(|mut port| {
            if port["name"] == "" {
                port.as_object_mut().map(|p| p.remove("name"));
            }
            port
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": pod.told_labels(), "annotations": pod.annotations},
        "spec": {
            "serviceAccountName": pod.spec.service_account,
            "containers": [{"name": container.map_or("proxy", |c| &c.name), "image": "local", "ports": ports}],
        },
        "status": {
            "phase": "Running",
            "podIP": address.to_string(),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    })
}

fn credential_file(namespace: &str) -> String {
    format!("credential-{namespace}.yaml")
}

fn file(pod: &Wanted) -> String {
    format!("{}.yaml", pod.short())
}
