//! What a real kubelet, and whoever scrapes metrics, has of pods with sidecars: probes, the order of a pod's containers, and gateways that are injected.

use mizzen_testkit::eventually;
use serde_json::Value;

use crate::World;

/// Pods of a namespace of their own; mutual TLS is the mesh's rule, so that no probe and no scraper reaches a program but through its agent.
const PODS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: probed, labels: {istio-injection: enabled}}}
---
# Ready after a while, and seen by a scraper.
apiVersion: v1
kind: Pod
metadata:
  {name: late, namespace: probed, labels: {app: late}, annotations: {prometheus.io/scrape: 'true', prometheus.io/port: '8080', prometheus.io/path: /metrics}}
spec:
  containers:
  - name: echo
    image: mizzen.test/echo:1
    imagePullPolicy: IfNotPresent
    args: [serve]
    env: [{name: READY_AFTER, value: 8s}]
    ports: [{name: web, containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    startupProbe: {httpGet: {path: /started, port: 8080, httpHeaders: [{name: x-by, value: kubelet}]}}
---
# Never well.
apiVersion: v1
kind: Pod
metadata: {name: ill, namespace: probed}
spec:
  containers:
  - name: echo
    image: mizzen.test/echo:1
    imagePullPolicy: IfNotPresent
    args: [serve]
    env: [{name: READY_AFTER, value: 10h}]
    livenessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 2}
---
# A proxy that is no init container: the program calls as soon as it runs, and is not run again.
apiVersion: v1
kind: Pod
metadata:
  name: held
  namespace: probed
  annotations: {sidecar.istio.io/nativeSidecar: 'false', proxy.istio.io/config: 'holdApplicationUntilProxyStarts: true'}
spec:
  restartPolicy: Never
  containers:
  - {name: once, image: 'mizzen.test/echo:1', imagePullPolicy: IfNotPresent, args: [get, 'http://web.sets:8080/']}
---
# A gateway as an application's team makes one.
apiVersion: apps/v1
kind: Deployment
metadata: {name: edge, namespace: probed}
spec:
  selector: {matchLabels: {edge: own}}
  template:
    metadata: {labels: {edge: own}, annotations: {inject.istio.io/templates: gateway}}
    spec: {containers: [{name: istio-proxy, image: auto}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: probed}
spec: {selector: {edge: own}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [late.example.com]}]}
---
apiVersion: v1
kind: Service
metadata: {name: late, namespace: probed}
spec: {selector: {app: late}, ports: [{name: http, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: late, namespace: probed}
spec: {hosts: [late.example.com], gateways: [edge], http: [{route: [{destination: {host: late}}]}]}
";

pub(crate) fn pods(world: &World) {
    world.cluster.apply(PODS);
    let pod = |name: &str| -> Value {
        let text = world.kubectl(&["get", "pod", name, "-n", "probed", "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    world.kubectl(&["wait", "-n", "probed", "--for=condition=Ready", "pod/late", "--timeout=180s"]);
    let late = pod("late");
    for (probe, end) in [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")] {
        let asked = &late["spec"]["containers"][0][probe]["httpGet"];
        assert_eq!((asked["port"].as_u64(), asked["path"].as_str()), (Some(15020), Some(format!("/app-health/echo/{end}").as_str())));
    }
    assert_eq!(late["status"]["containerStatuses"][0]["restartCount"], 0, "{}", late["status"]);
    // The program was really asked: it is not ready at first, and kubelet says so.
    let events = world.kubectl(&["get", "events", "-n", "probed", "--field-selector", "involvedObject.name=late,reason=Unhealthy"]);
    assert!(events.contains("Readiness probe failed") && events.contains("503"), "{events}");
    scraped(world, &late);

    eventually("a program that is not well is started again", || match pod("ill") {
        pod if pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0) => Ok(()),
        pod => Err(pod["status"].to_string()),
    });
    let events = world.kubectl(&["get", "events", "-n", "probed", "--field-selector", "involvedObject.name=ill,reason=Unhealthy"]);
    assert!(events.contains("Liveness probe failed"), "{events}");

    let code = eventually("the program that waited for its proxy", || {
        let status = pod("held")["status"].take();
        let once = status["containerStatuses"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "once"));
        once.and_then(|one| one["state"]["terminated"]["exitCode"].as_i64()).ok_or_else(|| status.to_string())
    });
    assert_eq!(code, 0, "it called before its proxy was there: {}", pod("held")["status"]);
    assert_eq!(pod("held")["spec"]["containers"][0]["name"], "istio-proxy");

    world.kubectl(&["wait", "-n", "probed", "--for=condition=Available", "deployment/edge", "--timeout=180s"]);
    let edge = world.kubectl(&[
        "get",
        "pod",
        "-n",
        "probed",
        "-l",
        "edge=own",
        "-o",
        "jsonpath={.items[0].status.podIP} {.items[0].spec.containers[*].image}",
    ]);
    let (address, image) = edge.split_once(' ').unwrap_or_default();
    assert!(image.starts_with("mizzen/proxyv2:"), "{edge}");
    eventually("a call through the gateway", || {
        let words = ["curl", "-sS", "-m", "10", "-H", "host: late.example.com", &format!("http://{address}/at-the-edge")];
        match world.cluster.run(&words, "") {
            found if found.out.starts_with("pod=late ") && found.out.contains("path=/at-the-edge") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // Its pods may be gone before its rules are: of a Gateway without one `analyze` says that nothing is selected.
    world.kubectl(&["delete", "gateways.networking.istio.io,virtualservices", "-n", "probed", "--all"]);
    world.kubectl(&["delete", "namespace", "probed", "--wait=false"]);
}

/// A scraper, which has no certificate and goes by the pod's annotations, gets the program's metrics, the proxy's and the agent's.
fn scraped(world: &World, pod: &Value) {
    let annotation = |name: &str| pod["metadata"]["annotations"][format!("prometheus.io/{name}")].as_str().unwrap_or_default();
    assert_eq!((annotation("scrape"), annotation("port"), annotation("path")), ("true", "15020", "/stats/prometheus"));
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    let url = |port: &str, path: &str| format!("http://{address}:{port}{path}");
    let metrics = world.cluster.run(&["curl", "-sS", "-m", "10", &url(annotation("port"), annotation("path"))], "").ok();
    let names = ["echo_up", "istio_agent_", "envoy_server_live"];
    assert!(names.iter().all(|name| metrics.lines().any(|line| line.starts_with(name))), "{metrics}");
    let past = world.cluster.run(&["curl", "-sS", "-m", "10", &url("8080", "/metrics")], "");
    assert!(past.code != 0 && past.out.is_empty(), "{past:?}");
}

/// Proxies that prove who they are by what their pods show the API server, where the installation asks for it, and go on calling each other.
pub(crate) fn by_first_party_tokens(world: &World) {
    world.install(&["values.global.jwtPolicy=first-party-jwt"]);
    world.kubectl(&["rollout", "restart", "-n", "sets", "statefulset/web"]);
    world.kubectl(&["rollout", "status", "-n", "sets", "statefulset/web", "--timeout=180s"]);
    for pod in ["web-0", "web-1"] {
        let volumes = world.kubectl(&["get", "pod", pod, "-n", "sets", "-o", "jsonpath={.spec.volumes[*].name}"]);
        assert!(!volumes.contains("istio-token"), "{volumes}");
    }
    let from = "URI=spiffe://cluster.local/ns/sets/sa/default";
    eventually("a call by such a certificate", || {
        match world.cluster.exec("sets", "web-0", "web", &["/usr/local/bin/echo", "get", "http://web-1.web:8080/"]) {
            found if found.out.starts_with("200 pod=web-1 ") && found.out.contains(from) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let analyzed = world.mizzen(&["analyze", "--all-namespaces"]);
    assert!(analyzed.out.contains("first-party tokens"), "{analyzed:?}");
}
