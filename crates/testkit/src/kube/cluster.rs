//! A whole cluster on this machine, in namespaces of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{sys::signal::Signal, unistd::Pid};
use tempfile::TempDir;

use super::{Programs, Wait, make_dir, nodes, run, tail, wait, write};
use crate::Output;

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many nodes: 1 to 9. The control plane runs beside the first.
    pub nodes: usize,
    /// Archives of images that all nodes have from the start.
    pub images: Vec<PathBuf>,
    /// Whether nodes, pods, and Services that ask for it have addresses of IPv6 beside those of IPv4.
    pub dual_stack: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions { nodes: 1, images: Vec::new(), dual_stack: false }
    }
}

/// How long a cluster lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as its value in the process that started it.
    Caller,
    /// Until [`Cluster::down`]; before it is up, as [`Life::Caller`].
    UntilDown,
}

/// Ends all processes of node $0, of which $1 is the first one, and asks for its next start by the file $2. The first one is stopped until all others are
/// gone and goes last: at its end the node starts again, and what comes then is not meant. What has ended and was not buried yet does not count.
const FAIL: &str = r#"
kill -STOP "$1"
left=
for pid in $(find /sys/fs/cgroup/*/"node$0" -name cgroup.procs -exec cat {} + | sort -u); do
  [ "$pid" = "$1" ] || grep -qs '^State:.[ZX]' "/proc/$pid/status" || [ ! -e "/proc/$pid" ] || left="$left $pid"
done
[ -z "$left" ] || { kill -KILL $left; echo "$left run"; exit 1; }
touch "$2"
rm -f "${2%.boot}.pid" "${2%.boot}.netns"
kill -KILL "$1"
"#;

/// A cluster. Dropping one that lives with its caller ends it.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    programs: Programs,
    /// Process 1 of its namespaces, by its number outside.
    init: i32,
    /// Its parent, if this process started it and it is to end with it.
    own: Option<Child>,
    _temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts one for a test, and waits until its nodes and its DNS are ready. `None` if something is missing, after saying so.
    ///
    /// # Panics
    /// If it does not come up, or something is missing although it must be there (`MIZZEN_REQUIRE_PEERS=1`).
    pub fn start(options: &ClusterOptions) -> Option<Cluster> {
        let programs = Programs::for_cluster()?;
        let temporary = tempfile::Builder::new().prefix("mizzen-kube-").tempdir_in("/tmp").expect("a folder");
        let mut cluster = Cluster::launch(&programs, options, temporary.path(), Life::Caller).unwrap_or_else(|why| panic!("{why}"));
        cluster._temporary = Some(temporary);
        Some(cluster)
    }

    /// Starts one whose state is in a folder; what an earlier cluster left there it takes up. Waits until its nodes and its DNS are ready.
    ///
    /// # Errors
    /// What failed, with the last words of the program that it was.
    pub fn launch(programs: &Programs, options: &ClusterOptions, dir: &Path, life: Life) -> Result<Cluster, String> {
        if !(1..=9).contains(&options.nodes) {
            return Err(format!("{} nodes: must be 1 to 9", options.nodes));
        }
        make_dir(dir)?;
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        if ["/etc", "/opt", "/var"].iter().any(|overlaid| dir.starts_with(overlaid)) {
            return Err(format!(
                "{}: a node sees a copy of /etc, /opt and /var, so that a cluster's folder must lie elsewhere",
                dir.display()
            ));
        }
        if Cluster::at(programs, &dir).is_ok() {
            return Err(format!("{}: its cluster is up already", dir.display()));
        }
        let _ = fs::remove_file(dir.join("api.ready"));
        nodes::prepare(&dir, programs, options)?;
        let groups = cgroups(&dir)?;
        let mut child = unshare(&dir, programs, options.nodes, &groups)?;
        let mut up = || {
            let init = wait("the namespaces", || first_child(&mut child, &dir))?;
            write(&dir.join("init.pid"), init.to_string())?;
            let cluster = Cluster { dir: dir.clone(), programs: programs.clone(), init, own: None, _temporary: None };
            cluster.wait_until_ready(options.nodes, &mut child)?;
            Ok(cluster)
        };
        match up() {
            Ok(mut cluster) if life == Life::Caller => {
                cluster.own = Some(child);
                Ok(cluster)
            }
            Ok(cluster) => {
                use std::io::Write;
                let told = child.stdin.take().map(|mut pipe| pipe.write_all(b"stay\n"));
                told.transpose().map_err(|error| format!("the cluster's first process: {error}"))?;
                Ok(cluster)
            }
            Err(why) => {
                end(&mut child);
                remove_groups(&groups);
                Err(why)
            }
        }
    }

    /// The cluster that runs in a folder.
    ///
    /// # Errors
    /// If none does.
    pub fn at(programs: &Programs, dir: &Path) -> Result<Cluster, String> {
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        let none = || format!("{}: no cluster runs here", dir.display());
        let init: i32 = fs::read_to_string(dir.join("init.pid")).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(none)?;
        // Numbers of processes are used again.
        let arguments = fs::read(format!("/proc/{init}/cmdline")).unwrap_or_default();
        let is_it = String::from_utf8_lossy(&arguments).contains("init.sh")
            && fs::read_link(format!("/proc/{init}/cwd")).is_ok_and(|cwd| cwd == dir);
        if !is_it {
            return Err(none());
        }
        Ok(Cluster { dir, programs: programs.clone(), init, own: None, _temporary: None })
    }

    /// Its folder, with its logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process 1 of the first node's namespaces.
    pub fn process(&self) -> i32 {
        self.init
    }

    /// The file with the configuration of a client, for programs that run on a node.
    pub fn kubeconfig_file(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// A command on node 1, in its namespaces; `KUBECONFIG` is set, and the cluster's programs are on `PATH`.
    pub fn command(&self, words: &[&str]) -> Command {
        self.on(1, words)
    }

    /// A command on a node, in its namespaces.
    pub fn on(&self, node: usize, words: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-p", "-n", "-m", "-u", "-i", "-C"]);
        if node > 1 {
            // Its number is that in the namespaces of node 1.
            let pid = fs::read_to_string(self.dir.join(format!("node{node}.pid"))).unwrap_or_default();
            command.args(["--", "nsenter", "-t", pid.trim(), "-n", "-m", "-u", "-i", "-C"]);
        }
        command.arg("--").args(words).env("KUBECONFIG", self.kubeconfig_file()).env("KUBECACHEDIR", self.dir.join("kubectl-cache"));
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.programs.folder().display()));
        command
    }

    /// Runs a command on node 1 with this input, and waits for its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, words: &[&str], input: &str) -> Output {
        run(self.command(words), input).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Runs `kubectl` with this input, as somebody who may do everything.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Output {
        self.run(&[&["kubectl"], args].concat(), input)
    }

    /// Applies YAML.
    ///
    /// # Panics
    /// If the API server does not take it.
    pub fn apply(&self, yaml: &str) {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml).ok();
    }

    /// Runs a command in a container of a pod (`kubectl exec`).
    ///
    /// # Panics
    /// If `kubectl` cannot be started.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, words: &[&str]) -> Output {
        self.kubectl(&[&["exec", "-n", namespace, pod, "-c", container, "--"], words].concat(), "")
    }

    /// Puts an archive's images onto all nodes. Pods that use them say `imagePullPolicy: Never` or `IfNotPresent`.
    ///
    /// # Errors
    /// If a node cannot read it.
    pub fn load(&self, archive: &Path) -> Result<(), String> {
        let archive = archive.canonicalize().map_err(|error| format!("{}: {error}", archive.display()))?;
        let nodes =
            (1..).take_while(|n| self.dir.join(format!("node{n}")).is_dir() && (*n == 1 || self.dir.join(format!("node{n}.pid")).exists()));
        for node in nodes {
            let output = run(self.on(node, &["sh", "-c", &nodes::import(&archive)]), "")?;
            if output.code != 0 {
                return Err(format!("{} on node{node}: {}", archive.display(), output.err.trim()));
            }
        }
        Ok(())
    }

    /// Lets a further node (from 2 on) fail and start again, as a machine whose power is cut: all its processes end at once, its disk stays, memory, mounts
    /// and networks are gone. The configuration of the pods' network is again what it was at the first start, as on machines where whoever makes that network
    /// writes it at each start. Returns when the node has its namespaces; its programs may still start.
    ///
    /// # Errors
    /// If its processes cannot be ended, or it does not start.
    pub fn reboot(&self, node: usize) -> Result<(), String> {
        let file = |kind: &str| self.dir.join(format!("node{node}.{kind}"));
        let first = fs::read_to_string(file("pid")).map_err(|error| format!("node{node} is no further node of the cluster: {error}"))?;
        let (node, first, boot) = (node.to_string(), first.trim(), file("boot").display().to_string());
        wait("the end of the node's processes", || match run(self.command(&["sh", "-c", FAIL, &node, first, &boot]), "") {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => Err(Wait::NotYet(format!("{}{}", output.out, output.err))),
            Err(why) => Err(Wait::Never(why)),
        })?;
        wait("the node's namespaces", || match file("pid").exists() {
            true => Ok(()),
            false => Err(Wait::NotYet(tail(&self.dir.join(format!("logs/node{node}.log"))))),
        })
    }

    /// Ends it. What its nodes held stays in the folder.
    ///
    /// # Errors
    /// If something of it cannot be ended or removed.
    pub fn down(mut self) -> Result<(), String> {
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.init), Signal::SIGKILL);
        if let Some(mut child) = self.own.take() {
            end(&mut child);
        }
        let init = self.init;
        wait("the end of the cluster's processes", || match Path::new(&format!("/proc/{init}")).exists() {
            true => Err(Wait::NotYet("they run".to_owned())),
            false => Ok(()),
        })?;
        let _ = fs::remove_file(self.dir.join("init.pid"));
        for node in 2..=9 {
            for kind in ["pid", "netns", "boot"] {
                let _ = fs::remove_file(self.dir.join(format!("node{node}.{kind}")));
            }
        }
        let text = fs::read_to_string(self.dir.join("cgroups")).unwrap_or_default();
        let groups: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
        // A group can go when the last of its processes has been buried.
        wait("the end of the cluster's cgroups", || {
            remove_groups(&groups);
            let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
            if left.is_empty() { Ok(()) } else { Err(Wait::NotYet(format!("{left:?}"))) }
        })
    }

    fn wait_until_ready(&self, nodes: usize, child: &mut Child) -> Result<(), String> {
        let mut ask = |what: &str, args: &[&str], input: &str, holds: &dyn Fn(&str) -> bool| {
            wait(what, || match run(self.command(&[&["kubectl"], args].concat()), input) {
                Ok(output) if output.code == 0 && holds(&output.out) => Ok(()),
                _ if child.try_wait().is_ok_and(|status| status.is_some()) => Err(Wait::Never(tail(&self.dir.join("logs/init.log")))),
                Ok(output) => Err(Wait::NotYet(format!("{}{}", output.out, output.err))),
                Err(why) => Err(Wait::Never(why)),
            })
        };
        ask("the API server is not ready", &["get", "--raw", "/readyz"], "", &|_| true)?;
        ask("the cluster's DNS cannot be made", &["apply", "--server-side", "-f", "-"], nodes::DNS, &|_| true)?;
        let ready = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {end}";
        ask("the nodes are not ready", &["get", "nodes", "-o", ready], "", &|out| out.matches("True").count() == nodes)?;
        let dns = ["get", "deployment", "-n", "kube-system", "coredns", "-o", "jsonpath={.status.availableReplicas}"];
        ask("the cluster's DNS is not ready", &dns, "", &|out| out == "1")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.own.is_some()
            && let Err(why) = self.end()
        {
            crate::skip(&why);
        }
    }
}

/// The first process of new namespaces, in groups of its own. Its standard input is the pipe that ties it to this process.
fn unshare(dir: &Path, programs: &Programs, nodes: usize, groups: &[PathBuf]) -> Result<Child, String> {
    let failed = |error: std::io::Error| format!("cannot make namespaces: {error}");
    let log = fs::File::create(dir.join("logs/init.log")).map_err(failed)?;
    let join: String = groups.iter().map(|group| format!("echo $$ >{}/cgroup.procs && ", group.display())).collect();
    let unshare =
        "exec setsid unshare --pid --fork --kill-child=KILL --net --mount --uts --ipc --cgroup --propagation private --mount-proc";
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{join}{unshare} bash init.sh {nodes}")).current_dir(dir).stdin(Stdio::piped());
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.folder().display()));
    command.stderr(log.try_clone().map_err(failed)?).stdout(log).spawn().map_err(failed)
}

fn first_child(parent: &mut Child, dir: &Path) -> Result<i32, Wait> {
    if let Ok(Some(status)) = parent.try_wait() {
        return Err(Wait::Never(format!("{status}; {}", tail(&dir.join("logs/init.log")))));
    }
    let pid = parent.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let child = children.split_whitespace().next().and_then(|child| child.parse::<i32>().ok());
    child.ok_or_else(|| Wait::NotYet("there is no first process".to_owned()))
}

fn end(child: &mut Child) {
    // Without the pipe its first process ends, and with it everything.
    drop(child.stdin.take());
    let _ = child.kill();
    let _ = child.wait();
}

/// Makes the cluster's own group in each hierarchy, below this process's, and writes down which they are.
fn cgroups(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    let name = format!("mizzen-kube-{}", std::process::id());
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let hierarchy = match controllers {
            "" => "unified",
            named => named.trim_start_matches("name="),
        };
        let parent = Path::new("/sys/fs/cgroup").join(hierarchy).join(path.trim_start_matches('/'));
        if !parent.is_dir() {
            continue;
        }
        remove_stale(&parent);
        let group = (0..).map(|n| parent.join(format!("{name}-{n}"))).find(|group| !group.exists());
        let group = group.ok_or("no name for a cgroup")?;
        make_dir(&group)?;
        // A group without processors and memory takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(parent.join(file)) {
                write(&group.join(file), value)?;
            }
        }
        groups.push(group);
    }
    let text: String = groups.iter().map(|group| format!("{}\n", group.display())).collect();
    write(&dir.join("cgroups"), text)?;
    Ok(groups)
}

/// Removes groups of clusters whose processes were killed with whoever started them.
fn remove_stale(parent: &Path) {
    fn is_empty(group: &Path) -> bool {
        let own = fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty());
        let below = fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        own && below.map(|entry| entry.path()).all(|group| is_empty(&group))
    }
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix("mizzen-kube-")?.split('-').next()?.parse::<u32>().ok());
        // One that was just made is empty too.
        if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) && is_empty(&entry.path()) {
            remove_groups(&[entry.path()]);
        }
    }
}

/// Removes groups with all that is below them, as far as nobody is in them.
fn remove_groups(groups: &[PathBuf]) {
    fn remove(group: &Path) {
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(group);
    }
    groups.iter().for_each(|group| remove(group));
}
