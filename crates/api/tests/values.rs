//! What good objects are read as.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mizzen_api::{
    Kind, Object, Parsed, Selector,
    core::*,
    istio::*,
    parse_documents, parse_mesh_config,
    routing::{HttpAction, HttpRoute, RedirectPort, TcpMatch},
};
use mizzen_types::{NamespacedName, Protocol};

fn good() -> Parsed {
    let parsed = parse_documents(include_str!("good.yaml"), &"good.yaml".into());
    assert!(parsed.problems().next().is_none(), "{:#?}", parsed.problems().map(ToString::to_string).collect::<Vec<_>>());
    parsed
}

macro_rules! find {
    ($parsed:expr, $kind:ident) => {
        $parsed
            .good()
            .find_map(|object| match object {
                Object::$kind(object) => Some(object.clone()),
                _ => None,
            })
            .unwrap()
    };
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn every_kind_is_there() {
    let parsed = good();
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::IssuerKeys) {
        assert!(parsed.good().any(|object| object.kind() == *kind), "{kind}");
    }
    let keys: Vec<_> = parsed.good().map(|object| object.key().to_string()).collect();
    assert!(keys.contains(&"ServiceAccount default/two".to_owned()) && keys.contains(&"Namespace shop".to_owned()), "{keys:?}");
    let warnings: Vec<_> = parsed.warnings.iter().map(ToString::to_string).collect();
    let mesh = |line: u32, field: &str| format!("good.yaml:{line}: MeshConfig istio-system/istio: {field}: is not acted on yet");
    assert_eq!(warnings, [mesh(226, "enableTracing"), mesh(227, "defaultConfig.concurrency"), mesh(227, "defaultConfig.proxyMetadata")]);
}

#[test]
fn settings_of_proxies() {
    let config = find!(good(), ProxyConfig);
    assert_eq!(config.selector, Some(Selector { labels: map(&[("app", "printer")]) }));
    assert_eq!((config.concurrency, config.environment), (Some(0), map(&[("PAPER", "a4")])));
}

#[test]
fn external_names() {
    let copier = good().good().find_map(|object| match object {
        Object::Service(service) if &*service.meta.name == "copier" => Some(service.clone()),
        _ => None,
    });
    let copier = copier.unwrap();
    assert_eq!(copier.external_name.unwrap().as_str(), "printer.shop.svc.cluster.local");
    assert_eq!((copier.cluster_ip, copier.ports.len(), copier.selector.len()), (ClusterIp::Headless, 0, 0));
}

#[test]
fn discovery_selectors() {
    let read = |text: &str| parse_mesh_config(text, &"mesh".into());
    let (mesh, warnings) = read(
        "discoverySelectors:\n- {}\n- matchLabels: {mesh: a}\n  matchExpressions: [{key: team, operator: NotIn, values: [b]}, {key: open, operator: Exists}]\n",
    )
    .unwrap();
    assert!(warnings.is_empty());
    let [all, some] = &mesh.discovery_selectors[..] else { panic!("{mesh:?}") };
    for (labels, expected) in [
        (map(&[]), [true, false]),
        (map(&[("mesh", "a"), ("open", "")]), [true, true]),
        (map(&[("mesh", "a"), ("open", ""), ("team", "b")]), [true, false]),
        (map(&[("mesh", "a")]), [true, false]),
    ] {
        assert_eq!([all.matches(&labels), some.matches(&labels)], expected, "{labels:?}");
    }
    for (expression, expected) in [
        ("{key: a, operator: In}", "mesh:1: MeshConfig istio-system/istio: discoverySelectors[0].matchExpressions[0]: needs values"),
        (
            "{key: a, operator: Exists, values: [b]}",
            "mesh:1: MeshConfig istio-system/istio: discoverySelectors[0].matchExpressions[0].values: takes no values",
        ),
        (
            "{key: a b, operator: Exists}",
            "mesh:1: MeshConfig istio-system/istio: discoverySelectors[0].matchExpressions[0].key: `a b` is no label name",
        ),
        ("{operator: Exists}", "mesh:1: MeshConfig istio-system/istio: discoverySelectors[0].matchExpressions[0].key: is required"),
    ] {
        let problems = read(&format!("discoverySelectors: [{{matchExpressions: [{expression}]}}]")).unwrap_err();
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn slices() {
    let slice = find!(good(), EndpointSlice);
    assert_eq!(slice.service(), Some("printer"));
    assert_eq!(slice.ports.iter().map(|p| (p.name.as_str(), p.port, p.udp)).collect::<Vec<_>>(), [("http", 631, false), ("", 161, true)]);
    let endpoints: Vec<_> = slice.endpoints.iter().map(|e| (e.address.to_string(), e.ready, e.pod.as_deref(), e.zone.as_str())).collect();
    assert_eq!(endpoints, [("192.0.2.7".to_owned(), false, Some("p"), "cellar"), ("192.0.2.8".to_owned(), true, None, "")]);
}

#[test]
fn metadata_and_positions() {
    let account = find!(good(), ServiceAccount);
    assert_eq!(account.meta.created, 1_769_860_800);
    let service = find!(good(), Service);
    assert_eq!(service.meta.origin.to_string(), "good.yaml:8");
    assert_eq!(service.meta.position("spec.ports[2].port").line, 18);
    let route = find!(good(), VirtualService);
    assert_eq!(route.meta.position("spec.http[1].route[0].weight").line, route.meta.position("spec.http[1].route").line + 1);
}

#[test]
fn equality_leaves_positions_out() {
    let moved = parse_documents(&format!("# a line\n\n{}", include_str!("good.yaml")), &"other.yaml".into());
    assert!(moved.good().eq(good().good()));
}

#[test]
fn services() {
    let service = find!(good(), Service);
    assert_eq!(service.cluster_ip, ClusterIp::Headless);
    assert_eq!(service.export_to, [ExportTo::Own, ExportTo::Namespace("other".to_owned())]);
    let port = |name: &str, port, target_port, protocol| ServicePort { name: name.to_owned(), port, target_port, protocol };
    assert_eq!(
        service.ports,
        [
            port("http-web", 9080, TargetPort::Name("web".to_owned()), Protocol::Http),
            port("grpc", 9081, TargetPort::Number(8081), Protocol::Grpc),
            port("dns", 53, TargetPort::Number(53), Protocol::Udp),
        ]
    );
}

#[test]
fn workloads() {
    let deployment = find!(good(), Deployment);
    assert_eq!(deployment.replicas, 2);
    let spec = &deployment.template.spec;
    assert_eq!((spec.service_account.as_str(), spec.termination_grace_period), ("reviews", Duration::from_secs(5)));
    let container = &spec.containers[0];
    assert_eq!((container.command.join(" "), container.args.join(" ")), ("reviews".to_owned(), "--port 9080".to_owned()));
    let values: Vec<_> = container.env.iter().map(|env| env.value.clone()).collect();
    assert_eq!(
        values,
        [
            EnvValue::Literal("v1".to_owned()),
            EnvValue::Field(FieldRef::Name),
            EnvValue::Field(FieldRef::Label("app".to_owned())),
            EnvValue::ConfigMapKey { name: "settings".to_owned(), key: "b".to_owned(), optional: true },
        ]
    );
    let action = ProbeAction::HttpGet {
        path: "/ready".to_owned(),
        port: TargetPort::Name("web".to_owned()),
        headers: vec![("x-probe".to_owned(), "1".to_owned())],
    };
    let second = Duration::from_secs(1);
    let probe =
        Probe { action, initial_delay: Duration::ZERO, period: second, timeout: second, success_threshold: 1, failure_threshold: 3 };
    assert_eq!(container.readiness_probe, Some(probe));
    assert_eq!(
        spec.volumes[0].source,
        VolumeSource::ConfigMap {
            name: "settings".to_owned(),
            items: vec![("a.conf".to_owned(), "x/a.conf".to_owned())],
            optional: false,
            mode: 0o400
        }
    );
    let pod = find!(good(), Pod);
    assert_eq!(
        pod.status,
        PodStatus { pod_ip: Some("10.244.0.7".parse().unwrap()), second_ip: None, phase: PodPhase::Running, ready: true }
    );
    let config = find!(good(), ConfigMap);
    assert_eq!((config.data["a.conf"].as_str(), config.binary_data["c"].as_slice()), ("one\n---two\n", &[0_u8, 1, 2][..]));
    assert_eq!(find!(good(), Secret).data["a"], b"b");
}

/// How patterns of tokens and of metadata are taken apart.
#[test]
fn policy_patterns() {
    let exact = |text: &str| Pattern::Exact(text.to_owned());
    let (prefix, suffix) = (|text: &str| Pattern::Prefix(text.to_owned()), |text: &str| Pattern::Suffix(text.to_owned()));
    let policy = |rule: &str| {
        let text =
            format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: x}}\nspec: {{rules: [{rule}]}}\n");
        find!(parse_documents(&text, &"a".into()), AuthorizationPolicy)
    };
    for (text, issuer, subject) in [
        ("*", Pattern::Present, Pattern::Present),
        ("iss/sub", exact("iss"), exact("sub")),
        ("https://a.b/c/sub", exact("https://a.b/c"), exact("sub")),
        ("iss/*", exact("iss"), Pattern::Present),
        ("iss/s*", exact("iss"), prefix("s")),
        ("*/sub", Pattern::Present, exact("sub")),
        ("*.b/sub", suffix(".b"), exact("sub")),
        ("is*", prefix("is"), Pattern::Present),
        ("*ub", Pattern::Present, suffix("ub")),
    ] {
        let policy = policy(&format!("{{from: [{{source: {{requestPrincipals: ['{text}']}}}}]}}"));
        assert_eq!(policy.rules[0].from[0].request_principals, [RequestPrincipal { issuer, subject }], "{text}");
        assert!(policy.rules[0].from[0].is_http());
    }
    let when = policy(
        "{when: [{key: 'request.auth.claims[a][b/c]', values: ['x*']}, {key: 'experimental.envoy.filters.network.a[k]', values: ['[x]', z]}]}",
    );
    let [claim, metadata] = when.rules[0].when.as_slice() else { panic!("{when:?}") };
    assert!(claim.is_http() && !metadata.is_http());
    let values = Values { values: vec![prefix("x")], not_values: vec![] };
    assert_eq!(*claim, Condition::RequestClaim { path: vec!["a".to_owned(), "b/c".to_owned()], values });
    let values = vec![MetadataValue { item: true, pattern: exact("x") }, MetadataValue { item: false, pattern: exact("z") }];
    let values = Values { values, not_values: vec![] };
    assert_eq!(*metadata, Condition::Metadata { filter: "envoy.filters.network.a".to_owned(), key: "k".to_owned(), values });
    let to = policy("{to: [{operation: {paths: ['/a/{*}/{**}', '/a*']}}]}");
    assert_eq!(to.rules[0].to[0].paths, [PathPattern::Template("/a/{*}/{**}".to_owned()), PathPattern::Text(prefix("/a"))]);
}

#[test]
fn security() {
    let peers = find!(good(), PeerAuthentication);
    assert_eq!((peers.mtls, peers.port_level_mtls[&8080]), (MtlsMode::Strict, MtlsMode::Disable));
    let policy = find!(good(), AuthorizationPolicy);
    assert_eq!(policy.action, Action::Deny);
    assert_eq!(policy.selector, Some(Selector { labels: map(&[("app", "reviews")]) }));
    let [rule, all] = policy.rules.as_slice() else { panic!("{:?}", policy.rules) };
    assert_eq!(*all, Rule::default());
    assert_eq!(rule.from[0].principals, [Pattern::Exact("cluster.local/ns/shop/sa/storefront".to_owned())]);
    assert_eq!(rule.from[0].not_namespaces, [Pattern::Prefix("test-".to_owned())]);
    assert_eq!(rule.from[1].service_accounts, [NamespacedName::new("shop", "a"), NamespacedName::new("other", "b")]);
    let operation = &rule.to[0];
    let paths = [Pattern::Prefix("/reviews/".to_owned()), Pattern::Suffix(".html".to_owned())];
    assert_eq!(operation.paths, paths.map(PathPattern::Text));
    assert_eq!((operation.not_hosts.as_slice(), operation.ports.as_slice()), (&[Pattern::Present][..], &[9080][..]));
    assert!(operation.is_http() && rule.when[0].is_http() && !rule.when[1].is_http());
    let user = Values { values: vec![Pattern::Exact("anna".to_owned())], not_values: vec![Pattern::Prefix("b".to_owned())] };
    assert_eq!(rule.when[0], Condition::RequestHeader { name: "x-user".to_owned(), values: user });
    let nothing = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny-all}\n";
    for spec in ["", "spec: {}\n", "spec:\n"] {
        let policy = find!(parse_documents(&format!("{nothing}{spec}"), &"a".into()), AuthorizationPolicy);
        assert_eq!((policy.action, policy.rules.len(), policy.selector), (Action::Allow, 0, None));
    }
}

#[test]
fn virtual_services() {
    let service = find!(good(), VirtualService);
    assert_eq!(service.hosts[0].as_str(), "reviews");
    let named = |namespace: &str, name: &str| GatewayRef::Named(NamespacedName::new(namespace, name));
    assert_eq!(service.gateways, [GatewayRef::Mesh, named("shop", "front"), named("other", "gw"), named("ns", "old")]);
    let first = &service.http[0];
    assert_eq!(first.timeout, Some(Duration::from_secs(90)));
    let matched = &first.matches[0];
    assert_eq!(matched.uri, Some(StringMatch::Prefix("/reviews".to_owned())));
    assert!(matched.ignore_uri_case);
    assert_eq!(matched.headers["x-user"], StringMatch::Exact("anna".to_owned()));
    assert_eq!(matched.headers["x-any"], StringMatch::Present);
    let retries = first.retries.as_ref().unwrap();
    assert_eq!((retries.attempts, retries.per_try_timeout), (3, Some(Duration::from_millis(500))));
    assert_eq!((retries.retry_on.join(" "), retries.retry_ignore_previous_hosts), ("5xx 503".to_owned(), Some(false)));
    let weights = |route: &HttpRoute| match &route.action {
        HttpAction::Route(list) => list.iter().map(|d| d.weight).collect(),
        _ => vec![],
    };
    assert_eq!((weights(first), weights(&service.http[1])), (vec![100], vec![90, 10]));
    let HttpAction::Redirect(redirect) = &service.http[2].action else { panic!() };
    assert_eq!((redirect.code, redirect.port), (308, Some(RedirectPort::Request)));
    let HttpAction::DirectResponse(answer) = &service.http[3].action else { panic!() };
    assert_eq!((answer.status, answer.body.as_slice()), (503, &b"later"[..]));
    assert_eq!((service.tcp[0].matches[0].port, service.tcp[0].route[0].weight), (Some(6379), 100));
    let matched = &service.tls[0].matches[0];
    let names: Vec<&str> = matched.sni_hosts.iter().map(|name| name.as_str()).collect();
    assert_eq!((names, matched.connection.port), (vec!["reviews", "*.a.example.com"], Some(443)));
    let TcpMatch { destination_subnets, source_labels, source_namespace, gateways, .. } = &matched.connection;
    assert_eq!((destination_subnets.len(), source_labels.len(), source_namespace.as_deref()), (1, 1, Some("shop")));
    assert_eq!(gateways, &[GatewayRef::Mesh]);
    assert_eq!(service.tls[0].route.iter().map(|to| to.weight).collect::<Vec<_>>(), [90, 10]);
}

#[test]
fn destination_rules_by_any_spelling() {
    let rule = find!(good(), DestinationRule);
    let policy = rule.traffic_policy.unwrap();
    let simple = |lb| LoadBalancer { policy: LbPolicy::Simple(lb), ..LoadBalancer::default() };
    assert_eq!(policy.load_balancer, Some(simple(SimpleLb::RoundRobin)));
    let pool = policy.connection_pool.unwrap();
    assert_eq!((pool.tcp.max_connections, pool.tcp.connect_timeout), (Some(10), Some(Duration::from_secs(3))));
    assert_eq!((pool.http.max_requests_per_connection, pool.http.max_concurrent_streams), (None, Some(100)));
    assert_eq!(policy.outlier_detection.unwrap().consecutive_5xx_errors, Some(3));
    assert_eq!(policy.tls, Some(ClientTls::IstioMutual(Expected::default())));
    assert_eq!(policy.port_level_settings[&9081].load_balancer, Some(simple(SimpleLb::Random)));
    assert_eq!(rule.subsets[1].traffic_policy.as_ref().unwrap().tls, Some(ClientTls::Disable));
}

#[test]
fn service_entries_and_gateways() {
    let entry = find!(good(), ServiceEntry);
    assert_eq!((entry.location, entry.resolution), (Location::MeshExternal, Resolution::Static));
    assert_eq!((entry.ports[0].protocol, entry.ports[1].target_port), (Protocol::Tls, 8080));
    let endpoint = &entry.endpoints[0];
    assert_eq!((endpoint.address.clone(), endpoint.ports["http"]), (EndpointAddress::Ip("192.0.2.1".parse().unwrap()), 8081));
    assert_eq!((endpoint.locality.to_string(), endpoint.weight), ("r/z/s".to_owned(), 3));
    let gateway = find!(good(), Gateway);
    let hosts: Vec<_> = gateway.servers[0].hosts.iter().map(|host| (host.namespace.clone(), host.host.to_string())).collect();
    assert_eq!(
        hosts,
        [
            (GatewayNamespace::Any, "*".to_owned()),
            (GatewayNamespace::Own, "a.example".to_owned()),
            (GatewayNamespace::Named("shop".to_owned()), "*.example.com".to_owned()),
        ]
    );
    let of = |number: usize| (gateway.servers[number].https_redirect, gateway.servers[number].tls.as_ref());
    let (redirects, plain) = of(0);
    assert!(redirects && plain.is_none());
    let (redirects, mutual) = of(1);
    let mutual = mutual.unwrap();
    assert!(!redirects);
    assert_eq!((mutual.mode, mutual.authorities()), (ServerTlsMode::Mutual, Some("a-example")));
    assert_eq!((mutual.min, mutual.max), (TlsVersion::V12, TlsVersion::V13));
    assert_eq!(
        (&mutual.subject_alt_names[..], &mutual.cipher_suites[..]),
        (&["ann.example".to_owned()][..], &["ECDHE-ECDSA-AES256-GCM-SHA384".to_owned()][..])
    );
    let tls = |number: usize| gateway.servers[number].tls.as_ref().unwrap();
    assert_eq!(
        (&tls(2).credentials[..], tls(2).authorities(), tls(2).min),
        (&["b-rsa".to_owned(), "b-ecdsa".to_owned()][..], None, TlsVersion::Auto)
    );
    assert_eq!((tls(3).mode, tls(3).credentials.len(), tls(3).authorities()), (ServerTlsMode::IstioMutual, 0, None));
    assert_eq!((tls(4).mode, tls(4).authorities()), (ServerTlsMode::OptionalMutual, Some("clients")));
    // By protocol and mode: whether requests are seen, whether TLS comes, and what becomes of it.
    let kinds: Vec<_> = gateway.servers[5..].iter().map(|s| (s.is_http(), s.is_tls(), s.tls.is_some(), s.passthrough)).collect();
    let expected = [
        (false, true, false, Some(Passthrough::Routes)),
        (false, true, false, Some(Passthrough::Routes)),
        (false, true, false, Some(Passthrough::Auto)),
        (false, true, true, None),
        (false, true, true, None),
        (false, false, false, None),
        (false, false, false, None),
        (true, false, false, None),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn sidecars() {
    let sidecar = find!(good(), Sidecar);
    let hosts: Vec<_> =
        sidecar.egress.iter().flatten().map(|entry| (entry.namespace.clone(), entry.excluded, entry.host.to_string())).collect();
    let named = EgressNamespace::Named("other".into());
    assert_eq!(hosts, [(EgressNamespace::Own, false, "*".to_owned()), (named, true, "hidden.example.com".to_owned())]);
    assert_eq!((sidecar.selector.is_some(), sidecar.outbound), (true, Some(OutboundTrafficPolicy::RegistryOnly)));
}

#[test]
fn mesh_config() {
    let mesh = find!(good(), MeshConfig);
    assert_eq!((mesh.trust_domain.as_str(), mesh.outbound_traffic_policy), ("example.org", OutboundTrafficPolicy::RegistryOnly));
    assert_eq!((mesh.access_log_file.as_str(), mesh.access_log_encoding), ("/dev/stdout", AccessLogEncoding::Json));
    assert_eq!((mesh.default_config.concurrency, mesh.meta.origin.line), (Some(2), 222));
    let file: Arc<str> = "mesh.yaml".into();
    assert_eq!(parse_mesh_config("", &file).unwrap().0, MeshConfig::default());
    let problems = parse_mesh_config("trustDomain: A\nmeshMTLS: {}\nfoo: 1\n", &file).unwrap_err();
    assert_eq!(problems.iter().map(|p| p.pos.line).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn custom_policy() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask}\nspec: {action: CUSTOM, provider: {name: p}, rules: [{}]}\n";
    let policy = find!(parse_documents(text, &"a".into()), AuthorizationPolicy);
    assert_eq!((policy.action, policy.provider.as_str(), policy.rules.len()), (Action::Custom, "p", 1));
}

#[test]
fn json() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"a\\u0062\"}\n}\n";
    let parsed = parse_documents(text, &"a.json".into());
    assert_eq!(parsed.good().next().unwrap().key().to_string(), "Namespace ab");
}

/// Every field that Istio's MeshConfig and ProxyConfig have, or had in a version that is still met.
#[test]
fn no_field_of_istio_is_unknown() {
    let mesh = "proxyListenPort proxyInboundListenPort proxyHttpPort connectTimeout hboneIdleTimeout tcpKeepalive ingressClass ingressService \
        ingressControllerMode ingressSelector enableTracing accessLogFile accessLogFormat accessLogEncoding enableEnvoyAccessLogService \
        disableEnvoyListenerLog defaultConfig outboundTrafficPolicy inboundTrafficPolicy configSources enableAutoMtls trustDomain \
        trustDomainAliases caCertificates defaultServiceExportTo defaultVirtualServiceExportTo defaultDestinationRuleExportTo rootNamespace \
        localityLbSetting dnsRefreshRate h2UpgradePolicy inboundClusterStatName outboundClusterStatName certificates enablePrometheusMerge \
        verifyCertificateAtClient ca extensionProviders defaultProviders discoverySelectors pathNormalization defaultHttpRetryPolicy meshMTLS \
        tlsDefaults serviceSettings serviceScopeConfigs protocolDetectionTimeout";
    let proxy = "configPath binaryPath serviceCluster tracingServiceName drainDuration parentShutdownDuration discoveryAddress \
        discoveryRefreshDelay zipkinAddress statsdUdpAddress proxyAdminPort availabilityZone controlPlaneAuthPolicy customConfigFile \
        statNameLength concurrency proxyBootstrapTemplatePath interceptionMode tracing sds envoyAccessLogService envoyMetricsService \
        proxyMetadata runtimeValues statusPort extraStatTags gatewayTopology terminationDrainDuration meshId readinessProbe proxyStatsMatcher \
        holdApplicationUntilProxyStarts caCertificatesPem image privateKeyProvider proxyHeaders fileFlushInterval fileFlushMinSizeKb \
        statsCompression";
    let problems = |text: String| match parse_mesh_config(&text, &"mesh.yaml".into()) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    let unknown = |text: String| problems(text).iter().any(|problem| problem.message.contains("unknown field"));
    for name in mesh.split_whitespace() {
        assert!(!unknown(format!("{name}: [x]\n")), "{name}");
    }
    for name in proxy.split_whitespace() {
        assert!(!unknown(format!("defaultConfig: {{{name}: [x]}}\n")), "{name}");
    }
    assert!(unknown("proxyHttpPorts: 1\n".to_owned()));
    let source = |source: &str| problems(format!("configSources: [{source}]\n")).iter().map(ToString::to_string).collect::<Vec<_>>();
    let place = "mesh.yaml:1: MeshConfig istio-system/istio: configSources[0].address:";
    assert_eq!(source("{address: 'k8s://'}"), [format!("{place} is not acted on yet")]);
    let refused = format!("{place} is not supported yet, and ignoring it could change who may talk");
    assert_eq!(source("{address: 'xds://other:15010'}"), [refused]);
}

/// `expected_warnings` are what follows `spec.trafficPolicy.tls.`.
#[track_caller]
fn check_tls(tls: &str, expected: &ClientTls, expected_warnings: &[&str]) {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec: {{host: b, trafficPolicy: {{tls: {{{tls}}}}}}}\n"
    );
    let parsed = parse_documents(&text, &"a.yaml".into());
    assert!(parsed.problems().next().is_none(), "{tls}: {:#?}", parsed.problems().map(ToString::to_string).collect::<Vec<_>>());
    let rule = find!(parsed, DestinationRule);
    assert_eq!(rule.traffic_policy.unwrap().tls.as_ref(), Some(expected), "{tls}");
    let warnings: Vec<_> = parsed.warnings.iter().map(|warning| format!("{}: {}", warning.field, warning.message)).collect();
    let expected: Vec<_> = expected_warnings.iter().map(|warning| format!("spec.trafficPolicy.tls.{warning}")).collect();
    assert_eq!(warnings, expected, "{tls}");
}

#[test]
fn tls_to_servers() {
    let named = |sni: Option<&str>, sans: &[&str]| Expected {
        sni: sni.map(str::to_owned),
        subject_alt_names: sans.iter().map(|san| (*san).to_owned()).collect(),
    };
    let path = |path: &str| (!path.is_empty()).then(|| path.to_owned());
    let file = |authorities: &str, revoked: &str| ClientRoots::File { authorities: path(authorities), revoked: path(revoked) };
    let foreign = |expected: Expected, certificate: Option<ClientCertificate>, roots: ClientRoots| {
        ClientTls::Foreign(Box::new(ForeignTls { expected, certificate, roots }))
    };
    let shown = || Some(ClientCertificate::Files { certificate: "/c.pem".to_owned(), key: "/k.pem".to_owned() });
    let (secret, nobody) = (|| "a".to_owned(), Expected::default);
    let assumed = format!("mode: {SYSTEM_ROOTS}");
    let skipped = format!("insecureSkipVerify: {NOBODY_VERIFIED}");
    let any_name = format!("sni: {ANY_NAME}");
    let simple = foreign(nobody(), None, file("", ""));
    check_tls("mode: SIMPLE", &simple, &[&assumed]);
    check_tls("mode: SIMPLE, caCertificates: '', credentialName: '', sni: ''", &simple, &[&assumed]);
    check_tls("mode: SIMPLE, caCertificates: system", &simple, &[]);
    check_tls("mode: SIMPLE, caCertificates: /ca.pem, caCrl: /crl.pem", &foreign(nobody(), None, file("/ca.pem", "/crl.pem")), &[]);
    check_tls(
        "mode: SIMPLE, caCertificates: system, sni: A.example",
        &foreign(named(Some("a.example"), &[]), None, file("", "")),
        &[&any_name],
    );
    check_tls(
        "mode: SIMPLE, caCertificates: /a, sni: b, subjectAltNames: [c, 'spiffe://d']",
        &foreign(named(Some("b"), &["c", "spiffe://d"]), None, file("/a", "")),
        &[],
    );
    check_tls(
        "mode: SIMPLE, caCertificates: /a, privateKey: /k.pem",
        &foreign(nobody(), None, file("/a", "")),
        &["privateKey: is not used: SIMPLE shows no certificate, MUTUAL does"],
    );
    check_tls("mode: SIMPLE, insecureSkipVerify: true, sni: b", &foreign(named(Some("b"), &[]), None, ClientRoots::Nobody), &[&skipped]);
    check_tls("mode: SIMPLE, credentialName: a", &foreign(nobody(), None, ClientRoots::Secret(secret())), &[]);
    check_tls("mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem", &foreign(nobody(), shown(), file("", "")), &[&assumed]);
    let by_secret = || Some(ClientCertificate::Secret(secret()));
    check_tls("mode: MUTUAL, credentialName: a", &foreign(nobody(), by_secret(), ClientRoots::Secret(secret())), &[]);
    check_tls(
        "mode: MUTUAL, credentialName: a, insecureSkipVerify: true",
        &foreign(nobody(), by_secret(), ClientRoots::Nobody),
        &[&skipped],
    );
    check_tls("mode: ISTIO_MUTUAL, sni: a, subjectAltNames: [b]", &ClientTls::IstioMutual(named(Some("a"), &["b"])), &[]);
    check_tls(
        "caCertificates: /a, insecureSkipVerify: false",
        &ClientTls::Disable,
        &["caCertificates: is not used: mode DISABLE, which is the default, is plain text"],
    );
}

#[test]
fn formats_of_access_logs() {
    let read = |encoding: &str, format: &str| {
        let text = format!("accessLogEncoding: {encoding}\naccessLogFormat: {}\n", serde_json::json!(format));
        let texts = |problems: Vec<mizzen_api::Problem>| problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>();
        match parse_mesh_config(&text, &"mesh.yaml".into()) {
            Ok((mesh, warnings)) => Ok((mesh.access_log_format, texts(warnings))),
            Err(problems) => Err(texts(problems)),
        }
    };
    let line = |text: &str| Some(LogFormat::Text(text.to_owned()));
    assert_eq!(read("TEXT", ""), Ok((None, vec![])));
    assert_eq!(read("TEXT", "%RESPONSE_CODE% 100%%"), Ok((line("%RESPONSE_CODE% 100%%\n"), vec![])), "a line has its end");
    let known = "%START_TIME(%Y)% %REQ(:METHOD?X):10% %DOWNSTREAM_TLS_CIPHER% %UPSTREAM_CLUSTER_RAW% %GRPC_STATUS(NUMBER)%\n";
    assert_eq!(read("TEXT", known), Ok((line(known), vec![])));
    let unknown = "command `DOWNSTREAM_TLS_CIFER` is not known, and lines have nothing in its place, did you mean `DOWNSTREAM_TLS_CIPHER`?";
    assert_eq!(read("TEXT", "%DOWNSTREAM_TLS_CIFER%\n"), Ok((line("%DOWNSTREAM_TLS_CIFER%\n"), vec![unknown.to_owned()])));
    for (encoding, wrong, expected) in [
        ("TEXT", "50% of it", "a lone percent sign is written `%%`, and stands before ` of it`"),
        ("TEXT", "%REQ(A", "a lone percent sign is written `%%`, and stands before `REQ(A`"),
        ("JSON", r#"{"a": ["%X"]}"#, "a lone percent sign is written `%%`, and stands before `X`"),
        ("JSON", "[]", "must be an object of JSON, since accessLogEncoding is JSON"),
    ] {
        assert_eq!(read(encoding, wrong), Err(vec![expected.to_owned()]), "{wrong}");
    }
    assert!(read("JSON", "%PROTOCOL%").unwrap_err()[0].starts_with("must be an object of JSON, since accessLogEncoding is JSON: "));
    let json = r#"{"code": "%RESPONSE_CODE%", "tls": {"version": "%DOWNSTREAM_TLS_VERSION%", "n": [1, null, true]}, "x": "%X%"}"#;
    let (format, warnings) = read("JSON", json).unwrap();
    assert_eq!(format, Some(LogFormat::Json(serde_json::from_str(json).unwrap())));
    assert_eq!(warnings, ["command `X` is not known, and lines have nothing in its place"]);
}

/// What bounds connections is a number, since what is none would bound nothing; of other values only their shape is known.
#[test]
fn values_of_the_runtime() {
    let check = |values: &str, expected: Result<&[(&str, &str)], &str>| {
        let read = parse_mesh_config(&format!("defaultConfig: {{runtimeValues: {values}}}\n"), &"mesh.yaml".into());
        let read = read.map(|(mesh, _)| mesh.default_config.runtime_values).map_err(|problems| problems[0].to_string());
        let expected = expected.map(|all| all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect());
        assert_eq!(
            read,
            expected.map_err(|rest| format!("mesh.yaml:1: MeshConfig istio-system/istio: defaultConfig.runtimeValues{rest}")),
            "{values}"
        );
    };
    let (global, web) = ("overload.global_downstream_max_connections", "envoy.resource_limits.listener.0.0.0.0_80.connection_limit");
    check(&format!("{{{global}: '7', {web}: '', a.b: few}}"), Ok(&[(web, ""), (global, "7"), ("a.b", "few")]));
    for value in ["few", "'-1'", "'1.5'", "' 7'"] {
        let text = value.trim_matches('\'');
        let said = format!("[\"{web}\"]: must be a number of connections, or empty for no limit, is `{text}`");
        check(&format!("{{{web}: {value}}}"), Err(&said));
    }
    check("[x]", Err(": must be a map, is a list"));
}
