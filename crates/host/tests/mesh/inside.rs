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
        ("socket", []) => println!("{}", sockets()),
        ("32-bit", []) => call_as_32_bit(),
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

/// The soft limit.
fn open_files() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().0
}

fn answer(result: nix::libc::c_long) -> String {
    nix::errno::Errno::result(result).map_or_else(|error| format!("{error:?}"), |_| "granted".to_owned())
}

/// What becomes of a call for a socket; whatever it makes is left open.
fn socket(call: nix::libc::c_long, family: i32, kind: i32, protocol: i32) -> String {
    let mut pair = [0; 2];
    // SAFETY: the pair, which only one of the two calls writes to, is as large as it wants.
    #[allow(unsafe_code)]
    answer(unsafe { nix::libc::syscall(call, family, kind, protocol, pair.as_mut_ptr()) })
}

fn sockets() -> Value {
    use nix::libc::{
        AF_ALG, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_TIPC, AF_UNIX, AF_VSOCK, NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE,
        NETLINK_SOCK_DIAG, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SYS_socket, SYS_socketpair,
    };
    // From linux/net.h, where it is out of use; as the kernel reads it, this type alone makes a packet socket.
    const OLD_PACKET: i32 = 10;
    let netlink = [NETLINK_SOCK_DIAG, NETLINK_NETFILTER, NETLINK_GENERIC];
    let others = [AF_ALG, AF_PACKET, AF_VSOCK, AF_TIPC];
    json!({
        "unix": socket(SYS_socket, AF_UNIX, SOCK_STREAM, 0),
        "unix pair": socket(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
        "tcp": [socket(SYS_socket, AF_INET, SOCK_STREAM, 0), socket(SYS_socket, AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)],
        "udp": socket(SYS_socket, AF_INET, SOCK_DGRAM, 0),
        "route": socket(SYS_socket, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE),
        "netlink": netlink.map(|of| socket(SYS_socket, AF_NETLINK, SOCK_RAW, of)),
        "others": others.map(|family| socket(SYS_socket, family, SOCK_SEQPACKET, 0)),
        "other pair": socket(SYS_socketpair, AF_TIPC, SOCK_SEQPACKET, 0),
        "packet": socket(SYS_socket, AF_INET, OLD_PACKET | SOCK_CLOEXEC, 0),
        "x32": if cfg!(target_arch = "x86_64") { socket(SYS_socket | 0x4000_0000, AF_VSOCK, SOCK_STREAM, 0) } else { "EAFNOSUPPORT".to_owned() },
    })
}

/// Ways around a call that names the family, and what is shared by all programs of a user.
fn calls() -> Value {
    use nix::libc::{SYS_add_key, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_keyctl, SYS_request_key};
    let all = [SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_keyctl, SYS_add_key, SYS_request_key];
    // SAFETY: no pointer leads anywhere, and a kernel that knows the call refuses it for that.
    #[allow(unsafe_code)]
    all.map(|call| answer(unsafe { nix::libc::syscall(call, 0, 0, 0, 0, 0) })).to_vec().into()
}

/// Makes a call by the 32-bit way into the kernel. Returns only where nothing keeps a program from that.
#[cfg(target_arch = "x86_64")]
fn call_as_32_bit() {
    // SAFETY: getpid takes nothing and writes to nothing but the register of its result.
    #[allow(unsafe_code)]
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20_u64 => _);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn call_as_32_bit() {
    panic!("not on this machine");
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
        "open_files": open_files(),
        "sockets": sockets(),
        "calls": calls(),
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
        "open_files": open_files(),
        "descriptors": fs::read_dir("/proc/self/fd").unwrap().count(),
    })
}
