//! What stands before the gateway: trusted proxies by X-Forwarded-For, a load balancer by the PROXY protocol, and whoever forwards certificates; and what a
//! log of the mesh's own format tells of TLS. The same with Mizzen's proxies and with Envoys.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
};

use mizzen_testkit::{Authority, Mesh, Options, envoy, eventually, folder, peer, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs answer with the head that they see.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    if let Ok(name) = std::env::var(workload::VARIABLE) {
        workload::serve(if name == "web" { 8080 } else { 7000 }, workload::echo);
    }
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: cave}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [web.example], tls: {mode: SIMPLE, credentialName: web}}
  - {port: {number: 443, name: known, protocol: HTTPS}, hosts: [known.example], tls: {mode: MUTUAL, credentialName: known}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: cave}
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{route: [{destination: {host: web}}]}]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: bytes}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-them, namespace: istio-system}
spec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{from: [{source: {remoteIpBlocks: [192.0.2.66]}}]}]}
";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n";
const V1_UNWELCOME: &[u8] = b"PROXY TCP4 192.0.2.66 198.51.100.1 5000 443\r\n";

/// 192.0.2.7 by version 2, with a part of no known type behind the addresses.
fn v2() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x13, 0x88, 1, 0xbb];
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10"[..], &addresses, &[0xe0, 0, 1, 7]].concat()
}

fn mesh_config(topology: &str) -> String {
    mesh_config_with(topology, "")
}

/// The same with a format of the access log, in which nothing has to be escaped in YAML.
fn mesh_config_with(topology: &str, log_format: &str) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: istio-system}}
data:
  mesh: |
    accessLogFile: /dev/stdout
    accessLogEncoding: TEXT
    accessLogFormat: '{log_format}'
    defaultConfig: {{gatewayTopology: {topology}}}
"
    )
}

struct World {
    mesh: Mesh,
    files: tempfile::TempDir,
}

type Answer = Result<(String, String), i32>;

impl World {
    fn start(options: Options) -> World {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let mut text = "{apiVersion: v1, kind: Namespace, metadata: {name: cave}}\n".to_owned();
        for (name, number, protocol) in [("web", 8080, "http"), ("bytes", 7000, "tcp")] {
            text += &format!(
                "---{}---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: cave}}, spec: {{selector: {{app: {name}}}, \
                 ports: [{{name: {protocol}, port: {number}}}]}}}}\n",
                workload::deployment("cave", name, number)
            );
        }
        for name in ["web", "known"] {
            let roots = [("ca.crt", clients.root.as_str())];
            text += &servers.issue(&[&format!("{name}.example")]).secret("istio-system", name, if name == "known" { &roots } else { &[] });
        }
        let folder = folder(&[("mesh.yaml", &text), ("edge.yaml", GATEWAY), ("config.yaml", &mesh_config("{proxyProtocol: {}}"))]);
        let files = tempfile::tempdir().expect("a folder");
        let client = clients.issue(&["ann.example"]);
        for (name, text) in [("root.pem", servers.root.clone()), ("ann.pem", client.certificate + &client.key)] {
            fs::write(files.path().join(name), text).expect("a file");
        }
        World { mesh: Mesh::start_with(MIZZEN, folder.path(), options), files }
    }

    /// Where one of the gateway's ports is open on this host.
    fn port(&self, of: u16) -> u16 {
        self.mesh.gateway_port(of).1
    }

    /// The answer's status and body, or curl's exit code. `header`: what a proxy in front writes first.
    fn curl(&self, url: &str, of: u16, header: Option<&[u8]>, more: &[&str]) -> Answer {
        let port = header.map_or(self.port(of), |header| front(self.port(of), header));
        let host = url.split("://").nth(1).unwrap_or_default();
        let mut curl = Command::new("curl");
        curl.current_dir(self.files.path()).args(["-s", "-m", "20", "--http1.1", "-w", "\n%{http_code}", "--cacert", "root.pem"]);
        curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]).args(more).arg(format!("{url}:{port}/"));
        let output = curl.stdin(Stdio::null()).output().expect("curl");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n').unwrap_or_default();
        match output.status.code() {
            Some(0) => Ok((status.to_owned(), body.to_owned())),
            code => Err(code.unwrap_or(-1)),
        }
    }

    /// Waits for an answer of 200 in which the program has seen all these parts, and returns what it has seen.
    #[track_caller]
    fn seen(&self, url: &str, of: u16, header: Option<&[u8]>, more: &[&str], parts: &[&str]) -> String {
        eventually(&format!("{url} {header:?} {more:?}: {parts:?}"), || match self.curl(url, of, header, more) {
            Ok((status, body)) if status == "200" && parts.iter().all(|part| body.contains(part)) => Ok(body),
            other => Err(format!("{other:?}\n{}\n{}", self.mesh.said(), self.mesh.logs())),
        })
    }
}

/// A proxy in front of a port of this host, which writes a header before what its one client says. Returns its own port.
fn front(port: u16, header: &[u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let own = listener.local_addr().expect("an address").port();
    let header = header.to_vec();
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else { return };
        if server.write_all(&header).is_err() {
            return;
        }
        let (mut from, mut to) = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
        let back = thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let _ = std::io::copy(&mut &client, &mut server);
        let _ = server.shutdown(std::net::Shutdown::Write);
        let _ = back.join();
    });
    own
}

/// What a connection gets that begins with these bytes.
fn answer_to(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the gateway");
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Waits for an answer of 403: it is another connection that may be served by what has not heard of the newest rules yet.
#[track_caller]
fn refused(world: &World, url: &str, header: Option<&[u8]>, more: &[&str]) {
    eventually(&format!("{url} {more:?} is refused"), || match world.curl(url, 80, header, more) {
        Ok((status, _)) if status == "403" => Ok(()),
        other => Err(format!("{other:?}\n{}", world.mesh.logs())),
    });
}

fn is_closed(answer: &Answer) -> bool {
    matches!(answer, Err(35 | 52 | 55 | 56))
}

fn check(mut world: World) {
    proxied(&world);
    trusted(&world);
    forwarded(&world);
    logged(&world);
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

fn proxied(world: &World) {
    let v2 = v2();
    for header in [V1, &v2] {
        world.seen("http://web.example", 80, Some(header), &[], &["x-forwarded-for: 192.0.2.7\r\n"]);
        world.seen("https://web.example", 443, Some(header), &[], &["x-forwarded-for: 192.0.2.7\r\n", "x-forwarded-proto: https"]);
        world.seen("http://bytes.example", 9000, Some(header), &[], &["host: bytes.example"]);
    }
    world.seen("http://web.example", 80, None, &["--haproxy-protocol"], &["x-forwarded-for: "]);
    world.seen("https://web.example", 443, None, &["--haproxy-protocol"], &["x-forwarded-for: "]);
    // What the client says itself is no address of his.
    let seen = world.seen("http://web.example", 80, Some(V1), &["-H", "X-Forwarded-Client-Cert: Hash=aa"], &["192.0.2.7"]);
    assert!(!seen.contains("hash=aa"), "{seen}");
    refused(world, "http://web.example", Some(V1_UNWELCOME), &[]);
    eventually("raw TCP is refused", || match world.curl("http://bytes.example", 9000, Some(V1_UNWELCOME), &[]) {
        answer if is_closed(&answer) => Ok(()),
        other => Err(format!("{other:?}\n{}", world.mesh.logs())),
    });
    eventually("the log names the client", || {
        let log = world.mesh.cli(&["logs", "istio-ingressgateway", "-n", "istio-system", "--proxy"]).out;
        if log.contains(" 192.0.2.7:5000 ") && log.contains(" 198.51.100.1:443 ") { Ok(()) } else { Err(log) }
    });
    // Without a header, and with one that is none.
    for (url, port) in [("http://web.example", 80), ("https://web.example", 443), ("http://bytes.example", 9000)] {
        assert!(is_closed(&world.curl(url, port, None, &[])), "{url}");
    }
    let request = "GET / HTTP/1.1\r\nhost: web.example\r\nconnection: close\r\n\r\n";
    for wrong in [
        &b"PROXY TCP4 192.0.2.7 198.51.100.1 5000\r\n"[..],
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 70000\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 5000 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443 and a line that is longer than any header of this version may be and does not end",
        // Another version's, and one that is too short.
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x13\x88\x01\xbb",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x08\xc0\0\x02\x07\xc6\x33\x64\x01",
    ] {
        let answer = answer_to(world.port(80), &[wrong, request.as_bytes()].concat());
        assert!(answer.is_empty(), "{}: {}", wrong.escape_ascii(), String::from_utf8_lossy(&answer));
    }
    let answer = answer_to(world.port(80), &[V1, request.as_bytes()].concat());
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

fn trusted(world: &World) {
    world.mesh.save("config.yaml", &mesh_config("{numTrustedProxies: 1}"));
    let url = "http://web.example";
    let two = ["-H", "X-Forwarded-For: 192.0.2.66, 192.0.2.7", "-H", "X-Forwarded-Proto: https"];
    world.seen(url, 80, None, &two, &["x-forwarded-for: 192.0.2.66, 192.0.2.7,", "x-forwarded-proto: https"]);
    refused(world, url, None, &["-H", "X-Forwarded-For: 192.0.2.66"]);
    // Two proxies: one place further back.
    world.mesh.save("config.yaml", &mesh_config("{numTrustedProxies: 2}"));
    refused(world, url, None, &two);
    // None: it is the connection's peer, whatever is said.
    world.mesh.save("config.yaml", &mesh_config("{}"));
    world.seen(url, 80, None, &two, &["x-forwarded-for: 192.0.2.66, 192.0.2.7,", "x-forwarded-proto: http\r\n"]);
}

fn forwarded(world: &World) {
    let said = ["-H", "X-Forwarded-Client-Cert: Hash=aa"];
    let known = [&["--cert", "ann.pem"], &said[..]].concat();
    let (plain, mutual) = (("http://web.example", 80), ("https://known.example", 443));
    let seen = |(url, port): (&str, u16), more: &[&str], part: &str| world.seen(url, port, None, more, &[part]);
    let not = |text: String| assert!(!text.contains("hash=aa"), "{text}");
    not(seen(plain, &said, "host: "));
    not(seen(mutual, &known, "dns=ann.example"));
    world.mesh.save("config.yaml", &mesh_config("{forwardClientCertDetails: APPEND_FORWARD}"));
    seen(mutual, &known, "x-forwarded-client-cert: hash=aa,");
    not(seen(plain, &said, "host: "));
    world.mesh.save("config.yaml", &mesh_config("{forwardClientCertDetails: ALWAYS_FORWARD_ONLY}"));
    seen(plain, &said, "x-forwarded-client-cert: hash=aa,by=spiffe://cluster.local/");
    world.mesh.save("config.yaml", &mesh_config("{forwardClientCertDetails: FORWARD_ONLY}"));
    seen(mutual, &known, "x-forwarded-client-cert: hash=aa,by=spiffe://cluster.local/");
    eventually("what comes without a certificate is removed", || match world.curl(plain.0, plain.1, None, &said) {
        Ok((status, body)) if status == "200" && !body.contains("hash=aa") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// What is known of TLS, at the gateway and at the sidecar behind it.
fn logged(world: &World) {
    let format = "seen %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% sni=%REQUESTED_SERVER_NAME% uri=%DOWNSTREAM_PEER_URI_SAN% \
        own=%DOWNSTREAM_LOCAL_URI_SAN% dns=%DOWNSTREAM_PEER_DNS_SAN% subject=%DOWNSTREAM_PEER_SUBJECT% issuer=%DOWNSTREAM_PEER_ISSUER% \
        serial=%DOWNSTREAM_PEER_SERIAL% print=%DOWNSTREAM_PEER_FINGERPRINT_256% up=%UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% \
        server=%UPSTREAM_PEER_URI_SAN% as=%UPSTREAM_LOCAL_URI_SAN% %RESPONSE_CODE% 100%%";
    world.mesh.save("config.yaml", &mesh_config_with("{}", format));
    let told = |name: &str| {
        let options = ["x509", "-in", "ann.pem", "-noout", "-nameopt", "RFC2253"];
        let mut openssl = Command::new("openssl");
        let output = openssl.current_dir(world.files.path()).args(options).args(name.split(' ')).output().expect("openssl");
        let text = String::from_utf8(output.stdout).expect("a text");
        text.trim().split_once('=').map(|(_, value)| value.trim().to_owned()).expect("a value")
    };
    let [subject, issuer] = ["-subject", "-issuer"].map(told);
    let [serial, print] = ["-serial", "-fingerprint -sha256"].map(|name| told(name).replace(':', "").to_lowercase());
    let serial = serial.trim_start_matches('0');
    let (gateway, web) =
        ("spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account", "spiffe://cluster.local/ns/cave/sa/default");
    let client = format!("uri=- own=- dns=ann.example subject={subject} issuer={issuer} serial={serial} print={print} up=TLSv1.3 TLS_AES_");
    let expected = [
        (
            &["--tls13-ciphers", "TLS_AES_128_GCM_SHA256", "--cert", "ann.pem"][..],
            "https://known.example",
            format!("seen TLSv1.3 TLS_AES_128_GCM_SHA256 sni=known.example {client}"),
        ),
        (
            &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256", "--cert", "ann.pem"],
            "https://known.example",
            format!("seen TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256 sni=known.example {client}"),
        ),
        (
            &["--tls-max", "1.2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            "https://web.example",
            "seen TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256 sni=web.example uri=- own=- dns=- subject=- issuer=- serial=- print=- up=TLSv1.3"
                .to_owned(),
        ),
    ];
    let log = |workload: &[&str]| world.mesh.cli(&[&["logs"], workload, &["--proxy"]].concat()).out;
    for (more, url, start) in expected {
        eventually(&start, || {
            let answer = world.curl(url, 443, None, more);
            let log = log(&["istio-ingressgateway", "-n", "istio-system"]);
            let end = format!(" server={web} as={gateway} 200 100%");
            let is_it = |line: &str| line.starts_with(&start) && line.ends_with(&end);
            if log.lines().any(is_it) { Ok(()) } else { Err(format!("{answer:?}\n{log}")) }
        });
    }
    eventually("the sidecar's log", || {
        let log = log(&["web", "-n", "cave"]);
        let parts = ["seen TLSv1.3 TLS_AES_", &format!(" uri={gateway} own={web} "), " up=- - server=- as=- 200 100%"];
        if log.lines().any(|line| parts.iter().all(|part| line.contains(part))) { Ok(()) } else { Err(log) }
    });
}

/// Whether those programs are there.
fn has_peers() -> bool {
    peer("curl", "curl").is_some() && peer("openssl", "openssl").is_some()
}

#[test]
fn before_a_gateway() {
    if has_peers() {
        check(World::start(Options::default()));
    }
}

#[test]
fn before_an_envoy() {
    let Some(envoy) = envoy().filter(|_| has_peers()) else { return };
    check(World::start(Options::of_envoys(&envoy)));
}
