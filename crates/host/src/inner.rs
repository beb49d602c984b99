//! The inner process' view of its start and of the outer process.

use std::net::{SocketAddr, TcpListener};

use crate::HostError;

/// What the inner process gets when it starts, before it has any thread.
#[derive(Debug)]
pub struct Inner {
    /// What was given to [`Outer::start`](crate::Outer::start).
    pub payload: serde_json::Value,
}

impl Inner {
    /// The connection to the outer process. Inside a tokio runtime.
    ///
    /// # Errors
    /// If the runtime cannot take the socket.
    pub fn link(self) -> std::io::Result<Link> {
        unimplemented!()
    }
}

/// Requests to the outer process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {}

impl Link {
    /// Opens a listening socket in the machine's network namespace. Only loopback addresses are granted.
    ///
    /// # Errors
    /// [`HostError::Outer`] with the reason, such as a port that is taken.
    pub async fn listen(&self, address: SocketAddr) -> Result<TcpListener, HostError> {
        let _ = address;
        unimplemented!()
    }

    /// Resolves when the outer process wants the mesh to end, or is gone.
    pub async fn stopped(&self) {
        unimplemented!()
    }
}
