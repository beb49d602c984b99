//! Which files there are, and which of them have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use mizzen_api::MAX_TEXT;

use super::fold::Content;

/// How deep folders may nest.
const MAX_FOLDERS: usize = 32;

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The files as they were seen last.
#[derive(Debug, Default)]
pub(super) struct Scan {
    seen: BTreeMap<PathBuf, Stamp>,
    /// Paths that could not be listed, which are told once.
    broken: BTreeSet<PathBuf>,
    /// Links that lead nowhere, likewise.
    dangling: BTreeSet<PathBuf>,
}

impl Scan {
    /// Reads what has changed since the last call.
    pub(super) fn changes(&mut self, roots: &[PathBuf]) -> Vec<(Arc<str>, Content)> {
        let mut listing = Listing::default();
        for root in roots {
            listing.root(root);
        }
        let mut changes = Vec::new();
        for path in self.seen.keys().filter(|path| !listing.files.contains_key(*path) && !listing.shielded(path, roots)) {
            changes.push((name(path), Content::Gone));
        }
        for (path, stamp) in &listing.files {
            if self.seen.get(path) != Some(stamp) {
                changes.push((name(path), read(path)));
            }
        }
        for (path, reason) in &listing.broken {
            if !self.broken.contains(path) {
                changes.push((name(path), Content::Unreadable(reason.clone(), String::new())));
            }
        }
        for path in self.broken.iter().filter(|path| !listing.broken.contains_key(*path) && !listing.files.contains_key(*path)) {
            changes.push((name(path), Content::Gone));
        }
        for path in listing.dangling.difference(&self.dangling) {
            changes.push((name(path), Content::Dangling));
        }
        let there = |path: &PathBuf| listing.dangling.contains(path) || listing.files.contains_key(path);
        changes.extend(self.dangling.iter().filter(|path| !there(path)).map(|path| (name(path), Content::Gone)));
        self.dangling = std::mem::take(&mut listing.dangling);
        // What lies in a folder that cannot be listed now counts as unchanged.
        for (path, stamp) in std::mem::take(&mut self.seen) {
            if listing.shielded(&path, roots) {
                listing.files.entry(path).or_insert(stamp);
            }
        }
        self.seen = listing.files;
        self.broken = listing.broken.into_keys().collect();
        changes
    }
}

fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

fn read(path: &Path) -> Content {
    let mut bytes = Vec::new();
    // One byte more than is read tells the parser that there is too much.
    let result = File::open(path).and_then(|file| file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes));
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Content::Gone,
        Err(error) => Content::Unreadable(format!("cannot be read: {error}"), String::new()),
        Ok(_) => match String::from_utf8(bytes) {
            Ok(text) => Content::Text(text),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let reason = match good + 3 > MAX_TEXT {
                    true => format!("has more than {MAX_TEXT} bytes"),
                    false => format!("is not UTF-8 text, from byte {good} on"),
                };
                Content::Unreadable(reason, String::from_utf8_lossy(error.as_bytes()).into_owned())
            }
        },
    }
}

#[derive(Default)]
struct Listing {
    files: BTreeMap<PathBuf, Stamp>,
    broken: BTreeMap<PathBuf, String>,
    dangling: BTreeSet<PathBuf>,
    /// Folders on the way, by device and inode, against circles of links.
    within: Vec<(u64, u64)>,
}

impl Listing {
    /// A folder, or a single file of any name.
    fn root(&mut self, root: &Path) {
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => self.folder(root, &meta),
            Ok(meta) => self.file(root, &meta),
            Err(error) => drop(self.broken.insert(root.to_owned(), format!("cannot be read: {error}"))),
        }
    }

    fn folder(&mut self, folder: &Path, meta: &fs::Metadata) {
        let identity = (meta.dev(), meta.ino());
        if self.within.len() >= MAX_FOLDERS || self.within.contains(&identity) {
            return;
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return drop(self.broken.insert(folder.to_owned(), format!("cannot be read: {error}"))),
        };
        self.within.push(identity);
        for entry in entries.flatten() {
            let path = entry.path();
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if hidden {
                continue;
            }
            // A link that leads nowhere, or a file that is gone again, is no file.
            let Ok(meta) = fs::metadata(&path) else {
                if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                    self.dangling.insert(path);
                }
                continue;
            };
            if meta.is_dir() {
                self.folder(&path, &meta);
            } else if is_manifest(&path) {
                self.file(&path, &meta);
            }
        }
        self.within.pop();
    }

    fn file(&mut self, path: &Path, meta: &fs::Metadata) {
        if meta.is_file() {
            let stamp = Stamp {
                device: meta.dev(),
                inode: meta.ino(),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            };
            self.files.insert(path.to_owned(), stamp);
        }
    }

    /// Whether a file lies in a folder that cannot be listed, so that nobody knows whether it is gone; or in a root that is not there: a folder
    /// that was moved away says nothing of what lay in it.
    fn shielded(&self, path: &Path, roots: &[PathBuf]) -> bool {
        let shields = |broken: &PathBuf| broken.exists() || (path != broken && roots.contains(broken));
        self.broken.keys().any(|broken| path.starts_with(broken) && shields(broken))
    }
}

/// `.yaml`, `.yml` and `.json`, in any case; editors' own files have other endings.
fn is_manifest(path: &Path) -> bool {
    path.extension()
        .and_then(|ending| ending.to_str())
        .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_told_once() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().to_owned();
        for link in ["a.yaml", "folder", ".hidden.yaml"] {
            std::os::unix::fs::symlink("nowhere", root.join(link)).unwrap();
        }
        let mut scan = Scan::default();
        let mut changes = || -> Vec<String> {
            let told = scan.changes(std::slice::from_ref(&root)).into_iter();
            told.map(|(path, content)| format!("{} {content:?}", path.rsplit('/').next().unwrap())).collect()
        };
        assert_eq!(changes(), ["a.yaml Dangling", "folder Dangling"]);
        assert!(changes().is_empty());
        fs::remove_file(root.join("folder")).unwrap();
        assert_eq!(changes(), ["folder Gone"]);
        fs::write(root.join("nowhere"), "a").unwrap();
        assert_eq!(changes(), ["a.yaml Text(\"a\")"]);
        fs::remove_file(root.join("nowhere")).unwrap();
        assert_eq!(changes(), ["a.yaml Gone", "a.yaml Dangling"]);
    }

    #[test]
    fn a_folder_that_was_moved_away_says_nothing_of_its_files() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("shop");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a.yaml"), "a").unwrap();
        fs::write(root.join("b.YAML"), "b").unwrap();
        let mut scan = Scan::default();
        let mut changes = || -> Vec<String> {
            let told = scan.changes(std::slice::from_ref(&root)).into_iter();
            told.map(|(path, content)| {
                let file = path.rsplit('/').next().unwrap_or_default();
                let what = match content {
                    Content::Text(text) => text,
                    Content::Gone => "gone".to_owned(),
                    Content::Unreadable(..) => "unreadable".to_owned(),
                    Content::Dangling => "dangling".to_owned(),
                };
                format!("{file} {what}")
            })
            .collect()
        };
        assert_eq!(changes(), ["a.yaml a", "b.YAML b"]);
        fs::rename(&root, base.path().join("away")).unwrap();
        assert_eq!(changes(), ["shop unreadable"]);
        assert!(changes().is_empty());
        fs::rename(base.path().join("away"), &root).unwrap();
        assert_eq!(changes(), ["shop gone"], "it can be read again");
        fs::remove_file(root.join("a.yaml")).unwrap();
        assert_eq!(changes(), ["a.yaml gone"]);
    }
}
