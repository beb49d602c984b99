//! TPROXY in a pod's network: the real proxy with the one capability that injection gives it, captured by `istio-iptables`, between clients of several
//! addresses and a program that says who calls it. The same with an Envoy in the place of the proxy.
//!
//! It takes root, since a proxy that is known by its group has to have one.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mizzen_net::ConnectOptions;
use mizzen_testkit::{Authority, envoy, eventually, is_root, peer, require_peers, skip, workload};
use nix::{
    sched::{CloneFlags, setns},
    unistd::{Gid, setfsgid},
};
use serde_json::{Value, json};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// Two clients in one network, and the pod.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const POD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Where the clients' own proxies take what they send on by mutual TLS, from either address.
const BY_TLS: [(u16, Ipv4Addr); 2] = [(9001, CLIENT), (9002, OTHER)];
/// The pod's port that takes mutual TLS alone.
const STRICT: u16 = 8443;
/// What injection says for a pod without annotations.
const FLAGS: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -m TPROXY -i * -b * -d 15090,15021,15020";

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network, which lives as long as a process in it.
struct Network(Running);

impl Network {
    fn new() -> Network {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up");
        Network(Running(child))
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.0.id())
    }

    /// Does something on a thread in it.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let file = File::open(self.path()).unwrap();
        let inside = move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            job()
        };
        thread::spawn(inside).join().unwrap()
    }

    fn spawn(&self, mut command: Command) -> Running {
        Running(self.run(move || command.spawn()).unwrap())
    }

    /// Runs a program to its end, which has to be a good one.
    fn call(&self, program: &Path, arguments: &str) -> String {
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace());
        let output = self.run(move || command.output()).unwrap();
        assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn ip(&self, arguments: &str) {
        self.call(&peer("ip", "iproute2").unwrap(), arguments);
    }
}

/// The networks, and a folder with the program under the name that it is called by in a pod.
struct World {
    clients: Network,
    pod: Network,
    folder: tempfile::TempDir,
}

impl World {
    /// None: it cannot be here.
    fn new() -> Option<World> {
        let tools = [("ip", "iproute2"), ("unshare", "util-linux"), ("setpriv", "util-linux")];
        if tools.into_iter().any(|(program, package)| peer(program, package).is_none()) {
            return None;
        }
        if !is_root() {
            assert!(!require_peers(), "it takes root");
            skip("TPROXY in a pod's network takes root");
            return None;
        }
        let (clients, pod) = (Network::new(), Network::new());
        clients.ip(&format!("link add eth0 type veth peer name eth0 netns {}", pod.path()));
        for (network, addresses) in [(&clients, &[CLIENT, OTHER][..]), (&pod, &[POD])] {
            network.ip("link set eth0 up");
            addresses.iter().for_each(|address| network.ip(&format!("addr add {address}/24 dev eth0")));
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(MIZZEN, folder.path().join("mizzen-proxy")).unwrap();
        Some(World { clients, pod, folder })
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("mizzen-proxy")
    }

    /// A proxy, or an Envoy, by this configuration. Of root's capabilities it has these, and the group by which the capture knows it.
    fn proxy(&self, network: &Network, capabilities: &str, name: &str, bootstrap: &Value, envoy: Option<&Path>) -> Running {
        let file = self.folder.path().join(name);
        std::fs::write(&file, bootstrap.to_string()).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--regid", "1337", "--clear-groups", "--inh-caps=-all", &format!("--bounding-set=-all{capabilities}")]);
        match envoy {
            Some(program) => command.arg(program).args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]),
            None => command.arg(self.program()).args(["--mark", "0"]),
        };
        command.arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::piped());
        network.spawn(command)
    }

    /// The answer to a request that a client sends from one of its addresses; empty if there is none.
    fn ask(&self, network: &Network, of: Caller, to: impl Into<SocketAddr>) -> String {
        let to = to.into();
        network.run(move || of.ask(to)).unwrap_or_default()
    }
}

/// How a request is sent.
#[derive(Clone, Copy, Default)]
struct Caller {
    source: Option<Ipv4Addr>,
    /// Whether it is the pod's proxy that calls.
    is_proxy: bool,
    /// How many requests there are on the connection; the last one's answer counts.
    more: usize,
}

fn from(source: Ipv4Addr) -> Caller {
    Caller { source: Some(source), ..Caller::default() }
}

impl Caller {
    fn ask(self, to: SocketAddr) -> std::io::Result<String> {
        if self.is_proxy {
            setfsgid(Gid::from_raw(1337));
        }
        let options = ConnectOptions { source: self.source.map(IpAddr::V4), timeout: Duration::from_secs(2), ..ConnectOptions::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stream = runtime.block_on(async { mizzen_net::connect(to, &options).await?.into_std() })?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut stream = BufReader::new(stream);
        let mut answer = String::new();
        for _ in 0..=self.more {
            stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n")?;
            answer.clear();
            let mut length = 0;
            loop {
                let start = answer.len();
                if stream.read_line(&mut answer)? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                let line = answer[start..].to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            answer.push_str(std::str::from_utf8(&body).unwrap());
        }
        Ok(answer)
    }
}

/// Who called the program, by its answer: the address and the port, and whether a proxy has passed it on.
fn caller(answer: &str) -> Option<(Ipv4Addr, u16, bool)> {
    let seen: SocketAddr = answer.rsplit_once("\r\n\r\n")?.1.parse().ok()?;
    let IpAddr::V4(ip) = seen.ip() else { return None };
    Some((ip, seen.port(), answer.contains("server: istio-envoy\r\n")))
}

/// A program that answers each request with the address of its caller. One that speaks TCP says it at once, and ends.
fn serve(network: &Network) {
    let [http, strict, tcp] = [8080, STRICT, 6379].map(|port| network.run(move || TcpListener::bind(("0.0.0.0", port))).unwrap());
    for listener in [http, strict] {
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || answer(&stream.unwrap()));
            }
        });
    }
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
}

fn answer(mut stream: &TcpStream) {
    let peer = stream.peer_addr().unwrap().to_string();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    for _ in lines.map_while(Result::ok).filter(String::is_empty) {
        if write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{peer}", peer.len()).is_err() {
            return;
        }
    }
}

fn typed(name: &str, kind: &str, more: Value) -> Value {
    let mut filter = json!({"name": name, "typed_config": more});
    filter["typed_config"]["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
    filter
}

fn tls(context: &str, authority: &Authority, more: Value) -> Value {
    let credential = authority.issue(&["pod"]);
    let mut config = more;
    config["common_tls_context"] = json!({
        "tls_certificates": [{"certificate_chain": {"inline_string": credential.certificate}, "private_key": {"inline_string": credential.key}}],
        "validation_context": {"trusted_ca": {"inline_string": authority.root}},
    });
    typed("envoy.transport_sockets.tls", &format!("transport_sockets.tls.v3.{context}"), config)
}

fn tcp_proxy(cluster: &str) -> Value {
    typed("envoy.filters.network.tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", json!({"stat_prefix": "x", "cluster": cluster}))
}

fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "node": {"id": "sidecar~10.77.0.2~pod.shop~shop.svc.cluster.local", "cluster": "pod.shop"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// The inbound side of a pod's proxy as the control plane writes it for TPROXY, with certificates in place.
fn inbound(authority: &Authority) -> Value {
    let listening = |name: &str, kind: &str, more: Value| {
        typed(&format!("envoy.filters.listener.{name}"), &format!("filters.listener.{name}.v3.{kind}"), more)
    };
    let manager = |cluster: &str| {
        let router = typed("envoy.filters.http.router", "filters.http.router.v3.Router", json!({}));
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
        let config = json!({"stat_prefix": "x", "server_name": "istio-envoy", "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "x", "domains": ["*"], "routes": [route]}]}});
        typed("envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager", config)
    };
    let strict = tls("DownstreamTlsContext", authority, json!({"require_client_certificate": true}));
    let listener = json!({
        "name": "virtualInbound",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
        "transparent": true,
        "traffic_direction": "INBOUND",
        "listener_filters": [
            listening("original_dst", "OriginalDst", json!({})),
            listening("original_src", "OriginalSrc", json!({"mark": 1337})),
            listening("tls_inspector", "TlsInspector", json!({})),
        ],
        "continue_on_listener_filters_timeout": true,
        "filter_chains": [
            {"filter_chain_match": {"destination_port": 8080}, "filters": [manager("inbound|8080||")]},
            {"filter_chain_match": {"destination_port": STRICT, "transport_protocol": "tls"}, "transport_socket": strict,
             "filters": [manager("inbound|8443||")]},
            {"filter_chain_match": {"destination_port": 6379}, "filters": [tcp_proxy("inbound|6379||")]},
        ],
    });
    let cluster = |port: u16| {
        json!({"name": format!("inbound|{port}||"), "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
            "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}}})
    };
    // It looks at nothing that a server that speaks first would wait for.
    let mut listener = listener;
    listener["listener_filters"][2]["filter_disabled"] = json!({"destination_port_range": {"start": 6379, "end": 6380}});
    bootstrap(&[listener], &[8080, STRICT, 6379].map(cluster))
}

/// The clients' proxy: what it takes it sends on by mutual TLS, from either address.
fn outbound(authority: &Authority) -> Value {
    let listener = |(port, _): &(u16, Ipv4Addr)| {
        json!({"name": port.to_string(), "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [tcp_proxy(&port.to_string())]}]})
    };
    let cluster = |(port, source): &(u16, Ipv4Addr)| {
        let endpoint = json!({"endpoint": {"address": {"socket_address": {"address": POD.to_string(), "port_value": STRICT}}}});
        json!({"name": port.to_string(), "type": "STATIC", "connect_timeout": "10s",
            "upstream_bind_config": {"source_address": {"address": source.to_string(), "port_value": 0}},
            "transport_socket": tls("UpstreamTlsContext", authority, json!({"sni": "pod"})),
            "load_assignment": {"cluster_name": port.to_string(), "endpoints": [{"lb_endpoints": [endpoint]}]}})
    };
    bootstrap(&BY_TLS.each_ref().map(listener), &BY_TLS.each_ref().map(cluster))
}

/// Sets the capture; false: this kernel cannot.
fn capture(world: &World) -> bool {
    let mut command = Command::new(world.program());
    // Of the name servers of the machine nothing is read.
    command.arg("istio-iptables").args(FLAGS.split(' '));
    let output = world.pod.run(move || command.output()).unwrap();
    if output.status.success() {
        return true;
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    // ENOENT: there is no such expression; EOPNOTSUPP: there are no tables of routes.
    let cannot = why.contains("errno 2)") || why.contains("errno 95)");
    assert!(cannot && !require_peers(), "{why}");
    skip(&format!("THIS KERNEL HAS NO TPROXY: {why}"));
    false
}

#[test]
fn the_program_sees_its_clients() {
    let Some(world) = World::new() else { return };
    if !capture(&world) {
        return;
    }
    serve(&world.pod);
    let authority = Authority::new("mesh");
    let (inbound, outbound) = (inbound(&authority), outbound(&authority));
    let _clients = world.proxy(&world.clients, "", "clients.json", &outbound, None);
    for envoy in [None, envoy()].into_iter().enumerate().filter_map(|(i, envoy)| (i == 0 || envoy.is_some()).then_some(envoy)) {
        let proxy = world.proxy(&world.pod, ",+net_admin", "pod.json", &inbound, envoy.as_deref());
        seen_by_the_program(&world);
        drop(proxy);
        // Without a proxy nobody comes to the program, neither by plain text.
        assert_eq!(world.ask(&world.clients, from(CLIENT), (POD, 8080)), "");
    }
    world.pod.call(&world.program(), "istio-iptables --cleanup-only");
    assert!(!world.pod.call(&peer("ip", "iproute2").unwrap(), "rule show").contains("133"));
    let (ip, _, passed_on) = caller(&world.ask(&world.clients, from(OTHER), (POD, 8080))).unwrap();
    assert_eq!((ip, passed_on), (OTHER, false));
}

fn seen_by_the_program(world: &World) {
    let http = SocketAddr::from((POD, 8080));
    let ask = |of: Caller, to: SocketAddr| {
        eventually(&format!("an answer from {to}"), || {
            let answer = world.ask(&world.clients, of, to);
            caller(&answer).ok_or(format!("{answer:?}"))
        })
    };
    let first = ask(from(CLIENT), http);
    assert_eq!((first.0, first.2), (CLIENT, true));
    // The same client's next requests are on the same connection, another's on another one.
    assert_eq!(ask(from(CLIENT), http), first);
    let other = ask(from(OTHER), http);
    assert_eq!((other.0, other.2), (OTHER, true));
    assert_ne!(other.1, first.1);
    for source in [CLIENT, OTHER, CLIENT] {
        assert_eq!(ask(Caller { more: 20, ..from(source) }, http), if source == CLIENT { first } else { other });
    }
    // By mutual TLS.
    for (port, source) in BY_TLS {
        let (ip, _, passed_on) = ask(Caller::default(), (Ipv4Addr::LOCALHOST, port).into());
        assert_eq!((ip, passed_on), (source, true));
    }
    assert_eq!(world.ask(&world.clients, from(CLIENT), (POD, STRICT)), "", "plain text is refused there");
    // A server that speaks first.
    let greeting = world.clients.run(|| {
        let mut text = String::new();
        TcpStream::connect((POD, 6379)).and_then(|mut stream| stream.read_to_string(&mut text)).map(|_| text)
    });
    assert_eq!(greeting.unwrap(), CLIENT.to_string());
    // In the pod: the program calls itself; its proxy, which has picked this very pod, comes in as from anywhere else.
    let within = |of: Caller| caller(&world.ask(&world.pod, of, http)).map(|(ip, _, passed_on)| (ip, passed_on));
    assert_eq!(within(Caller::default()), Some((POD, false)));
    assert_eq!(within(Caller { is_proxy: true, ..Caller::default() }), Some((POD, true)));
    assert_eq!(
        within(Caller { is_proxy: true, source: Some(Ipv4Addr::new(127, 0, 0, 6)), more: 0 }),
        Some((Ipv4Addr::new(127, 0, 0, 6), false))
    );
    // Many connections of one address: none of them gets the ports of another.
    let answers = world.clients.run(move || {
        let one =
            || thread::spawn(move || (0..20).filter_map(|_| from(CLIENT).ask(http).ok()).filter_map(|answer| caller(&answer)).count());
        (0..8).map(|_| one()).collect::<Vec<_>>().into_iter().map(|many| many.join().unwrap()).sum::<usize>()
    });
    assert_eq!(answers, 160);
}

/// What a proxy lacks that cannot be transparent is said, where somebody looks for it.
#[test]
fn a_proxy_without_the_capability_says_so() {
    let Some(world) = World::new() else { return };
    let mut proxy = world.proxy(&world.pod, "", "pod.json", &inbound(&Authority::new("mesh")), None);
    let ready = eventually("what is wrong", || {
        let answer = world.pod.run(|| workload::fetch_from(("127.0.0.1", 15000), "pod", "/ready"));
        let text = answer.map_err(|error| error.to_string())?;
        if text.contains("NET_ADMIN") { Ok(text) } else { Err(text) }
    });
    let why = "listen on 0.0.0.0:15006: Operation not permitted (os error 1): a transparent socket needs the capability NET_ADMIN";
    assert!(ready.contains(why), "{ready}");
    proxy.0.kill().unwrap();
    let mut said = String::new();
    proxy.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains(why), "{said}");
}

/// What `istio-iptables` would set is printed.
#[test]
fn dry_run() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("mizzen-proxy");
    std::os::unix::fs::symlink(MIZZEN, &program).unwrap();
    let output = Command::new(&program).arg("istio-iptables").args(FLAGS.split(' ')).args(["-t", "7", "-r", "300", "-n"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["meta l4proto tcp tproxy to :15006 meta mark set 7 accept", "# ip route add local default dev lo table 300"] {
        assert!(text.lines().any(|found| found.trim() == line), "{text}");
    }
}
