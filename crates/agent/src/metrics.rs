//! The agent's own counters.

use std::sync::atomic::{AtomicU64, Ordering};

use mizzen_pki::Validity;
use prometheus::{IntCounter, IntGauge, Opts, Registry, TextEncoder, core::Collector};

/// What the agent counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) dns_requests: IntCounter,
    pub(crate) dns_upstream_requests: IntCounter,
    pub(crate) dns_upstream_failures: IntCounter,
    pub(crate) dns_failures: IntCounter,
    pub(crate) certificate_failures: IntCounter,
    pub(crate) xds_connections: IntCounter,
    pub(crate) xds_failures: IntCounter,
    pub(crate) program_scrape_failures: IntCounter,
    certificates: IntCounter,
    cert_expiry: IntGauge,
    not_after: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter =
            |name: &str, help: &str| register(&registry, IntCounter::with_opts(Opts::new(format!("istio_agent_{name}_total"), help)));
        let expiry = Opts::new("istio_agent_cert_expiry_seconds", "Seconds until the certificate ends.");
        Metrics {
            dns_requests: counter("dns_requests", "Questions that were asked."),
            dns_upstream_requests: counter("dns_upstream_requests", "Questions that were asked of others."),
            dns_upstream_failures: counter("dns_upstream_failures", "Questions that no other server answered."),
            dns_failures: counter("dns_failures", "Questions that were answered by a failure."),
            certificate_failures: counter("certificate_failures", "Certificates that were not obtained."),
            xds_connections: counter("xds_connections", "Streams that the proxy opened."),
            xds_failures: counter("xds_connection_failures", "Streams that the control plane ended by an error."),
            program_scrape_failures: counter("scrape_failures", "Times that the program did not tell its metrics."),
            certificates: counter("certificates", "Certificates that were obtained."),
            cert_expiry: register(&registry, IntGauge::with_opts(expiry.const_label("resource_name", crate::DEFAULT_SECRET))),
            not_after: AtomicU64::new(0),
            registry,
        }
    }
}

/// Only names that are no names, or are there twice, are refused: all of them are fixed.
fn register<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
    let registered = made.and_then(|made| registry.register(Box::new(made.clone())).map(|()| made));
    registered.unwrap_or_else(|error| unreachable!("a fixed name: {error}"))
}

impl Metrics {
    /// Notes a new certificate.
    pub(crate) fn certificate(&self, validity: Validity) {
        self.certificates.inc();
        self.not_after.store(validity.not_after.as_secs(), Ordering::Relaxed);
    }

    /// In Prometheus' text format.
    pub(crate) fn render(&self, now: u64) -> String {
        let left = self.not_after.load(Ordering::Relaxed).saturating_sub(now);
        self.cert_expiry.set(left.try_into().unwrap_or(i64::MAX));
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
