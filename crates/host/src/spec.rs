//! What process to start: plain data that travels to the child as JSON.

use std::{os::fd::OwnedFd, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A process to be started in a [`Host`](crate::Host) by [`Supervisor::spawn`](crate::Supervisor::spawn).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// For messages: `shop/reviews-v1-0 proxy`.
    pub name: String,
    /// The program and its arguments. A program without a slash is looked up on `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// The working directory; absent, `/`.
    pub cwd: Option<PathBuf>,
    /// What kind of process, and so what it may do.
    pub kind: ProcessKind,
}

/// What a process may do and see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ProcessKind {
    /// The mesh's PID and mount namespaces, the host's network namespace, NET_ADMIN, NET_RAW and
    /// NET_BIND_SERVICE as ambient capabilities and no others; not dumpable, if it is this same binary.
    Proxy,
    /// As a proxy without any capability: the control plane.
    Control,
    /// PID, mount, IPC and UTS namespaces of its own; no capabilities and no way to get any.
    Workload(Workload),
}

/// What a workload sees of the machine. `Default` is the machine's files, all readable as far as the user may.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// The host name, of at most 64 bytes.
    pub hostname: Option<String>,
    /// Run as this user; possible only where the mesh runs as root.
    pub uid: Option<u32>,
    /// Run as this group; possible only where the mesh runs as root.
    pub gid: Option<u32>,
    /// What is mounted where; targets that do not exist are made, without changing the machine's files.
    pub mounts: Vec<Mount>,
    /// Folders and files that are not to be seen: the mesh's run folders. A folder shows empty. The
    /// sockets of nscd, systemd-resolved and avahi are always hidden, and all devices but the harmless ones.
    pub hide: Vec<PathBuf>,
    /// Folders and files that are seen and cannot be changed: what the mesh is configured by.
    pub freeze: Vec<PathBuf>,
    /// A folder that is seen without some of its files.
    pub sift: Option<Box<Sift>>,
    /// Folders below a hidden one that stay visible, read-only: the one with links to the sample's programs.
    pub keep: Vec<PathBuf>,
    /// An existing empty folder, hidden by `hide`, on which the child mounts its scratch space.
    pub scratch: PathBuf,
}

/// A folder that is seen and cannot be changed, as it is when the workload starts, and without some of its files. What is added later is not
/// seen, but in folders below it that had none of those.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sift {
    /// The folder.
    pub folder: PathBuf,
    /// Files and links with one of these parts in their names, small or capital, are not seen.
    pub without: Vec<String>,
}

/// One mount of a workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    /// An absolute path in the workload's view.
    pub target: PathBuf,
    /// What is to be seen there.
    pub source: Source,
    /// Whether the workload may not write to it.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// This file or folder of the machine (may lie in a hidden folder): a ConfigMap's folder, an emptyDir.
    /// A file replaced by rename inside a mounted folder is seen by the workload.
    Bind(PathBuf),
    /// A file with this text: `/etc/resolv.conf`, `/etc/hosts`.
    Text(String),
    /// An empty folder in memory.
    Tmpfs,
}

/// The descriptors of a process; what is absent is `/dev/null`.
#[derive(Debug, Default)]
pub struct Io {
    /// Descriptor 0.
    pub stdin: Option<OwnedFd>,
    /// Descriptor 1.
    pub stdout: Option<OwnedFd>,
    /// Descriptor 2.
    pub stderr: Option<OwnedFd>,
    /// Others, by the number that they have in the process (at least 3): `(3, token_socket)`.
    pub others: Vec<(i32, OwnedFd)>,
}

impl Io {
    /// Output and errors both to this descriptor, such as a [`LogFile::pipe`](crate::LogFile::pipe).
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated.
    pub fn to(output: OwnedFd) -> std::io::Result<Io> {
        Ok(Io { stderr: Some(output.try_clone()?), stdout: Some(output), ..Io::default() })
    }
}
