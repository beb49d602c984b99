//! A small mesh of two hosts in real namespaces: as this user, and as an ordinary one where this is root.
//!
//! The test is its own harness, since hosts are made by running the binary again, and it is also the
//! program that runs in the hosts.

#![allow(missing_docs)]

mod inside;
mod network;
mod transparent;
mod workload;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use mizzen_host::{Alias, Inner, Outer, RelayPolicy, RunDir, StartError, stage};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::json;

const NOBODY: u32 = 65534;
const SKIPPED: u8 = 77;

fn main() -> ExitCode {
    if let Some(code) = stage::dispatch(inner) {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--mesh", mode, base] => ExitCode::from(mesh(mode, Path::new(base))),
        ["--program", name, ref args @ ..] => ExitCode::from(inside::program(name, args)),
        ["--list", ..] => ExitCode::SUCCESS,
        _ => all(),
    }
}

/// Runs everything as this user, and as nobody too where that is possible.
fn all() -> ExitCode {
    let mut users = vec![None];
    if nix::unistd::geteuid().is_root() {
        users.push(Some(NOBODY));
    }
    let mut failed = false;
    for user in users {
        let who = user.map_or("this user".to_owned(), |user| format!("user {user}"));
        let place = Place::new(user);
        for (name, case) in [
            ("checks in the mesh", checks as fn(&Place) -> Outcome),
            ("ends with the outer", outer_killed),
            ("ends with the inner", inner_killed),
        ] {
            match case(&place) {
                Outcome::Passed => println!("test {name}, as {who} ... ok"),
                Outcome::Failed(reason) => {
                    failed = true;
                    println!("test {name}, as {who} ... FAILED: {reason}");
                }
                Outcome::Skipped => {
                    let needed = std::env::var_os("MIZZEN_REQUIRE_PEERS").is_some_and(|value| value == "1");
                    failed |= needed;
                    println!("test {name}, as {who} ... SKIPPED: THE KERNEL REFUSES NAMESPACES (see above)");
                }
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped,
}

/// A folder and a copy of this binary that the user may use.
struct Place {
    user: Option<u32>,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(user: Option<u32>) -> Place {
        let folder = tempfile::Builder::new().prefix("mz").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), folder.path().join("mesh-test")).unwrap();
        std::os::unix::fs::symlink("gone/file", folder.path().join("link")).unwrap();
        let base = folder.path().join("run");
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&base, user, user).unwrap();
        Place { user, folder }
    }

    fn command(&self, mode: &str) -> Command {
        let mut command = Command::new(self.folder.path().join("mesh-test"));
        command.args(["--mesh", mode]).arg(self.folder.path().join("run")).current_dir("/");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }
}

fn checks(place: &Place) -> Outcome {
    let status = place.command("checks").status().unwrap();
    match status.code() {
        Some(0) => Outcome::Passed,
        Some(code) if code == i32::from(SKIPPED) => Outcome::Skipped,
        _ => Outcome::Failed(format!("{status}; see the lines above")),
    }
}

/// Every process of the mesh holds this pipe; its end is theirs.
fn killed(place: &Place, whom: fn(&std::process::Child, i32) -> i32) -> Outcome {
    let mut child = place.command("wait").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let Ok(inner) = line.trim().parse::<i32>() else {
        let skipped = child.wait().unwrap().code() == Some(SKIPPED.into());
        return if skipped { Outcome::Skipped } else { Outcome::Failed(format!("it said {line:?}")) };
    };
    kill(Pid::from_raw(whom(&child, inner)), Signal::SIGKILL).unwrap();
    output.read_to_end(&mut Vec::new()).unwrap();
    let status = child.wait().unwrap();
    if status.success() { Outcome::Failed("it ended well".to_owned()) } else { Outcome::Passed }
}

fn outer_killed(place: &Place) -> Outcome {
    killed(place, |outer, _| i32::try_from(outer.id()).unwrap())
}

fn inner_killed(place: &Place) -> Outcome {
    killed(place, |_, inner| inner)
}

/// The outer process of a mesh.
fn mesh(mode: &str, base: &Path) -> u8 {
    let run = RunDir::create(base, "test").unwrap();
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let dns = UdpSocket::bind("127.0.0.1:0").unwrap();
    let echo_address = echo.local_addr().unwrap();
    // Free a moment ago; the inner asks for it.
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policy = RelayPolicy {
        aliases: vec![
            Alias { from: SocketAddr::from(([192, 0, 2, 1], 80)), to: echo_address },
            Alias { from: SocketAddr::from(([192, 0, 2, 2], 80)), to: gateway },
        ],
        nameservers: vec![dns.local_addr().unwrap()],
        ..RelayPolicy::default()
    };
    let payload = json!({ "mode": mode, "run": run.path(), "gateway": gateway, "base": base, "echo": echo_address });
    // Too few even for what it takes to start a process, if nobody raised it.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 128, hard).unwrap();
    let outer = match Outer::start(&payload) {
        Ok(outer) => outer,
        Err(StartError::Refused(reason)) => {
            eprintln!("{reason}");
            return SKIPPED;
        }
        Err(error) => panic!("{error}"),
    };
    if mode == "wait" {
        // The inner says when its processes run; then this line may be believed.
        std::fs::write(run.path().join("inner"), outer.inner_pid().to_string()).unwrap();
    }
    std::thread::spawn(move || serve_echo(&echo));
    std::thread::spawn(move || serve_dns(&dns));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop_at_once = mode == "checks";
    let code = runtime.block_on(outer.serve(policy, async move {
        if !stop_at_once {
            std::future::pending::<()>().await;
        }
    }));
    let code = code.unwrap();
    run.remove();
    code
}

/// Gives back what it is sent, in capitals, after the end.
fn serve_echo(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
    }
}

fn serve_dns(socket: &UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        buffer[2] |= 0x80;
        socket.send_to(&buffer[..length], from).unwrap();
    }
}

fn inner(inner: Inner) -> u8 {
    let mode = inner.payload["mode"].as_str().unwrap().to_owned();
    let paths = Paths {
        run: inner.payload["run"].as_str().unwrap().into(),
        base: inner.payload["base"].as_str().unwrap().into(),
        exe: std::fs::read_link("/proc/self/exe").unwrap(),
        gateway: inner.payload["gateway"].as_str().unwrap().parse().unwrap(),
        echo: inner.payload["echo"].as_str().unwrap().parse().unwrap(),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).unwrap().0,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let link = inner.link().unwrap();
        if mode == "wait" { workload::wait(&link, &paths).await } else { run_checks(&link, &paths).await }
    })
}

#[derive(Clone)]
struct Paths {
    run: PathBuf,
    base: PathBuf,
    exe: PathBuf,
    gateway: SocketAddr,
    echo: SocketAddr,
    /// The soft limit with which the mesh was started.
    open_files: u64,
}

/// The checks share a mesh; each says its name, and a panic in one is a failure of all.
async fn run_checks(link: &mizzen_host::Link, paths: &Paths) -> u8 {
    let (link, paths) = (link.clone(), paths.clone());
    let work = tokio::spawn(async move {
        let mesh = network::Mesh::start(&link).await;
        network::checks(&mesh, &paths).await;
        transparent::checks(&mesh).await;
        workload::checks(&mesh, &paths).await;
        mesh.link.stopped().await;
    });
    u8::from(work.await.is_err())
}
