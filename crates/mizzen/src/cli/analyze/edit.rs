//! One change of one field, as a change of lines, so that comments and layout stay.
//!
//! What is found by looking at lines may be wrong: YAML is richer than that. So nothing here is trusted: whoever changes the lines reads the result again,
//! and takes it only if it says what [`applied`] says.

use mizzen_analyze::Fix;
use mizzen_api::{Node, Value};
use serde_json::Value as Json;

/// Lines that take the place of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Splice {
    /// The first line, from 0.
    pub(crate) at: usize,
    /// How many lines go.
    pub(crate) removed: usize,
    /// What comes, each with its end.
    pub(crate) lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The steps of `spec.http[0]`, `metadata.labels["a/b"]`.
fn steps(path: &str) -> Option<Vec<Step>> {
    let (mut rest, mut steps) = (path, Vec::new());
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]")?;
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(indexed) = rest.strip_prefix('[') {
            let (index, after) = indexed.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            rest = after;
        } else {
            let (key, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            if key.is_empty() {
                return None;
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        }
    }
    (!steps.is_empty()).then_some(steps)
}

fn path_of(fix: &Fix) -> &str {
    match fix {
        Fix::Set { path, .. } | Fix::Remove { path } | Fix::Rename { path, .. } => path,
    }
}

const NO_PATH: &str = "the field cannot be found";
const FLOW: &str = "it is written in braces or brackets";

/// The change of these lines, of which this is the tree.
///
/// # Errors
/// Why it is left to a person.
pub(crate) fn splice(lines: &[String], node: &Node, fix: &Fix) -> Result<Splice, &'static str> {
    let steps = steps(path_of(fix)).ok_or(NO_PATH)?;
    match fix {
        Fix::Set { value, .. } => set(lines, node, &steps, value),
        Fix::Remove { .. } => remove(lines, node, &steps),
        Fix::Rename { key, .. } => rename(lines, node, &steps, key),
    }
}

/// The value below, if there is one.
fn below<'a>(node: &'a Node, step: &Step) -> Option<&'a Node> {
    match step {
        Step::Key(key) => node.get(key),
        Step::Index(index) => node.items().get(*index),
    }
}

/// The value at the end of these steps, if all of them are in block style.
fn walk<'a>(lines: &[String], root: &'a Node, steps: &[Step]) -> Result<&'a Node, &'static str> {
    let mut node = root;
    for step in steps {
        check_block(lines, node)?;
        node = below(node, step).ok_or(NO_PATH)?;
    }
    Ok(node)
}

/// A place in the lines: the line, and the byte in it.
fn place(lines: &[String], line: u32, column: u32) -> Result<(usize, usize), &'static str> {
    let number = line.checked_sub(1).ok_or(NO_PATH)? as usize;
    let text = lines.get(number).ok_or(NO_PATH)?;
    let before = column.checked_sub(1).ok_or(NO_PATH)? as usize;
    let at = text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(before);
    Ok((number, at.ok_or(NO_PATH)?))
}

fn check_block(lines: &[String], node: &Node) -> Result<(), &'static str> {
    if !matches!(node.value, Value::Map(_) | Value::List(_)) {
        return Ok(());
    }
    let (line, at) = place(lines, node.line, node.column)?;
    match lines[line].as_bytes().get(at) {
        Some(b'{' | b'[') => Err(FLOW),
        Some(b'&' | b'*' | b'!') => Err("it has an anchor, an alias or a tag"),
        _ => Ok(()),
    }
}

/// The text of a scalar that stands in this line from here on: where it begins and ends.
fn scalar(line: &str, from: usize) -> Result<(usize, usize), &'static str> {
    let body = line.trim_end_matches(['\n', '\r']);
    let rest = body.get(from..).ok_or(NO_PATH)?;
    let start = from + (rest.len() - rest.trim_start().len());
    let rest = &body[start..];
    let end = match rest.chars().next() {
        None | Some('#') => 0,
        Some('{' | '[') => return Err(FLOW),
        Some('&' | '*' | '!') => return Err("it has an anchor, an alias or a tag"),
        Some('|' | '>') => return Err("it is a text of several lines"),
        Some('"') => {
            let mut escaped = false;
            let end = rest.bytes().skip(1).position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            });
            end.ok_or("it is a text of several lines")? + 2
        }
        Some('\'') => quoted(rest).ok_or("it is a text of several lines")?,
        Some(_) => rest.find(" #").map_or(rest.len(), |end| rest[..end].trim_end().len()),
    };
    Ok((start, start + end))
}

/// The length of a text in single quotes, in which two of them stand for one.
fn quoted(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1).peekable();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'\'' && bytes.next_if(|(_, next)| *next == b'\'').is_none() {
            return Some(at + 1);
        }
    }
    None
}

/// Where the key of an entry stands: line, begin and end, and where its value may begin.
fn key_place(lines: &[String], parent: &Node, key: &str) -> Result<(usize, usize, usize, usize), &'static str> {
    let entry = parent.entries().iter().find(|entry| *entry.key == *key).ok_or(NO_PATH)?;
    let (line, from) = place(lines, entry.line, entry.column)?;
    let rest = &lines[line][from..];
    let written = [key.to_owned(), format!("\"{key}\""), format!("'{key}'")];
    let length = written.iter().find(|text| rest.starts_with(&***text)).map(String::len).ok_or("its key is written in another way")?;
    let colon = rest[length..].find(':').filter(|at| rest[length..][..*at].trim().is_empty()).ok_or(NO_PATH)?;
    Ok((line, from, from + length, from + length + colon + 1))
}

fn rename(lines: &[String], root: &Node, steps: &[Step], key: &str) -> Result<Splice, &'static str> {
    let Some((Step::Key(old), above)) = steps.split_last() else { return Err(NO_PATH) };
    let parent = walk(lines, root, above)?;
    check_block(lines, parent)?;
    let (line, from, to, _) = key_place(lines, parent, old)?;
    let text = &lines[line];
    Ok(Splice { at: line, removed: 1, lines: vec![format!("{}{key}{}", &text[..from], &text[to..])] })
}

fn set(lines: &[String], root: &Node, steps: &[Step], value: &str) -> Result<Splice, &'static str> {
    let mut node = root;
    for (number, step) in steps.iter().enumerate() {
        check_block(lines, node)?;
        match below(node, step) {
            Some(next) if number + 1 < steps.len() => {
                // `labels:` with nothing behind it.
                if matches!(next.value, Value::Null)
                    && let Step::Key(key) = step
                {
                    let (line, from, _, after) = key_place(lines, node, key)?;
                    let (start, end) = scalar(&lines[line], after)?;
                    let indent = lines[line][..from].chars().count() + 2;
                    return if start == end { insert(lines, line + 1, indent, &steps[number + 1..], value) } else { Err(NO_PATH) };
                }
                node = next;
            }
            Some(_) => return replace(lines, node, step, value),
            None => {
                let Some(last) = node.entries().last() else { return Err(NO_PATH) };
                let (line, from) = place(lines, last.line, last.column)?;
                let end = end_of(lines, line, from, matches!(last.value.value, Value::List(_)));
                return insert(lines, end, from, &steps[number..], value);
            }
        }
    }
    Err(NO_PATH)
}

/// A scalar in the place of another.
fn replace(lines: &[String], parent: &Node, step: &Step, value: &str) -> Result<Splice, &'static str> {
    let old = below(parent, step).ok_or(NO_PATH)?;
    if matches!(old.value, Value::Map(_) | Value::List(_)) {
        return Err("its value is no scalar");
    }
    let (line, after) = match step {
        Step::Key(key) => key_place(lines, parent, key).map(|(line, _, _, after)| (line, after))?,
        Step::Index(_) => place(lines, old.line, old.column)?,
    };
    let text = &lines[line];
    let (start, end) = scalar(text, after)?;
    // Nothing is written there yet: not even a blank.
    let (before, gap) = if start == end { (&text[..after], " ") } else { (&text[..start], "") };
    let rest = if start == end { &text[after..] } else { &text[end..] };
    Ok(Splice { at: line, removed: 1, lines: vec![format!("{before}{gap}{value}{rest}")] })
}

/// New lines for keys that are not there, before the line `at`.
fn insert(lines: &[String], at: usize, indent: usize, steps: &[Step], value: &str) -> Result<Splice, &'static str> {
    // As the lines above end.
    let above = lines.iter().take(at).rev().find(|line| line.ends_with('\n'));
    let end = if above.is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
    let mut new = Vec::new();
    for (depth, step) in steps.iter().enumerate() {
        let Step::Key(key) = step else { return Err(NO_PATH) };
        let written = if depth + 1 == steps.len() { format!(" {value}") } else { String::new() };
        new.push(format!("{}{key}:{written}{end}", " ".repeat(indent + 2 * depth)));
    }
    // A last line without an end gets one.
    match at.checked_sub(1).and_then(|last| lines.get(last)) {
        Some(last) if !last.ends_with('\n') => {
            new.insert(0, format!("{last}{end}"));
            Ok(Splice { at: at - 1, removed: 1, lines: new })
        }
        _ => Ok(Splice { at, removed: 0, lines: new }),
    }
}

/// The line after the last one of a value whose key or dash stands in `line`, so far indented.
fn end_of(lines: &[String], line: usize, indent: usize, is_list: bool) -> usize {
    let mut end = line + 1;
    for (number, text) in lines.iter().enumerate().skip(line + 1) {
        let trimmed = text.trim();
        let depth = text.len() - text.trim_start().len();
        let is_item = trimmed == "-" || trimmed.starts_with("- ");
        match trimmed.is_empty() {
            true => {}
            false if depth > indent || (depth == indent && is_list && is_item) => end = number + 1,
            false => break,
        }
    }
    end
}

fn remove(lines: &[String], root: &Node, steps: &[Step]) -> Result<Splice, &'static str> {
    let Some((last, above)) = steps.split_last() else { return Err("nothing of the object would be left") };
    let parent = walk(lines, root, above)?;
    check_block(lines, parent)?;
    // Where nothing else is left, the whole goes: an empty map is another thing in YAML.
    if parent.entries().len() + parent.items().len() == 1 {
        return remove(lines, root, above);
    }
    match last {
        Step::Index(index) => {
            let item = parent.items().get(*index).ok_or(NO_PATH)?;
            let (line, from) = place(lines, item.line, item.column)?;
            let before = &lines[line][..from];
            if before.trim() != "-" {
                return Err("its list is written in a way of its own");
            }
            let dash = before.len() - before.trim_start().len();
            Ok(Splice { at: line, removed: end_of(lines, line, dash, false) - line, lines: Vec::new() })
        }
        Step::Key(key) => {
            let (line, from, ..) = key_place(lines, parent, key)?;
            let is_list = parent.get(key).is_some_and(|value| matches!(value.value, Value::List(_)));
            let end = end_of(lines, line, from, is_list);
            let before = &lines[line][..from];
            if before.trim().is_empty() {
                return Ok(Splice { at: line, removed: end - line, lines: Vec::new() });
            }
            // The first entry of a list's item: the next one comes behind the dash.
            let next = parent.entries().get(1).ok_or(NO_PATH)?;
            let (next_line, next_from) = place(lines, next.line, next.column)?;
            if before.trim() != "-" || next_line < end || next_from != from {
                return Err("it stands in one line with others");
            }
            let mut new: Vec<String> = lines[end..next_line].to_vec();
            new.push(format!("{before}{}", &lines[next_line][next_from..]));
            Ok(Splice { at: line, removed: next_line + 1 - line, lines: new })
        }
    }
}

/// The values with the change, by which a change of lines is judged; `None` if it cannot be made.
pub(crate) fn applied(value: &Json, fix: &Fix) -> Option<Json> {
    let mut value = value.clone();
    let steps = steps(path_of(fix))?;
    match fix {
        Fix::Set { value: new, .. } => {
            let mut node = &mut value;
            for step in &steps {
                if let (Step::Key(_), Json::Null) = (step, &*node) {
                    *node = Json::Object(serde_json::Map::new());
                }
                node = match step {
                    Step::Key(key) => node.as_object_mut()?.entry(key.clone()).or_insert(Json::Null),
                    Step::Index(index) => node.as_array_mut()?.get_mut(*index)?,
                };
            }
            *node = serde_saphyr::from_str(new).ok()?;
        }
        Fix::Rename { key, .. } => {
            let (Step::Key(old), above) = steps.split_last()? else { return None };
            let map = at(&mut value, above)?.as_object_mut()?;
            let moved = map.shift_remove(old)?;
            if map.insert(key.clone(), moved).is_some() {
                return None;
            }
        }
        Fix::Remove { .. } => take(&mut value, &steps)?,
    }
    Some(value)
}

fn at<'a>(value: &'a mut Json, steps: &[Step]) -> Option<&'a mut Json> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.as_object_mut()?.get_mut(key),
        Step::Index(index) => value.as_array_mut()?.get_mut(*index),
    })
}

fn take(value: &mut Json, steps: &[Step]) -> Option<()> {
    let (last, above) = steps.split_last()?;
    let parent = at(value, above)?;
    let is_empty = match (last, &mut *parent) {
        (Step::Key(key), Json::Object(map)) => {
            map.shift_remove(key)?;
            map.is_empty()
        }
        (Step::Index(index), Json::Array(list)) if *index < list.len() => {
            list.remove(*index);
            list.is_empty()
        }
        _ => return None,
    };
    if is_empty { take(value, above) } else { Some(()) }
}
