//! Reading a proxy, with a record of every field that was read.

use std::{collections::BTreeMap, net::IpAddr};

use mizzen_types::{Locality, Name};

use crate::{
    proxy::{ProxyType, ProxyView, ViewField},
    reader::Reader,
};

impl ProxyView {
    /// Sidecar or router.
    pub fn kind(&self, reader: &Reader<'_>) -> ProxyType {
        reader.note_view(self, ViewField::Kind);
        self.facts().kind
    }

    /// The first address of its workload.
    pub fn ip(&self, reader: &Reader<'_>) -> IpAddr {
        reader.note_view(self, ViewField::Ip);
        self.facts().ip
    }

    /// The whole node id.
    pub fn id(&self, reader: &Reader<'_>) -> &Name {
        reader.note_view(self, ViewField::Id);
        &self.facts().id
    }

    /// The name of the workload's pod.
    pub fn pod(&self, reader: &Reader<'_>) -> &Name {
        reader.note_view(self, ViewField::Pod);
        &self.facts().pod
    }

    /// The workload's namespace.
    pub fn namespace(&self, reader: &Reader<'_>) -> &Name {
        reader.note_view(self, ViewField::Namespace);
        &self.facts().namespace
    }

    /// The workload's service account.
    pub fn service_account(&self, reader: &Reader<'_>) -> &Name {
        reader.note_view(self, ViewField::ServiceAccount);
        &self.facts().service_account
    }

    /// The workload's name.
    pub fn workload(&self, reader: &Reader<'_>) -> &Name {
        reader.note_view(self, ViewField::Workload);
        &self.facts().workload
    }

    /// The Kubernetes cluster.
    pub fn cluster(&self, reader: &Reader<'_>) -> &Name {
        reader.note_view(self, ViewField::Cluster);
        &self.facts().cluster
    }

    /// Where the workload runs.
    pub fn locality(&self, reader: &Reader<'_>) -> &Locality {
        reader.note_view(self, ViewField::Locality);
        &self.facts().locality
    }

    /// One label.
    pub fn label(&self, reader: &Reader<'_>, key: &str) -> Option<&str> {
        reader.note_view(self, ViewField::Label(key.into()));
        self.facts().labels.get(key).map(String::as_str)
    }

    /// Whether the proxy's labels hold all of `selector`. An empty selector selects all.
    ///
    /// Only the labels that decide are read, so that two replicas differing elsewhere still agree.
    pub fn selected(&self, reader: &Reader<'_>, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(key, value)| self.label(reader, key) == Some(value))
    }

    /// Whether the proxy has an extension.
    pub fn has_extension(&self, reader: &Reader<'_>, name: &str) -> bool {
        reader.note_view(self, ViewField::Extension(name.into()));
        self.facts().extensions.contains(name)
    }

    /// One entry of the metadata.
    pub fn metadata(&self, reader: &Reader<'_>, key: &str) -> Option<&str> {
        reader.note_view(self, ViewField::Metadata(key.into()));
        self.facts().metadata.get(key).map(String::as_str)
    }
}
