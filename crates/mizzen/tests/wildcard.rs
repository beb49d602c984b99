//! Names beyond the mesh that nobody has listed: those below a wildcard are found when they are called, by the Host header or by the server name. With our
//! proxies and with Envoys.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex},
};

use mizzen_testkit::{Authority, Foreign, Mesh, Options, envoy, eventually, folder, peer, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// Where clients connect to: nobody is there, so that an answer comes by a name.
const NOWHERE: &str = "198.51.100.9";

/// The program of the mesh is this very executable.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    if std::env::var(workload::VARIABLE).is_ok() {
        workload::serve(8080, |head| {
            // `/HOST`: the Host header of a call to nowhere.
            let host = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            ("200 OK", String::new(), workload::fetch_from((NOWHERE, 80), host, "/").unwrap_or_else(|error| format!("no answer: {error}")))
        });
    }
}

/// The names that DNS knows beyond the mesh.
const NAMES: &[(&str, [u8; 4])] = &[
    ("one.example.test", [192, 0, 2, 1]),
    ("deep.two.example.test", [192, 0, 2, 2]),
    ("inward.example.test", [127, 0, 0, 1]),
    ("one.other.test", [192, 0, 2, 1]),
    ("plain.example.test", [192, 0, 2, 1]),
    ("one.tls.test", [192, 0, 2, 3]),
    ("near.tls.test", [192, 0, 2, 3]),
    ("two.tls.test", [192, 0, 2, 3]),
    ("good.secure.test", [192, 0, 2, 3]),
    ("wrong.secure.test", [192, 0, 2, 3]),
];

const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: example, namespace: cave}
spec:
  hosts: ['*.example.test']
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls, namespace: cave}
spec:
  hosts: ['*.tls.test']
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: secure, namespace: cave}
spec:
  hosts: ['*.secure.test']
  location: MESH_EXTERNAL
  resolution: DYNAMIC_DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: secure, namespace: cave}
spec: {host: '*.secure.test', trafficPolicy: {tls: {mode: SIMPLE, caCertificates: FILES/root.pem}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cave, namespace: cave}
spec:
  hosts: ['*']
  gateways: [cave]
  http:
  - match: [{uri: {prefix: /caller/}}]
    route: [{destination: {host: caller, port: {number: 8080}}}]
  - match: [{uri: {prefix: /named}}]
    rewrite: {authority: deep.two.example.test}
    route: [{destination: {host: '*.example.test', port: {number: 80}}}]
  - match: [{uri: {prefix: /strange}}]
    rewrite: {authority: one.other.test}
    route: [{destination: {host: '*.example.test', port: {number: 80}}}]
  - route: [{destination: {host: '*.example.test', port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: renamed, namespace: cave}
spec:
  hosts: [renamed.test, renamed.example.test]
  http: [{rewrite: {authority: deep.two.example.test}, route: [{destination: {host: '*.example.test', port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: plain, namespace: cave}
spec: {hosts: [plain.example.test], http: [{route: [{destination: {host: '*.example.test', port: {number: 80}}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: lost, namespace: cave}
spec: {hosts: [one.other.test], http: [{match: [{uri: {prefix: /}}], route: [{destination: {host: '*.example.test', port: {number: 80}}}]}]}
---
# Nobody is there, so that an answer comes by the route.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: near, namespace: cave}
spec:
  hosts: [near.tls.test]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}]
  endpoints: [{address: 192.0.2.99}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: near, namespace: cave}
spec:
  hosts: [near.tls.test]
  tls: [{match: [{sniHosts: [near.tls.test]}], route: [{destination: {host: '*.tls.test', port: {number: 443}}}]}]
";

/// The world beyond the mesh.
struct Outside {
    files: tempfile::TempDir,
    _tls: Foreign,
    asked: Arc<Mutex<BTreeSet<String>>>,
    args: Vec<String>,
}

impl Outside {
    fn new() -> Outside {
        let authority = Authority::new("servers");
        let wrong = authority.issue(&["good.secure.test"]);
        let certificates =
            ["one.tls.test", "two.tls.test", "near.tls.test", "good.secure.test"].map(|name| (name, authority.issue(&[name])));
        let mut served: Vec<(&str, &mizzen_testkit::Credential)> = certificates.iter().map(|(name, issued)| (*name, issued)).collect();
        served.push(("wrong.secure.test", &wrong));
        let tls = Foreign::start(&served, None);
        let files = tempfile::tempdir().expect("a folder");
        fs::write(files.path().join("root.pem"), &authority.root).expect("a file");
        let asked = Arc::default();
        let at = |place: &str, address: SocketAddr| ["--outside".to_owned(), format!("{place}={address}")];
        let args = [
            at("192.0.2.1:8080", web("first")),
            at("192.0.2.2:8080", web("second")),
            // At a port that only a client's word leads to.
            at("192.0.2.1:9999", web("a port that nobody has opened")),
            at("192.0.2.3:8443", tls.address),
            ["--name-server".to_owned(), name_server(&asked).to_string()],
        ];
        Outside { files, _tls: tls, asked, args: args.concat() }
    }

    fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().expect("lock").contains(name)
    }
}

/// A web server that answers with its name and the Host header.
fn web(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(n @ 1..) => head.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let body = format!("{name} as {host}");
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        }
    });
    address
}

/// A server of [`NAMES`], which notes what it was asked for.
fn name_server(asked: &Arc<Mutex<BTreeSet<String>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (address, asked) = (socket.local_addr().expect("an address"), asked.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some((name, reply)) = answer(&buffer[..length]) {
                asked.lock().expect("lock").insert(name);
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    address
}

/// The name that a question asks for, and the answer to it.
fn answer(question: &[u8]) -> Option<(String, Vec<u8>)> {
    // After the header: the labels of the name, its end, type and class (RFC 1035, section 4.1).
    let mut rest = question.get(12..)?;
    let mut labels = Vec::new();
    while let Some((&length @ 1.., after)) = rest.split_first() {
        let (label, after) = after.split_at_checked(length.into())?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        rest = after;
    }
    let end = question.len() - rest.len() + 5;
    let name = labels.join(".");
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, address)| *address);
    let address = known.filter(|_| question.get(end - 3) == Some(&1));
    let code = if known.is_some() { 0 } else { 3 };
    let mut reply = vec![question[0], question[1], 0x81, 0x80 | code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0];
    reply.extend_from_slice(question.get(12..end)?);
    if let Some(address) = address {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        reply.extend_from_slice(&address);
    }
    Some((name, reply))
}

fn each_mode(args: Vec<String>) {
    let outside = Outside::new();
    let text = workload::gateway("cave")
        + &workload::deployment("cave", "caller", 8080)
        + "---"
        + &workload::service("cave", "caller", "http", 8080)
        + "---"
        + &CONFIG.replace("FILES", &outside.files.path().display().to_string());
    let options = Options { args: [args, outside.args.clone()].concat(), ..Options::default() };
    let mut mesh = Mesh::start_with(MIZZEN, folder(&[("cave.yaml", &text)]).path(), options);
    let at = mesh.address();
    let at = at.strip_prefix("http://").expect("an address");
    // A call of the sidecar's program to nowhere, with this Host header, or one to the gateway itself.
    let caller = |host: &str| mesh.get(&format!("/caller/{host}"), &[]).map(|(_, body)| body);
    let gateway = |host: &str| workload::fetch_from(at, host, "/").map_err(|error| error.to_string());
    let check = |what: &str, get: &dyn Fn() -> Result<String, String>, expected: &str| {
        eventually(&format!("{expected:?}: {what}"), || match get() {
            Ok(answer) if answer.contains(expected) => Ok(()),
            other => Err(format!("{other:?}\n{}\n{}", mesh.said(), mesh.logs())),
        });
    };
    for (host, expected) in [
        ("one.example.test", "first as one.example.test"),
        ("deep.two.example.test", "second as deep.two.example.test"),
        // The port is the ServiceEntry's, whatever a client writes; what the server sees of it is the client's.
        ("one.example.test:80", "first as one.example.test:80"),
        ("one.example.test:9999", "first as one.example.test:9999"),
        // Nobody's, and one that leads to the proxy's own machine.
        ("none.example.test", "HTTP/1.1 503"),
        ("inward.example.test", "HTTP/1.1 503"),
    ] {
        check(&format!("{host} by a sidecar"), &|| caller(host), expected);
        check(&format!("{host} by the gateway"), &|| gateway(host), expected);
    }
    assert!(outside.was_asked("none.example.test"));
    // By the name that a route makes of the request's.
    check("/named", &|| mesh.get("/named", &[]).map(|(_, body)| body), "second as deep.two.example.test");
    // What the wildcard does not cover is not looked for, at the gateway no more than where calls out of the mesh pass.
    check("one.other.test by the gateway", &|| gateway("one.other.test"), "HTTP/1.1 404");
    check("/strange", &|| mesh.get("/strange", &[]).map(|(status, _)| status.to_string()), "503");
    check("one.other.test by a sidecar", &|| caller("one.other.test"), "HTTP/1.1 503");
    // Routes of other hosts lead a sidecar's calls there, by the name that they make of these, or by the one that they have.
    for host in ["renamed.test", "renamed.example.test"] {
        check(host, &|| caller(host), "second as deep.two.example.test");
    }
    check("plain.example.test", &|| caller("plain.example.test"), "first as plain.example.test");
    assert!(!outside.was_asked("one.other.test"));
    // TLS begins at the proxy, for the name that is called, which the certificate has to have.
    check("good.secure.test", &|| caller("good.secure.test"), "sni=good.secure.test");
    check("wrong.secure.test", &|| caller("wrong.secure.test"), "HTTP/1.1 503");
    if peer("curl", "curl").is_some() {
        by_server_name(&mesh, &outside);
    }
    let shown = mesh.cli(&["proxy-config", "cluster", "istio-ingressgateway.istio-system"]).ok();
    assert!(shown.lines().any(|line| line.contains("*.example.test") && line.contains("DYNAMIC_FORWARD_PROXY")), "{shown}");
    let said = mesh.said();
    assert!(said.contains("VirtualService cave/cave: spec.http[2].route[0].destination.host: its names are those of requests"), "{said}");
    assert!(said.contains("VirtualService cave/lost: spec.http[0].route[0].destination.host: its names are those of requests"), "{said}");
    assert!(!["renamed", "plain", "near"].iter().any(|name| said.contains(&format!("VirtualService cave/{name}: "))), "{said}");
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// TLS of the programs' own goes where its server name says, and each server shows its own certificate.
fn by_server_name(mesh: &Mesh, outside: &Outside) {
    let root = mesh.shared().join("root.pem");
    fs::copy(outside.files.path().join("root.pem"), &root).expect("a copy");
    let curl = |name: &str| {
        let to = format!("::{NOWHERE}:443");
        let root = root.display().to_string();
        let url = format!("https://{name}/");
        mesh.run("cave", "default", &["curl", "-sS", "-m", "20", "--http1.1", "--cacert", &root, "--connect-to", &to, &url])
    };
    for name in ["one.tls.test", "two.tls.test", "near.tls.test"] {
        eventually(&format!("{name} by its server name"), || match curl(name) {
            output if output.code == 0 && output.out.contains(&format!("sni={name} ")) => Ok(()),
            other => Err(format!("{other:?}\n{}", mesh.logs())),
        });
    }
    for name in ["none.tls.test", "one.other.test"] {
        let output = curl(name);
        assert!(output.code != 0 && output.out.is_empty(), "{name}: {output:?}");
    }
    assert!(!outside.was_asked("one.other.test"));
}

#[test]
fn names_below_a_wildcard() {
    each_mode(Vec::new());
}

#[test]
fn names_below_a_wildcard_by_envoys() {
    let Some(envoy) = envoy() else { return };
    each_mode(vec!["--data-plane".to_owned(), format!("envoy={}", envoy.display())]);
}
