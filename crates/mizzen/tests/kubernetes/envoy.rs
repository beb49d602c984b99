//! A namespace whose sidecars are an Envoy that nobody here built: its calls, and calls to it, are as everywhere in the mesh.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use mizzen_testkit::{Capture, Sniffer, envoy, eventually, kube::image};

use crate::World;

const IMAGE: &str = "mizzen.test/proxy-with-envoy:1";

/// The image; none where no Envoy is installed.
pub(crate) fn image(program: &Path, folder: &Path) -> Option<PathBuf> {
    let archive = folder.join("proxy-with-envoy.tar");
    image::with_envoy(&image::Source::MultiCall(program), &envoy()?, IMAGE, &archive).expect("an image");
    Some(archive)
}

/// Two versions of a service, a route by header and a rule; the service can be had at the Gateway, too, and by another name.
const NAMESPACE: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: envoys, labels: {istio-injection: enabled}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: echo, namespace: envoys}}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: envoys}
spec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: envoys}
spec: {type: ExternalName, externalName: echo.envoys.svc.cluster.local, ports: [{name: http, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: envoys}
spec: {host: echo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: envoys}
spec:
  hosts: [echo]
  http:
  - {match: [{headers: {x-version: {exact: v2}}}], route: [{destination: {host: echo, subset: v2}}]}
  - {route: [{destination: {host: echo, subset: v1}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: at-the-gateway, namespace: envoys}
spec: {hosts: [echo.example.com], gateways: [shop/shop], http: [{route: [{destination: {host: echo, subset: v1}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-sets-in-the-office, namespace: envoys}
spec:
  action: DENY
  rules: [{from: [{source: {namespaces: [sets]}}], to: [{operation: {paths: [/office]}}]}]
";

/// One version of it, with an Envoy beside it.
fn deployment(version: &str) -> String {
    format!(
        "
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo-{version}, namespace: envoys}}
spec:
  selector: {{matchLabels: {{app: echo, version: {version}}}}}
  template:
    metadata:
      labels: {{app: echo, version: {version}}}
      annotations: {{sidecar.istio.io/proxyImage: '{IMAGE}'}}
    spec:
      serviceAccountName: echo
      # One on each node, so that calls between them are on the wire.
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: echo}}}}}}
      containers:
      - name: echo
        image: mizzen.test/echo:1
        imagePullPolicy: IfNotPresent
        args: [serve]
        env: [{{name: VERSION, value: {version}}}]
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /ready, port: 8080}}}}
        # It ends at once when it is told to, and whoever calls may not know yet.
        lifecycle: {{preStop: {{sleep: {{seconds: 3}}}}}}
"
    )
}

/// Calls between this namespace, that of the sets, whose proxies are Mizzen's, and the shop.
pub(crate) fn envoys(world: &World) {
    world.cluster.apply(&(NAMESPACE.to_owned() + &deployment("v1") + &deployment("v2")));
    world.kubectl(&["wait", "--for=condition=Available", "deployment", "--all", "-n", "envoys", "--timeout=180s"]);
    it_is_an_envoy(world);

    let sniffer = Sniffer::of(world.cluster.process());
    let (of_sets, of_envoys) = ("URI=spiffe://cluster.local/ns/sets/sa/default", "URI=spiffe://cluster.local/ns/envoys/sa/echo");
    let from_set = |words: &[&str], wanted: &[&str]| call(world, ("sets", "web-0", "web"), words, wanted);
    let from_envoy = |words: &[&str], wanted: &[&str]| call(world, ("envoys", "deployment/echo-v1", "echo"), words, wanted);
    from_set(&["x-note=not-to-be-read", "http://echo.envoys:8080/"], &["200 pod=echo-v1-", "from=127.0.0.6:", of_sets]);
    from_envoy(&["x-note=not-to-be-read", "http://web.sets:8080/"], &["200 pod=web-", "from=127.0.0.6:", of_envoys]);
    from_envoy(&["http://echo:8080/"], &["200 pod=echo-v1-", of_envoys]);
    // Routes, at either make of client.
    from_set(&["x-version=v2", "http://echo.envoys:8080/"], &["200 pod=echo-v2-", "version=v2"]);
    from_envoy(&["x-version=v2", "http://echo:8080/"], &["200 pod=echo-v2-", "version=v2"]);
    // And of a service by its other name.
    from_set(&["http://other.envoys:8080/"], &["200 pod=echo-v1-", "from=127.0.0.6:", of_sets]);
    from_envoy(&["x-version=v2", "http://other:8080/"], &["200 pod=echo-v2-", of_envoys]);
    // Policy, at either make of server.
    from_set(&["http://echo.envoys:8080/office"], &["403 RBAC: access denied"]);
    from_envoy(&["http://echo.envoys:8080/office"], &["200 pod=echo-v1-", "path=/office"]);
    from_envoy(&["http://reviews.shop:9080/reviews/1"], &["403 RBAC: access denied"]);
    nothing_is_readable(&sniffer.finish());
    let address = world.kubectl(&["get", "pod", "-n", "envoys", "-l", "version=v1", "-o", "jsonpath={.items[0].status.podIP}"]);
    let plain = world.cluster.run(&["curl", "-sS", "-m", "10", &format!("http://{address}:8080/")], "");
    assert!(plain.code != 0 && plain.out.is_empty(), "{plain:?}");

    // An Envoy writes its log when it has some time, not each line as it comes.
    let wanted = ["spiffe://cluster.local/ns/sets/sa/default", "/office", "no-sets-in-the-office"];
    eventually("the refusal in the access log", || {
        let log = world.mizzen(&["logs", "echo-v1", "-n", "envoys", "--proxy"]).ok();
        if wanted.iter().all(|wanted| log.contains(wanted)) { Ok(()) } else { Err(log) }
    });
    let status = world.mizzen(&["proxy-status"]).ok();
    assert!(status.lines().any(|line| line.starts_with("echo-v1-") && line.contains(".envoys") && !line.contains("STALE")), "{status}");
    let clusters = world.mizzen(&["proxy-config", "cluster", "echo-v1", "-n", "envoys"]).ok();
    assert!(clusters.contains("web.sets.svc.cluster.local"), "{clusters}");
    replaced_under_load(world);
}

/// What was on the wire to the services was TLS. On localhost of the node its runtime tells what commands in pods have written.
fn nothing_is_readable(seen: &Capture) {
    let on_wire = || seen.flows.iter().filter(|((from, _), _)| !from.ip().is_loopback());
    let hello = |bytes: &[u8]| bytes.starts_with(&[0x16, 3]);
    assert!(on_wire().any(|((_, to), bytes)| to.port() == 8080 && hello(bytes)), "no TLS was seen");
    for text in ["not-to-be-read", "/office", "/reviews/1"] {
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let readable = on_wire().find(|(_, bytes)| holds(bytes));
        assert!(readable.is_none(), "{text} is readable from {:?}", readable.map(|(flow, _)| flow));
    }
}

/// What only an Envoy counts is counted in these pods, where a pod with Mizzen's proxy has nothing by that name.
fn it_is_an_envoy(world: &World) {
    let counts = |namespace: &str, labels: &str| {
        let address = world.kubectl(&["get", "pod", "-n", namespace, "-l", labels, "-o", "jsonpath={.items[0].status.podIP}"]);
        let metrics = world.cluster.run(&["curl", "-sS", "-m", "10", &format!("http://{address}:15090/stats/prometheus")], "").ok();
        metrics.lines().any(|line| line.starts_with("envoy_server_hot_restart_epoch"))
    };
    assert_eq!((counts("envoys", "version=v1"), counts("envoys", "version=v2"), counts("sets", "app=web")), (true, true, false));
}

/// Calls from a pod, until the answer has all that is wanted.
fn call(world: &World, (namespace, pod, container): (&str, &str, &str), words: &[&str], wanted: &[&str]) {
    eventually("a call", || {
        let answer = world.cluster.exec(namespace, pod, container, &[&["/usr/local/bin/echo", "get"], words].concat());
        if answer.code == 0 && wanted.iter().all(|wanted| answer.out.contains(wanted)) {
            Ok(())
        } else {
            Err(format!("{words:?}: {answer:?}"))
        }
    });
}

/// Requests through the Gateway go on while the pods behind it are replaced: an Envoy takes connections until clients have heard that it goes.
fn replaced_under_load(world: &World) {
    let host = "host: echo.example.com";
    assert!(world.until("the service at the Gateway", "/", &[host], "200").contains("pod=echo-v1-"));
    let load =
        "for i in $(seq 400); do curl -s -m 20 -o /dev/null -w '%{http_code}\\n' -H \"$1\" http://$0/; sleep 0.02; done | sort | uniq -c";
    let mut load = world.cluster.command(&["bash", "-c", load, &world.gateway, host]);
    let load = load.stdout(Stdio::piped()).spawn().expect("a load");
    world.kubectl(&["rollout", "restart", "-n", "envoys", "deployment/echo-v1"]);
    world.kubectl(&["rollout", "status", "-n", "envoys", "deployment/echo-v1", "--timeout=180s"]);
    let answered = load.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&answered.stdout).trim(), "400 200");
}
