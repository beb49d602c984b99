//! What is old: fields and kinds that Istio no longer has, custom resource definitions of a version that is not enough, tokens of the first kind.

use mizzen_api::{LabelSet, Node, Pos, Value};

use super::Own;
use crate::{Id, Message, Sort, code};

/// Kinds that Istio has removed.
const REMOVED: &[&str] = &["ClusterRbacConfig", "RbacConfig", "ServiceRole", "ServiceRoleBinding"];

/// Definitions of the Gateway API with the release that is needed at least.
const AT_LEAST: &[(&str, [u64; 3])] = &[
    ("backendtlspolicies.gateway.networking.k8s.io", [1, 4, 0]),
    ("grpcroutes.gateway.networking.k8s.io", [1, 1, 0]),
    ("tlsroutes.gateway.networking.k8s.io", [1, 5, 0]),
];

const FIRST_PARTY: &str = "first-party-jwt";

pub(crate) fn look(own: &mut Own<'_>) {
    match own.item.id.sort() {
        Sort::VirtualService => delays(own),
        Sort::Sidecar if own.at("spec.outboundTrafficPolicy.egressProxy").is_some_and(|proxy| !matches!(proxy.value, Value::Null)) => {
            let text = "outboundTrafficPolicy.egressProxy is deprecated: route such traffic by a VirtualService";
            own.say(&code::IST0002, "spec.outboundTrafficPolicy.egressProxy", text);
        }
        Sort::CustomResourceDefinition => definition(own),
        _ => {}
    }
    tokens(own);
}

fn delays(own: &mut Own<'_>) {
    let routes = own.at("spec.http").map(Node::items).unwrap_or_default();
    for (at, route) in routes.iter().enumerate() {
        if route.at("fault.delay.percent").and_then(Node::int).is_some_and(|percent| percent > 0) {
            let text = "http.fault.delay.percent is deprecated: use http.fault.delay.percentage";
            own.say(&code::IST0002, format!("spec.http[{at}].fault.delay.percent"), text);
        }
    }
}

fn definition(own: &mut Own<'_>) {
    let text = |path: &str| own.at(path).and_then(Node::text).unwrap_or_default();
    let (group, kind, name) = (text("spec.group"), text("spec.names.kind"), &*own.item.id.name);
    if group == "rbac.istio.io" && REMOVED.contains(&kind) {
        own.say(&code::IST0002, "spec.names.kind", format!("kind {kind} of {group} is removed: Istio has no use for it"));
    }
    if group == "gateway.networking.k8s.io" {
        served(own, kind);
    }
    let Some((_, least)) = AT_LEAST.iter().find(|(known, _)| *known == name) else { return };
    let field = "metadata.annotations[\"gateway.networking.k8s.io/bundle-version\"]";
    let Some(version) = own.at(field).and_then(Node::text).and_then(version) else { return };
    if version < *least {
        let [have, need] = [&version, least].map(|[major, minor, patch]| format!("{major}.{minor}.{patch}"));
        let text = format!(
            "definition \"{name}\" is of Gateway API {have}, and \"{need}\" at least is needed: objects of its kind are left alone"
        );
        own.say(&code::IST0176, field, text);
    }
}

fn served(own: &mut Own<'_>, kind: &str) {
    let versions = own.at("spec.versions").map(Node::items).unwrap_or_default();
    let mut served: Vec<&str> = (versions.iter())
        .filter(|version| version.get("served").is_some_and(Node::is_true))
        .filter_map(|version| version.get("name").and_then(Node::text))
        .collect();
    served.sort_unstable();
    let has = if served.is_empty() { "none".to_owned() } else { served.join(",") };
    let text = |least: &str| format!("this definition serves {has} of the Gateway API, and {least} at least is needed");
    if matches!(kind, "Gateway" | "GatewayClass" | "HTTPRoute" | "ReferenceGrant") && !served.contains(&"v1beta1") {
        own.say(&code::IST0156, "spec.versions", text("v1beta1"));
    }
    if matches!(kind, "Gateway" | "GatewayClass" | "HTTPRoute" | "GRPCRoute") && !served.contains(&"v1") {
        own.say(&code::IST0172, "spec.versions", format!("{}, soon", text("v1")));
    }
}

/// `v1.4.0-rc.1` is 1.4.0; what is left out is 0.
fn version(text: &str) -> Option<[u64; 3]> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.');
    let mut number = || match parts.next() {
        None => Some(0),
        Some(part) if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => part.parse().ok(),
        Some(_) => None,
    };
    let version = [number()?, number()?, number()?];
    parts.next().is_none().then_some(version)
}

const FIRST_PARTY_TEXT: &str =
    "first-party tokens hold for any audience and never end: who gets one can be the workload anywhere; use third-party-jwt";

/// What is to be said of a control plane, known by this object, that takes first-party tokens: for whoever knows that of itself.
pub fn takes_first_party_tokens(id: Id) -> Message {
    Message { code: &code::MZ0111, id, pos: Pos::default(), field: String::new(), text: FIRST_PARTY_TEXT.to_owned(), fix: None }
}

/// Where an installation asks for service account tokens that hold for everybody and for ever.
fn tokens(own: &mut Own<'_>) {
    let is_asked = |node: Option<&Node>| node.and_then(Node::text) == Some(FIRST_PARTY);
    let id = &own.item.id;
    let field = match id.sort() {
        Sort::ConfigMap if id.name.starts_with("istio-sidecar-injector") => {
            let values = own.at("data.values").and_then(Node::text).and_then(|text| Node::of_text(text, 0));
            is_asked(values.as_ref().and_then(|values| values.at("global.jwtPolicy"))).then(|| "data.values".to_owned())
        }
        Sort::ConfigMap if &*id.name == "istio" || id.name.starts_with("istio-") => {
            let mesh = own.at("data.mesh").and_then(Node::text).and_then(|text| Node::of_text(text, 0));
            let policy = mesh.as_ref().and_then(|mesh| mesh.at("defaultConfig.proxyMetadata.JWT_POLICY"));
            is_asked(policy).then(|| "data.mesh".to_owned())
        }
        Sort::Deployment if own.facts.labels.label("app") == Some("istiod") => variable(own),
        Sort::Other if &*id.kind == "IstioOperator" => {
            let path = "spec.values.global.jwtPolicy";
            is_asked(own.at(path)).then(|| path.to_owned())
        }
        _ => None,
    };
    if let Some(field) = field {
        own.say(&code::MZ0111, field, FIRST_PARTY_TEXT);
    }
}

fn variable(own: &Own<'_>) -> Option<String> {
    let path = "spec.template.spec.containers";
    let containers = own.at(path)?.items();
    let is = |node: &Node, key: &str, text: &str| node.get(key).and_then(Node::text) == Some(text);
    containers.iter().enumerate().find_map(|(container, node)| {
        let env = node.get("env").map(Node::items).unwrap_or_default();
        let at = env.iter().position(|env| is(env, "name", "JWT_POLICY") && is(env, "value", FIRST_PARTY))?;
        Some(format!("{path}[{container}].env[{at}].value"))
    })
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions() {
        for (text, expected) in [
            ("v1.4.0", Some([1, 4, 0])),
            ("1.10", Some([1, 10, 0])),
            ("v2", Some([2, 0, 0])),
            ("v1.4.0-rc.1", Some([1, 4, 0])),
            ("v1.4.0+k3s", Some([1, 4, 0])),
            ("", None),
            ("main", None),
            ("1.2.3.4", None),
            ("1..2", None),
            ("1.99999999999999999999", None),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
