//! What a proxy sees of the mesh's services and rules.

use std::{collections::BTreeSet, sync::Arc};

use mizzen_api::{Key, Kind, Object, Selector, istio::DestinationRule};
use mizzen_types::{Hostname, NamespacedName, Protocol};

use crate::{
    index::Stamped,
    objects::Typed,
    proxy::ProxyView,
    query::Query,
    question::{Answer, Item, Question, Reach},
    reader::Reader,
    routes::RouteRules,
    routing::{self, EffectiveRule},
    service::{AliasView, PortView, ServiceKey, ServiceView},
    view::flag,
};

type Candidates<'a> = Vec<&'a Stamped<ServiceView>>;

fn item(stored: &Stamped<ServiceView>) -> Item {
    Item::Service(stored.value.key(), stored.stamp)
}

fn alias_item(stored: &Stamped<AliasView>) -> Item {
    let NamespacedName { namespace, name } = stored.value.object.clone();
    Item::Object(Key { kind: Kind::Service, namespace, name }, stored.stamp)
}

fn object_item(stored: &Stamped<Object>) -> Item {
    Item::Object(stored.value.key(), stored.stamp)
}

/// Whether everybody means the same service by their host.
fn is_plain(of_host: &[&Stamped<ServiceView>]) -> bool {
    of_host.len() <= 1 && of_host.iter().all(|stored| stored.value.visible_to_all())
}

/// The one that those in a namespace mean, of those that are seen.
fn first<'a>(
    of_host: &[&'a Stamped<ServiceView>],
    namespace: &str,
    seen: impl Fn(&ServiceView) -> bool,
) -> Option<&'a Stamped<ServiceView>> {
    of_host.iter().copied().filter(|stored| seen(&stored.value)).min_by(|a, b| a.value.before(&b.value, namespace))
}

/// Services that lie next to each other by host, host by host.
fn by_host<'a>(services: impl Iterator<Item = &'a Stamped<ServiceView>>) -> Vec<Candidates<'a>> {
    let mut hosts: Vec<Candidates<'a>> = Vec::new();
    for stored in services {
        match hosts.last_mut() {
            Some(of_host) if of_host.first().is_some_and(|first| first.value.host == stored.value.host) => of_host.push(stored),
            _ => hosts.push(vec![stored]),
        }
    }
    hosts
}

fn has_tcp(service: &ServiceView, port: u16) -> bool {
    service.port(port).is_some_and(|port| port.protocol != Protocol::Udp)
}

impl ProxyView {
    /// The service that a host means here: of the proxy's own namespace, else Kubernetes' before others, else the oldest.
    pub fn service<'a>(&self, reader: &Reader<'a>, host: &Hostname) -> Option<&'a Arc<ServiceView>> {
        reader.question(Question::Service(host.clone()), || self.meant(reader, host, |_| true))
    }

    /// The service that one port of a host means here, in the order of [`ProxyView::service`]: several may share a host, each with ports of its own. UDP
    /// does not count.
    pub fn service_at<'a>(&self, reader: &Reader<'a>, host: &Hostname, port: u16) -> Option<&'a Arc<ServiceView>> {
        reader.question(Question::ServiceAt(host.clone(), port), || self.meant(reader, host, |service| has_tcp(service, port)))
    }

    fn meant<'a>(
        &self,
        reader: &Reader<'a>,
        host: &Hostname,
        wanted: impl Fn(&ServiceView) -> bool,
    ) -> (Option<&'a Arc<ServiceView>>, Answer, Reach) {
        let snapshot = reader.ask(Query::Service(host.clone()));
        let candidates: Candidates<'a> = snapshot.derived().under_host(host).filter(|stored| wanted(&stored.value)).collect();
        let (sight, namespace) = (self.sight(reader), &*self.facts().namespace);
        // What a rule sends to is reached though no Sidecar lists it.
        let found = first(&candidates, namespace, |service| sight.service(service))
            .or_else(|| first(&candidates, namespace, |service| service.visible_in(namespace)));
        (found.map(|stored| &stored.value), found.map(item).into_iter().collect(), sight.reach(is_plain(&candidates)))
    }

    /// The ports of a host, of whichever service: the only one, if there is only one.
    pub fn only_port(&self, reader: &Reader<'_>, host: &Hostname) -> Option<u16> {
        reader.question(Question::OnlyPort(host.clone()), || {
            let under = || reader.ask(Query::Service(host.clone())).derived().under_host(host);
            let visible = under().filter(|stored| stored.value.visible_in(&self.facts().namespace));
            let mut ports = visible.flat_map(|stored| stored.value.ports.iter().map(|port| port.port));
            let only = ports.next().filter(|first| ports.all(|port| port == *first));
            let answer = only.map(|port| Item::Number(port.into())).into_iter().collect();
            (only, answer, Reach::all_if(under().all(|stored| stored.value.visible_to_all())))
        })
    }

    /// All ports that are visible here, each of a host once, by host. UDP is left out.
    pub fn ports<'a>(&self, reader: &Reader<'a>) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
        let mut found = Vec::new();
        let (sight, namespace) = (self.sight_aside(reader), &*self.facts().namespace);
        for of_host in by_host(reader.ask(Query::Services).derived().all()) {
            let plain = sight.is_open && is_plain(&of_host);
            for stored in &of_host {
                for port in stored.value.ports.iter().filter(|port| port.protocol != Protocol::Udp) {
                    let owner = || first(&of_host, namespace, |service| has_tcp(service, port.port) && sight.service(service));
                    if plain || owner().is_some_and(|owner| Arc::ptr_eq(&owner.value, &stored.value)) {
                        found.push((&stored.value, port));
                    }
                }
            }
        }
        self.choice(reader);
        found
    }

    /// The ports that a host has here, as [`ProxyView::ports`] has them.
    pub fn ports_of<'a>(&self, reader: &Reader<'a>, host: &Hostname) -> Vec<(&'a Arc<ServiceView>, &'a PortView)> {
        let mut taken = BTreeSet::new();
        let mut found = Vec::new();
        for service in self.under(reader, host) {
            let ports = service.ports.iter().filter(|port| port.protocol != Protocol::Udp);
            let own: Vec<_> = ports.filter(|port| !taken.contains(&port.port)).collect();
            taken.extend(own.iter().map(|port| port.port));
            found.extend(own.into_iter().map(|port| (service, port)));
        }
        found
    }

    /// The services under a host that are visible here, in the order in which they are meant.
    pub fn under<'a>(&self, reader: &Reader<'a>, host: &Hostname) -> Vec<&'a Arc<ServiceView>> {
        reader.question(Question::Under(host.clone()), || {
            let candidates: Candidates<'a> = reader.ask(Query::Service(host.clone())).derived().under_host(host).collect();
            let sight = self.sight(reader);
            let mut seen: Candidates<'a> = candidates.iter().copied().filter(|stored| sight.service(&stored.value)).collect();
            seen.sort_by(|a, b| a.value.before(&b.value, &self.facts().namespace));
            let answer = seen.iter().map(|stored| item(stored)).collect();
            (seen.into_iter().map(|stored| &stored.value).collect(), answer, sight.reach(is_plain(&candidates)))
        })
    }

    /// The alias of a name, if it is visible here.
    pub fn alias<'a>(&self, reader: &Reader<'a>, host: &Hostname) -> Option<&'a Arc<AliasView>> {
        reader.question(Question::Alias(host.clone()), || {
            let found = reader.ask(Query::Alias(host.clone())).derived().alias(host);
            let sight = self.sight(reader);
            let seen = found.filter(|stored| sight.alias(&stored.value));
            let everybody = found.is_none_or(|stored| stored.value.visible_to_all());
            (seen.map(|stored| &stored.value), seen.map(alias_item).into_iter().collect(), sight.reach(everybody))
        })
    }

    /// The aliases that are visible here, by name.
    pub fn aliases<'a>(&self, reader: &Reader<'a>) -> Vec<&'a Arc<AliasView>> {
        reader.question(Question::Aliases, || {
            let all = || reader.ask(Query::Aliases).derived().aliases();
            let sight = self.sight(reader);
            let seen: Vec<_> = all().filter(|stored| sight.alias(&stored.value)).collect();
            let everybody = all().all(|stored| stored.value.visible_to_all());
            let answer = seen.iter().map(|stored| alias_item(stored)).collect();
            (seen.into_iter().map(|stored| &stored.value).collect(), answer, sight.reach(everybody))
        })
    }

    /// Of each host the service that it means here, by host.
    pub fn services<'a>(&self, reader: &Reader<'a>) -> Vec<&'a Arc<ServiceView>> {
        let hosts = by_host(reader.ask(Query::Services).derived().all());
        let sight = self.sight_aside(reader);
        self.choice(reader);
        let seen = |service: &ServiceView| sight.service(service);
        hosts.iter().filter_map(|of_host| first(of_host, &self.facts().namespace, seen)).map(|stored| &stored.value).collect()
    }

    /// Notes which of the services that not all see alike own their ports here. What all see alike is covered by the query for all services.
    pub(crate) fn choice(&self, reader: &Reader<'_>) {
        reader.question(Question::Ports, || {
            let mut contested = false;
            let sight = self.sight(reader);
            // Nothing seen and nothing contested are two answers.
            let mut answer: Vec<Item> = sight.narrowed().collect();
            let alike = |of_host: &&Candidates<'_>| sight.is_open && is_plain(of_host);
            for of_host in by_host(reader.ask(Query::Services).derived().all()).iter().filter(|of_host| !alike(of_host)) {
                contested = true;
                let visible = of_host.iter().filter(|stored| sight.service(&stored.value));
                let mut own: Candidates<'_> = visible.copied().collect();
                own.sort_by(|a, b| a.value.before(&b.value, &self.facts().namespace));
                answer.extend(own.into_iter().map(item));
            }
            ((), answer.into_iter().collect(), sight.reach(!contested))
        });
    }

    /// The visible services that have a port, one for each host, by host.
    pub fn services_at<'a>(&self, reader: &Reader<'a>, port: u16) -> Vec<&'a Arc<ServiceView>> {
        let hosts = by_host(reader.ask(Query::Port(port)).derived().at_port(port));
        let mut found = Vec::new();
        let sight = self.sight_aside(reader);
        let mut contested: Vec<Item> = sight.narrowed().collect();
        for of_host in &hosts {
            let tcp: Candidates<'a> = of_host.iter().copied().filter(|stored| has_tcp(&stored.value, port)).collect();
            let meant = first(&tcp, &self.facts().namespace, |service| sight.service(service));
            if !sight.is_open || !is_plain(&tcp) {
                contested.push(meant.map_or_else(|| Item::Number(0), item));
            }
            found.extend(meant.map(|stored| &stored.value));
        }
        let reach = sight.reach(contested.is_empty());
        reader.question(Question::ServicesAt(port), || {
            reader.ask(Query::Port(port));
            self.sight(reader);
            ((), contested.into_iter().collect(), reach)
        });
        found
    }

    /// The rule by which the proxy connects to a service: of its own namespace, else of the service's, else of the root namespace; in each the most
    /// specific host.
    pub fn rule(&self, reader: &Reader<'_>, service: &ServiceView) -> Option<EffectiveRule> {
        self.rule_of(reader, &service.key(), true)
    }

    /// The same for who serves it, for whom those with a selector are not meant.
    pub fn rule_inbound(&self, reader: &Reader<'_>, service: &ServiceView) -> Option<EffectiveRule> {
        self.rule_of(reader, &service.key(), false)
    }

    pub(crate) fn rule_of(&self, reader: &Reader<'_>, service: &ServiceKey, outbound: bool) -> Option<EffectiveRule> {
        reader.question(Question::Rule(service.clone(), outbound), || {
            let (host, _, object) = service;
            let (mesh, found) = (reader.mesh(), reader.destination_rules_for(host));
            let rules = || found.iter().filter_map(|(_, stored)| DestinationRule::of(&stored.value));
            let all_of = |namespace: &str| rules().all(|rule| &*rule.meta.namespace == namespace);
            let open = rules().all(|rule| routing::visible_to_all(&rule.export_to, &mesh.default_destination_rule_export_to));
            // A rule of another namespace holds for that one only; of two scopes one's own comes first.
            let selective = outbound && rules().any(|rule| rule.selector.is_some());
            let reach = Reach::all_if(open && !selective && (all_of(&object.namespace) || all_of(&mesh.root_namespace)));
            let selects = |selector: &Selector| outbound && selector.matches(&self.facts().labels);
            let chosen = routing::choose(mesh, &found, &object.namespace, &self.facts().namespace, selects);
            let answer = chosen.iter().map(|stored| object_item(stored)).collect();
            (routing::merge(chosen.iter().filter_map(|stored| DestinationRule::of(&stored.value))), answer, reach)
        })
    }

    /// The routes with a host that covers `host` and that are visible here: the most specific host first, of equal ones the oldest.
    pub fn routes<'a>(&self, reader: &Reader<'a>, host: &Hostname) -> Vec<RouteRules<'a>> {
        reader.question(Question::Routes(host.clone()), || {
            let default = &reader.mesh().default_virtual_service_export_to;
            let found = reader.routes_for(host);
            let found: Vec<(&Stamped<Object>, RouteRules<'a>)> =
                found.iter().filter_map(|(_, stored)| Some((*stored, RouteRules::of(&stored.value)?))).collect();
            let sight = self.sight(reader);
            let reach = sight.reach(found.iter().all(|(_, routes)| routing::visible_to_all(routes.export_to, default)));
            let here = || found.iter().filter(|(_, routes)| sight.routes(*routes, default));
            (here().map(|(_, routes)| *routes).collect(), here().map(|(stored, _)| object_item(stored)).collect(), reach)
        })
    }

    /// Whether routes are visible here.
    pub fn sees(&self, reader: &Reader<'_>, routes: RouteRules<'_>) -> bool {
        self.sees_key(reader, &routes.key())
    }

    pub(crate) fn sees_key(&self, reader: &Reader<'_>, key: &Key) -> bool {
        reader.question(Question::Sees(key.clone()), || {
            let default = &reader.mesh().default_virtual_service_export_to;
            let routes = reader.routes_of(key);
            let sight = self.sight(reader);
            let here = |routes| sight.routes(routes, default);
            flag(routes.is_some_and(here), sight.reach(routes.is_none_or(|r| routing::visible_to_all(r.export_to, default))))
        })
    }
}
