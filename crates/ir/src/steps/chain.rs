//! Which filter chain a connection gets.

use std::sync::Arc;

use crate::config::{FilterChain, Listener};
use crate::{ConnFacts, Trace};

/// The filter chain for a connection: Envoy's order of criteria, in which a more specific match of an earlier criterion wins and there is
/// no way back from it; else the default chain; else none, and the connection is closed.
pub fn find_chain<'c>(listener: &'c Listener, facts: &ConnFacts<'_>, trace: &mut Trace<'_>) -> Option<&'c Arc<FilterChain>> {
    let _ = (listener, facts, trace);
    unimplemented!()
}
