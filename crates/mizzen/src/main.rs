//! The multi-call binary: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mizzen::main()
}
