//! Authorization policies.

use mizzen_protos::envoy::envoy::config::rbac::v3 as rbac;
use mizzen_protos::envoy::envoy::r#type::matcher::v3 as matcher;
use mizzen_protos::envoy::envoy::r#type::v3 as types;

use super::cx::{Cx, Res, name, refused};
use super::{address, matchers, template};
use crate::config::{Expr, MetadataMatch, Policy, Rbac, RbacAction, StringMatch};

/// The key under which Istio finds the peer's identity.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

pub(crate) fn compile(cx: &mut Cx, m: rbac::Rbac) -> Res<Rbac> {
    let rbac::Rbac { action, policies, audit_logging_options } = m;
    super::cx::harmless!(cx; audit_logging_options);
    let action = match cx.choice("action", action)? {
        rbac::rbac::Action::Allow => RbacAction::Allow,
        rbac::rbac::Action::Deny => RbacAction::Deny,
        rbac::rbac::Action::Log => RbacAction::Log,
    };
    let mut policies: Vec<_> = policies.into_iter().collect();
    policies.sort_by(|(a, _), (b, _)| a.cmp(b));
    let one = |(n, p): (String, rbac::Policy)| cx.within(&format!("policies[{n}]"), |cx| policy(cx, &n, p));
    let policies: Vec<Policy> = policies.into_iter().map(one).collect::<Res<_>>()?;
    Ok(Rbac::new(action, policies))
}

fn policy(cx: &mut Cx, title: &str, p: rbac::Policy) -> Res<Policy> {
    let rbac::Policy { permissions, principals, condition, checked_condition, cel_config } = p;
    refused!(cx; condition, checked_condition, cel_config);
    let permissions = cx.each("permissions", permissions, permission)?.into();
    let principals = cx.each("principals", principals, principal)?.into();
    Ok(Policy { name: name(title), permissions, principals })
}

fn permission(cx: &mut Cx, p: rbac::Permission) -> Res<Expr> {
    use rbac::permission::Rule as R;
    let rbac::Permission { rule } = p;
    let Some(rule) = rule else { return cx.refuse("rule", "it is required") };
    Ok(match rule {
        R::AndRules(rbac::permission::Set { rules }) => Expr::And(set(cx, "and_rules", rules, permission)?),
        R::OrRules(rbac::permission::Set { rules }) => Expr::Or(set(cx, "or_rules", rules, permission)?),
        R::NotRule(inner) => Expr::Not(cx.within("not_rule", |cx| permission(cx, *inner))?.into()),
        R::Any(true) => Expr::Any,
        R::Any(false) => return cx.refuse("any", "it can only be true"),
        R::Header(m) => Expr::Header(cx.within("header", |cx| matchers::header(cx, m))?),
        R::UrlPath(m) => Expr::UrlPath(cx.within("url_path", |cx| path(cx, m))?),
        R::DestinationIp(r) => Expr::DestinationIp(cx.within("destination_ip", |cx| address::range(cx, r))?),
        R::DestinationPort(port) => {
            let port = cx.port("destination_port", port)?;
            Expr::DestinationPort(port..=port)
        }
        R::DestinationPortRange(types::Int32Range { start, end }) => {
            // The end is excluded.
            let ports = u16::try_from(start).ok().zip(u16::try_from(i64::from(end) - 1).ok());
            match ports.filter(|(start, last)| start <= last) {
                Some((start, last)) => Expr::DestinationPort(start..=last),
                None => return cx.refuse("destination_port_range", format!("from {start} to below {end} is no range of ports")),
            }
        }
        R::RequestedServerName(m) => Expr::ServerName(cx.within("requested_server_name", |cx| matchers::string(cx, m))?),
        R::Metadata(m) => Expr::Metadata(cx.within("metadata", |cx| matchers::metadata(cx, m))?),
        R::Matcher(m) => return cx.refuse("matcher", format!("`{}` is not supported", m.name)),
        R::UriTemplate(m) => Expr::PathTemplate(cx.within("uri_template", |cx| template::compile(cx, m))?),
        R::SourcedMetadata(m) => Expr::Metadata(cx.within("sourced_metadata", |cx| sourced(cx, m))?),
    })
}

fn principal(cx: &mut Cx, p: rbac::Principal) -> Res<Expr> {
    use rbac::principal::Identifier as I;
    let rbac::Principal { identifier } = p;
    let Some(identifier) = identifier else { return cx.refuse("identifier", "it is required") };
    Ok(match identifier {
        I::AndIds(rbac::principal::Set { ids }) => Expr::And(set(cx, "and_ids", ids, principal)?),
        I::OrIds(rbac::principal::Set { ids }) => Expr::Or(set(cx, "or_ids", ids, principal)?),
        I::NotId(inner) => Expr::Not(cx.within("not_id", |cx| principal(cx, *inner))?.into()),
        I::Any(true) => Expr::Any,
        I::Any(false) => return cx.refuse("any", "it can only be true"),
        I::Authenticated(rbac::principal::Authenticated { principal_name }) => {
            Expr::Authenticated(cx.some("principal_name", principal_name, matchers::string)?)
        }
        // The deprecated name means the connection's peer as well, since nothing here rewrites a connection's source.
        I::SourceIp(r) => Expr::DirectRemoteIp(cx.within("source_ip", |cx| address::range(cx, r))?),
        I::DirectRemoteIp(r) => Expr::DirectRemoteIp(cx.within("direct_remote_ip", |cx| address::range(cx, r))?),
        I::RemoteIp(r) => Expr::RemoteIp(cx.within("remote_ip", |cx| address::range(cx, r))?),
        I::Header(m) => Expr::Header(cx.within("header", |cx| matchers::header(cx, m))?),
        I::UrlPath(m) => Expr::UrlPath(cx.within("url_path", |cx| path(cx, m))?),
        I::FilterState(m) => cx.within("filter_state", |cx| filter_state(cx, m))?,
        I::Metadata(m) => Expr::Metadata(cx.within("metadata", |cx| matchers::metadata(cx, m))?),
        I::SourcedMetadata(m) => Expr::Metadata(cx.within("sourced_metadata", |cx| sourced(cx, m))?),
        I::Custom(m) => return cx.refuse("custom", format!("`{}` is not supported", m.name)),
    })
}

/// A list of conditions, which must not be empty: of none at all, who could say whether they hold?
fn set<T>(cx: &mut Cx, field: &str, list: Vec<T>, f: impl FnMut(&mut Cx, T) -> Res<Expr>) -> Res<std::sync::Arc<[Expr]>> {
    if list.is_empty() {
        return cx.refuse(field, "it is empty");
    }
    Ok(cx.each(field, list, f)?.into())
}

fn path(cx: &mut Cx, m: matcher::PathMatcher) -> Res<StringMatch> {
    let matcher::PathMatcher { rule } = m;
    match rule {
        Some(matcher::path_matcher::Rule::Path(m)) => cx.within("path", |cx| matchers::path(cx, m)),
        None => cx.refuse("rule", "it is required"),
    }
}

/// Metadata, with where it is looked for.
fn sourced(cx: &mut Cx, m: rbac::SourcedMetadata) -> Res<MetadataMatch> {
    let rbac::SourcedMetadata { metadata_matcher, metadata_source } = m;
    match cx.choice("metadata_source", metadata_source)? {
        rbac::MetadataSource::Dynamic => cx.must("metadata_matcher", metadata_matcher, matchers::metadata),
        rbac::MetadataSource::Route => cx.refuse("metadata_source", "a route's metadata is not looked at"),
    }
}

fn filter_state(cx: &mut Cx, m: matcher::FilterStateMatcher) -> Res<Expr> {
    use matcher::filter_state_matcher::Matcher as M;
    let matcher::FilterStateMatcher { key, matcher } = m;
    if key != PEER_PRINCIPAL {
        return cx.refuse("key", format!("`{key}` is not supported"));
    }
    match matcher {
        Some(M::StringMatch(m)) => Ok(Expr::PeerPrincipal(cx.within("string_match", |cx| matchers::string(cx, m))?)),
        Some(M::AddressMatch(_)) => cx.refuse("address_match", "not supported"),
        None => cx.refuse("matcher", "it is required"),
    }
}
