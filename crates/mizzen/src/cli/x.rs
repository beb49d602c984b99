//! `mizzen x`: what the control plane knows of itself, and verbs that are found in other files.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use http::Method;
use mizzen_control::status::{ElectionStatus, Selfz, UnansweredStatus, WaitingFor, WaitingStatus};

use super::{
    authz::{self, check::XAuthzVerb},
    describe::{self, DescribeVerb},
    fields::{self, CrdsArgs, FieldsArgs},
    output::{Output, print, render, table},
    place::{Place, Where},
    precheck,
};
use crate::up::second_layer::{REFUSED, Row, SOCKET};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Verbs whose form may still change.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum XVerb {
    /// Show how the control plane is: what it logs, what it has in memory, and which proxies it keeps waiting, and why.
    Debug(DebugArgs),
    /// Show which authorization policies a proxy enforces.
    #[command(subcommand)]
    Authz(XAuthzVerb),
    /// Print the CustomResourceDefinitions of Istio's kinds, for `kubectl apply --server-side -f -`.
    Crds(CrdsArgs),
    /// Show the fields of Istio's kinds: type, default, meaning, and whether they are acted on, harmless or refused.
    Fields(FieldsArgs),
    /// All that concerns one pod or one service, as `mizzen describe`.
    #[command(subcommand)]
    Describe(DescribeVerb),
    /// Show what of a cluster's configuration the mesh would not take.
    Precheck,
    /// Show which connections the second layer of this host's mesh (`mizzen up --second-layer`) has refused, and how often.
    SecondLayer(SecondLayerArgs),
}

/// Arguments of `x debug`.
#[derive(Debug, clap::Args)]
pub(crate) struct DebugArgs {
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Arguments of `x second-layer`.
#[derive(Debug, clap::Args)]
pub(crate) struct SecondLayerArgs {
    /// The form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Where, verb: XVerb) -> Result<ExitCode> {
    match verb {
        XVerb::Debug(args) => debug(place, &args).await?,
        XVerb::Authz(XAuthzVerb::Check(args)) => authz::check::run(place, &args).await?,
        XVerb::Crds(args) => fields::crds(&args)?,
        XVerb::Fields(args) => fields::list(&args)?,
        XVerb::Describe(verb) => describe::run(place, verb).await?,
        XVerb::Precheck => return precheck::run(place).await,
        XVerb::SecondLayer(args) => second_layer(place, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn debug(place: &Where, args: &DebugArgs) -> Result<()> {
    let found: Selfz = serde_json::from_value(place.find().await?.debug("/debug/selfz").await?)?;
    print(&render(args.output, &found, || text(&found))?)
}

async fn second_layer(place: &Where, args: &SecondLayerArgs) -> Result<()> {
    let Place::Host(mesh) = place.find().await? else {
        bail!("a cluster's network enforces NetworkPolicies, and says what it refuses: `mizzen netpol` writes them");
    };
    let socket = mesh.dir.join(SOCKET);
    if !socket.exists() {
        bail!("the mesh has no second layer: start it with `mizzen up --second-layer`");
    }
    let reply = mizzen_net::fetch_unix(&socket, Method::GET, REFUSED, String::new(), ANSWER_WITHIN).await?;
    let rows: Vec<Row> = serde_json::from_slice(&reply.body)?;
    print(&render(args.output, &rows, || refused(&rows))?)
}

fn refused(rows: &[Row]) -> Result<String> {
    let row = |row: &Row| vec![row.call.source.clone(), row.call.destination.clone(), row.call.port.to_string(), row.refused.to_string()];
    table(&["SOURCE", "DESTINATION", "PORT", "REFUSED"], &rows.iter().map(row).collect::<Vec<_>>())
}

fn text(found: &Selfz) -> Result<String> {
    let (memo, queue) = (&found.memo, &found.queue);
    let rate = memo.hit_rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1} %", rate * 100.0));
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("version", found.version.clone()),
        row("log level", found.log.clone()),
        row("running for", format!("{} s", found.uptime_seconds)),
        row("snapshot", found.snapshot.to_string()),
        row("resources in memory", memo.held.to_string()),
        row("hit rate", format!("{rate} ({} shared, {} built)", memo.shared, memo.built)),
        row("streams", queue.connected.to_string()),
        row("first syncs that wait", format!("{} ({} are served at once)", queue.first_syncs, queue.first_syncs_at_once)),
        row("changes that are due", queue.due.to_string()),
        row("changes that are not answered", queue.unanswered.to_string()),
    ];
    rows.extend(found.election.as_ref().map(|election| row("writes into the cluster", who_writes(election))));
    let mut text = table(&["MIZZEND", ""], &rows)?;
    if !found.waiting.is_empty() {
        let rows: Vec<_> = found.waiting.iter().map(|w| vec![w.proxy.clone(), format!("{:.1} s", w.seconds), why(w)]).collect();
        text += "\n";
        text += &table(&["PROXY", "WAITS FOR", "BECAUSE"], &rows)?;
    }
    Ok(text)
}

fn who_writes(election: &ElectionStatus) -> String {
    match (election.leads, &election.leader) {
        (true, _) => format!("yes (lease {})", election.lease),
        (false, Some(leader)) => format!("no: {leader} does (lease {})", election.lease),
        (false, None) => format!("no: nobody does now (lease {})", election.lease),
    }
}

fn why(waiting: &WaitingStatus) -> String {
    match waiting.reason {
        WaitingFor::FirstSync => "its first sync waits for its turn".to_owned(),
        WaitingFor::Due => "what is due to it is being made".to_owned(),
        WaitingFor::Answer => {
            let parts: Vec<String> = waiting.unanswered.iter().map(of_type).collect();
            format!("it has not acknowledged {}", parts.join(", "))
        }
    }
}

fn of_type(unanswered: &UnansweredStatus) -> String {
    let mut names = unanswered.resources.join(" ");
    if unanswered.more > 0 {
        names += &format!(" and {} more", unanswered.more);
    }
    if names.is_empty() { unanswered.name.clone() } else { format!("{} ({names})", unanswered.name) }
}

#[cfg(test)]
mod tests {
    use mizzen_control::status::{MemoStatus, QueueStatus};

    use super::*;

    #[test]
    fn what_is_printed() {
        let wait = |proxy: &str, seconds, reason, unanswered| WaitingStatus {
            proxy: proxy.to_owned(),
            connection: 1,
            seconds,
            reason,
            unanswered,
        };
        let unanswered = |name: &str, names: &[&str], more| UnansweredStatus {
            name: name.to_owned(),
            responses: 1,
            resources: names.iter().map(|n| (*n).to_owned()).collect(),
            more,
        };
        let open = vec![unanswered("Cluster", &["a", "b"], 3), unanswered("Listener", &[], 0)];
        let mut found = Selfz {
            version: "1".to_owned(),
            log: "info".to_owned(),
            uptime_seconds: 7,
            snapshot: 2,
            memo: MemoStatus { held: 9, built: 1, shared: 3, asked_again: 0, hit_rate: Some(0.75) },
            queue: QueueStatus { connected: 3, first_syncs: 1, first_syncs_at_once: 8, due: 1, unanswered: 1 },
            election: None,
            waiting: vec![
                wait("a.shop", 2.04, WaitingFor::Answer, open),
                wait("b.shop", 1.0, WaitingFor::FirstSync, vec![]),
                wait("c.shop", 0.5, WaitingFor::Due, vec![]),
            ],
        };
        let expected = "\
MIZZEND                           
version                           1
log level                         info
running for                       7 s
snapshot                          2
resources in memory               9
hit rate                          75.0 % (3 shared, 1 built)
streams                           3
first syncs that wait             1 (8 are served at once)
changes that are due              1
changes that are not answered     1

PROXY      WAITS FOR     BECAUSE
a.shop     2.0 s         it has not acknowledged Cluster (a b and 3 more), Listener
b.shop     1.0 s         its first sync waits for its turn
c.shop     0.5 s         what is due to it is being made
";
        assert_eq!(text(&found).unwrap(), expected);
        found.waiting.clear();
        found.memo.hit_rate = None;
        let quiet = text(&found).unwrap();
        assert!(
            quiet.ends_with("changes that are not answered     1\n") && quiet.contains("hit rate                          - (3"),
            "{quiet}"
        );
        for (leads, leader, said) in [
            (true, Some("istiod-a"), "yes (lease istio-leader)"),
            (false, Some("istiod-b"), "no: istiod-b does (lease istio-leader)"),
            (false, None, "no: nobody does now (lease istio-leader)"),
        ] {
            found.election = Some(ElectionStatus { lease: "istio-leader".to_owned(), leads, leader: leader.map(str::to_owned) });
            let text = text(&found).unwrap();
            assert!(text.ends_with(&format!("\nwrites into the cluster           {said}\n")), "{text}");
        }
        let again: Selfz = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
        assert_eq!(again, found);
    }
}
