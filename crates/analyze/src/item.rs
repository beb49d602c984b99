//! Documents as they come in.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::{Kind, Node, Object, Pos, Problem, Refusal, Source, see_documents};
use mizzen_types::Name;

use crate::{Id, Sort};

/// A document, for as long as it is looked at.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    /// The object.
    pub id: Id,
    /// Where it starts; no file if it comes from none.
    pub pos: Pos,
    /// Its values; empty if they could not be read.
    pub node: &'a Node,
    /// From which they can be read again.
    pub source: Source,
    /// Why the mesh refuses it.
    pub problems: &'a [Problem],
    /// What the mesh knows of it and does not act on.
    pub warnings: &'a [Problem],
}

impl<'a> Item<'a> {
    /// A document of this tree; what names no namespace is in `namespace`.
    pub fn of(node: &'a Node, source: Source, file: &Arc<str>, namespace: &str) -> Item<'a> {
        Item { id: id_of(node, namespace), pos: Pos::new(file.clone(), node.line, node.column), node, source, problems: &[], warnings: &[] }
    }
}

fn id_of(node: &Node, namespace: &str) -> Id {
    let text = |path: &str| node.at(path).and_then(Node::text).unwrap_or_default();
    let (group, _) = text("apiVersion").split_once('/').unwrap_or_default();
    let kind = text("kind");
    let sort = Sort::of(group, kind);
    let written = text("metadata.namespace");
    let place = if sort.is_of_cluster() {
        ""
    } else if written.is_empty() {
        namespace
    } else {
        written
    };
    match sort {
        Sort::Other => Id { kind: kind.into(), namespace: place.into(), name: text("metadata.name").into(), group: group.into() },
        known => Id::new(known, place, text("metadata.name")),
    }
}

/// Reads a text and shows all that is in it. What names no namespace is in `namespace`; a document that is no YAML is shown without values, with what is
/// wrong with it. The objects that the mesh takes are returned.
pub fn items(text: &str, file: &Arc<str>, namespace: &str, see: &mut dyn FnMut(Item<'_>)) -> Vec<Object> {
    let mut seen = BTreeSet::new();
    let parsed = see_documents(text, file, &mut |document| {
        seen.insert(document.number);
        let item = Item::of(document.node, document.source.clone(), file, namespace);
        see(Item { problems: problems(document.object), warnings: document.warnings, ..item });
    });
    // What has no tree of its own: texts that are no YAML, and settings of the mesh in a config map.
    for (_, object) in parsed.objects.iter().enumerate().filter(|(number, _)| !seen.contains(number)) {
        let Some(first) = problems(object).first() else { continue };
        let id = match &first.object {
            Some(key) if key.kind == Kind::MeshConfig => Id::new(Sort::MeshConfig, key.namespace.clone(), key.name.clone()),
            Some(key) => id_of_key(key),
            None => Id { kind: "File".into(), name: Name::from(&**file), ..Id::default() },
        };
        let (node, source) = (&Node::default(), Source::default());
        see(Item { id, pos: first.pos.clone(), node, source, problems: problems(object), warnings: &[] });
    }
    parsed.objects.into_iter().filter_map(Result::ok).collect()
}

/// What an object of the mesh is called here.
pub fn id_of_key(key: &mizzen_api::Key) -> Id {
    let sort = if key.kind == Kind::MeshConfig { Sort::MeshConfig } else { Sort::of(key.kind.group(), key.kind.name()) };
    Id::new(sort, key.namespace.clone(), key.name.clone())
}

fn problems(object: &Result<Object, Refusal>) -> &[Problem] {
    object.as_ref().err().map_or(&[], |refusal| &refusal.problems)
}
