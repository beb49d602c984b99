//! What the proxy has asked for on demand, kept in a file for its next start: it then asks for that first, and not when the first request waits for it.
//!
//! The file is a help and nothing more: what cannot be read or written is said and costs questions.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mizzen_xds::types::{LISTENER, VIRTUAL_HOST, WILDCARD, short};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::Options;

/// The file, in [`Options::dir`].
const FILE: &str = "on-demand";
/// Names that are remembered.
const MAX_NAMES: usize = 10_000;
/// The longest of them, in bytes: a host name and a port are much shorter.
const MAX_NAME: usize = 512;
/// The largest file that is read.
const MAX_SIZE: u64 = (MAX_NAMES * (MAX_NAME + 16)) as u64;
/// How long a change waits for others before the file is written.
const SAVE_AFTER: Duration = Duration::from_secs(2);
/// What the proxy has not asked for again so long after it has opened a stream, it has let go meanwhile.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(60);
/// The types of which names are remembered.
const TYPES: [&str; 2] = [LISTENER, VIRTUAL_HOST];

/// The types and names of the resources that the proxy was subscribed to by name when it last ran in this folder.
pub fn remembered(options: &Options) -> Vec<(String, String)> {
    let path = options.dir.join(FILE);
    read(&path).into_iter().map(|(type_url, name)| (type_url.to_owned(), name)).collect()
}

/// The names of the moment, and their file.
#[derive(Debug)]
pub(crate) struct Remembered {
    path: PathBuf,
    /// With the stream on which it was asked for last.
    names: Mutex<BTreeMap<(&'static str, String), u64>>,
    streams: AtomicU64,
    changed: Notify,
}

impl Remembered {
    /// As the file has it.
    pub(crate) fn open(options: &Options) -> Self {
        let path = options.dir.join(FILE);
        let names = read(&path).into_iter().map(|name| (name, 0)).collect();
        Remembered { path, names: Mutex::new(names), streams: AtomicU64::new(0), changed: Notify::new() }
    }

    /// The number of a new stream.
    pub(crate) fn opened(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Notes what a request says.
    pub(crate) fn note(&self, stream: u64, type_url: &str, subscribed: &[String], unsubscribed: &[String]) {
        let Some(type_url) = TYPES.into_iter().find(|t| *t == type_url) else { return };
        let mut names = self.lock();
        let mut changed = false;
        for name in unsubscribed {
            changed |= names.remove(&(type_url, name.clone())).is_some();
        }
        let mut left_out = 0;
        for name in subscribed.iter().filter(|name| *name != WILDCARD) {
            let key = (type_url, name.clone());
            if let Some(last) = names.get_mut(&key) {
                *last = stream;
            } else if names.len() < MAX_NAMES && can_be_kept(name) {
                names.insert(key, stream);
                changed = true;
            } else {
                left_out += 1;
            }
        }
        drop(names);
        if left_out > 0 {
            debug!(left_out, "names that are not kept for the proxy's next start");
        }
        if changed {
            self.changed.notify_one();
        }
    }

    /// Forgets what was not asked for on this stream nor a later one.
    pub(crate) fn forget_before(&self, stream: u64) {
        let mut names = self.lock();
        let before = names.len();
        names.retain(|_, last| *last >= stream);
        if names.len() != before {
            self.changed.notify_one();
        }
    }

    /// Writes the file after changes, for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(SAVE_AFTER).await;
            let this = self.clone();
            // It fails only if the runtime ends.
            let _ = tokio::task::spawn_blocking(move || this.save()).await;
        }
    }

    /// Writes the file.
    pub(crate) fn save(&self) {
        let text: String = self.lock().keys().map(|(type_url, name)| format!("{} {name}\n", short(type_url))).collect();
        if let Err(error) = write(&self.path, &text) {
            warn!(path = %self.path.display(), %error, "what the proxy uses is not remembered");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), u64>> {
        // Each change is complete in itself.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn can_be_kept(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The names of a file, in its order. None if there is no file.
fn read(path: &Path) -> Vec<(&'static str, String)> {
    let text = match text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!(path = %path.display(), %error, "what the proxy used is not known");
            return Vec::new();
        }
    };
    let parse = |line: &str| {
        let (kind, name) = line.split_once(' ')?;
        let type_url = TYPES.into_iter().find(|t| short(t) == kind)?;
        can_be_kept(name).then(|| (type_url, name.to_owned()))
    };
    let names: Vec<_> = text.lines().filter_map(parse).take(MAX_NAMES).collect();
    let left_out = text.lines().count() - names.len();
    if left_out > 0 {
        warn!(path = %path.display(), left_out, "lines that make no sense, or are too many");
    }
    names
}

fn text(path: &Path) -> io::Result<String> {
    // Opening a pipe would wait for who writes it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(format!("it has more than {MAX_SIZE} bytes")));
    }
    Ok(text)
}

/// Puts a new file in the place of the old one, so that nobody ever sees half of it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let partial = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &Path) -> Options {
        crate::options::tests::plain(folder)
    }

    fn names(options: &Options) -> String {
        let all: Vec<String> = remembered(options).iter().map(|(t, name)| format!("{} {name}", short(t))).collect();
        all.join(", ")
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_was_asked_for_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        assert_eq!(names(&options), "");
        let first = Remembered::open(&options);
        let stream = first.opened();
        first.note(stream, LISTENER, &list(&["*", "0.0.0.0_80", "10.0.0.1_443", "a b", ""]), &[]);
        first.note(stream, VIRTUAL_HOST, &list(&["80/a", "80/*.b", "80/c"]), &[]);
        first.note(stream, mizzen_xds::types::CLUSTER, &list(&["x"]), &[]);
        first.note(stream, VIRTUAL_HOST, &[], &list(&["80/a", "80/nothing"]));
        first.save();
        assert_eq!(names(&options), "Listener 0.0.0.0_80, Listener 10.0.0.1_443, VirtualHost 80/*.b, VirtualHost 80/c");
        // The next one asks for some again, for a new one, and for others no more.
        let second = Remembered::open(&options);
        let stream = second.opened();
        second.note(stream, VIRTUAL_HOST, &list(&["80/c", "80/d"]), &[]);
        second.save();
        assert!(names(&options).contains("0.0.0.0_80"), "it may still ask for it");
        second.forget_before(stream);
        second.save();
        assert_eq!(names(&options), "VirtualHost 80/c, VirtualHost 80/d");
    }

    #[test]
    fn limits() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let all = Remembered::open(&options);
        let many: Vec<String> = (0..MAX_NAMES + 5).map(|n| format!("80/s{n}")).collect();
        all.note(1, VIRTUAL_HOST, &many, &[]);
        all.note(1, VIRTUAL_HOST, &["x".repeat(MAX_NAME + 1)], &[]);
        all.save();
        assert_eq!(remembered(&options).len(), MAX_NAMES);
        let path = folder.path().join(FILE);
        for (text, expected) in [
            ("Cluster x\nListener\nListener a\n\nListener b c\nVirtualHost 80/x\n".to_owned(), "Listener a, VirtualHost 80/x"),
            (format!("Listener a\n{}", "#".repeat(usize::try_from(MAX_SIZE).unwrap())), ""),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(names(&options), expected);
        }
        std::fs::write(&path, b"Listener \xff\n").unwrap();
        assert_eq!(names(&options), "");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(names(&options), "", "a folder is no file");
        // What cannot be written ends nothing.
        Remembered::open(&options).save();
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_written_together() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let all = Arc::new(Remembered::open(&options));
        let keeping = tokio::spawn(all.clone().keep());
        all.note(1, LISTENER, &list(&["0.0.0.0_80"]), &[]);
        tokio::time::sleep(SAVE_AFTER / 2).await;
        all.note(1, LISTENER, &list(&["0.0.0.0_81"]), &[]);
        assert_eq!(names(&options), "");
        while names(&options).is_empty() {
            tokio::time::sleep(SAVE_AFTER).await;
        }
        assert_eq!(names(&options), "Listener 0.0.0.0_80, Listener 0.0.0.0_81");
        keeping.abort();
    }
}
