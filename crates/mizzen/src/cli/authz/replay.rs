//! `mizzen authz replay`: recorded calls, judged by policies that are not in force yet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use mizzen_api::{Key, Object};
use mizzen_explain::{Caller, Explainer, Inputs, Recorded, Replayed, place_of, rule_names};
use mizzen_model::{Change, Snapshot};
use serde::Serialize;

use super::{
    logs::{Log, logs},
    place::{Passed, Places, PodId, recorded},
    record::{Ended, Line, Record},
};
use crate::cli::place::Where;
use crate::cli::{
    output::{Form, print, render_form, table},
    state,
};

/// So many distinct calls are remembered with their decision; of more, some are decided again.
const REMEMBERED: usize = 100_000;
/// So many different changes are listed; more are only counted.
const LISTED: usize = 1_000;
/// The exit code if something that was allowed would be refused,
const LOST: u8 = 1;
/// and if nothing would, but something is unknown.
const UNKNOWN: u8 = 2;

/// Arguments of `authz replay`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 if all that was allowed would be allowed, 1 if something would be refused, 2 if nothing would but of something that \
cannot be told (a record does not hold claims, most headers, and in Istio's line of text the caller), 3 if the replay fails."
)]
pub(crate) struct ReplayArgs {
    /// A file or folder with the policies to try. They come beside the present ones, and in the place of those with the same name.
    #[arg(long = "policy", value_name = "FILE", required = true)]
    policies: Vec<PathBuf>,
    /// The policies to try in the place of all present AuthorizationPolicies, not beside them.
    #[arg(long)]
    replace: bool,
    /// Access logs, as JSON or as text; `-` is standard input. Without any, those of all proxies of the running mesh.
    #[arg(value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// The workload whose proxy wrote the logs, where their addresses do not say it: POD, POD.NAMESPACE, or the name of its Deployment.
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,
    #[command(flatten)]
    of: state::From,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// What a replay has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Records that were read.
    pub(crate) records: u64,
    /// Calls that differ in something that policies look at.
    pub(crate) decisions: u64,
    /// Records of calls that would go on as they did.
    pub(crate) still_allowed: u64,
    pub(crate) still_refused: u64,
    /// Records that would go another way.
    pub(crate) would_be_refused: u64,
    pub(crate) would_be_allowed: u64,
    /// Records of which it cannot be told: of calls that were allowed, and of those that were refused.
    pub(crate) unknown_of_allowed: u64,
    pub(crate) unknown_of_refused: u64,
    /// Records that policies have no part in.
    pub(crate) skipped: Skipped,
    /// Callers that were found by their address alone.
    pub(crate) callers_by_address: u64,
    /// What would change, and what is unknown; the most frequent first.
    pub(crate) changes: Vec<Changed>,
    /// Records of changes that are not listed, since there are too many different ones.
    pub(crate) not_listed: u64,
}

/// Lines that are not judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Skipped {
    /// Of the client's side.
    pub(crate) client_side: u64,
    /// Refused before policies were asked.
    pub(crate) refused_before: u64,
    /// No record at all.
    pub(crate) other_lines: u64,
    /// Damaged records.
    pub(crate) damaged: u64,
}

/// One change, of all records that are alike in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changed {
    pub(crate) kind: Kind,
    pub(crate) count: u64,
    pub(crate) workload: String,
    pub(crate) caller: String,
    pub(crate) call: String,
    pub(crate) why: String,
}

/// What would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    WouldBeRefused,
    UnknownOfAllowed,
    WouldBeAllowed,
    UnknownOfRefused,
}

/// Judges records, each distinct call once.
pub(crate) struct Replay {
    before: Explainer,
    after: Explainer,
    /// Of which snapshot the proposed rules are.
    proposed: Arc<Snapshot>,
    pub(crate) places: Places,
    inputs: HashMap<Arc<[PodId]>, Arc<Inputs>>,
    known: HashMap<Call, Outcome>,
    /// So many of them are kept.
    most: usize,
    changes: HashMap<(Kind, String, String, String, String), u64>,
    pub(crate) report: Report,
}

type Call = (Arc<[PodId]>, Recorded, Ended);

/// A decision, and why.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Allowed,
    Refused(String),
    Unknown(String),
}

pub(crate) fn run(place: &Where, args: &ReplayArgs) -> Result<ExitCode> {
    let state = crate::cli::runtime(args.of.read(place))?;
    let proposed = propose(&state.snapshot, &args.policies, args.replace)?;
    let mut replay = Replay::new(&state.snapshot, &proposed);
    let whose = args.workload.as_deref().map(|name| state::find_pod(&state.snapshot, name, None)).transpose().context("--workload")?;
    let whose = whose.and_then(|pod| replay.places.pod(&pod.meta.namespace, &pod.meta.name));
    for Log { name, pod, mut lines } in logs(&args.logs, state.mesh.as_ref())? {
        let whose = whose.or_else(|| pod.and_then(|(namespace, name)| replay.places.pod(&namespace, &name)));
        super::logs::each(&name, &mut *lines, &mut |line| {
            replay.take(&line, whose);
            Ok(())
        })?;
    }
    let report = replay.finish();
    print(&render_form(args.output, &report, || text(&report))?)?;
    Ok(ExitCode::from(report.code()))
}

/// The mesh with the proposed policies in force.
fn propose(present: &Arc<Snapshot>, files: &[PathBuf], replace: bool) -> Result<Arc<Snapshot>> {
    if let Some(path) = files.iter().find(|path| !path.exists()) {
        bail!("--policy {}: there is no such file or folder", path.display());
    }
    let loaded = mizzen_control::source::load_once(files);
    if !loaded.problems.is_empty() {
        let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
        bail!("--policy: what is refused cannot be tried\n{}", problems.join("\n"));
    }
    let is_policy = |object: &Object| matches!(object.kind(), mizzen_api::Kind::AuthorizationPolicy | mizzen_api::Kind::PeerAuthentication);
    if let Some(other) = loaded.objects.iter().find(|object| !is_policy(object)) {
        bail!("--policy: {} is no AuthorizationPolicy or PeerAuthentication; what a mesh is made of is given with -f", other.key());
    }
    if loaded.objects.is_empty() {
        bail!("--policy: there is no policy in it");
    }
    let old = |key: &Key| replace && key.kind == mizzen_api::Kind::AuthorizationPolicy;
    let removed: Vec<Change> = present.keys().filter(|key| old(key)).map(Change::Delete).collect();
    Ok(present.apply(removed.into_iter().chain(loaded.objects.into_iter().map(Change::Apply))))
}

impl Replay {
    pub(crate) fn new(present: &Arc<Snapshot>, proposed: &Arc<Snapshot>) -> Replay {
        Replay {
            before: Explainer::new(present),
            after: Explainer::new(proposed),
            proposed: proposed.clone(),
            places: Places::new(present),
            inputs: HashMap::new(),
            known: HashMap::new(),
            most: REMEMBERED,
            changes: HashMap::new(),
            report: Report::default(),
        }
    }

    /// Judges one line. `whose` is the pod whose proxy wrote it, if that is known.
    pub(crate) fn take(&mut self, line: &Line, whose: Option<PodId>) {
        match line {
            Line::Record(record) => self.record(record, whose),
            Line::Damaged => self.report.skipped.damaged += 1,
            Line::Other => self.report.skipped.other_lines += 1,
        }
    }

    fn record(&mut self, record: &Record, whose: Option<PodId>) {
        self.report.records += 1;
        let ended = record.ended();
        if ended == Ended::Before {
            self.report.skipped.refused_before += 1;
            return;
        }
        let (caller, by_address) = self.places.caller(record);
        self.report.callers_by_address += u64::from(by_address);
        let pods = match self.places.server(record, whose) {
            Ok(pods) => pods,
            Err(Passed::Client) => return self.report.skipped.client_side += 1,
            Err(Passed::Nobody) => {
                return self.count(
                    &[].into(),
                    &caller,
                    record,
                    ended,
                    &Outcome::Unknown("whose record it is: no workload has its address".to_owned()),
                );
            }
        };
        let inputs = self.inputs(&pods);
        let call = (pods, recorded(record, caller, &inputs), ended);
        let outcome = match self.known.get(&call) {
            Some(known) => known.clone(),
            None => {
                let outcome = self.decide(&call);
                self.report.decisions += 1;
                if self.known.len() >= self.most {
                    self.known.clear();
                }
                self.known.insert(call.clone(), outcome.clone());
                outcome
            }
        };
        let (pods, recorded, _) = call;
        self.count(&pods, &recorded.caller, record, ended, &outcome);
    }

    /// What the policies of a workload look at, before and after.
    fn inputs(&mut self, pods: &Arc<[PodId]>) -> Arc<Inputs> {
        if let Some(known) = self.inputs.get(pods) {
            return known.clone();
        }
        let mut all = Inputs::default();
        for pod in pods.iter().filter_map(|id| self.places.pods.get(*id)) {
            for explainer in [&mut self.before, &mut self.after] {
                let found = explainer.inputs(&pod.namespace, &pod.name);
                all.headers.extend(found.headers);
                all.addresses |= found.addresses;
            }
        }
        let all = Arc::new(all);
        self.inputs.insert(pods.clone(), all.clone());
        all
    }

    fn decide(&mut self, (pods, call, ended): &Call) -> Outcome {
        let mut outcome = None;
        for pod in pods.iter() {
            let found = self.decide_at(*pod, call, *ended);
            match &outcome {
                None => outcome = Some(found),
                Some(known) if std::mem::discriminant(known) == std::mem::discriminant(&found) => {}
                Some(_) => return Outcome::Unknown("which of the service's workloads was called: they decide differently".to_owned()),
            }
        }
        outcome.unwrap_or_else(|| Outcome::Unknown("whose record it is".to_owned()))
    }

    fn decide_at(&mut self, pod: PodId, call: &Recorded, ended: Ended) -> Outcome {
        let Some(pod) = self.places.pods.get(pod) else { return Outcome::Unknown("whose record it is".to_owned()) };
        let (namespace, name) = (&pod.namespace, &pod.name);
        let mut asked = BTreeSet::new();
        let mut found = self.after.replay(namespace, name, call, &mut |cluster| {
            asked.insert(cluster.to_owned());
            None
        });
        if !asked.is_empty() && ended == Ended::Passed {
            // Whoever was asked then has allowed it: the record says so.
            let mut answered = BTreeSet::new();
            let _ = self.before.replay(namespace, name, call, &mut |cluster| {
                answered.insert(cluster.to_owned());
                Some(true)
            });
            found = self.after.replay(namespace, name, call, &mut |cluster| answered.contains(cluster).then_some(true));
        }
        match found {
            Replayed::Allowed => Outcome::Allowed,
            Replayed::Refused { why, .. } => {
                let now = self.before.replay(namespace, name, call, &mut |_| Some(true));
                let also = match now {
                    Replayed::Refused { .. } if ended == Ended::Passed => " (as the present policies would)",
                    _ => "",
                };
                Outcome::Refused(format!("{}{also}", self.named(&why)))
            }
            Replayed::Unknown { missing } => {
                Outcome::Unknown(format!("the record does not hold {}", missing.into_iter().collect::<Vec<_>>().join(", ")))
            }
        }
    }

    /// A text with the place of each rule that it names.
    fn named(&self, text: &str) -> String {
        let names: BTreeSet<&str> = rule_names(text).collect();
        names.into_iter().fold(text.to_owned(), |text, name| match place_of(&self.proposed, name) {
            Some(place) => text.replace(name, &format!("{name} ({place})")),
            None => text,
        })
    }

    fn count(&mut self, pods: &Arc<[PodId]>, caller: &Caller, record: &Record, ended: Ended, outcome: &Outcome) {
        let was_allowed = ended == Ended::Passed;
        let report = &mut self.report;
        let (kind, why) = match (was_allowed, outcome) {
            (true, Outcome::Allowed) => return report.still_allowed += 1,
            (false, Outcome::Refused(_)) => return report.still_refused += 1,
            (true, Outcome::Refused(why)) => {
                report.would_be_refused += 1;
                (Kind::WouldBeRefused, why.as_str())
            }
            (true, Outcome::Unknown(why)) => {
                report.unknown_of_allowed += 1;
                (Kind::UnknownOfAllowed, why.as_str())
            }
            (false, Outcome::Allowed) => {
                report.would_be_allowed += 1;
                (Kind::WouldBeAllowed, "")
            }
            (false, Outcome::Unknown(why)) => {
                report.unknown_of_refused += 1;
                (Kind::UnknownOfRefused, why.as_str())
            }
        };
        let key = (kind, self.workload(pods, record), caller_of(caller, record), call_of(record), why.to_owned());
        let is_full = self.changes.len() >= LISTED;
        match self.changes.get_mut(&key) {
            Some(count) => *count += 1,
            None if is_full => self.report.not_listed += 1,
            None => {
                self.changes.insert(key, 1);
            }
        }
    }

    fn workload(&self, pods: &[PodId], record: &Record) -> String {
        let names: BTreeSet<String> =
            pods.iter().filter_map(|id| self.places.pods.get(*id)).map(|pod| format!("{}.{}", pod.workload, pod.namespace)).collect();
        match names.len() {
            0 => record.local.map_or_else(|| "?".to_owned(), |local| local.to_string()),
            _ => names.into_iter().collect::<Vec<_>>().join("|"),
        }
    }

    pub(crate) fn finish(mut self) -> Report {
        let change = |((kind, workload, caller, call, why), count)| Changed { kind, count, workload, caller, call, why };
        let mut changes: Vec<Changed> = self.changes.drain().map(change).collect();
        let order = |one: &Changed| {
            (one.kind, std::cmp::Reverse(one.count), one.workload.clone(), one.caller.clone(), one.call.clone(), one.why.clone())
        };
        changes.sort_by_key(order);
        self.report.changes = changes;
        self.report
    }
}

pub(crate) fn caller_of(caller: &Caller, record: &Record) -> String {
    match caller {
        Caller::Known(id) => format!("{}/{}", id.namespace, id.service_account),
        Caller::Nobody => record.remote.map_or_else(|| "plaintext".to_owned(), |remote| format!("plaintext, {}", remote.ip())),
        Caller::Unknown => record.remote.map_or_else(|| "?".to_owned(), |remote| format!("? at {}", remote.ip())),
    }
}

fn call_of(record: &Record) -> String {
    let port = record.local.map(|local| format!(":{}", local.port())).unwrap_or_default();
    match (&record.method, &record.path) {
        (Some(method), Some(path)) => format!("{method} {}", path.split('?').next().unwrap_or_default()),
        _ => format!("TCP{port}"),
    }
}

impl Report {
    fn code(&self) -> u8 {
        match (self.would_be_refused, self.unknown_of_allowed) {
            (0, 0) => 0,
            (0, _) => UNKNOWN,
            _ => LOST,
        }
    }
}

fn text(report: &Report) -> Result<String> {
    let mut out = format!("{} records, {} distinct calls decided\n", report.records, report.decisions);
    let rows = [
        ("still allowed", report.still_allowed),
        ("still refused", report.still_refused),
        ("would be refused, and was allowed", report.would_be_refused),
        ("would be allowed, and was refused", report.would_be_allowed),
        ("unknown, and was allowed", report.unknown_of_allowed),
        ("unknown, and was refused", report.unknown_of_refused),
        ("of the client's side, where no policy is", report.skipped.client_side),
        ("refused before any policy was asked", report.skipped.refused_before),
        ("damaged", report.skipped.damaged),
        ("other lines", report.skipped.other_lines),
    ];
    // The first two are the answer also where they are nought.
    for (what, count) in rows.iter().enumerate().filter(|(at, (_, count))| *at < 3 || *count > 0).map(|(_, row)| row) {
        out += &format!("  {count:>10}  {what}\n");
    }
    if report.callers_by_address > 0 {
        out += &format!("  {} records name no caller: it is taken to be the pod that has its address now\n", report.callers_by_address);
    }
    let mut by_kind: BTreeMap<Kind, Vec<Vec<String>>> = BTreeMap::new();
    for change in &report.changes {
        let row = vec![change.count.to_string(), change.workload.clone(), change.caller.clone(), change.call.clone(), change.why.clone()];
        by_kind.entry(change.kind).or_default().push(row);
    }
    for (kind, rows) in by_kind {
        let title = match kind {
            Kind::WouldBeRefused => "Would be refused, and was allowed:",
            Kind::UnknownOfAllowed => "Unknown, and was allowed:",
            Kind::WouldBeAllowed => "Would be allowed, and was refused:",
            Kind::UnknownOfRefused => "Unknown, and was refused:",
        };
        out += &format!("\n{title}\n{}", table(&["COUNT", "WORKLOAD", "CALLER", "CALL", "WHY"], &rows)?);
    }
    if report.not_listed > 0 {
        out += &format!("\n{} records of further changes are not listed, since there are too many different ones\n", report.not_listed);
    }
    Ok(out)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
pub(crate) mod tests;
