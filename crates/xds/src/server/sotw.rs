//! The state-of-the-world variant as another way to speak with a session: each request becomes one of names that came and went, and what a session
//! has to say becomes a list. What the client has and took is the session's in both variants.
//!
//! A list of names takes the place of the one before it. None at all in the first request of a root type asks for everything, until a request has
//! named something. Answers of root types hold all that there is, since what is not in them is gone; others hold what is new or was asked for. Where
//! a name that was asked for does not exist, an endpoint or route resource of that name with nothing in it says so: its client would wait.
//!
//! An answer to a response that is not the latest one is a verdict on that response only. Its names count nevertheless: requests keep their order, so
//! no other list of names is newer, and one that is let go and asked for again meanwhile would otherwise never be sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher,
};

use mizzen_protos::{
    Any,
    envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse},
};
use mizzen_types::Name;
use prost::Message;

use super::{Heard, ProtocolError, Resource, ResourceSource, Response, Session, watch::Form};
use crate::{Version, sotw::Head, types};

/// What is known of the client of such a stream beside its session.
#[derive(Debug, Default)]
pub(super) struct Sotw(BTreeMap<Name, Spoken>);

/// Of one type.
#[derive(Debug, Default)]
struct Spoken {
    /// A request has named something: since then, one that names nothing asks for nothing.
    named: bool,
    /// The latest response.
    nonce: String,
    /// It was answered; what comes with its nonce then is about names only.
    answered: bool,
    /// Of a root type, what the latest response held.
    list: BTreeMap<Name, Resource>,
}

/// How responses of a type are.
fn form(type_url: &str) -> Form {
    match type_url {
        types::ENDPOINT | types::ROUTE => Form::Part,
        _ if types::empty_means_all(type_url) => Form::Whole,
        _ => Form::Found,
    }
}

impl Session {
    /// Takes one request of a client that speaks the state-of-the-world variant; all requests of a stream are of one variant.
    ///
    /// # Errors
    /// If no client may send this; the stream must then be closed.
    pub fn request_sotw(&mut self, request: DiscoveryRequest) -> Result<Heard, ProtocolError> {
        let type_url: Name = request.type_url.as_str().into();
        let key = (types::rank(&type_url), type_url.clone());
        let spoken = self.sotw.get_or_insert_default().0.get(&type_url);
        let form = form(&type_url);
        let all = form == Form::Whole && request.resource_names.is_empty() && spoken.is_none_or(|spoken| !spoken.named);
        let asked: BTreeSet<&str> =
            if all { [types::WILDCARD].into() } else { request.resource_names.iter().map(String::as_str).collect() };
        let before = self.watches.get(&key).map(super::Watch::subscriptions).unwrap_or_default();
        // Without a nonce nothing is answered: all is asked for, perhaps again.
        let news = asked.iter().filter(|name| request.response_nonce.is_empty() || !before.contains(**name));
        let gone: Vec<&Name> = before.iter().filter(|name| !asked.contains(&***name)).collect();
        let answered = |spoken: &Spoken| spoken.answered && spoken.nonce == request.response_nonce && request.error_detail.is_none();
        // The nonce of an earlier stream answers nothing.
        let answers = spoken.is_some_and(|spoken| !answered(spoken));
        let heard = self.request(DeltaDiscoveryRequest {
            type_url: request.type_url.clone(),
            resource_names_subscribe: news.map(ToString::to_string).collect(),
            resource_names_unsubscribe: gone.iter().map(ToString::to_string).collect(),
            response_nonce: if answers { request.response_nonce.clone() } else { String::new() },
            error_detail: request.error_detail,
            ..Default::default()
        })?;
        let watch = self.watches.entry(key).or_default();
        watch.speak(form);
        let spoken = self.sotw.get_or_insert_default().0.entry(type_url).or_default();
        spoken.named |= !request.resource_names.is_empty();
        spoken.answered |= spoken.nonce == request.response_nonce;
        if !gone.is_empty() {
            spoken.list.retain(|name, _| watch.holds(name));
            if form == Form::Whole {
                watch.offer_again();
            }
        }
        Ok(heard)
    }

    /// As [`Session::poll`], for a client that speaks the state-of-the-world variant.
    pub fn poll_sotw(&mut self, state: &mut dyn ResourceSource) -> Vec<DiscoveryResponse> {
        self.pass(state).into_iter().map(Into::into).collect()
    }
}

impl Sotw {
    /// A response as such a client understands it.
    pub(super) fn response(&mut self, response: Response) -> Response {
        // Sheets are for clients that hear what is new.
        let mut resources: Vec<(Name, Resource)> = response.all().cloned().collect();
        let Response { type_url, nonce, removed, .. } = response;
        let spoken = self.0.entry(type_url.clone()).or_default();
        spoken.nonce.clone_from(&nonce);
        spoken.answered = false;
        if form(&type_url) == Form::Whole {
            removed.iter().for_each(|name| drop(spoken.list.remove(name)));
            spoken.list.extend(resources);
            resources = spoken.list.iter().map(|(name, resource)| (name.clone(), resource.clone())).collect();
        } else {
            // The first field of endpoints and routes is their name.
            let nothing = |name: &Name| Any { type_url: type_url.to_string(), value: Head { name: name.to_string() }.encode_to_vec() };
            resources.extend(removed.iter().map(|name| (name.clone(), Resource::new(nothing(name)))));
        }
        Response { type_url, nonce, sheet: None, resources, removed: Vec::new() }
    }
}

impl Response {
    /// The version of all that it holds, as a state-of-the-world response has one.
    pub fn version(&self) -> Version {
        let mut hasher = twox_hash::XxHash64::with_seed(0);
        for (name, resource) in self.all() {
            hasher.write(name.as_bytes());
            hasher.write_u64(resource.version.0);
        }
        Version(hasher.finish())
    }
}

impl From<Response> for DiscoveryResponse {
    fn from(response: Response) -> Self {
        DiscoveryResponse {
            version_info: response.version().to_string(),
            resources: response.all().map(|(_, resource)| resource.whole()).collect(),
            type_url: response.type_url.to_string(),
            nonce: response.nonce,
            ..Default::default()
        }
    }
}
