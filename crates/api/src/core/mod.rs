//! Kubernetes' kinds: what the mesh acts on of them.

mod config;
pub(crate) mod schema;
mod service;
mod workload;
mod workload_read;

pub use config::*;
pub use service::*;
pub use workload::*;
