//! What the reader of the mesh's objects refuses, and what it knows and does not act on.

use mizzen_api::{Problem, istio};

use super::Own;
use crate::{Code, Sort, code};

pub(crate) fn look(own: &mut Own<'_>) {
    for problem in own.item.problems {
        if let Some(code) = of_problem(own, problem) {
            own.say_at(code, problem.pos.clone(), problem.field.clone(), text(problem));
        }
    }
    for warning in own.item.warnings {
        if let Some(code) = of_warning(own, warning) {
            own.say_at(code, warning.pos.clone(), warning.field.clone(), text(warning));
        }
    }
}

pub(super) fn text(problem: &Problem) -> String {
    if problem.field.is_empty() { problem.message.clone() } else { format!("{}: {}", problem.field, problem.message) }
}

/// Kinds of Istio and of the Gateway API are the mesh's business, others that of whoever made them.
fn is_ours(own: &Own<'_>) -> bool {
    let group = &own.item.id.group;
    // Installations are the installer's business.
    (group.ends_with(".istio.io") && &**group != "install.istio.io")
        || &**group == "gateway.networking.k8s.io"
        || own.item.id.sort() == Sort::MeshConfig
        || &*own.item.id.kind == "File"
}

fn of_problem(own: &Own<'_>, problem: &Problem) -> Option<&'static Code> {
    let is_kind = problem.field == "kind" || problem.field == "apiVersion";
    Some(match (is_ours(own), problem.is_unsupported()) {
        (true, true) if is_kind => &code::MZ0001,
        (true, true) => &code::MZ0002,
        (true, false) => &code::IST0106,
        // Any document must say what it is.
        (false, _) if is_kind && own.at("kind").is_none() => &code::IST0106,
        (false, false) if is_kind && own.at("apiVersion").is_none() => &code::IST0106,
        (false, _) if is_kind => &code::MZ0006,
        (false, _) => &code::MZ0007,
    })
}

/// Whether a warning is about what is known and does nothing.
pub(super) fn is_not_acted_on(warning: &Problem) -> bool {
    warning.message.contains("not acted on")
}

fn of_warning(own: &Own<'_>, warning: &Problem) -> Option<&'static Code> {
    // Of Kubernetes' kinds the mesh reads what it acts on; the rest is not meant for it.
    if !is_ours(own) && warning.object.as_ref().is_none_or(|key| key.kind != mizzen_api::Kind::MeshConfig) {
        return None;
    }
    Some(match is_not_acted_on(warning) {
        true => &code::MZ0002,
        // Istio's validation warns of this one too; of the others it does not, or `warnings` does.
        false if warning.field.ends_with("outlierDetection.consecutiveErrors") => &code::IST0133,
        // `verify` and `rules` say them; the first one not of subsets, since Istio does not.
        false => match of_tls(warning) {
            Some(of) if *of == code::IST0128 && warning.field.starts_with("spec.subsets[") => of,
            Some(_) => return None,
            None => &code::MZ0004,
        },
    })
}

/// What a warning about TLS to servers that are not of the mesh says by its code.
pub(super) fn of_tls(warning: &Problem) -> Option<&'static Code> {
    match warning.message.as_str() {
        istio::SYSTEM_ROOTS if warning.field.starts_with("spec.trafficPolicy.portLevelSettings[") => Some(&code::IST0129),
        istio::SYSTEM_ROOTS => Some(&code::IST0128),
        istio::NOBODY_VERIFIED => Some(&code::MZ0102),
        istio::ANY_NAME => Some(&code::MZ0113),
        _ => None,
    }
}
