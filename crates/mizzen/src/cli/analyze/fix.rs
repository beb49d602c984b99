//! `--fix`: what messages say would mend an object, made in the files' texts.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use mizzen_analyze::{Fix, Id, Message, items};
use mizzen_api::see_documents;

use super::{
    diff::{self, Line},
    edit,
    files::File,
};

/// What would be changed.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    changed: Vec<Changed>,
    /// What is left to a person, and why.
    pub(crate) left: Vec<(Message, String)>,
}

#[derive(Debug)]
struct Changed {
    name: Arc<str>,
    path: Option<PathBuf>,
    before: String,
    after: Vec<Line>,
    changes: usize,
}

/// Plans the changes of these messages in these files; `namespace` is that of objects that name none.
pub(crate) fn plan(files: &[File], namespace: &str, messages: &[&Message]) -> Plan {
    let mut plan = Plan::default();
    for file in files {
        let wanted: Vec<&Message> = messages.iter().copied().filter(|m| m.pos.file == file.name && m.fix.is_some()).collect();
        if !wanted.is_empty() {
            plan.file(file, namespace, &wanted);
        }
    }
    plan
}

impl Plan {
    fn file(&mut self, file: &File, namespace: &str, messages: &[&Message]) {
        let mut after = diff::lines(&file.text);
        let mut changes = 0;
        let mut places: BTreeMap<Id, usize> = BTreeMap::new();
        let mut count = 0;
        items(&file.text, &file.name, namespace, &mut |item| {
            places.entry(item.id.clone()).or_insert(count);
            count += 1;
        });
        let mut made: Vec<(&Id, &Fix)> = Vec::new();
        for message in messages {
            let Some(fix) = &message.fix else { continue };
            // Several messages may be mended by one change.
            if made.contains(&(&message.id, fix)) {
                continue;
            }
            let result = match places.get(&message.id) {
                Some(number) => change(&mut after, &file.name, *number, fix),
                None => Err("the object is no document of its own".to_owned()),
            };
            match result {
                Ok(()) => {
                    changes += 1;
                    made.push((&message.id, fix));
                }
                Err(why) => self.left.push(((*message).clone(), why)),
            }
        }
        if changes > 0 {
            self.changed.push(Changed { name: file.name.clone(), path: file.path.clone(), before: file.text.clone(), after, changes });
        }
    }

    /// All changes as a unified diff.
    pub(crate) fn diff(&self) -> String {
        self.changed.iter().map(|changed| diff::unified(&changed.name, &changed.before, &changed.after)).collect()
    }

    /// One line on how much there is.
    pub(crate) fn summary(&self, done: &str, hint: &str) -> String {
        let changes: usize = self.changed.iter().map(|changed| changed.changes).sum();
        let many = |count: usize, name: &str| if count == 1 { format!("one {name}") } else { format!("{count} {name}s") };
        let left = if self.left.is_empty() { String::new() } else { format!("; {} left", many(self.left.len(), "finding")) };
        match changes {
            0 => format!("Nothing is mended{left}."),
            _ if hint.is_empty() => format!("{} in {} {done}{left}.", many(changes, "change"), many(self.changed.len(), "file")),
            _ => format!("{} in {} {done}{left}. {hint}.", many(changes, "change"), many(self.changed.len(), "file")),
        }
    }

    /// The new texts, by files.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Arc<str>, String)> {
        self.changed.iter().map(|changed| (&changed.name, text(&changed.after)))
    }

    /// Changes the files. Each is there as it was, or as it is to be.
    ///
    /// # Errors
    /// If one cannot be written, or has changed since it was read.
    pub(crate) fn write(&self) -> Result<()> {
        if self.changed.iter().any(|changed| changed.path.is_none()) {
            bail!("--write: standard input cannot be changed");
        }
        for changed in &self.changed {
            let path = changed.path.as_deref().unwrap_or(Path::new(""));
            replace(path, &changed.before, &text(&changed.after)).with_context(|| format!("{}: cannot be changed", path.display()))?;
        }
        Ok(())
    }
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| &*line.text).collect()
}

/// All objects of a text, as far as it is YAML.
fn objects(text: &str, name: &Arc<str>) -> (usize, Vec<String>) {
    let mut all = Vec::new();
    let parsed = see_documents(text, name, &mut |seen| all.push(seen.source.to_json()));
    (parsed.objects.len(), all)
}

/// One change of one object of the file.
fn change(after: &mut Vec<Line>, name: &Arc<str>, number: usize, fix: &Fix) -> Result<(), String> {
    let (from, to) = document(&text(after), name, number);
    let window: Vec<String> = after[from..to].iter().map(|line| line.text.clone()).collect();
    let old = window.concat();
    // Alone in its window, or one of a list's.
    let (count, before) = objects(&old, name);
    let index = if before.len() == 1 { 0 } else { number };
    let mut found = None;
    let mut at = 0;
    see_documents(&old, name, &mut |seen| {
        if at == index {
            found = Some(edit::splice(&window, seen.node, fix));
        }
        at += 1;
    });
    let splice = found.ok_or("the object is no document of its own")??;
    let mut new = window;
    new.splice(splice.at..splice.at + splice.removed, splice.lines.iter().cloned());
    // What was written is read again, and must be what it was but for the change.
    let (count_after, mut all) = objects(&new.concat(), name);
    let value = |text: &String| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
    let expected = before.get(index).and_then(|old| edit::applied(&value(old), fix));
    let is_right = count == count_after && all.len() == before.len() && all.get(index).map(value) == expected && expected.is_some();
    if let (Some(now), Some(old)) = (all.get_mut(index), before.get(index)) {
        now.clone_from(old);
    }
    if !is_right || all != before {
        return Err("a change of its lines would change more than the field".to_owned());
    }
    let lines = splice.lines.into_iter().map(|text| Line { origin: None, text });
    after.splice(from + splice.at..from + splice.at + splice.removed, lines);
    Ok(())
}

/// The lines of the document that holds this object and no other; all of the file if it holds more.
fn document(text: &str, name: &Arc<str>, number: usize) -> (usize, usize) {
    let (mut at, mut found) = (0, None);
    see_documents(text, name, &mut |seen| {
        if at == number {
            found = seen.source.document().map(|(text, line)| (text.to_owned(), line as usize));
        }
        at += 1;
    });
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let all = (0, lines.len());
    let Some((document, from)) = found else { return all };
    let to = from + document.split_inclusive('\n').count();
    // What follows a marker in its line is no line of its own.
    if lines.get(from..to).is_some_and(|lines| lines.concat() == document) { (from, to) } else { all }
}

/// Puts a file in the place of another, under its rights and through links.
fn replace(path: &Path, before: &str, after: &str) -> Result<()> {
    let path = fs::canonicalize(path)?;
    if fs::read(&path)? != before.as_bytes() {
        bail!("it has changed since it was read");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let rights = fs::metadata(&path)?.permissions();
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.set_permissions(rights)?;
        file.write_all(after.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(())
}

#[cfg(test)]
mod tests;
