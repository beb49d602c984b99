//! Sidecar.

use mizzen_types::{Hostname, check_dns_label};

use super::{OUTBOUND_POLICIES, OutboundTrafficPolicy};
use crate::{
    Meta, Selector,
    metadata::selector,
    read::{At, Fields, quoted},
    routing::Destination,
    table,
};

/// What workloads see of the mesh. A workload's own one before its namespace's before that of the root namespace; of several the oldest.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The workloads; `None`: all of the namespace, or in the root namespace of the mesh.
    pub selector: Option<Selector>,
    /// The hosts that they see; `None`: all that are exported to them.
    pub egress: Option<Vec<EgressHost>>,
    /// Where their calls to unknown destinations go; `None`: as MeshConfig says.
    pub outbound: Option<OutboundTrafficPolicy>,
    /// Through which service they go; only with [`OutboundTrafficPolicy::AllowAny`]. It has a port.
    pub egress_proxy: Option<Destination>,
}

/// Hosts of a namespace's services and VirtualServices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressHost {
    /// Whose.
    pub namespace: EgressNamespace,
    /// Whether they are left out of what other entries let in (`~NAMESPACE/HOST`).
    pub excluded: bool,
    /// The host; may be a wildcard.
    pub host: Hostname,
}

/// The namespaces of an [`EgressHost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressNamespace {
    /// All.
    Any,
    /// The workload's.
    Own,
    /// None: nothing is seen by this entry.
    None,
    /// This one.
    Named(Box<str>),
}

impl EgressNamespace {
    /// Whether a namespace is among them, for a workload of `own`.
    pub fn holds(&self, namespace: &str, own: &str) -> bool {
        match self {
            EgressNamespace::Any => true,
            EgressNamespace::Own => namespace == own,
            EgressNamespace::None => false,
            EgressNamespace::Named(name) => **name == *namespace,
        }
    }
}

pub(crate) const CAPTURE_MODES: &[(&str, i64, Option<()>); 3] = &[("DEFAULT", 0, Some(())), ("IPTABLES", 1, Some(())), ("NONE", 2, None)];

impl Sidecar {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::SIDECAR, |f| {
            let chosen = f.get("workloadSelector").map(|at| selector(&at, "labels")).filter(|selector| !selector.is_empty());
            let listeners = f.list("egress");
            let egress: Vec<EgressHost> = listeners.iter().flat_map(|at| at.fields(EgressHost::read_listener)).collect();
            let (outbound, egress_proxy) = f.opt_sub("outboundTrafficPolicy", outbound).unwrap_or_default();
            Sidecar { meta, selector: chosen, egress: (!listeners.is_empty()).then_some(egress), outbound, egress_proxy }
        })
    }
}

fn outbound(f: &Fields<'_>) -> (Option<OutboundTrafficPolicy>, Option<Destination>) {
    let mode = f.need("mode").and_then(|at| at.choice(OUTBOUND_POLICIES));
    let proxy = f.get("egressProxy").map(|at| (at.fields(egress_proxy), at));
    if let (Some((_, at)), Some(OutboundTrafficPolicy::RegistryOnly)) = (&proxy, mode) {
        at.fail("has no place beside REGISTRY_ONLY, by which calls to unknown destinations are refused");
    }
    (mode, proxy.map(|(proxy, _)| proxy))
}

fn egress_proxy(f: &Fields<'_>) -> Destination {
    let host = f.need("host");
    let name = host.as_ref().map_or_else(crate::read::any_host, At::hostname);
    if let Some(at) = host.filter(|at| name.is_wildcard() || !at.str().contains('.')) {
        at.fail(format!("{} is no whole name of a service, as reviews.shop.svc.cluster.local is", quoted(name.as_str())));
    }
    let port = f.need("port").and_then(|at| at.fields(|f| f.need("number").map(|at| at.port())));
    Destination { host: name, subset: f.opt_text("subset"), port }
}

impl EgressHost {
    /// One of `egress[]`: one for all ports, as captured traffic has it.
    fn read_listener(f: &Fields<'_>) -> Vec<EgressHost> {
        if let Some(at) = f.get("captureMode") {
            at.choice(CAPTURE_MODES);
        }
        let hosts = f.need("hosts").map(|at| at.list()).unwrap_or_default();
        if hosts.is_empty()
            && let Some(at) = f.get("hosts")
        {
            at.fail("must have at least one host");
        }
        hosts.iter().filter_map(EgressHost::read).collect()
    }

    /// `NAMESPACE/HOST`, with `.`, `*` and `~` for namespaces, and `~NAMESPACE/HOST`.
    fn read(at: &At<'_>) -> Option<EgressHost> {
        let text = at.word();
        let Some((namespace, host)) = text.split_once('/') else {
            at.expected("NAMESPACE/HOST, as in `./*` or `*/reviews.shop.svc.cluster.local`");
            return None;
        };
        let (namespace, excluded) = match namespace.strip_prefix('~') {
            Some(namespace) if !namespace.is_empty() => (namespace, true),
            _ => (namespace, false),
        };
        let namespace = match namespace {
            "*" => EgressNamespace::Any,
            "." => EgressNamespace::Own,
            "~" => EgressNamespace::None,
            name => {
                if check_dns_label(name).is_err() {
                    at.fail(format!("{} is no namespace, `*`, `.` or `~`", quoted(name)));
                }
                EgressNamespace::Named(name.into())
            }
        };
        let host = host.parse().map_err(|error: mizzen_types::HostnameError| at.fail(error.to_string())).ok()?;
        Some(EgressHost { namespace, excluded, host })
    }
}
