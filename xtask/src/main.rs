//! What the repository needs beside its code: `cargo xtask check`, `cargo xtask bench`, `cargo xtask image`, `cargo xtask charts`
//! and `cargo xtask kube`.
//!
//! `check`: the crate graph against the table of ARCHITECTURE.md, what pure crates may name, where `unsafe` may stand, that every crate says
//! what it is, and that every field of the runtime configuration is read; no tool reads that table, the lints of rustc know no folders, and a
//! public field is not unused for them. Licences and sources of dependencies are cargo-deny's business,
//! dependencies that nothing names cargo-shear's. `bench proxy`: the data plane beside Envoy, in turn, under the same load. `bench edge`: a gateway's TLS beside Envoy's. `bench control`: the control plane under
//! simulated proxies. `bench cluster`: the same on a cluster's API server. `bench churn`: whether a request is lost while everything changes. `bench on-demand`: what fetching on first use costs.
//! `bench files`: what reading configuration costs. `bench analyze`: what it costs to find out what is wrong with it. `kube`: Kubernetes on
//! this machine. `charts`: the made files of the Helm charts; `check` says if they are stale.

mod bench;
mod charts;
mod fields;
mod graph;
mod image;
mod kube;
mod sources;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Repository checks and benchmarks.
#[derive(Debug, Parser)]
#[command(name = "xtask", max_term_width = 100)]
struct XtaskArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Compares the repository with its own rules.
    Check,
    /// Measures.
    #[command(subcommand)]
    Bench(Bench),
    /// Makes the images of the mesh and of its sample, and says how large they are.
    Image(image::ImageArgs),
    /// Makes the files of `charts/` that are made: kinds, roles, values and their schemas.
    Charts,
    /// Kubernetes on this machine.
    #[command(subcommand)]
    Kube(kube::Kube),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The data plane and Envoy in turn: client, proxy, mutual TLS, proxy, server. Needs wrk and nginx.
    Proxy(bench::BenchArgs),
    /// A gateway's TLS, ours and Envoy's in turn: handshakes, requests over kept connections, and the memory of many hosts.
    Edge(bench::edge::EdgeArgs),
    /// The control plane under a load of simulated proxies, beside the cost of sending the same bytes.
    Control(bench::control::ControlArgs),
    /// The control plane on an API server in which many services are made: until a few proxies have them.
    Cluster(bench::control::cluster::ClusterArgs),
    /// A mesh under load while everything in it changes at random and the control plane is killed: whether a request is lost.
    Churn(bench::churn::ChurnArgs),
    /// What it costs a proxy, and who waits, that what is used is fetched on first use.
    OnDemand(bench::on_demand::OnDemandArgs),
    /// The load of both; started by them, inside the mesh.
    #[command(hide = true)]
    ChurnLoad,
    /// Reading a folder of many objects, an edit of one of its files, and no edit at all.
    Files(bench::files::FilesArgs),
    /// Analysis of a folder of many objects, ours and istioctl in turn, and of one change.
    Analyze(bench::analyze::AnalyzeArgs),
    /// A command of which is told what it uses; started by the benchmark of analysis.
    #[command(hide = true)]
    Spent(bench::analyze::SpentArgs),
    /// What reads; started by the benchmark of reading.
    #[command(hide = true)]
    Read(bench::files::ReadArgs),
    /// The server of the floor; started by the benchmark of the control plane.
    #[command(hide = true)]
    Floor,
    /// The client of idle connections; started by the benchmark on the client's host.
    #[command(hide = true)]
    Hold(bench::hold::HoldArgs),
}

fn main() -> ExitCode {
    let result = match XtaskArgs::parse().task {
        Task::Check => check(),
        Task::Image(args) => image::image(&args),
        Task::Charts => charts::write(&root()),
        Task::Kube(kube) => kube::run(kube),
        Task::Bench(Bench::Proxy(args)) => bench::proxy(args),
        Task::Bench(Bench::Edge(args)) => bench::edge::edge(args),
        Task::Bench(Bench::Control(args)) => bench::control::control(args),
        Task::Bench(Bench::Cluster(args)) => bench::control::cluster::cluster(args),
        Task::Bench(Bench::Churn(args)) => bench::churn::churn(args),
        Task::Bench(Bench::OnDemand(args)) => bench::on_demand::on_demand(args),
        Task::Bench(Bench::ChurnLoad) => {
            mizzen_testkit::churn::load();
            Ok(())
        }
        Task::Bench(Bench::Files(args)) => bench::files::files(&args),
        Task::Bench(Bench::Analyze(args)) => bench::analyze::analyze(&args),
        Task::Bench(Bench::Spent(args)) => bench::analyze::spent(&args),
        Task::Bench(Bench::Read(args)) => bench::files::read(args),
        Task::Bench(Bench::Floor) => bench::control::floor::serve(),
        Task::Bench(Bench::Hold(args)) => bench::hold::hold(&args),
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
    problems.extend(fields::check(&root())?);
    problems.extend(charts::check(&root())?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems", problems.len());
    }
    println!("crate graph, sources and charts are as they should be");
    Ok(())
}
