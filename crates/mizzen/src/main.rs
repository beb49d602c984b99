//! The multi-call binary: `mizzen` (the CLI), `mizzend`, `mizzen-proxy`, and the services of the sample, chosen by the name it is started under.

mod bookshop;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&name).file_name().and_then(|n| n.to_str()).unwrap_or("mizzen").to_owned();
    match name.as_str() {
        sample if bookshop::PROGRAMS.contains(&sample) => bookshop::main(sample),
        _ => ExitCode::FAILURE,
    }
}
