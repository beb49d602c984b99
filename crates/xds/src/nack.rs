//! Rejections, by resource.

use mizzen_protos::{
    Any,
    envoy::google::rpc::Status,
    wkt::{self, value::Kind},
};
use mizzen_types::Name;
use prost::Message;

/// Code `INVALID_ARGUMENT`, which every rejection has.
const INVALID_ARGUMENT: i32 = 3;
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// The error of a NACK: a sentence for people, and a struct of reasons by resource for [`rejections`].
pub(crate) fn rejection(rejected: &[(Name, String)]) -> Status {
    let text = |s: &str| wkt::Value { kind: Some(Kind::StringValue(s.to_owned())) };
    let fields = rejected.iter().map(|(name, reason)| (name.to_string(), text(reason))).collect();
    let sentences: Vec<String> = rejected.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    let detail = Any { type_url: STRUCT.to_owned(), value: wkt::Struct { fields }.encode_to_vec() };
    Status { code: INVALID_ARGUMENT, message: sentences.join("; "), details: vec![detail] }
}

/// Which of the `sent` resources an error rejects, and why: by our own detail; else those that its message names, as Envoy's does; else all.
pub fn rejections<'a>(error: &Status, sent: impl Iterator<Item = &'a Name>) -> Vec<(Name, String)> {
    let detail = error.details.iter().find(|d| d.type_url == STRUCT).and_then(|d| wkt::Struct::decode(d.value.as_slice()).ok());
    let sent: Vec<Name> = sent.cloned().collect();
    let reason = |name: &Name| match detail.as_ref()?.fields.get(&**name)?.kind.as_ref()? {
        Kind::StringValue(reason) => Some(reason.clone()),
        _ => None,
    };
    let mut found: Vec<(Name, String)> = sent.iter().filter_map(|n| Some((n.clone(), reason(n)?))).collect();
    if found.is_empty() && detail.is_none() {
        found = sent.iter().filter(|n| names(&error.message, n)).map(|n| (n.clone(), error.message.clone())).collect();
    }
    if found.is_empty() && detail.is_none() {
        found = sent.into_iter().map(|n| (n, error.message.clone())).collect();
    }
    found
}

/// Whether a message names a resource, as a whole word.
fn names(message: &str, name: &str) -> bool {
    let inner = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '|' | '-'));
    !name.is_empty()
        && message
            .match_indices(name)
            .any(|(at, _)| !inner(message[..at].chars().next_back()) && !inner(message[at + name.len()..].chars().next()))
}
