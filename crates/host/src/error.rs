//! Errors: one line each, naming what was tried.

use std::io;

/// Why a mesh cannot be started on this machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refuses the namespaces; the text names the setting that forbids them.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("cannot start the mesh's process: {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why something in a running mesh failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A call to the system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its object.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The capture rules could not be set.
    #[error(transparent)]
    Capture(#[from] mizzen_capture::ApplyError),
    /// What the router stops could not be said or asked.
    #[error(transparent)]
    Guard(#[from] mizzen_capture::GuardError),
    /// A process could not be started; the text is the child's own account of it.
    #[error("{name}: {reason}")]
    Spawn {
        /// The process' name from its [`Spec`](crate::Spec).
        name: String,
        /// At which step, and why.
        reason: String,
    },
    /// The outer process refused, with its reason, or is gone.
    #[error("outside the mesh: {0}")]
    Outer(String),
}

impl HostError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> HostError {
        let what = what.into();
        move |source| HostError::Io { what, source }
    }
}
