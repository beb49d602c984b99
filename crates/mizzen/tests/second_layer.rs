//! What a program reaches that goes around its proxy, where `mizzen up --second-layer` says that it may not.

use std::{
    cell::Cell,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
};

use mizzen_testkit::{Mesh, Options, eventually, folder, peer, workload};
use serde_json::Value;

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

const MESH: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: friend, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: rogue, namespace: shop}}
";

/// Only these accounts may call the stock.
fn policy(accounts: &[&str]) -> String {
    let principals: Vec<String> = accounts.iter().map(|account| format!("cluster.local/ns/shop/sa/{account}")).collect();
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: stock, namespace: shop}}, spec: {{selector: {{matchLabels: \
         {{app: stock}}}}, rules: [{{from: [{{source: {{principals: [{}]}}}}]}}]}}}}\n",
        principals.join(", ")
    )
}

/// Beyond the mesh, of a static address.
fn entry(name: &str, address: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: shop}}, spec: {{hosts: [{name}.example], \
         location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: {address}}}]}}}}\n"
    )
}

const REGISTRY_ONLY: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: 'outboundTrafficPolicy: {mode: REGISTRY_ONLY}'}
";

/// A program whose connections its proxy does not get: it runs the scripts that it is asked to.
struct Rogue<'m> {
    mesh: &'m Mesh,
    shared: PathBuf,
    asked: Cell<u32>,
}

impl Rogue<'_> {
    fn start(mesh: &Mesh) -> Rogue<'_> {
        let shared = mesh.shared();
        let run = format!(
            "cd {}; while :; do for ask in *.ask; do [ -f $ask ] || continue; bash $ask > answer 2>&1; rm $ask; mv answer ${{ask%.ask}}.answer; done; \
             sleep 0.05; done",
            shared.display()
        );
        let deployment = format!(
            "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: rogue, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: rogue}}}}
  template:
    metadata:
      labels: {{app: rogue}}
      annotations: {{traffic.sidecar.istio.io/excludeOutboundIPRanges: '10.244.0.0/16,192.0.2.0/24'}}
    spec:
      serviceAccountName: rogue
      containers:
      - {{name: rogue, image: none, command: [bash, -c, '{run}']}}
"
        );
        mesh.save("rogue.yaml", &deployment);
        Rogue { mesh, shared, asked: Cell::default() }
    }

    fn does(&self, script: &str) -> String {
        self.asked.set(self.asked.get() + 1);
        let file = |ending: &str| self.shared.join(format!("{}.{ending}", self.asked.get()));
        fs::write(file("partial"), script).and_then(|()| fs::rename(file("partial"), file("ask"))).expect("a script");
        let failed = |error| format!("{error}\n{}\n{}", self.mesh.said(), self.mesh.logs());
        eventually(script, || fs::read_to_string(file("answer")).map_err(failed))
    }

    /// Whether it can open a connection.
    fn connects(&self, to: &str, port: u16) -> bool {
        let script = format!("timeout 20 bash -c 'exec 3<>/dev/tcp/{to}/{port}' && echo open");
        let said = self.does(&script);
        assert!(said == "open\n" || said.contains("Connection refused"), "at once, and not by silence: {said}");
        said == "open\n"
    }

    fn eventually(&self, what: &str, to: &str, port: u16, expected: bool) {
        eventually(what, || if self.connects(to, port) == expected { Ok(()) } else { Err(self.mesh.said()) });
    }
}

/// How often the rogue was refused.
fn refused(mesh: &Mesh, destination: &str, port: u16) -> u64 {
    let rows: Vec<Value> = serde_json::from_str(&mesh.cli(&["x", "second-layer", "-o", "json"]).ok()).expect("JSON");
    let is_it = |row: &&Value| row["source"] == "shop/rogue" && row["destination"] == destination && row["port"] == port;
    rows.iter().find(is_it).and_then(|row| row["refused"].as_u64()).unwrap_or_default()
}

/// Calls the stock through the proxy; what is left of book 3.
fn call(mesh: &Mesh, account: &str) -> String {
    mesh.run("shop", account, &["bash", "-c", "exec 3<>/dev/tcp/stock/7070; echo 3 >&3; head -n 1 <&3"]).out
}

/// Somebody outside of the mesh who answers every request.
fn outside() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                if stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\noutside\n");
                }
            });
        }
    });
    address
}

fn options(args: &[&str]) -> Options {
    let outside = outside();
    let mut all: Vec<String> = ["--second-layer"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    for address in ["192.0.2.10:80", "192.0.2.11:80"] {
        all.extend(["--outside".to_owned(), format!("{address}={outside}")]);
    }
    Options { args: all, ..Options::default() }
}

#[test]
fn a_program_that_goes_around_its_proxy_is_stopped() {
    let config = folder(&[
        ("mesh.yaml", MESH),
        ("stock.yaml", workload::STOCK),
        ("policy.yaml", &policy(&["friend"])),
        ("known.yaml", &entry("known", "192.0.2.11")),
    ]);
    let mesh = Mesh::start_with(MIZZEN, config.path(), options(&[]));
    let rogue = Rogue::start(&mesh);
    let stock = mesh.pod_address("shop", "stock").to_string();
    assert!(!rogue.connects(&stock, 7070), "{}", mesh.said());
    eventually("it is counted", || match refused(&mesh, "shop/stock", 7070) {
        1 => Ok(()),
        count => Err(format!("{count}\n{}", mesh.said())),
    });
    let told = "the second layer has refused shop/rogue a connection to shop/stock at port 7070";
    assert!(mesh.said().contains(told), "{}", mesh.said());
    // Whom the policy names gets what it asks for, and the proxy's own ports are open.
    assert_eq!(call(&mesh, "friend"), "17\n", "{}\n{}", mesh.said(), mesh.logs());
    assert!(rogue.connects(&stock, 15021));
    assert_eq!(call(&mesh, "rogue"), "", "through its proxy neither");

    // A change is in force at once, in both directions, and nobody is started again.
    let before = mesh.running("bookshop-stock");
    mesh.save("policy.yaml", &policy(&["friend", "rogue"]));
    rogue.eventually("a policy opens it", &stock, 7070, true);
    mesh.save("policy.yaml", &policy(&["friend"]));
    rogue.eventually("a policy closes it", &stock, 7070, false);
    // One that cannot be read leaves what there was.
    mesh.save("policy.yaml", &policy(&["friend", "rogue"]).replace("principals", "principles"));
    eventually("it is refused", || if mesh.said().contains("did you mean `principals`?") { Ok(()) } else { Err(mesh.said()) });
    assert!(!rogue.connects(&stock, 7070));
    assert_eq!(mesh.running("bookshop-stock"), before);

    // To the outside.
    assert!(rogue.connects("192.0.2.10", 80), "anybody may go anywhere until somebody says otherwise");
    mesh.save("settings.yaml", REGISTRY_ONLY);
    rogue.eventually("what nothing names is closed", "192.0.2.10", 80, false);
    assert!(rogue.connects("192.0.2.11", 80), "what is named is open");
    assert!(!rogue.connects("192.0.2.11", 81), "at its port alone");
    eventually("that is counted, too", || if refused(&mesh, "192.0.2.11", 81) == 1 { Ok(()) } else { Err(mesh.said()) });
    mesh.save("known.yaml", &(entry("known", "192.0.2.11") + "---\n" + &entry("new", "192.0.2.10")));
    rogue.eventually("what is named meanwhile opens", "192.0.2.10", 80, true);
    if peer("curl", "curl").is_some() {
        mesh.remove("settings.yaml");
        let metrics = || mesh.run("shop", "friend", &["curl", "-sS", "-m", "10", "http://10.244.0.1:15014/metrics"]).out;
        let line = "mizzen_second_layer_refused_total{destination_workload=\"stock\",destination_workload_namespace=\"shop\",source_workload=\"rogue\"";
        eventually("the metric", || Some(metrics()).filter(|text| text.contains(line)).map(drop).ok_or_else(|| mesh.said()));
    }

    // The folder's configuration is not to be seen, not even what comes while a program runs.
    mesh.save("secret.yaml", "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: shop}, stringData: {key: geheim}}\n");
    let folder = mesh.folder.display();
    let seen = rogue.does(&format!("ls -A {folder}; cat {folder}/secret.yaml"));
    assert_eq!(seen, format!("cat: {folder}/secret.yaml: No such file or directory\n"));
}

/// The gateway of the mesh leads everything outside.
const THROUGH: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: way-out, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: way-out, namespace: shop}
spec: {hosts: ['*'], gateways: [way-out], http: [{route: [{destination: {host: known.example, port: {number: 80}}}]}]}
---
";

#[test]
fn pods_leave_the_mesh_through_the_egress_gateway_alone() {
    let through = THROUGH.to_owned() + &entry("known", "192.0.2.11");
    let config = folder(&[("mesh.yaml", MESH), ("stock.yaml", workload::STOCK), ("through.yaml", &through)]);
    let options = options(&["--egress-through", "istio-system/istio=ingressgateway", "--egress-to", "192.0.2.10"]);
    let mesh = Mesh::start_with(MIZZEN, config.path(), options);
    let rogue = Rogue::start(&mesh);
    assert!(!rogue.connects("192.0.2.11", 80), "{}", mesh.said());
    assert!(rogue.connects("192.0.2.10", 80), "an address that is excepted");
    mesh.wait_for("/", &[], "the gateway goes there", |status, body| status == 200 && body == "outside\n");
    eventually("it is counted", || if refused(&mesh, "192.0.2.11", 80) == 1 { Ok(()) } else { Err(mesh.said()) });
    // Nobody is kept from anybody in the mesh.
    assert_eq!(call(&mesh, "friend"), "17\n");
    assert!(rogue.connects(&mesh.pod_address("shop", "stock").to_string(), 7070));
}

#[test]
fn without_it_the_command_says_so() {
    let mesh = Mesh::start(MIZZEN, folder(&[("mesh.yaml", MESH), ("stock.yaml", workload::STOCK)]).path());
    let asked = mesh.cli(&["x", "second-layer"]);
    assert!(asked.code == 1 && asked.err.contains("mizzen up --second-layer"), "{asked:?}");
}
