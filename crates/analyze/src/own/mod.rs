//! What one object says by itself.

mod rules;
mod schema;

use mizzen_api::{Node, Pos};

use crate::{Code, Facts, Fix, Item, Message};

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
    own.found
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
