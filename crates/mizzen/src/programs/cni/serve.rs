//! What the agent tells: whether the plugin is installed, and what was done, in numbers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Router, http::StatusCode, routing::get};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;

/// What is counted, by Istio's names.
pub(super) struct Metrics {
    registry: Registry,
    /// Installations, by their result.
    pub(super) installs: IntCounterVec,
    /// Pods that ran without the plugin's work, by what was done about it and its result.
    pub(super) repaired: IntCounterVec,
    /// Whether the plugin is installed.
    ready: IntGauge,
    is_ready: AtomicBool,
}

impl Metrics {
    pub(super) fn new() -> Result<Arc<Metrics>, prometheus::Error> {
        let registry = Registry::new();
        let installs =
            IntCounterVec::new(Opts::new("istio_cni_installs_total", "Installations of the plugin, by their result."), &["result"])?;
        let about = "Pods that started without their capture, by what was done about it and its result.";
        let repaired = IntCounterVec::new(Opts::new("istio_cni_repair_pods_repaired_total", about), &["type", "result"])?;
        let ready = IntGauge::new("istio_cni_install_ready", "Whether the plugin is installed.")?;
        registry.register(Box::new(installs.clone()))?;
        registry.register(Box::new(repaired.clone()))?;
        registry.register(Box::new(ready.clone()))?;
        Ok(Arc::new(Metrics { registry, installs, repaired, ready, is_ready: AtomicBool::new(false) }))
    }

    /// Says whether the plugin is installed; whether that is news.
    pub(super) fn set_ready(&self, ready: bool) -> bool {
        self.ready.set(i64::from(ready));
        self.is_ready.swap(ready, Ordering::Relaxed) != ready
    }

    fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

/// Serves readiness on one listener and metrics on the other for as long as it is polled.
///
/// # Errors
/// If a listener fails.
pub(super) async fn serve(probes: TcpListener, monitoring: TcpListener, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let of_probes = metrics.clone();
    let ready = move || {
        let ready = of_probes.is_ready.load(Ordering::Relaxed);
        std::future::ready(match ready {
            true => (StatusCode::OK, "ready\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "the plugin is not installed: the log says why\n"),
        })
    };
    let alive = || std::future::ready("alive\n");
    let probing = axum::serve(probes, Router::new().route("/readyz", get(ready)).route("/healthz", get(alive)));
    let told = move || std::future::ready(metrics.text());
    let monitored = axum::serve(monitoring, Router::new().route("/metrics", get(told)));
    tokio::try_join!(async { probing.await }, async { monitored.await }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn told() {
        let metrics = Metrics::new().unwrap();
        let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let [probes, monitoring] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let [one, other] = listeners;
        tokio::spawn(serve(one, other, metrics.clone()));
        let options = mizzen_net::ConnectOptions::default();
        let ask = async |address, path: &str| {
            let reply =
                mizzen_net::fetch_tcp(address, http::Method::GET, path, "", std::time::Duration::from_secs(30), &options).await.unwrap();
            (reply.status.as_u16(), String::from_utf8(reply.body.to_vec()).unwrap())
        };
        assert_eq!(ask(probes, "/readyz").await.0, 503);
        assert_eq!(ask(probes, "/healthz").await.0, 200);
        assert!(metrics.set_ready(true) && !metrics.set_ready(true));
        metrics.repaired.with_label_values(&["repair", "success"]).inc();
        assert_eq!(ask(probes, "/readyz").await.0, 200);
        let (_, text) = ask(monitoring, "/metrics").await;
        for line in ["istio_cni_install_ready 1", r#"istio_cni_repair_pods_repaired_total{result="success",type="repair"} 1"#] {
            assert!(text.contains(line), "{text}");
        }
    }
}
