//! Changes to headers and trailers at a filter's place: `envoy.filters.http.header_mutation`.

use std::sync::Arc;

use mizzen_ir::config::{FilterOverride, HeaderMutation, HeaderOps, MessageMutations};

use super::{Cx, Flow, Pass};
use crate::event::Dir;

/// The filter's own changes, and then the route's.
fn all<'a>(filter: &'a HeaderMutation, route: Option<&'a FilterOverride>) -> impl Iterator<Item = &'a MessageMutations> {
    let levels: &[Arc<MessageMutations>] = match route {
        Some(FilterOverride::HeaderMutation(levels)) => levels,
        _ => &[],
    };
    let last = levels.len().wrapping_sub(1);
    let place = move |at: usize| if filter.most_specific_wins { last.wrapping_sub(at) } else { at };
    std::iter::once(&filter.own).chain((0..levels.len()).filter_map(move |at| levels.get(place(at)).map(|level| &**level)))
}

fn of_head(one: &MessageMutations, dir: Dir) -> &HeaderOps {
    match dir {
        Dir::Up => &one.request,
        Dir::Down => &one.response,
    }
}

fn of_trailers(one: &MessageMutations, dir: Dir) -> &HeaderOps {
    match dir {
        Dir::Up => &one.request_trailers,
        Dir::Down => &one.response_trailers,
    }
}

pub(super) fn watches(filter: &HeaderMutation, route: Option<&FilterOverride>, dir: Dir) -> bool {
    all(filter, route).any(|one| !of_trailers(one, dir).ops.is_empty())
}

pub(super) fn head(filter: &HeaderMutation, dir: Dir, cx: &mut Cx<'_>) -> Flow {
    cx.changes.extend(all(filter, cx.route).map(|one| of_head(one, dir)).filter(|ops| !ops.ops.is_empty()).cloned());
    Flow::Go
}

pub(super) fn trailers(filter: &HeaderMutation, dir: Dir, cx: &mut Cx<'_>) -> Pass {
    cx.changes.extend(all(filter, cx.route).map(|one| of_trailers(one, dir)).cloned());
    Pass::Go
}
