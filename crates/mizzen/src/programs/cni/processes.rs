//! The processes of a node, by the pods to which they belong: who looks into a pod's network namespace finds it by one of them.

use std::{collections::BTreeMap, fs, io, path::Path};

use mizzen_host::NetNs;

/// The network namespaces of pods, by the pods' UIDs, as the node's /proc has them at `proc`. A pod that has no process, or none with a network of its
/// own, is missing.
///
/// # Errors
/// If the folder cannot be read. What ends meanwhile is passed over.
pub(super) fn namespaces(proc: &Path, uids: &[&str]) -> io::Result<BTreeMap<String, NetNs>> {
    // The runtime's own processes may be in a pod's group, and are in the node's namespace: that of its first process, and of the agent. These are two where
    // a node shares its processes with others.
    let nodes_own = [NetNs::open(&proc.join("1/ns/net"))?.id()?, NetNs::current()?.id()?];
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(proc)?.flatten() {
        let is_process = entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_process {
            continue;
        }
        let groups = || fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let first = groups();
        let Some(uid) = uids.iter().find(|uid| is_of(&first, uid)) else { continue };
        let Ok(netns) = NetNs::open(&entry.path().join("ns/net")) else { continue };
        // By now the number may be another process's, as one of the node itself, whose network must never be changed.
        if netns.id().is_ok_and(|id| !nodes_own.contains(&id)) && is_of(&groups(), uid) {
            found.entry((*uid).to_owned()).or_insert(netns);
        }
    }
    Ok(found)
}

/// Whether groups are those of a pod: kubelet puts its UID into their names, in which systemd takes no hyphens.
fn is_of(groups: &str, uid: &str) -> bool {
    !uid.is_empty() && [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))].iter().any(|name| groups.contains(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn pods_by_their_processes() {
        let folder = tempfile::tempdir().unwrap();
        let network = |name: &str| folder.path().join(format!("net-{name}"));
        let process = |pid: &str, groups: &str, namespace: &str| {
            let at = folder.path().join(pid);
            fs::create_dir_all(at.join("ns")).unwrap();
            fs::write(at.join("cgroup"), groups).unwrap();
            fs::write(network(namespace), "").unwrap();
            symlink(network(namespace), at.join("ns/net")).unwrap();
        };
        process("1", "0::/init.scope\n", "1");
        process("20", "0::/../kubepods.slice/kubepods-poda_b.slice/cri-containerd-x.scope\n", "2");
        process("30", "5:memory:/kubepods/besteffort/podc-d/x\n4:cpu:/\n", "3");
        process("40", "0::/kubepods/pode-f/shim\n", "1");
        process("self", "0::/kubepods/podg-h/x\n", "4");
        // The node's own, where its first process is another node's.
        process("50", "0::/kubepods/podi-j/shim\n", "5");
        fs::remove_file(folder.path().join("50/ns/net")).unwrap();
        symlink("/proc/thread-self/ns/net", folder.path().join("50/ns/net")).unwrap();
        let found = namespaces(folder.path(), &["a-b", "c-d", "e-f", "g-h", "i-j", ""]).unwrap();
        let ids: Vec<(&str, (u64, u64))> = found.iter().map(|(uid, netns)| (uid.as_str(), netns.id().unwrap())).collect();
        let expected = [("a-b", "2"), ("c-d", "3")].map(|(uid, name)| (uid, NetNs::open(&network(name)).unwrap().id().unwrap()));
        assert_eq!(ids, expected);
        assert!(namespaces(&folder.path().join("none"), &[]).is_err());
    }
}
