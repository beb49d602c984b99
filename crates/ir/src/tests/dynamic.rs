//! Names that are found on demand: clusters and filters of Envoy's dynamic forward proxy.

use serde_json::{Value, json};

use super::{compiled, hcm, one_chain, tcp_proxy};
use crate::config::{Discovery, Dynamic, Terminal};
use crate::{Draft, Resource, ResourceKind};

fn with(mut value: Value, more: &Value) -> Value {
    for (key, field) in more.as_object().unwrap() {
        value[key] = field.clone();
    }
    value
}

fn cluster(config: &Value, more: &Value) -> Value {
    let config = with(json!({"@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"}), config);
    let kind = json!({"name": "envoy.clusters.dynamic_forward_proxy", "typedConfig": config});
    with(json!({"name": "c", "lbPolicy": "CLUSTER_PROVIDED", "connectTimeout": "1s", "clusterType": kind}), more)
}

/// What becomes of a resource: `ok`, or the refusal.
#[track_caller]
fn check(kind: ResourceKind, value: &Value, expected: &str) {
    let found = match compiled(kind, value) {
        Ok(compiled) => compiled.closed.first().map_or_else(|| "ok".to_owned(), |bad| format!("{}: {}", bad.field, bad.reason)),
        Err(bad) => format!("{}: {}", bad.field, bad.reason),
    };
    assert!(found.contains(expected), "{found}, not {expected}: {value}");
}

fn dynamic(value: &Value) -> Dynamic {
    let Resource::Cluster(cluster) = compiled(ResourceKind::Cluster, value).unwrap_or_else(|e| panic!("{e}")).resource else { panic!() };
    let Discovery::Dynamic(dynamic) = &cluster.discovery else { panic!("{:?}", cluster.discovery) };
    (**dynamic).clone()
}

#[test]
fn clusters() {
    let cache = |more: Value| json!({"dnsCacheConfig": with(json!({"name": "x"}), &more)});
    let own = |fields: Value| json!({"metadata": {"filterMetadata": {"mizzen": fields}}});
    let k = ResourceKind::Cluster;
    let made = dynamic(&cluster(&cache(json!({})), &json!({})));
    let seconds = std::time::Duration::from_secs;
    assert_eq!((made.max_hosts, made.max_pending, made.host_ttl, made.within, made.port), (1024, 1024, seconds(300), None, None));
    assert_eq!((made.dns.refresh, made.dns.least, made.dns.respect_ttl), (seconds(60), seconds(5), true));
    let more =
        cache(json!({"maxHosts": 7, "hostTtl": "9s", "dnsMinRefreshRate": "2s", "dnsCacheCircuitBreaker": {"maxPendingRequests": 3},
        "resolvedAddressFilter": {"ranges": [{"addressPrefix": "127.0.0.0", "prefixLen": 8}]}}));
    let made = dynamic(&cluster(&more, &own(json!({"dynamic_host": "*.example.test", "dynamic_port": 8443}))));
    assert_eq!((made.max_hosts, made.max_pending, made.host_ttl, made.dns.least), (7, 3, seconds(9), seconds(2)));
    assert_eq!(
        (made.within.unwrap().as_str(), made.port, &*made.never),
        ("*.example.test", Some(8443), &["127.0.0.0/8".parse().unwrap()][..])
    );
    let tls = |auto: Value, insecure: bool| {
        let options = with(
            json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                   "explicitHttpConfig": {"httpProtocolOptions": {}}}),
            &auto,
        );
        let context = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "commonTlsContext": {"combinedValidationContext": {"defaultValidationContext": {}, "validationContextSdsSecretConfig":
                {"name": "ROOTCA", "sdsConfig": {"ads": {}}}}}});
        let more = json!({"transportSocket": {"name": "tls", "typedConfig": context},
            "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}});
        cluster(&with(cache(json!({})), &json!({"allowInsecureClusterOptions": insecure})), &more)
    };
    let auto = json!({"upstreamHttpProtocolOptions": {"autoSni": true, "autoSanValidation": true}});
    let named = json!({"upstreamHttpProtocolOptions": {"autoSni": true}});
    for (value, expected) in [
        (tls(auto, false), "ok"),
        (tls(named.clone(), true), "ok"),
        (tls(named, false), "transport_socket: whoever is called by its name has to be verified by it"),
        (tls(json!({}), false), "transport_socket: whoever is called"),
        (cluster(&json!({}), &json!({})), "cluster_type.typed_config.dns_cache_config: it is required"),
        (cluster(&json!({"subClustersConfig": {}}), &json!({})), "cluster_type.typed_config.sub_clusters_config: not supported"),
        (cluster(&cache(json!({"name": ""})), &json!({})), "dns_cache_config.name: it is required"),
        (cluster(&cache(json!({})), &json!({"lbPolicy": "RANDOM"})), "lb_policy"),
        (cluster(&cache(json!({})), &own(json!({"dynamic_port": 0}))), "metadata.filter_metadata[mizzen].dynamic_port: no port"),
        (cluster(&cache(json!({})), &own(json!({"dynamic_port": 1.5}))), "dynamic_port: no port"),
        (cluster(&cache(json!({})), &own(json!({"dynamic_host": "a..b"}))), "dynamic_host: no host name"),
        (
            cluster(&cache(json!({"resolvedAddressFilter": {"ranges": [{"addressPrefix": "10.0.0.0", "prefixLen": 40}]}})), &json!({})),
            "resolved_address_filter.ranges[0]: `10.0.0.0/40` is no range",
        ),
        (
            cluster(&cache(json!({"resolvedAddressFilter": {"invertMatch": true}})), &json!({})),
            "resolved_address_filter.invert_match: not supported",
        ),
        (
            json!({"name": "c", "connectTimeout": "1s", "lbPolicy": "CLUSTER_PROVIDED", "clusterType": {"name": "redis"}}),
            "cluster_type: `redis` is not supported",
        ),
    ] {
        check(k, &value, expected);
    }
}

#[test]
fn found_by_names_that_they_cover() {
    let mut draft = Draft::new(&crate::Config::default());
    for (name, host) in [("wide", "*.test"), ("narrow", "*.example.test"), ("all", "")] {
        let held = if host.is_empty() { json!({}) } else { json!({"metadata": {"filterMetadata": {"mizzen": {"dynamic_host": host}}}}) };
        let value = cluster(&json!({"dnsCacheConfig": {"name": "x"}}), &with(held, &json!({"name": name})));
        draft.put(&compiled(ResourceKind::Cluster, &value).unwrap().resource);
    }
    let (config, problems) = draft.finish();
    assert!(problems.is_empty(), "{problems:?}");
    for (host, expected) in
        [("a.example.test", &["all", "narrow", "wide"][..]), ("example.test", &["all", "wide"]), ("test", &["all"]), ("a.other", &["all"])]
    {
        let mut found: Vec<String> = config.clusters_of_host(host).map(|cluster| cluster.name.to_string()).collect();
        found.sort();
        assert_eq!(found, expected, "{host}");
    }
}

#[test]
fn filters() {
    let sni = |more: Value| {
        let config = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig",
            "dnsCacheConfig": {"name": "x"}});
        json!({"name": "sni", "typedConfig": with(config, &more)})
    };
    let port = |filters: Value| {
        let l = super::listener(&one_chain(filters));
        let Terminal::Tcp(proxy) = &l.chains[0].filters.last else { panic!() };
        proxy.named_port
    };
    assert_eq!(port(json!([sni(json!({"portValue": 8443})), tcp_proxy("c")])), Some(8443));
    assert_eq!(port(json!([sni(json!({})), tcp_proxy("c")])), None);
    assert_eq!(port(json!([tcp_proxy("c")])), None);
    let http = |more: Value| {
        let config = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"});
        let router =
            json!({"name": "router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
        one_chain(json!([hcm(json!({"httpFilters": [{"name": "d", "typedConfig": with(config, &more)}, router]}))]))
    };
    let k = ResourceKind::Listener;
    for (value, expected) in [
        (http(json!({"dnsCacheConfig": {"name": "x"}, "allowDynamicHostFromFilterState": true})), "ok"),
        (http(json!({})), "ok"),
        (http(json!({"subClusterConfig": {}})), "sub_cluster_config: not supported"),
        (http(json!({"dnsCacheConfig": {}})), "dns_cache_config.name: it is required"),
        (one_chain(json!([sni(json!({"portValue": 70000})), tcp_proxy("c")])), "port_value: 70000 is not a port"),
        (one_chain(json!([sni(json!({"dnsCacheConfig": {}})), tcp_proxy("c")])), "dns_cache_config.name: it is required"),
        (one_chain(json!([sni(json!({})), hcm(json!({}))])), "filters[1]: names of connections are found for a TCP proxy alone"),
    ] {
        check(k, &value, expected);
    }
}
