//! What the contents of files mean over time: a pure fold of readings into events. It knows neither disk nor clock.
//!
//! Each file *claims* the objects that its documents name, good or refused. An object has one owner: the file that had it last if that still claims
//! it, else the first in order that does; any other claim is a duplicate. A good claim is applied. A refused one leaves the object's last good
//! version in force, and so does a document whose object cannot be told, for all objects of its file that nobody claims. What nobody claims any
//! more is deleted once its file has not changed for a while, since a save may pass through an empty file or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mizzen_api::{Closes, Key, Kind, Object, Parsed, Pos, Problem, Refusal, parse_documents, refuse_documents};

use super::{Closed, Event, Fault, Refused};

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
    files: BTreeMap<Arc<str>, File>,
    /// What is in force.
    live: BTreeMap<Key, Live>,
    /// Refused policies without a last good version, with the file of each.
    closed: BTreeMap<Key, (Closed, Arc<str>)>,
    faults: BTreeMap<Fault, Refused>,
    warnings: BTreeMap<Arc<str>, Vec<Problem>>,
    /// When the next deletion is due.
    due: Option<Instant>,
}

#[derive(Debug)]
struct File {
    changed: Instant,
    documents: Vec<Result<Arc<Object>, Refusal>>,
    warnings: Vec<Problem>,
}

#[derive(Debug)]
struct Live {
    object: Arc<Object>,
    owner: Arc<str>,
    /// Whether an event has said so.
    sent: bool,
}

/// One document's claim to an object.
#[derive(Clone, Copy)]
struct Claim<'a> {
    file: &'a Arc<str>,
    document: usize,
    entry: &'a Result<Arc<Object>, Refusal>,
}

impl Claim<'_> {
    fn pos(&self) -> Pos {
        match self.entry {
            Ok(object) => object.meta().origin.clone(),
            Err(refusal) => refusal.problems.first().map(|p| p.pos.clone()).unwrap_or_default(),
        }
    }
}

/// What a round finds, before it is compared with what was.
#[derive(Default)]
struct Findings {
    events: Vec<Event>,
    faults: BTreeMap<Fault, Refused>,
    closed: BTreeMap<Key, (Closed, Arc<str>)>,
    claimed: BTreeSet<Key>,
}

impl Fold {
    /// Begins with what an earlier run accepted last: it is in force as far as the files do not say otherwise.
    pub(super) fn new(delete_after: Duration, remembered: Vec<Arc<Object>>) -> Self {
        let live = |object: Arc<Object>| (object.key(), Live { owner: object.meta().origin.file.clone(), object, sent: false });
        Fold {
            delete_after,
            started: false,
            files: BTreeMap::new(),
            live: remembered.into_iter().map(live).collect(),
            closed: BTreeMap::new(),
            faults: BTreeMap::new(),
            warnings: BTreeMap::new(),
            due: None,
        }
    }

    /// When [`Fold::update`] must be called even if no file changes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The objects in force.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.live.values().map(|live| &live.object)
    }

    /// Takes the files that have changed. The first call yields the whole state between `Init` and `InitDone`.
    pub(super) fn update(&mut self, now: Instant, changes: Vec<(Arc<str>, Content)>) -> Vec<Event> {
        for (name, content) in changes {
            let parsed = match content {
                Content::Text(text) => parse_documents(&text, &name),
                Content::Unreadable(reason, text) => refuse_documents(&text, &name, reason),
                Content::Gone => Parsed::default(),
                Content::Dangling => Parsed { warnings: vec![dangling(&name)], ..Parsed::default() },
            };
            let documents = parsed.objects.into_iter().map(|object| object.map(Arc::new)).collect();
            self.files.insert(name, File { changed: now, documents, warnings: parsed.warnings });
        }
        if !self.started {
            // What is remembered of files that are not there any more is waited for, as for any file that vanishes.
            let owners: Vec<_> = self.live.values().map(|live| live.owner.clone()).collect();
            for owner in owners {
                self.files.entry(owner).or_insert(File { changed: now, documents: Vec::new(), warnings: Vec::new() });
            }
        }
        let mut findings = self.find();
        self.refuse(&mut findings);
        self.expire(now, &mut findings);
        self.emit(findings)
    }

    /// Gives each object to one claim, and applies the good ones.
    fn find(&mut self) -> Findings {
        let mut claims: BTreeMap<Key, Vec<Claim<'_>>> = BTreeMap::new();
        for (file, state) in &self.files {
            for (document, entry) in state.documents.iter().enumerate() {
                let key = match entry {
                    Ok(object) => Some(object.key()),
                    Err(refusal) => refusal.key.clone(),
                };
                if let Some(key) = key {
                    claims.entry(key).or_default().push(Claim { file, document, entry });
                }
            }
        }
        let mut found = Findings::default();
        for (key, claims) in claims {
            let owner = self.live.get(&key).map(|live| live.owner.clone());
            let winner = claims.iter().find(|claim| Some(claim.file) == owner.as_ref()).or(claims.first());
            let Some(winner) = winner.copied() else { continue };
            for claim in claims.iter().filter(|claim| !std::ptr::eq(claim.entry, winner.entry)) {
                found.duplicate(&key, claim, &winner, owner.is_some());
            }
            match winner.entry {
                Ok(object) => {
                    let live = self.live.get(&key);
                    let same = live.is_some_and(|live| live.sent && unchanged(&live.object, object));
                    if !same {
                        found.events.push(Event::Apply(object.clone()));
                    }
                    self.live.insert(key.clone(), Live { object: object.clone(), owner: winner.file.clone(), sent: true });
                }
                Err(refusal) => {
                    let fault = Fault { file: winner.file.clone(), key: Some(key.clone()), document: 0 };
                    let kept = owner.is_some();
                    found.faults.insert(fault.clone(), Refused { fault, problems: refusal.problems.clone(), kept });
                    if let (false, Some(closed)) = (kept, closed(key.clone(), refusal)) {
                        found.closed.insert(key.clone(), (closed, winner.file.clone()));
                    }
                }
            }
            found.claimed.insert(key);
        }
        found
    }

    /// Documents whose object cannot be told: they may be any of their file that is claimed by nobody.
    fn refuse(&mut self, found: &mut Findings) {
        for (file, state) in &self.files {
            for (document, entry) in state.documents.iter().enumerate() {
                let Err(refusal) = entry else { continue };
                if refusal.key.is_some() {
                    continue;
                }
                let owned: Vec<Key> = self
                    .live
                    .iter()
                    .filter(|(key, live)| live.owner == *file && !found.claimed.contains(*key))
                    .map(|(key, _)| key.clone())
                    .collect();
                // A policy without a name is taken for a new one, unless it may be one of this file that is in force.
                let known = |closes: &Closes| owned.iter().any(|key| key.kind == closes.kind && key.namespace == closes.namespace);
                if let Some(closes) = refusal.closes.as_ref().filter(|closes| !known(closes)) {
                    let name = format!("{file}#{document}");
                    let key = Key::new(closes.kind, closes.namespace.clone(), name);
                    found.closed.extend(closed(key.clone(), refusal).map(|closed| (key, (closed, file.clone()))));
                }
                let fault = Fault { file: file.clone(), key: None, document };
                let kept = !owned.is_empty();
                found.faults.insert(fault.clone(), Refused { fault, problems: refusal.problems.clone(), kept });
            }
            // After all documents of the file, so that each of them sees the same.
            if state.documents.iter().any(|entry| matches!(entry, Err(refusal) if refusal.key.is_none())) {
                found.claimed.extend(self.live.iter().filter(|(_, live)| live.owner == *file).map(|(key, _)| key.clone()));
            }
        }
    }

    /// Deletes what nobody has claimed for long enough, and closings likewise.
    fn expire(&mut self, now: Instant, found: &mut Findings) {
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
        let gone: Vec<Key> = self
            .live
            .iter()
            .filter(|(key, live)| !found.claimed.contains(*key) && expired(key, &live.owner))
            .map(|(key, _)| key.clone())
            .collect();
        for (key, (closed, file)) in &self.closed {
            // An object that is in force again has ended its closing by being applied.
            if !found.closed.contains_key(key) && !self.live.contains_key(key) {
                if expired(key, file) {
                    found.events.push(Event::Delete(key.clone()));
                } else {
                    found.closed.insert(key.clone(), (closed.clone(), file.clone()));
                }
            }
        }
        self.due = due;
        for key in gone {
            if self.live.remove(&key).is_some_and(|live| live.sent) {
                found.events.push(Event::Delete(key));
            }
        }
        // Remembered objects whose files are still to be waited for, or are broken.
        for live in self.live.values_mut().filter(|live| !live.sent) {
            live.sent = true;
            found.events.push(Event::Apply(live.object.clone()));
        }
        let live = &self.live;
        self.files.retain(|name, file| {
            !file.documents.is_empty()
                || !file.warnings.is_empty()
                || file.changed + delete_after > now
                || live.values().any(|l| l.owner == *name)
        });
    }

    /// Tells what differs from before.
    fn emit(&mut self, found: Findings) -> Vec<Event> {
        let Findings { mut events, faults, closed, .. } = found;
        for (key, (closed, _)) in &closed {
            if self.closed.get(key).map(|(before, _)| before) != Some(closed) {
                events.push(Event::Closed(closed.clone()));
            }
        }
        for fault in self.faults.keys().filter(|fault| !faults.contains_key(*fault)) {
            events.push(Event::Mended(fault.clone()));
        }
        for (fault, refused) in &faults {
            if self.faults.get(fault) != Some(refused) {
                events.push(Event::Refused(refused.clone()));
            }
        }
        let warnings: BTreeMap<_, _> =
            self.files.iter().filter(|(_, f)| !f.warnings.is_empty()).map(|(name, f)| (name.clone(), f.warnings.clone())).collect();
        for name in self.warnings.keys().filter(|name| !warnings.contains_key(*name)) {
            events.push(Event::Warnings(name.clone(), Vec::new()));
        }
        for (name, list) in &warnings {
            if self.warnings.get(name) != Some(list) {
                events.push(Event::Warnings(name.clone(), list.clone()));
            }
        }
        (self.faults, self.closed, self.warnings) = (faults, closed, warnings);
        if !std::mem::replace(&mut self.started, true) {
            events.insert(0, Event::Init);
            events.push(Event::InitDone);
        }
        events
    }
}

impl Findings {
    fn duplicate(&mut self, key: &Key, claim: &Claim<'_>, winner: &Claim<'_>, kept: bool) {
        let fault = Fault { file: claim.file.clone(), key: Some(key.clone()), document: claim.document };
        let message = format!("is declared at {} already", winner.pos());
        let problem = Problem { pos: claim.pos(), object: Some(key.clone()), field: "metadata.name".to_owned(), message };
        // What else is wrong with it is told at once, not after it has got another name.
        let own = claim.entry.as_ref().err().map_or(&[][..], |refusal| &refusal.problems);
        let problems = std::iter::once(problem).chain(own.iter().cloned()).collect();
        self.faults.insert(fault.clone(), Refused { fault, problems, kept: kept || winner.entry.is_ok() });
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

/// What a refused policy closes.
fn closed(key: Key, refusal: &Refusal) -> Option<Closed> {
    let closes = refusal.closes.as_ref()?;
    Some(Closed { key, selector: closes.selector.clone(), problem: refusal.problems.first()?.clone() })
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
