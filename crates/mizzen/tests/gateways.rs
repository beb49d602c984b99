//! Gateways beside the default one: a Deployment is one of its own, with its own identity, credentials and ports, and comes and goes with its document. With our
//! proxies and with Envoys.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{Mutex, PoisonError},
};

use mizzen_testkit::{Authority, Dialer, Mesh, Options, envoy, eventually, folder, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs of the mesh are this very executable, told by the variable `WORKLOAD` what to be.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    match std::env::var(workload::VARIABLE).as_deref() {
        Ok("caller") => workload::serve(8080, call),
        Ok("vault") => workload::serve(8080, workload::named),
        _ => {}
    }
}

/// Calls the vault, by itself or through the gateway's service, and answers with what it got.
fn call(head: &str) -> workload::Answer {
    let (host, port) = if workload::path(head) == "/call/out" { ("out.payments", 8081) } else { ("vault.cave", 8080) };
    ("200 OK", String::new(), workload::fetch(host, port, "/").unwrap_or_else(|error| format!("no answer: {error}")))
}

/// The vault lets nobody in but the payments' gateway.
const CAVE: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vault, namespace: cave}
spec:
  selector: {matchLabels: {app: vault}}
  rules: [{from: [{source: {principals: [cluster.local/ns/payments/sa/payments-gateway]}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cave, namespace: cave}
spec:
  hosts: ['*']
  gateways: [cave]
  http:
  - match: [{uri: {prefix: /vault}}]
    route: [{destination: {host: vault, port: {number: 8080}}}]
  - match: [{uri: {prefix: /call}}]
    route: [{destination: {host: caller, port: {number: 8080}}}]
  - directResponse: {status: 204}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: cave}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example], tls: {mode: SIMPLE, credentialName: shop}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: cave}
spec: {hosts: [shop.example], gateways: [shop], http: [{directResponse: {status: 200}}]}
";

/// What the payments have at the border: a host of their own, and a way out of the mesh's inside.
const PAYMENTS: &str = "
kind: Namespace
apiVersion: v1
metadata: {name: payments}
---
kind: Service
apiVersion: v1
metadata: {name: out, namespace: payments}
spec: {selector: {istio: payments}, ports: [{name: http-out, port: 8081}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: payments, namespace: payments}
spec:
  selector: {istio: payments}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [pay.example], tls: {mode: SIMPLE, credentialName: pay}}
  - {port: {number: 8081, name: http-out, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments, namespace: payments}
spec:
  hosts: ['*']
  gateways: [payments]
  http: [{route: [{destination: {host: vault.cave.svc.cluster.local, port: {number: 8080}}}]}]
";

/// The gateway itself, in a version.
fn gate(version: &str) -> String {
    format!(
        "
kind: ServiceAccount
apiVersion: v1
metadata: {{name: payments-gateway, namespace: payments}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {{name: payments-gateway, namespace: payments}}
spec:
  selector: {{matchLabels: {{istio: payments}}}}
  template:
    metadata:
      labels: {{istio: payments, version: {version}, sidecar.istio.io/inject: 'true'}}
      annotations: {{inject.istio.io/templates: gateway}}
    spec:
      serviceAccountName: payments-gateway
      containers: [{{name: istio-proxy, image: auto}}]
"
    )
}

/// One that takes the default gateway's place.
const EDGE: &str = "
kind: Deployment
apiVersion: apps/v1
metadata: {name: edge, namespace: istio-system}
spec:
  replicas: 2
  selector: {matchLabels: {istio: ingressgateway}}
  template:
    metadata:
      labels: {app: istio-ingressgateway, istio: ingressgateway}
      annotations: {inject.istio.io/templates: gateway}
    spec: {containers: [{name: istio-proxy, image: auto}]}
";

const OWN: &str = "payments/payments-gateway";
const DEFAULT: &str = "istio-system/istio-ingressgateway";

struct World {
    mesh: Mesh,
    dialer: Dialer,
}

fn start(options: Options) -> World {
    let authority = Authority::new("servers");
    let mut text = workload::gateway("cave") + CAVE;
    for name in ["vault", "caller"] {
        text += &format!("---{}---{}", workload::service("cave", name, "http", 8080), workload::deployment("cave", name, 8080));
    }
    let secrets = authority.issue(&["shop.example", "marker.example"]).secret("istio-system", "shop", &[])
        + &authority.issue(&["pay.example", "stolen.example"]).secret("payments", "pay", &[]);
    let folder = folder(&[("cave.yaml", &text), ("payments.yaml", PAYMENTS), ("gate.yaml", &gate("one")), ("secrets.yaml", &secrets)]);
    World { mesh: Mesh::start_with(MIZZEN, folder.path(), options), dialer: Dialer::new(&authority.root, false) }
}

impl World {
    /// Where a gateway's port is open on the host.
    fn address(&self, gateway: &str, port: u16) -> Option<SocketAddr> {
        let (_, number) = self.mesh.gateway_port_of(gateway, port);
        (number > 0).then(|| SocketAddr::from(([127, 0, 0, 1], number)))
    }

    /// The status with which a gateway answers for a host over TLS.
    fn ask(&self, gateway: &str, host: &str) -> Result<u16, String> {
        let address = self.address(gateway, 443).ok_or_else(|| format!("{gateway} has no port"))?;
        self.dialer.dial(address, host)?.get("/")
    }

    #[track_caller]
    fn answers(&self, gateway: &str, host: &str, status: u16) {
        eventually(&format!("{host} at {gateway}"), || match self.ask(gateway, host) {
            Ok(got) if got == status => Ok(()),
            other => Err(format!("{other:?}\n{}\n{}", self.mesh.said(), self.mesh.logs())),
        });
    }

    /// The names of a gateway's pods.
    fn pods(&self, namespace: &str, prefix: &str) -> Vec<String> {
        self.mesh.pods(namespace, prefix).into_iter().map(|(name, _)| name).collect()
    }
}

/// Meshes here want the same ports of this host.
static ALONE: Mutex<()> = Mutex::new(());

fn check(options: Options) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut world = start(options);
    beside_the_default_one(&world);
    from_inside(&world);
    nothing_of_others(&world);
    moved(&world);
    replaced(&world);
    gone_and_back(&world);
    in_the_place_of_the_default_one(&world);
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// Both have a port 443, and each its own hosts and its own identity.
fn beside_the_default_one(world: &World) {
    world.answers(OWN, "pay.example", 200);
    world.answers(DEFAULT, "shop.example", 200);
    for (gateway, host) in [(DEFAULT, "pay.example"), (OWN, "shop.example")] {
        assert!(world.ask(gateway, host).is_err(), "{gateway} serves {host}");
    }
    let addresses = [OWN, DEFAULT].map(|gateway| world.address(gateway, 443).expect("a port"));
    assert_ne!(addresses[0], addresses[1]);
    for (gateway, address) in [OWN, DEFAULT].into_iter().zip(addresses) {
        let line = format!("https://{address}/   port 443 of gateway {gateway}");
        eventually(&line, || if world.mesh.said().contains(&line) { Ok(()) } else { Err(world.mesh.said()) });
    }
    // What the one may the other may not.
    assert_eq!(world.mesh.get("/vault", &[]).map(|(status, _)| status), Ok(403));
    let pods = world.mesh.pods("payments", "payments-gateway-");
    let [(name, pod)] = &pods[..] else { panic!("one pod: {pods:?}") };
    let labels = &pod["metadata"]["labels"];
    assert!(labels["istio"] == "payments" && labels["security.istio.io/tlsMode"].is_null(), "{pod}");
    let listeners = world.mesh.cli(&["proxy-config", "listener", "deployment/payments-gateway", "-n", "payments"]).ok();
    assert!(listeners.contains("443") && listeners.contains("8081"), "{listeners}");
    let status = world.mesh.cli(&["proxy-status"]).ok();
    assert!(status.contains(&format!("{name}.payments")) && status.contains("istio-ingressgateway.istio-system"), "{status}");
    eventually("the gateway's log", || {
        let log = world.mesh.cli(&["logs", "payments-gateway", "-n", "payments", "--proxy"]).out;
        if log.contains("pay.example") { Ok(()) } else { Err(log) }
    });
}

/// A service leads to it as to any workload, and beyond it calls are its own.
fn from_inside(world: &World) {
    let through =
        |body: &str| body.starts_with("HTTP/1.1 200") && body.contains("uri=spiffe://cluster.local/ns/payments/sa/payments-gateway");
    world.mesh.wait_for("/call/out", &[], "through the gateway", |status, body| status == 200 && through(body));
    world.mesh.wait_for("/call/vault", &[], "past the gateway", |status, body| status == 200 && body.starts_with("HTTP/1.1 403"));
}

/// A credential of the payments goes to nobody else, whoever names it.
fn nothing_of_others(world: &World) {
    let server = |name: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: cave}}, \
             spec: {{selector: {{istio: ingressgateway}}, servers: [{{{rest}}}]}}}}\n"
        )
    };
    let tls = "port: {number: 443, name: stolen, protocol: HTTPS}, hosts: [stolen.example], tls: {mode: SIMPLE, credentialName: pay}";
    let marker = "port: {number: 443, name: marker, protocol: HTTPS}, hosts: [marker.example], tls: {mode: SIMPLE, credentialName: shop}";
    world.mesh.save("stolen.yaml", &(server("stolen", tls) + &server("zz-marker", marker)));
    // Of the same listener, which so is in force, with what there is for the other one.
    world.answers(DEFAULT, "marker.example", 404);
    assert!(world.ask(DEFAULT, "stolen.example").is_err());
    let secrets = |workload: &str| world.mesh.cli(&["proxy-config", "secret", workload, "-o", "json"]).ok();
    let own = secrets("deployment/payments-gateway.payments");
    assert!(own.contains("kubernetes://pay"), "{own}");
    world.mesh.remove("stolen.yaml");
    world.answers(DEFAULT, "shop.example", 200);
}

impl World {
    /// A Gateway of port 8090 selects this gateway from now on.
    fn select(&self, selector: &str) {
        let gateway = format!(
            "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: moving, namespace: cave}}, spec: {{selector: {{istio: {selector}}}, \
             servers: [{{port: {{number: 8090, name: http, protocol: HTTP}}, hosts: [moving.example]}}]}}}}\n"
        );
        self.mesh.save("moving.yaml", &gateway);
    }

    /// Where that port is open, once it is.
    fn selected(&self, gateway: &str) -> SocketAddr {
        eventually(gateway, || self.address(gateway, 8090).ok_or_else(|| self.mesh.said()))
    }
}

/// A Gateway that selects another gateway takes its port along, unless that is not the one that it names.
fn moved(world: &World) {
    world.select("ingressgateway");
    let before = world.selected(DEFAULT);
    world.select("payments");
    let after = world.selected(OWN);
    assert!(after == before || before.port() != 8090, "{before} {after}\n{}", world.mesh.said());
    assert_eq!(world.address(DEFAULT, 8090), None);
}

/// A new version comes before the old one goes, at the same address.
fn replaced(world: &World) {
    let (before, address) = (world.pods("payments", "payments-gateway-"), world.address(OWN, 443));
    world.mesh.save("gate.yaml", &gate("two"));
    eventually("another pod alone", || {
        // A connection that the old one has taken may end with it; the next one is the new one's.
        let answer = world.ask(OWN, "pay.example").or_else(|_| world.ask(OWN, "pay.example"));
        assert_eq!(answer, Ok(200), "{}", world.mesh.logs());
        let now = world.pods("payments", "payments-gateway-");
        if now.len() == 1 && now != before { Ok(()) } else { Err(format!("{now:?}\n{}", world.mesh.said())) }
    });
    assert_eq!(world.address(OWN, 443), address);
    world.answers(OWN, "pay.example", 200);
}

/// Without its document it is gone, with all that it had open, and nobody else notices.
fn gone_and_back(world: &World) {
    let (own, default) = (world.address(OWN, 443).expect("a port"), world.address(DEFAULT, 443));
    let moving = world.selected(OWN);
    world.mesh.remove("gate.yaml");
    world.select("ingressgateway");
    let moved = world.selected(DEFAULT);
    assert!(moved == moving || moving.port() != 8090, "{moving} {moved}\n{}", world.mesh.said());
    world.mesh.remove("moving.yaml");
    eventually("nobody listens any more", || match TcpStream::connect(own) {
        Err(_) => Ok(()),
        Ok(_) => {
            assert_eq!(world.ask(DEFAULT, "shop.example"), Ok(200), "{}", world.mesh.logs());
            Err(world.mesh.said())
        }
    });
    eventually("its pod is gone", || match world.pods("payments", "payments-gateway-") {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    assert_eq!((world.address(OWN, 443), world.address(DEFAULT, 443)), (None, default));
    assert_eq!(world.ask(DEFAULT, "shop.example"), Ok(200));
    let said = world.mesh.said();
    assert!(said.contains(&format!("port 443 of gateway {OWN} is closed")), "{said}");
    world.mesh.save("gate.yaml", &gate("three"));
    world.answers(OWN, "pay.example", 200);
}

/// A Deployment with the default gateway's labels stands where that stood, at its addresses, with as many pods as it says.
fn in_the_place_of_the_default_one(world: &World) {
    let address = world.address(DEFAULT, 443);
    world.mesh.save("edge.yaml", EDGE);
    eventually("the default gateway is gone", || {
        let (new, old) = (world.pods("istio-system", "edge-"), world.pods("istio-system", "istio-ingressgateway"));
        if new.len() == 2 && old.is_empty() { Ok(()) } else { Err(format!("{new:?} {old:?}\n{}", world.mesh.said())) }
    });
    assert_eq!((world.address("istio-system/edge", 443), world.address(DEFAULT, 443)), (address, None));
    world.answers("istio-system/edge", "shop.example", 200);
    world.mesh.remove("edge.yaml");
    eventually("the default gateway is back, alone", || {
        let (new, old) = (world.pods("istio-system", "edge-"), world.pods("istio-system", "istio-ingressgateway"));
        if new.is_empty() && old.len() == 1 { Ok(()) } else { Err(format!("{new:?} {old:?}\n{}", world.mesh.said())) }
    });
    assert_eq!((world.address(DEFAULT, 443), world.address("istio-system/edge", 443)), (address, None));
    world.answers(DEFAULT, "shop.example", 200);
}

#[test]
fn gateways_of_their_own() {
    check(Options::default());
}

#[test]
fn gateways_of_their_own_are_envoys() {
    if let Some(envoy) = envoy() {
        check(Options::of_envoys(&envoy));
    }
}
