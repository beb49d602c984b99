//! The same gateway as a configuration of nginx: the doors of [`LOADS`](super::config::LOADS), one worker, the same headers and fields of the access log.
//!
//! It is one process, without a master, so that what it takes is what one worker takes.

use std::{fmt::Write, fs, path::Path};

use anyhow::Result;
use mizzen_testkit::Credential;

use super::config::{Door, HOST, Ports};

/// What nginx is started by.
pub(super) const FILE: &str = "nginx.conf";

/// Where it cannot do what our access log does, it writes what comes nearest.
const LOG: [(&str, &str); 21] = [
    ("start_time", "$time_iso8601"),
    ("method", "$request_method"),
    ("path", "$request_uri"),
    ("protocol", "$server_protocol"),
    ("response_code", "$status"),
    ("response_flags", "-"),
    ("response_code_details", "$upstream_status"),
    ("bytes_received", "$request_length"),
    ("bytes_sent", "$body_bytes_sent"),
    ("duration", "$request_time"),
    ("upstream_service_time", "$upstream_response_time"),
    ("user_agent", "$http_user_agent"),
    ("request_id", "$request_id"),
    ("authority", "$host"),
    ("upstream_host", "$upstream_addr"),
    ("upstream_cluster", "$proxy_host"),
    ("upstream_local_address", "-"),
    ("downstream_local_address", "$server_addr:$server_port"),
    ("downstream_remote_address", "$remote_addr:$remote_port"),
    ("requested_server_name", "$ssl_server_name"),
    ("route_name", "default"),
];

/// Writes the configuration, and the certificates that it names.
pub(super) fn write(dir: &Path, ports: Ports, upstream: u16, credential: &Credential, root: &str) -> Result<()> {
    for (file, text) in [("nginx.pem", &*credential.certificate), ("nginx.key", &*credential.key), ("nginx-root.pem", root)] {
        fs::write(dir.join(file), text)?;
    }
    Ok(fs::write(dir.join(FILE), text(dir, ports, upstream))?)
}

fn text(dir: &Path, ports: Ports, upstream: u16) -> String {
    let dir = dir.display();
    let fields: Vec<String> = LOG.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
    let mut text = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {dir}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {dir}/nginx-{kind};");
    }
    let _ = writeln!(text, "log_format edge escape=json '{{{}}}';\naccess_log /dev/null edge buffer=64k flush=10s;", fields.join(","));
    // What a connection carries has no end with the others either.
    let _ = writeln!(text, "keepalive_timeout 1h;\nkeepalive_requests 1000000000;");
    let _ = writeln!(
        text,
        "upstream shop {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_timeout 1h; keepalive_requests 1000000000; }}\n\
         ssl_certificate {dir}/nginx.pem;\nssl_certificate_key {dir}/nginx.key;\nssl_protocols TLSv1.3;\nssl_ecdh_curve X25519;"
    );
    for door in Door::LOADS {
        let _ = writeln!(text, "server {{\nlisten {} ssl http2;\nserver_name {HOST};", ports.of(door));
        text.push_str(sessions(door));
        if door == Door::Mutual {
            let _ = writeln!(text, "ssl_verify_client on;\nssl_client_certificate {dir}/nginx-root.pem;");
        }
        text.push_str(ROUTE);
        text.push_str("}\n");
    }
    text.push_str("}\n");
    text
}

fn sessions(door: Door) -> &'static str {
    match door {
        // The first two alone would leave the tickets of TLS 1.3 that name a session of the server's.
        Door::Once | Door::Mutual => "ssl_session_tickets off;\nssl_session_cache off;\nssl_conf_command NumTickets 0;\n",
        Door::Usual | Door::Hosts => "ssl_session_tickets on;\nssl_session_cache shared:edge:4m;\n",
    }
}

/// What the bootstrap has of headers, or what a proxy adds by itself.
const ROUTE: &str = "location / {
proxy_pass http://shop;
proxy_http_version 1.1;
proxy_set_header Connection \"\";
proxy_set_header Host $host;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto https;
proxy_set_header X-Request-Id $request_id;
proxy_set_header X-Shop-1 one;
proxy_set_header X-Shop-2 one;
proxy_set_header X-Shop-4 \"\";
add_header X-Shop-3 one;
}
";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use mizzen_testkit::Authority;

    use super::*;

    #[test]
    fn each_load_has_its_server() {
        let ports = Ports::free().unwrap();
        let made = text(Path::new("/bench"), ports, 8080);
        let servers: Vec<&str> = made.split("\nserver {").skip(1).collect();
        let found: Vec<_> = servers
            .iter()
            .map(|server| {
                (server.contains("ssl_verify_client on;"), server.contains("NumTickets 0;"), server.contains("ssl_session_tickets on;"))
            })
            .collect();
        assert_eq!(found, [(false, true, false), (true, true, false), (false, false, true)]);
        for (door, server) in Door::LOADS.into_iter().zip(servers) {
            assert!(server.contains(&format!("listen {} ssl http2;", ports.of(door))), "{server}");
        }
    }

    /// nginx itself says whether it can read what was written.
    #[test]
    fn nginx_reads_it() {
        let Some(nginx) = mizzen_testkit::peer("nginx", "nginx") else { return };
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("edge");
        write(dir.path(), Ports::free().unwrap(), 8080, &authority.issue(&[HOST]), &authority.root).unwrap();
        let output = Command::new(nginx).args(["-e", "stderr", "-t", "-c"]).arg(dir.path().join(FILE)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
