//! Two workers back to back: a mesh without a socket.

mod calls;
mod flow;
mod http;
mod life;
mod mesh;
mod peers;
mod tcp;
