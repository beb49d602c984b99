//! Policies change again and again under load: each request is judged by one version of them, whole.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mizzen_testkit::{Mesh, echo, folder, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// Requests in all, and connections.
const REQUESTS: usize = 20_000;
const CONNECTIONS: usize = 4;
/// A connection's requests between two changes that it makes.
const CHANGE_EVERY: usize = 250;

const BASE: &str = "
{kind: ServiceAccount, apiVersion: v1, metadata: {name: echo, namespace: cave}}
---
{kind: Service, apiVersion: v1, metadata: {name: echo, namespace: cave}, spec: {selector: {app: echo}, ports: [{name: http, port: 9080}]}}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: echo, namespace: cave}
spec: {hosts: ['*'], gateways: [cave], http: [{route: [{destination: {host: echo, port: {number: 9080}}}]}]}
---
kind: PeerAuthentication
apiVersion: security.istio.io/v1
metadata: {name: all, namespace: cave}
spec: {mtls: {mode: STRICT}}
---
";

/// The two versions. The first lets in what it names; the second all but what it names. With the ALLOW of the one and the DENY of the other `/never`
/// would be let in.
fn policies(open: bool) -> String {
    let policy = |name: &str, action: &str, rules: &str| {
        format!(
            "---\nkind: AuthorizationPolicy\napiVersion: security.istio.io/v1\nmetadata: {{name: {name}, namespace: cave}}\nspec: {{action: {action}, rules: {rules}}}\n"
        )
    };
    let paths = |paths: &str| format!("[{{to: [{{operation: {{paths: [{paths}]}}}}]}}]");
    if open {
        policy("let", "ALLOW", "[{}]") + &policy("stop", "DENY", &paths("/never, /first"))
    } else {
        // Not left out: what a file does not hold any more goes half a second later, since it may have moved to another one.
        policy("let", "ALLOW", &paths("/always, /first")) + &policy("stop", "DENY", &paths("/nothing"))
    }
}

/// What came of the requests to one path.
#[derive(Debug, Default)]
struct Seen {
    served: AtomicUsize,
    refused: AtomicUsize,
}

const PATHS: [&str; 4] = ["/always", "/never", "/first", "/second"];

/// The requests of one connection, to each path in turn; at times `change` is called, by one connection after the other.
fn ask(address: &str, number: usize, seen: &[Seen; 4], change: &(dyn Fn() + Sync)) {
    let stream = TcpStream::connect(address.trim_start_matches("http://")).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
    let mut reader = BufReader::new(stream);
    for (i, (path, seen)) in PATHS.iter().zip(seen).cycle().take(REQUESTS / CONNECTIONS).enumerate() {
        if i % CHANGE_EVERY == number * CHANGE_EVERY / CONNECTIONS {
            change();
        }
        let request = format!("GET {path} HTTP/1.1\r\nHost: cave\r\n\r\n");
        reader.get_mut().write_all(request.as_bytes()).expect("send");
        let mut head = echo::Head::default();
        loop {
            let mut line = String::new();
            let read = reader.read_line(&mut line);
            if head.line(read, &line).expect("an answer") {
                break;
            }
        }
        let mut body = vec![0; head.length().expect("a length")];
        reader.read_exact(&mut body).expect("a body");
        // The program has no such pages, which is an answer of its own.
        match head.status().expect("a status") {
            404 => seen.served.fetch_add(1, Ordering::Relaxed),
            403 => seen.refused.fetch_add(1, Ordering::Relaxed),
            other => panic!("{path}: {other}: {}", String::from_utf8_lossy(&body)),
        };
    }
}

#[test]
fn no_request_is_judged_by_half_of_a_change() {
    let (base, server) = (workload::gateway("cave") + BASE, echo::echo("cave", "a", 1));
    let mesh = Mesh::start(MIZZEN, folder(&[("base.yaml", &base), ("echo.yaml", &server), ("policies.yaml", &policies(false))]).path());
    mesh.wait_for("/always", &[], "let in", |status, _| status == 404);
    mesh.wait_for("/never", &[], "refused", |status, _| status == 403);
    let (address, seen) = (mesh.address(), <[Seen; 4]>::default());
    let changes = Mutex::new(0_usize);
    let change = || {
        let mut changes = changes.lock().expect("no client has failed");
        mesh.save("policies.yaml", &policies(changes.is_multiple_of(2)));
        *changes += 1;
    };
    std::thread::scope(|scope| {
        let (address, seen, change) = (&address, &seen, &change);
        for number in 0..CONNECTIONS {
            scope.spawn(move || ask(address, number, seen, change));
        }
    });
    println!("{} changes, {seen:?}", changes.into_inner().expect("no client has failed"));
    let of = |at: usize| (seen[at].served.load(Ordering::Relaxed), seen[at].refused.load(Ordering::Relaxed));
    let each = REQUESTS / PATHS.len();
    assert_eq!(of(0), (each, 0), "what both let in was refused");
    assert_eq!(of(1), (0, each), "what both refuse was let in");
    assert!(of(2).0 > 0 && of(2).1 > 0 && of(3).0 > 0 && of(3).1 > 0, "both versions were in force: {seen:?}");
}
