//! A running mesh.

use std::{
    fs,
    io::Read,
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, chown},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{PATIENCE, eventually};

/// The user `nobody` of every distribution.
const NOBODY: u32 = 65534;

/// How to start a mesh.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// As user `nobody`; needs root.
    pub as_nobody: bool,
    /// More arguments of `mizzen up`.
    pub args: Vec<String>,
    /// More of the environment.
    pub env: Vec<(String, String)>,
    /// A command that `mizzen up …` is appended to, such as one that makes a namespace first.
    pub wrapper: Vec<String>,
}

impl Options {
    /// All proxies are Envoys, by this program.
    pub fn of_envoys(program: &Path) -> Options {
        Options { args: vec!["--data-plane".to_owned(), format!("envoy={}", program.display())], ..Options::default() }
    }

    /// The same with further arguments.
    pub fn with(mut self, args: impl IntoIterator<Item = String>) -> Options {
        self.args.extend(args);
        self
    }
}

/// A mesh that `mizzen up` runs. Dropping it ends it.
pub struct Mesh {
    child: Child,
    binary: PathBuf,
    options: Options,
    /// The folder that it follows.
    pub folder: PathBuf,
    /// What it wrote when it was ready.
    pub description: Value,
    dir: TempDir,
    said: Arc<Mutex<String>>,
}

/// How a program ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code, or -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Standard output of a program that succeeded.
    ///
    /// # Panics
    /// If it did not.
    pub fn ok(self) -> String {
        assert!(self.code == 0, "exit code {}\n{}\n{}", self.code, self.out, self.err);
        self.out
    }
}

impl Mesh {
    /// Starts `binary up` on a copy of `folder` and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with all that it said.
    pub fn start(binary: &str, folder: &Path) -> Mesh {
        Mesh::start_with(binary, folder, Options::default())
    }

    /// Starts it as `options` say, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with all that it said.
    pub fn start_with(binary: &str, folder: &Path, options: Options) -> Mesh {
        let mut mesh = Mesh::launch(binary, folder, options);
        mesh.wait_until_ready();
        mesh
    }

    /// Starts it once more after its end, on the same folder and with the same place for its own, and waits until it is ready.
    ///
    /// # Panics
    /// If it runs still, or does not become ready.
    pub fn start_again(&mut self) {
        assert!(self.child.try_wait().expect("wait").is_some(), "the mesh runs still");
        (self.child, self.said) = spawn(&self.binary, &self.folder, self.dir.path(), &self.options);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let ready = self.dir.path().join("ready.json");
        let until = Instant::now() + PATIENCE;
        while !ready.exists() {
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("the mesh ended with {status} before it was ready\n{}", self.said());
            }
            assert!(Instant::now() < until, "the mesh is not ready after {PATIENCE:?}\n{}\n{}", self.said(), self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.description = serde_json::from_slice(&fs::read(ready).expect("the ready file")).expect("JSON");
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn launch(binary: &str, folder: &Path, options: Options) -> Mesh {
        let dir = tempfile::Builder::new().prefix("mz").tempdir_in("/tmp").expect("a folder");
        let copy = dir.path().join("config");
        copy_dir(folder, &copy);
        // A clone may lie where nobody else may look.
        let program = if options.as_nobody { dir.path().join("mizzen") } else { PathBuf::from(binary) };
        if options.as_nobody {
            copy_program(Path::new(binary), &program);
            give(dir.path());
        }
        fs::create_dir_all(dir.path().join("run")).expect("a folder");
        if options.as_nobody {
            give(dir.path());
        }
        let (child, said) = spawn(&program, &copy, dir.path(), &options);
        Mesh { child, binary: program, options, folder: copy, description: Value::Null, dir, said }
    }

    /// The address at which the Gateway answers, without a slash at its end.
    pub fn address(&self) -> String {
        self.description["address"].as_str().unwrap_or_default().trim_end_matches('/').to_owned()
    }

    /// Where one of the default gateway's ports is open on this host now, as [`gateway_port_of`](Self::gateway_port_of).
    pub fn gateway_port(&self, of: u16) -> (String, u16) {
        self.gateway_port_of("", of)
    }

    /// Where a port of a gateway, `NAMESPACE/NAME` or the first one that has it, is open on this host now: the scheme of what comes there, and the port. Nothing
    /// and 0 while it is not open.
    pub fn gateway_port_of(&self, gateway: &str, of: u16) -> (String, u16) {
        let text = fs::read_to_string(self.run_dir().join("mesh.json")).unwrap_or_default();
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        let mut ports = said["gateways"].as_array().into_iter().flatten();
        let is_meant = |port: &&Value| port["port"] == of && (gateway.is_empty() || port["gateway"] == gateway);
        let address = ports.find(is_meant).and_then(|port| port["address"].as_str()).unwrap_or_default();
        let (scheme, rest) = address.split_once("://").unwrap_or_default();
        let port = rest.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
        (scheme.to_owned(), port.unwrap_or_default())
    }

    /// The process of `up`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The mesh's own folder, with sockets and logs.
    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from(self.description["run_dir"].as_str().unwrap_or_default())
    }

    /// A folder that programs in the mesh see too, for what a test gives to them.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn shared(&self) -> PathBuf {
        let folder = self.dir.path().join("shared");
        fs::create_dir_all(&folder).expect("a folder");
        if self.options.as_nobody {
            give(&folder);
        }
        folder
    }

    /// A copy of a program in [`shared`](Self::shared), which the mesh's user may run wherever the original lies.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn share_program(&self, program: &Path) -> PathBuf {
        let copy = self.shared().join(program.file_name().expect("a name"));
        copy_program(program, &copy);
        copy
    }

    /// The place for all of the mesh's own: the folder that holds its run folder.
    pub fn base(&self) -> PathBuf {
        self.dir.path().join("run/mizzen")
    }

    /// What `up` told the control plane of the pods whose names begin so: (name, description as Kubernetes has it).
    pub fn pods(&self, namespace: &str, prefix: &str) -> Vec<(String, Value)> {
        let entries = fs::read_dir(self.run_dir().join("objects")).into_iter().flatten().flatten();
        let pods = entries.filter_map(|entry| serde_json::from_slice::<Value>(&fs::read(entry.path()).ok()?).ok());
        let mut pods: Vec<(String, Value)> = pods
            .filter(|pod| pod["kind"] == "Pod" && pod["metadata"]["namespace"] == namespace)
            .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?.to_owned(), pod)))
            .filter(|(name, _)| name.starts_with(prefix))
            .collect();
        pods.sort_by(|a, b| a.0.cmp(&b.0));
        pods
    }

    /// The address of the one pod whose name begins so.
    ///
    /// # Panics
    /// If there is none.
    pub fn pod_address(&self, namespace: &str, prefix: &str) -> Ipv4Addr {
        let pods = self.pods(namespace, prefix);
        let address = pods.first().and_then(|(_, pod)| pod["status"]["podIP"].as_str()?.parse().ok());
        address.unwrap_or_else(|| panic!("no pod {namespace}/{prefix}…"))
    }

    /// The folder of the one pod whose name begins so, with its sockets and logs.
    ///
    /// # Panics
    /// If there is none.
    pub fn pod_dir(&self, namespace: &str, prefix: &str) -> PathBuf {
        let pods = self.pods(namespace, prefix);
        let (name, _) = pods.first().unwrap_or_else(|| panic!("no pod {namespace}/{prefix}…"));
        let id = format!("{namespace}.{name}");
        let folders = fs::read_dir(self.run_dir().join("pods")).expect("folders of pods").flatten().map(|entry| entry.path());
        let mut own = folders.filter(|folder| fs::read_to_string(folder.join("name")).is_ok_and(|text| text == id));
        own.next().unwrap_or_else(|| panic!("no folder of {id}"))
    }

    /// All that `up` has said so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("lock").clone()
    }

    /// The logs of the mesh's programs, for a failed test's message: the last lines of each.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut stack = vec![self.dir.path().join("run")];
        while let Some(folder) = stack.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if path.is_dir() {
                    stack.push(path);
                } else if name == "log" || name == "proxy.log" {
                    let log = fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let from = lines.len().saturating_sub(15);
                    text += &format!("--- {}\n{}\n", path.display(), lines[from..].join("\n"));
                }
            }
        }
        text
    }

    /// Saves a file of the folder, as an editor does: written beside and renamed.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn save(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        let partial = self.folder.join(format!(".{name}.partial"));
        fs::write(&partial, text).and_then(|()| fs::rename(partial, &path)).expect("save a file");
    }

    /// Copies all files of a step into the folder.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn apply(&self, step: &Path) {
        for entry in fs::read_dir(step).expect("a step").flatten() {
            let text = fs::read_to_string(entry.path()).expect("a file of the step");
            self.save(&entry.file_name().to_string_lossy(), &text);
        }
    }

    /// Removes a file of the folder.
    ///
    /// # Panics
    /// If it cannot be removed.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder.join(name)).expect("remove a file");
    }

    /// Runs the CLI against this mesh.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.cli_command(args);
        let output = command.stdin(Stdio::null()).output().expect("start the CLI");
        Output {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The CLI as a command, for a test that wants to keep it running.
    pub fn cli_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir("/");
        environment(&mut command, self.dir.path(), &self.options);
        command
    }

    /// Runs a program in the mesh: `mizzen run -n NAMESPACE -s ACCOUNT -- COMMAND`.
    ///
    /// # Panics
    /// If the CLI cannot be started.
    pub fn run(&self, namespace: &str, account: &str, command: &[&str]) -> Output {
        let mut args = vec!["run", "-n", namespace, "-s", account, "--"];
        args.extend(command);
        self.cli(&args)
    }

    /// GETs a path of the Gateway with curl-like plainness; headers as `name: value`. Returns status and body.
    ///
    /// # Errors
    /// If there is no answer, or none that is HTTP.
    pub fn get(&self, path: &str, headers: &[&str]) -> Result<(u16, String), String> {
        http_get(&self.address(), path, headers)
    }

    /// Waits until a path of the Gateway answers so.
    ///
    /// # Panics
    /// If it does not within the bound.
    pub fn wait_for(&self, path: &str, headers: &[&str], what: &str, holds: impl Fn(u16, &str) -> bool) -> String {
        eventually(&format!("{what}: {path}"), || match self.get(path, headers) {
            Ok((status, body)) if holds(status, &body) => Ok(body),
            Ok((status, body)) => Err(format!("{status}: {body}\n{}\n{}", self.said(), self.logs())),
            Err(error) => Err(error),
        })
    }

    /// Sends SIGTERM and waits for the end; returns the exit code.
    ///
    /// # Panics
    /// If it does not end within the bound.
    pub fn stop(&mut self) -> i32 {
        self.stop_by(Signal::SIGTERM)
    }

    /// Sends a signal and waits for the end; returns the exit code.
    ///
    /// # Panics
    /// If it does not end within the bound.
    pub fn stop_by(&mut self, signal: Signal) -> i32 {
        let _ = kill(self.process(), signal);
        self.ended()
    }

    /// Waits for the end of a mesh that ends by itself; returns the exit code.
    ///
    /// # Panics
    /// If it does not end within the bound.
    pub fn ended(&mut self) -> i32 {
        let status = eventually("the mesh's end", || self.child.try_wait().expect("wait").ok_or("it runs"));
        status.code().unwrap_or(-1)
    }

    /// Kills it without a warning.
    ///
    /// # Panics
    /// If it does not end.
    pub fn kill(&mut self) {
        let _ = kill(self.process(), Signal::SIGKILL);
        eventually("the mesh's end", || self.child.try_wait().expect("wait").ok_or("it runs"));
    }

    fn process(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process number"))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(self.process(), Signal::SIGTERM);
            let until = Instant::now() + Duration::from_secs(20);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `binary up`, with what it says collected.
fn spawn(binary: &Path, folder: &Path, dir: &Path, options: &Options) -> (Child, Arc<Mutex<String>>) {
    let mut words: Vec<String> = options.wrapper.clone();
    words.extend([binary.display().to_string(), "up".to_owned(), folder.display().to_string()]);
    words.extend(["--ready-file".to_owned(), dir.join("ready.json").display().to_string()]);
    words.extend(options.args.clone());
    // Of an earlier start, which may have been killed.
    let _ = fs::remove_file(dir.join("ready.json"));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    environment(&mut command, dir, options);
    let mut child = command.spawn().expect("start the mesh");
    let said = Arc::new(Mutex::new(String::new()));
    let (mut pipe, into) = (child.stderr.take().expect("a pipe"), said.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            into.lock().expect("lock").push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    (child, said)
}

fn environment(command: &mut Command, dir: &Path, options: &Options) {
    command.env("XDG_RUNTIME_DIR", dir.join("run")).env("NO_COLOR", "1").envs(options.env.iter().cloned());
    if options.as_nobody {
        command.uid(NOBODY).gid(NOBODY).env("HOME", "/");
    }
}

fn give(path: &Path) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    let _ = chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            give(&entry.path());
        } else {
            let _ = chown(&entry.path(), Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
        }
    }
}

/// By another process: what this one has open for writing is inherited by whatever its other threads start in that moment, and a
/// program that anybody has open for writing cannot be run.
fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().expect("start cp");
    assert!(status.success(), "cp {} {}: {status}", from.display(), to.display());
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy a file");
        }
    }
}

/// One GET with `connection: close`; an answer in one piece or in chunks.
fn http_get(base: &str, path: &str, headers: &[&str]) -> Result<(u16, String), String> {
    use std::io::Write;
    let address = base.strip_prefix("http://").ok_or("no address")?;
    let mut stream = std::net::TcpStream::connect(address).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| e.to_string())?;
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    headers.iter().for_each(|header| request += &format!("{header}\r\n"));
    stream.write_all(format!("{request}\r\n").as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("not HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("not HTTP: {head:?}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { dechunk(body) } else { body.to_owned() }))
}

fn dechunk(body: &str) -> String {
    let (mut rest, mut out) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        if size == 0 || after.len() < size {
            break;
        }
        out.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    out
}
