//! Access logs, written by a thread of their own: a slow disk or pipe must not stop the traffic.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
};

/// Batches that may wait for the writer; what comes then is dropped and counted.
const QUEUE: usize = 1024;

/// Bytes after which no more lines are joined before they are written.
const PIECE: usize = 1 << 20;

/// The writing end.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    sender: SyncSender<(Arc<str>, Vec<u8>)>,
    dropped: Arc<AtomicU64>,
}

impl Logs {
    /// Starts the thread. It ends, having written everything, when the last clone is gone.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(crate) fn start() -> std::io::Result<(Logs, std::thread::JoinHandle<()>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&receiver))?;
        Ok((Logs { sender, dropped: Arc::default() }, thread))
    }

    /// Hands lines over; never waits.
    pub(crate) fn send(&self, file: Arc<str>, lines: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send((file, lines)) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Batches of lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

fn write(receiver: &Receiver<(Arc<str>, Vec<u8>)>) {
    let mut files: HashMap<Arc<str>, Option<File>> = HashMap::new();
    while let Ok((name, mut lines)) = receiver.recv() {
        // What has come in the meantime for the same file goes with it.
        let mut other = None;
        while lines.len() < PIECE
            && let Ok((next, more)) = receiver.try_recv()
        {
            if next != name {
                other = Some((next, more));
                break;
            }
            lines.extend_from_slice(&more);
        }
        append(&mut files, &name, &lines);
        if let Some((name, lines)) = other {
            append(&mut files, &name, &lines);
        }
    }
}

fn append(files: &mut HashMap<Arc<str>, Option<File>>, name: &Arc<str>, lines: &[u8]) {
    let written = match &**name {
        "/dev/stdout" => std::io::stdout().lock().write_all(lines),
        "/dev/stderr" => std::io::stderr().lock().write_all(lines),
        path => {
            let open = || {
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .inspect_err(|error| tracing::error!(path, %error, "access log"))
                    .ok()
            };
            match files.entry(name.clone()).or_insert_with(open) {
                Some(file) => file.write_all(lines),
                None => Ok(()),
            }
        }
    };
    if let Err(error) = written {
        tracing::debug!(%name, %error, "lines of the access log are lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| -> Arc<str> { dir.path().join(name).to_str().unwrap().into() };
        let (logs, thread) = Logs::start().unwrap();
        for (file, line) in [("a", "1\n"), ("a", "2\n"), ("b", "3\n"), ("a", "4\n")] {
            logs.send(path(file), line.into());
        }
        logs.send("/no/such/folder/x".into(), b"lost\n".to_vec());
        assert_eq!(logs.dropped(), 0);
        drop(logs);
        thread.join().unwrap();
        let read = |name: &str| std::fs::read_to_string(&*path(name)).unwrap();
        assert_eq!((read("a").as_str(), read("b").as_str()), ("1\n2\n4\n", "3\n"));
    }
}
