//! How many connections a proxy takes, by the keys of Envoy's runtime that the mesh's settings or a pod's annotation have. With our proxies and with Envoys.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

use mizzen_testkit::{Mesh, Options, envoy, eventually, folder, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The program of the mesh is this very executable.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    if std::env::var(workload::VARIABLE).is_ok() {
        workload::serve(8080, workload::named);
    }
}

/// The mesh's default gateway takes two connections at port 80; one of its own takes four at all of its ports together.
const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultConfig:
      runtimeValues: {envoy.resource_limits.listener.0.0.0.0_80.connection_limit: '2'}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cave, namespace: cave}
spec: {hosts: ['*'], gateways: [cave, narrow], http: [{directResponse: {status: 200}}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: narrow, namespace: cave}
spec:
  selector: {istio: narrow}
  servers:
  - {port: {number: 8081, name: http-one, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 8082, name: http-two, protocol: HTTP}, hosts: ['*']}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: narrow, namespace: cave}
spec:
  selector: {matchLabels: {istio: narrow}}
  template:
    metadata:
      labels: {istio: narrow}
      annotations:
        inject.istio.io/templates: gateway
        proxy.istio.io/config: |
          runtimeValues: {overload.global_downstream_max_connections: '4', re2.max_program_size.error_level: '32768'}
    spec: {containers: [{name: istio-proxy, image: auto}]}
---
";

const DEFAULT: &str = "istio-system/istio-ingressgateway";
const NARROW: &str = "cave/narrow";

struct World {
    mesh: Mesh,
}

impl World {
    fn start(options: Options) -> World {
        let text = workload::gateway("cave") + CONFIG + &workload::deployment("cave", "caller", 8080);
        World { mesh: Mesh::start_with(MIZZEN, folder(&[("cave.yaml", &text)]).path(), options) }
    }

    /// A connection that is served, and stays open; or none, if it was closed at once.
    fn open(&self, gateway: &str, port: u16) -> Result<Option<TcpStream>, String> {
        let (_, number) = self.mesh.gateway_port_of(gateway, port);
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], number))).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| e.to_string())?;
        let mut answer = [0; 512];
        // Who is closed at once may not get as far as to say anything.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: cave.example\r\n\r\n");
        match stream.read(&mut answer) {
            Ok(n) if answer[..n].starts_with(b"HTTP/1.1 200 ") => Ok(Some(stream)),
            Ok(0) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
            Ok(n) => Err(String::from_utf8_lossy(&answer[..n]).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The same, once one is served.
    fn served(&self, gateway: &str, port: u16) -> TcpStream {
        eventually(&format!("a connection to port {port} of {gateway}"), || match self.open(gateway, port) {
            Ok(Some(stream)) => Ok(stream),
            other => Err(format!("{other:?}\n{}\n{}", self.mesh.said(), self.mesh.logs())),
        })
    }

    #[track_caller]
    fn refused(&self, gateway: &str, port: u16) {
        assert!(matches!(self.open(gateway, port), Ok(None)), "port {port} of {gateway}: one too many\n{}", self.mesh.logs());
    }

    /// A number of a pod's proxy, by Envoy's name for it.
    fn counted(&self, pod: (&str, &str), name: &str) -> u64 {
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.mesh.pod_dir(pod.0, pod.1).join("admin.sock"))?;
            write!(stream, "GET /stats HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = eventually("statistics", ask);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
    }
}

const FRONT: (&str, &str) = ("istio-system", "istio-ingressgateway");

/// Two at one listener, by the mesh's settings.
fn of_one_listener(world: &World) {
    let overflow = || world.counted(FRONT, "listener.0.0.0.0_80.downstream_cx_overflow");
    drop(world.served(DEFAULT, 80));
    eventually("nobody is there any more", || match world.counted(FRONT, "listener.0.0.0.0_80.downstream_cx_active") {
        0 => Ok(()),
        n => Err(n.to_string()),
    });
    assert_eq!(overflow(), 0);
    let (first, mut second) = (world.served(DEFAULT, 80), world.served(DEFAULT, 80));
    world.refused(DEFAULT, 80);
    world.refused(DEFAULT, 80);
    // An Envoy closes a connection before it counts it.
    eventually("both are counted", || match overflow() {
        2 => Ok(()),
        n => Err(n.to_string()),
    });
    drop(first);
    let _third = world.served(DEFAULT, 80);
    // Who was there before is there still.
    second.write_all(b"GET / HTTP/1.1\r\nhost: cave.example\r\n\r\n").expect("write");
    let mut answer = [0; 512];
    let length = second.read(&mut answer).expect("an answer");
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer[..length]));
}

/// Four at all listeners together, by the pod's annotation. Of these an Envoy counts those to its own interfaces, too.
fn of_all_listeners(world: &World, is_ours: bool) {
    let mut open = vec![world.served(NARROW, 8081), world.served(NARROW, 8082)];
    while let Ok(Some(stream)) = world.open(NARROW, 8081 + u16::from(open.len() % 2 == 1)) {
        open.push(stream);
        assert!(open.len() <= 4, "more than there may be\n{}", world.mesh.logs());
    }
    assert!(!is_ours || open.len() == 4, "{}", open.len());
    world.refused(NARROW, 8082);
    let overflow = |port: u16| world.counted(("cave", "narrow-"), &format!("listener.0.0.0.0_{port}.downstream_global_cx_overflow"));
    eventually("those are counted that were closed", || match overflow(8081) + overflow(8082) {
        0 | 1 => Err("one at most".to_owned()),
        _ => Ok(()),
    });
    // Whoever looks after it comes through.
    let is_ready = || {
        let pods = world.mesh.pods("cave", "narrow-");
        pods.len() == 1
            && pods[0].1["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    assert!(is_ready(), "{:?}", world.mesh.pods("cave", "narrow-"));
    open.clear();
    drop(world.served(NARROW, 8082));
}

fn check(options: Options, is_ours: bool) {
    let mut world = World::start(options);
    of_one_listener(&world);
    of_all_listeners(&world, is_ours);
    for (workload, wanted) in [
        (["deployment/caller", "cave"], ["envoy.resource_limits.listener.0.0.0.0_80.connection_limit", "\"2\""]),
        (["deployment/narrow", "cave"], ["overload.global_downstream_max_connections", "\"4\""]),
    ] {
        let [name, namespace] = workload;
        let shown = world.mesh.cli(&["proxy-config", "bootstrap", name, "-n", namespace]).ok();
        assert!(wanted.iter().all(|part| shown.contains(part)), "{shown}");
    }
    if is_ours {
        let log = world.mesh.cli(&["logs", "narrow", "-n", "cave", "--proxy"]).ok();
        let said = |key: &str| log.lines().filter(|line| line.contains("it does nothing here") && line.contains(key)).count();
        assert_eq!((said("re2.max_program_size.error_level"), said("max_connections")), (1, 0), "{log}");
    }
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

#[test]
fn connections_are_bounded() {
    check(Options::default(), true);
}

#[test]
fn connections_of_envoys_are_bounded() {
    if let Some(envoy) = envoy() {
        check(Options::of_envoys(&envoy), false);
    }
}
