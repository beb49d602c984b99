//! What `up` tells the person who started it: one line each, on standard error, coloured only on a terminal.

use owo_colors::OwoColorize;

/// A step that was taken.
pub(crate) fn step(text: &str) {
    anstream::eprintln!("{} {text}", "mizzen:".dimmed());
}

/// Something good to know: a program is ready, a file is in force.
pub(crate) fn good(text: &str) {
    anstream::eprintln!("{} {}", "mizzen:".dimmed(), text.green());
}

/// Something that is known and not acted on.
pub(crate) fn warning(text: &str) {
    anstream::eprintln!("{} {text}", "warning:".yellow());
}

/// Something that is refused.
pub(crate) fn problem(text: &str) {
    anstream::eprintln!("{} {text}", "refused:".red());
}

/// Something that failed.
pub(crate) fn error(text: &str) {
    anstream::eprintln!("{} {text}", "error:".red().bold());
}
