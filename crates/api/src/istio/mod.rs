//! Istio's kinds: security, networking, and the mesh's own settings.

mod condition;
mod connection_pool;
mod destination_rule;
mod extension_provider;
mod fault;
mod gateway;
mod load_balancer;
mod locality;
mod mesh_config;
mod request_authentication;
mod security;
mod service_entry;
mod shared;
mod sidecar;
mod text;
mod virtual_service;
mod virtual_service_read;

pub use condition::*;
pub use connection_pool::*;
pub use destination_rule::*;
pub use extension_provider::*;
pub use fault::*;
pub use gateway::*;
pub use load_balancer::*;
pub use locality::*;
pub use mesh_config::*;
pub use request_authentication::*;
pub use security::*;
pub use service_entry::*;
pub use shared::*;
pub use sidecar::*;
pub(crate) use text::{changed_header, header_value, regex, substitution};
pub use virtual_service::*;
pub(crate) use virtual_service_read::REDIRECT_PORTS;
