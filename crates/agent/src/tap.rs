//! What the agent says and hears for itself on the stream that it carries for the proxy.
//!
//! With names to answer it subscribes to the name table once the proxy has introduced itself, and keeps the answers. The index of hosts, if the proxy
//! has asked for it, is read as it passes: then names come from it, each once the proxy has answered what brought it, so that nobody learns of a host that
//! the proxy would take for one beyond the mesh. What the proxy asks for on demand is noted for its next start.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mizzen_protos::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use mizzen_protos::envoy::google;
use mizzen_protos::{Any, index, nds};
use mizzen_xds::types::{INDEX, NAME_TABLE};
use prost::Message;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::NameTable;
use crate::names::canonical;
use crate::remembered::Remembered;

/// gRPC's INVALID_ARGUMENT, the code of a rejection.
const INVALID_ARGUMENT: i32 = 3;

/// What all streams of the proxy have in common.
pub(crate) struct Tap {
    /// Without it names are not answered.
    names: Option<watch::Sender<NameTable>>,
    /// The version of the name table, while names come from one.
    table: Mutex<Option<String>>,
    remembered: Arc<Remembered>,
    streams: watch::Sender<Streams>,
    /// What has passed of the index on the newest stream, and the proxy has not answered yet.
    passed: Mutex<VecDeque<Passed>>,
}

/// By their numbers. The newest one alone is heard: an older one that has not noticed its end yet could tell old news.
#[derive(Clone, Copy, Debug, Default)]
struct Streams {
    newest: u64,
    ended: u64,
}

impl Tap {
    pub(crate) fn new(names: Option<watch::Sender<NameTable>>, remembered: Arc<Remembered>) -> Self {
        Tap { names, table: Mutex::new(None), remembered, streams: watch::channel(Streams::default()).0, passed: Mutex::default() }
    }

    /// A new stream.
    pub(crate) fn open(self: &Arc<Self>) -> StreamTap {
        self.give_out(usize::MAX);
        let number = self.remembered.opened();
        self.streams.send_modify(|streams| streams.newest = streams.newest.max(number));
        StreamTap { tap: self.clone(), number, state: Mutex::new(State::default()) }
    }
}

/// What the agent says and hears on one stream.
pub(crate) struct StreamTap {
    tap: Arc<Tap>,
    number: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The agent's own subscription was sent.
    asked: bool,
    /// Of the index the proxy has asked for: the entries that it and the agent still have of an earlier stream, until the first answer.
    indexed: Option<HashSet<String>>,
    /// The index has come on this stream: then a name table says nothing.
    by_index: bool,
}

/// What a response told of the index.
#[derive(Debug, Default)]
struct Passed {
    nonce: String,
    /// All others than these are forgotten first.
    kept: Option<HashSet<String>>,
    removed: Vec<String>,
    entries: Vec<(String, index::Host)>,
}

/// Where a response goes.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard<Q> {
    /// To the proxy.
    Pass,
    /// No further. This is the answer to it.
    Kept(Q),
}

impl StreamTap {
    /// Reads a request of the proxy's; returns whether it goes on.
    pub(crate) fn request<Q: Request>(&self, request: &mut Q) -> bool {
        if request.type_url() == NAME_TABLE && self.tap.names.is_some() {
            // The answers are the agent's: two subscriptions of one type would not be told apart.
            warn!("the proxy asks for the name table, which is the agent's");
            return false;
        }
        if let Some(delta) = request.as_delta() {
            self.tap.remembered.note(self.number, &delta.type_url, &delta.resource_names_subscribe, &delta.resource_names_unsubscribe);
            if delta.type_url == INDEX && !delta.response_nonce.is_empty() && self.is_newest() {
                self.tap.answered(&delta.response_nonce);
            }
            self.index_request(delta);
        }
        true
    }

    /// The agent's own question, once after the proxy's first.
    pub(crate) fn question<Q: Request>(&self) -> Option<Q> {
        if self.tap.names.is_none() || std::mem::replace(&mut self.state().asked, true) {
            return None;
        }
        Some(Q::ask(self.tap.table().as_deref()))
    }

    /// Reads a response.
    pub(crate) fn response<R: Response>(&self, response: &R) -> Heard<R::Request> {
        if response.type_url() == NAME_TABLE && self.state().asked {
            return Heard::Kept(self.name_table(response));
        }
        if let Some(delta) = response.as_delta().filter(|delta| delta.type_url == INDEX) {
            self.passed(delta);
        }
        Heard::Pass
    }

    /// Waits until a newer stream of the proxy's has ended: nobody is heard then, so the proxy shall come again.
    pub(crate) async fn is_forsaken(&self) {
        let mut streams = self.tap.streams.subscribe();
        if streams.wait_for(|streams| streams.ended > self.number).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Forgets what the proxy has not asked for again.
    pub(crate) fn forget(&self) {
        self.tap.remembered.forget_before(self.number);
    }

    fn is_newest(&self) -> bool {
        self.tap.streams.borrow().newest == self.number
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the proxy says to have of the index the server does not send again: of this the agent must have all.
    fn index_request(&self, request: &mut DeltaDiscoveryRequest) {
        let Some(names) = self.tap.names.as_ref().filter(|_| request.type_url == INDEX) else { return };
        let mut state = self.state();
        if state.indexed.is_some() || state.by_index {
            return;
        }
        let names = names.borrow();
        request.initial_resource_versions.retain(|host, _| names.has(host));
        state.indexed = Some(request.initial_resource_versions.keys().map(|host| canonical(host)).collect());
    }

    /// Reads what goes to the proxy. Names are given out when it has answered.
    fn passed(&self, response: &DeltaDiscoveryResponse) {
        if self.tap.names.is_none() || !self.is_newest() {
            return;
        }
        let mut entries = Vec::with_capacity(response.resources.len());
        for resource in &response.resources {
            match resource.resource.as_ref().map(|body| index::Host::decode(body.value.as_slice())) {
                Some(Ok(entry)) => entries.push((resource.name.clone(), entry)),
                // The proxy rejects it; the one before stays, there and here.
                Some(Err(error)) => warn!(host = resource.name, %error, "an entry of the index"),
                None => warn!(host = resource.name, "an entry of the index has no content"),
            }
        }
        debug!(changed = entries.len(), removed = response.removed_resources.len(), "index");
        let kept = {
            let mut state = self.state();
            state.by_index = true;
            state.indexed.take()
        };
        let removed = response.removed_resources.clone();
        self.tap.passed().push_back(Passed { nonce: response.nonce.clone(), kept, removed, entries });
    }

    /// Takes the name table; returns the answer to it.
    fn name_table<R: Response>(&self, response: &R) -> R::Request {
        let mut fault = None;
        match response.only() {
            // One without a table tells nothing: there was none before, or names are the index'.
            None => {}
            Some(Err(reason)) => fault = Some(reason),
            Some(Ok((version, body))) => match nds::NameTable::decode(body.value.as_slice()) {
                Err(error) => fault = Some(error.to_string()),
                Ok(table) => self.take(version, &table),
            },
        }
        if let Some(fault) = &fault {
            warn!(fault, "the name table is rejected");
        }
        response.answer(self.tap.table().as_deref().unwrap_or_default(), fault)
    }

    fn take(&self, version: &str, table: &nds::NameTable) {
        let Some(names) = self.tap.names.as_ref().filter(|_| self.is_newest() && !self.state().by_index) else { return };
        debug!(names = table.table.len(), "name table");
        *self.tap.table() = Some(version.to_owned());
        names.send_modify(|names| names.replace(table));
    }
}

impl Drop for StreamTap {
    fn drop(&mut self) {
        if self.is_newest() {
            self.tap.give_out(usize::MAX);
        }
        self.tap.streams.send_modify(|streams| streams.ended = streams.ended.max(self.number));
    }
}

impl Tap {
    /// The proxy has what this response told, and all that came before it.
    fn answered(&self, nonce: &str) {
        let last = self.passed().iter().position(|passed| passed.nonce == nonce);
        if let Some(last) = last {
            self.give_out(last + 1);
        }
    }

    /// Gives out the names of so much of what has passed: of what the proxy has answered, and at the end of its stream of all. Whether it has that is not known; if
    /// it has, it says so on its next stream and is not told again: then the agent must have it too.
    fn give_out(&self, count: usize) {
        let mut passed = self.passed();
        let count = count.min(passed.len());
        let all: Vec<Passed> = passed.drain(..count).collect();
        drop(passed);
        let Some(names) = self.names.as_ref().filter(|_| !all.is_empty()) else { return };
        *self.table() = None;
        names.send_modify(|names| {
            for passed in all {
                if let Some(kept) = &passed.kept {
                    names.keep(kept);
                }
                passed.removed.iter().for_each(|host| names.remove(host));
                passed.entries.iter().for_each(|(host, entry)| names.set(host, entry));
            }
        });
    }

    fn passed(&self) -> MutexGuard<'_, VecDeque<Passed>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Option<String>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request of either variant.
pub(crate) trait Request: Send + Sized + 'static {
    fn type_url(&self) -> &str;
    /// As one of the delta variant. The other has no names on demand, and could not name the entries of an index.
    fn as_delta(&mut self) -> Option<&mut DeltaDiscoveryRequest>;
    /// Asks for the name table, whose version is known or not.
    fn ask(version: Option<&str>) -> Self;
}

/// A response of either variant.
pub(crate) trait Response: Send + 'static {
    type Request: Request;
    fn type_url(&self) -> &str;
    fn as_delta(&self) -> Option<&DeltaDiscoveryResponse>;
    /// The version and content of the one resource, if there is any; or what is wrong with it.
    fn only(&self) -> Option<Result<(&str, &Any), String>>;
    /// Says that it was taken, or what is wrong with it; then `held` is the version that stays in use.
    fn answer(&self, held: &str, fault: Option<String>) -> Self::Request;
}

impl Request for DeltaDiscoveryRequest {
    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn as_delta(&mut self) -> Option<&mut DeltaDiscoveryRequest> {
        Some(self)
    }

    fn ask(version: Option<&str>) -> Self {
        DeltaDiscoveryRequest {
            type_url: NAME_TABLE.to_owned(),
            // The table's name is empty.
            initial_resource_versions: version.map(|version| (String::new(), version.to_owned())).into_iter().collect(),
            ..Default::default()
        }
    }
}

impl Request for DiscoveryRequest {
    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn as_delta(&mut self) -> Option<&mut DeltaDiscoveryRequest> {
        None
    }

    fn ask(version: Option<&str>) -> Self {
        DiscoveryRequest { type_url: NAME_TABLE.to_owned(), version_info: version.unwrap_or_default().to_owned(), ..Default::default() }
    }
}

fn rejection(message: String) -> google::rpc::Status {
    google::rpc::Status { code: INVALID_ARGUMENT, message, ..Default::default() }
}

impl Response for DeltaDiscoveryResponse {
    type Request = DeltaDiscoveryRequest;

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn as_delta(&self) -> Option<&DeltaDiscoveryResponse> {
        Some(self)
    }

    fn only(&self) -> Option<Result<(&str, &Any), String>> {
        // A removal empties nothing: names that vanish come as a new table.
        let resource = self.resources.first()?;
        Some(match &resource.resource {
            Some(body) => typed(body).map(|body| (resource.version.as_str(), body)),
            None => Err("the table has no content".to_owned()),
        })
    }

    fn answer(&self, _held: &str, fault: Option<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: NAME_TABLE.to_owned(),
            response_nonce: self.nonce.clone(),
            error_detail: fault.map(rejection),
            ..Default::default()
        }
    }
}

impl Response for DiscoveryResponse {
    type Request = DiscoveryRequest;

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn as_delta(&self) -> Option<&DeltaDiscoveryResponse> {
        None
    }

    fn only(&self) -> Option<Result<(&str, &Any), String>> {
        Some(typed(self.resources.first()?).map(|body| (self.version_info.as_str(), body)))
    }

    fn answer(&self, held: &str, fault: Option<String>) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: NAME_TABLE.to_owned(),
            version_info: if fault.is_none() { self.version_info.clone() } else { held.to_owned() },
            response_nonce: self.nonce.clone(),
            error_detail: fault.map(rejection),
            ..Default::default()
        }
    }
}

fn typed(body: &Any) -> Result<&Any, String> {
    if body.type_url == NAME_TABLE { Ok(body) } else { Err(format!("it is of type `{}`", body.type_url)) }
}

#[cfg(test)]
mod tests;
