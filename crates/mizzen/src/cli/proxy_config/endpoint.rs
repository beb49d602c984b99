//! Endpoints, from the proxy's `/clusters`.

use serde_json::Value;

use super::{Rows, text};

const HEADER: &[&str] = &["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"];

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

fn cells(cluster: &str, host: &Value) -> Vec<String> {
    let socket = &host["address"]["socket_address"];
    let address = if socket.is_object() {
        format!("{}:{}", text(&socket["address"]), text(&socket["port_value"]))
    } else {
        format!("unix://{}", text(&host["address"]["pipe"]["path"]))
    };
    let health = &host["health_status"];
    let status = health["eds_health_status"].as_str().unwrap_or("HEALTHY").to_owned();
    let outlier = if health["failed_outlier_check"].as_bool().unwrap_or(false) { "FAILED" } else { "OK" };
    vec![address, status, outlier.to_owned(), cluster.to_owned()]
}
