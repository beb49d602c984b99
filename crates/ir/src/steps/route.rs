//! Which virtual host and route a request gets.

use std::sync::Arc;

use crate::config::{Route, RouteConfig, VirtualHost};
use crate::{RequestFacts, Trace};

/// A route and where it was found.
#[derive(Clone, Copy, Debug)]
pub struct FoundRoute<'c> {
    /// The virtual host.
    pub host: &'c Arc<VirtualHost>,
    /// The route.
    pub route: &'c Arc<Route>,
}

/// The route of a request: the virtual host by its authority (exact, longest suffix, longest prefix, `*`), then the first route that
/// matches. None is a 404. `random` decides routes for a share of requests.
pub fn find_route<'c>(config: &'c RouteConfig, request: &RequestFacts<'_>, random: u64, trace: &mut Trace<'_>) -> Option<FoundRoute<'c>> {
    let _ = (config, request, random, trace);
    unimplemented!()
}
