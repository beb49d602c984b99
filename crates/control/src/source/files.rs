//! Follows folders on disk.

use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc as signals},
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{ModifyKind, RenameMode},
};
use tokio::sync::mpsc;

use super::{
    Event,
    fold::{Content, Fold},
    last_good::LastGood,
    scan::Scan,
};

/// Folders are listed so often where the kernel reports what changes,
const POLL: Duration = Duration::from_secs(30);
/// so often where somebody else may change them, unseen by it, and once after folders have come or gone: what was written into a new one before it was
/// watched is not reported,
const POLL_UNSURE: Duration = Duration::from_secs(2);
/// and so often if it cannot report. A folder that is missing is looked for as often.
const POLL_BLIND: Duration = Duration::from_millis(250);

/// A folder's name has at most 255 bytes.
const MAX_NAME: usize = 255;

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folders, with all that is below them, or single files.
    pub paths: Vec<PathBuf>,
    /// Where accepted objects are kept, so that the next start has them even if their file is broken then.
    pub last_good: Option<PathBuf>,
    /// How long files must be quiet before they are read. What is renamed into its place is whole, and read at once.
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

/// Where one of several sources keeps the last good versions of what it follows: a folder of its own in the one for all, named after what is followed,
/// so that it is found again whatever else is followed then.
pub(crate) fn last_good_of(folder: &Path, followed: &Path) -> PathBuf {
    let mut name = followed.to_string_lossy().replace('%', "%25").replace('/', "%2F");
    // No hidden folder, and neither this one nor the one above.
    if name.is_empty() || name.starts_with('.') {
        name.insert(0, '%');
    }
    if name.len() <= MAX_NAME {
        return folder.join(name);
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    folder.join(format!("{:016x}", hasher.finish()))
}

/// A stream of events from folders. Dropping it ends the following.
#[derive(Debug)]
pub struct Files {
    events: mpsc::UnboundedReceiver<Event>,
    stop: signals::Sender<Signal>,
}

enum Signal {
    /// These may have changed.
    Paths(Step, Vec<PathBuf>),
    /// Anything may have changed.
    All,
    Stop,
}

/// What has happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It was written, or whatever: more may follow.
    Written,
    /// It was renamed, and has another name now.
    Left,
    /// It was renamed to this name.
    Came,
}

impl Step {
    fn of(kind: EventKind) -> Step {
        match kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) => Step::Left,
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => Step::Came,
            _ => Step::Written,
        }
    }
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Look {
    all: bool,
    paths: BTreeSet<PathBuf>,
    /// Those that were written under the name that they have.
    open: BTreeSet<PathBuf>,
    /// Whether the last step made a file whole.
    came: bool,
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

    /// Ends the following; what it has kept is on disk once there is no next event.
    #[cfg(test)]
    pub(super) fn stop(&self) {
        let _ = self.stop.send(Signal::Stop);
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
    watched: Vec<Watched>,
    /// When all folders are to be listed again.
    listing: Instant,
}

/// A path that is watched.
struct Watched {
    path: PathBuf,
    /// As events name it.
    absolute: PathBuf,
    /// A new folder of the same name is another.
    identity: (u64, u64),
    /// Whether nobody changes it but by this kernel.
    is_local: bool,
}

impl Follower {
    fn new(options: Options, signal: signals::Sender<Signal>) -> Self {
        let mut last_good = options.last_good.as_deref().and_then(|folder| match LastGood::open(folder) {
            Ok(last_good) => Some(last_good),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "last good versions cannot be kept");
                None
            }
        });
        let remembered = last_good.as_mut().map(LastGood::load).unwrap_or_default();
        let fold = Fold::new(options.delete_after, remembered);
        let report = move |event: notify::Result<notify::Event>| {
            let signalled = match event {
                // Reading files must not wake the reader of files.
                Ok(event) if event.kind.is_access() => return,
                Ok(event) if !event.need_rescan() && !event.paths.is_empty() => Signal::Paths(Step::of(event.kind), event.paths),
                Ok(_) | Err(_) => Signal::All,
            };
            let _ = signal.send(signalled);
        };
        let watcher = notify::recommended_watcher(report).map_err(|error| tracing::warn!(%error, "files are polled")).ok();
        Follower { options, fold, scan: Scan::default(), last_good, watcher, watched: Vec::new(), listing: Instant::now() }
    }

    fn run(mut self, inbox: &signals::Receiver<Signal>, sender: &mpsc::UnboundedSender<Event>) {
        let mut look = Look { all: true, ..Look::default() };
        let mut first = true;
        loop {
            // Watch first, then list: a change between the two is seen twice rather than never. A start lists once more before: of each file that is
            // read while its folder is watched, the kernel says that it was opened.
            if !first {
                look.all |= self.watch();
            }
            let changes = self.look(look);
            let is_due = self.fold.due().is_some_and(|due| due <= Instant::now());
            if first || is_due || !changes.is_empty() {
                let events = self.fold.update(Instant::now(), changes);
                tracing::debug!(scan = ?self.scan.work(), fold = ?self.fold.work(), events = events.len(), "files were looked at");
                // A start does not wait for the disk; later nothing is in force that is not kept.
                let is_start = std::mem::take(&mut first);
                if !is_start {
                    self.keep();
                }
                for event in events {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
                if is_start {
                    self.keep();
                    look = Look { all: true, ..Look::default() };
                    continue;
                }
            }
            match self.wait(inbox) {
                Some(next) if !sender.is_closed() => look = next,
                _ => return,
            }
        }
    }

    fn keep(&mut self) {
        let touched = self.fold.touched();
        if let Some(last_good) = &mut self.last_good {
            last_good.keep(touched, |file| self.fold.owned(file));
        }
    }

    /// Reads what has changed of what is to be looked at.
    fn look(&mut self, look: Look) -> Vec<(Arc<str>, Content)> {
        let now = Instant::now();
        let Some(paths) = self.named(&look) else {
            let changes = self.scan.changes(&self.options.paths);
            self.listing = now + self.poll();
            return changes;
        };
        if paths.iter().any(|path| path.is_dir()) {
            self.listing = self.listing.min(now + POLL_UNSURE);
        }
        self.scan.changes_at(&self.options.paths, paths)
    }

    /// The paths under the names by which they are followed; `None` if everything is to be looked at.
    fn named(&self, look: &Look) -> Option<BTreeSet<PathBuf>> {
        let name = |path: &PathBuf| {
            self.watched.iter().find_map(|watched| {
                let below = path.strip_prefix(&watched.absolute).ok()?;
                Some(if below.as_os_str().is_empty() { watched.path.clone() } else { watched.path.join(below) })
            })
        };
        if look.all || Instant::now() >= self.listing {
            return None;
        }
        look.paths.iter().map(name).collect()
    }

    fn poll(&self) -> Duration {
        match (&self.watcher, self.watched.iter().all(|watched| watched.is_local)) {
            _ if self.unwatched().any(|path| path.exists()) => POLL_BLIND,
            (None, _) => POLL_BLIND,
            (Some(_), true) if !self.scan.has_links() => POLL,
            (Some(_), _) => POLL_UNSURE,
        }
    }

    fn unwatched(&self) -> impl Iterator<Item = &PathBuf> {
        self.options.paths.iter().filter(|path| !self.watched.iter().any(|watched| watched.path == **path))
    }

    /// Waits until there may be something to do; `None` to stop.
    fn wait(&self, inbox: &signals::Receiver<Signal>) -> Option<Look> {
        use signals::RecvTimeoutError::{Disconnected, Timeout};
        let now = Instant::now();
        // Whether another folder stands under one of the names: that is no event of the one that is watched.
        let names = now + if self.unwatched().next().is_some() { POLL_BLIND } else { POLL_UNSURE };
        let until = self.fold.due().into_iter().chain([self.listing]).fold(names, Instant::min);
        let mut look = Look::default();
        match inbox.recv_timeout(until.saturating_duration_since(now)) {
            Ok(signal) => look.add(signal)?,
            Err(Disconnected) => return None,
            Err(Timeout) => return Some(look),
        }
        // A save is several steps; one that never ends is read as it is after a while.
        let patience = Instant::now() + self.options.settle * 10;
        loop {
            while let Ok(signal) = inbox.try_recv() {
                look.add(signal)?;
            }
            if look.is_whole() {
                return Some(look);
            }
            match inbox.recv_timeout(self.options.settle) {
                Ok(signal) => look.add(signal)?,
                Err(Disconnected) => return None,
                Err(Timeout) => return Some(look),
            }
            if Instant::now() >= patience {
                return Some(look);
            }
        }
    }

    /// Watches what is not watched yet; what has vanished will have to be watched anew. Whether anything has come or gone.
    fn watch(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let identity = |path: &PathBuf| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        let before = self.watched.len();
        self.watched.retain(|watched| identity(&watched.path) == Some(watched.identity));
        let mut changed = self.watched.len() != before;
        for path in &self.options.paths {
            let Some(now) = identity(path).filter(|_| !self.watched.iter().any(|watched| watched.path == *path)) else { continue };
            match watcher.watch(path, RecursiveMode::Recursive) {
                Ok(()) => {
                    // As the watcher makes a path absolute.
                    let absolute = std::env::current_dir().map_or_else(|_| path.clone(), |here| here.join(path));
                    self.watched.push(Watched { path: path.clone(), absolute, identity: now, is_local: is_local(path) });
                    changed = true;
                }
                Err(error) => tracing::debug!(path = %path.display(), %error, "is polled"),
            }
        }
        changed
    }
}

impl Look {
    /// `None` to stop.
    fn add(&mut self, signal: Signal) -> Option<()> {
        match signal {
            Signal::Paths(step, paths) => {
                self.came = step == Step::Came;
                match step {
                    Step::Written => self.open.extend(paths.iter().cloned()),
                    Step::Left | Step::Came => paths.iter().for_each(|path| _ = self.open.remove(path)),
                }
                self.paths.extend(paths);
            }
            Signal::All => (self.all, self.came) = (true, false),
            Signal::Stop => return None,
        }
        Some(())
    }

    /// Whether nothing more is to be expected of what has happened so far.
    fn is_whole(&self) -> bool {
        self.came && self.open.is_empty()
    }
}

/// Whether a path lies on a file system of which the kernel reports each change: no other machine writes to it, and nothing lies beneath it, as
/// beneath an overlay, that is written to past it.
fn is_local(path: &Path) -> bool {
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, TMPFS_MAGIC, statfs};
    // Not every libc has a name for it.
    const XFS: FsType = FsType(0x5846_5342);
    let local = [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, XFS];
    statfs(path).is_ok_and(|found| local.contains(&found.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange};

    use super::*;

    #[test]
    fn what_is_whole() {
        let create = EventKind::Create(CreateKind::File);
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let [from, to, both] = [RenameMode::From, RenameMode::To, RenameMode::Both].map(|mode| EventKind::Modify(ModifyKind::Name(mode)));
        for (steps, whole) in [
            (&[][..], false),
            (&[(to, &["a"][..])], true),
            (&[(create, &[".a"]), (data, &[".a"]), (from, &[".a"]), (to, &["a"]), (both, &[".a", "a"])], true),
            // Written in its place, or still being written beside what has come.
            (&[(create, &["a"]), (data, &["a"])], false),
            (&[(data, &["b"]), (to, &["a"])], false),
            (&[(to, &["a"]), (data, &["a"])], false),
            // One that has left may be about to be replaced.
            (&[(from, &["a"])], false),
            (&[(from, &["a"]), (create, &["a"]), (data, &["a"])], false),
        ] {
            let mut look = Look::default();
            for (kind, paths) in steps {
                look.add(Signal::Paths(Step::of(*kind), paths.iter().map(PathBuf::from).collect())).unwrap();
            }
            assert_eq!(look.is_whole(), whole, "{steps:?}");
        }
    }
}
