//! The two proxies of one contender.

use std::{
    fs::File,
    ops::Sub,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    config::{Guard, Size},
    contender::Contender,
    hosts::{Host, Hosts},
};

/// How long a pair may take until it answers.
const START: Duration = Duration::from_secs(60);

/// How the proxies of a pair are started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) workers: u32,
    pub(super) size: Size,
    pub(super) guard: Guard,
}

/// Both, running.
pub(super) struct Pair {
    proxies: Vec<Child>,
    logs: Vec<PathBuf>,
}

/// CPU time of both, in ticks of the kernel's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu(u64);

impl Cpu {
    /// In microseconds.
    pub(super) fn micros(self) -> f64 {
        // What /proc counts in is the same on every Linux machine.
        self.0 as f64 * 10_000.0
    }
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, before: Cpu) -> Cpu {
        Cpu(self.0.saturating_sub(before.0))
    }
}

/// Memory of both together, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) resident: u64,
    pub(super) anonymous: u64,
}

impl Pair {
    /// Starts both.
    pub(super) fn start(contender: &Contender, hosts: &Hosts, dir: &Path, setup: Setup) -> Result<Pair> {
        let start = |host: Host, file: &str| -> Result<(Child, PathBuf)> {
            let log = dir.join(format!("{}-{file}.log", contender.name));
            let mut command: Command = hosts.command(host, &contender.program);
            contender.prepare(&mut command, &dir.join(file), setup.workers, File::create(&log)?);
            Ok((command.spawn().with_context(|| contender.program.display().to_string())?, log))
        };
        let mut pair = Pair { proxies: Vec::new(), logs: Vec::new() };
        for (host, file) in [(Host::Server, setup.guard.server()), (Host::Client, setup.size.client())] {
            let (child, log) = start(host, file)?;
            pair.proxies.push(child);
            pair.logs.push(log);
        }
        Ok(pair)
    }

    /// Waits until it holds.
    pub(super) fn until(&mut self, mut holds: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + START;
        while !holds() {
            self.running()?;
            if Instant::now() > end {
                bail!("no answer within {} s: {}", START.as_secs(), self.said());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn running(&mut self) -> Result<()> {
        for proxy in &mut self.proxies {
            if let Some(status) = proxy.try_wait()? {
                bail!("a proxy has ended ({status}): {}", self.said());
            }
        }
        Ok(())
    }

    /// The last lines of both logs.
    fn said(&self) -> String {
        let last = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        self.logs.iter().map(last).collect::<Vec<_>>().join("\n")
    }

    /// User and system time of both, so far.
    pub(super) fn cpu(&self) -> Result<Cpu> {
        let one = |proxy: &Child| -> Result<u64> {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.id()))?;
            // The name of the program, in brackets, may hold blanks.
            let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
            let numbers: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
            Ok(numbers.iter().sum())
        };
        Ok(Cpu(self.proxies.iter().map(one).sum::<Result<u64>>()?))
    }

    /// What both hold at the moment.
    pub(super) fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for proxy in &self.proxies {
            let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", proxy.id()))?;
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).context("/proc/PID/smaps_rollup")?;
                Ok::<u64, anyhow::Error>(line.split_whitespace().next().unwrap_or_default().parse()?)
            };
            memory.resident += field("Rss:")?;
            memory.anonymous += field("Anonymous:")?;
        }
        Ok(memory)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for proxy in &mut self.proxies {
            // One that has ended needs no end.
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }
}
