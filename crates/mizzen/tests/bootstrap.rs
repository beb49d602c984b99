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
    let (port, metrics) = (free(), free());
    let endpoint = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let bootstrap = json!({"static_resources": {
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
    let file = dir.path().join("bootstrap.json");
    std::fs::write(&file, bootstrap.to_string()).expect("a file");
    let mut proxy = Command::new(&program)
        .args(["--mark", "0", "--metrics", &format!("127.0.0.1:{metrics}"), "-c"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("start the proxy");
    let reply = eventually("an answer through the proxy", || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").map_err(|e| e.to_string())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).map_err(|e| e.to_string())?;
        if reply.is_empty() { Err("nothing".to_owned()) } else { Ok(reply) }
    });
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.ends_with("hello\n"), "{reply}");
    let _ =
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(proxy.id()).expect("a number")), nix::sys::signal::Signal::SIGTERM);
    let status = eventually("its end", || proxy.try_wait().expect("wait").ok_or("it runs"));
    assert!(status.success(), "{status}");
}
