//! The client's end of state-of-the-world streams (`api_type: GRPC`), one after the other.
//!
//! A response of a root type (clusters, listeners) holds all of it: what is missing there is gone. One of another type holds some of what
//! was asked for by name; of what it leaves out nothing is known. The server's end is [`crate::server`].

use std::collections::BTreeSet;

use mizzen_protos::{
    Any,
    envoy::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{self as discovery, DiscoveryRequest, DiscoveryResponse},
        },
        google::rpc::Status,
    },
};
use mizzen_types::Name;
use prost::Message;

use crate::{
    nack::rejection,
    stream::{Event, Streams, Subscription, Unasked, key},
    types,
};

/// In which a resource may come with its name outside.
const WRAPPED: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// A response that is to be settled; with its version.
pub type Receipt = crate::stream::Receipt<String>;

/// What is subscribed to at a server, and what was accepted of it.
#[derive(Debug)]
pub struct Client(Streams<Subscribed>);

#[derive(Debug, Default)]
struct Subscribed {
    wildcard: bool,
    names: BTreeSet<Name>,
    /// What the server has sent of a root type, accepted or not.
    present: BTreeSet<Name>,
    /// The version of the last response that was accepted whole.
    version: String,
    /// What was requested on this stream of the two first fields.
    started: bool,
    requested_wildcard: bool,
    requested: BTreeSet<Name>,
    /// A request has named something: since then, one without names asks for nothing.
    named: bool,
    /// Requested names that were let go and may be wanted again: the server must hear of both.
    lapsed: BTreeSet<Name>,
    /// The last response of this stream.
    nonce: String,
    /// The verdict on it, which is not sent yet.
    verdict: Option<Result<(), Status>>,
}

impl Client {
    /// Without a stream; `node` introduces it on each.
    pub fn new(node: Node) -> Self {
        Client(Streams::new(node))
    }

    /// A new stream is open. All subscriptions are requested anew, with the version that was accepted last.
    pub fn connected(&mut self) {
        self.0.connected();
    }

    /// The stream is gone. What was accepted stays so.
    pub fn disconnected(&mut self) {
        self.0.disconnected();
    }

    /// Subscribes to every resource of a type.
    pub fn watch_all(&mut self, type_url: &str) {
        self.0.of(type_url).wildcard = true;
    }

    /// Subscribes to these resources of a type, now or when they come to be.
    pub fn subscribe(&mut self, type_url: &str, names: impl IntoIterator<Item = Name>) {
        self.0.of(type_url).names.extend(names);
    }

    /// Ends the subscription to these resources, but for those that [`Client::watch_all`] covers.
    pub fn unsubscribe(&mut self, type_url: &str, names: impl IntoIterator<Item = Name>) {
        let subscribed = self.0.of(type_url);
        for name in names {
            if subscribed.names.remove(&name) && subscribed.requested.contains(&name) {
                subscribed.lapsed.insert(name);
            }
        }
    }

    /// The next request that must be sent, if the stream is open.
    pub fn next_request(&mut self) -> Option<DiscoveryRequest> {
        if !self.0.connected {
            return None;
        }
        let mut request = self.0.subscriptions.iter_mut().find_map(|(key, subscribed)| subscribed.request(&key.1))?;
        request.node = self.0.introduce();
        Some(request)
    }

    /// Takes a response apart. What is not subscribed to any more is left out.
    ///
    /// # Errors
    /// If nothing of that type was asked for; the stream should then be closed.
    pub fn receive(&mut self, response: DiscoveryResponse) -> Result<(Receipt, Vec<Event>), Unasked> {
        let key = key(&response.type_url);
        let stream = self.0.number;
        let Some(subscribed) = self.0.subscriptions.get_mut(&key).filter(|s| s.started) else { return Err(Unasked(response.type_url)) };
        subscribed.nonce.clone_from(&response.nonce);
        let (nonce, version) = (response.nonce, response.version_info);
        let mut receipt = Receipt { key, stream, nonce, version, rejected: Vec::new() };
        let (mut events, mut seen) = (Vec::new(), BTreeSet::new());
        for resource in response.resources {
            let (name, body) = match named(resource, &response.type_url) {
                Ok(named) => named,
                Err((name, reason)) => {
                    seen.insert(name.clone());
                    receipt.rejected.push((name, reason));
                    continue;
                }
            };
            if !subscribed.covers(&name) {
                continue;
            }
            if !seen.insert(name.clone()) {
                receipt.rejected.push((name, "is there twice".to_owned()));
                continue;
            }
            events.push(Event::Added { name, version: receipt.version.clone(), body });
        }
        if types::empty_means_all(&receipt.key.1) {
            let gone = subscribed.present.difference(&seen).filter(|name| subscribed.covers(name));
            events.extend(gone.map(|name| Event::Removed { name: name.clone() }));
            subscribed.present = seen;
        }
        Ok((receipt, events))
    }

    /// Judges a response: all of it was accepted, but for `rejected`, each with its reason. If there is any, the server hears the version that was
    /// accepted whole before.
    pub fn settle(&mut self, receipt: Receipt, rejected: impl IntoIterator<Item = (Name, String)>) {
        let current = self.0.is_current(&receipt);
        let mut bad = receipt.rejected;
        bad.extend(rejected);
        let Some(subscribed) = self.0.subscriptions.get_mut(&receipt.key) else { return };
        if bad.is_empty() {
            subscribed.version = receipt.version;
        }
        // A verdict on a response after which another has come would be one on that.
        if current && subscribed.nonce == receipt.nonce {
            subscribed.verdict = Some(if bad.is_empty() { Ok(()) } else { Err(rejection(&bad)) });
        }
    }
}

impl Subscription for Subscribed {
    fn reset(&mut self) {
        self.started = false;
        self.requested_wildcard = false;
        self.requested.clear();
        self.named = false;
        self.lapsed.clear();
        self.nonce.clear();
        self.verdict = None;
    }
}

impl Subscribed {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The request that tells the server what it does not know yet: the verdict, and all names whenever one of them changes.
    fn request(&mut self, type_url: &Name) -> Option<DiscoveryRequest> {
        let nothing = !self.wildcard && self.names.is_empty();
        let lapsed = std::mem::take(&mut self.lapsed);
        let names: BTreeSet<Name> = self.names.difference(&lapsed).cloned().collect();
        let same = self.requested_wildcard == self.wildcard && self.requested == names;
        if if self.started { same && self.verdict.is_none() } else { nothing } {
            return None;
        }
        // Without names, of a root type: the form that every server understands.
        let all = self.wildcard && (self.named || !names.is_empty() || !types::empty_means_all(type_url));
        let texts = all.then(|| types::WILDCARD.to_owned()).into_iter().chain(names.iter().map(ToString::to_string));
        let request = DiscoveryRequest {
            version_info: self.version.clone(),
            type_url: type_url.to_string(),
            resource_names: texts.collect(),
            response_nonce: self.nonce.clone(),
            error_detail: self.verdict.take().and_then(Result::err),
            ..Default::default()
        };
        self.started = true;
        self.named |= !request.resource_names.is_empty();
        self.requested_wildcard = self.wildcard;
        self.requested = names;
        Some(request)
    }
}

/// The beginning of every resource that has a name.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Head {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// A resource with its name: that of its wrapper, or else of its content. Or what is wrong with it.
fn named(resource: Any, type_url: &str) -> Result<(Name, Any), (Name, String)> {
    let (outside, body) = if resource.type_url == WRAPPED {
        let unreadable = |e: prost::DecodeError| (Name::default(), format!("cannot be read: {e}"));
        let wrapper = discovery::Resource::decode(resource.value.as_slice()).map_err(unreadable)?;
        let name: Name = wrapper.name.into();
        (Some(name.clone()), wrapper.resource.ok_or_else(|| (name, "has no content".to_owned()))?)
    } else {
        (None, resource)
    };
    if body.type_url != type_url {
        return Err((outside.unwrap_or_default(), "is of another type than its response".to_owned()));
    }
    // The name table has no name, and what is its first field is none.
    let inside = if type_url == types::NAME_TABLE { Ok(Head::default()) } else { Head::decode(body.value.as_slice()) };
    match (outside, inside) {
        (Some(name), _) => Ok((name, body)),
        (None, Ok(head)) => Ok((head.name.into(), body)),
        (None, Err(error)) => Err((Name::default(), format!("cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::envoy::envoy::config::cluster::v3::Cluster;

    use super::*;
    use crate::types::{CLUSTER, SECRET};

    fn client() -> Client {
        let mut client = Client::new(Node { id: "n".to_owned(), ..Default::default() });
        client.connected();
        client
    }

    fn resource(type_url: &str, name: &str) -> Any {
        // Every type's name is its first field.
        Any { type_url: type_url.to_owned(), value: Cluster { name: name.to_owned(), ..Default::default() }.encode_to_vec() }
    }

    fn response(type_url: &str, version: &str, names: &[&str]) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: version.to_owned(),
            resources: names.iter().map(|n| resource(type_url, n)).collect(),
            type_url: type_url.to_owned(),
            nonce: format!("nonce of {version}"),
            ..Default::default()
        }
    }

    /// The events as `+name` and `-name`; each of `bad` is rejected.
    fn take(client: &mut Client, response: DiscoveryResponse, bad: &[&str]) -> Vec<String> {
        let (receipt, events) = client.receive(response).unwrap();
        client.settle(receipt, bad.iter().map(|n| (Name::from(*n), "bad".to_owned())));
        let show = |e: &Event| match e {
            Event::Added { name, .. } => format!("+{name}"),
            Event::Removed { name } => format!("-{name}"),
        };
        events.iter().map(show).collect()
    }

    /// All requests that are due: version, nonce, names, whether it rejects.
    fn due(client: &mut Client) -> Vec<(String, String, Vec<String>, bool)> {
        std::iter::from_fn(|| client.next_request())
            .map(|r| (r.version_info, r.response_nonce, r.resource_names, r.error_detail.is_some()))
            .collect()
    }

    fn request(version: &str, nonce: &str, names: &[&str], rejects: bool) -> (String, String, Vec<String>, bool) {
        (version.to_owned(), nonce.to_owned(), names.iter().map(|n| (*n).to_owned()).collect(), rejects)
    }

    #[test]
    fn all_of_a_root_type() {
        let mut client = client();
        client.watch_all(CLUSTER);
        let first = client.next_request().unwrap();
        assert_eq!((first.node.unwrap().id.as_str(), first.resource_names.len()), ("n", 0));
        assert_eq!(take(&mut client, response(CLUSTER, "1", &["a", "b"]), &[]), ["+a", "+b"]);
        assert_eq!(due(&mut client), [request("1", "nonce of 1", &[], false)]);
        assert_eq!(take(&mut client, response(CLUSTER, "2", &["b", "c"]), &["c"]), ["+b", "+c", "-a"]);
        assert_eq!(due(&mut client), [request("1", "nonce of 2", &[], true)], "the version is that which was taken whole");
        assert_eq!(take(&mut client, response(CLUSTER, "3", &[]), &[]), ["-b", "-c"]);
        assert_eq!(due(&mut client), [request("3", "nonce of 3", &[], false)]);
        client.connected();
        assert_eq!(due(&mut client), [request("3", "", &[], false)], "a new stream begins without a nonce");
    }

    #[test]
    fn some_by_name() {
        let mut client = client();
        assert!(client.next_request().is_none());
        client.subscribe(SECRET, ["a".into(), "b".into()]);
        assert_eq!(due(&mut client), [request("", "", &["a", "b"], false)]);
        assert_eq!(take(&mut client, response(SECRET, "1", &["a", "other"]), &[]), ["+a"], "of the other nothing is known");
        client.subscribe(SECRET, ["c".into()]);
        assert_eq!(due(&mut client), [request("1", "nonce of 1", &["a", "b", "c"], false)], "one request says both");
        assert_eq!(take(&mut client, response(SECRET, "2", &["b"]), &[]), ["+b"]);
        client.unsubscribe(SECRET, ["a".into(), "b".into(), "c".into()]);
        assert_eq!(due(&mut client), [request("2", "nonce of 2", &[], false)]);
        assert!(due(&mut client).is_empty());
    }

    #[test]
    fn what_a_server_should_not_send() {
        let mut client = client();
        client.subscribe(SECRET, ["a".into()]);
        assert!(client.receive(response(SECRET, "0", &["a"])).is_err(), "nothing was asked yet");
        due(&mut client);
        assert!(client.receive(response(CLUSTER, "1", &["a"])).is_err());
        let foreign = DiscoveryResponse { resources: vec![resource(CLUSTER, "a")], ..response(SECRET, "2", &[]) };
        let twice = response(SECRET, "3", &["a", "a"]);
        let garbage = Any { type_url: SECRET.to_owned(), value: vec![0xff] };
        let unreadable = DiscoveryResponse { resources: vec![garbage], ..response(SECRET, "4", &[]) };
        for (response, events) in [(foreign, 0), (twice, 1), (unreadable, 0)] {
            let nonce = response.nonce.clone();
            assert_eq!(take(&mut client, response, &[]).len(), events);
            assert_eq!(due(&mut client), [request("", &nonce, &["a"], true)]);
        }
        let wrapper = discovery::Resource { name: "a".to_owned(), resource: Some(resource(SECRET, "")), ..Default::default() };
        let wrapped = Any { type_url: WRAPPED.to_owned(), value: wrapper.encode_to_vec() };
        let response = DiscoveryResponse { resources: vec![wrapped], ..response(SECRET, "5", &[]) };
        assert_eq!(take(&mut client, response, &[]), ["+a"]);
    }

    #[test]
    fn a_verdict_that_comes_late_says_nothing() {
        let mut client = client();
        client.watch_all(CLUSTER);
        due(&mut client);
        let (old, _) = client.receive(response(CLUSTER, "1", &["a"])).unwrap();
        let (new, _) = client.receive(response(CLUSTER, "2", &["a"])).unwrap();
        client.settle(old, [("a".into(), "bad".to_owned())]);
        assert!(due(&mut client).is_empty());
        client.settle(new, []);
        assert_eq!(due(&mut client), [request("2", "nonce of 2", &[], false)]);
        let (stale, _) = client.receive(response(CLUSTER, "3", &["a"])).unwrap();
        client.connected();
        client.settle(stale, []);
        assert_eq!(due(&mut client), [request("3", "", &[], false)]);
    }
}
