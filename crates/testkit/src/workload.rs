//! Programs of a mesh that are a test's own executable: the mesh starts it with [`VARIABLE`], by which it knows what to be, and runs the ignored test
//! `run` of it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
};

/// The variable that holds the workload's name.
pub const VARIABLE: &str = "WORKLOAD";

/// An answer: the status line's end, further lines of the head, each with its end, and the body.
pub type Answer = (&'static str, String, String);

/// Answers each request over HTTP/1.1 by its head, in lower case. One request a connection.
///
/// # Panics
/// If nobody can listen there.
pub fn serve(port: u16, answer: fn(&str) -> Answer) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("listen");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || one(stream, answer));
    }
}

fn one(mut stream: TcpStream, answer: fn(&str) -> Answer) {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => head.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    let (status, headers, body) = answer(&String::from_utf8_lossy(&head).to_ascii_lowercase());
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
}

/// GETs a path of a host over plain HTTP/1.1; the whole answer, head included.
///
/// # Errors
/// If there is no connection, or it breaks off.
pub fn fetch(host: &str, port: u16, path: &str) -> std::io::Result<String> {
    let authority = if port == 80 { host.to_owned() } else { format!("{host}:{port}") };
    fetch_from((host, port), &authority, path)
}

/// The same from whatever listens at an address, with a Host header of one's own.
///
/// # Errors
/// As of [`fetch`].
pub fn fetch_from(to: impl ToSocketAddrs, authority: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The path that a request asks for, by its head.
pub fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// A Service of the Deployment of the same name, with one port, whose name says what is spoken there.
pub fn service(namespace: &str, name: &str, protocol: &str, port: u16) -> String {
    format!(
        "
kind: Service
apiVersion: v1
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{{name: {protocol}, port: {port}}}]}}
"
    )
}

/// Its own name, which the mesh gave it, and what it was asked.
pub fn named(head: &str) -> Answer {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    ("200 OK", String::new(), format!("{name}\n{head}"))
}

/// What it was asked is its answer.
pub fn echo(head: &str) -> Answer {
    ("200 OK", String::new(), head.to_owned())
}

/// A Deployment of this executable.
///
/// # Panics
/// If its path is not known.
pub fn deployment(namespace: &str, name: &str, port: u16) -> String {
    let program = std::env::current_exe().expect("the test's own path").display().to_string();
    format!(
        "
kind: Deployment
apiVersion: apps/v1
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: main
        image: any
        command: ['{program}', run, --exact, --ignored, --nocapture]
        env: [{{name: {VARIABLE}, value: {name}}}]
        ports: [{{containerPort: {port}}}]
        readinessProbe: {{tcpSocket: {{port: {port}}}}}
"
    )
}

/// The bookshop's stock: a program that speaks TCP at port 7070, with its Service. What it needs of namespaces is not among it.
pub const STOCK: &str = "
{apiVersion: v1, kind: Service, metadata: {name: stock, namespace: shop}, spec: {selector: {app: stock}, ports: [{name: tcp, port: 7070}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stock, namespace: shop}
spec:
  selector: {matchLabels: {app: stock}}
  template:
    metadata: {labels: {app: stock}}
    spec:
      containers:
      - {name: stock, image: none, command: [bookshop-stock], readinessProbe: {tcpSocket: {port: 7070}}}
";

/// A namespace with a Gateway for all hosts.
pub fn gateway(namespace: &str) -> String {
    format!(
        "
kind: Namespace
apiVersion: v1
metadata: {{name: {namespace}}}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {{name: {namespace}, namespace: {namespace}}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]}}
---
"
    )
}
