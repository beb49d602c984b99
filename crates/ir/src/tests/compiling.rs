//! Which fields are done, harmless or refused.

use serde_json::{Value, json};

use super::{compiled, hcm, one_chain, tcp_proxy, typed_struct};
use crate::config::{Discovery, LogFormat, LogTarget, Part, Terminal};
use crate::{Resource, ResourceKind};

/// `ok`, the warnings' fields, or the field and a part of the reason of what is refused, be it the whole or a part.
fn check(kind: ResourceKind, value: &Value, expected: &str) {
    let got = match compiled(kind, value) {
        Ok(c) if !c.closed.is_empty() => format!("{}: {}", c.closed[0].field, c.closed[0].reason),
        Ok(c) if c.warnings.is_empty() => "ok".to_owned(),
        Ok(c) => format!("ok, but {}", c.warnings.iter().map(|w| w.field.as_str()).collect::<Vec<_>>().join(" ")),
        Err(e) => format!("{}: {}", e.field, e.reason),
    };
    assert!(got == expected || (got.starts_with(expected) && expected.contains(':')), "{got}\nexpected {expected}\n{value}");
}

fn with(mut value: Value, more: Value) -> Value {
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

#[test]
fn listeners() {
    let base = || one_chain(json!([tcp_proxy("c")]));
    let l = |more: Value| with(base(), more);
    let k = ResourceKind::Listener;
    check(k, &base(), "ok");
    check(k, &l(json!({"bindToPort": false, "useOriginalDst": true, "trafficDirection": "OUTBOUND", "connectionBalanceConfig": {}})), "ok");
    check(k, &l(json!({"transparent": true, "tcpBacklogSize": 5})), "ok");
    check(k, &l(json!({"socketOptions": [{"level": 1}]})), "socket_options: not supported");
    let listening = |name: &str, more: Value| {
        let at = format!("type.googleapis.com/envoy.extensions.filters.listener.{name}");
        json!({"name": "x", "typedConfig": with(json!({"@type": at}), more)})
    };
    let header = |more: Value| listening("proxy_protocol.v3.ProxyProtocol", more);
    let inspector = || listening("tls_inspector.v3.TlsInspector", json!({}));
    check(k, &l(json!({"listenerFilters": [header(json!({"statPrefix": "x"})), inspector()]})), "ok");
    check(
        k,
        &l(json!({"listenerFilters": [inspector(), header(json!({}))]})),
        "listener_filters[1]: the PROXY protocol's header comes before",
    );
    check(k, &l(json!({"listenerFilters": [header(json!({})), header(json!({}))]})), "listener_filters[1]: one header is read");
    check(k, &l(json!({"listenerFilters": [header(json!({}))], "useOriginalDst": true})), "listener_filters[0]: a listener with");
    for (field, value, at) in [
        ("allowRequestsWithoutProxyProtocol", json!(true), "allow_requests_without_proxy_protocol"),
        ("disallowedVersions", json!(["V1"]), "disallowed_versions"),
        ("passThroughTlvs", json!({}), "pass_through_tlvs"),
        ("rules", json!([{"tlvType": 1}]), "rules"),
    ] {
        let refused = format!("listener_filters[0].typed_config.{at}: not supported");
        check(k, &l(json!({"listenerFilters": [header(json!({field: value}))]})), &refused);
    }
    let source = |more: Value| listening("original_src.v3.OriginalSrc", more);
    check(k, &l(json!({"listenerFilters": [source(json!({"mark": 1337})), inspector()], "transparent": true})), "ok");
    check(k, &l(json!({"listenerFilters": [header(json!({})), source(json!({}))]})), "ok");
    check(
        k,
        &l(json!({"listenerFilters": [source(json!({"bindPort": true}))]})),
        "listener_filters[0].typed_config.bind_port: not supported",
    );
    check(k, &l(json!({"listenerFilters": [source(json!({})), source(json!({}))]})), "listener_filters[1]: connections come from one");
    check(
        k,
        &l(json!({"listenerFilters": [source(json!({})), header(json!({}))]})),
        "listener_filters[0]: the PROXY protocol's header says",
    );
    check(k, &l(json!({"internalListener": {}})), "address: not supported");
    check(k, &json!({"name": "l", "internalListener": {}, "filterChains": [{"filters": [tcp_proxy("c")]}]}), "ok");
    check(
        k,
        &l(json!({"address": {"envoyInternalAddress": {"serverListenerName": "a"}}})),
        "address: an internal listener has `internal_listener`",
    );
    let tunnel = |more: Value| {
        let mut proxy = tcp_proxy("c");
        proxy["typedConfig"]["tunnelingConfig"] = more;
        one_chain(json!([proxy]))
    };
    let mut from_client = tunnel(json!({"hostname": "a:443"}));
    from_client["listenerFilters"] = json!([source(json!({"mark": 1337}))]);
    check(k, &from_client, "listener_filters[0]: a tunnel through an HTTP proxy does not come from the client's address");
    let at = "filter_chains[0].filters[0].typed_config.tunneling_config";
    check(k, &tunnel(json!({"hostname": "%REQUESTED_SERVER_NAME%:443", "headersToAdd": [{"header": {"key": "a", "value": "b"}}]})), "ok");
    check(k, &tunnel(json!({})), &format!("{at}.hostname: it is required"));
    check(k, &tunnel(json!({"hostname": "a:1", "usePost": true})), &format!("{at}.use_post: not supported"));
    check(
        k,
        &tunnel(json!({"hostname": "a:1", "propagateResponseHeaders": true})),
        &format!("{at}.propagate_response_headers: not supported"),
    );
    let rbac = |rules: &str| json!({"name": "r", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "statPrefix": "tcp.", rules: {}}});
    check(k, &one_chain(json!([rbac("rules"), tcp_proxy("c")])), "ok");
    check(k, &one_chain(json!([rbac("shadowRules"), tcp_proxy("c")])), "ok");
    check(k, &l(json!({"filterChains": []})), "filter_chains: there is none");
    check(k, &l(json!({"filterChains": [{"name": "empty"}]})), "ok");
    check(
        k,
        &l(json!({"filterChains": [{"filters": [tcp_proxy("a")]}, {"filters": [tcp_proxy("b")]}]})),
        "filter_chains[1].filter_chain_match: another chain",
    );
    check(k, &l(json!({"address": {"socketAddress": {"address": "a.b", "portValue": 1}}})), "address.socket_address.address: `a.b` is not");
    check(k, &l(json!({"address": {"socketAddress": {"address": "::", "portValue": 70000}}})), "address.socket_address.port_value: 70000");
    check(k, &one_chain(json!([tcp_proxy("a"), tcp_proxy("b")])), "filter_chains[0].filters[1]: nothing comes after");
    check(
        k,
        &one_chain(json!([{"name": "m", "typedConfig": typed_struct("envoy.tcp.metadataexchange.config.MetadataExchange", json!({}))}])),
        "filter_chains[0].filters: none of them serves",
    );
    check(
        k,
        &one_chain(json!([{"name": "w", "typedConfig": typed_struct("x.Wasm", json!({}))}, tcp_proxy("a")])),
        "filter_chains[0].filters[0].typed_config: filter `w` of type x.Wasm is not supported",
    );
    check(
        k,
        &json!({"name": "l", "address": {"pipe": {"path": "/x"}}, "filterChains": [
        {"filterChainMatch": {"serverNames": ["a.*.b"]}, "filters": [tcp_proxy("c")]}]}),
        "filter_chains[0].filter_chain_match.server_names[0]: `a.*.b`: a wildcard",
    );
}

#[test]
fn what_is_the_same_has_the_same_hash() {
    // Maps of many entries, which are encoded in another order each time.
    let map: serde_json::Map<String, Value> = (0..12).map(|n| (format!("key{n}"), json!({"a": n, "b": n, "c": n}))).collect();
    let metadata = json!({"filterMetadata": map});
    let routes = json!({"name": "r", "virtualHosts": [{"name": "v", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}, "metadata": metadata}]}]});
    let mut value = one_chain(json!([hcm(json!({"rds": null, "routeConfig": routes}))]));
    value["filterChains"][0]["metadata"] = metadata.clone();
    let load = json!({"clusterName": "c", "endpoints": [{"lbEndpoints": [{"metadata": metadata,
        "endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 1}}}}]}]});
    let cluster = json!({"name": "c", "type": "STATIC", "loadAssignment": load});
    let hashes = || {
        let (listener, cluster) =
            (compiled(ResourceKind::Listener, &value).unwrap().resource, compiled(ResourceKind::Cluster, &cluster).unwrap().resource);
        let (Resource::Listener(l), Resource::Cluster(c)) = (&listener, &cluster) else { panic!() };
        let crate::config::Terminal::Http(hcm) = &l.chains[0].filters.last else { panic!() };
        let crate::config::HttpRoutes::Inline(routes) = &hcm.routes else { panic!() };
        (l.hash, l.chains[0].hash, routes.hash, c.hash, c.discovery.inline().unwrap().hash)
    };
    let first = hashes();
    for _ in 0..5 {
        assert_eq!(hashes(), first);
    }
}

#[test]
fn connection_managers() {
    let h = |more: Value| one_chain(json!([hcm(more)]));
    let k = ResourceKind::Listener;
    let at = "filter_chains[0].filters[0].typed_config";
    let router = || json!({"name": "r", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let ext =
        |name: &str| json!({"name": name, "typedConfig": {"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{name}")}});
    let fault = json!({"name": "f", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"httpStatus": 503, "percentage": {"numerator": 100}}}});
    check(k, &h(json!({})), "ok");
    check(
        k,
        &h(json!({"httpFilters": [ext("cors.v3.Cors"), ext("fault.v3.HTTPFault"), ext("grpc_stats.v3.FilterConfig"), router()]})),
        "ok",
    );
    check(k, &h(json!({"httpFilters": []})), &format!("{at}.http_filters: the last filter"));
    check(k, &h(json!({"httpFilters": [router(), ext("cors.v3.Cors"), router()]})), &format!("{at}.http_filters[1]: nothing comes"));
    let tuned = |mut filter: Value, more: Value| {
        filter["typedConfig"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"httpFilters": [filter, router()]})
    };
    let first = format!("{at}.http_filters[0].typed_config");
    let cluster = json!({"grpcService": {"envoyGrpc": {"clusterName": "c"}}});
    for (filter, more, expected) in [
        (fault.clone(), json!({}), "ok".to_owned()),
        (fault.clone(), json!({"abort": {"httpStatus": 99}}), format!("{first}.abort.http_status: 99 is not from 200 to 599")),
        (fault.clone(), json!({"delay": {}}), format!("{first}.delay.fixed_delay: it is required")),
        (fault.clone(), json!({"responseRateLimit": {}}), format!("{first}.response_rate_limit.fixed_limit: it is required")),
        (
            fault.clone(),
            json!({"responseRateLimit": {"fixedLimit": {}}}),
            format!("{first}.response_rate_limit.fixed_limit.limit_kbps: 0 is not at least 1"),
        ),
        (fault, json!({"downstreamNodes": ["a"]}), format!("{first}.downstream_nodes: not supported")),
        (
            ext("header_mutation.v3.HeaderMutation"),
            json!({"mutations": {"requestMutations": [{"remove": "x"}], "responseTrailersMutations": [{"append": {"header": {"key": "y", "value": "%RESP(z)%"}}}]}}),
            "ok".to_owned(),
        ),
        (
            ext("header_mutation.v3.HeaderMutation"),
            json!({"mutations": {"requestMutations": [{"remove": ":path"}]}}),
            format!("{first}.mutations.request_mutations[0].remove: `:path` cannot be removed"),
        ),
        (
            ext("header_mutation.v3.HeaderMutation"),
            json!({"mutations": {"responseMutations": [{"removeOnMatch": {"keyMatcher": {"exact": "x"}}}]}}),
            format!("{first}.mutations.response_mutations[0].remove_on_match: it is not supported"),
        ),
        (
            ext("header_mutation.v3.HeaderMutation"),
            json!({"mutations": {"queryParameterMutations": [{"remove": "x"}]}}),
            format!("{first}.mutations.query_parameter_mutations: not supported"),
        ),
        (ext("grpc_http1_bridge.v3.Config"), json!({}), "ok".to_owned()),
        (
            ext("grpc_http1_bridge.v3.Config"),
            json!({"upgradeProtobufToGrpc": true}),
            format!("{first}.upgrade_protobuf_to_grpc: not supported"),
        ),
        (ext("local_ratelimit.v3.LocalRateLimit"), json!({"tokenBucket": {"maxTokens": 1, "fillInterval": "1s"}}), "ok".to_owned()),
        (
            ext("local_ratelimit.v3.LocalRateLimit"),
            json!({"tokenBucket": {"maxTokens": 1, "fillInterval": "0.01s"}}),
            format!("{first}.token_bucket.fill_interval: it has to be at least 50 ms"),
        ),
        (ext("local_ratelimit.v3.LocalRateLimit"), json!({"descriptors": [{}]}), format!("{first}.descriptors: not supported")),
        (ext("ext_authz.v3.ExtAuthz"), cluster.clone(), "ok".to_owned()),
        (ext("ext_authz.v3.ExtAuthz"), json!({}), format!("{first}.services: it is required")),
        (
            ext("ext_authz.v3.ExtAuthz"),
            json!({"grpcService": {"googleGrpc": {"targetUri": "x"}}}),
            format!("{first}.grpc_service.google_grpc: not supported"),
        ),
        (ext("ext_authz.v3.ExtAuthz"), json!({"httpService": {}}), format!("{first}.http_service.server_uri: it is required")),
    ] {
        check(k, &h(tuned(filter, more)), &expected);
    }
    check(
        k,
        &h(json!({"httpFilters": [ext("lua.v3.Lua"), router()]})),
        &format!("{at}.http_filters[0].typed_config: filter `lua.v3.Lua` of type envoy.extensions.filters.http.lua.v3.Lua is not"),
    );
    check(
        k,
        &h(json!({"httpFilters": [with(ext("lua.v3.Lua"), json!({"isOptional": true})), router()]})),
        &format!("ok, but {at}.http_filters[0].typed_config"),
    );
    let stats = typed_struct(
        "stats.PluginConfig",
        json!({"disable_host_header_fallback": true, "tcp_reporting_duration": "5s",
        "metrics": [{"name": "requests_total", "tags_to_remove": ["x"], "dimensions": {"a": "b"}}]}),
    );
    check(
        k,
        &h(json!({"httpFilters": [{"name": "s", "typedConfig": stats}, router()]})),
        &format!("ok, but {at}.http_filters[0].typed_config.metrics.dimensions"),
    );
    let compressor = |more: Value| {
        let library =
            json!({"name": "gzip", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip"}});
        let kind = "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor";
        let config = with(json!({"@type": kind, "compressorLibrary": library}), more);
        h(json!({"httpFilters": [{"name": "c", "typedConfig": config}, router()]}))
    };
    let off = json!({"commonConfig": {"enabled": {"defaultValue": false, "runtimeKey": "r"}}});
    let first = format!("{at}.http_filters[0].typed_config");
    check(k, &compressor(json!({"responseDirectionConfig": {}})), &format!("ok, but {first}"));
    check(k, &compressor(json!({"requestDirectionConfig": off})), &format!("ok, but {first}"));
    check(k, &compressor(json!({"requestDirectionConfig": {}})), &format!("{first}.request_direction_config: requests are not"));
    check(k, &h(json!({"tracing": {"randomSampling": {"value": 1}}})), "ok");
    check(k, &h(json!({"tracing": {"provider": {"name": "zipkin"}}})), &format!("ok, but {at}.tracing.provider"));
    let grpc = json!([{"name": "g", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"}}]);
    check(k, &h(json!({"accessLog": grpc})), &format!("ok, but {at}.access_log[0].typed_config"));
    check(k, &h(json!({"localReplyConfig": {}})), &format!("{at}.local_reply_config: not supported"));
    check(k, &h(json!({"upgradeConfigs": [{"upgradeType": "CONNECT"}]})), &format!("{at}.upgrade_configs[0].upgrade_type: CONNECT"));
    check(k, &h(json!({"codecType": "HTTP3"})), &format!("{at}.codec_type: HTTP3"));
    check(k, &h(json!({"streamIdleTimeout": "-1s"})), &format!("{at}.stream_idle_timeout: not a duration"));
    let rbac = json!({"name": "r", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"policies": {"p": {"permissions": [{"andRules": {"rules": []}}], "principals": [{"any": true}]}}}}});
    check(
        k,
        &h(json!({"httpFilters": [rbac, router()]})),
        &format!("{at}.http_filters[0].typed_config.rules.policies[p].permissions[0].and_rules: it is empty"),
    );
}

#[test]
fn route_configurations() {
    let k = ResourceKind::Route;
    let r = |route: Value| json!({"name": "r", "virtualHosts": [{"name": "h", "domains": ["*"], "routes": [with(json!({"match": {"prefix": "/"}}), route)]}]});
    let at = "virtual_hosts[h].routes[0]";
    let go = |more: Value| r(json!({"route": with(json!({"cluster": "c"}), more)}));
    check(k, &go(json!({})), "ok");
    check(k, &json!({"name": "r", "validateClusters": false, "maxDirectResponseBodySizeBytes": 5}), "ok");
    check(k, &go(json!({"requestMirrorPolicies": [{"cluster": "m"}]})), &format!("{at}.route.request_mirror_policies: not supported"));
    check(
        k,
        &go(json!({"regexRewrite": {"pattern": {"regex": "(a"}, "substitution": "x"}})),
        &format!("{at}.route.regex_rewrite.pattern.regex: `(a`"),
    );
    check(
        k,
        &go(json!({"regexRewrite": {"pattern": {"regex": "a"}, "substitution": r"\1"}})),
        &format!("{at}.route.regex_rewrite.substitution: there is no group"),
    );
    for field in ["per_request_buffer_limit_bytes", "request_body_buffer_limit"] {
        check(k, &r(json!({"route": {"cluster": "c"}, field: 5})), &format!("ok, but {at}.{field}"));
    }
    check(k, &go(json!({"hashPolicy": [{"header": {"headerName": "x"}}]})), "ok");
    check(k, &go(json!({"retryPolicy": {"retryOn": "5xx,what"}})), &format!("ok, but {at}.route.retry_policy.retry_on"));
    retry_places(k, at, &go);
    check(k, &go(json!({"cluster": ""})), &format!("{at}.route.cluster: it is empty"));
    check(
        k,
        &r(json!({"route": {"weightedClusters": {"clusters": [{"name": "a", "weight": 0}]}}})),
        &format!("{at}.route.weighted_clusters.clusters: the weights"),
    );
    check(
        k,
        &r(
            json!({"route": {"cluster": "c"}, "typedPerFilterConfig": {"f": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}}}),
        ),
        &format!("{at}.typed_per_filter_config[f]: envoy.extensions.filters.http.cors.v3.Cors is not supported for a route"),
    );
    check(k, &r(json!({"nonForwardingAction": {}})), &format!("{at}.non_forwarding_action: not supported"));
    check(k, &r(json!({"directResponse": {"status": 99}})), &format!("{at}.direct_response.status: 99"));
    check(
        k,
        &r(json!({"route": {"cluster": "c"}, "match": {"safeRegex": {"regex": "a)|(b"}}})),
        &format!("{at}.match.safe_regex.regex: `a)|(b`"),
    );
    check(
        k,
        &r(json!({"route": {"cluster": "c"}, "match": {"safeRegex": {"regex": "((a{1000}){1000}){1000}"}}})),
        &format!("{at}.match.safe_regex.regex: `"),
    );
    check(
        k,
        &r(json!({"route": {"cluster": "c"}, "requestHeadersToAdd": [{"header": {"key": "x", "value": "%NOPE%"}}]})),
        &format!("{at}.request_headers_to_add[0].header.value: command `%NOPE%`"),
    );
    check(
        k,
        &r(json!({"route": {"cluster": "c"}, "requestHeadersToRemove": [":path"]})),
        &format!("{at}.request_headers_to_remove[0]: `:path`"),
    );
    check(
        k,
        &json!({"name": "r", "virtualHosts": [{"name": "a", "domains": ["x"]}, {"name": "b", "domains": ["X"]}]}),
        "virtual_hosts: domain `X` is there twice",
    );
    check(k, &json!({"name": "80", "vhds": {}}), "vhds.config_source: it is required");
    check(
        k,
        &json!({"name": "80", "vhds": {"configSource": {"self": {}}}}),
        "vhds.config_source.config_source_specifier: only the aggregated",
    );
    check(
        k,
        &json!({"name": "80", "vhds": {"configSource": {"ads": {}, "authorities": [{"name": "x"}]}}}),
        "vhds.config_source.authorities: not supported",
    );
    check(k, &json!({"name": "r", "vhds": {"configSource": {"ads": {}}}}), "vhds: `r` is no port");
}

#[test]
fn clusters() {
    let k = ResourceKind::Cluster;
    let c = |more: Value| {
        with(json!({"name": "c", "type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}}}, "connectTimeout": "1s"}), more)
    };
    check(k, &c(json!({})), "ok");
    check(k, &c(json!({"lbPolicy": "CLUSTER_PROVIDED"})), "lb_policy: CLUSTER_PROVIDED belongs");
    check(k, &c(json!({"type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED"})), "ok");
    let budget = |budget: Value| c(json!({"circuitBreakers": {"thresholds": [{"maxRetries": 1, "retryBudget": budget}]}}));
    let at = "circuit_breakers.thresholds[0].retry_budget";
    check(k, &budget(json!({})), "ok");
    check(k, &budget(json!({"budgetPercent": {"value": 12.5}, "minRetryConcurrency": 0, "budgetInterval": "0s"})), "ok");
    check(k, &budget(json!({"budgetPercent": {"value": 100.5}})), &format!("{at}.budget_percent: 100.5 is not between 0 and 100"));
    check(k, &budget(json!({"budgetInterval": "1s"})), &format!("{at}.budget_interval: not supported"));
    health_checks();
    check(k, &c(json!({"lbSubsetConfig": {}})), "ok");
    check(k, &c(json!({"commonLbConfig": {"zoneAwareLbConfig": {"minClusterSize": 5}}})), "ok, but common_lb_config.zone_aware_lb_config");
    let outlier = |o: Value| c(json!({"outlierDetection": o}));
    for (o, expected) in [
        (
            json!({"consecutive5xx": 3, "enforcingSuccessRate": 100, "splitExternalLocalOriginErrors": true, "maxEjectionTimeJitter": "1s"}),
            "ok",
        ),
        (json!({"detectDegradedHosts": true, "alwaysEjectOneHost": true, "successfulActiveHealthCheckUnejectHost": false}), "ok"),
        (json!({"interval": "0s"}), "outlier_detection.interval: it has to be longer than zero"),
        (json!({"baseEjectionTime": "600s"}), "ok"),
        (
            json!({"baseEjectionTime": "60s", "maxEjectionTime": "50s"}),
            "outlier_detection.max_ejection_time: it is shorter than base_ejection_time",
        ),
        (json!({"enforcingFailurePercentage": 101}), "outlier_detection.enforcing_failure_percentage: 101 is more than 100"),
        (json!({"monitors": [{"name": "m"}]}), "outlier_detection.monitors: not supported"),
    ] {
        check(k, &outlier(o), expected);
    }
    check(
        k,
        &c(
            json!({"transportSocket": {"name": "x", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}}}),
        ),
        "transport_socket.typed_config: transport socket envoy.extensions.filters.http.cors.v3.Cors is not supported",
    );
    let tls = |more: Value| {
        c(json!({"transportSocket": {"name": "tls", "typedConfig": with(json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}), more)}}))
    };
    check(k, &tls(json!({"commonTlsContext": {}})), "ok");
    check(
        k,
        &tls(json!({"commonTlsContext": {"tlsParams": {"cipherSuites": ["AES128-SHA"]}}})),
        "transport_socket.typed_config.common_tls_context.tls_params.cipher_suites: none of them can be done: AES128-SHA",
    );
    check(
        k,
        &tls(json!({"commonTlsContext": {"tlsParams": {"ecdhCurves": ["P-256", "P-521"], "tlsMaximumProtocolVersion": "TLSv1_2"}}})),
        "ok, but transport_socket.typed_config.common_tls_context.tls_params.ecdh_curves",
    );
    check(
        k,
        &tls(json!({"commonTlsContext": {"tlsParams": {"tlsMaximumProtocolVersion": "TLSv1_1"}}})),
        "transport_socket.typed_config.common_tls_context.tls_params.tls_maximum_protocol_version: versions below",
    );
    check(
        k,
        &tls(json!({"commonTlsContext": {"validationContext": {"matchSubjectAltNames": [{"exact": "x"}]}}})),
        "transport_socket.typed_config.common_tls_context.validation_context.trusted_ca: names are checked only",
    );
    let dns = c(json!({"type": "STRICT_DNS", "loadAssignment": {"clusterName": "c", "endpoints": [{"lbEndpoints": [
        {"endpoint": {"address": {"socketAddress": {"address": "api.example.com", "portValue": 443}}}}]}]}}));
    let compiled = compiled(k, &dns).unwrap();
    let crate::Resource::Cluster(cluster) = compiled.resource else { panic!() };
    assert!(matches!(cluster.discovery, Discovery::StrictDns(..)));
    assert_eq!(cluster.discovery.dns_names(), [("api.example.com".into(), 443)]);
}

#[test]
fn endpoints() {
    let k = ResourceKind::Assignment;
    let value = json!({"clusterName": "c", "endpoints": [{"priority": 1, "locality": {"region": "r"}, "lbEndpoints": [{
        "endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 80}}}, "loadBalancingWeight": 3,
        "metadata": {"filterMetadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}, "istio": {"workload": "reviews-v1;shop;reviews;v1;east"}}}}]}]});
    let crate::Resource::Assignment(a) = compiled(k, &value).unwrap().resource else { panic!() };
    assert_eq!(a.priorities.len(), 2);
    let endpoint = &a.priorities[1].localities[0].endpoints[0];
    assert_eq!(endpoint.labels.as_ref(), [("tlsMode".into(), "istio".into())]);
    let workload = endpoint.workload.as_ref().unwrap();
    assert_eq!((&*workload.name, &*workload.namespace, &*workload.cluster, endpoint.weight), ("reviews-v1", "shop", "east", 3));
    check(k, &json!({"clusterName": "c", "endpoints": [{"priority": 4_000_000_000u32}]}), "endpoints[0].priority: at most 127");
    check(k, &json!({"clusterName": "c", "policy": {"dropOverloads": [{"category": "x"}]}}), "policy.drop_overloads: not supported");
}

#[test]
fn access_logs() {
    let log = |format: Value| {
        one_chain(json!([{"name": "tcp", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "c",
        "accessLog": [{"name": "f", "typedConfig": with(json!({
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/stdout"}), format)}]}}]))
    };
    let at = "filter_chains[0].filters[0].typed_config.access_log[0].typed_config";
    let logged = |value: &Value| {
        let crate::Resource::Listener(l) = compiled(ResourceKind::Listener, value).unwrap().resource else { panic!() };
        let Terminal::Tcp(tcp) = &l.chains[0].filters.last else { panic!() };
        tcp.access_log.clone()
    };
    let logs = logged(&log(json!({})));
    assert_eq!(logs[0].target, LogTarget::Stdout);
    let logs = logged(&log(json!({"logFormat": {"textFormatSource": {"inlineString": "[%START_TIME(%s.%3f)%] %REQ(X:Y):5% 100%%\n"}}})));
    let LogFormat::Text(template) = &logs[0].format else { panic!() };
    assert_eq!(template.parts.len(), 5);
    assert!(matches!(&template.parts[3], Part::Command(_, Some(5))));
    let json_log = log(json!({"logFormat": {"jsonFormat": {"b": "%PROTOCOL%", "a": {"n": 1, "l": ["%DURATION%"]}}}}));
    let logs = logged(&json_log);
    let LogFormat::Json { members, .. } = &logs[0].format else { panic!() };
    assert_eq!(members.iter().map(|(k, _)| &**k).collect::<Vec<_>>(), ["a", "b"]);
    check(
        ResourceKind::Listener,
        &log(json!({"logFormat": {"textFormatSource": {"inlineString": "%WHAT%"}}})),
        &format!("ok, but {at}.log_format.text_format_source"),
    );
    check(
        ResourceKind::Listener,
        &log(json!({"logFormat": {"textFormatSource": {"inlineString": "%WHAT"}}})),
        &format!("{at}.log_format.text_format_source: `%` without"),
    );
    check(ResourceKind::Listener, &log(json!({"path": "/var/log/x"})), &format!("ok, but {at}.path"));
}

#[test]
fn references() {
    let tls = json!({"name": "tls", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "requireClientCertificate": true,
        "commonTlsContext": {
            "tlsCertificateSdsSecretConfigs": [{"name": "default", "sdsConfig": {"ads": {}}}],
            "combinedValidationContext": {
                "defaultValidationContext": {"matchSubjectAltNames": [{"prefix": "spiffe://cluster.local/"}]},
                "validationContextSdsSecretConfig": {"name": "ROOTCA", "sdsConfig": {"ads": {}}}}}}});
    let compiled = compiled(
        ResourceKind::Listener,
        &json!({"name": "l", "address": {"pipe": {"path": "/x"}}, "filterChains": [
        {"filterChainMatch": {"transportProtocol": "tls"}, "transportSocket": tls, "filters": [hcm(json!({}))]},
        {"filters": [tcp_proxy("PassthroughCluster")]}]}),
    )
    .unwrap();
    let names = |set: &std::collections::BTreeSet<mizzen_types::Name>| set.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&compiled.refs.clusters), ["PassthroughCluster"]);
    assert_eq!(names(&compiled.refs.routes), ["80"]);
    assert_eq!(compiled.refs.secrets.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["ROOTCA", "default"]);
}

#[test]
fn a_refused_filter_closes_its_chain_alone() {
    let lua = json!({"name": "lua", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}});
    let router = json!({"name": "r", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    let tls = |more: Value| {
        json!({"name": "tls", "typedConfig": with(json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"}), more)})
    };
    let chain = |port: u16, filters: Value| json!({"filterChainMatch": {"destinationPort": port}, "filters": filters});
    let value = json!({"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 1}}, "filterChains": [
        chain(1, json!([hcm(json!({"httpFilters": [lua, router]}))])),
        chain(2, json!([hcm(json!({}))])),
        chain(3, json!([{"name": "w", "typedConfig": typed_struct("x.Wasm", json!({}))}, tcp_proxy("a")])),
        chain(4, json!([hcm(json!({"localReplyConfig": {}}))])),
        with(chain(5, json!([tcp_proxy("a")])), json!({"transportSocket": tls(json!({"requireSni": true}))})),
        chain(6, json!([tcp_proxy("a")])),
    ]});
    let got = compiled(ResourceKind::Listener, &value).unwrap();
    let closed: Vec<_> = got.closed.iter().map(ToString::to_string).collect();
    let at: Vec<_> = closed.iter().map(|c| c.split("filter_chains[").nth(1).unwrap().split(']').next().unwrap()).collect();
    assert_eq!(at, ["0", "2", "3", "4"], "{closed:#?}");
    assert!(closed[0].contains("filter `lua` of type envoy.extensions.filters.http.lua.v3.Lua"), "{closed:#?}");
    let crate::Resource::Listener(listener) = got.resource else { panic!() };
    let serves: Vec<_> = listener
        .chains
        .iter()
        .map(|chain| match &chain.filters.last {
            Terminal::Http(hcm) if hcm.closed => "503",
            Terminal::Http(_) => "http",
            Terminal::Tcp(_) => "tcp",
            Terminal::Close => "closed",
        })
        .collect();
    assert_eq!(serves, ["503", "http", "closed", "closed", "closed", "tcp"]);
    // Whom a chain is for concerns all of them: the whole listener is refused.
    let mut bad = value.clone();
    bad["filterChains"][1]["filterChainMatch"]["serverNames"] = json!(["a.*"]);
    assert!(compiled(ResourceKind::Listener, &bad).is_err());
}

/// Active checks of a cluster's hosts.
fn health_checks() {
    let cluster =
        |checks: Value, more: Value| with(with(json!({"name": "c", "connectTimeout": "1s"}), json!({"healthChecks": checks})), more);
    let one = |what: Value| {
        let times = json!({"timeout": "1s", "interval": "2s", "unhealthyThreshold": 2, "healthyThreshold": 1});
        cluster(json!([with(times, what)]), json!({"ignoreHealthOnHostRemoval": true}))
    };
    let http = |what: Value| one(json!({"httpHealthCheck": with(json!({"path": "/"}), what)}));
    let tcp = |what: Value| one(json!({"tcpHealthCheck": what}));
    let at = "health_checks[0]";
    for (value, expected) in [
        (cluster(json!([]), json!({})), "ok".to_owned()),
        (cluster(json!([{"timeout": "1s"}]), json!({})), format!("{at}.interval: it is required")),
        (cluster(json!([{"timeout": "0s", "interval": "1s"}]), json!({})), format!("{at}.timeout: it has to be longer than zero")),
        (
            cluster(json!([{"timeout": "1s", "interval": "1s", "healthyThreshold": 1}]), json!({})),
            format!("{at}.unhealthy_threshold: it is required"),
        ),
        (one(json!({})), format!("{at}.health_checker: it is required")),
        (one(json!({"tcpHealthCheck": {}, "noTrafficInterval": "0s"})), format!("{at}.no_traffic_interval: it has to be longer than zero")),
        (one(json!({"tcpHealthCheck": {}, "eventLogPath": "/x"})), format!("ok, but {at}.event_log_path")),
        (one(json!({"customHealthCheck": {"name": "x"}})), format!("{at}.custom_health_check: `x` is not supported")),
        (one(json!({"grpcHealthCheck": {}})), format!("{at}.grpc_health_check: the cluster does not speak HTTP/2")),
        (http(json!({})), "ok".to_owned()),
        (http(json!({"path": ""})), format!("{at}.http_health_check.path: it is required")),
        (http(json!({"method": "CONNECT"})), format!("{at}.http_health_check.method: CONNECT is no check")),
        (http(json!({"send": {"text": "00"}})), format!("{at}.http_health_check.send: a GET has no body")),
        (http(json!({"method": "POST", "send": {"text": "0"}})), format!("{at}.http_health_check.send.text: `0` is not a number of bytes")),
        (
            http(json!({"method": "POST", "send": {"text": "0g"}})),
            format!("{at}.http_health_check.send.text: `0g` is not a number of bytes"),
        ),
        (
            http(json!({"receive": [{"text": "0001"}], "responseBufferSize": 1})),
            format!("{at}.http_health_check.receive: 2 bytes are more than the 1"),
        ),
        (
            http(json!({"expectedStatuses": [{"start": 200, "end": 200}]})),
            format!("{at}.http_health_check.expected_statuses[0]: 200 up to 200"),
        ),
        (
            http(json!({"retriableStatuses": [{"start": 99, "end": 200}]})),
            format!("{at}.http_health_check.retriable_statuses[0]: 99 up to 200"),
        ),
        (http(json!({"codecClientType": "HTTP3"})), format!("{at}.http_health_check.codec_client_type: HTTP3 is not supported")),
        (tcp(json!({"send": {"text": "00fF"}, "receive": [{"binary": "AA=="}]})), "ok".to_owned()),
        (tcp(json!({"receive": [{}]})), format!("{at}.tcp_health_check.receive[0].payload: it is required")),
        (tcp(json!({"proxyProtocolConfig": {}})), format!("{at}.tcp_health_check.proxy_protocol_config: not supported")),
    ] {
        check(ResourceKind::Cluster, &value, &expected);
    }
    let tcp_check = json!({"timeout": "1s", "interval": "2s", "unhealthyThreshold": 2, "healthyThreshold": 1, "tcpHealthCheck": {}});
    check(ResourceKind::Cluster, &cluster(json!([tcp_check, tcp_check]), json!({})), "health_checks: a cluster has one at most");
    check(ResourceKind::Cluster, &cluster(json!([tcp_check]), json!({})), "ok, but ignore_health_on_host_removal");
    let closing = json!({"closeConnectionsOnHostHealthFailure": true});
    check(ResourceKind::Cluster, &cluster(json!([]), closing), "close_connections_on_host_health_failure: not supported");
    let direct = json!({"type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED"});
    check(ResourceKind::Cluster, &cluster(json!([tcp_check]), direct), "health_checks: hosts of an ORIGINAL_DST cluster are not checked");
}

/// Where a request is tried again.
fn retry_places(k: ResourceKind, at: &str, go: &impl Fn(Value) -> Value) {
    let at = format!("{at}.route.retry_policy");
    let priority = |config: Value| go(json!({"retryPolicy": {"retryPriority": with(json!({"name": "p"}), config)}}));
    let previous = |n: i32| {
        let of = "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
        json!({"typedConfig": {"@type": of, "updateFrequency": n}})
    };
    check(k, &priority(previous(2)), "ok");
    check(k, &priority(previous(0)), &format!("{at}.retry_priority.update_frequency: it must be above 0"));
    check(k, &priority(json!({})), &format!("{at}.retry_priority.typed_config: it is required"));
    let duration = json!({"typedConfig": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}});
    check(k, &priority(duration), &format!("{at}.retry_priority.typed_config: `google.protobuf.Duration` is not supported"));
    let host = |predicate: Value| go(json!({"retryPolicy": {"retryHostPredicate": [predicate]}}));
    for name in ["previous_hosts", "omit_canary_hosts"] {
        check(k, &host(json!({"name": format!("envoy.retry_host_predicates.{name}")})), "ok");
    }
    let metadata = json!({"@type": "type.googleapis.com/envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
        "metadataMatch": {"filterMetadata": {"envoy.lb": {"a": "b"}}}});
    check(k, &host(json!({"name": "m", "typedConfig": metadata})), "ok");
    check(k, &host(json!({"name": "what"})), &format!("{at}.retry_host_predicate[0]: `what` is not supported"));
}
