//! Helpers for the end-to-end tests of package `mizzen`: a mesh started through the real binary, programs run in it, and the programs
//! that nobody here wrote.
//!
//! Nothing here sleeps for a fixed time to be right: [`eventually`] asks again until a condition holds, within a bound that is far
//! beyond what a slow machine needs. Deliberately absent: knowledge of what the mesh does.

mod mesh;
mod peers;

use std::time::{Duration, Instant};

pub use mesh::{Mesh, Options, Output};
pub use peers::{peer, require_peers};

/// The longest that anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until the answer is `Ok`, and returns it.
///
/// # Panics
/// With the last error and `what` if it is not `Ok` within [`PATIENCE`].
pub fn eventually<T, E: std::fmt::Display>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(value) => return value,
            Err(error) if Instant::now() >= until => panic!("{what}: still not after {PATIENCE:?}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
