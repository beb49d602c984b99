//! What a pod is called, what made it, and what injection writes on it.

use mizzen_api::core::cluster::Workload;
use serde_json::{Value, json};

use super::{
    InjectConfig, InjectError,
    annotations::{OVERRIDES, Template, Wanted},
    decide::STATUS,
    init,
    merge::Given,
    pod::{CONTAINERS, PROXY, Pod, container_name},
    sidecar::Added,
};

/// What made a pod: the workload that its author knows.
pub(super) struct Owner {
    /// Its name; of a pod without owner the pod's own.
    pub(super) name: String,
    /// `kubernetes://apis/GROUP/VERSION/namespaces/NAMESPACE/KINDs/NAME`.
    pub(super) uri: String,
}

impl Owner {
    /// By what controls the pod; without that it is its own.
    pub(super) fn of(pod: &Pod, namespace: &str) -> Owner {
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespace = pod.metadata().get("namespace").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or(namespace);
        let owners = pod.metadata().get("ownerReferences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
        let Workload { api_version, kind, name } = match controller {
            Some(owner) => Workload::of(&text(owner, "apiVersion"), &text(owner, "kind"), &text(owner, "name"), |name| pod.label(name)),
            None => {
                let own = pod.metadata().get("name").or_else(|| pod.metadata().get("generateName")).and_then(Value::as_str);
                let name = own.unwrap_or_default().trim_end_matches('-').to_owned();
                Workload { api_version: "v1".to_owned(), kind: "Pod".to_owned(), name }
            }
        };
        let uri = format!("kubernetes://apis/{api_version}/namespaces/{namespace}/{}s/{name}", kind.to_lowercase());
        Owner { uri, name }
    }
}

/// The key of the status under which stands whether questions for names are captured, where the node's plugin sets the capture.
pub const DNS_CAPTURE: &str = "dnsCapture";

const SCRAPE: &str = "prometheus.io/scrape";
const PORT: &str = "prometheus.io/port";
const PATH: &str = "prometheus.io/path";

/// Turns a scraper to the agent, which adds the proxy's metrics to the program's; the variable that tells it where those are.
pub(super) fn merge_prometheus(pod: &mut Pod, wanted: &Wanted) -> Result<Option<Value>, InjectError> {
    let read = |name: &str| pod.annotation(name).unwrap_or_default().to_owned();
    let (scrape, port, path) = (read(SCRAPE), read(PORT), read(PATH));
    // Who wants no scraping gets none, neither of the program nor of the proxy.
    if !wanted.merge_metrics || scrape.eq_ignore_ascii_case("false") {
        return Ok(None);
    }
    let own = wanted.status_port.to_string();
    if port == own {
        return Ok(None);
    }
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return Err(super::annotations::wrong(PORT, format!("`{port}` is not a port between 1 and 65535")));
    }
    let annotations = pod.texts_mut("annotations")?;
    for (name, value) in [(SCRAPE, "true"), (PORT, own.as_str()), (PATH, "/stats/prometheus")] {
        annotations.insert(name.to_owned(), value.into());
    }
    let asked = scrape.eq_ignore_ascii_case("true") && wanted.template == Template::Sidecar;
    let was = json!({ "scrape": scrape, "path": path, "port": port }).to_string();
    Ok(asked.then(|| json!({ "name": "ISTIO_PROMETHEUS_ANNOTATIONS", "value": was })))
}

/// Writes the labels by which the mesh knows the pod, and the annotations that tell what was done.
pub(super) fn label(
    pod: &mut Pod,
    owner: &Owner,
    added: &Added,
    given: &Given,
    wanted: &Wanted,
    config: &InjectConfig,
) -> Result<(), InjectError> {
    let first = |names: [&str; 3], default: &str| {
        let found = names.into_iter().find_map(|name| pod.label(name).filter(|value| !value.is_empty()));
        shortened(found.unwrap_or(default))
    };
    let mut labels = vec![
        ("service.istio.io/canonical-name", first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"], &owner.name)),
        (
            "service.istio.io/canonical-revision",
            first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"], "latest"),
        ),
    ];
    // What a gateway's servers say is what it takes, which is not mutual TLS at each port.
    if wanted.template == Template::Sidecar {
        labels.push(("security.istio.io/tlsMode", "istio".to_owned()));
    }
    if !config.proxy.network.is_empty() {
        labels.push(("topology.istio.io/network", config.proxy.network.clone()));
    }
    let mut programs = pod.containers(CONTAINERS).iter().filter_map(Value::as_object).map(container_name);
    let main = programs.find(|name| *name != PROXY).unwrap_or(PROXY).to_owned();
    let written = pod.texts_mut("labels")?;
    for (name, value) in labels {
        written.entry(name).or_insert(value.into());
    }
    let annotations = pod.texts_mut("annotations")?;
    for (name, value) in &config.annotations {
        annotations.insert(name.clone(), value.clone());
    }
    annotations.entry("istio.io/rev").or_insert(config.revision.as_str().into());
    if wanted.template == Template::Sidecar {
        for name in ["kubectl.kubernetes.io/default-container", "kubectl.kubernetes.io/default-logs-container"] {
            annotations.entry(name).or_insert(main.as_str().into());
        }
    }
    if let Some(note) = &given.note {
        annotations.insert(OVERRIDES.to_owned(), note.as_str().into());
    }
    let by_plugin = config.cni && wanted.template == Template::Sidecar;
    if by_plugin {
        annotations.extend(init::annotations(wanted).into_iter().map(|(name, value)| (name.to_owned(), value.into())));
    }
    let secrets = if config.proxy.pull_secrets.is_empty() { Value::Null } else { json!(config.proxy.pull_secrets) };
    let mut status = json!({
        "initContainers": added.init_containers,
        "containers": added.containers,
        "volumes": added.volumes,
        "imagePullSecrets": secrets,
        "revision": config.revision,
    });
    if by_plugin {
        status[DNS_CAPTURE] = json!(wanted.dns);
    }
    annotations.insert(STATUS.to_owned(), status.to_string().into());
    Ok(())
}

/// As a label's value: at most 63 characters, and none at the end that may not be there.
fn shortened(text: &str) -> String {
    text.get(..63).unwrap_or(text).trim_end_matches(['-', '.', '_']).to_owned()
}
