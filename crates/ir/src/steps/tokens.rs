//! Who a request's tokens say that its user is.

use std::sync::Arc;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use mizzen_http::Head;
use mizzen_protos::wkt::{ListValue, Struct, Value, value::Kind};
use mizzen_types::Name;

use super::locate::{Found, find, forget};
use crate::Trace;
use crate::config::{JwtAuthn, JwtKeys, JwtProvider, JwtRequirement, RemoteJwks};
use crate::filter::audience;
use crate::jwt::{Jwks, Token, TokenFault, json_text, whole};

/// The name under which claims are left in the metadata.
pub const JWT_METADATA: &str = "envoy.filters.http.jwt_authn";

/// The most tokens of one request that are looked at.
const MOST_TOKENS: usize = 16;
/// The longest text of a token that a reason repeats, in bytes.
const SHOWN: usize = 128;

/// What is kept beyond single requests: keys that were fetched, and tokens that were checked.
pub trait TokenStore {
    /// The keys from there, if they were fetched.
    fn keys(&mut self, from: &Arc<RemoteJwks>) -> Option<Arc<Jwks>>;
    /// A token that these keys have signed, as was found out before.
    fn known(&mut self, keys: &Jwks, text: &str) -> Option<Arc<Token>>;
    /// These keys have signed the token.
    fn keep(&mut self, keys: &Jwks, text: &str, token: &Arc<Token>);
    /// A token names a key that is not among those from there: the issuer may have a new one.
    fn lacks(&mut self, from: &Arc<RemoteJwks>);
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl TokenStore for NoStore {
    fn keys(&mut self, _: &Arc<RemoteJwks>) -> Option<Arc<Jwks>> {
        None
    }

    fn known(&mut self, _: &Jwks, _: &str) -> Option<Arc<Token>> {
        None
    }

    fn keep(&mut self, _: &Jwks, _: &str, _: &Arc<Token>) {}

    fn lacks(&mut self, _: &Arc<RemoteJwks>) {}
}

/// Why a request's tokens are not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRefusal {
    /// What is wrong, in Envoy's words.
    pub fault: TokenFault,
    /// What was wanted, and what was there instead; nothing secret.
    pub why: String,
}

/// What the check of a request's tokens leaves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenFindings {
    /// For the metadata, under [`JWT_METADATA`].
    pub metadata: Struct,
    /// Whether the route is to be chosen anew.
    pub reroute: bool,
}

/// What a request has to have; none: nothing, and its headers are not looked at. `random` decides rules for a share of requests.
///
/// # Errors
/// The route names a requirement that there is not.
pub fn token_requirement<'c>(
    authn: &'c JwtAuthn,
    route: Option<&Name>,
    head: &Head,
    random: u64,
) -> Result<Option<&'c JwtRequirement>, String> {
    if authn.bypass_preflight && is_preflight(head) {
        return Ok(None);
    }
    let found = match route {
        Some(wanted) => match authn.named.iter().find(|(name, _)| name == wanted) {
            Some((_, requirement)) => Some(requirement),
            None => return Err(format!("Wrong requirement_name: {wanted}")),
        },
        None => authn.rules.iter().find(|rule| rule.matching.matches(head, random)).map(|rule| &rule.requirement),
    };
    Ok(found.filter(|requirement| **requirement != JwtRequirement::Nothing))
}

/// Whether there is anything in a place of tokens.
pub fn has_tokens(authn: &JwtAuthn, head: &Head) -> bool {
    authn.providers.iter().any(|provider| !find(&provider.locations, head, 1).is_empty())
}

fn is_preflight(head: &Head) -> bool {
    let some = |name| head.get(name).is_some_and(|value| !value.is_empty());
    head.method() == "OPTIONS" && some("origin") && some("access-control-request-method")
}

/// From where keys have to be fetched before a request's tokens can be checked: those of the issuers that its tokens name.
pub fn keys_needed<'c>(
    authn: &'c JwtAuthn,
    requirement: &JwtRequirement,
    head: &Head,
    mut is_needed: impl FnMut(&Arc<RemoteJwks>) -> bool,
) -> Option<&'c Arc<RemoteJwks>> {
    let any = matches!(requirement, JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed);
    match requirement {
        JwtRequirement::Any(list) | JwtRequirement::All(list) => {
            return list.iter().find_map(|inner| keys_needed(authn, inner, head, &mut is_needed as &mut dyn FnMut(&_) -> bool));
        }
        _ => {}
    }
    authn.providers.iter().enumerate().find_map(|(at, provider)| {
        let JwtKeys::Remote(from) = &provider.keys else { return None };
        let meant = any || matches!(requirement, JwtRequirement::Provider(index, _) if usize::from(*index) == at);
        let named = || {
            let all = find(&provider.locations, head, MOST_TOKENS);
            all.iter().any(|found| Token::parse(&found.text).is_ok_and(|t| provider.issuer.is_empty() || t.issuer == *provider.issuer))
        };
        (meant && is_needed(from) && named()).then_some(from)
    })
}

/// Checks a request's tokens against what it has to have. Those that are good are taken out of the head, if they are not to be forwarded,
/// and what they say is put into it.
///
/// Headers that are to hold claims are taken out first, whatever comes of it: only who checks may write them.
///
/// # Errors
/// What is wrong with a token, or that there is none.
pub fn check_tokens(
    authn: &JwtAuthn,
    requirement: &JwtRequirement,
    now: Duration,
    head: &mut Head,
    store: &mut dyn TokenStore,
    trace: &mut Trace<'_>,
) -> (Result<(), TokenRefusal>, TokenFindings) {
    strip(authn, head);
    let mut check = Check { authn, now, head, store, unsigned: Vec::new(), findings: TokenFindings::default() };
    let result = check.requirement(requirement, trace);
    (result, check.findings)
}

/// Takes out the headers that are to hold claims.
fn strip(authn: &JwtAuthn, head: &mut Head) {
    for provider in authn.providers.iter() {
        for header in provider.claim_headers.iter().map(|(header, _)| header).chain(provider.payload_header.iter().map(|(h, _)| h)) {
            head.remove(header);
        }
    }
}

struct Check<'a> {
    authn: &'a JwtAuthn,
    now: Duration,
    head: &'a mut Head,
    store: &'a mut dyn TokenStore,
    /// What was found out before of this request's tokens: a requirement may be about one that another one was about.
    unsigned: Vec<Unsigned<'a>>,
    findings: TokenFindings,
}

/// A token that a provider's keys have not signed.
struct Unsigned<'a> {
    provider: &'a JwtProvider,
    text: String,
    token: Arc<Token>,
    fault: TokenFault,
}

/// Text of a token, made short and harmless for a log.
fn shown(text: &str) -> String {
    let end = (0..=SHOWN.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (start, rest) = text.split_at(end);
    format!("{start:?}{}", if rest.is_empty() { "" } else { "…" })
}

fn list(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let all: Vec<String> = texts.into_iter().take(8).map(|text| shown(text.as_ref())).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

impl<'a> Check<'a> {
    fn requirement(&mut self, requirement: &JwtRequirement, trace: &mut Trace<'_>) -> Result<(), TokenRefusal> {
        match requirement {
            JwtRequirement::Nothing => Ok(()),
            JwtRequirement::Provider(at, audiences) => {
                let authn = self.authn;
                let Some(provider) = authn.providers.get(usize::from(*at)) else {
                    return Err(TokenRefusal { fault: TokenFault::Issuer, why: "there is no such provider".to_owned() });
                };
                let result = self.tokens(std::slice::from_ref(provider), audiences.as_deref());
                let title = || format!("a token of {}", issuer(provider));
                trace.note(result.is_ok(), || match &result {
                    Ok(()) => title(),
                    Err(refusal) => format!("{}: {}", title(), refusal.why),
                });
                result
            }
            JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed => {
                let authn = self.authn;
                let result = match self.tokens(&authn.providers, None) {
                    Err(refusal) if refusal.fault == TokenFault::Missing => Ok(()),
                    Err(_) if *requirement == JwtRequirement::AllowMissingOrFailed => Ok(()),
                    other => other,
                };
                trace.note(result.is_ok(), || match &result {
                    Ok(()) => "no token, or a good one".to_owned(),
                    Err(refusal) => format!("no token, or a good one: {}", refusal.why),
                });
                result
            }
            JwtRequirement::All(all) => {
                trace.note(true, || "all of".to_owned());
                trace.deeper(|trace| all.iter().try_for_each(|inner| self.requirement(inner, trace)))
            }
            JwtRequirement::Any(all) => {
                trace.note(true, || "one of".to_owned());
                trace.deeper(|trace| {
                    let mut worst: Option<TokenRefusal> = None;
                    for inner in all.iter() {
                        let Err(refusal) = self.requirement(inner, trace) else { return Ok(()) };
                        // That there is none, or another issuer's, says less than what is wrong with one.
                        let vague = |r: &TokenRefusal| matches!(r.fault, TokenFault::Missing | TokenFault::Issuer);
                        if worst.as_ref().is_none_or(|known| vague(known) && (!vague(&refusal) || known.fault == TokenFault::Missing)) {
                            worst = Some(refusal);
                        }
                    }
                    Err(worst.unwrap_or_else(|| TokenRefusal { fault: TokenFault::Missing, why: "nothing is enough".to_owned() }))
                })
            }
        }
    }

    /// All tokens where these providers have theirs have to be good: a server could take the bad one for the one that was checked.
    fn tokens(&mut self, providers: &'a [JwtProvider], audiences: Option<&[Name]>) -> Result<(), TokenRefusal> {
        let mut all: Vec<Found> = Vec::new();
        for provider in providers {
            for found in find(&provider.locations, self.head, MOST_TOKENS + 1) {
                if !all.iter().any(|known| known.at == found.at && known.text == found.text) {
                    all.push(found);
                }
            }
        }
        if all.is_empty() {
            let places = providers.iter().flat_map(|p| p.locations.iter().map(ToString::to_string));
            let mut places: Vec<String> = places.collect();
            places.dedup();
            return Err(TokenRefusal { fault: TokenFault::Missing, why: format!("there is no token in {}", places.join(", ")) });
        }
        if all.len() > MOST_TOKENS {
            return Err(TokenRefusal { fault: TokenFault::Many, why: format!("there are more than {MOST_TOKENS} tokens") });
        }
        let mut good = Vec::new();
        for found in &all {
            let of = |p: &&JwtProvider| p.locations.contains(&found.at);
            let candidates: Vec<&'a JwtProvider> = providers.iter().filter(of).collect();
            let checked = self.token(&candidates, found, audiences).map_err(|(fault, why)| {
                let why = format!("the token in {}: {why}", found.at);
                self.failed(&candidates, fault);
                TokenRefusal { fault, why }
            })?;
            good.push((checked, found));
        }
        // Only now: with a good token its place is emptied, and a bad one beside it would be seen by nobody.
        for ((provider, token), found) in good {
            self.good(provider, &token, found);
        }
        Ok(())
    }

    fn failed(&mut self, candidates: &[&JwtProvider], fault: TokenFault) {
        for key in candidates.iter().filter_map(|provider| provider.failure_key.as_ref()) {
            let value = Value { kind: Some(Kind::StringValue(fault.to_string())) };
            let value = Value { kind: Some(Kind::StructValue(Struct { fields: [("message".to_owned(), value)].into() })) };
            self.findings.metadata.fields.insert(key.to_string(), value);
        }
    }

    /// Checks one token: whose it is, and what it says.
    fn token(
        &mut self,
        providers: &[&'a JwtProvider],
        found: &Found,
        audiences: Option<&[Name]>,
    ) -> Result<(&'a JwtProvider, Arc<Token>), (TokenFault, String)> {
        let same = |bad: &&Unsigned<'_>| bad.text == found.text && providers.iter().any(|p| std::ptr::eq(*p, bad.provider));
        if let Some(Unsigned { provider, token, fault, .. }) = self.unsigned.iter().find(same) {
            claims(provider, token, self.now, audiences).map_err(|wrong| of_issuer(provider, wrong))?;
            return Err(of_issuer(provider, (*fault, signature_why(*fault, token))));
        }
        // What was checked before need not be read again, whoever's it is.
        let mut known = None;
        for provider in providers {
            let keys = self.keys(provider);
            known = keys.as_ref().and_then(|keys| self.store.known(keys, &found.text)).map(|token| (*provider, token));
            if known.is_some() {
                break;
            }
        }
        // One that another provider's keys have signed as well is not known to be signed by its own's.
        let known = known.filter(|(provider, token)| provider.issuer.is_empty() || token.issuer == *provider.issuer);
        let is_known = known.is_some();
        let (provider, token) = match known {
            Some(known) => known,
            None => {
                let token = Token::parse(&found.text).map_err(|fault| (fault, fault.to_string()))?;
                let own = providers.iter().find(|p| *p.issuer == *token.issuer).or_else(|| providers.iter().find(|p| p.issuer.is_empty()));
                let Some(provider) = own else {
                    let wanted = list(providers.iter().map(|p| &*p.issuer));
                    return Err((TokenFault::Issuer, format!("it is of the issuer {}, wanted is {wanted}", shown(&token.issuer))));
                };
                (*provider, Arc::new(token))
            }
        };
        claims(provider, &token, self.now, audiences).map_err(|wrong| of_issuer(provider, wrong))?;
        if !is_known {
            let Some(keys) = self.keys(provider) else {
                return Err(of_issuer(provider, (TokenFault::Fetch, "its issuer's keys could not be fetched".to_owned())));
            };
            if let Err(fault) = keys.check(&token) {
                if let (TokenFault::NoSuchKey, Some(_), JwtKeys::Remote(from)) = (fault, &token.key_id, &provider.keys) {
                    self.store.lacks(from);
                }
                let why = signature_why(fault, &token);
                self.unsigned.push(Unsigned { provider, text: found.text.clone(), token, fault });
                return Err(of_issuer(provider, (fault, why)));
            }
            self.store.keep(&keys, &found.text, &token);
        }
        Ok((provider, token))
    }

    fn keys(&mut self, provider: &JwtProvider) -> Option<Arc<Jwks>> {
        match &provider.keys {
            JwtKeys::Here(keys) => Some(keys.clone()),
            JwtKeys::Remote(from) => self.store.keys(from),
        }
    }

    /// What a good token leaves.
    fn good(&mut self, provider: &JwtProvider, token: &Token, found: &Found) {
        if let Some((header, padded)) = &provider.payload_header {
            let mut text = token.claims_text().to_owned();
            while *padded && !text.len().is_multiple_of(4) {
                text.push('=');
            }
            self.head.set(header, text);
        }
        for (header, path) in provider.claim_headers.iter() {
            if let Some(text) = token.claim(path.iter().map(|part| &**part)).and_then(header_text) {
                // A text that is no header's value is left out.
                self.head.set(header, text);
            }
        }
        if !provider.forward {
            forget(found, self.head);
        }
        let fields = &mut self.findings.metadata.fields;
        let object = |s: Struct| Value { kind: Some(Kind::StructValue(s)) };
        if let Some(key) = &provider.payload_key {
            fields.insert(key.to_string(), object(split(&token.claims, &provider.split)));
        }
        if let Some(key) = &provider.header_key {
            fields.insert(key.to_string(), object(token.header.clone()));
        }
        self.findings.reroute |= provider.clear_route_cache;
    }
}

fn issuer(provider: &JwtProvider) -> String {
    if provider.issuer.is_empty() { format!("provider {}", provider.name) } else { format!("issuer {}", shown(&provider.issuer)) }
}

/// What is wrong with a token, with whose it is.
fn of_issuer(provider: &JwtProvider, (fault, why): (TokenFault, String)) -> (TokenFault, String) {
    (fault, format!("of {}: {why}", issuer(provider)))
}

fn signature_why(fault: TokenFault, token: &Token) -> String {
    let by = || match &token.key_id {
        Some(id) => format!("{} by key {}", token.algorithm.name(), shown(id)),
        None => format!("{} by a key that it does not name", token.algorithm.name()),
    };
    match fault {
        TokenFault::NoSuchKey => format!("it is signed with {}, and the issuer has no such key", by()),
        TokenFault::NoKeys => "the issuer has no key".to_owned(),
        _ => format!("its signature ({}) is wrong", by()),
    }
}

/// Time, audience and subject: what is looked at on every use.
fn claims(provider: &JwtProvider, token: &Token, now: Duration, audiences: Option<&[Name]>) -> Result<(), (TokenFault, String)> {
    if let Some(wanted) = provider.subjects.as_ref().filter(|m| !token.subject.as_ref().is_some_and(|s| m.matches(s.as_bytes()))) {
        let was = token.subject.as_deref().map_or("absent".to_owned(), shown);
        return Err((TokenFault::Subject, format!("its subject is {was}, wanted is one that {}", wanted.describe())));
    }
    if provider.require_expiration && token.end.is_none() {
        return Err((TokenFault::Lifetime, "it has no end".to_owned()));
    }
    if let (Some(most), Some(end)) = (provider.max_lifetime, token.end) {
        let most = now.as_secs().saturating_add(most.as_secs());
        if end > most {
            return Err((TokenFault::Lifetime, format!("it ends {} s later than it may", end - most)));
        }
    }
    token.check_time(now, provider.skew).map_err(|fault| {
        let ago = |at: Option<u64>| at.unwrap_or(0).abs_diff(now.as_secs());
        let why = match fault {
            TokenFault::Early => format!("it becomes good in {} s (clocks may differ by {} s)", ago(token.begin), provider.skew.as_secs()),
            _ => format!("it has expired {} s ago (clocks may differ by {} s)", ago(token.end), provider.skew.as_secs()),
        };
        (fault, why)
    })?;
    let wanted = audiences.filter(|list| !list.is_empty()).unwrap_or(&provider.audiences);
    if wanted.is_empty() || token.audiences.iter().any(|a| wanted.iter().any(|w| **w == *audience(a))) {
        return Ok(());
    }
    let why = format!("its audiences are {}, wanted is one of {}", list(&token.audiences), list(wanted.iter().map(|w| &**w)));
    Err((TokenFault::Audience, why))
}

/// A claim as a header's value: texts, numbers and truth values as they are, all else as JSON in base64.
fn header_text(value: &Value) -> Option<String> {
    match value.kind.as_ref()? {
        Kind::NullValue(_) => None,
        Kind::StringValue(text) => Some(text.clone()),
        Kind::BoolValue(b) => Some(b.to_string()),
        Kind::NumberValue(n) => Some(whole(*n).map_or_else(|| format!("{n:.6}"), |n| n.to_string())),
        Kind::StructValue(_) | Kind::ListValue(_) => Some(STANDARD.encode(json_text(value))),
    }
}

/// The claims, those of `names` split at spaces.
fn split(claims: &Struct, names: &[Name]) -> Struct {
    let mut claims = claims.clone();
    for name in names {
        let Some(value) = claims.fields.get_mut(&**name) else { continue };
        if let Some(Kind::StringValue(text)) = &value.kind {
            let part = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
            let values = text.split(' ').filter(|part| !part.is_empty()).map(part).collect();
            value.kind = Some(Kind::ListValue(ListValue { values }));
        }
    }
    claims
}
