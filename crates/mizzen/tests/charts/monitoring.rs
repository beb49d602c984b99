//! The rules for Prometheus and the dashboard for Grafana are what Prometheus takes, and ask for nothing but what proxies and the control plane tell.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use mizzen_testkit::{Output, kube::Programs};
use serde_json::Value;

use super::{chart, run};

/// Where metrics are made.
const MAKE: [&str; 4] = ["engine", "dataplane", "agent", "control"];
/// What Prometheus adds to the series of a histogram.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// What stands in an expression and is no name: functions, words of the language, and the label of buckets.
const WORDS: [&str; 11] = ["sum", "min", "by", "rate", "increase", "histogram_quantile", "absent", "time", "le", "or", "and"];

/// All texts in quotes that the code has which makes metrics, without tests.
fn told() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in MAKE {
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../{name}/src")), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_test = path.file_stem().is_some_and(|name| name == "tests" || name.to_string_lossy().ends_with("_tests"));
        if path.is_dir() && !is_test {
            walk(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") && !is_test {
            let text = fs::read_to_string(&path).expect("a text");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            found.extend(code.split('"').map(str::to_owned));
        }
    }
}

/// The names in an expression, without what stands in quotes, ranges in brackets and numbers.
fn names(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let plain: String = expression.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    let plain: String = plain.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect::<Vec<_>>().join(" ");
    for word in plain.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')) {
        if word.starts_with(|c: char| c.is_ascii_alphabetic()) && !WORDS.contains(&word) {
            found.insert(word.to_owned());
        }
    }
    found
}

/// The names that nobody tells.
fn unknown(expression: &str, told: &BTreeSet<String>, recorded: &BTreeSet<String>) -> Vec<String> {
    let is_known = |name: &String| {
        let base = PARTS.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        told.contains(name) || told.contains(base) || recorded.contains(name)
    };
    names(expression).into_iter().filter(|name| !is_known(name)).collect()
}

fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == key => found.push(text),
            value => texts(value, key, found),
        }),
        Value::Array(list) => list.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn nothing_is_asked_for_that_nobody_tells() {
    let told = told();
    let read = |name: &str| fs::read_to_string(chart("monitoring").join(name)).expect("a text");
    let rules: Value = serde_saphyr::from_str(&read("rules.yaml")).expect("YAML");
    let board: Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let (mut expressions, mut recorded) = (Vec::new(), Vec::new());
    texts(&rules, "expr", &mut expressions);
    texts(&rules, "record", &mut recorded);
    texts(&board, "expr", &mut expressions);
    let recorded = recorded.into_iter().map(str::to_owned).collect();
    assert!(expressions.len() > 25, "{expressions:?}");
    for expression in expressions {
        assert_eq!(unknown(expression, &told, &recorded), [""; 0], "{expression}");
    }
}

#[test]
fn what_prometheus_takes() {
    let Some(programs) = Programs::for_promql() else { return };
    let look = |file: &Path| -> Output { run(Command::new(programs.path("promql")).arg(file)) };
    for (name, at_least) in [("rules.yaml", 10), ("dashboard.json", 20)] {
        let seen = look(&chart("monitoring").join(name)).ok();
        let count: usize = seen.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
        assert!(count >= at_least, "{name}: {seen}");
    }
    // And what it does not take: an expression, its type, a function in a text, a field, a dashboard's expression.
    let folder = tempfile::tempdir().expect("a folder");
    let rule = |lines: &str| format!("groups:\n- name: g\n  rules:\n  - alert: A\n{lines}");
    for (name, text, why) in [
        ("a.yaml", rule("    expr: sum by (le (x)\n"), "could not parse expression"),
        ("b.yaml", rule("    expr: rate(x) > 1\n"), "expected type range vector"),
        ("c.yaml", rule("    expr: x\n    annotations: {summary: '{{ $labels.a | noSuch }}'}\n"), "noSuch"),
        ("d.yaml", rule("    expr: x\n    fur: 5m\n"), "field fur not found"),
        ("e.json", r#"{"panels": [{"targets": [{"expr": "sum(rate(x[5m])"}]}]}"#.to_owned(), "unclosed left parenthesis"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, &text).expect("a file");
        let refused = look(&file);
        assert!(refused.code != 0 && refused.err.contains(why), "{text}: {refused:?}");
    }
}

#[test]
fn names_of_expressions() {
    let told: BTreeSet<String> = ["istio_requests_total", "istio_request_bytes", "reporter"].map(str::to_owned).into();
    let recorded: BTreeSet<String> = ["service:requests:rate5m".to_owned()].into();
    for (expression, expected) in [
        (r#"sum by (reporter) (rate(istio_requests_total{reporter="no_such"}[5m])) > 0.05"#, &[][..]),
        ("histogram_quantile(0.99, sum by (le) (rate(istio_request_bytes_bucket[10m])))", &[]),
        ("service:requests:rate5m / 2", &[]),
        ("service:requests:rate1m", &["service:requests:rate1m"]),
        (r#"rate(istio_request_total{code="1"}[5m])"#, &["code", "istio_request_total"]),
    ] {
        assert_eq!(unknown(expression, &told, &recorded), expected, "{expression}");
    }
}
