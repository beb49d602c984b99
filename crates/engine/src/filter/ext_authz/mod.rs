//! Asks an outside service whether a request may go on: `envoy.filters.http.ext_authz`.
//!
//! Whatever goes wrong on the way is no answer, and what no answer means is configured; unless it says otherwise, the request is refused.

mod grpc;
mod http;

use std::sync::Arc;

use mizzen_http::Head;
use mizzen_ir::config::{AuthzService, ExtAuthz, ExtAuthzOverride, FilterOverride, RequestBody};
use mizzen_protos::wkt::Struct;

use super::{Cx, Flow, News, Reply, Wait, network::Refusal};
use crate::{
    call::{Call, CallAnswer},
    conn::Conn,
    facts::Change,
    flags::Flags,
};

/// Under which name the service's metadata is left.
const METADATA: &str = "envoy.filters.http.ext_authz";
/// The longest answer that is read.
const MOST: usize = 64 * 1024;

/// What the service says.
enum Decision {
    Allowed(Box<Allowed>),
    Denied(Box<Denied>),
    /// It could not say; why.
    Error(&'static str),
}

/// The request may go on, with these changes.
#[derive(Default)]
struct Allowed {
    request: Vec<Edit>,
    response: Vec<Change>,
    /// Query parameters to be set and to be removed.
    query: (Vec<(String, String)>, Vec<String>),
    metadata: Option<Struct>,
}

/// The request is refused like this.
#[derive(Default)]
struct Denied {
    status: u16,
    body: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    metadata: Option<Struct>,
}

/// A change to the request's headers.
enum Edit {
    Set(String, Vec<u8>),
    Append(String, Vec<u8>),
    AddIfAbsent(String, Vec<u8>),
    SetIfPresent(String, Vec<u8>),
    Remove(String),
}

pub(super) fn request(authz: &ExtAuthz, news: News, cx: &mut Cx<'_>) -> Flow {
    let settings: Option<&Arc<ExtAuthzOverride>> = match cx.route {
        Some(FilterOverride::ExtAuthz(settings)) => Some(settings),
        _ => None,
    };
    if let News::Answer(answer) = news {
        let decision = match *answer {
            CallAnswer::Failed(_) => Decision::Error("no answer"),
            CallAnswer::Answered { head, body, trailers } => match &*authz.service {
                AuthzService::Grpc { .. } => grpc::decision(&head, &body, trailers.as_ref()),
                AuthzService::Http { answer, .. } => http::decision(answer, &head, body),
            },
        };
        return decided(authz, decision, cx);
    }
    if let News::Head = news {
        let wanted = authz.enabled_metadata.as_ref().is_none_or(|m| m.matches(&cx.facts.metadata));
        if !wanted || !authz.enabled.is_none_or(|share| share.holds(cx.rng.next())) {
            return if wanted && authz.deny_at_disable { refused(authz, "ext_authz_denied") } else { Flow::Go };
        }
    }
    let body = body_of(authz, settings.map(|s| &**s)).filter(|_| cx.head.protocol().is_none());
    let mut partial = false;
    if let Some(body) = body {
        let most = body.most as usize;
        if cx.body.len() > most && !body.partial {
            return Reply::flow(413, "Payload Too Large", Flags::default(), "request_payload_too_large");
        }
        if !cx.body_ended && cx.body.len() <= most.saturating_sub(usize::from(body.partial)) {
            // One byte more than may be sent along tells that there is more.
            return Flow::Wait(Wait::Body(if body.partial { most } else { most + 1 }));
        }
        partial = cx.body.len() > most || !cx.body_ended;
    }
    let text = body.map(|b| cx.body.get(..b.most as usize).unwrap_or(cx.body));
    let call = match &*authz.service {
        AuthzService::Grpc { cluster, authority, headers } => {
            let name = if authority.is_empty() { cluster } else { authority };
            let head = grpc::head(name, headers, authz.timeout);
            let body = grpc::question(authz, settings.map_or(&[], |s| &s.context), text.zip(body), partial, cx);
            Call { cluster: cluster.clone(), head, body, timeout: Some(authz.timeout), most: MOST }
        }
        AuthzService::Http { cluster, path_prefix, headers, .. } => {
            let head = http::head(authz, path_prefix, headers, text, partial, cx);
            Call {
                cluster: cluster.clone(),
                head,
                body: text.map(<[u8]>::to_vec).unwrap_or_default(),
                timeout: Some(authz.timeout),
                most: MOST,
            }
        }
    };
    Flow::Wait(Wait::Call(Box::new(call)))
}

/// The question about a connection.
pub(crate) fn connection_question(authz: &ExtAuthz, conn: &Conn) -> Option<Call> {
    let AuthzService::Grpc { cluster, authority, headers } = &*authz.service else { return None };
    let head = grpc::head(if authority.is_empty() { cluster } else { authority }, headers, authz.timeout);
    Some(Call { cluster: cluster.clone(), head, body: grpc::connection(authz, conn), timeout: Some(authz.timeout), most: MOST })
}

/// What the answer to it means: why the connection is refused, if it is.
pub(crate) fn connection_answered(authz: &ExtAuthz, answer: &CallAnswer) -> Option<Refusal> {
    let decision = match answer {
        CallAnswer::Failed(_) => Decision::Error("no answer"),
        CallAnswer::Answered { head, body, trailers } => grpc::decision(head, body, trailers.as_ref()),
    };
    let (details, policy) = match decision {
        Decision::Allowed(_) => return None,
        Decision::Denied(_) => ("ext_authz_denied", denied_by(authz)),
        Decision::Error(_) if authz.failure_mode_allow => return None,
        Decision::Error(why) => ("ext_authz_error", unasked(authz, why)),
    };
    Some(Refusal { details: details.to_owned(), policy, flags: Flags::UNAUTHORIZED_EXTERNAL_SERVICE })
}

/// The words for a refusal by the service.
fn denied_by(authz: &ExtAuthz) -> String {
    format!("denied by the external authorization service {}", authz.cluster())
}

/// The words for a refusal because the service gave no answer.
fn unasked(authz: &ExtAuthz, why: &str) -> String {
    format!("the external authorization service {} could not be asked: {why}", authz.cluster())
}

/// Whether and how the body is sent along on this route.
fn body_of(authz: &ExtAuthz, settings: Option<&ExtAuthzOverride>) -> Option<RequestBody> {
    match settings {
        Some(settings) if settings.without_body => None,
        Some(settings) => settings.body.or(authz.body),
        None => authz.body,
    }
}

fn refused(authz: &ExtAuthz, details: &str) -> Flow {
    Reply::flow(authz.status_on_error, "", Flags::UNAUTHORIZED_EXTERNAL_SERVICE, details)
}

fn decided(authz: &ExtAuthz, decision: Decision, cx: &mut Cx<'_>) -> Flow {
    match decision {
        Decision::Allowed(allowed) => {
            let Allowed { request, response, query, metadata } = *allowed;
            if let Some(metadata) = metadata {
                cx.facts.metadata.merge(METADATA, metadata);
            }
            let changed = !request.is_empty() || !query.0.is_empty() || !query.1.is_empty();
            let mut valid = true;
            for edit in request {
                valid &= edit.apply(cx.head);
            }
            valid &= set_query(cx.head, &query.0, &query.1);
            if !valid && authz.validate_mutations {
                return Reply::flow(500, "", Flags::UNAUTHORIZED_EXTERNAL_SERVICE, "ext_authz_invalid");
            }
            cx.facts.response.extend(response);
            cx.reroute |= changed && authz.clear_route_cache;
            Flow::Go
        }
        Decision::Denied(denied) => {
            let Denied { status, body, headers, metadata } = *denied;
            if let Some(metadata) = metadata {
                cx.facts.metadata.merge(METADATA, metadata);
            }
            cx.record.policy.get_or_insert_with(|| format!("{} (status {status})", denied_by(authz)));
            let flags = Flags::UNAUTHORIZED_EXTERNAL_SERVICE;
            Flow::Reply(Box::new(Reply { status, body, flags, details: "ext_authz_denied".to_owned(), headers, grpc: None }))
        }
        Decision::Error(why) => {
            if authz.failure_mode_allow {
                if authz.failure_mode_header {
                    cx.head.set("x-envoy-auth-failure-mode-allowed", "true");
                }
                return Flow::Go;
            }
            cx.record.policy = Some(unasked(authz, why));
            refused(authz, "ext_authz_error")
        }
    }
}

impl Edit {
    /// Whether it was valid. Of the pseudo-headers, only where the request goes may be changed.
    fn apply(&self, head: &mut Head) -> bool {
        match self {
            Edit::Set(name, value) => set(head, name, value),
            Edit::Append(name, value) => !name.starts_with(':') && head.append(&name.to_ascii_lowercase(), value),
            Edit::AddIfAbsent(name, value) => head.contains(&name.to_ascii_lowercase()) || set(head, name, value),
            Edit::SetIfPresent(name, value) => !head.contains(&name.to_ascii_lowercase()) || set(head, name, value),
            // Without a method, a path or a host there would be no request.
            Edit::Remove(name) if name.starts_with(':') || name.eq_ignore_ascii_case("host") => false,
            Edit::Remove(name) => {
                head.remove(&name.to_ascii_lowercase());
                true
            }
        }
    }
}

fn set(head: &mut Head, name: &str, value: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let text = std::str::from_utf8(value);
    match (name.as_str(), text) {
        (":path", Ok(text)) => head.set_path(text),
        (":authority" | "host", Ok(text)) => head.set_authority(text),
        (":method", Ok(text)) => head.set_method(text),
        (name, _) => !name.starts_with(':') && head.set(name, value),
    }
}

/// Sets and removes parameters of the path's query; as they are, escaped already.
fn set_query(head: &mut Head, put: &[(String, String)], remove: &[String]) -> bool {
    if put.is_empty() && remove.is_empty() {
        return true;
    }
    let whole = head.path().to_owned();
    let (path, query) = whole.split_once('?').unwrap_or((&whole, ""));
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let stays = |pair: &&str| !pair.is_empty() && !remove.contains(&name(pair)) && put.iter().all(|(key, _)| *key != name(pair));
    let kept = query.split('&').filter(stays).map(str::to_owned);
    let all: Vec<String> = kept.chain(put.iter().map(|(key, value)| format!("{key}={value}"))).collect();
    let path = if all.is_empty() { path.to_owned() } else { format!("{path}?{}", all.join("&")) };
    head.set_path(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |path: &str, put: &[(&str, &str)], remove: &[&str], wanted: &str| {
            let mut head = Head::request("GET", "http", "a", path);
            let put: Vec<_> = put.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let remove: Vec<_> = remove.iter().map(|k| (*k).to_owned()).collect();
            assert!(set_query(&mut head, &put, &remove));
            assert_eq!(head.path(), wanted);
        };
        check("/x", &[], &[], "/x");
        check("/x", &[("a", "1")], &[], "/x?a=1");
        check("/x?a=0&b=2&a=3", &[("a", "1")], &[], "/x?b=2&a=1");
        check("/x?a=0&b", &[], &["a"], "/x?b");
        check("/x?a=0", &[], &["a"], "/x");
    }

    #[test]
    fn edits() {
        let mut head = Head::request("GET", "http", "a", "/");
        let edit = |e: Edit, head: &mut Head| e.apply(head);
        assert!(edit(Edit::Set("X-User".to_owned(), b"ann".to_vec()), &mut head));
        assert!(edit(Edit::Append("x-user".to_owned(), b"bob".to_vec()), &mut head));
        assert_eq!(head.get_joined("x-user").as_deref(), Some(&b"ann,bob"[..]));
        assert!(!edit(Edit::Set("x-bad".to_owned(), b"a\r\nb: c".to_vec()), &mut head), "no header is smuggled in");
        assert!(!head.contains("x-bad") && !head.contains("b"));
        assert!(!edit(Edit::Remove(":path".to_owned()), &mut head));
        assert!(!edit(Edit::Remove("Host".to_owned()), &mut head));
        assert!(edit(Edit::Remove("X-User".to_owned()), &mut head));
        assert!(!head.contains("x-user"));
    }
}
