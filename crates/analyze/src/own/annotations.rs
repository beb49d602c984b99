//! Istio's annotations: whether they exist, where they may stand, and what they may hold.
//!
//! Only what Istio looks at is looked at: the annotations of a Namespace, a Service, a Pod or a Deployment itself, not those of a template.

use mizzen_api::{Node, Value, nearest};

use super::{Own, proxy_config};
use crate::{Sort, code};

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Alpha,
    Beta,
    Stable,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Anything,
    Bool,
    /// A number of 32 bits.
    Number,
    Port,
    /// Ports by commas; nothing is none.
    Ports,
    /// The same, or `*`.
    PortsOrAll,
    /// IP ranges by commas; nothing is none.
    Ranges,
    /// The same, or `*`.
    RangesOrAll,
    InterceptionMode,
    ProxyConfig,
}

/// An annotation.
#[derive(Debug)]
struct Known {
    name: &'static str,
    /// On which kinds; `Any` is all.
    on: &'static [&'static str],
    phase: Phase,
    is_deprecated: bool,
    check: Check,
}

const fn alpha(name: &'static str, on: &'static [&'static str]) -> Known {
    Known { name, on, phase: Phase::Alpha, is_deprecated: false, check: Check::Anything }
}

impl Known {
    const fn phase(self, phase: Phase) -> Known {
        Known { phase, ..self }
    }

    const fn deprecated(self) -> Known {
        Known { is_deprecated: true, ..self }
    }

    const fn check(self, check: Check) -> Known {
        Known { check, ..self }
    }
}

const ANY: &[&str] = &["Any"];
const POD: &[&str] = &["Pod"];
const SERVICE: &[&str] = &["Service"];
const GATEWAY: &[&str] = &["Gateway"];
const WORKLOAD_ENTRY: &[&str] = &["WorkloadEntry"];
const DESTINATIONS: &[&str] = &["Service", "ServiceEntry", "Namespace"];

/// Those that exist, by name.
const KNOWN: &[Known] = &[
    alpha("alpha.istio.io/canonical-serviceaccounts", SERVICE).deprecated(),
    alpha("alpha.istio.io/kubernetes-serviceaccounts", SERVICE).deprecated(),
    alpha("ambient.istio.io/bypass-inbound-capture", POD),
    alpha("ambient.istio.io/dns-capture", POD),
    alpha("ambient.istio.io/redirection", POD).phase(Phase::Beta),
    alpha("ambient.istio.io/waypoint-inbound-binding", &["GatewayClass", "Gateway"]),
    alpha("galley.istio.io/analyze-suppress", ANY),
    alpha("gateway.istio.io/controller-version", ANY),
    alpha("gateway.istio.io/name-override", GATEWAY),
    alpha("gateway.istio.io/service-account", GATEWAY),
    alpha("inject.istio.io/templates", POD),
    alpha("istio.io/autoRegistrationGroup", WORKLOAD_ENTRY),
    alpha("istio.io/connectedAt", WORKLOAD_ENTRY),
    alpha("istio.io/disconnectedAt", WORKLOAD_ENTRY),
    alpha("istio.io/dry-run", &["AuthorizationPolicy"]),
    alpha("istio.io/reroute-virtual-interfaces", POD),
    alpha("istio.io/rev", POD),
    alpha("istio.io/use-waypoint-canary-weight", DESTINATIONS),
    alpha("istio.io/workloadController", WORKLOAD_ENTRY),
    alpha("kubernetes.io/ingress.class", &["Ingress"]).phase(Phase::Stable),
    alpha("networking.istio.io/exportTo", SERVICE),
    alpha("networking.istio.io/service-type", GATEWAY),
    alpha("networking.istio.io/traffic-distribution", DESTINATIONS),
    alpha("prometheus.istio.io/merge-metrics", POD).check(Check::Bool),
    alpha("proxy.istio.io/config", POD).phase(Phase::Beta).check(Check::ProxyConfig),
    alpha("proxy.istio.io/overrides", POD),
    alpha("readiness.status.sidecar.istio.io/applicationPorts", POD),
    alpha("readiness.status.sidecar.istio.io/failureThreshold", POD).check(Check::Number),
    alpha("readiness.status.sidecar.istio.io/initialDelaySeconds", POD).check(Check::Number),
    alpha("readiness.status.sidecar.istio.io/periodSeconds", POD).check(Check::Number),
    alpha("sidecar.istio.io/agentLogLevel", POD),
    alpha("sidecar.istio.io/bootstrapOverride", POD),
    alpha("sidecar.istio.io/componentLogLevel", POD),
    alpha("sidecar.istio.io/discoveryAddress", POD).deprecated(),
    alpha("sidecar.istio.io/extraStatTags", POD).deprecated(),
    alpha(INJECT, POD).phase(Phase::Beta).deprecated(),
    alpha("sidecar.istio.io/interceptionMode", POD).check(Check::InterceptionMode),
    alpha("sidecar.istio.io/logLevel", POD),
    alpha("sidecar.istio.io/nativeSidecar", POD),
    alpha("sidecar.istio.io/proxyCPU", POD),
    alpha("sidecar.istio.io/proxyCPULimit", POD),
    alpha("sidecar.istio.io/proxyImage", POD),
    alpha("sidecar.istio.io/proxyImageType", POD),
    alpha("sidecar.istio.io/proxyMemory", POD),
    alpha("sidecar.istio.io/proxyMemoryLimit", POD),
    alpha("sidecar.istio.io/rewriteAppHTTPProbers", POD),
    alpha("sidecar.istio.io/statsCompression", POD).deprecated(),
    alpha("sidecar.istio.io/statsEvictionInterval", POD),
    alpha("sidecar.istio.io/statsFlushInterval", POD),
    alpha("sidecar.istio.io/statsHistogramBins", POD),
    alpha("sidecar.istio.io/statsHistogramBuckets", POD),
    alpha("sidecar.istio.io/statsInclusionPrefixes", POD).deprecated(),
    alpha("sidecar.istio.io/statsInclusionRegexps", POD).deprecated(),
    alpha("sidecar.istio.io/statsInclusionSuffixes", POD).deprecated(),
    alpha("sidecar.istio.io/status", POD),
    alpha("sidecar.istio.io/userVolume", POD),
    alpha("sidecar.istio.io/userVolumeMount", POD),
    alpha("status.sidecar.istio.io/port", POD).check(Check::Port),
    alpha("topology.istio.io/controlPlaneClusters", &["Namespace"]),
    alpha("traffic.istio.io/nodeSelector", SERVICE).phase(Phase::Stable),
    alpha("traffic.sidecar.istio.io/excludeInboundPorts", POD).check(Check::Ports),
    alpha("traffic.sidecar.istio.io/excludeInterfaces", POD),
    alpha("traffic.sidecar.istio.io/excludeOutboundIPRanges", POD).check(Check::Ranges),
    alpha("traffic.sidecar.istio.io/excludeOutboundPorts", POD).check(Check::Ports),
    alpha("traffic.sidecar.istio.io/includeInboundPorts", POD).check(Check::PortsOrAll),
    alpha("traffic.sidecar.istio.io/includeOutboundIPRanges", POD).check(Check::RangesOrAll),
    alpha("traffic.sidecar.istio.io/includeOutboundPorts", POD),
    alpha("traffic.sidecar.istio.io/kubevirtInterfaces", POD).deprecated(),
];

const INJECT: &str = "sidecar.istio.io/inject";

/// Those that injection sets on pods whose traffic is captured by the node.
const OF_CNI: &[&str] = &[
    "sidecar.istio.io/interceptionMode",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
];

pub(crate) fn look(own: &mut Own<'_>) {
    if !matches!(own.item.id.sort(), Sort::Namespace | Sort::Service | Sort::Pod | Sort::Deployment) {
        return;
    }
    let entries = own.at("metadata.annotations").map(Node::entries).unwrap_or_default();
    for entry in entries.iter().filter(|entry| is_istios(&entry.key)) {
        one(own, &entry.key, &text(&entry.value));
    }
}

/// Kubernetes' annotation is documented as Istio's.
fn is_istios(name: &str) -> bool {
    name == "kubernetes.io/ingress.class" || name.split('/').next().is_some_and(|domain| domain.ends_with("istio.io"))
}

/// What is no text is taken as if it were: the API server refuses it anyway.
fn text(value: &Node) -> String {
    match &value.value {
        Value::Text(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Null | Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn one(own: &mut Own<'_>, name: &str, value: &str) {
    let field = format!("metadata.annotations[\"{name}\"]");
    let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
        let hint = nearest(name, KNOWN.iter().map(|known| known.name)).map(|near| format!("; is {near} meant?")).unwrap_or_default();
        return own.say(&code::IST0108, field, format!("Istio has no annotation {name}{hint}"));
    };
    // Who has the label too knows, and keeps the annotation for old versions.
    let is_known = name == INJECT && own.at("metadata.labels").and_then(|labels| labels.get(INJECT)).is_some();
    if known.is_deprecated && !is_known {
        let instead = if name == INJECT { ": the label of that name takes its place" } else { "" };
        own.say(
            &code::IST0135,
            field.clone(),
            format!("annotation \"{name}\" is deprecated and may do nothing in later versions{instead}"),
        );
    }
    // Injection leaves its status on every pod.
    if known.phase == Phase::Alpha && name != "sidecar.istio.io/status" && !is_set_by_injection(own, name) {
        let text = format!("annotation \"{name}\" belongs to a feature in its alpha phase, which may change or be incomplete");
        own.say(&code::IST0136, field.clone(), text);
    }
    if known.on == ANY {
        return;
    }
    if !known.on.contains(&&*own.item.id.kind) {
        let text = format!("annotation {name} has no effect on a {}: it belongs on {}", own.item.id.kind, known.on.join(", "));
        return own.say(&code::IST0107, field, text);
    }
    if let Err(why) = check(known.check, value) {
        own.say(&code::IST0125, field, format!("annotation {name}: {why}"));
    }
}

fn is_set_by_injection(own: &Own<'_>, name: &str) -> bool {
    let is_init = |node: &Node| node.get("name").and_then(Node::text) == Some("istio-init");
    let has_init = || own.at("spec.initContainers").is_some_and(|all| all.items().iter().any(is_init));
    own.item.id.sort() == Sort::Pod && OF_CNI.contains(&name) && !has_init()
}

fn check(check: Check, value: &str) -> Result<(), String> {
    let all = |fits: fn(&str) -> bool, what: &str| match value.split(',').find(|part| !fits(part)) {
        Some(part) if !value.trim().is_empty() => Err(format!("\"{part}\" is not {what}")),
        _ => Ok(()),
    };
    let must = |fits: bool, what: &str| if fits { Ok(()) } else { Err(format!("\"{value}\" is not {what}")) };
    match check {
        Check::Anything => Ok(()),
        Check::PortsOrAll | Check::RangesOrAll if value == "*" => Ok(()),
        Check::Bool => {
            let words = ["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"];
            must(words.contains(&value), "true or false")
        }
        Check::Number => must(is_digits(value) && value.parse::<u32>().is_ok(), "a whole number"),
        Check::Port => must(is_port(value), "a port"),
        Check::Ports | Check::PortsOrAll => all(is_port, "a port"),
        // A list of ranges has no blanks, and nothing but nothing is none.
        Check::Ranges | Check::RangesOrAll if value.is_empty() => Ok(()),
        Check::Ranges | Check::RangesOrAll => match value.split(',').find(|part| !is_range(part)) {
            Some(part) => Err(format!("\"{part}\" is not an IP range such as 10.0.0.0/8")),
            None => Ok(()),
        },
        Check::InterceptionMode => must(["REDIRECT", "TPROXY", "NONE"].contains(&value), "REDIRECT, TPROXY or NONE"),
        Check::ProxyConfig => proxy_config::check(value),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_port(text: &str) -> bool {
    let text = text.trim();
    is_digits(text) && text.parse::<u16>().is_ok()
}

fn is_range(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let is_written_well = is_digits(bits) && (bits.len() == 1 || !bits.starts_with('0'));
    is_written_well && bits.parse::<u8>().is_ok_and(|bits| bits <= if address.is_ipv4() { 32 } else { 128 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_there_once() {
        assert_eq!(KNOWN.len(), 68);
        assert!(KNOWN.is_sorted_by(|a, b| a.name < b.name));
        assert!(KNOWN.iter().all(|known| is_istios(known.name)));
    }

    #[test]
    fn values() {
        let good: &[(Check, &[&str])] = &[
            (Check::Bool, &["true", "F", "1"]),
            (Check::Number, &["0", "4294967295"]),
            (Check::Port, &["0", "65535", " 15020 "]),
            (Check::Ports, &["", " ", "80", "80, 443"]),
            (Check::PortsOrAll, &["*", "", "80"]),
            (Check::Ranges, &["", "10.0.0.0/8,fd00::/8"]),
            (Check::RangesOrAll, &["*", "0.0.0.0/0"]),
            (Check::InterceptionMode, &["REDIRECT", "TPROXY", "NONE"]),
            (Check::Anything, &["whatever"]),
        ];
        let bad: &[(Check, &[&str])] = &[
            (Check::Bool, &["", "yes", "tRue"]),
            (Check::Number, &["", "-1", "+1", "1.5", "4294967296", " 1"]),
            (Check::Port, &["", "65536", "http", "+80"]),
            (Check::Ports, &["*", "80,", "80;443", "80,http"]),
            (Check::PortsOrAll, &["*,80", "65536"]),
            (
                Check::Ranges,
                &["*", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/8, 10.1.0.0/16", "10.0.0.0/08", "fd00::/129", "example.org/8", " "],
            ),
            (Check::RangesOrAll, &["**", "10.0.0.0/8,*"]),
            (Check::InterceptionMode, &["", "redirect"]),
        ];
        for (kind, values) in good {
            values.iter().for_each(|value| assert_eq!(check(*kind, value), Ok(()), "{kind:?} {value:?}"));
        }
        for (kind, values) in bad {
            values.iter().for_each(|value| assert!(check(*kind, value).is_err(), "{kind:?} {value:?}"));
        }
    }
}
