//! Follows folders on disk.

use std::{path::PathBuf, time::Duration};

use tokio::sync::mpsc;

use super::Event;

/// What to follow, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folders, with all that is below them, or single files.
    pub paths: Vec<PathBuf>,
    /// Where accepted objects are kept, so that the next start has them even if their file is broken then.
    pub last_good: Option<PathBuf>,
    /// How long a file must be quiet before it is read.
    pub settle: Duration,
    /// How long an object must be missing, its file unchanged, before it is deleted.
    pub delete_after: Duration,
}

impl Options {
    /// These folders, with the times that `up` uses.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Options { paths, last_good: None, settle: Duration::from_millis(50), delete_after: Duration::from_millis(500) }
    }
}

/// A stream of events from folders. Dropping it ends the following.
#[derive(Debug)]
pub struct Files {
    events: mpsc::UnboundedReceiver<Event>,
}

impl Files {
    /// Starts to follow; needs a tokio runtime. A folder that is missing is waited for.
    pub fn follow(options: Options) -> Self {
        let _ = options;
        let (_, events) = mpsc::unbounded_channel();
        Files { events }
    }

    /// The next event; `None` only if the runtime ends.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}
