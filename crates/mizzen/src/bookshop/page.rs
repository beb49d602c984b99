//! The storefront's HTML.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{Answer, catalogue::Book, reviews::Reviews};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2a39; --paper: #fbf8f2; --line: #d9d2c3; --bad: #a4262c }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e4da; --paper: #16202b; --line: #34414f; --bad: #ff8a80 } }
body { font: 16px/1.5 Georgia, serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 46rem; padding: 0 1rem }
header { border-bottom: 2px solid var(--ink); margin-bottom: 1.5rem } h1 { margin: 0 } h2 { margin: 0 0 .2rem }
article { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem 1.25rem; margin: 1rem 0 }
.by, .version { opacity: .75; font-style: italic } .version { float: right } .black { color: inherit } .red { color: #c62828 }
.bad { color: var(--bad); font-family: ui-monospace, monospace; font-size: .9rem } blockquote { margin: .6rem 0; padding-left: 1rem; border-left: 3px solid var(--line) }
";

/// Everything that the page shows. A part that could not be had says why.
#[derive(Serialize, Deserialize)]
pub(super) struct Shop {
    pub(super) user: Option<String>,
    pub(super) books: Answer<Vec<Listed>>,
}

/// A book with its reviews.
#[derive(Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) book: Book,
    pub(super) reviews: Answer<Reviews>,
}

/// The page.
pub(super) fn render(shop: &Shop) -> String {
    let mut html = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>The bookshop</title>");
    let user = shop.user.as_deref().map_or(String::new(), |u| format!(" · signed in as {}", escape(u)));
    let _ = write!(
        html,
        "<meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>\
         <header><h1>The bookshop</h1><p>Books of the sea{user}</p></header><main>"
    );
    match &shop.books {
        Ok(books) => books.iter().for_each(|listed| book(&mut html, listed)),
        Err(why) => failure(&mut html, "The catalogue is not to be had", why),
    }
    html.push_str("</main></html>\n");
    html
}

fn book(html: &mut String, listed: &Listed) {
    let b = &listed.book;
    let _ = write!(html, "<article><h2>{}</h2><p class=\"by\">{}, {}</p>", escape(&b.title), escape(&b.author), b.year);
    match &b.stock {
        Ok(count) => {
            let _ = write!(html, "<p>{count} in stock</p>");
        }
        Err(why) => failure(html, "The stock is not known", why),
    }
    match &listed.reviews {
        Ok(found) => reviews(html, found),
        Err(why) => failure(html, "The reviews are not to be had", why),
    }
    html.push_str("</article>");
}

fn reviews(html: &mut String, found: &Reviews) {
    let _ = write!(html, "<p class=\"version\">reviews {}</p>", escape(&found.version));
    for (at, review) in found.reviews.iter().enumerate() {
        let _ = write!(html, "<blockquote>{}<br>— {}{}</blockquote>", escape(&review.text), escape(&review.reader), stars(found, at));
    }
    if let Some(Err(why)) = &found.stars {
        failure(html, "The ratings are not to be had", why);
    }
}

fn stars(found: &Reviews, at: usize) -> String {
    let colour = found.colour.as_deref().unwrap_or("black");
    let count: Answer<u32> = match &found.stars {
        Some(Ok(stars)) => stars.get(at).copied().ok_or_else(String::new),
        _ => Err(String::new()),
    };
    count.map_or(String::new(), |n| format!(" <span class=\"{}\">{}</span>", escape(colour), "★".repeat(n.min(5) as usize)))
}

fn failure(html: &mut String, what: &str, why: &str) {
    let _ = write!(html, "<p class=\"bad\">{what}: {}</p>", escape(why));
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}
