//! The server, the client, and what the client saw.

use std::{
    fmt,
    io::Read,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    config::{AUTHORITY, BACK},
    hosts::{Host, Hosts},
    pair::{Cpu, Memory},
};

/// How much longer than it should a client may take.
const LATE: Duration = Duration::from_secs(20);
/// The body that bulk transfers ask for, in bytes.
const BULK: usize = 64 << 20;

/// What a client does.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) connections: u32,
    pub(super) port: u16,
    pub(super) path: &'static str,
    /// Whether each request takes a connection of its own.
    pub(super) close: bool,
    /// The token that each request bears.
    pub(super) token: Option<String>,
}

/// What it saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    requests: f64,
    bytes: f64,
    /// In microseconds.
    p50: f64,
    p99: f64,
}

/// One measurement, or the median of several.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// CPU time of both proxies for one request, in microseconds.
    pub(super) cpu_per_request: f64,
    /// And for a GB, in seconds.
    pub(super) cpu_per_gb: f64,
    /// In microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Of both proxies, in MiB.
    pub(super) resident: f64,
    pub(super) anonymous: f64,
    pub(super) requests: f64,
}

impl Measured {
    pub(super) fn new(seen: &Seen, cpu: Cpu, memory: Memory) -> Measured {
        Measured {
            cpu_per_request: cpu.micros() / seen.requests.max(1.0),
            cpu_per_gb: cpu.micros() / 1e6 / (seen.bytes / 1e9).max(1e-9),
            p50: seen.p50,
            p99: seen.p99,
            requests: seen.requests,
            ..Measured::of(memory)
        }
    }

    /// Memory alone, of proxies that do nothing.
    pub(super) fn of(memory: Memory) -> Measured {
        Measured { resident: memory.resident as f64 / 1024.0, anonymous: memory.anonymous as f64 / 1024.0, ..Measured::default() }
    }

    /// The median of each number.
    pub(super) fn median(all: &[Measured]) -> Measured {
        let of = |number: fn(&Measured) -> f64| median(all.iter().map(number).collect());
        Measured {
            cpu_per_request: of(|m| m.cpu_per_request),
            cpu_per_gb: of(|m| m.cpu_per_gb),
            p50: of(|m| m.p50),
            p99: of(|m| m.p99),
            resident: of(|m| m.resident),
            anonymous: of(|m| m.anonymous),
            requests: of(|m| m.requests),
        }
    }
}

/// Of an even number of them what lies between the two in the middle.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => 0.0,
        n if n % 2 == 1 => numbers[n / 2],
        n => f64::midpoint(numbers[n / 2 - 1], numbers[n / 2]),
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { cpu_per_request, cpu_per_gb, p50, p99, resident, anonymous, requests } = self;
        write!(
            f,
            "{cpu_per_request:.1} µs/request, {cpu_per_gb:.2} s/GB, p50 {p50:.0} µs, p99 {p99:.0} µs, {resident:.1} MiB resident, {anonymous:.1} MiB anonymous, {requests:.0} requests"
        )
    }
}

/// A process that ends with this.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts nginx on the server's host.
pub(super) fn serve(hosts: &Hosts, dir: &Path) -> Result<Running> {
    let www = dir.join("www");
    std::fs::create_dir(&www)?;
    std::fs::write(www.join("64k"), vec![b'x'; 64 << 10])?;
    std::fs::write(www.join("bulk"), vec![b'x'; BULK])?;
    let at = dir.display();
    // In namespaces of an ordinary user there is only one user.
    let config = format!(
        "daemon off; user root; worker_processes 1; pid {at}/nginx.pid; error_log {at}/nginx.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3; uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;
  server {{
    listen 127.0.0.1:{BACK} backlog=8192;
    root {at}/www;
    location = / {{ return 200 \"hello\\n\"; }}
  }}
}}
"
    );
    std::fs::write(dir.join("nginx.conf"), config)?;
    let mut command = hosts.command(Host::Server, "nginx");
    command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("nginx.log"));
    Ok(Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("nginx")?))
}

/// Whether a request to this port of the client's proxy is answered well.
pub(super) fn answers(hosts: &Hosts, port: u16) -> bool {
    let load = Load { connections: 1, port, path: "/", close: false, token: None };
    // What is not there yet is refused at once.
    load.run(hosts, 1, || Ok(())).is_ok_and(|seen| seen.requests > 0.0)
}

impl Load {
    /// Runs the client; `meanwhile` is called at about its middle.
    pub(super) fn run(&self, hosts: &Hosts, seconds: u64, meanwhile: impl FnOnce() -> Result<()>) -> Result<Seen> {
        let mut command = hosts.command(Host::Client, "wrk");
        command.args(["--threads", "1", "--latency", "--timeout", "10s"]);
        command.args(["--connections", &self.connections.to_string(), "--duration", &format!("{seconds}s")]);
        command.args(["--header", &format!("Host: {AUTHORITY}")]);
        if self.close {
            command.args(["--header", "Connection: close"]);
        }
        if let Some(token) = &self.token {
            command.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        command.arg(format!("http://127.0.0.1:{}{}", self.port, self.path));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("wrk")?;
        let mut child = Running(child);
        let begin = Instant::now();
        let length = Duration::from_secs(seconds);
        sleep(length / 2);
        meanwhile()?;
        while child.0.try_wait()?.is_none() {
            if begin.elapsed() > length + LATE {
                bail!("wrk does not end");
            }
            sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        child.0.stdout.take().context("wrk's output")?.read_to_string(&mut text)?;
        child.0.stderr.take().context("wrk's errors")?.read_to_string(&mut text)?;
        parse(&text)
    }
}

/// Reads what wrk has printed. An answer that is not good, or a connection that broke, makes all of it worthless.
fn parse(text: &str) -> Result<Seen> {
    let mut seen = Seen::default();
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["50%", time] => seen.p50 = number(time)?,
            ["99%", time] => seen.p99 = number(time)?,
            [requests, "requests", "in", _, bytes, "read"] => {
                (seen.requests, seen.bytes) = (requests.parse()?, number(bytes)?);
            }
            ["Non-2xx", ..] => bail!("{line}"),
            ["Socket", "errors:", rest @ ..] if rest.chunks(2).any(|c| c.last().is_some_and(|n| n.trim_end_matches(',') != "0")) => {
                bail!("{line}");
            }
            _ => {}
        }
    }
    if seen.requests == 0.0 && seen.bytes == 0.0 {
        bail!("wrk has seen no answer: {}", text.trim());
    }
    Ok(seen)
}

/// A time in microseconds, or a size in bytes.
fn number(text: &str) -> Result<f64> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor = match unit {
        "us" | "B" | "" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "KB" => 1024.0,
        "MB" => 1_048_576.0,
        "GB" => 1_073_741_824.0,
        "TB" => 1_099_511_627_776.0,
        _ => bail!("`{text}` is no number that wrk prints"),
    };
    Ok(digits.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "Running 5s test @ http://127.0.0.1:15001/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.10ms  396.93us   9.36ms   93.56%
    Req/Sec    29.35k     2.53k   32.41k    82.35%
  Latency Distribution
     50%    1.02ms
     75%    1.16ms
     90%    1.34ms
     99%    2.75ms
  148866 requests in 5.10s, 34.50MB read
Requests/sec:  29189.61
Transfer/sec:      6.76MB
";

    #[test]
    fn what_wrk_prints() {
        let seen = Seen { requests: 148_866.0, bytes: 34.5 * 1_048_576.0, p50: 1020.0, p99: 2750.0 };
        assert_eq!(parse(OUT).unwrap(), seen);
        for (more, good) in [
            ("  Non-2xx or 3xx responses: 3\n", false),
            ("  Socket errors: connect 0, read 4, write 0, timeout 0\n", false),
            ("  Socket errors: connect 0, read 0, write 0, timeout 0\n", true),
        ] {
            assert_eq!(parse(&format!("{OUT}{more}")).is_ok(), good, "{more}");
        }
        assert!(parse("unable to connect to 127.0.0.1:15001 Connection refused").is_err());
    }

    #[test]
    fn medians() {
        let all = [3.0, 1.0, 2.0].map(|cpu_per_request| Measured { cpu_per_request, ..Measured::default() });
        assert_eq!(Measured::median(&all).cpu_per_request, 2.0);
        assert_eq!(Measured::median(&all[..2]).cpu_per_request, 2.0);
    }
}
