//! Endpoints: from the proxy's `/clusters`, which knows how each is; from a dump, which knows what the control plane has sent.

use anyhow::Result;
use serde_json::{Value, json};

use super::{super::place::Where, Dump, Known, Rows, Source, Target, Which, eds, resources, select, show_with, text};

pub(super) const HEADER: &[&str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"];

/// Arguments of `proxy-config endpoint` and `proxy-config eds`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct EndpointArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    /// Only endpoints at this address.
    #[arg(long, value_name = "IP")]
    address: Option<String>,
    /// Only endpoints at this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only endpoints of this cluster: `outbound|9080||reviews.shop.svc.cluster.local`.
    #[arg(long)]
    cluster: Option<String>,
    /// Only endpoints of this status: healthy, unhealthy, draining.
    #[arg(long)]
    status: Option<String>,
}

impl EndpointArgs {
    pub(super) async fn run(&self, place: &Where, as_sent: bool) -> Result<()> {
        let mesh = self.target.mesh(place).await?;
        let source = self.target.source(mesh.as_ref()).await?;
        if as_sent {
            let known = Known { section: "endpoints", rows: eds::rows };
            let found = eds::rows(&source.dump(Dump::WithEndpoints).await?);
            let (found, has_held) =
                select(&source, found, &self.which, &known, |cells, _| self.keeps(&cells[0], &cells[1], &cells[3])).await?;
            return show_with(&self.target, found, has_held);
        }
        let known = Known { section: "endpoints", rows: self::known };
        let found = of(&source).await?;
        let (found, has_held) = select(&source, found, &self.which, &known, |cells, _| self.keeps(&cells[0], &cells[1], &cells[3])).await?;
        show_with(&self.target, if has_held { found } else { by_cluster(found) }, has_held)
    }

    fn keeps(&self, endpoint: &str, status: &str, cluster: &str) -> bool {
        let (ip, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        self.address.as_ref().is_none_or(|wanted| wanted == ip || wanted == endpoint)
            && self.port.is_none_or(|wanted| wanted.to_string() == port)
            && self.cluster.as_ref().is_none_or(|wanted| wanted == cluster)
            && self.status.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(status))
    }
}

/// The endpoints of a proxy, or of a dump of one: also one of its page `/clusters`.
pub(super) async fn of(source: &Source<'_>) -> Result<Rows> {
    match source {
        Source::Proxy(..) => Ok(rows(&source.page("/clusters?format=json").await?)),
        Source::File { dump, .. } if dump["cluster_statuses"].is_array() => Ok(rows(dump)),
        Source::File { .. } => Ok(known(&source.dump(Dump::WithEndpoints).await?)),
    }
}

pub(super) fn rows(clusters: &Value) -> Rows {
    let mut rows = Vec::new();
    for cluster in clusters["cluster_statuses"].as_array().into_iter().flatten() {
        for host in cluster["host_statuses"].as_array().into_iter().flatten() {
            rows.push((cells(&text(&cluster["name"]), host), host.clone()));
        }
    }
    rows.sort_by(|a, b| (&a.0[3], &a.0[0]).cmp(&(&b.0[3], &b.0[0])));
    Rows { header: HEADER, rows }
}

/// The same with one value for each cluster, as istioctl prints them.
fn by_cluster(found: Rows) -> Rows {
    let mut values: std::collections::BTreeMap<String, Vec<Value>> = std::collections::BTreeMap::new();
    for (cells, host) in &found.rows {
        values.entry(cells[3].clone()).or_default().push(host.clone());
    }
    let value = |cluster: &String| json!({"name": cluster, "host_statuses": values.get(cluster)});
    let rows = found.rows.iter().map(|(cells, _)| (cells.clone(), value(&cells[3]))).collect();
    Rows { header: found.header, rows }
}

/// Those of a dump of assignments; whether a proxy has set one aside is not known there.
pub(super) fn known(dump: &Value) -> Rows {
    let mut rows = Vec::new();
    for (assignment, _, host) in assigned(dump) {
        let status = host["health_status"].as_str().unwrap_or("HEALTHY").to_owned();
        let cluster = text(&assignment["cluster_name"]);
        rows.push((vec![address(&host["endpoint"]["address"]), status, "-".to_owned(), cluster], host.clone()));
    }
    rows.sort_by(|a, b| (&a.0[3], &a.0[0]).cmp(&(&b.0[3], &b.0[0])));
    Rows { header: HEADER, rows }
}

/// All endpoints of a dump, each with its assignment and its group.
pub(super) fn assigned(dump: &Value) -> impl Iterator<Item = (&Value, &Value, &Value)> {
    let found = resources(dump, "EndpointsConfigDump", &["static_endpoint_configs", "dynamic_endpoint_configs"], &["endpoint_config"]);
    found.into_iter().flat_map(|assignment| {
        let groups = assignment["endpoints"].as_array().into_iter().flatten();
        groups.flat_map(move |group| group["lb_endpoints"].as_array().into_iter().flatten().map(move |host| (assignment, group, host)))
    })
}

pub(super) fn address(address: &Value) -> String {
    let socket = &address["socket_address"];
    if socket.is_object() {
        format!("{}:{}", text(&socket["address"]), text(&socket["port_value"]))
    } else {
        format!("unix://{}", text(&address["pipe"]["path"]))
    }
}

fn cells(cluster: &str, host: &Value) -> Vec<String> {
    let health = &host["health_status"];
    let status = health["eds_health_status"].as_str().unwrap_or("HEALTHY").to_owned();
    let outlier = if health["failed_outlier_check"].as_bool().unwrap_or(false) { "FAILED" } else { "OK" };
    vec![address(&host["address"]), status, outlier.to_owned(), cluster.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let word = |text: &str| Some(text.to_owned());
        let all = EndpointArgs::default;
        for (args, kept) in [
            (all(), true),
            (EndpointArgs { address: word("10.0.0.1"), ..all() }, true),
            (EndpointArgs { address: word("10.0.0.2"), ..all() }, false),
            (EndpointArgs { port: Some(80), ..all() }, true),
            (EndpointArgs { port: Some(8), ..all() }, false),
            (EndpointArgs { cluster: word("outbound|80||a"), status: word("healthy"), ..all() }, true),
            (EndpointArgs { status: word("draining"), ..all() }, false),
        ] {
            assert_eq!(args.keeps("10.0.0.1:80", "HEALTHY", "outbound|80||a"), kept, "{args:?}");
        }
    }

    #[test]
    fn one_value_for_each_cluster() {
        let host = |ip: &str| json!({"address": {"socket_address": {"address": ip, "port_value": 80}}});
        let page = json!({"cluster_statuses": [{"name": "c", "host_statuses": [host("10.0.0.1"), host("10.0.0.2")]}]});
        let values = super::super::values(&by_cluster(rows(&page)).rows);
        assert_eq!(values.len(), 1);
        assert_eq!(values[0]["hostStatuses"][1]["address"]["socketAddress"]["portValue"], 80);
    }
}
