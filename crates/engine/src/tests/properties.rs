//! What holds for any requests, however their bytes are split and whatever happens meanwhile.
//!
//! `Sim` itself looks at the bound of every buffer after every turn, and all of it runs without a panic.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use mizzen_http::{Codec, Event, Head, Limits, Reason, StreamId};
use mizzen_ir::{Config, ResourceKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{calls::*, mesh::*};
use crate::{Command, metrics, sim::Sim};

const APP: &str = "10.0.0.2:9080";
const TCP: &str = "10.96.0.2:6379";

/// What a request is about: the first part of its path. The application, the routes and the policy act by it.
const ABOUT: [&str; 7] = ["plain", "again", "never", "denied", "direct", "large", "gone"];

/// What a request is about, its body's length, and whether it is sent in chunks.
type Asked = (usize, usize, bool);

fn request() -> impl Strategy<Value = Asked> {
    (0..ABOUT.len() - 1, prop_oneof![Just(0usize), 1..64usize, 1000..20_000usize], any::<bool>())
}

/// A client: HTTP/1.1, HTTP/2 or TCP, with its requests.
fn client() -> impl Strategy<Value = (u8, Vec<Asked>)> {
    (0..3u8, prop::collection::vec(request(), 1..4))
}

static SERVER: LazyLock<[Arc<Config>; 3]> = LazyLock::new(|| {
    let path = json!({"permissions": [{"url_path": {"path": {"prefix": "/denied"}}}], "principals": [{"any": true}]});
    let deny = |more: Vec<Value>| Inbound { http: [vec![http_rbac("DENY", json!({"p": path}))], more].concat(), ..Inbound::default() };
    let nobody = vec![http_rbac("ALLOW", json!({"p": from("somebody-else")}))];
    [server_config(&deny(vec![])), server_config(&deny(nobody)), server_config(&Inbound { permissive: true, ..deny(vec![]) })]
});

static CLIENT: LazyLock<[Arc<Config>; 5]> = LazyLock::new(|| {
    let retry = json!({"retry_on": "5xx,reset,connect-failure,refused-stream", "num_retries": 2});
    let route = routes(
        "9080",
        json!([
            {"name": "direct", "match": {"prefix": "/direct"}, "direct_response": {"status": 203, "body": {"inline_string": "direct"}}},
            {"name": "default", "match": {"prefix": "/"}, "route": {"cluster": CLUSTER, "timeout": "20s", "retry_policy": retry}}]),
    );
    let base = put(&client_config(secrets("storefront")), &[(ResourceKind::Route, route)]);
    let h2 = put(&base, &[cluster(CLUSTER, "reviews", http_options("h2"))]);
    let none = put(&base, &[assignment(CLUSTER, &[], true)]);
    let fresh = put(&base, &secrets("storefront"));
    // Filters that hold answers back, and that change what follows a head.
    let slow = json!({"name": "fault", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "response_rate_limit": {"fixed_limit": {"limit_kbps": 50}, "percentage": {"numerator": 50}}}});
    let end = json!([{"append": {"header": {"key": "x-end", "value": "1"}}}]);
    let changes = json!({"name": "header_mutation", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_trailers_mutations": end, "response_trailers_mutations": end}}});
    let chains = json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), &[slow, changes])]}]});
    let held = put(&base, &[listener("0.0.0.0_9080", "0.0.0.0", 9080, "OUTBOUND", chains)]);
    [base, h2, none, fresh, held]
});

/// An application that fails a request about `again` once, one about `never` always, and dies of one about `gone` once.
fn fickle() -> crate::sim::Serve {
    let seen: Rc<RefCell<HashMap<String, u32>>> = Rc::default();
    let dies = Rc::new(RefCell::new(false));
    let died = dies.clone();
    let mut inner = app(move |head, body| {
        let path = head.path().to_owned();
        let about = path.split('/').nth(1).unwrap_or_default();
        let mut seen = seen.borrow_mut();
        let times = seen.entry(path.clone()).or_default();
        *times += 1;
        let fails = about == "never" || (about == "again" && *times == 1);
        *dies.borrow_mut() |= about == "gone" && *times == 1;
        let mut text = format!("{path} {}", body.len()).into_bytes();
        text.resize(text.len() + if about == "large" { 100_000 } else { 0 }, b'.');
        let mut answer = Head::response(if fails { 503 } else { 200 });
        answer.set("content-length", text.len().to_string());
        (answer, text)
    });
    Box::new(move |id, input, eof, out| {
        let ends = inner(id, input, eof, out);
        if died.replace(false) {
            out.clear();
            return true;
        }
        ends
    })
}

fn start(seed: u64, split: usize) -> Sim {
    let mut sim = mesh_with(seed, CLIENT[0].clone(), &Inbound::default());
    sim.command(1, Command::Config(SERVER[0].clone()));
    sim.serve(APP, fickle());
    sim.split = split;
    sim
}

/// A request as bytes of HTTP/1.1.
fn plain_text(path: &str, body: usize, chunked: bool) -> Vec<u8> {
    let text = vec![b'x'; body];
    let head = |framing: &str| format!("POST {path} HTTP/1.1\r\nhost: reviews:9080\r\n{framing}\r\n\r\n").into_bytes();
    if !chunked {
        return [head(&format!("content-length: {body}")), text].concat();
    }
    let chunks = text.chunks(700).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    head("transfer-encoding: chunked").into_iter().chain(chunks).chain(*b"0\r\n\r\n").collect()
}

fn post(path: &str, body: usize) -> (Head, Vec<u8>) {
    (Head::request("POST", "http", "reviews:9080", path), vec![b'x'; body])
}

/// What a client sees that does not hang on the moment: a text without the headers that do.
fn timeless(received: &[u8]) -> String {
    let text = String::from_utf8_lossy(received);
    let timed = |line: &&str| line.starts_with("x-envoy-upstream-service-time:") || line.starts_with("date:");
    text.split("\r\n").filter(|line| !timed(line)).collect::<Vec<_>>().join("\n")
}

/// The lines of a log, without times and addresses, in order. Left out are bytes of a request that was answered early: how many of them had come
/// when that was decided hangs on the split.
fn records(log: &str) -> Vec<String> {
    let keys = ["method", "path", "response_code", "response_flags", "response_code_details", "route_name", "attempts"];
    let line = |line: &Value| {
        let received = line["bytes_received"].as_u64().filter(|_| line["response_code"] == 200);
        format!("{} {received:?} {}", keys.map(|key| line[key].to_string()).join(" "), line["bytes_sent"])
    };
    let mut all: Vec<String> = lines(log).iter().map(line).collect();
    all.sort();
    all
}

/// Runs clients one after the other: what each was answered, and what both proxies recorded.
fn converse(seed: u64, split: usize, clients: &[(u8, Vec<Asked>)]) -> (Vec<String>, [Vec<String>; 2]) {
    let mut sim = start(seed, split);
    let mut answers = Vec::new();
    for (who, (kind, requests)) in clients.iter().enumerate() {
        let path = |at: usize, about: usize| format!("/{}/{who}.{at}", ABOUT[about]);
        let all = requests.iter().enumerate();
        if *kind == 1 {
            let requests: Vec<_> = all.map(|(at, (about, body, _))| post(&path(at, *about), *body)).collect();
            let seen = h2_calls(&mut sim, &requests);
            answers.extend(seen.into_iter().map(|(status, body, _)| format!("{status} {}", String::from_utf8_lossy(&body))));
            continue;
        }
        let client = sim.connect(0, if *kind == 0 { TO } else { TCP });
        for (at, (about, body, chunked)) in all {
            let bytes = if *kind == 0 { plain_text(&path(at, *about), *body, *chunked) } else { vec![b'a' + at as u8; *body] };
            sim.send(client, &bytes);
        }
        if *kind == 2 {
            sim.finish(client);
        }
        sim.run_for(Duration::from_secs(20));
        answers.push(timeless(&sim.received(client)));
        sim.abort(client);
    }
    sim.run_for(Duration::from_secs(2));
    assert_clean(&mut sim);
    (answers, [0, 1].map(|proxy| records(&sim.log(proxy))))
}

/// A client with what it has asked.
struct Peer {
    id: usize,
    codec: Codec,
    input: Vec<u8>,
    open: BTreeMap<u32, String>,
    bodies: BTreeMap<String, Vec<u8>>,
    over: bool,
}

impl Peer {
    fn new(sim: &mut Sim, h2: bool) -> Peer {
        let mut out = Vec::new();
        let codec = if h2 { Codec::h2_client(Limits::default(), &mut out) } else { Codec::h1_client(Limits::default()) };
        let id = sim.connect(0, TO);
        sim.send(id, &out);
        Peer { id, codec, input: Vec::new(), open: BTreeMap::new(), bodies: BTreeMap::new(), over: false }
    }

    fn ask(&mut self, sim: &mut Sim, path: String, body: usize) {
        let (head, body) = post(&path, body);
        let Some(stream) = self.codec.open().filter(|_| !self.over) else { return };
        let mut out = Vec::new();
        let mut head = head;
        head.set("content-length", body.len().to_string());
        self.codec.send_head(stream, &head, body.is_empty(), &mut out);
        // What flow control forbids stays unsent: the request is then one that never ends.
        self.codec.send_data(stream, &body, true, &mut out);
        sim.send(self.id, &out);
        self.open.insert(stream.0, path);
    }

    fn reset(&mut self, sim: &mut Sim) {
        if let Some((stream, _)) = self.open.pop_first() {
            let mut out = Vec::new();
            self.codec.reset(StreamId(stream), Reason::CANCEL, &mut out);
            self.over |= !self.codec.is_h2();
            sim.send(self.id, &out);
        }
    }

    /// Takes what has come. Each path that was answered, with the status; the application's answer speaks of its own request.
    fn hear(&mut self, sim: &mut Sim, answered: &mut BTreeMap<String, u16>) {
        self.input.extend(sim.received(self.id));
        let mut out = Vec::new();
        while !self.over {
            let Ok((n, event)) = self.codec.next(&self.input, &mut out) else {
                self.over = true;
                break;
            };
            let mut given = None;
            let last = event.is_none();
            match event {
                Some(Event::Head { stream, head, .. }) => {
                    if let Some(path) = self.open.get(&stream.0) {
                        assert!(answered.insert(path.clone(), head.status()).is_none(), "{path} is answered twice");
                    }
                }
                Some(Event::Data { stream, data, .. }) => {
                    if let Some(path) = self.open.get(&stream.0) {
                        self.bodies.entry(path.clone()).or_default().extend_from_slice(data);
                    }
                    given = Some((stream, data.len()));
                }
                _ => {}
            }
            if let Some((stream, n)) = given {
                self.codec.consumed(stream, n, &mut out);
            }
            self.input.drain(..n);
            if last {
                break;
            }
        }
        for (path, body) in self.bodies.iter().filter(|(path, _)| answered.get(*path) == Some(&200)) {
            let n = path.len().min(body.len());
            assert_eq!(String::from_utf8_lossy(&body[..n]), path[..n], "the body of another answer");
        }
        self.over |= sim.ended(self.id).is_some();
        sim.send(self.id, &out);
    }
}

/// One thing that happens, by a number; `who` and `what` choose among what there is.
fn happen(sim: &mut Sim, peers: &mut Vec<Peer>, number: usize, (op, who, what): (u8, usize, usize)) {
    let path = |about: usize| format!("/{}/{number}", ABOUT[about % ABOUT.len()]);
    let peer = if peers.is_empty() { None } else { Some(who % peers.len()) };
    match (op, peer.and_then(|at| peers.get_mut(at))) {
        (0..=1, _) | (_, None) => {
            let peer = Peer::new(sim, what % 2 == 1);
            peers.push(peer);
        }
        (2..=7, Some(peer)) => peer.ask(sim, path(what), (what * 7919) % 30_000),
        (8, Some(peer)) => peer.reset(sim),
        (9, Some(peer)) => {
            peer.over = true;
            sim.abort(peer.id);
        }
        (10, Some(peer)) => {
            let raw = plain_text(&path(what), what % 9000, what % 2 == 0);
            let cut = (what * 31) % raw.len();
            let client = sim.connect(0, TO);
            sim.send(client, &raw[..cut]);
            sim.finish(client);
            peer.hear(sim, &mut BTreeMap::new());
        }
        (11, _) => sim.command(0, Command::Config(CLIENT[what % CLIENT.len()].clone())),
        (12, _) => sim.command(1, Command::Config(SERVER[what % SERVER.len()].clone())),
        (13, _) => {
            sim.stop(APP);
            if what % 3 > 0 {
                sim.refused.clear();
                sim.serve(APP, fickle());
            }
        }
        (14, _) => {
            let listener = if who % 2 == 0 { "virtualOutbound" } else { "virtualInbound" };
            sim.command(who % 2, Command::Drain(Some(listener.into())));
        }
        _ => sim.run_for(Duration::from_millis([0, 1, 30, 700, 6_000, 50_000][what % 6])),
    }
}

/// The number of requests that a proxy has counted.
fn counted(snapshot: &metrics::Snapshot) -> u64 {
    let requests = snapshot.series.iter().filter(|series| series.name == "istio_requests_total");
    requests.map(|series| if let metrics::Value::Counter(n) = series.value { n } else { 0 }).sum()
}

/// Few cases, unless `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_same_answers_for_any_split(clients in prop::collection::vec(client(), 1..4), seed: u64, split in prop::sample::select(vec![1usize, 7, 100, 5_000])) {
        let whole = converse(1, 0, &clients);
        prop_assert_eq!(&converse(seed, split, &clients), &whole);
        // Every request has its one record, at the client's proxy.
        let asked: usize = clients.iter().filter(|(kind, _)| *kind < 2).map(|(_, requests)| requests.len()).sum();
        let recorded = whole.1[0].iter().filter(|line| line.starts_with("\"POST\"")).count();
        prop_assert_eq!(recorded, asked);
    }

    #[test]
    fn nothing_is_left_over(seed: u64, split in prop::sample::select(vec![0usize, 3, 50, 2_000]),
                            ops in prop::collection::vec((0..20u8, 0..8usize, 0..1_000usize), 1..60)) {
        let mut sim = start(seed, split);
        let (mut peers, mut answered) = (Vec::new(), BTreeMap::new());
        for (number, op) in ops.into_iter().enumerate() {
            happen(&mut sim, &mut peers, number, op);
            for peer in &mut peers {
                peer.hear(&mut sim, &mut answered);
            }
        }
        sim.run_for(Duration::from_secs(30));
        for mut peer in peers {
            peer.hear(&mut sim, &mut answered);
            sim.abort(peer.id);
        }
        sim.run_for(Duration::from_secs(120));
        assert_clean(&mut sim);
        let log = lines(&sim.log(0));
        let mut recorded: BTreeMap<&str, u64> = BTreeMap::new();
        for line in &log {
            *recorded.entry(line["path"].as_str().unwrap_or_default()).or_default() += 1;
        }
        for (path, times) in recorded.iter().filter(|(path, _)| path.starts_with('/')) {
            prop_assert_eq!(*times, 1, "{} is recorded so often", path);
        }
        for (path, status) in &answered {
            let line = log.iter().find(|line| line["path"] == **path);
            prop_assert!(line.is_some_and(|line| line["response_code"] == *status), "{} was answered {}: {:?}", path, status, line);
        }
        let requests = log.iter().filter(|line| !line["path"].is_null()).count() as u64;
        prop_assert_eq!(counted(&sim.snapshot(0)), requests);
        let server = lines(&sim.log(1));
        prop_assert_eq!(counted(&sim.snapshot(1)), server.iter().filter(|line| !line["path"].is_null()).count() as u64);
    }
}
