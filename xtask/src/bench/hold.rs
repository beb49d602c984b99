//! Connections that do nothing: a process on the client's host opens them and holds them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    config::{AUTHORITY, HTTP},
    hosts::{Host, Hosts},
    load::Running,
};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// What is said once all are open.
const OPEN: &str = "open";

/// What the process is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HoldArgs {
    connections: u32,
}

/// Starts that process, and waits until each of its connections has had an answer. It ends with what is returned.
pub(super) fn open(hosts: &Hosts, connections: u32) -> Result<Running> {
    let mut command = hosts.command(Host::Client, std::env::current_exe()?);
    command.args(["bench", "hold", &connections.to_string()]);
    let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the idle client")?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("the idle client's output")?).read_line(&mut line)?;
    if line.trim() != OPEN {
        bail!("the idle client has not opened its connections");
    }
    Ok(child)
}

/// The process: opens the connections, says so, and holds them until its input ends.
pub(crate) fn hold(args: &HoldArgs) -> Result<()> {
    let held = (0..args.connections).map(|n| one().with_context(|| format!("connection {n}"))).collect::<Result<Vec<_>>>()?;
    println!("{OPEN}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

fn one() -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", HTTP))?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {AUTHORITY}\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    // The server's answer to this path.
    while !answer.ends_with(b"hello\n") {
        match stream.read(&mut buffer)? {
            0 => bail!("closed after {}", String::from_utf8_lossy(&answer)),
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("answered {}", String::from_utf8_lossy(&answer));
    }
    Ok(stream)
}
