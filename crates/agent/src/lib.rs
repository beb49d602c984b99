//! Beside every proxy: the workload's identity, the way to the control plane, and DNS.
//!
//! What flows through: a token, obtained by descriptor, becomes a certificate ([`identity`]), kept in memory and renewed at half life. The proxy gets key,
//! chain and roots by SDS on one Unix socket, and its configuration through the relay on another, which carries the proxy's ADS stream over TLS with the
//! workload's identity. What the same stream says of names feeds a DNS server for the workload, and what the proxy asks for on demand is [`remembered()`].
//! [`bootstrap()`] is what the proxy is started with, and two HTTP ports say whether all of it works.
//!
//! [`pod`] is how an agent starts in a pod of Kubernetes. [`foreign`] is for a proxy that somebody else wrote: an Envoy, which is started as a process of its own.
//!
//! Deliberately absent: the data path, and any knowledge of what the configuration means. While the control plane is away the proxy keeps what it has.

mod agent;
mod bootstrap;
mod dns;
mod files;
pub mod foreign;
pub mod identity;
mod metrics;
mod names;
mod options;
pub mod pod;
mod probes;
mod relay;
mod remembered;
mod sds;
mod secret;
mod status;
mod tap;
mod token;
mod upstream;

pub use agent::{Agent, AgentError};
pub use bootstrap::{bootstrap, node};
pub use identity::Identity;
pub use names::{Answer, NameTable};
pub use options::{Address, DnsOptions, Options, OptionsError, ProxyType};
pub use probes::{Probes, ProgramMetrics};
pub use remembered::remembered;
pub use token::{TokenError, TokenSource};

/// The name under which the proxy finds its certificate and key by SDS.
pub const DEFAULT_SECRET: &str = "default";
/// The name under which the proxy finds the mesh's roots by SDS.
pub const ROOT_SECRET: &str = "ROOTCA";
/// The Unix socket of the xDS relay, in [`Options::dir`].
pub const XDS_SOCKET: &str = "XDS";
/// The Unix socket of the SDS server, in [`Options::dir`].
pub const SDS_SOCKET: &str = "SDS";
/// The Unix socket of the proxy's whole admin interface, in [`Options::dir`].
pub const ADMIN_SOCKET: &str = "admin.sock";
