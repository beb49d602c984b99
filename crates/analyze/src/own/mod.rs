//! What one object says by itself.

mod annotations;
mod filters;
mod proxy_config;
mod remote;
mod routes;
mod rules;
mod schema;
mod status;
mod verify;
mod versions;
mod warnings;
pub(crate) mod workloads;

use std::collections::BTreeSet;

use mizzen_api::{Node, Pos, Problem, Source};

pub(crate) use routes::is_internal;
pub use versions::takes_first_party_tokens;

use crate::{Code, Facts, Fix, Id, Item, Message, Sort, code, facts, id_of_key};

/// The object that is looked at, and where is said what is found.
#[derive(Debug)]
pub(crate) struct Own<'a> {
    pub(crate) item: &'a Item<'a>,
    pub(crate) facts: &'a Facts,
    found: Vec<Message>,
}

/// All that is found.
pub(crate) fn look(item: &Item<'_>, facts: &Facts) -> Vec<Message> {
    let mut own = Own { item, facts, found: Vec::new() };
    schema::look(&mut own);
    rules::look(&mut own);
    if !item.id.is_of_system() {
        annotations::look(&mut own);
        remote::look(&mut own);
        status::look(&mut own);
        versions::look(&mut own);
        workloads::look(&mut own);
        warnings::look(&mut own);
        of_istio(&mut own);
    }
    own.found
}

fn of_istio(own: &mut Own<'_>) {
    match own.item.id.sort() {
        Sort::VirtualService => routes::look(own),
        Sort::DestinationRule => verify::look(own),
        Sort::EnvoyFilter => filters::look(own),
        _ => {}
    }
}

/// What is said of a document that is refused, where only the reasons are left of it.
pub fn refused(problems: &[Problem]) -> Vec<Message> {
    let Some(first) = problems.first() else { return Vec::new() };
    let (node, facts) = (&facts::NOTHING, Facts::default());
    let item = Item { id: id_of(first), pos: first.pos.clone(), node, source: Source::default(), problems, warnings: &[] };
    let mut own = Own { item: &item, facts: &facts, found: Vec::new() };
    schema::look(&mut own);
    own.found
}

/// What the mesh warns of that takes the objects: fields that are not acted on, and what has no effect.
pub fn warned(problems: &[Problem]) -> Vec<Message> {
    let message = |problem: &Problem| {
        let code = if schema::is_not_acted_on(problem) { &code::MZ0002 } else { schema::of_tls(problem).unwrap_or(&code::MZ0004) };
        Message { code, id: id_of(problem), pos: problem.pos.clone(), field: problem.field.clone(), text: schema::text(problem), fix: None }
    };
    problems.iter().map(message).collect()
}

/// What is said of an object because of which a proxy refuses something.
pub fn refused_by_proxy(id: Id, pos: Pos, text: String) -> Message {
    Message { code: &code::MZ0005, id, pos, field: String::new(), text, fix: None }
}

/// Adds messages about what nothing is said of yet.
pub fn add(messages: &mut Vec<Message>, more: Vec<Message>) {
    let known: BTreeSet<(Id, String)> = messages.iter().map(|message| (message.id.clone(), message.field.clone())).collect();
    messages.extend(more.into_iter().filter(|message| !known.contains(&(message.id.clone(), message.field.clone()))));
    messages.sort();
}

fn id_of(problem: &Problem) -> Id {
    let file = || Id { kind: "File".into(), name: problem.pos.file.clone(), ..Id::default() };
    problem.object.as_ref().map_or_else(file, id_of_key)
}

impl<'a> Own<'a> {
    /// The value with this path.
    pub(crate) fn at(&self, path: &str) -> Option<&'a Node> {
        self.item.node.at(path)
    }

    /// Says something about the field with this path.
    pub(crate) fn say(&mut self, code: &'static Code, field: impl Into<String>, text: impl Into<String>) {
        self.say_with(code, field, text, None);
    }

    /// The same, with what would mend it.
    pub(crate) fn say_with(&mut self, code: &'static Code, field: impl Into<String>, text: impl Into<String>, fix: Option<Fix>) {
        let field = field.into();
        let pos = if self.item.pos.line == 0 {
            self.item.pos.clone()
        } else {
            let (line, column) = self.item.node.position(&field);
            Pos { file: self.item.pos.file.clone(), line, column }
        };
        self.found.push(Message { code, id: self.item.id.clone(), pos, field, text: text.into(), fix });
    }

    /// Says something at a place that is known.
    pub(crate) fn say_at(&mut self, code: &'static Code, pos: Pos, field: String, text: String) {
        self.found.push(Message { code, id: self.item.id.clone(), pos, field, text, fix: None });
    }
}
