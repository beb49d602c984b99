//! Access logs.

use std::sync::Arc;

use super::{HeaderMatch, Template};

/// One access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where the lines go.
    pub target: LogTarget,
    /// What a line holds.
    pub format: LogFormat,
    /// Which requests are logged; none: all.
    pub filter: Option<LogFilter>,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFormat {
    /// A text, its newline included.
    Text(Template),
    /// A JSON object, keys in order; a newline follows.
    Json {
        /// The members.
        members: Arc<[(Arc<str>, LogValue)]>,
        /// Whether members without a value are left out; else they are `null`.
        omit_empty: bool,
    },
}

/// A member of a JSON line.
#[derive(Clone, Debug, PartialEq)]
pub enum LogValue {
    /// A text; if it is one command alone, its value keeps its own type (a number, or null where there is none).
    Text(Template),
    /// A nested object.
    Object(Arc<[(Arc<str>, LogValue)]>),
    /// A list.
    List(Arc<[LogValue]>),
    /// A fixed number.
    Number(f64),
    /// A fixed boolean.
    Bool(bool),
    /// Null.
    Null,
}

/// Which requests are logged.
#[derive(Clone, Debug, PartialEq)]
pub enum LogFilter {
    /// By status.
    Status(Comparison, u32),
    /// By duration in milliseconds.
    Duration(Comparison, u32),
    /// By the request's header.
    Header(HeaderMatch),
    /// If one of these response flags is set (short names); empty: any flag.
    Flags(Arc<[Arc<str>]>),
    /// By the gRPC status; the flag: all but these.
    Grpc(Arc<[i32]>, bool),
    /// All of these.
    And(Arc<[LogFilter]>),
    /// One of these.
    Or(Arc<[LogFilter]>),
}

/// A comparison with a fixed number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Less or equal.
    Le,
    /// Not equal.
    Ne,
}
