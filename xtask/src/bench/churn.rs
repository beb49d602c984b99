//! `cargo xtask bench churn`: a mesh under load while everything in it changes at random, and the control plane is killed again and again.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use mizzen_testkit::churn::{self, Plan, Report};

/// What changes, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChurnArgs {
    /// Services that nobody calls.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    services: u32,
    /// Names that are used now and then.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(2..=5_000))]
    rare: u32,
    /// How long everything changes.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Requests in a second.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Changes in a second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    changes: u32,
    /// How often the control plane is killed.
    #[arg(long, value_name = "N", default_value_t = 5)]
    restarts: u32,
    /// What a proxy has not used for so many seconds it lets go.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=900))]
    on_demand_idle: u64,
    /// Of all that is random.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The binary of package `mizzen`. Default: the release build, which is made first.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
    /// Print the whole report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs and prints. An error if anything was lost.
pub(crate) fn churn(args: ChurnArgs) -> Result<()> {
    let (mizzen, this) = programs(args.mizzen)?;
    let plan = Plan {
        services: args.services,
        rare: args.rare,
        seconds: args.seconds,
        rate: args.rate,
        changes: args.changes,
        restarts: args.restarts,
        idle: args.on_demand_idle,
        seed: args.seed,
    };
    let report = churn::run(&mizzen, &[&this, "bench", "churn-load"], &[], &plan);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    match report.lost() {
        0 => Ok(()),
        lost => bail!("{lost} of {} requests were lost", report.requests()),
    }
}

/// The mesh's program and this one, by their paths.
pub(super) fn programs(mizzen: Option<PathBuf>) -> Result<(String, String)> {
    let mizzen = match mizzen {
        Some(path) => path,
        None => super::build(&["mizzen"])?,
    };
    let mizzen = std::fs::canonicalize(&mizzen).with_context(|| mizzen.display().to_string())?;
    let text = |path: PathBuf| path.into_os_string().into_string().map_err(|path| anyhow!("{}: the path is not UTF-8", path.display()));
    Ok((text(mizzen)?, text(std::env::current_exe()?)?))
}

fn print(report: &Report) {
    println!("{:<10} {:>9} {:>6} {:>12} {:>10} {:>10} {:>10}", "lane", "requests", "lost", "connections", "median µs", "p99 µs", "max µs");
    for (name, lane) in &report.tally.lanes {
        let [median, p99] = [0.5, 0.99].map(|part| lane.quantile(part));
        println!(
            "{name:<10} {:>9} {:>6} {:>12} {:>10} {:>10} {:>10}",
            lane.requests,
            lane.lost,
            lane.connections,
            format!("<{median}"),
            format!("<{p99}"),
            lane.slowest
        );
    }
    println!("\n{} changes, the control plane was away for", report.changes.values().sum::<u64>());
    report.outages.iter().for_each(|(from, to)| println!("  {:.1} s", (to - from) as f64 / 1000.0));
    if !report.refused.is_empty() {
        println!("{} first uses of a name were refused because that was longer than a proxy waits", report.refused.len());
    }
    for (kind, count) in &report.changes {
        println!("  {count:>6} {kind}");
    }
    println!("the last change was seen after {:.1} s\n", report.last_change);
    println!("{:<30} {:>8} {:>14} {:>14}", "process", "CPU s", "anonymous KiB", "peak KiB");
    for (name, usage) in &report.usage {
        println!("{name:<30} {:>8.2} {:>14} {:>14}", usage.cpu, usage.anonymous, usage.peak);
    }
    for lost in &report.tally.lost {
        println!("\nlost at {} ms: {} to {}: {}", lost.at, lost.id, lost.target, lost.what);
        report.traces.get(&lost.id).into_iter().flatten().for_each(|line| println!("  {line}"));
    }
}
