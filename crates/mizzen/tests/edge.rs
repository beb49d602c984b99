//! TLS at the mesh's gateway, called by curl and OpenSSL.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mizzen_testkit::{Authority, Credential, Mesh, Options, envoy, eventually, peer, secret};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// One server for each way to end TLS.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 81, name: redirect, protocol: HTTP}, hosts: [simple.example], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: simple, protocol: HTTPS}, hosts: [simple.example], tls: {mode: SIMPLE, credentialName: simple}}
  - {port: {number: 443, name: mutual, protocol: HTTPS}, hosts: [mutual.example], tls: {mode: MUTUAL, credentialName: mutual}}
  - {port: {number: 443, name: optional, protocol: HTTPS}, hosts: ['*.optional.example'], tls: {mode: OPTIONAL_MUTUAL, credentialName: optional}}
  - {port: {number: 443, name: named, protocol: HTTPS}, hosts: [named.example], tls: {mode: MUTUAL, credentialName: mutual, subjectAltNames: [ann.example]}}
  - port: {number: 443, name: two, protocol: HTTPS}
    hosts: [two.example]
    tls: {mode: SIMPLE, credentialNames: [two-rsa, two-ecdsa]}
  - port: {number: 443, name: old, protocol: HTTPS}
    hosts: [old.example]
    tls: {mode: SIMPLE, credentialName: simple, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]}
  - {port: {number: 443, name: new, protocol: HTTPS}, hosts: [new.example], tls: {mode: SIMPLE, credentialName: simple, minProtocolVersion: TLSV1_3}}
  - {port: {number: 443, name: missing, protocol: HTTPS}, hosts: [missing.example], tls: {mode: SIMPLE, credentialName: of-the-shop}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{route: [{destination: {host: storefront, port: {number: 8080}}}]}]
";

/// Whom the test knows.
struct World {
    mesh: Mesh,
    server: Authority,
    clients: Authority,
    files: tempfile::TempDir,
}

/// How a call ended: HTTP's version and status, or curl's exit code.
#[derive(Debug, PartialEq)]
enum Answer {
    Http(String),
    Failed(i32),
}

impl Answer {
    /// Whether the handshake failed: at once, or after the client had finished its part (by what curl makes of the alert).
    fn is_refusal(&self) -> bool {
        matches!(self, Answer::Failed(35 | 55 | 56 | 60 | 92 | 98))
    }
}

fn http(version: &str, status: u16) -> Answer {
    Answer::Http(format!("{version} {status}"))
}

impl World {
    fn start(options: Options) -> World {
        let (server, clients) = (Authority::new("servers"), Authority::new("clients"));
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop");
        let mesh = Mesh::start_with(MIZZEN, &samples, options);
        let files = tempfile::tempdir().expect("a folder");
        let world = World { mesh, server, clients, files };
        world.file("root.pem", &world.server.root);
        world
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Writes what a client shows.
    fn client(&self, name: &str, credential: &Credential) {
        self.file(&format!("{name}.pem"), &format!("{}{}", credential.certificate, credential.key));
    }

    /// The port of this host that leads to one of the gateway's.
    fn port(&self, of: u16) -> u16 {
        let text = fs::read_to_string(self.mesh.run_dir().join("mesh.json")).expect("the description");
        let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let ports = said["gateways"].as_array().cloned().unwrap_or_default();
        let address = ports.iter().find(|port| port["port"] == of).and_then(|port| port["address"].as_str()).unwrap_or_default().to_owned();
        address.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
    }

    /// Calls a host over HTTPS with curl, whose root is the servers' authority.
    fn curl(&self, host: &str, more: &[&str]) -> Answer {
        let (answer, _) = self.curl_with(host, more);
        answer
    }

    fn curl_with(&self, host: &str, more: &[&str]) -> (Answer, String) {
        let port = self.port(443);
        let to = format!("{host}:{port}:127.0.0.1");
        let mut curl = Command::new("curl");
        curl.current_dir(self.files.path());
        curl.args(["-s", "-S", "-m", "20", "-o", "body", "-w", "%{http_version} %{http_code}", "--cacert", "root.pem", "--resolve", &to]);
        curl.args(more).arg(format!("https://{host}:{port}/"));
        let output = curl.stdin(Stdio::null()).output().expect("curl");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => (Answer::Http(String::from_utf8_lossy(&output.stdout).into_owned()), said),
            code => (Answer::Failed(code.unwrap_or(-1)), said),
        }
    }

    #[track_caller]
    fn check(&self, host: &str, more: &[&str], expected: &Answer) {
        let (answer, said) = self.curl_with(host, more);
        assert_eq!(&answer, expected, "{host} {more:?}: {said}\n{}\n{}", self.mesh.said(), self.mesh.logs());
    }

    #[track_caller]
    fn eventually(&self, host: &str, more: &[&str], expected: &Answer) {
        eventually(&format!("{host} {more:?}"), || {
            let (answer, said) = self.curl_with(host, more);
            if answer == *expected { Ok(()) } else { Err(format!("{answer:?}: {said}\n{}", self.mesh.logs())) }
        });
    }

    /// What OpenSSL's client says of a connection.
    fn openssl(&self, name: &str, more: &[&str]) -> String {
        let at = format!("127.0.0.1:{}", self.port(443));
        let mut command = Command::new("openssl");
        command.current_dir(self.files.path()).args(["s_client", "-connect", &at, "-servername", name, "-CAfile", "root.pem"]).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
        child.stdin.take().expect("its input").write_all(b"Q\n").expect("its input");
        let output = child.wait_with_output().expect("openssl");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// The gateway's credentials, into the folder.
    fn secrets(&self) {
        let issue = |names: &[&str]| self.server.issue(names);
        let rsa =
            Command::new("openssl").args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]).output().expect("openssl");
        let rsa = self.server.issue_with(&["two.example"], &String::from_utf8(rsa.stdout).expect("PEM"));
        let roots = self.clients.root.as_str();
        let generic = issue(&["*.optional.example"]);
        let all = [
            issue(&["simple.example", "old.example", "new.example"]).secret("istio-system", "simple", &[]),
            issue(&["mutual.example", "named.example"]).secret("istio-system", "mutual", &[("ca.crt", "of no use beside the companion")]),
            secret("istio-system", "mutual-cacert", &[("ca.crt", roots)]),
            secret("istio-system", "optional", &[("cert", &generic.certificate), ("key", &generic.key), ("cacert", roots)]),
            rsa.secret("istio-system", "two-rsa", &[]),
            issue(&["two.example"]).secret("istio-system", "two-ecdsa", &[]),
            // In another namespace than the gateway.
            issue(&["missing.example"]).secret("shop", "of-the-shop", &[]),
        ];
        self.mesh.save("secrets.yaml", &all.concat());
    }
}

/// Whether those programs are there.
fn has_peers() -> bool {
    peer("curl", "curl").is_some() && peer("openssl", "openssl").is_some()
}

/// What holds whichever proxy is the gateway.
fn each_mode(world: &World) {
    world.secrets();
    world.mesh.save("edge.yaml", GATEWAY);
    let (ok, h1) = (http("2", 200), http("1.1", 200));
    world.eventually("simple.example", &[], &ok);
    world.check("simple.example", &["--http1.1"], &h1);
    // It shows what the name that was asked for has, and nothing to who asks for another.
    world.file("root.pem", &world.clients.root);
    world.check("simple.example", &[], &Answer::Failed(60));
    world.file("root.pem", &world.server.root);
    assert!(world.curl("nobody.example", &[]).is_refusal(), "a name that no server has");
    // A host of another server, in a session of this one.
    world.check("simple.example", &["-H", "Host: mutual.example"], &http("2", 404));

    let (ann, ben) = (world.clients.issue(&["ann.example"]), world.clients.issue(&["ben.example"]));
    for (name, credential) in [
        ("ann", &ann),
        ("ben", &ben),
        ("expired", &world.clients.issue_expired(&["ann.example"])),
        ("stranger", &world.server.issue(&["ann.example"])),
    ] {
        world.client(name, credential);
    }
    world.eventually("mutual.example", &["--cert", "ann.pem"], &ok);
    world.eventually("x.optional.example", &[], &ok);
    for more in [&["--cert", "ann.pem"], &["--cert", "ben.pem"]] {
        world.check("mutual.example", more, &ok);
        world.check("x.optional.example", more, &ok);
    }
    world.check("named.example", &["--cert", "ann.pem"], &ok);
    for (host, client) in [
        ("mutual.example", ""),
        ("mutual.example", "expired.pem"),
        ("mutual.example", "stranger.pem"),
        ("x.optional.example", "expired.pem"),
        ("x.optional.example", "stranger.pem"),
        ("named.example", "ben.pem"),
        ("named.example", ""),
    ] {
        for version in ["--tlsv1.3", "--tls-max=1.2"] {
            let mut more: Vec<&str> = version.split('=').collect();
            if !client.is_empty() {
                more.extend(["--cert", client]);
            }
            let answer = world.curl(host, &more);
            assert!(answer.is_refusal(), "{host} {more:?}: {answer:?}");
        }
    }
    // The Secret that is named lies in a namespace that is not the gateway's.
    assert!(matches!(world.curl("missing.example", &["-m", "3"]), Answer::Failed(28 | 35 | 56)));

    // The client's abilities choose one of two.
    for (algorithms, kind) in
        [("ecdsa_secp256r1_sha256", "Peer signature type: ECDSA"), ("rsa_pss_rsae_sha256", "Peer signature type: RSA-PSS")]
    {
        let said = world.openssl("two.example", &["-sigalgs", algorithms]);
        assert!(said.contains(kind) && said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    for (name, more, expected) in [
        ("simple.example", &["-tls1_3", "-alpn", "h2,http/1.1"][..], &["New, TLSv1.3", "ALPN protocol: h2"][..]),
        ("simple.example", &["-tls1_2", "-alpn", "http/1.1"], &["New, TLSv1.2", "ALPN protocol: http/1.1"]),
        ("old.example", &[], &["New, TLSv1.2, Cipher is ECDHE-ECDSA-AES128-GCM-SHA256"]),
        ("new.example", &["-tls1_2"], &["Cipher is (NONE)"]),
        ("old.example", &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], &["Cipher is (NONE)"]),
        ("simple.example", &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &["Cipher is (NONE)"]),
        ("simple.example", &["-tls1", "-cipher", "ALL:@SECLEVEL=0"], &["Cipher is (NONE)"]),
    ] {
        let said = world.openssl(name, more);
        assert!(expected.iter().all(|part| said.contains(part)), "{name} {more:?}: {expected:?} in\n{said}");
    }
    // Plain text is sent away, with what was asked for.
    let port = world.port(81);
    let curl = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "-H", "Host: simple.example"])
        .arg(format!("http://127.0.0.1:{port}/books?x=1"))
        .output()
        .expect("curl");
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "301 https://simple.example/books?x=1");
}

#[test]
fn tls_at_the_gateway() {
    if !has_peers() {
        return;
    }
    let mut world = World::start(Options::default());
    each_mode(&world);
    revoked(&world);
    files(&world);
    rotated(&world);
    nothing_is_told(&world);
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

#[test]
fn tls_at_an_envoy() {
    let Some(envoy) = envoy().filter(|_| has_peers()) else { return };
    let args = vec!["--data-plane".to_owned(), format!("envoy={}", envoy.display())];
    let mut world = World::start(Options { args, ..Options::default() });
    each_mode(&world);
    revoked(&world);
    files(&world);
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// A list of revoked certificates beside the authorities, and none any more.
fn revoked(world: &World) {
    let (good, bad) = (world.clients.issue(&["good.example"]), world.clients.issue(&["bad.example"]));
    world.client("good", &good);
    world.client("bad", &bad);
    let roots = |list: &[(&str, &str)]| {
        let entries = [&[("ca.crt", world.clients.root.as_str())][..], list].concat();
        // By its name the later of two documents with one name is refused: it takes the other one's place in its file.
        let text = fs::read_to_string(world.mesh.folder.join("secrets.yaml")).expect("the secrets");
        let others: Vec<&str> = text.split("---\n").filter(|part| !part.contains("\"mutual-cacert\"") && !part.is_empty()).collect();
        let others: String = others.iter().map(|part| format!("---\n{part}")).collect();
        world.mesh.save("secrets.yaml", &(others + &secret("istio-system", "mutual-cacert", &entries)));
    };
    world.check("mutual.example", &["--cert", "bad.pem"], &http("2", 200));
    roots(&[("ca.crl", &world.clients.revoked(&[&bad]))]);
    eventually("what is revoked is refused", || match world.curl("mutual.example", &["--cert", "bad.pem"]) {
        answer if answer.is_refusal() => Ok(()),
        other => Err(format!("{other:?}\n{}", world.mesh.logs())),
    });
    world.check("mutual.example", &["--cert", "good.pem"], &http("2", 200));
    roots(&[]);
    world.eventually("mutual.example", &["--cert", "bad.pem"], &http("2", 200));
}

/// Certificates and authorities in files that the gateway sees, which are in force within a moment of a change.
fn files(world: &World) {
    let place = world.files.path().display();
    let write = |name: &str, credential: &Credential| {
        world.file(&format!("{name}.pem"), &credential.certificate);
        world.file(&format!("{name}-key.pem"), &credential.key);
    };
    write("filed", &world.server.issue(&["filed.example", "known.example"]));
    world.file("clients.pem", &world.clients.root);
    let (good, bad) = (world.clients.issue(&["good.example"]), world.clients.issue(&["bad.example"]));
    world.client("good", &good);
    world.client("bad", &bad);
    world.file("clients.crl", &world.clients.revoked(&[&bad]));
    let shown = format!("serverCertificate: {place}/filed.pem, privateKey: {place}/filed-key.pem");
    let gateway = format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: filed, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: 443, name: filed, protocol: HTTPS}}, hosts: [filed.example], tls: {{mode: SIMPLE, {shown}}}}}
  - port: {{number: 443, name: known, protocol: HTTPS}}
    hosts: [known.example]
    tls: {{mode: MUTUAL, {shown}, caCertificates: {place}/clients.pem, caCrl: {place}/clients.crl}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: filed, namespace: shop}}
spec:
  hosts: [filed.example, known.example]
  gateways: [filed]
  http: [{{route: [{{destination: {{host: storefront, port: {{number: 8080}}}}}}]}}]
"
    );
    world.mesh.save("filed.yaml", &gateway);
    let ok = http("2", 200);
    world.eventually("filed.example", &[], &ok);
    world.eventually("known.example", &["--cert", "good.pem"], &ok);
    for more in [&["--cert", "bad.pem"][..], &[]] {
        let answer = world.curl("known.example", more);
        assert!(answer.is_refusal(), "{more:?}: {answer:?}");
    }
    let next = world.server.issue(&["filed.example", "known.example"]);
    write("filed", &next);
    eventually("the new certificate is shown", || {
        let now = leaf(&world.openssl("filed.example", &["-showcerts"]));
        if next.certificate.contains(now.trim()) { Ok(()) } else { Err(now) }
    });
    world.file("clients.crl", &world.clients.revoked(&[]));
    world.eventually("known.example", &["--cert", "bad.pem"], &ok);
    world.mesh.remove("filed.yaml");
}

/// Sessions of a credential that is not there any more are not resumed; and one that is broken leaves the last good one in force.
fn rotated(world: &World) {
    let session = |more: &[&str]| world.openssl("simple.example", &[&["-tls1_2"], more].concat());
    session(&["-sess_out", "session"]);
    assert!(session(&["-sess_in", "session"]).contains("Reused, TLSv1.2"), "a session is resumed");
    let text = fs::read_to_string(world.mesh.folder.join("secrets.yaml")).expect("the secrets");
    let others: String =
        text.split("---\n").filter(|part| !part.contains("\"simple\"") && !part.is_empty()).map(|part| format!("---\n{part}")).collect();
    let before = leaf(&session(&["-showcerts"]));
    let next = world.server.issue(&["simple.example", "old.example", "new.example"]);
    world.mesh.save("secrets.yaml", &(others.clone() + &next.secret("istio-system", "simple", &[])));
    eventually("the new certificate is shown", || {
        let now = leaf(&session(&["-showcerts"]));
        if now != before && next.certificate.replace('\r', "").contains(now.trim()) { Ok(()) } else { Err(now) }
    });
    assert!(session(&["-sess_in", "session"]).contains("New, TLSv1.2"), "no session outlives its credential");
    let mut broken = next.clone();
    broken.key = "no key".to_owned();
    world.mesh.save("secrets.yaml", &(others + &broken.secret("istio-system", "simple", &[])));
    eventually("the proxy says what is wrong", || {
        let said = world.mesh.cli(&["logs", "mizzend"]).out;
        if said.contains("rejected") && said.contains("kubernetes://simple") { Ok(()) } else { Err(said) }
    });
    world.check("simple.example", &[], &http("2", 200));
}

#[test]
fn https_with_an_authority_of_ones_own() {
    if !has_peers() {
        return;
    }
    let data = tempfile::tempdir().expect("a folder");
    let env = vec![("XDG_DATA_HOME".to_owned(), data.path().to_string_lossy().into_owned())];
    let options = Options { args: vec!["--https".to_owned()], env, ..Options::default() };
    let mut world = World::start(options);
    let root = world.mesh.description["https_root"].as_str().unwrap_or_default().to_owned();
    assert_eq!(Path::new(&root), data.path().join("mizzen/https/root.pem"));
    let said = world.mesh.said();
    assert!(
        said.contains("a certificate authority of your own is made") && said.contains(&format!("curl --cacert {root} https://127.0.0.1:")),
        "{said}"
    );
    let first = fs::read_to_string(&root).expect("the root");
    world.file("root.pem", &first);
    world.eventually("localhost", &[], &http("2", 200));
    world.check("localhost", &["--http1.1"], &http("1.1", 200));
    assert_eq!(world.mesh.get("/", &[]).map(|(status, _)| status), Ok(200), "plain text is served as well");
    let said = world.openssl("localhost", &["-verify_hostname", "localhost", "-verify_return_error"]);
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("New, TLSv1.3"), "{said}");
    // A host that a Gateway comes to name is in the next certificate.
    let gateway = fs::read_to_string(world.mesh.folder.join("gateway.yaml")).expect("the Gateway");
    world.mesh.save("gateway.yaml", &gateway.replacen("- \"*\"", "- \"*\"\n    - books.example", 1));
    world.eventually("books.example", &[], &http("2", 200));
    // Programs of the mesh do not see the authority.
    let seen = world.mesh.run("shop", "visitor", &["cat", &root.replace("root.pem", "root-key.pem")]);
    assert!(seen.code != 0 && !seen.out.contains("PRIVATE KEY"), "{seen:?}");
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
    world.mesh.start_again();
    assert_eq!(fs::read_to_string(&root).expect("the root"), first, "who trusts it goes on trusting it");
    assert!(!world.mesh.said().contains("is made"), "{}", world.mesh.said());
    world.eventually("localhost", &[], &http("2", 200));
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// Credentials are replaced while clients call, each on a connection of its own and on one that is kept: no call fails.
#[test]
fn credentials_replaced_under_load() {
    if !has_peers() {
        return;
    }
    const TIMES: usize = 60;
    let mut world = World::start(Options::default());
    world.secrets();
    world.mesh.save("edge.yaml", GATEWAY);
    world.eventually("simple.example", &[], &http("2", 200));
    let (port, folder) = (world.port(443), world.files.path().to_owned());
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (folder, over) = (folder.clone(), over.clone());
            std::thread::spawn(move || {
                let (mut calls, mut failures) = (0, Vec::new());
                while !over.load(Ordering::Relaxed) {
                    // Ten calls on one connection, after one of its own.
                    let url = format!("https://simple.example:{port}/");
                    let mut curl = Command::new("curl");
                    curl.current_dir(&folder).args(["-s", "-S", "-m", "20", "--cacert", "root.pem", "-w", "%{http_code}\n"]);
                    curl.args(["--resolve", &format!("simple.example:{port}:127.0.0.1")]);
                    for _ in 0..10 {
                        curl.args(["-o", "/dev/null", &url]);
                    }
                    let output = curl.stdin(Stdio::null()).output().expect("curl");
                    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
                    calls += answers.lines().count();
                    if !output.status.success() || answers.lines().any(|line| line != "200") {
                        failures.push(format!("{answers} {}", String::from_utf8_lossy(&output.stderr)));
                    }
                }
                (calls, failures)
            })
        })
        .collect();
    let text = fs::read_to_string(world.mesh.folder.join("secrets.yaml")).expect("the secrets");
    let others: String =
        text.split("---\n").filter(|part| !part.contains("\"simple\"") && !part.is_empty()).map(|part| format!("---\n{part}")).collect();
    let listeners = |world: &World| world.mesh.cli(&["proxy-config", "listener", "istio-ingressgateway.istio-system", "-o", "json"]).ok();
    let before = listeners(&world);
    for _ in 0..TIMES {
        let next = world.server.issue(&["simple.example", "old.example", "new.example"]);
        world.mesh.save("secrets.yaml", &(others.clone() + &next.secret("istio-system", "simple", &[])));
        eventually("the new certificate is shown", || {
            let now = leaf(&world.openssl("simple.example", &["-showcerts"]));
            if next.certificate.contains(now.trim()) { Ok(()) } else { Err(now) }
        });
    }
    over.store(true, Ordering::Relaxed);
    let (mut calls, mut failures) = (0, Vec::new());
    for client in clients {
        let (of_client, failed) = client.join().expect("a client");
        calls += of_client;
        failures.extend(failed);
    }
    assert!(failures.is_empty() && calls > TIMES, "{} of {calls} calls: {:?}", failures.len(), failures.first());
    assert_eq!(listeners(&world), before, "no listener is another one for a new credential");
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// The first certificate of what OpenSSL shows.
fn leaf(said: &str) -> String {
    let from = said.find("-----BEGIN CERTIFICATE-----").unwrap_or_default();
    let end = "-----END CERTIFICATE-----";
    let to = said[from..].find(end).map_or(said.len(), |at| from + at + end.len());
    said[from..to].to_owned()
}

/// No key is in what the mesh tells of itself or writes.
fn nothing_is_told(world: &World) {
    let gateway = "istio-ingressgateway.istio-system";
    let shown = world.mesh.cli(&["proxy-config", "secret", gateway]).ok();
    assert!(shown.contains("kubernetes://mutual-cacert") && shown.contains("kubernetes://simple"), "{shown}");
    let mut told = vec![
        shown,
        world.mesh.cli(&["proxy-config", "secret", gateway, "-o", "json"]).ok(),
        world.mesh.cli(&["proxy-config", "all", gateway, "-o", "json"]).out,
        world.mesh.cli(&["analyze"]).out,
        world.mesh.cli(&["logs", "mizzend"]).out,
        world.mesh.said(),
        world.mesh.logs(),
    ];
    let mut stack = vec![world.mesh.run_dir()];
    while let Some(folder) = stack.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => stack.push(path),
                Ok(meta) if meta.is_file() => told.push(String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned()),
                _ => {}
            }
        }
    }
    let text = fs::read_to_string(world.mesh.folder.join("secrets.yaml")).expect("the secrets");
    let marker = text.split("BEGIN PRIVATE KEY-----\\n").nth(1).and_then(|rest| rest.split("\\n").next()).expect("a key").to_owned();
    for text in &told {
        assert!(!text.contains(&marker), "a key is told: {}", &text[..text.len().min(400)]);
    }
}
