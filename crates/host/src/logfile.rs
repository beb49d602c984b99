//! A process' output in a file of bounded size.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{io::AsyncReadExt, sync::watch};

/// So much of the end of a process' output is at hand without the file.
const TAIL: usize = 4096;
/// The longest line that is shown of it, in characters.
const LINE: usize = 400;
/// How long the last output of a process that has ended is waited for.
const DRAIN: Duration = Duration::from_secs(1);

/// A log file. When it has reached its size it is renamed to `NAME.1`, in place of an older one.
#[derive(Clone, Debug)]
pub struct LogFile {
    state: Arc<Mutex<LogState>>,
    /// How many pipes are open.
    open: watch::Sender<usize>,
}

#[derive(Debug)]
struct LogState {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
    /// The end of what the last pipe has carried.
    tail: Vec<u8>,
    /// Output is being lost, which has been said.
    losing: bool,
}

impl LogState {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + bytes.len() as u64 > self.limit {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
            self.file = append(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl LogFile {
    /// Opens or makes the file. Inside a tokio runtime.
    ///
    /// # Errors
    /// If it cannot be opened for appending.
    pub fn open(path: &Path, limit: u64) -> io::Result<LogFile> {
        let file = append(path)?;
        let length = file.metadata()?.len();
        let state = LogState { path: path.to_owned(), file, length, limit, tail: Vec::new(), losing: false };
        Ok(LogFile { state: Arc::new(Mutex::new(state)), open: watch::Sender::new(0) })
    }

    /// A pipe whose content goes into the file until the last writer closes it.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn pipe(&self) -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        let mut read = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into())?;
        let log = self.clone();
        log.lock().tail.clear();
        log.open.send_modify(|open| *open += 1);
        tokio::spawn(async move {
            let mut buffer = Vec::with_capacity(16 * 1024);
            while let Ok(1..) = read.read_buf(&mut buffer).await {
                log.write(&buffer);
                log.remember(&buffer);
                buffer.clear();
            }
            log.open.send_modify(|open| *open -= 1);
        });
        Ok(write.into())
    }

    /// The last line of a process that has ended, in which programs say why; without what a terminal would act on. It is known even if the
    /// file cannot be written any more.
    pub async fn last_line(&self) -> Option<String> {
        let mut open = self.open.subscribe();
        // Somebody else may hold the pipe: then what there is must do.
        let _ = tokio::time::timeout(DRAIN, open.wait_for(|open| *open == 0)).await;
        last_line(&String::from_utf8_lossy(&self.lock().tail))
    }

    /// Adds a line of one's own: `restarted after exit code 1`.
    pub fn note(&self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, bytes: &[u8]) {
        let tail = &mut self.lock().tail;
        tail.extend_from_slice(bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or_default());
        tail.drain(..tail.len().saturating_sub(TAIL));
    }

    fn write(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let result = state.write(bytes);
        let before = std::mem::replace(&mut state.losing, result.is_err());
        match result {
            Err(error) if !before => tracing::warn!(file = %state.path.display(), %error, "output is lost"),
            _ => {}
        }
    }
}

/// The last line that says something: Rust's hint below a panic does not.
fn last_line(text: &str) -> Option<String> {
    let lines = text.lines().rev().map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
    let mut lines =
        lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE"));
    lines.next().map(|line| if line.chars().count() > LINE { line.chars().take(LINE).chain(['…']).collect() } else { line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogFile::open(&path, 10).unwrap();
        for line in ["one", "two", "three", "a line that is longer than the limit", "four"] {
            log.note(line);
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("log"), "four\n");
        assert_eq!(read("log.1"), "a line that is longer than the limit\n");
        LogFile::open(&path, 10).unwrap().note("5");
        assert_eq!(read("log"), "four\n5\n");
    }

    #[test]
    fn last_lines() {
        let check = |text: &str, want: Option<&str>| assert_eq!(last_line(text).as_deref(), want, "{text:?}");
        check("", None);
        check("one\ntwo\n\n", Some("two"));
        check("thread 'main' panicked at a.rs:1:\nit broke\nnote: run with `RUST_BACKTRACE=1` environment variable\n", Some("it broke"));
        check("\x1b]0;title\x07\x1b[31mred", Some("]0;title[31mred"));
        check(&"x".repeat(500), Some(&("x".repeat(400) + "…")));
    }

    /// Writes as a process would, and closes the pipe.
    fn says(log: &LogFile, text: &str) {
        File::from(log.pipe().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn the_last_line_is_known_even_if_the_disk_is_full() {
        let log = LogFile::open(Path::new("/dev/full"), 1 << 20).unwrap();
        assert_eq!(log.last_line().await, None);
        says(&log, &format!("{}\nmizzend: No space left on device (os error 28)\n", "a long line ".repeat(1000)));
        assert_eq!(log.last_line().await.as_deref(), Some("mizzend: No space left on device (os error 28)"));
        // Of the process of the moment, not of an earlier one.
        drop(log.pipe().unwrap());
        assert_eq!(log.last_line().await, None);
    }

    #[tokio::test]
    async fn takes_what_a_pipe_carries() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogFile::open(&path, 1000).unwrap();
        let mut pipe = File::from(log.pipe().unwrap());
        pipe.write_all(b"hello\n").unwrap();
        drop(pipe);
        while std::fs::read(&path).unwrap() != b"hello\n" {
            tokio::task::yield_now().await;
        }
    }
}
