//! Clusters, in istioctl's columns.

use anyhow::Result;
use serde_json::Value;

use super::{super::place::Where, Dump, Known, Rows, Target, Which, resources, select, show_with, source, text};

const HEADER: &[&str] = &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];

/// Arguments of `proxy-config cluster`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    which: Which,
    /// Only clusters of a service whose full name contains this.
    #[arg(long, value_name = "HOST")]
    fqdn: Option<String>,
    /// Only clusters of this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only clusters of this subset.
    #[arg(long)]
    subset: Option<String>,
    /// Only clusters of this direction: inbound or outbound.
    #[arg(long)]
    direction: Option<String>,
}

impl ClusterArgs {
    pub(super) async fn run(&self, place: &Where) -> Result<()> {
        let mesh = self.target.mesh(place).await?;
        let source = self.target.source(mesh.as_ref()).await?;
        let found = rows(&source.dump(Dump::Plain).await?);
        let known = Known { section: "clusters", rows };
        let (found, has_held) = select(&source, found, &self.which, &known, |cells, _| self.keeps(cells)).await?;
        show_with(&self.target, found, has_held)
    }

    fn keeps(&self, cells: &[String]) -> bool {
        let is = |wanted: &Option<String>, cell: &str| wanted.as_ref().is_none_or(|wanted| wanted == cell);
        self.fqdn.as_ref().is_none_or(|host| cells[0].contains(host.as_str()))
            && is(&self.port.map(|port| port.to_string()), &cells[1])
            && is(&self.subset, &cells[2])
            && is(&self.direction, &cells[3])
    }
}

pub(super) fn rows(dump: &Value) -> Rows {
    let found = resources(dump, "ClustersConfigDump", &["static_clusters", "dynamic_active_clusters"], &["cluster"]);
    let mut rows: Vec<_> = found.into_iter().map(|cluster| (cells(cluster), cluster.clone())).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    Rows { header: HEADER, rows }
}

fn cells(cluster: &Value) -> Vec<String> {
    let name = text(&cluster["name"]);
    // An extension's kind by the end of its name: `envoy.clusters.dynamic_forward_proxy`.
    let custom = cluster["cluster_type"]["name"].as_str().map(|name| name.rsplit('.').next().unwrap_or(name).to_ascii_uppercase());
    let kind = custom.unwrap_or_else(|| cluster["type"].as_str().unwrap_or("STATIC").to_owned());
    let (direction, port, subset, host) = split(&name);
    vec![host, port, subset, direction, kind, source(&cluster["metadata"])]
}

/// `direction|port|subset|host`, or a name of another form with dashes for what it does not have.
fn split(name: &str) -> (String, String, String, String) {
    let dash = |part: &str| if part.is_empty() { "-".to_owned() } else { part.to_owned() };
    let parts: Vec<&str> = name.split('|').collect();
    match parts[..] {
        [direction, port, subset, host] => (dash(direction), dash(port), dash(subset), host.to_owned()),
        _ => (dash(""), dash(""), dash(""), name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let dump = serde_json::json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "static_clusters": [{"cluster": {"name": "xds-grpc"}}],
            "dynamic_active_clusters": [{"cluster": {
                "name": "outbound|443||*.example.test", "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy"}
            }}, {"cluster": {
                "name": "outbound|9080|v1|reviews.shop.svc.cluster.local", "type": "EDS",
                "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/reviews"}}}
            }}]
        }]});
        let rows: Vec<Vec<String>> = rows(&dump).rows.into_iter().map(|(cells, _)| cells).collect();
        assert_eq!(
            rows,
            [
                ["*.example.test", "443", "-", "outbound", "DYNAMIC_FORWARD_PROXY", ""],
                ["reviews.shop.svc.cluster.local", "9080", "v1", "outbound", "EDS", "reviews.shop"],
                ["xds-grpc", "-", "-", "-", "STATIC", ""]
            ]
        );
        let word = |text: &str| Some(text.to_owned());
        let check = |args: ClusterArgs, kept: [bool; 2]| assert_eq!([&rows[1], &rows[2]].map(|cells| args.keeps(cells)), kept, "{args:?}");
        check(ClusterArgs::default(), [true, true]);
        check(ClusterArgs { fqdn: word("reviews.shop"), ..ClusterArgs::default() }, [true, false]);
        check(ClusterArgs { port: Some(9080), ..ClusterArgs::default() }, [true, false]);
        check(ClusterArgs { port: Some(908), ..ClusterArgs::default() }, [false, false]);
        check(ClusterArgs { subset: word("v1"), direction: word("outbound"), ..ClusterArgs::default() }, [true, false]);
        check(ClusterArgs { direction: word("inbound"), ..ClusterArgs::default() }, [false, false]);
    }
}
