//! Kubernetes' kinds: what the mesh acts on of them.

pub mod cluster;
mod config;
mod endpoints;
pub(crate) mod schema;
mod service;
mod workload;
mod workload_read;

pub use config::*;
pub use endpoints::*;
pub use service::*;
pub use workload::*;
