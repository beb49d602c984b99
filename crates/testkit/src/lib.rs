//! Helpers for tests beyond one crate: a mesh started through the real binary, programs run in it, and the programs that nobody here wrote;
//! [`kube`], a Kubernetes for it; [`workload`], programs of a mesh that are the test itself; [`echo`], the servers of a load; [mod@memory], a mesh without a process, a socket or a
//! thread; and the bodies of the [`fuzz`] targets.
//!
//! Nothing here sleeps for a fixed time to be right: [`eventually`] asks again until a condition holds, within a bound that is far
//! beyond what a slow machine needs. Deliberately absent: knowledge of what the mesh does.

mod authority;
pub mod churn;
pub mod echo;
mod foreign;
pub mod fuzz;
pub mod kube;
pub mod memory;
mod mesh;
mod peers;
mod processes;
mod tls;
mod wire;
pub mod workload;

use std::time::{Duration, Instant};

pub use authority::{Authority, Credential, secret};
pub use foreign::Foreign;
pub use mesh::{Mesh, Options, Output};
pub use nix::sys::signal::Signal;
pub use peers::{envoy, peer, require_peers, skip};
pub use processes::{Memory, Seen, cpu, descendants, is_root, memory};
pub use tls::{Connection, Dialer};
pub use wire::{Capture, Flow, Sniffer};

/// The longest that anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with these files, for a mesh that a test describes itself.
///
/// # Panics
/// If it cannot be made.
pub fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

/// Asks until the answer is `Ok`, and returns it.
///
/// # Panics
/// With the last error and `what` if it is not `Ok` within [`PATIENCE`].
pub fn eventually<T, E: std::fmt::Display>(what: &str, ask: impl FnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, ask)
}

/// The same for what takes longer.
///
/// # Panics
/// With the last error and `what` if it is not `Ok` within this time.
pub fn within<T, E: std::fmt::Display>(patience: Duration, what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + patience;
    loop {
        match ask() {
            Ok(value) => return value,
            Err(error) if Instant::now() >= until => panic!("{what}: still not after {patience:?}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
