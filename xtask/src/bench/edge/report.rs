//! The results, as a table or as JSON.

use serde_json::{Value, json};

use super::{EdgeArgs, Measured, Outcome, Row};
use crate::bench::contender::{Column, numbers, values};

const PER_HANDSHAKE: Column<Measured> = Column { name: "CPU µs per handshake", key: "cpu_us_per_handshake", of: |m| m.cpu, digits: 1 };
const PER_REQUEST: Column<Measured> = Column { name: "CPU µs per request", key: "cpu_us_per_request", of: |m| m.cpu, digits: 1 };
const RESUMED: Column<Measured> = Column { name: "resumed, %", key: "resumed_percent", of: |m| m.resumed, digits: 1 };
const MEMORY: [Column<Measured>; 2] = [
    Column { name: "resident MiB", key: "resident_mib", of: |m| m.resident, digits: 1 },
    Column { name: "anonymous MiB", key: "anonymous_mib", of: |m| m.anonymous, digits: 1 },
];
const HOSTS: [Column<Measured>; 6] = [
    Column { name: "resident MiB before a handshake", key: "resident_mib", of: |m| m.resident, digits: 1 },
    Column { name: "resident MiB after one with each", key: RESIDENT_AFTER, of: |m| m.resident_after, digits: 1 },
    Column { name: "anonymous MiB before", key: "anonymous_mib", of: |m| m.anonymous, digits: 1 },
    Column { name: "anonymous MiB after", key: "anonymous_mib_after", of: |m| m.anonymous_after, digits: 1 },
    Column { name: "KiB per host before", key: "kib_per_host", of: |m| m.per_host, digits: 1 },
    Column { name: "KiB per host after", key: "kib_per_host_after", of: |m| m.per_host_after, digits: 1 },
];
const RESIDENT_AFTER: &str = "resident_mib_after";

fn columns(row: Row) -> Vec<&'static Column<Measured>> {
    let first: &[&Column<Measured>] = match row {
        Row::Full | Row::Mutual => &[&PER_HANDSHAKE],
        Row::Resumed => &[&PER_HANDSHAKE, &RESUMED],
        Row::Http1 | Row::Http2 => &[&PER_REQUEST],
        Row::Hosts => return HOSTS.iter().collect(),
    };
    first.iter().copied().chain(&MEMORY).collect()
}

/// What was asked of a number before it was measured: to be no more than such a part of another's.
struct Budget {
    most: f64,
    /// Whose number counts, by name.
    of: &'static str,
    ratio: f64,
}

impl Budget {
    /// The one of this number, if there is one and somebody to compare with.
    fn of(row: Row, column: &Column<Measured>, outcome: &Outcome) -> Option<Budget> {
        let envoy = ("envoy", outcome.envoy.as_ref());
        let (most, beside) = match row {
            Row::Full if column.key == PER_HANDSHAKE.key => (0.8, vec![envoy, ("nginx", outcome.nginx.as_ref())]),
            Row::Http1 if column.key == PER_REQUEST.key => (0.35, vec![envoy]),
            Row::Hosts if column.key == RESIDENT_AFTER => (0.2, vec![envoy]),
            _ => return None,
        };
        // The better one has the least: ours is the largest part of it.
        let ratios = beside.into_iter().filter_map(|(of, theirs)| Some((of, column.ratio(&outcome.mizzen, theirs?)?)));
        let (of, ratio) = ratios.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        Some(Budget { most, of, ratio })
    }

    fn is_kept(&self) -> bool {
        self.ratio <= self.most
    }

    fn shown(&self) -> String {
        let Budget { most, of, ratio } = self;
        format!("{ratio:.2} of {of}'s, at most {most:.2}: {}", if self.is_kept() { "kept" } else { "missed" })
    }

    fn json(&self) -> Value {
        json!({"most": self.most, "of": self.of, "ratio": self.ratio, "kept": self.is_kept()})
    }
}

/// Markdown: for each number ours, the others', ours as a part of Envoy's, and the budget.
pub(super) fn table(outcomes: &[Outcome], hosts: u32) -> String {
    let (envoy, nginx) = (outcomes.iter().any(|o| o.envoy.is_some()), outcomes.iter().any(|o| o.nginx.is_some()));
    let mut heads = vec!["load", "of the gateway", "mizzen"];
    heads.extend(envoy.then_some("envoy").into_iter().chain(nginx.then_some("nginx")).chain(envoy.then_some("ratio")));
    heads.extend((envoy || nginx).then_some("budget"));
    let rule: Vec<&str> =
        heads.iter().map(|head| if ["load", "of the gateway", "budget"].contains(head) { "---" } else { "--:" }).collect();
    let mut out = if envoy { String::new() } else { format!("{NO_ENVOY}.\n\n") };
    out.push_str(&line(&heads));
    out.push_str(&line(&rule));
    for outcome in outcomes {
        for column in columns(outcome.row) {
            let none = || "–".to_owned();
            let theirs = |theirs: Option<&Measured>| theirs.map_or_else(none, |m| column.shown(m));
            let mut cells = vec![outcome.row.title(hosts), column.name.to_owned(), column.shown(&outcome.mizzen)];
            cells.extend(envoy.then(|| theirs(outcome.envoy.as_ref())));
            cells.extend(nginx.then(|| theirs(outcome.nginx.as_ref())));
            cells.extend(envoy.then(|| ratio(column, outcome).map_or_else(none, |ratio| format!("{ratio:.2}"))));
            cells.extend((envoy || nginx).then(|| Budget::of(outcome.row, column, outcome).map_or_else(String::new, |b| b.shown())));
            out.push_str(&line(&cells));
        }
    }
    out
}

fn line(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// Ours as a part of Envoy's, where there is one.
fn ratio(column: &Column<Measured>, outcome: &Outcome) -> Option<f64> {
    column.ratio(&outcome.mizzen, outcome.envoy.as_ref()?)
}

/// What is said where there is no Envoy.
pub(super) const NO_ENVOY: &str = "no Envoy is measured: --envoy or MIZZEN_ENVOY names one to compare with";
/// What is said where there is no nginx.
pub(super) const NO_NGINX: &str = "no nginx is measured: apt-get install nginx-light, or --nginx names one";

/// The same as data.
pub(super) fn json(outcomes: &[Outcome], args: &EdgeArgs) -> Value {
    let side = |row: Row, m: &Measured| {
        let mut side = numbers(columns(row), m);
        side.insert("count".to_owned(), json!(m.count));
        side
    };
    let rows: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let row = outcome.row;
            let other = |other: Option<&Measured>| other.map(|m| side(row, m));
            let ratios = outcome.envoy.map(|_| values(columns(row), |column| json!(ratio(column, outcome))));
            let budgets = columns(row).into_iter().filter_map(|c| Some((c.key.to_owned(), Budget::of(row, c, outcome)?.json())));
            json!({"load": row.title(args.hosts), "mizzen": side(row, &outcome.mizzen), "envoy": other(outcome.envoy.as_ref()),
                "nginx": other(outcome.nginx.as_ref()), "ratio": ratios, "budget": budgets.collect::<serde_json::Map<_, _>>()})
        })
        .collect();
    json!({"rounds": args.rounds, "hosts": args.hosts, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> EdgeArgs {
        EdgeArgs { rounds: 3, hosts: 1_000, mizzen: None, envoy: None, nginx: None, json: true }
    }

    fn outcomes(envoy: bool, nginx: bool) -> Vec<Outcome> {
        let mizzen = Measured { cpu: 50.0, resident: 10.0, resident_after: 11.0, per_host: 4.0, ..Measured::default() };
        let theirs = Measured { cpu: 100.0, resident: 40.0, resident_after: 50.0, ..Measured::default() };
        let better = Measured { cpu: 64.0, ..Measured::default() };
        let outcome = |row| Outcome { row, mizzen, envoy: envoy.then_some(theirs), nginx: (nginx && row != Row::Hosts).then_some(better) };
        Row::ALL.into_iter().map(outcome).collect()
    }

    /// That the table has these lines.
    fn check(envoy: bool, nginx: bool, lines: &[&str]) {
        let text = table(&outcomes(envoy, nginx), 1_000);
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
        }
        assert_eq!(text.starts_with(NO_ENVOY), !envoy, "{text}");
    }

    #[test]
    fn tables() {
        check(
            true,
            true,
            &[
                "| load | of the gateway | mizzen | envoy | nginx | ratio | budget |",
                "| --- | --- | --: | --: | --: | --: | --- |",
                "| full handshakes | CPU µs per handshake | 50.0 | 100.0 | 64.0 | 0.50 | 0.78 of nginx's, at most 0.80: kept |",
                "| full handshakes, mutual | CPU µs per handshake | 50.0 | 100.0 | 64.0 | 0.50 |  |",
                "| HTTP/1.1 | CPU µs per request | 50.0 | 100.0 | 64.0 | 0.50 | 0.50 of envoy's, at most 0.35: missed |",
                "| HTTP/2 | CPU µs per request | 50.0 | 100.0 | 64.0 | 0.50 |  |",
                "| resumed handshakes | resumed, % | 0.0 | 0.0 | 0.0 | – |  |",
                "| 1000 hosts | resident MiB before a handshake | 10.0 | 40.0 | – | 0.25 |  |",
                "| 1000 hosts | resident MiB after one with each | 11.0 | 50.0 | – | 0.22 | 0.22 of envoy's, at most 0.20: missed |",
                "| 1000 hosts | KiB per host before | 4.0 | 0.0 | – | – |  |",
            ],
        );
        check(true, false, &["| full handshakes | CPU µs per handshake | 50.0 | 100.0 | 0.50 | 0.50 of envoy's, at most 0.80: kept |"]);
        check(false, true, &["| full handshakes | CPU µs per handshake | 50.0 | 64.0 | 0.78 of nginx's, at most 0.80: kept |"]);
        check(false, false, &["| load | of the gateway | mizzen |", "| --- | --- | --: |", "| 1000 hosts | KiB per host before | 4.0 |"]);
    }

    #[test]
    fn data() {
        let all = json(&outcomes(true, true), &args());
        assert_eq!(all["rows"][0]["ratio"]["cpu_us_per_handshake"], 0.5);
        assert_eq!(all["rows"][0]["budget"]["cpu_us_per_handshake"], json!({"most": 0.8, "of": "nginx", "ratio": 0.78125, "kept": true}));
        assert_eq!(all["rows"][5]["budget"]["resident_mib_after"]["kept"], false);
        assert!(all["rows"][5]["ratio"]["kib_per_host"].is_null() && all["rows"][5]["nginx"].is_null());
        let alone = json(&outcomes(false, false), &args());
        assert!(alone["rows"][0]["envoy"].is_null() && alone["rows"][0]["ratio"].is_null());
        assert_eq!(alone["rows"][0]["budget"], json!({}));
        assert_eq!(alone["rows"][0]["mizzen"]["cpu_us_per_handshake"], 50.0);
    }
}
