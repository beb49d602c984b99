//! The agent's own counters.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use mizzen_pki::Validity;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the agent counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) dns_requests: Counter,
    pub(crate) dns_upstream_requests: Counter,
    pub(crate) dns_upstream_failures: Counter,
    pub(crate) dns_failures: Counter,
    pub(crate) certificate_failures: Counter,
    pub(crate) xds_connections: Counter,
    pub(crate) xds_failures: Counter,
    certificates: Counter,
    not_after: AtomicU64,
}

impl Metrics {
    /// Notes a new certificate.
    pub(crate) fn certificate(&self, validity: Validity) {
        self.certificates.add();
        self.not_after.store(validity.not_after.as_secs(), Ordering::Relaxed);
    }

    /// In Prometheus' text format.
    pub(crate) fn render(&self, now: u64) -> String {
        let left = self.not_after.load(Ordering::Relaxed).saturating_sub(now);
        let mut text = format!(
            "# TYPE istio_agent_cert_expiry_seconds gauge\nistio_agent_cert_expiry_seconds{{resource_name=\"{}\"}} {left}\n",
            crate::DEFAULT_SECRET
        );
        for (name, counter) in [
            ("istio_agent_dns_requests_total", &self.dns_requests),
            ("istio_agent_dns_upstream_requests_total", &self.dns_upstream_requests),
            ("istio_agent_dns_upstream_failures_total", &self.dns_upstream_failures),
            ("istio_agent_dns_failures_total", &self.dns_failures),
            ("istio_agent_certificates_total", &self.certificates),
            ("istio_agent_certificate_failures_total", &self.certificate_failures),
            ("istio_agent_xds_connections_total", &self.xds_connections),
            ("istio_agent_xds_connection_failures_total", &self.xds_failures),
        ] {
            let _ = writeln!(text, "# TYPE {name} counter\n{name} {}", counter.get());
        }
        text
    }
}
