//! Who gets no TLS from a gateway, by each mode of a server, and what he gets in its place: wrong, expired, revoked and missing certificates on either side,
//! names that do not fit, old versions, and sessions of what has been replaced. The same with Mizzen's proxies and with Envoys.

use mizzen_testkit::{Authority, Options, envoy, eventually, secret};

use crate::world::{Answer, World, has_peers, http, servers};

/// A host for each mode: NAME.example.
const MODES: [(&str, &str); 6] = [
    ("simple", "mode: SIMPLE, credentialName: simple"),
    ("stale", "mode: SIMPLE, credentialName: stale"),
    ("mutual", "mode: MUTUAL, credentialName: mutual"),
    ("optional", "mode: OPTIONAL_MUTUAL, credentialName: optional"),
    ("named", "mode: MUTUAL, credentialName: mutual, subjectAltNames: [ann.example]"),
    ("own", "mode: ISTIO_MUTUAL"),
];

/// Whom curl shows: NAME.pem, or nothing.
const CLIENTS: [&str; 6] = ["", "ann", "ben", "stranger", "expired", "revoked"];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It is answered.
    Served,
    /// The gateway ends the handshake.
    Refused,
    /// The client does not believe the gateway.
    Unbelieved,
}
use End::{Refused, Served, Unbelieved};

/// By mode, for each of [`CLIENTS`].
const ENDS: [(&str, [End; 6]); 6] = [
    // Nobody asks for a certificate.
    ("simple", [Served; 6]),
    ("stale", [Unbelieved; 6]),
    ("mutual", [Refused, Served, Served, Refused, Refused, Refused]),
    // None is good, and one that is not is not.
    ("optional", [Served, Served, Served, Refused, Refused, Refused]),
    ("named", [Refused, Served, Refused, Refused, Refused, Refused]),
    // Its certificate is the mesh's, which curl is told to believe: the mesh's own are asked for, which none of these are.
    ("own", [Refused; 6]),
];

fn prepare(world: &World) {
    let revoked = world.clients.issue(&["ann.example"]);
    for (name, credential) in [
        ("ann", &world.clients.issue(&["ann.example"])),
        ("ben", &world.clients.issue(&["ben.example"])),
        ("stranger", &world.server.issue(&["ann.example"])),
        ("expired", &world.clients.issue_expired(&["ann.example"])),
        ("revoked", &revoked),
    ] {
        world.client(name, credential);
    }
    let roots = world.clients.root.as_str();
    let list = world.clients.revoked(&[&revoked]);
    let optional = world.server.issue(&["optional.example"]);
    let generic = [("cert", &*optional.certificate), ("key", &*optional.key), ("cacert", roots), ("crl", &*list)];
    let all = [
        world.server.issue(&["simple.example"]).secret("istio-system", "simple", &[]),
        world.server.issue_expired(&["stale.example"]).secret("istio-system", "stale", &[]),
        world.server.issue(&["mutual.example", "named.example"]).secret("istio-system", "mutual", &[]),
        secret("istio-system", "optional", &generic),
    ];
    world.mesh.save("credentials.yaml", &all.concat());
    world.mesh.save("mutual-cacert.yaml", &secret("istio-system", "mutual-cacert", &[("ca.crt", roots), ("ca.crl", &list)]));
    world.mesh.save("modes.yaml", &servers("modes", MODES.map(|(name, tls)| (format!("{name}.example"), tls.to_owned()))));
}

fn check(mut world: World) {
    prepare(&world);
    for (mode, client) in [("simple", ""), ("mutual", "ann"), ("named", "ann"), ("optional", "")] {
        world.eventually(&format!("{mode}.example"), &shows(client), &http("2", 200));
    }
    certificates(&world);
    names(&world);
    versions(&world);
    sessions(&world);
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// Arguments of curl.
fn shows(client: &str) -> Vec<&str> {
    match client {
        "" => Vec::new(),
        "ann" => vec!["--cert", "ann.pem"],
        "ben" => vec!["--cert", "ben.pem"],
        "stranger" => vec!["--cert", "stranger.pem"],
        "expired" => vec!["--cert", "expired.pem"],
        "revoked" => vec!["--cert", "revoked.pem"],
        other => panic!("{other}"),
    }
}

/// Each mode, each client, in both versions.
fn certificates(world: &World) {
    let mut wrong = Vec::new();
    for (mode, ends) in ENDS {
        for (client, end) in CLIENTS.iter().zip(ends) {
            for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
                let mut more = [version, &shows(client)[..]].concat();
                if mode == "own" {
                    more.push("-k");
                }
                let (answer, said) = world.curl_with(&format!("{mode}.example"), &more);
                let fits = match end {
                    Served => answer == http("2", 200),
                    // Of an alert that says that a certificate has expired, curl speaks as of the server's.
                    Refused => answer.is_refusal() && (answer != Answer::Failed(60) || *client == "expired"),
                    Unbelieved => answer == Answer::Failed(60),
                };
                if !fits {
                    wrong.push(format!("{mode} {more:?}: {end:?} is expected, and it is {answer:?}: {said}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), world.mesh.logs());
}

/// The server name chooses the server, and the request's host does not lead to another one's, whoever has shown what: as with Istio there is no such host (404).
fn names(world: &World) {
    for (mode, client) in [("simple", ""), ("optional", ""), ("optional", "ann"), ("mutual", "ann"), ("named", "ann")] {
        for (other, _) in MODES {
            let expected = http("2", if other == mode { 200 } else { 404 });
            let host = format!("Host: {other}.example");
            world.check(&format!("{mode}.example"), &[&shows(client)[..], &["-H", &host]].concat(), &expected);
        }
        world.check(&format!("{mode}.example"), &[&shows(client)[..], &["-H", "Host: nobody.example"]].concat(), &http("2", 404));
    }
    for client in ["", "ann"] {
        for name in ["nobody.example", "x.simple.example", "example"] {
            let answer = world.curl(name, &shows(client));
            assert!(answer.is_refusal() && answer != Answer::Failed(60), "{name} {client}: {answer:?}");
        }
    }
    // An address is no server name: none is sent.
    let answer = world.curl("127.0.0.1", &["-k"]);
    assert!(answer.is_refusal(), "who names nobody: {answer:?}");
}

/// OpenSSL has been shown no certificate: the handshake has not come that far.
fn no_session(said: &str) -> bool {
    said.contains("no peer certificate available") && said.contains("Cipher is (NONE)")
}

/// Versions that are not spoken any more, by no mode.
fn versions(world: &World) {
    for (mode, _) in MODES {
        for version in ["-tls1", "-tls1_1"] {
            let said = world.openssl(&format!("{mode}.example"), &[version, "-cipher", "ALL:@SECLEVEL=0"]);
            assert!(no_session(&said), "{mode} {version}: {said}");
        }
    }
}

/// What was proved by a session is forgotten with the authorities that have proved it, and with the certificate.
fn sessions(world: &World) {
    let ask = |host: &str, more: &[&str]| world.openssl(host, &[&["-tls1_2"], more].concat());
    let ann = ["-cert", "ann.pem"];
    let resume = [&ann[..], &["-sess_in", "mutual-session"]].concat();
    let first = ask("mutual.example", &[&ann[..], &["-sess_out", "mutual-session"]].concat());
    assert!(first.contains("New, TLSv1.2"), "{first}");
    let again = ask("mutual.example", &resume);
    assert!(again.contains("Reused, TLSv1.2"), "a session is resumed: {again}");
    ask("simple.example", &["-sess_out", "session"]);
    let again = ask("simple.example", &["-sess_in", "session"]);
    assert!(again.contains("Reused, TLSv1.2"), "a session is resumed: {again}");
    // A session of one server is none of another, which asks for more.
    let elsewhere = ask("mutual.example", &["-sess_in", "session"]);
    assert!(!elsewhere.contains("Reused"), "{elsewhere}");

    let others = Authority::new("others");
    world.mesh.save("mutual-cacert.yaml", &secret("istio-system", "mutual-cacert", &[("ca.crt", &others.root)]));
    eventually("ann is a stranger now", || match world.curl("mutual.example", &shows("ann")) {
        answer if answer.is_refusal() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("no session outlives the authority", || match ask("mutual.example", &resume) {
        again if !again.contains("Reused") && again.contains("alert") => Ok(()),
        again => Err(again),
    });
    // Those of others are not touched.
    let again = ask("simple.example", &["-sess_in", "session"]);
    assert!(again.contains("Reused, TLSv1.2"), "a session is resumed: {again}");
    let roots = world.clients.root.as_str();
    world.mesh.save("mutual-cacert.yaml", &secret("istio-system", "mutual-cacert", &[("ca.crt", roots)]));
    world.eventually("mutual.example", &shows("ann"), &http("2", 200));
    let again = ask("mutual.example", &resume);
    assert!(again.contains("New, TLSv1.2"), "it does not come back with it: {again}");
}

#[test]
fn who_gets_no_tls_at_the_gateway() {
    if has_peers() {
        check(World::start(Options::default()));
    }
}

#[test]
fn who_gets_no_tls_at_an_envoy() {
    if let Some(envoy) = envoy().filter(|_| has_peers()) {
        check(World::start(Options::of_envoys(&envoy)));
    }
}
