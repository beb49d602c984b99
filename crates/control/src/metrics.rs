//! The control plane's own metrics, under Istio's names.
//!
//! Written by hand, since Istio's counters have no `_total` at their ends and the library insists on it.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The upper bounds of Istio's `pilot_proxy_convergence_time`, in seconds.
const BOUNDS: [f64; 8] = [0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter with one label.
#[derive(Debug, Default)]
pub(crate) struct Family(Mutex<BTreeMap<String, u64>>);

impl Family {
    pub(crate) fn add(&self, label: &str) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match map.get_mut(label) {
            Some(count) => *count += 1,
            None => drop(map.insert(label.to_owned(), 1)),
        }
    }

    fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) pushes: Family,
    pub(crate) rejects: Family,
    pub(crate) stale_nonces: Counter,
    pub(crate) xds_refused: Counter,
    pub(crate) csrs: Counter,
    pub(crate) certificates: Counter,
    pub(crate) authentication_failures: Counter,
    pub(crate) signing_errors: Counter,
    pub(crate) handshake_failures: Counter,
    convergence: Mutex<Histogram>,
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
    pub(crate) memo: usize,
}

impl Metrics {
    /// A change was taken by a proxy so long after it came to be known.
    pub(crate) fn converged(&self, after: Duration) {
        let mut histogram = self.convergence.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = after.as_secs_f64();
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        histogram.count += 1;
        histogram.sum += seconds;
    }

    /// Prometheus' text format.
    pub(crate) fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        let version = [("version", gauges.version.as_str())];
        let build = [("component", "pilot"), ("tag", gauges.version.as_str())];
        one(&mut out, "istio_build", "gauge", "The version of the control plane.", &[(&build, 1)]);
        one(&mut out, "pilot_info", "gauge", "The version of the control plane.", &[(&version, 1)]);
        one(&mut out, "pilot_xds", "gauge", "Proxies that are connected.", &[(&version, gauges.connections as u64)]);
        family(&mut out, "pilot_xds_pushes", "Responses that were sent, by type.", &self.pushes);
        family(&mut out, "pilot_total_xds_rejects", "Responses of which a proxy rejected something, by type.", &self.rejects);
        for (name, kind, help, value) in [
            ("pilot_xds_expired_nonce", "counter", "Answers to responses that are not known any more.", self.stale_nonces.get()),
            ("pilot_total_xds_internal_errors", "counter", "Streams that were refused.", self.xds_refused.get()),
            ("pilot_services", "gauge", "Services that are known.", gauges.services as u64),
            ("pilot_endpoints", "gauge", "Endpoints that are known.", gauges.endpoints as u64),
            ("pilot_virt_services", "gauge", "VirtualServices that are known.", gauges.virtual_services as u64),
            ("mizzen_config_refused", "gauge", "Documents that are refused now.", gauges.refused as u64),
            ("mizzen_resources_built", "counter", "Resources that were built.", gauges.built),
            ("mizzen_resources_shared", "counter", "Resources that were taken from memory instead.", gauges.shared),
            ("mizzen_resources_held", "gauge", "Resources in memory.", gauges.memo as u64),
            ("mizzen_tls_handshake_failures", "counter", "Connections that were not made.", self.handshake_failures.get()),
            ("citadel_server_csr_count", "counter", "Certificate requests.", self.csrs.get()),
            ("citadel_server_success_cert_issuance_count", "counter", "Certificates that were signed.", self.certificates.get()),
            (
                "citadel_server_authentication_failure_count",
                "counter",
                "Certificate requests of callers who proved nothing.",
                self.authentication_failures.get(),
            ),
            ("citadel_server_cert_sign_error_count", "counter", "Certificate requests that were not signed.", self.signing_errors.get()),
            ("citadel_server_root_cert_expiry_timestamp", "gauge", "When the CA ends, in seconds since 1970.", gauges.root_expiry),
        ] {
            one(&mut out, name, kind, help, &[(&[], value)]);
        }
        self.histogram(&mut out);
        out
    }

    fn histogram(&self, out: &mut String) {
        let name = "pilot_proxy_convergence_time";
        let histogram = self.convergence.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(out, "# HELP {name} Seconds from a change to its being taken by a proxy.\n# TYPE {name} histogram");
        for (bound, bucket) in BOUNDS.iter().zip(histogram.buckets) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {bucket}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {0}\n{name}_sum {1}\n{name}_count {0}", histogram.count, histogram.sum);
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

fn one(out: &mut String, name: &str, kind: &str, help: &str, values: &[(Labels<'_>, u64)]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

fn family(out: &mut String, name: &str, help: &str, family: &Family) {
    let all = family.all();
    let labels: Vec<[(&str, &str); 1]> = all.keys().map(|label| [("type", label.as_str())]).collect();
    let values: Vec<(Labels<'_>, u64)> = labels.iter().zip(all.values()).map(|(l, v)| (&l[..], *v)).collect();
    one(out, name, "counter", help, &values);
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let metrics = Metrics::default();
        metrics.pushes.add("cds");
        metrics.pushes.add("cds");
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
            memo: 0,
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
