//! What a proxy must know of the messages: requests in full, of responses names, versions and nonces. Resources' bodies are passed over, but for
//! the names that they ask for. A body of any size costs the client no memory.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    bytes.freeze()
}

/// DeltaDiscoveryRequest.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, optional, tag = "1")]
    pub(super) node: Option<Node>,
    #[prost(string, tag = "2")]
    pub(super) type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub(super) unsubscribe: Vec<String>,
    #[prost(map = "string, string", tag = "5")]
    pub(super) versions: HashMap<String, String>,
    #[prost(string, tag = "6")]
    pub(super) nonce: String,
}

/// Who asks.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<Struct>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Struct {
    #[prost(map = "string, message", tag = "1")]
    pub(super) fields: HashMap<String, Value>,
}

/// `google.protobuf.Value`, of which only these two are sent.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(oneof = "Kind", tags = "3, 5")]
    pub(super) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(message, tag = "5")]
    Struct(Struct),
}

/// IstioCertificateRequest.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CertificateRequest {
    #[prost(string, tag = "1")]
    pub(super) csr: String,
}

/// IstioCertificateResponse.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CertificateResponse {
    #[prost(string, repeated, tag = "1")]
    pub(super) chain: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Cluster {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    discovery: i32,
    #[prost(message, optional, tag = "3")]
    eds: Option<Named>,
}

/// EdsClusterConfig and Rds: both have their name there.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Listener {
    #[prost(message, repeated, tag = "3")]
    chains: Vec<FilterChain>,
    #[prost(message, optional, tag = "25")]
    default_chain: Option<FilterChain>,
}

#[derive(Clone, PartialEq, Message)]
struct FilterChain {
    #[prost(message, repeated, tag = "3")]
    filters: Vec<Filter>,
}

#[derive(Clone, PartialEq, Message)]
struct Filter {
    #[prost(message, optional, tag = "4")]
    config: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct ConnectionManager {
    #[prost(message, optional, tag = "3")]
    rds: Option<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct VirtualHost {
    #[prost(message, repeated, tag = "3")]
    routes: Vec<Route>,
}

#[derive(Clone, PartialEq, Message)]
struct Route {
    #[prost(message, optional, tag = "2")]
    action: Option<RouteAction>,
}

#[derive(Clone, PartialEq, Message)]
struct RouteAction {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(message, optional, tag = "3")]
    weighted: Option<Weighted>,
}

#[derive(Clone, PartialEq, Message)]
struct Weighted {
    #[prost(message, repeated, tag = "1")]
    clusters: Vec<Share>,
}

#[derive(Clone, PartialEq, Message)]
struct Share {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Assignment {
    #[prost(message, repeated, tag = "2")]
    localities: Vec<Locality>,
}

#[derive(Clone, PartialEq, Message)]
struct Locality {
    /// LbEndpoints, of which only their number is wanted.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    endpoints: Vec<Bytes>,
}

/// An entry of the index, of which a caller by HTTP needs the ports.
#[derive(Clone, PartialEq, Message)]
struct Indexed {
    #[prost(uint32, repeated, tag = "2")]
    http: Vec<u32>,
}

pub(super) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(super) const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(super) const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(super) const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub(super) const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
pub(super) const INDEX: &str = "type.googleapis.com/mizzen.index.v1.Host";
/// Of which the bodies are read.
const READ: [&str; 4] = [CLUSTER, LISTENER, VIRTUAL_HOST, INDEX];
const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// `Cluster.DiscoveryType.EDS`.
const EDS: i32 = 3;

/// The names that a resource asks for: a cluster endpoints, a listener routes, a virtual host clusters. Of an entry of the index, its ports.
pub(super) fn needs(body: Bytes) -> Result<Vec<String>> {
    let any = Any::decode(body)?;
    let mut names = match &*any.type_url {
        CLUSTER => {
            let cluster = Cluster::decode(any.value)?;
            let named = cluster.eds.map(|eds| eds.name).filter(|name| !name.is_empty());
            (cluster.discovery == EDS).then(|| named.unwrap_or(cluster.name)).into_iter().collect()
        }
        VIRTUAL_HOST => {
            let actions = VirtualHost::decode(any.value)?.routes.into_iter().filter_map(|route| route.action);
            let shares = |weighted: Option<Weighted>| weighted.into_iter().flat_map(|w| w.clusters).map(|share| share.name);
            let named = actions.flat_map(|action| shares(action.weighted).chain([action.cluster]));
            named.filter(|name| !name.is_empty()).collect()
        }
        ENDPOINT => Vec::new(),
        INDEX => Indexed::decode(any.value)?.http.iter().map(ToString::to_string).collect(),
        _ => routes(Listener::decode(any.value)?)?,
    };
    names.sort();
    names.dedup();
    Ok(names)
}

fn routes(listener: Listener) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for filter in listener.chains.into_iter().chain(listener.default_chain).flat_map(|chain| chain.filters) {
        let Some(config) = filter.config.filter(|config| config.type_url == MANAGER) else { continue };
        names.extend(ConnectionManager::decode(config.value)?.rds.map(|rds| rds.name));
    }
    Ok(names)
}

/// How many endpoints a resource has; `None` if it is none of endpoints.
pub(super) fn endpoints(body: Bytes) -> Result<Option<usize>> {
    let any = Any::decode(body)?;
    if any.type_url != ENDPOINT {
        return Ok(None);
    }
    Ok(Some(Assignment::decode(any.value)?.localities.iter().map(|locality| locality.endpoints.len()).sum()))
}

/// A part of a response.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    /// A resource; with its body if that may ask for others.
    Resource { name: Bytes, version: Bytes, body: Option<Bytes> },
    /// The name of one that is gone.
    Removed(Bytes),
    /// The response is complete.
    End { type_url: Bytes, nonce: Bytes },
}

/// Reads responses as they arrive.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Whether bodies of endpoints are read, too.
    endpoints: bool,
    buffer: BytesMut,
    /// Bytes of a body that nobody wants.
    skip: usize,
    /// What is left of the response in hand, and of the resource in hand.
    message: Option<usize>,
    resource: Option<(usize, Partial)>,
    type_url: Bytes,
    nonce: Bytes,
}

#[derive(Debug, Default)]
struct Partial {
    name: Bytes,
    version: Bytes,
    body: Option<Bytes>,
}

/// One field, as far as it is told by its first bytes.
struct Field {
    number: u64,
    /// Of key and length.
    head: usize,
    length: usize,
}

impl Reader {
    /// One that reads bodies of endpoints, too.
    pub(super) fn of_endpoints() -> Reader {
        Reader { endpoints: true, ..Reader::default() }
    }

    /// Takes what has arrived.
    pub(super) fn feed(&mut self, data: &[u8]) {
        let skipped = self.skip.min(data.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&data[skipped..]);
    }

    /// The next part, if it is there.
    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        loop {
            if self.skip > 0 {
                return Ok(None);
            }
            let Some(left) = self.message else {
                if self.buffer.len() < PREFIX {
                    return Ok(None);
                }
                ensure!(self.buffer.get_u8() == 0, "a compressed response");
                self.message = Some(self.buffer.get_u32() as usize);
                continue;
            };
            if let Some((0, partial)) = self.resource.take_if(|(left, _)| *left == 0) {
                let Partial { name, version, body } = partial;
                return Ok(Some(Item::Resource { name, version, body }));
            }
            if left == 0 {
                self.message = None;
                return Ok(Some(Item::End { type_url: std::mem::take(&mut self.type_url), nonce: std::mem::take(&mut self.nonce) }));
            }
            let Some(field) = field(&self.buffer)? else { return Ok(None) };
            let (number, within) = (field.number, self.resource.is_some());
            let item = match (within, number) {
                (false, 2) => {
                    self.take(field.head)?;
                    ensure!(self.message.is_some_and(|left| field.length <= left), "a resource is longer than its response");
                    self.resource = Some((field.length, Partial::default()));
                    continue;
                }
                (true, 2) => match self.wanted(&field) {
                    None => return Ok(None),
                    Some(true) => self.value(&field)?,
                    Some(false) => {
                        self.pass(&field)?;
                        continue;
                    }
                },
                _ => self.value(&field)?,
            };
            let Some(value) = item else { return Ok(None) };
            match (&mut self.resource, number) {
                (Some((_, partial)), 1) => partial.version = value,
                (Some((_, partial)), 2) => partial.body = Some(value),
                (Some((_, partial)), 3) => partial.name = value,
                (None, 4) => self.type_url = value,
                (None, 5) => self.nonce = value,
                (None, 6) => return Ok(Some(Item::Removed(value))),
                _ => {}
            }
        }
    }

    /// Takes bytes that are there, out of all that they are part of.
    fn take(&mut self, length: usize) -> Result<Bytes> {
        self.count(length)?;
        Ok(self.buffer.split_to(length).freeze())
    }

    fn count(&mut self, length: usize) -> Result<()> {
        let inner = self.resource.as_mut().map(|(left, _)| left);
        for left in self.message.as_mut().into_iter().chain(inner) {
            *left = left.checked_sub(length).context("a field is longer than what it is part of")?;
        }
        Ok(())
    }

    /// A field's value once all of it is there.
    fn value(&mut self, field: &Field) -> Result<Option<Bytes>> {
        if self.buffer.len() < field.head + field.length {
            return Ok(None);
        }
        self.take(field.head)?;
        self.take(field.length).map(Some)
    }

    /// Goes past a field, whether it is there or not.
    fn pass(&mut self, field: &Field) -> Result<()> {
        let length = field.head + field.length;
        self.count(length)?;
        let there = length.min(self.buffer.len());
        self.buffer.advance(there);
        self.skip = length - there;
        Ok(())
    }

    /// Whether a body may ask for other resources, which its type says; `None` while that is not there.
    fn wanted(&self, field: &Field) -> Option<bool> {
        let body = self.buffer.get(field.head..)?;
        let there = |wanted: &str| body.get(2..).is_some_and(|text| text.starts_with(wanted.as_bytes()));
        let read = || READ.into_iter().chain(self.endpoints.then_some(ENDPOINT));
        let longest = read().map(str::len).max().unwrap_or_default() + 2;
        (body.len() >= longest.min(field.length)).then(|| read().any(there))
    }
}

/// Key and length of the field at the beginning; `None` while they are not there. Numbers have no length, and are told as fields of none.
fn field(bytes: &[u8]) -> Result<Option<Field>> {
    let Some((key, key_length)) = varint(bytes)? else { return Ok(None) };
    let rest = &bytes[key_length..];
    let Some((value, value_length)) = varint(rest)? else { return Ok(None) };
    let head = key_length + value_length;
    match key & 7 {
        0 => Ok(Some(Field { number: 0, head, length: 0 })),
        2 => Ok(Some(Field { number: key >> 3, head, length: usize::try_from(value)? })),
        kind => bail!("a field of wire type {kind}"),
    }
}

fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    ensure!(bytes.len() < 10, "a number of more than ten bytes");
    Ok(None)
}

/// Counts messages without reading them.
#[derive(Debug, Default)]
pub(super) struct Counter {
    prefix: Vec<u8>,
    left: usize,
}

impl Counter {
    /// How many have become complete.
    pub(super) fn feed(&mut self, mut data: &[u8]) -> usize {
        let mut complete = 0;
        while !data.is_empty() {
            if self.prefix.len() < PREFIX {
                let (head, rest) = data.split_at(data.len().min(PREFIX - self.prefix.len()));
                self.prefix.extend_from_slice(head);
                data = rest;
                if let [_, a, b, c, d] = self.prefix[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                }
            } else {
                let taken = self.left.min(data.len());
                self.left -= taken;
                data = &data[taken..];
            }
            if self.prefix.len() == PREFIX && self.left == 0 {
                self.prefix.clear();
                complete += 1;
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Response {
        #[prost(string, tag = "1")]
        system: String,
        #[prost(message, repeated, tag = "2")]
        resources: Vec<Resource>,
        #[prost(string, tag = "4")]
        type_url: String,
        #[prost(string, tag = "5")]
        nonce: String,
        #[prost(string, repeated, tag = "6")]
        removed: Vec<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Resource {
        #[prost(string, tag = "1")]
        version: String,
        #[prost(message, optional, tag = "2")]
        body: Option<Any>,
        #[prost(string, tag = "3")]
        name: String,
        #[prost(uint64, tag = "6")]
        number: u64,
    }

    fn cluster(name: &str, discovery: i32, eds: Option<&str>) -> Bytes {
        let eds = eds.map(|name| Named { name: name.to_owned() });
        Cluster { name: name.to_owned(), discovery, eds }.encode_to_vec().into()
    }

    fn any(type_url: &str, value: Bytes) -> Any {
        Any { type_url: type_url.to_owned(), value }
    }

    #[test]
    fn responses_in_pieces_of_any_size() {
        let resource = |name: &str, body: Option<Any>| Resource { version: format!("v-{name}"), body, name: name.to_owned(), number: 300 };
        let wanted = any(CLUSTER, cluster("a", EDS, None));
        let response = Response {
            system: "s".to_owned(),
            resources: vec![
                resource("a", Some(wanted.clone())),
                resource("big", Some(any(ROUTE, vec![7; 3000].into()))),
                resource("empty", None),
                resource("small", Some(any("x", Bytes::new()))),
            ],
            type_url: CLUSTER.to_owned(),
            nonce: "7".to_owned(),
            removed: vec!["gone".to_owned()],
        };
        let item = |name: &'static str, body| Item::Resource { name: name.into(), version: format!("v-{name}").into(), body };
        let one = |wanted: &Any| {
            vec![
                item("a", Some(wanted.encode_to_vec().into())),
                item("big", None),
                item("empty", None),
                item("small", None),
                Item::Removed("gone".into()),
                Item::End { type_url: CLUSTER.into(), nonce: "7".into() },
            ]
        };
        let expected: Vec<Item> = one(&wanted).into_iter().chain(one(&wanted)).collect();
        let bytes = [frame(&response), frame(&response)].concat();
        for size in [1, 2, 3, 7, 100, 1000, bytes.len()] {
            let (mut reader, mut counter, mut found, mut complete) = (Reader::default(), Counter::default(), Vec::new(), 0);
            for piece in bytes.chunks(size) {
                reader.feed(piece);
                while let Some(item) = reader.next().unwrap() {
                    found.push(item);
                }
                assert!(reader.buffer.len() < 200, "a body that nobody wants is not kept");
                complete += counter.feed(piece);
            }
            assert_eq!(found, expected, "pieces of {size}");
            assert_eq!(complete, 2, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_response() {
        for bytes in [&[1, 0, 0, 0, 0][..], &[0, 0, 0, 0, 2, 0x12, 9], &[0, 0, 0, 0, 9, 0x09, 0, 0, 0, 0, 0, 0, 0, 0], &[0xff; 30]] {
            let mut reader = Reader::default();
            reader.feed(bytes);
            assert!(std::iter::from_fn(|| reader.next().transpose()).any(|item| item.is_err()), "{bytes:?}");
        }
    }

    #[test]
    fn names_that_are_asked_for() {
        let manager = |rds: Option<&str>| {
            let rds = rds.map(|name| Named { name: name.to_owned() });
            any(MANAGER, ConnectionManager { rds }.encode_to_vec().into())
        };
        let chain = |configs: Vec<Any>| FilterChain { filters: configs.into_iter().map(|c| Filter { config: Some(c) }).collect() };
        let listener = Listener {
            chains: vec![
                chain(vec![any("other", Bytes::new()), manager(Some("80"))]),
                chain(vec![manager(None)]),
                chain(vec![manager(Some("80"))]),
            ],
            default_chain: Some(chain(vec![manager(Some("9080"))])),
        };
        let share = |name: &str| Share { name: name.to_owned() };
        let weighted = Some(Weighted { clusters: vec![share("c"), share("b")] });
        let action = |cluster: &str, weighted| Route { action: Some(RouteAction { cluster: cluster.to_owned(), weighted }) };
        let host = VirtualHost { routes: vec![action("", weighted), action("a", None), action("b", None), Route { action: None }] };
        for (body, expected) in [
            (any(CLUSTER, cluster("a", EDS, None)), &["a"][..]),
            (any(CLUSTER, cluster("a", EDS, Some("b"))), &["b"]),
            (any(CLUSTER, cluster("a", 4, None)), &[]),
            (any(LISTENER, listener.encode_to_vec().into()), &["80", "9080"]),
            (any(VIRTUAL_HOST, host.encode_to_vec().into()), &["a", "b", "c"]),
            (any(INDEX, Indexed { http: vec![80, 8080] }.encode_to_vec().into()), &["80", "8080"]),
        ] {
            assert_eq!(needs(body.encode_to_vec().into()).unwrap(), expected);
        }
    }
}
