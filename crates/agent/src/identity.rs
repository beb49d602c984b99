//! The workload's certificate: obtained, kept in memory, renewed.

use std::sync::Arc;
use std::time::Duration;

use mizzen_net::Backoff;
use mizzen_pki::{CertificateDer, KeyPair, PkiError, Svid, TrustBundle, UnixTime};
use mizzen_protos::ca::IstioCertificateRequest;
use mizzen_protos::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataValue;
use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::token::TokenError;
use crate::upstream::{DialError, dial, roots};
use crate::{Options, TokenSource};

/// What a workload is known by, and whom it believes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Chain and key. The chain ends before the root.
    pub svid: Svid,
    /// The roots: those that came with the certificate, and those of the root file.
    pub trust: TrustBundle,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The CA said no.
    #[error("the CA refused: {}", .0.message())]
    Refused(Box<Status>),
    /// What the CA sent cannot be used.
    #[error("the CA's answer: {0}")]
    Answer(#[from] PkiError),
    /// The CA gave another identity than this workload's.
    #[error("the CA gave the identity {got}, expected was {expected}")]
    Foreign {
        /// What it gave.
        got: String,
        /// What it should have given.
        expected: String,
    },
    /// The certificate has expired already, or will only become valid.
    #[error("the CA gave a certificate that is not valid now; the clocks differ")]
    NotValid,
}

/// How often the root file is looked at while nothing else happens.
const ROOT_CHECK: Duration = Duration::from_secs(5);
/// The longest wait between attempts while there is no valid certificate.
const HURRY: Duration = Duration::from_secs(2);
/// The first and the longest wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
const CALL: Duration = Duration::from_secs(20);

/// Obtains a certificate, and renews it, for ever. Failures are retried; while an old certificate is valid nobody notices.
pub(crate) async fn keep(options: Arc<Options>, metrics: Arc<Metrics>, identity: watch::Sender<Option<Identity>>) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let current = identity.borrow().clone();
        match obtain(&options, current.as_ref()).await {
            Ok(new) => {
                backoff.reset();
                let validity = new.svid.validity();
                let wait = (options.renewal)(&validity, options.now(), fastrand::f64());
                info!(serial = new.svid.serial(), not_after = validity.not_after.as_secs(), renewal_in = ?wait, "certificate obtained");
                metrics.certificate(validity);
                identity.send_replace(Some(new));
                rest(&options, &identity, wait).await;
            }
            Err(error) => {
                metrics.certificate_failures.inc();
                let left = current.map_or(Duration::ZERO, |h| h.svid.validity().remaining(options.now()));
                // With seconds left, try at least a few times in them; with none, nothing works until it succeeds.
                let most = if left.is_zero() { HURRY } else { left / 8 };
                let wait = backoff.spread_wait(most.max(FIRST_WAIT));
                warn!(%error, retry_in = ?wait, certificate_left = ?left, "no new certificate");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Waits for the time of renewal; meanwhile new roots in the root file are believed at once.
async fn rest(options: &Options, identity: &watch::Sender<Option<Identity>>, wait: Duration) {
    let until = tokio::time::Instant::now() + wait;
    loop {
        let next = until.min(tokio::time::Instant::now() + ROOT_CHECK);
        tokio::time::sleep_until(next).await;
        if next == until {
            return;
        }
        if let Ok(file) = roots(options).await {
            identity.send_if_modified(|current| {
                let Some(current) = current else { return false };
                let before = current.trust.roots().len();
                current.trust.merge(&file);
                current.trust.roots().len() != before
            });
        }
    }
}

/// One new certificate with a new key: by the old certificate if it is valid, else, or if that fails, by a token.
async fn obtain(options: &Options, current: Option<&Identity>) -> Result<Identity, IdentityError> {
    let now = options.now();
    let by_certificate = current.map(|h| &h.svid).filter(|svid| svid.validity().contains(now));
    if let Some(svid) = by_certificate {
        match request(options, Some(svid), None).await {
            Ok(identity) => return Ok(identity),
            // Nobody was there to refuse it; who gives tokens may be waiting for the same control plane.
            Err(IdentityError::Dial(error)) if error.is_away() => return Err(error.into()),
            Err(error) => info!(%error, "renewal by certificate failed, trying a token"),
        }
    }
    request(options, None, Some(&options.token)).await
}

async fn request(options: &Options, svid: Option<&Svid>, token: Option<&TokenSource>) -> Result<Identity, IdentityError> {
    let key = KeyPair::generate()?;
    let message = IstioCertificateRequest {
        csr: key.csr(Some(&options.identity()))?,
        validity_duration: i64::try_from(options.certificate_ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: None,
    };
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL);
    if let Some(token) = token {
        let mut header: MetadataValue<_> = format!("Bearer {}", token.fetch().await?).parse().map_err(|_| TokenError::Invalid)?;
        header.set_sensitive(true);
        request.metadata_mut().insert("authorization", header);
    }
    let mut client = IstioCertificateServiceClient::new(dial(options, &options.ca, svid).await?);
    let call = tokio::time::timeout(CALL, client.create_certificate(request)).await;
    let response = call.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
    let chain = response.map_err(|status| IdentityError::Refused(Box::new(status)))?.into_inner().cert_chain;
    accept(options, &chain, &key, roots(options).await?, options.now())
}

/// Checks what the CA has sent: it must be this workload's, valid, and for this key.
fn accept(options: &Options, chain: &[String], key: &KeyPair, mut trust: TrustBundle, now: UnixTime) -> Result<Identity, IdentityError> {
    let all = Svid::from_chain(chain, key)?;
    let expected = options.identity();
    // The trust domain is the CA's to say: under another control plane it may differ from what was configured here.
    if all.identity().is_none_or(|id| (&id.namespace, &id.service_account) != (&expected.namespace, &expected.service_account)) {
        return Err(IdentityError::Foreign { got: all.facts().uris.join(", "), expected: expected.to_string() });
    }
    if !all.validity().contains(now) {
        return Err(IdentityError::NotValid);
    }
    let (roots, rest): (Vec<_>, Vec<_>) = all.chain().iter().cloned().partition(is_root);
    for root in roots {
        trust.add(root)?;
    }
    // Peers have the root; sending it with each handshake would only cost bytes.
    let svid = Svid::from_certificates(rest, key)?;
    Ok(Identity { svid, trust })
}

fn is_root(der: &CertificateDer<'static>) -> bool {
    mizzen_pki::facts(der).is_ok_and(|facts| facts.is_ca && facts.subject == facts.issuer)
}
