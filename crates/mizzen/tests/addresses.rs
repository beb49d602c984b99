//! Hosts of ServiceEntries without addresses: each is given one of either family, by which plain TCP on one port is told apart. With our proxies and with
//! Envoys.

use std::collections::BTreeSet;

use mizzen_testkit::{Mesh, Options, envoy, eventually, folder, peer, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The programs of the mesh are this very executable, told by the variable `WORKLOAD` who to be.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    if std::env::var(workload::VARIABLE).is_ok() {
        workload::serve(8080, workload::named);
    }
}

/// The hosts, each of which is a program of its own on the same port.
const NAMES: [&str; 2] = ["one", "other"];

fn entry(name: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: cave}}
spec:
  hosts: [{name}.example]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 8080, name: tcp, protocol: TCP}}]
  workloadSelector: {{labels: {{app: {name}}}}}
"
    )
}

fn check(options: Options) {
    let programs = NAMES.map(|name| entry(name) + "---" + &workload::deployment("cave", name, 8080)).concat();
    let folder = folder(&[("mesh.yaml", &("{apiVersion: v1, kind: Namespace, metadata: {name: cave}}".to_owned() + &programs))]);
    let mut mesh = Mesh::start_with(MIZZEN, folder.path(), options);
    let run = |words: &[&str]| {
        let found = mesh.run("cave", "default", words);
        if found.code == 0 { Ok(found.out) } else { Err(format!("{words:?}: {found:?}\n{}", mesh.logs())) }
    };
    let has_ipv6 = mizzen_capture::has_ipv6();
    if !has_ipv6 {
        println!("SKIPPED: addresses of IPv6, since this machine has none");
    }
    let families = [("-4", "ahostsv4", "240.240."), ("-6", "ahostsv6", "2001:2::")];
    for (family, database, start) in families.into_iter().take(if has_ipv6 { 2 } else { 1 }) {
        let mut all = BTreeSet::new();
        for name in NAMES {
            let host = format!("{name}.example");
            let found = eventually("its address", || run(&["getent", database, &host]));
            let address = found.split_whitespace().next().unwrap_or_default().to_owned();
            assert!(address.starts_with(start) && all.insert(address), "{host}: {found}, beside {all:?}");
            eventually("its program", || match run(&["curl", "-sS", "-m", "10", family, &format!("http://{host}:8080/")])? {
                answer if answer.starts_with(&format!("{name}\n")) => Ok(()),
                other => Err(format!("{host}: {other}")),
            });
        }
    }
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn two_services_on_one_port() {
    if peer("curl", "curl").is_some() {
        check(Options::default());
    }
}

#[test]
fn two_services_on_one_port_with_envoys() {
    if let Some(envoy) = envoy().filter(|_| peer("curl", "curl").is_some()) {
        check(Options::of_envoys(&envoy));
    }
}
