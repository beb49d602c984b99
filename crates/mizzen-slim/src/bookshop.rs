//! The services of the sample, chosen by the name under which it is started.

use std::process::ExitCode;

fn main() -> ExitCode {
    mizzen::bookshop()
}
