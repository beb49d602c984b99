//! Repository checks: `cargo xtask check`.
//!
//! The crate graph against the table of ARCHITECTURE.md, dependencies that nothing names, what pure crates may name, where `unsafe` may
//! stand, that every crate says what it is, and the licences of all dependencies. Everything runs without a network.

mod graph;
mod licences;
mod sources;
mod unused;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::Value;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("check") => check(),
        _ => Err(anyhow::anyhow!("usage: cargo run -p xtask -- check")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata() -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"];
    let out = std::process::Command::new(cargo).args(args).current_dir(root()).output().context("cannot run cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn check() -> Result<()> {
    let metadata = metadata()?;
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    let mut problems = graph::check(&metadata, &architecture)?;
    problems.extend(sources::check(&root())?);
    problems.extend(unused::check(&metadata)?);
    problems.extend(licences::check(&metadata)?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    println!("crate graph, sources and licences are as they should be");
    Ok(())
}
