//! From a fresh process to pid 1 of the mesh.
//!
//! Three processes: the outer; this stage, which makes the namespaces and then only waits; and its child,
//! pid 1, which becomes the inner process. Each has its parent's death kill it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork, getppid, read, setsid, write},
};
use serde::{Deserialize, Serialize};

use super::{Failed, Step, privilege};
use crate::Inner;

/// What the stage tells the outer process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum BootMessage {
    /// The user namespace exists; its maps can be written.
    Unshared,
    /// Pid 1 runs, under this number outside.
    Started(i32),
    /// It cannot be done: the step, and the error's number.
    Failed { step: String, errno: i32 },
}

/// What the outer process answers: the maps are written. The payload comes along as a memory file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BootReply;

/// Returns the exit code; of the inner process, if that was reached.
pub(super) fn run(socket: i32, parent: i32, inner: fn(Inner) -> u8) -> u8 {
    let Ok(socket) = mizzen_net::inherited_fd(socket) else { return 2 };
    match boot(&socket, parent) {
        Ok(Side::Stage(child)) => {
            drop(socket);
            loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, code)) => return u8::try_from(code).unwrap_or(1),
                    Ok(WaitStatus::Signaled(..)) => return 137,
                    Err(nix::errno::Errno::EINTR) | Ok(_) => {}
                    Err(_) => return 1,
                }
            }
        }
        Ok(Side::Inner(payload)) => inner(Inner::new(payload, socket)),
        Err(failed) => {
            let errno = failed.error.raw_os_error().unwrap_or_default();
            let _ = tell(&socket, &BootMessage::Failed { step: failed.step, errno });
            1
        }
    }
}

enum Side {
    Stage(nix::unistd::Pid),
    Inner(serde_json::Value),
}

fn tell(socket: &OwnedFd, message: &BootMessage) -> io::Result<()> {
    mizzen_net::send_with_fds(socket.as_fd(), &serde_json::to_vec(message)?, &[])?;
    Ok(())
}

fn boot(socket: &OwnedFd, parent: i32) -> Result<Side, Failed> {
    die_with_parent()?;
    if getppid().as_raw() != parent {
        // It died before the kernel knew that we care.
        return Err(io::Error::other("the starting process is gone")).step("start");
    }
    // Ctrl-C at the terminal is for the outer process alone.
    setsid().step("open a session")?;
    privilege::close_strangers(&[socket.as_raw_fd()]).step("close inherited descriptors")?;
    unshare(CloneFlags::CLONE_NEWUSER).step("make a user namespace")?;
    tell(socket, &BootMessage::Unshared).step("tell the outer process")?;
    let reply = mizzen_net::recv_with_fds(socket.as_fd(), 64).step("hear from the outer process")?;
    let payload = reply.and_then(|(_, mut fds)| fds.pop());
    let payload = payload.ok_or_else(|| io::Error::other("no payload")).step("hear from the outer process")?;
    let payload = mizzen_net::read_fd(&payload, 64 << 20).step("read the payload")?;
    let payload = serde_json::from_slice(&payload).map_err(io::Error::from).step("read the payload")?;
    // The change of credentials has cleared it.
    die_with_parent()?;
    let flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(flags).step("make namespaces")?;

    let (above, below) = mizzen_net::seqpacket_pair().step("make a socket pair")?;
    // SAFETY: this process has one thread, so the child may do anything.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }.step("fork")?;
    match forked {
        ForkResult::Parent { child } => {
            drop(below);
            watch(&above, socket, child)?;
            Ok(Side::Stage(child))
        }
        ForkResult::Child => {
            drop(above);
            match become_init() {
                Ok(()) => write(&below, b"{}").step("report")?,
                Err(failed) => {
                    let errno = failed.error.raw_os_error().unwrap_or_default();
                    let message = BootMessage::Failed { step: failed.step, errno };
                    let text = serde_json::to_vec(&message).map_err(io::Error::from).step("report")?;
                    let _ = write(&below, &text);
                    std::process::exit(1);
                }
            };
            // If the stage died before our death signal was armed, this is the end of the socket.
            let mut go = [0];
            if read(&below, &mut go).step("wait for the start")? == 0 {
                std::process::exit(1);
            }
            Ok(Side::Inner(payload))
        }
    }
}

/// In the stage: passes on what its child says of itself, and lets it go on.
fn watch(above: &OwnedFd, socket: &OwnedFd, child: nix::unistd::Pid) -> Result<(), Failed> {
    let mut text = [0; 4096];
    let length = read(above, &mut text).step("hear from pid 1")?;
    let text = text.get(..length).unwrap_or_default();
    if text != b"{}" {
        if let Ok(BootMessage::Failed { step, errno }) = serde_json::from_slice(text) {
            return Err(io::Error::from_raw_os_error(errno)).step(step);
        }
        return Err(io::Error::other("it ended")).step("start pid 1");
    }
    tell(socket, &BootMessage::Started(child.as_raw())).step("tell the outer process")?;
    write(above, b"g").step("let pid 1 go on")?;
    Ok(())
}

fn die_with_parent() -> Result<(), Failed> {
    set_pdeathsig(Signal::SIGKILL).step("have the parent's death kill this process")
}

fn become_init() -> Result<(), Failed> {
    die_with_parent()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).step("make the mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).step("mount a fresh /proc")?;
    privilege::keep_over_exec()?;
    super::seal().step("seal the process")
}
