//! What a proxy has fetched on first use, and why.

use serde_json::Value;

use super::{Rows, text};

const HEADER: &[&str] = &["TYPE", "NAME", "STATUS", "SINCE", "LAST USED", "FOR", "CLUSTERS"];

pub(super) fn rows(page: &Value) -> Rows {
    let fetched = page["fetched"].as_array().into_iter().flatten();
    let cells = |one: &Value| {
        let clusters = one["clusters"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(",");
        let status = if one["there"].as_bool() == Some(true) { "HELD" } else { "AWAITED" };
        vec![
            text(&one["type"]),
            text(&one["name"]),
            status.to_owned(),
            text(&one["since"]),
            text(&one["last_used"]),
            text(&one["for"]),
            clusters,
        ]
    };
    Rows { header: HEADER, rows: fetched.map(|one| (cells(one), one.clone())).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let page = serde_json::json!({"on_demand": true, "fetched": [
            {"type": "VirtualHost", "name": "80/a", "there": true, "for": "a request for a", "since": "t0", "last_used": "t1", "clusters": ["c", "d"]},
            {"type": "Listener", "name": "1_2", "there": false},
        ]});
        let rows: Vec<String> = rows(&page).rows.iter().map(|(cells, _)| cells.join("|")).collect();
        assert_eq!(rows, ["VirtualHost|80/a|HELD|t0|t1|a request for a|c,d", "Listener|1_2|AWAITED||||"]);
    }
}
