//! The folder of a running mesh.

use std::path::{Path, PathBuf};

/// A folder of mode 0700 with a lock that lives as long as this value's process.
#[derive(Debug)]
pub struct RunDir {}

/// Why there is no run folder.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A mesh with this name is running.
    #[error("a mesh is running already (process {pid}), its folder is {}", path.display())]
    Running {
        /// Its outer process.
        pid: i32,
        /// Its folder.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("run folder {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl RunDir {
    /// Where run folders are: `$XDG_RUNTIME_DIR/mizzen`, else `/tmp/mizzen-UID`. Workloads must not see it.
    pub fn base() -> PathBuf {
        unimplemented!()
    }

    /// Makes the folder `base/id` and locks it, after removing what a killed mesh left there. In the outer
    /// process, before [`Outer::start`](crate::Outer::start).
    ///
    /// # Errors
    /// [`RunDirError::Running`] if another process holds the lock.
    pub fn create(base: &Path, id: &str) -> Result<RunDir, RunDirError> {
        let _ = (base, id);
        unimplemented!()
    }

    /// The folders below `base` whose mesh is running.
    pub fn running(base: &Path) -> Vec<PathBuf> {
        let _ = base;
        unimplemented!()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        unimplemented!()
    }

    /// Removes the folder.
    pub fn remove(self) {
        unimplemented!()
    }
}
