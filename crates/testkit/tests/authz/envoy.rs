//! A real Envoy.

use std::{
    any::Any,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use mizzen_testkit::envoy;
use serde_json::Value;

/// One that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts an Envoy, and waits until it serves.
pub(crate) fn start(bootstrap: &Value) -> Box<dyn Any> {
    let path = envoy().expect("an Envoy");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("envoy.json");
    std::fs::write(&file, bootstrap.to_string()).expect("write");
    let mut command = Command::new(path);
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "-l", "info"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("an Envoy");
    let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
    let running = Running(child);
    let mut seen = Vec::new();
    let up = lines.by_ref().map_while(Result::ok).any(|line| {
        let up = line.contains("all dependencies initialized. starting workers");
        seen.push(line);
        up
    });
    assert!(up, "Envoy does not start:\n{}", seen.join("\n"));
    // What it writes from now on is read, so that it never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Box::new(running)
}
