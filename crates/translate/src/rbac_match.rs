//! The parts of authorization rules as RBAC's permissions and principals, in the forms that istiod gives them (`pilot/pkg/security/authz/model`).

// Istiod speaks of metadata by the older of RBAC's two ways, and so do we.
#![allow(deprecated)]

use mizzen_api::istio::{Condition, MeshConfig, MetadataValue, Operation, PathPattern, Pattern, Peer, RequestPrincipal, Values};
use mizzen_protos::envoy::envoy::{
    config::{
        core::v3::{CidrRange, TypedExtensionConfig},
        rbac::v3::{
            Permission, Principal,
            permission::{self, Rule as P},
            principal::{self, Identifier as I},
        },
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig,
    r#type::matcher::v3::{
        ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, RegexMatcher, StringMatcher, ValueMatcher, list_matcher,
        metadata_matcher::{PathSegment, path_segment::Segment},
        path_matcher,
        string_matcher::MatchPattern,
        value_matcher,
    },
};
use mizzen_types::{IpRange, NamespacedName};

use crate::{draft, listener};

/// Who leaves what tokens say, and under which key.
const TOKENS: (&str, &str) = ("envoy.filters.http.jwt_authn", "payload");

pub(crate) fn permission(rule: P) -> Permission {
    Permission { rule: Some(rule) }
}

pub(crate) fn any_permission() -> Permission {
    permission(P::Any(true))
}

pub(crate) fn principal(id: I) -> Principal {
    Principal { identifier: Some(id) }
}

pub(crate) fn any_principal() -> Principal {
    principal(I::Any(true))
}

/// One of `yes`, none of `no`; nothing for an empty list.
fn permissions<T>(into: &mut Vec<Permission>, yes: &[T], no: &[T], make: impl Fn(&T) -> P) {
    let or = |list: &[T]| permission(P::OrRules(permission::Set { rules: list.iter().map(|item| permission(make(item))).collect() }));
    if !yes.is_empty() {
        into.push(or(yes));
    }
    if !no.is_empty() {
        into.push(permission(P::NotRule(Box::new(or(no)))));
    }
}

fn principals<T>(into: &mut Vec<Principal>, yes: &[T], no: &[T], make: impl Fn(&T) -> Vec<I>) {
    all_principals(into, yes, no, |list| principal(I::OrIds(principal::Set { ids: list.iter().flat_map(&make).map(principal).collect() })));
}

/// The same where a list becomes one condition by itself.
fn all_principals<T>(into: &mut Vec<Principal>, yes: &[T], no: &[T], make: impl Fn(&[T]) -> Principal) {
    if !yes.is_empty() {
        into.push(make(yes));
    }
    if !no.is_empty() {
        into.push(principal(I::NotId(Box::new(make(no)))));
    }
}

/// What a rule's `to` asks for.
pub(crate) fn operation(to: &Operation, tcp: bool) -> Vec<Permission> {
    let mut made = Vec::new();
    if !tcp {
        permissions(&mut made, &to.hosts, &to.not_hosts, |p| P::Header(header(":authority", p, true)));
        permissions(&mut made, &to.methods, &to.not_methods, |p| P::Header(header(":method", p, false)));
        permissions(&mut made, &to.paths, &to.not_paths, path);
    }
    permissions(&mut made, &to.ports, &to.not_ports, |port| P::DestinationPort((*port).into()));
    made
}

/// What a rule's `from` asks for.
pub(crate) fn peer(mesh: &MeshConfig, from: &Peer, tcp: bool) -> Vec<Principal> {
    let mut made = Vec::new();
    principals(&mut made, &from.trust_domains, &from.not_trust_domains, |p| in_trust_domain(mesh, p));
    principals(&mut made, &from.ip_blocks, &from.not_ip_blocks, |range| vec![I::DirectRemoteIp(cidr(range))]);
    principals(&mut made, &from.remote_ip_blocks, &from.not_remote_ip_blocks, |range| vec![I::RemoteIp(cidr(range))]);
    principals(&mut made, &from.namespaces, &from.not_namespaces, |p| vec![in_namespace(p)]);
    if !tcp {
        all_principals(&mut made, &from.request_principals, &from.not_request_principals, request_principals);
    }
    principals(&mut made, &from.service_accounts, &from.not_service_accounts, |account| service_account(mesh, account));
    principals(&mut made, &from.principals, &from.not_principals, |p| identity(mesh, p));
    made
}

/// What a `when` asks of the call's target.
pub(crate) fn target_condition(condition: &Condition) -> Vec<Permission> {
    let mut made = Vec::new();
    match condition {
        Condition::DestinationIp(v) => permissions(&mut made, &v.values, &v.not_values, |range| P::DestinationIp(cidr(range))),
        Condition::DestinationPort(v) => permissions(&mut made, &v.values, &v.not_values, |port| P::DestinationPort((*port).into())),
        Condition::ServerName(v) => permissions(&mut made, &v.values, &v.not_values, |p| P::RequestedServerName(text(p, "", false))),
        Condition::Metadata { filter, key, values } => {
            let of = |list: &[MetadataValue]| {
                let value = |v: &MetadataValue| if v.item { item(text_value(&v.pattern)) } else { text_value(&v.pattern) };
                permission(P::Metadata(metadata(filter, [key.as_str()], either(list.iter().map(value).collect()))))
            };
            if !values.values.is_empty() {
                made.push(of(&values.values));
            }
            if !values.not_values.is_empty() {
                made.push(permission(P::NotRule(Box::new(of(&values.not_values)))));
            }
        }
        _ => {}
    }
    made
}

/// What a `when` asks of the caller and the request.
pub(crate) fn source_condition(mesh: &MeshConfig, condition: &Condition) -> Vec<Principal> {
    fn all<T>(v: &Values<T>, make: impl Fn(&T) -> Vec<I>) -> Vec<Principal> {
        let mut made = Vec::new();
        principals(&mut made, &v.values, &v.not_values, make);
        made
    }
    fn whole<T>(v: &Values<T>, make: impl Fn(&[T]) -> Principal) -> Vec<Principal> {
        let mut made = Vec::new();
        all_principals(&mut made, &v.values, &v.not_values, make);
        made
    }
    match condition {
        Condition::RequestHeader { name, values } => all(values, |p| vec![I::Header(header(name, p, false))]),
        Condition::RequestPrincipal(v) => whole(v, request_principals),
        Condition::RequestAudiences(v) => whole(v, |list| claim(&["aud"], list)),
        Condition::RequestPresenter(v) => whole(v, |list| claim(&["azp"], list)),
        Condition::RequestClaim { path, values } => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            whole(values, |list| claim(&path, list))
        }
        Condition::SourceIp(v) => all(v, |range| vec![I::DirectRemoteIp(cidr(range))]),
        Condition::RemoteIp(v) => all(v, |range| vec![I::RemoteIp(cidr(range))]),
        Condition::SourceNamespace(v) => all(v, |p| vec![in_namespace(p)]),
        Condition::SourcePrincipal(v) => all(v, |p| identity(mesh, p)),
        Condition::SourceTrustDomain(v) => all(v, |p| in_trust_domain(mesh, p)),
        Condition::SourceServiceAccount(v) => all(v, |account| service_account(mesh, account)),
        Condition::DestinationIp(_) | Condition::DestinationPort(_) | Condition::ServerName(_) | Condition::Metadata { .. } => Vec::new(),
    }
}

fn cidr(range: &IpRange) -> CidrRange {
    listener::cidr(*range)
}

fn authenticated(matcher: StringMatcher) -> I {
    I::Authenticated(principal::Authenticated { principal_name: Some(matcher) })
}

fn matcher(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
    StringMatcher { ignore_case, match_pattern: Some(pattern) }
}

fn regex(expression: String) -> StringMatcher {
    matcher(MatchPattern::SafeRegex(RegexMatcher { regex: expression, ..Default::default() }), false)
}

/// A pattern over a text; `before` stands before what is anchored at the start.
fn text(pattern: &Pattern, before: &str, ignore_case: bool) -> StringMatcher {
    match pattern {
        Pattern::Exact(it) => matcher(MatchPattern::Exact(format!("{before}{it}")), ignore_case),
        Pattern::Prefix(it) => matcher(MatchPattern::Prefix(format!("{before}{it}")), ignore_case),
        Pattern::Suffix(it) => matcher(MatchPattern::Suffix(it.clone()), ignore_case),
        Pattern::Present => regex(".+".into()),
    }
}

fn header(name: &str, pattern: &Pattern, ignore_case: bool) -> HeaderMatcher {
    let specifier = match pattern {
        Pattern::Present => HeaderMatchSpecifier::PresentMatch(true),
        other => HeaderMatchSpecifier::StringMatch(text(other, "", ignore_case)),
    };
    HeaderMatcher { name: name.into(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn path(pattern: &PathPattern) -> P {
    match pattern {
        PathPattern::Text(pattern) => P::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text(pattern, "", false))) }),
        PathPattern::Template(template) => {
            let path_template = template.replace("{*}", "*").replace("{**}", "**");
            P::UriTemplate(TypedExtensionConfig {
                name: "uri-template".into(),
                typed_config: Some(draft::pack(&UriTemplateMatchConfig { path_template })),
            })
        }
    }
}

/// The mesh's trust domain goes by several names: its own, the aliases, and the literal `cluster.local`.
fn identity(mesh: &MeshConfig, pattern: &Pattern) -> Vec<I> {
    let (Pattern::Exact(whole) | Pattern::Prefix(whole)) = pattern else { return vec![authenticated(text(pattern, "spiffe://", false))] };
    let Some((domain, rest)) = whole.split_once('/') else { return vec![authenticated(text(pattern, "spiffe://", false))] };
    if domain != "cluster.local" && !domains(mesh).any(|d| d == domain) {
        return vec![authenticated(text(pattern, "spiffe://", false))];
    }
    let under = |d: &str| {
        let whole = format!("{d}/{rest}");
        let pattern = if matches!(pattern, Pattern::Exact(_)) { Pattern::Exact(whole) } else { Pattern::Prefix(whole) };
        authenticated(text(&pattern, "spiffe://", false))
    };
    domains(mesh).map(under).collect()
}

fn domains(mesh: &MeshConfig) -> impl Iterator<Item = &str> {
    std::iter::once(mesh.trust_domain.as_str()).chain(mesh.trust_domain_aliases.iter().map(String::as_str))
}

fn service_account(mesh: &MeshConfig, account: &NamespacedName) -> Vec<I> {
    let under = |d: &str| format!("spiffe://{d}/ns/{}/sa/{}", account.namespace, account.name);
    domains(mesh).map(|d| authenticated(matcher(MatchPattern::Exact(under(d)), false))).collect()
}

/// A name of the mesh's trust domain means all of its names; unlike in principals, `cluster.local` means no other one.
fn in_trust_domain(mesh: &MeshConfig, pattern: &Pattern) -> Vec<I> {
    let under = |d: &str| authenticated(matcher(MatchPattern::Prefix(format!("spiffe://{d}/")), false));
    let like = |domain: String| vec![authenticated(regex(format!("spiffe://{domain}/.*")))];
    match pattern {
        Pattern::Exact(it) if domains(mesh).any(|d| d == it) => domains(mesh).map(under).collect(),
        Pattern::Exact(it) => vec![under(it)],
        Pattern::Prefix(it) => like(format!("{}[^/]*", escape(it))),
        Pattern::Suffix(it) => like(format!("[^/]*{}", escape(it))),
        Pattern::Present => like("[^/]+".to_owned()),
    }
}

fn in_namespace(pattern: &Pattern) -> I {
    let middle = match pattern {
        Pattern::Exact(it) => escape(it),
        // A part of a namespace's name never reaches into the next segment of the identity.
        Pattern::Prefix(it) => format!("{}[^/]*", escape(it)),
        Pattern::Suffix(it) => format!("[^/]*{}", escape(it)),
        Pattern::Present => "[^/]+".to_owned(),
    };
    authenticated(regex(format!(".*/ns/{middle}/.*")))
}

/// Only what has a meaning of its own is escaped: of other characters the escaped form is refused, or means something else (`\<`).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn metadata<'k>(filter: &str, path: impl IntoIterator<Item = &'k str>, value: ValueMatcher) -> MetadataMatcher {
    let path = path.into_iter().map(|key| PathSegment { segment: Some(Segment::Key(key.to_owned())) }).collect();
    MetadataMatcher { filter: filter.into(), path, value: Some(value), ..Default::default() }
}

fn value(pattern: value_matcher::MatchPattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

fn text_value(pattern: &Pattern) -> ValueMatcher {
    value(value_matcher::MatchPattern::StringMatch(text(pattern, "", false)))
}

/// A list, of which an item is so.
fn item(of: ValueMatcher) -> ValueMatcher {
    let one_of = list_matcher::MatchPattern::OneOf(Box::new(of));
    value(value_matcher::MatchPattern::ListMatch(Box::new(ListMatcher { match_pattern: Some(one_of) })))
}

/// One of these.
fn either(mut list: Vec<ValueMatcher>) -> ValueMatcher {
    match list.pop() {
        Some(only) if list.is_empty() => only,
        last => {
            list.extend(last);
            value(value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers: list }))
        }
    }
}

/// A claim that is one of these texts, or a list with one of them.
fn claim(path: &[&str], list: &[Pattern]) -> Principal {
    let one = either(list.iter().map(text_value).collect());
    let path = std::iter::once(TOKENS.1).chain(path.iter().copied());
    principal(I::Metadata(metadata(TOKENS.0, path, either(vec![one.clone(), item(one)]))))
}

/// One of these issuers with its subject.
fn request_principals(list: &[RequestPrincipal]) -> Principal {
    let part = |name: &str, pattern: &Pattern| principal(I::Metadata(metadata(TOKENS.0, [TOKENS.1, name], text_value(pattern))));
    let one = |p: &RequestPrincipal| principal(I::AndIds(principal::Set { ids: vec![part("iss", &p.issuer), part("sub", &p.subject)] }));
    match list {
        [only] => one(only),
        list => principal(I::OrIds(principal::Set { ids: list.iter().map(one).collect() })),
    }
}
