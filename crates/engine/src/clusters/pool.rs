//! Connections that are kept, and who waits for one.

use std::{collections::VecDeque, sync::Arc};

use mizzen_ir::config::HttpProtocol;

use super::spec::UpSpec;
use crate::{ConnId, DialId, id::StreamId};

/// Connections of one kind to one endpoint, and the requests that wait for one.
pub(crate) struct Pool {
    pub(crate) spec: Arc<UpSpec>,
    pub(crate) conns: Vec<ConnId>,
    /// Dials and handshakes in progress.
    pub(crate) dials: Vec<DialId>,
    pub(crate) shaking: Vec<ConnId>,
    pub(crate) queue: VecDeque<StreamId>,
    /// Whether the last connection spoke HTTP/2: then one dial serves many.
    pub(crate) h2: bool,
}

impl Pool {
    /// An empty one.
    pub(super) fn new(spec: Arc<UpSpec>) -> Self {
        let h2 = spec.protocol == HttpProtocol::Http2;
        Pool { spec, conns: Vec::new(), dials: Vec::new(), shaking: Vec::new(), queue: VecDeque::new(), h2 }
    }

    /// Whether nothing is left of it.
    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.coming() == 0 && self.queue.is_empty()
    }

    /// How many connections may be there soon.
    pub(crate) fn coming(&self) -> usize {
        self.dials.len() + self.shaking.len()
    }

    /// How many should be, for those who wait.
    pub(crate) fn wanted(&self) -> usize {
        if self.h2 { usize::from(!self.queue.is_empty()) } else { self.queue.len() }
    }
}
