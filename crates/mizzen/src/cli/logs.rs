//! `mizzen logs`: what a workload, or its proxy, has written.

use std::{io::SeekFrom, time::Duration};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::find::Mesh;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The workload: POD, POD.NAMESPACE, or the name of its deployment.
    workload: String,
    /// The namespace, if the workload's name does not say it.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The proxy's log (its access log included) instead of the program's.
    #[arg(long)]
    proxy: bool,
    /// Go on with what is written from now on, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Only this many lines of the end.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

/// How often a followed log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn run(mesh: Option<&str>, args: LogsArgs) -> Result<()> {
    let mesh = Mesh::find(mesh)?;
    let pod = mesh.pod(&args.workload, args.namespace.as_deref())?;
    let path = pod.dir.join(if args.proxy { "proxy.log" } else { "log" });
    let mut file = tokio::fs::File::open(&path).await.with_context(|| format!("{} has no log", pod.name))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let from = args.tail.map_or(0, |n| lines.len().saturating_sub(n));
    super::output::print(&lines[from..].concat())?;
    if !args.follow {
        return Ok(());
    }
    let mut at = bytes.len() as u64;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // A log that was cut starts anew.
        if tokio::fs::metadata(&path).await?.len() < at {
            file = tokio::fs::File::open(&path).await?;
            at = 0;
        }
        file.seek(SeekFrom::Start(at)).await?;
        let mut more = Vec::new();
        at += file.read_to_end(&mut more).await? as u64;
        super::output::print(&String::from_utf8_lossy(&more))?;
    }
}
