//! The page that a person looks at, and the same as JSON under `/api/books`.

use axum::{Json, Router, extract::State, http::HeaderMap, response::Html, routing::get};

use super::{
    Caller,
    catalogue::Book,
    page::{self, Listed, Shop},
    peer,
};

pub(super) fn routes() -> Router {
    Router::new()
        .route(
            "/",
            get(|State(caller): State<Caller>, headers: HeaderMap| async move { Html(page::render(&shop(&caller, &headers).await)) }),
        )
        .route("/api/books", get(|State(caller): State<Caller>, headers: HeaderMap| async move { Json(shop(&caller, &headers).await) }))
        .with_state(Caller::new())
}

async fn shop(caller: &Caller, headers: &HeaderMap) -> Shop {
    let user = headers.get("x-user").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let catalogue = peer("CATALOGUE_ADDRESS", "http://catalogue:9080");
    let books = caller.json::<Vec<Book>>(&format!("{catalogue}/books"), headers).await;
    let books = match books {
        Ok(books) => Ok(with_reviews(caller, headers, books).await),
        Err(why) => Err(why),
    };
    Shop { user, books }
}

async fn with_reviews(caller: &Caller, headers: &HeaderMap, books: Vec<Book>) -> Vec<Listed> {
    let reviews = peer("REVIEWS_ADDRESS", "http://reviews:9080");
    let mut listed = Vec::new();
    for book in books {
        let reviews = caller.json(&format!("{reviews}/reviews/{}", book.id), headers).await;
        listed.push(Listed { book, reviews });
    }
    listed
}
