//! Drives the engine: sockets, workers, DNS, certificates, admin and the xDS client.
//!
//! What flows through: [`run`] takes an Envoy bootstrap. The control thread (`run`, the caller's runtime) asks servers of resources over
//! delta streams ([`ads`], `sources`), compiles each resource by itself and brings it into force when what it names is there ([`store`]), and
//! publishes each new configuration to the workers ([`driver`]), threads of their own that carry bytes between sockets and the engine. It also
//! answers their questions (DNS, absent resources), writes access logs, adds their counters up, and serves the admin interface.
//!
//! Deliberately absent: every decision about traffic, which is the engine's; certificates' keys beyond the secrets that were asked for; and anything
//! that only a Mizzen control plane could provide.

mod admin;
pub mod ads;
mod bootstrap;
mod dns;
pub mod driver;
mod error;
mod fixed;
mod inherited;
mod logs;
mod on_demand;
mod options;
mod run;
mod runtime;
mod secrets;
mod sources;
pub mod store;
mod text;

pub use bootstrap::parse_bootstrap;
pub use error::BootstrapError;
pub use fixed::validate;
pub use mizzen_protos::json::Unknown;
pub use options::{Options, SetLogging};
pub use run::{RunError, run};
pub use text::Places;
