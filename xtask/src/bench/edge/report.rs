//! The results, as a table or as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{EdgeArgs, Measured, Outcome, Row};

/// One number of a measurement.
struct Column {
    name: &'static str,
    key: &'static str,
    of: fn(&Measured) -> f64,
    digits: usize,
}

const PER_HANDSHAKE: Column = Column { name: "CPU µs per handshake", key: "cpu_us_per_handshake", of: |m| m.cpu, digits: 1 };
const PER_REQUEST: Column = Column { name: "CPU µs per request", key: "cpu_us_per_request", of: |m| m.cpu, digits: 1 };
const RESUMED: Column = Column { name: "resumed, %", key: "resumed_percent", of: |m| m.resumed, digits: 1 };
const MEMORY: [Column; 2] = [
    Column { name: "resident MiB", key: "resident_mib", of: |m| m.resident, digits: 1 },
    Column { name: "anonymous MiB", key: "anonymous_mib", of: |m| m.anonymous, digits: 1 },
];
const HOSTS: [Column; 6] = [
    Column { name: "resident MiB before a handshake", key: "resident_mib", of: |m| m.resident, digits: 1 },
    Column { name: "resident MiB after one with each", key: "resident_mib_after", of: |m| m.resident_after, digits: 1 },
    Column { name: "anonymous MiB before", key: "anonymous_mib", of: |m| m.anonymous, digits: 1 },
    Column { name: "anonymous MiB after", key: "anonymous_mib_after", of: |m| m.anonymous_after, digits: 1 },
    Column { name: "KiB per host before", key: "kib_per_host", of: |m| m.per_host, digits: 1 },
    Column { name: "KiB per host after", key: "kib_per_host_after", of: |m| m.per_host_after, digits: 1 },
];

fn columns(row: Row) -> Vec<&'static Column> {
    let first: &[&Column] = match row {
        Row::Full | Row::Mutual => &[&PER_HANDSHAKE],
        Row::Resumed => &[&PER_HANDSHAKE, &RESUMED],
        Row::Http1 | Row::Http2 => &[&PER_REQUEST],
        Row::Hosts => return HOSTS.iter().collect(),
    };
    first.iter().copied().chain(&MEMORY).collect()
}

/// Ours as a part of Envoy's, where there is one.
fn ratio(column: &Column, outcome: &Outcome) -> Option<f64> {
    let theirs = (column.of)(outcome.envoy.as_ref()?);
    (theirs > 0.0).then(|| (column.of)(&outcome.mizzen) / theirs)
}

/// Markdown: for each number ours, Envoy's and ours as a part of Envoy's.
pub(super) fn table(outcomes: &[Outcome], hosts: u32) -> String {
    let beside = outcomes.iter().any(|outcome| outcome.envoy.is_some());
    let mut out = if beside {
        "| load | of the gateway | mizzen | envoy | ratio |\n| --- | --- | --: | --: | --: |\n".to_owned()
    } else {
        format!("{ALONE}.\n\n| load | of the gateway | mizzen |\n| --- | --- | --: |\n")
    };
    for outcome in outcomes {
        for column in columns(outcome.row) {
            let digits = column.digits;
            let _ = write!(out, "| {} | {} | {:.digits$} |", outcome.row.title(hosts), column.name, (column.of)(&outcome.mizzen));
            if let Some(theirs) = &outcome.envoy {
                let ratio = ratio(column, outcome).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
                let _ = write!(out, " {:.digits$} | {ratio} |", (column.of)(theirs));
            }
            out.push('\n');
        }
    }
    out
}

/// What is said where there is no Envoy.
pub(super) const ALONE: &str = "Mizzen alone is measured: --envoy or MIZZEN_ENVOY names an Envoy to compare it with";

/// The same as data.
pub(super) fn json(outcomes: &[Outcome], args: &EdgeArgs) -> Value {
    let side = |row: Row, m: &Measured| {
        let numbers = columns(row).into_iter().map(|c| (c.key.to_owned(), json!((c.of)(m))));
        numbers.chain([("count".to_owned(), json!(m.count))]).collect::<Map<_, _>>()
    };
    let rows: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let row = outcome.row;
            let envoy = outcome.envoy.as_ref();
            let ratios = |_| columns(row).into_iter().map(|c| (c.key.to_owned(), json!(ratio(c, outcome)))).collect::<Map<_, _>>();
            json!({"load": row.title(args.hosts), "mizzen": side(row, &outcome.mizzen), "envoy": envoy.map(|m| side(row, m)),
                "ratio": envoy.map(ratios)})
        })
        .collect();
    json!({"rounds": args.rounds, "hosts": args.hosts, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> EdgeArgs {
        EdgeArgs { rounds: 3, hosts: 1_000, mizzen: None, envoy: None, json: true }
    }

    fn outcomes(envoy: bool) -> Vec<Outcome> {
        let mizzen = Measured { cpu: 50.0, resident: 10.0, per_host: 4.0, ..Measured::default() };
        let theirs = Measured { cpu: 100.0, resident: 40.0, resident_after: 50.0, ..Measured::default() };
        Row::ALL.into_iter().map(|row| Outcome { row, mizzen, envoy: envoy.then_some(theirs) }).collect()
    }

    #[test]
    fn beside_an_envoy() {
        let text = table(&outcomes(true), 1_000);
        for line in [
            "| full handshakes | CPU µs per handshake | 50.0 | 100.0 | 0.50 |",
            "| HTTP/2 | CPU µs per request | 50.0 | 100.0 | 0.50 |",
            "| resumed handshakes | resumed, % | 0.0 | 0.0 | – |",
            "| 1000 hosts | resident MiB before a handshake | 10.0 | 40.0 | 0.25 |",
            "| 1000 hosts | KiB per host before | 4.0 | 0.0 | – |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let data = json(&outcomes(true), &args());
        assert_eq!(data["rows"][0]["ratio"]["cpu_us_per_handshake"], 0.5);
        assert_eq!(data["rows"][5]["ratio"]["resident_mib_after"], 0.0);
        assert!(data["rows"][5]["ratio"]["kib_per_host"].is_null());
    }

    #[test]
    fn alone() {
        let text = table(&outcomes(false), 20);
        assert!(text.starts_with(ALONE), "{text}");
        assert!(text.lines().any(|line| line == "| 20 hosts | KiB per host before | 4.0 |"), "{text}");
        let data = json(&outcomes(false), &args());
        assert!(data["rows"][0]["envoy"].is_null() && data["rows"][0]["ratio"].is_null());
        assert_eq!(data["rows"][0]["mizzen"]["cpu_us_per_handshake"], 50.0);
    }
}
