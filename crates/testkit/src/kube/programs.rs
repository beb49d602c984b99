//! Where the programs are.

use std::path::{Path, PathBuf};

use crate::{require_peers, skip};

/// The command that makes what is missing.
pub const MEND: &str = "`cargo xtask kube build` makes them (ten minutes at first), or MIZZEN_KUBE_BIN names their folder";

/// Those of an API server alone.
const API: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];
/// What a cluster needs beyond them.
const NODE: [&str; 6] = ["kube-scheduler", "kubelet", "kube-proxy", "pause.tar", "echo.tar", "coredns.tar"];
/// What a node takes from the system, with the packages that have it.
const SYSTEM: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
];
/// Where Debian's package has the plugins of the pods' network.
pub(super) const CNI: &str = "/usr/lib/cni";

/// The folder of Kubernetes' programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// For a test with an API server. `None` if programs are missing, after saying so: the test then ends.
    ///
    /// # Panics
    /// If they are missing although [`require_peers`] says that they must be there.
    pub fn for_api() -> Option<Programs> {
        or_skip(Self::find(&API))
    }

    /// For a test with a cluster, which needs root too.
    ///
    /// # Panics
    /// As [`for_api`](Self::for_api).
    pub fn for_cluster() -> Option<Programs> {
        or_skip(Self::find_for_cluster())
    }

    /// For a test with Helm alone.
    ///
    /// # Panics
    /// As [`for_api`](Self::for_api).
    pub fn for_helm() -> Option<Programs> {
        or_skip(Self::find(&["helm"]))
    }

    /// For a part of a test that looks at expressions of Prometheus.
    ///
    /// # Panics
    /// As [`for_api`](Self::for_api).
    pub fn for_promql() -> Option<Programs> {
        or_skip(Self::find(&["promql"]))
    }

    /// For a part of a cluster's test in which NetworkPolicies are enforced.
    ///
    /// # Panics
    /// As [`for_api`](Self::for_api).
    pub fn for_network_policies() -> Option<Programs> {
        or_skip(Self::find(&["kube-network-policies.tar", "echo"]))
    }

    /// As [`for_api`](Self::for_api).
    ///
    /// # Errors
    /// One line that names what is missing and what mends it.
    pub fn find_for_api() -> Result<Programs, String> {
        Self::find(&API)
    }

    /// As [`for_cluster`](Self::for_cluster).
    ///
    /// # Errors
    /// One line that names what is missing and what mends it.
    pub fn find_for_cluster() -> Result<Programs, String> {
        if !crate::is_root() {
            return Err("a cluster's nodes are namespaces, mounts and cgroups that only root can make: run it as root".to_owned());
        }
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            return Err("the nodes of a cluster are tried with cgroup v1 only, and this machine has v2".to_owned());
        }
        let mut packages: Vec<&str> =
            SYSTEM.iter().filter(|(program, _)| on_path(program).is_none()).map(|(_, package)| *package).collect();
        if ["bridge", "host-local", "portmap", "loopback"].iter().any(|plugin| !Path::new(CNI).join(plugin).is_file()) {
            packages.push("containernetworking-plugins");
        }
        packages.dedup();
        if !packages.is_empty() {
            return Err(format!("a cluster's nodes need more of the system: `apt-get install {}`", packages.join(" ")));
        }
        Self::find(&API).and_then(|_| Self::find(&NODE))
    }

    fn find(names: &[&str]) -> Result<Programs, String> {
        let named = std::env::var_os("MIZZEN_KUBE_BIN").map(PathBuf::from);
        let folder = named.or_else(|| Some(target_dir()?.join("kube/bin"))).ok_or("no target folder is known: MIZZEN_KUBE_BIN")?;
        let missing: Vec<&str> = names.iter().copied().filter(|name| !folder.join(name).is_file()).collect();
        if missing.is_empty() {
            return Ok(Programs { folder });
        }
        Err(format!("programs of Kubernetes are missing in {} ({}): {MEND}", folder.display(), missing.join(", ")))
    }

    /// The folder that holds them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn or_skip(found: Result<Programs, String>) -> Option<Programs> {
    found.inspect_err(|why| assert!(!require_peers(), "{why}")).inspect_err(|why| skip(why)).ok()
}

/// The program of this name on `PATH` and where administrators' programs are.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Cargo's target folder, that of the running program.
pub fn target_dir() -> Option<PathBuf> {
    of_cargo(&std::env::current_exe().ok()?)
}

/// The target folder above a program. Cargo marks it for programs that make backups, but only where the folder was not there before:
/// what it knows of the compiler it keeps there always.
fn of_cargo(program: &Path) -> Option<PathBuf> {
    let marks = ["CACHEDIR.TAG", ".rustc_info.json"];
    program.ancestors().find(|folder| marks.iter().any(|mark| folder.join(mark).is_file())).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_folder_may_have_been_there_before_cargo() {
        for mark in ["CACHEDIR.TAG", ".rustc_info.json"] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(mark), "").unwrap();
            assert_eq!(of_cargo(&folder.path().join("debug/deps/program")).as_deref(), Some(folder.path()), "{mark}");
        }
    }
}
