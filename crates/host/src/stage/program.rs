//! From a fresh process to the program of a [`Spec`](crate::Spec).
//!
//! The starter has already put the process into its network namespace, and a workload into new PID, mount,
//! IPC and UTS namespaces, where it is pid 1. A workload's pid 1 stays this binary: it starts the program
//! as its child, passes signals on, reaps, and ends with it, so that a program that was not written to be
//! pid 1 behaves as anywhere else.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, Signal, kill},
        stat::{Mode, umask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, dup2_raw, execve, fork, setsid, write},
};
use serde::{Deserialize, Serialize};

use super::{Failed, SEALED, Step, calls, mounts, privilege};
use crate::{ProcessKind, Spec, Workload};

/// What the starter writes into the memory file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) spec: Spec,
    pub(crate) job: Job,
    /// The soft limit of open files, if it is not to be the starter's.
    pub(crate) open_files: Option<u64>,
    /// Descriptors: the number that the program shall see, and the present one.
    pub(crate) fds: Vec<(RawFd, RawFd)>,
    /// Where a failure is reported.
    pub(crate) report: RawFd,
}

/// How the program is started.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// As the spec's kind says.
    Start,
    /// Beside a running workload, in its namespaces, as this user and group.
    Join { uid: Option<u32>, gid: Option<u32> },
}

/// Returns only where there is no program to become: the exit code.
pub(super) fn run(order: i32) -> u8 {
    let order = match read_order(order) {
        Ok(order) => order,
        Err(error) => {
            eprintln!("no order: {error}");
            return 2;
        }
    };
    let report = match mizzen_net::inherited_fd(order.report).and_then(|fd| high(&fd)) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("no way to report: {error}");
            return 2;
        }
    };
    let mut report = Some(report);
    match start(order, &mut report) {
        Ok(code) => code,
        Err(failed) => {
            if let Some(report) = report {
                let _ = write(&report, failed.to_string().as_bytes());
            }
            127
        }
    }
}

fn read_order(number: i32) -> io::Result<Order> {
    let file = mizzen_net::inherited_fd(number)?;
    let order: Order = serde_json::from_slice(&mizzen_net::read_fd(&file, 64 << 20)?)?;
    drop(file);
    let mut known: Vec<RawFd> = order.fds.iter().map(|(_, present)| *present).collect();
    known.push(order.report);
    privilege::close_strangers(&known)?;
    Ok(order)
}

/// A copy above all numbers that a program is given.
fn high(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(200))?;
    mizzen_net::inherited_fd(copy)
}

fn start(order: Order, report: &mut Option<OwnedFd>) -> Result<u8, Failed> {
    let Order { spec, job, open_files, fds, .. } = order;
    let mut passed = Vec::new();
    for (target, present) in fds {
        let fd = mizzen_net::inherited_fd(present).and_then(|fd| high(&fd)).step("take over descriptors")?;
        passed.push((target, fd));
    }
    if let Some(files) = open_files {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).step("read the limit of open files")?;
        setrlimit(Resource::RLIMIT_NOFILE, files.min(hard), hard).step("set the limit of open files")?;
    }
    umask(Mode::from_bits_truncate(0o022));
    match (job, &spec.kind) {
        (Job::Join { uid, gid }, _) => {
            setsid().step("open a session")?;
            become_program(&spec, passed, &[], (uid, gid))
        }
        (Job::Start, ProcessKind::Proxy) => {
            setsid().step("open a session")?;
            become_program(&spec, passed, &privilege::PROXY, (None, None))
        }
        (Job::Start, ProcessKind::Control) => {
            setsid().step("open a session")?;
            become_program(&spec, passed, &[], (None, None))
        }
        (Job::Start, ProcessKind::Workload(workload)) => start_workload(&spec, workload, passed, report),
    }
}

fn start_workload(spec: &Spec, workload: &Workload, passed: Vec<(RawFd, OwnedFd)>, report: &mut Option<OwnedFd>) -> Result<u8, Failed> {
    mounts::arrange(workload)?;
    if let Some(hostname) = &workload.hostname {
        nix::unistd::sethostname(hostname).step(format!("set the host name {hostname}"))?;
    }
    super::seal().step("seal pid 1")?;
    // Blocked before the fork, so that no signal is lost; the child unblocks.
    SigSet::all().thread_block().step("block signals")?;
    // SAFETY: this process has one thread, so the child may do anything.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }.step("fork")?;
    match forked {
        ForkResult::Child => {
            let user = (workload.uid, workload.gid);
            let become_it = || {
                setsid().step("open a session")?;
                become_program(spec, passed, &[], user)
            };
            if let (Err(failed), Some(report)) = (become_it(), report) {
                let _ = write(&*report, failed.to_string().as_bytes());
            }
            std::process::exit(127);
        }
        ForkResult::Parent { child } => {
            drop(passed);
            let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").step("open /dev/null")?;
            for number in 0..3 {
                place(null.as_raw_fd(), number).step("let go of the program's descriptors")?;
            }
            // It may have to signal a program of another user.
            let keep: &[_] = if workload.uid.is_some() { &[caps::Capability::CAP_KILL] } else { &[] };
            privilege::reduce(keep, None, None)?;
            // Closed here and, by its exec, in the child: now the starter knows that the program runs.
            *report = None;
            Ok(attend(child))
        }
    }
}

/// A workload's pid 1 until the program ends.
fn attend(child: Pid) -> u8 {
    let all = SigSet::all();
    loop {
        let Ok(signal) = all.wait() else { continue };
        if signal != Signal::SIGCHLD {
            let _ = kill(child, signal);
            continue;
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => return u8::try_from(code).unwrap_or(1),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    return u8::try_from(128 + signal as i32).unwrap_or(255);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}

/// Becomes the program; does not return unless something failed.
fn become_program(
    spec: &Spec,
    passed: Vec<(RawFd, OwnedFd)>,
    keep: &[caps::Capability],
    (uid, gid): (Option<u32>, Option<u32>),
) -> Result<u8, Failed> {
    let cwd = spec.cwd.as_deref().unwrap_or(Path::new("/"));
    privilege::reduce(keep, uid, gid)?;
    std::env::set_current_dir(cwd).step(format!("change to the folder {}", cwd.display()))?;
    let program = find_program(spec, cwd)?;
    let text = |text: &[u8]| CString::new(text).map_err(io::Error::from).step("use a text with a NUL byte");
    let path = text(program.as_os_str().as_bytes())?;
    let args = spec.argv.iter().map(|arg| text(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut env = spec.env.iter().map(|(key, value)| text(format!("{key}={value}").as_bytes())).collect::<Result<Vec<_>, _>>()?;
    if matches!(spec.kind, ProcessKind::Proxy | ProcessKind::Control) {
        env.push(text(format!("{SEALED}=1").as_bytes())?);
    }
    default_signals().step("reset the signals")?;
    for (target, fd) in &passed {
        place(fd.as_raw_fd(), *target).step(format!("pass on descriptor {target}"))?;
    }
    if matches!(spec.kind, ProcessKind::Workload(_)) {
        calls::confine()?;
    }
    // On success the high copies and the report are closed by the kernel.
    match execve(&path, &args, &env) {
        Err(error) => Err(error).step(format!("run {}", program.display())),
    }
}

/// Puts a descriptor at a number and leaves it open over exec.
fn place(from: RawFd, to: RawFd) -> nix::Result<()> {
    // SAFETY: `from` stays owned by its OwnedFd; whatever was at `to` has no owner in this process, since
    // all descriptors that matter were moved above 200.
    #[allow(unsafe_code)]
    let placed = unsafe { dup2_raw(std::os::fd::BorrowedFd::borrow_raw(from), to) }?;
    std::mem::forget(placed);
    Ok(())
}

/// Rust ignores SIGPIPE, whoever started the mesh may ignore others, and signals may be blocked here; programs expect none of it.
fn default_signals() -> nix::Result<()> {
    // As the kernel has it: a default action, no flags, no mask. The C library's call refuses the signals that it keeps for itself, and its
    // `posix_spawn` leaves one of them ignored.
    let action = [0_u64; 4];
    for number in 1..=nix::libc::SIGRTMAX() {
        // SAFETY: sets no handler; the kernel reads at most what is there. It refuses SIGKILL and SIGSTOP, which nobody can ignore.
        #[allow(unsafe_code)]
        unsafe {
            nix::libc::syscall(nix::libc::SYS_rt_sigaction, number, action.as_ptr(), std::ptr::null::<u64>(), 8);
        }
    }
    SigSet::all().thread_unblock()
}

fn find_program(spec: &Spec, cwd: &Path) -> Result<PathBuf, Failed> {
    let name = spec.argv.first().map(String::as_str).unwrap_or_default();
    let runnable = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return Ok(cwd.join(name));
    }
    let path = spec.env.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str());
    let path = path.unwrap_or("/usr/local/bin:/usr/bin:/bin");
    let found = path.split(':').filter(|_| !name.is_empty()).map(|dir| cwd.join(dir).join(name)).find(|p| runnable(p));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("not found on PATH={path}"))).step(format!("run `{name}`"))
}
