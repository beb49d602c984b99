//! What a proxy of Mizzen's own holds and asks for: the index of what there is, and of that some destinations, as if somebody had called them. It
//! counts as subscribed what an answer brings along. Each response is acknowledged. It knows no socket.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};

use super::{
    delta::{ABSENT, Id, Names, Subscriber, Taken, Type},
    wire::{Item, Node, Request},
};

/// In which order types are requested on a stream.
const ORDER: [Type; 6] = [Type::Index, Type::Clusters, Type::Endpoints, Type::Listeners, Type::Routes, Type::VirtualHosts];

/// The subscription to one type.
#[derive(Debug, Default)]
struct Subscription {
    /// Names that were asked for or brought along.
    named: BTreeSet<Id>,
    /// Versions by names.
    held: HashMap<Id, Id>,
    /// A response has come.
    answered: bool,
}

/// One proxy's state.
#[derive(Debug)]
pub(super) struct Session {
    node: Node,
    /// Hosts that are called.
    destinations: Vec<String>,
    types: [Subscription; 6],
    /// They were asked for.
    asked: bool,
    arrived: Vec<(Id, Id)>,
    removed: Vec<Id>,
    /// What entries of the index have taken in the response in hand.
    bytes: usize,
}

fn is_wildcard(kind: Type) -> bool {
    matches!(kind, Type::Index | Type::Clusters | Type::Listeners)
}

impl Session {
    pub(super) fn new(node: Node, destinations: Vec<String>) -> Session {
        Session { node, destinations, types: Default::default(), asked: false, arrived: Vec::new(), removed: Vec::new(), bytes: 0 }
    }

    fn of(&mut self, kind: Type) -> &mut Subscription {
        &mut self.types[kind as usize]
    }

    fn end(&mut self, kind: Type, nonce: &[u8], names: &mut Names) -> Result<Taken> {
        let no_index = "the control plane has sent no index first: it does not serve on demand";
        ensure!(kind == Type::Index || self.of(Type::Index).answered, no_index);
        let entries = if kind == Type::Index { self.arrived.len() } else { 0 };
        let (asked, arrived, removed) = (self.asked, std::mem::take(&mut self.arrived), std::mem::take(&mut self.removed));
        let subscription = self.of(kind);
        for (name, version) in arrived {
            let news = subscription.held.insert(name, version).is_none();
            // What comes with the wildcard is there before anything is asked for.
            if !is_wildcard(kind) || (news && asked && kind != Type::Index) {
                subscription.named.insert(name);
            }
        }
        for name in removed {
            match subscription.named.contains(&name) {
                true => drop(subscription.held.insert(name, ABSENT)),
                false => drop(subscription.held.remove(&name)),
            }
        }
        let first = !std::mem::replace(&mut subscription.answered, true);
        ensure!(kind != Type::Index || !first || !subscription.held.is_empty(), "{no_index} (the index is empty)");
        let mut requests =
            vec![Request { type_url: kind.url().to_owned(), nonce: String::from_utf8_lossy(nonce).into_owned(), ..Request::default() }];
        let mut missed = 0;
        match kind {
            // What an answer brings along comes before what has asked for it.
            Type::VirtualHosts => {
                for (kind, needed) in
                    [(Type::VirtualHosts, Type::Clusters), (Type::Clusters, Type::Endpoints), (Type::Listeners, Type::Routes)]
                {
                    let request = self.missing(kind, needed, names);
                    missed += request.as_ref().map_or(0, |request| request.subscribe.len());
                    requests.extend(request);
                }
            }
            Type::Clusters if !asked => requests.extend(self.missing(Type::Clusters, Type::Endpoints, names)),
            Type::Listeners if !asked => requests.extend(self.missing(Type::Listeners, Type::Routes, names)),
            _ => {}
        }
        if !asked && [Type::Index, Type::Clusters, Type::Listeners].into_iter().all(|kind| self.of(kind).answered) {
            self.asked = true;
            requests.extend(self.call(names)?);
        }
        Ok(Taken { kind, requests, entries, bytes: std::mem::take(&mut self.bytes), missed, endpoints: None })
    }

    /// Asks for what resources of a type need and what is not there.
    fn missing(&mut self, kind: Type, needed: Type, names: &Names) -> Option<Request> {
        let needs = self.types[kind as usize].held.iter().flat_map(|(name, version)| names.needs(*name, *version)).copied();
        let there = &self.types[needed as usize];
        let missing: BTreeSet<Id> = needs.filter(|need| !there.held.contains_key(need) && !there.named.contains(need)).collect();
        self.ask(needed, missing, names)
    }

    /// What the first call of each destination asks for: what is in the index has a virtual host for each of its ports, and a listener.
    fn call(&mut self, names: &mut Names) -> Result<Vec<Request>> {
        let (mut listeners, mut hosts) = (BTreeSet::new(), BTreeSet::new());
        for host in &self.destinations {
            let id = names.id(host.as_bytes());
            let version = self.types[Type::Index as usize].held.get(&id).with_context(|| format!("{host} is not in the index"))?;
            let ports: Vec<String> = names.needs(id, *version).iter().map(|port| names.text(*port)).collect();
            ensure!(!ports.is_empty(), "by the index {host} has no port for HTTP");
            for port in ports {
                hosts.insert(names.id(format!("{port}/{host}").as_bytes()));
                let listener = names.id(format!("0.0.0.0_{port}").as_bytes());
                if !self.types[Type::Listeners as usize].held.contains_key(&listener) {
                    listeners.insert(listener);
                }
            }
        }
        Ok([self.ask(Type::Listeners, listeners, names), self.ask(Type::VirtualHosts, hosts, names)].into_iter().flatten().collect())
    }

    fn ask(&mut self, kind: Type, ids: BTreeSet<Id>, names: &Names) -> Option<Request> {
        let subscribe: Vec<String> = ids.iter().map(|id| names.text(*id)).collect();
        self.of(kind).named.extend(ids);
        (!subscribe.is_empty()).then(|| Request { type_url: kind.url().to_owned(), subscribe, ..Request::default() })
    }
}

impl Subscriber for Session {
    fn start(&mut self, names: &Names) -> Vec<Request> {
        self.arrived.clear();
        self.removed.clear();
        let mut node = Some(self.node.clone());
        let started = ORDER.into_iter().filter(|kind| is_wildcard(*kind) || !self.types[*kind as usize].named.is_empty());
        let request = |kind: Type| {
            let subscription = &self.types[kind as usize];
            let all = (is_wildcard(kind) && !subscription.named.is_empty()).then(|| "*".to_owned());
            let held = subscription.held.iter().filter(|(_, version)| **version != ABSENT);
            Request {
                node: node.take(),
                type_url: kind.url().to_owned(),
                subscribe: all.into_iter().chain(subscription.named.iter().map(|name| names.text(*name))).collect(),
                versions: held.map(|(name, version)| (names.text(*name), names.text(*version))).collect(),
                ..Request::default()
            }
        };
        started.map(request).collect()
    }

    fn was_there(&self) -> bool {
        self.asked
    }

    fn take(&mut self, item: Item, names: &mut Names) -> Result<Option<Taken>> {
        match item {
            Item::Resource { name, version, body } => {
                self.bytes += name.len() + version.len() + body.as_ref().map_or(0, |body| body.len());
                self.arrived.push(names.resource(&name, &version, body)?);
                Ok(None)
            }
            Item::Removed(name) => {
                self.removed.push(names.id(&name));
                Ok(None)
            }
            Item::End { type_url, nonce } => {
                let kind = ORDER.into_iter().find(|kind| kind.url().as_bytes() == type_url);
                let kind = kind.with_context(|| format!("nobody has asked for {}", String::from_utf8_lossy(&type_url)))?;
                self.end(kind, &nonce, names).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::delta::tests::{give, show},
        *,
    };

    struct Proxy(Session, Names);

    impl Proxy {
        fn new() -> Proxy {
            Proxy(Session::new(Node::default(), vec!["a.b".to_owned()]), Names::default())
        }

        #[track_caller]
        fn start(&mut self, expected: &[&str]) {
            let requests: Vec<_> = self.0.start(&self.1).iter().map(show).collect();
            assert_eq!(requests, expected);
        }

        #[track_caller]
        fn take(&mut self, kind: Type, resources: &[&str], removed: &[&str], expected: &[&str]) {
            let taken = give(&mut self.0, &mut self.1, kind, resources, removed).unwrap();
            assert_eq!(taken.requests.iter().map(show).collect::<Vec<_>>(), expected);
            assert_eq!(taken.entries, if kind == Type::Index { resources.len() } else { 0 });
        }
    }

    #[test]
    fn what_is_used_is_asked_for() {
        use Type::*;
        let mut proxy = Proxy::new();
        proxy.start(&["node Host", "Cluster", "Listener"]);
        proxy.take(Index, &["a.b 1 8080", "c.d 1 8080 9090"], &[], &["Host #n"]);
        proxy.take(Clusters, &["inbound 1"], &[], &["Cluster #n"]);
        proxy.take(Listeners, &["virtualOutbound 1"], &[], &["Listener #n", "Listener +0.0.0.0_8080", "VirtualHost +8080/a.b"]);
        // All is brought along: nothing is asked for again.
        proxy.take(Clusters, &["v1 1 v1", "v2 1 v2"], &[], &["Cluster #n"]);
        proxy.take(Endpoints, &["v1 1", "v2 1"], &[], &["ClusterLoadAssignment #n"]);
        proxy.take(Listeners, &["0.0.0.0_8080 1 8080"], &[], &["Listener #n"]);
        proxy.take(Routes, &["8080 1"], &[], &["RouteConfiguration #n"]);
        proxy.take(VirtualHosts, &["8080/a.b 1 v1 v2"], &[], &["VirtualHost #n"]);
        proxy.take(Index, &["e.f 1 80"], &["c.d"], &["Host #n"]);
        proxy.start(&[
            "node Host =a.b:1,e.f:1",
            "Cluster +*,v1,v2 =inbound:1,v1:1,v2:1",
            "ClusterLoadAssignment +v1,v2 =v1:1,v2:1",
            "Listener +*,0.0.0.0_8080 =0.0.0.0_8080:1,virtualOutbound:1",
            "RouteConfiguration +8080 =8080:1",
            "VirtualHost +8080/a.b =8080/a.b:1",
        ]);
    }

    #[test]
    fn what_is_not_brought_along_is_asked_for() {
        use Type::*;
        let mut proxy = Proxy::new();
        proxy.take(Index, &["a.b 1 8080"], &[], &["Host #n"]);
        proxy.take(Listeners, &["0.0.0.0_8080 1 8080"], &[], &["Listener #n", "RouteConfiguration +8080"]);
        proxy.take(Clusters, &[], &[], &["Cluster #n", "VirtualHost +8080/a.b"]);
        proxy.take(Clusters, &["v1 1 v1"], &[], &["Cluster #n"]);
        let taken = give(&mut proxy.0, &mut proxy.1, VirtualHosts, &["8080/a.b 1 v1 v2"], &[]).unwrap();
        let requests: Vec<_> = taken.requests.iter().map(show).collect();
        assert_eq!(requests, ["VirtualHost #n", "Cluster +v2", "ClusterLoadAssignment +v1"]);
        assert_eq!(taken.missed, 2);
    }

    #[test]
    fn who_does_not_serve_on_demand() {
        for (kind, resources) in [(Type::Clusters, &["a 1"][..]), (Type::Index, &[])] {
            let mut proxy = Proxy::new();
            let error = give(&mut proxy.0, &mut proxy.1, kind, resources, &[]).unwrap_err();
            assert!(error.to_string().contains("does not serve on demand"), "{error}");
        }
        let mut proxy = Proxy::new();
        for (kind, resources) in [(Type::Index, &["c.d 1 80"][..]), (Type::Clusters, &[])] {
            give(&mut proxy.0, &mut proxy.1, kind, resources, &[]).unwrap();
        }
        assert!(give(&mut proxy.0, &mut proxy.1, Type::Listeners, &[], &[]).unwrap_err().to_string().contains("a.b is not in the index"));
    }
}
