//! Both ends joined: any order of changes, deliveries, rejections and reconnects ends with the client holding what it wants.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use mizzen_protos::{
    Any,
    envoy::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        },
        google::rpc::Status,
    },
};
use mizzen_types::Name;
use proptest::prelude::*;

use crate::{
    Version,
    client::{Client, Event},
    server::{Heard, ProtocolError, Resource, ResourceSource, Session, Sheet, Sync, Verdict, Whole},
    types::{self, CLUSTER, ENDPOINT, LISTENER, NAME_TABLE, ROUTE},
};

/// A state of numbers: content 13 is what clients reject.
#[derive(Clone, Debug, Default)]
struct World(BTreeMap<(String, Name), u8>, Sheets);

/// Whether a client gets much alike with others: all of an even content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sheets {
    #[default]
    None,
    Even,
}

const BAD: u8 = 13;

impl World {
    fn set(&mut self, type_url: &str, name: &str, content: u8) {
        self.0.insert((type_url.to_owned(), name.into()), content);
    }

    fn remove(&mut self, type_url: &str, name: &str) {
        self.0.remove(&(type_url.to_owned(), name.into()));
    }
}

fn any(type_url: &str, content: u8) -> Any {
    Any { type_url: type_url.to_owned(), value: vec![content] }
}

impl ResourceSource for World {
    fn names(&mut self, type_url: &str) -> Vec<Name> {
        self.0.keys().filter(|(t, _)| t == type_url).map(|(_, n)| n.clone()).collect()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        self.0.get(&(type_url.to_owned(), name.into())).map(|content| Resource::new(any(type_url, *content)))
    }

    fn whole(&mut self, type_url: &str, asked: Option<&Arc<[Name]>>) -> Option<Whole> {
        let listed = self.names(type_url);
        let lines = listed.iter().filter(|name| self.0[&(type_url.to_owned(), (*name).clone())].is_multiple_of(2));
        let lines: Vec<Name> = lines.cloned().collect();
        let mut line = |name: &Name| (name.clone(), self.resource(type_url, name).unwrap());
        let sheet = Arc::new(Sheet::new(lines.iter().map(&mut line).collect()));
        let rest: Vec<Name> = match asked {
            None => listed.into_iter().filter(|name| !sheet.has(name)).collect(),
            Some(asked) => sheet.rest_of(asked)?.to_vec(),
        };
        let own = rest.into_iter().map(|name| (name.clone(), self.resource(type_url, &name))).collect();
        (self.1 == Sheets::Even && !sheet.lines().is_empty()).then_some(Whole { sheet, own })
    }
}

/// The same for a client that gets nothing unless it asks for it.
struct OnDemand(World);

impl ResourceSource for OnDemand {
    fn names(&mut self, _: &str) -> Vec<Name> {
        Vec::new()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        self.0.resource(type_url, name)
    }
}

/// A client, a server and the wire between them.
struct Pair {
    world: World,
    client: Client,
    session: Session,
    up: VecDeque<DeltaDiscoveryRequest>,
    down: VecDeque<DeltaDiscoveryResponse>,
    /// What the client uses.
    uses: BTreeMap<(String, Name), u8>,
}

impl Pair {
    fn new() -> Self {
        let mut client = Client::new(Node { id: "node".into(), ..Default::default() });
        client.connected();
        Pair { world: World::default(), client, session: Session::new(), up: VecDeque::new(), down: VecDeque::new(), uses: BTreeMap::new() }
    }

    fn reconnect(&mut self) {
        self.client.connected();
        self.session = Session::new();
        self.up.clear();
        self.down.clear();
    }

    fn unsubscribe(&mut self, type_url: &str, name: &str) {
        self.client.unsubscribe(type_url, [name.into()]);
        if !self.client.is_subscribed(type_url, name) {
            self.uses.remove(&(type_url.to_owned(), name.into()));
        }
    }

    fn client_sends(&mut self) -> bool {
        let request = self.client.next_request();
        self.up.extend(request.clone());
        request.is_some()
    }

    fn server_hears(&mut self) -> bool {
        let Some(request) = self.up.pop_front() else { return false };
        self.session.request(request).unwrap();
        true
    }

    fn server_sends(&mut self) -> bool {
        let responses = self.session.poll(&mut self.world);
        self.down.extend(responses.iter().cloned());
        !responses.is_empty()
    }

    fn client_hears(&mut self) -> bool {
        let Some(response) = self.down.pop_front() else { return false };
        let (receipt, events) = self.client.receive(response).unwrap();
        let type_url = receipt.type_url().to_string();
        let mut rejected = Vec::new();
        for event in events {
            match event {
                Event::Removed { name } => drop(self.uses.remove(&(type_url.clone(), name))),
                Event::Added { name, body, .. } if body.value == [BAD] => rejected.push((name, "thirteen".to_owned())),
                Event::Added { name, body, .. } => drop(self.uses.insert((type_url.clone(), name), body.value[0])),
            }
        }
        self.client.settle(receipt, rejected);
        true
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let moved = [self.client_sends(), self.server_hears(), self.server_sends(), self.client_hears()];
            if moved == [false; 4] {
                return;
            }
        }
        panic!("never comes to rest");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(usize, usize, u8),
    Remove(usize, usize),
    Subscribe(usize, usize),
    Unsubscribe(usize, usize),
    WatchAll(usize),
    ClientSends,
    ServerHears,
    ServerSends,
    ClientHears,
    Reconnect,
}

const TYPES: [&str; 4] = [CLUSTER, ENDPOINT, LISTENER, ROUTE];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn op() -> impl Strategy<Value = Op> {
    let (t, n) = (0..TYPES.len(), 0..NAMES.len());
    prop_oneof![
        4 => (t.clone(), n.clone(), 10..15u8).prop_map(|(t, n, c)| Op::Set(t, n, c)),
        2 => (t.clone(), n.clone()).prop_map(|(t, n)| Op::Remove(t, n)),
        3 => (t.clone(), n.clone()).prop_map(|(t, n)| Op::Subscribe(t, n)),
        2 => (t.clone(), n).prop_map(|(t, n)| Op::Unsubscribe(t, n)),
        1 => t.prop_map(Op::WatchAll),
        5 => Just(Op::ClientSends),
        5 => Just(Op::ServerHears),
        5 => Just(Op::ServerSends),
        5 => Just(Op::ClientHears),
        1 => Just(Op::Reconnect),
    ]
}

fn run(ops: Vec<Op>, sheets: Sheets) {
    let mut pair = Pair::new();
    pair.world.1 = sheets;
    for op in ops {
        match op {
            Op::Set(t, n, content) => {
                pair.world.set(TYPES[t], NAMES[n], content);
                pair.session.changed();
            }
            Op::Remove(t, n) => {
                pair.world.remove(TYPES[t], NAMES[n]);
                pair.session.changed();
            }
            Op::Subscribe(t, n) => pair.client.subscribe(TYPES[t], [NAMES[n].into()]),
            Op::Unsubscribe(t, n) => pair.unsubscribe(TYPES[t], NAMES[n]),
            Op::WatchAll(t) => pair.client.watch_all(TYPES[t]),
            Op::ClientSends => drop(pair.client_sends()),
            Op::ServerHears => drop(pair.server_hears()),
            Op::ServerSends => drop(pair.server_sends()),
            Op::ClientHears => drop(pair.client_hears()),
            Op::Reconnect => pair.reconnect(),
        }
    }
    pair.settle();
    for type_url in TYPES {
        for name in NAMES {
            let key = (type_url.to_owned(), Name::from(name));
            let (there, used) = (pair.world.0.get(&key).copied(), pair.uses.get(&key).copied());
            match there {
                _ if !pair.client.is_subscribed(type_url, name) => assert_eq!(used, None, "{name} of {type_url} is not wanted"),
                Some(BAD) => assert_ne!(used, Some(BAD), "{name} of {type_url} is bad"),
                _ => assert_eq!(used, there, "{name} of {type_url}"),
            }
        }
    }
    let rejected = pair
        .session
        .status()
        .iter()
        .flat_map(|t| &t.resources)
        .filter(|r| r.rejected.as_ref().is_some_and(|(_, why)| why == "thirteen"))
        .count();
    let bad = pair.world.0.iter().filter(|((t, n), c)| **c == BAD && pair.client.is_subscribed(t, n)).count();
    assert_eq!(rejected, bad, "every rejection is known to the server");
    assert!(pair.session.status().iter().all(|t| t.pending == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn converges(ops in prop::collection::vec(op(), 0..80), sheets in prop::sample::select(vec![Sheets::None, Sheets::Even])) {
        run(ops, sheets);
    }
}

/// What was let go while it was under way does not stay with a client that wants everything before it comes, wherever that crosses it.
#[test]
fn what_is_let_go_for_everything_while_it_comes() {
    use Op::{ClientHears, ClientSends, Remove, ServerHears, ServerSends, Set, Subscribe, Unsubscribe, WatchAll};
    let begun = [Set(2, 0, 10), Subscribe(2, 0), ClientSends, ServerHears, ServerSends, Unsubscribe(2, 0)];
    for rest in [
        &[ClientSends, WatchAll(2), Remove(2, 0)][..],
        &[ClientSends, WatchAll(2), ClientHears, Remove(2, 0)],
        &[ClientSends, WatchAll(2), ClientHears],
        &[ClientSends, WatchAll(2), ClientSends, ClientHears, Remove(2, 0)],
        &[ClientSends, ServerHears, WatchAll(2), ClientSends, ServerHears, ServerSends, ClientHears, Remove(2, 0)],
        &[WatchAll(2), ClientHears, ClientSends, Remove(2, 0)],
        &[WatchAll(2), ClientSends, ClientHears, ServerHears, Remove(2, 0)],
    ] {
        for sheets in [Sheets::None, Sheets::Even] {
            run([&begun, rest].concat(), sheets);
        }
    }
}

fn request(type_url: &str, subscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// What a response says, in one line.
fn said(response: &DeltaDiscoveryResponse) -> String {
    let added: Vec<String> = response.resources.iter().map(|r| format!("+{}", r.name)).collect();
    let removed: Vec<String> = response.removed_resources.iter().map(|r| format!("-{r}")).collect();
    format!("{} {}", types::short(&response.type_url), [added, removed].concat().join(" "))
}

fn check(session: &mut Session, world: &mut dyn ResourceSource, expected: &[&str]) -> Vec<DeltaDiscoveryResponse> {
    let responses = session.poll(world);
    assert_eq!(responses.iter().map(said).collect::<Vec<_>>(), expected);
    responses
}

#[test]
fn order_of_types() {
    let (mut session, mut world) = (Session::new(), World::default());
    for type_url in [ROUTE, LISTENER, ENDPOINT, CLUSTER] {
        world.set(type_url, "old", 1);
        let names: &[&str] = if matches!(type_url, ROUTE | ENDPOINT) { &["old", "new"] } else { &[] };
        session.request(request(type_url, names)).unwrap();
    }
    let first =
        ["Cluster +old", "ClusterLoadAssignment +old", "Listener +old", "RouteConfiguration +old -new", "ClusterLoadAssignment -new"];
    check(&mut session, &mut world, &first);
    for type_url in [ROUTE, LISTENER, ENDPOINT, CLUSTER] {
        world.remove(type_url, "old");
        world.set(type_url, "new", 2);
    }
    check(&mut session, &mut world, &[]);
    session.changed();
    let second = [
        "Cluster +new",
        "ClusterLoadAssignment +new",
        "Listener +new -old",
        "RouteConfiguration +new -old",
        "ClusterLoadAssignment -old",
        "Cluster -old",
    ];
    check(&mut session, &mut world, &second);
    session.changed();
    check(&mut session, &mut world, &[]);
}

/// What many get alike is sent as it is where nothing was sent, and name by name where a request comes in between.
#[test]
fn sheets() {
    let names = ["a", "b", "c", "d"];
    for (first, between, expected) in [
        (&names[..], None, "ClusterLoadAssignment +b +c +a; ClusterLoadAssignment -d"),
        (&["*"], None, "ClusterLoadAssignment +b +c +a"),
        (&names, Some(request(ENDPOINT, &["e"])), "ClusterLoadAssignment +a +b +c; ClusterLoadAssignment -d"),
        (&["*"], Some(request(ENDPOINT, &["d"])), "ClusterLoadAssignment +a +b +c"),
        (&["a", "b", "d"], None, "ClusterLoadAssignment +a +b; ClusterLoadAssignment -d"),
    ] {
        let (mut session, mut world) = (Session::new(), World(BTreeMap::new(), Sheets::Even));
        for (name, content) in [("a", 1), ("b", 2), ("c", 4)] {
            world.set(ENDPOINT, name, content);
        }
        session.request(request(ENDPOINT, first)).unwrap();
        let mut round = session.begin();
        let found = session.next(&mut round).unwrap().look_up(&mut world);
        between.into_iter().for_each(|request| drop(session.request(request).unwrap()));
        session.take(&mut round, found);
        let responses: Vec<DeltaDiscoveryResponse> = session.end(round).into_iter().map(Into::into).collect();
        assert_eq!(responses.iter().map(said).collect::<Vec<_>>().join("; "), expected, "{first:?}");
        let state = |session: &Session| session.status()[0].resources.iter().map(|r| (r.sent, r.acked)).collect::<Vec<_>>();
        let sent = state(&session);
        assert!(sent.iter().all(|(sent, acked)| acked.is_none() || sent == acked));
        for response in &responses {
            session.request(DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..request(ENDPOINT, &[]) }).unwrap();
        }
        assert!(state(&session).iter().all(|(sent, acked)| sent == acked), "{first:?}");
        // A change comes as what it changes, beside what was asked for meanwhile.
        world.set(ENDPOINT, "b", 6);
        session.changed();
        let again: Vec<String> = session.poll(&mut world).iter().map(said).collect();
        assert!(again[0].contains("+b") && !again[0].contains("+a"), "{first:?} {again:?}");
    }
}

/// Who comes back says what it has, and gets what differs.
#[test]
fn who_comes_back() {
    let version = |content: u8| Resource::new(any(ENDPOINT, content)).version.to_string();
    let (all, names) = (&["*"][..], &["a", "b", "c", "d"][..]);
    for sheets in [Sheets::None, Sheets::Even] {
        for (subscribe, has, expected) in [
            (all, &[("a", 1), ("b", 2), ("c", 4), ("d", 6)][..], "ClusterLoadAssignment "),
            (names, &[("a", 1), ("b", 2), ("c", 4), ("d", 6)], ""),
            (names, &[("a", 1), ("b", 3), ("c", 4), ("d", 6)], "ClusterLoadAssignment +b"),
            (names, &[("a", 3), ("b", 2), ("c", 4), ("d", 6)], "ClusterLoadAssignment +a"),
            (names, &[("a", 1), ("b", 2), ("c", 4)], "ClusterLoadAssignment +d"),
            (&["a", "b", "c", "d", "e"], &[("a", 1), ("b", 2), ("c", 4), ("d", 6), ("e", 7)], "ClusterLoadAssignment -e"),
            (all, &[("a", 1), ("b", 2), ("c", 4), ("d", 6), ("e", 7)], "ClusterLoadAssignment ; ClusterLoadAssignment -e"),
            (&["a", "b", "c"], &[("a", 1), ("b", 2), ("c", 4), ("d", 6)], ""),
            (&["a", "b", "c"], &[("a", 1), ("b", 2), ("c", 5)], "ClusterLoadAssignment +c"),
        ] {
            // Two that are alike share what they came with.
            let shared: Arc<crate::server::Shared> = Arc::default();
            let mut world = World(BTreeMap::new(), sheets);
            [("a", 1), ("b", 2), ("c", 4), ("d", 6)].into_iter().for_each(|(name, content)| world.set(ENDPOINT, name, content));
            let come = |world: &mut World| {
                let mut session = Session::sharing(shared.clone());
                let initial_resource_versions = has.iter().map(|(name, content)| ((*name).to_owned(), version(*content))).collect();
                session.request(DeltaDiscoveryRequest { initial_resource_versions, ..request(ENDPOINT, subscribe) }).unwrap();
                let mut responses = session.poll(world);
                if let Some(nonce) = responses.first().map(|response| response.nonce.clone()) {
                    session.request(DeltaDiscoveryRequest { response_nonce: nonce, ..request(ENDPOINT, &[]) }).unwrap();
                    responses.extend(session.poll(world));
                }
                let said = responses.iter().map(said).collect::<Vec<_>>().join("; ");
                assert_eq!(said, expected, "{subscribe:?} {has:?} {sheets:?}");
                session
            };
            let (_one, mut two) = (come(&mut world), come(&mut world));
            world.set(ENDPOINT, "a", 8);
            two.changed();
            assert!(two.poll(&mut world).iter().map(said).any(|said| said.contains("+a")), "{subscribe:?} {has:?} {sheets:?}");
        }
    }
}

#[test]
fn a_wildcard_is_always_answered() {
    let (mut session, mut world) = (Session::new(), World::default());
    session.request(request(LISTENER, &[])).unwrap();
    session.request(request(NAME_TABLE, &["*"])).unwrap();
    session.request(request(ROUTE, &[])).unwrap();
    check(&mut session, &mut world, &["Listener ", "NameTable "]);
}

#[test]
fn endpoints_follow_their_cluster() {
    let (mut session, mut world) = (Session::new(), World::default());
    world.set(CLUSTER, "a", 1);
    world.set(ENDPOINT, "a", 1);
    session.request(request(CLUSTER, &[])).unwrap();
    session.request(request(ENDPOINT, &["a"])).unwrap();
    check(&mut session, &mut world, &["Cluster +a", "ClusterLoadAssignment +a"]);
    world.set(CLUSTER, "a", 2);
    session.changed();
    check(&mut session, &mut world, &["Cluster +a", "ClusterLoadAssignment +a"]);
}

#[test]
fn reconnect_sends_only_what_differs() {
    let (mut session, mut world) = (Session::new(), World::default());
    for name in ["same", "changed", "new"] {
        world.set(CLUSTER, name, 2);
    }
    let mut first = request(CLUSTER, &[]);
    let version = |content: u8| Version::of(&[content]).to_string();
    for (name, held) in [("same", version(2)), ("changed", version(1)), ("gone", version(1)), ("foreign", "istiod-7".to_owned())] {
        first.initial_resource_versions.insert(name.to_owned(), held);
    }
    session.request(first).unwrap();
    let said = check(&mut session, &mut world, &["Cluster +changed +new"]);
    // The routes that the client came with may still name what is gone, and are not asked for yet.
    let mut routes = request(ROUTE, &["r"]);
    routes.initial_resource_versions.insert("r".to_owned(), version(1));
    session.request(routes).unwrap();
    world.set(ROUTE, "r", 2);
    let answer = DeltaDiscoveryRequest { response_nonce: said[0].nonce.clone(), ..request(CLUSTER, &[]) };
    session.request(answer).unwrap();
    assert!(session.is_due());
    check(&mut session, &mut world, &["RouteConfiguration +r", "Cluster -foreign -gone"]);
    assert!(!session.is_due());
}

#[test]
fn what_is_gone_is_told_at_once_where_nothing_else_is_said() {
    let (mut session, mut world) = (Session::new(), World::default());
    let mut first = request(ENDPOINT, &["gone"]);
    first.initial_resource_versions.insert("gone".to_owned(), "1".to_owned());
    session.request(first).unwrap();
    check(&mut session, &mut world, &["ClusterLoadAssignment -gone"]);
}

#[test]
fn what_comes_back_before_its_end_was_told_stays() {
    let (mut session, mut world) = (Session::new(), World::default());
    let mut first = request(CLUSTER, &[]);
    first.initial_resource_versions.insert("a".to_owned(), Version::of(&[1]).to_string());
    session.request(first).unwrap();
    let said = check(&mut session, &mut world, &["Cluster "]);
    world.set(CLUSTER, "a", 2);
    session.changed();
    check(&mut session, &mut world, &["Cluster +a"]);
    session.request(DeltaDiscoveryRequest { response_nonce: said[0].nonce.clone(), ..request(CLUSTER, &[]) }).unwrap();
    check(&mut session, &mut world, &[]);
}

#[test]
fn what_is_let_go_for_everything_is_answered() {
    let (mut session, mut world) = (Session::new(), World::default());
    world.set(CLUSTER, "a", 1);
    session.request(request(CLUSTER, &["a"])).unwrap();
    check(&mut session, &mut world, &["Cluster +a"]);
    world.remove(CLUSTER, "a");
    // Both in one request: the client may not have seen `a` yet, and would take it for one of all.
    let both = DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["a".into()], ..request(CLUSTER, &["*"]) };
    session.request(both).unwrap();
    check(&mut session, &mut world, &["Cluster -a"]);
}

/// A client that needs for a while what came with everything takes it for what came along, and lets it go as such.
#[test]
fn what_came_with_everything_is_answered_when_it_is_let_go() {
    let (mut session, mut world) = (Session::new(), World::default());
    world.set(CLUSTER, "a", 1);
    session.request(request(CLUSTER, &["*"])).unwrap();
    check(&mut session, &mut world, &["Cluster +a"]);
    let end = DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["a".into()], ..request(CLUSTER, &[]) };
    session.request(end).unwrap();
    check(&mut session, &mut world, &["Cluster +a"]);
}

#[test]
fn only_what_is_touched_is_looked_at() {
    let (mut session, mut world) = (Session::new(), World::default());
    for name in ["a", "b"] {
        world.set(CLUSTER, name, 1);
        world.set(ENDPOINT, name, 1);
    }
    session.request(request(CLUSTER, &[])).unwrap();
    session.request(request(ENDPOINT, &["a"])).unwrap();
    check(&mut session, &mut world, &["Cluster +a +b", "ClusterLoadAssignment +a"]);
    for name in ["a", "b", "c"] {
        world.set(CLUSTER, name, 2);
        world.set(ENDPOINT, name, 2);
    }
    assert!(session.touch(CLUSTER, &"b".into()) && session.touch(CLUSTER, &"c".into()) && session.touch(CLUSTER, &"none".into()));
    assert!(session.touch(ENDPOINT, &"a".into()) && !session.touch(ENDPOINT, &"b".into()) && !session.touch(ROUTE, &"a".into()));
    check(&mut session, &mut world, &["Cluster +b +c", "ClusterLoadAssignment +a"]);
    world.remove(CLUSTER, "b");
    assert!(session.touch(CLUSTER, &"b".into()) && session.is_due());
    check(&mut session, &mut world, &["Cluster -b"]);
    assert!(!session.is_due());
}

#[test]
fn asked_again_is_sent_again() {
    let (mut session, mut world) = (Session::new(), World::default());
    world.set(ROUTE, "80", 1);
    for _ in 0..2 {
        session.request(request(ROUTE, &["80", "none"])).unwrap();
        check(&mut session, &mut world, &["RouteConfiguration +80 -none"]);
    }
    world.set(ROUTE, "none", 1);
    session.changed();
    check(&mut session, &mut world, &["RouteConfiguration +none"]);
}

#[test]
fn verdicts() {
    let (mut session, mut world) = (Session::new(), World::default());
    world.set(CLUSTER, "outbound|80||a", 1);
    world.set(CLUSTER, "outbound|80||ab", 1);
    session.request(request(CLUSTER, &[])).unwrap();
    let nonce = session.poll(&mut world)[0].nonce.clone();
    assert_eq!(session.status()[0].sync(), Sync::Stale);
    let error = Status { code: 13, message: "Error adding/updating cluster(s) outbound|80||a: no such thing".into(), details: vec![] };
    let nack = DeltaDiscoveryRequest { response_nonce: nonce.clone(), error_detail: Some(error.clone()), ..request(CLUSTER, &[]) };
    let rejected = vec![("outbound|80||a".into(), error.message.clone())];
    let verdict = Some(Verdict::Nack { message: error.message, rejected });
    assert_eq!(session.request(nack.clone()), Ok(Heard { type_url: CLUSTER.into(), verdict, subscription: false }));
    assert_eq!(session.request(nack).unwrap().verdict, Some(Verdict::Unknown));
    let status = session.status().remove(0);
    assert_eq!((status.sync(), status.nacks, status.pending), (Sync::Rejected, 1, 0));
    assert_eq!(status.resources.iter().map(|r| r.acked.is_some()).collect::<Vec<_>>(), [false, true]);
    // What was rejected is not sent again until it changes.
    session.changed();
    check(&mut session, &mut world, &[]);
    world.set(CLUSTER, "outbound|80||a", 2);
    session.changed();
    let nonce = check(&mut session, &mut world, &["Cluster +outbound|80||a"]).remove(0).nonce;
    session.request(DeltaDiscoveryRequest { response_nonce: nonce, ..request(CLUSTER, &[]) }).unwrap();
    let status = session.status().remove(0);
    assert_eq!((status.sync(), status.error), (Sync::Synced, None));
}

#[test]
fn refused_requests() {
    let mut session = Session::new();
    assert_eq!(session.request(request("", &[])), Err(ProtocolError::NoType));
    let types: Vec<_> = (0..=crate::server::MAX_TYPES).map(|i| session.request(request(&format!("t/{i}"), &["a"]))).collect();
    assert_eq!(types.iter().filter(|r| r.is_err()).count(), 1);
    let names: Vec<String> = (0..=crate::server::MAX_NAMES).map(|i| i.to_string()).collect();
    let many = DeltaDiscoveryRequest { type_url: "t/0".into(), resource_names_subscribe: names, ..Default::default() };
    assert_eq!(session.request(many), Err(ProtocolError::TooManyNames("t/0".into())));
}

#[test]
fn malformed_resources_are_rejected_alone() {
    let mut pair = Pair::new();
    pair.client.watch_all(CLUSTER);
    assert!(pair.client.next_request().unwrap().node.is_some());
    let resource = |name: &str, body: Option<Any>| mizzen_protos::envoy::envoy::service::discovery::v3::Resource {
        name: name.into(),
        version: "1".into(),
        resource: body,
        ..Default::default()
    };
    let response = DeltaDiscoveryResponse {
        type_url: CLUSTER.into(),
        nonce: "n".into(),
        resources: vec![
            resource("good", Some(any(CLUSTER, 1))),
            resource("empty", None),
            resource("listener", Some(any(LISTENER, 1))),
            resource("good", Some(any(CLUSTER, 2))),
        ],
        ..Default::default()
    };
    let (receipt, events) = pair.client.receive(response).unwrap();
    assert_eq!(events.len(), 1);
    pair.client.settle(receipt, []);
    let answer = pair.client.next_request().unwrap();
    assert_eq!(answer.node, None);
    assert_eq!(
        answer.error_detail.unwrap().message,
        "empty: has no content; listener: is of another type than its response; good: is there twice"
    );
    assert!(pair.client.receive(DeltaDiscoveryResponse { type_url: ROUTE.into(), ..Default::default() }).is_err());
}

/// What ends and begins anew is not taken for gone, whatever of it the server has heard when it answers.
#[test]
fn what_is_let_go_and_asked_for_again_is_there() {
    let wild = || request(CLUSTER, &["*", "a"]);
    let end = || DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["a".to_owned()], ..request(CLUSTER, &[]) };
    let begin = || request(CLUSTER, &["a"]);
    // What comes while the first is looked up, and what is said in this pass and in the next.
    let cases = [
        (vec![], vec![end(), begin()], vec!["Cluster +a"], vec!["Cluster +a"]),
        (vec![end()], vec![begin()], vec![], vec!["Cluster +a"]),
        (vec![end(), begin()], vec![end()], vec!["Cluster +a"], vec!["Cluster -a"]),
        (vec![end()], vec![], vec!["Cluster -a"], vec![]),
        (vec![end()], vec![begin(), end()], vec![], vec!["Cluster -a"]),
    ];
    for (before, between, now, next) in cases {
        let (mut session, mut world) = (Session::new(), OnDemand(World::default()));
        world.0.set(CLUSTER, "a", 1);
        session.request(wild()).unwrap();
        if !before.is_empty() {
            check(&mut session, &mut world, &["Cluster +a"]);
        }
        before.iter().for_each(|request| drop(session.request(request.clone()).unwrap()));
        let mut round = session.begin();
        let found = session.next(&mut round).unwrap().look_up(&mut world);
        between.iter().for_each(|request| drop(session.request(request.clone()).unwrap()));
        session.take(&mut round, found);
        let said_now: Vec<String> = session.end(round).into_iter().map(|response| said(&response.into())).collect();
        assert_eq!(said_now, now, "{before:?} {between:?}");
        check(&mut session, &mut world, &next);
    }
}
