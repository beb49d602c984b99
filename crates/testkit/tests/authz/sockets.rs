//! Over real sockets with what the control plane makes: one proxy in a network namespace of the test's own, with a listener for each scenario and port.
//!
//! What differs from a mesh is what is not there: the capture (each scenario's server has an address of its own, on which the listener is bound, so that
//! the connection's destination is the real one), the programs (one application that answers all, one doorman), and the client's proxy (whose certificate,
//! server name and protocols the test's own client has).

use std::{
    any::Any,
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use mizzen_explain::{build, proxy_of};
use mizzen_model::ProxyView;
use mizzen_pki::{Ca, CaLimits, UnixTime, accept_any_server, tls};
use mizzen_protos::json::{Names, to_value};
use mizzen_testkit::{PATIENCE, memory::load, skip};
use mizzen_translate::ResourceKind;
use serde_json::{Value, json};

use crate::{
    frames, programs,
    table::{Call, SERVER, Scenario, What, short},
};

/// Says to the inner process that it is one.
const INSIDE: &str = "AUTHZ_INSIDE";
const APP: &str = "127.0.0.1:9999";
const DOORMAN: &str = "127.0.0.1:9998";
/// The header in which our own proxy tells why a call is refused.
const WHY: &str = "x-why";

/// Whether this process is in the namespace.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Starts this program again in a network namespace, for one of its tests, unless no namespace is to be had.
pub(crate) fn start_inside(test: &str, env: &[(&str, &std::path::Path)]) {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--kill-child"]).arg(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(INSIDE, "1").envs(env.iter().copied());
    let Ok(made) = command.output() else { return skip("unshare cannot be started") };
    let (out, err) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    if err.starts_with("unshare:") {
        return skip(&format!("no network namespace is to be had: {err}"));
    }
    assert!(made.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// Which proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Own,
    Envoy,
}

/// All scenarios behind one proxy.
pub(crate) struct Mesh {
    proxy: Proxy,
    ca: Ca,
    /// What ends with the mesh.
    _running: Box<dyn Any>,
}

/// The server's address in a scenario.
fn server(number: usize) -> String {
    format!("10.200.{}.{}", number / 200, 1 + number % 200)
}

impl Mesh {
    /// `start` runs a proxy by a bootstrap, and returns when it serves.
    pub(crate) fn start(proxy: Proxy, scenarios: &[Scenario], start: impl FnOnce(&Value) -> Box<dyn Any>) -> Mesh {
        let ca = Ca::self_signed(&Default::default(), UnixTime::now(), CaLimits::default()).expect("a certificate authority");
        ip(&["link", "set", "lo", "up"]);
        for address in crate::table::addresses().into_iter().map(str::to_owned).chain((0..scenarios.len()).map(server)) {
            ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        let [app, doorman] = [APP, DOORMAN].map(|address| TcpListener::bind(address).expect("listen"));
        std::thread::spawn(move || programs::application(&app));
        std::thread::spawn(move || programs::doorman(doorman));
        let mut listeners = Vec::new();
        let mut secrets: Vec<Value> = Vec::new();
        for (number, scenario) in scenarios.iter().enumerate() {
            of_scenario(proxy, &ca, number, scenario, &mut listeners, &mut secrets);
        }
        Mesh { proxy, ca, _running: start(&bootstrap(&listeners, &secrets)) }
    }

    pub(crate) fn decide(&self, number: usize, scenario: &Scenario) -> Vec<Option<String>> {
        scenario.calls.iter().map(|call| Some(self.made(number, scenario, call))).collect()
    }

    fn made(&self, number: usize, scenario: &Scenario, call: &Call) -> String {
        let to = SocketAddr::new(server(number).parse().expect("an address"), call.target());
        let mut stream = connect(call.source().parse().expect("an address"), to);
        let identity = call.from.pod.filter(|_| !scenario.is_plain());
        let received = match identity.and_then(|pod| pod.split_once('/')) {
            None => exchange(&mut stream, call),
            Some((namespace, account)) => {
                let id = format!("spiffe://{}/ns/{namespace}/sa/{account}", scenario.trust_domain());
                let svid =
                    self.ca.issue(&id.parse().expect("an identity"), Duration::from_secs(3600), UnixTime::now()).expect("a certificate");
                let alpn: &[&str] = match &call.what {
                    What::Tcp => &["istio-peer-exchange", "istio"],
                    What::H2(_) => &["istio-h2", "istio", "h2"],
                    _ => &["istio-http/1.1", "istio", "http/1.1"],
                };
                let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
                let options = tls::TlsOptions { alpn, ..tls::TlsOptions::default() };
                let config = tls::client_config(Some(&svid), accept_any_server(), &options).expect("a configuration");
                let sni = format!("outbound_.{}_._.reviews.shop.svc.cluster.local", call.port);
                let conn = rustls::ClientConnection::new(config, sni.try_into().expect("a name")).expect("a session");
                exchange(&mut rustls::StreamOwned::new(conn, stream), call)
            }
        };
        decision(self.proxy, &received, call)
    }
}

fn decision(proxy: Proxy, received: &[u8], call: &Call) -> String {
    let text = String::from_utf8_lossy(received);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or_default();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    match (status, &call.what) {
        ("200", _) if field("x-served-by") == Some("app") => "allow".to_owned(),
        ("403", _) if field("www-authenticate").is_none() => match field(WHY) {
            // An Envoy does not tell.
            None => if proxy == Proxy::Own { "403" } else { "deny" }.to_owned(),
            Some(why) if why.starts_with("no policy allows it") => "deny none".to_owned(),
            Some(why) => why.strip_prefix("denied by ").map_or(why.to_owned(), |rule| format!("deny {}", short(rule))),
        },
        ("", What::Tcp) => "deny".to_owned(),
        ("", _) => "closed".to_owned(),
        (status, _) => status.to_owned(),
    }
}

fn ip(args: &[&str]) {
    let made = Command::new("ip").args(args).output().expect("ip");
    assert!(made.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&made.stderr));
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
fn exchange(stream: &mut (impl Read + Write), call: &Call) -> Vec<u8> {
    let now = Duration::from_secs(UnixTime::now().as_secs());
    if matches!(call.what, What::H2(_)) {
        return frames::exchange(stream, call, now).unwrap_or_else(|why| panic!("{}: {why}", call.text));
    }
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    if stream.write_all(&call.bytes(now)).and_then(|()| stream.flush()).is_err() {
        return received;
    }
    while !received.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => received.extend_from_slice(&buffer[..n]),
            Err(why) if frames::is_late(&why) => panic!("{}: no answer in time", call.text),
            Err(_) => break,
        }
    }
    received
}

/// Listeners and secrets of one scenario.
fn of_scenario(proxy: Proxy, ca: &Ca, number: usize, scenario: &Scenario, listeners: &mut Vec<Value>, secrets: &mut Vec<Value>) {
    let files: Vec<(&str, String)> =
        scenario.files().into_iter().map(|(name, text)| (name, text.replace(SERVER, &server(number)))).collect();
    let loaded = load(files.iter().map(|(name, text)| (*name, text.as_str())));
    assert!(loaded.problems.is_empty(), "{}: {:#?}", scenario.title, loaded.problems);
    let mut view = proxy_of(&loaded.snapshot, "shop", "reviews").expect("the server");
    if proxy == Proxy::Envoy {
        // Istio's own filters are in no other Envoy.
        let mut facts = view.facts().clone();
        facts.extensions.clear();
        view = ProxyView::from(facts);
    }
    let built = build(&loaded.snapshot, &view, ResourceKind::Listener, &"virtualInbound".into()).expect("a listener");
    let mut whole = to_value(&built.any, Names::Proto).expect("JSON");
    let own = format!("s{number}");
    adapt(&mut whole, &own);
    // There is no capture: the destination is the address itself.
    let inspectors = whole["listener_filters"].as_array().cloned().unwrap_or_default();
    let inspectors: Vec<Value> = inspectors.into_iter().filter(|filter| filter["name"] != "envoy.filters.listener.original_dst").collect();
    let chains = whole["filter_chains"].as_array().cloned().unwrap_or_default();
    let ports: BTreeSet<u16> = scenario.calls.iter().map(Call::target).collect();
    for port in ports {
        let fits = |chain: &&Value| chain["filter_chain_match"]["destination_port"].as_u64().is_none_or(|own| own == u64::from(port));
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

/// Secrets from the bootstrap, no logs, and one application, or the doorman, for all clusters.
fn adapt(value: &mut Value, own: &str) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|item| adapt(item, own)),
        Value::Object(map) => {
            if map.remove("sds_config").is_some() {
                map.insert("name".to_owned(), format!("{own}-{}", map["name"].as_str().unwrap_or_default()).into());
            }
            map.remove("access_log");
            for (key, one) in [("cluster", "app"), ("cluster_name", "doorman")] {
                if map.get(key).is_some_and(Value::is_string) {
                    map.insert(key.to_owned(), one.into());
                }
            }
            map.values_mut().for_each(|item| adapt(item, own));
        }
        _ => {}
    }
}

fn bootstrap(listeners: &[Value], secrets: &[Value]) -> Value {
    let cluster = |name: &str, address: &str| {
        let (host, port) = address.split_once(':').expect("an address");
        let address = json!({"socket_address": {"address": host, "port_value": port.parse::<u16>().expect("a port")}});
        json!({"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}})
    };
    let mut doorman = cluster("doorman", DOORMAN);
    doorman["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}});
    json!({
        "node": {"id": "authz", "cluster": "authz", "metadata": {"MIZZEN_DENIAL_HEADER": WHY}},
        "static_resources": {"listeners": listeners, "secrets": secrets, "clusters": [cluster("app", APP), doorman]},
    })
}
