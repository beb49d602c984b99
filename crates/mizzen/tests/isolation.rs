//! What a program in the mesh can do to the mesh: nothing. This test is the program too, started once more as a workload.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use mizzen_testkit::{Mesh, Options, eventually, folder, is_root, peer, skip, workload};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        ptrace,
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt},
    },
    unistd::Pid,
};
use serde_json::{Value, json};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");
/// Tells the attacker what there is to attack.
const FACTS: &str = "MIZZEN_TEST_FACTS";

const MESH: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: visitor, namespace: shop}}
";

const SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: shop}, stringData: {key: geheim}}\n";

/// How an attack ended: `done`, or why not.
type Attempts = Vec<(String, String)>;

fn outcome<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "done".to_owned())
}

/// The short name of an error, if it has one.
fn errno<T>(result: Result<T, impl Into<std::io::Error>>) -> String {
    match result.map_err(Into::into) {
        Ok(_) => "done".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), |number| format!("{:?}", Errno::from_raw(number))),
    }
}

/// The attacker. Reports `=> NAME<tab>OUTCOME` for each attempt.
#[test]
#[ignore = "runs inside a mesh that another test has started"]
fn attacker() {
    let Ok(facts) = std::env::var(FACTS) else { return };
    let facts: Value = serde_json::from_str(&facts).expect("JSON");
    let mut attempts = Attempts::new();
    files(&facts, &mut attempts);
    processes(&facts, &mut attempts);
    network(&mut attempts);
    if facts["own_namespace"] == true {
        beneath(&facts, &mut attempts);
    } else {
        mounts(&facts, &mut attempts);
        proxy(&mut attempts);
        control_plane(&mut attempts);
        self_description(&mut attempts);
        // Everybody that it can reach. Last: its own helpers go too.
        attempts.push(("kill everybody".to_owned(), errno(kill(Pid::from_raw(-1), Signal::SIGKILL))));
    }
    for (name, outcome) in attempts {
        println!("=> {name}\t{}", outcome.replace(['\n', '\t'], " "));
    }
}

fn path(facts: &Value, name: &str) -> PathBuf {
    PathBuf::from(facts[name].as_str().unwrap_or_default())
}

/// Reading and writing the mesh's folder, connecting to its sockets.
fn files(facts: &Value, attempts: &mut Attempts) {
    let targets = facts["files"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for target in targets {
        for root in ["", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../../../../../.."] {
            let file = format!("{root}{target}");
            attempts.push((format!("see {file}"), errno(fs::symlink_metadata(&file))));
            if file.ends_with(".sock") || file.ends_with("DS") {
                attempts.push((format!("connect {file}"), errno(UnixStream::connect(&file))));
            }
        }
    }
    let base = path(facts, "base");
    let mut names: Vec<String> = Vec::new();
    let mut stack = vec![base.clone()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
            names.push(entry.path().strip_prefix(&base).unwrap_or(Path::new("?")).display().to_string());
            if is_folder {
                stack.push(entry.path());
            }
        }
    }
    names.retain(|name| name != "mesh" && !name.starts_with("mesh/sample"));
    attempts.push(("list the base".to_owned(), names.join(" ")));
    for door in ["/run/user", "/run/dbus", "/run/containerd"] {
        let found = fs::read_dir(door).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string());
        attempts.push((format!("find in {door}"), found.collect::<Vec<_>>().join(" ")));
    }
    attempts.push(("write to the base".to_owned(), errno(fs::write(base.join("file"), ""))));
    attempts.push(("remove the base".to_owned(), errno(fs::remove_dir_all(base.join("mesh")))));
    attempts.push(("move the base".to_owned(), errno(fs::rename(&base, base.with_extension("x")))));
    attempts.push(("write to the sample's programs".to_owned(), errno(fs::write(base.join("mesh/sample/x"), ""))));
    let folder = path(facts, "folder");
    attempts.push(("write to the configuration".to_owned(), errno(fs::write(folder.join("more.yaml"), ""))));
    attempts.push(("change the configuration".to_owned(), errno(fs::OpenOptions::new().append(true).open(folder.join("mesh.yaml")))));
    for (name, file) in [("the configuration", "mesh.yaml"), ("a Secret", "below/secret.yml"), ("what an editor left", ".secret.yaml.swp")]
    {
        attempts.push((format!("read {name}"), errno(fs::read(folder.join(file)))));
    }
    attempts.push(("read what is no configuration".to_owned(), errno(fs::read(folder.join("below/notes.txt")))));
    attempts.push(("remove the configuration".to_owned(), errno(fs::remove_file(folder.join("mesh.yaml")))));
    attempts.push(("move the configuration".to_owned(), errno(fs::rename(&folder, folder.with_extension("x")))));
    attempts.push(("knock at the user's door".to_owned(), errno(UnixStream::connect(path(facts, "door")))));
    let known = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin", "stdout", "stderr", "pts", "shm"];
    let devices = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    attempts.push(("other devices".to_owned(), devices.filter(|name| !known.contains(&name.as_str())).collect::<Vec<_>>().join(" ")));
    let terminals = fs::read_dir("/dev/pts").into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    attempts.push(("other terminals".to_owned(), terminals.filter(|name| name != "ptmx").collect::<Vec<_>>().join(" ")));
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    attempts.push(("use /dev/null".to_owned(), errno(null.and_then(|mut null| null.write_all(b"x")))));
}

/// Signals to, and looks into, processes.
fn processes(facts: &Value, attempts: &mut Attempts) {
    let own: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|command| ["mizzen-proxy", "mizzend", "bookshop"].iter().any(|name| command.contains(name)))
        .collect();
    attempts.push(("see processes of the mesh".to_owned(), own.join(" ")));
    for pid in facts["pids"].as_array().into_iter().flatten().filter_map(Value::as_i64) {
        let Ok(pid) = i32::try_from(pid) else { continue };
        // A number of one's own is no number of the mesh's.
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        attempts.push((format!("signal {pid}"), errno(kill(Pid::from_raw(pid), None))));
        attempts.push((format!("trace {pid}"), errno(ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()))));
    }
    for file in ["mem", "environ", "maps", "root", "fd/0", "ns/net", "ns/mnt"] {
        attempts.push((format!("open /proc/1/{file}"), errno(fs::File::open(format!("/proc/1/{file}")))));
    }
    attempts.push(("trace process 1".to_owned(), errno(ptrace::seize(Pid::from_raw(1), ptrace::Options::empty()))));
}

/// The capture and what it hangs on.
fn network(attempts: &mut Attempts) {
    let open = |family, kind, protocol| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
    let stream = open(AddressFamily::Inet, SockType::Stream, None).expect("a socket");
    let mark = mizzen_types::ports::PROXY_MARK;
    attempts.push(("mark a socket".to_owned(), errno(setsockopt(&stream, sockopt::Mark, &mark))));
    attempts.push(("open a packet socket".to_owned(), errno(open(AddressFamily::Packet, SockType::Raw, Some(SockProtocol::EthAll)))));
    for (name, family) in [("machine", AddressFamily::Vsock), ("cipher", AddressFamily::Alg)] {
        attempts.push((format!("open a {name} socket"), errno(open(family, SockType::Stream, None))));
    }
    attempts.push(("open a raw socket".to_owned(), errno(open(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Tcp)))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let nothing = mizzen_capture::Plan::default();
    attempts.push(("change the capture".to_owned(), outcome(runtime.block_on(mizzen_capture::apply(&nothing)))));
    // Opened only: if this is not refused, the machine shall not suffer.
    for file in [
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "/proc/sys/net/ipv4/conf/all/route_localnet",
        "/proc/sys/net/ipv4/tcp_fwmark_accept",
        "/proc/sys/net/ipv6/conf/all/disable_ipv6",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
    ] {
        let opened = fs::OpenOptions::new().write(true).open(file);
        if opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            continue;
        }
        attempts.push((format!("set {file}"), errno(opened)));
    }
    let sockets = fs::read_to_string("/proc/net/unix").expect("the list of sockets");
    let abstract_ones: Vec<&str> =
        sockets.lines().filter_map(|line| line.split(' ').next_back()).filter(|name| name.starts_with('@')).collect();
    attempts.push(("see abstract sockets".to_owned(), abstract_ones.join(" ")));
}

/// Changing what is mounted, and namespaces.
fn mounts(facts: &Value, attempts: &mut Attempts) {
    const NONE: Option<&str> = None;
    let base = path(facts, "base");
    attempts.push(("mount".to_owned(), errno(mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), NONE))));
    attempts.push(("unmount the mask".to_owned(), errno(umount2(&base, MntFlags::MNT_DETACH))));
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    attempts.push(("unmount the folder".to_owned(), errno(umount2(&path(facts, "folder"), MntFlags::MNT_DETACH))));
    attempts.push(("remount the mask".to_owned(), errno(mount(NONE, &base, NONE, remount, NONE))));
    attempts.push(("unmount /proc".to_owned(), errno(umount2("/proc", MntFlags::MNT_DETACH))));
    attempts.push(("change the root".to_owned(), errno(nix::unistd::chroot("/tmp"))));
    attempts.push(("set the host name".to_owned(), errno(nix::unistd::sethostname("other"))));
    for (name, flag) in [("network", CloneFlags::CLONE_NEWNET), ("mount", CloneFlags::CLONE_NEWNS), ("process", CloneFlags::CLONE_NEWPID)] {
        attempts.push((format!("make a {name} namespace"), errno(unshare(flag))));
        let file = if name == "network" {
            "net"
        } else if name == "mount" {
            "mnt"
        } else {
            "pid"
        };
        let own = fs::File::open(format!("/proc/self/ns/{file}")).expect("its own namespace");
        attempts.push((format!("enter a {name} namespace"), errno(setns(own, flag))));
    }
}

/// As root of a user namespace of one's own: what lies beneath the masks.
fn beneath(facts: &Value, attempts: &mut Attempts) {
    const NONE: Option<&str> = None;
    let base = path(facts, "base");
    let parent = base.parent().expect("a parent").to_owned();
    let test = |attempts: &mut Attempts, name: &str, made: nix::Result<()>, shown: &str| {
        let seen = fs::symlink_metadata(Path::new(shown).join("mizzen/mesh/control.sock")).is_ok();
        attempts.push((name.to_owned(), if seen { "seen".to_owned() } else { errno(made) }));
    };
    attempts.push(("unmount the mask".to_owned(), errno(umount2(&base, MntFlags::MNT_DETACH))));
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    attempts.push(("unmount the folder".to_owned(), errno(umount2(&path(facts, "folder"), MntFlags::MNT_DETACH))));
    attempts.push(("remount the mask".to_owned(), errno(mount(NONE, &base, NONE, remount, NONE))));
    // To see that it has a place of its own to try the rest in.
    attempts.push(("a place of its own".to_owned(), errno(mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), NONE))));
    for name in ["bind", "rbind", "lower", "upper", "proc"] {
        fs::create_dir_all(Path::new("/mnt").join(name)).expect("a folder");
    }
    let made = mount(Some(&parent), "/mnt/bind", NONE, MsFlags::MS_BIND, NONE);
    test(attempts, "bind without what is mounted below", made, "/mnt/bind");
    let made = mount(Some(&parent), "/mnt/rbind", NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE);
    let made = made.and_then(|()| umount2("/mnt/rbind/mizzen", MntFlags::MNT_DETACH));
    test(attempts, "bind all and unmount a part", made, "/mnt/rbind");
    // The same of a folder that hides nothing, to see that it is the mask that forbids it.
    for (name, lower) in [("overlay of another folder", Path::new("/usr")), ("overlay", &parent)] {
        let options = format!("lowerdir={}:/mnt/upper,userxattr", lower.display());
        let made = mount(Some("overlay"), "/mnt/lower", Some("overlay"), MsFlags::empty(), Some(options.as_str()));
        test(attempts, name, made, "/mnt/lower");
    }
    test(attempts, "bind another folder", mount(Some("/usr"), "/mnt/bind", NONE, MsFlags::MS_BIND, NONE), "/mnt/bind");
    let made = mount(Some("proc"), "/mnt/proc", Some("proc"), MsFlags::empty(), NONE);
    attempts.push(("mount /proc of the mesh".to_owned(), errno(made)));
}

/// One request with `connection: close`: the status and the body.
fn http(address: &str, request: &str) -> Result<(u16, String), String> {
    let address: SocketAddr = address.parse().expect("an address");
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(limit)).expect("a limit");
    let head = format!("{request} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let mut text = Vec::new();
    stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_end(&mut text).map(drop)).map_err(|e| format!("no answer: {e}"))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no answer: {text:?}"))?;
    Ok((status, text))
}

/// The proxy that shares its network namespace.
fn proxy(attempts: &mut Attempts) {
    let status = |address: &str, request: &str| http(address, request).map_or_else(|error| error, |(status, _)| status.to_string());
    for verb in ["quitquitquit", "drain_listeners", "logging?level=trace", "healthcheck/fail", "reset_counters", "runtime_modify?a=b"] {
        attempts.push((format!("admin POST /{verb}"), status("127.0.0.1:15000", &format!("POST /{verb}"))));
        attempts.push((format!("admin GET /{verb}"), status("127.0.0.1:15000", &format!("GET /{verb}"))));
    }
    attempts.push(("agent POST /quitquitquit".to_owned(), status("127.0.0.1:15020", "POST /quitquitquit")));
    let dump = http("127.0.0.1:15000", "GET /config_dump").map(|(_, body)| body);
    attempts.push(("the dump holds a certificate".to_owned(), dump.as_ref().is_ok_and(|d| d.contains("certificate_chain")).to_string()));
    // A PEM key in base64 begins so, whichever kind of key it is.
    let key = |d: &String| ["PRIVATE KEY", "LS0tLS1CRUdJTiBQ", "LS0tLS1CRUdJTiBF"].iter().any(|begin| d.contains(begin));
    attempts.push(("the dump holds a key".to_owned(), dump.as_ref().map_or_else(Clone::clone, |d| key(d).to_string())));
    attempts.push(("the proxy is ready still".to_owned(), status("127.0.0.1:15000", "GET /ready")));
}

/// The control plane, which every workload can reach.
fn control_plane(attempts: &mut Attempts) {
    let status = |port: u16, request: &str| {
        http(&format!("10.244.0.2:{port}"), request).map_or_else(|error| error, |(status, _)| status.to_string())
    };
    attempts.push(("control plane GET /ready".to_owned(), status(15014, "GET /ready")));
    for request in ["POST /token", "GET /token", "GET /debug/configz", "GET /debug/syncz", "GET /debug/connections", "POST /debug/live"] {
        attempts.push((format!("control plane {request}"), status(15014, request)));
    }
    let plain = status(15012, "GET /");
    attempts.push(("control plane in plaintext".to_owned(), if plain.contains("answer") { "no answer".to_owned() } else { plain }));
    attempts.push((
        "control plane at 15010".to_owned(),
        if status(15010, "GET /").contains("answer") { "no answer".to_owned() } else { "answered".to_owned() },
    ));
}

fn self_description(attempts: &mut Attempts) {
    let text = fs::read_to_string("/proc/self/status").expect("its status");
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("?");
        attempts.push((name.to_owned(), value.trim().trim_start_matches('0').to_owned()));
    }
    let fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .expect("its descriptors")
        .flatten()
        .filter_map(|e| fs::read_link(e.path()).ok())
        .map(|l| l.display().to_string())
        .collect();
    attempts.push((
        "descriptors of the mesh".to_owned(),
        fds.iter().filter(|fd| fd.contains("memfd") || fd.contains("mizzen/mesh")).cloned().collect::<Vec<_>>().join(" "),
    ));
}

/// What an attempt has to end with; several where the kernel may refuse for several reasons.
fn expected(name: &str, own_namespace: bool) -> &'static [&'static str] {
    let first = name.split(' ').next().unwrap_or_default();
    match name {
        "list the base" | "see processes of the mesh" | "see abstract sockets" | "descriptors of the mesh" => &[""],
        "write to the base" | "remove the base" | "write to the sample's programs" => &["EROFS", "ENOENT"],
        "write to the configuration" | "remove the configuration" => &["EROFS"],
        "change the configuration" | "read the configuration" | "read a Secret" | "read what an editor left" => &["ENOENT"],
        "read what is no configuration" => &["done"],
        "move the base" | "move the configuration" => &["EBUSY", "EROFS", "EACCES"],
        "knock at the user's door" => &["ECONNREFUSED"],
        "other devices" | "other terminals" => &[""],
        "use /dev/null" => &["done"],
        "unmount the mask" | "unmount the folder" if own_namespace => &["EINVAL"],
        "a place of its own" | "bind another folder" => &["done"],
        // Linux before 5.11 lets nobody but root do that.
        "overlay of another folder" => &["done", "EPERM"],
        "bind without what is mounted below" | "bind all and unmount a part" => &["EINVAL"],
        "overlay" => &["EINVAL", "EPERM"],
        "the dump holds a certificate" => &["true"],
        "the dump holds a key" => &["false"],
        "the proxy is ready still" | "control plane GET /ready" => &["200"],
        "agent POST /quitquitquit" => &["403"],
        "control plane in plaintext" | "control plane at 15010" => &["no answer"],
        "open a packet socket" | "open a machine socket" | "open a cipher socket" => &["EAFNOSUPPORT"],
        "NoNewPrivs" => &["1"],
        "kill everybody" => &["done", "ESRCH"],
        _ => match first {
            "see" | "connect" => &["ENOENT", "EACCES", "ENOTDIR"],
            "find" => &[""],
            "signal" => &["ESRCH"],
            "trace" => &["ESRCH", "EPERM"],
            "open" => &["EACCES", "EPERM"],
            "set" => &["EACCES", "EPERM", "EROFS"],
            "admin" if name.contains("POST") => &["403", "404"],
            "admin" => &["404", "405"],
            "control" => &["404", "405"],
            "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" => &[""],
            _ => &["EPERM", "EACCES"],
        },
    }
}

/// Neither a certificate nor any configuration is to be had from the control plane by who merely reaches it.
fn no_identity_without_a_token(mesh: &Mesh) {
    if peer("curl", "curl").is_none() {
        return;
    }
    // One empty message, and an empty stream of messages: curl does not like to be answered before it has sent all.
    for (method, body) in [
        ("istio.v1.auth.IstioCertificateService/CreateCertificate", "printf '\\0\\0\\0\\0\\0'"),
        ("envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", "printf ''"),
    ] {
        // Without a token, and with one that nobody has signed.
        for header in ["x: y", "authorization: Bearer e30.e30.e30"] {
            let call = format!(
                "{body} | curl -sS -k -i -m 10 --http2 -H content-type:application/grpc -H te:trailers -H '{header}' \
                 --data-binary @- https://10.244.0.2:15012/{method}"
            );
            let answer = mesh.run("shop", "visitor", &["sh", "-c", &call]);
            assert!(answer.out.contains("grpc-status: 16"), "{method} with {header}: {answer:?}");
        }
    }
}

fn check(options: Options) {
    let config = folder(&[("mesh.yaml", MESH), ("stock.yaml", workload::STOCK), (".secret.yaml.swp", SECRET)]);
    fs::create_dir(config.path().join("below")).expect("a folder");
    for (name, text) in [("secret.yml", SECRET), ("notes.txt", "x")] {
        fs::write(config.path().join("below").join(name), text).expect("a file");
    }
    let mesh = Mesh::start_with(MIZZEN, config.path(), options);
    let program = mesh.share_program(&std::env::current_exe().expect("this program"));
    let before = (mesh.running("mizzen-proxy"), mesh.running("mizzend"), mesh.running("bookshop-stock"));
    assert!(before.0.len() == 1 && before.1.len() == 1 && before.2.len() == 1, "{:?}", mesh.processes());
    let run_dir = mesh.run_dir();
    let pod = mesh.pod_dir("shop", "stock");
    let files: Vec<PathBuf> =
        ["mesh.json", "control.sock", "mizzend/token.sock", "mizzend/debug.sock", "objects/vips.yaml", "bin", "scratch"]
            .iter()
            .map(|name| run_dir.join(name))
            .chain(["admin.sock", "SDS", "XDS", "log", "proxy.log"].iter().map(|name| pod.join(name)))
            .chain([mesh.base().join("mesh.lock")])
            .collect();
    // These are what an attacker would find, if it could.
    for file in &files {
        assert!(file.symlink_metadata().is_ok(), "{} is not there to be attacked", file.display());
    }
    let text = std::fs::read(run_dir.join("mesh.json")).expect("a description");
    let folder: Value = serde_json::from_slice::<Value>(&text).expect("JSON")["folder"].take();
    // A terminal multiplexer, or the like.
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
    let door = home.path().join("door");
    let _listener = std::os::unix::net::UnixListener::bind(&door).expect("a socket");
    fs::set_permissions(&door, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("permissions");
    let pids: Vec<i32> =
        mesh.processes().iter().map(|seen| seen.pid).chain([i32::try_from(mesh.pid()).expect("a number")]).chain(2..60).collect();
    for own_namespace in [false, true] {
        let facts =
            json!({"base": mesh.base(), "files": files, "pids": pids, "folder": folder, "door": door, "own_namespace": own_namespace})
                .to_string();
        let mut command = vec!["env".to_owned(), format!("{FACTS}={facts}")];
        if own_namespace {
            if peer("unshare", "util-linux").is_none() {
                continue;
            }
            command.extend(["unshare", "--user", "--map-root-user", "--mount", "--ipc"].map(str::to_owned));
        }
        command.push(program.display().to_string());
        command.extend(["attacker", "--exact", "--ignored", "--nocapture"].map(str::to_owned));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let output = mesh.run("shop", "visitor", &command);
        if own_namespace && output.err.contains("uid_map: Operation not permitted") {
            // The kernel maps root into a new user namespace only for who has CAP_SETFCAP.
            continue;
        }
        let attempts: Vec<(&str, &str)> = output.out.lines().filter_map(|line| line.split_once("=> ")?.1.split_once('\t')).collect();
        if std::env::var_os("MIZZEN_TEST_SHOW").is_some() {
            eprintln!("{attempts:#?}");
        }
        assert!(attempts.len() > 60, "{output:?}\n{}", mesh.logs());
        let wrong: Vec<String> = attempts
            .iter()
            .filter(|(name, _)| *name != "change the capture")
            .filter(|(name, got)| !expected(name, own_namespace).contains(got))
            .map(|(name, got)| format!("{name}: {got:?}, not {:?}", expected(name, own_namespace)))
            .collect();
        assert!(wrong.is_empty(), "in a namespace of its own: {own_namespace}\n{}", wrong.join("\n"));
        let change = attempts.iter().find(|(name, _)| *name == "change the capture").expect("an attempt").1;
        assert!(change.contains("not supported"), "{change}");
    }
    no_identity_without_a_token(&mesh);
    // Nobody was ended, and the mesh goes on.
    eventually("the visitors are gone", || if mesh.running("mizzen-proxy").len() == 1 { Ok(()) } else { Err("not yet") });
    let after = (mesh.running("mizzen-proxy"), mesh.running("mizzend"), mesh.running("bookshop-stock"));
    assert_eq!(before, after);
    let script = "exec 3<>/dev/tcp/stock/7070; echo 3 >&3; head -n 1 <&3";
    assert_eq!(mesh.run("shop", "visitor", &["bash", "-c", script]).ok(), "17\n");
}

#[test]
fn a_workload_of_an_ordinary_user_cannot_touch_the_mesh() {
    check(Options { as_nobody: is_root(), ..Options::default() });
}

#[test]
fn a_workload_of_root_cannot_touch_the_mesh() {
    if !is_root() {
        return skip("only root can run a mesh as root");
    }
    check(Options::default());
}
