//! The bootstrap files, which both contenders take as they are.

use std::{path::Path, time::Duration, time::SystemTime};

use anyhow::Result;
use clap::ValueEnum;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use mizzen_pki::{Ca, CaLimits, UnixTime};
use mizzen_types::TrustDomain;
use serde_json::{Value, json};

use super::hosts::SERVER;

/// Where the client's proxy takes requests, and raw connections.
pub(super) const HTTP: u16 = 15001;
pub(super) const TCP: u16 = 15002;
/// Where the server's proxy takes both.
const HTTP_IN: u16 = 15006;
const TCP_IN: u16 = 15007;
/// Where the server listens.
pub(super) const BACK: u16 = 8080;
/// The service that is asked, out of all of a [`Size`].
pub(super) const AUTHORITY: &str = "svc-150.shop.svc.cluster.local:8080";

pub(super) const TYPE: &str = "type.googleapis.com/envoy";
const TTL: Duration = Duration::from_secs(86_400);

/// How the proxies speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hop {
    Http1,
    Http2,
}

/// How much there is in the client's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// 200 services of one route each, all of one cluster.
    Usual,
    /// 1,000 services of five routes each, and a cluster for each of them.
    Large,
}

impl Size {
    const ALL: [Size; 2] = [Size::Usual, Size::Large];

    /// Services, and routes of each.
    fn counts(self) -> (usize, usize) {
        match self {
            Size::Usual => (200, 1),
            Size::Large => (1_000, 5),
        }
    }

    /// The cluster of a service.
    fn cluster(self, service: usize) -> String {
        match self {
            Size::Usual => "hop".to_owned(),
            Size::Large => format!("hop-{service}"),
        }
    }

    /// The client's bootstrap file.
    pub(super) fn client(self) -> &'static str {
        match self {
            Size::Usual => "client.json",
            Size::Large => "client-large.json",
        }
    }
}

/// What the server's proxy checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// 10 policies, the last of which lets the client in.
    Usual,
    /// 100 of them.
    Hundred,
    /// 1,000 of them.
    Thousand,
    /// The usual ones, and a token where there is one, as for Istio's RequestAuthentication.
    Tokens,
}

impl Guard {
    const ALL: [Guard; 4] = [Guard::Usual, Guard::Hundred, Guard::Thousand, Guard::Tokens];

    fn policies(self) -> usize {
        match self {
            Guard::Usual | Guard::Tokens => 10,
            Guard::Hundred => 100,
            Guard::Thousand => 1_000,
        }
    }

    /// The server's bootstrap file.
    pub(super) fn server(self) -> &'static str {
        match self {
            Guard::Usual => "server.json",
            Guard::Hundred => "server-100.json",
            Guard::Thousand => "server-1000.json",
            Guard::Tokens => "server-tokens.json",
        }
    }
}

/// Where a token for [`Guard::Tokens`] is.
pub(super) const TOKEN: &str = "token";
/// Who has issued it.
const ISSUER: &str = "https://issuer.example";

/// Writes the bootstrap files and the certificates that they name.
pub(super) fn write(dir: &Path, hop: Hop) -> Result<()> {
    let now = UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?);
    let ca = Ca::self_signed(&TrustDomain::default(), now, CaLimits::default())?;
    std::fs::write(dir.join("roots.pem"), ca.roots().to_pem())?;
    for account in ["client", "server"] {
        let svid = ca.issue(&id(account).parse()?, TTL, now)?;
        std::fs::write(dir.join(format!("{account}.pem")), svid.chain_pem())?;
        std::fs::write(dir.join(format!("{account}.key")), svid.key_pem().expose())?;
    }
    for size in Size::ALL {
        std::fs::write(dir.join(size.client()), client(dir, hop, size).to_string())?;
    }
    let key = EncodingKey::from_ec_pem(ca.issue(&id("issuer").parse()?, TTL, now)?.key_pem().expose().as_bytes())?;
    let claims = json!({"iss": ISSUER, "sub": "somebody", "aud": ["shop"], "exp": now.as_secs() + TTL.as_secs()});
    std::fs::write(dir.join(TOKEN), jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key)?)?;
    let keys = json!({"keys": [Jwk::from_encoding_key(&key, Algorithm::ES256)?]});
    for guard in Guard::ALL {
        std::fs::write(dir.join(guard.server()), server(dir, hop, guard, &keys).to_string())?;
    }
    Ok(())
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

pub(super) fn bootstrap(name: &str, listeners: Value, clusters: Value) -> Value {
    json!({
        "node": {"id": format!("sidecar~10.99.0.1~{name}.shop~shop.svc.cluster.local"), "cluster": format!("{name}.shop")},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

fn client(dir: &Path, hop: Hop, size: Size) -> Value {
    let (services, routes) = size.counts();
    let hosts: Vec<Value> = (0..services)
        .map(|i| {
            let name = format!("svc-{i}.shop.svc.cluster.local");
            // The last one takes what the others do not.
            let routes: Vec<Value> = (1..=routes)
                .map(|n| {
                    let prefix = if n == routes { "/".to_owned() } else { format!("/v{n}/") };
                    json!({"name": "default", "match": {"prefix": prefix}, "decorator": {"operation": format!("{name}:8080/*")},
                        "route": {"cluster": size.cluster(i), "timeout": "0s", "max_grpc_timeout": "0s",
                            "retry_policy": {"retry_on": "connect-failure,refused-stream,unavailable,cancelled", "num_retries": 2}}})
                })
                .collect();
            let address = format!("10.96.{}.{}", i / 250, i % 250);
            json!({"name": format!("{name}:8080"), "domains": [name, format!("{name}:8080"), address], "routes": routes})
        })
        .collect();
    let mut names: Vec<String> = (0..services).map(|i| size.cluster(i)).collect();
    names.dedup();
    let hop_to = |name: &String| {
        let mut http = cluster(name, SERVER, HTTP_IN);
        http["transport_socket"] = tls(dir, "client", "server", hop);
        options(&mut http, hop);
        http
    };
    let mut clusters: Vec<Value> = names.iter().map(hop_to).collect();
    let mut tcp = cluster("hop-tcp", SERVER, TCP_IN);
    tcp["transport_socket"] = tls(dir, "client", "server", Hop::Http1);
    clusters.push(tcp);
    bootstrap(
        "client",
        json!([
            listener("outbound", "127.0.0.1", HTTP, &manager("outbound", &json!(hosts), &[]), None),
            listener("outbound-tcp", "127.0.0.1", TCP, &tcp_proxy("hop-tcp"), None),
        ]),
        clusters.into(),
    )
}

fn server(dir: &Path, hop: Hop, guard: Guard, keys: &Value) -> Value {
    let hosts = json!([{"name": "inbound", "domains": ["*"], "routes": [
        {"name": "default", "match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}]}]);
    // The last of them lets the client in.
    let many = guard.policies();
    let policies: serde_json::Map<String, Value> = (0..many)
        .map(|i| {
            let account = if i + 1 == many { "client".to_owned() } else { format!("other-{i}") };
            let policy = json!({
                "permissions": [{"and_rules": {"rules": [
                    {"or_rules": {"rules": [{"header": {"name": ":method", "string_match": {"exact": "GET"}}}]}},
                    {"or_rules": {"rules": [{"url_path": {"path": {"prefix": "/"}}}]}}]}}],
                "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [
                    {"authenticated": {"principal_name": {"exact": id(&account)}}}]}}]}}],
            });
            (format!("ns[shop]-policy[allow-{i:04}]-rule[0]"), policy)
        })
        .collect();
    let rbac = json!({"name": "envoy.filters.http.rbac", "typed_config": {
        "@type": format!("{TYPE}.extensions.filters.http.rbac.v3.RBAC"), "rules": {"action": "ALLOW", "policies": policies}}});
    let filters = if guard == Guard::Tokens { vec![tokens(keys), rbac] } else { vec![rbac] };
    bootstrap(
        "server",
        json!([
            listener("inbound", "0.0.0.0", HTTP_IN, &manager("inbound", &hosts, &filters), Some(&accepting(dir, hop))),
            listener("inbound-tcp", "0.0.0.0", TCP_IN, &tcp_proxy("app"), Some(&accepting(dir, Hop::Http1))),
        ]),
        json!([cluster("app", "127.0.0.1", BACK)]),
    )
}

/// As istiod has it for a RequestAuthentication of one rule.
fn tokens(keys: &Value) -> Value {
    json!({"name": "envoy.filters.http.jwt_authn", "typed_config": {
        "@type": format!("{TYPE}.extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
        "providers": {"origins-0": {"issuer": ISSUER, "audiences": ["shop"], "payload_in_metadata": "payload", "forward": true,
            "local_jwks": {"inline_string": keys.to_string()}}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "origins-0"}, {"allow_missing": {}}]}}}],
        "bypass_cors_preflight": true}})
}

fn listener(name: &str, address: &str, port: u16, filter: &Value, transport: Option<&Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(transport) = transport {
        chain["transport_socket"] = transport.clone();
    }
    json!({"name": name, "address": {"socket_address": {"address": address, "port_value": port}}, "filter_chains": [chain]})
}

pub(super) fn cluster(name: &str, address: &str, port: u16) -> Value {
    json!({"name": name, "type": "STATIC", "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 100_000}]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}]}]}})
}

fn options(cluster: &mut Value, hop: Hop) {
    let protocol = match hop {
        Hop::Http1 => json!({"http_protocol_options": {}}),
        Hop::Http2 => json!({"http2_protocol_options": {}}),
    };
    let kind = format!("{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions");
    cluster["typed_extension_protocol_options"] =
        json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": kind, "explicit_http_config": protocol}});
}

pub(super) fn manager(name: &str, hosts: &Value, filters: &[Value]) -> Value {
    let router =
        json!({"name": "envoy.filters.http.router", "typed_config": {"@type": format!("{TYPE}.extensions.filters.http.router.v3.Router")}});
    let filters: Vec<&Value> = filters.iter().chain([&router]).collect();
    let add = |i: usize| json!({"header": {"key": format!("x-shop-{i}"), "value": "one"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": format!("{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "codec_type": "AUTO",
        "use_remote_address": false,
        "route_config": {"name": name, "virtual_hosts": hosts, "validate_clusters": false,
            "request_headers_to_add": [add(1), add(2)], "response_headers_to_add": [add(3)], "request_headers_to_remove": ["x-shop-4"]},
        "http_filters": filters,
        "access_log": [access_log()],
    }})
}

/// The fields of Istio's default log; it is written, and nobody keeps it.
fn access_log() -> Value {
    let fields = [
        ("start_time", "%START_TIME%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("protocol", "%PROTOCOL%"),
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
        ("bytes_received", "%BYTES_RECEIVED%"),
        ("bytes_sent", "%BYTES_SENT%"),
        ("duration", "%DURATION%"),
        ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
        ("user_agent", "%REQ(USER-AGENT)%"),
        ("request_id", "%REQ(X-REQUEST-ID)%"),
        ("authority", "%REQ(:AUTHORITY)%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
        ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
        ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
        ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
        ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
        ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
        ("route_name", "%ROUTE_NAME%"),
    ];
    let format: serde_json::Map<String, Value> = fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    json!({"name": "envoy.access_loggers.file", "typed_config": {"@type": format!("{TYPE}.extensions.access_loggers.file.v3.FileAccessLog"),
        "path": "/dev/null", "log_format": {"json_format": format}}})
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{TYPE}.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": cluster, "cluster": cluster}})
}

fn common(dir: &Path, own: &str, other: &str, hop: Hop) -> Value {
    let file = |name: String| json!({"filename": dir.join(name)});
    let alpn = match hop {
        Hop::Http1 => "http/1.1",
        Hop::Http2 => "h2",
    };
    json!({
        "alpn_protocols": [alpn],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file(format!("{own}.pem")), "private_key": file(format!("{own}.key"))}],
        "validation_context": {"trusted_ca": file("roots.pem".to_owned()),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": id(other)}}]},
    })
}

fn tls(dir: &Path, own: &str, other: &str, hop: Hop) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": "outbound_.8080_._.svc-150.shop.svc.cluster.local", "common_tls_context": common(dir, own, other, hop)}})
}

fn accepting(dir: &Path, hop: Hop) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true, "common_tls_context": common(dir, "server", "client", hop)}})
}
