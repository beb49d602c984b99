//! Authorization policies.

use std::ops::RangeInclusive;
use std::sync::Arc;

use mizzen_types::{IpRange, Name};

use super::{HeaderMatch, MetadataMatch, RbacIndex, Regex, StringMatch};

/// A set of policies with one action.
#[derive(Clone, Debug, PartialEq)]
pub struct Rbac {
    /// What a match means.
    pub action: Action,
    /// In the order of their names.
    pub policies: Arc<[Policy]>,
    /// Which of them can match at all.
    pub(crate) index: Arc<RbacIndex>,
}

impl Rbac {
    /// A set of policies, which are in the order of their names.
    pub fn new(action: Action, policies: Vec<Policy>) -> Rbac {
        Rbac { action, index: RbacIndex::of(&policies).into(), policies: policies.into() }
    }
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allowed if one policy matches, else denied.
    Allow,
    /// Denied if one policy matches, else allowed.
    Deny,
    /// Allowed always; a match is recorded.
    Log,
}

/// A policy matches if one of its permissions and one of its principals do.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name, such as `ns[shop]-policy[deny-admin]-rule[0]`.
    pub name: Name,
    /// What is done.
    pub permissions: Arc<[Expr]>,
    /// Who does it.
    pub principals: Arc<[Expr]>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Always.
    Any,
    /// All of these; at least one.
    And(Arc<[Expr]>),
    /// One of these; at least one.
    Or(Arc<[Expr]>),
    /// Not this.
    Not(Arc<Expr>),
    /// A request header.
    Header(HeaderMatch),
    /// The request's path without its query, in its one spelling; so is the pattern, unless it is an expression.
    UrlPath(StringMatch),
    /// The same by a template of segments.
    PathTemplate(Regex),
    /// Where the connection was meant to go.
    DestinationIp(IpRange),
    /// Where the connection was meant to go.
    DestinationPort(RangeInclusive<u16>),
    /// The server name of the TLS handshake.
    ServerName(StringMatch),
    /// The verified certificate's URI names, else DNS names, else subject; none: any verified certificate.
    Authenticated(Option<StringMatch>),
    /// Istio's `io.istio.peer_principal`: the verified certificate's first URI name.
    PeerPrincipal(StringMatch),
    /// The peer of the connection.
    DirectRemoteIp(IpRange),
    /// The client, from X-Forwarded-For where that is trusted.
    RemoteIp(IpRange),
    /// What filters before left behind.
    Metadata(MetadataMatch),
}
