//! TLS at the mesh's gateway, called by curl, OpenSSL and Chromium.

mod browser;
mod failures;
mod hosts;
mod replaced;
mod world;

use std::{fs, path::Path, process::Command};

use mizzen_testkit::{Credential, Options, envoy, eventually, secret};
use world::{Answer, World, has_peers, http, leaf};

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

    each_kind(world, "two.example");
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
    let mut world = World::start(Options::of_envoys(&envoy));
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
        world.mesh.save("mutual-cacert.yaml", &secret("istio-system", "mutual-cacert", &entries));
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

/// The client's abilities choose one of two certificates.
fn each_kind(world: &World, name: &str) {
    for (algorithms, kind) in
        [("ecdsa_secp256r1_sha256", "Peer signature type: ECDSA"), ("rsa_pss_rsae_sha256", "Peer signature type: RSA-PSS")]
    {
        let said = world.openssl(name, &["-sigalgs", algorithms]);
        assert!(said.contains(kind) && said.contains("Verify return code: 0 (ok)"), "{said}");
    }
}

/// Certificates and authorities in files that the gateway sees, which are in force within a moment of a change.
fn files(world: &World) {
    let place = world.files.path().display();
    let write = |name: &str, credential: &Credential| {
        world.file(&format!("{name}.pem"), &credential.certificate);
        world.file(&format!("{name}-key.pem"), &credential.key);
    };
    write("filed", &world.server.issue(&["filed.example", "known.example"]));
    write("filed-rsa", &world.rsa("filed.example"));
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
  - port: {{number: 443, name: filed, protocol: HTTPS}}
    hosts: [filed.example]
    tls: {{mode: SIMPLE, tlsCertificates: [{{{shown}}}, {{serverCertificate: {place}/filed-rsa.pem, privateKey: {place}/filed-rsa-key.pem}}]}}
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
    each_kind(world, "filed.example");
    for more in [&["--cert", "bad.pem"][..], &[]] {
        let answer = world.curl("known.example", more);
        assert!(answer.is_refusal(), "{more:?}: {answer:?}");
    }
    let next = world.server.issue(&["filed.example", "known.example"]);
    write("filed", &next);
    eventually("the new certificate is shown", || {
        let now = leaf(&world.openssl("filed.example", &["-showcerts", "-sigalgs", "ecdsa_secp256r1_sha256"]));
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
    let before = leaf(&session(&["-showcerts"]));
    let next = world.server.issue(&["simple.example", "old.example", "new.example"]);
    world.mesh.save("simple.yaml", &next.secret("istio-system", "simple", &[]));
    eventually("the new certificate is shown", || {
        let now = leaf(&session(&["-showcerts"]));
        if now != before && next.certificate.replace('\r', "").contains(now.trim()) { Ok(()) } else { Err(now) }
    });
    assert!(session(&["-sess_in", "session"]).contains("New, TLSv1.2"), "no session outlives its credential");
    let mut broken = next.clone();
    broken.key = "no key".to_owned();
    world.mesh.save("simple.yaml", &broken.secret("istio-system", "simple", &[]));
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
