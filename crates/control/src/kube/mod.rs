//! A Kubernetes cluster as a source of configuration, and what the control plane keeps there: its CA, the root in each namespace, its webhooks.
//!
//! Each kind is a source of its own: it is listed, swapped in whole, and followed by itself, so that one that may not be read is missing alone. What an
//! object means is decided where it is for files (`mizzen_api`); what is in force when it cannot be read by [`fold`].
//!
//! Of namespaced kinds nothing is kept that stands in no namespace of the mesh ([`namespaces`]).
//!
//! Deliberately absent: what is installed (the CLI's business), and any decision about proxies.

mod allocate;
mod ca;
mod election;
mod fold;
mod injector;
mod istio;
mod namespaces;
mod pods;
mod review;
mod roots;
mod secrets;
mod status;
mod untaint;
mod watch;
mod webhooks;

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use k8s_openapi::api::{coordination::v1::Lease, core::v1 as k8s, discovery::v1 as discovery};
use kube::{
    Api, Client, Resource,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, PartialObjectMeta},
    runtime::watcher,
};
use mizzen_analyze::{Message, Sort};
use mizzen_api::{
    Key, Kind, Object, Pos, Problem, Refusal,
    core::{EndpointSlice, Namespace, Service, ServiceAccount},
    parse_mesh_config,
};
use mizzen_model::Change;
use mizzen_pki::{Ca, CaLimits};
use mizzen_types::TrustDomain;
use tokio::{
    sync::{mpsc, watch as watch_channel},
    task::JoinSet,
};

pub use allocate::{AutoAllocate, IPV4_PREFIX, IPV6_PREFIX};
pub(crate) use election::Standing;
pub(crate) use injector::Injector;
pub use injector::has_native_sidecars;
pub(crate) use review::Reviewer;
pub use untaint::Untaint;
pub use watch::words as cluster_error;
pub(crate) use webhooks::{WebhookServer, router as webhook_router};

use crate::{
    Error,
    ca::Authority,
    credentials::{Credentials, Wanted},
    names,
    refusals::Refused,
    source::{Event, Fault, Merge, SourceId},
    writer::Published,
};
use allocate::Allocations;
use election::while_leading;
use fold::Reading;
use namespaces::{Discovery, Within};
use watch::{Sink, follow};

/// Who writes, for server-side apply.
pub(crate) const MANAGER: &str = "mizzen-control";

/// How a cluster is reached.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// A kubeconfig; without one the pod's own account is taken.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; without one its current context.
    pub context: Option<String>,
    /// Whether nothing is written into objects about what is wrong with them.
    pub only_read: bool,
    /// The pod's own name, for events and for the Lease by which one of several control planes writes.
    pub pod: Option<String>,
    /// The port of the webhooks. 0 takes a free one; `None` serves none.
    pub webhook_port: Option<u16>,
    /// Whether pods' tokens for the API server itself are good for a certificate, too (`first-party-jwt`). They are seen by every API server that a pod
    /// calls, and any of these could get a certificate with them.
    pub first_party_tokens: bool,
    /// Whether, and which, taint is taken from nodes when the agent of their plugin is ready.
    pub untaint: Option<Untaint>,
    /// Which addresses are allocated to ServiceEntries that name none. With `only_read` those that they have are used.
    pub allocate: AutoAllocate,
}

/// A cluster that can be reached.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// The control plane's own namespace.
    namespace: String,
    /// Which namespaces belong to the mesh.
    discovery: Arc<Discovery>,
    /// What proxies refuse, as soon as that is known.
    refused: watch_channel::Sender<Option<Arc<Refused>>>,
    /// Which control plane writes.
    standing: watch_channel::Sender<Standing>,
    pub(crate) options: ClusterOptions,
    credentials: Arc<Credentials>,
    /// What of them is wanted, until somebody follows it.
    wanted: Arc<Mutex<Option<mpsc::UnboundedReceiver<Wanted>>>>,
}

/// What is followed: a source each.
#[derive(Clone, Copy, Debug)]
enum Followed {
    Namespaces,
    Services,
    Slices,
    Pods,
    Accounts,
    Settings,
    /// Those that gateways ask for.
    Secrets,
    /// One of Istio's kinds.
    Istio(Kind),
}

impl Followed {
    fn all() -> impl Iterator<Item = Followed> {
        use Followed::{Accounts, Istio, Namespaces, Pods, Secrets, Services, Settings, Slices};
        [Namespaces, Services, Slices, Pods, Accounts, Settings, Secrets].into_iter().chain(istio_kinds().map(Istio))
    }
}

/// Istio's kinds.
fn istio_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.group().ends_with(".istio.io"))
}

impl Cluster {
    /// Reads how to reach it; does not wait for it.
    ///
    /// # Errors
    /// If there is no such configuration.
    pub(crate) async fn new(options: ClusterOptions, namespace: String) -> Result<Cluster, Error> {
        let bad = |error: &dyn std::fmt::Display| Error::Cluster(format!("how to reach the cluster: {error}"));
        let selected = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
        let config = match &options.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| bad(&error))?;
                kube::Config::from_custom_kubeconfig(file, &selected).await.map_err(|error| bad(&error))?
            }
            None => kube::Config::incluster().map_err(|error| bad(&format!("{error}; outside of a pod give --kubeconfig")))?,
        };
        let client = Client::try_from(config).map_err(|error| bad(&watch::words(&error)))?;
        let own = |name: &str| Key::new(Kind::Secret, namespace.as_str(), name);
        // Whoever has these is the mesh's authority.
        let (credentials, wanted) = Credentials::new(ca::SECRETS.map(own).into());
        let (discovery, refused) = (Arc::new(Discovery::new(&namespace)), watch_channel::Sender::new(None));
        let (standing, wanted) = (watch_channel::Sender::new(Standing::default()), Arc::new(Mutex::new(Some(wanted))));
        Ok(Cluster { client, discovery, refused, standing, namespace, options, credentials, wanted })
    }

    /// How many sources it is.
    pub(crate) fn sources() -> usize {
        Followed::all().count()
    }

    /// Where what proxies refuse is to be told, by the object because of which they do.
    pub(crate) fn refused(&self) -> watch_channel::Sender<Option<Arc<Refused>>> {
        self.refused.clone()
    }

    /// What is known of the Secrets that gateways serve with.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.credentials.clone()
    }

    /// Who judges tokens.
    pub(crate) fn reviewer(&self) -> Reviewer {
        Reviewer::new(self.client.clone(), self.options.first_party_tokens)
    }

    /// What is to be said of a control plane that takes first-party tokens.
    pub(crate) fn takes_first_party_tokens(&self) -> Message {
        mizzen_analyze::takes_first_party_tokens(mizzen_analyze::Id::new(Sort::Deployment, self.namespace.as_str(), names::CONTROL_PLANE))
    }

    /// The CA that is kept in the cluster.
    ///
    /// # Errors
    /// See [`ca::load`].
    pub(crate) async fn ca(&self, trust_domain: &TrustDomain, limits: CaLimits) -> Result<Ca, Error> {
        ca::load(&self.client, &self.namespace, trust_domain, limits).await
    }

    /// Takes another CA when its Secret has one.
    pub(crate) fn follow_ca(&self, authority: watch_channel::Sender<Arc<Ca>>) -> impl Future<Output = ()> + Send + use<> {
        ca::follow(self.client.clone(), self.namespace.clone(), authority)
    }

    /// Which control plane writes.
    pub(crate) fn standing(&self) -> watch_channel::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Has this one among those of which one writes, until it is stopped.
    pub(crate) fn elect(&self, stopping: watch_channel::Receiver<bool>) -> impl Future<Output = ()> + Send + use<> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        election::run(leases, election::own_name(self.options.pod.as_deref()), self.standing.clone(), stopping)
    }

    /// Keeps the root in every namespace of the mesh, while this control plane is the one that writes.
    pub(crate) fn keep_roots(&self, root: Authority) -> impl Future<Output = ()> + Send + use<> {
        let (client, selection) = (self.client.clone(), self.discovery.subscribe());
        while_leading(self.standing(), move || roots::keep(client.clone(), selection.clone(), root.clone()))
    }

    /// What puts the proxy into pods, and what keeps its settings current for as long as it is polled.
    pub(crate) async fn injector(
        &self,
        published: watch_channel::Receiver<Option<Published>>,
    ) -> (Injector, impl Future<Output = ()> + Send + use<>) {
        let (values, read) = watch_channel::channel(Err("the values of the installation are not read yet".to_owned()));
        let native = injector::has_native_sidecars(&self.client).await;
        let following = injector::follow_values(self.client.clone(), self.namespace.clone(), values);
        (Injector::new(published, read, native), following)
    }

    /// Keeps the root in the configurations of webhooks, while this control plane is the one that writes.
    pub(crate) fn keep_webhooks(&self, root: Authority) -> impl Future<Output = ()> + Send + use<> {
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        while_leading(self.standing(), move || webhooks::keep(client.clone(), namespace.clone(), root.clone()))
    }

    /// Follows everything, each kind under one of `ids`; never ends while the writer listens.
    pub(crate) fn follow(&self, ids: &[SourceId], writer: &mpsc::UnboundedSender<(SourceId, Event)>) -> JoinSet<()> {
        let mut following = JoinSet::new();
        let may_write = !self.options.only_read;
        let writers = Writers {
            due: may_write.then(|| Arc::new(status::Due::default())),
            allocations: (may_write && self.options.allocate.is_on).then(|| Arc::new(Allocations::new(&self.options.allocate))),
            uses_allocated: self.options.allocate.is_on,
        };
        if let Some(due) = writers.due.clone() {
            let (client, refused, pod) = (self.client.clone(), self.refused.subscribe(), self.options.pod.clone());
            let write = move || status::write(client.clone(), due.clone(), refused.clone(), pod.clone());
            following.spawn(while_leading(self.standing(), write));
            if let Some(untaint) = self.options.untaint.clone() {
                let client = self.client.clone();
                following.spawn(while_leading(self.standing(), move || untaint::follow(client.clone(), untaint.clone())));
            }
        }
        if let Some(allocations) = writers.allocations.clone() {
            let client = self.client.clone();
            following.spawn(while_leading(self.standing(), move || allocate::write(client.clone(), allocations.clone())));
        }
        for (followed, id) in Followed::all().zip(ids) {
            let sink = Sink { id: *id, writer: writer.clone(), told: None, allocations: None };
            following.spawn(self.follow_one(followed, writers.clone(), sink));
        }
        following
    }

    fn follow_one(&self, followed: Followed, writers: Writers, sink: Sink) -> BoxFuture<'static, ()> {
        let (client, all) = (self.client.clone(), watcher::Config::default());
        let within = Within::first(self.discovery.subscribe());
        // By these it is known which namespaces belong to the mesh.
        let told = |kind, sink| Sink { told: Some((self.discovery.clone(), kind)), ..sink };
        match followed {
            Followed::Namespaces => {
                let read = |object: PartialObjectMeta<k8s::Namespace>| Some(Reading::of(Namespace::from_cluster(object.metadata)));
                let everywhere = std::future::ready(Within::everywhere());
                metadata(client, "namespaces", Kind::Namespace, read, everywhere, told(Kind::Namespace, sink)).boxed()
            }
            Followed::Services => {
                let read = |object| Service::from_cluster(object).map(Reading::of);
                let key = |object: &k8s::Service| key_of(Kind::Service, &object.metadata);
                async move { follow(Api::all(client), all, "services".to_owned(), key, read, within.await, sink).await }.boxed()
            }
            Followed::Slices => {
                let read = |object| Some(Reading::of(EndpointSlice::from_cluster(object)));
                let key = |object: &discovery::EndpointSlice| key_of(Kind::EndpointSlice, &object.metadata);
                let what = "endpointslices.discovery.k8s.io".to_owned();
                async move { follow(Api::all(client), all, what, key, read, within.await, sink).await }.boxed()
            }
            Followed::Pods => async move { pods::follow(client, within.await, sink).await }.boxed(),
            Followed::Accounts => {
                let read =
                    |object: PartialObjectMeta<k8s::ServiceAccount>| Some(Reading::of(ServiceAccount::from_cluster(object.metadata)));
                metadata(client, "serviceaccounts", Kind::ServiceAccount, read, within, sink).boxed()
            }
            Followed::Settings => {
                let one = all.fields(&format!("metadata.name={}", names::SETTINGS));
                let api = Api::<k8s::ConfigMap>::namespaced(client, &self.namespace);
                let (key, read) = (|_: &k8s::ConfigMap| mesh_key(), |map: k8s::ConfigMap| Some(mesh(&map)));
                follow(api, one, "configmaps".to_owned(), key, read, Within::everywhere(), told(Kind::MeshConfig, sink)).boxed()
            }
            Followed::Secrets => {
                let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).take();
                secrets::serve(client, self.credentials.clone(), wanted, sink).boxed()
            }
            Followed::Istio(kind) => follow_istio(client, kind, writers, within, sink).boxed(),
        }
    }
}

/// What a control plane has in force that follows this cluster and has not seen anything before, by one reading; and what is wrong with it.
///
/// # Errors
/// If the cluster cannot be reached, or does not answer in time.
pub async fn load_cluster(options: ClusterOptions, namespace: &str, patience: Duration) -> Result<(Vec<Change>, Vec<Problem>), Error> {
    let cluster = Cluster::new(ClusterOptions { only_read: true, ..options }, namespace.to_owned()).await?;
    let unreachable = |reason: String| Error::Cluster(format!("the cluster cannot be read: {reason}"));
    let load = async {
        // Followers try for ever: whether somebody is there is asked once.
        cluster.client.apiserver_version().await.map_err(|error| unreachable(watch::words(&error)))?;
        let (mut merge, ids) = Merge::new(Cluster::sources());
        let (sender, mut events) = mpsc::unbounded_channel();
        let _following = cluster.follow(&ids, &sender);
        let mut problems = BTreeMap::new();
        while !merge.is_complete() {
            let Some((id, event)) = events.recv().await else { break };
            match &event {
                Event::Refused(refused) => drop(problems.insert((id, refused.fault.clone()), refused.problems.clone())),
                Event::Warnings(about, warnings) if warnings.iter().any(|warning| warning.object.is_none()) => {
                    let fault = Fault { file: about.clone(), key: None, document: 0 };
                    problems.insert((id, fault), warnings.clone());
                }
                _ => {}
            }
            merge.take(id, event);
        }
        Ok((crate::source::in_force(&mut merge), problems.into_values().flatten().collect()))
    };
    tokio::time::timeout(patience, load).await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {patience:?}"))))
}

fn key_of(kind: Kind, metadata: &ObjectMeta) -> Key {
    Key::new(kind, metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// A kind of Istio's in the API server.
fn resource(kind: Kind) -> ApiResource {
    let version = kind.stored_version().unwrap_or("v1");
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(kind.group(), version, kind.name()), kind.plural())
}

fn mesh_key() -> Key {
    Object::from(mizzen_api::istio::MeshConfig::default()).key()
}

/// The mesh's settings, as ConfigMap `istio` has them.
fn mesh(map: &k8s::ConfigMap) -> Reading {
    let key = mesh_key();
    let text = map.data.as_ref().and_then(|data| data.get(names::MESH)).map(String::as_str).unwrap_or_default();
    let file = format!("ConfigMap {}/{}", map.metadata.namespace.as_deref().unwrap_or_default(), names::SETTINGS).into();
    match parse_mesh_config(text, &file) {
        Ok((config, warnings)) => Reading { key, object: Ok(config.into()), warnings },
        Err(mut problems) => {
            if problems.is_empty() {
                problems.push(Problem {
                    pos: Pos::default(),
                    object: Some(key.clone()),
                    field: String::new(),
                    message: "is wrong".to_owned(),
                });
            }
            let refusal = Refusal { key: Some(key.clone()), is_other: false, closes: None, problems };
            Reading { key, object: Err(refusal), warnings: Vec::new() }
        }
    }
}

/// Follows the metadata of a kind.
async fn metadata<K>(
    client: Client,
    what: &'static str,
    kind: Kind,
    read: impl Fn(PartialObjectMeta<K>) -> Option<Reading>,
    within: impl Future<Output = Within>,
    sink: Sink,
) where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    // What is listed as metadata has no type of its own for the watch.
    let api: Api<PartialObjectMeta<K>> = Api::all(client);
    follow(api, watcher::Config::default(), what.to_owned(), |object| key_of(kind, &object.metadata), read, within.await, sink).await;
}

/// Whoever writes into Istio's objects, and is told what was read for that.
#[derive(Clone)]
struct Writers {
    /// Of what is wrong with them.
    due: Option<Arc<status::Due>>,
    /// Of addresses.
    allocations: Option<Arc<Allocations>>,
    /// Whether addresses count that were written.
    uses_allocated: bool,
}

/// Follows one of Istio's kinds, and says in its objects what is wrong with them.
async fn follow_istio(client: Client, kind: Kind, writers: Writers, within: impl Future<Output = Within>, sink: Sink) {
    let resource = resource(kind);
    let Writers { due, allocations, uses_allocated } = writers;
    let allocations = allocations.filter(|_| kind == Kind::ServiceEntry);
    let sink = Sink { allocations: allocations.clone(), ..sink };
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let what = format!("{}.{}", kind.plural(), kind.group());
    let read = |mut object: DynamicObject| {
        let mut reading = istio::read(kind, &mut object);
        if uses_allocated {
            allocate::attach(&object, &mut reading);
        }
        if let Some(allocations) = &allocations {
            allocations.read(&object, &reading);
        }
        if let Some(due) = &due {
            due.read(&resource, object, &reading);
        }
        Some(reading)
    };
    follow(api, watcher::Config::default(), what, |object| key_of(kind, &object.metadata), read, within.await, sink).await;
}
