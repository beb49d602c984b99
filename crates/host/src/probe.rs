//! Probes, made inside a host's network namespace and past its capture.
//!
//! They come from 127.0.0.6, which the rules leave alone on loopback, as Istio's do.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mizzen_types::ports::INBOUND_PASSTHROUGH_V4;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{Host, Io, Process, Spec, Supervisor};

/// An HTTP probe, as a manifest's `httpGet`.
#[derive(Clone, Debug, Default)]
pub struct Http {
    /// The port on the host's own address.
    pub port: u16,
    /// The path with its query, `/` if empty.
    pub path: String,
    /// Further headers; `Host` replaces the address.
    pub headers: Vec<(String, String)>,
}

/// Why a probe failed, for a log line: `connection refused`, `status 503`, `no answer within 1s`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// Succeeds on a status from 200 to 399.
///
/// # Errors
/// [`Failure`] with the reason.
pub async fn http(host: &Host, probe: &Http, limit: Duration) -> Result<(), Failure> {
    let work = async {
        let mut stream = connect(host, probe.port).await?;
        stream.write_all(request(host.address(), probe)?.as_bytes()).await.map_err(failure)?;
        let mut answer = Vec::new();
        let line = loop {
            if let Some(end) = answer.iter().position(|byte| *byte == b'\n') {
                break answer.get(..end).unwrap_or_default();
            }
            if answer.len() > 1024 || stream.read_buf(&mut answer).await.map_err(failure)? == 0 {
                return Err(Failure("not an HTTP answer".to_owned()));
            }
        };
        match status(line) {
            Some(200..=399) => Ok(()),
            Some(status) => Err(Failure(format!("status {status}"))),
            None => Err(Failure("not an HTTP answer".to_owned())),
        }
    };
    within(limit, work).await
}

/// Succeeds if the port accepts a connection.
///
/// # Errors
/// [`Failure`] with the reason.
pub async fn tcp(host: &Host, port: u16, limit: Duration) -> Result<(), Failure> {
    within(limit, async { connect(host, port).await.map(drop) }).await
}

/// Succeeds if the program, run beside the workload, exits with 0. It is killed at the timeout.
///
/// # Errors
/// [`Failure`] with the reason.
pub async fn exec(supervisor: &Supervisor, workload: &Process, spec: &Spec, limit: Duration) -> Result<(), Failure> {
    let started = supervisor.exec(workload, spec, Io::default()).await;
    let process = started.map_err(|error| Failure(error.to_string()))?;
    match timeout(limit, process.wait()).await {
        Ok(exit) if exit.success() => Ok(()),
        Ok(exit) => Err(Failure(exit.to_string())),
        Err(_) => {
            process.stop(Duration::ZERO).await;
            Err(Failure(format!("no end within {limit:?}")))
        }
    }
}

async fn within(limit: Duration, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Failure(format!("no answer within {limit:?}"))))
}

fn failure(error: io::Error) -> Failure {
    Failure(match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    })
}

async fn connect(host: &Host, port: u16) -> Result<TcpStream, Failure> {
    let socket = host.run(open).await.map_err(|error| Failure(error.to_string()))?.map_err(failure)?;
    let target = SocketAddr::from((host.address(), port));
    TcpSocket::from_std_stream(socket.into()).connect(target).await.map_err(failure)
}

/// Not connected yet; it stays in the namespace of the thread.
fn open() -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None)?;
    socket.bind(&SocketAddr::from((INBOUND_PASSTHROUGH_V4, 0)).into())?;
    Ok(socket)
}

fn request(address: Ipv4Addr, probe: &Http) -> Result<String, Failure> {
    let path = if probe.path.is_empty() { "/" } else { &probe.path };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let named = |name: &str| probe.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let mut text = format!("GET {slash}{path} HTTP/1.1\r\n");
    if !named("host") {
        text += &format!("Host: {address}:{}\r\n", probe.port);
    }
    if !named("user-agent") {
        text += "User-Agent: kube-probe/mizzen\r\n";
    }
    for (name, value) in &probe.headers {
        text += &format!("{name}: {value}\r\n");
    }
    if path.contains([' ', '\r', '\n']) || probe.headers.iter().any(|(name, value)| (name.clone() + value).contains(['\r', '\n'])) {
        return Err(Failure("the probe's path or a header has a space or a line break".to_owned()));
    }
    Ok(text + "Connection: close\r\n\r\n")
}

/// The status of a line such as `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers() {
        let headers = vec![("host".to_owned(), "a.b".to_owned())];
        let probe = Http { port: 80, path: "health?x=1".to_owned(), headers };
        let text = request(Ipv4Addr::new(10, 244, 0, 9), &probe).unwrap();
        assert_eq!(text, "GET /health?x=1 HTTP/1.1\r\nUser-Agent: kube-probe/mizzen\r\nhost: a.b\r\nConnection: close\r\n\r\n");
        assert!(request(Ipv4Addr::LOCALHOST, &Http { path: "/a b".to_owned(), ..Http::default() }).is_err());
        assert_eq!(status(b"HTTP/1.0 204 No Content\r"), Some(204));
        assert_eq!(status(b"SSH-2.0-x"), None);
    }
}
