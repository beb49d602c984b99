//! Routes for HTTP that one object leaves to another: as if the former had written the latter's, each within its own condition.

use std::{collections::BTreeMap, sync::Arc};

use mizzen_api::{
    Key, Kind, Object,
    istio::{ExportTo, StringMatch, VirtualService},
    routing::{HttpAction, HttpMatch, HttpRoute},
};
use mizzen_types::NamespacedName;

use crate::{
    derive::DOMAIN,
    index::{Stamped, stamp_of},
    objects::Objects,
};

/// The objects to whose routes one leaves some of its own.
pub(crate) fn named(object: &Object) -> Vec<Key> {
    let Object::VirtualService(service) = object else { return Vec::new() };
    let delegates = service.http.iter().filter_map(|route| match &route.action {
        HttpAction::Delegate(name) => Some(key(name)),
        _ => None,
    });
    delegates.collect()
}

fn key(name: &NamespacedName) -> Key {
    Key::new(Kind::VirtualService, name.namespace.clone(), name.name.clone())
}

/// An object with the routes of those to whom it leaves some. Where these are not there, or not for it, there are none.
pub(crate) fn merged(objects: &Objects, stored: &Stamped<Object>) -> Stamped<Object> {
    let Object::VirtualService(root) = &*stored.value else { return stored.clone() };
    if named(&stored.value).is_empty() {
        return stored.clone();
    }
    let (mut http, mut stamps) = (Vec::new(), vec![stored.stamp]);
    for route in &root.http {
        let HttpAction::Delegate(name) = &route.action else {
            http.push(route.clone());
            continue;
        };
        if let Some((delegate, stamp)) = delegate(objects, root, name) {
            http.extend(delegate.http.iter().filter_map(|of| merge(route, of, &delegate.meta.namespace)));
            stamps.push(stamp);
        }
    }
    Stamped { stamp: stamp_of(stamps), value: Arc::new(Object::VirtualService(VirtualService { http, ..root.clone() })) }
}

/// To whom an object leaves routes: one without hosts that it may see.
pub(crate) fn delegate<'a>(objects: &'a Objects, root: &VirtualService, name: &NamespacedName) -> Option<(&'a VirtualService, u64)> {
    let stored = objects.stored(&key(name))?;
    let Object::VirtualService(found) = &*stored.value else { return None };
    let default = &objects.mesh().default_virtual_service_export_to;
    let list = if found.export_to.is_empty() { default } else { &found.export_to };
    let fits = found.hosts.is_empty() && ExportTo::visible(list, &found.meta.namespace, &root.meta.namespace);
    fits.then_some((found, stored.stamp))
}

/// A route of a delegate within the one that is left to it; what the former does not say, the latter does. None if their conditions exclude each other, or if the
/// delegate leaves it to a third.
pub(crate) fn merge(root: &HttpRoute, of: &HttpRoute, namespace: &str) -> Option<HttpRoute> {
    let HttpRoute { name, matches, action, headers, timeout, retries, rewrite, fault } = of.clone();
    let action = match action {
        HttpAction::Delegate(_) => return None,
        HttpAction::Route(mut to) => {
            // A short name means what it means where it was written.
            to.iter_mut().for_each(|to| to.destination.host = to.destination.host.qualify(namespace, DOMAIN));
            HttpAction::Route(to)
        }
        other => other,
    };
    Some(HttpRoute {
        name: join(&root.name, name),
        matches: conditions(&root.matches, &matches)?,
        action,
        headers: if headers == Default::default() { root.headers.clone() } else { headers },
        timeout: timeout.or(root.timeout),
        retries: retries.or_else(|| root.retries.clone()),
        rewrite: rewrite.or_else(|| root.rewrite.clone()),
        fault: fault.or_else(|| root.fault.clone()),
    })
}

fn join(root: &Option<String>, own: Option<String>) -> Option<String> {
    match (root, own) {
        (Some(root), Some(own)) => Some(format!("{root}-{own}")),
        (root, own) => own.or_else(|| root.clone()),
    }
}

/// The conditions under which both hold. None if one of the delegate's is within none of the other's.
fn conditions(root: &[HttpMatch], of: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() || of.is_empty() {
        return Some(if of.is_empty() { root.to_vec() } else { of.to_vec() });
    }
    let mut found = Vec::new();
    for own in of {
        let before = found.len();
        found.extend(root.iter().filter_map(|wide| both(wide, own)));
        if found.len() == before {
            return None;
        }
    }
    Some(found)
}

/// Two conditions as one, if what the delegate's says is within what the other says.
fn both(root: &HttpMatch, own: &HttpMatch) -> Option<HttpMatch> {
    let HttpMatch {
        name,
        uri,
        scheme,
        method,
        authority,
        headers,
        without_headers,
        query_params,
        ignore_uri_case,
        port,
        source_labels,
        source_namespace,
        gateways,
    } = own.clone();
    let ports = root.port.zip(port).is_none_or(|(root, own)| root == own);
    let namespaces = root.source_namespace.as_ref().zip(source_namespace.as_ref()).is_none_or(|(root, own)| root == own);
    if root.ignore_uri_case != ignore_uri_case || !ports || !namespaces {
        return None;
    }
    Some(HttpMatch {
        name: join(&root.name, name),
        uri: within(root.uri.as_ref(), uri)?,
        scheme: within(root.scheme.as_ref(), scheme)?,
        method: within(root.method.as_ref(), method)?,
        authority: within(root.authority.as_ref(), authority)?,
        headers: all_within(&root.headers, headers)?,
        without_headers: all_within(&root.without_headers, without_headers)?,
        query_params: all_within(&root.query_params, query_params)?,
        ignore_uri_case,
        port: port.or(root.port),
        source_labels: labels(&root.source_labels, source_labels)?,
        source_namespace: source_namespace.or_else(|| root.source_namespace.clone()),
        gateways: if gateways.is_empty() { root.gateways.clone() } else { gateways },
    })
}

/// The delegate's pattern, else the other; the outer none: the former is not within the latter. Of an expression nobody knows what it is within.
fn within(root: Option<&StringMatch>, own: Option<StringMatch>) -> Option<Option<StringMatch>> {
    let (Some(wide), Some(narrow)) = (root, &own) else { return Some(own.or_else(|| root.cloned())) };
    let is_within = match (wide, narrow) {
        // Without a pattern neither excludes anything.
        (StringMatch::Present, _) | (_, StringMatch::Present) => true,
        (StringMatch::Regex(_), _) | (_, StringMatch::Regex(_)) | (StringMatch::Exact(_), StringMatch::Prefix(_)) => false,
        (StringMatch::Exact(wide), StringMatch::Exact(narrow)) => wide == narrow,
        (StringMatch::Prefix(wide), StringMatch::Exact(narrow) | StringMatch::Prefix(narrow)) => narrow.starts_with(wide.as_str()),
    };
    // What only has to be there is the weaker of the two.
    let kept = if *narrow == StringMatch::Present { Some(wide.clone()) } else { own };
    is_within.then_some(kept)
}

type Patterns = BTreeMap<String, StringMatch>;

fn all_within(root: &Patterns, own: Patterns) -> Option<Patterns> {
    let mut all = root.clone();
    for (name, pattern) in own {
        let kept = within(root.get(&name), Some(pattern))?;
        all.extend(kept.map(|pattern| (name, pattern)));
    }
    Some(all)
}

fn labels(root: &BTreeMap<String, String>, own: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let fits = own.iter().all(|(name, value)| root.get(name).is_none_or(|other| other == value));
    fits.then(|| root.clone().into_iter().chain(own).collect())
}
