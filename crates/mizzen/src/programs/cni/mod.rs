//! `mizzen-cni`: what sets the capture of pods from their node, so that no container of theirs needs a capability for it. Two faces:
//!
//! - A container runtime calls it as a chained CNI plugin, type `istio-cni` ([`plugin`]), once for each pod, as root, when the pod's network is made. What
//!   is captured stands in the pod's annotations, where injection has written it ([`wanted`]). containerd and CRI-O pass these along, so that neither the
//!   API server nor the agent is asked, and no credential lies on the node; of another runtime the plugin asks the agent ([`ask`]), and fails if it is not
//!   there: the pod then waits.
//! - `mizzen-cni agent` is the DaemonSet `istio-cni-node` ([`agent`]): it installs the plugin and keeps it installed ([`install`], [`conf`]), and mends
//!   pods that have started without it ([`repair`]). The plugin does its work while the agent is replaced or away.
//!
//! Whatever happens to either, no program of a pod runs uncaptured: its first container, `istio-validation`, looks from within.

mod agent;
mod ask;
mod conf;
mod install;
mod plugin;
mod processes;
mod repair;
mod serve;
mod wanted;

use std::process::ExitCode;

use mizzen_capture::Plan;
use mizzen_host::{NetNs, block_on};

/// The plugin's type in configurations of networks, and the name of its program.
pub(crate) const PLUGIN: &str = "istio-cni";

/// As the environment says: the plugin if a runtime calls, else what the arguments say.
pub(crate) fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() { plugin::main() } else { agent::main() }
}

/// Sets the capture in another network namespace, in place of an earlier one.
///
/// # Errors
/// What failed.
async fn capture(netns: &NetNs, plan: Plan) -> Result<(), String> {
    let job = move || {
        block_on(mizzen_capture::apply(&plan)).map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        // Without it, connections of which one direction was shut long ago may be forgotten.
        if let Err(error) = mizzen_capture::remember_half_closed() {
            tracing::info!(%error, "half-closed connections are remembered for as long as the kernel does by itself");
        }
        Ok(())
    };
    netns.run(job).await.map_err(|error| format!("cannot enter the pod's network namespace: {error}"))?
}

/// Whether the capture is set in another network namespace.
///
/// # Errors
/// What failed.
async fn is_captured(netns: &NetNs) -> Result<bool, String> {
    let job = || block_on(mizzen_capture::is_set()).map_err(|error| error.to_string())?.map_err(|error| chain(&error));
    netns.run(job).await.map_err(|error| format!("cannot enter the pod's network namespace: {error}"))?
}

/// An error with its causes, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some name their cause themselves.
        let more = error.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = error.source();
    }
    text
}
