//! The programs of a mesh: `mizzen` (the CLI), `mizzend`, `mizzen-proxy`, `mizzen-cni`, and the services of the sample. Package `mizzen` makes one program of them that
//! chooses by the name it is started under; package `mizzen-slim` makes one of each, for images.
//!
//! Everything here parses, wires and runs; what the mesh does is in the libraries.

mod bookshop;
mod cli;
mod programs;
mod up;

/// The files of the Helm charts that are made of what the installer knows, by their path below the folder of charts.
pub use cli::chart_files;

use std::{path::Path, process::ExitCode};

/// The program that is meant by the name under which this process was started; the CLI if it is nobody else's.
pub fn main() -> ExitCode {
    // Processes of a stand-alone mesh are made by running this binary again; that has to come before any thread.
    if let Some(code) = mizzen_host::stage::dispatch(up::inner::main) {
        return code;
    }
    match name("mizzen").as_str() {
        "mizzend" => mizzend(),
        "mizzen-proxy" => mizzen_proxy(),
        // Under the second name a container runtime calls it.
        "mizzen-cni" | programs::cni::PLUGIN => mizzen_cni(),
        sample if bookshop::PROGRAMS.contains(&sample) => bookshop::main(sample),
        _ => cli::main(),
    }
}

/// The control plane.
pub fn mizzend() -> ExitCode {
    programs::mizzend::main()
}

/// The data plane.
pub fn mizzen_proxy() -> ExitCode {
    programs::proxy::main()
}

/// The plugin of nodes that sets the capture of pods, and its agent.
pub fn mizzen_cni() -> ExitCode {
    programs::cni::main()
}

/// The service of the sample under whose name this process was started.
pub fn bookshop() -> ExitCode {
    bookshop::main(&name("bookshop"))
}

/// The name under which this process was started.
fn name(default: &str) -> String {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or(default).to_owned()
}
