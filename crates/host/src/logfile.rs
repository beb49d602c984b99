//! A process' output in a file of bounded size.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::AsyncReadExt;

/// A log file. When it has reached its size it is renamed to `NAME.1`, in place of an older one.
#[derive(Clone, Debug)]
pub struct LogFile {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
}

impl State {
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
        Ok(LogFile { state: Arc::new(Mutex::new(State { path: path.to_owned(), file, length, limit })) })
    }

    /// A pipe whose content goes into the file until the last writer closes it.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn pipe(&self) -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        let mut read = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into())?;
        let log = self.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::with_capacity(16 * 1024);
            while let Ok(1..) = read.read_buf(&mut buffer).await {
                log.write(&buffer);
                buffer.clear();
            }
        });
        Ok(write.into())
    }

    /// Adds a line of one's own: `restarted after exit code 1`.
    pub fn note(&self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    fn write(&self, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.write(bytes) {
            tracing::warn!(file = %state.path.display(), %error, "output is lost");
        }
    }
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
