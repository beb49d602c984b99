//! The state of one type on one stream.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use mizzen_protos::envoy::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::rpc::Status};
use mizzen_types::Name;

use super::{
    Found, Key, LookUp, MANY, MAX_IN_FLIGHT, Resource, ResourceStatus, Sheet, TypeStatus, Verdict, Wanted,
    held::{Entry, Held, SentVersion, Shared, accept, is_same},
};
use crate::{Version, nack::rejections, types};

#[derive(Debug)]
struct Flight {
    nonce: u64,
    sheet: Option<Arc<Sheet>>,
    /// What was sent beside it.
    sent: Vec<(Name, Version)>,
}

/// In which form a client hears of a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// What is new, and what is gone.
    #[default]
    Delta,
    /// Each time all that there is: a verdict is one on all of it.
    Whole,
    /// Some of what there is: that something is gone cannot be said, only that there is none of what is asked for. A verdict is one on all that came.
    Part,
    /// The same, where not even that can be said.
    Found,
}

/// The state of one type.
#[derive(Debug, Default)]
pub(super) struct Watch {
    form: Form,
    wildcard: bool,
    held: Held,
    /// Must be answered even if the client seems to hold it.
    forced: BTreeSet<Name>,
    /// Must be compared with the state.
    touched: BTreeSet<Name>,
    /// Everything must be compared with the state.
    due: bool,
    /// A response must be sent even if nothing is new: the first one to a wildcard, and a list without what it was rejected for.
    owed: bool,
    /// What was subscribed to and is not any more, until somebody takes it.
    let_go: Vec<Name>,
    in_flight: VecDeque<Flight>,
    responses: u64,
    acks: u64,
    nacks: u64,
    error: Option<String>,
}

/// What differs between the state and the client.
#[derive(Default)]
pub(super) struct Diff {
    pub(super) sheet: Option<Arc<Sheet>>,
    /// Beside it.
    pub(super) added: Vec<(Name, Resource)>,
    pub(super) removed: Vec<Name>,
    /// Among them are some that the client had.
    pub(super) lost: bool,
    /// Of `added`, those of which the client had another version.
    pub(super) changed: Vec<Name>,
    pub(super) owed: bool,
}

impl Watch {
    pub(super) fn is_due(&self) -> bool {
        self.due || self.owed || !self.forced.is_empty() || !self.touched.is_empty()
    }

    /// Whether everything is compared; a first request of names counts as well.
    pub(super) fn is_whole_due(&self) -> bool {
        self.due || self.owed
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn explicit(&self) -> usize {
        self.held.explicit()
    }

    pub(super) fn has_let_go(&self) -> bool {
        !self.let_go.is_empty()
    }

    pub(super) fn take_let_go(&mut self) -> Vec<Name> {
        let names = std::mem::take(&mut self.let_go);
        names.into_iter().filter(|name| !self.wildcard && !self.held.is_explicit(name)).collect()
    }

    pub(super) fn is_explicit(&self, name: &Name) -> bool {
        self.held.is_explicit(name)
    }

    pub(super) fn has_rejections(&self) -> bool {
        self.held.has_rejections()
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.held.rejections()
    }

    pub(super) fn settle(&mut self, shared: &Shared) {
        self.held.settle(shared);
    }

    /// Everything that is subscribed to: names, and [`types::WILDCARD`].
    pub(super) fn subscriptions(&self) -> BTreeSet<Name> {
        let names = self.held.iter().filter(|(_, entry)| entry.explicit).map(|(name, _)| name.clone());
        names.chain(self.wildcard.then(|| types::WILDCARD.into())).collect()
    }

    /// Whether nothing was sent yet.
    pub(super) fn has_said_nothing(&self) -> bool {
        self.responses == 0
    }

    /// Whether it was sent or the client came with it, and it was not told to be gone.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.held.get(name).is_some_and(|entry| !matches!(entry.sent, SentVersion::Absent | SentVersion::Unsent))
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.held.get(name).is_some()
    }

    pub(super) fn speak(&mut self, form: Form) {
        self.form = form;
    }

    /// Everything may have changed.
    pub(super) fn changed(&mut self) {
        self.due = true;
    }

    /// One resource may have changed. Returns whether it is subscribed to.
    pub(super) fn touch(&mut self, name: &Name) -> bool {
        let subscribed = self.wildcard || self.held.is_explicit(name);
        if subscribed && !self.due {
            self.touched.insert(name.clone());
        }
        subscribed
    }

    /// What is due; all of `listed` if everything is.
    pub(super) fn due(&self, listed: impl FnOnce() -> Vec<Name>) -> Vec<Name> {
        if self.due || self.owed {
            let explicit = self.held.iter().filter(|(_, entry)| entry.explicit).map(|(name, _)| name.clone());
            let listed = if self.wildcard { listed() } else { Vec::new() };
            return explicit.chain(listed).collect();
        }
        self.touched.iter().chain(&self.forced).cloned().collect()
    }

    /// The names that are due; `None` if everything is.
    pub(super) fn due_names(&self) -> Option<impl Iterator<Item = &Name>> {
        (!self.is_whole_due()).then(|| self.touched.iter().chain(&self.forced))
    }

    /// Subscribes to a resource on the client's behalf. Returns whether it was not subscribed to.
    pub(super) fn bring(&mut self, name: &Name) -> bool {
        let entry = self.held.get(name).unwrap_or_default();
        if entry.explicit {
            return false;
        }
        self.held.set(name, Entry { explicit: true, ..entry });
        self.touched.insert(name.clone());
        true
    }

    /// Clusters were replaced whose endpoints these are.
    pub(super) fn resend(&mut self, names: &[Name]) {
        self.forced.extend(names.iter().filter(|name| self.held.is_explicit(name)).cloned());
    }

    /// Notes a response.
    pub(super) fn sent(&mut self, nonce: u64, sheet: Option<&Arc<Sheet>>, added: &[(Name, Resource)]) {
        self.responses += 1;
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        let sent = added.iter().map(|(name, resource)| (name.clone(), resource.version)).collect();
        self.in_flight.push_back(Flight { nonce, sheet: sheet.cloned(), sent });
    }

    /// The first request of a type. Returns whether that is all that there is to it: the names are not to be subscribed to any more.
    pub(super) fn open(&mut self, type_url: &str, request: &DeltaDiscoveryRequest, shared: &Shared) -> bool {
        if request.resource_names_subscribe.is_empty() && types::empty_means_all(type_url) {
            self.wildcard = true;
            self.owed = true;
        }
        self.due = true;
        let all = self.wildcard || request.resource_names_subscribe.iter().any(|n| n == types::WILDCARD);
        let versions = &request.initial_resource_versions;
        let names = &request.resource_names_subscribe;
        if all && names.iter().all(|name| name == types::WILDCARD) && self.held.come_with(versions, false, shared) {
            return false;
        }
        let is_each = || names.len() == versions.len() && names.iter().all(|name| versions.contains_key(name));
        let asked: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        if !all && asked.len() == names.len() && is_each() && self.held.come_with(versions, true, shared) {
            return true;
        }
        let mut news = Vec::new();
        for (name, version) in versions.iter().filter(|(name, _)| all || asked.contains(name.as_str())) {
            let version: Option<Version> = version.parse().ok();
            let sent = version.map_or(SentVersion::Foreign, SentVersion::Version);
            news.push((shared.name(name), Entry { sent, acked: version, ..Entry::default() }));
        }
        news.sort_by(|a, b| a.0.cmp(&b.0));
        self.held.set_many(news);
        false
    }

    pub(super) fn subscribe(&mut self, names: &[String], shared: &Shared) {
        // The names of a first request that came with a version are compared, not forced: the client surely holds that version.
        let first = self.responses == 0 && self.acks == 0 && self.nacks == 0;
        if names.iter().any(|name| name == types::WILDCARD) {
            self.wildcard = true;
            self.due = true;
            self.owed = true;
        }
        let mut names = shared.names(names.iter().map(String::as_str).filter(|name| *name != types::WILDCARD));
        names.sort_unstable();
        names.dedup();
        if first && self.due && !self.wildcard && names.len() >= MANY && self.held.asked() == Some(None) {
            return self.held.ask(names, shared);
        }
        let mut news = Vec::with_capacity(names.len());
        for name in names {
            let entry = self.held.get(&name).unwrap_or_default();
            if entry.sent != SentVersion::Unsent && (entry.explicit || !first) {
                self.forced.insert(name.clone());
            } else if !self.due {
                self.touched.insert(name.clone());
            }
            if !entry.explicit {
                news.push((name, Entry { explicit: true, ..entry }));
            }
        }
        self.held.set_many(news);
    }

    /// Something has gone from a list. One that was rejected as a whole may be taken without it.
    pub(super) fn offer_again(&mut self) {
        self.owed |= self.held.has_rejections();
    }

    /// Notes a subscription to everything, ahead of what else a request says.
    pub(super) fn widen(&mut self, names: &[String]) {
        if self.wildcard || !names.iter().any(|name| name == types::WILDCARD) {
            return;
        }
        self.wildcard = true;
        if self.form == Form::Delta {
            // What was let go while it was under way is taken by a client that has asked for everything in the meantime: it is told how that stands.
            let under_way = self.in_flight.iter().flat_map(|flight| {
                let lines = flight.sheet.iter().flat_map(|sheet| sheet.lines()).map(|(name, _)| name);
                flight.sent.iter().map(|(name, _)| name).chain(lines)
            });
            self.forced.extend(under_way.filter(|name| self.held.get(name).is_none()).cloned());
        }
    }

    pub(super) fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == types::WILDCARD {
                self.wildcard = false;
                let others: Vec<Name> = self.held.iter().filter(|(_, entry)| !entry.explicit).map(|(name, _)| name.clone()).collect();
                others.iter().for_each(|name| self.held.remove(name));
            } else if let Some(entry) = self.held.get(name).filter(|entry| entry.explicit || self.wildcard) {
                let name: Name = name.as_str().into();
                if self.wildcard {
                    // The client cannot know whether the wildcard covers it, so it must be answered, also where a client that needed it for a while took
                    // what came with the wildcard for something that came along.
                    self.held.set(&name, Entry { explicit: false, ..entry });
                    self.forced.insert(name);
                    self.due = true;
                } else {
                    self.held.remove(&name);
                    self.forced.remove(&name);
                    self.let_go.push(name);
                }
            }
        }
    }

    pub(super) fn verdict(&mut self, nonce: &str, error: Option<&Status>) -> Option<Verdict> {
        if nonce.is_empty() {
            return None;
        }
        let at = nonce.parse().ok().and_then(|nonce: u64| self.in_flight.iter().position(|f| f.nonce == nonce));
        let Some(at) = at else { return Some(Verdict::Unknown) };
        let Some(mut flight) = self.in_flight.remove(at) else { return Some(Verdict::Unknown) };
        if self.form != Form::Delta {
            self.join_earlier(at, &mut flight, error.is_none());
        }
        let whole = flight.sheet.take();
        let Some(error) = error else {
            self.acks += 1;
            if let Some(sheet) = whole.filter(|sheet| !self.held.accept_sheet(sheet)) {
                let lines: Vec<(Name, Version)> = versions(&sheet).collect();
                self.held.accept(&lines);
            }
            self.held.accept(&flight.sent);
            if !self.held.has_rejections() {
                self.error = None;
            }
            return Some(Verdict::Ack);
        };
        self.nacks += 1;
        self.error = Some(error.message.clone());
        flight.sent.extend(whole.iter().flat_map(|sheet| versions(sheet)));
        let sent = flight.sent.iter().map(|(name, _)| name);
        let rejected = match self.form {
            Form::Delta => rejections(error, sent),
            Form::Whole | Form::Part | Form::Found => sent.map(|name| (name.clone(), error.message.clone())).collect(),
        };
        for (name, version) in &flight.sent {
            match rejected.iter().find(|(n, _)| n == name) {
                None => self.accepted(name, *version),
                Some((_, reason)) => {
                    // A rejection of what was replaced in the meantime says nothing about what is there now.
                    if let Some(entry) = self.held.get(name).filter(|entry| entry.sent == SentVersion::Version(*version)) {
                        self.held.set(name, Entry { rejected: Some(Box::new((*version, reason.clone()))), ..entry });
                    }
                }
            }
        }
        Some(Verdict::Nack { message: error.message.clone(), rejected })
    }

    /// A client may leave out its word on a response after which another has come. Then that on the later one is one on what it holds of the earlier.
    fn join_earlier(&mut self, at: usize, flight: &mut Flight, taken: bool) {
        let mut sent: Vec<(Name, Version)> = self.in_flight.drain(..at).flat_map(|earlier| earlier.sent).collect();
        if self.form == Form::Whole && self.held.has_rejections() {
            // What was rejected before is in each list that follows.
            let rejected = self.held.iter().filter_map(|(name, entry)| Some((name.clone(), entry.rejected?.0)));
            sent.extend(rejected);
        }
        if self.form != Form::Whole && !taken {
            sent.clear();
        }
        sent.append(&mut flight.sent);
        // In order, and of each name what was sent last.
        sent.sort_by(|a, b| a.0.cmp(&b.0));
        sent.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
        flight.sent = sent;
    }

    fn accepted(&mut self, name: &Name, version: Version) {
        self.held.change(name, |entry| accept(entry, version));
    }

    /// What has to be looked up. From now on it counts as looked up.
    pub(super) fn wanted(&mut self, key: Key) -> Wanted {
        let forced = std::mem::take(&mut self.forced);
        let mut touched = std::mem::take(&mut self.touched);
        let all = std::mem::take(&mut self.due) || self.owed;
        let asked = if all { self.asked() } else { None };
        let names = if asked.is_some() {
            Vec::new()
        } else if all {
            self.held.iter().filter(|(_, entry)| entry.explicit).map(|(name, _)| (name.clone(), true)).collect()
        } else {
            touched.extend(forced.iter().cloned());
            touched.into_iter().map(|name| (self.held.is_explicit(&name), name)).map(|(explicit, name)| (name, explicit)).collect()
        };
        Wanted { key, all, list: all && self.wildcard, names, asked, forced }
    }

    /// The names that are subscribed to, of which there are none if everything is; `None`: both.
    fn asked(&self) -> Option<Option<Arc<[Name]>>> {
        let names = match self.held.asked() {
            Some(names) => names.cloned(),
            None => {
                let names = self.held.iter().filter(|(_, entry)| entry.explicit).map(|(name, _)| name.clone());
                Some(names.collect()).filter(|names: &Arc<[Name]>| !names.is_empty())
            }
        };
        (names.is_none() == self.wildcard).then_some(names)
    }

    /// What is asked for of a client to which nothing was sent, if it hears of what is new: by name, or everything.
    fn fresh(&self) -> Option<Option<&Arc<[Name]>>> {
        self.held.asked().filter(|asked| self.form == Form::Delta && asked.is_none() == self.wildcard)
    }

    /// Whether nothing was sent, and this is what is asked for.
    fn is_fresh(&self, asked: &Option<Arc<[Name]>>) -> bool {
        match (self.fresh(), asked) {
            (Some(Some(now)), Some(asked)) => Arc::ptr_eq(now, asked),
            (Some(None), None) => true,
            _ => false,
        }
    }

    /// Compares with the state, and notes the difference as sent.
    pub(super) fn diff(&mut self, found: Found, shared: &Shared) -> Diff {
        let Found { wanted: Wanted { all, asked, forced, .. }, sheet, mut resources } = found;
        let mut diff = Diff { owed: std::mem::take(&mut self.owed), ..Diff::default() };
        let beside =
            sheet.and_then(|sheet| self.take_sheet(sheet, asked.as_ref().filter(|_| forced.is_empty()), &mut resources, &mut diff));
        let gone = match &beside {
            _ if !all => Vec::new(),
            Some(names) => gone(names.iter(), &resources, &forced),
            None => {
                let sent = self.held.iter().filter(|(_, entry)| entry.sent != SentVersion::Unsent);
                gone(sent.map(|(name, _)| name), &resources, &forced)
            }
        };
        let (mut news, mut lost) = (Vec::new(), Vec::new());
        let mut held = (all && beside.is_none()).then(|| self.held.iter().peekable());
        // What the client has of each: all are in order.
        let mut entry = |name: &Name| match &mut held {
            None => self.held.get(name).unwrap_or_default(),
            Some(held) => {
                while held.next_if(|(there, _)| !is_same(there, name) && *there < name).is_some() {}
                held.next_if(|(there, _)| is_same(there, name)).map(|(_, entry)| entry).unwrap_or_default()
            }
        };
        for (name, look_up) in resources {
            match look_up {
                LookUp::Found(resource) => {
                    let (entry, forced) = (entry(&name), forced.contains(&name));
                    news.extend(compare(name, entry, resource, forced, &mut diff));
                }
                LookUp::Pending if forced.contains(&name) => _ = self.forced.insert(name),
                LookUp::Pending => {}
                LookUp::Missing => lost.push(name),
            }
        }
        drop(held);
        self.held.send(news, shared);
        for name in lost.iter().chain(&gone) {
            // What was asked for, let go or asked for again while it was looked up is looked up once more: this says nothing of it.
            if !self.forced.contains(name) {
                self.missing(name, forced.contains(name), &mut diff);
            }
        }
        diff
    }

    /// Sends all of a sheet to who has nothing, and nothing of it to who has all of it; what such a client has beside it is returned. For all others, as
    /// for one whose request came meanwhile, its lines are resources like any.
    fn take_sheet(
        &mut self,
        sheet: Arc<Sheet>,
        asked: Option<&Option<Arc<[Name]>>>,
        resources: &mut Vec<(Name, LookUp)>,
        diff: &mut Diff,
    ) -> Option<Vec<Name>> {
        if let Some(asked) = asked {
            if self.is_fresh(asked) {
                let rest = asked.as_ref().and_then(|asked| sheet.rest_of(asked)).unwrap_or_default();
                self.held.send_sheet(sheet.sent(asked.is_some()), &rest);
                diff.sheet = Some(sheet);
                return Some(Vec::new());
            }
            let beside = if self.form == Form::Delta { self.held.beside(sheet.lines()) } else { None };
            if beside.is_some() {
                return beside;
            }
        }
        resources.extend(sheet.lines().iter().map(|(name, resource)| (name.clone(), LookUp::Found(resource.clone()))));
        resources.sort_by(|a, b| a.0.cmp(&b.0));
        None
    }

    fn missing(&mut self, name: &Name, forced: bool, diff: &mut Diff) {
        let entry = self.held.get(name).unwrap_or_default();
        let had = !matches!(entry.sent, SentVersion::Absent | SentVersion::Unsent);
        let asked = forced || (entry.explicit && entry.sent == SentVersion::Unsent);
        match self.form {
            // That something is not there shows in a list without it.
            Form::Whole if !had => diff.owed |= asked,
            Form::Found => {}
            Form::Part if !asked => {}
            Form::Delta if !had && !asked => {}
            Form::Delta | Form::Whole | Form::Part => {
                diff.removed.push(name.clone());
                diff.lost |= had && self.form == Form::Delta;
            }
        }
        if entry.explicit {
            self.held.set(name, Entry { explicit: true, sent: SentVersion::Absent, acked: None, rejected: None });
        } else {
            self.held.remove(name);
        }
    }

    pub(super) fn status(&self, type_url: &Name) -> TypeStatus {
        let resource = |(name, entry): (&Name, Entry)| ResourceStatus {
            name: name.clone(),
            sent: match entry.sent {
                SentVersion::Version(version) => Some(version),
                SentVersion::Absent | SentVersion::Foreign | SentVersion::Unsent => None,
            },
            acked: entry.acked,
            rejected: entry.rejected.map(|rejected| *rejected),
        };
        TypeStatus {
            type_url: type_url.clone(),
            wildcard: self.wildcard,
            explicit: self.held.explicit(),
            responses: self.responses,
            acks: self.acks,
            nacks: self.nacks,
            pending: self.in_flight.len(),
            error: self.error.clone(),
            resources: self.held.iter().filter(|(_, entry)| entry.sent != SentVersion::Unsent).map(resource).collect(),
        }
    }
}

/// Those of the names of what a client has, in order, that were not found, and what it waits for in vain.
fn gone<'n>(has: impl Iterator<Item = &'n Name>, found: &[(Name, LookUp)], forced: &BTreeSet<Name>) -> Vec<Name> {
    // Both are in order, so that what is gone shows as a gap.
    let mut there = found.iter().map(|(name, _)| name).peekable();
    let missing = |name: &&Name| {
        while there.next_if(|found| !is_same(found, name) && found < name).is_some() {}
        !there.peek().is_some_and(|found| is_same(found, name))
    };
    let is_there = |name: &Name| found.binary_search_by(|(found, _)| found.cmp(name)).is_ok();
    let unlisted = has.filter(missing).cloned();
    // Each once, in order.
    let gone: BTreeSet<Name> = unlisted.chain(forced.iter().filter(|name| !is_there(name)).cloned()).collect();
    gone.into_iter().collect()
}

/// The lines of a sheet, as they were sent.
fn versions(sheet: &Sheet) -> impl Iterator<Item = (Name, Version)> {
    sheet.lines().iter().map(|(name, resource)| (name.clone(), resource.version))
}

/// Notes what has to be sent of a resource of which the client has `entry`; what it has then, if that is something else.
fn compare(name: Name, mut entry: Entry, resource: Resource, forced: bool, diff: &mut Diff) -> Option<(Name, Entry)> {
    let version = SentVersion::Version(resource.version);
    if entry.sent == version && !forced {
        return None;
    }
    if !matches!(entry.sent, SentVersion::Absent | SentVersion::Unsent) {
        diff.changed.push(name.clone());
    }
    let differs = entry.sent != version;
    if differs {
        entry.sent = version;
        entry.rejected = None;
    }
    diff.added.push((name.clone(), resource));
    differs.then_some((name, entry))
}
