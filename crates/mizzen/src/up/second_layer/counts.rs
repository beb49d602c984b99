//! What the second layer has refused, by workload: for metrics, for the command line, and a line for each that is new.

use std::{collections::BTreeMap, net::Ipv4Addr};

use mizzen_capture::{Attempt, Refused};
use prometheus::{IntCounterVec, Opts, Registry, TextEncoder};
use serde::{Deserialize, Serialize};

use super::plan::Pods;

/// So many different calls are told apart. A program that tries all ports of all addresses is counted all the same.
const MAX_ROWS: usize = 1_000;
/// In a metric, who is no pod of the mesh, as Istio has it.
const UNKNOWN: &str = "unknown";

/// Calls of one workload to one destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Call {
    /// `NAMESPACE/WORKLOAD`, or an address.
    pub(crate) source: String,
    /// Likewise.
    pub(crate) destination: String,
    /// The port.
    pub(crate) port: u16,
}

/// A line of what was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What was tried.
    #[serde(flatten)]
    pub(crate) call: Call,
    /// How often.
    pub(crate) refused: u64,
}

/// All that was refused.
#[derive(Debug)]
pub(super) struct Counts {
    registry: Registry,
    refused: IntCounterVec,
    rows: BTreeMap<Call, u64>,
    /// What the router's present rules had refused when they were asked last.
    last: Refused,
}

impl Counts {
    pub(super) fn new() -> Result<Counts, prometheus::Error> {
        let registry = Registry::new();
        let about = "Connections that the second layer has refused, by who tried to open them to whom.";
        let labels = ["source_workload", "source_workload_namespace", "destination_workload", "destination_workload_namespace"];
        let refused = IntCounterVec::new(Opts::new("mizzen_second_layer_refused_total", about), &labels)?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Counts { registry, refused, rows: BTreeMap::new(), last: Refused::default() })
    }

    /// Takes what the router's rules have refused since they were made. Returns calls that nobody has tried before.
    pub(super) fn take(&mut self, now: Refused, pods: &Pods) -> Vec<Call> {
        let (mut news, mut known) = (Vec::new(), 0);
        for (attempt, count) in &now.by {
            let more = count.saturating_sub(self.last.by.get(attempt).copied().unwrap_or_default());
            if more == 0 {
                continue;
            }
            known += more;
            let ends =
                [attempt.from, attempt.to].map(|address| pods.get(&address).map(|pod| (pod.workload.as_str(), pod.namespace.as_str())));
            let [(from, of), (to, at)] = ends.map(|end| end.unwrap_or((UNKNOWN, UNKNOWN)));
            self.refused.with_label_values(&[from, of, to, at]).inc_by(more);
            let call = call(attempt, pods);
            if let Some(row) = self.rows.get_mut(&call) {
                *row += more;
            } else if self.rows.len() < MAX_ROWS {
                self.rows.insert(call.clone(), more);
                news.push(call);
            }
        }
        // Those for which the kernel had no room.
        let rest = now.total.saturating_sub(self.last.total).saturating_sub(known);
        if rest > 0 {
            self.refused.with_label_values(&[UNKNOWN; 4]).inc_by(rest);
        }
        self.last = now;
        news
    }

    /// The same of rules in whose place others are: those count from nothing.
    pub(super) fn take_last(&mut self, now: Refused, pods: &Pods) -> Vec<Call> {
        let news = self.take(now, pods);
        self.last = Refused::default();
        news
    }

    /// How many attempts the router has told apart.
    pub(super) fn told_apart(&self) -> usize {
        self.last.by.len()
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.rows.iter().map(|(call, refused)| Row { call: call.clone(), refused: *refused }).collect()
    }

    pub(super) fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

fn call(attempt: &Attempt, pods: &Pods) -> Call {
    let title =
        |address: Ipv4Addr| pods.get(&address).map_or_else(|| address.to_string(), |pod| format!("{}/{}", pod.namespace, pod.workload));
    Call { source: title(attempt.from), destination: title(attempt.to), port: attempt.port }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mizzen_api::core::PodSpec;

    use super::*;
    use crate::up::desired::Wanted;

    fn refused(total: u64, by: &[(u8, u16, u64)]) -> Refused {
        let from = Ipv4Addr::new(10, 244, 0, 16);
        let attempt = |&(to, port, count): &(u8, u16, u64)| (Attempt { from, to: Ipv4Addr::new(10, 244, 0, to), port }, count);
        Refused { total, by: by.iter().map(attempt).collect() }
    }

    #[test]
    fn counted_once() {
        let pod = |workload: &str| {
            Arc::new(Wanted {
                name: format!("{workload}-x-0"),
                namespace: "shop".to_owned(),
                workload: workload.to_owned(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                spec: PodSpec::default(),
                is_gateway: false,
            })
        };
        let pods: Pods = [(Ipv4Addr::new(10, 244, 0, 16), pod("web")), (Ipv4Addr::new(10, 244, 0, 17), pod("data"))].into();
        let mut counts = Counts::new().expect("counters");
        let call = |destination: &str, port| Call { source: "shop/web".to_owned(), destination: destination.to_owned(), port };
        assert_eq!(counts.take(refused(3, &[(17, 80, 2), (99, 80, 1)]), &pods), [call("shop/data", 80), call("10.244.0.99", 80)]);
        assert_eq!(counts.take(refused(4, &[(17, 80, 3), (99, 80, 1)]), &pods), []);
        // The last of rules that were exchanged, and the first of those that came then.
        assert_eq!(counts.take_last(refused(6, &[(17, 80, 4), (17, 81, 1), (99, 80, 1)]), &pods), [call("shop/data", 81)]);
        assert_eq!(counts.take(refused(5, &[(17, 80, 1)]), &pods), []);
        let rows: Vec<(String, u16, u64)> =
            counts.rows().into_iter().map(|row| (row.call.destination, row.call.port, row.refused)).collect();
        assert_eq!(rows, [("10.244.0.99".to_owned(), 80, 1), ("shop/data".to_owned(), 80, 5), ("shop/data".to_owned(), 81, 1)]);
        let text = counts.text();
        for (to, at, count) in [("data", "shop", 6), ("unknown", "unknown", 1)] {
            let labels = format!(
                r#"destination_workload="{to}",destination_workload_namespace="{at}",source_workload="web",source_workload_namespace="shop""#
            );
            assert!(text.contains(&format!("mizzen_second_layer_refused_total{{{labels}}} {count}\n")), "{text}");
        }
        // What the kernel could not tell apart.
        let rest = r#"source_workload="unknown",source_workload_namespace="unknown"} 4"#;
        assert!(text.contains(rest), "{text}");
    }
}
