//! The programs that run in the hosts: this binary, told by its arguments which.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::fd::AsFd,
    path::Path,
    process::Command,
};

use mizzen_capture::{Plan, Settings};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::kill,
    unistd::Pid,
};
use serde_json::{Value, json};

/// Runs one; its findings go to standard output as JSON.
pub(crate) fn program(name: &str, args: &[&str]) -> u8 {
    match (name, args) {
        ("look", [run, proxy]) => println!("{}", look(Path::new(run), proxy.parse().unwrap())),
        ("proxy", []) => println!("{}", proxy()),
        ("sleep", []) => loop {
            std::thread::park();
        },
        ("deaf", []) => {
            // SAFETY: sets a disposition, no handler.
            #[allow(unsafe_code)]
            unsafe {
                nix::sys::signal::signal(nix::sys::signal::Signal::SIGTERM, nix::sys::signal::SigHandler::SigIgn).unwrap();
            }
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        ("exit", [code]) => return code.parse().unwrap(),
        ("exists", [path]) => return u8::from(!Path::new(path).exists()),
        ("orphan", []) => {
            let exe = std::env::current_exe().unwrap();
            #[expect(clippy::zombie_processes, reason = "an orphan is the point")]
            Command::new(exe).args(["--program", "exit", "0"]).spawn().unwrap();
        }
        ("serve", [port, answer]) => serve(port.parse().unwrap(), answer),
        _ => panic!("{name} {args:?}"),
    }
    0
}

fn serve(port: u16, answer: &str) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut [0]).is_ok_and(|length| length > 0) {
            request.push(0);
            if request.len() > 20 {
                break;
            }
        }
        let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes());
    }
}

fn status() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = |line: &str| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(line).collect()
}

fn capabilities() -> Value {
    let status = status();
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    sets.iter().map(|set| u64::from_str_radix(&status[*set], 16).unwrap()).collect::<Vec<_>>().into()
}

fn names(folder: &str) -> Value {
    let Ok(entries) = fs::read_dir(folder) else { return Value::Null };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.into()
}

/// Which of these may be opened for writing; nothing is written, for the machine's sake.
fn writable(files: &[&str]) -> Vec<String> {
    files.iter().filter(|file| fs::OpenOptions::new().write(true).open(file).is_ok()).map(|file| (*file).to_owned()).collect()
}

/// What a workload can see and do.
fn look(run: &Path, proxy: i32) -> Value {
    let error = |result: nix::Result<()>| result.err().map_or("granted".to_owned(), |error| error.to_string());
    let none = None::<&str>;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let base = run.parent().unwrap();
    let seen = json!({
        "pid": std::process::id(),
        "uid": nix::unistd::geteuid().as_raw(),
        "gid": nix::unistd::getegid().as_raw(),
        "capabilities": capabilities(),
        "no_new_privs": status()["NoNewPrivs"],
        "processes": fs::read_dir("/proc").unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok()).collect::<Vec<_>>(),
        "run": names(run.to_str().unwrap()),
        "base": names(base.to_str().unwrap()),
        "bin": names(run.join("bin").to_str().unwrap()),
        "bin_write": fs::write(run.join("bin/x"), "").is_err(),
        "run_write": fs::write(run.join("x"), "").is_err(),
        "control": std::os::unix::net::UnixStream::connect(run.join("control.sock")).err().map(|error| error.to_string()),
        "init_files": fs::read_link("/proc/1/root").err().map(|error| error.to_string()),
        "init_environment": fs::read("/proc/1/environ").err().map(|error| error.to_string()),
        "signal": error(kill(Pid::from_raw(proxy), None)),
        "trace": error(nix::sys::ptrace::attach(Pid::from_raw(proxy))),
        "mark": mizzen_net::set_mark(&socket.as_fd(), 1337).err().map(|error| error.kind().to_string()),
        "rules": runtime.block_on(mizzen_capture::apply(&Plan::new(&Settings::default()))).is_err(),
        "no_rules": runtime.block_on(mizzen_capture::cleanup()).is_err(),
        "mount": error(mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), none)),
        "unmask": error(umount2(base, MntFlags::MNT_DETACH)),
        "port_80": TcpListener::bind("0.0.0.0:80").is_ok(),
        "hostname": fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(),
        "cwd": std::env::current_dir().unwrap(),
        "resolv": fs::read_to_string("/etc/resolv.conf").ok(),
        "hosts": fs::read_to_string("/etc/hosts").ok(),
        "passwd": fs::read_to_string("/etc/passwd").is_ok_and(|text| text.contains("root")),
        "texts": [
            fs::read_to_string("/dev/mizzen/text").ok(),
            fs::read_to_string(base.with_file_name("volume/text")).ok(),
            fs::read_to_string(base.with_file_name("link")).ok(),
            fs::read_to_string(base.with_file_name("gone/file")).ok(),
        ],
        "config": fs::read_to_string("/deep/new/config/a.txt").ok(),
        "config_write": fs::write("/deep/new/config/b.txt", "").is_err(),
        "cache_write": fs::write("/cache/b.txt", "x").is_ok(),
        "tmpfs": names("/opt/mizzen-test/scratch"),
        "tmpfs_write": fs::write("/opt/mizzen-test/scratch/b", "").is_ok(),
        "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
        "nscd": names("/run/nscd"),
        "settings": writable(&["/proc/sys/kernel/core_pattern", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/sys/power/state"]),
    });
    // Last, since it changes the process: a user namespace of its own gives rights in that one only.
    let mut seen = seen;
    if unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).is_ok() {
        seen["unmask_in_own"] = error(umount2(base, MntFlags::MNT_DETACH)).into();
        seen["run_in_own"] = names(run.to_str().unwrap());
        seen["rules_in_own"] = runtime.block_on(mizzen_capture::cleanup()).is_err().into();
    }
    seen
}

/// What a proxy can do.
fn proxy() -> Value {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let passed = mizzen_net::inherited_fd(3).unwrap();
    json!({
        "pid": std::process::id(),
        "capabilities": capabilities(),
        "mark": mizzen_net::set_mark(&socket.as_fd(), 1337).is_ok(),
        "dumpable": nix::sys::prctl::get_dumpable().unwrap(),
        "passed": String::from_utf8(mizzen_net::read_fd(&passed, 100).unwrap()).unwrap(),
        "descriptors": fs::read_dir("/proc/self/fd").unwrap().count(),
    })
}
