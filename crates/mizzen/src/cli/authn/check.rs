//! What servers take and a client sends: the former by the policies in force, the latter by the clusters that its proxy runs, or would be sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Result;
use mizzen_api::{
    Key,
    core::Pod,
    istio::{EndpointAddress, Gateway, MtlsMode},
};
use mizzen_explain::ResourceKind;
use mizzen_model::{Endpoint, PortView, ProxyView, Reader, ServiceView, Snapshot, TLS_MODE_LABEL};
use mizzen_protos::json::{Descriptors, Names};
use mizzen_types::{Hostname, Name, Protocol};
use serde::Serialize;
use serde_json::Value;

use super::{
    super::proxy_config::{source_of, text},
    Held,
};

/// A port of a service, or of a subset of which something else holds than of the service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) host: String,
    pub(super) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subset: Option<String>,
    pub(super) status: Status,
    /// One of [`Server`]'s words, `MIXED`, or `-` where nobody serves.
    pub(super) server: String,
    /// One of [`Client`]'s words, `MIXED`, or `-`.
    pub(super) client: String,
    /// Whether the client's proxy chooses by what each server takes, since no rule says what it is to send.
    pub(super) automatic: bool,
    /// The PeerAuthentications by which the servers take it.
    #[serde(rename = "authenticationPolicies")]
    pub(super) policies: Vec<Named>,
    #[serde(rename = "destinationRule", skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Named>,
    /// Whether the client's proxy runs it already: one that fetches on first use may not.
    pub(super) held: bool,
    /// What servers have counted of this client's calls, by `connection_security_policy`, on any port of the service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) seen: BTreeMap<String, u64>,
    /// Why it does not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) reasons: Vec<String>,
    pub(super) endpoints: Vec<Serving>,
}

/// An object of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Named {
    /// `NAME/NAMESPACE`, as istioctl has it.
    pub(super) name: String,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
}

/// One who serves.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Serving {
    pub(super) address: String,
    /// `NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<String>,
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<Named>,
}

/// Whether what is sent is what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Status {
    /// It is.
    #[serde(rename = "OK")]
    Fits,
    /// It is not: calls fail.
    #[serde(rename = "CONFLICT")]
    Conflict,
    /// Nobody serves.
    #[serde(rename = "-")]
    Nobody,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Fits => "OK",
            Status::Conflict => "CONFLICT",
            Status::Nobody => "-",
        }
    }
}

/// What a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Server {
    /// Mutual TLS alone.
    #[serde(rename = "STRICT")]
    Strict,
    /// Mutual TLS and plain text.
    #[serde(rename = "PERMISSIVE")]
    Permissive,
    /// Plain text alone.
    #[serde(rename = "DISABLE")]
    Disable,
    /// There is no sidecar: what its program takes.
    #[serde(rename = "NO_SIDECAR")]
    NoSidecar,
    /// It is beyond the mesh: what it takes is not known.
    #[serde(rename = "EXTERNAL")]
    External,
}

impl Server {
    fn as_str(self) -> &'static str {
        match self {
            Server::Strict => "STRICT",
            Server::Permissive => "PERMISSIVE",
            Server::Disable => "DISABLE",
            Server::NoSidecar => "NO_SIDECAR",
            Server::External => "EXTERNAL",
        }
    }

    fn takes(self) -> &'static str {
        match self {
            Server::Strict => "takes mutual TLS alone",
            Server::Permissive => "takes mutual TLS of the mesh and plain text",
            Server::Disable => "takes plain text alone",
            Server::NoSidecar => "has no sidecar",
            Server::External => "is beyond the mesh",
        }
    }
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Client {
    /// Mutual TLS with the certificates of the mesh.
    #[serde(rename = "ISTIO_MUTUAL")]
    IstioMutual,
    /// TLS with a certificate of its own.
    #[serde(rename = "MUTUAL")]
    Mutual,
    /// TLS without a certificate.
    #[serde(rename = "SIMPLE")]
    Simple,
    /// What its program writes.
    #[serde(rename = "DISABLE")]
    Disable,
}

impl Client {
    fn as_str(self) -> &'static str {
        match self {
            Client::IstioMutual => "ISTIO_MUTUAL",
            Client::Mutual => "MUTUAL",
            Client::Simple => "SIMPLE",
            Client::Disable => "DISABLE",
        }
    }

    fn sends(self) -> &'static str {
        match self {
            Client::IstioMutual => "mutual TLS of the mesh",
            Client::Mutual => "TLS with a certificate that is not the mesh's",
            Client::Simple => "TLS without a certificate",
            Client::Disable => "plain text",
        }
    }
}

/// Whether a server takes what a client sends. What a sidecar cannot open is passed on to its program, unless requests are to be read of it.
fn fits(server: Server, client: Client, protocol: Protocol) -> bool {
    match (server, client) {
        (Server::External, _) | (Server::NoSidecar, Client::Disable | Client::Simple | Client::Mutual) => true,
        (Server::Strict | Server::Permissive, Client::IstioMutual) => true,
        (Server::Strict, _) | (Server::Disable | Server::NoSidecar, Client::IstioMutual) => false,
        (Server::Permissive | Server::Disable, Client::Disable) => true,
        (Server::Permissive | Server::Disable, Client::Simple | Client::Mutual) => !protocol.is_http(),
    }
}

/// Whether a proxy stands beside a pod.
pub(in crate::cli) fn has_proxy(snapshot: &Snapshot, pod: &Pod) -> bool {
    let is_gateway = || snapshot.objects::<Gateway>().any(|gateway| gateway.selector.matches(&pod.meta.labels));
    pod.meta.labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio") || is_gateway()
}

/// All ports of services that are meant and that a client can call.
pub(super) fn rows(snapshot: &Arc<Snapshot>, view: &ProxyView, held: &Held, is_meant: impl Fn(&str, u16) -> bool) -> Result<Vec<Row>> {
    let asked = Asked { snapshot, reader: Reader::new(snapshot), view, held, descriptors: Descriptors::load() };
    let mut rows: Vec<Row> = Vec::new();
    for name in mizzen_explain::list(snapshot, view, ResourceKind::Cluster) {
        let Some((port, subset, host)) = parse(&name) else { continue };
        // All endpoints of a headless service by one name: the service, once more.
        if subset == "*" || !is_meant(host, port) {
            continue;
        }
        rows.extend(asked.row(&name, host, port, subset)?);
    }
    rows.sort_by(|a, b| (&a.host, a.port, &a.subset).cmp(&(&b.host, b.port, &b.subset)));
    let whole: BTreeMap<(String, u16), (Status, String, String)> = rows
        .iter()
        .filter(|row| row.subset.is_none())
        .map(|row| ((row.host.clone(), row.port), (row.status, row.server.clone(), row.client.clone())))
        .collect();
    // A subset is told of where it differs.
    rows.retain(|row| {
        let of_service = whole.get(&(row.host.clone(), row.port));
        row.subset.is_none()
            || of_service.is_none_or(|(status, server, client)| (*status, server, client) != (row.status, &row.server, &row.client))
    });
    Ok(rows)
}

/// `outbound|PORT|SUBSET|HOST`.
fn parse(name: &str) -> Option<(u16, &str, &str)> {
    let mut parts = name.strip_prefix("outbound|")?.splitn(3, '|');
    Some((parts.next()?.parse().ok()?, parts.next()?, parts.next()?))
}

struct Asked<'a> {
    snapshot: &'a Arc<Snapshot>,
    reader: Reader<'a>,
    view: &'a ProxyView,
    held: &'a Held,
    descriptors: Descriptors,
}

impl Asked<'_> {
    fn row(&self, name: &Name, host: &str, port: u16, subset: &str) -> Result<Option<Row>> {
        let Ok(hostname) = host.parse::<Hostname>() else { return Ok(None) };
        let Some(service) = self.view.service_at(&self.reader, &hostname, port) else { return Ok(None) };
        let Some(view) = service.port(port).filter(|port| port.protocol != Protocol::Udp) else { return Ok(None) };
        let Some(built) = self.built(ResourceKind::Cluster, name)? else { return Ok(None) };
        let cluster = self.held.get(&**name).unwrap_or(&built);
        let assignment = self.built(ResourceKind::Endpoints, name)?;
        let labels = labels(assignment.as_ref().unwrap_or(&cluster["load_assignment"]));
        // Of a service whose servers are found by DNS, or are what was asked for, no assignment says which of them are meant.
        let all = self.reader.endpoints(service).ready(port);
        let meant = |endpoint: &&Endpoint| assignment.is_none() || labels.contains_key(&address(endpoint));
        let endpoints: Vec<Serving> = all.filter(meant).map(|endpoint| self.server(service, view, cluster, &labels, endpoint)).collect();
        let mut policies: Vec<Named> = endpoints.iter().filter_map(|one| one.policy.clone()).collect();
        policies.sort();
        policies.dedup();
        let rule = source_of(&cluster["metadata"])
            .map(|(namespace, name)| self.named(&Key::new(mizzen_api::Kind::DestinationRule, namespace, name)));
        let status = endpoints.iter().map(|one| one.status).max_by_key(|status| *status == Status::Conflict).unwrap_or(Status::Nobody);
        let mut row = Row {
            host: host.to_owned(),
            port,
            subset: Some(subset.to_owned()).filter(|subset| !subset.is_empty()),
            status,
            server: common(endpoints.iter().map(|one| one.server.as_str())),
            client: common(endpoints.iter().map(|one| one.client.as_str())),
            automatic: cluster["transport_socket_matches"].as_array().is_some_and(|matches| !matches.is_empty()),
            policies,
            rule,
            held: self.held.contains_key(&**name),
            seen: BTreeMap::new(),
            reasons: Vec::new(),
            endpoints,
        };
        row.reasons = reasons(&row);
        Ok(Some(row))
    }

    /// A resource as the control plane would send it, as JSON.
    fn built(&self, kind: ResourceKind, name: &Name) -> Result<Option<Value>> {
        let Some(built) = mizzen_explain::build(self.snapshot, self.view, kind, name) else { return Ok(None) };
        Ok(Some(self.descriptors.any_to_value(&built.any, Names::Proto)?))
    }

    fn server(&self, service: &ServiceView, port: &PortView, cluster: &Value, labels: &Labels, endpoint: &Endpoint) -> Serving {
        let (server, policy) = if endpoint.tls {
            let (modes, sources) = self.reader.peer_sources(&endpoint.namespace, |selector| selector.matches(&endpoint.labels));
            let server = match modes.port(endpoint.port) {
                MtlsMode::Strict => Server::Strict,
                MtlsMode::Disable => Server::Disable,
                MtlsMode::Permissive | MtlsMode::Unset => Server::Permissive,
            };
            (server, sources.port(endpoint.port).map(|key| self.named(key)))
        } else {
            (if service.external { Server::External } else { Server::NoSidecar }, None)
        };
        // Of a pod with two addresses the client is told one.
        let told = endpoint.ips().map(|ip| format!("{ip}:{}", endpoint.port)).find(|at| labels.get(at).is_some());
        let at = told.unwrap_or_else(|| address(endpoint));
        let client = sent(cluster, labels.get(&at).unwrap_or(&Value::Null));
        let pod = match &endpoint.address {
            EndpointAddress::Ip(ip) => self.reader.pod(*ip).map(|pod| format!("{}/{}", pod.object.namespace, pod.object.name)),
            EndpointAddress::Host(_) => None,
        };
        let status = if fits(server, client, port.protocol) { Status::Fits } else { Status::Conflict };
        Serving { address: at, pod, server, client, status, policy }
    }

    fn named(&self, key: &Key) -> Named {
        let origin = self.snapshot.object(key).map(|object| object.meta().origin.clone());
        let origin = origin.filter(|origin| origin.line > 0).map(|origin| origin.to_string());
        Named { name: format!("{}/{}", key.name, key.namespace), origin }
    }
}

/// By address, what an endpoint says of itself for the choice of a transport.
type Labels = BTreeMap<String, Value>;

fn labels(assignment: &Value) -> Labels {
    let localities = assignment["endpoints"].as_array().into_iter().flatten();
    let endpoints = localities.flat_map(|locality| locality["lb_endpoints"].as_array().into_iter().flatten());
    let of = |endpoint: &Value| {
        let socket = &endpoint["endpoint"]["address"]["socket_address"];
        let labels = endpoint["metadata"]["filter_metadata"]["envoy.transport_socket_match"].clone();
        (format!("{}:{}", text(&socket["address"]), text(&socket["port_value"])), labels)
    };
    endpoints.map(of).collect()
}

fn address(endpoint: &Endpoint) -> String {
    match &endpoint.address {
        EndpointAddress::Ip(ip) => format!("{ip}:{}", endpoint.port),
        EndpointAddress::Host(host) => format!("{host}:{}", endpoint.port),
    }
}

/// What a cluster sends to an endpoint with these labels: the first transport of which the endpoint has all that it asks for, else the cluster's own.
fn sent(cluster: &Value, labels: &Value) -> Client {
    let matches = cluster["transport_socket_matches"].as_array().into_iter().flatten();
    let fits = |one: &&Value| one["match"].as_object().is_none_or(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value));
    let chosen = matches.clone().find(fits).map(|one| &one["transport_socket"]);
    transport(chosen.unwrap_or(&cluster["transport_socket"]))
}

fn transport(socket: &Value) -> Client {
    let config = &socket["typed_config"];
    // One may stand in another, as that of a proxy's protocol does.
    if config["transport_socket"].is_object() {
        return transport(&config["transport_socket"]);
    }
    if !config["@type"].as_str().is_some_and(|kind| kind.ends_with(".UpstreamTlsContext")) {
        return Client::Disable;
    }
    let common = &config["common_tls_context"];
    let list = |field: &str| common[field].as_array().into_iter().flatten().collect::<Vec<_>>();
    let secrets = list("tls_certificate_sds_secret_configs");
    if secrets.iter().any(|secret| secret["name"] == "default") {
        Client::IstioMutual
    } else if secrets.is_empty() && list("tls_certificates").is_empty() {
        Client::Simple
    } else {
        Client::Mutual
    }
}

/// The one word, or that there are several.
fn common<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: BTreeSet<&str> = words.collect();
    match words.len() {
        0 => "-".to_owned(),
        1 => words.into_iter().collect(),
        _ => "MIXED".to_owned(),
    }
}

/// Why calls fail, once for servers that are alike.
fn reasons(row: &Row) -> Vec<String> {
    let place = |named: &Named, kind: &str| {
        let origin = named.origin.as_ref().map(|origin| format!(" at {origin}")).unwrap_or_default();
        format!(" ({kind} {}{origin})", named.name)
    };
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for one in row.endpoints.iter().filter(|one| one.status == Status::Conflict) {
        let policy = one.policy.as_ref().map(|policy| place(policy, "PeerAuthentication")).unwrap_or_default();
        let rule = row.rule.as_ref().map(|rule| place(rule, "DestinationRule")).unwrap_or_default();
        let text = format!("the server {}{policy}, and the client sends {}{rule}", one.server.takes(), one.client.sends());
        found.entry(text).or_default().push(one.pod.as_deref().unwrap_or(&one.address));
    }
    found.into_iter().map(|(text, servers)| format!("{text}: {}", servers.join(", "))).collect()
}
