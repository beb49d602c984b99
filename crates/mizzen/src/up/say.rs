//! What `up` tells the person who started it: one line each, on standard error, coloured only on a terminal.

use std::{fmt::Arguments, io::Write};

use mizzen_analyze::{Level, Message};
use mizzen_host::{Exit, LogFile};
use owo_colors::OwoColorize;

/// A step that was taken.
pub(crate) fn step(text: &str) {
    line(format_args!("{} {text}", "mizzen:".dimmed()));
}

/// Something good to know: a program is ready, a file is in force.
pub(crate) fn good(text: &str) {
    line(format_args!("{} {}", "mizzen:".dimmed(), text.green()));
}

/// Something that is known and not acted on.
pub(crate) fn warning(text: &str) {
    line(format_args!("{} {text}", "warning:".yellow()));
}

/// Something that is refused.
pub(crate) fn problem(text: &str) {
    line(format_args!("{} {text}", "refused:".red()));
}

/// Something that is found wrong with objects that are in force.
pub(crate) fn finding(message: &Message) {
    let (text, level) = (message.to_string(), message.code.level.name());
    let rest = text.strip_prefix(level).unwrap_or(&text);
    match message.code.level {
        Level::Error => line(format_args!("{}{rest}", level.red())),
        _ => line(format_args!("{}{rest}", level.yellow())),
    }
}

/// Something that failed.
pub(crate) fn error(text: &str) {
    line(format_args!("{} {text}", "error:".red().bold()));
}

/// A terminal that was closed is no reason to end, and `eprintln` would panic.
pub(crate) fn line(text: Arguments<'_>) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// How a process ended and, if that was no success, the last line of its log: most programs say there why.
pub(crate) async fn end(exit: Exit, log: &LogFile) -> String {
    match log.last_line().await.filter(|_| !exit.success()) {
        Some(line) => format!("{exit}; its last line: {line}"),
        None => exit.to_string(),
    }
}
