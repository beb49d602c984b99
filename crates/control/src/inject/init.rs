//! The container that sets the capture before anything of the pod runs, or looks whether the node's plugin has set it.

use std::collections::BTreeSet;

use mizzen_api::istio::Interception;
use mizzen_types::ports;
use serde_json::{Map, Value, json};

use super::{
    InjectConfig,
    annotations::{INTERCEPTION, Wanted},
    pod::{INIT, PROXY_ID, VALIDATION},
    sidecar::{image, object, unprivileged},
};

/// The ports of the proxy that are never captured, besides the agent's.
const OWN: [u16; 2] = [ports::METRICS, ports::READINESS];

/// The name of the first container that injection puts into a sidecar's pod.
pub(super) fn name(config: &InjectConfig) -> &'static str {
    if config.cni { VALIDATION } else { INIT }
}

/// `istio-init`, which runs `mizzen-proxy istio-iptables` with Istio's flags; or `istio-validation`, which runs it to look.
pub(super) fn container(wanted: &Wanted, config: &InjectConfig) -> Map<String, Value> {
    let mut args = flags(wanted);
    let values = &config.proxy;
    let (env, security): (Vec<Value>, Value) = if config.cni {
        args.extend(["--run-validation", "--skip-rule-apply"].map(str::to_owned));
        (Vec::new(), unprivileged(config))
    } else {
        let env = wanted.proxy.proxy_metadata.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        (env, privileged())
    };
    let resources = wanted.resources.as_ref().or(values.init_resources.as_ref()).unwrap_or(&values.resources);
    let mut container = object(json!({
        "name": name(config),
        "image": image(&values.init_image, wanted.image.as_deref(), values),
        "args": args,
        "env": env,
        "resources": resources,
        "securityContext": security,
    }));
    if !values.pull_policy.is_empty() {
        container.insert("imagePullPolicy".to_owned(), values.pull_policy.as_str().into());
    }
    container
}

/// What setting the capture takes.
fn privileged() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "runAsUser": 0,
    })
}

fn of<'w>(wanted: &'w Wanted, name: &str) -> &'w str {
    wanted.capture.get(name).map(String::as_str).unwrap_or_default()
}

/// What is captured, by the names of annotations, for the node's plugin: what the flags say, with what the values of the mesh say in it.
pub(super) fn annotations(wanted: &Wanted) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", of(wanted, "includeOutboundIPRanges").to_owned()),
        ("traffic.sidecar.istio.io/includeInboundPorts", of(wanted, "includeInboundPorts").to_owned()),
        ("traffic.sidecar.istio.io/excludeInboundPorts", excluded(of(wanted, "excludeInboundPorts"), wanted.status_port)),
    ];
    if wanted.interception != Interception::default() {
        all.push((INTERCEPTION, wanted.interception.name().to_owned()));
    }
    for (annotation, name) in [
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "excludeOutboundIPRanges"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "includeOutboundPorts"),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "excludeOutboundPorts"),
    ] {
        if !of(wanted, name).is_empty() {
            all.push((annotation, of(wanted, name).to_owned()));
        }
    }
    all
}

/// Istio's flags of `istio-iptables`.
fn flags(wanted: &Wanted) -> Vec<String> {
    let get = |name: &str| of(wanted, name);
    let mut args: Vec<String> = ["istio-iptables", "-p"].map(str::to_owned).to_vec();
    args.push(ports::OUTBOUND.to_string());
    for (flag, value) in [
        ("-z", ports::INBOUND.to_string()),
        ("-u", PROXY_ID.to_string()),
        ("-g", PROXY_ID.to_string()),
        ("-m", wanted.interception.name().to_owned()),
        ("-i", get("includeOutboundIPRanges").to_owned()),
        ("-x", get("excludeOutboundIPRanges").to_owned()),
        ("-b", get("includeInboundPorts").to_owned()),
        ("-d", excluded(get("excludeInboundPorts"), wanted.status_port)),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    for (flag, value) in [("-q", get("includeOutboundPorts")), ("-o", get("excludeOutboundPorts"))] {
        if !value.is_empty() {
            args.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    args.push(format!("--log_output_level={}", wanted.agent_log_level));
    args
}

/// The ports to leave alone: the proxy's, the agent's, and the author's.
fn excluded(text: &str, status_port: u16) -> String {
    let own = OWN.into_iter().chain([status_port]).map(|port| port.to_string());
    let mut seen = BTreeSet::new();
    let all = own.chain(text.split(',').map(str::trim).filter(|port| !port.is_empty()).map(str::to_owned));
    all.filter(|port| seen.insert(port.clone())).collect::<Vec<_>>().join(",")
}
