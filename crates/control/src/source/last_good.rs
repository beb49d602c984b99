//! The last good version of each object on disk, for the next start.
//!
//! One log, in which each file of configuration has a record with the objects that are in force from it, as they were written; a later record of a file
//! stands for an earlier one. A start reads the log in one go and parses of it only what the files do not have (`fold`). What is in the log already is
//! not written again, and a log that is mostly old records is written anew.
//!
//! Pods and secrets are left out: pods are written anew by whoever runs them, and secrets do not belong on a disk. A comment may hold one, and so may
//! a list beside the object, so that what has either is written as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use mizzen_api::{Key, Kind, Object, parse_again};

/// The log's name in its folder.
const NAME: &str = "last-good.log";
/// Old records that are worth no writing anew, in bytes.
const SLACK: u64 = 64 << 10;
/// How much is written at once, in bytes.
const BUFFER: usize = 64 << 10;

/// The log.
#[derive(Debug)]
pub(super) struct LastGood {
    path: PathBuf,
    /// Of each file the record that counts.
    kept: BTreeMap<Arc<str>, Kept>,
    /// Where the last whole record ends: what follows was not written to its end.
    length: u64,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
struct Kept {
    start: u64,
    bytes: u64,
    hash: u64,
}

/// An object that an earlier run had in force.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    /// Which one.
    pub(super) key: Key,
    /// The file that it was in.
    pub(super) file: Arc<str>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Object(Arc<Object>),
    /// A part of the log.
    Text {
        log: Arc<str>,
        start: usize,
        item: Item,
    },
}

/// The first line of a record; the texts follow, one after the other.
#[derive(serde::Serialize, serde::Deserialize)]
struct Head {
    file: String,
    objects: Vec<Item>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Item {
    kind: String,
    namespace: String,
    name: String,
    /// How many lines of the file stand before it.
    line: u32,
    bytes: usize,
}

impl From<Arc<Object>> for Remembered {
    fn from(object: Arc<Object>) -> Self {
        Remembered { key: object.key(), file: object.meta().origin.file.clone(), content: Content::Object(object) }
    }
}

impl Remembered {
    /// The object, unless it cannot be read any more, which is said.
    pub(super) fn object(&self) -> Option<Arc<Object>> {
        let (text, item) = match &self.content {
            Content::Object(object) => return Some(object.clone()),
            Content::Text { log, start, item } => (log.get(*start..*start + item.bytes)?, item),
        };
        let object = parse_again(self.key.kind, text, item.line, &self.file);
        if object.is_none() {
            tracing::warn!(key = %self.key, "its last good version cannot be read any more");
        }
        object.map(Arc::new)
    }
}

impl LastGood {
    /// Opens a folder, and makes it if there is none.
    pub(super) fn open(folder: &Path) -> io::Result<LastGood> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(LastGood { path: folder.join(NAME), kept: BTreeMap::new(), length: 0 })
    }

    /// All that is remembered; what cannot be read is left out, and said.
    pub(super) fn load(&mut self) -> Vec<Remembered> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "no last good version can be read");
                return Vec::new();
            }
        };
        let log: Arc<str> = match std::str::from_utf8(&bytes) {
            Ok(text) => text.into(),
            Err(error) => String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default()).into(),
        };
        let mut found: BTreeMap<Arc<str>, Vec<Remembered>> = BTreeMap::new();
        let mut at = 0;
        while let Some((head, end)) = record(&log, at) {
            let file: Arc<str> = head.file.into();
            let kept = Kept { start: at as u64, bytes: (end - at) as u64, hash: hash(log.get(at..end).unwrap_or_default().as_bytes()) };
            let mut start = end - head.objects.iter().map(|item| item.bytes).sum::<usize>();
            let mut objects = Vec::with_capacity(head.objects.len());
            for item in head.objects {
                let here = start;
                start += item.bytes;
                // Another version's kinds are not known here.
                if let Some(kind) = Kind::called(&item.kind) {
                    let key = Key::new(kind, &*item.namespace, &*item.name);
                    objects.push(Remembered { key, file: file.clone(), content: Content::Text { log: log.clone(), start: here, item } });
                }
            }
            self.kept.insert(file.clone(), kept);
            found.insert(file, objects);
            at = end;
        }
        self.length = at as u64;
        if at < bytes.len() {
            tracing::warn!(file = %self.path.display(), "has no whole record after {at} bytes, which is left out");
        }
        found.into_values().flatten().collect()
    }

    /// Writes what is in force from these files, as far as it is not in the log. A failure is said and costs only the memory of it.
    pub(super) fn keep<'a, I: Iterator<Item = &'a Arc<Object>>>(&mut self, files: BTreeSet<Arc<str>>, objects: impl Fn(&Arc<str>) -> I) {
        let result = self.write(files, objects).and_then(|()| self.tidy());
        if let Err(error) = result {
            tracing::warn!(file = %self.path.display(), %error, "the last good versions cannot be kept");
        }
    }

    fn write<'a, I: Iterator<Item = &'a Arc<Object>>>(
        &mut self,
        files: BTreeSet<Arc<str>>,
        objects: impl Fn(&Arc<str>) -> I,
    ) -> io::Result<()> {
        let mut log = None;
        let (mut end, mut news) = (self.length, Vec::new());
        for file in files {
            let objects: Vec<&Object> = objects(&file).map(|object| &**object).filter(|object| keeps(object.kind())).collect();
            let before = self.kept.get(&file);
            if objects.is_empty() && before.is_none() {
                continue;
            }
            let record = encode(&file, &objects)?;
            let kept = Kept { start: end, bytes: record.len() as u64, hash: hash(&record) };
            if before.is_some_and(|before| (before.hash, before.bytes) == (kept.hash, kept.bytes)) {
                continue;
            }
            let log = match &mut log {
                Some(log) => log,
                none => none.insert(self.open_at_end()?),
            };
            log.write_all(&record)?;
            end += kept.bytes;
            news.push((file, (!objects.is_empty()).then_some(kept)));
        }
        if let Some(mut log) = log {
            log.flush()?;
        }
        // Only now is it there.
        self.length = end;
        for (file, kept) in news {
            match kept {
                Some(kept) => drop(self.kept.insert(file, kept)),
                None => drop(self.kept.remove(&file)),
            }
        }
        Ok(())
    }

    fn open_at_end(&self) -> io::Result<BufWriter<fs::File>> {
        let mut log = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        log.set_len(self.length)?;
        log.seek(SeekFrom::Start(self.length))?;
        Ok(BufWriter::with_capacity(BUFFER, log))
    }

    /// Writes the log anew if most of it counts no more.
    fn tidy(&mut self) -> io::Result<()> {
        let live: u64 = self.kept.values().map(|kept| kept.bytes).sum();
        if self.length <= 2 * live + SLACK {
            return Ok(());
        }
        let old = fs::read(&self.path)?;
        let temporary = self.path.with_extension("new");
        let new = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut new = BufWriter::with_capacity(BUFFER, new);
        let (mut end, mut moved) = (0, BTreeMap::new());
        for (file, kept) in &self.kept {
            let record = usize::try_from(kept.start).ok().zip(usize::try_from(kept.start + kept.bytes).ok());
            let record = record.and_then(|(start, end)| old.get(start..end)).filter(|record| hash(record) == kept.hash);
            new.write_all(record.ok_or_else(|| io::Error::other("somebody else has changed it"))?)?;
            moved.insert(file.clone(), Kept { start: end, ..*kept });
            end += kept.bytes;
        }
        new.flush()?;
        fs::rename(&temporary, &self.path)?;
        (self.kept, self.length) = (moved, end);
        Ok(())
    }
}

/// The record that begins here, and where it ends; `None`: there is no whole one.
fn record(log: &str, at: usize) -> Option<(Head, usize)> {
    let rest = log.get(at..)?;
    let (head, texts) = rest.split_once('\n')?;
    let head: Head = serde_json::from_str(head).ok()?;
    let bytes =
        head.objects.iter().try_fold(0_usize, |sum, item| sum.checked_add(item.bytes)).filter(|bytes| texts.is_char_boundary(*bytes))?;
    Some((head, log.len() - texts.len() + bytes))
}

fn encode(file: &str, objects: &[&Object]) -> io::Result<Vec<u8>> {
    let mut texts = String::new();
    let mut head = Head { file: file.to_owned(), objects: Vec::with_capacity(objects.len()) };
    for object in objects {
        let (meta, start) = (object.meta(), texts.len());
        let text = meta.source.document().filter(|(text, _)| !text.contains('#'));
        let line = match text {
            Some((text, line)) => {
                texts.push_str(text);
                line
            }
            None => {
                texts.push_str(&meta.source.to_json());
                meta.origin.line.saturating_sub(1)
            }
        };
        head.objects.push(Item {
            kind: object.kind().to_string(),
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            line,
            bytes: texts.len() - start,
        });
    }
    let mut record = serde_json::to_vec(&head)?;
    record.push(b'\n');
    record.extend_from_slice(texts.as_bytes());
    Ok(record)
}

/// What tells a record from another one of the same file, within one run.
fn hash(record: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.hash(&mut hasher);
    hasher.finish()
}

fn keeps(kind: Kind) -> bool {
    !matches!(kind, Kind::Pod | Kind::Secret)
}
