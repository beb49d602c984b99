//! TLS that is not ended on the way, TLS before bytes, and plain TCP: at the mesh's gateway, called by curl and OpenSSL, and within the mesh. The same with
//! Mizzen's proxies and with Envoys.

use std::{
    fs,
    process::{Command, Stdio},
};

use mizzen_testkit::{Authority, Mesh, Options, envoy, eventually, folder, peer, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs that see bytes are this very executable: it answers with its name and the head that it sees.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    if let Ok(name) = std::env::var(workload::VARIABLE) {
        workload::serve(if name == "web" { 8080 } else { 7000 }, workload::named);
    }
}

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: cave}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: passed, protocol: TLS}, hosts: [cave/one.example, cave/two.example, 'elsewhere/three.example'], tls: {mode: PASSTHROUGH}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [web.example], tls: {mode: SIMPLE, credentialName: web}}
  - {port: {number: 443, name: ended, protocol: TLS}, hosts: [bytes.example], tls: {mode: SIMPLE, credentialName: bytes}}
  - {port: {number: 443, name: known, protocol: TLS}, hosts: [known.example], tls: {mode: MUTUAL, credentialName: known}}
  - {port: {number: 15443, name: cross, protocol: TLS}, hosts: ['*.cave.svc.cluster.local'], tls: {mode: AUTO_PASSTHROUGH}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 9001, name: shared, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: cave}
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{route: [{destination: {host: web}}]}]
  tls:
  - match: [{port: 443, sniHosts: [one.example]}]
    route: [{destination: {host: one}}]
  - match: [{port: 443, sniHosts: [two.example]}, {port: 443, sniHosts: [three.example]}]
    route: [{destination: {host: two}}]
  tcp:
  - match: [{port: 443}, {port: 9000}]
    route: [{destination: {host: bytes}}]
  - match: [{port: 9001}]
    route: [{destination: {host: bytes}, weight: 50}, {destination: {host: more}, weight: 50}]
";

/// Names beyond the mesh that lead into it.
const WITHIN: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: front, namespace: cave}
spec:
  hosts: [front.example]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1}]
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front, namespace: cave}
spec:
  hosts: [front.example, '*.front.example']
  tls:
  - match: [{sniHosts: [front.example]}]
    route: [{destination: {host: one}}]
  - match: [{sniHosts: ['*.front.example'], sourceNamespace: elsewhere}]
    route: [{destination: {host: one}}]
  - match: [{sniHosts: ['*.front.example']}]
    route: [{destination: {host: two}}]
";

fn service(name: &str, port: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: cave}}, spec: {{selector: {{app: {name}}}, ports: [{port}]}}}}\n"
    )
}

/// A server that speaks TLS itself, with a certificate of its own.
fn speaks_tls(name: &str, servers: &Authority) -> String {
    let issued = servers.issue(&[&format!("{name}.example")]);
    let files = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "cave"},
        "data": {"cert.pem": issued.certificate, "key.pem": issued.key},
    });
    let deployment = format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: cave}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      volumes: [{{name: pki, configMap: {{name: {name}}}}}]
      containers:
      - name: openssl
        image: openssl
        command: [openssl, s_server, -accept, '8443', -cert, /its-pki/cert.pem, -key, /its-pki/key.pem, -www]
        volumeMounts: [{{name: pki, mountPath: /its-pki}}]
        readinessProbe: {{tcpSocket: {{port: 8443}}}}
"
    );
    format!("---\n{files}\n---{deployment}{}", service(name, "{name: tls, port: 8443}"))
}

struct World {
    mesh: Mesh,
    files: tempfile::TempDir,
}

impl World {
    fn start(options: Options) -> World {
        let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
        let mut text = "{apiVersion: v1, kind: Namespace, metadata: {name: cave}}\n".to_owned();
        text += &["one", "two"].map(|name| speaks_tls(name, &servers)).concat();
        for name in ["bytes", "more"] {
            text += &format!("---{}{}", workload::deployment("cave", name, 7000), service(name, "{name: tcp, port: 7000}"));
        }
        text += &format!("---{}{}", workload::deployment("cave", "web", 8080), service("web", "{name: http, port: 8080}"));
        for name in ["web", "bytes", "known"] {
            let roots = [("ca.crt", clients.root.as_str())];
            text += &servers.issue(&[&format!("{name}.example")]).secret("istio-system", name, if name == "known" { &roots } else { &[] });
        }
        let folder = folder(&[("mesh.yaml", &text), ("edge.yaml", GATEWAY), ("within.yaml", WITHIN)]);
        let files = tempfile::tempdir().expect("a folder");
        let client = clients.issue(&["ann.example"]);
        for (name, text) in [("root.pem", servers.root.clone()), ("ann.pem", client.certificate + &client.key)] {
            fs::write(files.path().join(name), text).expect("a file");
        }
        World { mesh: Mesh::start_with(MIZZEN, folder.path(), options), files }
    }

    /// The answer's status and body, or curl's exit code.
    fn curl(&self, scheme: &str, host: &str, of: u16, more: &[&str]) -> Result<(String, String), i32> {
        let (_, port) = self.mesh.gateway_port(of);
        let mut curl = Command::new("curl");
        curl.current_dir(self.files.path()).args([
            "-s",
            "-m",
            "20",
            "--http1.1",
            "-o",
            "-",
            "-w",
            "\n%{http_code}",
            "--cacert",
            "root.pem",
        ]);
        curl.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]).args(more).arg(format!("{scheme}://{host}:{port}/"));
        let output = curl.stdin(Stdio::null()).output().expect("curl");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n').unwrap_or_default();
        match output.status.code() {
            Some(0) => Ok((status.to_owned(), body.to_owned())),
            code => Err(code.unwrap_or(-1)),
        }
    }

    /// Waits for an answer of 200 whose body begins so, and returns it.
    #[track_caller]
    fn answers(&self, scheme: &str, host: &str, of: u16, more: &[&str], start: &str) -> String {
        eventually(&format!("{scheme}://{host} at {of}"), || match self.curl(scheme, host, of, more) {
            Ok((status, body)) if status == "200" && body.trim_start().starts_with(start) => Ok(body),
            other => Err(format!("{other:?}\n{}\n{}", self.mesh.said(), self.mesh.logs())),
        })
    }

    /// A connection that gets no TLS, neither at once nor in the middle of the handshake.
    #[track_caller]
    fn is_refused(&self, scheme: &str, host: &str, more: &[&str]) {
        let answer = self.curl(scheme, host, 443, more);
        assert!(matches!(answer, Err(35 | 52 | 55 | 56)), "{scheme}://{host} {more:?}: {answer:?}\n{}", self.mesh.logs());
    }

    /// The names in the certificate that somebody is shown who asks for a server name at the port of the mesh's own mutual TLS, as far as there is one.
    fn shown_across(&self, name: &str, protocol: &str) -> String {
        let (_, port) = self.mesh.gateway_port(15443);
        let call = format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername {name} -alpn {protocol} </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName"
        );
        let output = Command::new("sh").args(["-c", &call]).stdin(Stdio::null()).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whose certificate a program of the mesh is shown that asks `at` for a server name.
    fn shown_within(&self, at: &str, name: &str) -> String {
        let call = format!("openssl s_client -connect {at} -servername {name} </dev/null 2>&1 | grep -E 'subject|errno'");
        let output = self.mesh.run("cave", "default", &["sh", "-c", &call]);
        output.out + &output.err
    }
}

fn check(mut world: World) {
    // TLS goes to two servers by its name, and each shows its own certificate, which curl verifies.
    world.answers("https", "one.example", 443, &[], "<HTML>");
    world.answers("https", "two.example", 443, &[], "<HTML>");
    // A name that nobody has, one whose routes may come from another namespace alone, none at all, and no TLS.
    world.is_refused("https", "nobody.example", &[]);
    world.is_refused("https", "three.example", &[]);
    world.is_refused("https", "127.0.0.1", &["-k"]);
    world.is_refused("http", "one.example", &[]);
    // Beside them TLS is ended: before requests, which the gateway sees, and before bytes, which it does not.
    let seen = world.answers("https", "web.example", 443, &[], "web");
    assert!(seen.contains("x-envoy-") || seen.contains("x-request-id"), "{seen}");
    for (scheme, host, port, more) in [
        ("https", "bytes.example", 443, &[][..]),
        ("https", "known.example", 443, &["--cert", "ann.pem"]),
        ("http", "any.example", 9000, &[]),
    ] {
        let seen = world.answers(scheme, host, port, more, "bytes");
        assert!(!seen.contains("x-envoy-") && !seen.contains("x-request-id") && !seen.contains("x-forwarded"), "{host}: {seen}");
    }
    world.is_refused("https", "known.example", &[]);
    let schemes = [443, 9000, 9001].map(|port| world.mesh.gateway_port(port).0);
    assert_eq!((&schemes[1][..], &schemes[2][..]), ("tcp", "tcp"), "{schemes:?}");
    // By weight to one or the other.
    for name in ["bytes", "more"] {
        world.answers("http", "any.example", 9001, &[], name);
    }
    across(&world);
    within(&world);
    changed(&world);
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// Mutual TLS of the mesh goes where its server name says, to the sidecar there, and nothing else does.
fn across(world: &World) {
    let name = |port: u16, service: &str| format!("outbound_.{port}_._.{service}.cave.svc.cluster.local");
    for (port, service) in [(7000, "bytes"), (8080, "web"), (8443, "one")] {
        eventually(&format!("{service} across the gateway"), || match world.shown_across(&name(port, service), "istio") {
            shown if shown.contains("URI:spiffe://cluster.local/ns/cave/sa/default") => Ok(()),
            other => Err(format!("{other}\n{}", world.mesh.logs())),
        });
    }
    for (name, protocol) in
        [(name(7000, "bytes"), "h2"), (name(7001, "bytes"), "istio"), ("bytes.cave.svc.cluster.local".to_owned(), "istio")]
    {
        assert_eq!(world.shown_across(&name, protocol), "", "{name} {protocol}");
    }
}

/// Calls of the mesh's own programs, whose sidecars route by server name as well.
fn within(world: &World) {
    for (name, subject) in [("front.example", "one.example"), ("a.front.example", "two.example")] {
        eventually(&format!("{name} within the mesh"), || match world.shown_within("front.example:443", name) {
            said if said.contains(subject) => Ok(()),
            said => Err(format!("{said}\n{}", world.mesh.logs())),
        });
    }
    let said = world.shown_within("front.example:443", "nobody.example");
    assert!(!said.contains(".example"), "{said}");
    let shown = world.mesh.cli(&["proxy-config", "listener", "istio-ingressgateway.istio-system"]).ok();
    for part in ["SNI: one.example", "SNI: two.example", "outbound|8443||one.cave.svc.cluster.local", "SNI: bytes.example"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for (to, code, part) in [
        ("one.example:443", 0, "outbound|8443||one.cave.svc.cluster.local"),
        ("nobody.example:443", 1, "no filter chain"),
        ("any.example:9000", 0, "outbound|7000||bytes.cave.svc.cluster.local"),
    ] {
        let said = world.mesh.cli(&["explain", "--from", "ingress", "--to", to, "--verbose"]);
        assert!(said.code == code && said.out.contains(part), "{to}: {said:?}");
    }
}

/// A changed route leads elsewhere, and one that is gone nowhere.
fn changed(world: &World) {
    let swapped = GATEWAY.replace("{host: one}", "{host: two}");
    world.mesh.save("edge.yaml", &swapped);
    eventually("one.example leads to the other server", || match world.curl("https", "one.example", 443, &[]) {
        // Its certificate is not the one that is asked for.
        Err(60) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.mesh.save("edge.yaml", &GATEWAY.replace("sniHosts: [one.example]", "sniHosts: [other.example]"));
    eventually("one.example leads nowhere", || match world.curl("https", "one.example", 443, &[]) {
        Err(35 | 56) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    world.answers("https", "two.example", 443, &[], "<HTML>");
}

/// Whether those programs are there.
fn has_peers() -> bool {
    peer("curl", "curl").is_some() && peer("openssl", "openssl").is_some()
}

#[test]
fn bytes_at_the_gateway() {
    if has_peers() {
        check(World::start(Options::default()));
    }
}

#[test]
fn bytes_at_an_envoy() {
    let Some(envoy) = envoy().filter(|_| has_peers()) else { return };
    check(World::start(Options::of_envoys(&envoy)));
}
