//! Why a control plane does not start, or ends.

use std::{io, path::PathBuf};

/// Why a control plane does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port or a socket cannot be opened.
    #[error(transparent)]
    Listen(io::Error),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A folder of configuration is given twice.
    #[error("{0} is given twice as a folder of configuration")]
    Twice(PathBuf),
    /// The MeshConfig is wrong.
    #[error("{0}")]
    MeshConfig(String),
    /// The kept keys are not what an earlier start wrote.
    #[error("the state descriptor: {0}")]
    State(String),
    /// A key or a certificate.
    #[error(transparent)]
    Pki(#[from] mizzen_pki::PkiError),
    /// A key of the tokens.
    #[error(transparent)]
    Token(#[from] crate::token::TokenError),
    /// The cluster, or what is kept in it.
    #[error("{0}")]
    Cluster(String),
    /// A part ended that never should.
    #[error("{0} ended: {1}")]
    Ended(&'static str, String),
}
