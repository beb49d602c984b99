//! The proxy's certificate, key and roots, by Envoy's secret discovery.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures_util::Stream;
use mizzen_protos::Any;
use mizzen_protos::envoy::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret},
    service::{
        discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
        secret::v3::secret_discovery_service_server::SecretDiscoveryService,
    },
};
use mizzen_types::Name;
use mizzen_xds::Version;
use mizzen_xds::server::{Resource, Session, State, Verdict};
use mizzen_xds::types::SECRET;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use crate::{DEFAULT_SECRET, Identity, ROOT_SECRET};

/// Serves `default` and `ROOTCA`, and pushes them when they change. Until there is a certificate, questions wait.
pub(crate) struct Sds {
    pub(crate) identity: watch::Receiver<Option<Identity>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The secrets of one identity.
struct Secrets {
    default: Resource,
    root: Resource,
}

impl Secrets {
    fn new(identity: &Identity) -> Self {
        let inline = |text: String| Some(DataSource { specifier: Some(Specifier::InlineBytes(text.into_bytes())), ..Default::default() });
        let certificate = TlsCertificate {
            certificate_chain: inline(identity.svid.chain_pem()),
            private_key: inline(identity.svid.key_pem().expose().to_owned()),
            ..Default::default()
        };
        let roots = CertificateValidationContext { trusted_ca: inline(identity.trust.to_pem()), ..Default::default() };
        let resource = |name: &str, body| {
            let secret = Secret { name: name.to_owned(), r#type: Some(body) };
            Resource::new(Any { type_url: SECRET.to_owned(), value: secret.encode_to_vec() })
        };
        Secrets {
            default: resource(DEFAULT_SECRET, secret::Type::TlsCertificate(certificate)),
            root: resource(ROOT_SECRET, secret::Type::ValidationContext(roots)),
        }
    }

    fn find(&self, name: &str) -> Option<&Resource> {
        match name {
            DEFAULT_SECRET => Some(&self.default),
            ROOT_SECRET => Some(&self.root),
            _ => None,
        }
    }
}

impl State for Secrets {
    // A key is given to who asks for it by name, never to who asks for everything.
    fn names(&mut self, _type_url: &str) -> Vec<Name> {
        Vec::new()
    }

    fn resource(&mut self, type_url: &str, name: &str) -> Option<Resource> {
        if type_url == SECRET { self.find(name).cloned() } else { None }
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
    mut identity: watch::Receiver<Option<Identity>>,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut session = Session::new();
    let mut secrets = identity.borrow_and_update().as_ref().map(Secrets::new);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                match session.request(request) {
                    Ok(heard) => if let Some(Verdict::Nack { message, .. }) = heard.verdict {
                        warn!(message, "the proxy rejects a secret");
                    },
                    Err(error) => {
                        let _ = sender.send(Err(Status::invalid_argument(error.to_string()))).await;
                        return;
                    }
                }
            }
            changed = identity.changed() => {
                if changed.is_err() {
                    return;
                }
                secrets = identity.borrow_and_update().as_ref().map(Secrets::new);
                session.changed();
            }
        }
        if let Some(secrets) = &mut secrets {
            for response in session.poll(secrets) {
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One stream of the older variant, in which each response holds all that was asked for.
async fn whole(
    mut requests: Streaming<DiscoveryRequest>,
    mut identity: watch::Receiver<Option<Identity>>,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut secrets = identity.borrow_and_update().as_ref().map(Secrets::new);
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
                let names = request.resource_names.into_iter().collect();
                if asked != names {
                    asked = names;
                    sent = None;
                }
            }
            changed = identity.changed() => {
                if changed.is_err() {
                    return;
                }
                secrets = identity.borrow_and_update().as_ref().map(Secrets::new);
            }
        }
        let Some(secrets) = &secrets else { continue };
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
