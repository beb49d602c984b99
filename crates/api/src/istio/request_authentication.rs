//! RequestAuthentication: whose tokens requests may bear, and where the keys come from that sign them.

use std::{fmt, str::FromStr, time::Duration};

use super::{header_name, policy_selector};
use crate::{
    Meta, Selector,
    read::{At, Fields, quoted},
    source::Value,
    table,
};

/// Whose tokens the requests to a workload may bear. All that select a workload hold together.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The workloads; `None` is the namespace, or in the root namespace the mesh.
    pub selector: Option<Selector>,
    /// The issuers.
    pub rules: Vec<JwtRule>,
}

/// An issuer, and what is done with its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtRule {
    /// What its tokens name as their issuer.
    pub issuer: String,
    /// Its tokens must be for one of these; empty: for anybody.
    pub audiences: Vec<String>,
    /// Its keys.
    pub keys: KeySource,
    /// Headers in which tokens are, and what stands before them there.
    pub from_headers: Vec<(String, String)>,
    /// Query parameters in which tokens are.
    pub from_params: Vec<String>,
    /// Cookies in which tokens are.
    pub from_cookies: Vec<String>,
    /// The header that gets all claims, in base64url.
    pub payload_header: Option<String>,
    /// Headers that get claims: header and claim.
    pub claim_headers: Vec<(String, String)>,
    /// Whether the workload sees the token.
    pub forward: bool,
    /// How long fetching the keys may take.
    pub timeout: Duration,
    /// Claims that are lists, written as one text with spaces, beside `scope` and `permission`.
    pub space_delimited: Vec<String>,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// They are written down here.
    Inline(String),
    /// They are at this URL.
    Url(KeysUrl),
    /// The issuer's OpenID configuration, at this URL, names the URL at which they are.
    Discovery(KeysUrl),
}

/// A URL from which something is fetched: `http[s]://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeysUrl {
    /// Whether it is `https`.
    pub secure: bool,
    /// The host, or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path with its query.
    pub path: String,
}

/// Keys that were fetched for RequestAuthentications. It is never read from a document: the control plane makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerKeys {
    /// Its name is [`KeySource::name`].
    pub meta: Meta,
    /// The key set as it came.
    pub keys: String,
}

/// Why a text is no [`KeysUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoUrl;

impl fmt::Display for NoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH")
    }
}

impl FromStr for KeysUrl {
    type Err = NoUrl;

    fn from_str(text: &str) -> Result<Self, NoUrl> {
        let (secure, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(NoUrl),
        };
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            None if secure => 443,
            None => 80,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok().filter(|port: &u16| *port > 0).ok_or(NoUrl)?,
            Some(_) => return Err(NoUrl),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let good = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
        };
        if !good || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(NoUrl);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(KeysUrl { secure, host: bare.unwrap_or(host).to_ascii_lowercase(), port, path })
    }
}

impl KeysUrl {
    /// Host and port as they stand in a request: without the port that the scheme has anyway.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for KeysUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.secure { "s" } else { "" }, self.authority(), self.path)
    }
}

impl KeySource {
    /// Under which name fetched keys are found; none: nothing is fetched.
    pub fn name(&self) -> Option<String> {
        match self {
            KeySource::Inline(_) => None,
            KeySource::Url(url) => Some(url.to_string()),
            KeySource::Discovery(url) => Some(format!("openid {url}")),
        }
    }
}

/// What keeps a text from being a key set, or `Ok` with why some of its keys are of no use.
///
/// # Errors
/// If no key is of use.
pub fn check_key_set(text: &str) -> Result<Vec<String>, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let keys = match value.get("keys") {
        Some(serde_json::Value::Array(keys)) => keys,
        Some(_) => return Err("has `keys` that are no list".to_owned()),
        None => return Err("is no key set: it has no `keys`".to_owned()),
    };
    if keys.is_empty() {
        return Err("has no key".to_owned());
    }
    let mut unused = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let member = |name: &str| key.get(name).and_then(serde_json::Value::as_str);
        let (needed, curves): (&[&str], &[&str]) = match member("kty") {
            Some("RSA") => (&["n", "e"], &[]),
            Some("EC") => (&["crv", "x", "y"], &["P-256", "P-384", "P-521"]),
            Some("OKP") => (&["crv", "x"], &["Ed25519"]),
            Some("oct") => {
                unused.push(format!("keys[{at}] is a shared secret (`oct`), which is not supported"));
                continue;
            }
            Some(other) => {
                unused.push(format!("keys[{at}] is of the type {}, which is not supported", quoted(other)));
                continue;
            }
            None => {
                unused.push(format!("keys[{at}] has no `kty`"));
                continue;
            }
        };
        if let Some(missing) = needed.iter().find(|name| member(name).is_none_or(str::is_empty)) {
            unused.push(format!("keys[{at}] has no `{missing}`"));
        } else if let Some(curve) = member("crv").filter(|curve| !curves.is_empty() && !curves.contains(curve)) {
            unused.push(format!("keys[{at}] is on the curve {}, which is not supported", quoted(curve)));
        } else if key.get("d").is_some() {
            unused.push(format!("keys[{at}] is a private key, which does not belong here"));
        }
    }
    if unused.len() == keys.len() { Err(format!("has no key of use: {}", unused.join("; "))) } else { Ok(unused) }
}

/// Headers that say where a request goes or how it is framed: no claim may.
const RESERVED: &[&str] =
    &["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "keep-alive", "expect"];

/// A header's name; that there is none is told once.
fn word_header(at: &At<'_>) -> String {
    let text = at.word();
    if text.is_empty() { text } else { header_name(at, &text) }
}

fn output_header(at: &At<'_>) -> String {
    let name = word_header(at);
    if name.starts_with(':') || RESERVED.contains(&name.as_str()) {
        at.fail(format!("{} is no header for claims: it says where a request goes or how it is framed", quoted(&name)));
    }
    name
}

/// A list whose items are not empty.
fn words(f: &Fields<'_>, name: &'static str) -> Vec<String> {
    f.list(name).iter().map(At::word).collect()
}

impl RequestAuthentication {
    pub(crate) fn read(root: &Fields<'_>, meta: Meta) -> Self {
        root.spec(&table::REQUEST_AUTHENTICATION, |f| {
            let selector = policy_selector(f);
            let rules = f.list("jwtRules").iter().map(|at| at.fields(JwtRule::read)).collect();
            RequestAuthentication { meta, selector, rules }
        })
    }
}

impl JwtRule {
    fn read(f: &Fields<'_>) -> JwtRule {
        let issuer = f.need("issuer").map(|at| at.word()).unwrap_or_default();
        let written = f.one_of(&["jwks", "jwksUri"]);
        let keys = match &written {
            // As a map it looks right, and is none of Istio's.
            Some(("jwks", at)) if matches!(at.node.value, Value::Map(_)) => {
                at.expected("the key set's JSON as a text: put it in quotes");
                None
            }
            Some(("jwks", at)) => {
                let text = at.word();
                match check_key_set(&text) {
                    Ok(unused) => unused.into_iter().for_each(|why| at.warn(why)),
                    Err(why) if !text.is_empty() => at.fail(why),
                    Err(_) => {}
                }
                Some(KeySource::Inline(text))
            }
            Some((_, at)) => {
                let text = at.word();
                let url = text.parse();
                if let Err(no_url) = &url
                    && !text.is_empty()
                {
                    at.fail(format!("{no_url}, is {}", quoted(&text)));
                }
                url.ok().map(KeySource::Url)
            }
            None => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')).parse();
                if url.is_err() && !issuer.is_empty() {
                    f.slot("issuer").fail(format!("must be a URL where neither jwks nor jwksUri is written, is {}", quoted(&issuer)));
                }
                url.ok().map(KeySource::Discovery)
            }
        };
        if let Some(at) = f.get("presence") {
            at.choice(PRESENCES);
        }
        let header = |at: &At<'_>| {
            at.fields(|f| {
                let name = f.need("name").map(|at| word_header(&at)).unwrap_or_default();
                (name, f.text("prefix"))
            })
        };
        let claim = |at: &At<'_>| {
            at.fields(|f| {
                let header = f.need("header").map(|at| output_header(&at)).unwrap_or_default();
                (header, f.need("claim").map(|at| at.word()).unwrap_or_default())
            })
        };
        JwtRule {
            issuer,
            audiences: words(f, "audiences"),
            // What could not be read is told.
            keys: keys.unwrap_or_else(|| KeySource::Inline(String::new())),
            from_headers: f.list("fromHeaders").iter().map(header).collect(),
            from_params: words(f, "fromParams"),
            from_cookies: words(f, "fromCookies"),
            payload_header: f.get("outputPayloadToHeader").map(|at| output_header(&at)),
            claim_headers: f.list("outputClaimToHeaders").iter().map(claim).collect(),
            forward: f.flag("forwardOriginalToken"),
            timeout: f.duration("timeout").unwrap_or(Duration::from_secs(5)),
            space_delimited: words(f, "spaceDelimitedClaims"),
        }
    }
}

/// Whether a request needs a token. Istio's control plane does not look at it yet: whoever wants one writes an AuthorizationPolicy.
pub(crate) const PRESENCES: &[(&str, i64, Option<()>); 2] = &[("OPTIONAL", 0, Some(())), ("REQUIRED", 1, None)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, wanted: Option<&str>| {
            let url = text.parse::<KeysUrl>().ok();
            assert_eq!(url.as_ref().map(|u| format!("{u} {} {}", u.host, u.port)).as_deref(), wanted, "{text}");
        };
        check("https://a.example/keys?x=1", Some("https://a.example/keys?x=1 a.example 443"));
        check("http://A.example", Some("http://a.example/ a.example 80"));
        check("https://a.example:8443", Some("https://a.example:8443/ a.example 8443"));
        check("http://a.example:443/", Some("http://a.example:443/ a.example 443"));
        check("http://[::1]:8080/x", Some("http://[::1]:8080/x ::1 8080"));
        check("http://[::1]/x", Some("http://[::1]/x ::1 80"));
        for bad in [
            "",
            "a.example/x",
            "ftp://a/x",
            "http://",
            "http:///x",
            "http://a:0/",
            "http://a:b/",
            "http://a:+80/",
            "http://a:/",
            "http://a:99999/",
            "http://user@a/",
            "http://a/ x",
            "http://a/\r\nx",
            "http://a b/",
            "http://[::1/",
            "http://a#x",
            "file:///etc/passwd",
        ] {
            check(bad, None);
        }
    }
}
