//! Whose program is measured, and the numbers that are told of it.

use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// A proxy that is measured.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    how: How,
}

/// How one is told what to do.
enum How {
    /// By an Envoy's bootstrap, with these arguments of its own.
    Bootstrap(Vec<String>),
    /// By a configuration of nginx, which says everything.
    Nginx,
}

impl Contender {
    /// Ours; the binary chooses by its name. Its metrics are served there.
    pub(super) fn mizzen(binary: &Path, dir: &Path, metrics: SocketAddr) -> Result<Contender> {
        let program = dir.join("mizzen-proxy");
        symlink(absolute(binary)?, &program)?;
        let args = ["--mark", "0", "--metrics"].map(str::to_owned).into_iter().chain([metrics.to_string()]);
        Ok(Contender { name: "mizzen", program, how: How::Bootstrap(args.collect()) })
    }

    pub(super) fn envoy(binary: &Path) -> Result<Contender> {
        Ok(Contender { name: "envoy", program: absolute(binary)?, how: How::Bootstrap(vec!["--disable-hot-restart".to_owned()]) })
    }

    pub(super) fn nginx(binary: &Path) -> Result<Contender> {
        Ok(Contender { name: "nginx", program: absolute(binary)?, how: How::Nginx })
    }

    pub(super) fn is_nginx(&self) -> bool {
        matches!(self.how, How::Nginx)
    }

    /// Has a command of its program use this file, with so many workers; nginx has as many as the file says. What it says goes to the log.
    pub(super) fn prepare(&self, command: &mut Command, file: &Path, workers: u32, log: File) {
        match &self.how {
            How::Bootstrap(args) => {
                command.arg("-c").arg(file).args(["--concurrency", &workers.to_string(), "-l", "warning"]).args(args);
            }
            // Before it reads the file it would write to a log of its own.
            How::Nginx => {
                command.args(["-e", "stderr", "-c"]).arg(file);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    }
}

/// A relative path would mean another place from a link, or from another folder.
fn absolute(binary: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(binary).with_context(|| binary.display().to_string())
}

/// One number of a measurement.
pub(super) struct Column<M> {
    pub(super) name: &'static str,
    pub(super) key: &'static str,
    pub(super) of: fn(&M) -> f64,
    pub(super) digits: usize,
}

impl<M> Column<M> {
    /// As a table has it.
    pub(super) fn shown(&self, measured: &M) -> String {
        format!("{:.*}", self.digits, (self.of)(measured))
    }

    /// One as a part of another, where that is more than nothing.
    pub(super) fn ratio(&self, ours: &M, theirs: &M) -> Option<f64> {
        let theirs = (self.of)(theirs);
        (theirs > 0.0).then(|| (self.of)(ours) / theirs)
    }
}

/// Each column's value under its key.
pub(super) fn values<'c, M: 'c>(
    columns: impl IntoIterator<Item = &'c Column<M>>,
    value: impl Fn(&Column<M>) -> Value,
) -> Map<String, Value> {
    columns.into_iter().map(|column| (column.key.to_owned(), value(column))).collect()
}

/// All numbers of one measurement, by their keys.
pub(super) fn numbers<'c, M: 'c>(columns: impl IntoIterator<Item = &'c Column<M>>, measured: &M) -> Map<String, Value> {
    values(columns, |column| json!((column.of)(measured)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_one_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let metrics = SocketAddr::from(([127, 0, 0, 1], 15_090));
        for (contender, expected) in [
            (Contender::mizzen(&exe, dir.path(), metrics), "-c /f --concurrency 2 -l warning --mark 0 --metrics 127.0.0.1:15090"),
            (Contender::envoy(&exe), "-c /f --concurrency 2 -l warning --disable-hot-restart"),
            (Contender::nginx(&exe), "-e stderr -c /f"),
        ] {
            let contender = contender.unwrap();
            let mut command = Command::new(&contender.program);
            contender.prepare(&mut command, Path::new("/f"), 2, tempfile::tempfile().unwrap());
            let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
            assert_eq!(args.join(" "), expected, "{}", contender.name);
        }
        assert!(Contender::nginx(Path::new("/nowhere/nginx")).is_err());
    }

    #[test]
    fn columns() {
        let column = Column { name: "CPU", key: "cpu", of: |m: &f64| *m, digits: 1 };
        assert_eq!((column.shown(&2.26), column.ratio(&1.0, &4.0), column.ratio(&1.0, &0.0)), ("2.3".to_owned(), Some(0.25), None));
        assert_eq!(Value::from(numbers([&column], &3.0)), json!({"cpu": 3.0}));
    }
}
