//! Endpoints, from the proxy's `/clusters`, or from a dump of what the control plane has.

use serde_json::Value;

use super::{Rows, resources, text};

pub(super) const HEADER: &[&str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"];

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

/// Those of a dump of assignments; whether a proxy has set one aside is not known there.
pub(super) fn known(dump: &Value) -> Rows {
    let mut rows = Vec::new();
    for assignment in resources(dump, "EndpointsConfigDump", &["dynamic_endpoint_configs"], &["endpoint_config"]) {
        let localities = assignment["endpoints"].as_array().into_iter().flatten();
        for host in localities.flat_map(|locality| locality["lb_endpoints"].as_array().into_iter().flatten()) {
            let status = host["health_status"].as_str().unwrap_or("HEALTHY").to_owned();
            let cluster = text(&assignment["cluster_name"]);
            rows.push((vec![address(&host["endpoint"]["address"]), status, "-".to_owned(), cluster], host.clone()));
        }
    }
    rows.sort_by(|a, b| (&a.0[3], &a.0[0]).cmp(&(&b.0[3], &b.0[0])));
    Rows { header: HEADER, rows }
}

fn address(address: &Value) -> String {
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
