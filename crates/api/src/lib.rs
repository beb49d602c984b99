//! Istio's and Kubernetes' resources as the mesh understands them: typed, with defaults, checked, and with the position of every field.
//!
//! Text flows in through [`parse_documents`]: documents → nodes with positions ([`Source`]) → one struct per kind, whose types cannot be wrong
//! (hosts are [`mizzen_types::Hostname`], ranges [`mizzen_types::IpRange`], a oneof is an enum). Every field of a kind is in one of three classes:
//! *acted on* (it is in the struct), *harmless* (known and checked for its name, reported as a warning), or *refused by name*, because ignoring it
//! could change who may talk, where traffic goes or what is sent. Unknown fields, wrong types and values out of range are [`Problem`]s with file,
//! line and field path; all problems of a document are found at once.
//!
//! Which fields a kind has, and of which class they are, says one table for each message (`table/`). It leads the readers; [`crd`] makes of it what the
//! API server is told, [`fields`] a list for people.
//!
//! Deliberately absent: IO, the relations between objects (a route to a subset that nobody declares is `analyze`'s business), short host names'
//! completion (the reader knows the domain), and the wire.

pub mod core;
mod document;
mod duration;
pub mod istio;
mod kind;
mod labels;
mod limits;
mod metadata;
mod object;
mod plain;
mod problem;
mod read;
pub mod routing;
mod source;
mod table;
mod text;
mod words;

pub use document::{
    Closes, Parsed, Refusal, Seen, parse_again, parse_documents, parse_mesh_config, parse_proxy_config, parse_value, refuse_documents,
    see_documents,
};
pub use labels::{LabelSet, Labels};
pub use limits::{MAX_DEPTH, MAX_TEXT};
pub use metadata::{label_name, label_text};
pub use object::{Key, Kind, Meta, Object, Selector};
pub use problem::{Pos, Problem};
pub use source::{Entry, Node, Source, Value};
pub use table::{Class, Field, Why, crd, fields};
pub use words::nearest;
