//! The process that stays in the machine's network namespace.

use std::future::Future;

use crate::{RelayPolicy, StartError};

/// The outer process' end of a mesh that has been started.
#[derive(Debug)]
pub struct Outer {}

impl Outer {
    /// Starts the inner process: the same binary, where [`stage::dispatch`](crate::stage::dispatch) calls the
    /// function it was given with an [`Inner`](crate::Inner) that carries `payload`.
    ///
    /// To be called on the main thread, and that thread must live as long as the mesh: the kernel ends the
    /// mesh when it ends.
    ///
    /// # Errors
    /// [`StartError::Refused`] names the setting of the kernel that forbids it.
    pub fn start(payload: &serde_json::Value) -> Result<Outer, StartError> {
        let _ = payload;
        unimplemented!()
    }

    /// The inner process' number as this process sees it.
    pub fn inner_pid(&self) -> i32 {
        unimplemented!()
    }

    /// Serves the inner process until it ends; returns its exit code. When `stop` resolves, the inner is
    /// told once (see [`Link::stopped`](crate::Link::stopped)) and goes on being served until it ends.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub async fn serve(self, policy: RelayPolicy, stop: impl Future<Output = ()>) -> std::io::Result<u8> {
        let _ = (policy, stop);
        unimplemented!()
    }
}
