//! What a Sidecar lets a proxy see: visibility beside `exportTo`.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::{
    istio::{EgressHost, ExportTo, GatewayRef, OutboundTrafficPolicy, Sidecar},
    routing::Destination,
};
use mizzen_types::Hostname;

use crate::{
    derive::DOMAIN,
    proxy::{ProxyType, ProxyView},
    query::Query,
    question::{Answer, Item, Question, Reach},
    reader::Reader,
    routes::RouteRules,
    routing,
    rules::by_age,
    service::{AliasView, ServiceView},
};

/// What one proxy sees.
pub(crate) struct Sight<'a> {
    namespace: &'a str,
    egress: Option<&'a [EgressHost]>,
    /// Whether no proxy's sight is narrowed.
    pub(crate) is_open: bool,
}

impl Sight<'_> {
    /// Whether a service is seen.
    pub(crate) fn service(&self, service: &ServiceView) -> bool {
        service.visible_in(self.namespace) && self.selects(service.namespace(), |wanted| wanted.covers(&service.host))
    }

    /// Whether an alias is seen.
    pub(crate) fn alias(&self, alias: &AliasView) -> bool {
        let namespace = &alias.object.namespace;
        ExportTo::visible(&alias.export_to, namespace, self.namespace) && self.selects(namespace, |wanted| wanted.covers(&alias.host))
    }

    /// Whether routes are seen, by one of their hosts.
    pub(crate) fn routes(&self, routes: RouteRules<'_>, default: &[ExportTo]) -> bool {
        routing::visible(routes.export_to, default, routes.meta, self.namespace)
            && self.selects(&routes.meta.namespace, |wanted| {
                routes.hosts.iter().any(|host| wanted.overlaps(&host.qualify(&routes.meta.namespace, DOMAIN)))
            })
    }

    /// A mark for answers that hold all that is seen, and not only what is not the same for all.
    pub(crate) fn narrowed(&self) -> impl Iterator<Item = Item> {
        (!self.is_open).then_some(Item::Number(1)).into_iter()
    }

    /// Who gets the same answer: all, if everybody does by what is asked about.
    pub(crate) fn reach(&self, everybody: bool) -> Reach {
        Reach::all_if(everybody && self.is_open)
    }

    fn selects(&self, namespace: &str, by: impl Fn(&Hostname) -> bool) -> bool {
        let Some(egress) = self.egress else { return true };
        let mut found = egress.iter().filter(|entry| entry.namespace.holds(namespace, self.namespace) && by(&entry.host)).peekable();
        found.peek().is_some() && found.all(|entry| !entry.excluded)
    }
}

impl ProxyView {
    /// What the proxy sees. The queries that lead to it are noted.
    pub(crate) fn sight<'a>(&'a self, reader: &Reader<'a>) -> Sight<'a> {
        let namespace = &*self.facts().namespace;
        // Gateways have none.
        if self.facts().kind != ProxyType::Sidecar || !reader.ask(Query::AnySidecar).has_sidecars() {
            return Sight { namespace, egress: None, is_open: true };
        }
        Sight { namespace, egress: self.sidecar(reader).and_then(|sidecar| sidecar.egress.as_deref()), is_open: false }
    }

    /// The same for who asks a question about it besides.
    pub(crate) fn sight_aside<'a>(&'a self, reader: &Reader<'a>) -> Sight<'a> {
        reader.under(|| self.sight(reader))
    }

    /// The Sidecar that holds for the workload: one that selects it, else its namespace's, else the root namespace's; of several the oldest.
    fn sidecar<'a>(&self, reader: &Reader<'a>) -> Option<&'a Sidecar> {
        let (own, root) = (&*self.facts().namespace, reader.mesh().root_namespace.as_str());
        let oldest = |namespace: &str, fits: &dyn Fn(&Sidecar) -> bool| {
            reader.in_namespace::<Sidecar>(namespace).filter(|sidecar| fits(sidecar)).min_by(|a, b| by_age(&a.meta, &b.meta))
        };
        oldest(own, &|sidecar| sidecar.selector.as_ref().is_some_and(|selector| selector.matches(&self.facts().labels)))
            .or_else(|| oldest(own, &|sidecar| sidecar.selector.is_none()))
            .or_else(|| oldest(root, &|sidecar| sidecar.selector.is_none()))
    }

    /// The services that routes seen here send to, though the proxy's Sidecar does not list them, by host. There must be clusters for them.
    pub fn routed_to<'a>(&self, reader: &Reader<'a>) -> Vec<&'a Arc<ServiceView>> {
        reader.question(Question::RoutedTo, || {
            let sight = self.sight(reader);
            if sight.is_open || sight.egress.is_none() {
                return (Vec::new(), Answer::Items(Box::default()), sight.reach(true));
            }
            let default = &reader.mesh().default_virtual_service_export_to;
            let rules = reader.all_routes().filter(|rules| rules.parents.contains(&GatewayRef::Mesh) && sight.routes(*rules, default));
            let hosts: BTreeSet<Hostname> = rules
                .flat_map(|rules| rules.destinations().map(move |to| reader.meaning(&to.host.qualify(&rules.meta.namespace, DOMAIN))))
                .collect();
            let found: Vec<_> =
                hosts.iter().filter_map(|host| self.service(reader, host)).filter(|service| !sight.service(service)).collect();
            let answer = found.iter().map(|service| {
                let key = service.key();
                let stamp = reader.snapshot().stamp(&Query::ServiceView(key.clone()));
                Item::Service(key, stamp)
            });
            let answer = answer.collect();
            (found, answer, Reach::Alike)
        })
    }

    /// Where the workload's calls to unknown destinations go, and through which service, if through one.
    pub fn outbound<'a>(&self, reader: &Reader<'a>) -> (OutboundTrafficPolicy, Option<&'a Destination>) {
        let mesh = reader.mesh().outbound_traffic_policy;
        if self.facts().kind != ProxyType::Sidecar {
            return (mesh, None);
        }
        reader.question(Question::Outbound, || {
            let open = !reader.ask(Query::AnySidecar).has_sidecars();
            let sidecar = if open { None } else { self.sidecar(reader) };
            let found = sidecar.and_then(|sidecar| sidecar.outbound);
            let proxy = sidecar.and_then(|sidecar| sidecar.egress_proxy.as_ref());
            let policy = Item::Number(found.map_or(0, |policy| policy as u64 + 1));
            let text = proxy.map(|to| Item::Text(format!("{to:?}").into()));
            ((found.unwrap_or(mesh), proxy), std::iter::once(policy).chain(text).collect(), Reach::all_if(open))
        })
    }
}
