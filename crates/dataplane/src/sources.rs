//! Servers of resources: what is asked of each, and what they answer, between the streams and the [`Store`].
//!
//! Listeners and clusters are asked for as a whole, everything else by name, as what is held names it. Secrets may come from servers of their own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use mizzen_ir::{
    ResourceKind,
    config::{MeshIndex, SecretSource},
};
use mizzen_protos::{
    envoy::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    },
    wkt::{Value, value::Kind},
};
use mizzen_types::Name;
use mizzen_xds::{
    client::{self, Event, Unasked},
    sotw, types,
};
use prost::Message;
use tokio::sync::mpsc;

use crate::{
    admin::Process,
    ads::{self, Answer, Happened, Request, Server, Service, Variant},
    bootstrap::Plan,
    on_demand::Demands,
    options::Options,
    store::{Store, Want},
};

/// Which server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The aggregated stream.
    Aggregated,
    /// A service for secrets, by its static cluster's name, and the one secret that it is asked for there: a server that has not got one
    /// of several may keep back all of them.
    Secrets {
        /// The cluster.
        server: Name,
        /// How it is asked.
        variant: Variant,
        /// The secret.
        secret: Name,
    },
}

impl Source {
    /// Where it is asked for; none: it is in the bootstrap.
    fn of(want: &Want) -> Option<Source> {
        match want {
            Want::Cluster(_) | Want::Route(_) | Want::Assignment(_) => Some(Source::Aggregated),
            Want::Secret(secret) => match &secret.source {
                SecretSource::Ads => Some(Source::Aggregated),
                SecretSource::Grpc { cluster, delta } => {
                    let variant = if *delta { Variant::Delta } else { Variant::Sotw };
                    Some(Source::Secrets { server: cluster.clone(), variant, secret: secret.name.clone() })
                }
                SecretSource::Static => None,
            },
        }
    }
}

/// Events of streams that may wait for the control thread.
const QUEUE: usize = 64;

pub(crate) struct Sources {
    node: Node,
    servers: HashMap<Name, Server>,
    links: BTreeMap<Source, Link>,
    events: mpsc::Sender<(Source, Happened)>,
    /// What is asked for by name.
    subscriptions: BTreeMap<(ResourceKind, Name), Subscription>,
    /// Those to be looked at by the next [`Sources::ask`].
    touched: BTreeSet<(ResourceKind, Name)>,
    /// What workers asked for beyond what resources name: it stays asked for, so that it stays.
    demanded: Demands,
    on_demand: OnDemand,
    /// Entries of the index have come that workers do not have yet: until they do, the server of the index is not answered. The agent gives out names
    /// when it is, and who then came for them would be taken for one who leaves the mesh.
    unpublished: bool,
    process: Process,
}

/// How far it is agreed with the server that what is used is fetched on first use.
#[derive(Debug, Default)]
struct OnDemand {
    /// Whether it is offered.
    offered: bool,
    /// Of the proxy's own namespace hosts have names of one word.
    namespace: Name,
    /// What is to be asked for as soon as it is agreed.
    remembered: Vec<(ResourceKind, Name)>,
}

/// A resource that is asked for by name.
#[derive(Debug, Default)]
struct Subscription {
    /// Where resources want it from, each by how it is wanted.
    wanted: BTreeMap<Want, Source>,
    /// Where it is asked for at present.
    asked: BTreeSet<Source>,
}

struct Link {
    client: Client,
    requests: Option<mpsc::Sender<Request>>,
    /// Requests that did not fit; sent before any other.
    waiting: Option<Request>,
    /// This stream has brought something.
    answered: bool,
    /// Why the last stream ended, until one brings something: said once, not at each attempt.
    failing: Option<String>,
    task: tokio::task::AbortHandle,
}

/// The protocol's state, by variant.
enum Client {
    Delta(client::Client),
    Sotw(sotw::Client),
}

impl Client {
    fn new(variant: Variant, node: Node) -> Client {
        match variant {
            Variant::Delta => Client::Delta(client::Client::new(node)),
            Variant::Sotw => Client::Sotw(sotw::Client::new(node)),
        }
    }

    fn connected(&mut self) {
        match self {
            Client::Delta(client) => client.connected(),
            Client::Sotw(client) => client.connected(),
        }
    }

    fn disconnected(&mut self) {
        match self {
            Client::Delta(client) => client.disconnected(),
            Client::Sotw(client) => client.disconnected(),
        }
    }

    fn watch_all(&mut self, kind: ResourceKind) {
        match self {
            Client::Delta(client) => client.watch_all(kind.type_url()),
            Client::Sotw(client) => client.watch_all(kind.type_url()),
        }
    }

    fn subscribe(&mut self, kind: ResourceKind, name: &Name) {
        match self {
            Client::Delta(client) => client.subscribe(kind.type_url(), [name.clone()]),
            Client::Sotw(client) => client.subscribe(kind.type_url(), [name.clone()]),
        }
    }

    fn unsubscribe(&mut self, kind: ResourceKind, name: &Name) {
        match self {
            Client::Delta(client) => client.unsubscribe(kind.type_url(), [name.clone()]),
            Client::Sotw(client) => client.unsubscribe(kind.type_url(), [name.clone()]),
        }
    }

    fn next_request(&mut self) -> Option<Request> {
        match self {
            Client::Delta(client) => client.next_request().map(Request::Delta),
            Client::Sotw(client) => client.next_request().map(Request::Sotw),
        }
    }

    /// Has the events of a response judged, and the verdict ready to be sent.
    fn take(&mut self, answer: Answer, judge: impl FnOnce(Vec<Event>) -> Vec<(Name, String)>) -> Result<(), Unasked> {
        match (self, answer) {
            (Client::Delta(client), Answer::Delta(response)) => {
                let (receipt, events) = client.receive(response)?;
                client.settle(receipt, judge(events));
            }
            (Client::Sotw(client), Answer::Sotw(response)) => {
                let (receipt, events) = client.receive(response)?;
                client.settle(receipt, judge(events));
            }
            (_, Answer::Delta(DeltaDiscoveryResponse { type_url, .. }) | Answer::Sotw(DiscoveryResponse { type_url, .. })) => {
                return Err(Unasked(type_url));
            }
        }
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sources {
    /// Opens the aggregated stream, if there is one; the others when something is asked of them.
    pub(crate) fn new(plan: &Plan, process: Process, options: &Options) -> (Sources, mpsc::Receiver<(Source, Happened)>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let on_demand = OnDemand::new(plan, options);
        let mut sources = Sources {
            node: on_demand.introduce(plan.node.clone()),
            servers: plan.servers.clone(),
            links: BTreeMap::new(),
            events,
            subscriptions: BTreeMap::new(),
            touched: BTreeSet::new(),
            demanded: Demands::new(options.on_demand_idle),
            on_demand,
            unpublished: false,
            process,
        };
        if let Some((server, variant)) = &plan.ads {
            let offered = sources.on_demand.offered;
            let link = sources.link(Source::Aggregated, server.clone(), Service::Aggregated, *variant);
            if let (true, Client::Delta(client)) = (offered, &mut link.client) {
                client.watch_all(types::INDEX);
            }
            for (kind, wanted) in [(ResourceKind::Cluster, plan.dynamic.1), (ResourceKind::Listener, plan.dynamic.0)] {
                if wanted {
                    link.client.watch_all(kind);
                }
            }
        }
        (sources, receiver)
    }

    fn link(&mut self, source: Source, server: Server, service: Service, variant: Variant) -> &mut Link {
        let task = tokio::spawn(ads::keep_open(server, service, variant, source.clone(), self.events.clone())).abort_handle();
        let client = Client::new(variant, self.node.clone());
        let link = Link { client, requests: None, waiting: None, answered: false, failing: None, task };
        self.links.entry(source).or_insert(link)
    }

    /// Whether the aggregated stream is open.
    pub(crate) fn connected(&self) -> bool {
        self.links.get(&Source::Aggregated).is_some_and(|l| l.requests.is_some())
    }

    /// Takes what happened on a stream into the store.
    pub(crate) fn happened(&mut self, source: &Source, event: Happened, store: &mut Store, now: Duration) {
        let Some(link) = self.links.get_mut(source) else { return };
        match event {
            Happened::Open(requests) => {
                tracing::debug!(?source, "a server of resources is reached");
                link.requests = Some(requests);
                link.waiting = None;
                link.answered = false;
                link.client.connected();
            }
            Happened::Closed(reason) => {
                link.requests = None;
                if link.failing.as_ref() == Some(&reason) {
                    tracing::debug!(?source, reason, "no stream of resources");
                } else {
                    tracing::warn!(?source, reason, "no stream of resources; what is held stays in force");
                    link.failing = Some(reason);
                }
                link.client.disconnected();
            }
            Happened::Response(answer) => {
                if !link.answered {
                    tracing::info!(?source, "connected to a server of resources");
                }
                let first = !std::mem::replace(&mut link.answered, true);
                link.failing = None;
                let (type_url, resources, bytes) = match &*answer {
                    Answer::Delta(r) => (&r.type_url, r.resources.len() + r.removed_resources.len(), r.encoded_len()),
                    Answer::Sotw(r) => (&r.type_url, r.resources.len(), r.encoded_len()),
                };
                self.process.received(type_url, resources, bytes);
                if *source == Source::Aggregated && self.on_demand.offered {
                    let is_index = type_url == types::INDEX;
                    if is_index || first {
                        self.agree(is_index, store, now);
                    }
                    if is_index {
                        return self.index(*answer, store);
                    }
                }
                let Some(link) = self.links.get_mut(source) else { return };
                let Some(kind) = ResourceKind::of(type_url) else {
                    tracing::warn!(?source, type_url, "a type that was not asked for");
                    return;
                };
                let (process, subscriptions) = (&self.process, &self.subscriptions);
                let is_asked = |name: &Name| subscriptions.contains_key(&(kind, name.clone()));
                let judged = link.client.take(*answer, |events| {
                    let (taken, rejected) = judge(source, kind, events, store, now, is_asked);
                    process.updated(kind, taken, rejected.len() as u64);
                    rejected
                });
                match judged {
                    Ok(()) if *source == Source::Aggregated && matches!(kind, ResourceKind::Cluster | ResourceKind::Listener) => {
                        store.set_complete(kind)
                    }
                    Ok(()) => {}
                    Err(unasked) => tracing::warn!(?source, %unasked, "a response is dropped"),
                }
            }
        }
        self.flush();
    }

    /// The server has an index of the mesh, or begins without one: then it sends all that there is.
    fn agree(&mut self, has_index: bool, store: &mut Store, now: Duration) {
        if store.mesh().is_some() == has_index {
            return;
        }
        tracing::info!(on_demand = has_index, "what the proxy uses is fetched on first use, or everything is told");
        store.set_mesh(has_index.then(|| MeshIndex::new(self.on_demand.namespace.clone())));
        if let Some(Link { client: Client::Delta(client), .. }) = self.links.get_mut(&Source::Aggregated) {
            client.set_brings_along(has_index);
        }
        if has_index {
            for (kind, name) in std::mem::take(&mut self.on_demand.remembered) {
                self.demand(kind, &name, &"remembered".into(), now);
            }
        } else {
            // All come without being asked for.
            let names: Vec<_> = self.demanded.iter().map(|(key, _)| key.clone()).filter(|(kind, _)| is_fetched(*kind)).collect();
            names.iter().for_each(|(kind, name)| self.demand_no_more(*kind, name));
        }
    }

    /// Takes entries of the index.
    fn index(&mut self, answer: Answer, store: &mut Store) {
        let Some(link) = self.links.get_mut(&Source::Aggregated) else { return };
        let judged = link.client.take(answer, |events| {
            let mut rejected = Vec::new();
            for event in events {
                match event {
                    Event::Added { name, body, .. } => {
                        if let Err(reason) = store.put_host(&name, &body.value) {
                            tracing::warn!(%name, reason, "a host of the index is refused");
                            rejected.push((name, reason));
                        }
                    }
                    Event::Removed { name } => store.remove_host(&name),
                }
            }
            rejected
        });
        if let Err(unasked) = judged {
            tracing::warn!(%unasked, "a response is dropped");
        }
        self.unpublished = true;
    }

    /// Workers have been sent all that the store holds: what waited for that is sent.
    pub(crate) fn published(&mut self) {
        if std::mem::take(&mut self.unpublished) {
            self.flush();
        }
    }

    /// Asks for what the store's resources name, and no longer for what nothing names any more.
    pub(crate) fn ask(&mut self, store: &mut Store, now: Duration) {
        for (want, is_wanted) in store.take_wants() {
            let Some(source) = Source::of(&want) else { continue };
            let key = want.key();
            let wanted = &mut self.subscriptions.entry(key.clone()).or_default().wanted;
            if is_wanted {
                wanted.insert(want, source)
            } else {
                wanted.remove(&want)
            };
            self.touched.insert(key);
        }
        for (kind, name) in std::mem::take(&mut self.touched) {
            self.settle(kind, name, store, now);
        }
        self.flush();
    }

    /// Asks for a resource where it is wanted now, and nowhere else any more.
    fn settle(&mut self, kind: ResourceKind, name: Name, store: &mut Store, now: Duration) {
        let key = (kind, name);
        let mut subscription = self.subscriptions.remove(&key).unwrap_or_default();
        let mut sources: BTreeSet<Source> = subscription.wanted.values().cloned().collect();
        if sources.is_empty() && self.demanded.contains(&key) {
            sources.insert(Source::Aggregated);
        }
        let (kind, name) = key;
        for source in sources.difference(&subscription.asked) {
            match self.find(source) {
                Some(link) => link.client.subscribe(kind, &name),
                None => {
                    tracing::error!(?source, %name, "there is no such server: the resource counts as absent");
                    store.remove(kind, &name, now);
                }
            }
        }
        for source in subscription.asked.difference(&sources) {
            if matches!(source, Source::Secrets { .. }) {
                self.links.remove(source);
            } else if let Some(link) = self.links.get_mut(source) {
                link.client.unsubscribe(kind, &name);
            }
            store.forget(kind, &name, now);
        }
        subscription.asked = sources;
        if !subscription.asked.is_empty() || !subscription.wanted.is_empty() {
            self.subscriptions.insert((kind, name), subscription);
        }
    }

    /// Has a resource asked for that a worker waits for, at the next [`Sources::ask`].
    pub(crate) fn demand(&mut self, kind: ResourceKind, name: &Name, why: &Name, now: Duration) {
        self.touched.extend(self.demanded.insert(kind, name, why, now));
        self.touched.insert((kind, name.clone()));
    }

    /// What workers have asked for, and why.
    pub(crate) fn demands(&self) -> &Demands {
        &self.demanded
    }

    /// When [`Sources::let_go`] has something to look for.
    pub(crate) fn sweep(&self) -> Option<Duration> {
        self.demanded.due()
    }

    /// Has nothing asked for any more, at the next [`Sources::ask`], that came on demand and that nothing has used for long enough. Whether there was such.
    pub(crate) fn let_go(&mut self, now: Duration, store: &Store, mut is_used: impl FnMut(ResourceKind, &Name) -> bool) -> bool {
        // Of what is not answered yet nobody can make use: while the server is away, somebody may wait for it. Others than these kinds are few, and
        // nobody marks them.
        let is_awaited = |kind: ResourceKind, name: &Name| !kind.is_in(store.config(), name) && !store.knows_absent(kind, name);
        let gone = self.demanded.idle(now, |kind, name| !is_fetched(kind) || is_used(kind, name) || is_awaited(kind, name));
        for (kind, name) in &gone {
            tracing::debug!(?kind, %name, "was not used for a while, and is let go");
        }
        self.touched.extend(gone.iter().cloned());
        !gone.is_empty()
    }

    /// It is known that there is no such resource.
    pub(crate) fn demand_no_more(&mut self, kind: ResourceKind, name: &Name) {
        let key = (kind, name.clone());
        self.demanded.remove(&key);
        self.touched.insert(key);
    }

    fn find(&mut self, source: &Source) -> Option<&mut Link> {
        if !self.links.contains_key(source) {
            let Source::Secrets { server, variant, .. } = source else { return None };
            let server = self.servers.get(server)?.clone();
            self.link(source.clone(), server, Service::Secrets, *variant);
        }
        self.links.get_mut(source)
    }

    /// Sends what there is to send. What does not fit into a stream's queue is sent with the next event.
    fn flush(&mut self) {
        for (source, link) in &mut self.links {
            if self.unpublished && *source == Source::Aggregated {
                continue;
            }
            let Some(requests) = &link.requests else { continue };
            while let Some(request) = link.waiting.take().or_else(|| link.client.next_request()) {
                if let Err(mpsc::error::TrySendError::Full(request)) = requests.try_send(request) {
                    link.waiting = Some(request);
                    break;
                }
            }
        }
    }
}

/// Whether a kind is among those that are fetched on first use.
fn is_fetched(kind: ResourceKind) -> bool {
    matches!(kind, ResourceKind::Listener | ResourceKind::VirtualHost)
}

impl OnDemand {
    fn new(plan: &Plan, options: &Options) -> OnDemand {
        let delta = plan.ads.as_ref().is_some_and(|(_, variant)| *variant == Variant::Delta);
        // Gateways have what their Gateways name.
        let mut id = plan.node.id.split('~');
        let is_sidecar = id.next() == Some("sidecar");
        let namespace = id.nth(1).and_then(|workload| workload.rsplit_once('.')).map(|(_, namespace)| namespace).unwrap_or_default();
        let remembered = options.remembered.iter().filter_map(|(type_url, name)| Some((ResourceKind::of(type_url)?, name.clone())));
        OnDemand {
            offered: options.on_demand && is_sidecar && delta,
            namespace: namespace.into(),
            remembered: remembered.filter(|(kind, _)| is_fetched(*kind)).collect(),
        }
    }

    /// Says so in the node's metadata.
    fn introduce(&self, mut node: Node) -> Node {
        if self.offered {
            let yes = Value { kind: Some(Kind::StringValue("1".to_owned())) };
            node.metadata.get_or_insert_default().fields.insert("MIZZEN_ON_DEMAND".to_owned(), yes);
        }
        node
    }
}

/// Puts each resource into the store; those that it refuses, with the reasons.
fn judge(
    source: &Source,
    kind: ResourceKind,
    events: Vec<Event>,
    store: &mut Store,
    now: Duration,
    is_asked: impl Fn(&Name) -> bool,
) -> (u64, Vec<(Name, String)>) {
    let (mut taken, mut rejected) = (0, Vec::new());
    for event in events {
        match event {
            Event::Added { name, version, body } => match store.put(&name, &version, body, now) {
                Ok(()) => taken += 1,
                Err(reason) => {
                    tracing::warn!(kind = ?kind, %name, reason, "a resource is refused, wholly or in part");
                    rejected.push((name, reason));
                }
            },
            // An agent that has no certificate yet, or none at the moment, will have one: what is held is better than nothing.
            Event::Removed { name } if matches!(source, Source::Secrets { .. }) => {
                tracing::debug!(%name, "a secret that is not there at the moment");
            }
            Event::Removed { name } => {
                store.remove(kind, &name, now);
                // Where all come unasked, one that is gone needs no note that there is none.
                if store.is_complete(kind) && !is_asked(&name) {
                    store.forget(kind, &name, now);
                }
                taken += 1;
            }
        }
    }
    (taken, rejected)
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
