//! How often the data path allocates for a request: HTTP/1.1 in, HTTP/2 out, over connections that are there already, with a policy, Istio's
//! metrics and a line of JSON. Only the engine's own calls are counted.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use allocation_counter::measure;
use mizzen_engine::{Accepted, Action, Addrs, ConnId, Node, Now, Options, Worker};
use mizzen_http::{Codec, Event, Head, StreamId};
use mizzen_ir::{Config, Draft, ResourceKind, compile};
use mizzen_protos::json::Descriptors;
use serde_json::{Value, json};

/// Allocations for one request, a little above what is seen. Fewer is better: lower it when they get fewer.
const MOST: u64 = 13;

const LOG: [(&str, &str); 26] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_peer_uri_san", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_peer_uri_san", "%UPSTREAM_PEER_URI_SAN%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

const REQUEST: &[u8] =
    b"GET /reviews/17?full=1 HTTP/1.1\r\nhost: reviews:9080\r\nuser-agent: curl/8.0\r\naccept: */*\r\nx-b3-traceid: 463ac35c9f6413ad\r\n\r\n";

fn typed_struct(name: &str, url: &str, value: Value) -> Value {
    json!({"name": name, "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": format!("type.googleapis.com/{url}"), "value": value}})
}

/// The listener of a client's sidecar, its route, and a cluster that speaks HTTP/2.
fn resources() -> [(ResourceKind, Value); 3] {
    let headers = json!([{"istio_headers": {}}]);
    let rules = json!({"action": "ALLOW", "policies": {"p": {
        "permissions": [{"url_path": {"path": {"prefix": "/reviews"}}}], "principals": [{"any": true}]}}});
    let filters = json!([
        typed_struct("istio.metadata_exchange", "io.istio.http.peer_metadata.Config", json!({"upstream_discovery": headers, "upstream_propagation": headers})),
        {"name": "envoy.filters.http.rbac", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules}},
        typed_struct("istio.stats", "stats.PluginConfig", json!({})),
        {"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
    ]);
    let format: serde_json::Map<String, Value> = LOG.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let log = json!([{"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/stdout", "log_format": {"json_format": format}}}]);
    let routes = json!({"name": "r", "virtual_hosts": [{"name": "reviews", "domains": ["*"], "include_request_attempt_count": true, "routes": [
        {"name": "other", "match": {"path": "/other"}, "route": {"cluster": "c"}},
        {"name": "default", "match": {"prefix": "/"}, "route": {"cluster": "c", "timeout": "15s",
            "retry_policy": {"retry_on": "connect-failure,refused-stream,unavailable,cancelled,503", "num_retries": 2}}}]}]});
    let manager = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x", "http_filters": filters, "access_log": log, "route_config": routes, "normalize_path": true, "stream_idle_timeout": "0s"}});
    let listener = json!({"name": "outbound", "traffic_direction": "OUTBOUND", "filter_chains": [{"filters": [manager]}],
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 9080}}});
    let http2 = json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}});
    let workload = json!({"filter_metadata": {"istio": {"workload": "reviews-v1;shop;reviews;v1;Kubernetes"}}});
    let endpoint = |ip: &str| json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": 9080}}}, "metadata": workload, "load_balancing_weight": 1});
    let cluster = json!({"name": "c", "type": "STATIC", "connect_timeout": "10s", "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [endpoint("10.0.0.2")]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "metadata": {"filter_metadata": {"istio": {"services": [{"host": "reviews.shop.svc.cluster.local", "name": "reviews", "namespace": "shop"}]}}}});
    let assignment = json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [endpoint("10.0.0.2")]}]});
    [(ResourceKind::Listener, listener), (ResourceKind::Cluster, cluster), (ResourceKind::Assignment, assignment)]
}

fn config() -> Arc<Config> {
    let descriptors = Descriptors::load();
    let mut draft = Draft::new(&Config::default());
    for (kind, value) in resources() {
        let any = descriptors.any_from_value(kind.type_url(), &value).unwrap();
        draft.put(&compile(kind, &any.value).unwrap().resource);
    }
    draft.finish().0
}

/// A worker between a client and a server, and what its calls have allocated.
struct Path {
    worker: Worker,
    now: Now,
    actions: Vec<Action>,
    down: ConnId,
    up: Option<ConnId>,
    server: Codec,
    to_server: Vec<u8>,
    from_server: Vec<u8>,
    to_client: Vec<u8>,
    count: u64,
    lines: usize,
}

impl Path {
    fn new() -> Path {
        let now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };
        let options = Options { node: Node::default(), limits: Default::default(), seed: 7, shared: Default::default(), mark: 0 };
        let mut worker = Worker::new(options, config(), now);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let accepted = Accepted { peer: at("10.0.0.1:40000"), local: at("10.96.0.2:9080"), original: Some(at("10.96.0.2:9080")) };
        let down = worker.accept(&"outbound".into(), accepted);
        let mut from_server = Vec::new();
        let server = Codec::h2_server(mizzen_http::Limits::default(), &mut from_server);
        Path {
            worker,
            now,
            actions: Vec::with_capacity(64),
            down,
            up: None,
            server,
            to_server: Vec::new(),
            from_server,
            to_client: Vec::new(),
            count: 0,
            lines: 0,
        }
    }

    /// Counts what a call of the engine allocates.
    fn counted<T>(&mut self, call: impl FnOnce(&mut Worker, &mut Vec<Action>) -> T) -> T {
        let mut result = None;
        let (worker, actions) = (&mut self.worker, &mut self.actions);
        self.count += measure(|| result = Some(call(worker, actions))).count_total;
        result.unwrap()
    }

    fn turn(&mut self) {
        self.now.mono += Duration::from_micros(10);
        let now = self.now;
        self.counted(|worker, actions| {
            worker.tick(now);
            worker.turn(actions);
        });
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Dial(dial) => {
                    let addresses = Addrs { local: "10.0.0.1:50000".parse().unwrap(), peer: "10.0.0.2:9080".parse().unwrap() };
                    self.up = self.worker.dialed(dial.id, Ok(addresses));
                }
                Action::Write(conn) => {
                    let to = if conn == self.down { &mut self.to_client } else { &mut self.to_server };
                    to.extend_from_slice(self.worker.pending(conn));
                    let n = self.worker.pending(conn).len();
                    self.counted(|worker, _| worker.wrote(conn, n));
                }
                Action::Log(_, lines) => self.lines += lines.iter().filter(|b| **b == b'\n').count(),
                _ => {}
            }
        }
        self.actions = Vec::with_capacity(64);
    }

    /// Answers what has come to the server.
    fn serve(&mut self) {
        loop {
            let (n, event) = self.server.next(&self.to_server, &mut self.from_server).unwrap();
            let asked: Option<Option<StreamId>> = event.map(|event| match event {
                Event::Head { stream, end: true, .. } => Some(stream),
                _ => None,
            });
            self.to_server.drain(..n);
            let Some(asked) = asked else { return };
            if let Some(stream) = asked {
                let mut head = Head::response(200);
                head.set("content-type", "application/json");
                head.set("content-length", "11");
                self.server.send_head(stream, &head, false, &mut self.from_server);
                self.server.send_data(stream, b"{\"ok\":true}", true, &mut self.from_server);
            }
        }
    }

    fn request(&mut self) {
        let (down, mut bytes) = (self.down, REQUEST.to_vec());
        assert_eq!(self.counted(|worker, _| worker.bytes(down, &mut bytes)), REQUEST.len());
        for _ in 0..8 {
            self.turn();
            self.serve();
            if let Some(up) = self.up.filter(|_| !self.from_server.is_empty()) {
                let mut bytes = std::mem::take(&mut self.from_server);
                let n = bytes.len();
                assert_eq!(self.counted(|worker, _| worker.bytes(up, &mut bytes)), n);
            }
            if self.to_client.ends_with(b"{\"ok\":true}") {
                assert!(self.to_client.starts_with(b"HTTP/1.1 200"));
                self.to_client.clear();
                return;
            }
        }
        panic!("no answer: {}", String::from_utf8_lossy(&self.to_client));
    }
}

#[test]
fn a_request_on_warm_connections() {
    const WARM: u64 = 200;
    const COUNTED: u64 = 500;
    let mut path = Path::new();
    for _ in 0..WARM {
        path.request();
    }
    path.count = 0;
    for _ in 0..COUNTED {
        path.request();
    }
    let count = path.count;
    path.now.mono += Duration::from_secs(2);
    path.turn();
    assert_eq!(path.lines as u64, WARM + COUNTED, "each request has its line");
    println!("{}.{:02} allocations for one request", count / COUNTED, count % COUNTED * 100 / COUNTED);
    assert!(count <= MOST * COUNTED, "{count} allocations for {COUNTED} requests: more than {MOST} each");
}
