//! Two workers back to back: a mesh without a socket.

mod http;
mod mesh;
mod tcp;
