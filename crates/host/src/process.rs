//! Starting processes, and knowing how they end.

use std::{io, time::Duration};

use nix::sys::signal::Signal;

use crate::{Host, HostError, Io, Spec};

/// Starts processes and reaps them, orphans included: it is the one place of the inner process that waits
/// for children. Nothing else there may start a process (`std::process`, `tokio::process`): its status
/// would be taken away from it.
#[derive(Clone, Debug)]
pub struct Supervisor {}

/// A process that was started.
#[derive(Clone, Debug)]
pub struct Process {}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code; workloads that were killed by signal N show as 128 + N.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Supervisor {
    /// Starts the reaping. Once per process, inside a tokio runtime.
    ///
    /// # Errors
    /// If the handler for SIGCHLD cannot be installed.
    pub fn start() -> io::Result<Supervisor> {
        unimplemented!()
    }

    /// Starts a process in a host's network namespace; returns when the program itself runs.
    ///
    /// # Errors
    /// With the step that failed: a mount, a missing program, a refused capability.
    pub async fn spawn(&self, host: &Host, spec: &Spec, io: Io) -> Result<Process, HostError> {
        let _ = (host, spec, io);
        unimplemented!()
    }

    /// Starts a program in the namespaces of a running workload, as the workload itself would: for exec
    /// probes and the like. `spec.kind` is not looked at.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn exec(&self, workload: &Process, spec: &Spec, io: Io) -> Result<Process, HostError> {
        let _ = (workload, spec, io);
        unimplemented!()
    }
}

impl Process {
    /// Its number in the mesh's PID namespace (a workload's own number 1).
    pub fn pid(&self) -> i32 {
        unimplemented!()
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        unimplemented!()
    }

    /// Waits for its end; may be called any number of times.
    pub async fn wait(&self) -> Exit {
        unimplemented!()
    }

    /// Sends a signal; to a process that has ended it is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let _ = signal;
        unimplemented!()
    }

    /// SIGTERM, then after `grace` SIGKILL; returns how it ended.
    pub async fn stop(&self, grace: Duration) -> Exit {
        let _ = grace;
        unimplemented!()
    }
}

impl Exit {
    /// Whether it ended by itself with code 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}
