//! The folder of a running mesh.
//!
//! A lock file beside the folder says whether its mesh runs: the kernel frees the lock with the process,
//! however that ended. What is not locked is what a killed mesh left.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A folder of mode 0700 with a lock that lives as long as this value's process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

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
        source: io::Error,
    },
}

impl RunDir {
    /// Where run folders are: `$XDG_RUNTIME_DIR/mizzen`, else `/tmp/mizzen-UID`. Workloads must not see it.
    pub fn base() -> PathBuf {
        match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            Some(folder) if folder.is_absolute() && folder.is_dir() => folder.join("mizzen"),
            _ => PathBuf::from(format!("/tmp/mizzen-{}", nix::unistd::geteuid())),
        }
    }

    /// Makes the folder `base/id` and locks it, after removing what a killed mesh left there. In the outer
    /// process, before [`Outer::start`](crate::Outer::start).
    ///
    /// # Errors
    /// [`RunDirError::Running`] if another process holds the lock.
    pub fn create(base: &Path, id: &str) -> Result<RunDir, RunDirError> {
        let path = base.join(id);
        let fail = |source| RunDirError::Io { path: path.clone(), source };
        private_folder(base).map_err(fail)?;
        let lock_path = base.join(format!("{id}.lock"));
        let mut lock = loop {
            let mut file = open_lock(&lock_path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RunDirError::Running { pid: read_pid(&mut file), path }),
                Err(TryLockError::Error(error)) => return Err(fail(error)),
            }
            // Whoever had it before may have removed it in between.
            let (held, there) = (file.metadata().map_err(fail)?, fs::metadata(&lock_path));
            if there.is_ok_and(|there| there.ino() == held.ino()) {
                break file;
            }
        };
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(fail)?;
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        private_folder(&path).map_err(fail)?;
        Ok(RunDir { path, lock_path, _lock: lock })
    }

    /// The folders below `base` whose mesh is running.
    pub fn running(base: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
        let locks = entries.flatten().map(|entry| entry.path());
        let mut running: Vec<PathBuf> = locks
            .filter(|path| path.extension().is_some_and(|extension| extension == "lock"))
            .filter(|path| {
                let file = File::open(path);
                file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
            })
            .map(|path| path.with_extension(""))
            .collect();
        running.sort();
        running
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder.
    pub fn remove(self) {
        // The lock goes last, and while it is held. What cannot be removed now is removed by the next start.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read_pid(file: &mut File) -> i32 {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    text.trim().parse().unwrap_or_default()
}

/// Made by us, or at least ours and closed to others: `/tmp` is everybody's.
fn private_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "it exists and is not this user's alone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mesh_at_a_time_and_no_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("mizzen");
        let first = RunDir::create(&base, "a").unwrap();
        fs::write(first.path().join("mesh.json"), "{}").unwrap();
        assert_eq!(RunDir::running(&base), [base.join("a")]);
        match RunDir::create(&base, "a") {
            Err(RunDirError::Running { pid, .. }) => assert_eq!(pid.unsigned_abs(), std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(first); // as after a kill: the folder stays, the lock is free
        assert!(RunDir::running(&base).is_empty());
        let second = RunDir::create(&base, "a").unwrap();
        assert_eq!(fs::read_dir(second.path()).unwrap().count(), 0);
        assert_eq!(fs::metadata(second.path()).unwrap().mode() & 0o777, 0o700);
        second.remove();
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("mizzen");
        DirBuilder::new().mode(0o777).create(&base).unwrap();
        fs::set_permissions(&base, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(RunDir::create(&base, "a"), Err(RunDirError::Io { .. })));
    }
}
