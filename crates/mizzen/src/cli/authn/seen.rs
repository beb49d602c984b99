//! What servers have counted of a client's calls: metrics of their proxies.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_model::{ProxyView, Reader, Snapshot};

use super::{super::place::Place, check::Row};

/// So many servers are asked, at most: each is a question of its own.
const SERVERS: usize = 64;
/// Where the counts are: requests, and connections that are no HTTP.
const METRICS: [&str; 2] = ["istio_requests_total", "istio_tcp_connections_opened_total"];
/// The question to a proxy: these metrics alone.
const QUESTION: &str = "/stats/prometheus?filter=istio_(requests|tcp_connections_opened)_total";

/// By what servers know a client.
struct Caller {
    workload: String,
    namespace: String,
    /// The end of its identity.
    identity: String,
}

/// Adds to each row what its servers have seen of the client; says whom it could not ask.
pub(super) async fn add(mesh: &Place, snapshot: &Arc<Snapshot>, view: &ProxyView, rows: &mut [Row]) -> Vec<String> {
    let mut notes = Vec::new();
    let facts = view.facts();
    let reader = Reader::new(snapshot);
    let client = Caller {
        workload: reader.pod(facts.ip).map_or_else(|| facts.workload.to_string(), |pod| pod.workload.to_string()),
        namespace: facts.namespace.to_string(),
        identity: format!("/ns/{}/sa/{}", facts.namespace, facts.service_account),
    };
    let mut servers: Vec<String> = rows.iter().flat_map(|row| &row.endpoints).filter_map(|one| one.pod.clone()).collect();
    servers.sort();
    servers.dedup();
    let pods = match mesh.workloads().await {
        Ok(pods) => pods,
        Err(error) => return vec![format!("what was seen on the wire is not known: {error:#}")],
    };
    let asked = |pod: &String| {
        let (namespace, name) = pod.split_once('/')?;
        pods.iter().find(|one| one.name() == format!("{name}.{namespace}"))
    };
    let servers: Vec<_> = servers.iter().filter_map(asked).collect();
    if servers.len() > SERVERS {
        notes.push(format!("{} of {} servers are asked what they have seen: name a service for fewer", SERVERS, servers.len()));
    }
    let mut seen: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for server in servers.into_iter().take(SERVERS) {
        match server.admin_text(QUESTION).await {
            Ok(text) => counted(&text, &client, &mut seen),
            Err(error) => notes.push(format!("what {} has seen is not known: {error:#}", server.name())),
        }
    }
    for row in rows {
        row.seen = seen.get(&row.host).cloned().unwrap_or_default();
    }
    notes
}

/// Adds what a server has counted of a client, by service and kind of connection.
fn counted(text: &str, client: &Caller, seen: &mut BTreeMap<String, BTreeMap<String, u64>>) {
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once('{').filter(|(name, _)| METRICS.contains(name)) else { continue };
        let Some((labels, rest)) = labels(rest) else { continue };
        let is = |label: &str, value: &str| labels.get(label).is_some_and(|is| is == value);
        // A server that was not told the workload knows the certificate.
        let by_identity =
            || is("source_workload", "unknown") && labels.get("source_principal").is_some_and(|found| found.ends_with(&client.identity));
        let value = rest.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
        if is("reporter", "destination")
            && (is("source_workload", &client.workload) && is("source_workload_namespace", &client.namespace) || by_identity())
            && value >= 1.0
            && let (Some(service), Some(security)) = (labels.get("destination_service"), labels.get("connection_security_policy"))
        {
            let count = seen.entry(service.clone()).or_default().entry(security.clone()).or_default();
            *count = count.saturating_add(value as u64);
        }
    }
}

/// Labels up to the closing brace, and what stands behind it.
fn labels(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let (mut found, mut rest) = (BTreeMap::new(), text);
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((found, after));
        }
        let (name, value) = rest.split_once("=\"")?;
        let mut unescaped = String::new();
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => unescaped.push('\n'),
                    other => unescaped.push(other),
                },
                (_, other) => unescaped.push(other),
            }
        };
        found.insert(name.to_owned(), unescaped);
        rest = &value[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let of = |reporter: &str, workload: &str, service: &str, security: &str, count: &str| {
            format!(
                "istio_requests_total{{reporter=\"{reporter}\",source_workload=\"{workload}\",source_workload_namespace=\"shop\",\
                 request_protocol=\"a\\\"}}b\",destination_service=\"{service}\",connection_security_policy=\"{security}\"}} {count}\n"
            )
        };
        let text = [
            "# TYPE istio_requests_total counter\nother{a=\"b\"} 3\nplain 7\n".to_owned(),
            of("destination", "web", "a", "mutual_tls", "2"),
            of("destination", "web", "a", "mutual_tls", "3"),
            of("destination", "web", "a", "none", "1"),
            of("destination", "web", "b", "none", "0"),
            of("source", "web", "a", "unknown", "9"),
            of("destination", "somebody", "a", "none", "9"),
            "istio_requests_total{reporter=\"destination\n".to_owned(),
            "istio_tcp_connections_opened_total{reporter=\"destination\",source_workload=\"unknown\",source_principal=\"spiffe://x/ns/shop/sa/web\",\
             destination_service=\"c\",connection_security_policy=\"mutual_tls\"} 1\n"
                .to_owned(),
        ]
        .concat();
        let mut seen = BTreeMap::new();
        let client = Caller { workload: "web".to_owned(), namespace: "shop".to_owned(), identity: "/ns/shop/sa/web".to_owned() };
        counted(&text, &client, &mut seen);
        let count = |security: &str, count: u64| (security.to_owned(), count);
        let expected = [("a", vec![count("mutual_tls", 5), count("none", 1)]), ("c", vec![count("mutual_tls", 1)])];
        let expected: BTreeMap<String, BTreeMap<String, u64>> =
            expected.into_iter().map(|(host, counts)| (host.to_owned(), counts.into_iter().collect())).collect();
        assert_eq!(seen, expected);
    }
}
