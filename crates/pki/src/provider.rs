//! The one source of cryptography, and of time for TLS.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CipherSuite, NamedGroup};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    // As Envoy's TLS has it: of what TLS 1.3 offers AES with 128 bits first, which costs less for each byte.
    provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

/// The cryptography of all TLS here: aws-lc-rs, post-quantum key exchange first.
///
/// It is a value and never installed as the process's default, so that nothing can use another one unnoticed.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// The system's clock, for everything outside tests.
pub fn system_time() -> Arc<dyn TimeProvider> {
    Arc::new(DefaultTimeProvider)
}

/// The provider cut down to cipher suites (OpenSSL's names; they concern TLS 1.2 only, as in Envoy) and curves. An empty list means the default.
///
/// Names that are unknown or cannot be done are left out; `None` if nothing would remain of a list.
pub fn restricted_provider(cipher_suites: &[impl AsRef<str>], curves: &[impl AsRef<str>]) -> Option<Arc<CryptoProvider>> {
    if cipher_suites.is_empty() && curves.is_empty() {
        return Some(provider());
    }
    let mut cut = CryptoProvider::clone(&PROVIDER);
    if !cipher_suites.is_empty() {
        // `[A|B]` is an equal-preference group; we have no such thing and keep the order.
        let names = cipher_suites.iter().flat_map(|n| n.as_ref().trim_matches(['[', ']']).split('|'));
        let wanted: Vec<CipherSuite> = names.filter_map(suite).collect();
        let all = cut.cipher_suites.clone();
        cut.cipher_suites.retain(|s| s.tls13().is_some());
        let kept = wanted.iter().filter_map(|w| all.iter().find(|s| s.suite() == *w));
        let before = cut.cipher_suites.len();
        cut.cipher_suites.extend(kept);
        if cut.cipher_suites.len() == before {
            return None;
        }
    }
    if !curves.is_empty() {
        let all = aws_lc_rs::ALL_KX_GROUPS;
        let wanted = curves.iter().filter_map(|c| group(c.as_ref()));
        cut.kx_groups = wanted.filter_map(|w| all.iter().find(|g| g.name() == w).copied()).collect();
        if cut.kx_groups.is_empty() {
            return None;
        }
    }
    Some(Arc::new(cut))
}

/// Suites of TLS 1.2 by OpenSSL's names.
const SUITES: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Those of TLS 1.3, whose names are the standard's.
const SUITES_13: [(&str, CipherSuite); 3] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];

fn suite(openssl: &str) -> Option<CipherSuite> {
    SUITES.iter().find(|(name, _)| *name == openssl).map(|(_, suite)| *suite)
}

/// OpenSSL's name for a cipher suite; `None` for those that the provider does not have.
pub fn cipher_name(suite: CipherSuite) -> Option<&'static str> {
    SUITES.iter().chain(&SUITES_13).find(|(_, other)| *other == suite).map(|(name, _)| *name)
}

fn group(name: &str) -> Option<NamedGroup> {
    Some(match name {
        "X25519MLKEM768" => NamedGroup::X25519MLKEM768,
        "X25519" => NamedGroup::X25519,
        "P-256" => NamedGroup::secp256r1,
        "P-384" => NamedGroup::secp384r1,
        _ => return None,
    })
}
