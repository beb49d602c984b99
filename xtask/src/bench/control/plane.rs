//! The control plane as a process: started, asked for certificates, measured, ended.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::AsRawFd, fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mizzen_net::ConnectOptions;
use mizzen_pki::{KeyPair, Svid, TrustBundle};
use mizzen_testkit::Memory;
use nix::{
    sys::signal::{Signal, kill},
    time::ClockId,
    unistd::Pid,
};
use rustls::ClientConfig;

use super::{
    grpc::{self, Target},
    mesh::Place,
    wire::{CertificateRequest, CertificateResponse},
};

/// How long it may take to read everything.
const START: Duration = Duration::from_secs(300);
const ANSWER: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);
/// The name by which agents dial.
const NAME: &str = "istiod.istio-system.svc";

/// A process that is measured. It ends with this.
pub(in crate::bench) struct Process {
    child: Child,
}

impl Process {
    pub(in crate::bench) fn start(program: &Path, prepare: impl FnOnce(&mut Command)) -> Result<Process> {
        // What is killed with all its might shall leave nothing running.
        let mut command = match super::super::find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        prepare(&mut command);
        let child = command.spawn().with_context(|| program.display().to_string())?;
        Ok(Process { child })
    }

    pub(in crate::bench) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id())?)
    }

    /// CPU time, as [`mizzen_testkit::cpu`] has it.
    pub(in crate::bench) fn cpu(&self) -> Result<Duration> {
        Ok(mizzen_testkit::cpu(self.pid()?)?)
    }

    /// What it holds; the peak is the most since [`Process::forget_peak`].
    pub(in crate::bench) fn memory(&self) -> Result<Memory> {
        Ok(mizzen_testkit::memory(self.pid()?)?)
    }

    /// From now on the peak is one of what follows.
    pub(in crate::bench) fn forget_peak(&self) {
        // Where the kernel does not let us, the peak is one of the process's whole life, which is more and never less.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    fn running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it has ended ({status})"),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process.
pub(super) fn own_cpu() -> Result<Duration> {
    Ok(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?.into())
}

/// How one is started, again and again: with the same keys at the same port.
pub(super) struct Setup {
    program: PathBuf,
    dir: PathBuf,
    source: Source,
    ports: [u16; 2],
}

/// What it follows.
enum Source {
    /// A folder; its keys are in a file of memory.
    Folder { config: PathBuf, state: OwnedFd },
    /// A cluster, by a kubeconfig.
    Cluster(PathBuf),
}

impl Setup {
    pub(super) fn new(binary: &Path, dir: &Path, config: &Path) -> Result<Setup> {
        let state = mizzen_net::memfd("bench-state", b"", false)?;
        mizzen_net::inheritable(&state)?;
        Setup::of(binary, dir, Source::Folder { config: config.to_owned(), state })
    }

    /// One that follows a cluster.
    pub(super) fn of_cluster(binary: &Path, dir: &Path, kubeconfig: &Path) -> Result<Setup> {
        Setup::of(binary, dir, Source::Cluster(kubeconfig.to_owned()))
    }

    fn of(binary: &Path, dir: &Path, source: Source) -> Result<Setup> {
        let program = dir.join("mizzend");
        // The binary chooses by its name; a relative path would mean another place from there.
        symlink(fs::canonicalize(binary).with_context(|| binary.display().to_string())?, &program)?;
        Ok(Setup { program, dir: dir.to_owned(), source, ports: free_ports()? })
    }

    pub(super) fn target(&self) -> Target {
        Target::new(self.ports[0], NAME)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("mizzend.log")
    }

    /// The last lines of its log.
    pub(super) fn said(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Starts it as `mizzen up` does, and waits until it serves.
    pub(super) async fn start(&self) -> Result<Plane> {
        let process = Process::start(&self.program, |command| {
            match &self.source {
                Source::Folder { config, state } => {
                    command.arg("--config-dir").arg(config).arg("--last-good").arg(self.dir.join("last-good"));
                    command.args(["--state-fd", &state.as_raw_fd().to_string()]);
                }
                Source::Cluster(kubeconfig) => {
                    command.args(["--kubernetes", "--address", "127.0.0.1", "--webhook-port", "0", "--debug-port", "0", "--kubeconfig"]);
                    command.arg(kubeconfig);
                }
            }
            command.args(["--xds-port", &self.ports[0].to_string(), "--monitoring-port", &self.ports[1].to_string()]);
            command.arg("--socket-dir").arg(&self.dir);
            command.arg("--root-cert-file").arg(self.dir.join("root.pem"));
            command.env("MIZZEN_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::null());
            let log = File::options().create(true).append(true).open(self.log());
            command.stderr(log.map_or_else(|_| Stdio::null(), Stdio::from));
        })?;
        let mut plane = Plane { process, begun: Instant::now() };
        let monitoring = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[1]));
        loop {
            let options = ConnectOptions::default();
            let answer = mizzen_net::fetch_tcp(monitoring, http::Method::GET, "/ready", "", ANSWER, &options).await;
            if answer.is_ok_and(|answer| answer.status.is_success()) {
                return Ok(plane);
            }
            plane.process.running().with_context(|| self.said())?;
            if plane.begun.elapsed() > START {
                bail!("it is not ready within {} s: {}", START.as_secs(), self.said());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What its files have refused, if anything: a load that is not what it seems is no load.
    pub(super) fn complaints(&self) -> Result<()> {
        let said = self.said();
        if said.contains("refused") || said.contains("no effect") {
            bail!("the control plane does not like the load: {said}");
        }
        Ok(())
    }

    /// A certificate for a proxy, in the way that agents get theirs.
    pub(super) async fn certificate(&self, place: &Place) -> Result<Svid> {
        let wanted =
            serde_json::json!({"namespace": place.namespace, "service_account": place.app, "pod": place.app, "audience": "istio-ca"});
        let socket = self.dir.join("token.sock");
        let reply = mizzen_net::fetch_unix(&socket, http::Method::POST, "/token", wanted.to_string(), ANSWER).await?;
        if !reply.status.is_success() {
            bail!("no token: {}", String::from_utf8_lossy(&reply.body).trim());
        }
        let answer: serde_json::Value = serde_json::from_slice(&reply.body)?;
        self.certificate_for(answer["token"].as_str().context("no token in the answer")?).await
    }

    /// A certificate for whom a token is.
    pub(super) async fn certificate_for(&self, token: &str) -> Result<Svid> {
        let key = KeyPair::generate()?;
        let request = CertificateRequest { csr: key.csr(None)? };
        let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
        let target = self.target();
        let call = grpc::unary(&target, self.tls(None)?, path, token, &request);
        let answer: CertificateResponse = tokio::time::timeout(ANSWER, call).await.context("no answer in time")??;
        Ok(Svid::from_chain(&answer.chain, &key)?)
    }

    /// The client's side of TLS, which believes the root that was written for agents.
    pub(super) fn tls(&self, svid: Option<&Svid>) -> Result<Arc<ClientConfig>> {
        grpc::tls(svid, &TrustBundle::from_pem(&fs::read(self.dir.join("root.pem"))?)?)
    }
}

/// One that is running.
pub(super) struct Plane {
    pub(super) process: Process,
    pub(super) begun: Instant,
}

impl Plane {
    /// Ends it with words to its clients.
    pub(super) async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.process.pid()?), Signal::SIGTERM)?;
        let begun = Instant::now();
        while self.process.child.try_wait()?.is_none() {
            if begun.elapsed() > STOP {
                bail!("the control plane does not end within {} s", STOP.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub(super) fn running(&mut self) -> Result<()> {
        self.process.running().context("the control plane")
    }
}

/// Two ports that nobody listens on. Somebody could take them before they are used, which is told then.
fn free_ports() -> Result<[u16; 2]> {
    let listeners = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()])
}
