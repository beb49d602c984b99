//! What travels between two hosts, and who may take part in it: the wire itself, and OpenSSL in the place of either proxy. All of it with Mizzen's own
//! proxies, and with Envoys in their place.

mod certificates;

use std::path::Path;

use mizzen_testkit::{Mesh, Options, Output, Sniffer, envoy, eventually, folder, peer};

use certificates::{Identity, foreign, uris};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// A client in one namespace, servers in another.
const MESH: &str = include_str!("mesh.yaml");
const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: beta}, \
    spec: {mtls: {mode: STRICT}}}";
const PERMISSIVE: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: beta}, \
    spec: {mtls: {mode: PERMISSIVE}}}";
/// What a client does by which one can see that the sniffer sees.
const PLAINTEXT: &str = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: plain, namespace: beta}, \
    spec: {host: catalogue.beta.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}}}";

const CLIENT: &str = "spiffe://cluster.local/ns/alpha/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/beta/sa/server";

/// Starts a mesh of one make of proxies.
type Start<'a> = &'a dyn Fn(&str) -> Mesh;

/// Mizzen's own proxies.
fn own(yaml: &str) -> Mesh {
    Mesh::start(MIZZEN, folder(&[("mesh.yaml", yaml)]).path())
}

/// A proof with Envoys in the place of Mizzen's proxies.
fn with_envoys(proof: impl Fn(Start<'_>)) {
    let Some(program) = envoy() else { return };
    let args = vec!["--data-plane".to_owned(), format!("envoy={}", program.display())];
    proof(&|yaml| Mesh::start_with(MIZZEN, folder(&[("mesh.yaml", yaml)]).path(), Options { args: args.clone(), ..Options::default() }));
}

/// What a request says, but for the names of hosts: those are in the clear in a TLS client's first message, as Istio has it.
const REQUEST: [&str; 6] = [
    "POST /books/secret-path?key=secret-query HTTP/1.1",
    "secret-name: secret-value",
    "secret-user-agent/1.0",
    "{\"secret\": \"body of a request\"}",
    "application/secret+json",
    "traceparent",
];

/// A request with all of [`REQUEST`], and one whose answer is worth reading; returns that answer.
fn talk(mesh: &Mesh) -> String {
    let post = [
        "curl -sS -m 20 -o /dev/null -A secret-user-agent/1.0 -H 'secret-name: secret-value' -H 'content-type: application/secret+json'",
        "-H 'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'",
        "-d '{\"secret\": \"body of a request\"}' 'http://catalogue.beta:9080/books/secret-path?key=secret-query'",
        "&& curl -sS -m 20 http://catalogue.beta:9080/books/3",
    ];
    mesh.run("alpha", "client", &["sh", "-c", &post.join(" ")]).ok()
}

/// Says something to the TCP service, and returns its answer.
fn talk_tcp(mesh: &Mesh) -> String {
    let script = "exec 3<>/dev/tcp/stock.beta/7070; echo secret-line-over-tcp >&3; head -n 1 <&3";
    mesh.run("alpha", "client", &["bash", "-c", script]).ok()
}

#[test]
fn nothing_of_a_request_can_be_read_between_namespaces() {
    reading(&own);
}

#[test]
fn nothing_of_a_request_can_be_read_between_namespaces_with_envoys() {
    with_envoys(reading);
}

fn reading(start: Start<'_>) {
    if peer("curl", "curl").is_none() {
        return;
    }
    let mesh = start(MESH);
    let server = mesh.pod_address("beta", "catalogue");
    let Some(sniffer) = Sniffer::start(&mesh) else { return };
    let answer = talk(&mesh);
    assert!(answer.contains("Joshua Slocum"), "{answer}");
    let tcp_answer = talk_tcp(&mesh);
    assert_eq!(tcp_answer, "error: send a book's number\n");
    let seen = sniffer.finish();
    // All that was said is on record: what went to the server's port, and what came from there.
    let carried = |with_port: &str, to: bool| -> usize {
        let ends = |flow: &mizzen_testkit::Flow| if to { flow.1.to_string() } else { flow.0.to_string() };
        seen.flows.iter().filter(|(flow, _)| ends(flow) == with_port).map(|(_, bytes)| bytes.len()).sum()
    };
    let stock = mesh.pod_address("beta", "stock");
    for port in [format!("{server}:9080"), format!("{stock}:7070")] {
        assert!(carried(&port, true) > 500 && carried(&port, false) > 500, "{port}: {:?}", seen.flows.keys());
    }
    for ((from, to), bytes) in &seen.flows {
        let (from_them, to_them) = ([9080, 7070].contains(&from.port()), [9080, 7070].contains(&to.port()));
        if from_them || to_them {
            // Either side's first record is a handshake's of TLS.
            assert_eq!(bytes.get(..2), Some(&[0x16, 0x03][..]), "{from} → {to}");
        }
    }
    let secrets = REQUEST.into_iter().chain(["Joshua Slocum", "secret-line-over-tcp", "send a book's number", "HTTP/1.1 "]);
    for secret in secrets {
        assert!(!seen.holds(secret.as_bytes()), "{secret:?} can be read on the wire");
    }
    for window in answer.as_bytes().windows(12) {
        assert!(!seen.holds(window), "a part of an answer can be read: {:?}", String::from_utf8_lossy(window));
    }

    // And the sniffer would have seen it: the same request where mutual TLS is switched off.
    mesh.save("plain.yaml", PLAINTEXT);
    eventually("the request is in the clear", || {
        let sniffer = Sniffer::start(&mesh).ok_or("not root")?;
        talk(&mesh);
        let seen = sniffer.finish();
        let hidden: Vec<&str> = REQUEST.into_iter().chain(["Joshua Slocum"]).filter(|part| !seen.holds(part.as_bytes())).collect();
        if hidden.is_empty() { Ok(()) } else { Err(format!("{hidden:?} is not to be seen")) }
    });
}

/// What HTTP says to `target` when it is asked for a book in plaintext, from outside of all proxies.
fn plaintext(mesh: &Mesh, target: &str) -> Option<Output> {
    mesh.outside(&["curl", "-sS", "-m", "10", "-w", " %{http_code}", &format!("http://{target}/books/3")], "")
}

/// Whether the TCP service answers somebody outside of all proxies.
fn plaintext_tcp(mesh: &Mesh, target: &str) -> Option<bool> {
    let (host, port) = target.split_once(':').expect("a port");
    // Six bytes, since an Envoy's TLS inspector waits for five, the header of a record of TLS, and by Istio's settings for ever. To Mizzen's own
    // proxy the first one says that this is no TLS.
    let script = format!("exec 3<>/dev/tcp/{host}/{port} && echo 00001 >&3 && head -n 1 <&3");
    Some(mesh.outside(&["bash", "-c", &script], "")?.out == "3\n")
}

#[test]
fn plaintext_is_refused_where_it_is_to_be() {
    plaintext_is_refused(&own);
}

#[test]
fn plaintext_is_refused_where_it_is_to_be_with_envoys() {
    with_envoys(plaintext_is_refused);
}

fn plaintext_is_refused(start: Start<'_>) {
    let (Some(_), Some(_)) = (peer("curl", "curl"), peer("nsenter", "util-linux")) else { return };
    let mesh = start(MESH);
    let http = format!("{}:9080", mesh.pod_address("beta", "catalogue"));
    let tcp = format!("{}:7070", mesh.pod_address("beta", "stock"));
    let accepted = |what: &str| {
        eventually(what, || {
            let http = plaintext(&mesh, &http).ok_or("no nsenter")?;
            let tcp = plaintext_tcp(&mesh, &tcp);
            if http.out.ends_with(" 200") && tcp == Some(true) { Ok(()) } else { Err(format!("{http:?} {tcp:?}\n{}", mesh.logs())) }
        });
    };
    let refused = |what: &str| {
        eventually(what, || {
            let http = plaintext(&mesh, &http).ok_or("no nsenter")?;
            let tcp = plaintext_tcp(&mesh, &tcp);
            // No answer at all, not even one that says no: curl ends with "empty reply" or "reset by peer".
            let nothing = http.out == " 000" && matches!(http.code, 52 | 56);
            if nothing && tcp == Some(false) { Ok(()) } else { Err(format!("{http:?} {tcp:?}")) }
        });
    };
    accepted("PERMISSIVE is the default");
    mesh.save("peers.yaml", STRICT);
    refused("STRICT refuses plaintext");
    assert!(talk(&mesh).contains("Joshua Slocum"), "who is in the mesh is served still");
    assert_eq!(talk_tcp(&mesh), "error: send a book's number\n");
    mesh.save("peers.yaml", PERMISSIVE);
    accepted("PERMISSIVE accepts it again");
    // What was never good says nothing that could be trusted: it counts as STRICT until it is mended.
    mesh.save("more.yaml", &STRICT.replace("STRICT", "STRIKT").replacen("name: ", "name: new-", 1));
    refused("a broken mode refuses plaintext");
    mesh.remove("more.yaml");
    accepted("it is gone");
    mesh.save("peers.yaml", STRICT);
    refused("STRICT refuses it again");
}

/// OpenSSL's client, which asks for a book if the handshake succeeds.
fn s_client(mesh: &Mesh, target: &str, more: &[&str]) -> Output {
    let mut command = vec!["openssl", "s_client", "-connect", target, "-alpn", "istio-http/1.1", "-ign_eof", "-showcerts"];
    command.extend(more);
    let request = "GET /books/3 HTTP/1.1\r\nhost: catalogue.beta:9080\r\nconnection: close\r\n\r\n";
    mesh.outside(&command, request).expect("nsenter")
}

#[test]
fn openssl_in_the_place_of_a_client() {
    openssl_as_client(&own);
}

#[test]
fn openssl_in_the_place_of_a_client_with_envoys() {
    with_envoys(openssl_as_client);
}

fn openssl_as_client(start: Start<'_>) {
    let (Some(_), Some(_)) = (peer("openssl", "openssl"), peer("nsenter", "util-linux")) else { return };
    let mesh = start(MESH);
    mesh.save("peers.yaml", STRICT);
    let target = format!("{}:9080", mesh.pod_address("beta", "catalogue"));
    let folder = mesh.shared();
    let client = Identity::of_pod(&mesh.pod_dir("alpha", "client")).write(&folder, "client");
    let stranger = foreign(CLIENT, "elsewhere").write(&folder, "stranger");
    let namesake = foreign(CLIENT, "cluster.local").write(&folder, "namesake");
    eventually("STRICT is in force", || {
        let output = plaintext(&mesh, &target).ok_or("no nsenter")?;
        if output.out == " 000" { Ok(()) } else { Err(format!("{output:?}")) }
    });

    let served = s_client(&mesh, &target, &["-cert", &client.chain, "-key", &client.key, "-CAfile", &client.roots]);
    assert!(served.out.contains("HTTP/1.1 200") && served.out.contains("Joshua Slocum"), "{served:?}");
    assert!(served.out.contains("Verify return code: 0 (ok)"), "the server's chain leads to the mesh's root\n{served:?}");
    assert_eq!(uris(&served.out), [SERVER], "exactly one name, the server's service account");
    assert_eq!(uris(&std::fs::read_to_string(&client.chain).expect("a chain")), [CLIENT]);

    let none = s_client(&mesh, &target, &[]);
    assert!(!none.out.contains("HTTP/1.1") && none.err.contains("alert"), "a client without a certificate is refused\n{none:?}");
    // The same name in a certificate of another authority.
    let other = s_client(&mesh, &target, &["-cert", &stranger.chain, "-key", &stranger.key]);
    assert!(!other.out.contains("HTTP/1.1") && other.err.contains("alert unknown ca"), "{other:?}");
    // Even if that authority calls itself as the mesh's does,
    let other = s_client(&mesh, &target, &["-cert", &namesake.chain, "-key", &namesake.key]);
    assert!(!other.out.contains("HTTP/1.1") && other.err.contains("alert"), "{other:?}");
    // or the client sends the mesh's root along.
    let roots = std::fs::read_to_string(&client.roots).expect("roots");
    let chain = std::fs::read_to_string(&stranger.chain).expect("a chain") + &roots;
    let dressed = Identity { chain, ..foreign_parts(&stranger) }.write(&folder, "dressed");
    let other = s_client(&mesh, &target, &["-cert", &dressed.chain, "-key", &dressed.key, "-cert_chain", &dressed.chain]);
    assert!(!other.out.contains("HTTP/1.1") && other.err.contains("alert"), "{other:?}");
}

fn foreign_parts(files: &certificates::Files) -> Identity {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).expect("a file");
    Identity { chain: read(&files.chain), key: read(&files.key), roots: read(&files.roots) }
}

#[test]
fn openssl_in_the_place_of_a_server() {
    openssl_as_server(&own);
}

#[test]
fn openssl_in_the_place_of_a_server_with_envoys() {
    with_envoys(openssl_as_server);
}

fn openssl_as_server(start: Start<'_>) {
    let (Some(_), Some(_)) = (peer("openssl", "openssl"), peer("curl", "curl")) else { return };
    let folder_of_files = tempfile::tempdir().expect("a folder");
    let yaml = MESH.to_owned() + &include_str!("impostors.yaml").replace("FOLDER", &folder_of_files.path().display().to_string());
    let mesh = start(&yaml);
    let path = folder_of_files.path();
    // The programs wait for these.
    Identity::of_pod(&mesh.pod_dir("beta", "catalogue")).write(path, "right");
    Identity::of_pod(&mesh.pod_dir("alpha", "client")).write(path, "wrong");
    foreign(SERVER, "cluster.local").write(path, "foreign");

    let call = |host: &str| {
        let url = format!("http://{host}.beta:9443/");
        let output = mesh.run("alpha", "client", &["curl", "-sS", "-m", "20", "-w", " %{http_code}", &url]);
        assert!(output.code == 0, "{host}: {output:?}\n{}", mesh.logs());
        output.out
    };
    let page = eventually("the right certificate is accepted", || {
        let page = call("right");
        if page.ends_with(" 200") { Ok(page) } else { Err(format!("{page}\n{}", mesh.logs())) }
    });
    assert_eq!(uris(&page), [CLIENT], "the client's certificate as OpenSSL shows it: exactly one name, its service account's\n{page}");
    for (host, why) in [("wrong", "a certificate of the mesh, of another service account"), ("foreign", "another authority")] {
        let log = mesh.pod_dir("beta", host).join("log");
        let page = eventually(&format!("{host} is tried"), || {
            let page = call(host);
            // Not because nobody listens there.
            let heard = std::fs::read_to_string(&log).unwrap_or_default();
            if heard.contains("alert") { Ok(page) } else { Err(format!("{page}\n{heard}")) }
        });
        assert!(page.ends_with(" 503"), "{why}: {page}");
        assert!(uris(&page).is_empty(), "{why}: {page}");
    }
}
