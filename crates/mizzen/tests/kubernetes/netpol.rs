//! What `mizzen netpol` writes, enforced: calls that the mesh allows pass the network, and who goes past a proxy is stopped by it.
//!
//! `kube-network-policies` decides about the first packet of each connection. By its own rules it gets these only where the kernel has the `queue` of
//! nf_tables (CONFIG_NFT_QUEUE); the same rules in the words of iptables work with either, and where both are there it is asked twice.

use std::process::{Child, Stdio};

use mizzen_testkit::{Output, eventually, kube::Programs};

use super::{World, versions};

/// It leaves DNS to hooks of its own where it is not told otherwise.
const ENFORCER: &str = "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: kube-network-policies, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: kube-network-policies}
rules:
- {apiGroups: [''], resources: [pods, nodes, namespaces], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
- {apiGroups: ['', events.k8s.io], resources: [events], verbs: [create, patch, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kube-network-policies}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: kube-network-policies}
subjects: [{kind: ServiceAccount, name: kube-network-policies, namespace: kube-system}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-network-policies, namespace: kube-system}
spec:
  selector: {matchLabels: {app: kube-network-policies}}
  template:
    metadata: {labels: {app: kube-network-policies}}
    spec:
      serviceAccountName: kube-network-policies
      hostNetwork: true
      containers:
      - name: kube-network-policies
        image: mizzen.test/kube-network-policies:1
        imagePullPolicy: Never
        args: [--hostname-override=$(NODE), --netfilter-bug-1766-fix=false, '--metrics-bind-address=127.0.0.1:9089', -v=2]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext: {capabilities: {add: [NET_ADMIN]}}
";
/// The node's own programs, kubelet among them, and connections that are there already are not asked about. What nobody decides about is dropped.
const STEER: &str = "set -e
for rule in '-m owner --uid-owner 0 -j ACCEPT' '-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT' \\
  '-p tcp -j NFQUEUE --queue-num 100' '-p udp -j NFQUEUE --queue-num 100'; do
  iptables -w -t mangle -A POSTROUTING $rule
done";

/// A pod that is not of the mesh, and one in a namespace of the mesh that has no proxy: a program that is around it.
const OUTSIDERS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
apiVersion: v1
kind: Pod
metadata: {name: outsider, namespace: plain}
spec: {containers: [{name: echo, image: 'mizzen.test/echo:1', imagePullPolicy: IfNotPresent, args: [sleep]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: around, namespace: sets, labels: {sidecar.istio.io/inject: 'false'}}
spec: {containers: [{name: echo, image: 'mizzen.test/echo:1', imagePullPolicy: IfNotPresent, args: [sleep]}]}
";

/// A server that is no pod, beside the nodes.
const OUTSIDE: &str = "10.200.0.100";
const ATTACH: &str = "set -e
ip netns add outside
ip link add outside0 type veth peer name eth0 netns outside
ip link set outside0 master node0 up
ip -n outside link set lo up
ip -n outside addr add $0/24 dev eth0
ip -n outside link set eth0 up
for n in 1 2; do ip -n outside route add 10.244.$n.0/24 via 10.200.0.$n; done";

/// Calls to it go through the egress gateway.
const EGRESS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: sets}
spec:
  hosts: [outside.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.200.0.100}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out, namespace: sets}
spec: {selector: {istio: egressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [outside.example.com]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: sets}
spec:
  hosts: [outside.example.com]
  gateways: [mesh, out]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
  - match: [{gateways: [out], port: 80}]
    route: [{destination: {host: outside.example.com, port: {number: 80}}}]
";

/// In the shop with its policies in force, and the namespace of the sets beside it.
pub(crate) fn policies(world: &World) {
    let Some(programs) = Programs::for_network_policies() else { return };
    world.cluster.load(&programs.path("kube-network-policies.tar")).expect("its image");
    world.cluster.apply(&(ENFORCER.to_owned() + "---" + OUTSIDERS));
    world.kubectl(&["rollout", "status", "-n", "kube-system", "daemonset/kube-network-policies", "--timeout=120s"]);
    for node in [1, 2] {
        eventually("somebody decides", || match on(world, node, &["cat", "/proc/net/netfilter/nfnetlink_queue"]) {
            queues if queues.out.lines().any(|line| line.split_whitespace().next() == Some("100")) => Ok(()),
            queues => Err(format!("{queues:?}")),
        });
        on(world, node, &["sh", "-c", STEER]).ok();
    }
    world.kubectl(&["wait", "-n", "plain", "--for=condition=Ready", "pod/outsider", "--timeout=120s"]);
    world.kubectl(&["wait", "-n", "sets", "--for=condition=Ready", "pod/around", "--timeout=120s"]);

    of_the_shop(world);
    through_the_gateway_alone(world, &programs);

    for node in [1, 2] {
        on(world, node, &["iptables", "-w", "-t", "mangle", "-F", "POSTROUTING"]).ok();
    }
    world.kubectl(&["delete", "networkpolicy", "-A", "-l", "app.kubernetes.io/managed-by=mizzen"]);
    world.kubectl(&["delete", "daemonset", "-n", "kube-system", "kube-network-policies"]);
    world.kubectl(&["delete", "namespace", "plain", "--wait=false"]);
    world.kubectl(&["delete", "pod", "-n", "sets", "around", "--wait=false"]);
}

fn on(world: &World, node: usize, words: &[&str]) -> Output {
    let output = world.cluster.on(node, words).output().expect("a node");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// One call of a pod's program.
fn get(world: &World, (namespace, pod, container): (&str, &str, &str), words: &[&str]) -> Output {
    world.cluster.exec(namespace, pod, container, &[&["/usr/local/bin/echo", "get"], words].concat())
}

/// Whether nothing came back: not even that nobody listens.
fn is_stopped(answer: &Output) -> bool {
    answer.code != 0 && answer.err.contains("Client.Timeout")
}

/// Writes NetworkPolicies of what the cluster has, and applies them.
fn write(world: &World, args: &[&str]) {
    let made = world.mizzen(&[&["netpol"], args].concat());
    assert!(made.code == 0 && made.out.contains("kind: NetworkPolicy"), "{made:?}");
    world.cluster.apply(&made.out);
}

/// Who is not of the mesh was refused by the proxy, and does not reach it any more; programs that may call each other do.
fn of_the_shop(world: &World) {
    let address = world.kubectl(&["get", "pod", "-n", "shop", "-l", "app=catalogue", "-o", "jsonpath={.items[0].status.podIP}"]);
    let outsider = |url: &str| get(world, ("plain", "outsider", "echo"), &[url]);
    let (books, ready) = (format!("http://{address}:9080/books"), format!("http://{address}:15021/healthz/ready"));
    eventually("the proxy refuses", || match outsider(&books) {
        refused if refused.code != 0 && !is_stopped(&refused) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    write(world, &["-n", "shop"]);
    eventually("the network refuses", || match outsider(&books) {
        stopped if is_stopped(&stopped) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // What is to stay open does: it is not the whole pod that cannot be reached.
    let answer = outsider(&ready);
    assert!(answer.code == 0 && answer.out.starts_with("200 "), "{answer:?}");
    // Connections that were there before are not asked about: new pods have new ones.
    world.kubectl(&["rollout", "restart", "-n", "shop", "deployment"]);
    for deployment in world.kubectl(&["get", "deployment", "-n", "shop", "-o", "name"]).lines() {
        world.kubectl(&["rollout", "status", "-n", "shop", deployment, "--timeout=180s"]);
    }
    let page = eventually("the whole shop", || match world.get("/api/books", &[]) {
        (status, page) if status == "200" && !page.contains("\"Err\"") => Ok(page),
        other => Err(format!("{other:?}")),
    });
    versions(&page);
}

/// The server, as long as it is wanted.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pods leave the cluster through the egress gateway alone: neither a program without a proxy nor a proxy itself goes out.
fn through_the_gateway_alone(world: &World, programs: &Programs) {
    world.install(&["components.egressGateways[0].enabled=true"]);
    on(world, 1, &["sh", "-c", ATTACH, OUTSIDE]).ok();
    let echo = programs.path("echo").display().to_string();
    let mut command = world.cluster.command(&["ip", "netns", "exec", "outside", &echo, "serve", &format!("{OUTSIDE}:80")]);
    let server = Server(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a server"));
    world.cluster.apply(EGRESS);
    let url = format!("http://{OUTSIDE}/");
    let (in_mesh, around) = (("sets", "web-0", "web"), ("sets", "around", "echo"));
    let gateway = ["get", "pod", "-n", "istio-system", "-l", "app=istio-egressgateway", "-o", "jsonpath={.items[0].status.podIP}"];
    let from_gateway = format!(" from={}:", world.kubectl(&gateway));
    let led = || {
        eventually("a call through the gateway", || match get(world, in_mesh, &["Host=outside.example.com", &url]) {
            answer if answer.out.starts_with("200 ") && answer.out.contains(&from_gateway) => Ok(()),
            other => Err(format!("{other:?}, wanted{from_gateway}")),
        });
    };
    let past = || get(world, around, &["Host=outside.example.com", &url]);
    led();
    eventually("a call past it", || match past() {
        answer if answer.out.starts_with("200 ") && !answer.out.contains(&from_gateway) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    write(world, &["-n", "sets", "--egress-through", "istio-system/istio=egressgateway"]);
    eventually("the network refuses", || match past() {
        stopped if is_stopped(&stopped) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    led();
    // The mesh lets calls to hosts that it does not know go, and the proxy makes them itself.
    let unknown = get(world, in_mesh, &["Host=elsewhere.example.com", &url]);
    assert!(!unknown.out.starts_with("200 "), "{unknown:?}");
    // Names and pods of the cluster are there as before.
    let found = world.cluster.exec("sets", "around", "echo", &["/usr/local/bin/echo", "lookup", "web-1.web.sets.svc.cluster.local"]);
    assert!(found.code == 0 && found.out.contains(" 10.244."), "{found:?}");
    let kinds = "serviceentries.networking.istio.io,gateways.networking.istio.io,virtualservices.networking.istio.io";
    world.kubectl(&["delete", kinds, "-n", "sets", "--all"]);
    drop(server);
    on(world, 1, &["ip", "netns", "delete", "outside"]).ok();
}
