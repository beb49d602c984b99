//! Virtual hosts that come on their own, and the route configurations that they are put into.

use std::collections::HashSet;
use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_types::Name;

use super::Resource;
use super::cx::{Cx, Res, hash, name};
use super::inherited::Inherited;
use super::route::{Domain, closed_host, domain, virtual_host};
use crate::config::{Action, ContentHash, OwnHost, RouteConfig, VirtualHost};

/// In the body the name is `HOST:PORT`; as a resource it is `PORT/HOST`.
pub(super) fn compile(cx: &mut Cx, bytes: &[u8], hash: ContentHash) -> Res<Resource> {
    let m: route::VirtualHost = cx.decode(bytes)?;
    let called = m.name.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let Some((host, port)) = called else {
        return cx.refuse("name", format!("`{}` is not of the form HOST:PORT", m.name));
    };
    cx.resource = name(&format!("{port}/{host}"));
    if m.domains.is_empty() {
        return cx.refuse("domains", "there is none");
    }
    for text in &m.domains {
        domain(&text.to_ascii_lowercase()).map_err(|reason| cx.bad("domains", reason))?;
    }
    // What it is put into may pass more on to it, and bounds its bodies: see `below`.
    let alone = Inherited { max_body: usize::MAX, ..Inherited::default() };
    let (title, domains) = (name(&m.name), m.domains.iter().map(|d| name(d)).collect());
    let host = virtual_host(cx, m, &alone);
    let host = cx.contain(host).unwrap_or_else(|| closed_host(title, domains));
    Ok(Resource::VirtualHost(Arc::new(OwnHost { name: cx.resource.clone(), hash, host: host.into(), bytes: bytes.into() })))
}

/// A virtual host as it is within a route configuration.
fn below(above: &Inherited, own: &OwnHost) -> Arc<VirtualHost> {
    let host = if above.is_plain() { own.host.clone() } else { again(above, own) };
    let too_long = |action: &Action| matches!(action, Action::Direct(direct) if direct.body.len() > above.max_body);
    if host.routes.iter().any(|route| too_long(&route.action)) {
        return Arc::new(VirtualHost { used: host.used.clone(), ..closed_host(host.name.clone(), host.domains.clone()) });
    }
    host
}

fn again(above: &Inherited, own: &OwnHost) -> Arc<VirtualHost> {
    let mut cx = Cx::default();
    let host = cx.decode(&own.bytes).and_then(|m| virtual_host(&mut cx, m, above));
    let host = host.unwrap_or_else(|_| closed_host(own.host.name.clone(), own.host.domains.clone()));
    Arc::new(VirtualHost { used: own.host.used.clone(), ..host })
}

/// The route configuration with these virtual hosts, in the order of their names, before its own. A domain that several claim is its own's, then of
/// the host that is called so, then of the first.
pub(crate) fn compose<'h>(head: &RouteConfig, own: impl Iterator<Item = &'h Arc<OwnHost>>) -> RouteConfig {
    let plain = Inherited::default();
    let above = head.above.as_deref().unwrap_or(&plain);
    let mut composed = RouteConfig { exact: Default::default(), suffixes: [].into(), prefixes: [].into(), any: None, ..head.clone() };
    let mut hashes = head.hash.0.to_be_bytes().to_vec();
    let (mut hosts, mut names): (Vec<Arc<VirtualHost>>, Vec<Name>) = Default::default();
    for own in own {
        hashes.extend(own.hash.0.to_be_bytes());
        hosts.push(below(above, own));
        names.push(name(own.parts().1));
    }
    let (count, first) = (hosts.len(), hashes.len() == 16);
    hosts.extend(head.hosts.iter().cloned());
    composed.hosts = hosts.into();
    composed.hash = if first { head.hash } else { hash(&hashes) };
    let mut claims = Claims::default();
    for (i, host) in (0u32..).zip(composed.hosts.iter()).skip(count) {
        host.domains.iter().for_each(|domain| claims.claim(domain, i));
    }
    for (i, called) in (0u32..).zip(&names) {
        let host = composed.hosts.get(i as usize);
        host.into_iter().flat_map(|host| host.domains.iter()).filter(|d| d.eq_ignore_ascii_case(called)).for_each(|d| claims.claim(d, i));
    }
    for (i, host) in (0u32..).zip(composed.hosts.iter()).take(count) {
        host.domains.iter().for_each(|domain| claims.claim(domain, i));
    }
    claims.into(composed)
}

/// Who has which domain.
#[derive(Default)]
struct Claims {
    taken: HashSet<String>,
    exact: Vec<(Name, u32)>,
    suffixes: Vec<(Name, u32)>,
    prefixes: Vec<(Name, u32)>,
    any: Option<u32>,
}

impl Claims {
    fn claim(&mut self, text: &str, i: u32) {
        let lower = text.to_ascii_lowercase();
        match domain(&lower) {
            // It was looked at when it was compiled.
            Err(_) => return,
            _ if self.taken.contains(&lower) => return,
            Ok(Domain::Any) => self.any = Some(i),
            Ok(Domain::Suffix(suffix)) => self.suffixes.push((name(suffix), i)),
            Ok(Domain::Prefix(prefix)) => self.prefixes.push((name(prefix), i)),
            Ok(Domain::Exact(exact)) => self.exact.push((name(exact), i)),
        }
        self.taken.insert(lower);
    }

    fn into(mut self, composed: RouteConfig) -> RouteConfig {
        for list in [&mut self.suffixes, &mut self.prefixes] {
            list.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
        RouteConfig {
            exact: self.exact.into_iter().collect(),
            suffixes: self.suffixes.into(),
            prefixes: self.prefixes.into(),
            any: self.any,
            ..composed
        }
    }
}
