//! Small types that several of Istio's kinds share.

use mizzen_types::{NamespacedName, check_dns_label};

use super::{changed_header, header_value, regex};
use crate::{
    Meta,
    read::{At, Fields, quoted},
};

/// A text pattern of an AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// The whole text.
    Exact(String),
    /// `pre*`, without the star.
    Prefix(String),
    /// `*suf`, without the star.
    Suffix(String),
    /// `*`: any text that is not empty.
    Present,
}

/// A text matcher of a VirtualService.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StringMatch {
    /// The whole text.
    Exact(String),
    /// A prefix.
    Prefix(String),
    /// An RE2 expression over the whole text; it compiles.
    Regex(String),
    /// `{}`: there is such a header or parameter.
    Present,
}

/// To whom a resource is visible.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportTo {
    /// `*`: all namespaces.
    All,
    /// `.`: its own namespace.
    Own,
    /// `~`: nobody.
    Nobody,
    /// One namespace.
    Namespace(String),
}

impl ExportTo {
    /// Whether a resource of namespace `own` with this list is visible in namespace `other`. An empty list is the mesh's default, taken as `*`.
    pub fn visible(list: &[ExportTo], own: &str, other: &str) -> bool {
        list.is_empty()
            || list.iter().any(|to| match to {
                ExportTo::All => true,
                ExportTo::Own => own == other,
                ExportTo::Nobody => false,
                ExportTo::Namespace(name) => name == other,
            })
    }
}

/// Which endpoints of a service are called as long as they are well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficDistribution {
    /// All.
    #[default]
    Any,
    /// Those of the caller's zone.
    SameZone,
    /// Those of the caller's node, else of its zone.
    SameNode,
}

impl TrafficDistribution {
    /// Kubernetes' names for it.
    pub(crate) fn named(text: &str) -> Option<TrafficDistribution> {
        match text {
            "" => Some(TrafficDistribution::Any),
            "PreferClose" | "PreferSameZone" => Some(TrafficDistribution::SameZone),
            "PreferSameNode" => Some(TrafficDistribution::SameNode),
            _ => None,
        }
    }

    /// The field of a Service, else Istio's annotation.
    pub(crate) fn read(field: Option<&At<'_>>, meta: &Meta, root: &Fields<'_>) -> TrafficDistribution {
        const NAMES: &str = "PreferClose, PreferSameZone or PreferSameNode";
        const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
        if let Some(at) = field {
            return TrafficDistribution::named(&at.text()).unwrap_or_else(|| {
                at.expected(NAMES);
                TrafficDistribution::Any
            });
        }
        let Some(text) = meta.annotations.get(ANNOTATION) else { return TrafficDistribution::Any };
        TrafficDistribution::named(text).unwrap_or_else(|| {
            root.at.fail(format!("annotation {ANNOTATION}: must be {NAMES}, is {}", quoted(text)));
            TrafficDistribution::Any
        })
    }
}

/// What a VirtualService is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRef {
    /// `mesh`: the sidecars.
    Mesh,
    /// A Gateway; a name without a namespace is completed by that of the VirtualService.
    Named(NamespacedName),
}

/// Operations on a message's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// Set, replacing what is there.
    pub set: std::collections::BTreeMap<String, String>,
    /// Added to what is there.
    pub add: std::collections::BTreeMap<String, String>,
    /// Removed.
    pub remove: Vec<String>,
}

/// Header operations on both messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Before the request goes to its destination.
    pub request: HeaderOps,
    /// Before the response goes to the caller.
    pub response: HeaderOps,
}

impl Pattern {
    /// Istio's way of writing: at most one star, first or last.
    pub(crate) fn read(at: &At<'_>) -> Pattern {
        Pattern::of(at, &at.word())
    }

    /// The same of a part of what is written.
    pub(crate) fn of(at: &At<'_>, text: &str) -> Pattern {
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            _ if text == "*" => return Pattern::Present,
            (Some(suffix), _) => (Pattern::Suffix(suffix.to_owned()), suffix.contains('*')),
            (None, Some(prefix)) => (Pattern::Prefix(prefix.to_owned()), prefix.contains('*')),
            (None, None) => (Pattern::Exact(text.to_owned()), text.contains('*')),
        };
        if pattern.1 {
            at.fail(format!("{} may have one `*`, as its first or its last character", quoted(text)));
        }
        pattern.0
    }
}

impl StringMatch {
    pub(crate) fn read(at: &At<'_>) -> StringMatch {
        at.fields(|f| match f.one_of(&["exact", "prefix", "regex"]) {
            Some(("exact", at)) => StringMatch::Exact(at.text()),
            Some(("prefix", at)) => StringMatch::Prefix(at.text()),
            Some((_, at)) => StringMatch::Regex(regex(&at)),
            None => StringMatch::Present,
        })
    }

    /// For fields where it makes no sense that nothing is said.
    pub(crate) fn read_some(at: &At<'_>) -> StringMatch {
        let value = StringMatch::read(at);
        if value == StringMatch::Present {
            at.fail("must have one of exact, prefix, regex");
        }
        value
    }
}

impl ExportTo {
    pub(crate) fn parse(text: &str) -> Result<ExportTo, String> {
        match text {
            "*" => Ok(ExportTo::All),
            "." => Ok(ExportTo::Own),
            "~" => Ok(ExportTo::Nobody),
            name => match check_dns_label(name) {
                Ok(()) => Ok(ExportTo::Namespace(name.to_owned())),
                Err(_) => Err(format!("must be `*`, `.`, `~` or a namespace, is {}", quoted(name))),
            },
        }
    }

    pub(crate) fn read_list(f: &Fields<'_>, name: &'static str) -> Vec<ExportTo> {
        let read = |at: &At<'_>| ExportTo::parse(&at.text()).map_err(|message| at.fail(message)).ok();
        f.list(name).iter().filter_map(read).collect()
    }
}

impl GatewayRef {
    /// `mesh`, `namespace/name`, `name`, or the old `name.namespace[.svc…]`.
    pub(crate) fn read(at: &At<'_>, own: &str) -> Option<GatewayRef> {
        let text = at.word();
        let (namespace, name) = match text.split_once('/') {
            _ if text == "mesh" => return Some(GatewayRef::Mesh),
            Some((".", name)) => (own, name),
            Some(parts) => parts,
            None => match text.split_once('.') {
                Some((name, rest)) => (rest.split('.').next().unwrap_or_default(), name),
                None => (own, text.as_str()),
            },
        };
        match format!("{namespace}/{name}").parse() {
            Ok(name) => Some(GatewayRef::Named(name)),
            Err(_) => {
                at.expected("`mesh`, a Gateway's name or namespace/name");
                None
            }
        }
    }

    pub(crate) fn read_list(f: &Fields<'_>, own: &str) -> Vec<GatewayRef> {
        f.list("gateways").iter().filter_map(|at| GatewayRef::read(at, own)).collect()
    }
}

impl Headers {
    pub(crate) fn read(f: &Fields<'_>) -> Headers {
        f.opt_sub("headers", |f| Headers {
            request: f.opt_sub("request", |f| HeaderOps::read(f, true)).unwrap_or_default(),
            response: f.opt_sub("response", |f| HeaderOps::read(f, false)).unwrap_or_default(),
        })
        .unwrap_or_default()
    }
}

impl HeaderOps {
    fn read(f: &Fields<'_>, request: bool) -> HeaderOps {
        let map = |name, may_be_host| {
            let entries = f.get(name).map(|at| at.entries()).unwrap_or_default();
            entries.into_iter().map(|(key, value)| (changed_header(&value, key, may_be_host), header_value(&value))).collect()
        };
        let remove = f.list("remove").iter().map(|at| changed_header(at, &at.word(), false)).collect();
        HeaderOps { set: map("set", request), add: map("add", false), remove }
    }
}

/// A header's name, lower case; `:authority` is the one pseudo header that can be changed.
pub(crate) fn header_name(at: &At<'_>, name: &str) -> String {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name != ":authority" && (name.is_empty() || !name.bytes().all(token)) {
        at.fail(format!("{} is no header name: letters, digits and `-`, `_`, `.`", quoted(name)));
    }
    name.to_ascii_lowercase()
}

/// A map whose keys are ports.
pub(crate) fn port_key(at: &At<'_>, key: &str) -> u16 {
    match key.parse() {
        Ok(port) if port > 0 => port,
        _ => {
            at.fail(format!("the key must be a port from 1 to 65535, is {}", quoted(key)));
            0
        }
    }
}
