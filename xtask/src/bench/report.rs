//! The results, as a table or as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{BenchArgs, Row, load::Measured};

/// One number of a measurement.
struct Column {
    name: &'static str,
    key: &'static str,
    of: fn(&Measured) -> f64,
    digits: usize,
}

const COLUMNS: [Column; 5] = [
    Column { name: "CPU µs per request", key: "cpu_us_per_request", of: |m| m.cpu_per_request, digits: 1 },
    Column { name: "p50 µs", key: "p50_us", of: |m| m.p50, digits: 0 },
    Column { name: "p99 µs", key: "p99_us", of: |m| m.p99, digits: 0 },
    Column { name: "resident MiB", key: "resident_mib", of: |m| m.resident, digits: 1 },
    Column { name: "anonymous MiB", key: "anonymous_mib", of: |m| m.anonymous, digits: 1 },
];
/// In place of the first one where bytes count rather than requests.
const PER_GB: Column = Column { name: "CPU s per GB", key: "cpu_s_per_gb", of: |m| m.cpu_per_gb, digits: 2 };

fn columns(row: Row) -> impl Iterator<Item = &'static Column> {
    let (first, rest) = match row {
        Row::Bulk => (Some(&PER_GB), &COLUMNS[1..]),
        // Nothing is asked: memory is all that there is.
        Row::Idle => (None, &COLUMNS[3..]),
        _ => (None, &COLUMNS[..]),
    };
    first.into_iter().chain(rest)
}

/// Markdown: for each number ours, Envoy's and ours as a part of Envoy's.
pub(super) fn table(results: &[(Row, [Measured; 2])]) -> String {
    let mut out = "| load | of both proxies | mizzen | envoy | ratio |\n| --- | --- | --: | --: | --: |\n".to_owned();
    for (row, [ours, theirs]) in results {
        for column in columns(*row) {
            let (a, b) = ((column.of)(ours), (column.of)(theirs));
            let (title, digits) = (row.title(), column.digits);
            let _ = writeln!(out, "| {title} | {} | {a:.digits$} | {b:.digits$} | {:.2} |", column.name, a / b);
        }
    }
    out
}

/// The same as data.
pub(super) fn json(results: &[(Row, [Measured; 2])], args: &BenchArgs) -> Value {
    let side = |row: Row, m: &Measured| {
        let numbers = columns(row).map(|c| (c.key.to_owned(), json!((c.of)(m))));
        numbers.chain([("requests".to_owned(), json!(m.requests))]).collect::<serde_json::Map<_, _>>()
    };
    let rows: Vec<Value> = results
        .iter()
        .map(|(row, [ours, theirs])| {
            let ratio = columns(*row).map(|c| (c.key.to_owned(), json!((c.of)(ours) / (c.of)(theirs)))).collect::<serde_json::Map<_, _>>();
            json!({"load": row.title(), "mizzen": side(*row, ours), "envoy": side(*row, theirs), "ratio": ratio})
        })
        .collect();
    json!({"rounds": args.rounds, "seconds": args.seconds, "hop": format!("{:?}", args.hop).to_lowercase(), "rows": rows})
}
