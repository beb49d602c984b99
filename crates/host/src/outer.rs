//! The process that stays in the machine's network namespace.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use mizzen_net::{FdReceiver, FdSender};
use nix::errno::Errno;

use crate::{
    RelayPolicy, StartError,
    inner::{Ask, MAX_MESSAGE, Reply},
    process::raise_open_files,
    relay,
    stage::{self, BootMessage, BootReply},
};

/// The outer process' end of a mesh that has been started.
#[derive(Debug)]
pub struct Outer {
    stage: Child,
    inner: i32,
    socket: OwnedFd,
}

impl Outer {
    /// Starts the inner process: the same binary, where [`stage::dispatch`](crate::stage::dispatch) calls the
    /// function it was given with an [`Inner`](crate::Inner) that carries `payload`.
    ///
    /// Raises the limit of open files for this process: it holds the connections that leave the mesh.
    ///
    /// To be called on the main thread, and that thread must live as long as the mesh: the kernel ends the
    /// mesh when it ends.
    ///
    /// # Errors
    /// [`StartError::Refused`] names the setting of the kernel that forbids it.
    pub fn start(payload: &serde_json::Value) -> Result<Outer, StartError> {
        let (ours, theirs) = mizzen_net::seqpacket_pair().map_err(io_error("make a socket pair"))?;
        mizzen_net::inheritable(&theirs).map_err(io_error("pass a socket on"))?;
        let child = Command::new("/proc/self/exe")
            .args([stage::HIDDEN, stage::BOOT])
            .arg(theirs.as_raw_fd().to_string())
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .spawn();
        drop(theirs);
        let mut child = child.map_err(io_error("run this program again"))?;
        // The inner process got this process' limit: it is what its workloads get.
        match handshake(&ours, &child, payload).and_then(|inner| {
            raise_open_files().map_err(io_error("raise the limit of open files"))?;
            Ok(inner)
        }) {
            Ok(inner) => Ok(Outer { stage: child, inner, socket: ours }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// The inner process' number as this process sees it.
    pub fn inner_pid(&self) -> i32 {
        self.inner
    }

    /// Serves the inner process until it ends; returns its exit code. When `stop` resolves, the inner is
    /// told once (see [`Link::stopped`](crate::Link::stopped)) and goes on being served until it ends.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub async fn serve(self, policy: RelayPolicy, stop: impl Future<Output = ()>) -> io::Result<u8> {
        let Outer { stage: mut child, socket, .. } = self;
        let sender = FdSender::new(socket.try_clone()?)?;
        let receiver = FdReceiver::new(socket)?;
        let mut ended = tokio::task::spawn_blocking(move || child.wait());
        let mut stop = std::pin::pin!(stop);
        let mut stopping = false;
        let mut open = true;
        let mut relays = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                status = &mut ended => {
                    let status = status.map_err(io::Error::other)??;
                    return Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(137));
                }
                () = &mut stop, if !stopping => {
                    stopping = true;
                    let _ = send(&sender, &Reply::Stop, &[]).await;
                }
                message = receiver.recv(MAX_MESSAGE), if open => match message {
                    Ok(Some((text, fds))) => answer(&sender, &text, fds, &policy, &mut relays).await,
                    Ok(None) | Err(_) => open = false,
                },
            }
        }
    }
}

async fn send(sender: &FdSender, reply: &Reply, fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    sender.send(&serde_json::to_vec(reply)?, &fds).await
}

async fn answer(sender: &FdSender, text: &[u8], fds: Vec<OwnedFd>, policy: &RelayPolicy, relays: &mut tokio::task::JoinSet<()>) {
    let Ok((id, ask)) = serde_json::from_slice::<(u64, Ask)>(text) else { return };
    let done: Result<Vec<OwnedFd>, String> = match ask {
        Ask::Listen(address) => listen(address).map(|fd| vec![fd]),
        Ask::Relay { mesh } => relay::start(fds, mesh, policy.clone(), relays)
            .map(|()| Vec::new())
            .map_err(|error| format!("take over the relay's sockets: {error}")),
    };
    let (reply, fds) = match done {
        Ok(fds) => (Reply::Done(id), fds),
        Err(reason) => (Reply::Refused(id, reason), Vec::new()),
    };
    // If the inner is gone, waiting for its end says so.
    let _ = send(sender, &reply, &fds).await;
}

fn listen(address: SocketAddr) -> Result<OwnedFd, String> {
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not a loopback address"));
    }
    let listener = mizzen_net::listen(address, &mizzen_net::ListenOptions::default());
    listener.map(OwnedFd::from).map_err(|error| error.to_string())
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |source| StartError::Io { what, source }
}

fn handshake(socket: &OwnedFd, child: &Child, payload: &serde_json::Value) -> Result<i32, StartError> {
    match hear(socket)? {
        BootMessage::Unshared => {}
        BootMessage::Failed { step, errno } => return Err(refused(&step, errno)),
        BootMessage::Started(_) => return Err(io_error("start it")(io::Error::other("out of turn"))),
    }
    write_maps(child.id()).map_err(io_error("write the user namespace's maps"))?;
    let text = serde_json::to_vec(payload).map_err(|error| io_error("write the payload")(error.into()))?;
    let payload = mizzen_net::memfd("payload", &text, true).map_err(io_error("write the payload"))?;
    let reply = serde_json::to_vec(&BootReply).map_err(|error| io_error("reply")(error.into()))?;
    mizzen_net::send_with_fds(socket.as_fd(), &reply, &[payload.as_fd()]).map_err(io_error("reply"))?;
    match hear(socket)? {
        BootMessage::Started(pid) => Ok(pid),
        BootMessage::Failed { step, errno } => Err(refused(&step, errno)),
        BootMessage::Unshared => Err(io_error("start it")(io::Error::other("out of turn"))),
    }
}

fn hear(socket: &OwnedFd) -> Result<BootMessage, StartError> {
    let message = mizzen_net::recv_with_fds(socket.as_fd(), MAX_MESSAGE).map_err(io_error("hear from it"))?;
    let (text, _) = message.ok_or_else(|| io_error("hear from it")(io::Error::other("it ended")))?;
    serde_json::from_slice(&text).map_err(|error| io_error("hear from it")(error.into()))
}

/// Every user and group keeps its number. Root gives all that it has; anybody else can give only itself, and
/// only to a process that has given up `setgroups`.
fn write_maps(pid: u32) -> io::Result<()> {
    let file = |name: &str| format!("/proc/{pid}/{name}");
    if nix::unistd::geteuid().is_root() {
        let whole = |own: &str| -> io::Result<String> {
            let mut map = String::new();
            for line in std::fs::read_to_string(own)?.lines() {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if let [inside, _, count] = fields[..] {
                    map.push_str(&format!("{inside} {inside} {count}\n"));
                }
            }
            Ok(map)
        };
        let uids = std::fs::write(file("uid_map"), whole("/proc/self/uid_map")?);
        let gids = std::fs::write(file("gid_map"), whole("/proc/self/gid_map")?);
        if uids.is_ok() && gids.is_ok() {
            return Ok(());
        }
    }
    let uid = nix::unistd::geteuid();
    let gid = nix::unistd::getegid();
    std::fs::write(file("setgroups"), "deny")?;
    if std::fs::read_to_string(file("uid_map"))?.trim().is_empty() {
        std::fs::write(file("uid_map"), format!("{uid} {uid} 1\n"))?;
    }
    if std::fs::read_to_string(file("gid_map"))?.trim().is_empty() {
        std::fs::write(file("gid_map"), format!("{gid} {gid} 1\n"))?;
    }
    Ok(())
}

/// Finds the setting that a refusal comes from; one line.
fn refused(step: &str, errno: i32) -> StartError {
    let errno = Errno::from_raw(errno);
    if !matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::ENOSYS | Errno::EINVAL | Errno::EUSERS) {
        return StartError::Refused(format!("cannot {step}: {}", errno.desc()));
    }
    let settings = [
        ("kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "/proc/sys/user/max_user_namespaces", "0", "15000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ];
    let root = nix::unistd::geteuid().is_root();
    for (name, file, forbids, allows) in settings {
        let value = std::fs::read_to_string(file).unwrap_or_default();
        let value = value.trim();
        if value == forbids && (!root || name.starts_with("user.")) {
            return StartError::Refused(format!(
                "this kernel forbids user namespaces ({name} = {value}); allow them by: sudo sysctl -w {name}={allows}"
            ));
        }
    }
    let hint = match errno {
        _ if step.contains("/proc") => "a container that hides parts of /proc does not allow it",
        Errno::ENOSPC => "the limit user.max_user_namespaces (or another of user.max_*_namespaces) is reached",
        _ => "a container's seccomp filter or a security module forbids it",
    };
    StartError::Refused(format!("the kernel refuses to {step}: {}; {hint}", errno.desc()))
}
