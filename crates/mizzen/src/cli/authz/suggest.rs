//! `mizzen authz suggest`: from calls that were seen, the least policies that allow them.
//!
//! One ALLOW policy for each workload that was called, with a rule for each caller. What was refused is not allowed, and what is not in the log is not
//! known to be needed: a suggestion is read before it is applied.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use mizzen_api::core::Deployment;
use mizzen_explain::{Caller, Explainer, Inputs};
use mizzen_model::Snapshot;
use mizzen_types::SpiffeId;

use super::{
    logs::{Log, logs},
    place::{Passed, Places, PodId, recorded},
    record::{Ended, Line, Record},
};
use crate::cli::place::Where;
use crate::{
    cli::{output::print, state},
    up::say,
};

/// So many different paths of one caller of one workload are kept; a log with more is asked about with another `--paths`.
const PATHS: usize = 10_000;

/// Arguments of `authz suggest`.
#[derive(Debug, clap::Args)]
pub(crate) struct SuggestArgs {
    /// Access logs, as JSON or as text; `-` is standard input. Without any, those of all proxies of the running mesh.
    #[arg(value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// How paths are written down.
    #[arg(long, value_enum, default_value_t)]
    paths: Paths,
    /// Also refuse, in the namespaces of the workloads, all that no policy allows: workloads that were never called get no policy of their own and would
    /// stay open.
    #[arg(long)]
    deny_rest: bool,
    /// Only for workloads of this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// The workload whose proxy wrote the logs, where their addresses do not say it: POD, POD.NAMESPACE, or the name of its Deployment.
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,
    #[command(flatten)]
    of: state::From,
}

/// How paths are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Paths {
    /// Each path that was seen, and no other.
    #[default]
    Exact,
    /// Paths of one method that differ in their last part alone, as `/books/1` and `/books/2` do, become `/books/*`.
    Prefix,
    /// None: by the method alone.
    None,
}

/// Who was seen to call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Who {
    /// `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    Principal(String),
    /// Of whom nothing but the address is known.
    Address(String),
    /// Of whom nothing is known.
    Anybody,
}

/// What was done by one caller to one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Done {
    /// Paths by method.
    requests: BTreeMap<String, BTreeSet<String>>,
    /// Ports of connections.
    ports: BTreeSet<u16>,
}

/// A workload: its namespace, its name, and the labels that select it.
type Workload = (String, String, BTreeMap<String, String>);

/// What tells calls apart: who is called by whom, with which method and path, and at which port.
type Seen = (PodId, Who, Option<(String, String)>, u16);

/// Learns from records.
pub(crate) struct Suggest {
    explainer: Explainer,
    snapshot: Arc<Snapshot>,
    pub(crate) places: Places,
    paths: Paths,
    namespace: Option<String>,
    seen: HashSet<Seen>,
    found: BTreeMap<Workload, BTreeMap<Who, Done>>,
    counts: Counts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    records: u64,
    unplaced: u64,
    refused: u64,
    gateways: u64,
}

pub(crate) fn run(place: &Where, args: &SuggestArgs) -> Result<ExitCode> {
    let state = crate::cli::runtime(args.of.read(place))?;
    let mut suggest = Suggest::new(&state.snapshot, args.paths, args.namespace.clone());
    let whose = args.workload.as_deref().map(|name| state::find_pod(&state.snapshot, name, None)).transpose().context("--workload")?;
    let whose = whose.and_then(|pod| suggest.places.pod(&pod.meta.namespace, &pod.meta.name));
    for Log { name, pod, mut lines } in logs(&args.logs, state.mesh.as_ref())? {
        let whose = whose.or_else(|| pod.and_then(|(namespace, name)| suggest.places.pod(&namespace, &name)));
        super::logs::each(&name, &mut *lines, &mut |line| suggest.take(&line, whose))?;
    }
    for warning in suggest.warnings() {
        say::warning(&warning);
    }
    let text = suggest.yaml(args.deny_rest);
    if text.is_empty() {
        bail!("no record tells of a call that was allowed to a workload of the mesh");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Suggest {
    pub(crate) fn new(snapshot: &Arc<Snapshot>, paths: Paths, namespace: Option<String>) -> Suggest {
        Suggest {
            explainer: Explainer::new(snapshot),
            snapshot: snapshot.clone(),
            places: Places::new(snapshot),
            paths,
            namespace,
            seen: HashSet::new(),
            found: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// Learns from one line.
    ///
    /// # Errors
    /// If there are more different paths than anybody would review.
    pub(crate) fn take(&mut self, line: &Line, whose: Option<PodId>) -> Result<()> {
        let Line::Record(record) = line else { return Ok(()) };
        self.counts.records += 1;
        if record.ended() != Ended::Passed {
            self.counts.refused += 1;
            return Ok(());
        }
        let pods = match self.places.server(record, whose) {
            Ok(pods) => pods,
            Err(Passed::Client) => return Ok(()),
            Err(Passed::Nobody) => {
                self.counts.unplaced += 1;
                return Ok(());
            }
        };
        for pod in pods.iter() {
            self.learn(*pod, record)?;
        }
        Ok(())
    }

    fn learn(&mut self, id: PodId, record: &Record) -> Result<()> {
        let pod = self.places.pods[id].clone();
        if pod.is_gateway {
            // Who may come from outside is for people to say, not for a log.
            self.counts.gateways += 1;
            return Ok(());
        }
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != pod.namespace) {
            return Ok(());
        }
        let (caller, _) = self.places.caller(record);
        let who = who(&caller, record);
        let port = record.local.map_or(0, |local| local.port());
        let request =
            record.method.clone().zip(record.path.as_ref().map(|path| path.split(['?', '#']).next().unwrap_or_default().to_owned()));
        if !self.seen.insert((id, who.clone(), request.clone(), port)) {
            return Ok(());
        }
        let workload = (pod.namespace.clone(), pod.workload.clone(), self.labels(id));
        let Some((method, path)) = request else {
            self.found.entry(workload).or_default().entry(who).or_default().ports.insert(port);
            return Ok(());
        };
        // As policies see it: normalized.
        let call = recorded(record, caller, &Inputs::default());
        let path = self.explainer.seen_path(&pod.namespace, &pod.name, &call).unwrap_or(path);
        let paths = self.found.entry(workload).or_default().entry(who).or_default().requests.entry(method).or_default();
        if self.paths != Paths::None {
            paths.insert(path);
        }
        if paths.len() > PATHS {
            bail!(
                "one caller of {}.{} asks for more than {PATHS} different paths: nobody could review them; use --paths prefix or --paths none",
                pod.workload,
                pod.namespace
            );
        }
        Ok(())
    }

    /// The labels by which a policy selects a pod's workload and no other.
    fn labels(&self, id: PodId) -> BTreeMap<String, String> {
        let pod = &self.places.pods[id];
        let is_own = |deployment: &&Deployment| *deployment.meta.namespace == *pod.namespace && *deployment.meta.name == *pod.workload;
        if let Some(deployment) = self.snapshot.objects::<Deployment>().find(is_own)
            && !deployment.selector.is_empty()
        {
            return deployment.selector.labels.clone();
        }
        let is_made = |key: &str| key.contains("istio.io/") || key == "pod-template-hash";
        pod.labels.iter().filter(|(key, _)| !is_made(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let Counts { records, unplaced, refused, gateways } = self.counts;
        let mut said = Vec::new();
        if unplaced > 0 {
            said.push(format!("{unplaced} of {records} records are left out: no workload has their address"));
        }
        if refused > 0 {
            said.push(format!("{refused} of {records} records tell of calls that were refused: they are not allowed"));
        }
        if gateways > 0 {
            said.push(format!("{gateways} of {records} records are of gateways: who may come from outside is not told by a log"));
        }
        let vague = self.found.iter().filter(|(_, callers)| callers.keys().any(|who| !matches!(who, Who::Principal(_))));
        said.extend(vague.map(|((namespace, name, _), _)| {
            format!(
                "{name}.{namespace} is called by somebody without an identity: the rule goes by the address, which is no proof of who it is"
            )
        }));
        for ((namespace, name, _), callers) in self.found.iter().filter(|_| self.paths != Paths::None) {
            let paths = callers.values().flat_map(|done| done.requests.values().flatten());
            said.extend(paths.filter(|path| path.contains('*')).map(|path| {
                format!("{name}.{namespace} was asked for {path}: no policy can write its star, and all that begins as it does before it is allowed")
            }));
        }
        said
    }

    /// The policies as YAML; empty if nothing was seen.
    pub(crate) fn yaml(&self, deny_rest: bool) -> String {
        let mut out = String::new();
        let mut names = BTreeSet::new();
        for ((namespace, workload, labels), callers) in &self.found {
            let mut name = format!("{workload}-seen");
            while !names.insert((namespace.clone(), name.clone())) {
                name += "-too";
            }
            let callers = callers.iter().map(|(who, done)| (who.clone(), done.written(self.paths))).collect();
            out += &policy(namespace, &name, labels, &callers);
        }
        if out.is_empty() {
            return out;
        }
        let namespaces: BTreeSet<&String> = self.found.keys().map(|(namespace, ..)| namespace).collect();
        for namespace in namespaces.into_iter().filter(|_| deny_rest) {
            out += &format!(
                "---\n# What no policy allows is refused.\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  \
                 name: allow-nothing\n  namespace: {}\nspec: {{}}\n",
                quoted(namespace)
            );
        }
        format!(
            "# What was seen to be called is allowed, and no more. Made from {} records; read it before you apply it.\n{out}",
            self.counts.records
        )
    }
}

impl Done {
    /// The same with its paths as patterns of a policy.
    fn written(&self, paths: Paths) -> Done {
        let written = |seen: &BTreeSet<String>| -> BTreeSet<String> {
            let seen = if paths == Paths::Prefix { collapsed(seen) } else { seen.clone() };
            seen.iter().map(|path| pattern(path)).collect()
        };
        Done { requests: self.requests.iter().map(|(method, seen)| (method.clone(), written(seen))).collect(), ports: self.ports.clone() }
    }
}

/// Where several paths differ in their last part alone, all of that kind. What lies at the root stays: `/*` would be everything.
fn collapsed(paths: &BTreeSet<String>) -> BTreeSet<String> {
    let parent = |path: &str| path.rsplit_once('/').map(|(parent, _)| parent.to_owned()).filter(|parent| !parent.is_empty());
    let mut children: BTreeMap<String, usize> = BTreeMap::new();
    paths.iter().filter_map(|path| parent(path)).for_each(|parent| *children.entry(parent).or_default() += 1);
    let of = |path: &String| match parent(path) {
        Some(parent) if children.get(&parent).is_some_and(|count| *count > 1) => format!("{parent}/*"),
        _ => path.clone(),
    };
    paths.iter().map(of).collect()
}

/// A path as a policy writes it. A policy has no way to write a star that stands for itself: such a path is written as the prefix before it.
fn pattern(path: &str) -> String {
    match path.find('*') {
        Some(at) => format!("{}*", path[..at].trim_end_matches('{')),
        None => path.to_owned(),
    }
}

fn who(caller: &Caller, record: &Record) -> Who {
    let principal = |id: &SpiffeId| id.to_string().trim_start_matches("spiffe://").to_owned();
    match (caller, record.remote.filter(|remote| remote.port() != 0)) {
        (Caller::Known(id), _) => Who::Principal(principal(id)),
        (_, Some(remote)) => Who::Address(remote.ip().to_string()),
        (_, None) => Who::Anybody,
    }
}

fn policy(namespace: &str, name: &str, labels: &BTreeMap<String, String>, callers: &BTreeMap<Who, Done>) -> String {
    let mut out = format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n",
        quoted(name),
        quoted(namespace)
    );
    if !labels.is_empty() {
        out += "  selector:\n    matchLabels:\n";
        for (key, value) in labels {
            out += &format!("      {}: {}\n", quoted(key), quoted(value));
        }
    }
    out += "  action: ALLOW\n  rules:\n";
    for (who, done) in callers {
        out += &rule(who, done);
    }
    out
}

fn rule(who: &Who, done: &Done) -> String {
    let mut lines = match who {
        Who::Principal(id) => vec!["from:".to_owned(), "- source:".to_owned(), format!("    principals: [{}]", quoted(id))],
        Who::Address(ip) => vec!["from:".to_owned(), "- source:".to_owned(), format!("    ipBlocks: [{}]", quoted(ip))],
        Who::Anybody => vec!["# Nothing tells who this was: name the callers.".to_owned()],
    };
    lines.push("to:".to_owned());
    // Methods that go to the same paths share an operation.
    let mut by_paths: BTreeMap<&BTreeSet<String>, Vec<&String>> = BTreeMap::new();
    for (method, paths) in &done.requests {
        by_paths.entry(paths).or_default().push(method);
    }
    for (paths, methods) in by_paths {
        lines.push("- operation:".to_owned());
        let methods: Vec<String> = methods.into_iter().map(|method| quoted(method)).collect();
        lines.push(format!("    methods: [{}]", methods.join(", ")));
        if !paths.is_empty() {
            lines.push("    paths:".to_owned());
            lines.extend(paths.iter().map(|path| format!("    - {}", quoted(path))));
        }
    }
    if !done.ports.is_empty() {
        let ports: Vec<String> = done.ports.iter().map(|port| quoted(&port.to_string())).collect();
        lines.push("- operation:".to_owned());
        lines.push(format!("    ports: [{}]", ports.join(", ")));
    }
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        out += &format!("  {} {line}\n", if at == 0 { "-" } else { " " });
    }
    out
}

/// A text as YAML: what JSON quotes, YAML does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
