//! Dials in progress, and who wants what they bring.

use std::{sync::Arc, time::Duration};

use super::spec::UpSpec;
use crate::{
    Action, DialId, Target,
    context::Context,
    id::{CheckId, PoolId, StreamId},
    lb::Guard,
};

/// Who wanted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A TCP stream, alone.
    Stream(StreamId),
    /// A pool.
    Pool(PoolId),
    /// A host's checks.
    Check(CheckId),
}

/// A dial in progress.
pub(crate) struct Dialing {
    pub(crate) spec: Arc<UpSpec>,
    pub(crate) owner: Owner,
    pub(crate) guard: Option<Guard>,
    pub(crate) deadline: Duration,
}

impl Dialing {
    /// Takes it back.
    pub(crate) fn cancel(&self, cx: &mut Context, id: DialId) {
        match &self.spec.target {
            Target::Internal(..) => {}
            Target::Tcp(_) | Target::Pipe(_) => cx.actions.push(Action::Cancel(id)),
        }
    }
}
