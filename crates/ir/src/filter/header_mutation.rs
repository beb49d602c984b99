//! Changes to headers and trailers at a filter's place.

use mizzen_protos::envoy::envoy::config::common::mutation_rules::v3 as rules;
use mizzen_protos::envoy::envoy::extensions::filters::http::header_mutation::v3 as mutation;

use crate::compile::cx::{Cx, Res, refused};
use crate::compile::headers;
use crate::config::{HeaderOp, HeaderOps};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
pub(super) const PER_ROUTE: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute";

/// Changes to headers and trailers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderMutation {
    /// Those of all routes, made first.
    pub own: MessageMutations,
    /// Whether those of the most specific level are made last; else first, as is Envoy's default.
    pub most_specific_wins: bool,
}

/// Changes to a request and its response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageMutations {
    /// To the request's headers.
    pub request: HeaderOps,
    /// To the request's trailers, if it has any.
    pub request_trailers: HeaderOps,
    /// To the response's headers.
    pub response: HeaderOps,
    /// To the response's trailers, if it has any.
    pub response_trailers: HeaderOps,
}

pub(super) fn compile(cx: &mut Cx, m: mutation::HeaderMutation) -> Res<HeaderMutation> {
    let mutation::HeaderMutation { mutations, most_specific_header_mutations_wins } = m;
    Ok(HeaderMutation {
        own: cx.some("mutations", mutations, of_message)?.unwrap_or_default(),
        most_specific_wins: most_specific_header_mutations_wins,
    })
}

pub(super) fn per_route(cx: &mut Cx, m: mutation::HeaderMutationPerRoute) -> Res<MessageMutations> {
    let mutation::HeaderMutationPerRoute { mutations } = m;
    Ok(cx.some("mutations", mutations, of_message)?.unwrap_or_default())
}

fn of_message(cx: &mut Cx, m: mutation::Mutations) -> Res<MessageMutations> {
    let mutation::Mutations {
        request_mutations,
        query_parameter_mutations,
        response_mutations,
        response_trailers_mutations,
        request_trailers_mutations,
    } = m;
    refused!(cx; query_parameter_mutations);
    let mut list = |field: &str, all: Vec<rules::HeaderMutation>| Ok(HeaderOps { ops: cx.each(field, all, one)?.into() });
    Ok(MessageMutations {
        request: list("request_mutations", request_mutations)?,
        request_trailers: list("request_trailers_mutations", request_trailers_mutations)?,
        response: list("response_mutations", response_mutations)?,
        response_trailers: list("response_trailers_mutations", response_trailers_mutations)?,
    })
}

fn one(cx: &mut Cx, m: rules::HeaderMutation) -> Res<HeaderOp> {
    use rules::header_mutation::Action as A;
    let rules::HeaderMutation { action } = m;
    match action {
        Some(A::Remove(name)) => cx.within("remove", |cx| headers::remove_one(cx, &name)),
        Some(A::Append(option)) => cx.within("append", |cx| headers::set(cx, option)),
        Some(A::RemoveOnMatch(_)) => cx.refuse("remove_on_match", "it is not supported"),
        None => cx.refuse("action", "it is required"),
    }
}
