//! VirtualServices, DestinationRules, ServiceEntries and Gateways.

use crate::{WHAT, WHERE, WHO, check_spec, check_warnings};

#[test]
fn virtual_services() {
    let route = |route: &str| format!("hosts: [reviews]\nhttp:\n- {route}\n");
    let tls = |route: &str| format!("hosts: [a.example, '*.c.example']\ntls:\n- {route}\n");
    for (spec, line, expected) in [
        (String::new(), 0, "spec: must have at least one route in http, tls or tcp".to_owned()),
        ("hosts: [a, A]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(), 1, "spec.hosts[1]: a is listed twice".to_owned()),
        (
            "hosts: ['a_b!']\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            1,
            "spec.hosts[0]: `a_b!` is not a valid part of a host name (letters, digits and inner hyphens, 1 to 63 of them)".to_owned(),
        ),
        (
            "hosts: ['*']\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            0,
            "spec: host `*` is not allowed for the sidecars: name `gateways` without `mesh`, or the host".to_owned(),
        ),
        (route("match: []"), 3, "spec.http[0]: must have one of route, redirect, directResponse, delegate".to_owned()),
        (
            route("{route: [{destination: {host: a}}], redirect: {uri: /}}"),
            3,
            "spec.http[0].redirect: excludes `route`: only one of route, redirect, directResponse, delegate may be written".to_owned(),
        ),
        (route("{redirect: {uri: /}, rewrite: {uri: /}}"), 3, "spec.http[0]: rewrite needs a route".to_owned()),
        (route("route: []"), 3, "spec.http[0].route: must have at least one destination".to_owned()),
        (route("route: [{weight: 1}]"), 3, "spec.http[0].route[0].destination: is required".to_owned()),
        (route("route: [{destination: {subset: v1}}]"), 3, "spec.http[0].route[0].destination.host: is required".to_owned()),
        (
            route("route: [{destination: {host: '*'}}]"),
            3,
            "spec.http[0].route[0].destination.host: must name a host, or those below one, not all".to_owned(),
        ),
        (
            route("route: [{destination: {host: a, port: {number: 0}}}]"),
            3,
            "spec.http[0].route[0].destination.port.number: must be between 1 and 65535, is 0".to_owned(),
        ),
        (
            route("route: [{destination: {host: a}, weight: -1}]"),
            3,
            "spec.http[0].route[0].weight: must be between 0 and 2147483647, is -1".to_owned(),
        ),
        (
            route("route: [{destination: {host: a}, weight: 1.5}]"),
            3,
            "spec.http[0].route[0].weight: must be a whole number, is the number 1.5".to_owned(),
        ),
        (
            route("route: [{destination: {host: a}}, {destination: {host: b}}]"),
            3,
            "spec.http[0].route: the sum of the weights must not be 0".to_owned(),
        ),
        (route("{route: [{destination: {host: a}}], corsPolicy: {}}"), 3, format!("spec.http[0].corsPolicy: {WHAT}")),
        (route("{route: [{destination: {host: a}}], mirror: {host: b}}"), 3, format!("spec.http[0].mirror: {WHERE}")),
        (route("delegate: {}"), 3, "spec.http[0].delegate.name: is required".to_owned()),
        (
            route("{delegate: {name: b}, route: [{destination: {host: a}}]}"),
            3,
            "spec.http[0].delegate: excludes `route`: only one of route, redirect, directResponse, delegate may be written".to_owned(),
        ),
        (
            "hosts: []\ngateways: [a]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            2,
            "spec.gateways: has no place without hosts: then others delegate to the routes in http".to_owned(),
        ),
        (
            "http: [{route: [{destination: {host: b}}]}]\ntcp: [{route: [{destination: {host: b}}]}]".to_owned(),
            2,
            "spec.tcp: has no place without hosts: then others delegate to the routes in http".to_owned(),
        ),
        (
            "http: [{route: [{destination: {host: b}}]}, {delegate: {name: b}}]".to_owned(),
            1,
            "spec.http: route 1 delegates, and without hosts it is itself what others delegate to: there is one level".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], timeoutt: 1s}"),
            3,
            "spec.http[0].timeoutt: unknown field, did you mean `timeout`?".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], timeout: 5}"),
            3,
            "spec.http[0].timeout: must be a text, is the number 5: put it in quotes".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], timeout: 5d}"),
            3,
            "spec.http[0].timeout: `5d` is no duration: write it as 1.5s, 300ms or 1h30m".to_owned(),
        ),
        (route("{route: [{destination: {host: a}}], timeout: -5s}"), 3, "spec.http[0].timeout: must not be negative, is -5s".to_owned()),
        (route("{route: [{destination: {host: a}}], timeout: 1us}"), 3, "spec.http[0].timeout: must be at least 1ms".to_owned()),
        (
            route("{route: [{destination: {host: a}}], retries: {attempts: 2, retryOn: '5xx,conect-failure'}}"),
            3,
            "spec.http[0].retries.retryOn: unknown condition `conect-failure`, did you mean `connect-failure`?".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], retries: {perTryTimeout: 1s}}"),
            3,
            "spec.http[0].retries: attempts is 0, so that nothing is retried; leave the other fields out or raise it".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], fault: {abort: {grpcStatus: UNAVAILABEL, percentage: {value: 1}}}}"),
            3,
            "spec.http[0].fault.abort.grpcStatus: unknown gRPC status `UNAVAILABEL`, did you mean `UNAVAILABLE`?".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], fault: {abort: {httpStatus: 503, percentage: {value: 101}}}}"),
            3,
            "spec.http[0].fault.abort.percentage.value: must be a number from 0 to 100, is the number 101".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], fault: {delay: {fixedDelay: 0s, percentage: {value: 1}}}}"),
            3,
            "spec.http[0].fault.delay.fixedDelay: must be at least 1ms".to_owned(),
        ),
        (route("{route: [{destination: {host: a}}], fault: {}}"), 3, "spec.http[0].fault: must have delay or abort".to_owned()),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {exact: a, prefix: b}}]}"),
            3,
            "spec.http[0].match[0].uri.prefix: excludes `exact`: only one of exact, prefix, regex may be written".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {exact: a, prefix: b, regex: c}}]}"),
            3,
            "spec.http[0].match[0].uri.prefix: excludes `exact`: only one of exact, prefix, regex may be written".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {}}]}"),
            3,
            "spec.http[0].match[0].uri: must have one of exact, prefix, regex".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{uri: {regex: 'a('}}]}"),
            3,
            "spec.http[0].match[0].uri.regex: `a(` is no regular expression: unclosed group".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], match: [{headers: {':path': {exact: a}}}]}"),
            3,
            "spec.http[0].match[0].headers.:path: `:path` has a field of its own: uri, scheme, method or authority".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {'a b': c}}}}"),
            3,
            "spec.http[0].headers.request.set[\"a b\"]: `a b` is no header name: letters, digits and `-`, `_`, `.`".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {a: \"b\\nc\"}}}}"),
            3,
            "spec.http[0].headers.request.set.a: a header's value has one line".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {a: '5%'}}}}"),
            3,
            "spec.http[0].headers.request.set.a: a lone percent sign is written `%%`".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {set: {a: '%DURATON%'}}}}"),
            3,
            format!("spec.http[0].headers.request.set.a: command `DURATON` {WHAT}, did you mean `DURATION`?"),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {request: {remove: [Host]}}}"),
            3,
            "spec.http[0].headers.request.remove[0]: `host` can only be set, and only in requests".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], headers: {response: {set: {':authority': b}}}}"),
            3,
            "spec.http[0].headers.response.set.:authority: `:authority` can only be set, and only in requests".to_owned(),
        ),
        (
            route("{route: [{destination: {host: a}}], rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\\2'}}}"),
            3,
            "spec.http[0].rewrite.uriRegexRewrite.rewrite: the expression has no group \\2".to_owned(),
        ),
        (route("directResponse: {body: {string: a}}"), 3, "spec.http[0].directResponse.status: is required".to_owned()),
        (
            route("redirect: {redirectCode: 200}"),
            3,
            "spec.http[0].redirect.redirectCode: must be one of 301, 302, 303, 307, 308, is the number 200".to_owned(),
        ),
        (
            "hosts: [a]\nexportTo: [A]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            2,
            "spec.exportTo[0]: must be `*`, `.`, `~` or a namespace, is `A`".to_owned(),
        ),
        (
            "hosts: [a]\ngateways: [a/b/c]\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            2,
            "spec.gateways[0]: must be `mesh`, a Gateway's name or namespace/name, is `a/b/c`".to_owned(),
        ),
        (
            "hosts: [a]\ntcp: [{match: [{sourceSubnet: 1.2.3.4}], route: [{destination: {host: b}}]}]".to_owned(),
            2,
            format!("spec.tcp[0].match[0].sourceSubnet: {WHERE}"),
        ),
        ("hosts: [a]".to_owned(), 0, "spec: must have at least one route in http, tls or tcp".to_owned()),
        (tls("{route: [{destination: {host: b}}]}"), 3, "spec.tls[0].match: is required".to_owned()),
        (
            tls("{match: [], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match: must have at least one condition: a route for TLS is chosen by server names".to_owned(),
        ),
        (tls("{match: [{port: 443}], route: [{destination: {host: b}}]}"), 3, "spec.tls[0].match[0].sniHosts: is required".to_owned()),
        (
            tls("{match: [{sniHosts: []}], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match[0].sniHosts: must have at least one server name".to_owned(),
        ),
        (
            tls("{match: [{sniHosts: [a.example, b.example]}], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match[0].sniHosts[1]: b.example is covered by none of the VirtualService's hosts: a.example, *.c.example"
                .to_owned(),
        ),
        (
            tls("{match: [{sniHosts: ['*.example']}], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match[0].sniHosts[0]: *.example is covered by none of the VirtualService's hosts: a.example, *.c.example"
                .to_owned(),
        ),
        (
            tls("{match: [{sniHosts: ['a_.*']}], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match[0].sniHosts[0]: `*` is not a valid part of a host name (letters, digits and inner hyphens, 1 to 63 of them)"
                .to_owned(),
        ),
        (tls("{match: [{sniHosts: [a.example]}]}"), 3, "spec.tls[0].route: is required".to_owned()),
        (tls("{match: [{sniHosts: [a.example]}], route: []}"), 3, "spec.tls[0].route: must have at least one destination".to_owned()),
        (
            tls("{match: [{sniHosts: [a.example]}], route: [{destination: {host: b}}, {destination: {host: c}}]}"),
            3,
            "spec.tls[0].route: the sum of the weights must not be 0".to_owned(),
        ),
        (
            tls("{match: [{sniHosts: [a.example], port: 70000}], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match[0].port: must be between 1 and 65535, is 70000".to_owned(),
        ),
        (
            tls("{match: [{sniHosts: [a.example], sourceSubnet: 1.2.3.4}], route: [{destination: {host: b}}]}"),
            3,
            "spec.tls[0].match[0].sourceSubnet: unknown field".to_owned(),
        ),
        (
            "hosts: [a]\nexport_to: ['*']\nexportTo: ['*']\nhttp: [{route: [{destination: {host: b}}]}]".to_owned(),
            3,
            "spec.exportTo: is the same field as `export_to` in line 6".to_owned(),
        ),
    ] {
        check_spec("VirtualService", &spec, &[(line, &expected)]);
    }
}

#[test]
fn destination_rules() {
    let policy = |policy: &str| format!("host: a\ntrafficPolicy:\n  {policy}\n");
    for (spec, line, expected) in [
        ("subsets: []".to_owned(), 0, "spec.host: is required".to_owned()),
        ("host: a\nsubsets:\n- labels: {a: b}".to_owned(), 3, "spec.subsets[0].name: is required".to_owned()),
        ("host: a\nsubsets:\n- name: v1\n- name: v1".to_owned(), 4, "spec.subsets[1]: there are two subsets `v1`".to_owned()),
        ("host: a\nworkloadSelector: {zzz: {}}".to_owned(), 2, "spec.workloadSelector.zzz: unknown field".to_owned()),
        (policy("loadBalancer: {simple: ROUNDROBIN}"), 3, "spec.trafficPolicy.loadBalancer.simple: must be one of UNSPECIFIED, LEAST_CONN, RANDOM, PASSTHROUGH, ROUND_ROBIN, LEAST_REQUEST, is `ROUNDROBIN`".to_owned()),
        (policy("tunnel: {}"), 3, format!("spec.trafficPolicy.tunnel: {WHAT}")),
        (policy("connectionPool: {tcp: {connectTimeout: 0s}}"), 3, "spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be at least 1ms".to_owned()),
        (policy("outlierDetection: {maxEjectionPercent: 101}"), 3, "spec.trafficPolicy.outlierDetection.maxEjectionPercent: must be between 0 and 100, is 101".to_owned()),
        (policy("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]"), 3, "spec.trafficPolicy.portLevelSettings[1]: port 80 is set twice".to_owned()),
        (policy("portLevelSettings: [{port: {number: 80}, portLevelSettings: []}]"), 3, "spec.trafficPolicy.portLevelSettings[0].portLevelSettings: unknown field".to_owned()),
    ] {
        check_spec("DestinationRule", &spec, &[(line, &expected)]);
    }
}

#[test]
fn tls_to_foreign_servers() {
    let spec = |tls: &str| format!("host: a\ntrafficPolicy:\n  tls: {{{tls}}}\n");
    for (tls, field, expected) in [
        ("mode: TLS", "mode", "must be one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL, is `TLS`"),
        ("mode: SIMPLE, caCertificates: ca.pem", "caCertificates", "`ca.pem` is no absolute path without `~`"),
        ("mode: SIMPLE, caCertificates: System", "caCertificates", "`System` is no absolute path without `~`"),
        ("mode: SIMPLE, caCertificates: /a, caCrl: /b~/c", "caCrl", "`/b~/c` is no absolute path without `~`"),
        ("mode: MUTUAL, clientCertificate: a, privateKey: /b", "clientCertificate", "`a` is no absolute path without `~`"),
        ("mode: MUTUAL, clientCertificate: /a", "privateKey", "is required by MUTUAL, or a credentialName"),
        ("mode: MUTUAL, privateKey: /a, clientCertificate: ''", "clientCertificate", "is required by MUTUAL, or a credentialName"),
        (
            "mode: MUTUAL, credentialName: a, privateKey: /a",
            "privateKey",
            "has no place beside credentialName, whose Secret has certificate, key and authorities",
        ),
        (
            "mode: SIMPLE, credentialName: a, caCertificates: system",
            "caCertificates",
            "has no place beside credentialName, whose Secret has certificate, key and authorities",
        ),
        (
            "mode: SIMPLE, credentialName: 'configmap://a'",
            "credentialName",
            "`configmap://a` is no name of a Secret: small letters, digits, `-`, `.`, perhaps with the gateway's namespace and `/` before it",
        ),
        (
            "mode: SIMPLE, credentialName: a, insecureSkipVerify: true",
            "credentialName",
            "has no place beside insecureSkipVerify, by which nothing is verified",
        ),
        (
            "mode: MUTUAL, credentialName: a, insecureSkipVerify: true, subjectAltNames: [b]",
            "subjectAltNames",
            "has no place beside insecureSkipVerify, by which nothing is verified",
        ),
        (
            "mode: SIMPLE, caCrl: /a, insecureSkipVerify: true",
            "caCrl",
            "has no place beside insecureSkipVerify, by which nothing is verified",
        ),
        ("mode: SIMPLE, caCertificates: /a, sni: '*.a.example'", "sni", "`*.a.example` is no server's name: it has a wildcard"),
        ("mode: SIMPLE, caCertificates: /a, subjectAltNames: ['']", "subjectAltNames[0]", "must not be empty"),
        ("mode: SIMPLE, caCertificates: /a, insecureSkipVerify: 1", "insecureSkipVerify", "must be true or false, is the number 1"),
        (
            "mode: ISTIO_MUTUAL, caCertificates: system",
            "caCertificates",
            "has no place beside ISTIO_MUTUAL, which shows the workload's own certificate and believes the mesh's authorities",
        ),
        ("mode: ISTIO_MUTUAL, insecureSkipVerify: true", "insecureSkipVerify", "has no place beside ISTIO_MUTUAL, which always verifies"),
    ] {
        check_spec("DestinationRule", &spec(tls), &[(3, &format!("spec.trafficPolicy.tls.{field}: {expected}"))]);
    }
}

#[test]
fn service_entries_and_gateways() {
    let entry = |rest: &str| format!("hosts: [a.example]\nports: [{{number: 80, name: http}}]\n{rest}\n");
    let dynamic = |host: &str, protocol: &str, rest: &str| {
        format!("hosts: [{host}]\nports: [{{number: 80, name: a, protocol: {protocol}}}]\nresolution: DYNAMIC_DNS\n{rest}\n")
    };
    const OF_NAMES: &str = "resolution DYNAMIC_DNS needs protocol HTTP, HTTP2, GRPC, GRPC-Web, HTTPS or TLS: of other bytes nobody knows whom \
                            they are for";
    for (spec, line, expected) in [
        ("ports: [{number: 80, name: http}]".to_owned(), 0, "spec.hosts: is required".to_owned()),
        ("hosts: []\nports: [{number: 80, name: http}]".to_owned(), 1, "spec.hosts: is required".to_owned()),
        ("hosts: [a.example]".to_owned(), 0, "spec.ports: is required".to_owned()),
        ("hosts: [a.example]\nports: [{number: 80}]".to_owned(), 2, "spec.ports[0].name: is required".to_owned()),
        (
            "hosts: [a.example]\nports: [{number: 80, name: a, protocol: HTPP}]".to_owned(),
            2,
            "spec.ports[0].protocol: unknown protocol `HTPP`: HTTP, HTTP2, HTTPS, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL, Redis or UDP"
                .to_owned(),
        ),
        (
            "hosts: [a.example]\nports: [{number: 80, name: a}, {number: 80, name: b}]".to_owned(),
            2,
            "spec.ports[1]: port 80 is listed twice".to_owned(),
        ),
        (
            "hosts: ['*.a']\nports: [{number: 80, name: a}]\nresolution: DNS".to_owned(),
            1,
            "spec.hosts: *.a cannot be resolved: a wildcard needs endpoints, or resolution NONE or DYNAMIC_DNS".to_owned(),
        ),
        (entry("resolution: STATIC"), 3, "spec.resolution: STATIC needs endpoints or a workloadSelector".to_owned()),
        (entry("endpoints: [{address: 1.2.3.4}]"), 3, "spec.endpoints: need resolution STATIC or DNS".to_owned()),
        (
            entry("endpoints: [{address: b.example}]\nresolution: STATIC"),
            3,
            "spec.endpoints: resolution STATIC needs IP addresses".to_owned(),
        ),
        (
            entry("endpoints: [{address: 1.2.3.4, ports: {web: 1}}]\nresolution: STATIC"),
            3,
            "spec.endpoints[0]: port `web` is none of this service's".to_owned(),
        ),
        (entry("endpoints: [{address: 'unix:///a'}]\nresolution: DNS"), 3, format!("spec.endpoints[0].address: a Unix socket {WHERE}")),
        (
            dynamic("a.example", "HTTP", ""),
            1,
            "spec.hosts: a.example is no wildcard: resolution DYNAMIC_DNS is for *.suffix, DNS for one name".to_owned(),
        ),
        (dynamic("'*.a'", "HTTP", "addresses: [10.0.0.0/8]"), 4, "spec.addresses: a range needs resolution NONE or STATIC".to_owned()),
        (
            dynamic("'*.a'", "HTTP", "endpoints: [{address: 1.2.3.4}]"),
            4,
            "spec.endpoints: resolution DYNAMIC_DNS takes none: who is called says whom to look for".to_owned(),
        ),
        (dynamic("'*.a'", "HTTP", "workloadSelector: {labels: {a: b}}"), 4, "spec.workloadSelector: needs resolution STATIC".to_owned()),
        (dynamic("'*.a'", "TCP", ""), 2, format!("spec.ports[0]: {OF_NAMES}")),
        (dynamic("'*.a'", "UDP", ""), 2, format!("spec.ports[0]: {OF_NAMES}")),
        (dynamic("'*.a'", "''", ""), 2, format!("spec.ports[0]: {OF_NAMES}")),
        (entry("addresses: [10.0.0.0/8]\nresolution: DNS"), 3, "spec.addresses: a range needs resolution NONE or STATIC".to_owned()),
        (entry("subjectAltNames: ['']"), 3, "spec.subjectAltNames[0]: must not be empty".to_owned()),
    ] {
        check_spec("ServiceEntry", &spec, &[(line, &expected)]);
    }
    let server = |rest: &str| format!("servers:\n- {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']{rest}}}\n");
    const NEEDS: &str = "needs a credentialName: the Secret with certificate and key, in the namespace of the gateway's pods; or the files \
                         serverCertificate and privateKey";
    const REQUIRED: &str = "is required where there is no credentialName";
    let ends = |tls: &str| format!("servers:\n- {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['*'], tls: {{{tls}}}}}\n");
    for (spec, line, expected) in [
        ("selector: {}".to_owned(), 0, "spec.servers: is required".to_owned()),
        ("servers: []".to_owned(), 1, "spec.servers: must have at least one server".to_owned()),
        ("servers: [{hosts: ['*']}]".to_owned(), 1, "spec.servers[0].port: is required".to_owned()),
        (
            "servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*']}]".to_owned(),
            1,
            "spec.servers[0].tls: is required by protocol HTTPS".to_owned(),
        ),
        (
            "servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*']}]".to_owned(),
            1,
            "spec.servers[0].tls: is required by protocol TLS".to_owned(),
        ),
        (
            "servers: [{port: {number: 53, name: dns, protocol: UDP}, hosts: ['*']}]".to_owned(),
            1,
            "spec.servers[0].port.protocol: is no protocol of a gateway's port: HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL or Redis"
                .to_owned(),
        ),
        (
            "servers: [{port: {number: 443, name: tls, protocol: TCP}, hosts: ['*'], tls: {mode: MUTUAL}}]".to_owned(),
            1,
            format!("spec.servers[0].tls: {NEEDS}"),
        ),
        (
            "servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUG}}]".to_owned(),
            1,
            "spec.servers[0].tls.mode: must be one of PASSTHROUGH, SIMPLE, MUTUAL, AUTO_PASSTHROUGH, ISTIO_MUTUAL, OPTIONAL_MUTUAL, is `PASSTHROUG`"
                .to_owned(),
        ),
        ("servers: [{port: {number: 80, protocol: HTTP}}]".to_owned(), 1, "spec.servers[0].hosts: is required".to_owned()),
        (
            server(", tls: {mode: SIMPLE}"),
            2,
            "spec.servers[0].tls.mode: ends TLS, and the port's protocol is plain text: write protocol HTTPS".to_owned(),
        ),
        (
            ends("mode: SIMPLE"),
            2,
            format!("spec.servers[0].tls: {NEEDS}"),
        ),
        (ends("mode: SIMPLE, serverCertificate: /a"), 2, format!("spec.servers[0].tls.privateKey: {REQUIRED}")),
        (ends("mode: MUTUAL, serverCertificate: /a, privateKey: /b"), 2, format!("spec.servers[0].tls.caCertificates: {REQUIRED}")),
        (
            ends("mode: SIMPLE, serverCertificate: a.pem, privateKey: /b"),
            2,
            "spec.servers[0].tls.serverCertificate: `a.pem` is no absolute path without `~`".to_owned(),
        ),
        (
            ends("mode: SIMPLE, serverCertificate: /a, privateKey: /b, caCrl: /c"),
            2,
            "spec.servers[0].tls.caCrl: has no place beside SIMPLE, which asks clients for no certificate".to_owned(),
        ),
        (
            ends("mode: MUTUAL, credentialName: a, caCertificates: /c"),
            2,
            "spec.servers[0].tls.caCertificates: has no place beside credentialName, whose Secret has certificate, key and authorities".to_owned(),
        ),
        (
            ends("mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c, caCertCredentialName: d"),
            2,
            "spec.servers[0].tls.caCertCredentialName: has no place beside files: the authorities are those of caCertificates".to_owned(),
        ),
        (
            ends("mode: ISTIO_MUTUAL, privateKey: /b"),
            2,
            "spec.servers[0].tls.privateKey: has no place beside ISTIO_MUTUAL, which shows the workload's own certificate".to_owned(),
        ),
        (
            ends("mode: SIMPLE, tlsCertificates: [{serverCertificate: /a}]"),
            2,
            "spec.servers[0].tls.tlsCertificates[0].privateKey: is required".to_owned(),
        ),
        (
            ends("mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /b, caCertificates: /c}]"),
            2,
            format!("spec.servers[0].tls.tlsCertificates[0].caCertificates: {WHO}"),
        ),
        (ends("mode: SIMPLE, tlsCertificates: []"), 2, "spec.servers[0].tls.tlsCertificates: names one or two certificates".to_owned()),
        (
            ends("mode: SIMPLE, privateKey: /c, tlsCertificates: [{serverCertificate: /a, privateKey: /b}]"),
            2,
            "spec.servers[0].tls.privateKey: has no place beside tlsCertificates, which has all certificates and keys".to_owned(),
        ),
        (
            ends("mode: MUTUAL, tlsCertificates: [{serverCertificate: /a, privateKey: /b}]"),
            2,
            format!("spec.servers[0].tls.caCertificates: {REQUIRED}"),
        ),
        (
            ends("mode: SIMPLE, credentialName: a, credentialNames: [b]"),
            2,
            "spec.servers[0].tls.credentialNames: excludes `credentialName`: only one of credentialName, credentialNames may be written".to_owned(),
        ),
        (ends("mode: SIMPLE, credentialNames: [a, b, c]"), 2, "spec.servers[0].tls.credentialNames: names one or two Secrets".to_owned()),
        (
            ends("mode: SIMPLE, credentialName: 'kubernetes-gateway://bank/a'"),
            2,
            "spec.servers[0].tls.credentialName: `kubernetes-gateway://bank/a` is no name of a Secret: small letters, digits, `-`, `.`, perhaps with the gateway's namespace and `/` before it".to_owned(),
        ),
        (
            ends("mode: SIMPLE, credentialName: a-cacert"),
            2,
            "spec.servers[0].tls.credentialName: `a-cacert` ends in -cacert, as the companions do that hold the authorities of others".to_owned(),
        ),
        (
            ends("mode: ISTIO_MUTUAL, credentialName: a"),
            2,
            "spec.servers[0].tls.credentialName: has no place beside ISTIO_MUTUAL, which shows the workload's own certificate".to_owned(),
        ),
        (
            ends("mode: SIMPLE, credentialName: a, subjectAltNames: [b]"),
            2,
            "spec.servers[0].tls.subjectAltNames: has no place beside SIMPLE, which asks clients for no certificate".to_owned(),
        ),
        (
            ends("mode: SIMPLE, credentialName: a, maxProtocolVersion: TLSV1_1"),
            2,
            "spec.servers[0].tls.maxProtocolVersion: is below TLSV1_2, under which nothing is spoken".to_owned(),
        ),
        (
            ends("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2"),
            2,
            "spec.servers[0].tls.minProtocolVersion: is above maxProtocolVersion".to_owned(),
        ),
        (
            ends("mode: SIMPLE, credentialName: a, cipherSuites: [RC4-MD5]"),
            2,
            "spec.servers[0].tls.cipherSuites: none of them is one that a gateway may have".to_owned(),
        ),
        (ends("mode: MUTUAL, credentialName: a, verifyCertificateHash: [ab]"), 2, format!("spec.servers[0].tls.verifyCertificateHash: {WHO}")),
        (server(", bind: 1.2.3.4"), 2, format!("spec.servers[0].bind: {WHERE}")),
    ] {
        check_spec("Gateway", &spec, &[(line, &expected)]);
    }
}

#[test]
fn warnings_of_istio() {
    check_warnings(
        "VirtualService",
        "hosts: [a]\nhttp:\n- match: [{statPrefix: a, ignoreUriCase: true, uri: {regex: b}}]\n  route: [{destination: {host: a}}]",
        &[
            (3, "spec.http[0].match[0]: ignoreUriCase has no effect on a regex"),
            (3, "spec.http[0].match[0].statPrefix: is not acted on yet"),
        ],
    );
    check_warnings(
        "DestinationRule",
        "host: a\ntrafficPolicy:\n  connectionPool:\n    tcp: {tcpKeepalive: {time: 1s}}\n    http: {http2KeepAlive: {}, h2UpgradePolicy: DO_NOT_UPGRADE, useClientProtocol: false}\n",
        &[(5, "spec.trafficPolicy.connectionPool.http.http2KeepAlive: is not acted on yet")],
    );
    check_warnings(
        "Gateway",
        "servers:\n- port: {number: 443, name: a, protocol: HTTPS}\n  hosts: ['*']\n  tls: {mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_0, cipherSuites: [AES128-SHA, AES128-SHA, RC4]}\n",
        &[
            (4, "spec.servers[0].tls.minProtocolVersion: is below TLSV1_2, under which nothing is spoken: TLSV1_2 is the lowest"),
            (4, "spec.servers[0].tls.cipherSuites[1]: `AES128-SHA` is there twice"),
            (4, "spec.servers[0].tls.cipherSuites[2]: `RC4` is no cipher suite that a gateway may have, and is left out"),
        ],
    );
    check_warnings(
        "Gateway",
        "servers:\n- port: {number: 80, name: a, protocol: HTTP}\n  hosts: ['*']\n  tls: {credentialName: a, httpsRedirect: true}\n",
        &[(4, "spec.servers[0].tls.credentialName: is not used: the port's protocol is plain text, and for TLS it is HTTPS")],
    );
    check_warnings(
        "Gateway",
        "servers:\n- port: {number: 443, name: a, protocol: HTTPS}\n  hosts: ['*']\n  tls: {credentialName: a, minProtocolVersion: TLSV1_3}\n",
        &[
            (4, "spec.servers[0].tls.credentialName: is not used: PASSTHROUGH, the mode where none is written, ends no TLS"),
            (4, "spec.servers[0].tls.minProtocolVersion: is not used: PASSTHROUGH, the mode where none is written, ends no TLS"),
        ],
    );
    check_warnings(
        "Gateway",
        "servers:\n- port: {number: 443, name: a, protocol: TLS}\n  hosts: ['*']\n  tls: {mode: AUTO_PASSTHROUGH, httpsRedirect: true, subjectAltNames: [a]}\n",
        &[
            (4, "spec.servers[0].tls.httpsRedirect: has no effect: it is for servers of plain HTTP"),
            (4, "spec.servers[0].tls.subjectAltNames: is not used: AUTO_PASSTHROUGH ends no TLS"),
        ],
    );
    check_warnings(
        "VirtualService",
        "hosts: [a]\ngateways: [g, mesh]\ntls:\n- match:\n  - {sniHosts: [a, a], gateways: [mesh], destinationSubnets: [10.0.0.0/8]}\n  - {sniHosts: [a], destinationSubnets: [10.0.0.0/8]}\n  route: [{destination: {host: a}}]",
        &[
            (5, "spec.tls[0].match[0].sniHosts[1]: a is there twice"),
            (6, "spec.tls[0].match[1].destinationSubnets: has no effect at a gateway, which is called at its own address"),
        ],
    );
    check_warnings(
        "AuthorizationPolicy",
        "action: DENY",
        &[(0, "spec: a DENY policy without rules never denies; write `rules: [{}]` to deny all")],
    );
}

#[test]
fn sidecars() {
    for (spec, line, expected) in [
        (
            "egress: [{hosts: [reviews]}]",
            1,
            "spec.egress[0].hosts[0]: must be NAMESPACE/HOST, as in `./*` or `*/reviews.shop.svc.cluster.local`, is `reviews`".to_owned(),
        ),
        ("egress: [{hosts: ['A/x.example']}]", 1, "spec.egress[0].hosts[0]: `A` is no namespace, `*`, `.` or `~`".to_owned()),
        ("egress: [{hosts: []}]", 1, "spec.egress[0].hosts: must have at least one host".to_owned()),
        ("egress: [{}]", 1, "spec.egress[0].hosts: is required".to_owned()),
        ("egress: [{hosts: ['*/*'], port: {number: 80}}]", 1, format!("spec.egress[0].port: {WHERE}")),
        ("egress: [{hosts: ['*/*'], captureMode: NONE}]", 1, format!("spec.egress[0].captureMode: NONE {WHERE}")),
        ("ingress: [{port: {number: 80}}]", 1, format!("spec.ingress: {WHERE}")),
        ("outboundTrafficPolicy: {}", 1, "spec.outboundTrafficPolicy.mode: is required".to_owned()),
        (
            "outboundTrafficPolicy: {mode: ALL}",
            1,
            "spec.outboundTrafficPolicy.mode: must be one of REGISTRY_ONLY, ALLOW_ANY, ALLOW_ANY_DYNAMIC_DNS, is `ALL`".to_owned(),
        ),
        (
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: a.example, port: {number: 80}}}",
            1,
            "spec.outboundTrafficPolicy.egressProxy: has no place beside REGISTRY_ONLY, by which calls to unknown destinations are refused"
                .to_owned(),
        ),
        (
            "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: egress, port: {number: 80}}}",
            1,
            "spec.outboundTrafficPolicy.egressProxy.host: `egress` is no whole name of a service, as reviews.shop.svc.cluster.local is"
                .to_owned(),
        ),
        (
            "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.example}}",
            1,
            "spec.outboundTrafficPolicy.egressProxy.port: is required".to_owned(),
        ),
        ("egres: []", 1, "spec.egres: unknown field, did you mean `egress`?".to_owned()),
    ] {
        check_spec("Sidecar", spec, &[(line, &expected)]);
    }
}

#[test]
fn claims_in_the_place_of_headers() {
    let to = "route: [{destination: {host: b}}]";
    let spec = |gateways: &str, header: &str, more: &str| {
        format!("hosts: [a.example]\n{gateways}\nhttp:\n- match: [{{headers: {{'{header}': {{exact: x}}}}{more}}}]\n  {to}")
    };
    let gateway = "gateways: [g]";
    let needed = "spec.gateways: must name a gateway: only gateways route by claims (`@request.auth.claims`)";
    for good in ["@request.auth.claims.sub", "@request.auth.claims.a.B", "@request.auth.claims[a.b][c]", "@Request.Auth.Claims.x"] {
        check_spec("VirtualService", &spec(gateway, good, ""), &[]);
        check_spec("VirtualService", &spec("gateways: [g, mesh]", good, ""), &[]);
    }
    check_spec("VirtualService", &spec("gateways: [mesh]", "@request.auth.claims.a", ""), &[(2, needed)]);
    check_spec("VirtualService", &spec("gateways: [g, mesh]", "@request.auth.claims.a", ", gateways: [mesh]"), &[(2, needed)]);
    for bad in [
        "@request.auth.claims",
        "@request.auth.claims.",
        "@request.auth.claims.a..b",
        "@request.auth.claims[]",
        "@request.auth.claims[a",
        "@request.auth.claims[a]b",
    ] {
        let why = format!(
            "spec.http[0].match[0].headers[\"{bad}\"]: `{bad}` is no claim: write `@request.auth.claims.NAME` or `@request.auth.claims[NAME][NAME]`"
        );
        check_spec("VirtualService", &spec(gateway, bad, ""), &[(4, &why)]);
    }
}
