//! Follows folders on disk.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::mpsc as signals,
    thread,
    time::{Duration, Instant},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::{Event, fold::Fold, last_good::LastGood, scan::Scan};

/// Folders are listed so often even if the kernel reports nothing (network file systems, folders that appear later),
const POLL: Duration = Duration::from_secs(2);
/// and so often if it cannot report.
const POLL_BLIND: Duration = Duration::from_millis(250);

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folders, with all that is below them, or single files.
    pub paths: Vec<PathBuf>,
    /// Where accepted objects are kept, so that the next start has them even if their file is broken then.
    pub last_good: Option<PathBuf>,
    /// How long files must be quiet before they are read.
    pub settle: Duration,
    /// How long an object must be missing, its file unchanged, before it is deleted.
    pub delete_after: Duration,
}

impl Options {
    /// These folders, with the times that `up` uses.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Options { paths, last_good: None, settle: Duration::from_millis(20), delete_after: Duration::from_millis(500) }
    }
}

/// A stream of events from folders. Dropping it ends the following.
#[derive(Debug)]
pub struct Files {
    events: mpsc::UnboundedReceiver<Event>,
    stop: signals::Sender<Signal>,
}

#[derive(Clone, Copy)]
enum Signal {
    /// Something below the folders may have changed.
    Disk,
    Stop,
}

impl Files {
    /// Starts to follow, on a thread of its own. A folder that is missing is waited for.
    pub fn follow(options: Options) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let (stop, inbox) = signals::channel();
        let disk = stop.clone();
        let run = move || Follower::new(options, disk).run(&inbox, &sender);
        if let Err(error) = thread::Builder::new().name("files".to_owned()).spawn(run) {
            // The stream then ends at once, which its reader sees.
            tracing::error!(%error, "no thread to follow files");
        }
        Files { events, stop }
    }

    /// The next event; `None` only if the following has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // If the thread has ended there is nobody to tell.
        let _ = self.stop.send(Signal::Stop);
    }
}

struct Follower {
    options: Options,
    fold: Fold,
    scan: Scan,
    last_good: Option<LastGood>,
    watcher: Option<RecommendedWatcher>,
    /// Paths that are watched, with device and inode: a new folder of the same name is another.
    watched: Vec<(PathBuf, (u64, u64))>,
}

impl Follower {
    fn new(options: Options, signal: signals::Sender<Signal>) -> Self {
        let last_good = options.last_good.as_deref().and_then(|folder| match LastGood::open(folder) {
            Ok(last_good) => Some(last_good),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "last good versions cannot be kept");
                None
            }
        });
        let remembered = last_good.as_ref().map(LastGood::load).unwrap_or_default();
        let fold = Fold::new(options.delete_after, remembered);
        let report = move |event: notify::Result<notify::Event>| {
            // Reading files must not wake the reader of files.
            if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
                let _ = signal.send(Signal::Disk);
            }
        };
        let watcher = notify::recommended_watcher(report).map_err(|error| tracing::warn!(%error, "files are polled")).ok();
        Follower { options, fold, scan: Scan::default(), last_good, watcher, watched: Vec::new() }
    }

    fn run(mut self, inbox: &signals::Receiver<Signal>, sender: &mpsc::UnboundedSender<Event>) {
        loop {
            // Watch first, then list: a change between the two is seen twice rather than never.
            self.watch();
            let changes = self.scan.changes(&self.options.paths);
            let events = self.fold.update(Instant::now(), changes);
            if let Some(last_good) = &self.last_good {
                last_good.keep(&events);
            }
            for event in events {
                if sender.send(event).is_err() {
                    return;
                }
            }
            if self.wait(inbox).is_none() || sender.is_closed() {
                return;
            }
        }
    }

    /// Waits until there may be something to do; `None` to stop.
    fn wait(&self, inbox: &signals::Receiver<Signal>) -> Option<()> {
        use signals::RecvTimeoutError::{Disconnected, Timeout};
        let poll = if self.watched.len() == self.options.paths.len() { POLL } else { POLL_BLIND };
        let due = self.fold.due().map_or(poll, |due| due.saturating_duration_since(Instant::now()).min(poll));
        match inbox.recv_timeout(due) {
            Ok(Signal::Stop) | Err(Disconnected) => return None,
            Err(Timeout) => return Some(()),
            Ok(Signal::Disk) => {}
        }
        // A save is several steps; one that never ends is read as it is after a while.
        let patience = Instant::now() + self.options.settle * 10;
        loop {
            match inbox.recv_timeout(self.options.settle) {
                Ok(Signal::Stop) | Err(Disconnected) => return None,
                Err(Timeout) => return Some(()),
                Ok(Signal::Disk) if Instant::now() >= patience => return Some(()),
                Ok(Signal::Disk) => {}
            }
        }
    }

    /// Watches what is not watched yet; what has vanished will have to be watched anew.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let identity = |path: &PathBuf| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        self.watched.retain(|(path, watched)| identity(path) == Some(*watched));
        for path in &self.options.paths {
            let Some(now) = identity(path).filter(|_| !self.watched.iter().any(|(watched, _)| watched == path)) else { continue };
            match watcher.watch(path, RecursiveMode::Recursive) {
                Ok(()) => self.watched.push((path.clone(), now)),
                Err(error) => tracing::debug!(path = %path.display(), %error, "is polled"),
            }
        }
    }
}
