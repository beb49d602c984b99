//! What a DestinationRule's traffic policy becomes: fields of clusters, keys of routes and TCP proxies, priorities and weights of endpoints.

use std::fmt::Write as _;

use mizzen_model::{ProxyView, Reader};
use mizzen_protos::{
    envoy::envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{LbConfig, SlowStartConfig, common_lb_config::LocalityConfigSpecifier},
            },
            endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
            listener::v3::{Listener, filter},
            route::v3::{RouteAction, RouteConfiguration, route::Action, route_action::hash_policy::PolicySpecifier},
        },
        extensions::{
            filters::network::tcp_proxy::v3::TcpProxy,
            upstreams::http::v3::{
                HttpProtocolOptions, http_protocol_options::UpstreamProtocolOptions,
                http_protocol_options::explicit_http_config::ProtocolConfig,
            },
        },
    },
    wkt,
};
use mizzen_types::Locality;

use super::{facts, shop, summary::decode, visitor};
use crate::{ResourceKind, build};

fn made<M: prost::Message + Default>(texts: &[&str], view: &ProxyView, kind: ResourceKind, name: &str) -> M {
    let snapshot = shop(texts);
    let any = build(&Reader::new(&snapshot), view, kind, &name.into()).unwrap_or_else(|| panic!("no {kind:?} {name}")).any;
    decode(&any)
}

/// A rule with these blocks for `host`.
fn rule(host: &str, blocks: &str) -> String {
    format!(
        "
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {{name: {host}, namespace: shop}}
spec: {{host: {host}, {blocks}}}
"
    )
}

fn policy(host: &str, policy: &str) -> String {
    rule(host, &format!("trafficPolicy: {{{policy}}}"))
}

fn time(duration: Option<&wkt::Duration>) -> String {
    duration.map_or("-".into(), |d| format!("{}ms", d.seconds * 1000 + i64::from(d.nanos / 1_000_000)))
}

fn num(value: Option<wkt::UInt32Value>) -> String {
    match value {
        Some(wkt::UInt32Value { value: u32::MAX }) => "max".into(),
        Some(wkt::UInt32Value { value }) => value.to_string(),
        None => "-".into(),
    }
}

fn start(config: &SlowStartConfig) -> String {
    let aggression = config.aggression.as_ref().map_or("-".into(), |a| format!("{}@{}", a.default_value, a.runtime_key));
    let least = config.min_weight_percent.map_or("-".into(), |p| p.value.to_string());
    format!("start={} aggression={aggression} least={least}", time(config.slow_start_window.as_ref()))
}

/// What a policy decides of a cluster.
fn settings(c: &Cluster) -> String {
    let mut out = c.lb_policy().as_str_name().to_owned();
    let size = |value: Option<wkt::UInt64Value>| value.map_or("-".into(), |v| v.value.to_string());
    match &c.lb_config {
        Some(LbConfig::RingHashLbConfig(ring)) => write!(out, " ring>={}", size(ring.minimum_ring_size)).unwrap(),
        Some(LbConfig::MaglevLbConfig(maglev)) => write!(out, " table={}", size(maglev.table_size)).unwrap(),
        Some(LbConfig::LeastRequestLbConfig(least)) => write!(out, " {}", start(least.slow_start_config.as_ref().unwrap())).unwrap(),
        Some(LbConfig::RoundRobinLbConfig(turns)) => write!(out, " {}", start(turns.slow_start_config.as_ref().unwrap())).unwrap(),
        Some(other) => write!(out, " {other:?}").unwrap(),
        None => {}
    }
    let common = c.common_lb_config.as_ref();
    if let Some(panic) = common.and_then(|c| c.healthy_panic_threshold) {
        write!(out, " panic={}", panic.value).unwrap();
    }
    match common.and_then(|c| c.locality_config_specifier.as_ref()) {
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => out.push_str(" by-locality"),
        Some(other) => write!(out, " {other:?}").unwrap(),
        None => {}
    }
    write!(out, " connect={}", time(c.connect_timeout.as_ref())).unwrap();
    let [limits] = c.circuit_breakers.as_ref().unwrap().thresholds.as_slice() else { panic!("{:?}", c.circuit_breakers) };
    let all = [limits.max_connections, limits.max_pending_requests, limits.max_requests, limits.max_retries].map(num);
    if all != ["max"; 4] {
        write!(out, " limits={}", all.join("/")).unwrap();
    }
    if let Some(budget) = &limits.retry_budget {
        write!(out, " retries={}%>={}", budget.budget_percent.unwrap().value, num(budget.min_retry_concurrency)).unwrap();
    }
    if let Some(probes) = c.upstream_connection_options.as_ref().and_then(|o| o.tcp_keepalive.as_ref()) {
        let all = [probes.keepalive_probes, probes.keepalive_time, probes.keepalive_interval].map(num);
        write!(out, " keepalive={}", all.join("/")).unwrap();
    }
    if let Some(o) = &c.outlier_detection {
        let pair = |count: Option<wkt::UInt32Value>, enforced| format!("{}@{}", num(count), num(enforced));
        let times = [time(o.interval.as_ref()), time(o.base_ejection_time.as_ref())].join("/");
        let five = pair(o.consecutive_5xx, o.enforcing_consecutive_5xx);
        let gateway = pair(o.consecutive_gateway_failure, o.enforcing_consecutive_gateway_failure);
        write!(out, " eject(5xx={five} gateway={gateway} {times} most={}", num(o.max_ejection_percent)).unwrap();
        if o.split_external_local_origin_errors {
            let local = pair(o.consecutive_local_origin_failure, o.enforcing_consecutive_local_origin_failure);
            write!(out, " local={local} rate={}", num(o.enforcing_local_origin_success_rate)).unwrap();
        }
        write!(out, " rate={})", num(o.enforcing_success_rate)).unwrap();
    }
    if let Some(options) = c.typed_extension_protocol_options.values().next() {
        write!(out, " {}", http(&decode(options))).unwrap();
    }
    out
}

fn http(options: &HttpProtocolOptions) -> String {
    let streams = |h2: &mizzen_protos::envoy::envoy::config::core::v3::Http2ProtocolOptions| match h2.max_concurrent_streams {
        Some(most) => format!("({})", most.value),
        None => String::new(),
    };
    let mut out = match options.upstream_protocol_options.as_ref().unwrap() {
        UpstreamProtocolOptions::ExplicitHttpConfig(explicit) => match explicit.protocol_config.as_ref().unwrap() {
            ProtocolConfig::Http2ProtocolOptions(h2) => format!("http2{}", streams(h2)),
            ProtocolConfig::HttpProtocolOptions(_) => "http1".to_owned(),
            other @ ProtocolConfig::Http3ProtocolOptions(_) => format!("{other:?}"),
        },
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(c) => {
            format!("as-came{}", streams(c.http2_protocol_options.as_ref().unwrap()))
        }
        UpstreamProtocolOptions::AutoConfig(_) => "auto".to_owned(),
    };
    if let Some(common) = &options.common_http_protocol_options {
        let (idle, age) = (time(common.idle_timeout.as_ref()), time(common.max_connection_duration.as_ref()));
        write!(out, " idle={idle} age={age} requests={}", num(common.max_requests_per_connection)).unwrap();
    }
    out
}

const REVIEWS: &str = "outbound|9080||reviews.shop.svc.cluster.local";

#[test]
fn clusters() {
    // The cluster of reviews (HTTP) with this policy, without what is as ever.
    for (blocks, expected) in [
        ("", "LEAST_REQUEST"),
        ("loadBalancer: {simple: LEAST_CONN}", "LEAST_REQUEST"),
        ("loadBalancer: {simple: UNSPECIFIED}", "LEAST_REQUEST"),
        ("loadBalancer: {simple: ROUND_ROBIN}", "ROUND_ROBIN"),
        ("loadBalancer: {simple: RANDOM}", "RANDOM"),
        ("loadBalancer: {simple: PASSTHROUGH}", "CLUSTER_PROVIDED"),
        ("loadBalancer: {warmup: {duration: 10s}}", "LEAST_REQUEST start=10000ms aggression=1@( least=10"),
        (
            "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 1m, minimumPercent: 25, aggression: 1.5}}",
            "ROUND_ROBIN start=60000ms aggression=1.5@( least=25",
        ),
        ("loadBalancer: {simple: LEAST_REQUEST, warmupDurationSecs: 30s}", "LEAST_REQUEST start=30000ms aggression=- least=-"),
        ("loadBalancer: {simple: RANDOM, warmup: {duration: 10s}}", "RANDOM"),
        ("loadBalancer: {consistentHash: {httpHeaderName: x-user}}", "RING_HASH ring>=1024"),
        ("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 64}}", "RING_HASH ring>=64"),
        ("loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {}}}", "RING_HASH"),
        ("loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 10}}}", "RING_HASH ring>=10"),
        ("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}", "MAGLEV"),
        ("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 1021}}}", "MAGLEV table=1021"),
        ("loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {us: 100}}]}}", "LEAST_REQUEST by-locality"),
        ("loadBalancer: {localityLbSetting: {enabled: false, distribute: [{from: eu, to: {us: 100}}]}}", "LEAST_REQUEST"),
        ("loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}", "LEAST_REQUEST"),
    ] {
        let cluster: Cluster = made(&[&policy("reviews", blocks)], &visitor(), ResourceKind::Cluster, REVIEWS);
        assert_eq!(settings(&cluster), format!("{expected} connect=10000ms"), "{blocks}");
    }
    for (blocks, expected) in [
        ("connectionPool: {tcp: {maxConnections: 3, connectTimeout: 1.5s}}", "connect=1500ms limits=3/max/max/max"),
        ("connectionPool: {http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRetries: 4}}", "connect=10000ms limits=max/1/2/4"),
        ("connectionPool: {tcp: {tcpKeepalive: {probes: 3, time: 75s, interval: 10s}}}", "connect=10000ms keepalive=3/75/10"),
        ("connectionPool: {tcp: {tcpKeepalive: {time: 2m}}}", "connect=10000ms keepalive=-/120/-"),
        ("connectionPool: {tcp: {idleTimeout: 5s}}", "connect=10000ms http1 idle=5000ms age=- requests=-"),
        ("connectionPool: {tcp: {idleTimeout: 5s}, http: {idleTimeout: 7s}}", "connect=10000ms http1 idle=7000ms age=- requests=-"),
        ("connectionPool: {tcp: {maxConnectionDuration: 90s}}", "connect=10000ms http1 idle=- age=90000ms requests=-"),
        ("connectionPool: {http: {maxRequestsPerConnection: 9}}", "connect=10000ms http1 idle=- age=- requests=9"),
        ("connectionPool: {http: {useClientProtocol: true, maxConcurrentStreams: 8}}", "connect=10000ms as-came(8)"),
        ("connectionPool: {http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 8}}", "connect=10000ms http2(8)"),
        ("connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}", "connect=10000ms"),
        ("retryBudget: {}", "connect=10000ms retries=20%>=3"),
        ("retryBudget: {percent: 12.5, minRetryConcurrency: 9}", "connect=10000ms retries=12.5%>=9"),
        ("outlierDetection: {}", "panic=0 connect=10000ms eject(5xx=-@- gateway=-@- -/- most=- rate=0)"),
        (
            "outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 0, interval: 5s, baseEjectionTime: 1m, maxEjectionPercent: 50, \
             minHealthPercent: 30}",
            "panic=30 connect=10000ms eject(5xx=7@100 gateway=0@0 5000ms/60000ms most=50 rate=0)",
        ),
        (
            "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2}",
            "panic=0 connect=10000ms eject(5xx=0@0 gateway=2@100 -/- most=- rate=0)",
        ),
        (
            "outlierDetection: {splitExternalLocalOriginErrors: true}",
            "panic=0 connect=10000ms eject(5xx=-@- gateway=-@- -/- most=- local=-@- rate=0 rate=0)",
        ),
        (
            "outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 4}",
            "panic=0 connect=10000ms eject(5xx=-@- gateway=-@- -/- most=- local=4@100 rate=0 rate=0)",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}, outlierDetection: {}",
            "panic=0 by-locality connect=10000ms eject(5xx=-@- gateway=-@- -/- most=- rate=0)",
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [a]}}, outlierDetection: {}",
            "panic=0 by-locality connect=10000ms eject(5xx=-@- gateway=-@- -/- most=- rate=0)",
        ),
    ] {
        let cluster: Cluster = made(&[&policy("reviews", blocks)], &visitor(), ResourceKind::Cluster, REVIEWS);
        assert_eq!(settings(&cluster), format!("LEAST_REQUEST {expected}"), "{blocks}");
    }
}

/// What the mesh says counts where the rule is silent, member by member.
#[test]
fn mesh_config() {
    let mesh = |text: &str| {
        format!("{{kind: ConfigMap, apiVersion: v1, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{{text}}}'}}}}")
    };
    for (config, rule, expected) in [
        ("h2UpgradePolicy: UPGRADE", "", "LEAST_REQUEST connect=10000ms http2"),
        ("h2UpgradePolicy: UPGRADE", "connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}", "LEAST_REQUEST connect=10000ms"),
        ("h2UpgradePolicy: UPGRADE", "connectionPool: {http: {useClientProtocol: true}}", "LEAST_REQUEST connect=10000ms as-came"),
        (
            "tcpKeepalive: {time: 60s, probes: 2}",
            "connectionPool: {tcp: {tcpKeepalive: {probes: 9}}}",
            "LEAST_REQUEST connect=10000ms keepalive=9/60/-",
        ),
        ("localityLbSetting: {distribute: [{from: eu, to: {eu: 100}}]}", "", "LEAST_REQUEST by-locality connect=10000ms"),
        (
            "localityLbSetting: {distribute: [{from: eu, to: {eu: 100}}]}",
            "loadBalancer: {localityLbSetting: {}}",
            "LEAST_REQUEST connect=10000ms",
        ),
        (
            "localityLbSetting: {failover: [{from: eu, to: us}]}",
            "outlierDetection: {}",
            "LEAST_REQUEST panic=0 by-locality connect=10000ms eject(5xx=-@- gateway=-@- -/- most=- rate=0)",
        ),
    ] {
        let cluster: Cluster = made(&[&mesh(config), &policy("reviews", rule)], &visitor(), ResourceKind::Cluster, REVIEWS);
        assert_eq!(settings(&cluster), expected, "{config} {rule}");
    }
    // Neither bytes nor what is not known to be HTTP is upgraded by the mesh.
    for (name, expected) in [
        ("outbound|6379||stock.shop.svc.cluster.local", "LEAST_REQUEST connect=10000ms"),
        ("outbound|5000||anything.shop.svc.cluster.local", "LEAST_REQUEST connect=10000ms as-came"),
    ] {
        let cluster: Cluster = made(&[&mesh("h2UpgradePolicy: UPGRADE")], &visitor(), ResourceKind::Cluster, name);
        assert_eq!(settings(&cluster), expected, "{name}");
    }
}

/// A subset takes over what it does not say; a port nothing but the budget.
#[test]
fn subsets_and_ports() {
    let blocks = "trafficPolicy: {loadBalancer: {simple: RANDOM}, retryBudget: {percent: 5}, outlierDetection: {minHealthPercent: 9}, \
                  portLevelSettings: [{port: {number: 1}, loadBalancer: {simple: ROUND_ROBIN}}]}, \
                  subsets: [{name: a, labels: {version: v1}}, \
                  {name: b, labels: {version: v1}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}, retryBudget: {percent: 6}}}, \
                  {name: c, labels: {version: v1}, trafficPolicy: {portLevelSettings: [{port: {number: 9080}, connectionPool: {tcp: {maxConnections: 1}}}]}}]";
    let outlier = "connect=10000ms retries=PERCENT%>=3 eject(5xx=-@- gateway=-@- -/- most=- rate=0)";
    for (subset, expected) in [
        ("", format!("RANDOM panic=9 {}", outlier.replace("PERCENT", "5"))),
        ("a", format!("RANDOM panic=9 {}", outlier.replace("PERCENT", "5"))),
        ("b", format!("RING_HASH ring>=1024 panic=9 {}", outlier.replace("PERCENT", "6"))),
        ("c", "LEAST_REQUEST connect=10000ms limits=1/max/max/max retries=5%>=3".to_owned()),
    ] {
        let name = REVIEWS.replace("||", &format!("|{subset}|"));
        let cluster: Cluster = made(&[&rule("reviews", blocks)], &visitor(), ResourceKind::Cluster, &name);
        assert_eq!(settings(&cluster), expected, "{subset}");
    }
}

/// The server's side takes over limits of the service, and nothing that its callers choose by.
#[test]
fn inbound() {
    let blocks = "loadBalancer: {consistentHash: {useSourceIp: true}}, outlierDetection: {}, retryBudget: {}, \
                  connectionPool: {tcp: {maxConnections: 4, tcpKeepalive: {probes: 1}}, http: {h2UpgradePolicy: UPGRADE}}";
    let cluster: Cluster = made(&[&policy("reviews", blocks)], &super::reviews(), ResourceKind::Cluster, "inbound|8080||");
    assert_eq!(settings(&cluster), "CLUSTER_PROVIDED connect=10000ms limits=4/max/max/max retries=20%>=3 keepalive=1/-/-");
}

fn key(action: &RouteAction) -> String {
    let one =
        |policy: &mizzen_protos::envoy::envoy::config::route::v3::route_action::HashPolicy| match policy.policy_specifier.as_ref().unwrap()
        {
            PolicySpecifier::Header(header) => format!("header {}", header.header_name),
            PolicySpecifier::Cookie(cookie) => {
                let attributes: Vec<String> = cookie.attributes.iter().map(|a| format!("{}={}", a.name, a.value)).collect();
                format!("cookie {} ttl={} path={} [{}]", cookie.name, time(cookie.ttl.as_ref()), cookie.path, attributes.join(" "))
            }
            PolicySpecifier::ConnectionProperties(c) => format!("source {}", c.source_ip),
            PolicySpecifier::QueryParameter(q) => format!("query {}", q.name),
            other => format!("{other:?}"),
        };
    let retry = action.retry_policy.as_ref().map_or("none", |r| if r.retry_host_predicate.is_empty() { "same" } else { "other" });
    format!("{} retry={retry}", action.hash_policy.iter().map(one).collect::<Vec<_>>().join(", "))
}

#[test]
fn keys_of_requests() {
    let ring = |hash: &str| policy("reviews", &format!("loadBalancer: {{consistentHash: {{{hash}}}}}"));
    let check = |texts: &[&str], expected: &str| {
        let table: RouteConfiguration = made(texts, &visitor(), ResourceKind::Route, "9080");
        let host = table.virtual_hosts.iter().find(|host| host.name.starts_with("reviews.")).unwrap();
        let Some(Action::Route(action)) = &host.routes[0].action else { panic!("{:?}", host.routes) };
        assert_eq!(key(action), expected, "{texts:#?}");
    };
    // Without a VirtualService, where what is tried again still goes elsewhere.
    check(&[&ring("httpHeaderName: X-User")], "header x-user retry=other");
    check(&[&ring("httpCookie: {name: user, ttl: 0s}")], "cookie user ttl=0ms path= [] retry=other");
    check(
        &[&ring("httpCookie: {name: user, path: /p, ttl: 1h, attributes: [{name: SameSite, value: Strict}, {name: Secure}]}")],
        "cookie user ttl=3600000ms path=/p [SameSite=Strict Secure=] retry=other",
    );
    check(&[&ring("httpCookie: {name: user}")], "cookie user ttl=- path= [] retry=other");
    check(&[&ring("useSourceIp: true")], "source true retry=other");
    check(&[&ring("useSourceIp: false")], " retry=other");
    check(&[&ring("httpQueryParameterName: q, maglev: {}")], "query q retry=other");
    let routed = |to: &str, retries: &str| {
        format!(
            "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: reviews, namespace: shop}}
spec: {{hosts: [reviews], http: [{{route: [{to}]{retries}}}]}}
"
        )
    };
    let plain = routed("{destination: {host: reviews}}", "");
    check(&[&plain], " retry=other");
    check(&[&plain, &ring("httpHeaderName: x-user")], "header x-user retry=same");
    let stubborn =
        |ignore: &str| routed("{destination: {host: reviews}}", &format!(", retries: {{attempts: 1, retryIgnorePreviousHosts: {ignore}}}"));
    check(&[&stubborn("true"), &ring("httpHeaderName: x-user")], "header x-user retry=other");
    check(&[&stubborn("false")], " retry=same");
    // By subset and port of the destination.
    let parts = rule(
        "reviews",
        "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: all}}}, subsets: [{name: v1, labels: {version: v1}}, \
         {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {consistentHash: {httpQueryParameterName: q}}}}, \
         {name: v3, labels: {}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}, \
         {name: v4, labels: {}, trafficPolicy: {portLevelSettings: [{port: {number: 9080}, loadBalancer: {consistentHash: {useSourceIp: true}}}]}}]",
    );
    let to = |subset: &str| format!("{{destination: {{host: reviews, subset: {subset}}}, weight: 1}}");
    for (subset, expected) in
        [("v1", "header all retry=same"), ("v2", "query q retry=same"), ("v3", " retry=other"), ("v4", "source true retry=same")]
    {
        check(&[&parts, &routed(&to(subset), "")], expected);
    }
    let several = |subsets: &[&str]| routed(&subsets.iter().map(|subset| to(subset)).collect::<Vec<_>>().join(", "), "");
    check(&[&parts, &several(&["v1", "v2", "v3"])], "header all, query q retry=other");
    check(&[&parts, &several(&["v1", "v1"])], "header all retry=other");
}

#[test]
fn tcp_proxies() {
    let check = |texts: &[&str], expected: &str| {
        let listener: Listener = made(texts, &visitor(), ResourceKind::Listener, "10.96.0.13_6379");
        let filter = listener.filter_chains[0].filters.last().unwrap();
        let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type else { panic!("{filter:?}") };
        let proxy: TcpProxy = decode(config);
        let (idle, age) = (time(proxy.idle_timeout.as_ref()), time(proxy.max_downstream_connection_duration.as_ref()));
        assert_eq!(format!("idle={idle} age={age} keys={}", proxy.hash_policy.len()), expected, "{texts:#?}");
    };
    let sticky = "loadBalancer: {consistentHash: {useSourceIp: true}}";
    check(&[], "idle=- age=- keys=0");
    check(&[&policy("stock", "connectionPool: {tcp: {idleTimeout: 3s, maxConnectionDuration: 9s}}")], "idle=3000ms age=9000ms keys=0");
    check(&[&policy("stock", sticky)], "idle=- age=- keys=1");
    check(&[&policy("stock", "loadBalancer: {consistentHash: {httpHeaderName: x}}")], "idle=- age=- keys=0");
    let subsets = rule("stock", &format!("subsets: [{{name: a, labels: {{}}, trafficPolicy: {{{sticky}}}}}, {{name: b, labels: {{}}}}]"));
    let routed = |to: &str| {
        format!(
            "
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {{name: stock, namespace: shop}}
spec: {{hosts: [stock], tcp: [{{route: [{to}]}}]}}
"
        )
    };
    let to = |subset: &str| format!("{{destination: {{host: stock, subset: {subset}}}, weight: 1}}");
    check(&[&subsets, &routed(&to("a"))], "idle=- age=- keys=1");
    check(&[&subsets, &routed(&to("b"))], "idle=- age=- keys=0");
    check(&[&subsets, &routed(&format!("{}, {}", to("b"), to("a")))], "idle=- age=- keys=1");
}

/// Five places with an endpoint each, one of which weighs 3.
const PLACES: &str = "
kind: ServiceEntry
apiVersion: networking.istio.io/v1
metadata: {name: places, namespace: shop ANNOTATIONS}
spec:
  hosts: [places.example.com]
  ports: [{number: 80, name: http}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints:
  - {address: 10.0.9.1, locality: eu/a/1, labels: {app: x, rack: r1}}
  - {address: 10.0.9.2, locality: eu/a/2, labels: {app: x, rack: r2}}
  - {address: 10.0.9.3, locality: eu/b, labels: {app: z, rack: r1}, weight: 3}
  - {address: 10.0.9.4, locality: us/a, labels: {app: x}}
  - {address: 10.0.9.5, locality: ap/a, labels: {app: z}}
";

/// The groups of endpoints as `locality p(riority) w(eight): last parts of addresses`.
fn groups(assignment: &ClusterLoadAssignment) -> String {
    let one = |group: &mizzen_protos::envoy::envoy::config::endpoint::v3::LocalityLbEndpoints| {
        let l = group.locality.as_ref().unwrap();
        let locality = Locality { region: l.region.clone(), zone: l.zone.clone(), subzone: l.sub_zone.clone() };
        let of = |e: &mizzen_protos::envoy::envoy::config::endpoint::v3::LbEndpoint| match &e.host_identifier {
            Some(HostIdentifier::Endpoint(host)) => {
                super::summary::socket(host.address.as_ref()).split(['.', ':']).nth(3).unwrap().to_owned()
            }
            other => format!("{other:?}"),
        };
        let hosts: Vec<String> = group.lb_endpoints.iter().map(of).collect();
        format!("{locality} p{} w{}: {}", group.priority, group.load_balancing_weight.unwrap().value, hosts.join(" "))
    };
    assignment.endpoints.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A proxy of `eu/a/1`.
fn european() -> ProxyView {
    let mut facts = facts(mizzen_model::ProxyType::Sidecar, "10.0.0.99", "visit", &[("app", "x"), ("rack", "r1")]);
    facts.locality = "eu/a/1".parse().unwrap();
    facts.into()
}

const NAME: &str = "outbound|80||places.example.com";

#[test]
fn localities() {
    let alike = "ap/a p0 w1: 5; eu/a/1 p0 w1: 1; eu/a/2 p0 w1: 2; eu/b p0 w3: 3; us/a p0 w1: 4";
    let by_distance = "ap/a p3 w1: 5; eu/a/1 p0 w1: 1; eu/a/2 p1 w1: 2; eu/b p2 w3: 3; us/a p3 w1: 4";
    let check = |entry: &str, blocks: &str, view: &ProxyView, expected: &str| {
        let rule = policy("places.example.com", blocks);
        let assignment: ClusterLoadAssignment = made(&[entry, &rule], view, ResourceKind::Endpoints, NAME);
        assert_eq!(groups(&assignment), expected, "{blocks}");
    };
    let plain = PLACES.replace("ANNOTATIONS", "");
    let setting = |setting: &str| format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}, outlierDetection: {{}}");
    check(&plain, "", &european(), alike);
    // By distance where failing endpoints are detected, unless that is turned off.
    check(&plain, "outlierDetection: {}", &european(), by_distance);
    check(&plain, &setting("enabled: false"), &european(), alike);
    check(&plain, &setting("enabled: true"), &european(), by_distance);
    check(&plain, "loadBalancer: {localityLbSetting: {failoverPriority: [app]}}", &european(), alike);
    // Who runs nowhere in particular is far from everything alike.
    check(&plain, "outlierDetection: {}", &visitor(), alike);
    check(
        &plain,
        &setting("failover: [{from: us, to: eu}, {from: eu, to: ap}]"),
        &european(),
        "ap/a p3 w1: 5; eu/a/1 p0 w1: 1; eu/a/2 p1 w1: 2; eu/b p2 w3: 3; us/a p4 w1: 4",
    );
    check(
        &plain,
        &setting("failoverPriority: [app, rack]"),
        &european(),
        "ap/a p2 w1: 5; eu/a/1 p0 w1: 1; eu/a/2 p1 w1: 2; eu/b p2 w3: 3; us/a p1 w1: 4",
    );
    check(
        &plain,
        &setting("failoverPriority: ['app=z', topology.kubernetes.io/region]"),
        &european(),
        "ap/a p1 w1: 5; eu/a/1 p2 w1: 1; eu/a/2 p2 w1: 2; eu/b p0 w3: 3; us/a p2 w1: 4",
    );
    // Labels first, then the distance.
    check(
        &plain,
        &setting("failoverPriority: [app], failover: [{from: eu, to: us}]"),
        &european(),
        "ap/a p4 w1: 5; eu/a/1 p0 w1: 1; eu/a/2 p1 w1: 2; eu/b p3 w3: 3; us/a p2 w1: 4",
    );
    check(
        &plain,
        &setting("distribute: [{from: us/*, to: {us: 100}}, {from: eu/a/*, to: {eu/a/*: 70, eu/b: 29, ap: 1}}]"),
        &european(),
        "ap/a p0 w1: 5; eu/a/1 p0 w35: 1; eu/a/2 p0 w35: 2; eu/b p0 w29: 3",
    );
    check(&plain, &setting("distribute: [{from: eu, to: {eu: 100}}]"), &european(), "eu/a/1 p0 w20: 1; eu/a/2 p0 w20: 2; eu/b p0 w60: 3");
    check(&plain, &setting("distribute: [{from: us, to: {us: 100}}]"), &european(), alike);
    check(
        &plain,
        &setting("distribute: [{from: '*', to: {'*': 100}}]"),
        &visitor(),
        "ap/a p0 w15: 5; eu/a/1 p0 w15: 1; eu/a/2 p0 w15: 2; eu/b p0 w43: 3; us/a p0 w15: 4",
    );
    // What the service itself wishes needs no detection, and gives way to the rule.
    let near = |word: &str| PLACES.replace("ANNOTATIONS", &format!(", annotations: {{networking.istio.io/traffic-distribution: {word}}}"));
    let zones = "ap/a p2 w1: 5; eu/a/1 p0 w1: 1; eu/a/2 p0 w1: 2; eu/b p1 w3: 3; us/a p2 w1: 4";
    for word in ["PreferClose", "PreferSameZone"] {
        check(&near(word), "", &european(), zones);
    }
    check(&near("PreferSameNode"), "", &european(), by_distance);
    check(&near("PreferClose"), &setting("enabled: false"), &european(), alike);
}

/// Of a service whose callers stay on their node.
#[test]
fn endpoints_of_one_node() {
    let pod = |name: &str, ip: &str, node: &str| super::pod(name, &format!("app: near, kubernetes.io/hostname: {node}"), ip, "", true);
    let service = "{kind: Service, apiVersion: v1, metadata: {name: near, namespace: shop}, spec: {clusterIP: 10.96.0.60, internalTrafficPolicy: POLICY, selector: {app: near}, ports: [{name: http, port: 80}]}}";
    let addresses = |policy: &str, node: &str| {
        let snapshot = shop(&[&service.replace("POLICY", policy), &pod("near-0", "10.0.0.61", "n1"), &pod("near-1", "10.0.0.62", "n2")]);
        let mut facts = visitor().facts().clone();
        facts.metadata.insert("NODE_NAME".to_owned(), node.to_owned());
        let reader = Reader::new(&snapshot);
        let made = build(&reader, &facts.into(), ResourceKind::Endpoints, &"outbound|80||near.shop.svc.cluster.local".into()).unwrap();
        let assignment: mizzen_protos::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment = super::summary::decode(&made.any);
        let count: usize = assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum();
        (count, format!("{assignment:?}").contains("10.0.0.61"), reader.finish().reach() == mizzen_model::Reach::Own)
    };
    assert_eq!(addresses("Cluster", "n1"), (2, true, false));
    assert_eq!(addresses("Local", "n1"), (1, true, true));
    assert_eq!(addresses("Local", "n2"), (1, false, true));
    assert_eq!(addresses("Local", "n3"), (0, false, true), "nobody, rather than somebody elsewhere");
}

/// Who asks is part of the question only where the answer depends on it.
#[test]
fn the_asker() {
    let far = |blocks: &str| {
        let snapshot = shop(&[&PLACES.replace("ANNOTATIONS", ""), &policy("places.example.com", blocks)]);
        let reader = Reader::new(&snapshot);
        build(&reader, &european(), ResourceKind::Endpoints, &NAME.into()).unwrap();
        let reads = reader.finish();
        let changed = |change: fn(&mut mizzen_model::ProxyFacts)| {
            let mut facts = european().facts().clone();
            change(&mut facts);
            !reads.fits(&snapshot, &facts.into())
        };
        [changed(|facts| facts.locality.region = "us".into()), changed(|facts| drop(facts.labels.remove("rack")))]
    };
    assert_eq!(far(""), [false, false]);
    assert_eq!(far("outlierDetection: {}"), [true, false]);
    assert_eq!(far("loadBalancer: {localityLbSetting: {enabled: false}}, outlierDetection: {}"), [false, false]);
    assert_eq!(far("loadBalancer: {localityLbSetting: {failoverPriority: [rack]}}, outlierDetection: {}"), [false, true]);
    assert_eq!(far("loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: 100}}]}}"), [true, false]);
}
