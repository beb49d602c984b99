//! By the steps: YAML → translate → bytes → `ir`, walked as `mizzen explain` walks it. What is no request is not for it.

use std::time::Duration;

use mizzen_explain::{Call as Hypothetical, Explainer, Payload, Source, Verdict};
use mizzen_pki::UnixTime;
use mizzen_testkit::memory::load;

use crate::table::{Call, SERVER, Scenario, What, short};

pub(crate) fn decide(scenario: &Scenario) -> Vec<Option<String>> {
    if scenario.asks() {
        return vec![None; scenario.calls.len()];
    }
    let files = scenario.files();
    let loaded = load(files.iter().map(|(name, text)| (*name, text.as_str())));
    assert!(loaded.problems.is_empty(), "{}: {:#?}", scenario.title, loaded.problems);
    let mut explainer = Explainer::new(&loaded.snapshot);
    scenario.calls.iter().map(|call| Some(decided(&mut explainer, &hypothetical(call)?, call))).collect()
}

fn hypothetical(call: &Call) -> Option<Hypothetical> {
    let now = UnixTime::now().as_secs();
    let payload = match call.filled(Duration::from_secs(now)) {
        What::Raw(_) | What::H2(_) => return None,
        // The codec refuses it before anybody decides.
        What::Http { .. } if matches!(call.expected.as_str(), "400" | "431") => return None,
        What::Http { method, path, mut headers } => {
            if call.from.pod.is_none() && headers.iter().all(|(name, _)| name != "host") {
                headers.push(("host".to_owned(), call.host()));
            }
            Payload::Http { method, path, headers, http2: false, tls: false, server_name: None, certificate: false }
        }
        What::Tcp => Payload::Tcp,
    };
    let (from, host, port) = match call.from.pod {
        Some(pod) => (Source::Workload(pod.to_owned()), "reviews.shop".to_owned(), call.port),
        None => (Source::Address(call.source().parse().ok()?), SERVER.to_owned(), call.target()),
    };
    Some(Hypothetical { from, host, port, payload, random: None, outside: None, at: Some(now), endpoints: 8 })
}

fn decided(explainer: &mut Explainer, hypothetical: &Hypothetical, call: &Call) -> String {
    let explained = explainer.call(hypothetical).unwrap_or_else(|why| panic!("{}: {why}", call.text));
    match (&explained.verdict, &call.what) {
        (Verdict::Delivered, _) => match allowed_by(&explained) {
            Some(rule) => format!("allow {}", short(&rule)),
            None => "allow".to_owned(),
        },
        (Verdict::Denied { .. } | Verdict::Closed { .. }, What::Tcp) => "deny".to_owned(),
        (Verdict::Denied { policy, .. }, _) => format!("deny {}", policy.as_deref().map_or("none".to_owned(), short)),
        (Verdict::Answered { status, .. }, _) => status.to_string(),
        (Verdict::Closed { .. }, _) => "closed".to_owned(),
        (other, _) => format!("{other}: {explained}"),
    }
}

/// The rule that let a request in.
fn allowed_by(explained: &mizzen_explain::Explanation) -> Option<String> {
    let text = explained.to_string();
    let mut lines = text.lines().filter_map(|line| line.trim().strip_suffix(" allows the request"));
    lines.next_back().and_then(|line| line.rsplit_once(' ').map_or(Some(line), |(_, rule)| Some(rule))).map(str::to_owned)
}
