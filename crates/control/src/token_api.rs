//! `token.sock`: tokens for the supervisor of workloads, over a socket that only it reaches.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use mizzen_pki::UnixTime;
use serde::{Deserialize, Serialize};

use crate::token::{CA_AUDIENCE, TokenError, Tokens, Workload};

const DEFAULT_TTL: u64 = 3600;
const MAX_TTL: u64 = 24 * 3600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    namespace: String,
    service_account: String,
    pod: String,
    audience: Option<String>,
    ttl_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Issued {
    token: String,
}

pub(crate) fn router(tokens: Arc<Tokens>) -> Router {
    Router::new().route("/token", post(issue)).with_state(tokens)
}

async fn issue(State(tokens): State<Arc<Tokens>>, body: String) -> Response {
    // Not axum's extractor: callers need not say that they send JSON.
    let wanted: Wanted = match serde_json::from_str(&body) {
        Ok(wanted) => wanted,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let ttl = wanted.ttl_seconds.unwrap_or(DEFAULT_TTL);
    if ttl == 0 || ttl > MAX_TTL {
        return (StatusCode::BAD_REQUEST, format!("ttl_seconds is from 1 to {MAX_TTL}\n")).into_response();
    }
    let who = Workload { namespace: wanted.namespace, service_account: wanted.service_account, pod: wanted.pod };
    let audience = wanted.audience.as_deref().unwrap_or(CA_AUDIENCE);
    match tokens.issue(&who, audience, Duration::from_secs(ttl), UnixTime::now()) {
        Ok(token) => Json(Issued { token }).into_response(),
        Err(error @ TokenError::Wish(_)) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
