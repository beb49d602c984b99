//! Descriptors from process to process.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// At most so many descriptors travel with one message.
pub const MAX_FDS: usize = 16;

/// A pair of connected Unix sockets that keep the bounds of messages. Both are closed on exec.
///
/// # Errors
/// What the kernel says.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message with descriptors on a Unix socket, blocking if the socket does. On a stream socket fewer bytes may be sent.
///
/// # Errors
/// What the kernel says; `InvalidInput` for an empty message (it would look like the end) or too many descriptors.
pub fn send_with_fds(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if message.is_empty() || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message has at least one byte and at most 16 descriptors"));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(message)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives a message of at most `max` bytes with its descriptors, all closed on exec; `None` at the end.
///
/// # Errors
/// What the kernel says; `InvalidData` if the message or its descriptors did not fit.
pub fn recv_with_fds(socket: BorrowedFd<'_>, max: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; max];
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let (length, truncated, fds) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                fds.extend(raw.into_iter().map(own));
            }
        }
        (got.bytes, got.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC), fds)
    };
    if truncated {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message or its descriptors did not fit"));
    }
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some((bytes, fds)))
}

/// Takes a descriptor that the parent process left open, and has it closed on the next exec.
///
/// # Errors
/// If no such descriptor is open. It must be called once for a number, before anything else was opened that could have got that number.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "standard streams are not taken over"));
    }
    // SAFETY: borrowed for two fcntl calls only, which say whether the number is open at all.
    #[allow(unsafe_code)]
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_GETFD)?;
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(own(number))
}

/// [`inherited_fd`] with the number from an environment variable; `None` if that is not set.
///
/// # Errors
/// If it holds no number, or as [`inherited_fd`].
pub fn inherited_fd_from_env(name: &str) -> io::Result<Option<OwnedFd>> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let number = text.to_str().and_then(|t| t.parse().ok());
    let number = number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not the number of a descriptor")))?;
    inherited_fd(number).map(Some)
}

/// Leaves a descriptor open across exec, for a child.
///
/// # Errors
/// What the kernel says.
pub fn inheritable(fd: &impl AsFd) -> io::Result<()> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

#[allow(unsafe_code)]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this number for us (SCM_RIGHTS), or the caller of `inherited_fd` vouches for it; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// The sending end of a socket for descriptors, under tokio.
#[derive(Debug)]
pub struct FdSender(AsyncFd<OwnedFd>);

/// The receiving end of a socket for descriptors, under tokio.
#[derive(Debug)]
pub struct FdReceiver(AsyncFd<OwnedFd>);

impl FdSender {
    /// Takes a Unix socket (`SOCK_SEQPACKET` or a stream).
    ///
    /// # Errors
    /// What the kernel says. Must be called within a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(FdSender(registered(socket)?))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As [`send_with_fds`].
    pub async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, |socket| send_with_fds(socket.as_fd(), message, fds)).await?;
        if sent == message.len() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "the message was cut")) }
    }
}

impl FdReceiver {
    /// Takes a Unix socket (`SOCK_SEQPACKET` or a stream).
    ///
    /// # Errors
    /// What the kernel says. Must be called within a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(FdReceiver(registered(socket)?))
    }

    /// Receives one message of at most `max` bytes; `None` at the end.
    ///
    /// # Errors
    /// As [`recv_with_fds`].
    pub async fn recv(&self, max: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.0.async_io(Interest::READABLE, |socket| recv_with_fds(socket.as_fd(), max)).await
    }
}

fn registered(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = nix::fcntl::OFlag::from_bits_retain(fcntl(socket.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(socket.as_fd(), FcntlArg::F_SETFL(flags | nix::fcntl::OFlag::O_NONBLOCK))?;
    // SAFETY: an OwnedFd keeps one open descriptor until it is dropped, and is never replaced within the AsyncFd.
    #[allow(unsafe_code)]
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn descriptors_travel() {
        let (a, b) = seqpacket_pair().unwrap();
        let (sender, receiver) = (FdSender::new(a).unwrap(), FdReceiver::new(b).unwrap());
        let file = crate::memfd("test", b"contents", true).unwrap();
        sender.send(b"0.0.0.0:80", &[file.as_fd()]).await.unwrap();
        sender.send(b"none", &[]).await.unwrap();
        let (message, fds) = receiver.recv(64).await.unwrap().unwrap();
        assert_eq!((message.as_slice(), fds.len()), (&b"0.0.0.0:80"[..], 1));
        assert_eq!(crate::read_fd(&fds[0], 100).unwrap(), b"contents");
        let flags = FdFlag::from_bits_retain(fcntl(fds[0].as_fd(), FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        assert!(crate::rewrite_fd(&fds[0], b"changed").is_err(), "sealed");
        let (message, fds) = receiver.recv(64).await.unwrap().unwrap();
        assert_eq!((message.as_slice(), fds.len()), (&b"none"[..], 0));
        sender.send(b"too long", &[]).await.unwrap();
        assert_eq!(receiver.recv(3).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(sender);
        assert!(receiver.recv(64).await.unwrap().is_none());
    }

    #[test]
    fn empty_messages_are_refused() {
        let (a, _b) = seqpacket_pair().unwrap();
        assert_eq!(send_with_fds(a.as_fd(), b"", &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn only_open_descriptors_are_taken_over() {
        assert!(inherited_fd(0).is_err());
        assert!(inherited_fd(1_000_000).is_err());
        assert!(inherited_fd_from_env("MIZZEN_NO_SUCH_VARIABLE").unwrap().is_none());
    }
}
