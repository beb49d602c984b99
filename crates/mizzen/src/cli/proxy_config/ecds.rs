//! Extensions that came by themselves.

use serde_json::Value;

use super::{Rows, resources, text};

const HEADER: &[&str] = &["ECDS NAME", "TYPE"];

pub(super) fn rows(dump: &Value) -> Rows {
    let found = resources(dump, "EcdsConfigDump", &["ecds_filters"], &["ecds_filter"]);
    let cells = |filter: &Value| {
        let kind = text(&filter["typed_config"]["@type"]);
        vec![text(&filter["name"]), kind.rsplit('/').next().unwrap_or_default().to_owned()]
    };
    Rows { header: HEADER, rows: found.into_iter().map(|filter| (cells(filter), filter.clone())).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns() {
        let filter = json!({"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": "shop.basic-auth",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"}});
        let dump =
            json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump", "ecds_filters": [{"ecds_filter": filter}]}]});
        let found: Vec<_> = rows(&dump).rows.into_iter().map(|(cells, _)| cells).collect();
        assert_eq!(found, [["shop.basic-auth", "envoy.extensions.filters.http.wasm.v3.Wasm"]]);
        assert!(rows(&json!({"configs": []})).rows.is_empty());
    }
}
