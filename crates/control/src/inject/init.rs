//! The container that sets the capture, before anything of the pod runs.

use std::collections::BTreeSet;

use mizzen_types::ports;
use serde_json::{Map, Value, json};

use super::{
    InjectConfig,
    annotations::Wanted,
    pod::{INIT, PROXY_ID},
    sidecar::{image, object},
};

/// The ports of the proxy that are never captured, besides the agent's.
const OWN: [u16; 2] = [ports::METRICS, ports::READINESS];

/// `istio-init`, which runs `mizzen-proxy istio-iptables` with Istio's flags.
pub(super) fn container(wanted: &Wanted, config: &InjectConfig) -> Map<String, Value> {
    let get = |name: &str| wanted.capture.get(name).map(String::as_str).unwrap_or_default();
    let mut args: Vec<String> = ["istio-iptables", "-p"].map(str::to_owned).to_vec();
    args.push(ports::OUTBOUND.to_string());
    for (flag, value) in [
        ("-z", ports::INBOUND.to_string()),
        ("-u", PROXY_ID.to_string()),
        ("-g", PROXY_ID.to_string()),
        ("-m", "REDIRECT".to_owned()),
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
    let values = &config.proxy;
    let env: Vec<Value> = wanted.proxy.proxy_metadata.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let resources = wanted.resources.as_ref().or(values.init_resources.as_ref()).unwrap_or(&values.resources);
    let mut container = object(json!({
        "name": INIT,
        "image": image(&values.init_image, wanted.image.as_deref(), values),
        "args": args,
        "env": env,
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    }));
    if !values.pull_policy.is_empty() {
        container.insert("imagePullPolicy".to_owned(), values.pull_policy.as_str().into());
    }
    container
}

/// The ports to leave alone: the proxy's, the agent's, and the author's.
fn excluded(text: &str, status_port: u16) -> String {
    let own = OWN.into_iter().chain([status_port]).map(|port| port.to_string());
    let mut seen = BTreeSet::new();
    let all = own.chain(text.split(',').map(str::trim).filter(|port| !port.is_empty()).map(str::to_owned));
    all.filter(|port| seen.insert(port.clone())).collect::<Vec<_>>().join(",")
}
