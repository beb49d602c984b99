//! The control plane, `mizzend`: sources, the writer, push, the CA service, debug and status.
//!
//! Files become objects ([`source`]), one writer makes the next snapshot of them, and every connected proxy is sent what its resources now are.
//! Each resource is built once for all proxies that read the same, and again only when something that it read has changed. The same TLS port signs
//! certificates for whoever proves its identity by a workload token or a certificate.
//!
//! Deliberately absent: what a resource looks like (`translate`), what an object means (`api`, `model`), the protocol's rules (`xds`), and the data path.

mod options;
pub mod source;
pub mod status;

pub use options::Options;
