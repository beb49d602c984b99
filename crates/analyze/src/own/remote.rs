//! Webhooks that lead to a control plane outside of the cluster.

use std::net::IpAddr;

use super::Own;
use crate::{Sort, code, facts::Of};

/// What a webhook's URL leads to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Name,
    Address,
    /// It cannot be reached, for this reason.
    Nothing(&'static str),
}

pub(crate) fn look(own: &mut Own<'_>) {
    let name = &*own.item.id.name;
    let is_istios = match own.item.id.sort() {
        Sort::ValidatingWebhook => name == "istiod-default-validator" || name.starts_with("istio-validator"),
        Sort::MutatingWebhook => name.starts_with("istio-sidecar-injector"),
        _ => false,
    };
    let Of::Webhooks(hooks) = &own.facts.of else { return };
    for (at, hook) in hooks.iter().enumerate().filter(|_| is_istios) {
        let path = format!("webhooks[{at}].clientConfig");
        let has_url = own.at(&format!("{path}.url")).is_some();
        if !has_url && hook.service.is_none() {
            let text = format!("hostname () of the webhook ({}) is blank: it needs the URL of the control plane, or a service", hook.name);
            own.say(&code::IST0163, path, text);
        } else if has_url {
            let (url, name, field) = (&hook.url, &hook.name, format!("{path}.url"));
            match target(url) {
                Target::Name => {}
                Target::Address => {
                    let text = format!(
                        "address ({url}) of the webhook ({name}) is an IP address: give the ingress gateway a name before production"
                    );
                    own.say(&code::IST0164, field, text);
                }
                Target::Nothing(why) => {
                    let text = format!("hostname ({url}) of the webhook ({name}) for the external control plane {why}");
                    own.say(&code::IST0163, field, text);
                }
            }
        }
    }
}

/// Names are not resolved here: only those that nobody can resolve are told.
fn target(url: &str) -> Target {
    const MALFORMED: Target = Target::Nothing("is no URL");
    const UNRESOLVED: Target = Target::Nothing("cannot be resolved");
    if url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return MALFORMED;
    }
    // A port without a scheme in front is taken for a scheme or for a broken path.
    let Some((_, rest)) = url.split_once("://") else { return if url.contains(':') { MALFORMED } else { UNRESOLVED } };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => host.split_once(':').unwrap_or((host, "")),
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return MALFORMED;
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() {
        return Target::Address;
    }
    // Names that are kept for documents and tests.
    let last = host.rsplit('.').next().unwrap_or_default();
    if matches!(last, "" | "invalid" | "test" | "example") { UNRESOLVED } else { Target::Name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (url, is_name, is_address) in [
            ("https://istiod.example.com:15017/inject", true, false),
            ("https://user@istiod.example.com./inject?x=1", true, false),
            ("https://10.0.0.1:15017/inject", false, true),
            ("https://[fd00::1]:15017", false, true),
            ("", false, false),
            ("https://", false, false),
            ("istiod.example.com/inject", false, false),
            ("10.0.0.1:15017/inject", false, false),
            ("https://istiod.invalid/inject", false, false),
            ("https://istiod.example.com:http/inject", false, false),
            ("https://istiod .example.com", false, false),
        ] {
            assert_eq!((target(url) == Target::Name, target(url) == Target::Address), (is_name, is_address), "{url}");
        }
    }
}
