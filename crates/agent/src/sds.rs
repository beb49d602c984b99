//! The proxy's certificate, key and roots, and those that lie in files, by Envoy's secret discovery, in both of its variants.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures_util::Stream;
use mizzen_protos::envoy::envoy::service::{
    discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
    secret::v3::secret_discovery_service_server::SecretDiscoveryService,
};
use mizzen_types::Name;
use mizzen_xds::Version;
use mizzen_xds::server::{Resource, ResourceSource, Session, Verdict};
use mizzen_xds::types::SECRET;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use crate::files::{Files, LOOK_EVERY, is_file};
use crate::secret::{certificate, roots};
use crate::{DEFAULT_SECRET, Identity, ROOT_SECRET};

/// Serves `default` and `ROOTCA`, and the secrets of files, and pushes them when they change. Until there is a certificate, questions for the
/// first two wait; those for files do not.
pub(crate) struct Sds {
    pub(crate) identity: watch::Receiver<Option<Identity>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The secrets of one identity.
struct Own {
    default: Resource,
    root: Resource,
}

impl Own {
    fn new(identity: &Identity) -> Self {
        Own {
            default: certificate(DEFAULT_SECRET, identity.svid.chain_pem().into_bytes(), identity.svid.key_pem()),
            root: roots(ROOT_SECRET, identity.trust.to_pem().into_bytes(), None),
        }
    }
}

/// What one stream can be given.
struct Secrets {
    identity: watch::Receiver<Option<Identity>>,
    /// None until there is a certificate.
    own: Option<Own>,
    files: Files,
    look: tokio::time::Interval,
}

impl Secrets {
    fn new(identity: watch::Receiver<Option<Identity>>) -> Self {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut secrets = Secrets { identity, own: None, files: Files::default(), look };
        secrets.read_identity();
        secrets
    }

    fn read_identity(&mut self) {
        self.own = self.identity.borrow_and_update().as_ref().map(Own::new);
    }

    /// Waits until a secret has changed. False if the agent is ending.
    async fn changed(&mut self) -> bool {
        loop {
            tokio::select! {
                changed = self.identity.changed() => {
                    if changed.is_ok() {
                        self.read_identity();
                    }
                    return changed.is_ok();
                }
                _ = self.look.tick(), if !self.files.is_empty() => if self.files.look().await {
                    return true;
                }
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Resource> {
        match name {
            DEFAULT_SECRET => self.own.as_ref().map(|own| &own.default),
            ROOT_SECRET => self.own.as_ref().map(|own| &own.root),
            name => self.files.find(name),
        }
    }
}

/// Says what nobody will ever get: the proxy waits for it in vain.
fn warn_of_unknown<'a>(names: impl Iterator<Item = &'a String>) {
    for name in names.filter(|name| !matches!(name.as_str(), DEFAULT_SECRET | ROOT_SECRET) && !is_file(name)) {
        warn!(name, "the proxy asks for a secret that is not served here");
    }
}

impl ResourceSource for Secrets {
    // A key is given to who asks for it by name, never to who asks for everything.
    fn names(&mut self, _type_url: &str) -> Vec<Name> {
        Vec::new()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        if type_url == SECRET { self.find(name).cloned() } else { None }
    }

    fn is_pending(&mut self, type_url: &str, name: &str) -> bool {
        type_url == SECRET && self.own.is_none() && matches!(name, DEFAULT_SECRET | ROOT_SECRET)
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(delta(request.into_inner(), self.identity.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stream_secrets(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(whole(request.into_inner(), self.identity.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch_secrets(&self, _request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed: StreamSecrets or DeltaSecrets"))
    }
}

/// One delta stream.
async fn delta(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    identity: watch::Receiver<Option<Identity>>,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut session = Session::new();
    let mut secrets = Secrets::new(identity);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                warn_of_unknown(request.resource_names_subscribe.iter());
                let gone = &request.resource_names_unsubscribe;
                secrets.files.keep(|name| gone.iter().all(|gone| gone != name));
                let new = request.resource_names_subscribe.clone();
                match session.request(request) {
                    Ok(heard) => if let Some(Verdict::Nack { message, .. }) = heard.verdict {
                        warn!(message, "the proxy rejects a secret");
                    },
                    Err(error) => {
                        let _ = sender.send(Err(Status::invalid_argument(error.to_string()))).await;
                        return;
                    }
                }
                if new.iter().any(|name| is_file(name)) {
                    new.iter().for_each(|name| secrets.files.follow(name));
                    secrets.files.look().await;
                }
            }
            alive = secrets.changed() => {
                if !alive {
                    return;
                }
                session.changed();
            }
        }
        for response in session.poll(&mut secrets) {
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

/// One stream of the older variant, in which each response holds all that was asked for.
async fn whole(
    mut requests: Streaming<DiscoveryRequest>,
    identity: watch::Receiver<Option<Identity>>,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut secrets = Secrets::new(identity);
    let (mut asked, mut nonce, mut sent) = (BTreeSet::<String>::new(), 0u64, None);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                if !request.type_url.is_empty() && request.type_url != SECRET {
                    let _ = sender.send(Err(Status::invalid_argument("only secrets are served here"))).await;
                    return;
                }
                // An answer to an older response says nothing about the newest.
                let stale = !request.response_nonce.is_empty() && request.response_nonce != nonce.to_string();
                if stale {
                    continue;
                }
                if let Some(error) = &request.error_detail {
                    warn!(message = error.message, "the proxy rejects a secret");
                }
                let names: BTreeSet<String> = request.resource_names.into_iter().collect();
                if asked != names {
                    warn_of_unknown(names.difference(&asked));
                    asked = names;
                    sent = None;
                    secrets.files.keep(|name| asked.contains(name));
                    asked.iter().for_each(|name| secrets.files.follow(name));
                    secrets.files.look().await;
                }
            }
            alive = secrets.changed() => {
                if !alive {
                    return;
                }
            }
        }
        let found: Vec<&Resource> = asked.iter().filter_map(|name| secrets.find(name)).collect();
        let version = Version::of(found.iter().map(|r| r.version.to_string()).collect::<String>().as_bytes());
        if found.is_empty() || sent == Some(version) {
            continue;
        }
        nonce += 1;
        sent = Some(version);
        let response = DiscoveryResponse {
            version_info: version.to_string(),
            resources: found.iter().map(|r| (*r.body).clone()).collect(),
            type_url: SECRET.to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        };
        if sender.send(Ok(response)).await.is_err() {
            return;
        }
    }
}
