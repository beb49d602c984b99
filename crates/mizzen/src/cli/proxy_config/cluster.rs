//! Clusters, in istioctl's columns.

use serde_json::Value;

use super::{Rows, resources, source, text};

const HEADER: &[&str] = &["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"];

pub(super) fn rows(dump: &Value) -> Rows {
    let found = resources(dump, "ClustersConfigDump", &["static_clusters", "dynamic_active_clusters"], &["cluster"]);
    let mut rows: Vec<_> = found.into_iter().map(|cluster| (cells(cluster), cluster.clone())).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    Rows { header: HEADER, rows }
}

fn cells(cluster: &Value) -> Vec<String> {
    let name = text(&cluster["name"]);
    let kind = match cluster["type"].as_str() {
        Some(kind) => kind.to_owned(),
        None => "STATIC".to_owned(),
    };
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
                "name": "outbound|9080|v1|reviews.shop.svc.cluster.local", "type": "EDS",
                "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/reviews"}}}
            }}]
        }]});
        let rows: Vec<Vec<String>> = rows(&dump).rows.into_iter().map(|(cells, _)| cells).collect();
        assert_eq!(
            rows,
            [
                ["reviews.shop.svc.cluster.local", "9080", "v1", "outbound", "EDS", "reviews.shop"],
                ["xds-grpc", "-", "-", "-", "STATIC", ""]
            ]
        );
    }
}
