//! A mesh of two proxies with real certificates, configured by the resources that a control plane would send.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use mizzen_ir::{Config, Draft, ResourceKind, compile};
use mizzen_pki::{Ca, CaLimits, Svid, UnixTime};
use mizzen_protos::json::Descriptors;
use serde_json::{Value, json};

use crate::{Node, sim::Sim};

static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(Descriptors::load);
static CA: LazyLock<Ca> = LazyLock::new(|| Ca::self_signed(&Default::default(), now(), CaLimits::default()).unwrap());
static OTHER_CA: LazyLock<Ca> = LazyLock::new(|| Ca::self_signed(&Default::default(), now(), CaLimits::default()).unwrap());

/// The certificates' time is the machine's: rustls reads it, the engine does not. Read once, so that two runs of the same are compared to the second.
pub(super) fn now() -> UnixTime {
    static NOW: LazyLock<UnixTime> =
        LazyLock::new(|| UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()));
    *NOW
}

pub(super) fn wall() -> Duration {
    Duration::from_secs(now().as_secs())
}

/// A change to one resource.
pub(super) fn put(config: &Config, resources: &[(ResourceKind, Value)]) -> Arc<Config> {
    let mut draft = Draft::new(config);
    for (kind, value) in resources {
        let any = DESCRIPTORS.any_from_value(kind.type_url(), value).unwrap_or_else(|e| panic!("{e}: {value}"));
        let compiled = compile(*kind, &any.value).unwrap_or_else(|e| panic!("{e:?}"));
        draft.put(&compiled.resource);
    }
    let (config, problems) = draft.finish();
    assert!(problems.is_empty(), "{problems:?}");
    config
}

fn secret(name: &str, svid: &Svid) -> (ResourceKind, Value) {
    let certificate =
        json!({"certificate_chain": {"inline_string": svid.chain_pem()}, "private_key": {"inline_string": svid.key_pem().expose()}});
    (ResourceKind::Secret, json!({"name": name, "tls_certificate": certificate}))
}

/// The secrets of a workload.
pub(super) fn secrets(account: &str) -> Vec<(ResourceKind, Value)> {
    secrets_of(&CA, account)
}

/// The same, signed by a CA that nobody in the mesh trusts; but trusting the mesh's.
pub(super) fn foreign_secrets(account: &str) -> Vec<(ResourceKind, Value)> {
    let mut secrets = secrets_of(&OTHER_CA, account);
    secrets.pop();
    secrets.push(roots());
    secrets
}

fn roots() -> (ResourceKind, Value) {
    (ResourceKind::Secret, json!({"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": CA.roots().to_pem()}}}))
}

fn secrets_of(ca: &Ca, account: &str) -> Vec<(ResourceKind, Value)> {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
    let svid = ca.issue(&id, Duration::from_secs(24 * 3600), now()).unwrap();
    vec![secret("default", &svid), roots()]
}

fn common_tls(sans: Value, alpn: &[&str]) -> Value {
    let sds = |name: &str| json!({"name": name, "sds_config": {"ads": {}, "resource_api_version": "V3"}});
    json!({
        "tls_certificate_sds_secret_configs": [sds("default")],
        "combined_validation_context": {"default_validation_context": {"match_subject_alt_names": [sans]}, "validation_context_sds_secret_config": sds("ROOTCA")},
        "alpn_protocols": alpn,
    })
}

fn downstream_tls(alpn: &[&str]) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": common_tls(json!({"prefix": "spiffe://cluster.local/"}), alpn),
        "require_client_certificate": true,
    }})
}

pub(super) fn upstream_tls(account: &str, sni: &str, alpn: &[&str]) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common_tls(json!({"exact": format!("spiffe://cluster.local/ns/shop/sa/{account}")}), alpn),
        "sni": sni,
    }})
}

/// One JSON line per request or connection.
pub(super) fn access_log() -> Value {
    json!([{"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": "/dev/stdout",
        "log_format": {"json_format": {
            "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
            "response_code_details": "%RESPONSE_CODE_DETAILS%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
            "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%", "upstream_host": "%UPSTREAM_HOST%", "protocol": "%PROTOCOL%", "route_name": "%ROUTE_NAME%",
            "termination": "%CONNECTION_TERMINATION_DETAILS%", "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "sni": "%REQUESTED_SERVER_NAME%",
            "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "remote": "%DOWNSTREAM_REMOTE_ADDRESS%", "direct": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
            "local": "%DOWNSTREAM_LOCAL_ADDRESS%", "downstream_failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
        }},
    }}])
}

pub(super) fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster, "cluster": cluster, "access_log": access_log(),
    }})
}

pub(super) fn network_rbac(action: &str, policies: Value) -> Value {
    json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
        "stat_prefix": "tcp.", "rules": {"action": action, "policies": policies},
    }})
}

pub(super) fn http_rbac(action: &str, policies: Value) -> Value {
    json!({"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"action": action, "policies": policies},
    }})
}

/// A policy that matches a principal.
pub(super) fn from(account: &str) -> Value {
    json!({"permissions": [{"any": true}], "principals": [{"authenticated": {"principal_name": {"exact": format!("spiffe://cluster.local/ns/shop/sa/{account}")}}}]})
}

fn stats(network: bool) -> Value {
    let kind = if network { "network" } else { "http" };
    let _ = kind;
    json!({"name": "istio.stats", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/stats.PluginConfig", "value": {}}})
}

fn peer_metadata(inbound: bool) -> Value {
    let headers = json!([{"istio_headers": {}}]);
    let value = if inbound {
        json!({"downstream_discovery": headers, "downstream_propagation": headers})
    } else {
        json!({"upstream_discovery": headers, "upstream_propagation": headers})
    };
    json!({"name": "istio.metadata_exchange", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/io.istio.http.peer_metadata.Config", "value": value}})
}

fn alpn() -> Value {
    json!({"name": "istio.alpn", "typed_config": {"@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig", "alpn_override": [
        {"upstream_protocol": "HTTP11", "alpn_override": ["istio-http/1.1", "istio", "http/1.1"]},
        {"upstream_protocol": "HTTP2", "alpn_override": ["istio-h2", "istio", "h2"]},
    ]}})
}

/// An HTTP connection manager.
pub(super) fn hcm(inbound: bool, routes: Value, filters: &[Value]) -> Value {
    let mut all = vec![peer_metadata(inbound)];
    all.extend_from_slice(filters);
    if !inbound {
        all.push(alpn());
    }
    all.push(stats(false));
    all.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x", "http_filters": all, "access_log": access_log(), "server_name": "istio-envoy", "normalize_path": true,
        "stream_idle_timeout": "0s", "proxy_100_continue": true, "upgrade_configs": [{"upgrade_type": "websocket"}], "use_remote_address": false,
        "forward_client_cert_details": if inbound { "APPEND_FORWARD" } else { "SANITIZE" },
        "set_current_client_cert_details": {"uri": true},
    });
    let object = config.as_object_mut().unwrap();
    match routes {
        Value::String(name) => {
            object.insert("rds".to_owned(), json!({"config_source": {"ads": {}, "resource_api_version": "V3"}, "route_config_name": name}))
        }
        inline => object.insert("route_config".to_owned(), inline),
    };
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

/// A route configuration with one virtual host.
pub(super) fn routes(name: &str, routes: Value) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "vhost", "domains": ["*"], "routes": routes, "include_request_attempt_count": true}]})
}

fn address(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

pub(super) fn listener(name: &str, ip: &str, port: u16, direction: &str, more: Value) -> (ResourceKind, Value) {
    let mut value = json!({"name": name, "address": address(ip, port), "traffic_direction": direction, "listener_filters_timeout": "0s", "continue_on_listener_filters_timeout": true});
    for (key, field) in more.as_object().unwrap() {
        value[key] = field.clone();
    }
    (ResourceKind::Listener, value)
}

fn inspectors() -> Value {
    json!([
        {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}},
        {"name": "envoy.filters.listener.http_inspector", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"}},
    ])
}

/// Endpoints by address, inside the mesh or not.
pub(super) fn assignment(name: &str, endpoints: &[&str], mesh: bool) -> (ResourceKind, Value) {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|text| {
            let at: std::net::SocketAddr = text.parse().unwrap();
            let labels = if mesh { json!({"tlsMode": "istio"}) } else { json!({}) };
            json!({"endpoint": {"address": address(&at.ip().to_string(), at.port())},
                   "metadata": {"filter_metadata": {"envoy.transport_socket_match": labels, "istio": {"workload": "reviews-v1;shop;reviews;v1;Kubernetes"}}}, "load_balancing_weight": 1})
        })
        .collect();
    (ResourceKind::Assignment, json!({"cluster_name": name, "endpoints": [{"locality": {}, "lb_endpoints": endpoints}]}))
}

/// A cluster of a mesh service: auto mutual TLS.
pub(super) fn cluster(name: &str, account: &str, more: Value) -> (ResourceKind, Value) {
    let port = name.split('|').nth(1).unwrap_or_default();
    let sni = format!("outbound_.{port}_._.reviews.shop.svc.cluster.local");
    let mut value = json!({
        "name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}, "service_name": name}, "connect_timeout": "10s", "lb_policy": "ROUND_ROBIN",
        "transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": upstream_tls(account, &sni, &["istio-peer-exchange", "istio"])},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}},
        ],
        "common_lb_config": {"healthy_panic_threshold": {}},
        "metadata": {"filter_metadata": {"istio": {"services": [{"host": "reviews.shop.svc.cluster.local", "name": "reviews", "namespace": "shop"}]}}},
    });
    for (key, field) in more.as_object().unwrap() {
        value[key] = field.clone();
    }
    (ResourceKind::Cluster, value)
}

/// The options that make a cluster speak HTTP/2, or as the client does.
pub(super) fn http_options(kind: &str) -> Value {
    let choice = match kind {
        "h2" => json!({"explicit_http_config": {"http2_protocol_options": {}}}),
        "downstream" => json!({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}}),
        _ => json!({"explicit_http_config": {"http_protocol_options": {}}}),
    };
    let mut options = choice;
    options["@type"] = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into();
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}})
}

/// What the server's proxy lets in.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbound {
    pub(super) tcp: Vec<Value>,
    pub(super) http: Vec<Value>,
    pub(super) permissive: bool,
}

pub(super) fn inbound(options: &Inbound) -> (ResourceKind, Value) {
    let exchange = json!({"name": "istio.metadata_exchange", "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange", "value": {"enable_discovery": true, "protocol": "istio-peer-exchange"}}});
    let route = json!([{"name": "default", "match": {"prefix": "/"}, "route": {"cluster": "inbound|9080||", "timeout": "0s",
        "retry_policy": {"retry_on": "reset-before-request", "num_retries": 2}}}]);
    let mut tcp = vec![exchange.clone()];
    tcp.extend(options.tcp.clone());
    tcp.push(stats(true));
    tcp.push(tcp_proxy("inbound|6379||"));
    let http = json!([exchange, hcm(true, routes("inbound|9080||", route), &options.http)]);
    let mut chains = vec![
        json!({"name": "9080", "filter_chain_match": {"destination_port": 9080, "transport_protocol": "tls"}, "transport_socket": downstream_tls(&["h2", "http/1.1"]), "filters": http}),
        json!({"name": "6379", "filter_chain_match": {"destination_port": 6379, "transport_protocol": "tls"},
               "transport_socket": downstream_tls(&["istio-peer-exchange", "h2", "http/1.1"]), "filters": tcp}),
    ];
    if options.permissive {
        chains.push(json!({"name": "9080-raw", "filter_chain_match": {"destination_port": 9080, "transport_protocol": "raw_buffer"}, "filters": http}));
        chains.push(json!({"name": "6379-raw", "filter_chain_match": {"destination_port": 6379, "transport_protocol": "raw_buffer"}, "filters": tcp}));
    }
    listener(
        "virtualInbound",
        "0.0.0.0",
        15006,
        "INBOUND",
        json!({"listener_filters": inspectors(), "filter_chains": chains, "access_log": access_log()}),
    )
}

/// The server's side: a proxy before an application at 10.0.0.2.
pub(super) fn server_config(options: &Inbound) -> Arc<Config> {
    let mut resources = secrets("reviews");
    for (port, kind) in [(9080, "downstream"), (6379, "h1")] {
        let name = format!("inbound|{port}||");
        let mut cluster = json!({"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
            "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0}},
            "metadata": {"filter_metadata": {"istio": {"services": [{"host": "reviews.shop.svc.cluster.local", "name": "reviews", "namespace": "shop"}]}}}});
        for (key, value) in http_options(kind).as_object().unwrap() {
            cluster[key] = value.clone();
        }
        resources.push((ResourceKind::Cluster, cluster));
    }
    resources.push(inbound(options));
    put(&Config::default(), &resources)
}

/// The client's side.
pub(super) fn client_config(secrets: Vec<(ResourceKind, Value)>) -> Arc<Config> {
    let mut resources = secrets;
    let passthrough = json!([tcp_proxy("PassthroughCluster")]);
    resources.push((
        ResourceKind::Cluster,
        json!({"name": "PassthroughCluster", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s"}),
    ));
    resources.push((ResourceKind::Cluster, json!({"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"})));
    resources.push(cluster("outbound|6379||reviews.shop.svc.cluster.local", "reviews", json!({})));
    resources.push(assignment("outbound|6379||reviews.shop.svc.cluster.local", &["10.0.0.2:6379"], true));
    resources.push(cluster("outbound|9080||reviews.shop.svc.cluster.local", "reviews", json!({})));
    resources.push(assignment("outbound|9080||reviews.shop.svc.cluster.local", &["10.0.0.2:9080"], true));
    resources.push((
        ResourceKind::Route,
        routes(
            "9080",
            json!([{"name": "default", "match": {"prefix": "/"}, "route": {
        "cluster": "outbound|9080||reviews.shop.svc.cluster.local", "timeout": "0s"}}]),
        ),
    ));
    resources.push(listener(
        "virtualOutbound",
        "0.0.0.0",
        15001,
        "OUTBOUND",
        json!({"use_original_dst": true, "filter_chains": [{"name": "catchall", "filters": passthrough}]}),
    ));
    resources.push(listener("10.96.0.2_6379", "10.96.0.2", 6379, "OUTBOUND", json!({"bind_to_port": false, "filter_chains": [{"filters": [stats(true), tcp_proxy("outbound|6379||reviews.shop.svc.cluster.local")]}]})));
    resources.push(listener(
        "0.0.0.0_9080",
        "0.0.0.0",
        9080,
        "OUTBOUND",
        json!({"bind_to_port": false, "filter_chains": [{"filters": [hcm(false, json!("9080"), &[])]}]}),
    ));
    put(&Config::default(), &resources)
}

pub(super) fn node(name: &str, ip: &str) -> Node {
    use mizzen_protos::wkt::{Struct, Value as Wkt, value::Kind as K};
    let text = |t: &str| Wkt { kind: Some(K::StringValue(t.to_owned())) };
    let mut labels = Struct::default();
    labels.fields.insert("app".to_owned(), text(name));
    labels.fields.insert("version".to_owned(), text("v1"));
    let mut metadata = Struct::default();
    metadata.fields.insert("NAMESPACE".to_owned(), text("shop"));
    metadata.fields.insert("WORKLOAD_NAME".to_owned(), text(&format!("{name}-v1")));
    metadata.fields.insert("LABELS".to_owned(), Wkt { kind: Some(K::StructValue(labels)) });
    Node { id: format!("sidecar~{ip}~{name}.shop~shop.svc.cluster.local"), cluster: name.to_owned(), metadata }
}

/// Both sides, with the client's proxy first.
pub(super) fn mesh(seed: u64, options: &Inbound) -> Sim {
    mesh_with(seed, client_config(secrets("storefront")), options)
}

pub(super) fn mesh_with(seed: u64, client: Arc<Config>, options: &Inbound) -> Sim {
    let mut sim = Sim::new(seed, wall());
    sim.proxy("10.0.0.1", node("storefront", "10.0.0.1"), client);
    sim.proxy("10.0.0.2", node("reviews", "10.0.0.2"), server_config(options));
    sim.serve(
        "10.0.0.2:6379",
        Box::new(|_, input, eof, out| {
            out.append(input);
            eof
        }),
    );
    sim
}

/// The lines of a log.
pub(super) fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// Nothing is left over: no stream, no buffered byte, no guard but those of the connections that are kept.
pub(super) fn assert_clean(sim: &mut Sim) {
    for proxy in 0..2 {
        let snapshot = sim.snapshot(proxy);
        assert_eq!((snapshot.streams, snapshot.buffered), (0, 0), "proxy {proxy}");
        let (guards, connections) = sim.guards(proxy).unwrap();
        assert_eq!(guards, [connections, 0, 0, 0], "proxy {proxy}: connections, pending, requests, retries");
        let active: u64 = snapshot.clusters.iter().flat_map(|c| &c.hosts).map(|host| host.active).sum();
        assert_eq!(active, 0, "proxy {proxy}: requests that hosts are thought to have");
    }
}
