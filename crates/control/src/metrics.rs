//! The control plane's own metrics, under Istio's names.

use std::{collections::BTreeMap, time::Duration};

use mizzen_api::Kind;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

use crate::names;

/// The upper bounds of Istio's `pilot_proxy_convergence_time`, in seconds.
const BOUNDS: [f64; 8] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// The upper bounds of Istio's `pilot_xds_config_size_bytes`.
const SIZES: [f64; 6] = [1.0, 10_000.0, 1_000_000.0, 4_000_000.0, 10_000_000.0, 40_000_000.0];

/// The upper bounds of Istio's times of pushes, in seconds.
const TIMES: [f64; 8] = [0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// The types that have a gauge of their own for what proxies reject.
const REJECTED: [&str; 4] = ["cds", "eds", "lds", "rds"];

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// By type.
    pub(crate) pushes: IntCounterVec,
    /// By type.
    rejects: IntCounterVec,
    rejects_of_type: [IntGauge; 4],
    pub(crate) write_timeouts: IntCounter,
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
    push: HistogramVec,
    send: Histogram,
    debounce: Histogram,
    snapshot: Histogram,
    /// By type and event.
    config_events: IntCounterVec,
    registry_events: IntCounterVec,
    /// By type.
    refused: IntCounterVec,
}

/// What is looked up when somebody asks.
#[derive(Debug, Default)]
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
    pub(crate) uptime: Duration,
    /// How many proxies have something due or unanswered, and for how long the one that waits longest.
    pub(crate) behind: usize,
    pub(crate) longest: Duration,
    /// What analysis says, by code and level.
    pub(crate) messages: BTreeMap<(&'static str, &'static str), u64>,
    /// Whether it is the one of a cluster's control planes that writes; of none where there are no others.
    pub(crate) leads: Option<bool>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let one = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let by_type = |name: &str, help: &str| register(&registry, IntCounterVec::new(Opts::new(name, help), &["type"]));
        let times = |name: &str, help: &str, bounds: &[f64]| HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let time = |name: &str, help: &str, bounds: &[f64]| register(&registry, Histogram::with_opts(times(name, help, bounds)));
        let times_by_type =
            |name: &str, help: &str, bounds: &[f64]| register(&registry, HistogramVec::new(times(name, help, bounds), &["type"]));
        let events = |name: &str, help: &str| register(&registry, IntCounterVec::new(Opts::new(name, help), &["type", "event"]));
        let rejects_of = |kind: &str| {
            let help = format!("Responses of {kind} of which a proxy rejected something.");
            register(&registry, IntGauge::new(format!("pilot_xds_{kind}_reject"), help))
        };
        Metrics {
            pushes: by_type("pilot_xds_pushes", "Responses that were sent, by type."),
            rejects: by_type("pilot_total_xds_rejects", "Responses of which a proxy rejected something, by type."),
            rejects_of_type: REJECTED.map(rejects_of),
            write_timeouts: one("pilot_xds_write_timeout", "Responses that a proxy did not take in time."),
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
            convergence: time("pilot_proxy_convergence_time", "Seconds from a change to its being taken by a proxy.", &BOUNDS),
            queue: time("pilot_proxy_queue_time", "Seconds that a change has waited for its proxy's turn.", &BOUNDS),
            size: times_by_type("pilot_xds_config_size_bytes", "Bytes of configuration in a response, by type.", &SIZES),
            push: times_by_type(
                "pilot_xds_push_time",
                "Seconds from the begin of a push to its response of a type being handed over.",
                &TIMES,
            ),
            send: time("pilot_xds_send_time", "Seconds until a stream has taken a response.", &TIMES),
            debounce: time("pilot_debounce_time", "Seconds that the first of several changes has waited for the others.", &TIMES),
            snapshot: time("pilot_pushcontext_init_seconds", "Seconds to make a snapshot and to find what it changes.", &TIMES),
            config_events: events("pilot_k8s_cfg_events", "Istio's objects that came, changed or went."),
            registry_events: events("pilot_k8s_reg_events", "Services and pods that came, changed or went."),
            refused: by_type("pilot_total_rejected_configs", "Documents that were refused, by type."),
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

    /// A response of so many bytes was sent, so long after its push began and after it was made.
    pub(crate) fn sent(&self, kind: &str, bytes: usize, push: Duration, send: Duration) {
        self.size.with_label_values(&[kind]).observe(bytes as f64);
        self.push.with_label_values(&[kind]).observe(push.as_secs_f64());
        self.send.observe(send.as_secs_f64());
    }

    /// A proxy rejected something of a response.
    pub(crate) fn rejected(&self, kind: &str) {
        self.rejects.with_label_values(&[kind]).inc();
        if let Some((_, gauge)) = REJECTED.iter().zip(&self.rejects_of_type).find(|(of, _)| **of == kind) {
            gauge.inc();
        }
    }

    /// A snapshot was made, of changes of which the first has waited so long.
    pub(crate) fn published(&self, gathered: Duration, made: Duration) {
        self.debounce.observe(gathered.as_secs_f64());
        self.snapshot.observe(made.as_secs_f64());
    }

    /// An object came (`add`), changed (`update`) or went (`delete`).
    pub(crate) fn event(&self, kind: Kind, event: &str) {
        match kind {
            Kind::Service => self.registry_events.with_label_values(&["Services", event]).inc(),
            Kind::Pod => self.registry_events.with_label_values(&["Pods", event]).inc(),
            Kind::EndpointSlice => self.registry_events.with_label_values(&["EndpointSlice", event]).inc(),
            Kind::Namespace | Kind::ServiceAccount | Kind::Deployment | Kind::ConfigMap | Kind::Secret | Kind::MeshConfig => {}
            _ => self.config_events.with_label_values(&[&*kind.to_string(), event]).inc(),
        }
    }

    /// A document was refused.
    pub(crate) fn refused(&self, kind: Option<Kind>) {
        let kind = kind.map_or_else(|| "unknown".to_owned(), |kind| kind.to_string());
        self.refused.with_label_values(&[kind]).inc();
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
            ("xds_cache_size", "Resources in memory.", self.memo as u64),
            ("mizzen_proxies_waiting", "Proxies to which something is due, or that have not answered something.", self.behind as u64),
            ("mizzen_first_syncs_waiting", "Proxies that wait for their first configuration.", self.waiting as u64),
            ("citadel_server_root_cert_expiry_timestamp", "When the CA ends, in seconds since 1970.", self.root_expiry),
        ] {
            gauge(Opts::new(name, help), value);
        }
        for (name, help, value) in [
            ("istiod_uptime_seconds", "For how long it runs.", self.uptime),
            ("mizzen_proxy_longest_wait_seconds", "For how long the change waits that waits longest for its proxy.", self.longest),
        ] {
            register(&registry, Gauge::with_opts(Opts::new(name, help))).set(value.as_secs_f64());
        }
        if let Some(leads) = self.leads {
            let status = Opts::new("leader_election_master_status", "Whether this control plane is the one that writes into the cluster.");
            gauge(status.const_label("name", names::LEASE), leads.into());
        }
        let said = Opts::new("mizzen_analysis_messages", "What is to be said of the configuration now, by code and level.");
        let said = register(&registry, IntGaugeVec::new(said, &["code", "level"]));
        for ((code, level), count) in &self.messages {
            said.with_label_values(&[code, level]).set((*count).try_into().unwrap_or(i64::MAX));
        }
        let reads = Opts::new("xds_cache_reads", "Resources that were asked for, by whether they were in memory.");
        let reads = register(&registry, IntCounterVec::new(reads, &["type"]));
        reads.with_label_values(&["hit"]).inc_by(self.shared);
        reads.with_label_values(&["miss"]).inc_by(self.built);
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
        metrics.sent("cds", 20_000, Duration::from_millis(50), Duration::from_millis(5));
        metrics.published(Duration::from_millis(20), Duration::from_millis(2));
        metrics.rejected("eds");
        metrics.rejected("nds");
        let gauges = Gauges {
            version: "1\"2".into(),
            connections: 3,
            built: 2,
            shared: 6,
            uptime: Duration::from_millis(1500),
            behind: 2,
            longest: Duration::from_millis(250),
            leads: Some(true),
            ..Gauges::default()
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
            "pilot_xds_push_time_bucket{type=\"cds\",le=\"0.1\"} 1",
            "pilot_xds_send_time_bucket{le=\"0.01\"} 1",
            "pilot_xds_config_size_bytes_sum{type=\"cds\"} 20000",
            "pilot_debounce_time_bucket{le=\"0.1\"} 1",
            "pilot_pushcontext_init_seconds_bucket{le=\"0.01\"} 1",
            "pilot_total_xds_rejects{type=\"eds\"} 1",
            "pilot_total_xds_rejects{type=\"nds\"} 1",
            "pilot_xds_eds_reject 1",
            "pilot_xds_cds_reject 0",
            "pilot_xds_write_timeout 0",
            "xds_cache_reads{type=\"hit\"} 6",
            "xds_cache_reads{type=\"miss\"} 2",
            "istiod_uptime_seconds 1.5",
            "mizzen_proxies_waiting 2",
            "mizzen_proxy_longest_wait_seconds 0.25",
            "leader_election_master_status{name=\"istio-leader\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!metrics.render(&Gauges::default()).contains("leader_election"), "nobody is elected where there are no others");
    }
}
