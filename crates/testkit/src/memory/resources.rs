//! From YAML to the resources of one proxy, as the control plane would send them.

use std::{collections::BTreeMap, path::Path};

use mizzen_explain::{Loaded, load};
use mizzen_model::{ProxyView, Snapshot};
use mizzen_translate::ResourceKind;
use mizzen_types::Name;
use mizzen_xds::server::{Resource, ResourceSource};

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

/// The resources of one proxy by type, with their contents as bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources(pub BTreeMap<ResourceKind, BTreeMap<Name, Resource>>);

/// All resources that a mesh has for a proxy.
///
/// # Panics
/// If a resource is listed that cannot be built.
pub fn resources(snapshot: &Snapshot, view: &ProxyView) -> Resources {
    let of_kind = |kind: ResourceKind| {
        let build = |name: Name| {
            let built = mizzen_explain::build(snapshot, view, kind, &name);
            let any = built.unwrap_or_else(|| panic!("{kind:?} {name} is listed and not built")).any;
            (name, Resource::new(any))
        };
        mizzen_explain::list(snapshot, view, kind).into_iter().map(build).collect()
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
