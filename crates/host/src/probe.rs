//! Probes, made inside a host's network namespace and past its capture.
//!
//! They come from 127.0.0.6, which the rules leave alone on loopback, as Istio's do.

use std::time::Duration;

use crate::{Host, HostError, Io, Process, Spec, Supervisor};

/// An HTTP probe, as a manifest's `httpGet`.
#[derive(Clone, Debug, Default)]
pub struct Http {
    /// The port on the host's own address.
    pub port: u16,
    /// The path with its query, `/` if empty.
    pub path: String,
    /// Further headers; `Host` replaces the address.
    pub headers: Vec<(String, String)>,
}

/// Why a probe failed, for a log line: `connection refused`, `status 503`, `no answer within 1s`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// Succeeds on a status from 200 to 399.
///
/// # Errors
/// [`Failure`] with the reason.
pub async fn http(host: &Host, probe: &Http, timeout: Duration) -> Result<(), Failure> {
    let _ = (host, probe, timeout);
    unimplemented!()
}

/// Succeeds if the port accepts a connection.
///
/// # Errors
/// [`Failure`] with the reason.
pub async fn tcp(host: &Host, port: u16, timeout: Duration) -> Result<(), Failure> {
    let _ = (host, port, timeout);
    unimplemented!()
}

/// Succeeds if the program, run beside the workload, exits with 0. It is killed at the timeout.
///
/// # Errors
/// [`Failure`] with the reason.
pub async fn exec(supervisor: &Supervisor, workload: &Process, spec: &Spec, timeout: Duration) -> Result<(), Failure> {
    let started: Result<Process, HostError> = supervisor.exec(workload, spec, Io::default()).await;
    let _ = (started, timeout);
    unimplemented!()
}
