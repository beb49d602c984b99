//! The resources of one proxy, as the control plane would send them.

use std::collections::BTreeSet;

use mizzen_api::Key;
use mizzen_model::{ProxyView, Reader, Snapshot};
use mizzen_protos::Any;
use mizzen_translate::ResourceKind;
use mizzen_types::Name;

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// Its name.
    pub name: Name,
    /// Type URL and bytes.
    pub any: Any,
    /// The objects that were looked at for it and found.
    pub objects: BTreeSet<Key>,
}

/// The names of a proxy's resources of a kind.
pub fn list(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind) -> Vec<Name> {
    mizzen_translate::list(&Reader::new(snapshot), view, kind)
}

/// One resource of a proxy; `None` if it has none of that name.
pub fn build(snapshot: &Snapshot, view: &ProxyView, kind: ResourceKind, name: &Name) -> Option<Built> {
    let reader = Reader::new(snapshot);
    let any = mizzen_translate::build(&reader, view, kind, name)?.any;
    Some(Built { name: name.clone(), any, objects: reader.finish().objects() })
}
