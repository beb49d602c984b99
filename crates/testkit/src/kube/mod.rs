//! Kubernetes for tests: its API server alone ([`ApiServer`]; any user, ready in about three seconds), or a whole cluster on this machine
//! ([`Cluster`]; root, ten seconds), both made of the programs that `cargo xtask kube build` makes.
//!
//! Nothing of it outlives the process that started it, however that ends: programs are started under `setpriv --pdeathsig`, and process 1 of a
//! cluster's namespaces ends when the pipe from its caller closes.

mod api;
mod certificates;
mod cluster;
pub mod image;
mod nodes;
mod programs;
mod running;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub use api::{ApiOptions, ApiServer};
pub use certificates::{Certificates, Identity};
pub use cluster::{Cluster, ClusterOptions, Life};
pub use programs::{MEND, Programs, target_dir};

use crate::Output;

/// The longest that a program of Kubernetes is waited for: on a machine that does much else.
const START: Duration = Duration::from_secs(180);

/// Runs a command with this input, and waits for its end.
fn run(mut command: Command, input: &str) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut pipe = child.stdin.take().ok_or("no pipe")?;
    let text = input.to_owned();
    // It may answer before it has read everything, and would wait for a reader.
    let writer = std::thread::spawn(move || {
        let _ = pipe.write_all(text.as_bytes());
    });
    let output = child.wait_with_output().map_err(failed)?;
    let _ = writer.join();
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Asks until the answer is `Ok` or [`Wait::Never`].
fn wait<T>(what: &str, mut ask: impl FnMut() -> Result<T, Wait>) -> Result<T, String> {
    let until = Instant::now() + START;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(Wait::Never(why)) => return Err(format!("{what}: {why}")),
            Err(Wait::NotYet(why)) if Instant::now() >= until => return Err(format!("{what}: still not after {START:?}: {why}")),
            Err(Wait::NotYet(_)) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Why something is not there.
enum Wait {
    /// It may come.
    NotYet(String),
    /// It will not come any more.
    Never(String),
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(12);
    format!("{}:\n{}", log.display(), lines[from..].join("\n"))
}

fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn make_dir(path: &Path) -> Result<(), String> {
    std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}
