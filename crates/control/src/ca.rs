//! The CA's service: a certificate for whoever has proved an identity, for that identity, whatever the request wishes.

use std::{sync::Arc, time::Duration};

use mizzen_pki::{Ca, UnixTime};
use mizzen_protos::ca::{IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService};
use mizzen_types::{SpiffeId, TrustDomain};
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    listener::Caller,
    metrics::Metrics,
    token::{CA_AUDIENCE, Tokens},
};

/// What a caller may not ask for: another's identity.
const IMPERSONATION: &str = "ImpersonatedIdentity";

pub(crate) struct CaService {
    pub(crate) ca: Arc<Ca>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) ttl: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl CaService {
    /// Who calls: by certificate, by token, or by both if they agree.
    fn authenticate(&self, caller: Option<&Caller>, metadata: &MetadataMap) -> Result<SpiffeId, Status> {
        let certified = caller.and_then(|c| c.identity.clone());
        let Some(header) = metadata.get("authorization") else {
            return certified.ok_or_else(|| Status::unauthenticated("neither a client certificate nor a workload token"));
        };
        let token = header.to_str().ok().and_then(bearer).ok_or_else(|| Status::unauthenticated("`authorization` is no bearer token"))?;
        let who = self.tokens.verify(token, CA_AUDIENCE).map_err(|e| Status::unauthenticated(e.to_string()))?;
        let id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: who.namespace.into(),
            service_account: who.service_account.into(),
        };
        match certified {
            Some(other) if other != id => Err(Status::unauthenticated("the client certificate and the token are of different identities")),
            _ => Ok(id),
        }
    }

    fn lifetime(&self, wished: i64) -> Duration {
        match u64::try_from(wished) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(self.ttl),
            _ => self.ttl,
        }
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csrs.add();
        let caller = request.extensions().get::<Caller>();
        let id = self.authenticate(caller, request.metadata()).inspect_err(|status| {
            self.metrics.authentication_failures.add();
            tracing::warn!(peer = ?caller.map(|c| c.address), reason = status.message(), "certificate refused");
        })?;
        let request = request.into_inner();
        if request.metadata.as_ref().is_some_and(|m| m.fields.contains_key(IMPERSONATION)) {
            return Err(Status::permission_denied("no workload may ask for the certificate of another one"));
        }
        let ttl = self.lifetime(request.validity_duration);
        let chain = self.ca.sign_csr(&request.csr, &id, ttl, UnixTime::now()).map_err(|error| {
            self.metrics.signing_errors.add();
            tracing::warn!(%id, %error, "certificate refused");
            Status::invalid_argument(error.to_string())
        })?;
        self.metrics.certificates.add();
        tracing::info!(%id, ttl = ttl.as_secs(), "certificate signed");
        Ok(Response::new(IstioCertificateResponse { cert_chain: chain }))
    }
}
