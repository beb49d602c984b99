//! Names that requests and connections bring, found on demand: whom a cluster is asked for is resolved when it comes, and known as long as it is used.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mizzen_ir::{
    Config,
    config::{Cluster, Discovery, Dynamic, Transport},
};
use mizzen_types::Name;

use super::{Ask, Clusters, Host, NoHost, hosts::of_family};
use crate::{Question, Target, context::Context, questions::Questions};

/// The names that a cluster was asked for, and when last.
pub(super) type Brought = HashMap<Name, Duration>;

pub(super) fn of(cluster: &Cluster) -> Option<&Arc<Dynamic>> {
    match &cluster.discovery {
        Discovery::Dynamic(dynamic) => Some(dynamic),
        _ => None,
    }
}

impl Clusters {
    /// Where the name leads that is asked for. Of its addresses it is the first that was not tried before.
    pub(super) fn by_name(
        &mut self,
        cx: &mut Context,
        questions: &mut Questions,
        cluster: &Cluster,
        dynamic: &Dynamic,
        ask: &Ask<'_>,
    ) -> Result<Arc<Host>, NoHost> {
        let is_tls = !matches!(cluster.transport.default, Transport::Raw);
        let asked = ask.named.and_then(|(name, port)| dynamic.place(name, port, is_tls));
        let (name, port) = asked.ok_or(NoHost::Unresolved)?;
        if !self.bring(cx, cluster, dynamic, &name) {
            return Err(NoHost::Overflow);
        }
        let now = cx.now.mono;
        // One that could not be found is looked for again when its time is over; one that was goes on being used meanwhile.
        let known = self.names.known.get(&name).filter(|known| known.until > now || !known.addresses.is_empty());
        let question = || Question::Dns { host: name.clone() };
        let Some(known) = known else {
            return Err(if questions.waiting_for_names() < dynamic.max_pending { NoHost::Wait(question()) } else { NoHost::Overflow });
        };
        let mut addresses = of_family(&known.addresses, dynamic.dns.family);
        addresses.retain(|address| dynamic.may_lead_to(*address));
        if known.until <= now {
            questions.ask(cx, question(), None);
        }
        let state = self.view(cx, &cluster.name).state.clone();
        let mut first = None;
        for address in addresses {
            let target = std::net::SocketAddr::from((address, port));
            let host = Host::direct(Target::Tcp(target), state.host(&target.to_string()));
            if !ask.again.as_ref().is_some_and(|again| again.avoids(&host)) {
                return Ok(Arc::new(host));
            }
            first.get_or_insert(host);
        }
        first.map(Arc::new).ok_or(NoHost::Unresolved)
    }

    /// Notes that a name is asked for; false: there are too many.
    fn bring(&mut self, cx: &Context, cluster: &Cluster, dynamic: &Dynamic, name: &Name) -> bool {
        let now = cx.now.mono;
        let is_old = |used: &Duration| now.saturating_sub(*used) >= dynamic.host_ttl;
        let brought = &mut self.view(cx, &cluster.name).brought;
        let mut old = Vec::new();
        if let Some(used) = brought.get_mut(name) {
            // What it stood for so long ago says nothing.
            old.extend(is_old(used).then(|| name.clone()));
            *used = now;
            if old.is_empty() {
                return true;
            }
            brought.remove(name);
        } else if brought.len() >= dynamic.max_hosts {
            old.extend(brought.iter().filter(|(_, used)| is_old(used)).map(|(name, _)| name.clone()));
            brought.retain(|_, used| !is_old(used));
        }
        for name in old {
            self.forget_unwanted(&cx.config, &name);
        }
        let brought = &mut self.view(cx, &cluster.name).brought;
        let has_room = brought.len() < dynamic.max_hosts;
        if has_room {
            brought.insert(name.clone(), now);
        }
        has_room
    }

    /// Whether somebody uses what a name stands for: a cluster that names it, or one that was asked for it.
    pub(super) fn is_wanted(&self, config: &Config, host: &str) -> bool {
        let was_asked = |cluster: &Cluster| self.views.get(&cluster.name).is_some_and(|view| view.brought.contains_key(host));
        config.clusters_of_host(host).any(|cluster| of(cluster).is_none() || was_asked(cluster))
    }

    /// Forgets what a name stands for, unless somebody uses it.
    pub(super) fn forget_unwanted(&mut self, config: &Config, host: &str) {
        if !self.is_wanted(config, host) {
            self.names.forget(host);
        }
    }
}
