//! Who decides what no policy can: an external authorizer, asked by proxies over HTTP about each request.
//!
//! It lets in whoever shows a member's card, `x-member: yes`, and says so to the service behind by `x-doorman`.

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};

pub(super) fn routes() -> Router {
    Router::new().fallback(|headers: HeaderMap| async move { decide(&headers) })
}

fn decide(headers: &HeaderMap) -> Response {
    if headers.get("x-member").is_some_and(|card| card == "yes") {
        ([("x-doorman", "let in")], "").into_response()
    } else {
        (StatusCode::FORBIDDEN, [("x-doorman", "refused")], "members only\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_only() {
        for (card, expected) in [(Some("yes"), 200), (Some("no"), 403), (None, 403)] {
            let headers: HeaderMap = card.map(|card| ("x-member".parse().unwrap(), card.parse().unwrap())).into_iter().collect();
            assert_eq!(decide(&headers).status().as_u16(), expected, "{card:?}");
        }
    }
}
