//! MeshConfig's `extensionProviders`: what good ones are read as, and what is refused of others.

use std::{collections::BTreeMap, time::Duration};

use mizzen_api::{istio::*, parse_mesh_config};

#[test]
fn good_ones() {
    let text = "
extensionProviders:
- name: log
  envoyFileAccessLog: {path: /dev/stdout}
- name: grpc
  envoyExtAuthzGrpc: {service: authz/authz.example, port: 9000}
- name: http
  envoyExtAuthzHttp:
    service: authz.example
    port: 8000
    timeout: 0.5s
    pathPrefix: /check
    failOpen: true
    clearRouteCache: true
    statusOnError: '503'
    includeRequestHeadersInCheck: [X-Token, x-b3-*, '*-id']
    includeHeadersInCheck: [not-used]
    includeAdditionalHeadersInCheck: {X-Mesh: mizzen}
    includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}
    headersToUpstreamOnAllow: [x-user]
    headersToDownstreamOnAllow: [x-limit]
    headersToDownstreamOnDeny: [x-why]
- name: old
  envoyExtAuthzHttp: {service: authz.example, port: 8000, includeHeadersInCheck: [cookie]}
";
    let mesh = parse_mesh_config(text, &"mesh.yaml".into()).unwrap().0;
    let named = |name: &str| &mesh.extension_providers.iter().find(|provider| provider.name == name).unwrap().kind;
    let authz = |name: &str| match named(name) {
        ProviderKind::ExtAuthz(authz) => (**authz).clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(*named("log"), ProviderKind::Other("envoyFileAccessLog"));
    let grpc = ExtAuthz {
        namespace: Some("authz".into()),
        host: "authz.example".parse().unwrap(),
        port: 9000,
        timeout: Duration::from_secs(600),
        fail_open: false,
        clear_route_cache: false,
        status_on_error: None,
        body: None,
        protocol: AuthzProtocol::Grpc,
    };
    assert_eq!(authz("grpc"), grpc);
    let names = |list: &[&str]| list.iter().map(|name| Pattern::Exact((*name).to_owned())).collect::<Vec<_>>();
    let old = HttpAuthz { include_request_headers: names(&["cookie"]), ..HttpAuthz::default() };
    let plain = ExtAuthz { namespace: None, port: 8000, protocol: AuthzProtocol::Http(old), ..grpc };
    assert_eq!(authz("old"), plain);
    let mut included = names(&["x-token"]);
    included.extend([Pattern::Prefix("x-b3-".to_owned()), Pattern::Suffix("-id".to_owned())]);
    let http = HttpAuthz {
        path_prefix: "/check".to_owned(),
        include_request_headers: included,
        include_additional_headers: BTreeMap::from([("x-mesh".to_owned(), "mizzen".to_owned())]),
        to_upstream_on_allow: names(&["x-user"]),
        to_downstream_on_allow: names(&["x-limit"]),
        to_downstream_on_deny: names(&["x-why"]),
    };
    let body = CheckedBody { max_request_bytes: 10, allow_partial_message: true, pack_as_bytes: true };
    let all = ExtAuthz {
        timeout: Duration::from_millis(500),
        fail_open: true,
        clear_route_cache: true,
        status_on_error: Some(503),
        body: Some(body),
        protocol: AuthzProtocol::Http(http),
        ..plain
    };
    assert_eq!(authz("http"), all);
}

/// `expected`: what follows `extensionProviders[0]`, of refusals first, then of warnings.
#[track_caller]
fn check_provider(provider: &str, expected: &[&str]) {
    let text = format!("extensionProviders:\n- {provider}\n");
    let found = match parse_mesh_config(&text, &"a.yaml".into()) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems,
    };
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let place = "a.yaml:2: MeshConfig istio-system/istio: extensionProviders[0]";
    assert_eq!(found, expected.iter().map(|rest| format!("{place}{rest}")).collect::<Vec<_>>(), "of {provider}");
}

#[test]
fn bad_ones() {
    let http = |fields: &str, expected: &[&str]| {
        let expected: Vec<String> = expected.iter().map(|rest| format!(".envoyExtAuthzHttp{rest}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check_provider(&format!("{{name: a, envoyExtAuthzHttp: {{service: a.example, port: 80, {fields}}}}}"), &expected);
    };
    http("", &[]);
    for (fields, expected) in [
        ("timeout: 0s", ".timeout: must be at least 1ms"),
        ("timeout: 1us", ".timeout: must be at least 1ms"),
        ("statusOnError: '100'", ".statusOnError: must be a status in quotes, such as \"503\", is `100`"),
        ("statusOnError: '299'", ".statusOnError: must be a status in quotes, such as \"503\", is `299`"),
        ("statusOnError: 503", ".statusOnError: must be a text, is the number 503: put it in quotes"),
        ("pathPrefix: check", ".pathPrefix: must be a path that begins with `/`, without `?`, `#` and blanks, is `check`"),
        ("pathPrefix: '/a?b'", ".pathPrefix: must be a path that begins with `/`, without `?`, `#` and blanks, is `/a?b`"),
        (
            "includeRequestHeadersInCheck: ['*']",
            ".includeRequestHeadersInCheck[0]: a single `*` is not supported: write `PREFIX*` or `*SUFFIX`",
        ),
        (
            "headersToUpstreamOnAllow: ['x-*-y']",
            ".headersToUpstreamOnAllow[0]: `x-*-y` may have one `*`, as its first or its last character",
        ),
        ("headersToDownstreamOnDeny: ['a b']", ".headersToDownstreamOnDeny[0]: `a b` is no header name: letters, digits and `-`, `_`, `.`"),
        (
            "includeAdditionalHeadersInCheck: {'a b': c}",
            ".includeAdditionalHeadersInCheck[\"a b\"]: `a b` is no header name: letters, digits and `-`, `_`, `.`",
        ),
        ("includeAdditionalHeadersInCheck: {Host: a}", ".includeAdditionalHeadersInCheck.Host: `host` is set by the proxy"),
        ("includeAdditionalHeadersInCheck: {te: a}", ".includeAdditionalHeadersInCheck.te: `te` is set by the proxy"),
        ("includeAdditionalHeadersInCheck: {a: \"b\\nc: d\"}", ".includeAdditionalHeadersInCheck.a: must be one line"),
        ("includeRequestBodyInCheck: {}", ".includeRequestBodyInCheck.maxRequestBytes: is required"),
        ("includeRequestBodyInCheck: {maxRequestBytes: 0}", ".includeRequestBodyInCheck.maxRequestBytes: must be at least 1"),
        (
            "includeRequestBodyInCheck: {maxRequestBytes: 1048577}",
            ".includeRequestBodyInCheck.maxRequestBytes: must be at most 1048576, or allowPartialMessage true",
        ),
        (
            "includeRequestBodyInCheck: {maxRequestBytes: 1048577, allowPartialMessage: true}",
            ".includeRequestBodyInCheck.maxRequestBytes: bodies are cut to 1048576 bytes",
        ),
        ("headersToUpstream: [a]", ".headersToUpstream: unknown field"),
    ] {
        http(fields, &[expected]);
    }
    http(
        "includeAdditionalHeadersInCheck: {a: '%REQ(b)%'}",
        &[".includeAdditionalHeadersInCheck.a: a value with `%` is not supported yet, and ignoring it could change what is sent"],
    );
    let service = |service: &str, expected: &[&str]| {
        check_provider(&format!("{{name: a, envoyExtAuthzGrpc: {{service: '{service}', port: 80}}}}"), expected);
    };
    service("foo/a.example", &[]);
    for bad in ["*.example", "Foo/a.example", "foo/bar/a.example", "foo/"] {
        service(bad, &[&format!(".envoyExtAuthzGrpc.service: must be [NAMESPACE/]HOST, without `*`, is `{bad}`")]);
    }
    service("", &[".envoyExtAuthzGrpc.service: must not be empty"]);
    check_provider("{name: a, envoyExtAuthzGrpc: {service: a.example}}", &[".envoyExtAuthzGrpc.port: is required"]);
    check_provider(
        "{name: a, envoyExtAuthzGrpc: {service: a.example, port: 1, pathPrefix: /}}",
        &[".envoyExtAuthzGrpc.pathPrefix: unknown field"],
    );
    check_provider("{envoyFileAccessLog: {}}", &[".name: is required"]);
    check_provider("{name: a}", &[": must say what it is: envoyExtAuthzHttp, envoyExtAuthzGrpc or one of telemetry"]);
    check_provider(
        "{name: a, prometheus: {}, envoyExtAuthzGrpc: {service: a.example, port: 1}}",
        &[&format!(".prometheus: excludes `envoyExtAuthzGrpc`: only one of {PROVIDERS} may be written")],
    );
    let twice = "extensionProviders:\n- {name: a, prometheus: {}}\n- {name: a, zipkin: {service: b, port: 1}}\n";
    let problems = parse_mesh_config(twice, &"a.yaml".into()).unwrap_err();
    let place = "a.yaml:3: MeshConfig istio-system/istio: extensionProviders[1]: there is another provider `a`";
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [place]);
}

/// Providers of telemetry do nothing yet, and say so.
#[test]
fn others_are_warned_of() {
    for kind in PROVIDERS.split(", ").skip(2) {
        check_provider(&format!("{{name: a, {kind}: {{service: b, port: 1, any: []}}}}"), &[&format!(".{kind}: is not acted on yet")]);
    }
}

const PROVIDERS: &str = "envoyExtAuthzHttp, envoyExtAuthzGrpc, zipkin, lightstep, datadog, stackdriver, opencensus, skywalking, opentelemetry, \
    prometheus, envoyFileAccessLog, envoyHttpAls, envoyTcpAls, envoyOtelAls, sds";
