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
    pub state: State,
    /// Responses sent, taken and rejected.
    pub sent: u64,
    /// Responses taken whole.
    pub acked: u64,
    /// Responses of which something was rejected.
    pub nacked: u64,
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
pub enum State {
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
