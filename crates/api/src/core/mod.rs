//! Kubernetes' kinds: what the mesh acts on of them.

mod config;
mod service;
mod workload;

pub use config::*;
pub use service::*;
pub use workload::*;
