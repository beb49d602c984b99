//! `cargo xtask bench analyze`: what it costs to find out what is wrong with a folder of configuration, ours and istioctl in turn on the same files; and
//! to look again when one object has changed.
//!
//! The objects are those of `bench files`. Each command is started by a process of its own, whose children's resources the kernel adds up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use mizzen_analyze::{Analysis, Id, Options, Sort, items};
use nix::{
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    control::mesh::Mesh,
    files::{Layout, contents},
    load::median,
};

/// Analysis.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AnalyzeArgs {
    /// How many objects there are, about; several may be given.
    #[arg(long, value_name = "N", default_values_t = [1_000, 10_000], value_delimiter = ',', value_parser = clap::value_parser!(u32).range(10..=200_000))]
    objects: Vec<u32>,
    /// How often each is measured; the median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The peer's program; without one only ours is measured.
    #[arg(long, value_name = "PATH")]
    istioctl: Option<PathBuf>,
    /// Our program, if it is not to be built.
    #[arg(long, value_name = "PATH")]
    mizzen: Option<PathBuf>,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// Whether this is the release build, which is made and started first.
    #[arg(long, hide = true)]
    released: bool,
}

/// A command whose use of resources is told.
#[derive(Debug, clap::Args)]
pub(crate) struct SpentArgs {
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// What a command has used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Spent {
    cpu_s: f64,
    s: f64,
    resident_mib: f64,
}

/// Runs a command, and prints what it has used.
pub(crate) fn spent(args: &SpentArgs) -> Result<()> {
    let (program, rest) = args.command.split_first().context("no command")?;
    let begun = Instant::now();
    let status = Command::new(program).args(rest).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let s = begun.elapsed().as_secs_f64();
    // 79: something was found.
    if !matches!(status.code(), Some(0 | 79)) {
        bail!("{program} ended with {status}");
    }
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cpu_s = seconds(used.user_time()) + seconds(used.system_time());
    println!("{}", serde_json::to_string(&Spent { cpu_s, s, resident_mib: used.max_rss() as f64 / 1024.0 })?);
    Ok(())
}

/// Measures and prints.
pub(crate) fn analyze(args: &AnalyzeArgs) -> Result<()> {
    if !args.released {
        return super::restart(&["mizzen", "xtask"], |_| vec!["--released".into()]);
    }
    let ours = args.mizzen.clone().map_or_else(|| Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("mizzen")), Ok)?;
    let mut rows = Vec::new();
    for objects in &args.objects {
        let dir = tempfile::Builder::new().prefix("mizzen-bench-").tempdir()?;
        let services = Mesh::services_of(*objects);
        let all = contents(Layout::Service, services);
        for (name, text) in &all {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(dir.path()))?;
            fs::write(path, text)?;
        }
        let (mut mine, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            mine.push(run(&ours, &["--recursive"], dir.path())?);
            if let Some(istioctl) = &args.istioctl {
                // It looks into folders by itself.
                peer.push(run(istioctl, &[], dir.path())?);
            }
        }
        let change = (0..args.rounds).map(|_| change(&all)).collect::<Result<Vec<_>>>()?;
        rows.push((*objects, Spent::median(&mine), (!peer.is_empty()).then(|| Spent::median(&peer)), median(change)));
        eprintln!("{objects} objects are done");
    }
    if args.json {
        let row = |(objects, mine, peer, change): &(u32, Spent, Option<Spent>, f64)| json!({"objects": objects, "mizzen": mine, "istioctl": peer, "change_cpu_s": change});
        println!("{:#}", json!({"rounds": args.rounds, "rows": rows.iter().map(row).collect::<Vec<_>>()}));
        return Ok(());
    }
    println!("| objects | CPU s | s | resident MiB | istioctl: CPU s | s | resident MiB | CPU ratio | a change: CPU ms |");
    println!("| --: | --: | --: | --: | --: | --: | --: | --: | --: |");
    for (objects, mine, peer, change) in rows {
        let peers = peer.map_or_else(
            || "– | – | – | –".to_owned(),
            |p| format!("{:.3} | {:.3} | {:.1} | {:.2}", p.cpu_s, p.s, p.resident_mib, mine.cpu_s / p.cpu_s),
        );
        println!("| {objects} | {:.3} | {:.3} | {:.1} | {peers} | {:.2} |", mine.cpu_s, mine.s, mine.resident_mib, change * 1e3);
    }
    Ok(())
}

fn run(program: &Path, more: &[&str], folder: &Path) -> Result<Spent> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "spent", "--"]).arg(program).args(["analyze", "--use-kube=false"]).args(more).arg(folder);
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What it costs, in seconds of CPU, to look again after one VirtualService has changed.
fn change(files: &[(String, String)]) -> Result<f64> {
    let mut analysis = Analysis::new(Options { follows: true, ..Options::default() });
    for (name, text) in files {
        items(text, &Arc::from(&**name), "default", &mut |item| analysis.put(&item));
    }
    analysis.update();
    let (name, text) = files.iter().rev().find(|(_, text)| text.contains("weight: 90}")).context("no route")?;
    let text = text.replacen("weight: 90}", "weight: 91}", 1).replacen("weight: 10}", "weight: 9}", 1);
    let cpu = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(|time| time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9);
    let mut changed: Option<Id> = None;
    let begun = cpu()?;
    items(&text, &Arc::from(&**name), "default", &mut |item| {
        if item.id.sort() == Sort::VirtualService && changed.is_none() {
            analysis.put(&item);
            changed = Some(item.id.clone());
        }
    });
    analysis.update();
    changed.context("no VirtualService")?;
    Ok(cpu()? - begun)
}

impl Spent {
    fn median(all: &[Spent]) -> Spent {
        let of = |number: fn(&Spent) -> f64| median(all.iter().map(number).collect());
        Spent { cpu_s: of(|m| m.cpu_s), s: of(|m| m.s), resident_mib: of(|m| m.resident_mib) }
    }
}
