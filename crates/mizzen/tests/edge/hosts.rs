//! Whose routes a Gateway's hosts let in: each kind of entry binds what it says and nothing else. The same with Mizzen's proxies and with Envoys.

use std::process::{Command, Stdio};

use mizzen_testkit::{Options, envoy, eventually};

use crate::world::{World, has_peers};

/// An entry of the Gateway's `hosts`, which lies in the shop; a host that somebody calls; and whether the shop's routes are served there, and the bank's.
const ENTRIES: [(&str, &str, bool, bool); 9] = [
    ("./own.example", "own.example", true, false),
    ("shop/shops.example", "shops.example", true, false),
    ("bank/banks.example", "banks.example", false, true),
    ("'*/any.example'", "any.example", true, true),
    // Without a namespace it is any.
    ("bare.example", "bare.example", true, true),
    ("nobody/none.example", "none.example", false, false),
    ("'bank/*.wild.example'", "a.wild.example", false, true),
    ("'./*.near.example'", "a.near.example", true, false),
    // A part of a name is no name.
    ("'./*.near.example'", "near.example", false, false),
];

/// Routes of a namespace for all hosts that are called, each by its own name, and for all others: /NAMESPACE answers with this status.
fn routes(namespace: &str, status: u16) -> String {
    let hosts: Vec<&str> = ENTRIES.iter().map(|(_, host, ..)| *host).collect();
    let spec = format!("http: [{{match: [{{uri: {{exact: /{namespace}}}}}], directResponse: {{status: {status}}}}}]");
    let object = |name: &str, hosts: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: {namespace}}}, \
             spec: {{hosts: [{hosts}], gateways: [shop/hosts], {spec}}}}}\n"
        )
    };
    object("by-name", &hosts.join(", ")) + &object("for-all", "'*'")
}

const SHOPS: u16 = 231;
const BANKS: u16 = 232;

fn check(mut world: World) {
    let hosts: Vec<&str> = ENTRIES.iter().map(|(entry, ..)| *entry).collect();
    let gateway = format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: hosts, namespace: shop}}, \
         spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 82, name: http-hosts, protocol: HTTP}}, hosts: [{}]}}]}}}}\n",
        hosts[..8].join(", ")
    );
    let bank = "{apiVersion: v1, kind: Namespace, metadata: {name: bank}}\n";
    world.mesh.save("hosts.yaml", &format!("{bank}{gateway}{}{}", routes("shop", SHOPS), routes("bank", BANKS)));
    // What is served comes with one table: where the last of it is there, all is.
    for (namespace, status) in [("shop", SHOPS), ("bank", BANKS)] {
        eventually("the routes", || match ask(&world, "any.example", namespace) {
            got if got == status.to_string() => Ok(()),
            got => Err(format!("{got}\n{}\n{}", world.mesh.said(), world.mesh.logs())),
        });
    }
    let mut wrong = Vec::new();
    for (entry, host, shops, banks) in ENTRIES {
        for (namespace, is_served, status) in [("shop", shops, SHOPS), ("bank", banks, BANKS)] {
            let (expected, got) = (if is_served { status } else { 404 }.to_string(), ask(&world, host, namespace));
            if got != expected {
                wrong.push(format!("{entry}: {host}/{namespace}: {got}, and {expected} is expected"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for namespace in ["shop", "bank"] {
        assert_eq!(ask(&world, "elsewhere.example", namespace), "404", "a host that no entry names");
    }
    assert_eq!(world.mesh.stop(), 0, "{}", world.mesh.said());
}

/// The status, or nothing where there is no answer.
fn ask(world: &World, host: &str, namespace: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Host: {host}")]);
    let output = curl.arg(format!("http://127.0.0.1:{}/{namespace}", world.port(82))).stdin(Stdio::null()).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn entries_of_hosts_bind_what_they_say() {
    if has_peers() {
        check(World::start(Options::default()));
    }
}

#[test]
fn entries_of_hosts_bind_what_they_say_at_an_envoy() {
    if let Some(envoy) = envoy().filter(|_| has_peers()) {
        check(World::start(Options::of_envoys(&envoy)));
    }
}
