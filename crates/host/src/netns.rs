//! Network namespaces, held by descriptors.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::stat::fstat,
};

/// A network namespace. It lives as long as this, or a process, thread or socket in it.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// That of a file: below /proc, or where a container runtime keeps one by a mount.
    ///
    /// # Errors
    /// If it cannot be opened. Whether it is a network namespace tells the first job in it.
    pub fn open(path: &Path) -> io::Result<NetNs> {
        Ok(NetNs(File::open(path)?.into()))
    }

    /// By what the kernel knows it: two that have the same are one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(&self.0)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// The calling thread's own.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn current() -> io::Result<NetNs> {
        Ok(NetNs(File::open("/proc/thread-self/ns/net")?.into()))
    }

    /// A new one. A thread is made for it and ends.
    pub(crate) async fn create() -> io::Result<NetNs> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            NetNs::current()
        })
        .await?
    }

    /// Moves the calling thread into it: only on a thread that ends soon.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.0, CloneFlags::CLONE_NEWNET)?)
    }

    pub(crate) fn try_clone(&self) -> io::Result<NetNs> {
        Ok(NetNs(self.0.try_clone()?))
    }

    /// Runs a job on a thread in it, which ends with the job.
    ///
    /// # Errors
    /// If the thread cannot enter it, which takes CAP_SYS_ADMIN, or the job panicked.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let inside = self.try_clone()?;
        on_thread(move || inside.enter().map(|()| job())).await?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs a job on a thread of its own, since what it does to the thread cannot be undone.
pub(crate) async fn on_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let _ = sender.send(job());
    })?;
    receiver.await.map_err(|_| io::Error::other("the job panicked"))
}

/// Drives a future on the calling thread; for netlink in another namespace, whose socket must be opened there.
///
/// # Errors
/// If there cannot be another runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}
