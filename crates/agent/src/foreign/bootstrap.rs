//! What an Envoy is started with.

use std::{net::SocketAddr, path::Path};

use mizzen_protos::json::{Descriptors, JsonError, Names};
use mizzen_types::ports;
use serde_json::{Value, json};

use super::{Foreign, OWN_LISTENERS};
use crate::{ADMIN_SOCKET, Options};

/// SOL_SOCKET and SO_MARK of Linux' generic ABI, which x86-64 and arm64 have.
const SO_MARK: (u32, u32) = (1, 36);

/// The bootstrap of Mizzen's own proxy as JSON, and what an Envoy needs besides: the mark on what it dials, the whole admin interface on a
/// Unix socket, and listeners for metrics (15090) and readiness (15021), as Istio's has them.
///
/// # Errors
/// If the message is none that is known, which no options cause.
pub fn bootstrap(options: &Options, foreign: &Foreign) -> Result<Value, JsonError> {
    let admin = options.dir.join(ADMIN_SOCKET);
    let mut all = Descriptors::load().to_value(&crate::bootstrap(options), Names::Proto)?;
    // Who looks after the proxy reaches it though it has as many connections as it may.
    all["admin"] = json!({"address": {"pipe": {"path": admin.to_string_lossy(), "mode": 0o600}}, "ignore_global_conn_limit": true});
    // Istio's names of clusters hold dots, and end with a semicolon where they are statistics' names.
    all["stats_config"] = json!({
        "stats_tags": [{"tag_name": "cluster_name", "regex": "^cluster\\.((.+?);\\.)"}],
        "use_all_default_tags": true,
    });
    if let Some(mark) = options.mark {
        let (level, name) = SO_MARK;
        let option =
            json!({"description": "exempt from the capture", "level": level, "name": name, "int_value": mark, "state": "STATE_PREBIND"});
        all["cluster_manager"] = json!({"upstream_bind_config": {"socket_options": [option]}});
    }
    if !foreign.name_servers.is_empty() {
        let servers: Vec<Value> = foreign.name_servers.iter().map(address).collect();
        all["typed_dns_resolver_config"] = json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": servers,
                "dns_resolver_options": {"no_default_search_domain": true},
            },
        });
    }
    let agent = SocketAddr::from(([127, 0, 0, 1], options.status.map_or(ports::AGENT, |status| status.port())));
    if let Some(clusters) = all["static_resources"]["clusters"].as_array_mut() {
        clusters.push(cluster("prometheus_stats", &pipe(&admin)));
        clusters.push(cluster("agent", &address(&agent)));
    }
    all["static_resources"]["listeners"] = json!([
        listener(options, ports::METRICS, &json!({"prefix": "/stats/prometheus"}), "prometheus_stats"),
        listener(options, ports::READINESS, &json!({"path": "/healthz/ready"}), "agent"),
    ]);
    Ok(all)
}

fn address(address: &SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn pipe(path: &Path) -> Value {
    json!({"pipe": {"path": path.to_string_lossy()}})
}

/// A static cluster of one address, spoken to in HTTP/1.1.
fn cluster(name: &str, address: &Value) -> Value {
    let endpoint = json!({"lb_endpoints": [{"endpoint": {"address": address}}]});
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": name, "endpoints": [endpoint]}})
}

/// A listener that passes on requests for one path, and answers 404 to all others.
fn listener(options: &Options, port: u16, path: &Value, cluster: &str) -> Value {
    let mut at = address(&SocketAddr::from(([0, 0, 0, 0], port)));
    if options.instance_ips.iter().any(std::net::IpAddr::is_ipv6) {
        at["socket_address"]["address"] = "::".into();
        at["socket_address"]["ipv4_compat"] = true.into();
    }
    let name = format!("{OWN_LISTENERS}{port}");
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": path, "route": {"cluster": cluster}}]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({
        "name": name,
        "stat_prefix": name,
        "address": at,
        "ignore_global_conn_limit": true,
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    })
}
