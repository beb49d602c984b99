//! The proxies that are connected, and how far each is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mizzen_api::{Key, Kind};
use mizzen_model::{ProxyView, Reader};
use mizzen_translate::{Part, ResourceKind};
use mizzen_types::{Name, SpiffeId};
use mizzen_xds::{
    server::{Heard, Resource, ResourceSource, Response, Session, Sync, Verdict, Whole},
    types,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    credentials::{Credentials, Standing},
    memo::{Asker, Epoch, Memo},
    status::{ProxyStatus, ResourceStatus, SyncState, TypeStatus, UnansweredStatus},
};

/// So many names are little: to look them up takes less than to have another thread do it.
const FEW: usize = 32;

/// One proxy's stream.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) asker: Arc<Asker>,
    pub(crate) identity: SpiffeId,
    pub(crate) peer: SocketAddr,
    pub(crate) version: String,
    pub(crate) since: SystemTime,
    /// Of gateways' Secrets what is known, where they have to be fetched.
    credentials: Option<Arc<Credentials>>,
    progress: Mutex<Progress>,
}

/// How far a stream is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) session: Session,
    /// The newest snapshot of which everything was sent.
    pub(crate) sent: u64,
    /// The newest snapshot of which everything was sent and answered.
    pub(crate) settled: u64,
    /// Whether its last word on something was a refusal.
    pub(crate) refuses: bool,
    /// When the oldest change came to be known of which the session was told and which was not looked up yet.
    queued: Option<Instant>,
    /// When the oldest change came to be known of which not everything is answered.
    changed: Option<Instant>,
    /// When the oldest response was made of those since which not everything was answered at once.
    pushed: Option<Instant>,
    /// By type, when responses were last answered.
    answers: BTreeMap<Name, Answers>,
}

/// When the latest response of a type was taken whole, and when of one something was rejected.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    ack: Option<SystemTime>,
    nack: Option<SystemTime>,
}

impl Progress {
    /// Notes when an answer came, if what was heard is one.
    pub(crate) fn answered(&mut self, heard: &Heard, at: SystemTime) {
        let answers = self.answers.entry(heard.type_url.clone()).or_default();
        match &heard.verdict {
            Some(Verdict::Ack) => answers.ack = Some(at),
            Some(Verdict::Nack { .. }) => answers.nack = Some(at),
            Some(Verdict::Unknown) | None => {}
        }
    }

    /// Notes that what was sent is answered, if it is. Returns since when a change has waited for that.
    pub(crate) fn settle(&mut self) -> Option<Instant> {
        if self.session.is_due() || self.session.in_flight() > 0 {
            return None;
        }
        self.settled = self.sent;
        self.pushed = None;
        self.changed.take()
    }
}

impl Connection {
    /// The name by which people know the proxy.
    pub(crate) fn proxy(&self) -> String {
        let facts = self.view().facts();
        format!("{}.{}", facts.pod, facts.namespace)
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who it is.
    pub(crate) fn view(&self) -> &ProxyView {
        &self.asker.view
    }

    /// The newest snapshot of which all that concerns the proxy was sent and answered, if `current` is the newest one.
    fn reached(&self, progress: &Progress, current: u64) -> u64 {
        let idle =
            progress.sent > 0 && progress.settled == progress.sent && !progress.session.is_due() && progress.session.in_flight() == 0;
        match self.asker.due_since() {
            None if idle => progress.settled.max(current),
            Some(since) if idle => progress.settled.max(since.saturating_sub(1)),
            _ => progress.settled,
        }
    }

    /// What is due now, by the memo's snapshot. It counts as sent. Blocks as long as something has to be built, without holding anybody else up.
    pub(crate) fn push(&self, memo: &Memo) -> Push {
        self.push_of(&memo.read())
    }

    /// The same if it is little and there is nothing to be built or waited for; `None`: nothing was sent.
    pub(crate) fn push_at_once(&self, memo: &Memo) -> Option<Push> {
        let epoch = memo.try_read()?;
        {
            let mut progress = self.progress();
            self.note_due(&epoch, &mut progress);
            if !self.is_built(&epoch, &progress.session) {
                return None;
            }
        }
        Some(self.push_of(&epoch))
    }

    /// Tells the session what is due by changes, and the memo what the proxy has let go.
    fn note_due(&self, epoch: &Epoch<'_>, progress: &mut Progress) {
        for (type_url, name) in progress.session.take_let_go() {
            kind(&type_url).into_iter().for_each(|kind| epoch.release(&self.asker, kind, &name));
        }
        let due = self.asker.take_due();
        for (kind, names) in &due.names {
            let type_url = kind.type_url();
            for name in names.iter().filter(|name| !progress.session.touch(&type_url, name)) {
                epoch.release(&self.asker, *kind, name);
            }
        }
        progress.queued = progress.queued.or(due.queued);
    }

    /// Whether all that is due is little, and there.
    fn is_built(&self, epoch: &Epoch<'_>, session: &Session) -> bool {
        let Some(due) = session.due_names(FEW) else { return false };
        let due = due.into_iter().filter_map(|(type_url, name, listed)| Some((kind(type_url)?, name.clone(), listed)));
        let mut open: Vec<(ResourceKind, Name, bool)> = due.collect();
        let mut left = FEW;
        while let Some((kind, name, listed)) = open.pop() {
            // Of a Secret it has to be found out what is known.
            let built = if kind == ResourceKind::Secret { None } else { epoch.find_built(&self.asker, kind, &name, listed) };
            let Some((brings, rest)) = built.zip(left.checked_sub(1)) else { return false };
            left = rest;
            open.extend(brings.iter().map(|(kind, name)| (*kind, name.clone(), false)));
        }
        true
    }

    fn push_of(&self, epoch: &Epoch<'_>) -> Push {
        let (mut round, queued) = {
            let mut progress = self.progress();
            self.note_due(epoch, &mut progress);
            if self.view().facts().extensions.contains(mizzen_model::ON_DEMAND) {
                progress.session.bring(&mut self.resources(epoch));
            }
            (progress.session.begin(), progress.queued.take())
        };
        let waited = queued.map(|queued| queued.elapsed());
        let mut state = self.resources(epoch);
        loop {
            let Some(wanted) = self.progress().session.next(&mut round) else { break };
            let found = wanted.look_up(&mut state);
            self.progress().session.take(&mut round, found);
        }
        let mut progress = self.progress();
        let responses = progress.session.end(round);
        for Response { type_url, removed, .. } in &responses {
            // What was asked for by name may come to be.
            for (kind, name) in removed.iter().filter_map(|name| Some((kind(type_url)?, name))) {
                if !progress.session.is_explicit(type_url, name) {
                    epoch.release(&self.asker, kind, name);
                }
            }
        }
        progress.sent = epoch.version();
        progress.changed = progress.changed.or(queued);
        if !responses.is_empty() {
            progress.pushed.get_or_insert_with(Instant::now);
        }
        Push { responses, version: progress.sent, settled: progress.settle(), waited }
    }

    /// What the proxy's last word on was a refusal: kind, name and reason.
    pub(crate) fn refused(&self) -> Vec<(ResourceKind, Name, String)> {
        let progress = self.progress();
        let refused = progress.session.rejections();
        refused.filter_map(|(type_url, name, why)| Some((kind(type_url)?, name.clone(), why.to_owned()))).collect()
    }

    fn resources<'a>(&'a self, epoch: &'a Epoch<'a>) -> Resources<'a> {
        Resources { epoch, asker: &self.asker, credentials: self.credentials.as_deref(), open: BTreeSet::new() }
    }

    /// For how long something is due or unanswered, if it is; and whether it is only due: nothing was sent that is not answered.
    pub(crate) fn waits(&self) -> Option<(Duration, bool)> {
        let progress = self.progress();
        let unanswered = progress.session.in_flight() > 0;
        if !unanswered && !progress.session.is_due() && self.asker.due_since().is_none() {
            return None;
        }
        let since = [progress.changed, progress.queued, self.asker.due_queued(), progress.pushed].into_iter().flatten().min();
        // Nothing was sent yet.
        let opened = || self.since.elapsed().unwrap_or_default();
        Some((since.map_or_else(opened, |since| since.elapsed()), !unanswered))
    }

    /// All that it was sent and that there was, by kind.
    pub(crate) fn sent(&self) -> Vec<(ResourceKind, Name)> {
        let types = self.progress().session.status();
        let of_type = |t: mizzen_xds::server::TypeStatus| {
            let kind = kind(&t.type_url);
            t.resources.into_iter().filter(|r| r.sent.is_some()).filter_map(move |r| Some((kind?, r.name)))
        };
        types.into_iter().flat_map(of_type).collect()
    }

    /// What was sent and not answered, with at most `most` names of each type.
    pub(crate) fn unanswered(&self, most: usize) -> Vec<UnansweredStatus> {
        let types = self.progress().session.status();
        let of_type = |t: mizzen_xds::server::TypeStatus| {
            let open = |r: &mizzen_xds::server::ResourceStatus| r.sent != r.acked && r.rejected.as_ref().map(|(v, _)| *v) != r.sent;
            let mut resources: Vec<String> = t.resources.iter().filter(|r| open(r)).map(|r| r.name.to_string()).collect();
            let more = resources.len().saturating_sub(most);
            resources.truncate(most);
            UnansweredStatus { name: types::short(&t.type_url).to_owned(), responses: t.pending, resources, more }
        };
        types.into_iter().filter(|t| t.pending > 0).map(of_type).collect()
    }

    /// How it is, if `current` is the newest snapshot.
    pub(crate) fn status(&self, current: u64) -> ProxyStatus {
        let (types, snapshot, answers) = {
            let progress = self.progress();
            (progress.session.status(), self.reached(&progress, current), progress.answers.clone())
        };
        let seconds = |at: Option<SystemTime>| Some(at?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs());
        let answers = |type_url: &Name| answers.get(type_url).copied().unwrap_or_default();
        let resource = |r: mizzen_xds::server::ResourceStatus| ResourceStatus {
            name: r.name.to_string(),
            sent: r.sent.map(|v| v.to_string()),
            acked: r.acked.map(|v| v.to_string()),
            rejected: r.rejected.map(|(_, why)| why),
        };
        let of_type = |t: mizzen_xds::server::TypeStatus| TypeStatus {
            name: types::short(&t.type_url).to_owned(),
            type_url: t.type_url.to_string(),
            state: match t.sync() {
                Sync::NotSent => SyncState::NotSent,
                Sync::Synced => SyncState::Synced,
                Sync::Stale => SyncState::Stale,
                Sync::Rejected => SyncState::Error,
            },
            sent: t.responses,
            acked: t.acks,
            nacked: t.nacks,
            last_ack: seconds(answers(&t.type_url).ack),
            last_nack: seconds(answers(&t.type_url).nack),
            error: t.error,
            resources: t.resources.into_iter().map(resource).collect(),
        };
        ProxyStatus {
            proxy: self.proxy(),
            node: self.view().facts().id.to_string(),
            connection: self.number,
            identity: self.identity.to_string(),
            address: self.view().facts().ip.to_string(),
            proxy_version: self.version.clone(),
            snapshot,
            types: types.into_iter().map(of_type).collect(),
        }
    }
}

/// What is sent to a proxy at once.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) responses: Vec<Response>,
    /// The snapshot of which it all is.
    pub(crate) version: u64,
    /// When the change came to be known that needed no word, or was answered.
    pub(crate) settled: Option<Instant>,
    /// How long the change has waited that is the reason, if one is.
    pub(crate) waited: Option<Duration>,
}

/// What one proxy should have, by one snapshot.
struct Resources<'a> {
    epoch: &'a Epoch<'a>,
    asker: &'a Arc<Asker>,
    credentials: Option<&'a Credentials>,
    /// Secrets of which it is not known yet whether there are any for this proxy.
    open: BTreeSet<Name>,
}

impl Resources<'_> {
    /// Of a Secret, what is known.
    fn standing(&self, name: &str) -> Standing {
        let Some(credentials) = self.credentials else { return Standing::Known };
        let (snapshot, view) = (self.epoch.snapshot(), &self.asker.view);
        let key = |name: Name| Key::new(Kind::Secret, view.facts().namespace.clone(), name);
        let behind: Vec<Key> = mizzen_translate::secrets_behind(&Reader::new(snapshot), view, name).into_iter().map(key).collect();
        // What no Gateway names is not looked for.
        if behind.is_empty() {
            Standing::Known
        } else {
            credentials.standing(self.asker, name, &behind, |key| snapshot.object(key).is_some())
        }
    }
}

impl ResourceSource for Resources<'_> {
    fn names(&mut self, type_url: &str) -> Vec<Name> {
        let parts = |kind| Part::ALL.into_iter().flat_map(move |part| self.epoch.names(self.asker, kind, part).to_vec());
        kind(type_url).map(|kind| parts(kind).collect()).unwrap_or_default()
    }

    fn is_listed(&mut self, type_url: &str, name: &str) -> bool {
        let listed = |kind, part| self.epoch.names(self.asker, kind, part).binary_search_by(|listed| (**listed).cmp(name)).is_ok();
        kind(type_url).is_some_and(|kind| Part::ALL.into_iter().any(|part| listed(kind, part)))
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        let kind = kind(type_url)?;
        let standing = if kind == ResourceKind::Secret { self.standing(name) } else { Standing::Known };
        // Asked for in any case: so a change of what it hangs on reaches the proxy.
        let found = self.epoch.resource(self.asker, kind, name);
        match standing {
            Standing::Known => found,
            Standing::Denied => None,
            Standing::Open => {
                self.open.insert(name.into());
                None
            }
        }
    }

    fn is_pending(&mut self, type_url: &str, name: &str) -> bool {
        type_url == types::SECRET && self.open.contains(name)
    }

    fn whole(&mut self, type_url: &str, asked: Option<&Arc<[Name]>>) -> Option<Whole> {
        self.epoch.whole(self.asker, kind(type_url)?, asked)
    }

    fn brings(&mut self, type_url: &str, name: &str) -> Vec<(Name, Name)> {
        let Some(kind) = kind(type_url) else { return Vec::new() };
        self.epoch.brings(self.asker, kind, name).iter().map(|(kind, name)| (kind.type_url().into(), name.clone())).collect()
    }
}

/// The kinds that can be built; of other types there is nothing.
fn kind(type_url: &str) -> Option<ResourceKind> {
    Some(match type_url {
        types::CLUSTER => ResourceKind::Cluster,
        types::ENDPOINT => ResourceKind::Endpoints,
        types::LISTENER => ResourceKind::Listener,
        types::ROUTE => ResourceKind::Route,
        types::VIRTUAL_HOST => ResourceKind::VirtualHost,
        types::NAME_TABLE => ResourceKind::NameTable,
        types::INDEX => ResourceKind::Index,
        types::SECRET => ResourceKind::Secret,
        _ => return None,
    })
}

/// All that are open.
#[derive(Debug)]
pub(crate) struct Connections {
    memo: Arc<Memo>,
    credentials: Option<Arc<Credentials>>,
    numbers: AtomicU64,
    /// The number of the newest.
    opened: watch::Sender<u64>,
    /// Changes whenever something else may be refused than before.
    refusals: watch::Sender<()>,
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
}

/// Keeps a connection among the open ones until it is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    all: Arc<Connections>,
    pub(crate) connection: Arc<Connection>,
}

impl Connections {
    /// Nobody is there. In a cluster, gateways' Secrets are fetched.
    pub(crate) fn new(memo: Arc<Memo>, credentials: Option<Arc<Credentials>>) -> Self {
        Connections {
            memo,
            credentials,
            numbers: AtomicU64::new(0),
            opened: watch::Sender::new(0),
            refusals: watch::Sender::new(()),
            open: Mutex::default(),
        }
    }

    pub(crate) fn register(self: &Arc<Self>, view: ProxyView, identity: SpiffeId, peer: SocketAddr, version: String) -> Registered {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = SystemTime::now();
        let asker = self.memo.enter(view);
        let progress = Mutex::new(Progress { session: Session::sharing(self.memo.lists.clone()), ..Progress::default() });
        let credentials = self.credentials.clone();
        let connection = Arc::new(Connection { number, asker, identity, peer, version, since, credentials, progress });
        self.lock().insert(number, connection.clone());
        self.opened.send_replace(number);
        Registered { all: self.clone(), connection }
    }

    /// All open connections, by proxy.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|c| (c.proxy(), c.number));
        all
    }

    /// All proxies, by name. One may have several streams: its agent's own beside its own, or an old one whose end is not known yet. The newest
    /// stream that speaks of a type counts, and a stream of which nothing counts is left out. `current` is the newest snapshot.
    pub(crate) fn proxies(&self, current: u64) -> Vec<ProxyStatus> {
        let mut merged: BTreeMap<String, ProxyStatus> = BTreeMap::new();
        let mut all = self.all();
        all.sort_by_key(|c| std::cmp::Reverse(c.number));
        for status in all.iter().map(|c| c.status(current)) {
            match merged.get_mut(&status.node) {
                None => drop(merged.insert(status.node.clone(), status)),
                Some(known) => {
                    let news = status.types.into_iter().filter(|t| known.types.iter().all(|k| k.type_url != t.type_url));
                    let before = known.types.len();
                    known.types.extend(news.collect::<Vec<_>>());
                    if known.types.len() > before {
                        known.snapshot = known.snapshot.min(status.snapshot);
                        known.types.sort_by_key(|t| (types::rank(&t.type_url), t.name.clone()));
                    }
                }
            }
        }
        let mut proxies: Vec<_> = merged.into_values().collect();
        proxies.sort_by(|a, b| (&a.proxy, a.connection).cmp(&(&b.proxy, b.connection)));
        proxies
    }

    /// Those that were opened after the one of this number, by number.
    pub(crate) fn since(&self, number: u64) -> Vec<Arc<Connection>> {
        self.lock().range(number.saturating_add(1)..).map(|(_, connection)| connection.clone()).collect()
    }

    /// Changes with each connection that is opened.
    pub(crate) fn opened(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Changes whenever proxies may refuse something else than before.
    pub(crate) fn refusals(&self) -> watch::Receiver<()> {
        self.refusals.subscribe()
    }

    /// A proxy refuses something, or not any more.
    pub(crate) fn refusals_changed(&self) {
        self.refusals.send_replace(());
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.all.lock().remove(&self.connection.number);
        self.all.memo.leave(&self.connection.asker);
        if self.connection.progress().refuses {
            self.all.refusals_changed();
        }
    }
}
