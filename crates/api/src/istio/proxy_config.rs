//! ProxyConfig, the kind: settings of the proxies of workloads. What the whole mesh says of them is [`ProxyConfig`](super::ProxyConfig).

use std::collections::BTreeMap;

use crate::{Meta, Selector, metadata::selector, read::Fields, table};

/// Settings of proxies, for pods that are made from then on. The root namespace's hold for the mesh, those of other namespaces for these; with a
/// selector for the workloads of their own namespace that it means.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadProxyConfig {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The workloads; `None`: all.
    pub selector: Option<Selector>,
    /// Worker threads; 0 is one for each core.
    pub concurrency: Option<u32>,
    /// Further entries of the proxy's environment.
    pub environment: BTreeMap<String, String>,
}

impl WorkloadProxyConfig {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::WORKLOAD_PROXY_CONFIG, |f| WorkloadProxyConfig {
            meta,
            selector: f.get("selector").map(|at| selector(&at, "matchLabels")).filter(|selector| !selector.is_empty()),
            concurrency: f.count("concurrency"),
            environment: f.text_map("environmentVariables"),
        })
    }
}
