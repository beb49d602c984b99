//! The stand-alone host: everything that `mizzen up` and `mizzen run` need from the kernel, without root.
//!
//! A mesh is two processes. [`Outer`] stays in the network namespace of the machine: it opens the
//! gateway's ports there, dials what lies beyond the mesh, and forwards DNS. [`Inner`] is pid 1 of new
//! user, PID, mount and network namespaces; its network namespace is the [`Router`] of the mesh. Each
//! replica gets a [`Host`]: a network namespace with an address and a route. The [`Supervisor`] starts
//! processes in hosts: proxies with three capabilities, workloads with none and a view of their own of
//! processes and files.
//!
//! ```text
//!   machine's netns            the mesh: one user namespace, one PID namespace
//!   ┌────────┐  socketpair   ┌───────────────────────┐  veth  ┌──────────────────────────┐
//!   │ Outer  │───────────────│ Inner = pid 1, Router │────────│ Host: proxy | workload   │
//!   └────────┘ (descriptors) └───────────────────────┘        └──────────────────────────┘
//! ```
//!
//! Nothing is pinned by a bind mount and no state is kept outside the run folder, so that a `kill -9` of
//! either process ends everything and leaves only that folder. Every program that uses this crate calls
//! [`stage::dispatch`] first thing in `main`, since processes are made by running the same binary again.
//!
//! Absent on purpose: what a manifest means, which process to start when, and the mesh itself; package
//! `mizzen` knows these. UDP and ICMP beyond the mesh are not carried.

mod error;
mod host;
mod inner;
mod links;
mod logfile;
mod netns;
mod outer;
pub mod probe;
mod process;
mod relay;
mod restart;
mod router;
mod rundir;
mod spec;
pub mod stage;

pub use error::{HostError, StartError};
pub use host::Host;
pub use inner::{Inner, Link};
pub use logfile::LogFile;
pub use netns::{NetNs, block_on};
pub use outer::Outer;
pub use process::{Exit, Process, Supervisor};
pub use relay::{Alias, RelayPolicy};
pub use restart::RestartDelay;
pub use router::{Router, RouterOptions};
pub use rundir::{RunDir, RunDirError};
pub use spec::{Io, Mount, ProcessKind, Sift, Source, Spec, Workload};
