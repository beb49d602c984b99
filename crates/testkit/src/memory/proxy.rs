//! From resources to a configuration: over the discovery protocol, as bytes, into the store of the data plane.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mizzen_dataplane::store::Store;
use mizzen_ir::{Config, ResourceKind};
use mizzen_pki::{Ca, UnixTime};
use mizzen_protos::{
    Any,
    envoy::envoy::{
        config::core::v3::{DataSource, Node, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret},
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    },
};
use mizzen_types::Name;
use mizzen_xds::{
    client::{Client, Event},
    server::Session,
};
use prost::Message;

use super::Resources;

/// One proxy's stream, from both ends, and what it holds.
#[derive(Debug)]
pub(super) struct Stream {
    client: Client,
    session: Session,
    store: Store,
    asked: BTreeSet<(ResourceKind, Name)>,
    /// What was refused, whole or in part: type, name and reason.
    pub(super) rejected: Vec<String>,
}

impl Stream {
    /// A proxy with its certificate, which has asked for nothing yet.
    pub(super) fn new(ca: &Ca, id: &mizzen_types::SpiffeId, now: UnixTime) -> Stream {
        let mut client = Client::new(Node::default());
        client.connected();
        client.watch_all(ResourceKind::Cluster.type_url());
        client.watch_all(ResourceKind::Listener.type_url());
        let mut store = Store::new([ResourceKind::Secret]);
        for secret in secrets(ca, id, now) {
            let body = Any { type_url: ResourceKind::Secret.type_url().to_owned(), value: secret.encode_to_vec() };
            store.put(&secret.name.as_str().into(), "1", body, Duration::ZERO).expect("a secret");
        }
        Stream { client, session: Session::new(), store, asked: BTreeSet::new(), rejected: Vec::new() }
    }

    /// Sends what differs, until the proxy has asked for all that it names. Returns what is then in force.
    pub(super) fn sync(&mut self, resources: &Resources, now: Duration) -> Arc<Config> {
        self.session.changed();
        loop {
            let mut quiet = true;
            while let Some(request) = self.client.next_request() {
                quiet = false;
                let request = DeltaDiscoveryRequest::decode(&*request.encode_to_vec()).expect("a request");
                self.session.request(request).expect("a request that may be made");
            }
            for response in self.session.poll(&mut &*resources) {
                quiet = false;
                let response = DeltaDiscoveryResponse::decode(&*response.encode_to_vec()).expect("a response");
                self.take(response, now);
            }
            self.store.next(now);
            self.ask();
            if quiet {
                return self.store.config().clone();
            }
        }
    }

    /// Whether everything that was sent is in force.
    pub(super) fn is_warm(&self) -> bool {
        self.store.is_warm()
    }

    fn take(&mut self, response: DeltaDiscoveryResponse, now: Duration) {
        let (receipt, events) = self.client.receive(response).expect("what was asked for");
        let kind = ResourceKind::of(receipt.type_url()).expect("a type that is asked for");
        let mut bad = Vec::new();
        for event in events {
            match event {
                Event::Added { name, version, body } => {
                    if let Err(reason) = self.store.put(&name, &version, body, now) {
                        self.rejected.push(format!("{kind:?} {name}: {reason}"));
                        bad.push((name, reason));
                    }
                }
                Event::Removed { name } => self.store.remove(kind, &name, now),
            }
        }
        self.client.settle(receipt, bad);
        if matches!(kind, ResourceKind::Cluster | ResourceKind::Listener) {
            self.store.set_complete(kind);
        }
    }

    /// Asks by name for what is named, and no longer for what is not.
    fn ask(&mut self) {
        let wanted = self.store.wanted();
        let routes = wanted.routes.into_iter().map(|name| (ResourceKind::Route, name));
        let wanted: BTreeSet<_> = routes.chain(wanted.assignments.into_iter().map(|name| (ResourceKind::Assignment, name))).collect();
        for (kind, name) in wanted.difference(&self.asked) {
            self.client.subscribe(kind.type_url(), [name.clone()]);
        }
        for (kind, name) in self.asked.difference(&wanted) {
            self.client.unsubscribe(kind.type_url(), [name.clone()]);
        }
        self.asked = wanted;
    }
}

/// What an agent would give: a certificate with its key, and the roots.
fn secrets(ca: &Ca, id: &mizzen_types::SpiffeId, now: UnixTime) -> [Secret; 2] {
    let inline = |text: &str| Some(DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..Default::default() });
    let svid = ca.issue(id, Duration::from_secs(24 * 3600), now).expect("a certificate");
    let certificate = TlsCertificate {
        certificate_chain: inline(&svid.chain_pem()),
        private_key: inline(svid.key_pem().expose()),
        ..TlsCertificate::default()
    };
    let roots = CertificateValidationContext { trusted_ca: inline(&ca.roots().to_pem()), ..CertificateValidationContext::default() };
    [
        Secret { name: "default".to_owned(), r#type: Some(secret::Type::TlsCertificate(certificate)) },
        Secret { name: "ROOTCA".to_owned(), r#type: Some(secret::Type::ValidationContext(roots)) },
    ]
}
