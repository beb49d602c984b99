//! One connection's socket, and the task that waits for it.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    net::Shutdown,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BufMut;
use mizzen_engine::{ConnId, Eof};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{Interest, Ready},
    net::{TcpStream, UnixStream},
};

use super::{shared::Shared, signal::Signal};

/// A stream socket.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket with what the engine wants of it.
pub(super) struct Socket {
    stream: Stream,
    /// A listener accepted it.
    pub(super) accepted: bool,
    /// The engine takes bytes.
    reading: Cell<bool>,
    /// The other side has ended.
    ended: Cell<bool>,
    /// The kernel took less than there was: wait until it takes more.
    writing: Cell<bool>,
    closed: Cell<bool>,
    /// The last read gave much: so will the next.
    bulk: Cell<bool>,
    changed: Signal,
}

/// Why a connection's task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// Something else is wanted of it.
    Changed,
    Ready {
        readable: bool,
        writable: bool,
    },
    /// The socket has failed.
    Broken,
}

impl Stream {
    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Stream::Tcp(s) => s.ready(interest).await,
            Stream::Unix(s) => s.ready(interest).await,
        }
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx),
            Stream::Unix(s) => s.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(s) => s.poll_write_ready(cx),
            Stream::Unix(s) => s.poll_write_ready(cx),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.try_read(buffer),
            Stream::Unix(s) => s.try_read(buffer),
        }
    }

    /// Appends at most `most` bytes.
    fn try_append(&self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.try_read_buf(&mut buffer.limit(most)),
            Stream::Unix(s) => s.try_read_buf(&mut buffer.limit(most)),
        }
    }

    /// The kernel gave or took less than it could have: until it says otherwise the next attempt would be in vain.
    fn not_ready(&self, interest: Interest) {
        let vain = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // The error is the one that is made here.
        let _ = match self {
            Stream::Tcp(s) => s.try_io(interest, vain),
            Stream::Unix(s) => s.try_io(interest, vain),
        };
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.try_write(bytes),
            Stream::Unix(s) => s.try_write(bytes),
        }
    }

    fn sock_ref(&self) -> SockRef<'_> {
        match self {
            Stream::Tcp(s) => SockRef::from(s),
            Stream::Unix(s) => SockRef::from(s),
        }
    }
}

impl Socket {
    pub(super) fn new(stream: Stream, accepted: bool) -> Socket {
        Socket {
            stream,
            accepted,
            reading: Cell::new(true),
            ended: Cell::new(false),
            writing: Cell::new(false),
            closed: Cell::new(false),
            bulk: Cell::new(false),
            changed: Signal::default(),
        }
    }

    /// While it is read.
    fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<io::Result<Woken>> {
        if self.changed.poll_told(cx).is_ready() {
            return Poll::Ready(Ok(Woken::Changed));
        }
        let is = |poll: Poll<io::Result<()>>| match poll {
            Poll::Ready(result) => result.map(|()| true),
            Poll::Pending => Ok(false),
        };
        let readable = is(self.stream.poll_read_ready(cx))?;
        let writable = self.writing.get() && is(self.stream.poll_write_ready(cx))?;
        if readable || writable { Poll::Ready(Ok(Woken::Ready { readable, writable })) } else { Poll::Pending }
    }

    /// While it is not read: that it breaks must be seen all the same.
    async fn deaf_woken(&self) -> io::Result<Woken> {
        let interest = if self.writing.get() { Interest::WRITABLE | Interest::ERROR } else { Interest::ERROR };
        tokio::select! {
            biased;
            () = self.changed.told() => Ok(Woken::Changed),
            ready = self.stream.ready(interest) => {
                let ready = ready?;
                Ok(if ready.is_error() { Woken::Broken } else { Woken::Ready { readable: false, writable: ready.is_writable() } })
            }
        }
    }

    /// Goes on reading, or stops.
    pub(super) fn read(&self, on: bool) {
        if self.reading.replace(on) != on {
            self.changed.tell();
        }
    }

    /// Shuts the writing half.
    pub(super) fn shut(&self) {
        // A socket that is gone already needs no shutting.
        let _ = self.stream.sock_ref().shutdown(Shutdown::Write);
        self.keep_alive();
    }

    /// Has the kernel ask the peer for signs of life now and then: for a connection of which one direction has ended.
    fn keep_alive(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            let wanted = TcpKeepalive::new().with_time(HALF_CLOSED_IDLE).with_interval(HALF_CLOSED_PROBE).with_retries(HALF_CLOSED_PROBES);
            // A socket that is gone already needs none.
            let _ = SockRef::from(stream).set_tcp_keepalive(&wanted);
        }
    }

    /// Has the task end, and the socket be closed with it.
    pub(super) fn close(&self, reset: bool) {
        if reset {
            let _ = self.stream.sock_ref().set_linger(Some(Duration::ZERO));
            self.ended.set(true);
        }
        self.closed.set(true);
        self.changed.tell();
    }
}

/// Keep-alive of half-closed connections: below the 60 s after which conntrack forgets such a connection, and with it where the capture has
/// redirected it to; a peer that has vanished is noticed after 90 s.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(30);
const HALF_CLOSED_PROBE: Duration = Duration::from_secs(15);
const HALF_CLOSED_PROBES: u32 = 4;

/// How long a client may take to see that its connection is closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Closes a client's connection so that it reads the last answer: the kernel throws that away and resets if bytes come that nobody reads.
async fn close_gently(socket: &Socket) {
    socket.shut();
    // Not in the future itself: each connection has one for all its life.
    let mut ignored = vec![0; 4096];
    let to_the_end = async {
        while socket.stream.ready(Interest::READABLE).await.is_ok() {
            match socket.stream.try_read(&mut ignored) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    // Whoever goes on sending is cut off.
    let _ = tokio::time::timeout(LAST_WORDS, to_the_end).await;
}

/// Writes what the engine has for a connection, as far as the kernel takes it.
pub(super) fn write(shared: &Shared, id: ConnId, socket: &Socket) {
    if socket.writing.get() {
        return;
    }
    let mut worker = shared.worker();
    loop {
        let bytes = worker.pending(id);
        if bytes.is_empty() {
            return;
        }
        let all = bytes.len();
        match socket.stream.try_write(bytes) {
            Ok(n) => {
                worker.wrote(id, n);
                if n < all {
                    socket.stream.not_ready(Interest::WRITABLE);
                    socket.writing.set(true);
                    socket.changed.tell();
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.writing.set(true);
                socket.changed.tell();
                return;
            }
            Err(error) => {
                worker.ended(id, how(&error));
                shared.due.tell();
                return;
            }
        }
    }
}

fn how(error: &io::Error) -> Eof {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Eof::Reset,
        _ => Eof::Error,
    }
}

/// Reads a connection, and writes it when the kernel takes bytes again, until it is closed.
///
/// `turn` takes one: what was read in bulk is passed on while the processor's cache has it, before others are read.
pub(super) async fn serve(shared: Rc<Shared>, id: ConnId, socket: Rc<Socket>, turn: impl Fn()) {
    let _given_up = GivenUp(shared.clone(), id);
    while !socket.closed.get() {
        let read = socket.reading.get() && !socket.ended.get();
        let woken = if read { poll_fn(|cx| socket.poll_woken(cx)).await } else { socket.deaf_woken().await };
        let Ok(woken) = woken else { return };
        if woken == Woken::Changed {
            continue;
        }
        if woken == Woken::Broken {
            let error = socket.stream.sock_ref().take_error().ok().flatten();
            socket.ended.set(true);
            shared.worker().ended(id, error.map_or(Eof::Reset, |error| how(&error)));
            shared.due.tell();
            // The engine closes it in the turn that comes.
            while !socket.closed.get() {
                socket.changed.told().await;
            }
            return;
        }
        let Woken::Ready { readable, writable } = woken else { continue };
        if writable && socket.writing.replace(false) {
            write(&shared, id, &socket);
            shared.due.tell();
        }
        if readable && !socket.closed.get() {
            let (read, more) = read_share(&shared, id, &socket);
            if read >= BULK_TURN {
                turn();
            }
            shared.due.tell();
            if more {
                // The others and the turn come first; then the next share.
                tokio::task::yield_now().await;
            }
        }
    }
    if socket.accepted && !socket.ended.get() {
        close_gently(&socket).await;
    }
}

/// Bytes that are read of one connection before the others and the turn come: more than any connection takes at once, so that one read is enough.
const SHARE: usize = 264 * 1024;
/// After so many a turn is taken at once.
const BULK_TURN: usize = 64 * 1024;
/// A read that gives so much is followed by one to the connection's own buffer: copying would cost more than an allocation of its own does.
const BULK: usize = 16 * 1024;

/// Reads until nothing is there, until nobody takes more, or until the share is used up: how much was read, and whether the share was
/// used up.
fn read_share(shared: &Shared, id: ConnId, socket: &Socket) -> (usize, bool) {
    let mut left = SHARE;
    let more = loop {
        if left == 0 {
            break true;
        }
        let most = shared.worker().room(id).min(left);
        if most == 0 {
            socket.reading.set(false);
            break false;
        }
        let (asked, read) = if socket.bulk.get() { read_own(shared, id, socket, most) } else { read_common(shared, id, socket, most) };
        match read {
            Ok(0) => {
                socket.ended.set(true);
                socket.keep_alive();
                shared.worker().ended(id, Eof::Half);
                break false;
            }
            Ok(n) => {
                // What is left over after much is no reason to copy the next.
                socket.bulk.set(n >= BULK || left < SHARE && socket.bulk.get());
                left -= n;
                if n < asked {
                    socket.stream.not_ready(Interest::READABLE);
                    break false;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
            Err(error) => {
                socket.ended.set(true);
                shared.worker().ended(id, how(&error));
                break false;
            }
        }
    };
    (SHARE - left, more)
}

/// Reads to the connection's own buffer; how much was asked for, and what came.
fn read_own(shared: &Shared, id: ConnId, socket: &Socket, most: usize) -> (usize, io::Result<usize>) {
    let mut worker = shared.worker();
    let Some(mut buffer) = worker.lend(id, most) else {
        drop(worker);
        return read_common(shared, id, socket, most);
    };
    let read = socket.stream.try_append(&mut buffer, most);
    worker.filled(id, buffer, read.as_ref().map_or(0, |n| *n));
    (most, read)
}

/// Reads to the buffer that all share.
fn read_common(shared: &Shared, id: ConnId, socket: &Socket, most: usize) -> (usize, io::Result<usize>) {
    let mut buffer = shared.buffer.borrow_mut();
    let most = most.min(buffer.len());
    let read = socket.stream.try_read(&mut buffer[..most]);
    if let Ok(n @ 1..) = read {
        let taken = shared.worker().bytes(id, &mut buffer[..n]);
        debug_assert_eq!(taken, n, "there was room for it");
    }
    (most, read)
}

/// Sees to it that a fault of our own costs one connection, not the worker: the next turn ends it.
struct GivenUp(Rc<Shared>, ConnId);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.borrow_mut().push(self.1);
            self.0.due.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use mizzen_engine::{Limits, Node, Now, Options, Worker};

    use super::*;

    #[tokio::test]
    async fn a_waiting_connection_is_small() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let now = Now { mono: Duration::ZERO, wall: Duration::ZERO };
        let options = Options { node: Node::default(), limits: Limits::default(), seed: 0, shared: std::sync::Arc::default(), mark: 0 };
        let shared = Rc::new(Shared::new(|_| Worker::new(options, std::sync::Arc::default(), now)));
        let socket = Rc::new(Socket::new(Stream::Unix(stream), true));
        let id = ConnId::from_u64(1);
        let task = serve(shared, id, socket, || ());
        assert!(size_of_val(&task) <= 768, "{} bytes", size_of_val(&task));
    }

    #[tokio::test]
    async fn half_closed_connections_are_kept_alive() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let _server = server.unwrap();
        let socket = Socket::new(Stream::Tcp(client.unwrap()), false);
        let kept = |socket: &Socket| socket.stream.sock_ref().keepalive().unwrap();
        assert!(!kept(&socket));
        socket.shut();
        assert!(kept(&socket));
        let socket = socket.stream.sock_ref();
        let (idle, probe) = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert!(idle < Duration::from_secs(60) && probe < Duration::from_secs(60), "conntrack forgets after 60 s: {idle:?} {probe:?}");
    }
}
