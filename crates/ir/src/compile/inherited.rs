//! What routes have from the levels above them.

use std::sync::Arc;

use mizzen_protos::envoy::envoy::config::route::v3 as route;
use mizzen_types::Name;

use super::cx::Cx;
use super::headers::{self, Level};
use crate::config::Mutations;
use crate::filter::FilterOverride;

/// What routes inherit from above.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Inherited {
    /// Of the configuration, then of the virtual host.
    pub(super) levels: [Level; 2],
    /// Whether the more specific level has the last word: it comes last then.
    pub(super) specific_wins: bool,
    pub(super) retry: Option<route::RetryPolicy>,
    /// What the levels above say of filters, the more specific one alone where both speak of the same.
    pub(super) filters: Vec<(Name, FilterOverride)>,
    pub(super) max_body: usize,
}

impl Inherited {
    /// Whether nothing but the bound of bodies is inherited.
    pub(super) fn is_plain(&self) -> bool {
        let Inherited { levels, specific_wins, retry, filters, max_body: _ } = self;
        levels.iter().all(|level| *level == Level::default()) && !specific_wins && retry.is_none() && filters.is_empty()
    }

    /// All levels in the order in which they are applied, for a route and a cluster.
    pub(super) fn joined(&self, cx: &mut Cx, route: &Level, cluster: Option<&Level>) -> Arc<Mutations> {
        let [config, host] = &self.levels;
        let specific_first = [cluster, Some(route), Some(host), Some(config)];
        let joined = if self.specific_wins {
            headers::joined(specific_first.into_iter().rev().flatten())
        } else {
            headers::joined(specific_first.into_iter().flatten())
        };
        cx.shared.mutations.hold(joined)
    }
}
