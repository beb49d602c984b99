//! What each field of Istio's kinds is: type, class, default, meaning.
//!
//! One table for each message, shared where Istio shares the message. The readers are led by it ([`crate::read::Fields`]): it tells an
//! unknown field from one that is harmless or refused, and has the ranges and the names of values. The schema for the API server (`crd.rs`)
//! and the list of fields for people (`list.rs`) are made of it.

mod crd;
mod kinds;
mod list;
mod mesh;
mod networking;
mod request_authentication;
mod routing;
mod security;
mod shared;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;

pub use crd::crd;
pub(crate) use kinds::*;
pub use list::{Field, fields};
pub(crate) use mesh::*;
pub(crate) use networking::*;
pub(crate) use request_authentication::*;
pub(crate) use routing::*;
pub(crate) use security::*;
pub(crate) use shared::*;
pub(crate) use traffic::*;

/// Why a field is refused that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Ignoring it could change who may talk.
    Who,
    /// Ignoring it could change where traffic goes.
    Where,
    /// Ignoring it could change what is sent.
    What,
    /// Ignoring it could change what runs.
    Runs,
}

impl Why {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Why::Who => "is not supported yet, and ignoring it could change who may talk",
            Why::Where => "is not supported yet, and ignoring it could change where traffic goes",
            Why::What => "is not supported yet, and ignoring it could change what is sent",
            Why::Runs => "is not supported yet, and ignoring it could change what runs",
        }
    }
}

/// Whether a field is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It is.
    Done,
    /// It is not, and an object that has it is taken with a warning.
    Harmless,
    /// It is not, and an object that has it is refused.
    Refused(Why),
}

impl Class {
    /// `done`, `harmless` or `refused`.
    pub fn name(self) -> &'static str {
        match self {
            Class::Done => "done",
            Class::Harmless => "harmless",
            Class::Refused(_) => "refused",
        }
    }
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Type {
    Text,
    /// A text of which the API server takes at most so many characters, so that expressions about it have a bounded cost.
    Short(u32),
    Bool,
    /// A whole number from one to the other.
    Int(i64, i64),
    /// A number from one to the other.
    Number(f64, f64),
    Duration(Least),
    Enum(&'static Names),
    List(&'static Type),
    /// Names of the user's own lead to values.
    Map(&'static Type),
    Message(&'static Message),
    /// A message that is harmless or refused as a whole, so that its fields do not matter.
    Open,
}

impl Type {
    /// What the items of a list or the values of a map are.
    pub(crate) fn inner(&self) -> Option<&'static Type> {
        match self {
            Type::List(of) | Type::Map(of) => Some(of),
            _ => None,
        }
    }
}

/// A port's number.
pub(crate) const PORT: Type = Type::Int(1, 65535);
/// An unsigned number that Istio keeps in a signed 32-bit field.
pub(crate) const COUNT: Type = Type::Int(0, i32::MAX as i64);
/// An unsigned 32-bit number.
pub(crate) const U32: Type = Type::Int(0, u32::MAX as i64);
/// A share in whole percent.
pub(crate) const PERCENT: Type = Type::Int(0, 100);

/// The shortest duration that is taken; none is negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Least {
    /// Any.
    Zero,
    /// 1 ms, or zero.
    MillisecondOrZero,
    /// 1 ms.
    Millisecond,
    /// 1 s, and whole seconds.
    Second,
}

/// The names of an enumeration's values.
#[derive(Debug)]
pub(crate) struct Names {
    /// Why those are refused that are not supported.
    pub(crate) why: Why,
    pub(crate) names: &'static [Name],
}

impl Names {
    /// Whether these are the names that a reader has.
    pub(crate) fn are<T>(&self, read: &[(&str, i64, Option<T>)]) -> bool {
        let same = |(ours, theirs): (&Name, &(&str, i64, Option<T>))| {
            (ours.name, ours.number, ours.supported) == (theirs.0, theirs.1, theirs.2.is_some())
        };
        self.names.len() == read.len() && self.names.iter().zip(read).all(same)
    }
}

/// One value of an enumeration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) name: &'static str,
    /// Protojson's number for it.
    pub(crate) number: i64,
    pub(crate) supported: bool,
}

/// Names as a reader has them, without what they stand for. Those that stand for nothing are not supported.
pub(crate) const fn names<T: Copy, const N: usize>(read: &[(&'static str, i64, Option<T>); N]) -> [Name; N] {
    let mut names = [Name { name: "", number: 0, supported: false }; N];
    let mut i = 0;
    while i < N {
        names[i] = Name { name: read[i].0, number: read[i].1, supported: read[i].2.is_some() };
        i += 1;
    }
    names
}

/// A kind of message: its fields.
#[derive(Debug)]
pub(crate) struct Message {
    /// Istio's name for it.
    pub(crate) name: &'static str,
    pub(crate) rows: &'static [Row],
    /// Of each of these sets, one field at most may be written.
    pub(crate) one_of: &'static [&'static [&'static str]],
    /// What else must hold, and the API server can check.
    pub(crate) rules: &'static [Rule],
    /// The same, where the message stands in no list. The API server adds up what expressions cost, counts one in a list as often as an
    /// object could hold it, and takes no definition beyond its bound.
    pub(crate) rules_outside_lists: &'static [Rule],
}

/// What a message is that has nothing but rows.
const PLAIN: Message = Message { name: "", rows: &[], one_of: &[], rules: &[], rules_outside_lists: &[] };

impl Message {
    pub(crate) fn row(&self, name: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.rows.iter().map(|row| row.name)
    }
}

/// What must hold, as an expression for the API server. The readers check it by themselves.
#[derive(Debug)]
pub(crate) struct Rule {
    /// In CEL, about `self`.
    pub(crate) cel: &'static str,
    /// What the API server says if it does not hold.
    pub(crate) message: &'static str,
}

/// A field.
#[derive(Debug)]
pub(crate) struct Row {
    /// Protojson's name.
    pub(crate) name: &'static str,
    pub(crate) of: Type,
    pub(crate) class: Class,
    /// What it is for, in a sentence.
    pub(crate) text: &'static str,
    pub(crate) required: bool,
    /// The value that holds if it is not written, as it would be written; empty: see `otherwise`.
    pub(crate) default: &'static str,
    /// In words what holds if it is not written; empty: nothing in particular.
    pub(crate) otherwise: &'static str,
    /// The warning, if it is harmless.
    pub(crate) warning: &'static str,
    /// Of a list that must have an item.
    pub(crate) filled: bool,
    /// The API server takes no more items or entries.
    pub(crate) most: Option<u32>,
    /// The field by which the API server tells a list's items apart.
    pub(crate) key: Option<&'static str>,
    /// About the whole value.
    pub(crate) rules: &'static [Rule],
}

const fn row(name: &'static str, of: Type, class: Class, text: &'static str) -> Row {
    Row {
        name,
        of,
        class,
        text,
        required: false,
        default: "",
        otherwise: "",
        warning: "is not acted on yet",
        filled: false,
        most: None,
        key: None,
        rules: &[],
    }
}

/// A field that is acted on.
const fn done(name: &'static str, of: Type, text: &'static str) -> Row {
    row(name, of, Class::Done, text)
}

/// A field that is not acted on, which is harmless.
const fn harmless(name: &'static str, of: Type, text: &'static str) -> Row {
    row(name, of, Class::Harmless, text)
}

/// A field that is not acted on, which matters.
const fn refused(why: Why, name: &'static str, of: Type, text: &'static str) -> Row {
    row(name, of, Class::Refused(why), text)
}

impl Row {
    const fn required(self) -> Row {
        Row { required: true, ..self }
    }

    const fn default(self, default: &'static str) -> Row {
        Row { default, ..self }
    }

    const fn otherwise(self, otherwise: &'static str) -> Row {
        Row { otherwise, ..self }
    }

    const fn filled(self) -> Row {
        Row { filled: true, ..self }
    }

    const fn warning(self, warning: &'static str) -> Row {
        Row { warning, ..self }
    }

    const fn key(self, key: &'static str) -> Row {
        Row { key: Some(key), ..self }
    }

    const fn most(self, most: u32) -> Row {
        Row { most: Some(most), ..self }
    }

    const fn rules(self, rules: &'static [Rule]) -> Row {
        Row { rules, ..self }
    }
}
