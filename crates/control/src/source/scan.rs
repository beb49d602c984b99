//! Which files there are, and which of them have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{ErrorKind, Read},
    ops::Bound,
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
    /// Links: what they lead to may change without a word of the kernel.
    links: BTreeSet<PathBuf>,
    work: Work,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Files that were read.
    pub(super) reads: usize,
    /// Files and folders whose stamps were compared.
    pub(super) stamps: usize,
}

impl Scan {
    /// Reads what has changed since the last call.
    pub(super) fn changes(&mut self, roots: &[PathBuf]) -> Vec<(Arc<str>, Content)> {
        let mut listing = Listing::default();
        for root in roots {
            listing.root(root);
        }
        self.compare(roots, roots, listing)
    }

    /// The same if nothing but these paths, what is below them, and what links lead to may have changed.
    pub(super) fn changes_at(&mut self, roots: &[PathBuf], paths: BTreeSet<PathBuf>) -> Vec<(Arc<str>, Content)> {
        let mut scopes: Vec<PathBuf> = Vec::new();
        // In order, so that a folder comes before what is in it.
        for path in paths.into_iter().chain(self.links.iter().cloned()).collect::<BTreeSet<_>>() {
            if !scopes.last().is_some_and(|last| path.starts_with(last)) {
                scopes.push(path);
            }
        }
        let mut listing = Listing::default();
        for path in &scopes {
            listing.path(path, roots);
        }
        self.compare(roots, &scopes, listing)
    }

    /// Whether there are links, whose targets may lie anywhere.
    pub(super) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// What was done so far.
    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// What a listing of these folders and files shows, compared with what was seen of them.
    fn compare(&mut self, roots: &[PathBuf], scopes: &[PathBuf], mut listing: Listing) -> Vec<(Arc<str>, Content)> {
        self.work.stamps += listing.stamps;
        let mut before = BTreeMap::new();
        for scope in scopes {
            before.extend(split(&mut self.seen, scope));
        }
        let within = |path: &PathBuf| scopes.iter().any(|scope| path.starts_with(scope));
        let (broken, outside): (BTreeSet<_>, _) = std::mem::take(&mut self.broken).into_iter().partition(|path| within(path));
        self.broken = outside;
        let shields: BTreeSet<&PathBuf> = self.broken.iter().chain(listing.broken.keys()).collect();
        let mut changes = Vec::new();
        for (path, stamp) in before.iter().filter(|(path, _)| !listing.files.contains_key(*path)) {
            // What lies in a folder that cannot be listed now counts as unchanged.
            if shielded(path, roots, &shields) {
                self.seen.insert(path.clone(), *stamp);
            } else {
                changes.push((name(path), Content::Gone));
            }
        }
        for (path, stamp) in &listing.files {
            if before.get(path) != Some(stamp) {
                self.work.reads += 1;
                changes.push((name(path), read(path, stamp.size)));
            }
        }
        for (path, reason) in &listing.broken {
            if !broken.contains(path) && !self.broken.contains(path) {
                changes.push((name(path), Content::Unreadable(reason.clone(), String::new())));
            }
        }
        for path in broken.iter().filter(|path| !listing.broken.contains_key(*path) && !listing.files.contains_key(*path)) {
            changes.push((name(path), Content::Gone));
        }
        let (dangling, outside): (BTreeSet<_>, _) = std::mem::take(&mut self.dangling).into_iter().partition(|path| within(path));
        self.dangling = outside;
        for path in listing.dangling.difference(&dangling) {
            changes.push((name(path), Content::Dangling));
        }
        let there = |path: &PathBuf| listing.dangling.contains(path) || listing.files.contains_key(path);
        changes.extend(dangling.iter().filter(|path| !there(path)).map(|path| (name(path), Content::Gone)));
        self.links.retain(|path| !within(path));
        self.links.append(&mut listing.links);
        self.dangling.append(&mut listing.dangling);
        self.broken.extend(listing.broken.into_keys());
        self.seen.append(&mut listing.files);
        changes
    }
}

/// Takes out a path and all that is below it; they stand in a row.
fn split(seen: &mut BTreeMap<PathBuf, Stamp>, scope: &Path) -> BTreeMap<PathBuf, Stamp> {
    let range = (Bound::Included(scope), Bound::Unbounded);
    let within: Vec<PathBuf> =
        seen.range::<Path, _>(range).map(|(path, _)| path).take_while(|path| path.starts_with(scope)).cloned().collect();
    within.into_iter().filter_map(|path| seen.remove_entry(&path)).collect()
}

/// Whether a path lies in a folder that cannot be listed, so that nobody knows whether it is gone; or in a root that is not there: a folder that was
/// moved away says nothing of what lay in it.
fn shielded(path: &Path, roots: &[PathBuf], broken: &BTreeSet<&PathBuf>) -> bool {
    let shields = |broken: &Path| broken.exists() || (path != broken && roots.iter().any(|root| root == broken));
    broken.iter().any(|broken| path.starts_with(broken) && shields(broken))
}

fn name(path: &Path) -> Arc<str> {
    path.to_string_lossy().into()
}

/// Reads a file of about this size.
fn read(path: &Path, size: u64) -> Content {
    // One byte more than is read tells the parser that there is too much.
    let most = MAX_TEXT + 1;
    // Room for one byte more than there is, in which its end is found.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(most).min(MAX_TEXT) + 1);
    let result = File::open(path).and_then(|file| file.take(most as u64).read_to_end(&mut bytes));
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
    links: BTreeSet<PathBuf>,
    stamps: usize,
    /// Folders on the way, by device and inode, against circles of links.
    within: Vec<(u64, u64)>,
}

impl Listing {
    /// A folder, or a single file of any name.
    fn root(&mut self, root: &Path) {
        self.stamps += 1;
        match fs::metadata(root) {
            Ok(meta) if meta.is_dir() => self.folder(root, &meta),
            Ok(meta) => self.file(root.to_owned(), &meta),
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
            if !is_hidden(Path::new(&entry.file_name())) {
                let (path, is_link) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_symlink()));
                // What is no link is looked at from its folder: the kernel need not walk there again.
                let meta = if is_link { fs::metadata(&path) } else { entry.metadata() };
                self.entry(path, is_link, meta.ok());
            }
        }
        self.within.pop();
    }

    /// What a folder has in it; what is known of it, or of what it leads to.
    fn entry(&mut self, path: PathBuf, is_link: bool, meta: Option<fs::Metadata>) {
        self.stamps += 1;
        if is_link {
            self.links.insert(path.clone());
        }
        match meta {
            Some(meta) if meta.is_dir() => self.folder(&path, &meta),
            Some(meta) if is_manifest(&path) => self.file(path, &meta),
            // A link that leads nowhere, or a file that is gone again, is no file.
            None if is_link => _ = self.dangling.insert(path),
            _ => {}
        }
    }

    /// One path below a root, as listing the root would find it.
    fn path(&mut self, path: &Path, roots: &[PathBuf]) {
        let Some(root) = roots.iter().filter(|root| path.starts_with(root)).max_by_key(|root| root.components().count()) else { return };
        if path == root {
            return self.root(root);
        }
        let mut folders: Vec<&Path> = path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)).collect();
        folders.reverse();
        let below = path.strip_prefix(root).unwrap_or(path);
        if below.components().any(|part| is_hidden(Path::new(part.as_os_str()))) || folders.len() > MAX_FOLDERS {
            return;
        }
        let mut within = Vec::new();
        for folder in folders {
            let Ok(meta) = fs::metadata(folder) else {
                // A root that is not there says nothing of what lay in it.
                if folder == root {
                    self.root(root);
                }
                return;
            };
            if within.contains(&(meta.dev(), meta.ino())) {
                return;
            }
            within.push((meta.dev(), meta.ino()));
        }
        self.within = within;
        let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        self.entry(path.to_owned(), is_link, fs::metadata(path).ok());
        self.within.clear();
    }

    fn file(&mut self, path: PathBuf, meta: &fs::Metadata) {
        if meta.is_file() {
            let stamp = Stamp {
                device: meta.dev(),
                inode: meta.ino(),
                size: meta.size(),
                modified: (meta.mtime(), meta.mtime_nsec()),
                changed: (meta.ctime(), meta.ctime_nsec()),
            };
            self.files.insert(path, stamp);
        }
    }
}

fn is_hidden(name: &Path) -> bool {
    name.as_os_str().as_encoded_bytes().starts_with(b".")
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

    #[test]
    fn what_is_not_concerned_is_not_looked_at() {
        let base = tempfile::tempdir().unwrap();
        let roots = [base.path().to_owned()];
        let file = |folder: usize, file: usize| base.path().join(format!("{folder}/{file}.yaml"));
        for folder in 0..20 {
            fs::create_dir(base.path().join(folder.to_string())).unwrap();
            (0..10).for_each(|number| fs::write(file(folder, number), "a").unwrap());
        }
        let mut scan = Scan::default();
        assert_eq!(scan.changes(&roots).len(), 200);
        let mut cost = |paths: Option<&[PathBuf]>| {
            let before = scan.work();
            let changes = match paths {
                None => scan.changes(&roots),
                Some(paths) => scan.changes_at(&roots, paths.iter().cloned().collect()),
            };
            (changes.len(), scan.work().reads - before.reads, scan.work().stamps - before.stamps)
        };
        assert_eq!(cost(None), (0, 0, 221), "a poll reads no file");
        assert_eq!(cost(Some(&[])), (0, 0, 0));
        fs::write(file(7, 7), "changed").unwrap();
        assert_eq!(cost(Some(&[file(7, 7), base.path().join("7/.7.yaml.new")])), (1, 1, 1));
        fs::remove_file(file(8, 8)).unwrap();
        fs::rename(base.path().join("9"), base.path().join("new")).unwrap();
        let moved = ["8/8.yaml", "9", "new"].map(|name| base.path().join(name));
        assert_eq!(cost(Some(&moved)), (21, 10, 13), "gone, gone with its folder, and there again");
        assert_eq!(cost(None), (0, 0, 220));
        // A link may lead to what nobody watches.
        std::os::unix::fs::symlink(base.path().join("7/.target"), file(7, 10)).unwrap();
        assert_eq!(cost(Some(&[file(7, 10)])), (1, 0, 1), "it dangles");
        fs::write(base.path().join("7/.target"), "a").unwrap();
        assert_eq!(cost(Some(&[])), (1, 1, 1));
        assert_eq!(cost(Some(&[])), (0, 0, 1));
    }

    #[test]
    fn parts_show_what_the_whole_shows() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        // Circles of links, entered from within.
        std::os::unix::fs::symlink(&root, root.join("a/b/up")).unwrap();
        fs::write(root.join("a/b/c.yaml"), "c").unwrap();
        let roots = [root.clone()];
        let (mut parts, mut whole) = (Scan::default(), Scan::default());
        parts.changes(&roots);
        whole.changes(&roots);
        for paths in [
            vec!["a/b"],
            vec!["a/b/up/a"],
            vec!["a/b/up"],
            vec!["a", "a/b/c.yaml"],
            vec![".hidden/x.yaml"],
            vec!["nowhere/x.yaml"],
            vec![""],
        ] {
            let paths = paths.iter().map(|path| root.join(path)).collect();
            assert!(parts.changes_at(&roots, paths).is_empty());
            assert_eq!(parts.seen, whole.seen);
        }
        fs::rename(&root, base.path().join("away")).unwrap();
        let told = parts.changes_at(&roots, [root.join("a/b/c.yaml")].into());
        assert!(matches!(&told[..], [(path, Content::Unreadable(..))] if **path == *root.to_string_lossy()), "{told:?}");
        assert_eq!(parts.seen.len(), 1, "what lay in it counts as unchanged");
        assert!(parts.changes(&roots).is_empty(), "it was told");
    }
}
