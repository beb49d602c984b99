//! Counters and histograms of one worker, by labels, behind handles; and their sum over workers as Prometheus text.

use std::{collections::HashMap, fmt::Write, sync::Arc};

use mizzen_ir::config::Endpoint;
use mizzen_types::Name;

use crate::HealthFlags;
pub use crate::outlier::Rates;

/// A metric's kind and its numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number that only grows.
    Counter(u64),
    /// A number that goes up and down.
    Gauge(i64),
    /// Numbers of observations at or below each of [`BOUNDS`], then all; and their sum.
    Histogram {
        /// Observations per bound, not cumulated; one more than [`BOUNDS`].
        buckets: Vec<u64>,
        /// The observations' sum.
        sum: f64,
    },
}

/// The histograms' bounds: Istio's (Envoy's) default ones.
pub const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// One series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// The metric's name, `istio_requests_total`.
    pub name: &'static str,
    /// Its labels, in order.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub value: Value,
}

/// What tells series apart: name and labels.
type SeriesKey = (&'static str, Vec<(&'static str, String)>);

/// An index into a worker's [`Table`]; stays good as long as the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(u32);

/// A worker's series. Looking a handle up hashes the labels; using it does not.
#[derive(Debug, Default)]
pub struct Table {
    series: Vec<Series>,
    index: HashMap<SeriesKey, Handle>,
}

impl Table {
    /// Series beyond this number are counted in one without labels, so that hostile label values cannot grow memory for ever.
    pub const MOST: usize = 20_000;

    fn handle(&mut self, name: &'static str, labels: Vec<(&'static str, String)>, zero: Value) -> Handle {
        let labels = if self.series.len() >= Self::MOST && !self.index.contains_key(&(name, labels.clone())) { Vec::new() } else { labels };
        if let Some(handle) = self.index.get(&(name, labels.clone())) {
            return *handle;
        }
        let handle = Handle(self.series.len() as u32);
        self.series.push(Series { name, labels: labels.clone(), value: zero });
        self.index.insert((name, labels), handle);
        handle
    }

    /// The handle of a counter.
    pub fn counter(&mut self, name: &'static str, labels: Vec<(&'static str, String)>) -> Handle {
        self.handle(name, labels, Value::Counter(0))
    }

    /// The handle of a histogram.
    pub fn histogram(&mut self, name: &'static str, labels: Vec<(&'static str, String)>) -> Handle {
        self.handle(name, labels, Value::Histogram { buckets: vec![0; BOUNDS.len() + 1], sum: 0.0 })
    }

    /// Adds to a counter.
    pub fn add(&mut self, handle: Handle, n: u64) {
        if let Some(Series { value: Value::Counter(count), .. }) = self.series.get_mut(handle.0 as usize) {
            *count = count.wrapping_add(n);
        }
    }

    /// Adds an observation to a histogram.
    pub fn observe(&mut self, handle: Handle, observed: f64) {
        if let Some(Series { value: Value::Histogram { buckets, sum }, .. }) = self.series.get_mut(handle.0 as usize) {
            let at = BOUNDS.iter().position(|bound| observed <= *bound).unwrap_or(BOUNDS.len());
            if let Some(bucket) = buckets.get_mut(at) {
                *bucket += 1;
            }
            *sum += observed;
        }
    }

    /// The series as they are.
    pub fn series(&self) -> &[Series] {
        &self.series
    }
}

/// The state of one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterStats {
    /// Its name.
    pub name: Name,
    /// By what outlier detection measured its hosts.
    pub rates: Rates,
    /// The hosts that the configuration names, in its order, and any that are still used.
    pub hosts: Vec<HostStats>,
}

/// The state of one upstream host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostStats {
    /// Its address.
    pub address: String,
    /// What is held against it, but for what the control plane says of it.
    pub flags: HealthFlags,
    /// Shares of successes in the last interval of outlier detection, in percent: of answers, of the way to it; none where too few were counted.
    pub success_rates: [Option<f64>; 2],
    /// Connections open.
    pub connections: u64,
    /// Connections ever opened.
    pub connections_total: u64,
    /// Dials or handshakes that failed.
    pub connect_failures: u64,
    /// Requests in flight.
    pub active: u64,
    /// Requests ever begun.
    pub requests: u64,
    /// Requests that ended well: below 500.
    pub success: u64,
    /// Requests that ended in 5xx or a reset.
    pub error: u64,
    /// Of them, those that took too long.
    pub timeouts: u64,
    /// Whether the configuration names it; else it is gone, and is still used.
    pub is_named: bool,
    /// What the configuration says of it.
    pub endpoint: Option<Arc<Endpoint>>,
}

/// What a worker counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// All series.
    pub series: Vec<Series>,
    /// Clusters that were used, by name; of the whole process.
    pub clusters: Vec<ClusterStats>,
    /// Downstream connections open, by listener.
    pub downstream: Vec<(Name, u64)>,
    /// Streams in flight.
    pub streams: u64,
    /// Bytes held in buffers.
    pub buffered: u64,
    /// Breaker guards out.
    pub guards: u64,
}

impl Snapshot {
    /// Adds another worker's numbers.
    pub fn merge(&mut self, other: Snapshot) {
        let mut index: HashMap<SeriesKey, usize> =
            self.series.iter().enumerate().map(|(at, series)| ((series.name, series.labels.clone()), at)).collect();
        for series in other.series {
            match index.get(&(series.name, series.labels.clone())).and_then(|at| self.series.get_mut(*at)) {
                Some(mine) => mine.value.merge(&series.value),
                None => {
                    index.insert((series.name, series.labels.clone()), self.series.len());
                    self.series.push(series);
                }
            }
        }
        // What is known of hosts is shared by the workers: the numbers are the process'.
        if self.clusters.is_empty() {
            self.clusters = other.clusters;
        }
        for (listener, n) in other.downstream {
            match self.downstream.iter_mut().find(|(name, _)| *name == listener) {
                Some((_, mine)) => *mine += n,
                None => self.downstream.push((listener, n)),
            }
        }
        self.streams += other.streams;
        self.buffered += other.buffered;
        // Guards are shared by the workers: the number is the process'.
        self.guards = self.guards.max(other.guards);
    }

    /// The series in Prometheus' text format.
    pub fn prometheus(&self, out: &mut String) {
        let mut series: Vec<&Series> = self.series.iter().collect();
        series.sort_by(|a, b| (a.name, &a.labels).cmp(&(b.name, &b.labels)));
        let mut last = "";
        for one in series {
            if one.name != last {
                last = one.name;
                let kind = match one.value {
                    Value::Counter(_) => "counter",
                    Value::Gauge(_) => "gauge",
                    Value::Histogram { .. } => "histogram",
                };
                let _ = writeln!(out, "# TYPE {last} {kind}");
            }
            one.prometheus(out);
        }
    }
}

impl Value {
    fn merge(&mut self, other: &Value) {
        match (self, other) {
            (Value::Counter(a), Value::Counter(b)) => *a = a.wrapping_add(*b),
            (Value::Gauge(a), Value::Gauge(b)) => *a += b,
            (Value::Histogram { buckets: a, sum: s }, Value::Histogram { buckets: b, sum: t }) => {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                *s += t;
            }
            _ => {}
        }
    }
}

impl Series {
    fn prometheus(&self, out: &mut String) {
        match &self.value {
            Value::Counter(n) => line(out, self.name, "", &self.labels, None, format_args!("{n}")),
            Value::Gauge(n) => line(out, self.name, "", &self.labels, None, format_args!("{n}")),
            Value::Histogram { buckets, sum } => {
                let mut total = 0;
                for (at, n) in buckets.iter().enumerate() {
                    total += n;
                    let bound = BOUNDS.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                    line(out, self.name, "_bucket", &self.labels, Some(&bound), format_args!("{total}"));
                }
                line(out, self.name, "_sum", &self.labels, None, format_args!("{sum}"));
                line(out, self.name, "_count", &self.labels, None, format_args!("{total}"));
            }
        }
    }
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &[(&'static str, String)], le: Option<&str>, value: std::fmt::Arguments<'_>) {
    out.push_str(name);
    out.push_str(suffix);
    if !labels.is_empty() || le.is_some() {
        out.push('{');
        let all = labels.iter().map(|(key, text)| (*key, text.as_str())).chain(le.map(|bound| ("le", bound)));
        for (at, (key, text)) in all.enumerate() {
            if at > 0 {
                out.push(',');
            }
            let _ = write!(out, "{key}=\"");
            for c in text.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '"' => out.push_str("\\\""),
                    '\n' => out.push_str("\\n"),
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let mut table = Table::default();
        let a = table.counter("istio_requests_total", vec![("x", "a\"b".to_owned())]);
        table.add(a, 2);
        assert_eq!(table.counter("istio_requests_total", vec![("x", "a\"b".to_owned())]), a);
        let h = table.histogram("d", vec![]);
        table.observe(h, 3.0);
        let mut sum = Snapshot { series: table.series().to_vec(), ..Snapshot::default() };
        sum.merge(sum.clone());
        let mut out = String::new();
        sum.prometheus(&mut out);
        assert!(out.contains("istio_requests_total{x=\"a\\\"b\"} 4\n"), "{out}");
        assert!(out.contains("d_bucket{le=\"1\"} 0\nd_bucket{le=\"5\"} 2\n"), "{out}");
        assert!(out.contains("d_sum 6\nd_count 2\n"), "{out}");
    }
}
