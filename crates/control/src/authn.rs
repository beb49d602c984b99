//! Who calls: by the certificate of the connection, by a token in the call's metadata, or by both if they agree.

use std::sync::Arc;

use mizzen_pki::UnixTime;
use mizzen_types::{SpiffeId, TrustDomain};
use tonic::{Status, metadata::MetadataMap};

use crate::{
    kube::Reviewer,
    listener::Caller,
    token::{CA_AUDIENCE, TokenError, Tokens, Workload},
};

/// Who says whom a token speaks for.
#[derive(Clone)]
pub(crate) enum Judge {
    /// The control plane itself, which has signed it.
    Own(Arc<Tokens>),
    /// The API server of the cluster.
    Cluster(Reviewer),
}

impl Judge {
    async fn verify(&self, token: &str) -> Result<(Workload, UnixTime), TokenError> {
        match self {
            Judge::Own(tokens) => tokens.verify(token, CA_AUDIENCE),
            Judge::Cluster(reviewer) => reviewer.verify(token).await,
        }
    }
}

/// Judges what callers show. The CA and the discovery service ask the same one: a token that is good for a certificate is good for what that
/// certificate is good for.
#[derive(Clone)]
pub(crate) struct Authenticator {
    pub(crate) judge: Judge,
    pub(crate) trust_domain: TrustDomain,
}

/// A caller that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proved {
    pub(crate) identity: SpiffeId,
    /// Until when the proof is good.
    pub(crate) until: Option<UnixTime>,
}

impl Authenticator {
    /// Who calls.
    pub(crate) async fn authenticate(&self, caller: Option<&Caller>, metadata: &MetadataMap) -> Result<Proved, Status> {
        let certified = caller.and_then(|c| Some(Proved { identity: c.identity.clone()?, until: c.until }));
        let Some(header) = metadata.get("authorization") else {
            return certified.ok_or_else(|| Status::unauthenticated("neither a client certificate of this mesh nor a workload token"));
        };
        let token = header.to_str().ok().and_then(bearer).ok_or_else(|| Status::unauthenticated("`authorization` is no bearer token"))?;
        let (who, until) = self.judge.verify(token).await.map_err(|error| match error {
            // Whoever calls may try again.
            TokenError::Unjudged(_) => Status::unavailable(error.to_string()),
            error => Status::unauthenticated(error.to_string()),
        })?;
        let identity = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: who.namespace.into(),
            service_account: who.service_account.into(),
        };
        match certified {
            Some(other) if other.identity != identity => {
                Err(Status::unauthenticated("the client certificate and the token are of different identities"))
            }
            Some(certified) => Ok(certified),
            None => Ok(Proved { identity, until: Some(until) }),
        }
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
