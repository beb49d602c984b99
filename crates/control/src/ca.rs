//! The CA's service: a certificate for whoever has proved an identity, for that identity, whatever the request wishes.

use std::{sync::Arc, time::Duration};

use mizzen_pki::{Ca, UnixTime};
use mizzen_protos::ca::{IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{authn::Authenticator, listener::Caller, metrics::Metrics};

/// What a caller may not ask for: another's identity.
const IMPERSONATION: &str = "ImpersonatedIdentity";

/// The mesh's CA: in a cluster its Secret may hold another one some day.
pub(crate) type Authority = watch::Receiver<Arc<Ca>>;

pub(crate) struct CaService {
    pub(crate) ca: Authority,
    pub(crate) authenticator: Authenticator,
    pub(crate) ttl: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

impl CaService {
    fn lifetime(&self, wished: i64) -> Duration {
        match u64::try_from(wished) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds).min(self.ttl),
            _ => self.ttl,
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(&self, request: Request<IstioCertificateRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csrs.inc();
        let caller = request.extensions().get::<Caller>();
        let proved = self.authenticator.authenticate(caller, request.metadata()).await.inspect_err(|status| {
            self.metrics.authentication_failures.inc();
            tracing::warn!(peer = ?caller.map(|c| c.address), reason = status.message(), "certificate refused");
        })?;
        let id = proved.identity;
        let request = request.into_inner();
        if request.metadata.as_ref().is_some_and(|m| m.fields.contains_key(IMPERSONATION)) {
            return Err(Status::permission_denied("no workload may ask for the certificate of another one"));
        }
        let ttl = self.lifetime(request.validity_duration);
        let ca = self.ca.borrow().clone();
        let chain = ca.sign_csr(&request.csr, &id, ttl, UnixTime::now()).map_err(|error| {
            self.metrics.signing_errors.inc();
            tracing::warn!(%id, %error, "certificate refused");
            Status::invalid_argument(error.to_string())
        })?;
        self.metrics.certificates.inc();
        tracing::info!(%id, ttl = ttl.as_secs(), "certificate signed");
        Ok(Response::new(IstioCertificateResponse { cert_chain: chain }))
    }
}
