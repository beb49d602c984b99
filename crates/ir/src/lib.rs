//! xDS resources compiled to the runtime configuration, and pure steps over it.
//!
//! What flows through: a resource's bytes go into [`compile()`] and come out as an `Arc` of a type of [`config`], with
//! warnings for what is harmless, or are refused by field; a [`Draft`] puts them together to the next [`Config`], building rustls'
//! configurations from the secrets. The engine and `mizzen explain` then call the same steps: [`find_chain`], [`authenticate`],
//! [`find_route`], [`authorize`], [`pick_cluster`] and the smaller ones beside them. A step takes facts and random numbers as arguments
//! and can write down why it decided as it did ([`Trace`]).
//!
//! Deliberately absent: sockets, clocks, DNS, load balancing over living state, and every type of the wire in the public interface but
//! the bytes themselves.

mod changes;
mod compile;
pub mod config;
mod draft;
mod facts;
mod few;
mod filter;
mod index;
mod jwt;
mod metadata;
mod runtime;
mod steps;
mod tls;
mod trace;

pub use changes::Changes;
pub use compile::mesh::{BadHost, mesh_host};
pub use compile::{Compiled, Refs, Refusal, Resource, ResourceKind, Warning, compile};
pub use draft::Draft;
pub use facts::{ConnFacts, Peer, PolicyFacts, RequestFacts, authenticate};
pub use few::Few;
pub use filter::{DYNAMIC_HOSTS, ISTIO_FILTERS};
pub use jwt::{BadJwks, Jwks, Token, TokenFault};
pub use metadata::Metadata;
pub use mizzen_http::Head;
pub use runtime::Config;
pub use steps::authorize::{BoundRbac, Miss, Verdict, authorize, bind, nearest_miss};
pub use steps::chain::find_chain;
pub use steps::client::client_address;
pub use steps::cluster::{Picked, pick_cluster};
pub use steps::hash::{RequestHash, request_hash, source_hash};
pub use steps::headers::{Values, apply_headers};
pub use steps::mesh::{Known, WantedListener, wanted_host, wanted_listener};
pub use steps::path::{PathOutcome, normalize_path, redirect_location, rewrite_path};
pub use steps::retry::{Outcome, request_timeout, should_retry};
pub use steps::route::{FoundRoute, find_route};
pub use steps::tokens::{
    JWT_METADATA, NoStore, TokenFindings, TokenRefusal, TokenStore, check_tokens, has_tokens, keys_needed, token_requirement,
};
pub use tls::{Secrets, TlsRefusal, build_client, build_server};
pub use trace::{Note, Trace};

#[cfg(test)]
mod tests;
