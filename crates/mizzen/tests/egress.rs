//! What leaves the mesh through an egress gateway, which here is the mesh's gateway too: requests, to which it begins TLS with a credential of its own; TLS
//! that it does not end; and unknown destinations, which are refused, or go to a service (`egressProxy`). With our proxies and with Envoys.

use std::fs;

use mizzen_testkit::{Authority, Foreign, Mesh, Options, envoy, eventually, folder, peer, secret, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs of the mesh are this very executable, told by the variable `WORKLOAD` what to be.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    match std::env::var(workload::VARIABLE).as_deref() {
        Ok("caller") => workload::serve(8080, call),
        Ok("proxy") => workload::serve(8080, workload::named),
        _ => {}
    }
}

/// Calls over plain HTTP whom the path names, and answers with what it got.
fn call(head: &str) -> workload::Answer {
    let host = workload::path(head).rsplit('/').next().unwrap_or_default();
    ("200 OK", String::new(), workload::fetch(host, 80, "/").unwrap_or_else(|error| format!("no answer: {error}")))
}

/// A mesh that lets nothing out that it does not know, and the log by which the gateway tells who came, and where it led him.
const CONFIG: &str = "
kind: ConfigMap
apiVersion: v1
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
    accessLogFile: /dev/stdout
    accessLogEncoding: TEXT
    accessLogFormat: 'led sni=%REQUESTED_SERVER_NAME% peer=%DOWNSTREAM_PEER_URI_SAN% to=%UPSTREAM_CLUSTER%'
";

/// The gateway and the way to it, as Istio's guides have them: over the mesh's mutual TLS, in plain text, and as TLS that stays the caller's.
const GATEWAY: &str = "
kind: Service
apiVersion: v1
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  ports: [{name: http-mutual, port: 8443}, {name: http-plain, port: 8081}, {name: tls-passed, port: 9443}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: cave}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8443, name: https-mutual, protocol: HTTPS}, hosts: [mutual.example], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 8081, name: http-plain, protocol: HTTP}, hosts: [plain.example]}
  - {port: {number: 9443, name: tls-passed, protocol: TLS}, hosts: [passed.example], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egress, namespace: cave}
spec:
  host: egress.istio-system.svc.cluster.local
  subsets:
  - name: mutual
    trafficPolicy: {portLevelSettings: [{port: {number: 8443}, tls: {mode: ISTIO_MUTUAL, sni: mutual.example}}]}
";

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mutual, namespace: cave}
spec:
  hosts: [mutual.example]
  gateways: [mesh, egress]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route: [{destination: {host: egress.istio-system.svc.cluster.local, subset: mutual, port: {number: 8443}}}]
  - match: [{gateways: [egress], port: 8443}]
    route: [{destination: {host: mutual.example, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: plain, namespace: cave}
spec:
  hosts: [plain.example]
  gateways: [mesh, egress]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route: [{destination: {host: egress.istio-system.svc.cluster.local, port: {number: 8081}}}]
  - match: [{gateways: [egress], port: 8081}]
    route: [{destination: {host: plain.example, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: passed, namespace: cave}
spec:
  hosts: [passed.example]
  gateways: [mesh, egress]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: [passed.example]}]
    route: [{destination: {host: egress.istio-system.svc.cluster.local, port: {number: 9443}}}]
  - match: [{gateways: [egress], port: 9443, sniHosts: [passed.example]}]
    route: [{destination: {host: passed.example, port: {number: 443}}}]
";

/// Unknown destinations of the den go to its proxy.
const SIDECAR: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: den, namespace: den}
spec: {outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: proxy.den.svc.cluster.local, port: {number: 8080}}}}
";

/// The world beyond the mesh: one server that asks callers for a certificate, and one that does not.
struct Outside {
    authority: Authority,
    clients: Authority,
    open: Foreign,
    mutual: Foreign,
    files: tempfile::TempDir,
}

impl Outside {
    fn new() -> Outside {
        let (authority, clients) = (Authority::new("servers"), Authority::new("clients"));
        let all = authority.issue(&["plain.example", "passed.example", "direct.example"]);
        let open = Foreign::start(&["plain.example", "passed.example", "direct.example"].map(|name| (name, &all)), None);
        let mutual = Foreign::start(&[("mutual.example", &authority.issue(&["mutual.example"]))], Some(&clients));
        let files = tempfile::tempdir().expect("a folder");
        fs::write(files.path().join("root.pem"), &authority.root).expect("a file");
        Outside { authority, clients, open, mutual, files }
    }

    fn args(&self) -> Vec<String> {
        let at = |place: &str, server: &Foreign| ["--outside".to_owned(), format!("{place}={}", server.address)];
        // At the last two nobody is known.
        let unknown = ["192.0.2.77:8080", "192.0.2.77:9999"].map(|place| at(place, &self.open)).concat();
        [at("192.0.2.1:443", &self.open).to_vec(), at("192.0.2.2:443", &self.mutual).to_vec(), unknown].concat()
    }

    /// The servers as the mesh knows them, and how TLS is begun to them: by who has the Secret, which is the gateway alone.
    fn config(&self) -> String {
        let entry = |name: &str, address: &str, ports: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: cave}}\n\
                 spec: {{hosts: [{name}.example], location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{{address: {address}}}], ports: [{ports}]}}\n"
            )
        };
        let rule = |name: &str, tls: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: cave}}\n\
                 spec: {{host: {name}.example, trafficPolicy: {{tls: {{{tls}}}}}}}\n"
            )
        };
        let http = "{number: 80, name: http, protocol: HTTP, targetPort: 443}";
        let root = self.files.path().join("root.pem").display().to_string();
        entry("mutual", "192.0.2.2", http)
            + &rule("mutual", "mode: MUTUAL, credentialName: client")
            + &entry("plain", "192.0.2.1", http)
            + &rule("plain", &format!("mode: SIMPLE, caCertificates: {root}"))
            + &entry("passed", "192.0.2.1", "{number: 443, name: tls, protocol: TLS}")
            + &self.clients.issue(&["gateway.example"]).secret("istio-system", "client", &[])
            + &secret("istio-system", "client-cacert", &[("cacert", &self.authority.root)])
    }
}

fn start(outside: &Outside, options: Options) -> Mesh {
    let mut text = workload::gateway("cave")
        + "{kind: Namespace, apiVersion: v1, metadata: {name: den}}\n---\n\
           {apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: cave, namespace: cave}, \
            spec: {hosts: ['*'], gateways: [cave], http: [{route: [{destination: {host: caller, port: {number: 8080}}}]}]}}\n";
    for (namespace, name) in [("cave", "caller"), ("den", "proxy")] {
        text += &format!("---{}---{}", workload::service(namespace, name, "http", 8080), workload::deployment(namespace, name, 8080));
    }
    let out = outside.config();
    let folder =
        folder(&[("mesh.yaml", &text), ("config.yaml", CONFIG), ("gateway.yaml", GATEWAY), ("routes.yaml", ROUTES), ("out.yaml", &out)]);
    Mesh::start_with(MIZZEN, folder.path(), options.with(outside.args()))
}

/// Waits until a call of the caller's is answered with all these parts.
#[track_caller]
fn called(mesh: &Mesh, host: &str, parts: &[&str]) {
    eventually(&format!("{parts:?} of {host}"), || {
        let (_, body) = mesh.get(&format!("/{host}"), &[])?;
        if parts.iter().all(|part| body.contains(part)) { Ok(()) } else { Err(format!("{body}\n{}\n{}", mesh.said(), mesh.logs())) }
    });
}

/// What curl says in a namespace of the mesh, and whether it had an answer.
fn curl(mesh: &Mesh, namespace: &str, args: &[&str]) -> (bool, String) {
    let output = mesh.run(namespace, "default", &[&["curl", "-s", "-S", "-m", "10"], args].concat());
    (output.code == 0, output.out + &output.err)
}

fn check(outside: &Outside, mut mesh: Mesh) {
    through_the_gateway(&mesh, outside);
    refused(&mesh, outside);
    to_a_service(&mesh);
    // Without the way through the gateway there is none: a sidecar has no credential to begin TLS with.
    mesh.save("routes.yaml", ROUTES.split("---\n").nth(2).expect("the last route"));
    called(&mesh, "mutual.example", &["HTTP/1.1 503"]);
    assert!(outside.mutual.seen().iter().all(|caller| caller.ends_with("client=gateway.example")), "{:?}", outside.mutual.seen());
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

fn through_the_gateway(mesh: &Mesh, outside: &Outside) {
    called(mesh, "mutual.example", &["HTTP/1.1 200", "sni=mutual.example", "client=gateway.example"]);
    called(mesh, "plain.example", &["HTTP/1.1 200", "sni=plain.example", "client=-"]);
    let root = mesh.shared().join("root.pem");
    fs::copy(outside.files.path().join("root.pem"), &root).expect("a file");
    eventually("TLS of the caller's own", || {
        match curl(mesh, "cave", &["--http1.1", "--cacert", &root.display().to_string(), "https://passed.example/"]) {
            (true, said) if said.contains("sni=passed.example") => Ok(()),
            (_, said) => Err(format!("{said}\n{}", mesh.logs())),
        }
    });
    let caller = "spiffe://cluster.local/ns/cave/sa/default";
    for start in [
        format!("led sni=mutual.example peer={caller} to=outbound|80||mutual.example"),
        "led sni=- peer=- to=outbound|80||plain.example".to_owned(),
        "led sni=passed.example peer=- to=outbound|443||passed.example".to_owned(),
    ] {
        eventually(&start, || {
            let log = mesh.cli(&["logs", "istio-ingressgateway", "-n", "istio-system", "--proxy"]).out;
            if log.lines().any(|line| line.starts_with(&start)) { Ok(()) } else { Err(log) }
        });
    }
}

/// A server that is there, and that nobody has registered: neither its name over TLS nor its address over HTTP.
fn refused(mesh: &Mesh, outside: &Outside) {
    let (answered, said) = curl(mesh, "cave", &["-k", "--resolve", "direct.example:443:192.0.2.1", "https://direct.example/"]);
    assert!(!answered, "{said}");
    let (_, said) = curl(mesh, "cave", &["-o", "/dev/null", "-w", "%{http_code}", "http://192.0.2.77:80/"]);
    assert_eq!(said, "502");
    let seen = outside.open.seen();
    assert!(!seen.iter().any(|caller| caller.contains("direct.example")), "{seen:?}");
}

/// Unknown destinations, one of whose ports has routes for HTTP, and the other nothing at all.
fn to_a_service(mesh: &Mesh) {
    let ask = |port: u16| {
        let to = format!("nowhere.example:{port}:192.0.2.77");
        curl(mesh, "den", &["--resolve", &to, &format!("http://nowhere.example:{port}/path")])
    };
    for port in [8080, 9999] {
        let (_, said) = ask(port);
        assert!(!said.starts_with("proxy\n"), "{port}: {said}");
    }
    mesh.save("sidecar.yaml", SIDECAR);
    for port in [8080, 9999] {
        eventually(&format!("port {port} of nobody leads to the proxy"), || match ask(port) {
            (true, said)
                if said.starts_with("proxy\nget /path ")
                    && said.contains(&format!("host: nowhere.example:{port}\r\n"))
                    && said.contains("by=spiffe://cluster.local/ns/den/sa/default") =>
            {
                Ok(())
            }
            (_, said) => Err(format!("{said}\n{}\n{}", mesh.said(), mesh.logs())),
        });
    }
    // What is known is called where it is, and other namespaces keep to what is known.
    let (answered, said) = curl(mesh, "den", &["http://caller.cave:8080/passed.example"]);
    assert!(answered && !said.starts_with("proxy\n"), "{said}");
    let to = "nowhere.example:8080:192.0.2.77";
    let (_, said) = curl(mesh, "cave", &["-o", "/dev/null", "-w", "%{http_code}", "--resolve", to, "http://nowhere.example:8080/"]);
    assert_eq!(said, "502");
}

#[test]
fn through_an_egress_gateway() {
    if peer("curl", "curl").is_some() {
        let outside = Outside::new();
        check(&outside, start(&outside, Options::default()));
    }
}

#[test]
fn through_an_egress_gateway_with_envoys() {
    if let Some(envoy) = envoy().filter(|_| peer("curl", "curl").is_some()) {
        let outside = Outside::new();
        check(&outside, start(&outside, Options::of_envoys(&envoy)));
    }
}
