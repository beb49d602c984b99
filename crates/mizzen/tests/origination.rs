//! TLS that the mesh begins to servers that are not of it: by sidecars and at the gateway, with our proxies and with Envoys.

use std::{fmt::Write as _, fs};

use mizzen_testkit::{Authority, Credential, Foreign, Mesh, Options, envoy, eventually, folder, secret, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs of the mesh are this very executable, told by the variable `WORKLOAD` what to be.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    match std::env::var(workload::VARIABLE).as_deref() {
        Ok("caller") => workload::serve(8080, call),
        Ok("other") => workload::serve(8081, call),
        _ => {}
    }
}

/// Calls over plain HTTP whom the path names, and answers with what it got.
fn call(head: &str) -> workload::Answer {
    let host = workload::path(head).rsplit('/').next().unwrap_or_default();
    ("200 OK", String::new(), workload::fetch(host, 80, "/").unwrap_or_else(|error| format!("no answer: {error}")))
}

/// Who is called: the host is NAME.example.
struct Case {
    name: &'static str,
    /// `tls` of its DestinationRule; `FILES` is the folder of files.
    tls: &'static str,
    /// More of the rule's spec.
    more: &'static str,
    /// What a caller gets, and what the gateway: parts of an answer.
    caller: &'static str,
    gateway: &'static str,
}

/// Stands for [`Refusal::answer`].
const REFUSED: &str = "the server is not believed";

/// What a proxy says that does not believe a server.
#[derive(Clone, Copy)]
struct Refusal {
    /// A part of its answer.
    answer: &'static str,
    /// A part of the reason in its access log.
    reason: &'static str,
    /// The protocol that it offers where nothing is configured.
    alpn: &'static str,
}

const OURS: Refusal =
    Refusal { answer: "TLS_error:invalid peer certificate", reason: "TLS_error:invalid peer certificate", alpn: "alpn=-" };
/// It tells the reason to nobody but its log.
const ENVOYS: Refusal =
    Refusal { answer: "reset reason: remote connection failure", reason: "CERTIFICATE_VERIFY_FAILED", alpn: "alpn=http/1.1" };

const fn case(name: &'static str, tls: &'static str, caller: &'static str, gateway: &'static str) -> Case {
    Case { name, tls, more: "", caller, gateway }
}

const CASES: &[Case] = &[
    case("good", "mode: SIMPLE, caCertificates: FILES/root.pem", "sni=good.example alpn=- client=-", "sni=good.example alpn=- client=-"),
    // By another name, which is compared, and by one of which only the authority is.
    case(
        "named",
        "mode: SIMPLE, caCertificates: FILES/root.pem, sni: good.example, subjectAltNames: [x.example, good.example]",
        "sni=good.example",
        "sni=good.example",
    ),
    case("sni", "mode: SIMPLE, caCertificates: FILES/root.pem, sni: good.example", "sni=good.example", "sni=good.example"),
    case("misnamed", "mode: SIMPLE, caCertificates: FILES/root.pem, sni: good.example, subjectAltNames: [x.example]", REFUSED, REFUSED),
    // The names of the ServiceEntry, where the rule has none.
    case("entry", "mode: SIMPLE, caCertificates: FILES/root.pem", "sni=entry.example", "sni=entry.example"),
    case("stricter", "mode: SIMPLE, caCertificates: FILES/root.pem", REFUSED, REFUSED),
    // The certificate is another host's, has expired, is of somebody else, or is revoked.
    case("wrong", "mode: SIMPLE, caCertificates: FILES/root.pem", REFUSED, REFUSED),
    case("expired", "mode: SIMPLE, caCertificates: FILES/root.pem", REFUSED, REFUSED),
    case("stranger", "mode: SIMPLE, caCertificates: FILES/root.pem", REFUSED, REFUSED),
    case("revoked", "mode: SIMPLE, caCertificates: FILES/root.pem, caCrl: FILES/crl.pem", REFUSED, REFUSED),
    case("listed", "mode: SIMPLE, caCertificates: FILES/root.pem, caCrl: FILES/crl.pem", "sni=listed.example", "sni=listed.example"),
    // Without authorities the system's verify, among whom this one is not; and without a file nobody.
    case("system", "mode: SIMPLE", "503 ", "503 "),
    case("nofile", "mode: SIMPLE, caCertificates: FILES/none.pem", "503 ", "503 "),
    case("skipped", "mode: SIMPLE, insecureSkipVerify: true", "sni=skipped.example", "sni=skipped.example"),
    // Who shows nothing is refused by the server; the certificate is shown from files, from a Secret at the gateway, or from one of the workload's own.
    case("mutual-none", "mode: SIMPLE, caCertificates: FILES/root.pem", "503 ", "503 "),
    case(
        "mutual-files",
        "mode: MUTUAL, caCertificates: FILES/root.pem, clientCertificate: FILES/client.pem, privateKey: FILES/client-key.pem",
        "sni=mutual-files.example alpn=- client=caller.example",
        "client=caller.example",
    ),
    case("mutual-secret", "mode: MUTUAL, credentialName: client", "503 ", "client=gateway.example"),
    Case {
        name: "mutual-selected",
        tls: "mode: MUTUAL, credentialName: client",
        more: "workloadSelector: {matchLabels: {app: caller}}",
        caller: "client=caller.example",
        // No rule is for it: it speaks plain text, which the server does not understand.
        gateway: "50",
    },
];

/// The world beyond the mesh.
struct Outside {
    files: tempfile::TempDir,
    server: Foreign,
    mutual: Foreign,
    authority: Authority,
    clients: Authority,
}

impl Outside {
    fn new() -> Outside {
        let (authority, stranger, clients) = (Authority::new("servers"), Authority::new("strangers"), Authority::new("clients"));
        let of = |name: &str| authority.issue(&[&format!("{name}.example")]);
        let wrong = authority.issue(&["somebody.example"]);
        let revoked = of("revoked");
        let strange = |name: &str| stranger.issue(&[&format!("{name}.example")]);
        let server = Foreign::start(
            &[
                ("good.example", &of("good")),
                ("listed.example", &of("listed")),
                ("system.example", &of("system")),
                ("nofile.example", &of("nofile")),
                ("rewritten.example", &of("rewritten")),
                ("h2.example", &of("h2")),
                ("wrong.example", &wrong),
                ("expired.example", &authority.issue_expired(&["expired.example"])),
                ("stranger.example", &strange("stranger")),
                ("skipped.example", &strange("skipped")),
                ("entry.example", &of("good")),
                ("stricter.example", &of("stricter")),
                ("revoked.example", &revoked),
            ],
            None,
        );
        let names = ["mutual-none.example", "mutual-files.example", "mutual-secret.example", "mutual-selected.example"];
        let all = authority.issue(&names);
        let mutual = Foreign::start(&names.map(|name| (name, &all)), Some(&clients));
        let files = tempfile::tempdir().expect("a folder");
        let client = clients.issue(&["caller.example"]);
        for (name, text) in [
            ("root.pem", &authority.root),
            ("crl.pem", &authority.revoked(&[&revoked])),
            ("client.pem", &client.certificate),
            ("client-key.pem", &client.key),
        ] {
            fs::write(files.path().join(name), text).expect("a file");
        }
        Outside { files, server, mutual, authority, clients }
    }

    fn args(&self) -> Vec<String> {
        let at = |place: &str, server: &Foreign| ["--outside".to_owned(), format!("{place}={}", server.address)];
        [at("192.0.2.1:443", &self.server), at("192.0.2.2:443", &self.mutual)].concat()
    }

    /// What leads to them: as Istio's guide has it, port 80 of a ServiceEntry goes to port 443, and a rule begins TLS there.
    fn config(&self) -> String {
        let mut text = String::new();
        let entry = |name: &str, ports: &str| {
            let address = if name.starts_with("mutual") { "192.0.2.2" } else { "192.0.2.1" };
            // Whom the entry itself names.
            let names = match name {
                "entry" => ", subjectAltNames: [x.example, good.example]",
                "stricter" => ", subjectAltNames: [x.example]",
                _ => "",
            };
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: cave}}\n\
                 spec: {{hosts: [{name}.example], location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{{address: {address}}}], ports: [{ports}]{names}}}\n"
            )
        };
        let rule = |name: &str, spec: &str| {
            let spec = spec.replace("FILES", &self.files.path().display().to_string());
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: cave}}\nspec: {{host: {name}.example, {spec}}}\n"
            )
        };
        for Case { name, tls, more, .. } in CASES {
            text += &entry(name, "{number: 80, name: http, protocol: HTTP, targetPort: 443}");
            let more = if more.is_empty() { String::new() } else { format!(", {more}") };
            text += &rule(name, &format!("trafficPolicy: {{tls: {{{tls}}}}}{more}"));
        }
        text += &entry("h2", "{number: 80, name: http2, protocol: HTTP2, targetPort: 443}");
        text += &rule("h2", "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: FILES/root.pem}}");
        // The other way of the guide: a route sends port 80 to port 443, at which a subset begins TLS.
        text += &entry("rewritten", "{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}");
        text += &rule(
            "rewritten",
            "subsets: [{name: tls, trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, caCertificates: FILES/root.pem}}]}}]",
        );
        text += "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: rewritten, namespace: cave}\n\
                 spec: {hosts: [rewritten.example], http: [{match: [{port: 80}], \
                 route: [{destination: {host: rewritten.example, subset: tls, port: {number: 443}}}]}]}\n";
        let secret = |namespace: &str, client: &Credential| client.secret(namespace, "client", &[]);
        text += &secret("istio-system", &self.clients.issue(&["gateway.example"]));
        text += &secret("cave", &self.clients.issue(&["caller.example"]));
        for namespace in ["istio-system", "cave"] {
            text += &mizzen_testkit::secret(namespace, "client-cacert", &[("cacert", &self.authority.root)]);
        }
        text
    }
}

fn programs() -> String {
    let service = |name: &str, port: u16| {
        format!("---\n{}---\n{}", workload::service("cave", name, "http", port), workload::deployment("cave", name, port))
    };
    let mut routes = String::new();
    for Case { name, .. } in CASES {
        write!(
            routes,
            "{{match: [{{uri: {{exact: /gateway/{name}.example}}}}], rewrite: {{authority: {name}.example}}, \
             route: [{{destination: {{host: {name}.example, port: {{number: 80}}}}}}]}}, "
        )
        .expect("text");
    }
    for (name, port) in [("caller", 8080), ("other", 8081)] {
        write!(
            routes,
            "{{match: [{{uri: {{prefix: /{name}/}}}}], route: [{{destination: {{host: {name}, port: {{number: {port}}}}}}}]}}, "
        )
        .expect("text");
    }
    workload::gateway("cave")
        + &service("caller", 8080)
        + &service("other", 8081)
        + "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: istio, namespace: istio-system}\n\
           data: {mesh: '{accessLogFile: /dev/stdout, accessLogEncoding: JSON}'}\n"
        + &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cave, namespace: cave}}\n\
             spec: {{hosts: ['*'], gateways: [cave], http: [{routes}]}}\n"
        )
}

/// Waits until a path has this in its answer, status included.
#[track_caller]
fn check(mesh: &Mesh, path: &str, expected: &str, refused: Refusal) {
    let expected = if expected == REFUSED { refused.answer } else { expected };
    let expected = &*expected.replace("alpn=-", refused.alpn);
    eventually(&format!("{expected:?} at {path}"), || {
        let (status, body) = mesh.get(path, &[])?;
        let answer = format!("{status} {body}");
        if answer.contains(expected) { Ok(()) } else { Err(format!("{answer}\n{}", mesh.logs())) }
    });
}

/// What holds whichever proxies there are.
fn each_mode(args: Vec<String>, refused: Refusal) {
    let outside = Outside::new();
    let text = programs() + &outside.config();
    let options = Options { args: [args, outside.args()].concat(), ..Options::default() };
    let mut mesh = Mesh::start_with(MIZZEN, folder(&[("cave.yaml", &text)]).path(), options);
    let check = |path: &str, expected: &str| check(&mesh, path, expected, refused);
    for case in CASES {
        check(&format!("/caller/{}.example", case.name), case.caller);
        check(&format!("/gateway/{}.example", case.name), case.gateway);
    }
    check("/caller/rewritten.example", "sni=rewritten.example alpn=- client=-");
    // Whom the rule does not select gets no Secret: there is none in its configuration.
    check("/other/mutual-selected.example", "HTTP/1.1 50");
    check("/other/mutual-files.example", "client=caller.example");
    // HTTP/2 is offered where it is spoken; that server breaks off.
    check("/caller/h2.example", "HTTP/1.1 50");
    let seen = outside.server.seen();
    assert!(seen.iter().any(|caller| caller == "sni=h2.example alpn=h2 client=-"), "{seen:?}");
    for refused in ["wrong", "expired", "stranger", "stricter", "revoked", "system", "nofile"] {
        let name = format!("sni={refused}.example");
        assert!(!outside.server.seen().iter().any(|caller| caller.starts_with(&name)), "{name}: no request may reach it");
    }
    assert!(outside.mutual.seen().iter().all(|caller| !caller.ends_with("client=-")));
    // The access log says why.
    eventually("the reason in the access log", || {
        let log = mesh.cli(&["logs", "istio-ingressgateway", "--proxy"]).out;
        let is_told = |line: &str| line.contains("wrong.example") && line.contains(refused.reason) && line.contains("UF");
        if log.lines().any(is_told) { Ok(()) } else { Err(log) }
    });
    let said = mesh.said();
    for warning in [
        "DestinationRule cave/system: spec.trafficPolicy.tls.mode: there are no caCertificates",
        "DestinationRule cave/skipped: spec.trafficPolicy.tls.insecureSkipVerify: nothing verifies the server",
        "DestinationRule cave/sni: spec.trafficPolicy.tls.sni: nothing checks whom",
        "DestinationRule cave/mutual-secret: spec.trafficPolicy.tls.credentialName: sidecars do not connect by it",
    ] {
        assert!(said.contains(warning), "{warning}\n{said}");
    }
    replaced(&mesh, &outside, refused);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// A file and a Secret that change are in force without a start.
fn replaced(mesh: &Mesh, outside: &Outside, refused: Refusal) {
    let check = |path: &str, expected: &str| check(mesh, path, expected, refused);
    let other = Authority::new("others");
    fs::write(outside.files.path().join("root.pem"), &other.root).expect("a file");
    check("/caller/good.example", REFUSED);
    fs::write(outside.files.path().join("root.pem"), &outside.authority.root).expect("a file");
    check("/caller/good.example", "sni=good.example");
    let text = fs::read_to_string(mesh.folder.join("cave.yaml")).expect("the objects");
    let is_other = |part: &&str| !(part.contains("\"client\"") && part.contains("\"cave\""));
    let others: String = text.split("---\n").filter(is_other).map(|part| format!("---\n{part}")).collect();
    let next = outside.clients.issue(&["next.example"]);
    mesh.save("cave.yaml", &(others + &secret("cave", "client", &[("cert", &next.certificate), ("key", &next.key)])));
    check("/caller/mutual-selected.example", "client=next.example");
}

#[test]
fn tls_to_foreign_servers() {
    each_mode(Vec::new(), OURS);
}

#[test]
fn tls_to_foreign_servers_by_envoys() {
    let Some(envoy) = envoy() else { return };
    each_mode(vec!["--data-plane".to_owned(), format!("envoy={}", envoy.display())], ENVOYS);
}
