//! The control plane by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    mizzen::mizzend()
}
