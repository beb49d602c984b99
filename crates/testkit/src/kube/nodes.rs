//! The files by which a cluster's namespaces are set up: scripts, command lines, and the configuration of each node.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Certificates, ClusterOptions, Programs, api, make_dir, write};

/// What runs in the namespaces.
const SCRIPTS: [(&str, &str); 4] = [
    ("init.sh", include_str!("../../../../tests/kube/init.sh")),
    ("files.sh", include_str!("../../../../tests/kube/files.sh")),
    ("node.sh", include_str!("../../../../tests/kube/node.sh")),
    ("further.sh", include_str!("../../../../tests/kube/further.sh")),
];
/// The cluster's DNS.
pub(super) const DNS: &str = include_str!("../../../../tests/kube/coredns.yaml");
/// The API server's port in the cluster's namespace.
const PORT: u16 = 16443;
/// The address of node 1, where the control plane runs.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);

/// Writes everything that the namespaces need into the cluster's folder.
pub(super) fn prepare(dir: &Path, programs: &Programs, options: &ClusterOptions) -> Result<(), String> {
    for folder in ["run", "logs", "volume-plugins"] {
        make_dir(&dir.join(folder))?;
    }
    for (name, text) in SCRIPTS {
        write(&dir.join(name), text)?;
    }
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let addresses = [local, FIRST.into(), Ipv4Addr::new(10, 96, 0, 1).into()];
    let certificates = Certificates::open(&dir.join("pki"), &addresses)?;
    // The scripts look whether it is there.
    match options.dual_stack {
        true => write(&dir.join("ipv6"), "")?,
        false => drop(std::fs::remove_file(dir.join("ipv6"))),
    }
    let plane = Plane { dir, programs, certificates, dual_stack: options.dual_stack };
    for (name, user, group, url) in [
        ("admin", "admin", "system:masters", "https://127.0.0.1"),
        ("kube-controller-manager", "system:kube-controller-manager", "", "https://127.0.0.1"),
        ("kube-scheduler", "system:kube-scheduler", "", "https://127.0.0.1"),
        ("kube-proxy", "system:kube-proxy", "", "https://10.200.0.1"),
    ] {
        plane.kubeconfig(name, user, group, url)?;
    }
    plane.control_plane()?;
    plane.images(&options.images)?;
    (1..=options.nodes).try_for_each(|n| plane.node(n))
}

struct Plane<'a> {
    dir: &'a Path,
    programs: &'a Programs,
    certificates: Certificates,
    dual_stack: bool,
}

impl Plane<'_> {
    fn kubeconfig(&self, name: &str, user: &str, group: &str, url: &str) -> Result<(), String> {
        let groups: &[&str] = if group.is_empty() { &[] } else { &[group] };
        let text = self.certificates.kubeconfig(&format!("{url}:{PORT}"), &self.certificates.client(user, groups)?);
        write(&self.file(&format!("{name}.kubeconfig")), text)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Writes `run/NAME`: a program's command line, with its log.
    fn command(&self, name: &str, program: &Path, args: &[String]) -> Result<(), String> {
        let words = std::iter::once(program.display().to_string()).chain(args.iter().cloned());
        let words: Vec<String> = words.map(|word| quoted(&word)).collect();
        write(&self.file("run").join(name), format!("exec {} >>logs/{name}.log 2>&1\n", words.join(" ")))
    }

    fn control_plane(&self) -> Result<(), String> {
        let program = |name: &str| self.programs.path(name);
        self.command("etcd", &program("etcd"), &api::store())?;
        let any = Ipv4Addr::UNSPECIFIED.into();
        let mut args = api::server(self.dir, any, FIRST.into(), PORT);
        // Of two values of a flag the later one counts.
        args.extend(self.dual_stack.then(|| "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".to_owned()));
        self.command("kube-apiserver", &program("kube-apiserver"), &args)?;
        let name = "kube-controller-manager";
        self.command(name, &program(name), &api::controllers(self.dir, &self.file(&format!("{name}.kubeconfig")), "*"))?;
        let args = [
            format!("--kubeconfig={}", self.path("kube-scheduler.kubeconfig")),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        self.command("kube-scheduler", &program("kube-scheduler"), &args)?;
        let ready = ["--kubeconfig", &self.path("admin.kubeconfig"), "get", "--raw", "/readyz"].map(quoted).join(" ");
        write(&self.file("run/ready"), format!("exec {} {ready}\n", quoted(&program("kubectl").display().to_string())))
    }

    /// The command that puts images onto a node.
    fn images(&self, more: &[PathBuf]) -> Result<(), String> {
        let own = ["pause.tar", "echo.tar", "coredns.tar"].map(|name| self.programs.path(name));
        let found = |archive: &PathBuf| archive.canonicalize().map_err(|error| format!("{}: {error}", archive.display()));
        let all = own.iter().chain(more).map(found).collect::<Result<Vec<_>, _>>()?;
        write(&self.file("run/images"), all.iter().map(|archive| format!("{}\n", import(archive))).collect::<String>())
    }

    fn node(&self, n: usize) -> Result<(), String> {
        let (name, address) = (format!("node{n}"), node_address(n));
        let own = self.file(&name);
        make_dir(&own)?;
        let user = format!("system:node:{name}");
        self.kubeconfig(&name, &user, "system:nodes", "https://10.200.0.1")?;
        self.certificates.server(&format!("{name}-serving"), &[&name], &[address.into()])?;
        write(&own.join("cni.conflist"), format!("{:#}\n", network(n, self.dual_stack)))?;
        write(&own.join("containerd.toml"), CONTAINERD)?;
        write(&own.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
        write(&own.join("kubelet.yaml"), format!("{:#}\n", self.kubelet(&name)))?;
        self.command(
            &format!("containerd{n}"),
            Path::new("containerd"),
            &["-c".to_owned(), self.path(&format!("{name}/containerd.toml"))],
        )?;
        let args = [
            format!("--config={}", self.path(&format!("{name}/kubelet.yaml"))),
            format!("--kubeconfig={}", self.path(&format!("{name}.kubeconfig"))),
            format!("--hostname-override={name}"),
            format!("--node-ip={address}{}", if self.dual_stack { format!(",fd00:10:200::{n}") } else { String::new() }),
        ];
        self.command(&format!("kubelet{n}"), &self.programs.path("kubelet"), &args)?;
        let config = format!("--kubeconfig={}", self.path("kube-proxy.kubeconfig"));
        let own_name = format!("--hostname-override={name}");
        let args = [
            config.as_str(),
            &own_name,
            "--proxy-mode=nftables",
            if self.dual_stack { "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48" } else { "--cluster-cidr=10.244.0.0/16" },
            // The kernel's sizes of tables are the whole machine's.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--oom-score-adj=0",
        ];
        self.command(&format!("kube-proxy{n}"), &self.programs.path("kube-proxy"), &args.map(str::to_owned))
    }

    fn kubelet(&self, node: &str) -> serde_json::Value {
        let none = "0%";
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "authentication": {
                "anonymous": { "enabled": false }, "webhook": { "enabled": true }, "x509": { "clientCAFile": self.path("pki/ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": self.path(&format!("pki/{node}-serving.crt")),
            "tlsPrivateKeyFile": self.path(&format!("pki/{node}-serving.key")),
            "healthzPort": 0,
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "resolvConf": self.path(&format!("{node}/resolv.conf")),
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": false,
            "failSwapOn": false,
            // A machine that gives no CAP_SYS_RESOURCE lets nobody lower it.
            "oomScoreAdj": 0,
            "volumePluginDir": self.path("volume-plugins"),
            "maxOpenFiles": 20000,
            // A full disk of the machine is no reason to end a test's pods.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": none, "nodefs.available": none, "imagefs.available": none,
                "nodefs.inodesFree": none, "imagefs.inodesFree": none,
            },
            "syncFrequency": "5s",
            "nodeStatusUpdateFrequency": "4s",
        })
    }
}

/// The address of a node in the cluster's namespaces.
fn node_address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, u8::try_from(n).unwrap_or(u8::MAX))
}

/// The network of a node's pods.
fn network(n: usize, dual_stack: bool) -> serde_json::Value {
    let mut ranges = vec![json!([{ "subnet": format!("10.244.{n}.0/24") }])];
    let mut routes = vec![json!({ "dst": "0.0.0.0/0" })];
    if dual_stack {
        ranges.push(json!([{ "subnet": format!("fd00:10:244:{n}::/64") }]));
        routes.push(json!({ "dst": "::/0" }));
    }
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "ranges": ranges, "routes": routes,
                    "dataDir": "/run/cni-addresses",
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// What containerd needs to know of such a node: snapshots are overlays, and what it may not do is not asked for.
const CONTAINERD: &str = r#"version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "mizzen.test/pause:1"
  # Without CAP_SYS_RESOURCE a container that asks for a lower score does not start ("can't get final child's PID from pipe").
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#;

/// The command that imports an archive on a node.
pub(super) fn import(archive: &Path) -> String {
    format!("ctr -n k8s.io images import {}", quoted(&archive.display().to_string()))
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
