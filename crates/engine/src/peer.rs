//! Istio's exchange of workload metadata by HTTP headers. What peers say of themselves labels metrics; policies never see it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mizzen_http::Head;
use mizzen_ir::config::{PeerMetadata, Workload};
use mizzen_protos::wkt::{Struct, Value, value::Kind};
use prost::Message;

use crate::Node;

/// The header with the metadata, and the one with the node's id.
const METADATA: &str = "x-envoy-peer-metadata";
const ID: &str = "x-envoy-peer-metadata-id";
/// Longer ones are not looked at.
const MOST: usize = 16 * 1024;

/// What a workload says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PeerInfo {
    pub(crate) namespace: String,
    pub(crate) workload: String,
    pub(crate) cluster: String,
    pub(crate) canonical: String,
    pub(crate) revision: String,
    pub(crate) app: String,
    pub(crate) version: String,
}

impl PeerInfo {
    fn from_struct(metadata: &Struct) -> Self {
        let text = |name: &str| metadata.fields.get(name).and_then(string).map(clip).unwrap_or_default().to_owned();
        let labels = match metadata.fields.get("LABELS").and_then(|v| v.kind.as_ref()) {
            Some(Kind::StructValue(labels)) => Some(labels),
            _ => None,
        };
        let label = |name: &str| labels.and_then(|l| l.fields.get(name)).and_then(string).map(clip).filter(|v| !v.is_empty());
        let workload = text("WORKLOAD_NAME");
        let app = label("app").unwrap_or_default().to_owned();
        let version = label("version").unwrap_or_default().to_owned();
        let canonical = label("service.istio.io/canonical-name").or_else(|| label("app.kubernetes.io/name")).or_else(|| label("app"));
        let revision =
            label("service.istio.io/canonical-revision").or_else(|| label("app.kubernetes.io/version")).or_else(|| label("version"));
        PeerInfo {
            namespace: text("NAMESPACE"),
            cluster: text("CLUSTER_ID"),
            canonical: canonical.unwrap_or(&workload).to_owned(),
            revision: revision.unwrap_or("latest").to_owned(),
            workload,
            app,
            version,
        }
    }

    /// What the control plane says of an endpoint.
    pub(crate) fn from_workload(workload: &Workload) -> Self {
        PeerInfo {
            namespace: workload.namespace.to_string(),
            workload: workload.name.to_string(),
            cluster: workload.cluster.to_string(),
            canonical: workload.canonical_name.to_string(),
            revision: workload.canonical_revision.to_string(),
            app: String::new(),
            version: String::new(),
        }
    }
}

fn string(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// What is known of the two workloads by metadata exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    pub(crate) down: Option<Arc<PeerInfo>>,
    pub(crate) up: Option<Arc<PeerInfo>>,
    /// The client sent its id, its metadata: it gets ours.
    pub(crate) down_sent: (bool, bool),
    /// The client's sending is answered.
    pub(crate) answer_down: bool,
    /// Ours is sent to the server; whether not to those outside the mesh.
    pub(crate) send_up: Option<bool>,
    /// The server's answer is read.
    pub(crate) read_up: bool,
}

/// The longest label that a peer may choose: no name in Kubernetes or DNS is longer.
const LONGEST: usize = 253;

/// What becomes a label of a text that a peer chose. The number of series is bounded; this bounds what each of them holds.
pub(crate) fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or_default()
}

/// This proxy's own workload, and what it knows of others.
#[derive(Debug)]
pub(crate) struct LocalNode {
    pub(crate) info: Arc<PeerInfo>,
    id: String,
    encoded: String,
    /// Decoded headers. Bounded: a hostile peer must not fill the memory.
    known: HashMap<Vec<u8>, Arc<PeerInfo>>,
}

impl LocalNode {
    pub(crate) fn new(node: &Node) -> Self {
        let info = PeerInfo::from_struct(&node.metadata);
        let text = |name: &str| node.metadata.fields.get(name).and_then(string).unwrap_or_default().to_owned();
        let mut all = BTreeMap::new();
        for name in ["NAME", "NAMESPACE", "OWNER", "CLUSTER_ID", "WORKLOAD_NAME"] {
            let value = text(name);
            if !value.is_empty() {
                all.insert(name, encode_string(&value));
            }
        }
        let mut labels = BTreeMap::new();
        for (name, value) in [
            ("app", &info.app),
            ("version", &info.version),
            ("service.istio.io/canonical-name", &info.canonical),
            ("service.istio.io/canonical-revision", &info.revision),
        ] {
            if !value.is_empty() {
                labels.insert(name, encode_string(value));
            }
        }
        all.insert("LABELS", field(5, &encode_struct(&labels)));
        let encoded = STANDARD.encode(encode_struct(&all));
        LocalNode { info: Arc::new(info), id: node.id.clone(), encoded, known: HashMap::new() }
    }

    /// The filter's part at the request: reads the client's headers, and remembers what is to be done later.
    pub(crate) fn exchange_request(&mut self, head: &mut Head, peers: &mut Peers, exchange: &PeerMetadata) {
        if exchange.downstream.from_headers {
            let metadata = head.get(METADATA).map(<[u8]>::to_vec);
            peers.down_sent = (head.contains(ID), metadata.is_some());
            head.remove(METADATA);
            head.remove(ID);
            peers.down = metadata.and_then(|m| self.decode(m));
        }
        peers.answer_down |= exchange.downstream.send_headers;
        peers.read_up |= exchange.upstream.from_headers;
        if exchange.upstream.send_headers {
            peers.send_up = Some(exchange.upstream.skip_external);
        }
    }

    /// Ours, for the server.
    pub(crate) fn send_up(&self, head: &mut Head, peers: &Peers, external: bool) {
        if peers.send_up.is_some_and(|skip| !(skip && external)) {
            head.set(METADATA, &self.encoded);
            head.set(ID, &self.id);
        }
    }

    /// Takes a server's part of the exchange off an interim answer: it belongs to the final one.
    pub(crate) fn hide_exchange(head: &mut Head) {
        head.remove(METADATA);
        head.remove(ID);
    }

    /// Reads the server's answer and takes it off the response.
    pub(crate) fn read_response(&mut self, head: &mut Head, peers: &mut Peers) {
        if !peers.read_up {
            return;
        }
        let metadata = head.get(METADATA).map(<[u8]>::to_vec);
        head.remove(METADATA);
        head.remove(ID);
        peers.up = metadata.and_then(|m| self.decode(m));
    }

    /// Ours, for a client that sent its own.
    pub(crate) fn exchange_response(&self, head: &mut Head, peers: &Peers) {
        if peers.answer_down && peers.down_sent.0 {
            head.set(ID, &self.id);
        }
        if peers.answer_down && peers.down_sent.1 {
            head.set(METADATA, &self.encoded);
        }
    }

    fn decode(&mut self, text: Vec<u8>) -> Option<Arc<PeerInfo>> {
        if text.len() > MOST {
            return None;
        }
        if let Some(known) = self.known.get(&text) {
            return Some(known.clone());
        }
        let bytes = STANDARD.decode(&text).ok()?;
        let info = Arc::new(PeerInfo::from_struct(&Struct::decode(&*bytes).ok()?));
        if self.known.len() >= 1024 {
            self.known.clear();
        }
        self.known.insert(text, info.clone());
        Some(info)
    }
}

/// A length-delimited field of protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

/// A `Value` that holds a text.
fn encode_string(text: &str) -> Vec<u8> {
    field(3, text.as_bytes())
}

/// A `Struct` whose fields come in the order of their names, as Istio wants it: the bytes are compared.
fn encode_struct(values: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
    values
        .iter()
        .flat_map(|(name, value)| {
            let mut entry = field(1, name.as_bytes());
            entry.extend(field(2, value));
            field(1, &entry)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let text = |t: &str| Value { kind: Some(Kind::StringValue(t.to_owned())) };
        let mut labels = Struct::default();
        labels.fields.insert("app".to_owned(), text("reviews"));
        labels.fields.insert("version".to_owned(), text("v1"));
        let mut metadata = Struct::default();
        metadata.fields.insert("NAMESPACE".to_owned(), text("shop"));
        metadata.fields.insert("WORKLOAD_NAME".to_owned(), text(&"reviews-v1".repeat(20)));
        metadata.fields.insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(labels)) });
        Node { id: "sidecar~10.0.0.1~a.shop~shop.svc.cluster.local".to_owned(), metadata, ..Node::default() }
    }

    #[test]
    fn round_trip() {
        let mut one = LocalNode::new(&node());
        let mut two = LocalNode::new(&node());
        let mut head = Head::request("GET", "http", "a", "/");
        let both = mizzen_ir::config::PeerExchange { from_headers: true, send_headers: true, ..Default::default() };
        let outbound = PeerMetadata { upstream: both, ..PeerMetadata::default() };
        let inbound = PeerMetadata { downstream: both, ..PeerMetadata::default() };
        let (mut out, mut inn) = (Peers::default(), Peers::default());
        one.exchange_request(&mut head, &mut out, &outbound);
        one.send_up(&mut head, &out, false);
        assert!(head.contains(METADATA));
        two.exchange_request(&mut head, &mut inn, &inbound);
        assert!(!head.contains(METADATA) && !head.contains(ID), "the application never sees them");
        assert_eq!(inn.down.as_deref(), Some(&*one.info));
        assert_eq!((one.info.canonical.as_str(), one.info.revision.as_str(), one.info.namespace.as_str()), ("reviews", "v1", "shop"));
        let mut response = Head::response(200);
        two.exchange_response(&mut response, &inn);
        one.read_response(&mut response, &mut out);
        assert_eq!(out.up.as_deref(), Some(&*two.info));
        assert!(response.is_empty());
    }

    #[test]
    fn long_names_are_cut() {
        let mut node = node();
        let text = Value { kind: Some(Kind::StringValue("é".repeat(1000))) };
        node.metadata.fields.insert("WORKLOAD_NAME".to_owned(), text.clone());
        node.metadata
            .fields
            .insert("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(Struct { fields: [("app".to_owned(), text)].into() })) });
        let info = PeerInfo::from_struct(&node.metadata);
        assert_eq!((info.workload.len(), info.app.len(), info.canonical.len()), (252, 252, 252));
    }

    #[test]
    fn nonsense_is_nothing() {
        let mut local = LocalNode::new(&node());
        for text in [&b"!!!"[..], b"AAAA", b"", &[b'A'; 70_000]] {
            assert!(local.decode(text.to_vec()).is_none_or(|info| info.namespace.is_empty()));
        }
    }
}
