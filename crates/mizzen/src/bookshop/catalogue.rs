//! The books, and how many of each are in stock (asked of `stock` over plain TCP).

use axum::{Json, Router, extract::Path, http::StatusCode, response::IntoResponse, routing::get};
use serde::{Deserialize, Serialize};

use super::{Answer, peer, stock};

/// One book.
#[derive(Serialize, Deserialize)]
pub(super) struct Book {
    pub(super) id: u32,
    pub(super) title: String,
    pub(super) author: String,
    pub(super) year: u16,
    /// How many copies, or why that is not known.
    pub(super) stock: Answer<u32>,
}

const BOOKS: [(u32, &str, &str, u16); 3] = [
    (1, "The Voyage of the Beagle", "Charles Darwin", 1839),
    (2, "Twenty Thousand Leagues Under the Seas", "Jules Verne", 1870),
    (3, "Sailing Alone Around the World", "Joshua Slocum", 1900),
];

pub(super) fn routes() -> Router {
    Router::new().route("/books", get(books)).route("/books/{id}", get(book))
}

async fn books() -> Json<Vec<Book>> {
    let mut books = Vec::new();
    for entry in BOOKS {
        books.push(with_stock(entry).await);
    }
    Json(books)
}

async fn book(Path(id): Path<u32>) -> impl IntoResponse {
    match BOOKS.into_iter().find(|b| b.0 == id) {
        Some(entry) => Json(with_stock(entry).await).into_response(),
        None => (StatusCode::NOT_FOUND, "no such book\n").into_response(),
    }
}

async fn with_stock((id, title, author, year): (u32, &str, &str, u16)) -> Book {
    let stock = stock::ask(&peer("STOCK_ADDRESS", "stock:7070"), id).await;
    Book { id, title: title.to_owned(), author: author.to_owned(), year, stock }
}
