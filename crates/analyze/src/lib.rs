//! What is wrong with a configuration: objects in, messages out, each with a code, a level, an object, a file and a line.
//!
//! A document becomes an [`Item`]: its tree is looked at once, by the rules that need nothing else (`own/`), and leaves behind small [`Facts`]. Rules
//! about what objects say of each other (`cross/`) look at facts alone, through a [`Cx`] that notes each question; an object's messages are made again
//! when an answer has changed, and only then. What is said does not depend on the order in which objects come: [`Analysis`] after any sequence of
//! changes equals one that was made from scratch.
//!
//! Trees are taken as they were written, not as the mesh's typed objects: a kind or a field that the mesh does not act on is no reason to say nothing about
//! the rest of the object, and what the mesh refuses is told with everything else.
//!
//! Beside messages, documents make the NetworkPolicies that repeat the mesh's policies at L4 ([`netpol`]).
//!
//! Codes `IST…` are those of Istio, with its names and levels; codes `MZ…` are of this project. Deliberately absent: IO, and what messages look like on a
//! terminal or in SARIF, which is the command's.

mod analysis;
mod base;
mod code;
mod cross;
mod explain;
pub mod facts;
mod installed;
mod item;
mod message;
pub mod netpol;
mod own;
mod sort;
#[cfg(test)]
mod tests;
mod told;

pub use analysis::{Analysis, Options};
pub use base::{Cx, Entry, Index};
pub use code::{CODES, Code, Level};
pub use explain::{Explanation, explain};
pub use facts::Facts;
pub use installed::INSTALLED;
pub use item::{Item, id_of_key, items};
pub use message::{Fix, Id, Message};
pub use own::{add, refused, refused_by_proxy, takes_first_party_tokens, warned};
pub use sort::Sort;
