//! Checks the tokens of requests: `envoy.filters.http.jwt_authn`.
//!
//! What was found out once is kept: the keys that the proxy fetches, and the tokens that keys have signed. Whether a token is good at this time,
//! and for this audience, is looked at each time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mizzen_http::Head;
use mizzen_ir::{
    JWT_METADATA, Jwks, Token, TokenRefusal, TokenStore, Trace, check_tokens,
    config::{FilterOverride, JwtAuthn, JwtKeys, JwtRequirement, RemoteJwks},
    keys_needed, token_requirement,
};
use mizzen_pki::sha256;

use super::{Cx, Flow, News, Reply, Wait};
use crate::{
    call::{Call, CallAnswer},
    flags::Flags,
    metrics::Table,
};

/// The longest key set that is read, in bytes.
const MOST: usize = 1 << 20;
/// Keys are asked for before their time, because a token names one that is not there, after so long since they were asked for at the earliest: names of
/// keys are anybody's to write.
const EARLY: Duration = Duration::from_secs(5);
/// How often a request looks whether the keys are there that another one has asked for.
const LOOK: Duration = Duration::from_millis(10);
/// Tokens of one generation of the cache, and the bytes that they may take.
const MOST_TOKENS: usize = 2048;
const MOST_BYTES: usize = 4 << 20;
/// Issuers of which keys are kept.
const MOST_ISSUERS: usize = 256;
/// The longest part of a URI that the realm repeats.
const MOST_REALM: usize = 256;

/// What is kept beyond single requests.
#[derive(Default)]
pub(crate) struct Tokens {
    /// Tokens that keys have signed, by the hash of both; two generations, of which the older one goes when the newer one is full.
    checked: [HashMap<[u8; 32], Arc<Token>>; 2],
    bytes: usize,
    issuers: HashMap<Arc<RemoteJwks>, Issuer>,
    /// Whose keys lack one that a token of the request in hand names.
    lacking: Option<Arc<RemoteJwks>>,
    counts: [u64; NAMES.len()],
}

/// Keys that the proxy fetches.
#[derive(Default)]
struct Issuer {
    /// The last good ones.
    keys: Option<Arc<Jwks>>,
    /// Until then nobody need ask.
    until: Duration,
    /// Until then somebody is asking.
    asking: Duration,
    /// Until then they are not asked for early.
    settled: Duration,
}

#[derive(Clone, Copy)]
enum Count {
    Allowed,
    Denied,
    Preflight,
    Fetched,
    FetchFailed,
    Hit,
    Miss,
}

/// Envoy's names of what is counted.
const NAMES: [&str; 7] = [
    "envoy_http_jwt_authn_allowed",
    "envoy_http_jwt_authn_denied",
    "envoy_http_jwt_authn_cors_preflight_bypassed",
    "envoy_http_jwt_authn_jwks_fetch_success",
    "envoy_http_jwt_authn_jwks_fetch_failed",
    "envoy_http_jwt_authn_jwt_cache_hit",
    "envoy_http_jwt_authn_jwt_cache_miss",
];

impl Tokens {
    fn count(&mut self, what: Count) {
        if let Some(count) = self.counts.get_mut(what as usize) {
            *count += 1;
        }
    }

    /// Adds what was counted to the worker's metrics.
    pub(crate) fn tell(&mut self, table: &mut Table) {
        for (name, count) in NAMES.into_iter().zip(&mut self.counts).filter(|(_, count)| **count > 0) {
            let handle = table.counter(name, Vec::new());
            table.add(handle, std::mem::take(count));
        }
    }

    /// How many tokens and issuers are kept.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> [(&'static str, usize); 2] {
        [("tokens of a worker", self.checked.iter().map(HashMap::len).sum()), ("issuers of a worker", self.issuers.len())]
    }

    /// Other keys may be in force: what others have signed is forgotten.
    pub(crate) fn forget(&mut self) {
        self.checked.iter_mut().for_each(HashMap::clear);
        self.bytes = 0;
        if self.issuers.len() > MOST_ISSUERS {
            self.issuers.clear();
        }
    }

    fn remember(&mut self, key: [u8; 32], token: &Arc<Token>) {
        let [new, old] = &mut self.checked;
        if new.len() >= MOST_TOKENS || self.bytes + token.size() > MOST_BYTES {
            *old = std::mem::take(new);
            self.bytes = 0;
        }
        self.bytes += token.size();
        new.insert(key, token.clone());
    }

    /// What somebody who was asked has answered.
    fn fetched(&mut self, from: &Arc<RemoteJwks>, answer: CallAnswer, now: Duration) {
        let keys = match answer {
            CallAnswer::Answered { head, body, .. } if head.status() == 200 => Jwks::parse(&body).ok(),
            _ => None,
        };
        self.count(if keys.is_some() { Count::Fetched } else { Count::FetchFailed });
        let issuer = self.issuers.entry(from.clone()).or_default();
        issuer.asking = Duration::ZERO;
        issuer.until = now + if keys.is_some() { from.lifetime } else { from.retry };
        issuer.settled = now + EARLY;
        // The last good ones stay, if there are no better ones.
        issuer.keys = keys.map(Arc::new).or(issuer.keys.take());
    }

    /// Whether keys have to be fetched, or waited for.
    fn is_needed(&self, from: &Arc<RemoteJwks>, now: Duration) -> bool {
        let Some(issuer) = self.issuers.get(from) else { return true };
        // While somebody asks, the last good ones do.
        now >= issuer.until && (issuer.keys.is_none() || now >= issuer.asking)
    }
}

fn key(keys: &Jwks, text: &str) -> [u8; 32] {
    sha256(&[keys.id(), text.as_bytes()])
}

impl TokenStore for Tokens {
    fn keys(&mut self, from: &Arc<RemoteJwks>) -> Option<Arc<Jwks>> {
        self.issuers.get(from)?.keys.clone()
    }

    fn known(&mut self, keys: &Jwks, text: &str) -> Option<Arc<Token>> {
        let key = key(keys, text);
        let [new, old] = &mut self.checked;
        let found = new.get(&key).cloned();
        let (found, again) = match found {
            Some(token) => (Some(token), false),
            None => (old.remove(&key), true),
        };
        if let Some(token) = found.as_ref().filter(|_| again) {
            self.remember(key, token);
        }
        self.count(if found.is_some() { Count::Hit } else { Count::Miss });
        found
    }

    fn keep(&mut self, keys: &Jwks, text: &str, token: &Arc<Token>) {
        self.remember(key(keys, text), token);
    }

    fn lacks(&mut self, from: &Arc<RemoteJwks>) {
        self.lacking = Some(from.clone());
    }
}

pub(super) fn request(authn: &JwtAuthn, news: News, cx: &mut Cx<'_>) -> Flow {
    let route = match cx.route {
        Some(FilterOverride::JwtRequirement(name)) => Some(name),
        _ => None,
    };
    let random = cx.rng.next();
    let requirement = match token_requirement(authn, route, cx.head, random) {
        Ok(Some(requirement)) => requirement,
        Ok(None) => {
            let preflight = authn.bypass_preflight && cx.head.method() == "OPTIONS" && cx.head.contains("access-control-request-method");
            cx.filters.tokens.count(if preflight { Count::Preflight } else { Count::Allowed });
            return Flow::Go;
        }
        Err(why) => {
            cx.filters.tokens.count(Count::Denied);
            cx.record.policy = Some(why);
            return Reply::flow(403, "Failed JWT authentication", Flags::default(), "jwt_authn_access_denied");
        }
    };
    if let (News::Answer(answer), Some(from)) = (news, cx.facts.jwks.take()) {
        cx.filters.tokens.fetched(&from, *answer, cx.now.mono);
    }
    if let Some(wait) = fetch(authn, requirement, cx) {
        return Flow::Wait(wait);
    }
    let tokens = &mut cx.filters.tokens;
    let realm = realm(cx.head);
    tokens.lacking = None;
    // Good tokens are taken out of it, which is to be undone if it is looked at again.
    let before = authn.providers.iter().any(|provider| matches!(provider.keys, JwtKeys::Remote(_))).then(|| cx.head.clone());
    let (result, findings) = check_tokens(authn, requirement, cx.now.wall, cx.head, tokens, &mut Trace::off());
    if result.is_err()
        && let (Some(from), Some(before)) = (tokens.lacking.take(), before)
        && let Some(wait) = renew(&from, cx)
    {
        *cx.head = before;
        return Flow::Wait(wait);
    }
    let tokens = &mut cx.filters.tokens;
    tokens.count(if result.is_ok() { Count::Allowed } else { Count::Denied });
    if !findings.metadata.fields.is_empty() {
        cx.facts.metadata.merge(JWT_METADATA, findings.metadata);
    }
    cx.reroute |= findings.reroute;
    match result {
        Ok(()) => Flow::Go,
        Err(refusal) => refused(authn, &refusal, &realm, cx),
    }
}

/// Asks for keys that are not there, or waits until somebody else has them.
fn fetch(authn: &JwtAuthn, requirement: &JwtRequirement, cx: &mut Cx<'_>) -> Option<Wait> {
    let (now, tokens) = (cx.now.mono, &mut cx.filters.tokens);
    let from = keys_needed(authn, requirement, cx.head, |from| tokens.is_needed(from, now))?;
    Some(ask(from, cx))
}

/// Asks before their time for keys of which one is lacking, or waits for whoever does. None: they were asked for just before, and have not got it.
fn renew(from: &Arc<RemoteJwks>, cx: &mut Cx<'_>) -> Option<Wait> {
    let now = cx.now.mono;
    let issuer = cx.filters.tokens.issuers.get(from)?;
    (now < issuer.asking || now >= issuer.settled).then(|| ask(from, cx))
}

fn ask(from: &Arc<RemoteJwks>, cx: &mut Cx<'_>) -> Wait {
    let now = cx.now.mono;
    let issuer = cx.filters.tokens.issuers.entry(from.clone()).or_default();
    if now < issuer.asking {
        return Wait::Until(now + LOOK);
    }
    // Who asks may go away before the answer has come.
    issuer.asking = now + from.timeout + LOOK;
    cx.facts.jwks = Some(from.clone());
    let mut head = Head::request("GET", if from.secure { "https" } else { "http" }, &from.authority, &from.path);
    head.set("accept", "application/json");
    Wait::Call(Box::new(Call { cluster: from.cluster.clone(), head, body: Vec::new(), timeout: Some(from.timeout), most: MOST }))
}

/// Where the token was asked for: the URI, without its query, which may hold a token.
fn realm(head: &Head) -> String {
    let path = head.path().split(['?', '#']).next().unwrap_or_default();
    let end = (0..=MOST_REALM.min(path.len())).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
    let whole = format!("{}://{}{}", head.scheme(), head.authority(), path.get(..end).unwrap_or_default());
    whole.replace(['"', '\\'], "")
}

fn refused(authn: &JwtAuthn, refusal: &TokenRefusal, realm: &str, cx: &mut Cx<'_>) -> Flow {
    let words = refusal.fault.to_string();
    cx.record.policy = Some(format!("request authentication: {}", refusal.why));
    let error = if refusal.fault == mizzen_ir::TokenFault::Missing { "" } else { ", error=\"invalid_token\"" };
    Flow::Reply(Box::new(Reply {
        status: refusal.fault.status(),
        body: if authn.strip_failure { Vec::new() } else { words.clone().into_bytes() },
        details: format!("jwt_authn_access_denied{{{}}}", words.replace(' ', "_")),
        headers: if authn.strip_failure {
            Vec::new()
        } else {
            vec![("www-authenticate".to_owned(), format!("Bearer realm=\"{realm}\"{error}").into_bytes())]
        },
        ..Reply::default()
    }))
}
