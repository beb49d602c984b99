//! Routes that a VirtualService leaves to one of another namespace: at the mesh's gateway and for sidecars, with our proxies and with Envoys.

use mizzen_testkit::{Mesh, Options, envoy, eventually, folder, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs of the mesh are this very executable, told by the variable `WORKLOAD` what to be.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    match std::env::var(workload::VARIABLE).as_deref() {
        Ok("caller") => workload::serve(8080, call),
        Ok(_) => workload::serve(8080, workload::named),
        Err(_) => {}
    }
}

/// Calls `front` with the path that comes after its own, and answers with what it got: status and body.
fn call(head: &str) -> workload::Answer {
    let path = workload::path(head).trim_start_matches("/call").to_owned();
    let answer = workload::fetch("front", 8080, &path).map_err(|error| error.to_string());
    let body = answer.map_or_else(
        |error| format!("no answer: {error}"),
        |answer| {
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            format!("{} {body}", head.split(' ').nth(1).unwrap_or_default())
        },
    );
    ("200 OK", String::new(), body)
}

/// One for the gateway, and one for whoever calls `front` within the mesh. Both leave the same to others, and the latter has something for the rest.
const ROOTS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: cave}
spec:
  hosts: ['*']
  gateways: [cave]
  http:
  - {match: [{uri: {prefix: /call/}}], route: [{destination: {host: caller, port: {number: 8080}}}]}
  - {match: [{uri: {prefix: /den/}}], delegate: {name: paths, namespace: den}}
  - {match: [{uri: {prefix: /hidden/}}], delegate: {name: hidden, namespace: den}}
  - {match: [{uri: {prefix: /nobody/}}], delegate: {name: nobody, namespace: den}}
  - {match: [{uri: {exact: /own}}], route: [{destination: {host: front, port: {number: 8080}}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: within, namespace: cave}
spec:
  hosts: [front]
  http:
  - {match: [{uri: {prefix: /den/}}], delegate: {name: paths, namespace: den}}
  - {match: [{uri: {prefix: /hidden/}}], delegate: {name: hidden, namespace: den}}
  - {match: [{uri: {prefix: /nobody/}}], delegate: {name: nobody, namespace: den}}
  - route: [{destination: {host: front, port: {number: 8080}}}]
";

/// Its short names are those of its own namespace, and what lies outside of what is left to it counts nothing.
const PATHS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: paths, namespace: den}
spec:
  exportTo: [cave]
  http:
  - {match: [{uri: {exact: /den/one}}], route: [{destination: {host: one, port: {number: 8080}}}]}
  - {match: [{uri: {prefix: /den/two}}], rewrite: {uri: /rewritten}, route: [{destination: {host: two, port: {number: 8080}}}]}
  - {match: [{uri: {prefix: /own}}], route: [{destination: {host: one, port: {number: 8080}}}]}
";

/// A delegate without conditions, which `exportTo` shows to nobody else.
const HIDDEN: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: hidden, namespace: den}
spec: {exportTo: ['.'], http: [{route: [{destination: {host: two, port: {number: 8080}}}]}]}
";

const NOWHERE: &str = "404 ";
/// Where no route of a delegate holds, the call goes on to what comes after it.
const FRONT: &str = "200 front\n";

/// A path, what its answer holds at the gateway, and to a caller in the mesh.
type Row = (&'static str, &'static str, &'static str);

const ROWS: [Row; 7] = [
    ("/den/one", "200 one\nget /den/one ", "200 one\nget /den/one "),
    ("/den/two/x", "200 two\nget /rewritten/x ", "200 two\nget /rewritten/x "),
    ("/den/three", NOWHERE, FRONT),
    ("/own", FRONT, FRONT),
    ("/owner", NOWHERE, FRONT),
    ("/hidden/x", NOWHERE, FRONT),
    ("/nobody/x", NOWHERE, FRONT),
];

fn start(options: Options) -> Mesh {
    let mut text = workload::gateway("cave") + "{kind: Namespace, apiVersion: v1, metadata: {name: den}}\n";
    for (namespace, name) in [("cave", "front"), ("cave", "caller"), ("den", "one"), ("den", "two")] {
        text += &format!("---{}---{}", workload::service(namespace, name, "http", 8080), workload::deployment(namespace, name, 8080));
    }
    let folder = folder(&[("mesh.yaml", &text), ("roots.yaml", ROOTS), ("paths.yaml", PATHS), ("hidden.yaml", HIDDEN)]);
    Mesh::start_with(MIZZEN, folder.path(), options)
}

/// Waits until a path is answered so.
#[track_caller]
fn answers(mesh: &Mesh, path: &str, expected: &str) {
    eventually(&format!("{expected:?} at {path}"), || {
        let (status, body) = mesh.get(path, &[])?;
        let answer = format!("{status} {body}");
        if answer.contains(expected) { Ok(()) } else { Err(format!("{answer}\n{}\n{}", mesh.said(), mesh.logs())) }
    });
}

#[track_caller]
fn rows(mesh: &Mesh, rows: &[Row]) {
    for (path, gateway, sidecar) in rows {
        answers(mesh, path, gateway);
        answers(mesh, &format!("/call{path}"), sidecar);
    }
}

fn check(mut mesh: Mesh) {
    rows(&mesh, &ROWS);
    // It is shown: to all, and to the root's namespace alone; to somebody else alone it is not.
    let shown = "200 two\nget /hidden/x ";
    for (to, gateway, sidecar) in [("'*'", shown, shown), ("den", NOWHERE, FRONT), ("cave", shown, shown)] {
        mesh.save("hidden.yaml", &HIDDEN.replace("'.'", to));
        rows(&mesh, &[("/hidden/x", gateway, sidecar)]);
    }
    // One with hosts is nobody's delegate.
    mesh.save("hidden.yaml", &HIDDEN.replace("exportTo: ['.']", "hosts: [two.example]"));
    rows(&mesh, &[("/hidden/x", NOWHERE, FRONT)]);
    // What it says is in force at once, and what it does not say any more is not; and the others' routes stay.
    mesh.save("paths.yaml", &PATHS.replace("exact: /den/one", "exact: /den/three"));
    rows(&mesh, &[("/den/three", "200 one\n", "200 one\n"), ("/den/one", NOWHERE, FRONT), ROWS[1], ROWS[3]]);
    mesh.remove("paths.yaml");
    rows(&mesh, &[("/den/three", NOWHERE, FRONT), ("/den/two/x", NOWHERE, FRONT), ROWS[3]]);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn delegates() {
    check(start(Options::default()));
}

#[test]
fn delegates_with_envoys() {
    if let Some(envoy) = envoy() {
        check(start(Options::of_envoys(&envoy)));
    }
}
