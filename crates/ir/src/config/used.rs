//! Whether something is in use.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// A mark that who uses a resource sets, and that who may let it go takes away now and then. Versions of one resource share it.
#[derive(Clone, Debug, Default)]
pub struct Used(Option<Arc<AtomicBool>>);

impl Used {
    /// One that is looked at.
    pub(crate) fn followed() -> Used {
        Used(Some(Arc::default()))
    }

    /// Whether anybody looks at it.
    pub fn is_followed(&self) -> bool {
        self.0.is_some()
    }

    /// It is in use.
    pub fn mark(&self) {
        // Most of the time it is marked already: then the processors need not pass its cache line around.
        if let Some(used) = self.0.as_ref().filter(|used| !used.load(Relaxed)) {
            used.store(true, Relaxed);
        }
    }

    /// Whether it was in use since the last call.
    pub fn take(&self) -> bool {
        self.0.as_ref().is_some_and(|used| used.swap(false, Relaxed))
    }
}

/// What is used is the same whether or not it is.
impl PartialEq for Used {
    fn eq(&self, _: &Used) -> bool {
        true
    }
}
