//! `mizzen-cni agent`: the DaemonSet `istio-cni-node`, one on each node.

use std::{
    io::ErrorKind,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use mizzen_types::ports;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use super::{
    PLUGIN,
    ask::{self, Pods, Question},
    install::Installer,
    plugin::ANNOTATIONS,
    repair::{Mode, Repair},
    serve::{self, Metrics},
    wanted::Annotations,
};

/// How often it is looked whether the node is as it is to be.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the API server is asked for a pod: what starts a pod may know it before whoever is asked.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(500);
/// How long the API server may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// After how long it is asked again whether the DaemonSet is gone. With both answers it is within the time in which the agent's pod ends.
const LASTS: Duration = Duration::from_secs(3);

/// What sets the capture of pods from their node: `agent` installs the plugin and mends pods; the plugin itself is called by a container runtime.
#[derive(Debug, Parser)]
#[command(name = "mizzen-cni", version, max_term_width = 100)]
struct CniArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Install the plugin on this node, keep it installed, and mend pods that have started without it. In a pod of a DaemonSet, until SIGTERM.
    Agent(AgentArgs),
}

/// Arguments of `agent`.
#[derive(Debug, clap::Args)]
struct AgentArgs {
    /// The node's folder of configurations of networks, as it is seen here.
    #[arg(long, value_name = "DIR", default_value = "/host/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The file among them to whose plugins this one is added; without it the first, which is the one that a runtime takes.
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    conf_file: Option<String>,
    /// The node's folder of plugins, as it is seen here.
    #[arg(long, value_name = "DIR", default_value = "/host/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The folder for the socket at which the plugin asks, of one name here and on the node.
    #[arg(long, value_name = "DIR", default_value = "/var/run/istio-cni")]
    run_dir: PathBuf,
    /// Namespaces whose pods are left alone, with commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "kube-system")]
    exclude_namespaces: Vec<String>,
    /// What is done about pods that have started without their capture.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Mode::Repair)]
    repair: Mode,
    /// The node's /proc, as it is seen here.
    #[arg(long, value_name = "DIR", default_value = "/host/proc")]
    proc: PathBuf,
    /// The node's name.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: String,
    /// The agent's own namespace.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "istio-system")]
    namespace: String,
    /// The DaemonSet to which the agent belongs: when that goes, the plugin goes.
    #[arg(long, value_name = "NAME", default_value = "istio-cni-node")]
    daemon_set: String,
    /// The port of /readyz.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    probe_port: u16,
    /// The port of /metrics.
    #[arg(long, value_name = "PORT", default_value_t = ports::MONITORING)]
    monitoring_port: u16,
    /// What is logged, as Istio writes it; `MIZZEN_LOG` says it more finely.
    #[arg(long = "log_output_level", value_name = "SCOPE:LEVEL", default_value = "default:info")]
    log_level: String,
}

fn file_name(text: &str) -> Result<String, String> {
    match super::conf::Form::of(text) {
        Some(_) if !text.contains('/') => Ok(text.to_owned()),
        _ => Err("must be the name of a .conf, .json or .conflist".to_owned()),
    }
}

/// Runs it.
pub(super) fn main() -> ExitCode {
    let CniArgs { verb: Verb::Agent(args) } = CniArgs::parse();
    crate::programs::exit("mizzen-cni agent", run(args))
}

fn run(args: AgentArgs) -> Result<()> {
    let level = crate::programs::pod::agent_level(&args.log_level)?;
    crate::programs::log_to(Some(&std::env::var("MIZZEN_LOG").unwrap_or(level)), None)?;
    mizzen_net::keep_little_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(args))
}

/// The plugin's entry in a configuration of a network.
fn entry(args: &AgentArgs) -> Value {
    json!({
        "type": PLUGIN,
        "capabilities": { ANNOTATIONS: true },
        "cni_agent_run_dir": args.run_dir,
        "exclude_namespaces": excluded(args),
        "pod_namespace": args.namespace,
    })
}

fn excluded(args: &AgentArgs) -> Vec<String> {
    args.exclude_namespaces.iter().filter(|name| !name.is_empty()).cloned().collect()
}

async fn work(args: AgentArgs) -> Result<()> {
    let stopped = crate::programs::stopped()?;
    let mut config = Config::incluster().context("the agent runs in a pod")?;
    config.connect_timeout = Some(ANSWER);
    let client = Client::try_from(config).context("no client for the cluster")?;
    let program = std::env::current_exe().context("the agent's own program")?;
    let metrics = Metrics::new()?;
    let mut installer = Installer::new(args.conf_dir.clone(), args.bin_dir.clone(), program, entry(&args));
    installer.conf_file = args.conf_file.clone();
    let socket = ask::listen(&args.run_dir).with_context(|| args.run_dir.display().to_string())?;
    // Whoever was killed may hold its ports a moment longer than its place in the node's network.
    let any = mizzen_net::any_address();
    let bind = async |port: u16| {
        let until = Instant::now() + PATIENCE;
        loop {
            let options = mizzen_net::ListenOptions { dual_stack: true, ..mizzen_net::ListenOptions::default() };
            match mizzen_net::listen((any, port).into(), &options).and_then(TcpListener::from_std) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => tokio::time::sleep(AGAIN).await,
                bound => return bound.with_context(|| format!("port {port}")),
            }
        }
    };
    let (probes, monitoring) = (bind(args.probe_port).await?, bind(args.monitoring_port).await?);
    let pods = Arc::new(Cluster { client: client.clone(), node: args.node.clone() });
    let repair = Repair {
        client: client.clone(),
        node: args.node.clone(),
        mode: args.repair,
        excluded: excluded(&args),
        proc: args.proc.clone(),
        metrics: metrics.clone(),
    };
    let gone = AtomicBool::new(false);
    tokio::select! {
        () = stopped => {}
        () = follow_own(client.clone(), &args, &gone) => anyhow::bail!("the agent's DaemonSet is not followed any more"),
        () = keep(&mut installer, &metrics) => {}
        () = ask::answer(socket, pods) => {}
        () = repair.run() => anyhow::bail!("the node's pods are not followed any more"),
        served = serve::serve(probes, monitoring, metrics.clone()) => served.context("serving readiness and metrics")?,
    }
    if gone.load(Ordering::Relaxed) || is_uninstalled(client, &args).await {
        let done = installer.remove().map_err(anyhow::Error::msg).context("the plugin cannot be removed from this node")?;
        done.iter().for_each(|file| tracing::info!(file, "it is as it was before the plugin"));
    } else {
        tracing::info!("the agent stops, and the plugin stays: pods are captured while another agent starts");
    }
    Ok(())
}

/// Keeps the plugin installed for as long as it is polled.
async fn keep(installer: &mut Installer, metrics: &Metrics) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        look.tick().await;
        match installer.install() {
            Ok(done) => {
                if !done.is_empty() {
                    metrics.installs.with_label_values(&["SUCCESS"]).inc();
                }
                done.iter().for_each(|file| tracing::info!(file, "it is written"));
                if metrics.set_ready(true) {
                    tracing::info!("the plugin is installed");
                }
                last.clear();
            }
            Err(why) => {
                metrics.set_ready(false);
                if why != last {
                    metrics.installs.with_label_values(&["FAILURE"]).inc();
                    tracing::warn!(why, "the plugin is not installed yet");
                }
                last = why;
            }
        }
    }
}

/// Follows the agent's DaemonSet for as long as it is polled: when that goes, the agent's rights and its account may go before the agent is told to stop.
async fn follow_own(client: Client, args: &AgentArgs, gone: &AtomicBool) {
    let api: Api<DaemonSet> = Api::namespaced(client, &args.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", args.daemon_set));
    let stream = watcher(api, config).default_backoff();
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Apply(set) | watcher::Event::InitApply(set)) => {
                gone.store(set.metadata.deletion_timestamp.is_some(), Ordering::Relaxed);
            }
            Ok(watcher::Event::Delete(_)) => gone.store(true, Ordering::Relaxed),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!(reason = super::chain(&error), "the agent's DaemonSet cannot be followed"),
        }
    }
}

/// Whether the agent stops because it is not to be any more, and not to be replaced. An agent that cannot know leaves the plugin: pods that are not the
/// mesh's start with it, whoever is there.
async fn is_uninstalled(client: Client, args: &AgentArgs) -> bool {
    let api: Api<DaemonSet> = Api::namespaced(client, &args.namespace);
    let asked = async || match timeout(ANSWER, api.get_metadata(&args.daemon_set)).await {
        Ok(Ok(found)) => Ok(found.metadata.deletion_timestamp.is_some()),
        Ok(Err(error)) => is_gone(&error).ok_or_else(|| mizzen_control::cluster_error(&error)),
        Err(_) => Err(format!("no answer within {ANSWER:?}")),
    };
    let mut is = asked().await;
    // An API server that has just started knows no rights yet: what it says must last.
    if is == Ok(true) {
        tokio::time::sleep(LASTS).await;
        is = asked().await;
    }
    is.unwrap_or_else(|why| {
        tracing::warn!(why, daemon_set = args.daemon_set, "whether the agent is removed or replaced is not known");
        false
    })
}

/// What an error says of the DaemonSet: that it is gone, or the agent's rights are, which only go with it; `None`: nothing. A token that is not taken
/// any more tells of the agent's pod alone, which may have been deleted by force.
fn is_gone(error: &kube::Error) -> Option<bool> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 403 | 404) => Some(true),
        _ => None,
    }
}

/// The API server, asked for pods of one node.
struct Cluster {
    client: Client,
    node: String,
}

impl Pods for Cluster {
    async fn annotations(&self, question: Question) -> Result<Annotations, String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &question.namespace);
        let one = ListParams::default().fields(&format!("metadata.name={},spec.nodeName={}", question.name, self.node));
        let until = Instant::now() + PATIENCE;
        loop {
            let found = timeout(ANSWER, api.list(&one)).await.map_err(|_| format!("the API server has not answered within {ANSWER:?}"))?;
            let found = found.map_err(|error| mizzen_control::cluster_error(&error))?;
            if let Some(annotations) = found.items.into_iter().find_map(|pod| of(pod, &question)) {
                return Ok(annotations);
            }
            if Instant::now() >= until {
                return Err(format!("there is no pod {}/{} on node {}", question.namespace, question.name, self.node));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// The annotations of a pod, if it is the one that is meant.
fn of(pod: Pod, question: &Question) -> Option<Annotations> {
    let annotations = pod.metadata.annotations.unwrap_or_default();
    // What the node has from a file has another UID there.
    let is_mirror = annotations.contains_key("kubernetes.io/config.mirror");
    let is_it = is_mirror || question.uid.is_none() || question.uid == pod.metadata.uid;
    is_it.then_some(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<AgentArgs, String> {
        let words = ["mizzen-cni", "agent", "--node", "n1"].into_iter().chain(line.split_whitespace());
        CniArgs::try_parse_from(words).map(|CniArgs { verb: Verb::Agent(args) }| args).map_err(|error| error.to_string())
    }

    #[test]
    fn flags() {
        let of = |line: &str| {
            let entry = entry(&args(line).unwrap());
            (entry["exclude_namespaces"].clone(), entry["pod_namespace"].clone())
        };
        assert_eq!(of(""), (json!(["kube-system"]), json!("istio-system")));
        assert_eq!(of("--exclude-namespaces a,b --namespace mesh"), (json!(["a", "b"]), json!("mesh")));
        assert_eq!(of("--exclude-namespaces=").0, json!([]));
        assert_eq!(args("--repair label").unwrap().repair, Mode::Label);
        for (line, why) in [("--repair mend", "mend"), ("--conf-file ../a.conf", "must be the name"), ("--conf-file a", "must be the name")]
        {
            assert!(args(line).unwrap_err().contains(why), "{line}");
        }
    }

    #[test]
    fn which_pod_is_meant() {
        let question = |uid: Option<&str>| Question { namespace: "shop".into(), name: "a".into(), uid: uid.map(str::to_owned) };
        let pod = |annotations: Value| -> Pod {
            serde_json::from_value(json!({ "metadata": { "uid": "1", "annotations": annotations } })).unwrap()
        };
        let found = |annotations: Value, uid: Option<&str>| of(pod(annotations), &question(uid)).is_some();
        assert!(found(json!({}), Some("1")) && found(json!({}), None) && !found(json!({}), Some("2")));
        assert!(found(json!({ "kubernetes.io/config.mirror": "x" }), Some("2")));
    }

    #[test]
    fn when_the_plugin_goes() {
        let said = |code: u16| is_gone(&kube::Error::Api(Box::new(kube::core::Status { code, ..kube::core::Status::default() })));
        assert_eq!([404, 403, 401, 500, 429].map(said), [Some(true), Some(true), None, None, None]);
    }
}
