//! The question and the answer as HTTP.

use mizzen_http::{Head, is_hop_by_hop};
use mizzen_ir::config::{AuthzHeaders, ExtAuthz, StringMatch};
use mizzen_protos::wkt::{Struct, Value, value::Kind};
use mizzen_types::Name;

use super::{super::Cx, Allowed, Decision, Denied, Edit};
use crate::facts::Change;

/// Names by which the service asks for headers to be taken off the request.
const REMOVE: &str = "x-envoy-auth-headers-to-remove";
/// What a refusal tells the client, whatever is configured.
const ALWAYS: [&str; 2] = ["www-authenticate", "location"];

/// The request's head, as the service sees it: method, path and host, and of the headers what is allowed.
pub(super) fn head(authz: &ExtAuthz, prefix: &str, add: &[(Name, Name)], body: Option<&[u8]>, partial: bool, cx: &Cx<'_>) -> Head {
    let path = format!("{prefix}{}", cx.head.path());
    let mut head = Head::request(cx.head.method(), cx.head.scheme(), cx.head.authority(), &path);
    let allowed = |name: &str| {
        let listed = authz.allowed_headers.as_ref().is_some_and(|list| any(list, name));
        (name == "authorization" || listed) && !any(&authz.disallowed_headers, name) && !is_hop_by_hop(name) && name != "content-length"
    };
    for (name, value) in cx.head.iter().filter(|(name, _)| allowed(name)) {
        head.append(name, value);
    }
    for (name, value) in add {
        head.set(name, value.as_bytes());
    }
    if body.is_some() {
        head.set("x-envoy-auth-partial-body", if partial { "true" } else { "false" });
    }
    head.set("content-length", body.map_or(0, <[u8]>::len).to_string());
    head
}

fn any(list: &[StringMatch], name: &str) -> bool {
    list.iter().any(|m| m.matches(name.as_bytes()))
}

/// 200 lets the request go on; a fault of the server's is no answer; all else is a refusal.
pub(super) fn decision(wanted: &AuthzHeaders, head: &Head, body: Vec<u8>) -> Decision {
    let owned = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
    match head.status() {
        200 => {
            let of =
                |list: &[StringMatch]| -> Vec<(String, Vec<u8>)> { head.iter().filter(|(name, _)| any(list, name)).map(owned).collect() };
            let mut allowed = Allowed::default();
            let removed = head.get_all(REMOVE).flat_map(|v| v.split(|b| *b == b','));
            let removed = removed.map(|name| String::from_utf8_lossy(name).trim().to_owned()).filter(|name| !name.is_empty());
            allowed.request.extend(removed.map(Edit::Remove));
            allowed.request.extend(of(&wanted.to_upstream).into_iter().map(|(name, value)| Edit::Set(name, value)));
            allowed.request.extend(of(&wanted.append_upstream).into_iter().map(|(name, value)| Edit::Append(name, value)));
            allowed.response = of(&wanted.to_client_on_success).into_iter().map(|(name, value)| Change::Append(name, value)).collect();
            let metadata = of(&wanted.to_metadata).into_iter().map(|(name, value)| {
                let text = String::from_utf8_lossy(&value).into_owned();
                (name, Value { kind: Some(Kind::StringValue(text)) })
            });
            let metadata: std::collections::HashMap<_, _> = metadata.collect();
            allowed.metadata = (!metadata.is_empty()).then_some(Struct { fields: metadata });
            Decision::Allowed(allowed.into())
        }
        status if status >= 500 => Decision::Error("it answered with a fault of its own"),
        status => {
            let shown = |name: &str| {
                let listed = wanted.to_client.is_empty() || any(&wanted.to_client, name) || ALWAYS.contains(&name);
                listed && !is_hop_by_hop(name) && !matches!(name, "content-length" | "date" | "server")
            };
            let headers = head.iter().filter(|(name, _)| shown(name)).map(owned).collect();
            Decision::Denied(Denied { status, body, headers, metadata: None }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use mizzen_ir::config::StringTest;

    use super::*;

    fn exact(names: &[&str]) -> std::sync::Arc<[StringMatch]> {
        names.iter().map(|n| StringMatch { test: StringTest::Exact((*n).into()), ignore_case: true }).collect()
    }

    #[test]
    fn answers() {
        let wanted = AuthzHeaders { to_upstream: exact(&["x-user"]), to_client: exact(&["x-why"]), ..AuthzHeaders::default() };
        let answer = |status: u16| {
            let mut head = Head::response(status);
            head.set("x-user", "ann");
            head.set("x-why", "no");
            head.set("x-other", "1");
            head.set("location", "/login");
            head.set("connection", "close");
            decision(&wanted, &head, b"body".to_vec())
        };
        let Decision::Allowed(allowed) = answer(200) else { panic!("200 lets it go on") };
        assert!(matches!(&allowed.request[..], [Edit::Set(name, value)] if name == "x-user" && value == b"ann"));
        for status in [201, 302, 401, 403, 429] {
            let Decision::Denied(denied) = answer(status) else { panic!("{status} refuses") };
            let names: Vec<&str> = denied.headers.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((denied.status, names, &denied.body[..]), (status, vec!["x-why", "location"], &b"body"[..]));
        }
        for status in [500, 503] {
            assert!(matches!(answer(status), Decision::Error(_)), "{status} is no answer");
        }
    }
}
