//! `mizzen authz`: policies and the calls that were seen.

pub(crate) mod check;
mod logs;
mod place;
mod record;
mod replay;
mod suggest;

use std::process::ExitCode;

use anyhow::Result;

/// What is done with calls that were seen.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuthzVerb {
    /// Run recorded calls through proposed policies: what would change?
    Replay(replay::ReplayArgs),
    /// Write the least policies that allow the calls that were seen, as YAML to review.
    Suggest(suggest::SuggestArgs),
}

pub(crate) fn run(place: &crate::cli::place::Where, verb: &AuthzVerb) -> Result<ExitCode> {
    match verb {
        AuthzVerb::Replay(args) => replay::run(place, args),
        AuthzVerb::Suggest(args) => suggest::run(place, args),
    }
}
