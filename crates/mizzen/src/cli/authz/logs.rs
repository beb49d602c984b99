//! Where recorded calls come from: files, standard input, or the proxies of the running mesh.

use std::{
    fs::File,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::record::{self, Line};
use crate::cli::place::{Cluster, PROXY, Place};

/// After so many lines whoever waits is told how far it is.
const TELL_EVERY: u64 = 100_000;

/// One log.
pub(crate) struct Log {
    pub(crate) name: String,
    /// The namespace and name of the pod whose proxy wrote it, if that is known.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) lines: Box<dyn BufRead>,
}

/// The logs that are named, or all of the mesh.
///
/// # Errors
/// If one cannot be opened, or there are none.
pub(crate) fn logs(named: &[PathBuf], mesh: Option<&Place>) -> Result<Vec<Log>> {
    if let ([], None) = (named, mesh) {
        bail!("which log? Name files of access logs, or `-` for standard input; without -f, those of the running mesh are read");
    }
    let mut found = Vec::new();
    for path in named {
        let lines: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path).with_context(|| path.display().to_string())?))
        };
        found.push(Log { name: path.display().to_string(), pod: None, lines });
    }
    if named.is_empty() {
        if let Some(Place::Cluster(cluster)) = mesh {
            return crate::cli::runtime(of_cluster(cluster));
        }
        let pods = match mesh {
            Some(Place::Host(mesh)) => mesh.pods(),
            _ => Vec::new(),
        };
        for pod in pods {
            let path = pod.dir.join("proxy.log");
            // Whoever has just started has none yet, and an old part there may be or not.
            for path in [older(&path), path] {
                let Ok(file) = File::open(&path) else { continue };
                let whose = pod.name.rsplit_once('.').map(|(name, namespace)| (namespace.to_owned(), name.to_owned()));
                found.push(Log { name: format!("the log of {}", pod.name), pod: whose, lines: Box::new(BufReader::new(file)) });
            }
        }
    }
    Ok(found)
}

/// What the API server has of the logs of all proxies.
async fn of_cluster(cluster: &Cluster) -> Result<Vec<Log>> {
    let mut found = Vec::new();
    for (namespace, name) in cluster.proxies().await? {
        let text = cluster.log(&namespace, &name, PROXY).await?;
        let lines = Box::new(BufReader::new(std::io::Cursor::new(text)));
        found.push(Log { name: format!("the log of {name}.{namespace}"), pod: Some((namespace, name)), lines });
    }
    Ok(found)
}

/// Where a log's lines are that it had before it was cut.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Hands each line to `take`, and tells a person who waits how far it is.
///
/// # Errors
/// What reading fails with, and `take`.
pub(crate) fn each(name: &str, lines: &mut dyn BufRead, take: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
    let waits = std::io::stderr().is_terminal();
    let mut count: u64 = 0;
    record::read(lines, &mut |line| {
        count += 1;
        if waits && count.is_multiple_of(TELL_EVERY) {
            let _ = write!(anstream::stderr(), "\r{name}: {count} lines");
        }
        take(line)
    })
    .with_context(|| name.to_owned())?;
    if waits && count >= TELL_EVERY {
        let _ = writeln!(anstream::stderr(), "\r{name}: {count} lines");
    }
    Ok(())
}
