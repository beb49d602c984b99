//! What readers wrote, in three versions: `v1` without stars, `v2` with black stars, `v3` with red ones, asked of `ratings` over gRPC.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    routing::get,
};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use super::{
    Answer, CALL_TIMEOUT, PASSED_ON, peer,
    ratings::{RatingRequest, RatingsClient},
};

/// The reviews of one book, and who answered.
#[derive(Serialize, Deserialize)]
pub(super) struct Reviews {
    /// `v1`, `v2` or `v3`.
    pub(super) version: String,
    /// The colour of the stars, or none in `v1`.
    pub(super) colour: Option<String>,
    pub(super) reviews: Vec<Review>,
    /// The stars in the reviews' order; absent in `v1`.
    pub(super) stars: Option<Answer<Vec<u32>>>,
}

/// One reader's review.
#[derive(Serialize, Deserialize)]
pub(super) struct Review {
    pub(super) reader: String,
    pub(super) text: String,
}

#[derive(Clone)]
struct Shared {
    version: Arc<str>,
    ratings: Channel,
}

pub(super) fn routes() -> Result<Router> {
    let version = peer("VERSION", "v1");
    let address = peer("RATINGS_ADDRESS", "http://ratings:9090");
    let endpoint = Endpoint::from_shared(address.clone()).with_context(|| format!("RATINGS_ADDRESS={address} is not an address"))?;
    let ratings = endpoint.timeout(CALL_TIMEOUT).connect_lazy();
    Ok(Router::new().route("/reviews/{book}", get(reviews)).with_state(Shared { version: version.into(), ratings }))
}

async fn reviews(State(shared): State<Shared>, Path(book): Path<u32>, headers: HeaderMap) -> Json<Reviews> {
    let colour = match &*shared.version {
        "v2" => Some("black".to_owned()),
        "v3" => Some("red".to_owned()),
        _ => None,
    };
    let stars = match colour {
        Some(_) => Some(rating(shared.ratings.clone(), book, &headers).await),
        None => None,
    };
    let reviews = [
        ("Ada", "A book to take on a long journey. I read it twice before I came home."),
        ("Brendan", "Well written, and the sea is on every page. The middle part is slow."),
    ];
    let reviews = reviews.map(|(reader, text)| Review { reader: reader.to_owned(), text: text.to_owned() }).into();
    Json(Reviews { version: shared.version.to_string(), colour, reviews, stars })
}

async fn rating(channel: Channel, book: u32, headers: &HeaderMap) -> Answer<Vec<u32>> {
    let mut request = tonic::Request::new(RatingRequest { book });
    for (name, value) in headers.iter().filter(|(name, _)| PASSED_ON.contains(&name.as_str())) {
        if let (Ok(key), Ok(value)) = (name.as_str().parse::<tonic::metadata::AsciiMetadataKey>(), value.as_bytes().try_into()) {
            request.metadata_mut().insert(key, value);
        }
    }
    match RatingsClient::new(channel).get(request).await {
        Ok(reply) => Ok(reply.into_inner().stars),
        Err(status) => Err(format!("{}: {}", status.code(), status.message())),
    }
}
