//! What can be wrong with keys and certificates.

/// Why a key, a certificate, a request or a bundle was refused. No variant carries secret bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Not PEM, or no section of the kind that was asked for.
    #[error("{what}: no readable PEM section of that kind ({reason})")]
    Pem {
        /// What was being read.
        what: &'static str,
        /// What the PEM parser said.
        reason: String,
    },
    /// A certificate that cannot be parsed.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A private key that cannot be used, or does not belong to the certificate.
    #[error("private key: {0}")]
    Key(String),
    /// A certificate request that cannot be parsed or whose signature is wrong.
    #[error("certificate request: {0}")]
    Request(String),
    /// A lifetime longer than the CA allows.
    #[error("a lifetime of {wished} s was asked for, the CA gives at most {max} s")]
    Lifetime {
        /// What was asked for, in seconds.
        wished: u64,
        /// The most the CA gives, in seconds.
        max: u64,
    },
    /// The CA's own certificate has expired, or expires too soon.
    #[error("the CA's own certificate expires at {not_after} (Unix time)")]
    CaExpired {
        /// When, in Unix time.
        not_after: u64,
    },
    /// A peer's certificate names no workload, or several.
    #[error("peer identity: {0}")]
    Identity(String),
    /// A bundle without a single root.
    #[error("a trust bundle without roots trusts nobody")]
    NoRoots,
    /// A combination that TLS cannot do.
    #[error("TLS: {0}")]
    Tls(String),
    /// The library could not sign or generate.
    #[error("cryptography: {0}")]
    Crypto(String),
}
