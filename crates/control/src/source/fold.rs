//! What the contents of files mean over time: a pure fold of readings into events. It knows neither disk nor clock.
//!
//! Each file *claims* the objects that its documents name, good or refused. An object has one owner: the file that had it last if that still claims
//! it, else the first in order that does; any other claim is a duplicate. A good claim is applied. A refused one leaves the object's last good
//! version in force, and so does a document whose object cannot be told, for all objects of its file that nobody claims (not one of a kind that is known
//! and not read: it is none of them). What nobody claims any more is deleted once its file has not changed for a while, since a save
//! may pass through an empty file or none.
//!
//! Claims are kept by key: a round looks at the keys that the changed files claim or claimed, at those that wait to be deleted, and at nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mizzen_api::{Closes, Key, Kind, Object, Parsed, Pos, Problem, Refusal, parse_documents, refuse_documents};

use super::{Closed, Event, Fault, Refused, last_good::Remembered};

/// A file as it was read.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Its text.
    Text(String),
    /// Why it cannot be read, and what there is of text, if anything.
    Unreadable(String, String),
    /// There is no such file any more.
    Gone,
    /// A link that leads nowhere.
    Dangling,
}

/// The state of a source.
#[derive(Debug)]
pub(super) struct Fold {
    delete_after: Duration,
    started: bool,
    /// What an earlier run had in force, until the files have been read.
    remembered: Vec<Remembered>,
    files: BTreeMap<Arc<str>, File>,
    entries: BTreeMap<Key, Entry>,
    faults: BTreeMap<Fault, Refused>,
    /// Keys that are in force, or closed, and that nobody claims.
    unclaimed: BTreeSet<Key>,
    /// Files that hold nothing.
    empty: BTreeSet<Arc<str>>,
    /// When the next deletion is due.
    due: Option<Instant>,
    /// Files that have changed, or of which other objects are in force, since somebody asked.
    touched: BTreeSet<Arc<str>>,
    work: Work,
}

/// What was done so far: it grows with what changes, not with what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Texts that were parsed.
    pub(super) parsed: usize,
    /// Keys that were looked at.
    pub(super) keys: usize,
    /// Objects of an earlier run that were read.
    pub(super) recalled: usize,
}

#[derive(Debug)]
struct File {
    changed: Instant,
    documents: Vec<Result<Arc<Object>, Box<Refusal>>>,
    warnings: Vec<Problem>,
    /// What of it is in force, and none of its documents claims any more. Seldom anything.
    left: BTreeSet<Key>,
    /// What its documents without a key close.
    closes: Vec<Key>,
    /// Their faults.
    faults: Vec<Fault>,
}

/// All that is known of a key.
#[derive(Debug, Default)]
struct Entry {
    /// In the order of files and documents.
    claims: Vec<Claim>,
    /// What is in force.
    live: Option<Live>,
    /// A refused policy without a last good version, with its file.
    closed: Option<Box<(Closed, Arc<str>)>>,
    faults: Vec<Fault>,
}

#[derive(Debug)]
struct Live {
    object: Arc<Object>,
    owner: Arc<str>,
    /// Whether an event has said so.
    sent: bool,
}

/// One document's claim to an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    file: Arc<str>,
    document: usize,
}

/// What a round finds, before it is compared with what was.
#[derive(Default)]
struct Round {
    /// Keys whose claims may have changed.
    keys: BTreeSet<Key>,
    /// Files that have changed, or whose objects have.
    files: BTreeSet<Arc<str>>,
    events: Vec<Event>,
    warnings: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Faults that were there, and those that are.
    before: BTreeSet<Fault>,
    faults: BTreeMap<Fault, Refused>,
    closed: BTreeMap<Key, (Closed, Arc<str>)>,
}

impl File {
    fn new(now: Instant) -> File {
        File { changed: now, documents: Vec::new(), warnings: Vec::new(), left: BTreeSet::new(), closes: Vec::new(), faults: Vec::new() }
    }

    /// Whether a document of it may be any of its objects.
    fn is_vague(&self) -> bool {
        self.documents.iter().any(|entry| matches!(entry, Err(refusal) if refusal.key.is_none() && !refusal.is_other))
    }

    fn keys(&self) -> impl Iterator<Item = (usize, Key)> {
        let key = |entry: &Result<Arc<Object>, Box<Refusal>>| match entry {
            Ok(object) => Some(object.key()),
            Err(refusal) => refusal.key.clone(),
        };
        self.documents.iter().enumerate().filter_map(move |(document, entry)| Some((document, key(entry)?)))
    }
}

impl Fold {
    /// Begins with what an earlier run accepted last: it is in force as far as the files do not say otherwise.
    pub(super) fn new(delete_after: Duration, remembered: Vec<Remembered>) -> Self {
        Fold {
            delete_after,
            started: false,
            remembered,
            files: BTreeMap::new(),
            entries: BTreeMap::new(),
            faults: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            empty: BTreeSet::new(),
            due: None,
            touched: BTreeSet::new(),
            work: Work::default(),
        }
    }

    /// When [`Fold::update`] must be called even if no file changes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What was done so far.
    pub(super) fn work(&self) -> Work {
        self.work
    }

    /// The files of which other texts are there, or other objects in force, since the last call.
    pub(super) fn touched(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.touched)
    }

    /// The objects in force from a file, by key.
    pub(super) fn owned<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let keys = |file: &File| file.keys().map(|(_, key)| key).chain(file.left.iter().cloned()).collect::<BTreeSet<_>>();
        let keys = self.files.get(name).map(keys).unwrap_or_default();
        let live = keys.iter().filter_map(|key| self.entries.get(key)?.live.as_ref());
        live.filter(|live| *live.owner == *name).map(|live| &live.object).collect::<Vec<_>>().into_iter()
    }

    /// The objects in force.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.entries.values().filter_map(|entry| Some(&entry.live.as_ref()?.object))
    }

    /// Takes the files that have changed. The first call yields the whole state between `Init` and `InitDone`.
    pub(super) fn update(&mut self, now: Instant, changes: Vec<(Arc<str>, Content)>) -> Vec<Event> {
        let mut round = Round { keys: std::mem::take(&mut self.unclaimed), ..Round::default() };
        for (name, content) in changes {
            self.take(now, name, content, &mut round);
        }
        if !self.started {
            self.recall(now, &mut round);
        }
        self.work.keys += round.keys.len();
        self.settle(now, round)
    }

    /// Looks at the keys and files of a round.
    fn settle(&mut self, now: Instant, mut round: Round) -> Vec<Event> {
        for key in round.keys.clone() {
            self.decide(&key, &mut round);
        }
        for file in std::mem::take(&mut round.files) {
            self.refuse(&file, &mut round);
        }
        self.expire(now, &mut round);
        self.emit(round)
    }

    /// A file's new claims in the place of those it had.
    fn take(&mut self, now: Instant, name: Arc<str>, content: Content, round: &mut Round) {
        self.work.parsed += usize::from(matches!(content, Content::Text(_) | Content::Unreadable(..)));
        let parsed = match content {
            Content::Text(text) => parse_documents(&text, &name),
            Content::Unreadable(reason, text) => refuse_documents(&text, &name, reason),
            Content::Gone => Parsed::default(),
            Content::Dangling => Parsed { warnings: vec![dangling(&name)], ..Parsed::default() },
        };
        let file = self.files.entry(name.clone()).or_insert_with(|| File::new(now));
        let before: Vec<Key> = file.keys().map(|(_, key)| key).collect();
        for key in before {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.claims.retain(|claim| claim.file != name);
                if entry.live.as_ref().is_some_and(|live| live.owner == name) {
                    file.left.insert(key.clone());
                }
            }
            round.keys.insert(key);
        }
        // What it had without a claim is looked at too: its time begins anew, or it is known again what it is.
        round.keys.extend(file.left.iter().cloned());
        round.keys.extend(file.closes.drain(..));
        file.changed = now;
        let mut warnings = parsed.warnings;
        warnings.extend(parsed.objects.iter().filter_map(|object| of_clusters_alone(object.as_ref().ok()?)));
        file.documents = parsed.objects.into_iter().map(|object| object.map(Arc::new).map_err(Box::new)).collect();
        // It may have taken over the room of the objects themselves.
        file.documents.shrink_to_fit();
        for (document, key) in file.keys() {
            let claims = &mut self.entries.entry(key.clone()).or_default().claims;
            let claim = Claim { file: name.clone(), document };
            // Nearly all have one.
            claims.reserve_exact(1);
            claims.insert(claims.partition_point(|other| *other < claim), claim);
            round.keys.insert(key);
        }
        let claims = |key: &Key| self.entries.get(key).is_some_and(|entry| entry.claims.iter().any(|claim| claim.file == name));
        file.left.retain(|key| !claims(key));
        if file.documents.is_empty() && warnings.is_empty() {
            self.empty.insert(name.clone());
        } else {
            self.empty.remove(&name);
        }
        if file.warnings != warnings {
            round.warnings.insert(name.clone(), warnings.clone());
            file.warnings = warnings;
        }
        self.touched.insert(name.clone());
        round.files.insert(name);
    }

    /// What is remembered and not there is in force again; that of files that are not there any more is waited for, as for any file that vanishes.
    fn recall(&mut self, now: Instant, round: &mut Round) {
        for remembered in std::mem::take(&mut self.remembered) {
            self.touched.insert(remembered.file.clone());
            // One good claim wins, whoever had the object before: most need not be read.
            let known = self.entries.get(&remembered.key).map_or(&[][..], |entry| &entry.claims);
            if matches!(known, [claim] if matches!(document(&self.files, claim), Some(Ok(_)))) {
                continue;
            }
            self.work.recalled += 1;
            if let Some(object) = remembered.object() {
                let entry = self.entries.entry(remembered.key).or_default();
                entry.live = Some(Live { object, owner: remembered.file, sent: false });
            }
        }
        for (key, entry) in &self.entries {
            let Some(live) = &entry.live else { continue };
            let file = self.files.entry(live.owner.clone()).or_insert_with(|| {
                self.empty.insert(live.owner.clone());
                File::new(now)
            });
            if entry.claims.iter().all(|claim| claim.file != live.owner) {
                file.left.insert(key.clone());
            }
            round.keys.insert(key.clone());
        }
    }

    /// Gives an object to one claim, and applies it if it is good.
    fn decide(&mut self, key: &Key, round: &mut Round) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        round.before.extend(entry.faults.drain(..));
        let owner = entry.live.as_ref().map(|live| live.owner.clone());
        // Documents of the owner that tell no key may be this object, or no longer.
        round.files.extend(owner.clone());
        let winner = entry.claims.iter().find(|claim| Some(&claim.file) == owner.as_ref()).or(entry.claims.first()).cloned();
        let Some(winner) = winner else { return };
        let Some(won) = document(&self.files, &winner) else { return };
        for claim in entry.claims.iter().filter(|claim| **claim != winner) {
            let Some(own) = document(&self.files, claim) else { continue };
            let refused = duplicate(key, claim, own, won, owner.is_some());
            entry.faults.push(refused.fault.clone());
            round.faults.insert(refused.fault.clone(), refused);
        }
        match won {
            Ok(object) => {
                let object = object.clone();
                let same = entry.live.as_ref().is_some_and(|live| live.sent && unchanged(&live.object, &object));
                if !same {
                    round.events.push(Event::Apply(object.clone()));
                    self.touched.extend(owner.iter().chain([&winner.file]).cloned());
                }
                entry.live = Some(Live { object, owner: winner.file.clone(), sent: true });
                let loser = owner.filter(|owner| *owner != winner.file);
                if let Some(file) = loser.and_then(|owner| self.files.get_mut(&owner)) {
                    file.left.remove(key);
                }
            }
            Err(refusal) => {
                let fault = Fault { file: winner.file.clone(), key: Some(key.clone()), document: 0 };
                let kept = owner.is_some();
                entry.faults.push(fault.clone());
                round.faults.insert(fault.clone(), Refused { fault, problems: refusal.problems.clone(), kept });
                if let (false, Some(closed)) = (kept, closed(key.clone(), refusal)) {
                    round.closed.insert(key.clone(), (closed, winner.file));
                }
            }
        }
    }

    /// A file's documents whose object cannot be told: they may be any of the file that is claimed by nobody, unless they are of another kind.
    fn refuse(&mut self, name: &Arc<str>, round: &mut Round) {
        let Some(file) = self.files.get_mut(name) else { return };
        round.before.extend(file.faults.drain(..));
        round.keys.extend(file.closes.drain(..));
        if file.documents.iter().all(|entry| !matches!(entry, Err(refusal) if refusal.key.is_none())) {
            return;
        }
        let claimed = |key: &Key| self.entries.get(key).is_some_and(|entry| !entry.claims.is_empty());
        let owned: Vec<&Key> = file.left.iter().filter(|key| !claimed(key)).collect();
        // A policy without a name is taken for a new one, unless it may be one of this file that is in force.
        let known = |closes: &Closes| owned.iter().any(|key| key.kind == closes.kind && key.namespace == closes.namespace);
        for (document, entry) in file.documents.iter().enumerate() {
            let Err(refusal) = entry else { continue };
            if refusal.key.is_some() {
                continue;
            }
            if let Some(closes) = refusal.closes.as_ref().filter(|closes| !known(closes)) {
                let key = Key::new(closes.kind, closes.namespace.clone(), format!("{name}#{document}"));
                round.closed.extend(closed(key.clone(), refusal).map(|closed| (key.clone(), (closed, name.clone()))));
                round.keys.insert(key.clone());
                file.closes.push(key);
            }
            let fault = Fault { file: name.clone(), key: None, document };
            file.faults.push(fault.clone());
            round
                .faults
                .insert(fault.clone(), Refused { fault, problems: refusal.problems.clone(), kept: !owned.is_empty() && !refusal.is_other });
        }
    }

    /// Deletes what nobody has claimed for long enough, and closings likewise.
    fn expire(&mut self, now: Instant, round: &mut Round) {
        let mut due: Option<Instant> = None;
        let (files, delete_after) = (&self.files, self.delete_after);
        let mut expired = |key: &Key, file: &Arc<str>| {
            // Nobody edits a pod by hand: a pod that is gone is gone.
            let when = files.get(file).map_or(now, |file| file.changed) + delete_after;
            if when <= now || key.kind == Kind::Pod {
                return true;
            }
            due = Some(due.map_or(when, |due| due.min(when)));
            false
        };
        let (mut ended, mut gone, mut kept, mut orphans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for key in &round.keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            match &mut entry.live {
                Some(live) => {
                    let claimed = !entry.claims.is_empty() || files.get(&live.owner).is_some_and(File::is_vague);
                    if !claimed && expired(key, &live.owner) {
                        if live.sent {
                            gone.push(Event::Delete(key.clone()));
                        }
                        orphans.extend(entry.live.take().map(|live| (live.owner, key.clone())));
                    } else {
                        if !claimed {
                            self.unclaimed.insert(key.clone());
                        }
                        // Remembered objects whose files are still to be waited for, or are broken.
                        if !std::mem::replace(&mut live.sent, true) {
                            kept.push(Event::Apply(live.object.clone()));
                        }
                    }
                }
                None => {
                    if let (Some(before), None) = (&entry.closed, round.closed.get(key)) {
                        if expired(key, &before.1) {
                            ended.push(Event::Delete(key.clone()));
                        } else {
                            round.closed.insert(key.clone(), (**before).clone());
                            self.unclaimed.insert(key.clone());
                        }
                    }
                }
            }
        }
        self.due = due;
        round.events.extend(ended.into_iter().chain(gone).chain(kept));
        for (owner, key) in orphans {
            if let Some(file) = self.files.get_mut(&owner) {
                file.left.remove(&key);
            }
            self.touched.insert(owner);
        }
        self.empty.retain(|name| {
            let over = self.files.get(name).is_none_or(|file| file.left.is_empty() && file.changed + delete_after <= now);
            if over {
                self.files.remove(name);
            }
            !over
        });
    }

    /// Tells what differs from before.
    fn emit(&mut self, round: Round) -> Vec<Event> {
        let Round { keys, mut events, warnings, before, faults, mut closed, .. } = round;
        for key in keys {
            let now = closed.remove(&key);
            let entry = match &now {
                // What has no claims may be new here: a document without a name.
                Some(_) => Some(self.entries.entry(key.clone()).or_default()),
                None => self.entries.get_mut(&key),
            };
            let Some(entry) = entry else { continue };
            if let Some((closed, _)) = now.as_ref().filter(|(closed, _)| entry.closed.as_ref().map(|before| &before.0) != Some(closed)) {
                events.push(Event::Closed(closed.clone()));
            }
            entry.closed = now.map(Box::new);
            if entry.claims.is_empty() && entry.live.is_none() && entry.closed.is_none() {
                self.entries.remove(&key);
            }
        }
        for fault in before.iter().filter(|fault| !faults.contains_key(*fault)) {
            self.faults.remove(fault);
            events.push(Event::Mended(fault.clone()));
        }
        for (fault, refused) in faults {
            if self.faults.get(&fault) != Some(&refused) {
                events.push(Event::Refused(refused.clone()));
                self.faults.insert(fault, refused);
            }
        }
        let (gone, there): (Vec<_>, Vec<_>) = warnings.into_iter().partition(|(_, list)| list.is_empty());
        events.extend(gone.into_iter().chain(there).map(|(name, list)| Event::Warnings(name, list)));
        if !std::mem::replace(&mut self.started, true) {
            events.insert(0, Event::Init);
            events.push(Event::InitDone);
        }
        events
    }
}

/// The document that makes a claim.
fn document<'a>(files: &'a BTreeMap<Arc<str>, File>, claim: &Claim) -> Option<&'a Result<Arc<Object>, Box<Refusal>>> {
    files.get(&claim.file)?.documents.get(claim.document)
}

/// What is wrong with a claim that another one has won.
fn duplicate(
    key: &Key,
    claim: &Claim,
    entry: &Result<Arc<Object>, Box<Refusal>>,
    winner: &Result<Arc<Object>, Box<Refusal>>,
    kept: bool,
) -> Refused {
    let fault = Fault { file: claim.file.clone(), key: Some(key.clone()), document: claim.document };
    let message = format!("is declared at {} already", pos(winner));
    let problem = Problem { pos: pos(entry), object: Some(key.clone()), field: "metadata.name".to_owned(), message };
    // What else is wrong with it is told at once, not after it has got another name.
    let own = entry.as_ref().err().map_or(&[][..], |refusal| &refusal.problems);
    let problems = std::iter::once(problem).chain(own.iter().cloned()).collect();
    Refused { fault, problems, kept: kept || winner.is_ok() }
}

fn pos(entry: &Result<Arc<Object>, Box<Refusal>>) -> Pos {
    match entry {
        Ok(object) => object.meta().origin.clone(),
        Err(refusal) => refusal.problems.first().map(|p| p.pos.clone()).unwrap_or_default(),
    }
}

fn dangling(file: &Arc<str>) -> Problem {
    let message = "is a link that leads nowhere: what it should hold is not in force".to_owned();
    Problem { pos: Pos::new(file.clone(), 0, 0), object: None, field: String::new(), message }
}

/// Whether two versions have the same content in the same place.
fn unchanged(before: &Arc<Object>, now: &Arc<Object>) -> bool {
    Arc::ptr_eq(before, now) || (before == now && before.meta().origin == now.meta().origin)
}

/// What an object says that has a meaning in a Kubernetes cluster and none on a host.
fn of_clusters_alone(object: &Object) -> Option<Problem> {
    let (field, message) = match object {
        Object::MeshConfig(mesh) if !mesh.discovery_selectors.is_empty() => {
            ("discoverySelectors", "is not acted on: of files, all namespaces belong to the mesh")
        }
        Object::ProxyConfig(_) => ("", "is not acted on: it is for proxies that are put into pods of a Kubernetes cluster"),
        _ => return None,
    };
    let pos = object.meta().position(field);
    Some(Problem { pos, object: Some(object.key()), field: field.to_owned(), message: message.to_owned() })
}

/// What a refused policy closes.
fn closed(key: Key, refusal: &Refusal) -> Option<Closed> {
    let closes = refusal.closes.as_ref()?;
    Some(Closed { key, selector: closes.selector.clone(), problem: refusal.problems.first()?.clone() })
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
