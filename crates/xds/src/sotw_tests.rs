//! Both ends of the state-of-the-world variant joined, and the server's end by tables.

use std::collections::{BTreeMap, VecDeque};

use mizzen_protos::{
    Any,
    envoy::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
        },
        google::rpc::Status,
    },
};
use mizzen_types::Name;
use proptest::prelude::*;
use prost::Message;

use crate::{
    client::Event,
    server::{Heard, ProtocolError, Resource, ResourceSource, Session, Sync, TypeStatus, Verdict},
    sotw::Client,
    types::{self, CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET},
};

/// A state of numbers: content 13 is what clients reject.
#[derive(Clone, Debug, Default)]
struct World(BTreeMap<(&'static str, Name), u32>);

const BAD: u32 = 13;

/// As every resource that has a name; its content is 0 where it says that there is none.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    content: u32,
}

impl World {
    fn set(&mut self, type_url: &'static str, name: &str, content: u32) {
        self.0.insert((type_url, name.into()), content);
    }

    fn remove(&mut self, type_url: &'static str, name: &str) {
        self.0.remove(&(type_url, name.into()));
    }
}

impl ResourceSource for World {
    fn names(&mut self, type_url: &str) -> Vec<Name> {
        self.0.keys().filter(|(t, _)| *t == type_url).map(|(_, n)| n.clone()).collect()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        let ((type_url, _), content) = self.0.iter().find(|((t, n), _)| *t == type_url && **n == *name)?;
        let value = Body { name: name.to_owned(), content: *content }.encode_to_vec();
        Some(Resource::new(Any { type_url: (*type_url).to_owned(), value }))
    }
}

/// A client, a server and the wire between them.
struct Pair {
    world: World,
    client: Client,
    session: Session,
    up: VecDeque<DiscoveryRequest>,
    down: VecDeque<DiscoveryResponse>,
    wanted: BTreeMap<(&'static str, Name), ()>,
    all: Vec<&'static str>,
    /// What the client uses.
    uses: BTreeMap<(&'static str, Name), u32>,
}

impl Pair {
    fn new() -> Self {
        let mut client = Client::new(Node { id: "node".into(), ..Default::default() });
        client.connected();
        Pair {
            world: World::default(),
            client,
            session: Session::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            wanted: BTreeMap::new(),
            all: Vec::new(),
            uses: BTreeMap::new(),
        }
    }

    fn wants(&self, type_url: &'static str, name: &Name) -> bool {
        self.all.contains(&type_url) || self.wanted.contains_key(&(type_url, name.clone()))
    }

    fn reconnect(&mut self) {
        self.client.connected();
        self.session = Session::new();
        self.up.clear();
        self.down.clear();
    }

    fn unsubscribe(&mut self, type_url: &'static str, name: &str) {
        self.client.unsubscribe(type_url, [name.into()]);
        self.wanted.remove(&(type_url, name.into()));
        if !self.wants(type_url, &name.into()) {
            self.uses.remove(&(type_url, name.into()));
        }
    }

    fn client_sends(&mut self) -> bool {
        let request = self.client.next_request();
        self.up.extend(request.clone());
        request.is_some()
    }

    fn server_hears(&mut self) -> bool {
        let Some(request) = self.up.pop_front() else { return false };
        self.session.request_sotw(request).unwrap();
        true
    }

    fn server_sends(&mut self) -> bool {
        let responses = self.session.poll_sotw(&mut self.world);
        self.down.extend(responses.iter().cloned());
        !responses.is_empty()
    }

    fn client_hears(&mut self) -> bool {
        let Some(response) = self.down.pop_front() else { return false };
        let (receipt, events) = self.client.receive(response).unwrap();
        let type_url = TYPES.into_iter().find(|t| **t == **receipt.type_url()).unwrap();
        let mut rejected = Vec::new();
        for event in events {
            match event {
                Event::Removed { name } => drop(self.uses.remove(&(type_url, name))),
                Event::Added { name, body, .. } => match Body::decode(body.value.as_slice()).unwrap().content {
                    BAD => rejected.push((name, "thirteen".to_owned())),
                    content => drop(self.uses.insert((type_url, name), content)),
                },
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
    Set(usize, usize, u32),
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
        4 => (t.clone(), n.clone(), 10..15u32).prop_map(|(t, n, c)| Op::Set(t, n, c)),
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

fn run(ops: Vec<Op>) {
    let mut pair = Pair::new();
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
            Op::Subscribe(t, n) => {
                pair.client.subscribe(TYPES[t], [NAMES[n].into()]);
                pair.wanted.insert((TYPES[t], NAMES[n].into()), ());
            }
            Op::Unsubscribe(t, n) => pair.unsubscribe(TYPES[t], NAMES[n]),
            Op::WatchAll(t) => {
                pair.client.watch_all(TYPES[t]);
                pair.all.push(TYPES[t]);
            }
            Op::ClientSends => drop(pair.client_sends()),
            Op::ServerHears => drop(pair.server_hears()),
            Op::ServerSends => drop(pair.server_sends()),
            Op::ClientHears => drop(pair.client_hears()),
            Op::Reconnect => pair.reconnect(),
        }
    }
    pair.settle();
    converged(&pair);
}

fn converged(pair: &Pair) {
    for type_url in TYPES {
        for name in NAMES {
            let key = (type_url, Name::from(name));
            let (there, used) = (pair.world.0.get(&key).copied(), pair.uses.get(&key).copied());
            match there {
                _ if !pair.wants(type_url, &key.1) => assert_eq!(used, None, "{name} of {type_url} is not wanted"),
                Some(BAD) => assert_ne!(used, Some(BAD), "{name} of {type_url} is bad"),
                Some(_) => assert_eq!(used, there, "{name} of {type_url}"),
                // What is gone shows in whole lists only.
                None => assert!(used.is_none() || !types::empty_means_all(type_url), "{name} of {type_url} is gone"),
            }
        }
    }
    let status = pair.session.status();
    assert!(status.iter().all(|t| t.pending == 0));
    for of_type in status.iter().filter(|t| types::empty_means_all(&t.type_url)) {
        let type_url = TYPES.into_iter().find(|t| **t == *of_type.type_url).unwrap();
        let bad = pair.world.0.iter().any(|((t, n), c)| *c == BAD && *t == type_url && pair.wants(t, n));
        assert_eq!(of_type.sync() == Sync::Rejected, bad, "a rejection is known to the server: {of_type:?}");
        for resource in &of_type.resources {
            // A rejection is one of the whole list, and what was not in it before is marked.
            assert!(resource.rejected.is_some() || resource.acked == resource.sent, "{resource:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn converges(ops in prop::collection::vec(op(), 0..80)) {
        run(ops);
    }
}

/// Of a list that was rejected, what is bad is let go: without it the rest is taken.
#[test]
fn what_was_rejected_is_let_go() {
    use Op::{ClientHears, ClientSends, ServerHears, ServerSends, Set, Subscribe, Unsubscribe};
    let rejected =
        [Subscribe(0, 2), Set(0, 2, BAD), Subscribe(0, 3), Set(0, 3, 10), ClientSends, ServerHears, ServerSends, ClientHears].to_vec();
    // With the word on the list, or after it.
    run([&rejected[..], &[Unsubscribe(0, 2)]].concat());
    run([&rejected[..], &[ClientSends, ServerHears, Unsubscribe(0, 2)]].concat());
}

fn request(type_url: &str, nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn nack(type_url: &str, nonce: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        error_detail: Some(Status { code: 13, message: "a is bad".into(), details: vec![] }),
        ..request(type_url, nonce, names)
    }
}

/// What a response says, in one line; `!` before what is not there.
fn said(response: &DiscoveryResponse) -> String {
    let body = |any: &Any| Body::decode(any.value.as_slice()).unwrap();
    let resource = |any: &Any| if body(any).content == 0 { format!(" !{}", body(any).name) } else { format!(" {}", body(any).name) };
    types::short(&response.type_url).to_owned() + &response.resources.iter().map(resource).collect::<String>()
}

/// What a server with the resources `a` and `b` of a type answers to each of these requests; of nonces `last` is the latest one.
fn answers(type_url: &'static str, requests: &[(&str, &[&str])]) -> Vec<String> {
    let (mut session, mut world) = (Session::new(), World::default());
    world.set(type_url, "a", 1);
    world.set(type_url, "b", 1);
    let mut last = String::new();
    let mut answers = Vec::new();
    for (nonce, names) in requests {
        let nonce = if *nonce == "last" { last.clone() } else { (*nonce).to_owned() };
        session.request_sotw(request(type_url, &nonce, names)).unwrap();
        let responses = session.poll_sotw(&mut world);
        if let Some(response) = responses.last() {
            last.clone_from(&response.nonce);
        }
        answers.push(responses.iter().map(said).collect::<Vec<_>>().join(", "));
    }
    answers
}

#[test]
fn names() {
    const ALL: &str = "Cluster a b";
    type Case<'a> = (&'static str, &'a [(&'a str, &'a [&'a str])], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        // Nothing named from the beginning asks for everything, as long as nothing is named.
        (CLUSTER, &[("", &[]), ("last", &[]), ("last", &[])], &[ALL, "", ""]),
        (CLUSTER, &[("", &[]), ("last", &["b"]), ("last", &[]), ("last", &["*"])], &[ALL, "Cluster b", "", ALL]),
        (CLUSTER, &[("", &["*"]), ("last", &[]), ("last", &["a"])], &[ALL, "", "Cluster a"]),
        (CLUSTER, &[("", &["a", "none"]), ("last", &["a", "none"]), ("last", &["b"])], &["Cluster a", "", "Cluster b"]),
        (CLUSTER, &[("", &["none"])], &["Cluster"]),
        // A new stream with what an old one has said, and a request that asks anew.
        (CLUSTER, &[("of another stream", &[]), ("", &[])], &[ALL, ALL]),
        (
            ENDPOINT,
            &[("", &[]), ("", &["a"]), ("", &["a", "b"]), ("last", &["a", "b"])],
            &["", "ClusterLoadAssignment a", "ClusterLoadAssignment a b", ""],
        ),
        // Only what is new; what is let go and asked for again comes again, whether the nonce is the latest or not.
        (
            ENDPOINT,
            &[("", &["a"]), ("last", &["a", "b"]), ("1", &["b"]), ("1", &["a", "b"])],
            &["ClusterLoadAssignment a", "ClusterLoadAssignment b", "", "ClusterLoadAssignment a"],
        ),
        (ENDPOINT, &[("", &["a", "none"]), ("last", &["a", "none"])], &["ClusterLoadAssignment a, ClusterLoadAssignment !none", ""]),
        (ROUTE, &[("", &["none", "b"])], &["RouteConfiguration b !none"]),
        (SECRET, &[("", &["none", "b"]), ("last", &["none"])], &["Secret b", ""]),
    ];
    for (type_url, requests, expected) in cases {
        assert_eq!(answers(type_url, requests), *expected, "{requests:?}");
    }
}

/// A session whose clusters `a` and `b` and endpoints `a` and `b` were sent and taken, with the nonces of both.
fn settled(world: &mut World) -> (Session, String, String) {
    let mut session = Session::new();
    for name in ["a", "b"] {
        world.set(CLUSTER, name, 1);
        world.set(ENDPOINT, name, 1);
    }
    session.request_sotw(request(CLUSTER, "", &[])).unwrap();
    session.request_sotw(request(ENDPOINT, "", &["a", "b"])).unwrap();
    let responses = session.poll_sotw(world);
    assert_eq!(responses.iter().map(said).collect::<Vec<_>>(), ["Cluster a b", "ClusterLoadAssignment a b"]);
    let [clusters, endpoints] = [0, 1].map(|at: usize| responses[at].nonce.clone());
    assert_eq!(session.request_sotw(request(CLUSTER, &clusters, &[])).unwrap().verdict, Some(Verdict::Ack));
    assert_eq!(session.request_sotw(request(ENDPOINT, &endpoints, &["a", "b"])).unwrap().verdict, Some(Verdict::Ack));
    assert!(session.poll_sotw(world).is_empty() && session.in_flight() == 0);
    (session, clusters, endpoints)
}

fn check(session: &mut Session, world: &mut World, expected: &[&str]) -> Vec<String> {
    session.changed();
    let responses = session.poll_sotw(world);
    assert_eq!(responses.iter().map(said).collect::<Vec<_>>(), expected);
    responses.into_iter().map(|r| r.nonce).collect()
}

#[test]
fn whole_lists_and_parts() {
    let mut world = World::default();
    let (mut session, ..) = settled(&mut world);
    check(&mut session, &mut world, &[]);
    world.set(ENDPOINT, "b", 2);
    check(&mut session, &mut world, &["ClusterLoadAssignment b"]);
    // A cluster that is replaced waits for its endpoints.
    world.set(CLUSTER, "a", 2);
    check(&mut session, &mut world, &["Cluster a b", "ClusterLoadAssignment a"]);
    // One that is gone is left out, after what is new has come. Of its endpoints nothing is said: a client has no more use for them.
    world.set(CLUSTER, "c", 1);
    world.remove(CLUSTER, "a");
    world.remove(ENDPOINT, "a");
    session.request_sotw(request(LISTENER, "", &[])).unwrap();
    world.set(LISTENER, "l", 1);
    check(&mut session, &mut world, &["Cluster a b c", "Listener l", "Cluster b c"]);
    world.remove(LISTENER, "l");
    check(&mut session, &mut world, &["Listener"]);
    // Only what is touched is looked at, and still all that the client has is in the list.
    world.set(CLUSTER, "b", 3);
    session.touch(CLUSTER, &"b".into());
    let responses = session.poll_sotw(&mut world);
    assert_eq!(responses.iter().map(said).collect::<Vec<_>>(), ["Cluster b c", "ClusterLoadAssignment b"]);
}

#[test]
fn versions_are_of_the_content() {
    let mut world = World::default();
    world.set(CLUSTER, "a", 1);
    let version = |world: &mut World| {
        let mut session = Session::new();
        session.request_sotw(request(CLUSTER, "", &[])).unwrap();
        session.poll_sotw(world).remove(0).version_info
    };
    let first = version(&mut world);
    assert_eq!(version(&mut world), first);
    world.set(CLUSTER, "a", 2);
    let second = version(&mut world);
    assert!(second != first && second.len() == 16);
    world.set(CLUSTER, "b", 2);
    assert!(version(&mut world) != second);
}

fn of(session: &Session, type_url: &str) -> TypeStatus {
    session.status().into_iter().find(|t| *t.type_url == *type_url).unwrap()
}

#[test]
fn verdicts() {
    let mut world = World::default();
    let (mut session, old, endpoints) = settled(&mut world);
    world.set(CLUSTER, "a", 2);
    let nonce = check(&mut session, &mut world, &["Cluster a b", "ClusterLoadAssignment a"]).remove(0);
    assert_eq!(of(&session, CLUSTER).sync(), Sync::Stale);
    // On what was answered before, and on what was never sent: nothing.
    for stale in [&old, "none", "0"] {
        assert_eq!(session.request_sotw(nack(CLUSTER, stale, &[])).unwrap().verdict, Some(Verdict::Unknown), "{stale}");
    }
    let rejected = vec![("a".into(), "a is bad".to_owned())];
    let verdict = Some(Verdict::Nack { message: "a is bad".into(), rejected });
    let heard = session.request_sotw(nack(CLUSTER, &nonce, &[]));
    assert_eq!(heard, Ok(Heard { type_url: CLUSTER.into(), verdict, subscription: false }));
    let status = of(&session, CLUSTER);
    assert_eq!((status.sync(), status.nacks, status.pending), (Sync::Rejected, 1, 0));
    assert_eq!(status.resources.iter().map(|r| r.acked == r.sent).collect::<Vec<_>>(), [false, true]);
    // It is not sent again until something changes, and a later list that is taken takes it with it.
    check(&mut session, &mut world, &[]);
    world.set(CLUSTER, "b", 2);
    let nonce = check(&mut session, &mut world, &["Cluster a b", "ClusterLoadAssignment b"]).remove(0);
    session.request_sotw(nack(CLUSTER, &nonce, &[])).unwrap();
    assert!(of(&session, CLUSTER).resources.iter().all(|r| r.rejected.is_some()));
    world.set(CLUSTER, "c", 1);
    let nonce = check(&mut session, &mut world, &["Cluster a b c"]).remove(0);
    session.request_sotw(request(CLUSTER, &nonce, &[])).unwrap();
    let status = of(&session, CLUSTER);
    assert_eq!((status.sync(), status.error), (Sync::Synced, None));
    assert!(status.resources.iter().all(|r| r.acked == r.sent));
    // A request of names with the nonce of what was answered is no verdict, and no stale one either.
    assert_eq!(session.request_sotw(request(ENDPOINT, &endpoints, &["a", "b"])).unwrap().verdict, Some(Verdict::Unknown));
    let last = session.in_flight();
    assert!(last > 0);
    let heard = session.request_sotw(request(CLUSTER, &nonce, &["*", "z"])).unwrap();
    assert_eq!((heard.verdict, heard.subscription), (None, true));
}

#[test]
fn a_word_on_the_later_is_one_on_the_earlier() {
    for taken in [true, false] {
        let mut world = World::default();
        let (mut session, ..) = settled(&mut world);
        world.set(ENDPOINT, "a", 2);
        check(&mut session, &mut world, &["ClusterLoadAssignment a"]);
        world.set(ENDPOINT, "b", 2);
        let nonce = check(&mut session, &mut world, &["ClusterLoadAssignment b"]).remove(0);
        let answer = if taken { request } else { nack };
        session.request_sotw(answer(ENDPOINT, &nonce, &["a", "b"])).unwrap();
        let status = of(&session, ENDPOINT);
        let marks: Vec<_> = status.resources.iter().map(|r| (r.acked == r.sent, r.rejected.is_some())).collect();
        // Of a rejection it is not known that the one before was taken.
        assert_eq!(marks, if taken { [(true, false); 2] } else { [(false, false), (false, true)] });
        assert_eq!(status.pending, 0);
    }
}

#[test]
fn refused_requests() {
    let mut session = Session::new();
    assert_eq!(session.request_sotw(request("", "", &[])), Err(ProtocolError::NoType));
    let names: Vec<String> = (0..=crate::server::MAX_NAMES).map(|i| i.to_string()).collect();
    let many = DiscoveryRequest { resource_names: names, ..request(ENDPOINT, "", &[]) };
    assert_eq!(session.request_sotw(many), Err(ProtocolError::TooManyNames(ENDPOINT.into())));
}
