//! The last good version of each object on disk, for the next start.
//!
//! Pods and secrets are left out: pods are written anew by whoever runs them, and secrets do not belong on a disk.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use mizzen_api::{Key, Kind, Object, Pos, parse_documents, parse_mesh_config};

use super::Event;

/// A file's name has at most 255 bytes, its end included.
const NAME: usize = 240;

/// A folder with one file for each object.
#[derive(Debug)]
pub(super) struct LastGood {
    folder: PathBuf,
    /// What is there already, until the first events have come.
    loaded: BTreeMap<Key, Arc<Object>>,
}

/// What a file holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    kind: String,
    file: String,
    line: u32,
    object: serde_json::Value,
}

impl LastGood {
    /// Opens a folder, and makes it if there is none.
    pub(super) fn open(folder: &Path) -> io::Result<LastGood> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(LastGood { folder: folder.to_owned(), loaded: BTreeMap::new() })
    }

    /// All objects; what cannot be read is left out, and said.
    pub(super) fn load(&mut self) -> Vec<Arc<Object>> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
        paths.sort();
        let mut objects = Vec::new();
        for path in paths {
            match fs::read_to_string(&path).ok().and_then(|text| read(&text)) {
                Some(object) => objects.push(Arc::new(object)),
                None => tracing::warn!(file = %path.display(), "no last good version can be read from this file"),
            }
        }
        self.loaded = objects.iter().map(|object| (object.key(), object.clone())).collect();
        objects
    }

    /// Keeps what these events say. A failure is said and costs only the memory of it.
    pub(super) fn keep(&mut self, events: &[Event]) {
        let loaded = std::mem::take(&mut self.loaded);
        for event in events {
            let (key, result) = match event {
                Event::Apply(object) if loaded.get(&object.key()).is_some_and(|before| same(before, object)) => continue,
                Event::Apply(object) if keeps(object.kind()) => (object.key(), self.write(object)),
                Event::Delete(key) if keeps(key.kind) => (key.clone(), self.delete(key)),
                _ => continue,
            };
            if let Err(error) = result {
                tracing::warn!(%key, %error, "the last good version cannot be kept");
            }
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        // Names are checked: no slash is in them. They may be longer than a file's, though, and are not read from there.
        let name = format!("{}.{}.{}", key.kind, key.namespace, key.name.replace('/', "%"));
        if name.len() <= NAME {
            return self.folder.join(format!("{name}.json"));
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        self.folder.join(format!("{}.{:016x}.json", key.kind, hasher.finish()))
    }

    fn write(&self, object: &Object) -> io::Result<()> {
        let meta = object.meta();
        let record = Record {
            kind: object.kind().to_string(),
            file: meta.origin.file.to_string(),
            line: meta.origin.line,
            object: serde_json::from_str(&meta.source.to_json())?,
        };
        let path = self.path(&object.key());
        let temporary = path.with_extension("tmp");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(serde_json::to_string(&record)?.as_bytes())?;
        fs::rename(temporary, path)
    }

    fn delete(&self, key: &Key) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether what is kept of an object need not be written again.
fn same(before: &Object, now: &Object) -> bool {
    let (place, new) = (&before.meta().origin, &now.meta().origin);
    before == now && (&place.file, place.line) == (&new.file, new.line)
}

fn keeps(kind: Kind) -> bool {
    !matches!(kind, Kind::Pod | Kind::Secret)
}

fn read(text: &str) -> Option<Object> {
    let record: Record = serde_json::from_str(text).ok()?;
    let file: Arc<str> = record.file.into();
    let text = record.object.to_string();
    let mut object: Object = match Kind::called(&record.kind)? {
        Kind::MeshConfig => parse_mesh_config(&text, &file).ok()?.0.into(),
        // A config map with the mesh's settings yields them too; they have a file of their own.
        kind => parse_documents(&text, &file).objects.into_iter().filter_map(Result::ok).find(|object| object.kind() == kind)?,
    };
    object.meta_mut().origin = Pos { file, line: record.line, column: 1 };
    Some(object)
}
