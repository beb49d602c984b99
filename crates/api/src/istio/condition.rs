//! The `when` of an AuthorizationPolicy: keys, and what their values are.

use mizzen_types::{IpRange, NamespacedName};

use super::{
    Pattern, header_name,
    security::{account, principal, quoted_port, some, trust_domain},
};
use crate::read::{At, Fields, nearest, quoted};

/// The values of a condition: one of `values` if there are any, and none of `not_values`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values<T> {
    /// One must match.
    pub values: Vec<T>,
    /// None may match.
    pub not_values: Vec<T>,
}

/// A further condition (`when[]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `request.headers[NAME]`.
    RequestHeader {
        /// The header's name, lower case.
        name: String,
        /// Its values.
        values: Values<Pattern>,
    },
    /// `request.auth.principal`.
    RequestPrincipal(Values<RequestPrincipal>),
    /// `request.auth.audiences`.
    RequestAudiences(Values<Pattern>),
    /// `request.auth.presenter`.
    RequestPresenter(Values<Pattern>),
    /// `request.auth.claims[NAME]…`.
    RequestClaim {
        /// The names on the way to the claim; at least one.
        path: Vec<String>,
        /// Its values: the claim itself, or one of its items if it is a list.
        values: Values<Pattern>,
    },
    /// `source.ip`.
    SourceIp(Values<IpRange>),
    /// `remote.ip`.
    RemoteIp(Values<IpRange>),
    /// `source.namespace`.
    SourceNamespace(Values<Pattern>),
    /// `source.principal`.
    SourcePrincipal(Values<Pattern>),
    /// `source.trustDomain`.
    SourceTrustDomain(Values<Pattern>),
    /// `source.serviceAccount`; a bare name was completed by the policy's namespace.
    SourceServiceAccount(Values<NamespacedName>),
    /// `destination.ip`.
    DestinationIp(Values<IpRange>),
    /// `destination.port`.
    DestinationPort(Values<u16>),
    /// `connection.sni`.
    ServerName(Values<Pattern>),
    /// `experimental.envoy.filters.NAME[KEY]`.
    Metadata {
        /// The filter that left it, such as `envoy.filters.network.mysql_proxy`.
        filter: String,
        /// Under which key.
        key: String,
        /// Its values.
        values: Values<MetadataValue>,
    },
}

/// A pattern over what a filter left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataValue {
    /// Written as `[v]`: what was left is a list, and this is one of its items.
    pub item: bool,
    /// The pattern.
    pub pattern: Pattern,
}

/// Issuer and subject of a request's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPrincipal {
    /// Claim `iss`.
    pub issuer: Pattern,
    /// Claim `sub`.
    pub subject: Pattern,
}

impl RequestPrincipal {
    /// `ISSUER/SUBJECT`, at most one star, first or last. As Istio does, it is split at the last slash, since issuers are URLs; a pattern without a slash is
    /// one of the subject if its star is first, else of the issuer.
    pub(crate) fn read(at: &At<'_>) -> RequestPrincipal {
        let part = |text: &str, make: fn(String) -> Pattern| if text.is_empty() { Pattern::Present } else { make(text.to_owned()) };
        let (issuer, subject) = match Pattern::read(at) {
            Pattern::Present => (Pattern::Present, Pattern::Present),
            Pattern::Suffix(text) => match text.rsplit_once('/') {
                Some((issuer, subject)) => (part(issuer, Pattern::Suffix), Pattern::Exact(subject.to_owned())),
                None => (Pattern::Present, Pattern::Suffix(text)),
            },
            Pattern::Prefix(text) => match text.rsplit_once('/') {
                Some((issuer, subject)) => {
                    if issuer.ends_with(":/") {
                        at.warn(format!("the issuer is {} here, since the last `/` ends it: write ISSUER/*", quoted(issuer)));
                    }
                    (Pattern::Exact(issuer.to_owned()), part(subject, Pattern::Prefix))
                }
                None => (Pattern::Prefix(text), Pattern::Present),
            },
            Pattern::Exact(text) => match text.rsplit_once('/') {
                Some((issuer, subject)) => (Pattern::Exact(issuer.to_owned()), Pattern::Exact(subject.to_owned())),
                None => {
                    at.warn(format!("{} is not ISSUER/SUBJECT and matches no token with a subject", quoted(&text)));
                    (Pattern::Exact(text), Pattern::Exact(String::new()))
                }
            },
        };
        RequestPrincipal { issuer, subject }
    }
}

impl MetadataValue {
    fn read(at: &At<'_>) -> MetadataValue {
        let text = at.node.text().unwrap_or_default();
        match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => MetadataValue { item: true, pattern: Pattern::of(at, inner) },
            None => MetadataValue { item: false, pattern: Pattern::read(at) },
        }
    }
}

/// The keys that are no family of keys.
const KEYS: [&str; 13] = [
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.trustDomain",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
    "connection.sni",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.headers",
];
const CLAIMS: &str = "request.auth.claims";
const METADATA: &str = "experimental.envoy.filters.";

impl Condition {
    /// Whether it needs an HTTP request.
    pub fn is_http(&self) -> bool {
        match self {
            Condition::RequestHeader { .. }
            | Condition::RequestPrincipal(_)
            | Condition::RequestAudiences(_)
            | Condition::RequestPresenter(_)
            | Condition::RequestClaim { .. } => true,
            Condition::SourceIp(_)
            | Condition::RemoteIp(_)
            | Condition::SourceNamespace(_)
            | Condition::SourcePrincipal(_)
            | Condition::SourceTrustDomain(_)
            | Condition::SourceServiceAccount(_)
            | Condition::DestinationIp(_)
            | Condition::DestinationPort(_)
            | Condition::ServerName(_)
            | Condition::Metadata { .. } => false,
        }
    }

    pub(crate) fn read(f: &Fields<'_>, namespace: &str) -> Option<Condition> {
        let key_at = f.need("key");
        if !f.written("values") && !f.written("notValues") {
            f.at.fail("must have values or notValues");
        }
        let at = key_at?;
        let key = at.word();
        if key.is_empty() {
            return None;
        }
        let text = |at: &At<'_>| Some(Pattern::read(at));
        Some(match key.as_str() {
            "source.ip" => Condition::SourceIp(values(f, |at| at.parse())),
            "remote.ip" => Condition::RemoteIp(values(f, |at| at.parse())),
            "source.namespace" => Condition::SourceNamespace(values(f, text)),
            "source.principal" => Condition::SourcePrincipal(values(f, |at| Some(principal(at)))),
            "source.trustDomain" => Condition::SourceTrustDomain(values(f, |at| Some(trust_domain(at)))),
            "source.serviceAccount" => Condition::SourceServiceAccount(values(f, |at| account(at, namespace))),
            "destination.ip" => Condition::DestinationIp(values(f, |at| at.parse())),
            "destination.port" => Condition::DestinationPort(values(f, |at| Some(quoted_port(at)))),
            "connection.sni" => Condition::ServerName(values(f, text)),
            "request.auth.principal" => Condition::RequestPrincipal(values(f, |at| Some(RequestPrincipal::read(at)))),
            "request.auth.audiences" => Condition::RequestAudiences(values(f, text)),
            "request.auth.presenter" => Condition::RequestPresenter(values(f, text)),
            other => return Condition::of_family(f, &at, other),
        })
    }

    /// Of a key with a name of the user's own in brackets.
    fn of_family(f: &Fields<'_>, at: &At<'_>, key: &str) -> Option<Condition> {
        let text = |at: &At<'_>| Some(Pattern::read(at));
        let header = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = header.map(str::trim) {
            if HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
                at.fail(format!("{} is of one connection only and is not seen by policies", quoted(name)));
                return None;
            }
            return Some(Condition::RequestHeader { name: header_name(at, name), values: values(f, text) });
        }
        if let Some(path) = key.strip_prefix(CLAIMS).filter(|rest| rest.starts_with('[')) {
            let Some(path) = in_brackets(path) else {
                at.fail(format!("{} must be {CLAIMS}[NAME] or, for a claim within another, {CLAIMS}[NAME][NAME]", quoted(key)));
                return None;
            };
            return Some(Condition::RequestClaim { path, values: values(f, text) });
        }
        if let Some(rest) = key.strip_prefix(METADATA) {
            let parts = rest.split_once('[').and_then(|(name, at)| Some((name, in_brackets(&format!("[{at}"))?)));
            let Some((name, [key])) = parts.as_ref().map(|(name, keys)| (*name, keys.as_slice())).filter(|(name, _)| !name.is_empty())
            else {
                at.fail(format!("{} must be {METADATA}NAME[KEY]", quoted(key)));
                return None;
            };
            let filter = format!("envoy.filters.{name}");
            return Some(Condition::Metadata { filter, key: key.clone(), values: values(f, |at| Some(MetadataValue::read(at))) });
        }
        unknown_key(at, key);
        None
    }
}

fn values<T>(f: &Fields<'_>, read: impl Fn(&At<'_>) -> Option<T>) -> Values<T> {
    let list = |name| some(f, name).iter().filter_map(&read).collect();
    Values { values: list("values"), not_values: list("notValues") }
}

/// The names of `[NAME][NAME]…`; at least one, and none empty.
fn in_brackets(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<String> = inner.split("][").map(str::to_owned).collect();
    names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])).then_some(names)
}

/// Headers that the codecs take off: HTTP/2 has none of them.
pub(super) const HOP: [&str; 6] = ["connection", "upgrade", "keep-alive", "proxy-connection", "te", "transfer-encoding"];

fn unknown_key(at: &At<'_>, key: &str) {
    let known = KEYS.into_iter().chain([CLAIMS]);
    match nearest(key, known) {
        Some(near @ ("request.headers" | CLAIMS)) => at.fail(format!("unknown key {}, did you mean `{near}[NAME]`?", quoted(key))),
        Some(near) => at.fail(format!("unknown key {}, did you mean `{near}`?", quoted(key))),
        None => {
            let [all @ .., _] = KEYS;
            at.fail(format!(
                "unknown key {}, there are {}, request.headers[NAME], {CLAIMS}[NAME] and {METADATA}NAME[KEY]",
                quoted(key),
                all.join(", ")
            ))
        }
    }
}
