//! Says in the log which authorization policies each workload gets: in scope `authorization`, each line with the word `authz`.
//!
//! A line is written when what a workload gets is another than what was said of it last, and not for each push. At debug level it is followed by one line
//! for each rule.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use mizzen_api::{
    Kind,
    istio::{Action, AuthorizationPolicy},
};
use mizzen_model::{ProxyView, Query, Reader, Snapshot};
use tokio::sync::watch;

use crate::{connection::Connections, logging::AUTHORIZATION, writer::Published};

/// What was said last.
#[derive(Debug, Default)]
struct Told {
    /// By workload what it had, as a hash.
    known: HashMap<String, u64>,
    /// The stamps of what decides it.
    stamps: Option<(u64, u64)>,
    /// The newest connection that was looked at.
    newest: u64,
}

/// One policy of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    policy: String,
    action: String,
    place: String,
    /// Each rule as it was written.
    rules: Vec<String>,
}

/// Says it until the control plane ends.
pub(crate) async fn tell(mut published: watch::Receiver<Option<Published>>, connections: Arc<Connections>) {
    let mut opened = connections.opened();
    let mut told = Told::default();
    loop {
        let snapshot = published.borrow_and_update().as_ref().map(|published| published.snapshot.clone());
        opened.borrow_and_update();
        if let Some(snapshot) = snapshot {
            told.look(&snapshot, &connections);
        }
        let ended = tokio::select! {
            changed = published.changed() => changed.is_err(),
            changed = opened.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

impl Told {
    /// Looks at all workloads if policies have changed, else at those that have come since.
    fn look(&mut self, snapshot: &Snapshot, connections: &Connections) {
        let stamps = (snapshot.stamp(&Query::Kind(Kind::AuthorizationPolicy)), snapshot.stamp(&Query::Mesh));
        let all = connections.all();
        let newest = all.iter().map(|connection| connection.number).max().unwrap_or_default();
        let is_changed = self.stamps.replace(stamps) != Some(stamps) || snapshot.closed().next().is_some();
        let wanted = all.iter().filter(|connection| is_changed || connection.number > self.newest);
        // Agent and proxy of one workload have a stream each.
        let views: BTreeMap<String, &ProxyView> = wanted.map(|connection| (connection.proxy(), connection.view())).collect();
        for (workload, view) in &views {
            if let Some(lines) = self.news(snapshot, workload, view) {
                say(workload, &lines);
            }
        }
        if is_changed {
            self.known.retain(|workload, _| views.contains_key(workload));
        }
        self.newest = self.newest.max(newest);
    }

    /// What a workload gets, if that is another than what was said of it last.
    fn news(&mut self, snapshot: &Snapshot, workload: &str, view: &ProxyView) -> Option<Vec<Line>> {
        let lines = lines(snapshot, view);
        let mut hasher = DefaultHasher::new();
        lines.hash(&mut hasher);
        let hash = hasher.finish();
        let before = self.known.insert(workload.to_owned(), hash);
        // Who had none and has none is no news.
        (before != Some(hash) && (before.is_some() || !lines.is_empty())).then_some(lines)
    }
}

fn say(workload: &str, lines: &[Line]) {
    let count = |line: &Line| format!("{} {} ({}{})", line.action, line.policy, counted(line.rules.len()), line.place);
    let policies = lines.iter().map(count).collect::<Vec<_>>().join(", ");
    tracing::info!(target: AUTHORIZATION, workload, policies, "authz: {} of the workload", policies_of(lines.len()));
    for line in lines {
        for (number, rule) in line.rules.iter().enumerate() {
            tracing::debug!(target: AUTHORIZATION, workload, policy = line.policy, action = line.action, number, rule, "authz: rule");
        }
    }
}

fn counted(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}

fn policies_of(count: usize) -> String {
    match count {
        0 => "no policy".to_owned(),
        1 => "1 policy".to_owned(),
        many => format!("{many} policies"),
    }
}

/// The policies of a workload, in the order in which they are asked.
fn lines(snapshot: &Snapshot, view: &ProxyView) -> Vec<Line> {
    let reader = Reader::new(snapshot);
    let found = view.policies(&reader);
    let mut policies = found.policies.clone();
    policies.sort_by_key(|policy| (rank(policy.action), policy.meta.namespaced_name()));
    let closed = found.closed.iter().map(|closed| Line {
        policy: format!("{}/{}", closed.key.namespace, closed.key.name),
        action: "DENY".to_owned(),
        place: ", refused: it denies all".to_owned(),
        rules: Vec::new(),
    });
    closed.chain(policies.into_iter().map(line)).collect()
}

fn rank(action: Action) -> u8 {
    match action {
        Action::Custom => 0,
        Action::Audit => 1,
        Action::Deny => 2,
        Action::Allow => 3,
    }
}

fn line(policy: &AuthorizationPolicy) -> Line {
    let meta = &policy.meta;
    let written: serde_json::Value = serde_json::from_str(&meta.source.to_json()).unwrap_or_default();
    let rule = |number: usize| written["spec"]["rules"].get(number).map(ToString::to_string).unwrap_or_default();
    Line {
        policy: format!("{}/{}", meta.namespace, meta.name),
        action: format!("{:?}{}", policy.action, if policy.dry_run { " (dry run)" } else { "" }).to_uppercase(),
        place: if meta.origin.line > 0 { format!(", {}", meta.origin) } else { String::new() },
        rules: (0..policy.rules.len()).map(rule).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mizzen_model::{ProxyFacts, ProxyType};

    use super::*;

    const POLICIES: &str = "
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{from: [{source: {namespaces: [shop]}}]}, {to: [{operation: {ports: ['80']}}]}]}
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: none, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
";

    fn view(app: &str) -> ProxyView {
        let facts = ProxyFacts {
            kind: ProxyType::Sidecar,
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            id: "id".into(),
            pod: app.into(),
            namespace: "shop".into(),
            service_account: app.into(),
            workload: app.into(),
            cluster: "Kubernetes".into(),
            locality: Default::default(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            extensions: BTreeSet::new(),
            metadata: BTreeMap::new(),
        };
        facts.into()
    }

    fn snapshot(yaml: &str) -> Arc<Snapshot> {
        let objects = mizzen_api::parse_documents(yaml, &"p.yaml".into()).objects;
        Snapshot::empty().apply(objects.into_iter().map(|object| object.expect("an object").into()))
    }

    #[test]
    fn said_once_for_each_change() {
        let mut told = Told::default();
        let said = |told: &mut Told, yaml: &str, app: &str| -> Option<Vec<String>> {
            let lines = told.news(&snapshot(yaml), app, &view(app))?;
            Some(lines.iter().map(|line| format!("{} {} {}{}", line.action, line.policy, line.rules.len(), line.place)).collect())
        };
        let deny = "DENY shop/none 1, p.yaml:7".to_owned();
        assert_eq!(said(&mut told, POLICIES, "web"), Some(vec![deny.clone(), "ALLOW shop/web 2, p.yaml:2".to_owned()]));
        assert_eq!(said(&mut told, POLICIES, "web"), None, "the same is no news");
        assert_eq!(said(&mut told, POLICIES, "other"), Some(vec![deny]));
        let changed = POLICIES.replace("['80']", "['81']");
        assert!(said(&mut told, &changed, "web").is_some());
        assert_eq!(said(&mut told, &changed, "other"), None, "what concerns others is no news");
        assert_eq!(said(&mut told, "", "web"), Some(vec![]), "that nothing is left is");
        assert_eq!(said(&mut told, "", "quiet"), None);
    }

    #[test]
    fn rules_as_they_were_written() {
        let lines = lines(&snapshot(POLICIES), &view("web"));
        assert_eq!(lines[1].rules[1], r#"{"to":[{"operation":{"ports":["80"]}}]}"#);
    }
}
