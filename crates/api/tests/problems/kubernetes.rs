//! Kubernetes' own kinds.

use crate::{RUNS, WHERE, check_spec, check_warnings};

#[test]
fn services() {
    for (spec, line, expected) in [
        ("selector: {a: b}", 0, "spec.ports: is required".to_owned()),
        ("ports: [{name: a}]", 1, "spec.ports[0].port: is required".to_owned()),
        ("ports: [{port: 70000}]", 1, "spec.ports[0].port: must be between 1 and 65535, is 70000".to_owned()),
        ("ports: [{port: '80'}]", 1, "spec.ports[0].port: must be a whole number, is `80`".to_owned()),
        ("ports: [{port: 1, name: a}, {port: 2}]", 1, "spec.ports[1]: needs a name, since there are several ports".to_owned()),
        ("ports: [{port: 1, name: a}, {port: 1, name: b}]", 1, "spec.ports[1]: port 1 is listed twice".to_owned()),
        (
            "ports: [{port: 1, targetPort: '80'}]",
            1,
            "spec.ports[0].targetPort: `80` is no port's name: at most 15 lower-case letters, digits and hyphens, and a letter".to_owned(),
        ),
        ("ports: [{port: 1, protocol: SCTP}]", 1, format!("spec.ports[0].protocol: SCTP {WHERE}")),
        ("type: ExternalName", 0, "spec.externalName: is required".to_owned()),
        (
            "type: ExternalName\nexternalName: a..b",
            2,
            "spec.externalName: `` is not a valid part of a host name (letters, digits and inner hyphens, 1 to 63 of them)".to_owned(),
        ),
        ("type: ExternalName\nexternalName: '*.b'", 2, "spec.externalName: must be a host name without a wildcard, is `*.b`".to_owned()),
        ("type: ExternalName\nexternalName: a.b\nclusterIP: 10.0.0.1", 3, "spec.clusterIP: an ExternalName has no address".to_owned()),
        ("ports: [{port: 1}]\nclusterIP: no", 2, "spec.clusterIP: must be a text, is false: put it in quotes".to_owned()),
        ("ports: [{port: 1}]\nselectr: {a: b}", 2, "spec.selectr: unknown field, did you mean `selector`?".to_owned()),
        (
            "ports: [{port: 1}]\nsessionAffinityConfig: {clientIP: {timeout: 1}}",
            2,
            "spec.sessionAffinityConfig.clientIP.timeout: unknown field".to_owned(),
        ),
    ] {
        check_spec("Service", spec, &[(line, &expected)]);
    }
    check_warnings(
        "Service",
        "ports: [{port: 1, nodePort: 30000}]\ntype: NodePort\nsessionAffinity: ClientIP\nexternalIPs: [1.2.3.4]",
        &[
            (2, "spec.type: is treated as ClusterIP"),
            (3, "spec.sessionAffinity: is not acted on yet"),
            (4, "spec.externalIPs: is not acted on yet"),
        ],
    );
}

#[test]
fn external_names() {
    check_warnings(
        "Service",
        "type: ExternalName\nexternalName: reviews.shop.svc.cluster.local\nports: [{port: 80}]\nselector: {a: b}",
        &[
            (3, "spec.ports: has no effect: an ExternalName is another name of its host, at all ports"),
            (4, "spec.selector: has no effect: an ExternalName is another name of its host, at all ports"),
        ],
    );
    check_warnings("Service", "type: ExternalName\nexternalName: example.com\nsessionAffinity: ClientIP", &[]);
}

#[test]
fn deployments() {
    let pod = |rest: &str| {
        format!(
            "selector: {{matchLabels: {{app: x}}}}\ntemplate:\n  metadata: {{labels: {{app: x}}}}\n  spec:\n    containers:\n    - name: a\n      command: [a]\n      {rest}\n"
        )
    };
    let spec = "spec.template.spec";
    for (text, line, expected) in [
        ("template: {spec: {containers: [{name: a, command: [a]}]}}".to_owned(), 0, "spec.selector: is required".to_owned()),
        (
            "selector: {matchLabels: {a: b}}\ntemplate: {spec: {containers: [{name: a, command: [a]}]}}".to_owned(),
            1,
            "spec.selector: selects labels that spec.template.metadata.labels does not carry".to_owned(),
        ),
        (
            pod("env: [{name: A, value: 1}]"),
            8,
            format!("{spec}.containers[0].env[0].value: must be a text, is the number 1: put it in quotes"),
        ),
        (
            pod("env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]"),
            8,
            format!("{spec}.containers[0].env[0].valueFrom.secretKeyRef: {RUNS}"),
        ),
        (
            pod("env: [{name: A, valueFrom: {fieldRef: {fieldPath: a.b}}}]"),
            8,
            format!("{spec}.containers[0].env[0].valueFrom.fieldRef.fieldPath: `a.b` is no field of a pod that can be read here"),
        ),
        (pod("readinessProbe: {grpc: {port: 1}}"), 8, format!("{spec}.containers[0].readinessProbe.grpc: {RUNS}")),
        (
            pod("readinessProbe: {periodSeconds: 1}"),
            8,
            format!("{spec}.containers[0].readinessProbe: must have one of httpGet, tcpSocket, exec"),
        ),
        (
            pod("readinessProbe: {tcpSocket: {port: web}}"),
            8,
            format!("{spec}.containers[0].readinessProbe.tcpSocket.port: the container has no port `web`"),
        ),
        (pod("volumeMounts: [{name: v, mountPath: /v}]"), 8, format!("{spec}.containers[0].volumeMounts[0].name: there is no volume `v`")),
        (pod("lifecycle: {}"), 8, format!("{spec}.containers[0].lifecycle: {RUNS}")),
        (pod("comand: [b]"), 8, format!("{spec}.containers[0].comand: unknown field, did you mean `command`?")),
        (pod("resources: {limit: {cpu: 1}}"), 8, format!("{spec}.containers[0].resources.limit: unknown field")),
        (pod("resources: {limits: 1}"), 8, format!("{spec}.containers[0].resources.limits: invalid type: integer `1`, expected a map")),
        (pod("\n    initContainers: []"), 9, format!("{spec}.initContainers: {RUNS}")),
        (pod("\n    - name: b\n      command: [b]"), 5, format!("{spec}.containers: 2 containers: more than one {RUNS}")),
        (
            pod("\n    volumes: [{name: v, hostPath: {path: /}}]"),
            9,
            format!("{spec}.volumes[0]: must have configMap or emptyDir, the kinds of volume that are supported so far"),
        ),
        (pod("\n    hostNetwork: true"), 9, format!("{spec}.hostNetwork: {RUNS}")),
    ] {
        check_spec("Deployment", &text, &[(line, &expected)]);
    }
    let no_command =
        "selector: {matchLabels: {app: x}}\ntemplate:\n  metadata: {labels: {app: x}}\n  spec: {containers: [{name: a, image: b}]}";
    check_spec(
        "Deployment",
        no_command,
        &[(4, "spec.template.spec.containers[0].command: is required: images are not run here, the program is started by its command")],
    );
    check_warnings(
        "Deployment",
        &pod("image: a\n      resources: {limits: {cpu: 1, memory: 1Gi}}\n      livenessProbe: {tcpSocket: {port: 1}}"),
        &[
            (9, "spec.template.spec.containers[0].resources: is not acted on yet"),
            (10, "spec.template.spec.containers[0].livenessProbe: is not acted on yet"),
        ],
    );
}

/// Of a gateway's pod only the proxy is run, which has no command.
#[test]
fn gateways() {
    let named = |templates: &str, container: &str, rest: &str| {
        format!(
            "selector: {{matchLabels: {{istio: x}}}}\ntemplate:\n  metadata:\n    labels: {{istio: x}}\n    annotations: {{inject.istio.io/templates: {templates}}}\n  \
             spec:\n    securityContext: {{sysctls: [{{name: net.ipv4.ip_unprivileged_port_start, value: '0'}}]}}\n    containers:\n    - name: {container}\n      {rest}\n"
        )
    };
    let gateway = |rest: &str| named("gateway", "istio-proxy", rest);
    let container = "spec.template.spec.containers[0]";
    check_warnings("Deployment", &gateway("image: auto\n      securityContext: {runAsUser: 1337}"), &[]);
    check_warnings(
        "Deployment",
        &gateway("readinessProbe: {tcpSocket: {port: 80}}"),
        &[(10, &format!("{container}.readinessProbe: is not acted on yet"))],
    );
    for (text, line, expected) in [
        (gateway("command: [x]"), 10, format!("{container}.command: {RUNS}")),
        (gateway("volumeMounts: [{name: v, mountPath: /v}]"), 10, format!("{container}.volumeMounts: {RUNS}")),
        (gateway("env: [{name: A, value: 1}]"), 10, format!("{container}.env[0].value: must be a text, is the number 1: put it in quotes")),
        (gateway("image: auto\n    volumes: []"), 11, format!("spec.template.spec.volumes: {RUNS}")),
        (named("gateway", "main", "image: auto"), 9, format!("{container}.name: must be istio-proxy: nothing else runs in a gateway's pod")),
        (
            named("'gateway, sidecar'", "istio-proxy", "image: auto"),
            5,
            "spec.template.metadata.annotations[\"inject.istio.io/templates\"]: `gateway, sidecar`: the templates that are supported are \
             sidecar and gateway, one of them"
                .to_owned(),
        ),
        (
            named("grpc-agent", "main", "command: [x]"),
            5,
            "spec.template.metadata.annotations[\"inject.istio.io/templates\"]: `grpc-agent`: the templates that are supported are sidecar \
             and gateway, one of them"
                .to_owned(),
        ),
    ] {
        check_spec("Deployment", &text, &[(line, &expected)]);
    }
}

#[test]
fn warnings_of_deployments() {
    check_warnings(
        "Deployment",
        "selector: {matchLabels: {app: a}}\nstrategy: {type: Recreate}\ntemplate:\n  metadata:\n    labels: {app: a}\n    annotations: {sidecar.istio.io/inject: 'false'}\n  spec:\n    dnsPolicy: Default\n    nodeSelector: {disk: fast}\n    containers:\n    - {name: a, image: x, command: [a], resources: {limits: {memory: 1Gi}}}\n",
        &[
            (2, "spec.strategy: is not acted on yet"),
            (
                6,
                "spec.template.metadata.annotations[\"sidecar.istio.io/inject\"]: is not acted on: every program that the mesh starts has a sidecar",
            ),
            (9, "spec.template.spec.nodeSelector: is not acted on yet"),
            (8, "spec.template.spec.dnsPolicy: is not acted on yet"),
            (11, "spec.template.spec.containers[0].resources: is not acted on yet"),
        ],
    );
}
