//! Who may run a mesh, and what it leaves behind: root and an ordinary user, ended in every way, again and again.

use std::path::{Path, PathBuf};

use mizzen_testkit::{Mesh, Options, Seen, Signal, descendants, eventually, folder, is_root, skip};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/bookshop")
}

/// As nobody if this is root, else as whoever this is.
fn ordinary() -> Options {
    Options { as_nobody: is_root(), ..Options::default() }
}

/// That the whole chain works: the page, which needs all four services, and a program of one's own.
fn works(mesh: &Mesh) {
    let page = mesh.wait_for("/", &[], "the page", |status, body| status == 200 && body.contains("Joshua Slocum"));
    assert!(page.contains("Charles Darwin"), "{page}");
    let id = mesh.run("shop", "visitor", &["id", "-u"]).ok();
    let up = std::fs::metadata(format!("/proc/{}", mesh.pid())).expect("the mesh's process");
    assert_eq!(id.trim(), std::os::unix::fs::MetadataExt::uid(&up).to_string(), "programs run as the user who started the mesh");
}

/// That nothing of a mesh runs any more.
fn all_ended(before: &[Seen]) {
    assert!(before.len() > 12, "{before:?}");
    eventually("the end of all processes", || {
        let left: Vec<&Seen> = before.iter().filter(|seen| runs(seen)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn runs(seen: &Seen) -> bool {
    let command = std::fs::read(format!("/proc/{}/cmdline", seen.pid)).unwrap_or_default();
    let words = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>();
    // The number may be somebody else's by now.
    !command.is_empty() && words.join(" ").trim() == seen.command
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Twice in a row, ended once by each of the two signals.
fn twice(options: Options) {
    let mut mesh = Mesh::start_with(MIZZEN, &sample(), options);
    works(&mesh);
    let processes = mesh.processes();
    assert_eq!(mesh.stop_by(Signal::SIGTERM), 0, "{}", mesh.said());
    all_ended(&processes);
    assert_eq!(entries(&mesh.base()), [""; 0], "nothing is left");

    mesh.start_again();
    works(&mesh);
    let processes = mesh.processes();
    assert_eq!(mesh.stop_by(Signal::SIGINT), 0, "{}", mesh.said());
    all_ended(&processes);
    assert_eq!(entries(&mesh.base()), [""; 0], "nothing is left");
    assert!(!mesh.said().contains("error"), "{}", mesh.said());
}

#[test]
fn an_ordinary_user_twice_in_a_row() {
    twice(ordinary());
}

#[test]
fn root_twice_in_a_row() {
    if !is_root() {
        return skip("only root can run a mesh as root");
    }
    twice(Options::default());
}

#[test]
fn a_second_mesh_of_the_same_name_is_refused_in_one_line() {
    let mesh = Mesh::start_with(MIZZEN, &sample(), ordinary());
    let second = mesh.cli(&["up", &mesh.folder.display().to_string()]);
    let said: Vec<&str> = second.err.lines().collect();
    let expected = format!("error: a mesh is running already (process {}), its folder is {}", mesh.pid(), mesh.run_dir().display());
    assert_eq!((second.code, second.out.as_str(), said), (1, "", vec![expected.as_str()]));
    works(&mesh);

    // Under another name it runs beside the first, and the two do not meet.
    let name = ["up", "--mesh", "other", &mesh.folder.display().to_string()];
    let mut other = mesh.cli_command(&name).stderr(std::process::Stdio::null()).spawn().expect("start a mesh");
    let run_dir = mesh.base().join("other");
    eventually("the second mesh", || if run_dir.join("mesh.json").exists() { Ok(()) } else { Err("it is not ready") });
    let which = mesh.run("shop", "visitor", &["true"]);
    assert!(which.code == 1 && which.err.contains("--mesh: mesh, other"), "the CLI asks which one is meant: {which:?}");
    let which = mesh.cli(&["--mesh", "other", "run", "-n", "shop", "-s", "visitor", "curl", "-sS", "http://catalogue:9080/books/3"]);
    assert!(which.ok().contains("Joshua Slocum"));
    let pid = i32::try_from(other.id()).expect("a number");
    let processes = descendants(pid);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT).expect("a signal");
    let status = eventually("the end of the second mesh", || other.try_wait().expect("wait").ok_or("it runs"));
    assert_eq!(status.code(), Some(0));
    all_ended(&processes);
    works(&mesh);
}

#[test]
fn it_can_be_ended_while_it_starts() {
    let moments = [
        ("mizzend", Signal::SIGTERM),
        ("mizzend/token.sock", Signal::SIGQUIT),
        ("objects/vips.yaml", Signal::SIGINT),
        ("pods", Signal::SIGTERM),
    ];
    for (moment, signal) in moments {
        let mut mesh = Mesh::launch(MIZZEN, &sample(), ordinary());
        let reached = mesh.base().join("mesh").join(moment);
        eventually(moment, || if reached.exists() { Ok(()) } else { Err(mesh.said()) });
        let processes = mesh.processes();
        assert_eq!(mesh.stop_by(signal), 0, "{moment}: {}", mesh.said());
        eventually("the end of all processes", || if processes.iter().any(runs) { Err("not yet") } else { Ok(()) });
        assert_eq!(entries(&mesh.base()), [""; 0], "{moment}: nothing is left");
    }
}

#[test]
fn what_a_shell_passes_on_harms_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let wrapper = folder.path().join("mizzen");
    let script = format!("#!/bin/sh\ntrap '' USR1 ALRM\nODD=$(printf '\\377')\nexport ODD\nexec {MIZZEN} \"$@\"\n");
    std::fs::write(&wrapper, script).expect("a script");
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let mut mesh = Mesh::start(&wrapper.display().to_string(), &sample());
    let output = mesh.run("shop", "visitor", &["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]);
    assert!(output.err.contains("warning: the environment variable ODD is not UTF-8 and is left out"), "{output:?}");
    assert_eq!(output.ok(), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");

    // Its account's name is not a label: a Service that selects `app: reviews` must not send it traffic.
    let run = ["run", "-n", "shop", "-s", "reviews", "cat"];
    let mut guest = mesh.cli_command(&run).stdin(std::process::Stdio::piped()).spawn().expect("start a program");
    let pods = || mesh.pods("shop", "reviews-run");
    let pod = eventually("the program's pod", || pods().into_iter().next().ok_or("not yet"));
    assert!(pod.1["metadata"]["labels"]["app"].is_null(), "{pod:?}");
    drop(guest.stdin.take());
    assert!(guest.wait().expect("wait").success());
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

#[test]
fn a_running_mesh_keeps_the_program_that_it_was_started_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("mizzen");
    let copied = std::process::Command::new("cp").args([Path::new(MIZZEN), &program]).status().expect("start cp");
    assert!(copied.success());
    let mesh = Mesh::start(&program.display().to_string(), &sample());
    std::fs::rename(&program, folder.path().join("old")).expect("move the program");
    std::fs::write(&program, "#!/bin/sh\nexit 1\n").expect("another program");
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let before = (mesh.running("mizzend"), mesh.running("mizzen-proxy"));
    for pid in before.0.iter().chain(&before.1) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL).expect("a signal");
    }
    eventually("all are started again", || {
        let now = (mesh.running("mizzend"), mesh.running("mizzen-proxy"));
        let all = now.0.len() == before.0.len() && now.1.len() == before.1.len();
        let new = now.0.iter().chain(&now.1).all(|pid| !before.0.contains(pid) && !before.1.contains(pid));
        if all && new { Ok(()) } else { Err(format!("{now:?}\n{}", mesh.said())) }
    });
    mesh.wait_for("/", &[], "the page", |status, body| status == 200 && body.contains("Joshua Slocum"));
}

#[test]
fn what_a_kill_leaves_is_cleaned_up() {
    let mut mesh = Mesh::start_with(MIZZEN, &sample(), ordinary());
    let processes = mesh.processes();
    let links = network();
    mesh.kill();
    all_ended(&processes);
    let mut left = entries(&mesh.base());
    left.sort();
    assert_eq!(left, ["mesh", "mesh.lock"], "a folder and its lock");
    assert_eq!(network(), links, "the machine's own network is as it was");
    let none = mesh.cli(&["proxy-status"]);
    assert!(none.code == 1 && none.err.contains("no mesh is running"), "{none:?}");
    let stale = mesh.base().join("mesh/stale");
    std::fs::write(&stale, "of the mesh that was killed").expect("a file");

    mesh.start_again();
    assert!(!stale.exists());
    works(&mesh);

    // And if its first process inside is killed, the outer one ends by itself, says that this was no success, and cleans up.
    let processes = mesh.processes();
    let inner = processes.get(1).expect("the inner process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(inner.pid), Signal::SIGKILL).expect("a signal");
    assert_eq!(mesh.ended(), 137, "{}", mesh.said());
    all_ended(&processes);
    assert_eq!(entries(&mesh.base()), [""; 0], "nothing is left");

    mesh.start_again();
    works(&mesh);
    assert_eq!(mesh.stop(), 0, "{}", mesh.said());
}

/// `mizzen up` in a shell that has run `before`.
fn after(before: &str) -> Options {
    Options { wrapper: ["sh", "-c", &format!("{before}; exec \"$@\""), "sh"].map(str::to_owned).into(), ..ordinary() }
}

#[test]
fn why_something_cannot_run_is_said_in_one_line() {
    let mut mesh = Mesh::launch(MIZZEN, &sample(), after("ulimit -n 64"));
    assert_eq!(mesh.ended(), 1);
    let expected = "error: at most 64 files may be open at a time here, a mesh needs 1024: raise the limit (`ulimit -n`, LimitNOFILE=)";
    assert_eq!(mesh.said().lines().last(), Some(expected));

    // What can be raised is raised, for the mesh's own processes.
    let mesh = Mesh::start_with(MIZZEN, &sample(), after("ulimit -S -n 64"));
    works(&mesh);
    assert_eq!(mesh.run("shop", "visitor", &["sh", "-c", "ulimit -n"]).ok(), "64\n");

    // The control plane cannot write a file when it is started again.
    let file = mesh.run_dir().join("mizzend/root-cert.pem");
    std::fs::remove_file(&file).and_then(|()| std::fs::create_dir(&file)).expect("a folder in place of the file");
    let running = mesh.running("mizzend");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(running[0]), Signal::SIGKILL).expect("a signal");
    let begin = "error: the control plane ended, it is started again, and traffic goes on meanwhile: exit code 1; its last line: mizzend: ";
    eventually("the reason", || {
        let said = mesh.said();
        let line = said.lines().find_map(|line| line.strip_prefix(begin)).map(str::to_owned);
        line.filter(|line| line.contains("root-cert.pem") && line.contains("directory")).ok_or(said)
    });
    assert!(mesh.said().contains("meanwhile: signal 9, SIGKILL"), "{}", mesh.said());
    std::fs::remove_dir(&file).expect("the folder goes");
    eventually("the file", || if file.is_file() { Ok(()) } else { Err(mesh.said()) });
    works(&mesh);
}

#[test]
fn names_may_be_as_long_as_kubernetes_allows() {
    let (namespace, name) = ("n".repeat(63), "d".repeat(63));
    let yaml = LONG_NAMES.replace("NAMESPACE", &namespace).replace("NAME", &name).replace("LONG_KEY", &"k".repeat(250));
    let mesh = Mesh::start_with(MIZZEN, folder(&[("mesh.yaml", &yaml)]).path(), ordinary());
    // The plain name is this program's own host name.
    let script = format!("exec 3<>/dev/tcp/{name}.{namespace}/7070; echo 3 >&3; head -n 1 <&3");
    assert_eq!(mesh.run(&namespace, &name, &["bash", "-c", &script]).ok(), "17\n");
    assert_eq!(mesh.run(&namespace, &name, &["cat", "/proc/sys/kernel/hostname"]).ok(), format!("{name}\n"));
    let pod = &mesh.pods(&namespace, &name)[0].0;
    let status = mesh.cli(&["proxy-status"]).ok();
    assert!(status.contains(&format!("{pod}.{namespace}")), "{status}");
    mesh.cli(&["logs", &format!("{pod}.{namespace}"), "--proxy"]).ok();
    mesh.cli(&["proxy-config", "cluster", &format!("{pod}.{namespace}")]).ok();
}

const LONG_NAMES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: NAMESPACE}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: NAME, namespace: NAMESPACE}}
---
{apiVersion: v1, kind: Service, metadata: {name: NAME, namespace: NAMESPACE}, spec: {selector: {app: stock}, ports: [{name: tcp, port: 7070}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: NAME, namespace: NAMESPACE}, data: {LONG_KEY: a text}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: NAMESPACE}
spec:
  selector: {matchLabels: {app: stock}}
  template:
    metadata: {labels: {app: stock}}
    spec:
      serviceAccountName: NAME
      volumes: [{name: NAME, configMap: {name: NAME}}]
      containers:
      - name: NAME
        image: none
        command: [sh, -c, 'test \"$(cat /etc/long/LONG_KEY)\" = \"a text\" && exec bookshop-stock']
        readinessProbe: {tcpSocket: {port: 7070}}
        volumeMounts: [{name: NAME, mountPath: /etc/long}]
";

/// The links of the machine's own network.
fn network() -> Vec<String> {
    let mut links = entries(Path::new("/sys/class/net"));
    links.sort();
    links
}
