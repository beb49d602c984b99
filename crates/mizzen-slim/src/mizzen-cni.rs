//! The plugin of nodes and its agent by themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    mizzen::mizzen_cni()
}
