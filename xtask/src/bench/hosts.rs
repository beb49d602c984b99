//! Two hosts: network namespaces with a cable between them.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The client's host and the server's.
pub(super) struct Hosts(());

/// Which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Client,
    Server,
}

/// The address of the server's host on the cable.
pub(super) const SERVER: &str = "10.99.0.2";

/// What every host's kernel is told.
const SETTINGS: [(&str, &str); 3] = [
    // Clients' ports are not to run out while each request takes a new one, nor to take those of the proxies.
    ("ip_local_port_range", "1024 65535"),
    ("ip_local_reserved_ports", "8080,15000-15100"),
    ("tcp_tw_reuse", "1"),
];

/// The kernel's own default, and one that every host may have. Where a machine has another one that paces by timers, those would be most of what bulk
/// bytes cost.
const CONGESTION: [&str; 2] = ["cubic", "reno"];

impl Host {
    fn name(self) -> &'static str {
        match self {
            Host::Client => "bench-client",
            Host::Server => "bench-server",
        }
    }
}

impl Hosts {
    /// Makes both. The caller is in network, mount and process namespaces of its own.
    pub(super) fn new() -> Result<Hosts> {
        // Names of namespaces are mounts below /run.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
        for name in [Host::Client, Host::Server].map(Host::name) {
            run("ip", &["netns", "add", name])?;
            run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        }
        let (client, server) = (Host::Client.name(), Host::Server.name());
        run("ip", &["-n", client, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", server])?;
        for (name, address) in [(client, "10.99.0.1/24"), (server, "10.99.0.2/24")] {
            run("ip", &["-n", name, "addr", "add", address, "dev", "cable"])?;
            run("ip", &["-n", name, "link", "set", "cable", "up"])?;
            for (setting, value) in SETTINGS {
                set(name, setting, value)?;
            }
            let [first, other] = CONGESTION;
            set(name, "tcp_congestion_control", first).or_else(|_| set(name, "tcp_congestion_control", other))?;
        }
        Ok(Hosts(()))
    }

    /// A command on one of them. `ip netns exec` becomes the command, so that its process id is the child's.
    pub(super) fn command(&self, host: Host, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host.name()]).arg(program);
        command
    }
}

fn set(name: &str, setting: &str, value: &str) -> Result<()> {
    let write = format!("echo {value} > /proc/sys/net/ipv4/{setting}");
    run("ip", &["netns", "exec", name, "sh", "-c", &write])
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    if !out.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
