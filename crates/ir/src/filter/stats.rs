//! Istio's metrics.

use std::sync::Arc;
use std::time::Duration;

use mizzen_types::Name;

use super::payload::Json;
use crate::compile::cx::{Cx, Res, name};

pub(super) const TYPE: &str = "stats.PluginConfig";

/// Istio's metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatsConfig {
    /// Whether the destination service is unknown where only the host header names it.
    pub disable_host_header_fallback: bool,
    /// How often an open TCP connection is reported.
    pub tcp_reporting: Option<Duration>,
    /// Metrics that are not kept, by their name without `istio_`; `*` for all.
    pub dropped_metrics: Arc<[Name]>,
    /// Tags that are not kept: the metric's name (`*` for all) and the tag's.
    pub dropped_tags: Arc<[(Name, Name)]>,
}

/// Istio's metrics, for HTTP and TCP.
pub(crate) fn compile(cx: &mut Cx, mut json: Json) -> Res<StatsConfig> {
    let tcp_reporting = match json.text("tcp_reporting_duration") {
        None => None,
        Some(text) => {
            let seconds = text.strip_suffix('s').and_then(|s| s.parse::<f64>().ok());
            let duration = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
            Some(duration.ok_or_else(|| cx.bad("tcp_reporting_duration", format!("`{text}` is not a duration")))?)
        }
    };
    let disable_host_header_fallback = json.flag("disable_host_header_fallback");
    let (mut metrics, mut tags) = (Vec::new(), Vec::new());
    for mut metric in json.objects("metrics") {
        let title = metric.text("name").unwrap_or_default();
        let title = name(if title.is_empty() { "*" } else { &title });
        if metric.has("match") {
            cx.warn("metrics.match", "the override is left out: its condition is not evaluated");
            continue;
        }
        if metric.flag("drop") {
            metrics.push(title.clone());
        }
        tags.extend(metric.texts("tags_to_remove").into_iter().map(|tag| (title.clone(), tag)));
        cx.within("metrics", |cx| {
            metric.rest(cx);
            Ok(())
        })?;
    }
    json.rest(cx);
    Ok(StatsConfig { disable_host_header_fallback, tcp_reporting, dropped_metrics: metrics.into(), dropped_tags: tags.into() })
}
