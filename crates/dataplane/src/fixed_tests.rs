//! What a host at a gateway holds, by the bytes that are allocated for it.

use std::sync::Arc;

use allocation_counter::measure;
use mizzen_ir::Config;
use mizzen_protos::json::Unknown;
use mizzen_testkit::{Authority, Credential};
use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::{bootstrap::parse_bootstrap, store::Kept};

const TYPE: &str = "type.googleapis.com/envoy";

/// A chain as control planes make them of a server of HTTPS with a host and a certificate of its own.
fn chain(host: &str, credential: &Credential) -> Value {
    let format: serde_json::Map<String, Value> =
        ["start_time", "method", "path", "protocol", "response_code", "response_flags", "bytes_received", "bytes_sent", "duration"]
            .into_iter()
            .map(|name| (name.to_owned(), format!("%{}%", if name == "method" { "REQ(:METHOD)" } else { "PROTOCOL" }).into()))
            .collect();
    let hosts = json!([{"name": host, "domains": [host], "routes": [{"name": "default", "match": {"prefix": "/"},
        "decorator": {"operation": format!("{host}:443/*")}, "route": {"cluster": "shop", "timeout": "0s"}}]}]);
    let http = json!({"@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "edge", "use_remote_address": true,
        "route_config": {"name": host, "virtual_hosts": hosts, "request_headers_to_add": [{"header": {"key": "x-shop", "value": "one"}}]},
        "http_filters": [{"name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{TYPE}.extensions.filters.http.router.v3.Router")}}],
        "access_log": [{"name": "envoy.access_loggers.stdout", "typed_config": {
            "@type": format!("{TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog"), "log_format": {"json_format": format}}}]});
    json!({"filter_chain_match": {"server_names": [host]},
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [{
                "certificate_chain": {"inline_string": credential.certificate}, "private_key": {"inline_string": credential.key}}]}}}})
}

fn bootstrap(authority: &Authority, hosts: usize) -> String {
    let chains: Vec<Value> = (0..hosts)
        .map(|number| {
            let host = format!("shop-{number}.example.com");
            chain(&host, &authority.issue(&[&host]))
        })
        .collect();
    let inspector = json!({"name": "envoy.filters.listener.tls_inspector", "typed_config": {
        "@type": format!("{TYPE}.extensions.filters.listener.tls_inspector.v3.TlsInspector")}});
    let listener = json!({"name": "edge", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 8443}},
        "listener_filters": [inspector], "filter_chains": chains});
    let cluster = json!({"name": "shop", "type": "STATIC", "load_assignment": {"cluster_name": "shop", "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}}}]}]}});
    json!({"node": {"id": "router~127.0.0.1~edge.shop~shop.svc.cluster.local"},
        "static_resources": {"listeners": [listener], "clusters": [cluster]}})
    .to_string()
}

/// What a proxy with so many hosts holds.
struct Held {
    /// By what has been done: resources are taken, they are in force, what is for dumps alone is packed.
    stages: [i64; 3],
    _kept: Kept,
    _fixed: Fixed,
    _config: Arc<Config>,
}

impl Held {
    fn new(authority: &Authority, hosts: usize) -> Held {
        let text = bootstrap(authority, hosts);
        let (mut made, mut config) = (None, None);
        let taken = measure(|| {
            let bootstrap = parse_bootstrap(&text, Unknown::Refused).unwrap();
            let kept = Kept::new(bootstrap.encode_to_vec());
            made = Some((kept, Fixed::new(&mut Plan::new(bootstrap).unwrap(), &Places::default())));
        });
        let (kept, mut fixed) = made.unwrap();
        assert!(fixed.faults.is_empty(), "{:?}", fixed.faults);
        let in_force = measure(|| config = fixed.store.next(Duration::ZERO));
        let config = config.unwrap();
        assert_eq!((config.certificates.size(), fixed.store.unfit().len()), (hosts, 0));
        let packed = measure(|| {
            kept.pack();
            fixed.store.entries().for_each(|entry| entry.body.pack());
        });
        let mut all = 0;
        let stages = [taken, in_force, packed].map(|stage| {
            all += stage.bytes_current;
            all
        });
        Held { stages, _kept: kept, _fixed: fixed, _config: config }
    }
}

#[test]
fn a_host_holds_little() {
    let authority = Authority::new("held");
    let (few, many) = (20, 120);
    // What is made once in the life of the process is made.
    drop(Held::new(&authority, few));
    let [one, other] = [few, many].map(|hosts| Held::new(&authority, hosts).stages);
    let each = [0, 1, 2].map(|stage| (other[stage] - one[stage]) / i64::try_from(many - few).unwrap());
    println!("bytes of a host: {} as they are taken, {} in force, {} when they are packed", each[0], each[1], each[2]);
    assert!(each[2] <= 7_500, "{each:?}");
}
