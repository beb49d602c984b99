//! What identifies a kind, by group, version and name, and how one is found by what is written.
//!
//! A name alone may stand in several groups: Istio and the Gateway API each have a `Gateway`. The kinds that are read have one row each in the table
//! of `object.rs`; those that are known and not read yet are listed here, so that they are told by name instead of being called unknown, and so that
//! none of them is taken for another group's kind of the same name.

use std::{borrow::Cow, fmt};

use crate::{
    Kind,
    read::{nearest, quoted},
};

/// A group of kinds that Kubernetes serves in the same versions.
#[derive(Debug)]
pub(crate) struct Group {
    /// As in `apiVersion`, empty for Kubernetes' own.
    name: &'static str,
    /// Those that are read. The first one is that in which Kubernetes stores.
    versions: &'static [&'static str],
}

pub(crate) const CORE: Group = Group { name: "", versions: &["v1"] };
pub(crate) const APPS: Group = Group { name: "apps", versions: &["v1"] };
pub(crate) const DISCOVERY: Group = Group { name: "discovery.k8s.io", versions: &["v1"] };
pub(crate) const SECURITY: Group = Group { name: "security.istio.io", versions: &["v1", "v1beta1"] };
pub(crate) const NETWORKING: Group = Group { name: "networking.istio.io", versions: &["v1", "v1beta1", "v1alpha3"] };
/// The same group for kinds of which it has no other version.
pub(crate) const NETWORKING_BETA: Group = Group { name: "networking.istio.io", versions: &["v1beta1"] };
/// What is no document of its own, but the text of a file or of a config map's key.
pub(crate) const NONE: Group = Group { name: "", versions: &[] };

/// What is known of a kind that is read.
#[derive(Debug)]
pub(crate) struct Row {
    group: &'static Group,
    name: &'static str,
    plural: &'static str,
    namespaced: bool,
    short_names: &'static [&'static str],
}

impl Row {
    /// A kind whose objects belong to namespaces.
    pub(crate) const fn new(group: &'static Group, name: &'static str, plural: &'static str, short_names: &'static [&'static str]) -> Row {
        Row { group, name, plural, namespaced: true, short_names }
    }

    /// The same with objects that belong to no namespace.
    pub(crate) const fn of_cluster(self) -> Row {
        Row { namespaced: false, ..self }
    }
}

/// Kinds that a mesh may come to know, by group.
const LATER: &[(&str, &[&str])] = &[
    ("", &["Endpoints", "Node", "PersistentVolumeClaim"]),
    ("apiextensions.k8s.io", &["CustomResourceDefinition"]),
    ("apps", &["StatefulSet", "DaemonSet", "ReplicaSet"]),
    ("autoscaling", &["HorizontalPodAutoscaler"]),
    ("batch", &["Job", "CronJob"]),
    ("extensions.istio.io", &["WasmPlugin", "TrafficExtension"]),
    ("gateway.networking.k8s.io", &["GatewayClass", "Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "ReferenceGrant"]),
    ("networking.istio.io", &["EnvoyFilter", "WorkloadEntry", "WorkloadGroup"]),
    ("networking.k8s.io", &["Ingress", "IngressClass", "NetworkPolicy"]),
    ("policy", &["PodDisruptionBudget"]),
    ("rbac.authorization.k8s.io", &["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]),
    ("telemetry.istio.io", &["Telemetry"]),
];

/// What is wrong with `apiVersion` or with `kind` of a document that is of no kind that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotRead {
    /// `apiVersion` is missing, or is not one of the kind's.
    Version(String),
    /// `kind` is not one that is read.
    Kind(String),
}

/// What is said of a field that is missing.
pub(crate) const REQUIRED: &str = "is required";

impl Kind {
    /// The name in `kind:`, which another group may have too. `Display` is this name, with the group behind it if another kind has the name first.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The group, empty for Kubernetes' own kinds, [`Kind::MeshConfig`] and [`Kind::IssuerKeys`].
    pub fn group(self) -> &'static str {
        self.row().group.name
    }

    /// The versions of the group in which it is read; none for [`Kind::MeshConfig`] and [`Kind::IssuerKeys`], which are no documents of their own.
    pub fn versions(self) -> &'static [&'static str] {
        self.row().group.versions
    }

    /// The version in which Kubernetes stores its objects, if it does.
    pub fn stored_version(self) -> Option<&'static str> {
        self.versions().first().copied()
    }

    /// The name of many, as in Kubernetes' paths.
    pub fn plural(self) -> &'static str {
        self.row().plural
    }

    /// What `kubectl` takes for its name beside that.
    pub fn short_names(self) -> &'static [&'static str] {
        self.row().short_names
    }

    /// Whether its objects belong to a namespace.
    pub fn is_namespaced(self) -> bool {
        self.row().namespaced
    }

    /// The kind with this `kind:` in this group, in whatever version.
    pub fn of_group(group: &str, name: &str) -> Option<Kind> {
        documented().find(|kind| kind.group() == group && kind.name() == name)
    }

    /// The kind of which somebody speaks: as `Display` has it, or in any case by name, plural or short name, each with or without `.GROUP` behind it.
    /// Of kinds with one name the first in [`Kind::ALL`] is meant.
    pub fn called(text: &str) -> Option<Kind> {
        let is = |kind: &Kind, text: &str| {
            let names = [kind.name(), kind.plural()];
            names.iter().chain(kind.short_names()).any(|name| name.eq_ignore_ascii_case(text))
        };
        let all = || Kind::ALL.iter().copied();
        let qualified = || {
            let (name, group) = text.split_once('.')?;
            all().find(|kind| kind.group().eq_ignore_ascii_case(group) && is(kind, name))
        };
        all().find(|kind| is(kind, text)).or_else(qualified)
    }

    /// Whether its schema is Istio's, which is protojson's.
    pub(crate) fn is_istio(self) -> bool {
        self.group().ends_with(".istio.io")
    }

    /// The kind of a document with this `apiVersion`, which is empty if there is none, and this `kind`.
    pub(crate) fn of_document(api_version: &str, name: &str) -> Result<Kind, NotRead> {
        let groups = groups_of(name);
        let read = documented().find(|kind| kind.name() == name);
        let list = || groups.iter().map(|group| if group.is_empty() { "v1" } else { group }).collect::<Vec<_>>().join(" and of ");
        if api_version.is_empty() {
            return Err(match (&groups[..], read) {
                ([], _) => unknown("", name),
                ([_], Some(_)) => NotRead::Version(REQUIRED.to_owned()),
                ([only], None) => later(only, name),
                _ => NotRead::Version(format!("{REQUIRED}: {name} is a kind of {}", list())),
            });
        }
        let (group, version) = split(api_version);
        match Kind::of_group(group, name) {
            Some(kind) if kind.versions().contains(&version) && !api_version.starts_with('/') => Ok(kind),
            Some(kind) => Err(kind.not_in(api_version)),
            None if is_later(group, name) => Err(later(group, name)),
            None if groups.is_empty() => Err(unknown(group, name)),
            None => Err(match read {
                Some(kind) => kind.not_in(api_version),
                None => NotRead::Version(format!("{name} is a kind of {}, not of {}", list(), quoted(api_version))),
            }),
        }
    }

    /// The kind that a document means even if its version, its group or the spelling of its name is wrong.
    pub(crate) fn meant(api_version: &str, name: &str) -> Option<Kind> {
        let (group, _) = split(api_version);
        if is_later(group, name) {
            return None;
        }
        let known = || documented().map(Kind::name).chain(LATER.iter().flat_map(|(_, names)| names.iter().copied()));
        let of = |name: &str| documented().find(|kind| kind.name() == name);
        of(name).or_else(|| of(nearest(name, known())?))
    }

    /// The kind of a document, in whatever version; without an `apiVersion`, if no other group has the name.
    pub(crate) fn told(api_version: &str, name: &str) -> Option<Kind> {
        let alone = || documented().find(|kind| kind.name() == name && groups_of(name).len() == 1);
        if api_version.is_empty() { alone() } else { Kind::of_group(split(api_version).0, name) }
    }

    fn not_in(self, api_version: &str) -> NotRead {
        let group = self.group();
        let versions: Vec<Cow<'_, str>> = self.versions().iter().map(|version| joined(group, version)).collect();
        NotRead::Version(format!("{self} is read in {}, not in {}", versions.join(", "), quoted(api_version)))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&qualified(self.name(), self.group()))
    }
}

/// Group and version of an `apiVersion`.
fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn joined<'a>(group: &str, version: &'a str) -> Cow<'a, str> {
    if group.is_empty() { version.into() } else { format!("{group}/{version}").into() }
}

/// The kinds that documents may have.
fn documented() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| !kind.versions().is_empty())
}

/// Whether a document is of a kind that is known and not read.
pub(crate) fn is_other(api_version: &str, name: &str) -> bool {
    !api_version.is_empty() && is_later(split(api_version).0, name)
}

fn is_later(group: &str, name: &str) -> bool {
    LATER.iter().any(|(other, names)| *other == group && names.contains(&name))
}

/// The groups that have a kind of this name, those that are read first.
fn groups_of(name: &str) -> Vec<&'static str> {
    let read = documented().filter(|kind| kind.name() == name).map(Kind::group);
    read.chain(LATER.iter().filter(|(_, names)| names.contains(&name)).map(|(group, _)| *group)).collect()
}

/// The name, with its group unless it is the first that has it.
fn qualified<'a>(name: &'a str, group: &str) -> Cow<'a, str> {
    match groups_of(name).first() {
        Some(first) if *first != group => format!("{name}.{group}").into(),
        _ => name.into(),
    }
}

fn later(group: &str, name: &str) -> NotRead {
    NotRead::Kind(format!("{} is not supported yet", qualified(name, group)))
}

/// A name that no group has, with the nearest one: of its group, if there is one.
fn unknown(group: &str, name: &str) -> NotRead {
    if name.is_empty() {
        return NotRead::Kind(REQUIRED.to_owned());
    }
    if name == "List" {
        return NotRead::Kind("a List has its objects in a list `items`".to_owned());
    }
    let read = || documented().map(|kind| (kind.group(), kind.name()));
    let all: Vec<(&str, &str)> = read().chain(LATER.iter().flat_map(|(group, names)| names.iter().map(|name| (*group, *name)))).collect();
    let of_group = nearest(name, all.iter().filter(|(other, _)| *other == group).map(|(_, name)| *name)).map(str::to_owned);
    let of_any = || {
        let near = nearest(name, all.iter().map(|(_, name)| *name))?;
        let all: Vec<_> = groups_of(near).into_iter().map(|group| qualified(near, group)).collect();
        Some(all.join(" or "))
    };
    let near = of_group.or_else(of_any).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    NotRead::Kind(format!("unknown kind {}{near}", quoted(name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table() {
        let mut words = BTreeSet::new();
        for kind in Kind::ALL.iter().copied() {
            let documented = !matches!(kind, Kind::MeshConfig | Kind::IssuerKeys);
            assert_eq!(kind.stored_version().is_some(), documented, "{kind}");
            for version in kind.versions() {
                assert_eq!(Kind::of_document(&joined(kind.group(), version), kind.name()), Ok(kind));
            }
            // One name has one meaning, of whatever form it is, and no kind is in both lists.
            for word in
                [kind.name().to_lowercase(), kind.plural().to_owned()].into_iter().chain(kind.short_names().iter().map(|s| (*s).into()))
            {
                assert_eq!(Kind::called(&word), Some(kind), "{word}");
                assert!(words.insert(word.clone()), "{word}");
            }
            assert_eq!(Kind::called(&kind.to_string()), Some(kind));
            assert!(!is_later(kind.group(), kind.name()), "{kind}");
        }
        assert_eq!(Kind::ALL.iter().filter(|kind| !kind.is_namespaced()).collect::<Vec<_>>(), [&Kind::Namespace]);
        let later = LATER.iter().flat_map(|(group, names)| names.iter().map(|name| qualified(name, group).into_owned()));
        let read = Kind::ALL.iter().map(Kind::to_string);
        let mut all: Vec<String> = read.chain(later).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "no two kinds are displayed alike");
    }

    #[test]
    fn words_for_a_kind() {
        for (word, kind) in [
            ("vs", Some(Kind::VirtualService)),
            ("VirtualServices", Some(Kind::VirtualService)),
            ("services", Some(Kind::Service)),
            ("deployments.apps", Some(Kind::Deployment)),
            ("deploy.apps", Some(Kind::Deployment)),
            ("deploy.batch", None),
            ("gw", Some(Kind::Gateway)),
            ("Gateway", Some(Kind::Gateway)),
            ("gateway.networking.istio.io", Some(Kind::Gateway)),
            ("Gateway.gateway.networking.k8s.io", None),
            ("meshconfig", Some(Kind::MeshConfig)),
            ("", None),
            (".", None),
        ] {
            assert_eq!(Kind::called(word), kind, "{word}");
        }
    }

    #[test]
    fn what_a_faulty_document_means() {
        for (api_version, name, told, meant) in [
            ("", "Service", Some(Kind::Service), Some(Kind::Service)),
            // Nobody can tell which one of the two.
            ("", "Gateway", None, Some(Kind::Gateway)),
            ("gateway.networking.k8s.io/v1", "Gateway", None, None),
            ("networking.istio.io/v7", "Gateway", Some(Kind::Gateway), Some(Kind::Gateway)),
            ("securty.istio.io/v1", "AuthorizationPolicy", None, Some(Kind::AuthorizationPolicy)),
            ("security.istio.io/v1", "AuthorisationPolicy", None, Some(Kind::AuthorizationPolicy)),
            ("security.istio.io/v1", "RequestAuthentication", Some(Kind::RequestAuthentication), Some(Kind::RequestAuthentication)),
            ("v1", "IssuerKeys", None, None),
            ("v1", "MeshConfig", None, None),
            ("", "MeshConfig", None, None),
        ] {
            assert_eq!((Kind::told(api_version, name), Kind::meant(api_version, name)), (told, meant), "{api_version} {name}");
        }
    }
}
