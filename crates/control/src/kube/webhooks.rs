//! The webhooks that the API server calls before it takes an object, and the configurations that tell it to.
//!
//! `/validate` judges Istio's objects by the reader of files: a value that is wrong is refused, and what is known and not built yet is taken with a
//! warning, so that a cluster's files can be applied. The API server believes the port by our own root, which is kept in its configurations.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
    },
};
use mizzen_api::{Kind, Problem};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    Injector, istio,
    watch::{Told, one, words},
};
use crate::{ca::Authority, listener::Accepted, names};

/// The API server's own limit of an object is 3 MiB, and a review may hold two.
const MAX_BODY: usize = 8 << 20;
/// So many bytes of bodies are held at the same time: whoever reaches the port may send some, and the API server sends few at a time.
const MAX_BODIES: usize = 8 * MAX_BODY;
/// What a body counts for at least, in bytes.
const LEAST: usize = 16 << 10;
/// A body comes within this time, or not at all: the API server itself waits no longer for the answer.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Of one answer; the API server cuts longer lists.
const MAX_WARNINGS: usize = 20;
/// After how long a write that has failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Accepted TLS connections as axum takes them.
pub(crate) struct WebhookServer {
    pub(crate) accepted: mpsc::Receiver<std::io::Result<Accepted>>,
    pub(crate) address: SocketAddr,
}

impl axum::serve::Listener for WebhookServer {
    type Io = Accepted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Accepted, SocketAddr) {
        loop {
            match self.accepted.recv().await {
                Some(Ok(accepted)) => {
                    let from = accepted.address();
                    return (accepted, from);
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// What answers the port.
pub(crate) fn router(injector: Injector) -> Router {
    // Istio's path may say of which cluster and network the pod is: there is one.
    let routes = Router::new().route("/validate", post(validate)).route("/inject", post(inject)).route("/inject/{*of}", post(inject));
    routes.with_state(Webhooks { injector, room: Room::default() })
}

/// What every request needs.
#[derive(Clone)]
struct Webhooks {
    injector: Injector,
    room: Room,
}

/// Room for bodies.
#[derive(Clone)]
struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Room {
        Room(Arc::new(Semaphore::new(MAX_BODIES / LEAST)))
    }
}

impl Room {
    /// Reads a body once there is room for as much as it says to have; the room is given back with the permit.
    async fn read(&self, request: Request) -> Result<(Bytes, OwnedSemaphorePermit), Box<Response>> {
        let told = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length: usize = told.unwrap_or(MAX_BODY);
        let large = || Box::new((StatusCode::PAYLOAD_TOO_LARGE, format!("a review has at most {MAX_BODY} bytes\n")).into_response());
        if length > MAX_BODY {
            return Err(large());
        }
        let late = || Box::new((StatusCode::REQUEST_TIMEOUT, "the review did not come in time\n").into_response());
        let shares = u32::try_from(length.div_ceil(LEAST).max(1)).unwrap_or(u32::MAX);
        let read = async {
            let room = self.0.clone().acquire_many_owned(shares).await.map_err(|_| late())?;
            let body = to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| large())?;
            Ok((body, room))
        };
        tokio::time::timeout(BODY_WITHIN, read).await.unwrap_or_else(|_| Err(late()))
    }
}

async fn inject(State(webhooks): State<Webhooks>, request: Request) -> Response {
    match webhooks.room.read(request).await {
        Ok((body, _room)) => answer(&body, |request| webhooks.injector.judge(&request)),
        Err(response) => *response,
    }
}

type Review = AdmissionReview<DynamicObject>;

async fn validate(State(webhooks): State<Webhooks>, request: Request) -> Response {
    match webhooks.room.read(request).await {
        Ok((body, _room)) => answer(&body, |request| judge(&request)),
        Err(response) => *response,
    }
}

/// Reads a review, and wraps the answer to its request.
pub(crate) fn answer(body: &[u8], judge: impl FnOnce(AdmissionRequest<DynamicObject>) -> AdmissionResponse) -> Response {
    let bad = |reason: String| (StatusCode::BAD_REQUEST, format!("no AdmissionReview: {reason}\n")).into_response();
    let review: Review = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => return bad(error.to_string()),
    };
    let request: Result<AdmissionRequest<DynamicObject>, _> = review.try_into();
    match request {
        Ok(request) => Json(judge(request).into_review()).into_response(),
        Err(_) => bad("it has no request".to_owned()),
    }
}

/// Whether an object may be written.
fn judge(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    let (Some(object), false) = (&request.object, request.operation == Operation::Delete) else { return response };
    let Some(kind) = Kind::of_group(&request.kind.group, &request.kind.kind) else {
        // Only what the configuration names is asked about: a kind that Istio has and we do not know yet.
        response.warnings = Some(vec![format!("{} is not supported yet: the mesh does not act on it", request.kind.kind)]);
        return response;
    };
    let reading = istio::read(kind, &mut object.clone());
    let (unbuilt, wrong): (Vec<Problem>, Vec<Problem>) = match reading.object {
        Ok(_) => Default::default(),
        Err(refusal) => refusal.problems.into_iter().partition(Problem::is_unsupported),
    };
    if !wrong.is_empty() {
        return response.deny(wrong.iter().map(said).collect::<Vec<_>>().join("; "));
    }
    let unbuilt = unbuilt.iter().map(|problem| format!("{}: the object is stored, and not in force", said(problem)));
    let mut warnings: Vec<String> = unbuilt.chain(reading.warnings.iter().map(said)).collect();
    if warnings.len() > MAX_WARNINGS {
        let more = warnings.len() - MAX_WARNINGS + 1;
        warnings.truncate(MAX_WARNINGS - 1);
        warnings.push(format!("and {more} more"));
    }
    if !warnings.is_empty() {
        response.warnings = Some(warnings);
    }
    response
}

/// Without the object, which the API server names itself.
fn said(problem: &Problem) -> String {
    let problem = Problem { object: None, ..problem.clone() };
    problem.to_string()
}

/// The parts of a webhook configuration that are kept.
trait Configured {
    /// For each webhook the caller's side and the failure policy.
    fn webhooks(&self) -> Vec<(&WebhookClientConfig, Option<&str>)>;
    /// Whether the API server must refuse what it could not ask about, now that it can.
    const MUST_FAIL: bool;
}

impl Configured for MutatingWebhookConfiguration {
    const MUST_FAIL: bool = false;

    fn webhooks(&self) -> Vec<(&WebhookClientConfig, Option<&str>)> {
        self.webhooks.iter().flatten().map(|hook| (&hook.client_config, hook.failure_policy.as_deref())).collect()
    }
}

impl Configured for ValidatingWebhookConfiguration {
    const MUST_FAIL: bool = true;

    fn webhooks(&self) -> Vec<(&WebhookClientConfig, Option<&str>)> {
        self.webhooks.iter().flatten().map(|hook| (&hook.client_config, hook.failure_policy.as_deref())).collect()
    }
}

/// What must be changed of a configuration, as a JSON patch; empty if it is as it must be.
fn changes<C: Configured>(config: &C, root: &str) -> Vec<Value> {
    let right = ByteString(root.as_bytes().to_vec());
    let mut changes = Vec::new();
    for (at, (client, policy)) in config.webhooks().into_iter().enumerate() {
        if client.ca_bundle.as_ref() != Some(&right) {
            changes.push(json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": right}));
        }
        if C::MUST_FAIL && policy != Some("Fail") {
            changes.push(json!({"op": "add", "path": format!("/webhooks/{at}/failurePolicy"), "value": "Fail"}));
        }
    }
    changes
}

/// Keeps our root in the configurations that are installed, for as long as it is polled.
pub(crate) async fn keep(client: Client, namespace: String, root: Authority) {
    let validator = format!("{}-{namespace}", names::VALIDATOR);
    tokio::join!(
        keep_one::<MutatingWebhookConfiguration>(client.clone(), names::INJECTOR.to_owned(), root.clone()),
        keep_one::<ValidatingWebhookConfiguration>(client, validator, root),
    );
}

async fn keep_one<C>(client: Client, name: String, mut root: Authority)
where
    C: Configured + Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<C> = Api::all(client);
    let told = Told::new(format!("{} {name}", C::kind(&())));
    let found = one(api.clone(), &name, told);
    pin_mut!(found);
    let mut last: Option<C> = None;
    loop {
        tokio::select! {
            config = found.next() => match config {
                Some(config) => last = config,
                None => return,
            },
            // There is another CA: what is installed is looked at once more.
            Ok(()) = root.changed() => {}
        }
        let Some(config) = &last else { continue };
        let pem = root.borrow_and_update().roots().to_pem();
        let changes = changes(config, &pem);
        if changes.is_empty() {
            continue;
        }
        // If it is another by now, the patch is refused, and that other one comes by the watch.
        let version = config.meta().resource_version.clone().unwrap_or_default();
        let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
        let patch = serde_json::from_value(Value::Array(std::iter::once(test).chain(changes).collect()));
        let Ok(patch) = patch else { continue };
        match api.patch(&name, &PatchParams::default(), &Patch::<()>::Json(patch)).await {
            Ok(_) => tracing::info!(configuration = name, "webhooks are on, with the root of this control plane"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {}
            Err(error) => {
                tracing::warn!(configuration = name, reason = words(&error), "the root cannot be written");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(kind: (&str, &str), operation: &str, object: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u1", "operation": operation, "name": "a", "namespace": "shop", "object": object, "oldObject": null, "dryRun": false,
            "kind": {"group": kind.0, "version": "v1", "kind": kind.1}, "resource": {"group": kind.0, "version": "v1", "resource": "x"},
            "userInfo": {"username": "alice"}, "options": null,
        }})
    }

    fn ask(review: &Value) -> Value {
        let mut found = Value::Null;
        let response = answer(review.to_string().as_bytes(), |request| {
            let response = judge(&request);
            found = serde_json::to_value(response.clone().into_review()).unwrap();
            response
        });
        assert_eq!(response.status(), StatusCode::OK);
        found["response"].take()
    }

    #[track_caller]
    fn check(kind: &str, spec: Value, allowed: bool, said: &str) {
        let group = if kind == "AuthorizationPolicy" { "security.istio.io" } else { "networking.istio.io" };
        let object =
            json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "a", "namespace": "shop"}, "spec": spec});
        let response = ask(&review((group, kind), "CREATE", object));
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u1"), &json!(allowed)), "{response}");
        let text = if allowed { response["warnings"].to_string() } else { response["status"]["message"].to_string() };
        assert!(text.contains(said), "{text}");
    }

    #[test]
    fn objects() {
        check("VirtualService", json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]}), true, "null");
        check("VirtualService", json!({"hosts": ["a"], "http": [{"timeout": "soon"}]}), false, "spec.http[0].timeout");
        check("VirtualService", json!({"hosts": ["a"], "htpp": []}), false, "spec.htpp: unknown field, did you mean `http`?");
        check("AuthorizationPolicy", json!({"targetRefs": [{"kind": "Service", "name": "a"}]}), true, "is stored, and not in force");
        check("EnvoyFilter", json!({}), true, "EnvoyFilter is not supported yet");
        let gone = ask(&review(("networking.istio.io", "VirtualService"), "DELETE", Value::Null));
        assert_eq!(gone["allowed"], true);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_wait_for_room() {
        let room = Room::default();
        let request = |length: Option<usize>, body: axum::body::Body| {
            let mut request = Request::new(body);
            length.map(|length| request.headers_mut().insert(CONTENT_LENGTH, length.into()));
            request
        };
        let full = || axum::body::Body::from(vec![b'x'; MAX_BODY]);
        let mut held = Vec::new();
        for _ in 0..MAX_BODIES / MAX_BODY {
            held.push(room.read(request(None, full())).await.unwrap());
        }
        // There is none for the smallest, and who waits too long hears of it.
        assert_eq!(room.read(request(Some(1), "x".into())).await.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.read(request(Some(1), "x".into())).await.map(|(body, _)| body) }
        });
        held.pop();
        assert_eq!(&*waiting.await.unwrap().unwrap(), b"x");
        // A body that does not come gives its room back, and one that is longer than it says is cut off.
        let never = axum::body::Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(room.read(request(None, never)).await.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
        let long = axum::body::Body::from(vec![b'x'; MAX_BODY + 1]);
        assert_eq!(room.read(request(Some(MAX_BODY + 1), long)).await.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let long = axum::body::Body::from(vec![b'x'; MAX_BODY + 1]);
        assert_eq!(room.read(request(None, long)).await.unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(room.0.available_permits(), MAX_BODY / LEAST);
    }

    #[test]
    fn what_is_no_review() {
        for body in ["", "{}", "[]", r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}"#, &"[".repeat(100_000)] {
            let response = answer(body.as_bytes(), |_| unreachable!());
            assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn large_and_deep_objects() {
        let metadata = json!({"name": "a", "namespace": "shop"});
        let wide: Vec<Value> = (0..20_000).map(|n| json!({"match": [{"uri": {"prefix": format!("/{n}")}}], "wrong": n})).collect();
        let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": {"hosts": ["a"], "http": wide}});
        assert_eq!(ask(&review(("networking.istio.io", "VirtualService"), "CREATE", object))["allowed"], false);
        let mut deep = json!(1);
        for _ in 0..60 {
            deep = json!({"a": deep});
        }
        let object = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": metadata, "spec": deep});
        assert_eq!(ask(&review(("networking.istio.io", "VirtualService"), "CREATE", object))["allowed"], false);
    }

    #[test]
    fn the_root_is_kept() {
        let config = |bundle: Value, policy: &str| -> ValidatingWebhookConfiguration {
            serde_json::from_value(json!({"webhooks": [
                {"name": "a", "clientConfig": {"caBundle": bundle}, "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"]},
            ]}))
            .unwrap()
        };
        let paths = |changes: Vec<Value>| changes.iter().map(|change| change["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let root = "root";
        assert_eq!(
            paths(changes(&config(Value::Null, "Ignore"), root)),
            ["/webhooks/0/clientConfig/caBundle", "/webhooks/0/failurePolicy"]
        );
        assert_eq!(paths(changes(&config(json!("b3RoZXI="), "Fail"), root)), ["/webhooks/0/clientConfig/caBundle"]);
        assert!(changes(&config(json!("cm9vdA=="), "Fail"), root).is_empty());
    }
}
