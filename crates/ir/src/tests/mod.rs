//! Resources are written in protojson here, and go through the compilers as bytes.

mod authorize;
mod balancing;
mod chain;
mod changes;
mod compiling;
mod dynamic;
mod hostile;
mod http;
mod mesh;
mod route;
mod tls;
mod tokens;

use std::sync::{Arc, LazyLock};

use mizzen_http::Head;
use mizzen_protos::json::Descriptors;
use serde_json::{Value, json};

use crate::config::{Listener, RouteConfig};
use crate::{Compiled, Refusal, Resource, ResourceKind, compile};

static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(Descriptors::load);

/// The bytes of a resource.
fn bytes(kind: ResourceKind, resource: &Value) -> Vec<u8> {
    DESCRIPTORS.any_from_value(kind.type_url(), resource).unwrap_or_else(|e| panic!("{e}: {resource}")).value
}

fn compiled(kind: ResourceKind, resource: &Value) -> Result<Compiled, Refusal> {
    compile(kind, &bytes(kind, resource))
}

fn resource(kind: ResourceKind, value: &Value) -> Resource {
    compiled(kind, value).unwrap_or_else(|e| panic!("{e}")).resource
}

fn listener(value: &Value) -> Arc<Listener> {
    match resource(ResourceKind::Listener, value) {
        Resource::Listener(l) => l,
        other => panic!("{other:?}"),
    }
}

fn routes(value: &Value) -> Arc<RouteConfig> {
    match resource(ResourceKind::Route, value) {
        Resource::Route(r) => r,
        other => panic!("{other:?}"),
    }
}

/// A request from `METHOD host/path`, then headers as `name: value`.
fn request(lines: &str) -> Head {
    let mut lines = lines.lines();
    let (method, rest) = lines.next().unwrap().split_once(' ').unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut head = Head::request(method, "http", host, path);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        assert!(head.append(name, value), "{line}");
    }
    head
}

/// A `TypedStruct`.
fn typed_struct(kind: &str, value: Value) -> Value {
    json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "typeUrl": format!("type.googleapis.com/{kind}"), "value": value})
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "tcp", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "statPrefix": cluster, "cluster": cluster}})
}

/// A connection manager with `more` in it, as a network filter.
fn hcm(more: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": "x",
        "rds": {"configSource": {"ads": {}}, "routeConfigName": "80"},
        "httpFilters": [{"name": "router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({"name": "hcm", "typedConfig": config})
}

/// A listener with one chain of these filters.
fn one_chain(filters: Value) -> Value {
    json!({"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 1}}, "filterChains": [{"filters": filters}]})
}
