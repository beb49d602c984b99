//! Processes: what they get, what they are refused, how they end.

use std::{fs, os::fd::OwnedFd, path::Path, time::Duration};

use mizzen_capture::{Plan, Settings};
use mizzen_host::{
    Exit, HostError, Io, Link, LogFile, Mount, Process, ProcessKind, Source, Spec, Supervisor, Workload,
    probe::{self, Http},
};
use nix::sys::{
    resource::{Resource, getrlimit},
    signal::Signal,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::{Paths, network::Mesh};

const LONG: Duration = Duration::from_secs(60);

fn spec(paths: &Paths, kind: ProcessKind, program: &[&str]) -> Spec {
    let mut argv = vec![paths.exe.to_str().unwrap().to_owned(), "--program".to_owned()];
    argv.extend(program.iter().map(|arg| (*arg).to_owned()));
    Spec { name: "test".to_owned(), argv, env: vec![("COLOR".to_owned(), "green".to_owned())], cwd: None, kind }
}

fn workload(paths: &Paths, name: &str) -> Workload {
    let scratch = paths.run.join(name);
    fs::create_dir_all(&scratch).unwrap();
    Workload { scratch, hide: vec![paths.base.clone()], ..Workload::default() }
}

fn plain(paths: &Paths, program: &[&str]) -> Spec {
    spec(paths, ProcessKind::Workload(workload(paths, "scratch")), program)
}

fn output() -> (OwnedFd, tokio::net::unix::pipe::Receiver) {
    let (read, write) = std::io::pipe().unwrap();
    (write.into(), tokio::net::unix::pipe::Receiver::from_owned_fd(read.into()).unwrap())
}

/// Runs a program to its end and reads its findings.
async fn findings(mesh: &Mesh, supervisor: &Supervisor, spec: &Spec, others: Vec<(i32, OwnedFd)>) -> Value {
    let (write, mut read) = output();
    let io = Io { stdout: Some(write), stderr: Some(errors()), others, ..Io::default() };
    let process = supervisor.spawn(&mesh.a, spec, io).await.unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).await.unwrap();
    assert_eq!(process.wait().await, Exit::Code(0), "{text}");
    serde_json::from_str(&text).unwrap()
}

fn errors() -> OwnedFd {
    std::io::Write::flush(&mut std::io::stderr()).unwrap();
    nix::unistd::dup(std::io::stderr()).unwrap()
}

/// Starts a program that prints `ready` and runs on.
async fn ready(mesh: &Mesh, supervisor: &Supervisor, spec: &Spec) -> Process {
    let (write, read) = output();
    let io = Io { stdout: Some(write), stderr: Some(errors()), ..Io::default() };
    let process = supervisor.spawn(&mesh.a, spec, io).await.unwrap();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await.unwrap();
    assert_eq!(line, "ready\n");
    process
}

pub(crate) async fn checks(mesh: &Mesh, paths: &Paths) {
    let supervisor = Supervisor::start().unwrap();
    mesh.a.capture(&Plan::new(&Settings::default())).await.unwrap();
    proxies(mesh, paths, &supervisor).await;
    workloads(mesh, paths, &supervisor).await;
    calls(mesh, paths, &supervisor).await;
    users(mesh, paths, &supervisor).await;
    ends(mesh, paths, &supervisor).await;
    failures(mesh, paths, &supervisor).await;
    probes(mesh, paths, &supervisor).await;
    logs(mesh, paths, &supervisor).await;
    orphans(mesh, paths, &supervisor).await;
}

async fn proxies(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let token = || vec![(3, mizzen_net::memfd("token", b"a token", true).unwrap())];
    // NET_BIND_SERVICE, NET_ADMIN, NET_RAW
    let three = 1 << 10 | 1 << 12 | 1 << 13;
    let (raised, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(raised, hard.min(1 << 20));
    for (kind, capabilities, mark) in [(ProcessKind::Proxy, three, true), (ProcessKind::Control, 0, false)] {
        let found = findings(mesh, supervisor, &spec(paths, kind, &["proxy"]), token()).await;
        let want = json!({
            "pid": found["pid"], "capabilities": vec![capabilities; 5], "mark": mark, "dumpable": false, "passed": "a token",
            // 0 to 3, and those for marking and for counting.
            "descriptors": 6, "open_files": raised,
        });
        assert_eq!(found, want);
        assert!(found["pid"].as_u64().unwrap() > 2, "the mesh's PID namespace");
    }
    println!("ok: proxies have their capabilities and no others");
}

async fn workloads(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let proxy = supervisor.spawn(&mesh.a, &spec(paths, ProcessKind::Proxy, &["sleep"]), Io::default()).await.unwrap();
    let run = paths.run.to_str().unwrap();
    for folder in ["bin", "config", "cache", "secret"] {
        fs::create_dir_all(paths.run.join(folder)).unwrap();
    }
    fs::write(paths.run.join("bin/tool"), "").unwrap();
    fs::write(paths.run.join("config/a.txt"), "from a ConfigMap").unwrap();
    let _control = std::os::unix::net::UnixListener::bind(paths.run.join("control.sock")).unwrap();
    let mount = |target: &str, source, read_only| Mount { target: target.into(), source, read_only };
    let beside = |name: &str| paths.base.parent().unwrap().join(name);
    let mut kind = workload(paths, "scratch-look");
    kind.hostname = Some("reviews-v1-0".to_owned());
    kind.keep = vec![paths.run.join("bin")];
    kind.mounts = vec![
        mount("/deep/new/config", Source::Bind(paths.run.join("config")), true),
        mount("/cache", Source::Bind(paths.run.join("cache")), false),
        mount("/opt/mizzen-test/scratch", Source::Tmpfs, false),
        // A folder that holds other mounts; one that holds the run folder; a link that leads nowhere.
        mount("/dev/mizzen/text", Source::Text("in /dev".to_owned()), false),
        mount(beside("volume/text").to_str().unwrap(), Source::Text("beside".to_owned()), false),
        mount(beside("link").to_str().unwrap(), Source::Text("linked".to_owned()), false),
        mount("/etc/resolv.conf", Source::Text("nameserver 127.0.0.53\n".to_owned()), true),
        mount("/etc/hosts", Source::Text("127.0.0.1 localhost\n".to_owned()), true),
    ];
    let mut spec = spec(paths, ProcessKind::Workload(kind), &["look", run, &proxy.pid().to_string()]);
    spec.cwd = Some("/deep".into());
    let found = findings(mesh, supervisor, &spec, vec![]).await;
    let want = json!({
        "pid": 2, "uid": nix::unistd::geteuid().as_raw(), "gid": nix::unistd::getegid().as_raw(),
        "capabilities": [0, 0, 0, 0, 0], "no_new_privs": "1",
        "processes": [1, 2],
        "run": ["bin"], "base": [paths.run.file_name().unwrap().to_str()], "bin": ["tool"], "bin_write": true, "run_write": true,
        "control": "No such file or directory (os error 2)",
        "init_files": "Permission denied (os error 13)", "init_environment": "Permission denied (os error 13)",
        "signal": "ESRCH: No such process", "trace": "ESRCH: No such process",
        "mark": "permission denied", "rules": true, "no_rules": true,
        "mount": "EPERM: Operation not permitted", "unmask": "EPERM: Operation not permitted",
        "port_80": true, "hostname": "reviews-v1-0", "cwd": "/deep",
        "resolv": "nameserver 127.0.0.53\n", "hosts": "127.0.0.1 localhost\n", "passwd": true,
        "texts": ["in /dev", "beside", "linked", "linked"], "config": "from a ConfigMap", "config_write": true, "cache_write": true, "tmpfs": [], "tmpfs_write": true,
        "environment": { "COLOR": "green" },
        "settings": [],
        "sockets": sockets(), "open_files": paths.open_files,
        "calls": vec!["ENOSYS"; 6],
        "nscd": if Path::new("/run/nscd").exists() { json!([]) } else { Value::Null },
    });
    let mut found = found;
    let seen = found.as_object_mut().unwrap();
    if let Some(unmask) = seen.remove("unmask_in_own") {
        assert_eq!(unmask, "EINVAL: Invalid argument", "the mask is locked");
        assert_eq!(seen.remove("run_in_own"), Some(json!(["bin"])));
        assert_eq!(seen.remove("rules_in_own"), Some(json!(true)));
    }
    for (name, value) in want.as_object().unwrap() {
        assert_eq!(found.get(name), Some(value), "{name}");
    }
    assert_eq!(found.as_object().unwrap().len(), want.as_object().unwrap().len());
    assert_eq!(fs::read_to_string(paths.run.join("cache/b.txt")).unwrap(), "x", "an emptyDir outlives its process");
    assert!(
        !Path::new("/deep").exists() && !Path::new("/cache").exists() && !beside("volume").exists(),
        "the machine's files are as before"
    );
    assert_eq!(proxy.exit(), None);
    assert_eq!(proxy.stop(LONG).await, Exit::Signal(Signal::SIGTERM as i32));
    println!("ok: workloads are kept to themselves");
}

/// The sockets that a network namespace holds are granted, and no others.
fn sockets() -> Value {
    let (yes, family, protocol) = ("granted", "EAFNOSUPPORT", "EPROTONOSUPPORT");
    json!({
        "unix": yes, "unix pair": yes, "tcp": [yes, yes], "udp": yes, "route": yes,
        "netlink": [protocol, protocol, protocol], "others": [family, family, family, family], "other pair": family, "packet": family,
        "x32": family,
    })
}

/// What is run beside a workload is as confined as the workload; another instruction set's calls are no way around.
async fn calls(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let running = supervisor.spawn(&mesh.a, &plain(paths, &["sleep"]), Io::default()).await.unwrap();
    let (write, mut read) = output();
    let io = Io { stdout: Some(write), stderr: Some(errors()), ..Io::default() };
    let beside = supervisor.exec(&running, &plain(paths, &["socket"]), io).await.unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), sockets());
    assert_eq!(beside.wait().await, Exit::Code(0));
    running.stop(LONG).await;
    let other = supervisor.spawn(&mesh.a, &plain(paths, &["32-bit"]), Io::default()).await.unwrap().wait().await;
    // SIGSYS, or SIGSEGV by a kernel without such programs; or the program's own panic.
    assert!([128 + 31, 128 + 11, 101].map(Exit::Code).contains(&other), "{other}");
    println!("ok: calls that reach out of namespaces are refused");
}

async fn users(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let mut kind = workload(paths, "scratch-user");
    (kind.uid, kind.gid) = (Some(1000), Some(1001));
    kind.mounts = vec![Mount { target: "/cache".into(), source: Source::Tmpfs, read_only: false }];
    let spec = spec(paths, ProcessKind::Workload(kind), &["look", paths.run.to_str().unwrap(), "1"]);
    if nix::unistd::geteuid().is_root() {
        let found = findings(mesh, supervisor, &spec, vec![]).await;
        assert_eq!((&found["uid"], &found["gid"]), (&json!(1000), &json!(1001)));
        assert_eq!((&found["capabilities"], &found["cache_write"]), (&json!([0, 0, 0, 0, 0]), &json!(true)));
    } else {
        let error = supervisor.spawn(&mesh.a, &spec, Io::default()).await.unwrap_err().to_string();
        assert!(error.starts_with("test: set the groups (only a mesh that runs as root"), "{error}");
    }
    println!("ok: other users, as root only");
}

async fn ends(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let start = async |program: &[&str]| supervisor.spawn(&mesh.a, &plain(paths, program), Io::default()).await.unwrap();
    assert_eq!(start(&["exit", "7"]).await.wait().await, Exit::Code(7));
    assert_eq!(start(&["sleep"]).await.stop(LONG).await, Exit::Code(128 + Signal::SIGTERM as i32));
    let deaf = ready(mesh, supervisor, &plain(paths, &["deaf"])).await;
    assert_eq!(deaf.stop(Duration::from_millis(1)).await, Exit::Signal(Signal::SIGKILL as i32));
    assert_eq!(deaf.exit(), Some(Exit::Signal(9)));
    deaf.signal(Signal::SIGTERM).unwrap();
    println!("ok: ends are reported");
}

async fn failures(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let check = async |change: &(dyn Fn(&mut Spec) + Sync), want: &str| {
        let mut spec = plain(paths, &["exit", "0"]);
        change(&mut spec);
        match supervisor.spawn(&mesh.a, &spec, Io::default()).await {
            Err(HostError::Spawn { reason, .. }) => assert_eq!(reason, want),
            other => panic!("{want}: {other:?}"),
        }
    };
    let gone = "No such file or directory (os error 2)";
    check(&|spec| spec.argv[0] = "no-such-program".into(), "run `no-such-program`: not found on PATH=/usr/local/bin:/usr/bin:/bin").await;
    check(&|spec| spec.argv[0] = "/bin/no-such".into(), &format!("run /bin/no-such: {gone}")).await;
    check(&|spec| spec.cwd = Some("/nowhere".into()), &format!("change to the folder /nowhere: {gone}")).await;
    let with_mount = |target: &str, source: &str| {
        let mount = Mount { target: target.into(), source: Source::Bind(source.into()), read_only: false };
        move |spec: &mut Spec| {
            let ProcessKind::Workload(workload) = &mut spec.kind else { panic!() };
            workload.mounts = vec![mount.clone()];
        }
    };
    check(&with_mount("/etc/x", "/nowhere"), &format!("mount /nowhere: {gone}")).await;
    check(&with_mount("/etc/../x", "/etc"), "mount on /etc/../x: invalid input parameter").await;
    check(&with_mount("/etc/passwd", "/etc"), "mount on /etc/passwd: it is a file, and what is to be mounted a folder").await;
    println!("ok: failures name their step");
}

async fn probes(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let reason = |result: Result<(), probe::Failure>| result.err().map(|failure| failure.to_string());
    let host = &mesh.a;
    for (port, answer, want) in [("8081", "204 No Content", None), ("8082", "503 No", Some("status 503".to_owned()))] {
        let server = ready(mesh, supervisor, &plain(paths, &["serve", port, answer])).await;
        let http = Http { port: port.parse().unwrap(), path: "/health".to_owned(), ..Http::default() };
        assert_eq!(reason(probe::http(host, &http, LONG).await), want, "past the capture, which would find no proxy");
        assert_eq!(reason(probe::tcp(host, http.port, LONG).await), None);
        let exec = async |program: &[&str], limit| reason(probe::exec(supervisor, &server, &plain(paths, program), limit).await);
        assert_eq!(exec(&["exists", "/etc/passwd"], LONG).await, None);
        let control = paths.run.join("control.sock");
        assert_eq!(exec(&["exists", control.to_str().unwrap()], LONG).await.as_deref(), Some("exit code 1"));
        assert_eq!(exec(&["sleep"], Duration::from_millis(1)).await.as_deref(), Some("no end within 1ms"));
        server.stop(LONG).await;
        assert!(supervisor.exec(&server, &plain(paths, &["exit", "0"]), Io::default()).await.is_err());
        assert_eq!(reason(probe::tcp(host, http.port, LONG).await).as_deref(), Some("connection refused"));
    }
    println!("ok: probes");
}

async fn logs(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let path = paths.run.join("log");
    let log = LogFile::open(&path, 1 << 20).unwrap();
    let io = Io::to(log.pipe().unwrap()).unwrap();
    let program = plain(paths, &["exit", "not a number"]);
    assert_eq!(supervisor.spawn(&mesh.a, &program, io).await.unwrap().wait().await, Exit::Code(101));
    let last = log.last_line().await.unwrap();
    assert!(last.contains("ParseIntError"), "{last}");
    assert!(fs::read_to_string(&path).unwrap().contains(&last));
    println!("ok: output goes to the log");
}

async fn orphans(mesh: &Mesh, paths: &Paths, supervisor: &Supervisor) {
    let orphan = spec(paths, ProcessKind::Control, &["orphan"]);
    let process = supervisor.spawn(&mesh.a, &orphan, Io::default()).await.unwrap();
    assert_eq!(process.wait().await, Exit::Code(0));
    // Every process of the mesh has ended and been reaped, but pid 1.
    loop {
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().parse::<i32>().is_ok());
        if pids.count() == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    println!("ok: orphans are reaped");
}

/// Starts a proxy and a workload that hold the pipe of the test, says so, and waits.
pub(crate) async fn wait(link: &Link, paths: &Paths) -> u8 {
    let mesh = Mesh::start(link).await;
    let supervisor = Supervisor::start().unwrap();
    let stdout = || Some(nix::unistd::dup(std::io::stdout()).unwrap());
    let mut running = Vec::new();
    for spec in [spec(paths, ProcessKind::Proxy, &["sleep"]), plain(paths, &["sleep"])] {
        let io = Io { stdout: stdout(), ..Io::default() };
        running.push(supervisor.spawn(&mesh.a, &spec, io).await.unwrap());
    }
    let file = paths.run.join("inner");
    let pid = loop {
        match fs::read_to_string(&file) {
            Ok(pid) if !pid.is_empty() => break pid,
            _ => tokio::task::yield_now().await,
        }
    };
    println!("{pid}");
    mesh.link.stopped().await;
    0
}
