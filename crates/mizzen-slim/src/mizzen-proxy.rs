//! The data plane by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    mizzen::mizzen_proxy()
}
