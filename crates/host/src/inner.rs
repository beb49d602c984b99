//! The inner process' view of its start and of the outer process.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mizzen_net::{FdReceiver, FdSender};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use crate::HostError;

/// The longest message between the two processes.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024;

/// What the inner asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A listening socket in the machine's network namespace.
    Listen(SocketAddr),
    /// To serve three sockets of the router: the relay's, DNS over UDP, DNS over TCP.
    Relay {
        /// Ranges that are never dialled: the mesh's own.
        mesh: Vec<String>,
    },
}

/// What the outer says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// This was done; what was asked for comes as descriptors.
    Done(u64),
    /// This was not.
    Refused(u64, String),
    /// The mesh is to end.
    Stop,
}

/// What the inner process gets when it starts, before it has any thread.
#[derive(Debug)]
pub struct Inner {
    /// What was given to [`Outer::start`](crate::Outer::start).
    pub payload: serde_json::Value,
    socket: OwnedFd,
}

impl Inner {
    pub(crate) fn new(payload: serde_json::Value, socket: OwnedFd) -> Inner {
        Inner { payload, socket }
    }

    /// The connection to the outer process. Inside a tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot take the socket.
    pub fn link(self) -> io::Result<Link> {
        let receiver = FdReceiver::new(self.socket.try_clone()?)?;
        let sender = FdSender::new(self.socket)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared { sender, waiting: Mutex::default(), next: AtomicU64::new(1), stopped });
        tokio::spawn(listen(receiver, Arc::downgrade(&shared), stop));
        Ok(Link { shared })
    }
}

type Waiting = HashMap<u64, oneshot::Sender<Result<Vec<OwnedFd>, String>>>;

#[derive(Debug)]
struct Shared {
    sender: FdSender,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    stopped: watch::Receiver<bool>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(receiver: FdReceiver, shared: std::sync::Weak<Shared>, stop: watch::Sender<bool>) {
    while let Ok(Some((text, fds))) = receiver.recv(MAX_MESSAGE).await {
        let Some(shared) = shared.upgrade() else { return };
        let (id, result) = match serde_json::from_slice(&text) {
            Ok(Reply::Done(id)) => (id, Ok(fds)),
            Ok(Reply::Refused(id, reason)) => (id, Err(reason)),
            Ok(Reply::Stop) => {
                stop.send_replace(true);
                continue;
            }
            Err(_) => continue,
        };
        if let Some(waiting) = shared.waiting().remove(&id) {
            let _ = waiting.send(result);
        }
    }
    stop.send_replace(true);
    if let Some(shared) = shared.upgrade() {
        shared.waiting().clear();
    }
}

/// Requests to the outer process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
}

impl Link {
    /// Opens a listening socket in the machine's network namespace. Only loopback addresses are granted.
    ///
    /// # Errors
    /// [`HostError::Outer`] with the reason, such as a port that is taken.
    pub async fn listen(&self, address: SocketAddr) -> Result<TcpListener, HostError> {
        let mut fds = self.ask(&Ask::Listen(address), &[]).await?;
        let fd = fds.pop().ok_or_else(|| HostError::Outer("an answer without a socket".to_owned()))?;
        Ok(fd.into())
    }

    /// Resolves when the outer process wants the mesh to end, or is gone.
    pub async fn stopped(&self) {
        let mut stopped = self.shared.stopped.clone();
        // The sender never goes without having sent `true`; if it did, that is the end as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }

    pub(crate) async fn ask(&self, ask: &Ask, fds: &[&OwnedFd]) -> Result<Vec<OwnedFd>, HostError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.shared.waiting().insert(id, sender);
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let text = serde_json::to_vec(&(id, ask)).map_err(|error| HostError::Outer(error.to_string()))?;
        let sent = self.shared.sender.send(&text, &fds).await;
        if let Err(error) = sent {
            self.shared.waiting().remove(&id);
            return Err(HostError::Outer(error.to_string()));
        }
        let answer = receiver.await.map_err(|_| HostError::Outer("the outer process is gone".to_owned()))?;
        answer.map_err(HostError::Outer)
    }
}
