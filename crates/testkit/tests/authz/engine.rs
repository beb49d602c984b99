//! By the engine: a mesh in memory, with a proxy for each workload, joined by a network of bytes.

use mizzen_testkit::memory::MemoryMesh;

use crate::table::{Call, SERVER, Scenario, What, short};

/// One mesh for all scenarios, so that each is a change of the one before.
pub(crate) fn decide() -> impl FnMut(&Scenario) -> Vec<Option<String>> {
    let mut mesh: Option<MemoryMesh> = None;
    move |scenario| {
        let files = scenario.files();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        // A trust domain is for life.
        let fresh = scenario.files().iter().any(|(_, text)| text.contains("trustDomain:"));
        let known = mesh.take().filter(|_| !fresh);
        let mut now = match known {
            Some(mut known) => {
                known.apply(&files);
                known
            }
            None => MemoryMesh::start(11, &files),
        };
        assert!(now.problems.is_empty(), "{}: {:#?}", scenario.title, now.problems);
        let decided = scenario.calls.iter().map(|call| makes(scenario, call).then(|| made(&mut now, call))).collect();
        mesh = Some(now).filter(|_| !fresh);
        decided
    }
}

/// Whether a call can be made so: over HTTP/2 a client's proxy would write another head.
pub(crate) fn makes(scenario: &Scenario, call: &Call) -> bool {
    !scenario.asks() && (!matches!(call.what, What::H2(_)) || call.from.pod.is_none())
}

fn made(mesh: &mut MemoryMesh, call: &Call) -> String {
    let (from, to) = match call.from.pod {
        Some(pod) => (pod, format!("reviews.shop:{}", call.port)),
        None => ("outside", format!("{SERVER}:{}", call.target())),
    };
    let now = mesh.sim.now().wall;
    let answer = mesh.raw(from, &to, &call.bytes(now));
    let details = answer.line("response_code_details").unwrap_or_default();
    let rule = details.strip_prefix("rbac_access_denied_matched_policy[").and_then(|rest| rest.strip_suffix(']'));
    let status = match &call.what {
        // The answer is not read, but its line is.
        What::H2(_) => answer.lines.iter().find_map(|line| u16::try_from(line["response_code"].as_u64()?).ok()).unwrap_or(0),
        _ => answer.status(),
    };
    match (&call.what, status, rule) {
        (What::H2(_), 200, _) => "allow".to_owned(),
        (_, 200, _) if answer.served_by().is_some() => "allow".to_owned(),
        (What::Tcp, 0, _) => "deny".to_owned(),
        (_, 403, Some(rule)) => format!("deny {}", short(rule)),
        (_, 0, _) => "closed".to_owned(),
        (_, status, _) => status.to_string(),
    }
}
