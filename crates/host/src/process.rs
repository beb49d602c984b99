//! Starting processes, and knowing how they end.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sched::{CloneFlags, setns, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    Host, HostError, Io, ProcessKind, Spec,
    netns::{NetNs, on_thread},
    stage::{self, Job, Order},
};

/// Starts processes and reaps them, orphans included: it is the one place of the inner process that waits
/// for children. Nothing else there may start a process (`std::process`, `tokio::process`): its status
/// would be taken away from it.
#[derive(Clone, Debug)]
pub struct Supervisor {
    children: Arc<Children>,
    /// The limit of open files for workloads.
    open_files: u64,
}

/// Children that have not been reaped. The lock is held while a child is made and while children are
/// reaped, so that none is reaped before it is known, and no signal goes to a number that is free again.
#[derive(Debug, Default)]
struct Children {
    table: Mutex<HashMap<i32, watch::Sender<Option<Exit>>>>,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Option<Exit>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap(&self) {
        let mut table = self.lock();
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot wait for children");
                    return;
                }
            };
            if let Some(sender) = table.remove(&pid.as_raw()) {
                sender.send_replace(Some(exit));
            }
        }
    }
}

/// A process that was started.
#[derive(Clone, Debug)]
pub struct Process {
    pid: i32,
    user: (Option<u32>, Option<u32>),
    exit: watch::Receiver<Option<Exit>>,
    children: Arc<Children>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code; workloads that were killed by signal N show as 128 + N.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // As a workload's pid 1 has it, and a shell.
            Exit::Code(code) => match Signal::try_from(*code - 128) {
                Ok(signal) => write!(f, "exit code {code}, {signal}"),
                Err(_) => write!(f, "exit code {code}"),
            },
            Exit::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number}, {signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// Which namespaces the child gets besides a network namespace.
enum Around {
    Same,
    New,
    Of(OwnedFd),
}

impl Supervisor {
    /// Starts the reaping, and raises this process' limit of open files, also for proxies and the control plane; workloads get what it was
    /// before. Once per process, inside a tokio runtime.
    ///
    /// # Errors
    /// If the handler for SIGCHLD cannot be installed, or the limit not be raised.
    pub fn start() -> io::Result<Supervisor> {
        let children = Arc::<Children>::default();
        let mut signals = signal(SignalKind::child())?;
        let reaper = children.clone();
        tokio::spawn(async move {
            loop {
                reaper.reap();
                if signals.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(Supervisor { children, open_files: raise_open_files()? })
    }

    /// Starts a process in a host's network namespace; returns when the program itself runs.
    ///
    /// # Errors
    /// With the step that failed: a mount, a missing program, a refused capability.
    pub async fn spawn(&self, host: &Host, spec: &Spec, io: Io) -> Result<Process, HostError> {
        let what = || format!("{}: start", spec.name);
        let namespace = host.namespace().try_clone().map_err(HostError::io(what()))?;
        let (around, user) = match &spec.kind {
            ProcessKind::Proxy | ProcessKind::Control => (Around::Same, (None, None)),
            ProcessKind::Workload(workload) => (Around::New, (workload.uid, workload.gid)),
        };
        self.run(Some(namespace), around, spec, Job::Start, user, io).await
    }

    /// Starts a program in the namespaces of a running workload, as the workload itself would: for exec
    /// probes and the like. `spec.kind` is not looked at.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub async fn exec(&self, workload: &Process, spec: &Spec, io: Io) -> Result<Process, HostError> {
        let what = || format!("{}: reach the workload", spec.name);
        let pidfd = workload.pidfd().map_err(HostError::io(what()))?;
        let (uid, gid) = workload.user;
        let mut spec = spec.clone();
        spec.kind = ProcessKind::Workload(crate::Workload::default());
        self.run(None, Around::Of(pidfd), &spec, Job::Join { uid, gid }, workload.user, io).await
    }

    async fn run(
        &self,
        namespace: Option<NetNs>,
        around: Around,
        spec: &Spec,
        job: Job,
        user: (Option<u32>, Option<u32>),
        io: Io,
    ) -> Result<Process, HostError> {
        let what = || format!("{}: start", spec.name);
        let (read, write) = std::io::pipe().map_err(HostError::io(what()))?;
        let children = self.children.clone();
        let copy = spec.clone();
        let open_files = matches!(spec.kind, ProcessKind::Workload(_)).then_some(self.open_files);
        let started = on_thread(move || {
            if let Some(namespace) = namespace {
                namespace.enter()?;
            }
            prepare(&around)?;
            fork(&children, copy, job, open_files, io, write.into())
        });
        let (pid, exit) = started.await.and_then(|done| done).map_err(HostError::io(what()))?;
        let process = Process { pid, user, exit, children: self.children.clone() };
        let mut report = String::new();
        let mut read = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into()).map_err(HostError::io(what()))?;
        // The end comes with the exec, or with the child's death.
        let _ = read.read_to_string(&mut report).await;
        if report.is_empty() {
            return Ok(process);
        }
        process.wait().await;
        Err(HostError::Spawn { name: spec.name.clone(), reason: report })
    }
}

/// Raises the soft limit of open files as far as it goes, to a million at most; returns what it was. Every connection and every host of the
/// mesh is an open file.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 20).max(soft), hard)?;
    Ok(soft)
}

/// Puts the calling thread where the child shall be born.
fn prepare(around: &Around) -> io::Result<()> {
    match around {
        Around::Same => {}
        Around::New => unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?,
        Around::Of(pidfd) => {
            // Threads share root and working folder; a mount namespace wants them alone.
            unshare(CloneFlags::CLONE_FS)?;
            setns(
                pidfd,
                CloneFlags::CLONE_NEWNET
                    | CloneFlags::CLONE_NEWPID
                    | CloneFlags::CLONE_NEWNS
                    | CloneFlags::CLONE_NEWIPC
                    | CloneFlags::CLONE_NEWUTS,
            )?;
        }
    }
    Ok(())
}

fn fork(
    children: &Children,
    spec: Spec,
    job: Job,
    open_files: Option<u64>,
    io: Io,
    report: OwnedFd,
) -> io::Result<(i32, watch::Receiver<Option<Exit>>)> {
    let fds = io.others.iter().map(|(target, fd)| (*target, fd.as_raw_fd())).collect();
    let order = Order { spec, job, open_files, fds, report: report.as_raw_fd() };
    let order = mizzen_net::memfd("order", &serde_json::to_vec(&order)?, true)?;
    let mut inherit: Vec<RawFd> = io.others.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    inherit.extend([order.as_raw_fd(), report.as_raw_fd()]);
    let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    let mut command = Command::new("/proc/self/exe");
    command
        .args([stage::HIDDEN, stage::PROGRAM])
        .arg(order.as_raw_fd().to_string())
        .env_clear()
        .stdin(stdio(io.stdin))
        .stdout(stdio(io.stdout))
        .stderr(stdio(io.stderr));
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; the vector is read.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            for &fd in &inherit {
                let fd = std::os::fd::BorrowedFd::borrow_raw(fd);
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    let mut table = children.lock();
    // Dropping the handle leaves the child to the reaper.
    let pid = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
    let (sender, receiver) = watch::channel(None);
    table.insert(pid, sender);
    drop(table);
    drop(io.others);
    Ok((pid, receiver))
}

impl Process {
    /// Its number in the mesh's PID namespace (a workload's own number 1).
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end; may be called any number of times.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        // The table's sender goes only after it has sent.
        ended.ok().flatten().unwrap_or(Exit::Signal(Signal::SIGKILL as i32))
    }

    /// Sends a signal; to a process that has ended it is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let _reaping = self.children.lock();
        if self.exit().is_none() {
            kill(Pid::from_raw(self.pid), signal)?;
        }
        Ok(())
    }

    /// SIGTERM, then after `grace` SIGKILL; returns how it ended.
    pub async fn stop(&self, grace: Duration) -> Exit {
        let _ = self.signal(Signal::SIGTERM);
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return exit;
        }
        let _ = self.signal(Signal::SIGKILL);
        self.wait().await
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        let _reaping = self.children.lock();
        if self.exit().is_some() {
            return Err(Errno::ESRCH.into());
        }
        // SAFETY: the call has no pointers, and the descriptor that it returns is nobody else's.
        #[allow(unsafe_code)]
        unsafe {
            use std::os::fd::FromRawFd;
            let fd = Errno::result(nix::libc::syscall(nix::libc::SYS_pidfd_open, self.pid, 0))?;
            Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(io::Error::other)?))
        }
    }
}

impl Exit {
    /// Whether it ended by itself with code 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}
