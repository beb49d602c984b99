//! What one proxy holds and asks for, as Envoy does: all clusters, their endpoints by name, then all listeners, and their routes by name. Each
//! response is acknowledged. It knows no socket.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result};
use bytes::Bytes;

use super::wire::{self, Item, Node, Request};

/// The types that a proxy subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Clusters,
    Endpoints,
    Listeners,
    Routes,
    /// On demand only.
    VirtualHosts,
    /// On demand only.
    Index,
}

impl Type {
    /// Of a proxy that holds everything.
    const ALL: [Type; 4] = [Type::Clusters, Type::Endpoints, Type::Listeners, Type::Routes];

    pub(super) fn url(self) -> &'static str {
        match self {
            Type::Clusters => wire::CLUSTER,
            Type::Endpoints => wire::ENDPOINT,
            Type::Listeners => wire::LISTENER,
            Type::Routes => wire::ROUTE,
            Type::VirtualHosts => wire::VIRTUAL_HOST,
            Type::Index => wire::INDEX,
        }
    }

    /// The type of what resources of this one ask for by name.
    fn needed(self) -> Option<Type> {
        match self {
            Type::Clusters => Some(Type::Endpoints),
            Type::Listeners => Some(Type::Routes),
            Type::Endpoints | Type::Routes | Type::VirtualHosts | Type::Index => None,
        }
    }

    /// A bit for each.
    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A name or a version, as a number that all proxies share.
pub(super) type Id = u32;
/// The version of a name of which the control plane has said that there is no such resource.
pub(super) const ABSENT: Id = 0;

/// All names and versions that any proxy has seen, and what clusters and listeners ask for.
#[derive(Debug)]
pub(super) struct Names {
    ids: HashMap<Bytes, Id>,
    texts: Vec<Bytes>,
    needs: HashMap<(Id, Id), Box<[Id]>>,
    /// How many endpoints there are, where bodies of endpoints are read.
    endpoints: HashMap<(Id, Id), usize>,
}

impl Default for Names {
    fn default() -> Names {
        Names { ids: HashMap::new(), texts: vec![Bytes::new()], needs: HashMap::new(), endpoints: HashMap::new() }
    }
}

impl Names {
    pub(super) fn id(&mut self, text: &[u8]) -> Id {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = Id::try_from(self.texts.len()).unwrap_or(Id::MAX);
        // A copy: what has arrived is part of something larger.
        let text = Bytes::copy_from_slice(text);
        self.texts.push(text.clone());
        self.ids.insert(text, id);
        id
    }

    pub(super) fn text(&self, id: Id) -> String {
        String::from_utf8_lossy(&self.texts[id as usize]).into_owned()
    }

    /// What a resource of this version asks for.
    pub(super) fn needs(&self, name: Id, version: Id) -> &[Id] {
        self.needs.get(&(name, version)).map_or(&[], |needs| needs)
    }

    /// Notes what a resource asks for.
    pub(super) fn resource(&mut self, name: &[u8], version: &[u8], body: Option<Bytes>) -> Result<(Id, Id)> {
        let (name, version) = (self.id(name), self.id(version));
        if let Some(body) = body {
            self.learn(name, version, body)?;
        }
        Ok((name, version))
    }

    fn learn(&mut self, name: Id, version: Id, body: Bytes) -> Result<()> {
        if !self.needs.contains_key(&(name, version)) {
            if let Some(endpoints) = wire::endpoints(body.clone())? {
                self.endpoints.insert((name, version), endpoints);
            }
            let needs = wire::needs(body)?;
            let needs = needs.iter().map(|need| self.id(need.as_bytes())).collect();
            self.needs.insert((name, version), needs);
        }
        Ok(())
    }
}

/// The subscription to one type.
#[derive(Debug, Default)]
struct Subscription {
    started: bool,
    /// Versions by names.
    held: HashMap<Id, Id>,
    /// How many resources ask for a name.
    wanted: HashMap<Id, u32>,
}

/// What a proxy does with its streams.
pub(super) trait Subscriber: Send {
    /// The first requests of a stream. A proxy that was connected before says what it holds.
    fn start(&mut self, names: &Names) -> Vec<Request>;
    /// Whether it was.
    fn was_there(&self) -> bool;
    /// Takes a part of a response; with the last one it is known what is to be sent.
    ///
    /// # Errors
    /// If the control plane does not do what it should.
    fn take(&mut self, item: Item, names: &mut Names) -> Result<Option<Taken>>;
}

/// The state of a proxy that holds everything.
#[derive(Debug)]
pub(super) struct Session {
    node: Node,
    types: [Subscription; 4],
    /// What the response in hand has brought.
    arrived: Vec<(Id, Id)>,
    removed: Vec<Id>,
}

/// What became of a response.
#[derive(Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) kind: Type,
    pub(super) requests: Vec<Request>,
    /// Entries of the index that it held, and how long they were.
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// Names that it should have been brought along with, and was not.
    pub(super) missed: usize,
    /// How many endpoints the proxy holds, of a response with endpoints whose bodies are read.
    pub(super) endpoints: Option<usize>,
}

impl Session {
    pub(super) fn new(node: Node) -> Session {
        Session { node, types: Default::default(), arrived: Vec::new(), removed: Vec::new() }
    }

    fn end(&mut self, kind: Type, nonce: &[u8], names: &Names) -> Vec<Request> {
        // By how much the number of those that ask for a name has changed.
        let mut asked: BTreeMap<Id, i64> = BTreeMap::new();
        let mut ask = |resource: (Id, Id), change: i64| {
            for need in names.needs.get(&resource).into_iter().flatten() {
                *asked.entry(*need).or_default() += change;
            }
        };
        let subscription = &mut self.types[kind as usize];
        for (name, version) in self.arrived.drain(..) {
            ask((name, version), 1);
            if let Some(before) = subscription.held.insert(name, version) {
                ask((name, before), -1);
            }
        }
        for name in self.removed.drain(..) {
            // A name that was asked for is still asked for.
            let before = match kind.needed() {
                Some(_) => subscription.held.remove(&name),
                None => subscription.held.insert(name, ABSENT),
            };
            if let Some(before) = before {
                ask((name, before), -1);
            }
        }
        let mut requests: Vec<Request> = kind.needed().and_then(|needed| self.ask(needed, asked, names)).into_iter().collect();
        requests.push(Request {
            type_url: kind.url().to_owned(),
            nonce: String::from_utf8_lossy(nonce).into_owned(),
            ..Request::default()
        });
        let warm = self.types[Type::Endpoints as usize].held.len() >= self.types[Type::Endpoints as usize].wanted.len();
        let listeners = &mut self.types[Type::Listeners as usize];
        if warm && !listeners.started {
            listeners.started = true;
            requests.push(Request { type_url: Type::Listeners.url().to_owned(), ..Request::default() });
        }
        requests
    }

    /// How many endpoints it holds, as far as their bodies are read.
    fn endpoints(&self, names: &Names) -> usize {
        if names.endpoints.is_empty() {
            return 0;
        }
        self.types[Type::Endpoints as usize].held.iter().filter_map(|(name, version)| names.endpoints.get(&(*name, *version))).sum()
    }

    /// Subscribes to what is asked for now, and no longer to what is not.
    fn ask(&mut self, kind: Type, changes: BTreeMap<Id, i64>, names: &Names) -> Option<Request> {
        let subscription = &mut self.types[kind as usize];
        let mut request = Request { type_url: kind.url().to_owned(), ..Request::default() };
        for (name, change) in changes {
            let before = subscription.wanted.get(&name).copied().unwrap_or_default();
            let now = u32::try_from(i64::from(before) + change).unwrap_or_default();
            if now > 0 {
                subscription.wanted.insert(name, now);
            }
            if before == 0 && now > 0 {
                request.subscribe.push(names.text(name));
            } else if before > 0 && now == 0 {
                subscription.wanted.remove(&name);
                subscription.held.remove(&name);
                request.unsubscribe.push(names.text(name));
            }
        }
        subscription.started |= !request.subscribe.is_empty();
        (!request.subscribe.is_empty() || !request.unsubscribe.is_empty()).then_some(request)
    }
}

impl Subscriber for Session {
    fn start(&mut self, names: &Names) -> Vec<Request> {
        self.arrived.clear();
        self.removed.clear();
        self.types[Type::Clusters as usize].started = true;
        let mut node = Some(self.node.clone());
        let started = Type::ALL.into_iter().filter(|kind| self.types[*kind as usize].started);
        let request = |kind: Type| {
            let subscription = &self.types[kind as usize];
            let held = subscription.held.iter().filter(|(_, version)| **version != ABSENT);
            Request {
                node: node.take(),
                type_url: kind.url().to_owned(),
                subscribe: subscription.wanted.keys().map(|name| names.text(*name)).collect(),
                versions: held.map(|(name, version)| (names.text(*name), names.text(*version))).collect(),
                ..Request::default()
            }
        };
        started.map(request).collect()
    }

    fn was_there(&self) -> bool {
        self.types.iter().filter(|subscription| subscription.started).count() > 1
    }

    fn take(&mut self, item: Item, names: &mut Names) -> Result<Option<Taken>> {
        match item {
            Item::Resource { name, version, body } => {
                self.arrived.push(names.resource(&name, &version, body)?);
                Ok(None)
            }
            Item::Removed(name) => {
                self.removed.push(names.id(&name));
                Ok(None)
            }
            Item::End { type_url, nonce } => {
                let kind = Type::ALL.into_iter().find(|kind| kind.url().as_bytes() == type_url);
                let kind = kind.with_context(|| format!("nobody has asked for {}", String::from_utf8_lossy(&type_url)))?;
                let requests = self.end(kind, &nonce, names);
                let endpoints = (kind == Type::Endpoints).then(|| self.endpoints(names));
                Ok(Some(Taken { kind, requests, entries: 0, bytes: 0, missed: 0, endpoints }))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `TYPE +NAMES -NAMES =VERSIONS #NONCE`.
    pub(in super::super) fn show(request: &Request) -> String {
        let kind = request.type_url.rsplit('.').next().unwrap();
        let mut text = format!("{}{kind}", if request.node.is_some() { "node " } else { "" });
        let mut versions: Vec<_> = request.versions.iter().map(|(name, version)| format!("{name}:{version}")).collect();
        versions.sort();
        let mut subscribe = request.subscribe.clone();
        subscribe.sort();
        for (sign, list) in [("+", &subscribe), ("-", &request.unsubscribe), ("=", &versions)] {
            if !list.is_empty() {
                text += &format!(" {sign}{}", list.join(","));
            }
        }
        if !request.nonce.is_empty() {
            text += &format!(" #{}", request.nonce);
        }
        text
    }

    struct Proxy(Session, Names);

    impl Proxy {
        #[track_caller]
        fn start(&mut self, expected: &[&str]) {
            let requests: Vec<_> = self.0.start(&self.1).iter().map(show).collect();
            assert_eq!(requests, expected);
        }

        #[track_caller]
        fn take(&mut self, kind: Type, resources: &[&str], removed: &[&str], expected: &[&str]) {
            let taken = give(&mut self.0, &mut self.1, kind, resources, removed).unwrap();
            assert_eq!(taken.requests.iter().map(show).collect::<Vec<_>>(), expected);
        }
    }

    /// Gives a proxy a response; resources are `NAME VERSION NEEDED…`.
    pub(in super::super) fn give(
        proxy: &mut dyn Subscriber,
        names: &mut Names,
        kind: Type,
        resources: &[&str],
        removed: &[&str],
    ) -> Result<Taken> {
        for resource in resources {
            let mut words = resource.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap());
            let needs: Vec<_> = words.map(|need| names.id(need.as_bytes())).collect();
            let ids = (names.id(name.as_bytes()), names.id(version.as_bytes()));
            names.needs.insert(ids, needs.into());
            let item = Item::Resource { name: name.to_owned().into(), version: version.to_owned().into(), body: None };
            assert_eq!(proxy.take(item, names).unwrap(), None);
        }
        for name in removed {
            proxy.take(Item::Removed((*name).to_owned().into()), names).unwrap();
        }
        let taken = proxy.take(Item::End { type_url: kind.url().into(), nonce: "n".into() }, names)?;
        Ok(taken.unwrap())
    }

    #[test]
    fn a_proxy_asks_as_envoy_does() {
        use Type::*;
        let mut proxy = Proxy(Session::new(Node::default()), Names::default());
        proxy.start(&["node Cluster"]);
        proxy.take(Clusters, &["a 1 a", "b 1 b", "c 1"], &[], &["ClusterLoadAssignment +a,b", "Cluster #n"]);
        // Listeners wait for all endpoints; a name that does not exist is answered too.
        proxy.take(Endpoints, &["a 1"], &[], &["ClusterLoadAssignment #n"]);
        proxy.take(Endpoints, &[], &["b"], &["ClusterLoadAssignment #n", "Listener"]);
        proxy.take(Listeners, &["l 1 80", "m 1 80"], &[], &["RouteConfiguration +80", "Listener #n"]);
        proxy.take(Routes, &["80 1"], &[], &["RouteConfiguration #n"]);
        // Another version that asks for the same; one of two that do; the last one.
        proxy.take(Clusters, &["a 2 a"], &[], &["Cluster #n"]);
        proxy.take(Listeners, &["l 2 81"], &[], &["RouteConfiguration +81", "Listener #n"]);
        proxy.take(Listeners, &[], &["m"], &["RouteConfiguration -80", "Listener #n"]);
        proxy.take(Routes, &["81 5"], &[], &["RouteConfiguration #n"]);
        proxy.take(Clusters, &["d 1 d"], &["b"], &["ClusterLoadAssignment +d -b", "Cluster #n"]);
        proxy.take(Endpoints, &["d 4"], &[], &["ClusterLoadAssignment #n"]);
        proxy.start(&["node Cluster =a:2,c:1,d:1", "ClusterLoadAssignment +a,d =a:1,d:4", "Listener =l:2", "RouteConfiguration +81 =81:5"]);
    }

    #[test]
    fn listeners_come_at_once_where_nothing_has_endpoints() {
        let mut proxy = Proxy(Session::new(Node::default()), Names::default());
        proxy.start(&["node Cluster"]);
        proxy.take(Type::Clusters, &["a 1"], &[], &["Cluster #n", "Listener"]);
    }
}
