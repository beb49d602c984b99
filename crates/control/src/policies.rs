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
    Key, Kind,
    istio::{Action, AuthorizationPolicy},
};
use mizzen_model::{Closed, ProxyView, Query, Reader, Snapshot, WorkloadPolicies};
use tokio::sync::watch;

use crate::{connection::Connections, logging::AUTHORIZATION, writer::Published};

/// What was said last.
#[derive(Debug, Default)]
struct Told {
    /// By workload what it had, as a hash.
    known: HashMap<String, u64>,
    /// The stamps of what decides it, and what is closed.
    decides: Option<(u64, u64, Vec<Closed>)>,
    /// Policies as they are said, each with the version of its content: the same for all workloads that have it.
    lines: HashMap<Key, (u64, Arc<Line>)>,
    /// The newest connection that was looked at.
    newest: u64,
}

/// One policy of a workload.
#[derive(Debug)]
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
        let stamp = |query| snapshot.stamp(&query);
        let decides = (stamp(Query::Kind(Kind::AuthorizationPolicy)), stamp(Query::Mesh), snapshot.closed().cloned().collect());
        let is_changed = self.decides.as_ref() != Some(&decides);
        if is_changed {
            self.decides = Some(decides);
            self.lines.retain(|key, (version, _)| snapshot.content_version(key) == Some(*version));
        }
        let wanted = connections.since(if is_changed { 0 } else { self.newest });
        self.newest = wanted.last().map_or(self.newest, |connection| self.newest.max(connection.number));
        // Agent and proxy of one workload have a stream each.
        let views: BTreeMap<String, &ProxyView> = wanted.iter().map(|connection| (connection.proxy(), connection.view())).collect();
        for (workload, view) in &views {
            if let Some(lines) = self.news(snapshot, workload, view) {
                say(workload, &lines);
            }
        }
        if is_changed {
            self.known.retain(|workload, _| views.contains_key(workload));
        }
    }

    /// What a workload gets, if that is another than what was said of it last.
    fn news(&mut self, snapshot: &Snapshot, workload: &str, view: &ProxyView) -> Option<Vec<Arc<Line>>> {
        let reader = Reader::new(snapshot);
        let WorkloadPolicies { mut policies, closed } = view.policies(&reader);
        policies.sort_by_key(|policy| (rank(policy.action), policy.meta.namespaced_name()));
        let version = |policy: &AuthorizationPolicy| {
            let key = Key::new(Kind::AuthorizationPolicy, policy.meta.namespace.clone(), policy.meta.name.clone());
            let version = snapshot.content_version(&key).unwrap_or_default();
            (key, version)
        };
        let versions: Vec<(Key, u64)> = policies.iter().map(|policy| version(policy)).collect();
        let mut hasher = DefaultHasher::new();
        closed.iter().for_each(|closed| closed.key.hash(&mut hasher));
        versions.hash(&mut hasher);
        let hash = hasher.finish();
        let before = self.known.insert(workload.to_owned(), hash);
        // Who had none and has none is no news.
        if before == Some(hash) || before.is_none() && closed.is_empty() && policies.is_empty() {
            return None;
        }
        let refused = closed.iter().map(|closed| Arc::new(refused(closed)));
        let others = policies.iter().zip(versions).map(|(policy, (key, version))| {
            let known = self.lines.entry(key).or_insert_with(|| (version, Arc::new(line(policy))));
            if known.0 != version {
                *known = (version, Arc::new(line(policy)));
            }
            known.1.clone()
        });
        Some(refused.chain(others).collect())
    }
}

fn say(workload: &str, lines: &[Arc<Line>]) {
    let count = |line: &Arc<Line>| format!("{} {} ({}{})", line.action, line.policy, counted(line.rules.len()), line.place);
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

fn refused(closed: &Closed) -> Line {
    Line {
        policy: format!("{}/{}", closed.key.namespace, closed.key.name),
        action: "DENY".to_owned(),
        place: ", refused: it denies all".to_owned(),
        rules: Vec::new(),
    }
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

    use mizzen_model::{Change, ProxyFacts, ProxyType};

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
            more_ips: Vec::new(),
            id: "id".into(),
            pod: app.into(),
            namespace: "shop".into(),
            service_account: app.into(),
            workload: app.into(),
            cluster: "Kubernetes".into(),
            locality: Default::default(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            extensions: BTreeSet::new(),
            topology: Default::default(),
            metadata: BTreeMap::new(),
        };
        facts.into()
    }

    /// The next state, in which there is this and nothing else.
    fn next(before: &Arc<Snapshot>, yaml: &str) -> Arc<Snapshot> {
        let objects = mizzen_api::parse_documents(yaml, &"p.yaml".into()).objects;
        let objects: Vec<Change> = objects.into_iter().map(|object| object.expect("an object").into()).collect();
        let gone = before
            .objects::<AuthorizationPolicy>()
            .map(|policy| Change::Delete(Key::new(Kind::AuthorizationPolicy, policy.meta.namespace.clone(), policy.meta.name.clone())));
        let gone: Vec<Change> = if yaml.is_empty() { gone.collect() } else { Vec::new() };
        before.apply(gone.into_iter().chain(objects))
    }

    #[test]
    fn said_once_for_each_change() {
        let (mut told, mut snapshot) = (Told::default(), Snapshot::empty());
        let mut said = |told: &mut Told, yaml: &str, app: &str| -> Option<Vec<String>> {
            snapshot = next(&snapshot, yaml);
            let lines = told.news(&snapshot, app, &view(app))?;
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

    /// What many workloads have is read of its text once.
    #[test]
    fn a_policy_is_one_for_all() {
        let (mut told, snapshot) = (Told::default(), next(&Snapshot::empty(), POLICIES));
        let [web, other] = ["web", "other"].map(|app| told.news(&snapshot, app, &view(app)).expect("news"));
        assert!(Arc::ptr_eq(&web[0], &other[0]));
    }

    #[test]
    fn rules_as_they_were_written() {
        let lines = Told::default().news(&next(&Snapshot::empty(), POLICIES), "web", &view("web")).expect("news");
        assert_eq!(lines[1].rules[1], r#"{"to":[{"operation":{"ports":["80"]}}]}"#);
    }
}
