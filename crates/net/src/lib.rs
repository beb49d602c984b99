//! Sockets and descriptors as the rest needs them: marked, reusable, redirected, passed to another process; and TLS for control traffic.
//!
//! What flows through: [`listen`] and [`connect`] make sockets with all options set before they are seen by anybody; [`original_dst`] asks the kernel where
//! a redirected connection was going; [`FdSender`] and [`FdReceiver`] carry descriptors between processes; [`TlsServerStream`] knows whose certificate
//! its client has proved; [`fetch`] is one small HTTP request over TCP or a Unix socket; [`release_memory`] has the allocator give back what it keeps.
//!
//! Deliberately absent: the data path's TLS (that is `engine`'s, without IO), name resolution, servers for HTTP. `unsafe` stands here only where a number
//! becomes an owned descriptor, and for that last one.

mod backoff;
mod connect;
mod fds;
mod fetch;
mod memfd;
mod memory;
mod socket;
mod tls;
mod unix;

pub use backoff::Backoff;
pub use connect::{ConnectOptions, connect, connect_udp};
pub use fds::{
    FdReceiver, FdSender, MAX_FDS, inheritable, inherited_fd, inherited_fd_from_env, recv_with_fds, send_with_fds, seqpacket_pair,
};
pub use fetch::{FetchError, Reply, fetch, fetch_status, fetch_tcp, fetch_unix, fetch_up_to};
pub use memfd::{memfd, read_fd, rewrite_fd};
pub use memory::{keep_little_memory, release_memory};
pub use socket::{ListenOptions, any_address, bind_udp, listen, original_dst, set_mark};
pub use tls::{Peer, TlsAcceptor, TlsError, TlsServerStream, connect_tls};
pub use tokio_rustls::client::TlsStream as TlsClientStream;
pub use unix::{UnixPathError, listen_unix, unix_path};
