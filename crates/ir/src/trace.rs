//! Why a step decided as it did.

use std::fmt;

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How deep it lies below the step's own line.
    pub depth: u8,
    /// Whether this part matched.
    pub matched: bool,
    /// What was looked at, and what it was.
    pub text: String,
}

/// Where a step writes down its reasons, or nowhere: then no text is made.
#[derive(Debug, Default)]
pub struct Trace<'t> {
    notes: Option<&'t mut Vec<Note>>,
    depth: u8,
}

impl<'t> Trace<'t> {
    /// Nothing is written.
    pub fn off() -> Trace<'static> {
        Trace { notes: None, depth: 0 }
    }

    /// Reasons are added to `notes`.
    pub fn to(notes: &'t mut Vec<Note>) -> Trace<'t> {
        Trace { notes: Some(notes), depth: 0 }
    }

    /// Whether somebody wants reasons.
    pub fn is_on(&self) -> bool {
        self.notes.is_some()
    }

    pub(crate) fn note(&mut self, matched: bool, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(Note { depth: self.depth, matched, text: text() });
        }
    }

    pub(crate) fn deeper<R>(&mut self, f: impl FnOnce(&mut Trace<'_>) -> R) -> R {
        let mut inner = Trace { notes: self.notes.as_deref_mut(), depth: self.depth.saturating_add(1) };
        f(&mut inner)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.matched { '+' } else { '-' };
        write!(f, "{:indent$}{sign} {}", "", self.text, indent = usize::from(self.depth) * 2)
    }
}
