//! Calls that a server's proxy has recorded, judged by what it would enforce now.
//!
//! A record holds a part of what policies look at. What it does not hold (claims, headers that are not logged, a caller without a name) makes a
//! condition unknown; a decision is unknown only if it hangs on such a condition. To find that out each set of policies is decided twice, by the very
//! step that proxies take: with all unknown conditions holding, and with none of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use mizzen_api::istio::Gateway;
use mizzen_ir::{
    Head, Metadata, PolicyFacts, Trace, Verdict as Judged, authorize, client_address,
    config::{Expr, ExtAuthz, HttpFilterKind, NetworkFilter, Policy, Rbac, RbacFilter, Terminal},
    nearest_miss,
};
use mizzen_model::ProxyType;
use mizzen_types::SpiffeId;

use super::{Carried, Explainer, Flow, Hello, conn, http};
use crate::{
    call::{Hop, Side, Verdict},
    proxy::Found,
};

/// A call as a server's proxy has recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// The caller's address, if it is known.
    pub source: Option<SocketAddr>,
    /// Whether that is the address of the connection's other end, and not what a header says.
    pub is_direct: bool,
    /// Where the call arrived.
    pub destination: SocketAddr,
    /// The server name of the TLS handshake.
    pub server_name: Option<String>,
    /// Who called.
    pub caller: Caller,
    /// The request; none for a connection.
    pub request: Option<RecordedRequest>,
}

/// Who called, as far as a record says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// It had this identity.
    Known(SpiffeId),
    /// It called in plaintext, and has none.
    Nobody,
    /// It had an identity, and the record does not say which.
    Unknown,
}

/// A request as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The path, with its query, as it came.
    pub path: String,
    /// The host.
    pub authority: Option<String>,
    /// Whether it came over HTTP/2.
    pub http2: bool,
    /// What is known of further headers: their values, or that they were not there.
    pub headers: Vec<(String, Option<String>)>,
}

/// What becomes of a recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// Policies let it through.
    Allowed,
    /// It is refused.
    Refused {
        /// The rule that refuses it, if one does.
        rule: Option<String>,
        /// Why.
        why: String,
    },
    /// It hangs on what the record does not hold.
    Unknown {
        /// What that is, each once.
        missing: BTreeSet<String>,
    },
}

/// What the policies of a proxy look at, beside who calls which port by which method and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Headers, `:authority` and `:path` among them, in lower case.
    pub headers: BTreeSet<String>,
    /// Whether addresses of callers.
    pub addresses: bool,
}

impl Inputs {
    fn add(&mut self, rules: &Rbac) {
        for policy in rules.policies.iter() {
            policy.permissions.iter().chain(policy.principals.iter()).for_each(|expr| self.of(expr));
        }
    }

    fn of(&mut self, expr: &Expr) {
        match expr {
            Expr::And(list) | Expr::Or(list) => list.iter().for_each(|expr| self.of(expr)),
            Expr::Not(inner) => self.of(inner),
            Expr::Header(header) => {
                self.headers.insert(header.name.to_string());
            }
            Expr::DirectRemoteIp(_) | Expr::RemoteIp(_) => self.addresses = true,
            _ => {}
        }
    }
}

/// What is known of a call.
struct Known<'a> {
    facts: PolicyFacts<'a>,
    caller: bool,
    direct: bool,
    remote: bool,
    server_name: bool,
    headers: BTreeSet<String>,
}

impl Explainer {
    /// What the proxy of a pod would do with a recorded call. `asked` is told each cluster whose answer is asked for, and says whether it allows the
    /// request, if that is known.
    pub fn replay(&mut self, namespace: &str, pod: &str, call: &Recorded, asked: &mut dyn FnMut(&str) -> Option<bool>) -> Replayed {
        self.replayed(namespace, pod, call, asked).map_or_else(|end| end, |()| Replayed::Allowed)
    }

    /// What the policies of a pod's proxy look at. Of a gateway, whose listeners are many: everything that a record can hold.
    pub fn inputs(&mut self, namespace: &str, pod: &str) -> Inputs {
        let name = format!("{namespace}/{pod}");
        let mut inputs = Inputs::default();
        let found = self.pods.iter().find(|(_, neighbour)| neighbour.name == name).map(|(ip, neighbour)| (*ip, neighbour.proxy));
        if found.is_some_and(|(_, kind)| kind == Some(ProxyType::Router)) {
            inputs.addresses = true;
            inputs.headers = [":authority", ":path", "user-agent", "x-request-id", "x-forwarded-for"].map(str::to_owned).into();
            return inputs;
        }
        let Some(proxy) = found.and_then(|(ip, _)| self.proxy(ip)) else { return inputs };
        let Found::There(listener) = proxy.listener("virtualInbound") else { return inputs };
        for chain in listener.chains.iter().chain(&listener.default_chain) {
            for filter in chain.filters.before.iter() {
                if let NetworkFilter::Rbac(filter) = filter {
                    filter.rules.iter().chain(&filter.shadow).for_each(|rules| inputs.add(rules));
                }
            }
            let Terminal::Http(hcm) = &chain.filters.last else { continue };
            for filter in hcm.filters.iter() {
                if let HttpFilterKind::Rbac(own) = &filter.kind {
                    own.rules.iter().chain(&own.shadow).for_each(|rules| inputs.add(rules));
                }
            }
        }
        inputs
    }

    /// The path of a recorded request as policies see it; `None` if the proxy does not take it.
    pub fn seen_path(&mut self, namespace: &str, pod: &str, call: &Recorded) -> Option<String> {
        let (_, conn, chain) = self.arrived(namespace, pod, call).ok()?;
        let Terminal::Http(hcm) = &chain.filters.last else { return None };
        let mut request = request(&conn, hcm)?;
        http::accepted(hcm, &conn, &mut request, &mut Vec::new()).ok()?;
        Some(request.head.path().split(['?', '#']).next().unwrap_or_default().to_owned())
    }

    fn replayed(
        &mut self,
        namespace: &str,
        pod: &str,
        call: &Recorded,
        asked: &mut dyn FnMut(&str) -> Option<bool>,
    ) -> Result<(), Replayed> {
        let (server_name, conn, chain) = self.arrived(namespace, pod, call)?;
        let mut known = Known {
            facts: PolicyFacts { server_name: server_name.as_deref(), ..conn.facts() },
            caller: call.caller != Caller::Unknown,
            direct: call.is_direct && call.source.is_some(),
            remote: call.source.is_some(),
            server_name: true,
            headers: BTreeSet::new(),
        };
        let (mut must, mut may) = (Metadata::default(), Metadata::default());
        for filter in chain.filters.before.iter() {
            match filter {
                NetworkFilter::Rbac(filter) => {
                    known.watch(filter, TCP_RBAC, &mut must, &mut may);
                    filter.rules.as_ref().map_or(Ok(()), |rules| known.judge(rules))?;
                }
                NetworkFilter::ExtAuthz(authz) => ask(authz, &must, &may, asked)?,
                NetworkFilter::Stats(_) => {}
            }
        }
        let Terminal::Http(hcm) = &chain.filters.last else { return Ok(()) };
        let Some(recorded) = &call.request else {
            return Err(Replayed::Unknown {
                missing: ["the request: the record is of a connection, and the port serves HTTP".to_owned()].into(),
            });
        };
        let Some(mut request) = request(&conn, hcm) else { return Err(refused("the proxy does not take the request")) };
        http::accepted(hcm, &conn, &mut request, &mut Vec::new()).map_err(|verdict| refused(&verdict.to_string()))?;
        known.headers = recorded.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        known.headers.extend([":method", ":path"].map(str::to_owned));
        known.headers.extend(recorded.authority.as_ref().map(|_| ":authority".to_owned()));
        known.facts.remote = request.remote;
        (must, may) = (Metadata::default(), Metadata::default());
        for filter in hcm.filters.iter().filter(|filter| filter.is_on(None)) {
            match &filter.kind {
                HttpFilterKind::Rbac(own) => {
                    let rbac = own.in_force(None);
                    known.facts.request = Some(&request.head);
                    known.watch(rbac, RBAC, &mut must, &mut may);
                    rbac.rules.as_ref().map_or(Ok(()), |rules| known.judge(rules))?;
                }
                HttpFilterKind::ExtAuthz(authz) => ask(authz, &must, &may, asked)?,
                // What it sets is what no record holds.
                HttpFilterKind::HeaderMutation(_) => known.headers.clear(),
                _ => {}
            }
        }
        Ok(())
    }

    /// The connection, with its chain.
    fn arrived(
        &mut self,
        namespace: &str,
        pod: &str,
        call: &Recorded,
    ) -> Result<(Option<String>, conn::Conn, Arc<mizzen_ir::config::FilterChain>), Replayed> {
        let name = format!("{namespace}/{pod}");
        let found = self.pods.iter().find(|(_, neighbour)| neighbour.name == name).map(|(ip, neighbour)| (*ip, neighbour.proxy));
        let Some((ip, kind)) = found else { return Err(Replayed::Unknown { missing: [format!("pod {name}")].into() }) };
        let Some((proxy, kind)) = self.proxy(ip).zip(kind) else { return Err(refused("there is no proxy")) };
        let side = if kind == ProxyType::Router { Side::Gateway } else { Side::Inbound };
        let mut flow = self.flow(call);
        let mut hop = Hop { proxy: name, side, steps: Vec::new(), ways: Vec::new(), verdict: Verdict::Delivered };
        let end = |verdict: Verdict| refused(&verdict.to_string());
        let listener = match conn::listener(&proxy, &mut hop, flow.destination) {
            Ok(listener) => listener,
            // Somebody else opened the gateway's port for it, under another number.
            Err(_) if side == Side::Gateway => {
                let ports = self.gateway_ports(&proxy.view.facts().labels);
                let [port] = ports[..] else {
                    return Err(Replayed::Unknown { missing: ["which port of the gateway was called".to_owned()].into() });
                };
                flow.destination = SocketAddr::new(ip, port);
                conn::listener(&proxy, &mut hop, flow.destination).map_err(end)?
            }
            Err(verdict) => return Err(end(verdict)),
        };
        let chain = conn::chain(&listener, &flow, &mut hop.steps).map_err(end)?;
        let mut conn = conn::secured(&chain, flow, &mut hop.steps).map_err(end)?;
        if call.caller == Caller::Nobody {
            conn.peer = None;
        }
        Ok((call.server_name.clone(), conn, chain))
    }

    /// The ports of the Gateways that select a pod with these labels, each once.
    fn gateway_ports(&self, labels: &BTreeMap<String, String>) -> Vec<u16> {
        let own = self.snapshot.objects::<Gateway>().filter(|gateway| gateway.selector.matches(labels));
        let ports: BTreeSet<u16> = own.flat_map(|gateway| gateway.servers.iter().map(|server| server.port.number)).collect();
        ports.into_iter().collect()
    }

    /// The connection as it must have come.
    fn flow(&self, call: &Recorded) -> Flow {
        let peer = match &call.caller {
            Caller::Known(id) => Some(id.clone()),
            Caller::Nobody => None,
            // Whoever it was had a certificate of the mesh.
            Caller::Unknown => Some(SpiffeId {
                trust_domain: self.snapshot.mesh().trust_domain.clone(),
                namespace: "unknown".into(),
                service_account: "unknown".into(),
            }),
        };
        let protocol: &[u8] = match &call.request {
            None => b"istio",
            Some(request) if request.http2 => b"istio-h2",
            Some(_) => b"istio-http/1.1",
        };
        let hello =
            Hello { server_name: call.server_name.clone(), protocols: vec![protocol.to_vec()], peer: peer.clone(), certificate: false };
        let nobody = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0);
        Flow {
            source: call.source.unwrap_or(nobody),
            destination: call.destination,
            layers: if peer.is_some() { vec![hello] } else { Vec::new() },
            payload: call.request.as_ref().and_then(carried).unwrap_or(Carried::Bytes),
        }
    }
}

/// Somebody else is asked, if what was left by rules that are not enforced says so.
fn ask(authz: &ExtAuthz, must: &Metadata, may: &Metadata, asked: &mut dyn FnMut(&str) -> Option<bool>) -> Result<(), Replayed> {
    let wanted = |metadata: &Metadata| authz.enabled_metadata.as_ref().is_none_or(|wanted| wanted.matches(metadata));
    if !wanted(must) && !wanted(may) {
        return Ok(());
    }
    let cluster = authz.cluster();
    match asked(cluster) {
        Some(true) => Ok(()),
        Some(false) if wanted(must) => Err(refused(&format!("{cluster} refuses it"))),
        _ => Err(Replayed::Unknown { missing: [format!("the answer of {cluster}")].into() }),
    }
}

fn refused(why: &str) -> Replayed {
    Replayed::Refused { rule: None, why: why.to_owned() }
}

/// The request, if it is one.
fn carried(request: &RecordedRequest) -> Option<Carried> {
    let mut head = Head::request("GET", "http", request.authority.as_deref().unwrap_or_default(), "/");
    let good = head.set_method(&request.method) && head.set_path(&request.path);
    for (name, value) in request.headers.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        // What cannot be sent cannot have been recorded: the line is damaged there.
        if !head.append(&name.to_ascii_lowercase(), value) {
            return None;
        }
    }
    good.then_some(Carried::Http { head, http2: request.http2 })
}

fn request(conn: &conn::Conn, hcm: &mizzen_ir::config::Hcm) -> Option<http::Request> {
    let Carried::Http { head, http2 } = &conn.flow.payload else { return None };
    let remote = client_address(head, hcm, conn.flow.source.ip());
    Some(http::Request { head: head.clone(), remote, http2: *http2, secure: conn.secure })
}

/// Under which name the shadow's decision is left in the dynamic metadata.
const RBAC: &str = "envoy.filters.http.rbac";
/// And that of rules over connections.
const TCP_RBAC: &str = "envoy.filters.network.rbac";

impl Known<'_> {
    /// One set of policies.
    fn judge(&self, rules: &Rbac) -> Result<(), Replayed> {
        let mut missing = BTreeSet::new();
        let (must, may) = (self.bound(rules, false, &mut missing), self.bound(rules, true, &mut missing));
        let decide = |rules: &Rbac| authorize(rules, &self.facts, &mut Trace::off());
        let (least, most) = (decide(&must), decide(&may));
        let is_allowed = |judged: &Judged| matches!(judged, Judged::Allowed(_));
        match (is_allowed(&least), is_allowed(&most)) {
            (true, true) => Ok(()),
            (false, false) => Err(self.refusal(rules, least)),
            _ => Err(Replayed::Unknown { missing }),
        }
    }

    fn refusal(&self, rules: &Rbac, judged: Judged) -> Replayed {
        match judged {
            Judged::Denied(Some(rule)) | Judged::Allowed(Some(rule)) => {
                Replayed::Refused { rule: Some(rule.to_string()), why: format!("{rule} denies it") }
            }
            Judged::Denied(None) | Judged::Allowed(None) => {
                let why = match nearest_miss(rules, &self.facts) {
                    Some(miss) => format!("no policy allows it; nearest is {}: {}", miss.policy, miss.lacking.join("; ")),
                    None => "no policy allows it".to_owned(),
                };
                Replayed::Refused { rule: None, why }
            }
        }
    }

    /// What is not enforced leaves its result for who comes after: as it is if nothing unknown holds, and if all does.
    fn watch(&self, rbac: &RbacFilter, filter: &str, must: &mut Metadata, may: &mut Metadata) {
        let Some(shadow) = &rbac.shadow else { return };
        let mut missing = BTreeSet::new();
        for (metadata, all) in [(must, false), (may, true)] {
            let bound = self.bound(shadow, all, &mut missing);
            let (result, policy) = match authorize(&bound, &self.facts, &mut Trace::off()) {
                Judged::Allowed(policy) => ("allowed", policy),
                Judged::Denied(policy) => ("denied", policy),
            };
            if let Some(policy) = policy {
                metadata.put(filter, &format!("{}shadow_effective_policy_id", rbac.shadow_prefix), &policy);
            }
            metadata.put(filter, &format!("{}shadow_engine_result", rbac.shadow_prefix), result);
        }
    }

    /// The policies with every unknown condition holding, or none.
    fn bound(&self, rules: &Rbac, holds: bool, missing: &mut BTreeSet<String>) -> Rbac {
        let mut list = |exprs: &[Expr]| -> Arc<[Expr]> { exprs.iter().map(|expr| self.with(expr, holds, missing)).collect() };
        let policies = rules.policies.iter().map(|policy| Policy {
            name: policy.name.clone(),
            permissions: list(&policy.permissions),
            principals: list(&policy.principals),
        });
        Rbac::new(rules.action, policies.collect())
    }

    fn with(&self, expr: &Expr, holds: bool, missing: &mut BTreeSet<String>) -> Expr {
        let mut all = |list: &[Expr]| -> Arc<[Expr]> { list.iter().map(|expr| self.with(expr, holds, missing)).collect() };
        match expr {
            Expr::And(list) => Expr::And(all(list)),
            Expr::Or(list) => Expr::Or(all(list)),
            Expr::Not(inner) => Expr::Not(Arc::new(self.with(inner, !holds, missing))),
            leaf => match self.lacks(leaf) {
                None => leaf.clone(),
                Some(what) => {
                    missing.insert(what);
                    if holds { Expr::Any } else { Expr::Not(Arc::new(Expr::Any)) }
                }
            },
        }
    }

    /// What is not known of a condition, if something is not.
    fn lacks(&self, leaf: &Expr) -> Option<String> {
        let unless = |known: bool, what: &str| (!known).then(|| what.to_owned());
        match leaf {
            Expr::Any | Expr::And(_) | Expr::Or(_) | Expr::Not(_) | Expr::DestinationIp(_) | Expr::DestinationPort(_) => None,
            // Without a request there is none of its headers.
            Expr::Header(_) | Expr::UrlPath(_) | Expr::PathTemplate(_) | Expr::Metadata(_) if self.facts.request.is_none() => None,
            Expr::Header(header) => unless(self.headers.contains(&*header.name), &format!("header {}", header.name)),
            Expr::UrlPath(_) | Expr::PathTemplate(_) => None,
            Expr::ServerName(_) => unless(self.server_name, "the server name"),
            Expr::Authenticated(None) => None,
            Expr::Authenticated(Some(_)) | Expr::PeerPrincipal(_) => unless(self.caller, "the caller's identity"),
            Expr::DirectRemoteIp(_) => unless(self.direct, "the address of the connection's other end"),
            Expr::RemoteIp(_) => unless(self.remote, "the client's address"),
            Expr::Metadata(_) => Some("the claims of a token".to_owned()),
        }
    }
}
