//! The control plane's own metrics, under Istio's names.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

/// The upper bounds of Istio's `pilot_proxy_convergence_time`, in seconds.
const BOUNDS: [f64; 8] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// The upper bounds of Istio's `pilot_xds_config_size_bytes`.
const SIZES: [f64; 6] = [1.0, 10_000.0, 1_000_000.0, 4_000_000.0, 10_000_000.0, 40_000_000.0];

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// By type.
    pub(crate) pushes: IntCounterVec,
    /// By type.
    pub(crate) rejects: IntCounterVec,
    pub(crate) stale_nonces: IntCounter,
    pub(crate) xds_refused: IntCounter,
    pub(crate) csrs: IntCounter,
    pub(crate) certificates: IntCounter,
    pub(crate) authentication_failures: IntCounter,
    pub(crate) signing_errors: IntCounter,
    pub(crate) handshake_failures: IntCounter,
    convergence: Histogram,
    queue: Histogram,
    size: HistogramVec,
}

/// What is looked up when somebody asks.
pub(crate) struct Gauges {
    pub(crate) version: String,
    pub(crate) connections: usize,
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) virtual_services: usize,
    pub(crate) refused: usize,
    pub(crate) root_expiry: u64,
    pub(crate) built: u64,
    pub(crate) shared: u64,
    pub(crate) asked_again: u64,
    pub(crate) memo: usize,
    pub(crate) waiting: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let one = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let by_type = |name: &str, help: &str| register(&registry, IntCounterVec::new(Opts::new(name, help), &["type"]));
        let convergence = HistogramOpts::new("pilot_proxy_convergence_time", "Seconds from a change to its being taken by a proxy.");
        let queue = HistogramOpts::new("pilot_proxy_queue_time", "Seconds that a change has waited for its proxy's turn.");
        let size = HistogramOpts::new("pilot_xds_config_size_bytes", "Bytes of configuration in a response, by type.");
        Metrics {
            pushes: by_type("pilot_xds_pushes", "Responses that were sent, by type."),
            rejects: by_type("pilot_total_xds_rejects", "Responses of which a proxy rejected something, by type."),
            stale_nonces: one("pilot_xds_expired_nonce", "Answers to responses that are not known any more."),
            xds_refused: one("pilot_total_xds_internal_errors", "Streams that were refused."),
            csrs: one("citadel_server_csr_count", "Certificate requests."),
            certificates: one("citadel_server_success_cert_issuance_count", "Certificates that were signed."),
            authentication_failures: one(
                "citadel_server_authentication_failure_count",
                "Certificate requests of callers who proved nothing.",
            ),
            signing_errors: one("citadel_server_cert_sign_error_count", "Certificate requests that were not signed."),
            handshake_failures: one("mizzen_tls_handshake_failures", "Connections that were not made."),
            convergence: register(&registry, Histogram::with_opts(convergence.buckets(BOUNDS.to_vec()))),
            queue: register(&registry, Histogram::with_opts(queue.buckets(BOUNDS.to_vec()))),
            size: register(&registry, HistogramVec::new(size.buckets(SIZES.to_vec()), &["type"])),
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
    /// A change was taken by a proxy so long after it came to be known.
    pub(crate) fn converged(&self, after: Duration) {
        self.convergence.observe(after.as_secs_f64());
    }

    /// A change has waited so long before it was sent.
    pub(crate) fn queued(&self, waited: Duration) {
        self.queue.observe(waited.as_secs_f64());
    }

    /// A response of so many bytes was sent.
    pub(crate) fn sent(&self, kind: &str, bytes: usize) {
        self.size.with_label_values(&[kind]).observe(bytes as f64);
    }

    /// Prometheus' text format.
    pub(crate) fn render(&self, gauges: &Gauges) -> String {
        let now = gauges.registry();
        TextEncoder::new().encode_to_string(&[now.gather(), self.registry.gather()].concat()).unwrap_or_default()
    }
}

impl Gauges {
    fn registry(&self) -> Registry {
        let registry = Registry::new();
        let gauge = |opts: Opts, value: u64| register(&registry, IntGauge::with_opts(opts)).set(value.try_into().unwrap_or(i64::MAX));
        let version = |name, help| Opts::new(name, help).const_label("version", &self.version);
        let build = Opts::new("istio_build", "The version of the control plane.");
        gauge(build.const_label("component", "pilot").const_label("tag", &self.version), 1);
        gauge(version("pilot_info", "The version of the control plane."), 1);
        gauge(version("pilot_xds", "Proxies that are connected."), self.connections as u64);
        for (name, help, value) in [
            ("pilot_services", "Services that are known.", self.services as u64),
            ("pilot_endpoints", "Endpoints that are known.", self.endpoints as u64),
            ("pilot_virt_services", "VirtualServices that are known.", self.virtual_services as u64),
            ("mizzen_config_refused", "Documents that are refused now.", self.refused as u64),
            ("mizzen_resources_held", "Resources in memory.", self.memo as u64),
            ("mizzen_first_syncs_waiting", "Proxies that wait for their first configuration.", self.waiting as u64),
            ("citadel_server_root_cert_expiry_timestamp", "When the CA ends, in seconds since 1970.", self.root_expiry),
        ] {
            gauge(Opts::new(name, help), value);
        }
        for (name, help, value) in [
            ("mizzen_resources_built", "Resources that were built.", self.built),
            ("mizzen_resources_shared", "Resources that were taken from memory instead.", self.shared),
            ("mizzen_resources_asked_again", "Resources of which a change touched something that they had asked about.", self.asked_again),
        ] {
            register(&registry, IntCounter::new(name, help)).inc_by(value);
        }
        registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let metrics = Metrics::default();
        metrics.pushes.with_label_values(&["cds"]).inc();
        metrics.pushes.with_label_values(&["cds"]).inc();
        metrics.converged(Duration::from_millis(200));
        let gauges = Gauges {
            version: "1\"2".into(),
            connections: 3,
            services: 0,
            endpoints: 0,
            virtual_services: 0,
            refused: 0,
            root_expiry: 0,
            built: 0,
            shared: 0,
            asked_again: 0,
            memo: 0,
            waiting: 0,
        };
        let text = metrics.render(&gauges);
        for line in [
            "# TYPE pilot_xds_pushes counter",
            "pilot_xds_pushes{type=\"cds\"} 2",
            "pilot_xds{version=\"1\\\"2\"} 3",
            "pilot_proxy_convergence_time_bucket{le=\"0.1\"} 0",
            "pilot_proxy_convergence_time_bucket{le=\"0.5\"} 1",
            "pilot_proxy_convergence_time_bucket{le=\"+Inf\"} 1",
            "citadel_server_csr_count 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
