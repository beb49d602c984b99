//! What annotations, values and the author's own containers change.

use super::*;

fn annotated(name: &str, value: &str) -> (Value, Vec<String>) {
    patched(&pod(json!({ name: value }), json!({})), &config(json!(null)))
}

#[test]
fn order_of_containers() {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let check = |native: bool, hold: bool, init: &[&str], containers: &[&str]| {
        let mesh = mesh(&format!("defaultConfig: {{holdApplicationUntilProxyStarts: {hold}}}"));
        let config = InjectConfig::new(&mesh, &json!(null), native).unwrap();
        let mut pod = plain();
        pod["spec"]["initContainers"] = json!([{ "name": "migrate" }]);
        let (pod, _) = patched(&pod, &config);
        assert_eq!((names(&pod, "initContainers"), names(&pod, "containers")), (own(init), own(containers)), "{native} {hold}");
        let proxy = container(&pod, "istio-proxy");
        assert_eq!(proxy["restartPolicy"] == "Always", native);
        assert_eq!(proxy.get("lifecycle").is_some(), hold && !native);
    };
    check(true, false, &["istio-init", "istio-proxy", "migrate"], &["reviews"]);
    check(true, true, &["istio-init", "istio-proxy", "migrate"], &["reviews"]);
    check(false, false, &["migrate", "istio-init"], &["reviews", "istio-proxy"]);
    check(false, true, &["migrate", "istio-init"], &["istio-proxy", "reviews"]);
}

#[test]
fn settings_of_proxies() {
    let configs = |text: &str| -> Vec<Arc<Object>> {
        let parsed = mizzen_api::parse_documents(text, &"a.yaml".into());
        parsed.objects.into_iter().map(|object| Arc::new(object.unwrap_or_else(|refusal| panic!("{:?}", refusal.problems)))).collect()
    };
    let one = |name: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1beta1, kind: ProxyConfig, metadata: {{name: {name}, namespace: shop}}, spec: {{{rest}}}}}\n"
        )
    };
    let env = |all: &str| format!("environmentVariables: {{{all}}}");
    let root = one("r", &format!("concurrency: 1, {}", env("A: root, B: root, C: root, D: root")))
        + &one("s", "selector: {matchLabels: {app: reviews}}, concurrency: 9");
    let own = one("ns", &env("B: space, C: space, D: space")) + &one("second", "concurrency: 7");
    let nearest = one("other", "selector: {matchLabels: {app: ratings}}, concurrency: 8")
        + &one("w", &format!("selector: {{matchLabels: {{app: reviews}}}}, {}", env("D: workload")));
    let annotation = json!({"proxy.istio.io/config": "{concurrency: 3, proxyMetadata: {C: pod, D: pod}}"});
    let config =
        InjectConfig::new(&mesh("defaultConfig: {concurrency: 5, proxyMetadata: {A: mesh, X: mesh}}"), &json!(null), true).unwrap();
    let check = |root: &str, own: &str, annotations: &Value, expected: [&str; 6]| {
        let facts = NamespaceFacts { proxies: ProxyConfigs { root: configs(root), own: configs(own) }, ..shop() };
        let Outcome::Patched { pod, warnings, .. } = inject(&pod(annotations.clone(), json!({})), &facts, &config).unwrap() else {
            panic!()
        };
        assert_eq!(warnings, [""; 0]);
        let written: Value = serde_json::from_str(&variable(&pod, "PROXY_CONFIG").unwrap()).unwrap();
        let found = ["X", "A", "B", "C", "D"].map(|name| variable(&pod, name).unwrap_or_default());
        assert_eq!(
            [written["concurrency"].to_string().as_str()].into_iter().chain(found.iter().map(String::as_str)).collect::<Vec<_>>(),
            expected
        );
    };
    let none = json!({});
    check("", "", &none, ["5", "mesh", "mesh", "", "", ""]);
    check(&root, "", &none, ["1", "mesh", "root", "root", "root", "root"]);
    check(&root, &own, &none, ["1", "mesh", "root", "space", "space", "space"]);
    check(&root, &own, &annotation, ["3", "mesh", "root", "space", "pod", "pod"]);
    check(&root, &(own + &nearest), &annotation, ["3", "mesh", "root", "space", "pod", "workload"]);
    check("", &one("w", "selector: {matchLabels: {app: reviews}}, concurrency: 0"), &annotation, ["0", "mesh", "mesh", "", "pod", "pod"]);
}

#[test]
fn native_or_not() {
    let check = |auto: bool, value: Value, annotation: &str, want: bool| {
        let values = json!({ "pilot": { "env": { "ENABLE_NATIVE_SIDECARS": value } } });
        let config = InjectConfig::new(&MeshConfig::default(), &values, auto).unwrap();
        let (pod, _) = patched(&pod(json!({ "sidecar.istio.io/nativeSidecar": annotation }), json!({})), &config);
        assert_eq!(names(&pod, "initContainers").contains(&"istio-proxy".to_owned()), want, "{auto} {value} {annotation}");
    };
    check(true, json!(null), "", true);
    check(false, json!("auto"), "", false);
    check(true, json!("false"), "", false);
    check(false, json!(true), "", true);
    check(true, json!("true"), "false", false);
    check(false, json!("false"), "true", true);
}

#[test]
fn capture() {
    let check = |name: &str, value: &str, of: &str, want: Option<&str>| {
        let (pod, _) = annotated(&format!("traffic.sidecar.istio.io/{name}"), value);
        assert_eq!(flag(&pod, of).as_deref(), want, "{name}={value}");
    };
    check("includeOutboundIPRanges", "10.0.0.0/8,172.16.0.0/12", "-i", Some("10.0.0.0/8,172.16.0.0/12"));
    check("excludeOutboundIPRanges", "10.1.0.0/16,fd00::/8", "-x", Some("10.1.0.0/16,fd00::/8"));
    check("includeInboundPorts", "", "-b", Some(""));
    check("includeInboundPorts", "80,443", "-b", Some("80,443"));
    check("excludeInboundPorts", "22,15020", "-d", Some("15090,15021,15020,22"));
    check("includeOutboundPorts", "3306", "-q", Some("3306"));
    check("excludeOutboundPorts", "25", "-o", Some("25"));
    check("excludeOutboundPorts", "", "-o", None);
    let (pod, _) =
        patched(&plain(), &config(json!({ "global": { "proxy": { "includeIPRanges": "10.0.0.0/8", "excludeInboundPorts": "22" } } })));
    assert_eq!((flag(&pod, "-i").as_deref(), flag(&pod, "-d").as_deref()), (Some("10.0.0.0/8"), Some("15090,15021,15020,22")));
    let (pod, _) = annotated("status.sidecar.istio.io/port", "16000");
    assert_eq!(flag(&pod, "-d").as_deref(), Some("15090,15021,16000"));
}

#[test]
fn capture_by_the_nodes_plugin() {
    let mesh = mesh("defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true'}}");
    let values = json!({ "pilot": { "cni": { "enabled": true } }, "global": { "proxy": { "excludeIPRanges": "10.1.0.0/16" } } });
    let config = InjectConfig::new(&mesh, &values, true).unwrap();
    let own = json!({ "traffic.sidecar.istio.io/excludeInboundPorts": "22", "traffic.sidecar.istio.io/excludeOutboundPorts": "25" });
    let given = json!([{ "name": "istio-init", "securityContext": { "privileged": true } }]);
    let (pod, warnings) = patched(&pod(own, json!({ "initContainers": given })), &config);
    assert_eq!(warnings, ["container istio-init has no effect: the capture is set by the node's plugin"]);
    assert_eq!(names(&pod, "initContainers"), ["istio-validation", "istio-proxy"]);
    for name in ["istio-validation", "istio-proxy"] {
        let restricted = json!({
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "privileged": false, "readOnlyRootFilesystem": true,
            "runAsGroup": 1337, "runAsNonRoot": true, "runAsUser": 1337, "seccompProfile": { "type": "RuntimeDefault" },
        });
        assert_eq!(container(&pod, name)["securityContext"], restricted, "{name}");
    }
    let args: Vec<&str> = container(&pod, "istio-validation")["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(args[0], "istio-iptables");
    assert!(args.ends_with(&["--run-validation", "--skip-rule-apply"]) && args.windows(2).any(|pair| pair == ["-o", "25"]), "{args:?}");
    // What the plugin reads says what the flags say.
    let note = |name: &str| pod["metadata"]["annotations"][format!("traffic.sidecar.istio.io/{name}")].as_str();
    assert_eq!((note("includeOutboundIPRanges"), note("includeInboundPorts")), (Some("*"), Some("*")));
    assert_eq!((note("excludeInboundPorts"), note("excludeOutboundIPRanges")), (Some("15090,15021,15020,22"), Some("10.1.0.0/16")));
    assert_eq!((note("excludeOutboundPorts"), note("includeOutboundPorts")), (Some("25"), None));
    let status: Value = serde_json::from_str(pod["metadata"]["annotations"][STATUS].as_str().unwrap()).unwrap();
    assert_eq!((&status["initContainers"], &status[DNS_CAPTURE]), (&json!(["istio-validation", "istio-proxy"]), &json!(true)));
    let wrong = json!({ "proxy.istio.io/config": "{proxyMetadata: {ISTIO_META_DNS_CAPTURE: '1'}}" });
    let why = refused(&super::pod(wrong, json!({})), &config);
    assert_eq!(why, "annotation proxy.istio.io/config: proxyMetadata.ISTIO_META_DNS_CAPTURE: 1: must be true or false");
    // A gateway captures nothing, and has nothing to be looked at.
    let gateway = json!({ "inject.istio.io/templates": "gateway" });
    let (gateway, _) = patched(&super::pod(gateway, json!({ "containers": [{ "name": "istio-proxy", "image": "auto" }] })), &config);
    assert_eq!(names(&gateway, "initContainers"), [""; 0]);
    assert!(gateway["metadata"]["annotations"].get("traffic.sidecar.istio.io/includeInboundPorts").is_none());
    let by_other_name =
        InjectConfig::new(&MeshConfig::default(), &json!({ "istio_cni": { "enabled": true, "chained": true } }), false).unwrap();
    let own = json!({ "initContainers": [{ "name": "own", "image": "own" }], "containers": [{ "name": "reviews", "image": "reviews" }] });
    let (looked_at, _) = patched(&super::pod(json!({}), own), &by_other_name);
    assert_eq!(
        (names(&looked_at, "initContainers"), names(&looked_at, "containers")),
        (vec!["istio-validation".to_owned(), "own".to_owned()], vec!["reviews".to_owned(), "istio-proxy".to_owned()])
    );
}

#[test]
fn annotations_of_the_container() {
    let check = |name: &str, value: &str, path: &str, want: Value| {
        let (pod, _) = annotated(name, value);
        assert_eq!(container(&pod, "istio-proxy").pointer(path), Some(&want), "{name}={value}");
    };
    check("sidecar.istio.io/proxyImage", "proxyv3", "/image", json!("mizzen/proxyv3:1.0"));
    check("sidecar.istio.io/proxyImage", "other/proxy:2", "/image", json!("other/proxy:2"));
    check("sidecar.istio.io/proxyCPU", "50m", "/resources", json!({ "requests": { "cpu": "50m" } }));
    check("sidecar.istio.io/proxyMemoryLimit", "1Gi", "/resources", json!({ "limits": { "memory": "1Gi" } }));
    check("sidecar.istio.io/logLevel", "debug", "/args/4", json!("--proxyLogLevel=debug"));
    check("sidecar.istio.io/componentLogLevel", "http:trace", "/args/5", json!("--proxyComponentLogLevel=http:trace"));
    check("sidecar.istio.io/agentLogLevel", "all:debug", "/args/6", json!("--log_output_level=all:debug"));
    check("readiness.status.sidecar.istio.io/periodSeconds", "1", "/readinessProbe/periodSeconds", json!(1));
    check("readiness.status.sidecar.istio.io/initialDelaySeconds", "9", "/readinessProbe/initialDelaySeconds", json!(9));
    check("readiness.status.sidecar.istio.io/failureThreshold", "7", "/readinessProbe/failureThreshold", json!(7));
    let (pod, _) = annotated("readiness.status.sidecar.istio.io/failureThreshold", "0");
    assert!(container(&pod, "istio-proxy").get("readinessProbe").is_none(), "zero is none, as in Istio");
    let mounted = json!({ "sidecar.istio.io/userVolume": r#"{"certs":{"secret":{"secretName":"c"}}}"#,
        "sidecar.istio.io/userVolumeMount": r#"[{"name":"certs","mountPath":"/certs","readOnly":true}]"# });
    let (pod, _) = patched(&super::pod(mounted, json!({})), &config(json!(null)));
    assert!(names(&pod, "volumes").contains(&"certs".to_owned()));
    let mounts = container(&pod, "istio-proxy")["volumeMounts"].as_array().unwrap();
    assert_eq!(mounts.last(), Some(&json!({ "name": "certs", "mountPath": "/certs", "readOnly": true })));
}

#[test]
fn settings_of_one_proxy() {
    let mesh = mesh(
        "defaultConfig: {proxyMetadata: {A: '1', B: '1'}, terminationDrainDuration: 7s, gatewayTopology: {numTrustedProxies: 3}, \
              runtimeValues: {overload.global_downstream_max_connections: '9', a: b}}",
    );
    let config = InjectConfig::new(&mesh, &json!(null), true).unwrap();
    let own = "concurrency: 3\nproxyMetadata:\n  B: '2'\n  EXIT_ON_ZERO_ACTIVE_CONNECTIONS: 'true'\ntracing: {}\n\
        gatewayTopology: {proxyProtocol: {}, forwardClientCertDetails: APPEND_FORWARD}\n";
    let (pod, warnings) = patched(&pod(json!({ "proxy.istio.io/config": own }), json!({})), &config);
    let written: Value = serde_json::from_str(&variable(&pod, "PROXY_CONFIG").unwrap()).unwrap();
    let metadata = json!({ "A": "1", "B": "2", "EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true" });
    // What MeshConfig says of gateways is not written: it holds as it is at the time.
    let topology = json!({ "forwardClientCertDetails": "APPEND_FORWARD", "proxyProtocol": {} });
    assert_eq!(
        written,
        json!({ "terminationDrainDuration": "7s", "concurrency": 3, "proxyMetadata": metadata, "gatewayTopology": topology,
            "runtimeValues": { "overload.global_downstream_max_connections": "9", "a": "b" } })
    );
    for (name, want) in [("A", "1"), ("B", "2"), ("EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "true")] {
        assert_eq!(variable(&pod, name).as_deref(), Some(want));
    }
    assert_eq!(warnings, ["annotation proxy.istio.io/config: tracing: is not acted on yet"]);
    let limit = "envoy.resource_limits.listener.virtualInbound.connection_limit";
    let (limited, _) =
        patched(&super::pod(json!({ "proxy.istio.io/config": format!("runtimeValues: {{{limit}: '2'}}") }), json!({})), &config);
    let limited: Value = serde_json::from_str(&variable(&limited, "PROXY_CONFIG").unwrap()).unwrap();
    assert_eq!(limited["runtimeValues"], json!({ limit: "2" }), "in the place of the mesh's");
    let bad = |text: &str| refused(&super::pod(json!({ "proxy.istio.io/config": text }), json!({})), &config);
    let wrong = bad(&format!("runtimeValues: {{{limit}: two}}"));
    assert!(wrong.ends_with(": must be a number of connections, or empty for no limit, is `two`"), "{wrong}");
    let wrong = bad("gatewayTopology: {numTrustedProxies: -1}");
    assert!(wrong.starts_with("annotation proxy.istio.io/config: gatewayTopology.numTrustedProxies: must be between 0 and"), "{wrong}");
    assert_eq!(
        bad("interceptionMode: NONE"),
        "annotation proxy.istio.io/config: interceptionMode: NONE is not supported yet, and ignoring it could change where traffic goes"
    );
    assert!(bad("concurency: 1").contains("concurency"), "{}", bad("concurency: 1"));
}

/// How inbound connections come to the proxy is one thing for who sets the capture, for the proxy's rights, and for what the control plane is told.
#[test]
fn interception() {
    let check = |of_mesh: &str, own: Value, native: bool, cni: bool, want: &str| {
        let of_mesh = mesh(&format!("defaultConfig: {{interceptionMode: {of_mesh}}}"));
        let values = json!({ "pilot": { "cni": { "enabled": cni }, "env": { "ENABLE_NATIVE_SIDECARS": native.to_string() } } });
        let config = InjectConfig::new(&of_mesh, &values, native).unwrap();
        let (pod, warnings) = patched(&super::pod(own.clone(), json!({})), &config);
        let transparent = want == "TPROXY";
        let is = |name: &str| container(&pod, name)["args"].as_array().unwrap().windows(2).any(|pair| pair == [json!("-m"), json!(want)]);
        assert!(is(if cni { "istio-validation" } else { "istio-init" }), "{own}");
        assert_eq!(variable(&pod, "ISTIO_META_INTERCEPTION_MODE").as_deref(), Some(want), "{own}");
        let security = &container(&pod, "istio-proxy")["securityContext"];
        let added = if transparent { json!(["NET_ADMIN"]) } else { Value::Null };
        assert_eq!((&security["capabilities"]["add"], &security["capabilities"]["drop"]), (&added, &json!(["ALL"])));
        assert_eq!(security["runAsUser"], if transparent { 0 } else { 1337 });
        assert_eq!(security["runAsNonRoot"], !transparent);
        for (field, want) in
            [("runAsGroup", json!(1337)), ("readOnlyRootFilesystem", json!(true)), ("allowPrivilegeEscalation", json!(false))]
        {
            assert_eq!(security[field], want, "{field}");
        }
        let annotation = &pod["metadata"]["annotations"]["sidecar.istio.io/interceptionMode"];
        // The node's plugin knows the pod's annotations alone.
        let says_nothing = annotation.as_str().unwrap_or_default().is_empty();
        assert!(!cni || *annotation == want || !transparent && says_nothing, "{annotation}");
        assert_eq!(
            warnings.iter().any(|warning| warning.contains("pod-security.kubernetes.io/enforce")),
            transparent && cni,
            "{warnings:?}"
        );
    };
    let annotation = |mode: &str| json!({ "sidecar.istio.io/interceptionMode": mode });
    let settings = |mode: &str| json!({ "proxy.istio.io/config": format!("interceptionMode: {mode}") });
    let mut both = settings("REDIRECT");
    both["sidecar.istio.io/interceptionMode"] = "TPROXY".into();
    for (native, cni) in [(false, false), (true, false), (true, true)] {
        check("REDIRECT", json!({}), native, cni, "REDIRECT");
        check("TPROXY", json!({}), native, cni, "TPROXY");
        check("TPROXY", annotation("REDIRECT"), native, cni, "REDIRECT");
        check("TPROXY", settings("REDIRECT"), native, cni, "REDIRECT");
        check("REDIRECT", annotation("TPROXY"), native, cni, "TPROXY");
        check("REDIRECT", settings("TPROXY"), native, cni, "TPROXY");
        check("REDIRECT", annotation(""), native, cni, "REDIRECT");
        check("REDIRECT", both.clone(), native, cni, "TPROXY");
    }
    // To a gateway nothing is captured.
    let config = InjectConfig::new(&mesh("defaultConfig: {interceptionMode: TPROXY}"), &json!(null), true).unwrap();
    let (pod, _) = patched(&super::pod(json!({ "inject.istio.io/templates": "gateway" }), json!({})), &config);
    assert_eq!(variable(&pod, "ISTIO_META_INTERCEPTION_MODE").as_deref(), Some("REDIRECT"));
    assert_eq!(container(&pod, "istio-proxy")["securityContext"]["runAsUser"], 1337);
}

#[test]
fn refused_annotations() {
    let check = |name: &str, value: &str, want: &str| {
        let error = refused(&pod(json!({ name: value }), json!({})), &config(json!(null)));
        assert_eq!(error, format!("annotation {name}: {want}"));
    };
    check("sidecar.istio.io/interceptionMode", "NONE", "NONE is not supported: it must be REDIRECT or TPROXY");
    check("traffic.sidecar.istio.io/excludeInterfaces", "eth1", "is not supported, and ignoring it could change where traffic goes");
    check("traffic.sidecar.istio.io/excludeInboundPorts", "80,http", "`http` is not a port between 1 and 65535");
    check("traffic.sidecar.istio.io/excludeOutboundIPRanges", "*", "`*` is not possible here, only a list");
    let dual = "proxyMetadata: {ISTIO_DUAL_STACK: \"1\"}";
    check("proxy.istio.io/config", dual, "proxyMetadata.ISTIO_DUAL_STACK: 1: must be true or false");
    let wide = "`fd00::/129` is neither an IP address nor a CIDR block such as 10.0.0.0/8";
    check("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/8,fd00::/129", wide);
    check("inject.istio.io/templates", "grpc-agent", "there is no template grpc-agent: it must be sidecar or gateway");
    let several = "several templates, here also custom, are not supported: it must be sidecar or gateway";
    check("inject.istio.io/templates", "sidecar,custom", several);
    check("sidecar.istio.io/nativeSidecar", "maybe", "must be true or false, is `maybe`");
    check("status.sidecar.istio.io/port", "0", "`0` is not a port between 1 and 65535");
    check("proxy.istio.io/overrides", r#"{"containers":[{"name":"app"}]}"#, "only istio-proxy and istio-init can be overridden");
}

#[test]
fn told_annotations() {
    let (_, warnings) = annotated("sidecar.istio.io/statsInclusionPrefixes", "cluster");
    assert_eq!(warnings, ["annotation sidecar.istio.io/statsInclusionPrefixes has no effect"]);
    let (_, warnings) = patched(&pod(json!({}), json!({ "securityContext": { "runAsUser": 1337 } })), &config(json!(null)));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("container reviews runs as user 1337"), "{}", warnings[0]);
}

#[test]
fn probes() {
    let app = json!([{
        "name": "app",
        "ports": [{ "name": "http", "containerPort": 8080 }],
        "livenessProbe": { "httpGet": { "path": "/l", "port": 8081, "scheme": "HTTPS", "httpHeaders": [{ "name": "Host", "value": "a" }] }, "timeoutSeconds": 4 },
        "readinessProbe": { "grpc": { "port": 9000, "service": "s" } },
        "startupProbe": { "tcpSocket": { "port": "http" }, "failureThreshold": 9 },
        "lifecycle": { "preStop": { "httpGet": { "path": "/stop", "port": "http" } }, "postStart": { "exec": { "command": ["a"] } } },
    }]);
    let init = json!([
        { "name": "helper", "restartPolicy": "Always", "startupProbe": { "tcpSocket": { "port": 7000 } } },
        { "name": "once", "startupProbe": { "tcpSocket": { "port": 7000 } } },
    ]);
    let whole = pod(json!({}), json!({ "containers": app, "initContainers": init }));
    let (injected, warnings) = patched(&whole, &config(json!(null)));
    assert_eq!(warnings, [""; 0]);
    let probers: Value = serde_json::from_str(&variable(&injected, "ISTIO_KUBE_APP_PROBERS").unwrap()).unwrap();
    assert_eq!(
        probers,
        json!({
            "/app-health/app/livez": {
                "httpGet": { "path": "/l", "port": 8081, "scheme": "HTTPS", "httpHeaders": [{ "name": "Host", "value": "a" }] }, "timeoutSeconds": 4,
            },
            "/app-health/app/readyz": { "grpc": { "port": 9000, "service": "s" } },
            "/app-health/app/startupz": { "tcpSocket": { "port": 8080 } },
            "/app-lifecycle/app/prestopz": { "httpGet": { "path": "/stop", "port": 8080 } },
            "/app-health/helper/startupz": { "tcpSocket": { "port": 7000 } },
        })
    );
    let asked = |path: &str| json!({ "path": path, "port": 15020, "scheme": "HTTP" });
    let app = container(&injected, "app");
    assert_eq!(app["livenessProbe"], json!({ "timeoutSeconds": 4, "httpGet": asked("/app-health/app/livez") }));
    assert_eq!(app["startupProbe"], json!({ "failureThreshold": 9, "httpGet": asked("/app-health/app/startupz") }));
    assert_eq!(app["lifecycle"]["preStop"], json!({ "httpGet": asked("/app-lifecycle/app/prestopz") }));
    assert_eq!(app["lifecycle"]["postStart"], json!({ "exec": { "command": ["a"] } }));
    assert_eq!(container(&injected, "once")["startupProbe"], json!({ "tcpSocket": { "port": 7000 } }));
    // Off for one pod.
    let mut off = whole;
    off["metadata"]["annotations"] = json!({ "sidecar.istio.io/rewriteAppHTTPProbers": "false" });
    let (left, _) = patched(&off, &config(json!(null)));
    assert_eq!(
        (variable(&left, "ISTIO_KUBE_APP_PROBERS"), &container(&left, "app")["startupProbe"]),
        (None, &off["spec"]["containers"][0]["startupProbe"])
    );
}

#[test]
fn probes_that_cannot_be_asked() {
    let check = |probe: Value, want: &[&str]| {
        let containers = json!([{ "name": "app", "readinessProbe": probe }]);
        let (pod, warnings) = patched(&pod(json!({}), json!({ "containers": containers })), &config(json!(null)));
        assert_eq!(warnings, want, "{probe}");
        assert_eq!(container(&pod, "app")["readinessProbe"], probe);
    };
    check(json!({ "exec": { "command": ["true"] } }), &[]);
    check(json!({ "httpGet": { "path": "/metrics", "port": 15020 } }), &[]);
    let named =
        "container app: httpGet names port web, which the container does not have, so that this probe is not asked through the agent";
    check(json!({ "httpGet": { "port": "web" } }), &[named]);
    let none = "container app: tcpSocket has no port between 1 and 65535, so that this probe is not asked through the agent";
    check(json!({ "tcpSocket": { "port": 0 } }), &[none]);
}

#[test]
fn metrics() {
    let check = |annotations: Value, want: Option<Value>, port: Option<&str>| {
        let (pod, _) = patched(&pod(annotations.clone(), json!({})), &config(json!(null)));
        let variable = variable(&pod, "ISTIO_PROMETHEUS_ANNOTATIONS").map(|text| serde_json::from_str::<Value>(&text).unwrap());
        assert_eq!(variable, want, "{annotations}");
        assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"].as_str(), port, "{annotations}");
    };
    check(json!({}), None, Some("15020"));
    let was = json!({ "scrape": "true", "path": "/m", "port": "8080" });
    check(json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/m" }), Some(was), Some("15020"));
    check(json!({ "prometheus.io/scrape": "false", "prometheus.io/port": "8080" }), None, Some("8080"));
    let unmerged = json!({ "prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.istio.io/merge-metrics": "false" });
    check(unmerged, None, Some("8080"));
}

#[test]
fn the_authors_own_container() {
    let own = json!([
        { "name": "app" },
        {
            "name": "istio-proxy",
            "image": "auto",
            "resources": { "requests": { "cpu": "7m" } },
            "env": [{ "name": "POD_NAME", "value": "x" }, { "name": "MORE", "value": "y" }],
            "volumeMounts": [{ "name": "extra", "mountPath": "/extra" }],
            "readinessProbe": { "periodSeconds": 3 },
            "startupProbe": { "tcpSocket": { "port": 15021 } },
            "lifecycle": { "preStop": { "sleep": { "seconds": 5 } } },
            "securityContext": { "runAsUser": 2000, "runAsNonRoot": null },
        },
    ]);
    let (injected, _) = patched(&pod(json!({}), json!({ "containers": own })), &config(json!(null)));
    assert_eq!(names(&injected, "initContainers"), ["istio-init", "istio-proxy"]);
    assert_eq!(names(&injected, "containers"), ["app"]);
    let proxy = container(&injected, "istio-proxy");
    assert_eq!(proxy["image"], "mizzen/proxyv2:1.0");
    let resources = json!({ "requests": { "cpu": "7m", "memory": "128Mi" }, "limits": { "cpu": "2000m", "memory": "1024Mi" } });
    assert_eq!(proxy["resources"], resources);
    assert_eq!((variable(&injected, "POD_NAME").as_deref(), variable(&injected, "MORE").as_deref()), (Some("x"), Some("y")));
    let pod_name = proxy["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "POD_NAME").unwrap();
    assert_eq!(pod_name, &json!({ "name": "POD_NAME", "value": "x" }), "a value takes the place of a reference");
    assert_eq!((&proxy["readinessProbe"]["periodSeconds"], &proxy["readinessProbe"]["httpGet"]["port"]), (&json!(3), &json!(15021)));
    assert!(proxy["startupProbe"].get("httpGet").is_none(), "{}", proxy["startupProbe"]);
    assert_eq!((&proxy["securityContext"]["runAsUser"], proxy["securityContext"].get("runAsNonRoot")), (&json!(2000), None));
    // Noted, and found again by the next injection.
    let note = injected["metadata"]["annotations"]["proxy.istio.io/overrides"].as_str().unwrap().to_owned();
    let (again, _) =
        patched(&pod(json!({ "proxy.istio.io/overrides": note }), json!({ "containers": [{ "name": "app" }] })), &config(json!(null)));
    assert_eq!(container(&again, "istio-proxy")["resources"], resources);
}

#[test]
fn workloads_by_their_owners() {
    let check = |kind: &str, version: &str, name: &str, labels: Value, want: (&str, &str)| {
        let mut pod = plain();
        pod["metadata"]["labels"] = labels;
        pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": version, "kind": kind, "name": name, "controller": true }]);
        let (pod, _) = patched(&pod, &config(json!(null)));
        let got = (variable(&pod, "ISTIO_META_WORKLOAD_NAME").unwrap(), variable(&pod, "ISTIO_META_OWNER").unwrap());
        assert_eq!((got.0.as_str(), got.1.as_str()), want);
        assert_eq!(pod["metadata"]["labels"]["service.istio.io/canonical-name"], want.0);
    };
    let hash = || json!({ "pod-template-hash": "abc" });
    check("ReplicaSet", "apps/v1", "web-abc", hash(), ("web", "kubernetes://apis/apps/v1/namespaces/shop/deployments/web"));
    check("ReplicaSet", "apps/v1", "web-abd", hash(), ("web-abd", "kubernetes://apis/apps/v1/namespaces/shop/replicasets/web-abd"));
    check("StatefulSet", "apps/v1", "db", json!({}), ("db", "kubernetes://apis/apps/v1/namespaces/shop/statefulsets/db"));
    check("Job", "batch/v1", "nightly-29087640", json!({}), ("nightly", "kubernetes://apis/batch/v1/namespaces/shop/cronjobs/nightly"));
    check("Job", "batch/v1", "once-1", json!({}), ("once-1", "kubernetes://apis/batch/v1/namespaces/shop/jobs/once-1"));
    let mut alone = plain();
    alone["metadata"] = json!({ "name": "alone", "labels": { "app.kubernetes.io/name": "named", "app": "other" } });
    let (alone, _) = patched(&alone, &config(json!(null)));
    assert_eq!(variable(&alone, "ISTIO_META_OWNER").unwrap(), "kubernetes://apis/v1/namespaces/shop/pods/alone");
    let labels = &alone["metadata"]["labels"];
    assert_eq!(
        (&labels["service.istio.io/canonical-name"], &labels["service.istio.io/canonical-revision"]),
        (&json!("named"), &json!("latest"))
    );
}

#[test]
fn values() {
    let refused = |values: Value, want: &str| {
        let error = InjectConfig::new(&MeshConfig::default(), &values, true).unwrap_err().to_string();
        assert_eq!(error, format!("values: {want}"), "{values}");
    };
    refused(json!([]), ": must be a map, is a list");
    refused(json!({ "global": { "proxy": { "privileged": true } } }), "global.proxy.privileged: true is not supported: it must be false");
    refused(json!({ "pilot": { "cni": { "provider": "multus" } } }), "pilot.cni.provider: \"multus\" is not supported: it must be default");
    let custom = "sidecarInjectorWebhook.templates: {\"custom\":\"spec: {}\"} is not supported: it must be empty";
    refused(json!({ "sidecarInjectorWebhook": { "templates": { "custom": "spec: {}" } } }), custom);
    refused(
        json!({ "global": { "pilotCertProvider": "kubernetes" } }),
        "global.pilotCertProvider: \"kubernetes\" is not supported: it must be istiod",
    );
    let mut dual = MeshConfig::default();
    let mut said = |text: &str| {
        dual.default_config.proxy_metadata.insert("ISTIO_DUAL_STACK".to_owned(), text.to_owned());
        InjectConfig::new(&dual, &Value::Null, true).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(["true", "false", ""].map(&mut said), [Ok(()), Ok(()), Ok(())]);
    assert_eq!(said("yes"), Err("meshConfig: defaultConfig: proxyMetadata.ISTIO_DUAL_STACK: yes: must be true or false".to_owned()));
    refused(json!({ "global": { "jwtPolicy": "x" } }), "global.jwtPolicy: must be third-party-jwt or first-party-jwt, is x");
    refused(
        json!({ "global": { "proxy": { "excludeInboundPorts": "a" } } }),
        "global.proxy.excludeInboundPorts: `a` is not a port between 1 and 65535",
    );
    let never =
        json!({ "sidecarInjectorWebhook": { "neverInjectSelector": [{ "matchExpressions": [{ "key": "a", "operator": "Is" }] }] } });
    refused(never, "sidecarInjectorWebhook.neverInjectSelector: operator Is is none of In, NotIn, Exists, DoesNotExist");

    let warned = |values: Value| InjectConfig::new(&MeshConfig::default(), &values, true).unwrap().warnings;
    let dual = json!({ "global": { "dualStack": true, "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
        "proxy": { "includeIPRanges": "10.0.0.0/8,fd00::/8" } }, "pilot": { "env": { "ISTIO_DUAL_STACK": "true" } } });
    assert_eq!(warned(dual), Vec::<String>::new());
    // As charts write them: nothing of it is about a pod's proxy, or it is what is done anyway.
    let chart = json!({
        "gateways": { "seccompProfile": {}, "securityContext": {} },
        "global": {
            "caAddress": "", "caName": "", "certSigners": [], "configCluster": false, "hub": "h", "tag": "t", "istioNamespace": "istio-system",
            "istiod": { "enableAnalysis": false }, "jwtPolicy": "third-party-jwt", "logAsJson": false, "meshNetworks": {}, "mountMtlsCerts": false,
            "multiCluster": { "clusterName": "", "enabled": false }, "pilotCertProvider": "istiod", "priorityClassName": "",
            "proxy": { "privileged": false, "enableCoreDump": false, "tracer": "none", "statusPort": 15020, "startupProbe": { "enabled": true, "failureThreshold": 600 } },
            "proxy_init": { "image": "proxyv2", "forceApplyIptables": false }, "remotePilotAddress": "", "sts": { "servicePort": 0 }, "variant": "",
        },
        "pilot": { "cni": { "enabled": false, "provider": "default" }, "env": {} },
        "revision": "",
        "sidecarInjectorWebhook": { "alwaysInjectSelector": [], "defaultTemplates": [], "templates": {}, "reinvocationPolicy": "Never" },
    });
    assert_eq!(warned(chart), [""; 0]);
    assert_eq!(warned(json!({ "global": { "logAsJson": true } })), ["values: global.logAsJson: has no effect"]);
    assert_eq!(warned(json!({ "global": { "proxy": { "imag": "x" } } })), ["values: global.proxy.imag: is not known, and has no effect"]);
    assert_eq!(warned(json!({ "global": { "jwtPolicy": "first-party-jwt" } })).len(), 1);
    let (pod, _) = patched(&plain(), &config(json!({ "global": { "jwtPolicy": "first-party-jwt" } })));
    assert!(!names(&pod, "volumes").contains(&"istio-token".to_owned()));
    assert_eq!(variable(&pod, "JWT_POLICY").as_deref(), Some("first-party-jwt"));
}
