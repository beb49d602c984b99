//! The results, as a table or as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    BenchArgs, Row,
    contender::{Column, numbers, values},
    load::Measured,
};

const COLUMNS: [Column<Measured>; 5] = [
    Column { name: "CPU µs per request", key: "cpu_us_per_request", of: |m| m.cpu_per_request, digits: 1 },
    Column { name: "p50 µs", key: "p50_us", of: |m| m.p50, digits: 0 },
    Column { name: "p99 µs", key: "p99_us", of: |m| m.p99, digits: 0 },
    Column { name: "resident MiB", key: "resident_mib", of: |m| m.resident, digits: 1 },
    Column { name: "anonymous MiB", key: "anonymous_mib", of: |m| m.anonymous, digits: 1 },
];
/// In place of the first one where bytes count rather than requests.
const PER_GB: Column<Measured> = Column { name: "CPU s per GB", key: "cpu_s_per_gb", of: |m| m.cpu_per_gb, digits: 2 };

fn columns(row: Row) -> impl Iterator<Item = &'static Column<Measured>> {
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
            let ratio = column.ratio(ours, theirs).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(out, "| {} | {} | {} | {} | {ratio} |", row.title(), column.name, column.shown(ours), column.shown(theirs));
        }
    }
    out
}

/// The same as data.
pub(super) fn json(results: &[(Row, [Measured; 2])], args: &BenchArgs) -> Value {
    let side = |row: Row, m: &Measured| {
        let mut side = numbers(columns(row), m);
        side.insert("requests".to_owned(), json!(m.requests));
        side
    };
    let rows: Vec<Value> = results
        .iter()
        .map(|(row, [ours, theirs])| {
            let ratio = values(columns(*row), |column| json!(column.ratio(ours, theirs)));
            json!({"load": row.title(), "mizzen": side(*row, ours), "envoy": side(*row, theirs), "ratio": ratio})
        })
        .collect();
    json!({"rounds": args.rounds, "seconds": args.seconds, "hop": format!("{:?}", args.hop).to_lowercase(), "rows": rows})
}
