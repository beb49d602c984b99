//! What is wrong with a text, and where.

use std::{fmt, sync::Arc};

use crate::Key;

/// A place in a file. Lines and columns count from 1; 0 stands for the file as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// The file, as its reader names it.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl Pos {
    /// A place in `file`.
    pub fn new(file: impl Into<Arc<str>>, line: u32, column: u32) -> Self {
        Pos { file: file.into(), line, column }
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// One fault or warning, displayed as one line: `file:line: Kind namespace/name: field.path: message`,
/// without the place if it is in no file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub struct Problem {
    /// Where.
    pub pos: Pos,
    /// The object, if the document could be told which one it is.
    pub object: Option<Key>,
    /// The field's path, such as `spec.http[0].timeout`; empty for the document as a whole.
    pub field: String,
    /// What is wrong, without a full stop.
    pub message: String,
}

/// In each refusal of what is known and not built yet.
pub(crate) const NOT_YET: &str = "not supported yet";

impl Problem {
    /// Whether this is no fault of the object: it says what the mesh does not do yet.
    pub fn is_unsupported(&self) -> bool {
        self.message.contains(NOT_YET)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pos.file.is_empty() {
            write!(f, "{}: ", self.pos)?;
        }
        if let Some(key) = &self.object {
            write!(f, "{key}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", OneLine(&self.field))?;
        }
        OneLine(&self.message).fmt(f)
    }
}

/// Names of fields are anybody's: one with a line's end in it must not look like a line of its own.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            let text = part.trim_end_matches(char::is_control);
            write!(f, "{text}{}", part[text.len()..].escape_default())?;
        }
        Ok(())
    }
}
