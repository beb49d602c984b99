//! Why a bootstrap cannot be used.

/// A bootstrap that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The text is no bootstrap.
    #[error("{line}: {}{reason}", if .field.is_empty() { String::new() } else { format!("{field}: ") })]
    Text {
        /// The line, from 1.
        line: u64,
        /// The path of the field, if it is one's fault.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A field of it says what we cannot do.
    #[error("{field}: {reason}")]
    Field {
        /// Which.
        field: String,
        /// Why not.
        reason: String,
    },
}
