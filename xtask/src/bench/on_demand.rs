//! `cargo xtask bench on-demand`: what it costs a proxy, and who waits, that what is used is fetched on first use.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use mizzen_testkit::churn::{self, FirstPlan, FirstReport, Received};

/// How large the mesh is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct OnDemandArgs {
    /// Services in all.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(20..=50_000))]
    services: u32,
    /// How many of them are called for the first time, after the three that are called all the time.
    #[arg(long, value_name = "N", default_value_t = 280, value_parser = clap::value_parser!(u32).range(8..=5_000))]
    destinations: u32,
    /// For how many seconds memory settles before it is read.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=900))]
    settle: u64,
    /// The binary of package `mizzen`. Default: the release build, which is made first.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn on_demand(args: OnDemandArgs) -> Result<()> {
    let (mizzen, this) = super::churn::programs(args.mizzen)?;
    let plan = FirstPlan { services: args.services, destinations: args.destinations, settle: args.settle };
    let report = churn::first_use(&mizzen, &[&this, "bench", "churn-load"], &[], &plan);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &FirstReport) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{} services; the machine's load {}", report.plan.services, load.trim());
    println!(
        "the proxy that calls three: {} KiB anonymous, {} KiB at its peak, files included; after all were called {} KiB",
        report.anonymous, report.peak, report.anonymous_after_all
    );
    let bytes = |all: &BTreeMap<String, Received>| {
        let words: Vec<String> = all.iter().map(|(kind, one)| format!("{} × {kind} {}", one.resources, one.bytes)).collect();
        if words.is_empty() {
            "nothing".to_owned()
        } else {
            format!("{} ({})", all.values().map(|one| one.bytes).sum::<u64>(), words.join(", "))
        }
    };
    println!("received until then, bytes: {}\n", bytes(&report.received));
    println!("{:<34} {:>8} {:>6} {:>12} {:>10} {:>10} {:>10}", "requests, µs", "answered", "lost", "connected", "median", "p99", "max");
    for (what, waited) in &report.requests {
        println!(
            "{what:<34} {:>8} {:>6} {:>12} {:>10} {:>10} {:>10}",
            waited.count,
            waited.lost.len(),
            waited.connected,
            waited.median,
            waited.p99,
            waited.max
        );
        waited.lost.iter().take(3).for_each(|why| println!("  {why}"));
    }
    println!("\nreceived because of a change, bytes:");
    for (what, received) in &report.changes {
        println!("  {what}: {}", bytes(received));
    }
}
