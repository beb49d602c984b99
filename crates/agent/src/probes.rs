//! Probes of the program: kubelet asks the agent, and the agent the program, past the capture.
//!
//! What a pod's author wrote is in `ISTIO_KUBE_APP_PROBERS`, a map from the path that kubelet asks to the probe as it was. It is asked as kubelet would,
//! at the pod's address, from the address whose connections the capture leaves alone.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper_util::rt::TokioIo;
use mizzen_net::{ConnectOptions, FetchError};
use mizzen_pki::tls::{TlsOptions, client_config};
use mizzen_types::ports;
use serde_json::Value;
use tonic::transport::Endpoint;
use tower::service_fn;

use crate::OptionsError;
use crate::options::invalid;

/// The variable.
pub(crate) const VARIABLE: &str = "ISTIO_KUBE_APP_PROBERS";

/// The probes of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    by_path: BTreeMap<String, Probe>,
    address: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Probe {
    port: u16,
    timeout: Duration,
    action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Http { tls: bool, path: String, headers: Vec<(HeaderName, HeaderValue)>, host: Option<String> },
    Tcp,
    Grpc { service: String },
}

/// Why a probe has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] FetchError),
    #[error("{0}")]
    Tls(#[from] mizzen_net::TlsError),
    #[error("{0}")]
    Pki(#[from] mizzen_pki::PkiError),
    #[error("gRPC: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("gRPC: {}", .0.message())]
    Grpc(Box<tonic::Status>),
    #[error("the service is not serving")]
    NotServing,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// kubelet's, where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time that is waited for one probe.
const LONGEST: Duration = Duration::from_secs(3600);
/// gRPC's word for a service that serves.
const SERVING: i32 = 1;

impl Probes {
    /// From the variable's text, for a pod of this address.
    ///
    /// # Errors
    /// If it is not what an injector writes.
    pub(crate) fn read(text: &str, address: Option<IpAddr>) -> Result<Probes, OptionsError> {
        let all: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|error| invalid(VARIABLE, error))?;
        let one = |(path, value): (String, Value)| match Probe::read(&value) {
            Ok(probe) => Ok((path, probe)),
            Err(reason) => Err(invalid(VARIABLE, format!("{path}: {reason}"))),
        };
        Ok(Probes { by_path: all.into_iter().map(one).collect::<Result<_, _>>()?, address })
    }

    /// The status for kubelet; `None`: nobody has such a probe. `agent` is what kubelet calls itself.
    pub(crate) async fn ask(&self, path: &str, agent: Option<&HeaderValue>) -> Option<Result<StatusCode, ProbeError>> {
        let probe = self.by_path.get(path)?;
        let asked = probe.ask(self.address.unwrap_or(IpAddr::from([127, 0, 0, 1])), agent);
        Some(tokio::time::timeout(probe.timeout, asked).await.unwrap_or(Err(ProbeError::Timeout(probe.timeout))))
    }
}

impl Probe {
    fn read(value: &Value) -> Result<Probe, String> {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (of, action) = if let Some(get) = value.get("httpGet").filter(|get| get.is_object()) {
            let (headers, host) = headers(get)?;
            let path = Some(text(get, "path")).filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
            let path = if path.starts_with('/') { path } else { format!("/{path}") };
            (get, Action::Http { tls: text(get, "scheme").eq_ignore_ascii_case("https"), path, headers, host })
        } else if let Some(tcp) = value.get("tcpSocket").filter(|tcp| tcp.is_object()) {
            (tcp, Action::Tcp)
        } else if let Some(grpc) = value.get("grpc").filter(|grpc| grpc.is_object()) {
            (grpc, Action::Grpc { service: text(grpc, "service") })
        } else {
            return Err("it is none of httpGet, tcpSocket, grpc".to_owned());
        };
        let port = of.get("port").and_then(|port| port.as_u64().or_else(|| port.as_str()?.parse().ok()));
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).ok_or("it has no port between 1 and 65535")?;
        let seconds = value.get("timeoutSeconds").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
        Ok(Probe { port, timeout: seconds.map_or(TIMEOUT, Duration::from_secs).min(LONGEST), action })
    }

    async fn ask(&self, address: IpAddr, agent: Option<&HeaderValue>) -> Result<StatusCode, ProbeError> {
        let to = SocketAddr::new(address, self.port);
        let past: IpAddr = if address.is_ipv4() { ports::INBOUND_PASSTHROUGH_V4.into() } else { ports::INBOUND_PASSTHROUGH_V6.into() };
        let options = ConnectOptions { source: Some(past), timeout: self.timeout, ..ConnectOptions::default() };
        let stream = match mizzen_net::connect(to, &options).await {
            // No host has ::6 of its own accord: where nothing is captured nobody has given it.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && past.is_ipv6() => {
                mizzen_net::connect(to, &ConnectOptions { source: None, ..options }).await?
            }
            connected => connected?,
        };
        match &self.action {
            Action::Tcp => Ok(StatusCode::OK),
            Action::Grpc { service } => health(stream, service).await.map(|()| StatusCode::OK),
            Action::Http { tls, path, headers, host } => {
                let mut all: HeaderMap = headers.iter().cloned().collect();
                if let Some(agent) = agent.filter(|_| !all.contains_key(axum::http::header::USER_AGENT)) {
                    all.insert(axum::http::header::USER_AGENT, agent.clone());
                }
                let host = host.clone().unwrap_or_else(|| to.to_string());
                let status = if *tls {
                    // As kubelet: a probe asks whether somebody answers, not who.
                    let config =
                        client_config(None, mizzen_pki::accept_any_server(), &TlsOptions { resumption: false, ..TlsOptions::default() })?;
                    let stream = mizzen_net::connect_tls(stream, config, &address.to_string(), self.timeout).await?;
                    mizzen_net::fetch_status(stream, Method::GET, &host, path, all).await?
                } else {
                    mizzen_net::fetch_status(stream, Method::GET, &host, path, all).await?
                };
                Ok(status)
            }
        }
    }
}

type Headers = (Vec<(HeaderName, HeaderValue)>, Option<String>);

/// The headers, and among them the host.
fn headers(get: &Value) -> Result<Headers, String> {
    let (mut headers, mut host) = (Vec::new(), None);
    for header in get.get("httpHeaders").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| header.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, value) = (text("name"), text("value"));
        if name.eq_ignore_ascii_case("host") {
            host = Some(value.to_owned());
            continue;
        }
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} is none"))?;
        headers.push((name.parse().map_err(|_| format!("`{name}` is no header's name"))?, value));
    }
    Ok((headers, host))
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks by `grpc.health.v1`.
async fn health(stream: tokio::net::TcpStream, service: &str) -> Result<(), ProbeError> {
    let mut once = Some(TokioIo::new(stream));
    let connector =
        service_fn(move |_: http::Uri| std::future::ready(once.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset))));
    let channel = Endpoint::from_static("http://probe").connect_with_connector(connector).await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let response = client.unary(request, path, codec).await.map_err(|status| ProbeError::Grpc(Box::new(status)))?;
    if response.get_ref().status == SERVING { Ok(()) } else { Err(ProbeError::NotServing) }
}

/// Where the program's own metrics are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramMetrics {
    port: u16,
    path: String,
}

/// The variable in which an injector keeps what the pod's annotations said of metrics.
pub(crate) const METRICS_VARIABLE: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
/// So many bytes of the program's metrics are passed on, at most.
const MOST_METRICS: usize = 32 << 20;
/// How long the program may take.
const METRICS_WITHIN: Duration = Duration::from_secs(8);

impl ProgramMetrics {
    /// From the variable's text; `None`: nobody wants them, or they are the agent's own.
    ///
    /// # Errors
    /// If it is not what an injector writes.
    pub(crate) fn read(text: &str, own: u16) -> Result<Option<ProgramMetrics>, OptionsError> {
        let value: Value = serde_json::from_str(text).map_err(|error| invalid(METRICS_VARIABLE, error))?;
        let of = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        if !of("scrape").eq_ignore_ascii_case("true") {
            return Ok(None);
        }
        let port = match of("port") {
            "" => 80,
            text => text.parse().map_err(|_| invalid(METRICS_VARIABLE, format!("`{text}` is not a port")))?,
        };
        let path = if of("path").is_empty() { "/metrics" } else { of("path") };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok((port != own).then_some(ProgramMetrics { port, path }))
    }

    /// What the program tells, as text.
    pub(crate) async fn fetch(&self) -> Result<String, ProbeError> {
        let to = SocketAddr::from(([127, 0, 0, 1], self.port));
        let all = async {
            let stream = match mizzen_net::connect(to, &ConnectOptions::default()).await {
                // A program may listen on IPv6 alone.
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), self.port);
                    mizzen_net::connect(other, &ConnectOptions::default()).await.map_err(|_| refused)?
                }
                connected => connected?,
            };
            let plain = HeaderValue::from_static("text/plain;version=0.0.4;q=1,*/*;q=0.1");
            let headers = HeaderMap::from_iter([(axum::http::header::ACCEPT, plain)]);
            let reply = mizzen_net::fetch_up_to(stream, Method::GET, &to.to_string(), &self.path, headers, "", MOST_METRICS).await?;
            if !reply.status.is_success() {
                return Err(ProbeError::Io(io::Error::other(format!("the program answers {}", reply.status))));
            }
            // The end of one text of several would end all of them.
            let text = String::from_utf8_lossy(&reply.body);
            let mut lines: String = text.lines().filter(|line| line.trim_end() != "# EOF").fold(String::new(), |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            });
            lines.shrink_to_fit();
            Ok(lines)
        };
        tokio::time::timeout(METRICS_WITHIN, all).await.unwrap_or(Err(ProbeError::Timeout(METRICS_WITHIN)))
    }
}

/// What kubelet is told.
pub(crate) fn status(path: &str, asked: Option<Result<StatusCode, ProbeError>>) -> (StatusCode, String) {
    match asked {
        None => (StatusCode::NOT_FOUND, format!("{path}: there is no such probe\n")),
        Some(Ok(status)) => (status, String::new()),
        Some(Err(error)) => {
            tracing::debug!(path, %error, "a probe of the program");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::any;
    use tokio::net::TcpListener;

    use super::*;

    fn probes(text: &str) -> Probes {
        Probes::read(text, Some([127, 0, 0, 1].into())).unwrap()
    }

    async fn asked(value: Value) -> (u16, String) {
        let probes = probes(&serde_json::json!({ "/app-health/a/livez": value }).to_string());
        let (code, text) = status("/x", probes.ask("/app-health/a/livez", Some(&HeaderValue::from_static("kube-probe/1.34"))).await);
        (code.as_u16(), text)
    }

    /// Answers 418, and tells in its body what nobody may see, if the request is the one that is expected.
    async fn program() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = async move |request: axum::extract::Request| {
            let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            let seen = (request.uri().to_string(), header("host"), header("x-a"), header("user-agent"));
            let own = format!("127.0.0.1:{port}");
            let expected = ("/ready?full=1".to_owned(), "shop.example".to_owned(), "1".to_owned(), "kube-probe/1.34".to_owned());
            let plain = ("/".to_owned(), own, String::new(), "kube-probe/1.34".to_owned());
            let code = if seen == expected {
                418
            } else if seen == plain {
                204
            } else {
                500
            };
            (StatusCode::from_u16(code).unwrap(), format!("{seen:?}"))
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(answer))).await });
        port
    }

    #[tokio::test]
    async fn by_http() {
        let port = program().await;
        let headers = serde_json::json!([{ "name": "Host", "value": "shop.example" }, { "name": "X-A", "value": "1" }]);
        let whole = serde_json::json!({ "httpGet": { "path": "/ready?full=1", "port": port, "httpHeaders": headers } });
        assert_eq!(asked(whole).await, (418, String::new()));
        assert_eq!(asked(serde_json::json!({ "httpGet": { "port": port } })).await, (204, String::new()));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert_eq!(asked(serde_json::json!({ "httpGet": { "port": nobody } })).await.0, 500);
        // Plain HTTP is no TLS.
        assert_eq!(asked(serde_json::json!({ "httpGet": { "port": port, "scheme": "HTTPS" } })).await.0, 500);
        assert_eq!(status("/y", probes("{}").ask("/y", None).await).0, 404);
    }

    #[tokio::test]
    async fn by_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(asked(serde_json::json!({ "tcpSocket": { "port": port } })).await.0, 200);
        // Where the capture looks.
        assert_eq!(listener.accept().await.unwrap().1.ip(), IpAddr::from(ports::INBOUND_PASSTHROUGH_V4));
        drop(listener);
        assert_eq!(asked(serde_json::json!({ "tcpSocket": { "port": port } })).await.0, 500);
    }

    #[tokio::test]
    async fn by_grpc() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = async |request: axum::extract::Request| {
            let good = request.uri().path() == "/grpc.health.v1.Health/Check";
            let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
            let asked = <HealthCheckRequest as prost::Message>::decode(&body[5..]).unwrap();
            let status = if good && asked.service == "up" { 1 } else { 2 };
            let message = prost::Message::encode_to_vec(&HealthCheckResponse { status });
            let framed = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], &message[..]].concat();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let body = futures_util::stream::iter([Ok::<_, io::Error>(framed)]);
            // Trailers may stand in the head where there is nothing to be waited for; a client takes both.
            let mut response = axum::response::Response::new(axum::body::Body::from_stream(body));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response.headers_mut().extend(trailers);
            response
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(answer))).await });
        assert_eq!(asked(serde_json::json!({ "grpc": { "port": port, "service": "up" } })).await, (200, String::new()));
        let (code, text) = asked(serde_json::json!({ "grpc": { "port": port, "service": "down" } })).await;
        assert_eq!((code, text.as_str()), (500, "the service is not serving\n"));
    }

    /// A program that takes the connection and says nothing.
    #[tokio::test(start_paused = true)]
    async fn in_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (code, text) = asked(serde_json::json!({ "httpGet": { "port": port }, "timeoutSeconds": 7 })).await;
        assert_eq!((code, text.as_str()), (500, "no answer within 7s\n"));
    }

    #[test]
    fn what_no_injector_writes() {
        let check = |text: &str, want: &str| {
            assert_eq!(Probes::read(text, None).unwrap_err().to_string(), format!("{VARIABLE}: {want}"));
        };
        check(r#"{"/a": {}}"#, "/a: it is none of httpGet, tcpSocket, grpc");
        check(r#"{"/a": {"tcpSocket": {"port": 0}}}"#, "/a: it has no port between 1 and 65535");
        check(r#"{"/a": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b"}]}}}"#, "/a: `a b` is no header's name");
        assert!(Probes::read("[", None).is_err());
    }

    #[tokio::test]
    async fn metrics_of_the_program() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new()
            .route("/m", axum::routing::get(async || "a 1\n# EOF\n"))
            .route("/bad", axum::routing::get(async || StatusCode::FORBIDDEN));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let of = |path: &str| {
            let text = serde_json::json!({ "scrape": "true", "path": path, "port": port.to_string() }).to_string();
            ProgramMetrics::read(&text, 15020).unwrap().unwrap()
        };
        assert_eq!(of("/m").fetch().await.unwrap(), "a 1\n");
        assert_eq!(of("m").fetch().await.unwrap(), "a 1\n");
        assert!(of("/bad").fetch().await.is_err());
        let read = |text: &str| ProgramMetrics::read(text, 15020).unwrap();
        assert_eq!(read(r#"{"scrape":"","path":"","port":""}"#), None);
        assert_eq!(read(r#"{"scrape":"true","path":"","port":""}"#), Some(ProgramMetrics { port: 80, path: "/metrics".into() }));
        assert_eq!(read(r#"{"scrape":"true","port":"15020"}"#), None, "that would never end");
    }
}
