//! One connection's socket, and the task that waits for it.

use std::{
    cell::{Cell, RefCell},
    io,
    net::Shutdown,
    rc::Rc,
    time::Duration,
};

use mizzen_engine::{ConnId, Eof};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{Interest, Ready},
    net::{TcpStream, UnixStream},
    sync::Notify,
};

use super::shared::Shared;

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
    /// Bytes that were read and not taken.
    rest: RefCell<Vec<u8>>,
    changed: Notify,
}

impl Stream {
    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Stream::Tcp(s) => s.ready(interest).await,
            Stream::Unix(s) => s.ready(interest).await,
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.try_read(buffer),
            Stream::Unix(s) => s.try_read(buffer),
        }
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
            rest: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// Goes on reading, or stops.
    pub(super) fn read(&self, on: bool) {
        if self.reading.replace(on) != on {
            self.changed.notify_one();
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
        self.changed.notify_one();
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
    let mut ignored = [0; 4096];
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
        match socket.stream.try_write(bytes) {
            Ok(n) => worker.wrote(id, n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.writing.set(true);
                socket.changed.notify_one();
                return;
            }
            Err(error) => {
                worker.ended(id, how(&error));
                shared.due.notify_one();
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
pub(super) async fn serve(shared: Rc<Shared>, id: ConnId, socket: Rc<Socket>) {
    let _given_up = GivenUp(shared.clone(), id);
    while !socket.closed.get() {
        if socket.reading.get() && !socket.rest.borrow().is_empty() {
            present_rest(&shared, id, &socket);
            tokio::task::yield_now().await;
            continue;
        }
        let read = socket.reading.get() && !socket.ended.get();
        // A connection that is neither read nor written must be seen to break all the same.
        let interest = match (read, socket.writing.get()) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE | Interest::ERROR,
            (false, false) => Interest::ERROR,
        };
        let ready = tokio::select! {
            biased;
            () = socket.changed.notified() => continue,
            ready = socket.stream.ready(interest) => ready,
        };
        let Ok(ready) = ready else { return };
        if !read && ready.is_error() {
            let error = socket.stream.sock_ref().take_error().ok().flatten();
            socket.ended.set(true);
            shared.worker().ended(id, error.map_or(Eof::Reset, |error| how(&error)));
            shared.due.notify_one();
            // The engine closes it in the turn that comes.
            while !socket.closed.get() {
                socket.changed.notified().await;
            }
            return;
        }
        if ready.is_writable() && socket.writing.replace(false) {
            write(&shared, id, &socket);
            shared.due.notify_one();
        }
        if read && ready.is_readable() && !socket.closed.get() {
            read_once(&shared, id, &socket);
            // The others and the turn come first; then the next piece.
            tokio::task::yield_now().await;
        }
    }
    if socket.accepted && !socket.ended.get() {
        close_gently(&socket).await;
    }
}

fn read_once(shared: &Shared, id: ConnId, socket: &Socket) {
    let mut buffer = shared.buffer.borrow_mut();
    match socket.stream.try_read(&mut buffer) {
        Ok(0) => {
            socket.ended.set(true);
            socket.keep_alive();
            shared.worker().ended(id, Eof::Half);
        }
        Ok(n) => {
            let taken = shared.worker().bytes(id, &mut buffer[..n]);
            if taken < n {
                socket.rest.borrow_mut().extend_from_slice(&buffer[taken..n]);
                socket.reading.set(false);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
        Err(error) => {
            socket.ended.set(true);
            shared.worker().ended(id, how(&error));
        }
    }
    shared.due.notify_one();
}

/// Presents the bytes again that were not taken before.
fn present_rest(shared: &Shared, id: ConnId, socket: &Socket) {
    let mut rest = socket.rest.borrow_mut();
    let taken = shared.worker().bytes(id, &mut rest);
    rest.drain(..taken);
    if !rest.is_empty() {
        socket.reading.set(false);
    }
    shared.due.notify_one();
}

/// Sees to it that a fault of our own costs one connection, not the worker: the next turn ends it.
struct GivenUp(Rc<Shared>, ConnId);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.borrow_mut().push(self.1);
            self.0.due.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
