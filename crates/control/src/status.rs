//! What `debug.sock` answers, as types that the CLI reads too.

use serde::{Deserialize, Serialize};

/// The answer of `/debug/syncz`: every connected proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syncz {
    /// The version of the snapshot that is being pushed.
    pub snapshot: u64,
    /// By proxy id.
    pub proxies: Vec<ProxyStatus>,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// `NAME.NAMESPACE`, as `proxy-status` prints it.
    pub proxy: String,
    /// The node's id, as the proxy sent it.
    pub node: String,
    /// The number of the connection.
    pub connection: u64,
    /// The verified identity.
    pub identity: String,
    /// The proxy's address.
    pub address: String,
    /// The proxy's own version.
    pub proxy_version: String,
    /// The newest snapshot of which everything was sent to it.
    pub snapshot: u64,
    /// By type, in the order of sending.
    pub types: Vec<TypeStatus>,
}

/// One resource type of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// `Cluster`, `Listener` and so on.
    pub name: String,
    /// The type's URL.
    pub type_url: String,
    /// How far the proxy is.
    pub state: SyncState,
    /// Responses sent, taken and rejected.
    pub sent: u64,
    /// Responses taken whole.
    pub acked: u64,
    /// Responses of which something was rejected.
    pub nacked: u64,
    /// When the latest response was taken whole, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ack: Option<u64>,
    /// When something of a response was last rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_nack: Option<u64>,
    /// The latest rejection's words, while it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it was told of each resource.
    pub resources: Vec<ResourceStatus>,
}

/// One resource of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// The version that was sent; absent if it was told that there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// The version that it uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<String>,
    /// Why it rejected what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

/// How far a proxy is with a type, in the words of `proxy-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncState {
    /// Nothing was sent, since nothing was asked for.
    #[serde(rename = "NOT SENT")]
    NotSent,
    /// All that was sent was taken.
    #[serde(rename = "SYNCED")]
    Synced,
    /// An answer is awaited.
    #[serde(rename = "STALE")]
    Stale,
    /// A resource was rejected.
    #[serde(rename = "ERROR")]
    Error,
}

/// The answer of `/debug/configz`: the configuration that is in force, and what is wrong with the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configz {
    /// The version of the snapshot.
    pub snapshot: u64,
    /// The mesh's settings.
    pub mesh: ConfigStatus,
    /// All objects.
    pub objects: Vec<ObjectStatus>,
    /// Documents that are refused.
    pub refused: Vec<RefusedStatus>,
    /// Policies that could not be read at all: what they select is closed.
    pub closed: Vec<String>,
    /// What is known and not acted on, what another source's object hides, and what has no effect beside the other objects.
    pub warnings: Vec<String>,
}

/// One entry of the answer of `/debug/keysz`: the public keys of an issuer of tokens, as they were fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerKeysStatus {
    /// From where, by [`KeySource::name`](mizzen_api::istio::KeySource::name).
    pub from: String,
    /// The key set.
    pub keys: String,
}

/// Of the mesh's settings, what most depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// Whose policies hold for the whole mesh.
    pub root_namespace: String,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// File and line.
    pub origin: String,
    /// The version of the snapshot that last changed it.
    pub version: u64,
}

/// One refused document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// The file.
    pub file: String,
    /// The object, if that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Why, one line each.
    pub problems: Vec<String>,
    /// Whether the last good version is in force.
    pub kept: bool,
}

/// One open stream, as `/debug/connections` lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Its number.
    pub number: u64,
    /// The proxy.
    pub proxy: String,
    /// The node's id.
    pub node: String,
    /// The verified identity.
    pub identity: String,
    /// From where it came.
    pub peer: String,
    /// For how long it is open.
    pub seconds: u64,
}

/// One service, as `/debug/registryz` lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The host name.
    pub host: String,
    /// The namespace.
    pub namespace: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<u16>,
    /// How many endpoints its ports have together.
    pub endpoints: usize,
}

/// The answer of `/debug/live?kind=…&namespace=…&name=…`: is an object's newest version in the proxies?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The snapshot that last changed it; absent if there is no such object.
    pub version: Option<u64>,
    /// Of a Pod: whether it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Proxies that have taken everything up to it.
    pub live: Vec<String>,
    /// Proxies that have not answered yet.
    pub pending: Vec<String>,
    /// Proxies that have answered, and reject something.
    pub rejected: Vec<Rejected>,
}

/// A proxy that rejects something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The proxy.
    pub proxy: String,
    /// Its words.
    pub errors: Vec<String>,
}

/// The answer of `/debug/selfz`: how the control plane itself is, and whom it keeps waiting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selfz {
    /// Its version.
    pub version: String,
    /// What it logs, as directives.
    pub log: String,
    /// For how long it runs.
    pub uptime_seconds: u64,
    /// The version of the newest snapshot.
    pub snapshot: u64,
    /// What it has in memory.
    pub memo: MemoStatus,
    /// How many wait.
    pub queue: QueueStatus,
    /// Which of a cluster's control planes writes; absent where there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election: Option<ElectionStatus>,
    /// Who waits, and for what; those first that wait longest.
    pub waiting: Vec<WaitingStatus>,
}

/// Which of a cluster's control planes writes statuses, root certificates and the webhooks' root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionStatus {
    /// The Lease by which that is settled, in the control plane's namespace.
    pub lease: String,
    /// Whether it is this one.
    pub leads: bool,
    /// Whoever holds the Lease, if anybody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
}

/// The resources that are built once for all proxies that get the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoStatus {
    /// Resources and lists of names that are held.
    pub held: usize,
    /// Resources that were built.
    pub built: u64,
    /// Resources that were there when they were asked for.
    pub shared: u64,
    /// Those of which a change touched something that they had asked about.
    pub asked_again: u64,
    /// The share of those that were there; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_rate: Option<f64>,
}

/// Proxies by what they wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// All streams that are open.
    pub connected: usize,
    /// Wait for their turn to get all that they should have.
    pub first_syncs: usize,
    /// First syncs that are served at once.
    pub first_syncs_at_once: usize,
    /// Something is due to them that was not sent yet.
    pub due: usize,
    /// Something was sent to them that they have not answered.
    pub unanswered: usize,
}

/// One stream that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingStatus {
    /// The proxy.
    pub proxy: String,
    /// The number of the connection.
    pub connection: u64,
    /// For how long.
    pub seconds: f64,
    /// For what.
    pub reason: WaitingFor,
    /// What was sent and not answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<UnansweredStatus>,
}

/// For what a stream waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// For its turn: a bounded number of first syncs is served at once.
    FirstSync,
    /// For its configuration's being made and sent.
    Due,
    /// The control plane waits for the proxy's answer.
    Answer,
}

/// Resources of a type that were sent and not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnansweredStatus {
    /// `Cluster`, `Listener` and so on.
    pub name: String,
    /// Responses.
    pub responses: usize,
    /// The first of the resources of which the proxy has another version than what was sent.
    pub resources: Vec<String>,
    /// How many more there are.
    pub more: usize,
}
