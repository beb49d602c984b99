use std::net::IpAddr;

use futures_util::FutureExt;
use mizzen_protos::envoy::envoy::service::discovery::v3::Resource;
use mizzen_xds::types::{CLUSTER, VIRTUAL_HOST};

use super::*;
use crate::Answer;

struct Bench {
    tap: Arc<Tap>,
    names: watch::Receiver<NameTable>,
    options: crate::Options,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::options::tests::plain(folder.path());
        let (sender, names) = watch::channel(NameTable::empty("shop", &["cluster.local".to_owned()]));
        let tap = Arc::new(Tap::new(Some(sender), Arc::new(Remembered::open(&options))));
        Bench { tap, names, options, _folder: folder }
    }

    fn find(&self, name: &str) -> String {
        match self.names.borrow().find(name) {
            Answer::Addresses(ips) => ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }
}

fn table(names: &[(&str, &str)]) -> Any {
    let info = |ip: &str| nds::name_table::NameInfo { ips: vec![ip.to_owned()], ..Default::default() };
    let table = nds::NameTable { table: names.iter().map(|(name, ip)| ((*name).to_owned(), info(ip))).collect() };
    Any { type_url: NAME_TABLE.to_owned(), value: table.encode_to_vec() }
}

fn delta(type_url: &str, nonce: &str, resources: Vec<(&str, Any)>, removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, body): (&str, Any)| Resource {
        name: name.to_owned(),
        version: format!("v{nonce}"),
        resource: Some(body),
        ..Default::default()
    };
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.into_iter().map(resource).collect(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn sotw(nonce: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        type_url: NAME_TABLE.to_owned(),
        nonce: nonce.to_owned(),
        version_info: format!("v{nonce}"),
        resources,
        ..Default::default()
    }
}

fn index(nonce: &str, hosts: &[(&str, [u8; 4])], removed: &[&str]) -> DeltaDiscoveryResponse {
    let body = |ip: &[u8; 4]| index::Host { addresses: vec![ip.to_vec()], ..Default::default() }.encode_to_vec();
    let resources = hosts.iter().map(|(host, ip)| (*host, Any { type_url: INDEX.to_owned(), value: body(ip) }));
    delta(INDEX, nonce, resources.collect(), removed)
}

fn ask_index(held: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: INDEX.to_owned(),
        initial_resource_versions: held.iter().map(|host| ((*host).to_owned(), "1".to_owned())).collect(),
        ..Default::default()
    }
}

/// The proxy's answer to a response.
fn answer_index(nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: INDEX.to_owned(), response_nonce: nonce.to_owned(), ..Default::default() }
}

fn kept<Q: std::fmt::Debug>(heard: Heard<Q>) -> Q {
    match heard {
        Heard::Kept(answer) => answer,
        Heard::Pass => panic!("it passes"),
    }
}

/// What an answer of either variant says: nonce, version (of state of the world), whether it rejects.
fn said_delta(answer: &DeltaDiscoveryRequest) -> (&str, &str, bool) {
    assert!(answer.node.is_none() && answer.type_url == NAME_TABLE && answer.resource_names_subscribe.is_empty());
    (&answer.response_nonce, "", answer.error_detail.is_some())
}

fn said_sotw(answer: &DiscoveryRequest) -> (&str, &str, bool) {
    assert!(answer.node.is_none() && answer.type_url == NAME_TABLE && answer.resource_names.is_empty());
    (&answer.response_nonce, &answer.version_info, answer.error_detail.is_some())
}

const GARBAGE: [u8; 1] = [0xff];

#[test]
fn the_table_by_delta() {
    let bench = Bench::new();
    let stream = bench.tap.open();
    assert!(stream.request(&mut DeltaDiscoveryRequest { type_url: CLUSTER.to_owned(), ..Default::default() }));
    let question: DeltaDiscoveryRequest = stream.question().unwrap();
    assert_eq!((said_delta(&question), question.initial_resource_versions.len()), (("", "", false), 0));
    assert!(stream.question::<DeltaDiscoveryRequest>().is_none(), "once");
    let good = table(&[("a.shop.svc.cluster.local", "10.0.0.1")]);
    let garbage = Any { type_url: NAME_TABLE.to_owned(), value: GARBAGE.to_vec() };
    let wrong = Any { type_url: CLUSTER.to_owned(), ..good.clone() };
    for (nonce, resources, rejected, known) in [
        ("1", vec![], false, false),
        ("2", vec![("", good)], false, true),
        ("3", vec![("", garbage)], true, true),
        ("4", vec![("", wrong)], true, true),
        ("5", vec![], false, true),
    ] {
        let answer = kept(stream.response(&delta(NAME_TABLE, nonce, resources, &[])));
        assert_eq!(said_delta(&answer), (nonce, "", rejected));
        assert_eq!(bench.names.borrow().is_known(), known, "{nonce}");
    }
    assert_eq!(bench.find("a.shop.svc.cluster.local"), "10.0.0.1");
    assert_eq!(stream.response(&delta(CLUSTER, "2", vec![], &[])), Heard::Pass, "of other types nothing is kept");
    // The proxy's own question for it would be answered to the agent.
    assert!(!stream.request(&mut DeltaDiscoveryRequest { type_url: NAME_TABLE.to_owned(), ..Default::default() }));
    // The next stream tells what is known.
    drop(stream);
    let question: DeltaDiscoveryRequest = bench.tap.open().question().unwrap();
    assert_eq!(question.initial_resource_versions, [(String::new(), "v2".to_owned())].into());
}

#[test]
fn the_table_by_state_of_the_world() {
    let bench = Bench::new();
    let stream = bench.tap.open();
    let question: DiscoveryRequest = stream.question().unwrap();
    assert_eq!(said_sotw(&question), ("", "", false));
    let good = table(&[("a.shop.svc.cluster.local", "10.0.0.1")]);
    let garbage = Any { type_url: NAME_TABLE.to_owned(), value: GARBAGE.to_vec() };
    for (nonce, resources, version, rejected) in [
        ("1", vec![garbage.clone()], "", true),
        ("2", vec![good], "v2", false),
        ("3", vec![garbage], "v2", true),
        ("4", vec![], "v4", false),
    ] {
        let answer = kept(stream.response(&sotw(nonce, resources)));
        assert_eq!(said_sotw(&answer), (nonce, version, rejected));
    }
    assert_eq!(bench.find("a.shop.svc.cluster.local"), "10.0.0.1");
    let other = DiscoveryResponse { type_url: CLUSTER.to_owned(), ..sotw("5", vec![]) };
    assert_eq!(stream.response(&other), Heard::Pass);
    drop(stream);
    let question: DiscoveryRequest = bench.tap.open().question().unwrap();
    assert_eq!(said_sotw(&question), ("", "v2", false));
}

#[test]
fn names_of_the_index() {
    let bench = Bench::new();
    let stream = bench.tap.open();
    assert!(stream.request(&mut ask_index(&[])));
    stream.question::<DeltaDiscoveryRequest>();
    assert_eq!(stream.response(&index("1", &[("a.example", [10, 0, 0, 1]), ("b.example", [10, 0, 0, 2])], &[])), Heard::Pass);
    // Who learnt a name before the proxy has it would be carried out of the mesh.
    assert!(!bench.names.borrow().is_known());
    stream.request(&mut answer_index("1"));
    assert!(bench.names.borrow().is_known());
    // A table beside it says nothing, and is acknowledged.
    let answer = kept(stream.response(&delta(NAME_TABLE, "1", vec![("", table(&[("c.example", "10.0.0.3")]))], &[])));
    assert_eq!(said_delta(&answer), ("1", "", false));
    let of = |names: &Bench| ["a.example", "b.example", "c.example"].map(|name| names.find(name));
    assert_eq!(of(&bench), ["10.0.0.1", "10.0.0.2", "Foreign"]);
    // One entry cannot be read: the one before stays. Another is gone.
    let bad = Any { type_url: INDEX.to_owned(), value: GARBAGE.to_vec() };
    stream.response(&delta(INDEX, "2", vec![("a.example", bad)], &["b.example"]));
    stream.response(&index("3", &[("d.example", [10, 0, 0, 4])], &[]));
    stream.request(&mut answer_index("0"));
    assert_eq!(of(&bench), ["10.0.0.1", "10.0.0.2", "Foreign"], "neither was answered yet");
    stream.request(&mut answer_index("2"));
    assert_eq!(bench.find("d.example"), "Foreign");
    assert_eq!(of(&bench), ["10.0.0.1", "Foreign", "Foreign"]);
    drop(stream);
    // While there is no stream, what is known stays; and what the proxy may have taken in without a word is known.
    assert_eq!(of(&bench), ["10.0.0.1", "Foreign", "Foreign"]);
    assert_eq!(bench.find("d.example"), "10.0.0.4");
}

/// On a new stream the server sends what the proxy does not have: the agent must not have less than that, nor more.
#[test]
fn the_index_on_a_new_stream() {
    let bench = Bench::new();
    let hosts = [("a.example", [10, 0, 0, 1]), ("b.example", [10, 0, 0, 2])];
    let mut stream = bench.tap.open();
    stream.request(&mut ask_index(&[]));
    stream.response(&index("1", &hosts, &[]));
    for (held, asked, sent, expected) in [
        // The proxy goes on: nothing has changed.
        (&["a.example", "b.example"][..], 2, &[][..], ["10.0.0.1", "10.0.0.2", "Foreign"]),
        // It has an entry that the agent does not have: the agent lets it be sent again.
        (&["a.example", "b.example", "c.example"], 2, &[("c.example", [10, 0, 0, 3])], ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        // It has begun anew: what is not sent now is gone.
        (&[], 0, &[("b.example", [10, 0, 0, 9])], ["Foreign", "10.0.0.9", "Foreign"]),
    ] {
        drop(stream);
        stream = bench.tap.open();
        let mut request = ask_index(held);
        assert!(stream.request(&mut request));
        assert_eq!(request.initial_resource_versions.len(), asked);
        assert!(stream.request(&mut DeltaDiscoveryRequest { response_nonce: "0".to_owned(), ..ask_index(&[]) }), "another changes nothing");
        stream.response(&index("1", sent, &[]));
        stream.request(&mut answer_index("1"));
        assert_eq!(["a.example", "b.example", "c.example"].map(|name| bench.find(name)), expected);
    }
}

/// Another control plane, and back.
#[test]
fn from_the_index_to_the_table() {
    let bench = Bench::new();
    let found = || ["a.example", "c.example"].map(|name| bench.find(name));
    let stream = bench.tap.open();
    stream.request(&mut ask_index(&[]));
    stream.response(&index("1", &[("a.example", [10, 0, 0, 1])], &[]));
    drop(stream);
    let stream = bench.tap.open();
    stream.request(&mut ask_index(&["a.example"]));
    let question: DeltaDiscoveryRequest = stream.question().unwrap();
    assert!(question.initial_resource_versions.is_empty(), "no table is known");
    let message = delta(NAME_TABLE, "1", vec![("", table(&[("c.example", "10.0.0.3")]))], &[]);
    stream.response(&message);
    assert_eq!(found(), ["Foreign", "10.0.0.3"]);
    drop(stream);
    let stream = bench.tap.open();
    let mut request = ask_index(&["a.example"]);
    stream.request(&mut request);
    assert!(request.initial_resource_versions.is_empty());
    stream.response(&index("1", &[("a.example", [10, 0, 0, 1])], &[]));
    stream.request(&mut answer_index("1"));
    assert_eq!(found(), ["10.0.0.1", "Foreign"]);
    drop(stream);
    assert!(bench.tap.open().question::<DeltaDiscoveryRequest>().unwrap().initial_resource_versions.is_empty(), "the table was given up");
}

#[test]
fn the_newest_stream_is_heard() {
    let bench = Bench::new();
    let (old, new) = (bench.tap.open(), bench.tap.open());
    for stream in [&new, &old] {
        stream.question::<DeltaDiscoveryRequest>();
    }
    new.response(&delta(NAME_TABLE, "1", vec![("", table(&[("a.example", "10.0.0.2")]))], &[]));
    let late = kept(old.response(&delta(NAME_TABLE, "1", vec![("", table(&[("a.example", "10.0.0.1")]))], &[])));
    assert_eq!(said_delta(&late), ("1", "", false));
    assert_eq!(old.response(&index("2", &[("a.example", [10, 0, 0, 1])], &[])), Heard::Pass);
    assert_eq!(bench.find("a.example"), "10.0.0.2");
    assert!(old.is_forsaken().now_or_never().is_none());
    drop(new);
    assert!(old.is_forsaken().now_or_never().is_some(), "nobody else would be heard");
    drop(old);
    assert!(bench.tap.open().is_forsaken().now_or_never().is_none(), "older ones' ends do not matter");
}

/// Without DNS the relay carries all there is.
#[test]
fn nothing_is_kept_without_names() {
    let folder = tempfile::tempdir().unwrap();
    let options = crate::options::tests::plain(folder.path());
    let stream = Arc::new(Tap::new(None, Arc::new(Remembered::open(&options)))).open();
    let mut request = ask_index(&["a.example"]);
    assert!(stream.request(&mut request) && request == ask_index(&["a.example"]));
    assert!(stream.request(&mut DeltaDiscoveryRequest { type_url: NAME_TABLE.to_owned(), ..Default::default() }));
    assert!(stream.question::<DeltaDiscoveryRequest>().is_none());
    assert_eq!(stream.response(&delta(NAME_TABLE, "1", vec![("", table(&[]))], &[])), Heard::Pass);
}

#[test]
fn what_is_asked_for_on_demand_is_noted() {
    let bench = Bench::new();
    let stream = bench.tap.open();
    let ask = |subscribe: &[&str], unsubscribe: &[&str]| DeltaDiscoveryRequest {
        type_url: VIRTUAL_HOST.to_owned(),
        resource_names_subscribe: subscribe.iter().map(|n| (*n).to_owned()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|n| (*n).to_owned()).collect(),
        ..Default::default()
    };
    stream.request(&mut ask(&["80/a", "80/b"], &[]));
    stream.request(&mut ask(&["80/c"], &["80/a"]));
    let saved = || {
        bench.tap.remembered.save();
        crate::remembered(&bench.options).into_iter().map(|(_, name)| name).collect::<Vec<_>>()
    };
    assert_eq!(saved(), ["80/b", "80/c"]);
    drop(stream);
    let stream = bench.tap.open();
    stream.request(&mut ask(&["80/c"], &[]));
    assert_eq!(saved(), ["80/b", "80/c"]);
    stream.forget();
    assert_eq!(saved(), ["80/c"]);
}
