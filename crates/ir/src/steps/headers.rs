//! Changes to headers, and the rendering of templates.

use mizzen_http::Head;

use crate::config::{Command, HeaderAction, HeaderOp, HeaderOps, HeaderSource, Part, Template};

/// Where the values of commands come from.
pub trait Values {
    /// Appends the value to `out`; false if there is none, and nothing was appended.
    fn value(&self, command: &Command, out: &mut Vec<u8>) -> bool;
}

impl Template {
    /// Renders it; a command without a value leaves `missing`. Whether every command had a value.
    pub fn render(&self, values: &dyn Values, missing: &[u8], out: &mut Vec<u8>) -> bool {
        let mut whole = true;
        for part in self.parts.iter() {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Command(command, limit) => {
                    let at = out.len();
                    if !values.value(command, out) {
                        out.extend_from_slice(missing);
                        whole = false;
                    } else if let Some(limit) = limit {
                        out.truncate(at.saturating_add(*limit).min(out.len()));
                    }
                }
            }
        }
        whole
    }

    /// Its one command, if it is nothing else.
    pub fn only_command(&self) -> Option<&Command> {
        match &*self.parts {
            [Part::Command(command, None)] => Some(command),
            _ => None,
        }
    }
}

impl HeaderOps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Applies changes to `head`, which is the request's or the response's, as `which` says: commands on its own headers read it as it is at
/// that moment, everything else is asked of `values`. What would not be a valid header is left out.
pub fn apply_headers(ops: &HeaderOps, head: &mut Head, which: HeaderSource, values: &dyn Values) {
    let mut text = Vec::new();
    for op in ops.ops.iter() {
        match op {
            HeaderOp::Remove(name) => {
                head.remove(name);
            }
            HeaderOp::Set { name, value, action, keep_empty } => {
                text.clear();
                value.render(&WithHead { head, which, values }, b"", &mut text);
                if text.is_empty() && !keep_empty {
                    continue;
                }
                let there = head.contains(name);
                match action {
                    HeaderAction::Append => head.append(name, &text),
                    HeaderAction::AddIfAbsent => !there && head.append(name, &text),
                    HeaderAction::Overwrite => head.set(name, &text),
                    HeaderAction::OverwriteIfExists => there && head.set(name, &text),
                };
            }
        }
    }
}

/// Values of which some come from the head that is being changed.
struct WithHead<'a> {
    head: &'a Head,
    which: HeaderSource,
    values: &'a dyn Values,
}

impl Values for WithHead<'_> {
    fn value(&self, command: &Command, out: &mut Vec<u8>) -> bool {
        let Command::Header { from, name, or } = command else { return self.values.value(command, out) };
        if *from != self.which {
            return self.values.value(command, out);
        }
        let value = self.head.get(name).or_else(|| self.head.get(or.as_deref()?));
        value.is_some_and(|v| {
            out.extend_from_slice(v);
            true
        })
    }
}
