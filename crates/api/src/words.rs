//! Names and other words of a text, for messages about them.

use std::borrow::Cow;

use crate::source::shorten;

/// Protojson's name of a field: `port_level_mtls` is `portLevelMtls`.
pub(crate) fn camel(name: &str) -> Cow<'_, str> {
    if !name.contains('_') {
        return name.into();
    }
    let mut camel = String::with_capacity(name.len());
    let mut up = false;
    for c in name.chars() {
        match c {
            '_' => up = true,
            c if up => {
                camel.push(c.to_ascii_uppercase());
                up = false;
            }
            c => camel.push(c),
        }
    }
    camel.into()
}

/// The candidate that a misspelt name means most likely.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let limit = (name.chars().count() / 3).clamp(1, 3);
    let scored = candidates.map(|c| (strsim::osa_distance(&name.to_lowercase(), &c.to_lowercase()), c));
    scored.filter(|(score, _)| *score <= limit).min().map(|(_, candidate)| candidate)
}

/// A quoted, shortened text for a message.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", shorten(text))
}
