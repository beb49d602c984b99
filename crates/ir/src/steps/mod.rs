//! The steps: pure functions over a configuration and facts.

pub(crate) mod authorize;
pub(crate) mod chain;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod hash;
pub(crate) mod headers;
mod locate;
pub(crate) mod matchers;
pub(crate) mod mesh;
pub(crate) mod path;
pub(crate) mod retry;
pub(crate) mod route;
pub(crate) mod spelling;
pub(crate) mod tokens;

/// How many conditions of policies were looked at on this thread.
#[cfg(test)]
pub(crate) fn evaluated() -> u64 {
    authorize::EVALUATED.with(std::cell::Cell::get)
}
