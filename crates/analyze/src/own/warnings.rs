//! What Istio's validation warns of and accepts: fields that are deprecated, that have no effect beside others, or that seldom mean what they say.

use std::collections::{BTreeMap, BTreeSet};

use mizzen_api::Node;

use super::Own;
use crate::{Sort, code};

pub(crate) fn look(own: &mut Own<'_>) {
    let sort = own.item.id.sort();
    selector(own, sort);
    match sort {
        Sort::VirtualService => virtual_service(own),
        Sort::DestinationRule => destination_rule(own),
        Sort::Gateway => gateway(own),
        Sort::Sidecar => sidecar(own),
        Sort::ServiceEntry => service_entry(own),
        Sort::WorkloadEntry => workload_entry(own),
        Sort::AuthorizationPolicy => policy(own),
        Sort::Telemetry => telemetry(own),
        Sort::EnvoyFilter => envoy_filter(own),
        _ => {}
    }
}

fn warn(own: &mut Own<'_>, path: impl Into<String>, text: &str) {
    let path = path.into();
    let text = if path.is_empty() { text.to_owned() } else { format!("{path}: {text}") };
    own.say(&code::IST0133, path, text);
}

/// The items of a list, with their paths.
fn list<'a>(node: &'a Node, path: &str) -> impl Iterator<Item = (String, &'a Node)> + use<'a> {
    let path = path.to_owned();
    node.at(&path).map(Node::items).unwrap_or_default().iter().enumerate().map(move |(at, item)| (format!("{path}[{at}]"), item))
}

fn below<'a>(node: &'a Node, path: &str, field: &str) -> impl Iterator<Item = (String, &'a Node)> + use<'a> {
    let path = path.to_owned();
    list(node, field).map(move |(field, item)| (format!("{path}.{field}"), item))
}

fn text<'a>(node: &'a Node, path: &str) -> &'a str {
    node.at(path).and_then(Node::text).unwrap_or_default()
}

fn is_written(node: &Node, path: &str) -> bool {
    node.at(path).is_some_and(|node| !node.items().is_empty() || node.text().is_some_and(|text| !text.is_empty()))
}

/// A selector that selects all, which is seldom what one is written for.
fn selector(own: &mut Own<'_>, sort: Sort) {
    let (path, labels) = match sort {
        Sort::Sidecar | Sort::ServiceEntry | Sort::EnvoyFilter => ("spec.workloadSelector", "labels"),
        Sort::DestinationRule => ("spec.workloadSelector", "matchLabels"),
        Sort::AuthorizationPolicy | Sort::RequestAuthentication | Sort::PeerAuthentication => ("spec.selector", "matchLabels"),
        Sort::Telemetry | Sort::WasmPlugin | Sort::ProxyConfig => ("spec.selector", "matchLabels"),
        _ => return,
    };
    let is_empty = |node: &Node| node.get(labels).is_none_or(|labels| labels.entries().is_empty());
    if own.at(path).is_some_and(is_empty) {
        warn(own, path, "a workload selector without labels is for all workloads of the namespace");
    }
}

fn virtual_service(own: &mut Own<'_>) {
    let node = own.item.node;
    for (path, route) in list(node, "spec.http") {
        for field in ["mirrorPercent", "mirror_percent"] {
            if route.get(field).is_some() {
                warn(own, format!("{path}.{field}"), "is deprecated: use mirrorPercentage");
            }
        }
        let abort = route.at("fault.abort");
        let has_type = |abort: &Node| ["httpStatus", "grpcStatus", "http2Error"].iter().any(|field| abort.get(field).is_some());
        if abort.is_some_and(|abort| !has_type(abort)) {
            warn(own, format!("{path}.fault.abort"), "names no status to abort with");
        }
        let size = text(route, "directResponse.body.string").len().max(text(route, "directResponse.body.bytes").len() / 4 * 3);
        if size > 100 * 1024 && size <= 1024 * 1024 {
            warn(own, format!("{path}.directResponse.body"), "a large body is a burden on the control plane and each proxy");
        }
    }
    for (path, route) in list(node, "spec.tls") {
        for (path, one) in below(route, &path, "match") {
            for (path, host) in below(one, &path, "sniHosts") {
                if host.text().is_some_and(|host| host.parse::<std::net::IpAddr>().is_ok()) {
                    warn(own, path, "an IP address is no name for SNI, and few clients send one");
                }
            }
        }
    }
}

fn destination_rule(own: &mut Own<'_>) {
    let node = own.item.node;
    let whole = node.at("spec.trafficPolicy").map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets =
        list(node, "spec.subsets").filter_map(|(path, subset)| Some((format!("{path}.trafficPolicy"), subset.get("trafficPolicy")?)));
    for (path, policy) in whole.into_iter().chain(subsets) {
        let ports = below(policy, &path, "portLevelSettings");
        for (path, policy) in [(path.clone(), policy)].into_iter().chain(ports) {
            let is_set = |field: &str| policy.at(field).and_then(Node::int).is_some_and(|number| number != 0);
            if is_set("loadBalancer.consistentHash.minimumRingSize") {
                let path = format!("{path}.loadBalancer.consistentHash.minimumRingSize");
                warn(own, path, "is deprecated: use ringHash.minimumRingSize");
            }
        }
    }
}

fn gateway(own: &mut Own<'_>) {
    for (path, server) in list(own.item.node, "spec.servers") {
        let Some(tls) = server.get("tls") else { continue };
        let protocol = text(server, "port.protocol").to_ascii_uppercase();
        let is_http = matches!(&*protocol, "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY");
        if server.get("port").is_some() && !is_http && tls.get("httpsRedirect").is_some_and(Node::is_true) {
            warn(own, format!("{path}.tls.httpsRedirect"), "has an effect on HTTP alone");
        }
        if matches!(text(tls, "minProtocolVersion"), "TLSV1_0" | "TLSV1_1") && !is_written(tls, "cipherSuites") {
            warn(
                own,
                format!("{path}.tls.minProtocolVersion"),
                "versions before TLS 1.2 need ciphers for them in cipherSuites: there are none by default",
            );
        }
        let mut seen = BTreeSet::new();
        for (path, cipher) in below(tls, &format!("{path}.tls"), "cipherSuites") {
            if cipher.text().is_some_and(|cipher| !seen.insert(cipher)) {
                warn(own, path, "stands in the list already");
            }
        }
        let mode = text(tls, "mode");
        let used = ["caCrl", "serverCertificate", "privateKey", "caCertificates", "tlsCertificates", "credentialName", "credentialNames"];
        // Without a mode a server passes through.
        let passes = matches!(mode, "" | "PASSTHROUGH" | "AUTO_PASSTHROUGH");
        if let Some(field) = used.iter().find(|field| passes && is_written(tls, field)) {
            warn(own, format!("{path}.tls.{field}"), "is not used where TLS is passed through");
        }
        let is_by_secret = is_written(tls, "credentialName") || is_written(tls, "credentialNames");
        let many = tls.get("tlsCertificates").is_some_and(|all| all.items().len() > 2);
        if many && !is_by_secret && matches!(mode, "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL") {
            warn(own, format!("{path}.tls.tlsCertificates"), "only two certificates are served");
        }
    }
}

fn sidecar(own: &mut Own<'_>) {
    let node = own.item.node;
    for (path, listener) in list(node, "spec.ingress") {
        let protocol = text(listener, "port.protocol").to_ascii_uppercase();
        let is_http = matches!(&*protocol, "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY");
        if listener.at("connectionPool.http").is_some() && listener.get("port").is_some() && !is_http {
            warn(own, format!("{path}.connectionPool.http"), "has no effect on a port that is not HTTP");
        }
    }
    for (path, listener) in list(node, "spec.egress") {
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, host) in below(listener, &path, "hosts") {
            let Some((namespace, host)) = host.text().and_then(|host| host.split_once('/')) else { continue };
            let namespace = if namespace == "." { &*own.item.id.namespace } else { namespace };
            let hosts = seen.entry(namespace.to_owned()).or_default();
            let is_again = if host == "*" { !hosts.is_empty() } else { hosts.contains(host) || hosts.contains("*") };
            hosts.insert(host.to_owned());
            if is_again {
                warn(own, path, "is in the list already");
            }
        }
        if seen.len() > 1 && seen.get("*").is_some_and(|hosts| hosts.contains("*")) {
            warn(own, format!("{path}.hosts"), "`*/*` is all there is: other hosts have no effect beside it");
        }
    }
}

fn service_entry(own: &mut Own<'_>) {
    let node = own.item.node;
    for (path, host) in list(node, "spec.hosts") {
        if host.text().is_some_and(|host| host.contains('*') && host.len() > 1 && !host.starts_with("*.")) {
            warn(own, path, "a wildcard stands for whole labels: `*.` and a domain");
        }
    }
    let resolution = text(node, "spec.resolution");
    if matches!(resolution, "" | "NONE") && own.at("spec.workloadSelector").is_some() {
        warn(own, "spec.workloadSelector", "has no effect with resolution NONE");
    }
    let is_tcp = |port: &Node| text(port, "protocol").eq_ignore_ascii_case("TCP");
    let several = own.at("spec.hosts").is_some_and(|hosts| hosts.items().len() > 1);
    if resolution.starts_with("DNS")
        && several
        && is_written(node, "spec.addresses")
        && list(node, "spec.ports").any(|(_, port)| is_tcp(port))
    {
        warn(own, "spec.hosts", "hosts that share addresses cannot be told apart on a TCP port");
    }
}

fn workload_entry(own: &mut Own<'_>) {
    if !is_written(own.item.node, "spec.address") && is_written(own.item.node, "spec.network") {
        warn(own, "spec.network", "there is no address in it");
    }
}

/// Rules of a DENY policy that ask for nothing but HTTP: on a port of plain TCP what they ask for is unknown, and all is denied.
fn policy(own: &mut Own<'_>) {
    if !text(own.item.node, "spec.action").eq_ignore_ascii_case("DENY") {
        return;
    }
    const OF_CONNECTIONS: [&str; 10] = [
        "principals",
        "notPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ];
    for (path, rule) in list(own.item.node, "spec.rules") {
        let sources: Vec<&Node> = list(rule, "from").filter_map(|(_, from)| from.get("source")).collect();
        let operations: Vec<&Node> = list(rule, "to").filter_map(|(_, to)| to.get("operation")).collect();
        let from_connections = sources.iter().any(|source| OF_CONNECTIONS.iter().any(|field| is_written(source, field)));
        let to_ports = operations.iter().any(|operation| ["ports", "notPorts"].iter().any(|field| is_written(operation, field)));
        let is_http_alone = if operations.is_empty() { !sources.is_empty() && !from_connections } else { !to_ports };
        if is_http_alone {
            warn(own, path, "a DENY rule about HTTP alone denies all of plain TCP: name the ports that it is for");
        }
    }
}

fn telemetry(own: &mut Own<'_>) {
    let node = own.item.node;
    if own.at("spec.tracing").is_some_and(|all| all.items().len() > 1) {
        warn(own, "spec.tracing[1]", "only the first one holds");
    }
    for (path, tracing) in list(node, "spec.tracing") {
        if tracing.get("providers").is_some_and(|all| all.items().len() > 1) {
            warn(own, format!("{path}.providers[1]"), "only the first one holds");
        }
    }
    for (path, metrics) in list(node, "spec.metrics") {
        for (path, over) in below(metrics, &path, "overrides") {
            if over.get("tagOverrides").is_some_and(|tags| tags.get("").is_some()) {
                warn(own, format!("{path}.tagOverrides"), "a tag has no name");
            }
        }
    }
}

fn envoy_filter(own: &mut Own<'_>) {
    warn(
        own,
        "",
        "an EnvoyFilter depends on how a proxy is configured, which may change with any version: prefer another kind where one does",
    );
    for (path, patch) in list(own.item.node, "spec.configPatches") {
        if matches!(text(patch, "applyTo"), "LISTENER" | "FILTER_CHAIN") && patch.at("match.listener.filterChain.filter").is_some() {
            warn(own, format!("{path}.match.listener.filterChain.filter"), "has no effect with this applyTo");
        }
    }
}
