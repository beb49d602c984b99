//! Endpoints as the control plane has sent them.

use serde_json::Value;

use super::{
    Rows,
    endpoint::{address, assigned},
    text,
};

const HEADER: &[&str] = &["NAME", "STATUS", "LOCALITY", "CLUSTER"];

pub(super) fn rows(dump: &Value) -> Rows {
    let row = |(assignment, group, host): (&Value, &Value, &Value)| {
        let cluster = text(&assignment["cluster_name"]);
        let status = host["health_status"].as_str().unwrap_or("HEALTHY").to_owned();
        let place: Vec<String> = ["region", "zone", "sub_zone"].map(|part| text(&group["locality"][part])).into();
        let place = place.join("/").trim_end_matches('/').to_owned();
        (vec![address(&host["endpoint"]["address"]), status, place, cluster], assignment.clone())
    };
    let mut rows: Vec<_> = assigned(dump).map(row).collect();
    rows.sort_by(|a, b| (&a.0[3], &a.0[0]).cmp(&(&b.0[3], &b.0[0])));
    Rows { header: HEADER, rows }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns() {
        let host = |ip: &str, health: Option<&str>| json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": 80}}}, "health_status": health});
        let groups = json!([
            {"locality": {"region": "r", "zone": "z"}, "lb_endpoints": [host("10.0.0.2", Some("DRAINING"))]},
            {"locality": {}, "lb_endpoints": [host("10.0.0.1", None)]},
        ]);
        let dump = json!({"configs": [{"@type": "x.EndpointsConfigDump",
            "dynamic_endpoint_configs": [{"endpoint_config": {"cluster_name": "c", "endpoints": groups}}]}]});
        let found: Vec<String> = rows(&dump).rows.iter().map(|(cells, _)| cells.join("|")).collect();
        assert_eq!(found, ["10.0.0.1:80|HEALTHY||c", "10.0.0.2:80|DRAINING|r/z|c"]);
    }
}
