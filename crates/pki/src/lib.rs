//! Keys, certificate requests, signing, verification and rotation schedules: everything X.509, and signatures of tokens, without IO.
//!
//! What flows through: a proxy's agent makes a [`KeyPair`] and a request; the control plane's [`Ca`] answers with a chain whose only name is the
//! [`SpiffeId`](mizzen_types::SpiffeId) that the caller has proved, whatever the request wished; key and chain become an [`Svid`], roots a [`TrustBundle`];
//! both become rustls configurations by [`tls`], whose verifiers compare URI SANs instead of host names. [`provider`] is the one source of cryptography.
//! Time always comes from outside, as a [`UnixTime`] or a [`TimeProvider`].
//!
//! Deliberately absent: sockets, files, what tokens say, policy about who may get which identity.

mod ca;
mod error;
mod jws;
mod key;
mod peer;
mod provider;
mod rotation;
mod sessions;
mod svid;
pub mod tls;
mod trust;
mod verify;

pub use ca::{Ca, CaLimits};
pub use error::PkiError;
pub use jws::{JwsAlgorithm, JwsCurve, JwsKey, sha256};
pub use key::{KeyPair, Secret};
pub use peer::{CertificateFacts, facts, peer_identity, peer_uris};
pub use provider::{cipher_name, provider, restricted_provider, system_time};
pub use rotation::{Validity, renewal_delay};
pub use rustls::crypto::CryptoProvider;
pub use rustls::time_provider::TimeProvider;
pub use rustls_pki_types::{CertificateDer, UnixTime};
pub use svid::{Svid, certificate_pem};
pub use trust::TrustBundle;
pub use verify::{SanKind, SanMatch, SanPattern, accept_any_server, client_verifier, server_verifier, server_verifier_by_name};

#[cfg(test)]
mod tests;
