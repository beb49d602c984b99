//! What becomes of paths.

use mizzen_http::Head;

use crate::config::{Forward, PathOptions, Redirect, RouteMatch};

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathOutcome {
    /// It stays.
    Keep,
    /// It becomes this.
    Changed(String),
    /// The client is sent there (307).
    Redirect(String),
    /// The request is refused (400).
    Reject,
}

/// Applies the connection manager's path options to `:path`, query included.
pub fn normalize_path(path: &str, options: &PathOptions) -> PathOutcome {
    let _ = (path, options);
    unimplemented!()
}

/// The path (query included) that the upstream gets; none: it stays.
pub fn rewrite_path(forward: &Forward, matching: &RouteMatch, path: &str) -> Option<String> {
    let _ = (forward, matching, path);
    unimplemented!()
}

/// The `location` of a redirect.
pub fn redirect_location(redirect: &Redirect, matching: &RouteMatch, head: &Head, secure: bool) -> String {
    let _ = (redirect, matching, head, secure);
    unimplemented!()
}
