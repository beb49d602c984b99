//! Cases as data: `cases/*.txt` hold configurations and what is said of them.
//!
//! A case starts with `== TITLE`, where the title is `CODE: …` if the code is expected and `not CODE: …` if it looks as if it might be, and must not.
//! YAML follows, and at its end one line for each message: `=> CODE Kind namespace/name LINE text`, with the line counted from the first one after the
//! title, and as much of the text as matters. Nothing else may be said but overviews and what is not supported yet, unless such a code is named. Istio's
//! ingress gateway is taken to run, except where the YAML has a line `# no default gateway`; a line `# now: SECONDS` tells the time.
//!
//! A file may start with a line `anyhow: CODES`: what is said with these codes is looked at only where a case expects one of them.

mod changes;
mod cost;

use std::{collections::BTreeMap, sync::Arc};

use crate::{Analysis, CODES, Options, items};

const FILES: &[(&str, &str)] = &[
    ("schema", include_str!("../../cases/schema.txt")),
    ("mizzen", include_str!("../../cases/mizzen.txt")),
    ("workloads", include_str!("../../cases/workloads.txt")),
    ("annotations", include_str!("../../cases/annotations.txt")),
    ("installation", include_str!("../../cases/installation.txt")),
    ("filters", include_str!("../../cases/filters.txt")),
    ("gateways", include_str!("../../cases/gateways.txt")),
    ("hosts", include_str!("../../cases/hosts.txt")),
    ("routes", include_str!("../../cases/routes.txt")),
    ("selectors", include_str!("../../cases/selectors.txt")),
    ("services", include_str!("../../cases/services.txt")),
    ("warnings", include_str!("../../cases/warnings.txt")),
];

struct Case<'a> {
    file: &'a str,
    title: &'a str,
    yaml: String,
    expected: Vec<&'a str>,
    anyhow: &'a str,
}

fn cases<'a>(file: &'a str, text: &'a str) -> Vec<Case<'a>> {
    let anyhow = text.lines().next().and_then(|line| line.strip_prefix("anyhow: ")).unwrap_or_default();
    let sections = text.split("\n== ").enumerate().filter_map(|(number, section)| match number {
        0 => section.strip_prefix("== "),
        _ => Some(section),
    });
    let case = |section: &'a str| {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let expected = body.lines().filter_map(|line| line.strip_prefix("=> ")).collect();
        let yaml = body.lines().filter(|line| !line.starts_with("=> ")).map(|line| format!("{line}\n")).collect();
        Case { file, title, yaml, expected, anyhow }
    };
    sections.map(case).collect()
}

fn all() -> Vec<Case<'static>> {
    FILES.iter().flat_map(|(file, text)| cases(file, text)).collect()
}

/// The time of a case, in seconds since 1970, if it has a line `# now: SECONDS`.
fn time_of(yaml: &str) -> Option<i64> {
    yaml.lines().find_map(|line| line.strip_prefix("# now: ")).and_then(|time| time.parse().ok())
}

pub(crate) fn analyze(yaml: &str) -> Analysis {
    let is_said = |comment: &str| yaml.lines().any(|line| line == comment);
    let (default_gateway, stand_alone) = (!is_said("# no default gateway"), is_said("# no Kubernetes"));
    let mut analysis = Analysis::new(Options { default_gateway, stand_alone, now: time_of(yaml), ..Options::default() });
    items(yaml, &Arc::from(""), "default", &mut |item| analysis.put_first(&item));
    analysis.update();
    analysis
}

/// What is not built yet will be, and rules are about what is written.
const BY_THE_WAY: [&str; 2] = ["MZ0001", "MZ0002"];

fn check(case: &Case<'_>) -> Vec<String> {
    let analysis = analyze(&case.yaml);
    let named: Vec<&str> = case.expected.iter().filter_map(|line| line.split(' ').next()).collect();
    let mut told: Vec<String> = (analysis.messages().into_iter())
        .filter(|message| {
            let id = message.code.id;
            let is_by_the_way = message.code.is_overview || BY_THE_WAY.contains(&id) || case.anyhow.contains(id);
            !is_by_the_way || named.contains(&id)
        })
        .map(|message| format!("{} {} {} {}", message.code.id, message.id, message.pos.line, message.text))
        .collect();
    let mut wrong = Vec::new();
    for expected in &case.expected {
        match told.iter().position(|line| line.starts_with(expected)) {
            Some(at) => _ = told.remove(at),
            None => wrong.push(format!("missing: {expected}")),
        }
    }
    wrong.extend(told.into_iter().map(|line| format!("surplus: {line}")));
    wrong.into_iter().map(|line| format!("{}: {}\n  {line}", case.file, case.title)).collect()
}

#[test]
fn what_is_said() {
    let wrong: Vec<String> = all().iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Codes that need what files cannot hold: rights, versions, several clusters, upgrades; on which addresses a running program listens (IST0143).
const OF_CLUSTERS: &[&str] = &["MZ0005", "IST0001", "IST0141", "IST0142", "IST0143", "IST0168", "IST0169", "IST0170"];

#[test]
fn every_code_has_cases() {
    let mut count: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in all() {
        let (is_not, title) = case.title.strip_prefix("not ").map_or((false, case.title), |title| (true, title));
        let code = title.split(':').next().unwrap_or_default();
        let is_said = case.expected.iter().any(|line| line.starts_with(code));
        assert_eq!(is_said, !is_not, "{}: {}", case.file, case.title);
        let counts = count.entry(code).or_default();
        *(if is_not { &mut counts.1 } else { &mut counts.0 }) += 1;
    }
    let lacking: Vec<&str> = (CODES.iter().map(|code| code.id))
        .filter(|code| !OF_CLUSTERS.contains(code) && !count.get(code).is_some_and(|(yes, no)| *yes > 0 && *no > 0))
        .collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}
