//! `mizzen-proxy` by an Envoy bootstrap alone: no agent, no control plane.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use mizzen_testkit::eventually;
use serde_json::json;

#[test]
fn a_static_bootstrap_is_enough() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = dir.path().join("mizzen-proxy");
    symlink(env!("CARGO_BIN_EXE_mizzen"), &program).expect("a link");
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = server.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n");
        }
    });
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let (port, metrics, admin) = (free(), free(), free());
    let endpoint = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let bootstrap = json!({"admin": {"address": endpoint(admin)}, "static_resources": {
        "clusters": [{"name": "hello", "type": "STATIC", "load_assignment": {"cluster_name": "hello",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint(target)}}]}]}}],
        "listeners": [{"name": "in", "address": endpoint(port), "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "in",
                "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "hello"}}]}]},
                "http_filters": [{"name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            },
        }]}]}],
    }});
    let (file, log) = (dir.path().join("bootstrap.yaml"), dir.path().join("log"));
    let yaml = format!(
        "# One field as YAML, the others as JSON, which is YAML as well.\nstatic_resources:\n  {}\nadmin: {}\n",
        bootstrap["static_resources"], bootstrap["admin"]
    );
    std::fs::write(&file, yaml).expect("a file");
    let mut proxy = Command::new(&program)
        .args(["--mark", "0", "--metrics", &format!("127.0.0.1:{metrics}"), "--base-id", "7", "-l", "info", "-c"])
        .arg(&file)
        .arg("--log-path")
        .arg(&log)
        .stderr(Stdio::null())
        .spawn()
        .expect("start the proxy");
    let get = |port: u16, path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).map_err(|e| e.to_string())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).map_err(|e| e.to_string())?;
        if reply.is_empty() { Err("nothing".to_owned()) } else { Ok(reply) }
    };
    let reply = eventually("an answer through the proxy", || get(port, "/"));
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("hello\n"), "{reply}");
    // What only reading the bootstrap, or a dump, has needed does not stay.
    let at_most = |most: u64| match anonymous(proxy.id()) {
        n if n <= most => Ok(()),
        n => Err(format!("{n} KiB")),
    };
    eventually("little memory after the start", || at_most(MOST_ANONYMOUS));
    for page in ["/config_dump", "/server_info"] {
        let reply = eventually(page, || get(admin, page));
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        eventually(&format!("little memory after {page}"), || at_most(MOST_AFTER_A_PAGE));
    }
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(proxy.id()).expect("a number")), nix::sys::signal::Signal::SIGTERM);
    let status = eventually("its end", || proxy.try_wait().expect("wait").ok_or("it runs"));
    assert!(status.success(), "{status}");
    let log = std::fs::read_to_string(log).expect("the log");
    assert!(log.contains("it does nothing here flag=\"--base-id\""), "{log}");
}

/// What an idle proxy may hold for itself, in KiB: the descriptors of all messages alone take three times as much.
const MOST_ANONYMOUS: u64 = 4 * 1024;

/// The same after a page that needed the descriptors: the allocator keeps a little more of what it has had.
const MOST_AFTER_A_PAGE: u64 = 6 * 1024;

/// A process's memory that is in no file, in KiB.
fn anonymous(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a line");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

const GOOD: &str = "\
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 80}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: web
          cluster: web
";

/// What of a bootstrap and of flags is good; else a part of what is said.
#[test]
fn bootstraps_and_flags_are_judged() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = dir.path().join("mizzen-proxy");
    symlink(env!("CARGO_BIN_EXE_mizzen"), &program).expect("a link");
    let istios = "--base-id 3 -l warning --service-node a~b --service-cluster c --service-zone z --concurrency 2 --drain-time-s 45 \
        --drain-strategy immediate --local-address-ip-version v4 --file-flush-interval-msec 1000 --disable-hot-restart \
        --allow-unknown-static-fields --skip-deprecated-logs --component-log-level misc:error --log-format %v --parent-shutdown-time-s 60 \
        --restart-epoch 0 --use-dynamic-base-id --log-path /nowhere --cpuset-threads --reject-unknown-dynamic-fields";
    let unknown = GOOD.replace("stat_prefix", "stat_prefx");
    let field = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    let lua = GOOD.replace("tcp_proxy.v3.TcpProxy", "wasm.v3.Wasm").replace("          stat_prefix: web\n          cluster: web\n", "");
    for (text, flags, expected) in [
        (GOOD, "", Ok("the bootstrap is good")),
        (GOOD, istios, Ok("--drain-strategy: it does nothing here")),
        (GOOD, "--stats-tag a:b", Err("--stats-tag is a flag of Envoy's that is not supported")),
        (GOOD, "--admin-address-path /x", Err("--admin-address-path is a flag of Envoy's that is not supported")),
        (GOOD, "--restart-epoch 1", Err("--restart-epoch 1: a proxy does not take over from another")),
        (GOOD, "--config-yaml {nodes:1}", Err("--config-yaml:1: ")),
        (
            GOOD,
            "--config-yaml {\"dynamic_resources\":{\"lds_config\":{\"ads\":{}}}}",
            Err("dynamic_resources.lds_config: there is no ads_config"),
        ),
        (&unknown, "", Err(&format!("b.yaml:10: {field}.stat_prefx: unknown field") as &str)),
        (&unknown, "--allow-unknown-static-fields", Ok(&format!("b.yaml:10: {field}.stat_prefx: unknown field: it is passed over"))),
        (&lua, "", Err("b.yaml:8: Listener `web`: filter_chains[0].filters[0].typed_config: ")),
        ("a: [", "", Err("b.yaml:1: ")),
    ] {
        std::fs::write(dir.path().join("b.yaml"), text).expect("a file");
        let output = Command::new(&program)
            .args(["--mode", "validate", "-c", "b.yaml"])
            .args(flags.split_whitespace())
            .current_dir(dir.path())
            .output()
            .expect("start the proxy");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        let (good, part) = match expected {
            Ok(part) => (true, part),
            Err(part) => (false, part),
        };
        assert!(output.status.success() == good && said.contains(part), "{flags}: {said}\nexpected {part}\n{text}");
    }
}
