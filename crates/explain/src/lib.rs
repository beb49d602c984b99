//! What a proxy would make of a configuration, without a proxy: what it would refuse, and how a hypothetical call would be decided.
//!
//! Here the two planes meet, by bytes alone: YAML or a [`Snapshot`](mizzen_model::Snapshot) goes through `translate` to the bytes that the control plane
//! would send, and these through `ir::compile` to what the data path runs by. [`review`] does so with all that one proxy has. [`Explainer::call`] does so
//! with what the steps of one call name, and walks it with the same pure steps that the engine takes: whatever it says of listeners, chains, routes,
//! clusters and policies, the engine decides alike. What only an outside answer, a random number or a server beyond the mesh could tell is given by the
//! caller, or said to be unknown.
//!
//! Deliberately absent: balancing over living state, retries, timeouts and secrets. A certificate is taken to be there, and to be what its workload's is.

mod call;
mod complete;
mod decide;
mod mesh;
mod places;
mod proxy;
mod resources;
mod review;
#[cfg(test)]
mod tests;
mod text;

pub use call::{
    Call, CallError, Explanation, Hop, Payload, Reason, Resource, ResourceType, Security, Share, Side, Source, Step, StepKind, To, Verdict,
    Way,
};
pub use complete::complete;
pub use decide::{Caller, Explainer, Inputs, Recorded, RecordedRequest, Replayed};
pub use mesh::{Loaded, load, proxy_of, workload_of};
pub use mizzen_translate::ResourceKind;
pub use places::{place_of, rule_names};
pub use resources::{Built, build, list};
pub use review::{Finding, Review, review, review_all};
