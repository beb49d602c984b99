//! What is said, and of what.

use std::fmt;

use mizzen_api::{Pos, core::SYSTEM_NAMESPACES};
use mizzen_types::Name;

use crate::{Code, Sort};

/// What identifies an object of any kind; displayed as `Kind namespace/name`. The order is that of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The `kind:` as written.
    pub kind: Name,
    /// The namespace; empty if it belongs to none.
    pub namespace: Name,
    /// The name.
    pub name: Name,
    /// The group, empty for Kubernetes' own.
    pub group: Name,
}

impl Id {
    /// Of a kind that is told apart.
    pub fn new(sort: Sort, namespace: impl Into<Name>, name: impl Into<Name>) -> Id {
        let (group, kind) = sort.names();
        Id { kind, namespace: namespace.into(), name: name.into(), group }
    }

    /// The kind.
    pub fn sort(&self) -> Sort {
        Sort::of(&self.group, &self.kind)
    }

    /// Whether it belongs to Kubernetes itself, where Istio does not look.
    pub fn is_of_system(&self) -> bool {
        let namespace = if self.sort() == Sort::Namespace { &self.name } else { &self.namespace };
        SYSTEM_NAMESPACES.contains(&&**namespace)
    }

    /// `namespace/name`, or the name of what belongs to no namespace.
    pub fn place(&self) -> String {
        if self.namespace.is_empty() { self.name.to_string() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.place())
    }
}

/// One finding, displayed on one line in istioctl's form: `Level [CODE] (Kind namespace/name FILE:LINE) text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which it is.
    pub code: &'static Code,
    /// The object.
    pub id: Id,
    /// Where it stands; no file if the object comes from none.
    pub pos: Pos,
    /// The field's path (`spec.http[0].route[1].destination.host`); empty for the object as a whole.
    pub field: String,
    /// What is found, on one line.
    pub text: String,
    /// What would mend it, if there is only one way.
    pub fix: Option<Fix>,
}

/// A change of one field of the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fix {
    /// The field with this path gets this value, a scalar as YAML has it; it is added if it is not written.
    Set {
        /// The path.
        path: String,
        /// The value.
        value: String,
    },
    /// The field with this path goes, with all that is below it.
    Remove {
        /// The path.
        path: String,
    },
    /// The field with this path gets another name.
    Rename {
        /// The path.
        path: String,
        /// The new name of its last step.
        key: String,
    },
}

impl Message {
    fn order(&self) -> impl Ord + '_ {
        (&self.pos, &self.id, self.code.id, &self.field, &self.text)
    }
}

/// By place, object and code.
impl Ord for Message {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order()).then_with(|| self.fix.cmp(&other.fix))
    }
}

impl PartialOrd for Message {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] ({}", self.code.level, self.code.id, self.id)?;
        if !self.pos.file.is_empty() {
            write!(f, " {}", self.pos)?;
        }
        write!(f, ") {}", self.text)
    }
}
