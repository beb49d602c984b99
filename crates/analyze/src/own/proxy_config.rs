//! The settings of a proxy, as `proxy.istio.io/config` holds them.
//!
//! A value of a wrong type or out of its range makes injection fail. A name that Istio does not know does not: what an older or newer release has is
//! passed over, and so it is here.

use std::net::IpAddr;

use mizzen_api::{Node, Value};

/// What a field holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Text,
    Bool,
    /// A whole number of 32 bits.
    Number,
    Port,
    /// A duration such as `1m30s`.
    Duration,
    /// The same: whole seconds, at least one.
    Drain,
    /// `host:port`.
    Address,
    /// A map with an `address`.
    Service,
    /// A map of texts.
    Texts,
    List,
    Map,
    OneOf(&'static [&'static str]),
}

use Shape::{Address, Bool, Drain, Duration, List, Map, Number, OneOf, Port, Service, Text, Texts};

const FIELDS: &[(&str, Shape)] = &[
    ("binaryPath", Text),
    ("caCertificatesPem", List),
    ("concurrency", Number),
    ("configPath", Text),
    ("connectionSettings", Map),
    ("controlPlaneAuthPolicy", OneOf(&["NONE", "MUTUAL_TLS"])),
    ("customConfigFile", Text),
    ("discoveryAddress", Address),
    ("drainDuration", Drain),
    ("envoyAccessLogService", Service),
    ("envoyMetricsService", Service),
    ("envoyMetricsServiceAddress", Address),
    ("extraStatTags", List),
    ("fileFlushInterval", Duration),
    ("fileFlushMinSizeKb", Number),
    ("gatewayTopology", Map),
    ("holdApplicationUntilProxyStarts", Bool),
    ("image", Map),
    ("interceptionMode", OneOf(&["REDIRECT", "TPROXY", "NONE"])),
    ("meshId", Text),
    ("privateKeyProvider", Map),
    ("proxyAdminPort", Port),
    ("proxyBootstrapTemplatePath", Text),
    ("proxyHeaders", Map),
    ("proxyMetadata", Texts),
    ("proxyStatsMatcher", Map),
    ("readinessProbe", Map),
    ("runtimeValues", Texts),
    ("serviceCluster", Text),
    ("statNameLength", Number),
    ("statsCompression", Bool),
    ("statsdUdpAddress", Address),
    ("statusPort", Port),
    ("terminationDrainDuration", Duration),
    ("tracing", Map),
    ("tracingServiceName", OneOf(&["APP_LABEL_AND_NAMESPACE", "CANONICAL_NAME_ONLY", "CANONICAL_NAME_AND_NAMESPACE"])),
    // Nobody looks at it any more.
    ("zipkinAddress", Text),
];

/// Checks the text of the annotation; the error says what is wrong with it.
pub(crate) fn check(text: &str) -> Result<(), String> {
    let node = Node::of_text(text, 0).ok_or("it is not YAML")?;
    let Value::Map(entries) = &node.value else { return Err("it holds no map of settings".to_owned()) };
    for entry in entries {
        let name = camel(&entry.key);
        let Some((_, shape)) = FIELDS.iter().find(|(known, _)| *known == name) else { continue };
        // Nothing is the default.
        if !matches!(entry.value.value, Value::Null) {
            check_one(*shape, &entry.value).map_err(|why| format!("{}: {why}", entry.key))?;
        }
    }
    Ok(())
}

/// The names of the messages' fields are accepted too.
fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut all, word| {
        let mut chars = word.chars();
        all.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        all + chars.as_str()
    })
}

fn check_one(shape: Shape, node: &Node) -> Result<(), String> {
    let must = |fits: bool, what: &str| if fits { Ok(()) } else { Err(format!("it must be {what}")) };
    match shape {
        Text => must(node.text().is_some(), "a text"),
        Bool => must(matches!(node.value, Value::Bool(_)), "true or false, without quotes"),
        Number => must(node.int().is_some_and(|n| i32::try_from(n).is_ok()), "a whole number"),
        Port => must(node.int().is_some_and(|n| (1..=65535).contains(&n)), "a port from 1 to 65535"),
        Duration => must(nanoseconds(node).is_some(), "a duration such as 5s"),
        Drain => must(nanoseconds(node).is_some_and(|ns| ns >= 1e9 && ns % 1e9 == 0.0), "whole seconds, at least 1s"),
        Address => must(node.text().is_some_and(|text| text.is_empty() || is_address(text)), "an address such as host:port"),
        Service => {
            let address = node.get("address").and_then(Node::text).unwrap_or_default();
            must(matches!(node.value, Value::Map(_)), "a map")?;
            must(address.is_empty() || is_address(address), "a service with an address such as host:port")
        }
        Texts => {
            must(matches!(node.value, Value::Map(_)), "a map of texts")?;
            match node.entries().iter().find(|entry| entry.value.text().is_none()) {
                Some(entry) => Err(format!("{} must be a text, in quotes", entry.key)),
                None => Ok(()),
            }
        }
        List => must(matches!(node.value, Value::List(_)), "a list"),
        Map => must(matches!(node.value, Value::Map(_)), "a map"),
        OneOf(words) => must(node.text().is_some_and(|text| words.contains(&text)), &words.join(", ")),
    }
}

/// A duration as Istio reads it: numbers, each with a unit.
fn nanoseconds(node: &Node) -> Option<f64> {
    let text = node.text()?;
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text.strip_prefix('+').unwrap_or(text)), |rest| (-1.0, rest));
    if rest == "0" {
        return Some(0.0);
    }
    let mut total = (!rest.is_empty()).then_some(0.0)?;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let of_unit = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * of_unit;
        rest = after;
    }
    Some(sign * total)
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_label = |label: &str| {
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_name = host.trim_end_matches('.').split('.').all(is_label);
    let is_port = !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_port && (is_name || host.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        assert!(FIELDS.is_sorted_by_key(|(name, _)| *name));
        for (text, problem) in [
            ("{}", None),
            ("concurrency: 2\nproxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}", None),
            ("{\"holdApplicationUntilProxyStarts\": true, \"drain_duration\": \"5s\"}", None),
            ("tracing: {sampling: 10}\nimage: {imageType: distroless}\nstatusPort: 15020\nconfigPath:", None),
            ("discoveryAddress: istiod.istio-system.svc:15012\nterminationDrainDuration: 0.5s", None),
            ("terminationDrainDuration: 1m30s\ndrainDuration: 3000ms\nfileFlushInterval: 1.5ms", None),
            // Of other releases.
            ("parentShutdownDuration: 60s\nzipkinAddress: zipkin", None),
            ("", Some("no map")),
            ("- a", Some("no map")),
            ("a: [", Some("not YAML")),
            ("proxyMetadata: {ISTIO_META_DNS_CAPTURE: true}", Some("ISTIO_META_DNS_CAPTURE must be a text")),
            ("holdApplicationUntilProxyStarts: \"true\"", Some("without quotes")),
            ("drainDuration: 0s", Some("at least 1s")),
            ("drainDuration: 1.5s", Some("at least 1s")),
            ("terminationDrainDuration: 1", Some("such as 5s")),
            ("terminationDrainDuration: \"5\"", Some("such as 5s")),
            ("terminationDrainDuration: five", Some("such as 5s")),
            ("terminationDrainDuration: 1.2.3s", Some("such as 5s")),
            ("terminationDrainDuration: \"-\"", Some("such as 5s")),
            ("drainDuration: 0.5m1d", Some("at least 1s")),
            ("drainDuration: -45s", Some("at least 1s")),
            ("statusPort: 0", Some("from 1")),
            ("concurrency: 2147483648", Some("whole number")),
            ("discoveryAddress: istiod", Some("host:port")),
            ("envoyAccessLogService: {address: \":80\"}", Some("host:port")),
            ("interceptionMode: tproxy", Some("REDIRECT, TPROXY, NONE")),
            ("extraStatTags: a", Some("a list")),
            ("image: distroless", Some("a map")),
        ] {
            let found = check(text);
            match problem {
                None => assert_eq!(found, Ok(()), "{text}"),
                Some(part) => assert!(found.clone().is_err_and(|why| why.contains(part)), "{text}: {found:?}"),
            }
        }
    }
}
