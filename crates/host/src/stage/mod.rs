//! What this binary does when it is run again by itself.
//!
//! Namespaces and capabilities are changed in processes that have one thread and hold nothing else: the
//! binary runs itself with a hidden first argument, does the work of that stage, and becomes the program
//! asked for, or the inner process. Failures go back to the starter as text, through a pipe that is closed
//! by a successful exec.

mod boot;
mod calls;
mod mounts;
mod privilege;
mod program;

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::sys::signal::Signal;

pub(crate) use boot::{BootMessage, BootReply};
pub(crate) use program::{Job, Order};

use crate::Inner;

/// The hidden first argument.
pub(crate) const HIDDEN: &str = "--mizzen-host-stage";
/// The second one, for the start of the inner process: then the socket's number and the parent's pid.
pub(crate) const BOOT: &str = "boot";
/// The second one, for a program in a host: then the number of the memory file with the [`Order`].
pub(crate) const PROGRAM: &str = "program";
/// Set for a process of this crate's making that is to be sealed.
pub(crate) const SEALED: &str = "MIZZEN_SEALED";

/// To be called first in `main`, before any thread exists. If the process is one that this crate has
/// started, it does what it was started for and the returned code is to be returned from `main` at once;
/// else returns `None` and `main` goes on. `inner` is what the inner process runs.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     if let Some(code) = mizzen_host::stage::dispatch(inner) {
///         return code;
///     }
///     // ... the command line
///     std::process::ExitCode::SUCCESS
/// }
///
/// fn inner(inner: mizzen_host::Inner) -> u8 {
///     let runtime = tokio::runtime::Runtime::new().unwrap();
///     runtime.block_on(async {
///         let link = inner.link().unwrap();
///         let router = mizzen_host::Router::start(&link, Default::default()).await.unwrap();
///         let host = mizzen_host::Host::create(&router, "10.244.1.1".parse().unwrap()).await.unwrap();
///         link.stopped().await;
///         drop(host);
///     });
///     0
/// }
/// ```
pub fn dispatch(inner: fn(Inner) -> u8) -> Option<ExitCode> {
    if std::env::var_os(SEALED).is_some() {
        // Before any key is in memory; nothing useful can be done if it fails, and it cannot.
        let _ = seal();
    }
    let mut args = std::env::args_os().skip(1);
    if args.next()? != HIDDEN {
        return None;
    }
    let stage = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let number = |at: usize| rest.get(at).and_then(|arg| arg.to_str()).and_then(|arg| arg.parse::<i32>().ok());
    let code = match (stage.to_str(), number(0), number(1)) {
        (Some(BOOT), Some(socket), Some(parent)) => boot::run(socket, parent, inner),
        (Some(PROGRAM), Some(order), None) => program::run(order),
        _ => {
            eprintln!("{HIDDEN} is not for use by hand");
            2
        }
    };
    Some(ExitCode::from(code))
}

/// Keeps other processes of the same user from reading this one's memory and descriptors. A process of kind
/// [`Proxy`](crate::ProcessKind::Proxy) or [`Control`](crate::ProcessKind::Control) has had this done by [`dispatch`].
///
/// # Errors
/// If the kernel refuses.
pub fn seal() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Has the kernel kill what `command` starts when the thread that starts it ends, however it ends. For a process whose child must not
/// outlive it; the thread must be one that lives as long as the process.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec only prctl and getppid are called, which are async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // It may have died before the kernel knew that we care.
            if u32::try_from(nix::unistd::getppid().as_raw()) == Ok(parent) { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
        });
    }
}

/// A step of a stage that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What was tried.
    pub(crate) step: String,
    /// What the system said.
    pub(crate) error: io::Error,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

/// Names the step of a result.
pub(crate) trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Result<T, Failed> {
        self.map_err(|error| Failed { step: step.into(), error: error.into() })
    }
}
