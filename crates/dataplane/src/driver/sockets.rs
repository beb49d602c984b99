//! One connection's socket, and the task that waits for it.

use std::{
    cell::{Cell, RefCell},
    io,
    net::Shutdown,
    rc::Rc,
    time::Duration,
};

use mizzen_engine::{ConnId, Eof};
use socket2::SockRef;
use tokio::{
    io::{Interest, Ready},
    net::{TcpStream, UnixStream},
    sync::Notify,
};

use super::thread::Driver;

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
pub(super) fn write(driver: &Driver, id: ConnId, socket: &Socket) {
    if socket.writing.get() {
        return;
    }
    let mut worker = driver.worker();
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
                driver.due.notify_one();
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
pub(super) async fn serve(driver: Rc<Driver>, id: ConnId, socket: Rc<Socket>) {
    let _given_up = GivenUp(driver.clone(), id);
    while !socket.closed.get() {
        if socket.reading.get() && !socket.rest.borrow().is_empty() {
            present_rest(&driver, id, &socket);
            tokio::task::yield_now().await;
            continue;
        }
        let read = socket.reading.get() && !socket.ended.get();
        let interest = match (read, socket.writing.get()) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => {
                socket.changed.notified().await;
                continue;
            }
        };
        let ready = tokio::select! {
            biased;
            () = socket.changed.notified() => continue,
            ready = socket.stream.ready(interest) => ready,
        };
        let Ok(ready) = ready else { return };
        if ready.is_writable() && socket.writing.replace(false) {
            write(&driver, id, &socket);
            driver.due.notify_one();
        }
        if read && ready.is_readable() && !socket.closed.get() {
            read_once(&driver, id, &socket);
            // The others and the turn come first; then the next piece.
            tokio::task::yield_now().await;
        }
    }
    if socket.accepted && !socket.ended.get() {
        close_gently(&socket).await;
    }
}

fn read_once(driver: &Driver, id: ConnId, socket: &Socket) {
    let mut buffer = driver.buffer.borrow_mut();
    match socket.stream.try_read(&mut buffer) {
        Ok(0) => {
            socket.ended.set(true);
            driver.worker().ended(id, Eof::Half);
        }
        Ok(n) => {
            let taken = driver.worker().bytes(id, &mut buffer[..n]);
            if taken < n {
                socket.rest.borrow_mut().extend_from_slice(&buffer[taken..n]);
                socket.reading.set(false);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
        Err(error) => {
            socket.ended.set(true);
            driver.worker().ended(id, how(&error));
        }
    }
    driver.due.notify_one();
}

/// Presents the bytes again that were not taken before.
fn present_rest(driver: &Driver, id: ConnId, socket: &Socket) {
    let mut rest = socket.rest.borrow_mut();
    let taken = driver.worker().bytes(id, &mut rest);
    rest.drain(..taken);
    if !rest.is_empty() {
        socket.reading.set(false);
    }
    driver.due.notify_one();
}

/// Sees to it that a fault of our own costs one connection, not the worker: the next turn ends it.
struct GivenUp(Rc<Driver>, ConnId);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.borrow_mut().push(self.1);
            self.0.due.notify_one();
        }
    }
}
