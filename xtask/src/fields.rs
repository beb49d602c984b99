//! Fields of the runtime configuration that are compiled and read by nobody: what looks supported and does nothing.
//!
//! By text: a field counts as read where its name stands after a dot and is not assigned to, or within a pattern of a struct, outside of tests and of the
//! code that compiles messages.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;

use crate::sources;

/// Where the fields are.
const DECLARED: [&str; 2] = ["crates/ir/src/config", "crates/ir/src/filter"];
/// Where they are read. Of the places where they are declared, only methods count: the rest there fills them.
const READ: [&str; 2] = ["crates/engine/src", "crates/dataplane/src"];
/// Where nothing counts: messages are compiled there, or it is tests.
const COMPILE: [&str; 1] = ["crates/ir/src/compile"];

/// A field, and where it is declared.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    owner: String,
    name: String,
    line: usize,
}

/// The problems found.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut declared: Vec<(String, Field)> = Vec::new();
    let mut read = BTreeSet::new();
    sources::walk(&root.join("crates"), &mut |path, text| {
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        let below = |folders: &[&str]| folders.iter().any(|folder| name.starts_with(&format!("{folder}/")));
        let tests = name.contains("/tests/") || name.ends_with("/tests.rs");
        if below(&DECLARED) {
            declared.extend(fields(text).into_iter().map(|field| (name.clone(), field)));
            read.extend(reads(&methods(&code(text))));
        } else if !tests && !below(&COMPILE) && (below(&READ) || name.starts_with("crates/ir/src/")) {
            read.extend(reads(&code(text)));
        }
    })?;
    Ok(problems(&declared, &read))
}

fn problems(declared: &[(String, Field)], read: &BTreeSet<String>) -> Vec<String> {
    let unread = declared.iter().filter(|(_, field)| !read.contains(&field.name));
    unread
        .map(|(file, Field { owner, name, line })| {
            format!("{file}:{line}: {owner}::{name} is compiled and read by nobody: act on it, warn of it or refuse it")
        })
        .collect()
}

/// The public fields of all structs.
fn fields(text: &str) -> Vec<Field> {
    let (mut owner, mut found) = (None, Vec::new());
    for (at, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            owner = Some(word(rest).to_owned());
        } else if line.starts_with('}') {
            owner = None;
        } else if let (Some(owner), Some(rest)) = (&owner, line.strip_prefix("    pub "))
            && !word(rest).is_empty()
            && rest[word(rest).len()..].starts_with(':')
        {
            found.push(Field { owner: owner.clone(), name: word(rest).to_owned(), line: at + 1 });
        }
    }
    found
}

/// Without comments and the module of tests, which stands last.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The blocks that begin with `impl`.
fn methods(code: &str) -> String {
    let (mut within, mut found) = (false, String::new());
    for line in code.lines() {
        within |= line.starts_with("impl");
        if within {
            found.push_str(line);
            found.push('\n');
        }
        within &= !line.starts_with('}');
    }
    found
}

/// The names that are read as fields.
fn reads(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices('.') {
        let rest = code[at + 1..].trim_start();
        let name = word(rest);
        let after = rest[name.len()..].trim_start();
        let assigned = after.starts_with('=') && !after.starts_with("==") && !after.starts_with("=>");
        if !name.is_empty() && !after.starts_with('(') && !assigned {
            found.insert(name.to_owned());
        }
    }
    for pattern in patterns(code) {
        found.extend(pattern.split(|c: char| !is_word(c)).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    found
}

/// What stands in the braces of patterns: those that leave fields out, and those to which something is bound or that an arm follows.
fn patterns(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(" {") {
        let owner = &code[..at];
        let owner = &owner[owner.rfind(|c: char| !is_word(c)).map_or(0, |before| before + 1)..];
        let Some(inside) = owner.starts_with(char::is_uppercase).then(|| block(&code[at + 2..])).flatten() else { continue };
        let after = code[at + 2 + inside.len() + 1..].trim_start_matches(|c: char| c == ')' || c == ',' || c.is_whitespace());
        let bound = after.starts_with('=') && !after.starts_with("==");
        if inside.trim_end().ends_with("..") || bound {
            found.push(inside);
        }
    }
    found
}

/// Up to the brace that closes what was opened before.
fn block(code: &str) -> Option<&str> {
    let mut depth = 1;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&code[..at]);
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(text: &str) -> &str {
    &text[..text.find(|c: char| !is_word(c)).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_read() {
        for (code, expected) in [
            ("let x = a.field;", true),
            ("a\n    .field\n    .iter()", true),
            ("match a.field { _ => {} }", true),
            ("a.b.field == 1", true),
            ("if let A { field, .. } = a {}", true),
            ("let A { b, field } = a;", true),
            ("Some(A { field: true, .. }) if x => y", true),
            ("match a { A { field: B { c } } => c }", true),
            ("a.field = 1;", false),
            ("a.field()", false),
            ("a.fields", false),
            ("A { field: 1, ..A::default() }", false),
            ("let a = A { field };", false),
            ("let a = A { field: 1 };\nb == c", false),
            ("struct A {\n    pub field: u8,\n}\n", false),
            ("fn field() {}", false),
        ] {
            assert_eq!(reads(code).contains("field"), expected, "{code}");
        }
    }

    #[test]
    fn where_it_counts() {
        let text = "fn fill() { a.filled }\nimpl A {\n    fn get(&self) { self.got }\n}\nfn more() { a.more }\n// a.told\n#[cfg(test)]\nmod tests {\n    a.tested\n}\n";
        assert_eq!(Vec::from_iter(reads(&code(text))), ["filled", "got", "more"]);
        assert_eq!(Vec::from_iter(reads(&methods(&code(text)))), ["got"]);
    }

    #[test]
    fn declarations() {
        let text = "/// A.\npub struct A {\n    /// B.\n    pub b: u8,\n    c: u8,\n    pub(crate) d: u8,\n}\n\nimpl A {\n    pub fn e() {}\n}\n\npub struct F(pub u8);\n";
        assert_eq!(fields(text), [Field { owner: "A".into(), name: "b".into(), line: 4 }]);
    }

    #[test]
    fn unread_fields() {
        let declared: Vec<_> =
            ["b", "c"].iter().map(|name| ("a.rs".to_owned(), Field { owner: "A".into(), name: (*name).into(), line: 7 })).collect();
        let told = |read: &[&str]| problems(&declared, &read.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(told(&["b", "c"]), [""; 0]);
        assert_eq!(told(&["b"]), ["a.rs:7: A::c is compiled and read by nobody: act on it, warn of it or refuse it"]);
    }
}
