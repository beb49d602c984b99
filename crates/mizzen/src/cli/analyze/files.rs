//! The files that are looked at: those that are named, those of folders, and standard input.

use std::{
    collections::BTreeSet,
    fs,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};

/// By what files of YAML and JSON are known in folders.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];
/// How deep folders may nest.
const MAX_FOLDERS: usize = 32;
/// Standard input.
const INPUT: &str = "-";

/// A file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// As messages name it.
    pub(crate) name: Arc<str>,
    /// Where it lies; `None` for standard input.
    pub(crate) path: Option<PathBuf>,
    /// What is in it.
    pub(crate) text: String,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    /// In the order in which they were named, those of a folder by name. None is there twice.
    pub(crate) files: Vec<File>,
    /// Files that were named and are left out for their extension.
    pub(crate) skipped: Vec<PathBuf>,
    seen: BTreeSet<PathBuf>,
}

/// Reads files, folders (with those below if `recursive`) and `-`.
///
/// # Errors
/// If one is not there, cannot be read, or is no text.
pub(crate) fn gather(paths: &[PathBuf], recursive: bool) -> Result<Gathered> {
    let mut all = Gathered::default();
    for path in paths {
        if path.as_os_str() == INPUT {
            all.input()?;
            continue;
        }
        let shown = path.display();
        let meta = fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("{shown}: there is no such file or folder"),
            _ => anyhow::anyhow!("{shown}: cannot be read: {error}"),
        })?;
        if meta.is_dir() {
            all.folder(path, recursive, 0)?;
        } else if meta.is_file() && !is_manifest(path) {
            all.skipped.push(path.clone());
        } else {
            all.file(path)?;
        }
    }
    Ok(all)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| EXTENSIONS.contains(&extension))
}

impl Gathered {
    fn input(&mut self) -> Result<()> {
        if !self.seen.insert(PathBuf::from(INPUT)) {
            return Ok(());
        }
        let mut input = std::io::stdin();
        if input.is_terminal() {
            eprintln!("mizzen: reading from standard input");
        }
        let mut text = String::new();
        input.read_to_string(&mut text).context("standard input cannot be read")?;
        self.files.push(File { name: INPUT.into(), path: None, text });
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(canonical) {
            return Ok(());
        }
        let bytes = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let Ok(text) = String::from_utf8(bytes) else { bail!("{}: is not UTF-8 text", path.display()) };
        self.files.push(File { name: path.to_string_lossy().into(), path: Some(path.to_owned()), text });
        Ok(())
    }

    /// Names that start with a dot are those of editors and of version control.
    fn folder(&mut self, folder: &Path, recursive: bool, depth: usize) -> Result<()> {
        let unreadable = || format!("{}: cannot be read", folder.display());
        if depth > MAX_FOLDERS {
            bail!("{}: folders nest more than {MAX_FOLDERS} deep", folder.display());
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                paths.push(entry.path());
            }
        }
        paths.sort();
        for path in paths {
            let is_folder = fs::metadata(&path).is_ok_and(|meta| meta.is_dir());
            if is_folder && recursive {
                self.folder(&path, recursive, depth + 1)?;
            } else if !is_folder && is_manifest(&path) {
                self.file(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("below")).expect("a folder");
        for name in ["b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml", "below/d.yaml"] {
            fs::write(at(name), name).expect("a file");
        }
        let check = |paths: &[&str], recursive, expected: &[&str], skipped: usize| {
            let paths: Vec<PathBuf> = paths.iter().map(|path| at(path)).collect();
            let found = gather(&paths, recursive).expect("files");
            let texts: Vec<&str> = found.files.iter().map(|file| &*file.text).collect();
            assert_eq!((&texts[..], found.skipped.len()), (expected, skipped), "{paths:?}");
        };
        check(&[""], false, &["a.yml", "b.yaml", "c.json"], 0);
        check(&[""], true, &["a.yml", "b.yaml", "below/d.yaml", "c.json"], 0);
        check(&["c.json", "below", "c.json", "notes.txt"], false, &["c.json", "below/d.yaml"], 1);
        fs::write(at("below/e.yaml"), b"\xff").expect("a file");
        for (path, expected) in [("none.yaml", "there is no such file or folder"), ("below", "is not UTF-8 text")] {
            let error = gather(&[at(path)], false).expect_err("a fault").to_string();
            assert!(error.contains(expected) && error.contains(folder.path().to_str().expect("a path")), "{error}");
        }
    }
}
