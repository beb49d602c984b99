//! Changes to headers.

use mizzen_protos::envoy::envoy::config::core::v3 as core;

use super::cx::{Cx, Res, held};
use super::format::{Unknown, template};
use super::matchers::header_name;
use crate::config::{HeaderAction, HeaderOp, HeaderOps, Mutations};

/// The changes of one level of configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Level {
    request: Vec<HeaderOp>,
    response: Vec<HeaderOp>,
}

/// What a level says: request add and remove, response add and remove.
pub(crate) struct Fields {
    pub(crate) request_add: Vec<core::HeaderValueOption>,
    pub(crate) request_remove: Vec<String>,
    pub(crate) response_add: Vec<core::HeaderValueOption>,
    pub(crate) response_remove: Vec<String>,
}

pub(crate) fn level(cx: &mut Cx, fields: Fields) -> Res<Level> {
    Ok(Level {
        request: ops(cx, ("request_headers_to_remove", fields.request_remove), ("request_headers_to_add", fields.request_add))?,
        response: ops(cx, ("response_headers_to_remove", fields.response_remove), ("response_headers_to_add", fields.response_add))?,
    })
}

/// Levels, the first to be applied first.
pub(crate) fn joined<'l>(levels: impl IntoIterator<Item = &'l Level>) -> Mutations {
    let (mut request, mut response) = (Vec::new(), Vec::new());
    for level in levels {
        request.extend_from_slice(&level.request);
        response.extend_from_slice(&level.response);
    }
    Mutations { request: HeaderOps { ops: held(request) }, response: HeaderOps { ops: held(response) } }
}

/// Headers that are only added.
pub(crate) fn additions(cx: &mut Cx, field: &str, add: Vec<core::HeaderValueOption>) -> Res<HeaderOps> {
    Ok(HeaderOps { ops: held(cx.each(field, add, set)?) })
}

fn ops(cx: &mut Cx, remove: (&str, Vec<String>), add: (&str, Vec<core::HeaderValueOption>)) -> Res<Vec<HeaderOp>> {
    let mut ops = cx.each(remove.0, remove.1, |cx, name| remove_one(cx, &name))?;
    ops.extend(cx.each(add.0, add.1, set)?);
    Ok(ops)
}

/// One header that goes.
pub(crate) fn remove_one(cx: &mut Cx, key: &str) -> Res<HeaderOp> {
    let name = header_name(cx, "", key)?;
    if name.starts_with(':') {
        return cx.refuse("", format!("`{key}` cannot be removed"));
    }
    Ok(HeaderOp::Remove(name))
}

/// One header that is added or set.
pub(crate) fn set(cx: &mut Cx, m: core::HeaderValueOption) -> Res<HeaderOp> {
    use core::header_value_option::HeaderAppendAction as A;
    let core::HeaderValueOption { header, append, append_action, keep_empty_value } = m;
    let Some(core::HeaderValue { key, value, raw_value }) = header else { return cx.refuse("header", "it is required") };
    let name = header_name(cx, "header.key", &key)?;
    let value = match (value.is_empty(), raw_value.is_empty()) {
        (_, true) => value,
        (true, false) => String::from_utf8(raw_value).map_err(|_| cx.bad("header.raw_value", "not UTF-8"))?,
        (false, false) => return cx.refuse("header.raw_value", "only one of the values may be given"),
    };
    let value = cx.within("header.value", |cx| template(cx, &value, Unknown::Refuse))?;
    let action = match (append, cx.choice("append_action", append_action)?) {
        (Some(append), A::AppendIfExistsOrAdd) if append.value => HeaderAction::Append,
        (Some(_), A::AppendIfExistsOrAdd) => HeaderAction::Overwrite,
        (Some(_), _) => return cx.refuse("append", "not together with append_action"),
        (None, A::AppendIfExistsOrAdd) => HeaderAction::Append,
        (None, A::AddIfAbsent) => HeaderAction::AddIfAbsent,
        (None, A::OverwriteIfExistsOrAdd) => HeaderAction::Overwrite,
        (None, A::OverwriteIfExists) => HeaderAction::OverwriteIfExists,
    };
    if name.starts_with(':') && action == HeaderAction::Append {
        return cx.refuse("header.key", format!("`{key}` can only be overwritten"));
    }
    Ok(HeaderOp::Set { name, value, action, keep_empty: keep_empty_value })
}
