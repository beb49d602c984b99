//! Parsed names that every other crate speaks in.
//!
//! Strings become these types once, at the edge (YAML, certificates, the wire), and nothing inside validates them again.
//! Deliberately absent: serialization formats, IO, and anything that knows a mesh, a proxy or a configuration.

mod host;
mod identity;
mod locality;
mod name;
pub mod ports;
mod protocol;
mod range;
pub mod runtime;

pub use host::{Hostname, HostnameError};
pub use identity::{IdentityError, SpiffeId, TrustDomain};
pub use locality::Locality;
pub use name::{NameError, NamespacedName, check_dns_label, check_dns_subdomain};
pub use protocol::Protocol;
pub use range::{IpRange, RangeError};

/// A cheap-to-clone name: of a resource, a cluster, a route, a filter chain.
pub type Name = std::sync::Arc<str>;
