//! What becomes of paths.

use std::borrow::Cow;

use mizzen_http::Head;

use crate::config::{EscapedSlashes, Forward, PathMatch, PathOptions, PathRewrite, Redirect, RedirectPath, RegexRewrite, RouteMatch};
use crate::steps::matchers::without_query;
use crate::steps::spelling::{escape, spelled};

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathOutcome {
    /// It stays.
    Keep,
    /// It becomes this.
    Changed(String),
    /// The client is sent there (307).
    Redirect(String),
    /// The request is refused (400).
    Reject,
}

/// Applies the connection manager's path options to `:path`: escaped slashes, then spelling and dot segments (RFC 3986, section 6.2.2), then
/// slashes next to each other. A backslash counts as a slash, as Envoy's URL library has it. What comes out, put in again, stays. The query
/// is not touched.
pub fn normalize_path(path: &str, options: &PathOptions) -> PathOutcome {
    let (before, query) = split_query(path);
    if !before.starts_with('/') {
        return PathOutcome::Keep;
    }
    let mut text = Cow::Borrowed(before);
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep
        && let Some(decoded) = unescape_slashes(&text)
    {
        match options.escaped_slashes {
            EscapedSlashes::Reject => return PathOutcome::Reject,
            EscapedSlashes::Redirect => redirect = true,
            EscapedSlashes::Keep | EscapedSlashes::Forward => {}
        }
        text = decoded.into();
    }
    if options.normalize {
        match canonical(&text) {
            Some(Cow::Borrowed(_)) => {}
            Some(Cow::Owned(canonical)) => text = canonical.into(),
            None => return PathOutcome::Reject,
        }
    }
    if options.merge_slashes && text.contains("//") {
        text = merge_slashes(&text).into();
    }
    if text == before {
        PathOutcome::Keep
    } else if redirect {
        PathOutcome::Redirect(format!("{text}{query}"))
    } else {
        PathOutcome::Changed(format!("{text}{query}"))
    }
}

/// A path, and its query with the question mark.
fn split_query(path: &str) -> (&str, &str) {
    path.split_at(without_query(path).len())
}

/// None if there is no escaped slash.
fn unescape_slashes(path: &str) -> Option<String> {
    let (mut out, mut rest, mut found) = (String::with_capacity(path.len()), path, false);
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let taken = match escape(from.as_bytes()) {
            Some(slash @ (b'/' | b'\\')) => {
                out.push(char::from(slash));
                found = true;
                3
            }
            _ => {
                out.push('%');
                1
            }
        };
        rest = from.get(taken..).unwrap_or_default();
    }
    out.push_str(rest);
    found.then_some(out)
}

/// In its one spelling, without dot segments; none if there is an escaped NUL.
fn canonical(path: &str) -> Option<Cow<'_, str>> {
    let dots = |segment: &str| matches!(segment, "." | "..");
    if path.starts_with('/') && !path.contains('\\') && matches!(spelled(path), Cow::Borrowed(_)) && !path.split('/').any(dots) {
        return if path.contains("%00") { None } else { Some(Cow::Borrowed(path)) };
    }
    let slashes = path.replace('\\', "/");
    let decoded = spelled(&slashes);
    if decoded.contains("%00") {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    Some(format!("/{}", kept.join("/")).into())
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

impl RegexRewrite {
    /// Every match replaced.
    pub fn apply(&self, text: &str) -> String {
        let out = self.pattern.part.replace_all(text.as_bytes(), &*self.replacement);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The same in any bytes.
    pub(crate) fn apply_bytes<'t>(&self, text: &'t [u8]) -> std::borrow::Cow<'t, [u8]> {
        self.pattern.part.replace_all(text, &*self.replacement)
    }
}

/// What matched in a path is replaced.
fn replace_matched(matching: &RouteMatch, path: &str, with: &str) -> String {
    let (path, query) = split_query(path);
    // As the match has seen it.
    let path = spelled(path);
    let rest = match &matching.path {
        PathMatch::Prefix(p) | PathMatch::Segments(p) => path.get(p.len()..).unwrap_or_default(),
        PathMatch::Exact(_) | PathMatch::Regex(_) => "",
    };
    format!("{with}{rest}{query}")
}

/// The path (query included) that the upstream gets; none: it stays.
pub fn rewrite_path(forward: &Forward, matching: &RouteMatch, path: &str) -> Option<String> {
    match &forward.path_rewrite {
        PathRewrite::Keep => None,
        PathRewrite::Matched(with) => Some(replace_matched(matching, path, with)),
        PathRewrite::Regex(rewrite) => {
            let (path, query) = split_query(path);
            Some(format!("{}{query}", rewrite.apply(path)))
        }
    }
}

/// The `location` of a redirect.
pub fn redirect_location(redirect: &Redirect, matching: &RouteMatch, head: &Head, secure: bool) -> String {
    let old_scheme = if secure { "https" } else { "http" };
    let scheme = redirect.scheme.as_deref().unwrap_or(old_scheme);
    let authority = head.authority();
    let host = match &redirect.host {
        Some(host) => host,
        None => {
            let bare = crate::steps::route::without_port(authority);
            let port = authority.strip_prefix(bare).unwrap_or_default();
            // A port that only the old scheme explains goes with it.
            let goes = scheme != old_scheme && port == if secure { ":443" } else { ":80" };
            if redirect.port.is_some() || goes { bare } else { authority }
        }
    };
    let port = redirect.port.map(|p| format!(":{p}")).unwrap_or_default();
    let (path, query) = split_query(head.path());
    let query = if redirect.strip_query { "" } else { query };
    let target = match &redirect.path {
        RedirectPath::Keep => format!("{path}{query}"),
        RedirectPath::Path(new) if new.contains('?') => new.to_string(),
        RedirectPath::Path(new) => format!("{new}{query}"),
        RedirectPath::Matched(with) => format!("{}{query}", replace_matched(matching, path, with)),
        RedirectPath::Regex(rewrite) => format!("{}{query}", rewrite.apply(path)),
    };
    format!("{scheme}://{host}{port}{target}")
}
