//! DestinationRule.

use std::collections::BTreeMap;

use mizzen_types::Hostname;

use super::{ClientTls, ConnectionPool, ExportTo, LoadBalancer, OutlierDetection};
use crate::{
    Labels, Meta, Selector,
    metadata::{selector, shared_labels},
    read::{Fields, Why, quoted},
    table,
};

/// How connections to a host are made.
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The service, as written: a short name is completed by the namespace of this object.
    pub host: Hostname,
    /// To whom it is visible; empty is the mesh's default.
    pub export_to: Vec<ExportTo>,
    /// The callers of its own namespace for which it holds, and nobody else; none: all who see it.
    pub selector: Option<Selector>,
    /// Named parts of the service; names are unique.
    pub subsets: Vec<Subset>,
    /// For all ports and subsets.
    pub traffic_policy: Option<Box<TrafficPolicy>>,
}

/// Those endpoints of a service that carry some labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Subset {
    /// The name.
    pub name: String,
    /// The labels; none: all endpoints.
    pub labels: Labels,
    /// Overrides the rule's own, block by block.
    pub traffic_policy: Option<Box<TrafficPolicy>>,
}

/// Settings of connections; a missing block is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancer>,
    /// Limits.
    pub connection_pool: Option<ConnectionPool>,
    /// When endpoints are set aside.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS to the endpoints; none: automatic mutual TLS.
    pub tls: Option<ClientTls>,
    /// How many retries there may be at once, as a share of the requests.
    pub retry_budget: Option<RetryBudget>,
    /// For single ports of the service: replaces the four blocks, inherits none of them. Their own maps are empty, and they have no budget.
    pub port_level_settings: BTreeMap<u16, TrafficPolicy>,
}

/// How many retries there may be at once. It takes the place of [`HttpPool::max_retries`](super::HttpPool::max_retries).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// The share of the requests in flight, in percent; the default is 20.
    pub percent: f64,
    /// So many there may always be; the default is 3.
    pub min_retry_concurrency: u32,
}

impl DestinationRule {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::DESTINATION_RULE, |f| {
            let host = f.need("host").map(|at| at.hostname()).unwrap_or_else(crate::read::any_host);
            let selector = f.get("workloadSelector").map(|at| selector(&at, "matchLabels"));
            let mut subsets: Vec<Subset> = Vec::new();
            for at in f.list("subsets") {
                let subset = at.fields(Subset::read);
                if !subset.name.is_empty() && subsets.iter().any(|other| other.name == subset.name) {
                    at.fail(format!("there are two subsets {}", quoted(&subset.name)));
                }
                subsets.push(subset);
            }
            subsets.shrink_to_fit();
            DestinationRule {
                meta,
                host,
                export_to: ExportTo::read_list(f, "exportTo"),
                selector,
                subsets,
                traffic_policy: f
                    .opt_sub("trafficPolicy", |f| {
                        let policy = TrafficPolicy::read(f);
                        policy.check_failover(f);
                        policy
                    })
                    .map(Box::new),
            }
        })
    }
}

impl Subset {
    fn read(f: &Fields<'_>) -> Subset {
        let name = f.need("name").map(|at| {
            let name = at.word();
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
                at.fail(format!("{} is no name of a subset: letters, digits, `-`, `_`, `.`", quoted(&name)));
            }
            name
        });
        Subset {
            name: name.unwrap_or_default(),
            labels: f.get("labels").map(|at| shared_labels(&at)).unwrap_or_default(),
            traffic_policy: f.opt_sub("trafficPolicy", TrafficPolicy::read).map(Box::new),
        }
    }
}

impl TrafficPolicy {
    fn read(f: &Fields<'_>) -> TrafficPolicy {
        let mut policy = TrafficPolicy::blocks(f);
        policy.retry_budget = f.opt_sub("retryBudget", RetryBudget::read);
        for at in f.list("portLevelSettings") {
            let (port, blocks) = at.fields(|f| {
                let port = f.need("port").and_then(|at| at.fields(|f| f.need("number").map(|at| at.port())));
                let blocks = TrafficPolicy::blocks(f);
                blocks.check_failover(f);
                (port.unwrap_or_default(), blocks)
            });
            if policy.port_level_settings.insert(port, blocks).is_some() && port != 0 {
                at.fail(format!("port {port} is set twice"));
            }
        }
        policy
    }

    fn blocks(f: &Fields<'_>) -> TrafficPolicy {
        TrafficPolicy {
            load_balancer: f.opt_sub("loadBalancer", LoadBalancer::read),
            connection_pool: f.opt_sub("connectionPool", ConnectionPool::read),
            outlier_detection: f.opt_sub("outlierDetection", OutlierDetection::read),
            tls: f.opt_sub("tls", ClientTls::read),
            ..TrafficPolicy::default()
        }
    }

    /// Other priorities are only turned to where the nearer endpoints are known to fail. What a subset says may rest on the rule's detection.
    fn check_failover(&self, f: &Fields<'_>) {
        let locality = self.load_balancer.as_ref().and_then(|balancer| balancer.locality.as_ref());
        if self.outlier_detection.is_none() && locality.is_some_and(|l| !(l.failover.is_empty() && l.failover_priority.is_empty())) {
            f.slot("loadBalancer").warn("failover has no effect without outlierDetection");
        }
    }
}

impl RetryBudget {
    fn read(f: &Fields<'_>) -> RetryBudget {
        if let Some(at) = f.get("budgetInterval")
            && !at.duration().is_zero()
        {
            at.fail(Why::What.text());
        }
        RetryBudget {
            percent: f.get("percent").map_or(20.0, |at| at.number()),
            min_retry_concurrency: f.count("minRetryConcurrency").filter(|count| *count > 0).unwrap_or(3),
        }
    }
}
