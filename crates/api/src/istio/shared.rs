//! Small types that several of Istio's kinds share.

use mizzen_types::NamespacedName;

/// A text pattern of an AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// The whole text.
    Exact(String),
    /// `pre*`, without the star.
    Prefix(String),
    /// `*suf`, without the star.
    Suffix(String),
    /// `*`: any text that is not empty.
    Present,
}

/// A text matcher of a VirtualService.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StringMatch {
    /// The whole text.
    Exact(String),
    /// A prefix.
    Prefix(String),
    /// An RE2 expression over the whole text; it compiles.
    Regex(String),
    /// `{}`: there is such a header or parameter.
    Present,
}

/// To whom a resource is visible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportTo {
    /// `*`: all namespaces.
    All,
    /// `.`: its own namespace.
    Own,
    /// `~`: nobody.
    Nobody,
    /// One namespace.
    Namespace(String),
}

impl ExportTo {
    /// Whether a resource of namespace `own` with this list is visible in namespace `other`. An empty list is the mesh's default, taken as `*`.
    pub fn visible(list: &[ExportTo], own: &str, other: &str) -> bool {
        list.is_empty()
            || list.iter().any(|to| match to {
                ExportTo::All => true,
                ExportTo::Own => own == other,
                ExportTo::Nobody => false,
                ExportTo::Namespace(name) => name == other,
            })
    }
}

/// What a VirtualService is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRef {
    /// `mesh`: the sidecars.
    Mesh,
    /// A Gateway; a name without a namespace is completed by that of the VirtualService.
    Named(NamespacedName),
}

/// Operations on a message's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// Set, replacing what is there.
    pub set: std::collections::BTreeMap<String, String>,
    /// Added to what is there.
    pub add: std::collections::BTreeMap<String, String>,
    /// Removed.
    pub remove: Vec<String>,
}

/// Header operations on both messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Before the request goes to its destination.
    pub request: HeaderOps,
    /// Before the response goes to the caller.
    pub response: HeaderOps,
}
