//! The control plane, `mizzend`: sources, the writer, push, the CA service, debug and status.
//!
//! Files become objects ([`source`]), one writer makes the next snapshot of them, and every connected proxy is sent what its resources now are.
//! Each resource is built once for all proxies that get the same answers, and again only when one of the answers has changed. The same TLS port signs
//! certificates for whoever proves its identity by a workload token or a certificate. [`status`] is what `debug.sock` tells of all that.
//!
//! Deliberately absent: what a resource looks like (`translate`), what an object means (`api`, `model`), the protocol's rules (`xds`), and the data path.

mod admission;
mod ads;
mod analysis;
mod authn;
mod ca;
mod connection;
mod credentials;
mod debug;
mod dump;
mod error;
pub mod inject;
mod keys;
mod kube;
mod listener;
mod logging;
mod memo;
mod metrics;
pub mod names;
mod node;
mod options;
mod policies;
mod refusals;
mod requests;
mod run;
pub mod source;
pub mod status;
mod token;
mod token_api;
mod wire;
mod writer;

pub use error::Error;
pub use kube::{AutoAllocate, ClusterOptions, IPV4_PREFIX, IPV6_PREFIX, Untaint, cluster_error, has_native_sidecars, load_cluster};
pub use logging::{ScopeStatus, SetLogging};
pub use options::{JwksOptions, Options};
pub use run::{Running, run, start};
pub use token::{CA_AUDIENCE, TokenError};

#[cfg(test)]
mod tests;
