//! From YAML to the resources of one proxy, as the control plane would send them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use mizzen_api::{Problem, core::Pod};
use mizzen_dataplane::ISTIO_FILTERS;
use mizzen_model::{Change, Closed, ProxyFacts, ProxyType, ProxyView, Reader, Snapshot, locality_of};
use mizzen_protos::canonical::canonicalize;
use mizzen_translate::ResourceKind;
use mizzen_types::Name;
use mizzen_xds::server::{Resource, ResourceSource};

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
                        let unnamed = || mizzen_api::Key::new(closes.kind, closes.namespace.clone(), format!("{file}#{number}"));
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

/// Reads the YAML files of a folder, in the order of their names.
///
/// # Errors
/// If it cannot be read.
pub fn load_folder(folder: &Path) -> std::io::Result<Loaded> {
    let mut texts = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            texts.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), std::fs::read_to_string(&path)?);
        }
    }
    Ok(load(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))))
}

/// The proxy of a pod: a gateway if a Gateway selects it, else a sidecar. `None` if there is no such pod or it has no address.
pub fn proxy_of(snapshot: &Snapshot, namespace: &str, name: &str) -> Option<ProxyView> {
    let pod = snapshot.objects::<Pod>().find(|pod| (&*pod.meta.namespace, &*pod.meta.name) == (namespace, name))?;
    let ip = pod.status.pod_ip?;
    let gateway = snapshot.objects::<mizzen_api::istio::Gateway>().any(|gateway| gateway.selector.matches(&pod.meta.labels));
    let kind = if gateway { ProxyType::Router } else { ProxyType::Sidecar };
    let facts = ProxyFacts {
        kind,
        ip,
        id: format!("{}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local", kind.as_str()).into(),
        pod: name.into(),
        namespace: namespace.into(),
        service_account: pod.spec.service_account.as_str().into(),
        workload: name.into(),
        cluster: "Kubernetes".into(),
        locality: locality_of(&pod.meta.labels),
        labels: pod.meta.labels.clone(),
        extensions: ISTIO_FILTERS.iter().map(|(_, name)| (*name).to_owned()).collect::<BTreeSet<_>>(),
        metadata: BTreeMap::new(),
    };
    Some(facts.into())
}

/// The resources of one proxy by type, with their contents as bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources(pub BTreeMap<ResourceKind, BTreeMap<Name, Resource>>);

/// All resources that a mesh has for a proxy.
///
/// # Panics
/// If a resource is listed that cannot be built.
pub fn resources(snapshot: &Snapshot, view: &ProxyView) -> Resources {
    let reader = Reader::new(snapshot);
    let of_kind = |kind: ResourceKind| {
        let build = |name: Name| {
            let built = mizzen_translate::build(&reader, view, kind, &name);
            let mut any = built.unwrap_or_else(|| panic!("{kind:?} {name} is listed and not built")).any;
            canonicalize(&mut any);
            (name, Resource::new(any))
        };
        mizzen_translate::list(&reader, view, kind).into_iter().map(build).collect()
    };
    Resources(ResourceKind::ALL.into_iter().map(|kind| (kind, of_kind(kind))).collect())
}

impl Resources {
    /// The addresses that the proxy's DNS answers for a host, whole or short.
    pub fn addresses(&self, host: &str) -> Vec<String> {
        use prost::Message;
        let table = self.0.get(&ResourceKind::NameTable).and_then(|all| all.values().next());
        let table = table.and_then(|resource| mizzen_protos::nds::NameTable::decode(&*resource.body.value).ok()).unwrap_or_default();
        let short = |info: &mizzen_protos::nds::name_table::NameInfo| {
            host == info.shortname || host == format!("{}.{}", info.shortname, info.namespace)
        };
        let found = table.table.iter().find(|(name, info)| *name == host || short(info));
        found.map(|(_, info)| info.ips.clone()).unwrap_or_default()
    }
}

impl ResourceSource for &Resources {
    fn names(&mut self, type_url: &str) -> Vec<Name> {
        let all = ResourceKind::from_type_url(type_url).and_then(|kind| self.0.get(&kind));
        all.into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        self.0.get(&ResourceKind::from_type_url(type_url)?)?.get(name).cloned()
    }
}
