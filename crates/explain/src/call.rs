//! A hypothetical call, and what is said of it.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// A hypothetical call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Who calls.
    pub from: Source,
    /// The host that is called, as the program writes it, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What is sent.
    pub payload: Payload,
    /// Decides between weights and shares. Without it every way is followed that may be taken.
    #[serde(default)]
    pub random: Option<u64>,
    /// When it is made, in seconds since 1970. Without it nobody knows whether its tokens are good then.
    #[serde(default)]
    pub at: Option<u64>,
    /// What authorization services answer, where one is asked. Without it nobody knows.
    #[serde(default)]
    pub outside: Option<bool>,
    /// How many endpoints of a cluster are followed to their own proxies.
    #[serde(default = "some_endpoints")]
    pub endpoints: usize,
}

fn some_endpoints() -> usize {
    8
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A workload of the mesh: `namespace/name` of its pod, else of its workload.
    Workload(String),
    /// Somebody at an address that no pod has.
    Address(IpAddr),
}

/// What a program sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Payload {
    /// A request over HTTP.
    #[serde(rename_all = "camelCase")]
    Http {
        /// The method.
        method: String,
        /// The path, with its query.
        path: String,
        /// Headers; `host` is in the place of the called host.
        headers: Vec<(String, String)>,
        /// Whether it is sent over HTTP/2.
        #[serde(default)]
        http2: bool,
        /// Whether the program sends it over TLS of its own.
        #[serde(default)]
        tls: bool,
        /// The server name that its TLS sends, if it is another one than the called host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_name: Option<String>,
        /// Whether its TLS shows a certificate, which whoever asks for one is taken to accept. It names nobody of the mesh.
        #[serde(default)]
        certificate: bool,
    },
    /// Bytes that are neither HTTP nor TLS.
    Tcp,
    /// TLS of the program's own.
    #[serde(rename_all = "camelCase")]
    Tls {
        /// The server name that it sends.
        server_name: Option<String>,
    },
}

/// Why nothing can be said of a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no such pod, or it has no address.
    #[error("there is no pod `{0}` with an address, nor a workload or a service account of that name")]
    Workload(String),
    /// Not `namespace/name`.
    #[error("`{0}` is not of the form namespace/name")]
    Form(String),
    /// The host is none.
    #[error("`{0}` is no host: {1}")]
    Host(String, String),
    /// It cannot be sent.
    #[error("`{0}: {1}` is no header")]
    Header(String, String),
    /// It cannot be sent either.
    #[error("`{0} {1}` is not the beginning of a request")]
    Request(String, String),
}

/// How a call would be decided.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The call.
    pub call: Call,
    /// How the called host became an address, and what was assumed where the mesh does not say it.
    pub steps: Vec<Step>,
    /// What the caller's proxy does, or the caller itself where it has none.
    pub hop: Hop,
    /// What becomes of the call.
    pub verdict: Verdict,
    /// Where the rules stand that the steps name: `FILE:LINE` by the rule's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, String>,
}

/// What one proxy does with a call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hop {
    /// Whose proxy: `namespace/pod`, or the address of somebody outside.
    pub proxy: String,
    /// On which side.
    pub side: Side,
    /// Its decisions in order.
    pub steps: Vec<Step>,
    /// Where the call goes from here.
    pub ways: Vec<Way>,
    /// What becomes of the call from here on.
    pub verdict: Verdict,
}

/// On which side a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// Beside the caller.
    Outbound,
    /// Beside the server.
    Inbound,
    /// A gateway.
    Gateway,
    /// There is no proxy: the caller's own connection.
    Bare,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was decided.
    pub step: StepKind,
    /// How.
    pub outcome: String,
    /// Why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// The resource of the proxy that it was decided by, if one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<Resource>,
    /// Whether the running proxy holds that resource; none if nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
}

/// A resource of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Its kind.
    pub kind: ResourceType,
    /// Its name; of a virtual host `ROUTES/NAME`.
    pub name: String,
}

/// The kind of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceType {
    /// A listener.
    Listener,
    /// A virtual host of a route table.
    VirtualHost,
    /// A cluster.
    Cluster,
    /// A cluster's endpoints.
    Endpoints,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// Which address a host has.
    Resolve,
    /// Which listener takes the connection.
    Listener,
    /// Which of its filter chains.
    Chain,
    /// What TLS proves.
    Tls,
    /// What a policy says.
    Policy,
    /// What another filter does.
    Filter,
    /// Which route.
    Route,
    /// What the route changes.
    Rewrite,
    /// Which cluster.
    Cluster,
    /// Which endpoints it has.
    Endpoints,
}

/// A line of a step's trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// How deep it lies below the step.
    pub depth: u8,
    /// Whether this part matched.
    pub matched: bool,
    /// What was looked at, and what it was.
    pub text: String,
}

/// One way from a proxy to a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// The cluster.
    pub cluster: String,
    /// Its share, where several may be taken.
    pub share: Option<Share>,
    /// When it is taken, where shares alone do not say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What is decided on it.
    pub steps: Vec<Step>,
    /// Its endpoints, those first that are called as long as they are well.
    pub to: Vec<To>,
    /// What becomes of calls that take it.
    pub verdict: Verdict,
}

/// A part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// So many.
    pub weight: u64,
    /// Of so many.
    pub of: u64,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct To {
    /// Its address.
    pub address: String,
    /// The pod there: `namespace/pod`.
    pub workload: Option<String>,
    /// Whether calls go there: it is well, and of the first priority that has any.
    pub used: bool,
    /// How it is called.
    pub security: Security,
    /// What is decided on the way.
    pub steps: Vec<Step>,
    /// What the proxy there does, if it has one and it was followed.
    pub next: Option<Box<Hop>>,
    /// What becomes of calls that go there; none if it was not followed.
    pub verdict: Option<Verdict>,
}

/// How an endpoint is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "mode")]
pub enum Security {
    /// As the bytes came.
    Plaintext,
    /// By TLS without a certificate of the caller's.
    #[serde(rename_all = "camelCase")]
    Tls {
        /// The server name that is sent.
        server_name: String,
    },
    /// By mutual TLS, as the caller.
    #[serde(rename_all = "camelCase")]
    MutualTls {
        /// Who the caller is.
        identity: String,
        /// The server name that is sent.
        server_name: String,
        /// The protocols that are offered.
        protocols: Vec<String>,
    },
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Verdict {
    /// It reaches a program.
    Delivered,
    /// A policy refuses it.
    Denied {
        /// The policy, if one refused it, and not none allowed it.
        policy: Option<String>,
        /// Why: what the nearest policy lacked.
        why: String,
    },
    /// A proxy answers it.
    Answered {
        /// The status.
        status: u16,
        /// Why.
        why: String,
    },
    /// The connection is closed, or is not made.
    Closed {
        /// Why.
        why: String,
    },
    /// It cannot be said.
    Unknown {
        /// What is missing for it.
        why: String,
    },
    /// It depends on the way: the different verdicts, each once.
    Differs {
        /// Them.
        verdicts: Vec<Verdict>,
    },
}

impl Verdict {
    /// Of several ways that may be taken. Those are alike that end alike, whatever they say of the reason.
    pub(crate) fn of(all: impl IntoIterator<Item = Verdict>) -> Option<Verdict> {
        let mut found: Vec<Verdict> = Vec::new();
        let flat = all.into_iter().flat_map(|verdict| match verdict {
            Verdict::Differs { verdicts } => verdicts,
            one => vec![one],
        });
        for verdict in flat {
            if !found.iter().any(|known| known.is_like(&verdict)) {
                found.push(verdict);
            }
        }
        match found.len() {
            0 | 1 => found.pop(),
            _ => Some(Verdict::Differs { verdicts: found }),
        }
    }

    fn is_like(&self, other: &Verdict) -> bool {
        match (self, other) {
            (Verdict::Denied { policy: a, .. }, Verdict::Denied { policy: b, .. }) => a == b,
            (Verdict::Answered { status: a, .. }, Verdict::Answered { status: b, .. }) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    pub(crate) fn closed(why: impl Into<String>) -> Verdict {
        Verdict::Closed { why: why.into() }
    }

    pub(crate) fn answered(status: u16, why: impl Into<String>) -> Verdict {
        Verdict::Answered { status, why: why.into() }
    }

    pub(crate) fn unknown(why: impl Into<String>) -> Verdict {
        Verdict::Unknown { why: why.into() }
    }
}

impl Step {
    pub(crate) fn new(step: StepKind, outcome: impl fmt::Display) -> Step {
        Step { step, outcome: outcome.to_string(), reasons: Vec::new(), resource: None, held: None }
    }

    /// The same, decided by a resource of the proxy.
    pub(crate) fn by(mut self, kind: ResourceType, name: impl Into<String>) -> Step {
        self.resource = Some(Resource { kind, name: name.into() });
        self
    }

    pub(crate) fn because(mut self, notes: Vec<mizzen_ir::Note>) -> Step {
        self.reasons.extend(notes.into_iter().map(|note| Reason { depth: note.depth, matched: note.matched, text: note.text }));
        self
    }
}
