//! The multi-call binary: `mizzen` (the CLI), `mizzend`, `mizzen-proxy`, and the services of the sample, chosen by the name it is started under.
//!
//! Everything here parses, wires and runs; what the mesh does is in the libraries.

mod bookshop;
mod cli;
mod programs;
mod up;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    // Processes of a stand-alone mesh are made by running this binary again; that has to come before any thread.
    if let Some(code) = mizzen_host::stage::dispatch(up::inner::main) {
        return code;
    }
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().and_then(|n| n.to_str()).unwrap_or("mizzen").to_owned();
    match name.as_str() {
        "mizzend" => programs::mizzend::main(),
        "mizzen-proxy" => programs::proxy::main(),
        sample if bookshop::PROGRAMS.contains(&sample) => bookshop::main(sample),
        _ => cli::main(),
    }
}
