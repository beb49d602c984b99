//! From texts to a mesh, and from a mesh's pods to their proxies.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use mizzen_api::{
    Key, Problem,
    core::Pod,
    istio::{Gateway, ProxyConfig, WorkloadProxyConfig},
};
use mizzen_ir::{DYNAMIC_HOSTS, ISTIO_FILTERS};
use mizzen_model::{ALLOCATED, CLUSTER, Change, Closed, Families, ProxyFacts, ProxyType, ProxyView, Snapshot, TLS_MODE_LABEL, locality_of};

/// What some YAML says.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The mesh. A refused policy closes what it selects, as it does without a last good version.
    pub snapshot: Arc<Snapshot>,
    /// All that is refused.
    pub problems: Vec<Problem>,
}

/// Reads texts, each with the name of its file.
pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Loaded {
    let (mut changes, mut problems) = (Vec::new(), Vec::new());
    for (number, (file, text)) in files.into_iter().enumerate() {
        for object in mizzen_api::parse_documents(text, &Arc::from(file)).objects {
            match object {
                Ok(object) => changes.push(Change::from(object)),
                Err(refusal) => {
                    if let Some(closes) = refusal.closes {
                        let unnamed = || Key::new(closes.kind, closes.namespace.clone(), format!("{file}#{number}"));
                        let key = refusal.key.unwrap_or_else(unnamed);
                        changes.push(Change::Close(Closed { key, selector: closes.selector }));
                    }
                    problems.extend(refusal.problems);
                }
            }
        }
    }
    Loaded { snapshot: Snapshot::empty().apply(changes), problems }
}

/// What stands beside a pod: a gateway, a sidecar, or nothing.
pub(crate) fn proxy_type(snapshot: &Snapshot, pod: &Pod) -> Option<ProxyType> {
    if snapshot.objects::<Gateway>().any(|gateway| gateway.selector.matches(&pod.meta.labels)) {
        return Some(ProxyType::Router);
    }
    pod.meta.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio").then_some(ProxyType::Sidecar)
}

pub(crate) fn pod<'s>(snapshot: &'s Snapshot, namespace: &str, name: &str) -> Option<&'s Pod> {
    snapshot.objects::<Pod>().find(|pod| (&*pod.meta.namespace, &*pod.meta.name) == (namespace, name))
}

/// The pod that is meant by `namespace/name`: of this name, else the first of a workload of this name, or of the service account.
pub fn workload_of<'s>(snapshot: &'s Snapshot, namespace: &str, name: &str) -> Option<&'s Pod> {
    let with_address = |pod: &&Pod| &*pod.meta.namespace == namespace && pod.status.pod_ip.is_some();
    let all = || snapshot.objects::<Pod>().filter(with_address);
    let of_workload = |pod: &&Pod| pod.meta.labels.get("app").is_some_and(|app| app == name) || pod.spec.service_account == name;
    let called = |pod: &&Pod| pod.meta.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    pod(snapshot, namespace, name).or_else(|| all().find(called)).or_else(|| all().find(of_workload))
}

/// The proxy of a pod: a gateway if a Gateway selects it, else a sidecar, whether the pod's label says that it has one or not. `None` if there is no such
/// pod or it has no address.
pub fn proxy_of(snapshot: &Snapshot, namespace: &str, name: &str) -> Option<ProxyView> {
    let pod = pod(snapshot, namespace, name)?;
    let kind = proxy_type(snapshot, pod).unwrap_or(ProxyType::Sidecar);
    Some(view_of(snapshot, pod, pod.status.pod_ip?, kind))
}

/// Whether the agent of a pod answers its programs' questions for names, by the settings that hold for it: what is said of it alone comes before what is said
/// of all.
fn answers_names(snapshot: &Snapshot, pod: &Pod) -> bool {
    const NAMES: &str = "ISTIO_META_DNS_CAPTURE";
    let mesh = snapshot.mesh();
    let of = |namespace: &str, is_for_all: bool| {
        let all = snapshot.objects::<WorkloadProxyConfig>().filter(|config| *config.meta.namespace == *namespace);
        let fits = |config: &&WorkloadProxyConfig| match &config.selector {
            None => is_for_all,
            Some(selector) => !is_for_all && selector.matches(&pod.meta.labels),
        };
        all.filter(fits).find_map(|config| config.environment.get(NAMES).cloned())
    };
    let annotated = || {
        let text = pod.meta.annotations.get("proxy.istio.io/config")?;
        mizzen_api::parse_proxy_config(text, &ProxyConfig::default(), &"".into()).ok()?.0.proxy_metadata.get(NAMES).cloned()
    };
    let own = of(&pod.meta.namespace, false).or_else(annotated).or_else(|| of(&pod.meta.namespace, true));
    let said = own.or_else(|| of(&mesh.root_namespace, true)).or_else(|| mesh.default_config.proxy_metadata.get(NAMES).cloned());
    said.is_some_and(|value| value == "true")
}

pub(crate) fn view_of(snapshot: &Snapshot, pod: &Pod, ip: IpAddr, kind: ProxyType) -> ProxyView {
    let (namespace, name) = (&pod.meta.namespace, &pod.meta.name);
    let more_ips: Vec<IpAddr> = [pod.status.pod_ip, pod.status.second_ip].into_iter().flatten().filter(|own| *own != ip).collect();
    let families = Families::of(more_ips.iter().chain([&ip])).extensions();
    let allocated = answers_names(snapshot, pod).then_some(ALLOCATED);
    let filters = ISTIO_FILTERS.iter().chain([&DYNAMIC_HOSTS]).map(|(_, name)| *name);
    let facts = ProxyFacts {
        kind,
        ip,
        more_ips,
        id: format!("{}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local", kind.as_str()).into(),
        pod: name.clone(),
        namespace: namespace.clone(),
        service_account: pod.spec.service_account.as_str().into(),
        workload: name.clone(),
        cluster: CLUSTER.into(),
        locality: locality_of(&pod.meta.labels),
        labels: pod.meta.labels.clone(),
        extensions: filters.chain(families).chain(allocated).map(str::to_owned).collect(),
        topology: Default::default(),
        metadata: BTreeMap::new(),
    };
    facts.into()
}
