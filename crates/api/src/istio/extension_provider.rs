//! MeshConfig's `extensionProviders`: whom an AuthorizationPolicy of action CUSTOM asks. Providers of other kinds, which are about telemetry, are known by
//! name and not acted on.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::{Hostname, Name, check_dns_label};

use super::{HOP, Pattern, header_name};
use crate::read::{At, Fields, Why, any_host, quoted};

/// One of `extensionProviders`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProvider {
    /// By which policies name it; no two bear the same one.
    pub name: String,
    /// What it is.
    pub kind: ProviderKind,
}

/// What a provider is.
#[derive(Clone, Debug, PartialEq)]
pub enum ProviderKind {
    /// `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`: decides about requests.
    ExtAuthz(Box<ExtAuthz>),
    /// One of telemetry, by the name of its field.
    Other(&'static str),
}

/// An authorization service, as Envoy's filter `ext_authz` asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtAuthz {
    /// The namespace of the service that is meant; `None`: there must be one service of that host only.
    pub namespace: Option<Name>,
    /// The service's whole host name.
    pub host: Hostname,
    /// The service's port.
    pub port: u16,
    /// How long an answer may take; Istio's default is 10 minutes.
    pub timeout: Duration,
    /// Whether a request goes on if there was no answer.
    pub fail_open: bool,
    /// Whether an answer that changes headers has the route chosen anew.
    pub clear_route_cache: bool,
    /// The status if there was no answer; `None` is 403.
    pub status_on_error: Option<u16>,
    /// Whether and how the request's body is sent along.
    pub body: Option<CheckedBody>,
    /// How it is asked.
    pub protocol: AuthzProtocol,
}

/// How an authorization service is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthzProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// The request's head as a request of its own; 200 lets it go on.
    Http(HttpAuthz),
}

/// What an HTTP service is sent, and what of its answer counts. Headers' names are lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpAuthz {
    /// Stands before the request's path.
    pub path_prefix: String,
    /// Headers of the request that are sent along; `includeHeadersInCheck`, the old name, where there are none.
    pub include_request_headers: Vec<Pattern>,
    /// Further headers, which replace the request's.
    pub include_additional_headers: BTreeMap<String, String>,
    /// Headers of an answer of 200 that the request gets.
    pub to_upstream_on_allow: Vec<Pattern>,
    /// Headers of an answer of 200 that the response gets.
    pub to_downstream_on_allow: Vec<Pattern>,
    /// Headers of a refusal that the client gets; none: all.
    pub to_downstream_on_deny: Vec<Pattern>,
}

/// How the request's body is sent along (`includeRequestBodyInCheck`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedBody {
    /// At most so many bytes.
    pub max_request_bytes: u32,
    /// Whether a longer one is cut; else the request is refused with 413.
    pub allow_partial_message: bool,
    /// Whether gRPC carries it as bytes.
    pub pack_as_bytes: bool,
}

/// The longest body of a request that the proxies send along: 1 MiB.
const MAX_BODY: u32 = 1 << 20;

/// What a provider may be.
pub(crate) const PROVIDERS: &[&str] = &[
    "envoyExtAuthzHttp",
    "envoyExtAuthzGrpc",
    "zipkin",
    "lightstep",
    "datadog",
    "stackdriver",
    "opencensus",
    "skywalking",
    "opentelemetry",
    "prometheus",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyTcpAls",
    "envoyOtelAls",
    "sds",
];

impl ExtensionProvider {
    /// Reads the list.
    pub(crate) fn read_list(f: &Fields<'_>) -> Vec<ExtensionProvider> {
        let mut found: Vec<ExtensionProvider> = Vec::new();
        for at in f.list("extensionProviders") {
            let Some(provider) = at.fields(ExtensionProvider::read) else { continue };
            if found.iter().any(|other| other.name == provider.name) {
                at.fail(format!("there is another provider {}", quoted(&provider.name)));
            }
            found.push(provider);
        }
        found
    }

    fn read(f: &Fields<'_>) -> Option<ExtensionProvider> {
        let name = f.need("name").map(|at| at.word()).unwrap_or_default();
        let Some((kind, at)) = f.one_of(PROVIDERS) else {
            f.at.fail("must say what it is: envoyExtAuthzHttp, envoyExtAuthzGrpc or one of telemetry");
            return None;
        };
        let kind = match kind {
            "envoyExtAuthzHttp" => ProviderKind::ExtAuthz(at.fields(|f| ExtAuthz::read(f, true)).into()),
            "envoyExtAuthzGrpc" => ProviderKind::ExtAuthz(at.fields(|f| ExtAuthz::read(f, false)).into()),
            other => ProviderKind::Other(other),
        };
        Some(ExtensionProvider { name, kind })
    }
}

impl ExtAuthz {
    fn read(f: &Fields<'_>, http: bool) -> ExtAuthz {
        let (namespace, host) = f.need("service").map_or_else(|| (None, any_host()), |at| service(&at));
        ExtAuthz {
            namespace,
            host,
            port: f.need("port").map_or(0, |at| at.port()),
            timeout: f.duration("timeout").unwrap_or(Duration::from_secs(600)),
            fail_open: f.flag("failOpen"),
            clear_route_cache: f.flag("clearRouteCache"),
            status_on_error: f.get("statusOnError").and_then(|at| status(&at)),
            body: f.opt_sub("includeRequestBodyInCheck", CheckedBody::read),
            protocol: if http { AuthzProtocol::Http(HttpAuthz::read(f)) } else { AuthzProtocol::Grpc },
        }
    }
}

/// `[NAMESPACE/]HOST`.
fn service(at: &At<'_>) -> (Option<Name>, Hostname) {
    let text = at.word();
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, text.as_str()),
    };
    let parsed = host.parse().ok().filter(|host: &Hostname| !host.is_wildcard());
    match parsed {
        Some(host) if namespace.is_none_or(|name| check_dns_label(name).is_ok()) => (namespace.map(Name::from), host),
        _ => {
            if !text.is_empty() {
                at.expected("[NAMESPACE/]HOST, without `*`");
            }
            (None, any_host())
        }
    }
}

/// The statuses that Envoy's StatusCode names. Of them 100 ends no request.
fn status(at: &At<'_>) -> Option<u16> {
    let text = at.text();
    if text.is_empty() {
        return None;
    }
    let known = |code: &u16| matches!(code, 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511);
    let code = text.parse().ok().filter(known);
    if code.is_none() {
        at.expected("a status in quotes, such as \"503\"");
    }
    code
}

impl CheckedBody {
    fn read(f: &Fields<'_>) -> CheckedBody {
        let (partial, at) = (f.flag("allowPartialMessage"), f.need("maxRequestBytes"));
        let most = at.as_ref().map_or(0, At::count);
        match at {
            Some(at) if most == 0 && at.node.text().is_none() => at.fail("must be at least 1"),
            Some(at) if most > MAX_BODY && !partial => at.fail(format!("must be at most {MAX_BODY}, or allowPartialMessage true")),
            Some(at) if most > MAX_BODY => at.warn(format!("bodies are cut to {MAX_BODY} bytes")),
            _ => {}
        }
        CheckedBody { max_request_bytes: most.min(MAX_BODY), allow_partial_message: partial, pack_as_bytes: f.flag("packAsBytes") }
    }
}

impl HttpAuthz {
    fn read(f: &Fields<'_>) -> HttpAuthz {
        let (new, old) = (headers(f, "includeRequestHeadersInCheck"), headers(f, "includeHeadersInCheck"));
        let additional = f.get("includeAdditionalHeadersInCheck").map(|at| at.entries()).unwrap_or_default();
        HttpAuthz {
            path_prefix: f.get("pathPrefix").map(|at| prefix(&at)).unwrap_or_default(),
            include_request_headers: if new.is_empty() { old } else { new },
            include_additional_headers: additional.into_iter().map(|(key, at)| (own_header(&at, key), fixed(&at))).collect(),
            to_upstream_on_allow: headers(f, "headersToUpstreamOnAllow"),
            to_downstream_on_allow: headers(f, "headersToDownstreamOnAllow"),
            to_downstream_on_deny: headers(f, "headersToDownstreamOnDeny"),
        }
    }
}

fn prefix(at: &At<'_>) -> String {
    let text = at.text();
    if !text.is_empty()
        && (!text.starts_with('/') || text.contains(['?', '#']) || text.contains(|c: char| c.is_whitespace() || c.is_control()))
    {
        at.expected("a path that begins with `/`, without `?`, `#` and blanks");
    }
    text
}

/// A further header of the question, which has the request's own host.
fn own_header(at: &At<'_>, key: &str) -> String {
    let name = header_name(at, key);
    if matches!(name.as_str(), "host" | ":authority" | "content-length") || HOP.contains(&name.as_str()) {
        at.fail(format!("{} is set by the proxy", quoted(&name)));
    }
    name
}

/// A header's value that is the same for every request.
fn fixed(at: &At<'_>) -> String {
    let text = at.text();
    if text.contains('%') {
        at.fail(format!("a value with `%` {}", Why::What.text()));
    } else if text.contains(['\r', '\n', '\0']) {
        at.fail("must be one line");
    }
    text
}

/// Names of headers, of which Istio takes whole ones, `pre*` and `*suf`.
fn headers(f: &Fields<'_>, name: &'static str) -> Vec<Pattern> {
    let read = |at: &At<'_>| match Pattern::read(at) {
        Pattern::Exact(name) => Pattern::Exact(header_name(at, &name)),
        Pattern::Prefix(name) => Pattern::Prefix(name.to_ascii_lowercase()),
        Pattern::Suffix(name) => Pattern::Suffix(name.to_ascii_lowercase()),
        Pattern::Present => {
            at.fail("a single `*` is not supported: write `PREFIX*` or `*SUFFIX`");
            Pattern::Present
        }
    };
    f.list(name).iter().map(read).collect()
}
