//! A gateway that is measured, as a process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use mizzen_testkit::Memory;

use crate::bench::{contender::Contender, control::plane::Process};

/// How long one may take until it answers.
const START: Duration = Duration::from_secs(60);
/// At rest: of one core, in a tick.
const AT_REST: f64 = 0.05;
const TICK: Duration = Duration::from_millis(50);
/// How long rest is waited for. What never rests is measured all the same.
const PATIENCE: Duration = Duration::from_secs(6);

/// One that is running, with one worker. It ends with this.
pub(super) struct Gateway {
    process: Process,
    log: PathBuf,
}

impl Gateway {
    /// Starts it by a file of this folder.
    pub(super) fn start(contender: &Contender, dir: &Path, file: &str) -> Result<Gateway> {
        let log = dir.join(format!("{}-{file}.log", contender.name));
        let said = File::create(&log)?;
        let process = Process::start(&contender.program, |command| contender.prepare(command, &dir.join(file), 1, said))?;
        Ok(Gateway { process, log })
    }

    /// Waits until it succeeds.
    pub(super) async fn until(&mut self, mut succeeds: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let end = Instant::now() + START;
        while let Err(error) = succeeds().await {
            if let Some(status) = self.process.child().try_wait()? {
                bail!("it has ended ({status}): {}", self.said());
            }
            if Instant::now() > end {
                return Err(error.context(format!("no answer within {} s: {}", START.as_secs(), self.said())));
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Waits until it has done next to nothing for so long.
    pub(super) async fn rest(&self, quiet: Duration) -> Result<()> {
        let begun = Instant::now();
        let (mut since, mut before) = (begun, self.cpu()?);
        while since.elapsed() < quiet && begun.elapsed() < PATIENCE {
            tokio::time::sleep(TICK).await;
            let now = self.cpu()?;
            if now.saturating_sub(before) > TICK.mul_f64(AT_REST) {
                since = Instant::now();
            }
            before = now;
        }
        Ok(())
    }

    /// The last lines of its log.
    pub(super) fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(8)..];
        if last.is_empty() { "its log is empty".to_owned() } else { last.join("\n") }
    }

    /// User and system time so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.process.cpu()
    }

    /// What it holds at the moment.
    pub(super) fn memory(&self) -> Result<Memory> {
        self.process.memory()
    }
}
