//! The API server alone, with its store: no nodes, and so nothing runs, but everything that watches and writes objects can be tried on it.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{Certificates, Identity, Programs, Wait, make_dir, run, running::Running, wait, write};
use crate::Output;

/// How an API server is started.
#[derive(Clone, Debug, Default)]
pub struct ApiOptions {
    /// Kubernetes' controllers, by their names with commas, or `*` for all: default service accounts, EndpointSlices of Services, ReplicaSets and
    /// their Pods, garbage collection, the end of namespaces. None if it is empty: then an object stays as it was written, and a namespace that was
    /// deleted stays for ever.
    pub controllers: &'static str,
    /// More arguments of `kube-apiserver`.
    pub args: Vec<String>,
}

/// An API server on a port of 127.0.0.1. Dropping it ends it, and so does the end of this process.
#[derive(Debug)]
pub struct ApiServer {
    dir: PathBuf,
    programs: Programs,
    certificates: Certificates,
    options: ApiOptions,
    port: u16,
    controllers: Option<Running>,
    server: Running,
    // Dropped last: who writes ends before what it writes to.
    _store: Running,
    _own: Option<TempDir>,
}

impl ApiServer {
    /// Starts one for a test, with an empty store, and waits until it is ready. `None` if programs are missing, after saying so.
    ///
    /// # Panics
    /// If it does not become ready, or programs are missing although they must be there (`MIZZEN_REQUIRE_PEERS=1`).
    pub fn start() -> Option<ApiServer> {
        Self::start_with(ApiOptions::default())
    }

    /// As [`start`](Self::start), with these options.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(options: ApiOptions) -> Option<ApiServer> {
        let programs = Programs::for_api()?;
        let dir = tempfile::Builder::new().prefix("mizzen-kube-").tempdir().expect("a folder");
        let started = Self::launch(&programs, options, dir.path());
        let mut server = started.unwrap_or_else(|why| panic!("{why}"));
        server._own = Some(dir);
        Some(server)
    }

    /// Starts one whose state is in a folder, and waits until it is ready.
    ///
    /// # Errors
    /// What failed, with the last words of the program that it was.
    pub fn launch(programs: &Programs, options: ApiOptions, dir: &Path) -> Result<ApiServer, String> {
        make_dir(dir)?;
        let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
        let certificates = Certificates::open(&dir.join("pki"), &[Ipv4Addr::LOCALHOST.into()])?;
        let store = Running::start(&programs.path("etcd"), &store(), &dir, &dir.join("etcd.log"))?;
        // Another program may take a free port before the server does.
        let mut attempts = 3;
        let (port, server) = loop {
            attempts -= 1;
            let port = free_port()?;
            let admin = certificates.client("admin", &["system:masters"])?;
            write(&dir.join("admin.kubeconfig"), certificates.kubeconfig(&url(port), &admin))?;
            match start_server(programs, &dir, port, &options) {
                Ok(server) => break (port, server),
                Err(why) if attempts > 0 && why.contains("address already in use") => {}
                Err(why) => return Err(why),
            }
        };
        let mut api = ApiServer {
            dir,
            programs: programs.clone(),
            certificates,
            options,
            port,
            controllers: None,
            server,
            _store: store,
            _own: None,
        };
        api.start_controllers()?;
        Ok(api)
    }

    /// Its folder, with its logs and keys.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its URL.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The file with the configuration of a client that may do everything.
    pub fn kubeconfig_file(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// The configuration of a client that may do everything.
    ///
    /// # Panics
    /// If its file is gone.
    pub fn kubeconfig(&self) -> String {
        std::fs::read_to_string(self.kubeconfig_file()).expect("a kubeconfig")
    }

    /// The configuration of a client with this name and at most one group, who may do what roles allow them.
    ///
    /// # Panics
    /// If its certificate cannot be made.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> String {
        let identity: Identity = self.certificates.client(user, groups).unwrap_or_else(|why| panic!("{why}"));
        self.certificates.kubeconfig(&self.url(), &identity)
    }

    /// Runs `kubectl` with this input, as somebody who may do everything.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Output {
        kubectl(&self.programs, &self.kubeconfig_file(), args, input).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Applies YAML.
    ///
    /// # Panics
    /// If the API server does not take it.
    pub fn apply(&self, yaml: &str) {
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], yaml).ok();
    }

    /// Kills it and leaves the store: clients see their watches and connections break, and no port that listens.
    pub fn outage(&mut self) {
        self.server.stop();
    }

    /// Lets it hang: connections stay, and nothing answers.
    pub fn hang(&self) {
        self.server.signal(Signal::SIGSTOP);
    }

    /// Ends [`hang`](Self::hang).
    pub fn go_on(&self) {
        self.server.signal(Signal::SIGCONT);
    }

    /// Starts it anew after an [`outage`](Self::outage), on the same port and store, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    pub fn back(&mut self) {
        self.server = start_server(&self.programs, &self.dir, self.port, &self.options).unwrap_or_else(|why| panic!("{why}"));
    }

    /// How the server ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.server.ended()
    }

    fn start_controllers(&mut self) -> Result<(), String> {
        if self.options.controllers.is_empty() {
            return Ok(());
        }
        let args = controllers(&self.dir, &self.kubeconfig_file(), self.options.controllers);
        let program = self.programs.path("kube-controller-manager");
        self.controllers = Some(Running::start(&program, &args, &self.dir, &self.dir.join("kube-controller-manager.log"))?);
        Ok(())
    }
}

/// Runs `kubectl` with this configuration and input.
pub(super) fn kubectl(programs: &Programs, kubeconfig: &Path, args: &[&str], input: &str) -> Result<Output, String> {
    let mut command = Command::new(programs.path("kubectl"));
    // What it caches belongs to one cluster, and not to whoever runs the test.
    command.arg("--kubeconfig").arg(kubeconfig).args(args).env("KUBECACHEDIR", kubeconfig.with_file_name("kubectl-cache"));
    run(command, input)
}

fn start_server(programs: &Programs, dir: &Path, port: u16, options: &ApiOptions) -> Result<Running, String> {
    let mut args = server(dir, Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into(), port);
    args.extend(options.args.iter().cloned());
    let mut server = Running::start(&programs.path("kube-apiserver"), &args, dir, &dir.join("kube-apiserver.log"))?;
    wait("the API server is not ready", || match kubectl(programs, &dir.join("admin.kubeconfig"), &["get", "--raw", "/readyz"], "") {
        Ok(output) if output.code == 0 => Ok(()),
        Ok(output) => Err(server.ended().map_or(Wait::NotYet(output.err), Wait::Never)),
        Err(why) => Err(Wait::Never(why)),
    })?;
    Ok(server)
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| error.to_string())
}

/// The name of etcd's socket, in the folder in which it and the API server are started. etcd wants the form of a host and a port.
const STORE: &str = "unix://store:0";

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|word| (*word).to_owned()).collect()
}

/// Arguments of etcd, which keeps its state in the current folder.
pub(super) fn store() -> Vec<String> {
    let (clients, itself) = (STORE, "http://127.0.0.1:1");
    // Nobody else is a member: the port for members is any, and the one that it tells them is never dialled.
    words(&[
        "--name=store",
        "--data-dir=etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        &format!("--listen-client-urls={clients}"),
        &format!("--advertise-client-urls={clients}"),
        "--listen-peer-urls=http://127.0.0.1:0",
        &format!("--initial-advertise-peer-urls={itself}"),
        &format!("--initial-cluster=store={itself}"),
    ])
}

/// Arguments of the API server, started in the store's folder.
pub(super) fn server(dir: &Path, bind: IpAddr, advertise: IpAddr, port: u16) -> Vec<String> {
    let pki = |name: &str| dir.join("pki").join(name).display().to_string();
    vec![
        format!("--etcd-servers={STORE}"),
        format!("--bind-address={bind}"),
        format!("--advertise-address={advertise}"),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
        format!("--kubelet-client-key={}", pki("kubelet-client.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        format!("--requestheader-client-ca-file={}", pki("ca.crt")),
        "--requestheader-allowed-names=front-proxy".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy.key")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
    ]
}

/// Arguments of the controllers, which find their keys in a folder.
pub(super) fn controllers(dir: &Path, kubeconfig: &Path, which: &str) -> Vec<String> {
    let pki = |name: &str| dir.join("pki").join(name).display().to_string();
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--use-service-account-credentials".to_owned(),
        format!("--service-account-private-key-file={}", pki("sa.key")),
        format!("--root-ca-file={}", pki("ca.crt")),
        format!("--cluster-signing-cert-file={}", pki("ca.crt")),
        format!("--cluster-signing-key-file={}", pki("ca.key")),
        format!("--flex-volume-plugin-dir={}", dir.join("volume-plugins").display()),
        "--leader-elect=false".to_owned(),
        // No server of its own, whose port several of them would want.
        "--secure-port=0".to_owned(),
        // Of all, those that ask a cloud are left out, and the one that gives nodes their ranges of addresses.
        format!("--controllers={which}{}", if which == "*" { ",-node-ipam-controller,-cloud-node-lifecycle-controller" } else { "" }),
        "--node-monitor-period=1s".to_owned(),
        "--node-monitor-grace-period=12s".to_owned(),
    ]
}
