//! By a real Envoy with what the control plane makes: one Envoy in a network namespace of the test's own, with a listener for each scenario and port.
//!
//! What differs from a mesh is what is not there: the capture (each scenario's server has an address of its own, on which the listener is bound, so that
//! the connection's destination is the real one), the application (one program that answers all), and the client's proxy (whose certificate, server name
//! and protocols the test's own client has).

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use mizzen_explain::{build, proxy_of};
use mizzen_model::ProxyView;
use mizzen_pki::{Ca, CaLimits, UnixTime, accept_any_server, tls};
use mizzen_protos::json::{Names, to_value};
use mizzen_testkit::{envoy, memory::load, skip};
use mizzen_translate::ResourceKind;
use serde_json::{Value, json};

use crate::table::{Call, SERVER, Scenario, What};

/// Says to the inner process that it is one.
const INSIDE: &str = "AUTHZ_INSIDE";
const APP: &str = "127.0.0.1:9999";
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether this process is in the namespace.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Starts this program again in a network namespace, for one of its tests; `false`: there is no Envoy, or no namespace is to be had.
pub(crate) fn start_inside(test: &str) -> bool {
    let Some(envoy) = envoy() else { return false };
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--kill-child"]).arg(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(INSIDE, "1").env("MIZZEN_ENVOY", envoy);
    let Ok(made) = command.output() else {
        skip("unshare cannot be started");
        return false;
    };
    let (out, err) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    if err.starts_with("unshare:") {
        skip(&format!("no network namespace is to be had: {err}"));
        return false;
    }
    assert!(made.status.success(), "{out}\n{err}");
    true
}

/// All scenarios behind one Envoy.
pub(crate) struct Mesh {
    ca: Ca,
    envoy: std::process::Child,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.envoy.kill();
        let _ = self.envoy.wait();
    }
}

/// The server's address in a scenario.
fn server(number: usize) -> String {
    format!("10.200.{}.{}", number / 200, 1 + number % 200)
}

impl Mesh {
    pub(crate) fn start(scenarios: &[Scenario]) -> Mesh {
        let path = envoy().expect("an Envoy");
        let ca = Ca::self_signed(&Default::default(), UnixTime::now(), CaLimits::default()).expect("a certificate authority");
        ip(&["link", "set", "lo", "up"]);
        for address in crate::table::addresses().into_iter().map(str::to_owned).chain((0..scenarios.len()).map(server)) {
            ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        std::thread::spawn(answer_all);
        let mut listeners = Vec::new();
        let mut secrets: Vec<Value> = Vec::new();
        for (number, scenario) in scenarios.iter().enumerate() {
            of_scenario(&ca, number, scenario, &mut listeners, &mut secrets);
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("envoy.json");
        std::fs::write(&file, bootstrap(&listeners, &secrets).to_string()).expect("write");
        Mesh { ca, envoy: run(&path, &file) }
    }

    pub(crate) fn decide(&self, number: usize, scenario: &Scenario) -> Vec<Option<String>> {
        scenario.calls.iter().map(|call| Some(self.made(number, scenario, call))).collect()
    }

    fn made(&self, number: usize, scenario: &Scenario, call: &Call) -> String {
        let to = SocketAddr::new(server(number).parse().expect("an address"), call.target());
        let mut stream = connect(call.source().parse().expect("an address"), to);
        let identity = call.from.pod.filter(|_| !scenario.is_plain());
        let received = match identity.and_then(|pod| pod.split_once('/')) {
            None => exchange(&mut stream, &call.bytes()),
            Some((namespace, account)) => {
                let id = format!("spiffe://{}/ns/{namespace}/sa/{account}", scenario.trust_domain());
                let svid =
                    self.ca.issue(&id.parse().expect("an identity"), Duration::from_secs(3600), UnixTime::now()).expect("a certificate");
                let tcp = matches!(call.what, What::Tcp);
                let alpn: &[&str] = if tcp { &["istio-peer-exchange", "istio"] } else { &["istio-http/1.1", "istio", "http/1.1"] };
                let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
                let options = tls::TlsOptions { alpn, ..tls::TlsOptions::default() };
                let config = tls::client_config(Some(&svid), accept_any_server(), &options).expect("a configuration");
                let sni = format!("outbound_.{}_._.reviews.shop.svc.cluster.local", call.port);
                let conn = rustls::ClientConnection::new(config, sni.try_into().expect("a name")).expect("a session");
                exchange(&mut rustls::StreamOwned::new(conn, stream), &call.bytes())
            }
        };
        decision(&received, call)
    }
}

fn decision(received: &[u8], call: &Call) -> String {
    let text = String::from_utf8_lossy(received);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or_default();
    match (status, &call.what) {
        ("200", _) if text.contains("x-served-by: app") => "allow".to_owned(),
        // The application answers nothing else than 200.
        ("403", _) => "deny".to_owned(),
        ("", What::Tcp) => "deny".to_owned(),
        ("", _) => "closed".to_owned(),
        (status, _) => status.to_owned(),
    }
}

fn ip(args: &[&str]) {
    let made = Command::new("ip").args(args).output().expect("ip");
    assert!(made.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// What every application answers.
fn answer_all() {
    let listener = TcpListener::bind(APP).expect("listen");
    for mut stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            if matches!(stream.read(&mut buffer), Ok(1..)) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-served-by: app\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
    }
}

fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("the caller's address");
    socket.connect_timeout(&to.into(), PATIENCE).unwrap_or_else(|why| panic!("{to}: {why}"));
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends, and reads up to the end of a head, or of the connection.
fn exchange(stream: &mut (impl Read + Write), bytes: &[u8]) -> Vec<u8> {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    if stream.write_all(bytes).and_then(|()| stream.flush()).is_err() {
        return received;
    }
    // Envoy's own answers have short bodies, which come with the head.
    while !received.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => received.extend_from_slice(&buffer[..n]),
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("no answer in time"),
            Err(_) => break,
        }
    }
    received
}

/// Listeners and secrets of one scenario.
fn of_scenario(ca: &Ca, number: usize, scenario: &Scenario, listeners: &mut Vec<Value>, secrets: &mut Vec<Value>) {
    let files: Vec<(&str, String)> =
        scenario.files().into_iter().map(|(name, text)| (name, text.replace(SERVER, &server(number)))).collect();
    let loaded = load(files.iter().map(|(name, text)| (*name, text.as_str())));
    assert!(loaded.problems.is_empty(), "{}: {:#?}", scenario.title, loaded.problems);
    let view = proxy_of(&loaded.snapshot, "shop", "reviews").expect("the server");
    // Istio's own filters are in no other Envoy.
    let mut facts = view.facts().clone();
    facts.extensions.clear();
    let built = build(&loaded.snapshot, &ProxyView::from(facts), ResourceKind::Listener, &"virtualInbound".into()).expect("a listener");
    let mut whole = to_value(&built.any, Names::Proto).expect("JSON");
    let own = format!("s{number}");
    adapt(&mut whole, &own);
    // There is no capture: the destination is the address itself.
    let inspectors = whole["listener_filters"].as_array().cloned().unwrap_or_default();
    let inspectors: Vec<Value> = inspectors.into_iter().filter(|filter| filter["name"] != "envoy.filters.listener.original_dst").collect();
    let chains = whole["filter_chains"].as_array().cloned().unwrap_or_default();
    for port in [8080, 8081, 6379] {
        let fits = |chain: &&Value| chain["filter_chain_match"]["destination_port"].as_u64().is_none_or(|own| own == port);
        listeners.push(json!({
            "name": format!("{own}-{port}"), "address": {"socket_address": {"address": server(number), "port_value": port}},
            "listener_filters": inspectors, "listener_filters_timeout": "5s", "continue_on_listener_filters_timeout": true,
            "traffic_direction": "INBOUND", "filter_chains": chains.iter().filter(fits).collect::<Vec<_>>(),
        }));
    }
    let id = format!("spiffe://{}/ns/shop/sa/reviews", scenario.trust_domain());
    let svid = ca.issue(&id.parse().expect("an identity"), Duration::from_secs(3600), UnixTime::now()).expect("a certificate");
    secrets.push(json!({"name": format!("{own}-default"), "tls_certificate": {
        "certificate_chain": {"inline_string": svid.chain_pem()}, "private_key": {"inline_string": svid.key_pem().expose()}}}));
    secrets.push(json!({"name": format!("{own}-ROOTCA"), "validation_context": {"trusted_ca": {"inline_string": ca.roots().to_pem()}}}));
}

/// Secrets from the bootstrap, no logs, and one application for all clusters.
fn adapt(value: &mut Value, own: &str) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|item| adapt(item, own)),
        Value::Object(map) => {
            if map.remove("sds_config").is_some() {
                map.insert("name".to_owned(), format!("{own}-{}", map["name"].as_str().unwrap_or_default()).into());
            }
            map.remove("access_log");
            for key in ["cluster"] {
                if map.get(key).is_some_and(Value::is_string) {
                    map.insert(key.to_owned(), "app".into());
                }
            }
            map.values_mut().for_each(|item| adapt(item, own));
        }
        _ => {}
    }
}

fn bootstrap(listeners: &[Value], secrets: &[Value]) -> Value {
    let (host, port) = APP.split_once(':').expect("an address");
    let endpoint =
        json!({"endpoint": {"address": {"socket_address": {"address": host, "port_value": port.parse::<u16>().expect("a port")}}}});
    json!({
        "node": {"id": "authz", "cluster": "authz"},
        "static_resources": {
            "listeners": listeners, "secrets": secrets,
            "clusters": [{"name": "app", "type": "STATIC", "connect_timeout": "5s",
                "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [endpoint]}]}}],
        },
    })
}

/// Starts an Envoy, and waits until it serves.
fn run(path: &Path, config: &Path) -> std::process::Child {
    let mut command = Command::new(path);
    command.arg("-c").arg(config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "info"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("an Envoy");
    let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
    let mut seen = Vec::new();
    let up = lines.by_ref().map_while(Result::ok).any(|line| {
        let up = line.contains("starting main dispatch loop") || line.contains("all dependencies initialized. starting workers");
        seen.push(line);
        up && seen.last().is_some_and(|line| line.contains("starting workers"))
    });
    assert!(up, "Envoy does not start:\n{}", seen.join("\n"));
    // What it writes from now on is read, so that it never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    child
}
