//! The question and the answer as `envoy.service.auth.v3.Authorization/Check`.

use std::{net::SocketAddr, time::Duration};

use mizzen_http::Head;
use mizzen_ir::config::{ExtAuthz, RequestBody, StringMatch};
use mizzen_protos::{
    envoy::envoy::{
        config::core::v3 as core,
        service::auth::v3::{self as auth, attribute_context as attributes, check_response::HttpResponse},
    },
    wkt,
};
use mizzen_types::Name;
use prost::Message;

use super::{super::Cx, Allowed, Decision, Denied, Edit};
use crate::{conn::Conn, facts::Change};

/// The call's head.
pub(super) fn head(authority: &str, add: &[(Name, Name)], timeout: Duration) -> Head {
    let mut head = Head::request("POST", "http", authority, "/envoy.service.auth.v3.Authorization/Check");
    head.set("content-type", "application/grpc");
    head.set("te", "trailers");
    head.set("grpc-timeout", format!("{}m", timeout.as_millis().clamp(1, 99_999_999)));
    for (name, value) in add {
        head.append(name, value.as_bytes());
    }
    head
}

/// The question, framed as gRPC's messages are.
pub(super) fn question(
    authz: &ExtAuthz,
    context: &[(Name, Name)],
    body: Option<(&[u8], RequestBody)>,
    partial: bool,
    cx: &Cx<'_>,
) -> Vec<u8> {
    let namespaces = authz.metadata.iter().filter_map(|name| Some((name.to_string(), cx.facts.metadata.of(name)?.clone())));
    let metadata = core::Metadata { filter_metadata: namespaces.collect(), ..core::Metadata::default() };
    let wall = cx.now.wall;
    let request = attributes::Request {
        time: Some(wkt::Timestamp { seconds: wall.as_secs() as i64, nanos: wall.subsec_nanos() as i32 }),
        http: Some(http(authz, body, partial, cx)),
    };
    framed(auth::AttributeContext {
        request: Some(request),
        context_extensions: context.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        metadata_context: Some(metadata),
        ..parties(authz, cx.conn)
    })
}

/// The same about a connection, of which there is no request.
pub(super) fn connection(authz: &ExtAuthz, conn: &Conn) -> Vec<u8> {
    let metadata = conn.down().and_then(|down| down.metadata.as_deref());
    let of = |name: &Name| Some((name.to_string(), metadata?.of(name)?.clone()));
    let metadata = core::Metadata { filter_metadata: authz.metadata.iter().filter_map(of).collect(), ..core::Metadata::default() };
    framed(auth::AttributeContext { metadata_context: Some(metadata), ..parties(authz, conn) })
}

/// Who speaks with whom.
fn parties(authz: &ExtAuthz, conn: &Conn) -> auth::AttributeContext {
    let down = conn.down();
    let peer = down.and_then(|d| d.peer.as_deref());
    let principal = |name: Option<&Name>| name.map(|n| n.to_string()).unwrap_or_default();
    let source = attributes::Peer {
        address: Some(address(conn.addrs.peer)),
        principal: principal(peer.and_then(|p| p.uris.first().or(p.dns.first()))),
        certificate: peer.filter(|_| authz.peer_certificate).map(|p| crate::headers::url_encoded_pem(&p.der)).unwrap_or_default(),
        ..attributes::Peer::default()
    };
    let destination = attributes::Peer {
        address: down.map(|d| address(d.destination)),
        principal: principal(down.and_then(|d| d.local_uri.as_ref())),
        ..attributes::Peer::default()
    };
    let sni = down.and_then(|d| d.server_name.clone()).filter(|_| authz.tls_session);
    auth::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        tls_session: sni.map(|sni| attributes::TlsSession { sni }),
        ..auth::AttributeContext::default()
    }
}

/// A message as gRPC frames it.
fn framed(attributes: auth::AttributeContext) -> Vec<u8> {
    let message = auth::CheckRequest { attributes: Some(attributes) };
    let length = message.encoded_len();
    let mut out = Vec::with_capacity(5 + length);
    out.push(0);
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&message.encode_to_vec());
    out
}

fn http(authz: &ExtAuthz, body: Option<(&[u8], RequestBody)>, partial: bool, cx: &Cx<'_>) -> attributes::HttpRequest {
    let head = &*cx.head;
    let any = |list: &[StringMatch], name: &str| list.iter().any(|m| m.matches(name.as_bytes()));
    let allowed = |name: &str| authz.allowed_headers.as_ref().is_none_or(|list| any(list, name)) && !any(&authz.disallowed_headers, name);
    let mut headers = std::collections::HashMap::new();
    let pseudo = [(":method", head.method()), (":path", head.path()), (":authority", head.authority()), (":scheme", head.scheme())];
    let pseudo = pseudo.into_iter().map(|(name, value)| (name, value.as_bytes()));
    for (name, value) in pseudo.chain(head.iter()).filter(|(name, _)| allowed(name)) {
        let value = String::from_utf8_lossy(value);
        headers.entry(name.to_owned()).and_modify(|all: &mut String| *all = format!("{all},{value}")).or_insert_with(|| value.into_owned());
    }
    if body.is_some() {
        headers.insert("x-envoy-auth-partial-body".to_owned(), partial.to_string());
    }
    let (raw, text) = match body {
        Some((bytes, RequestBody { as_bytes: true, .. })) => (bytes.to_vec(), String::new()),
        Some((bytes, _)) => (Vec::new(), String::from_utf8_lossy(bytes).into_owned()),
        None => (Vec::new(), String::new()),
    };
    attributes::HttpRequest {
        id: head.get_str("x-request-id").unwrap_or_default().to_owned(),
        method: head.method().to_owned(),
        headers,
        header_map: None,
        path: head.path().to_owned(),
        host: head.authority().to_owned(),
        scheme: head.scheme().to_owned(),
        query: String::new(),
        fragment: String::new(),
        size: head.content_length().and_then(|n| i64::try_from(n).ok()).unwrap_or(-1),
        protocol: if cx.conn.is_h2() { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body: text,
        raw_body: raw,
    }
}

fn address(at: SocketAddr) -> core::Address {
    let socket = core::SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
        ..core::SocketAddress::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

/// What a message of gRPC says; anything but one whole, plain message under status 0 is no answer.
pub(super) fn decision(head: &Head, body: &[u8], trailers: Option<&Head>) -> Decision {
    let status = trailers.and_then(|t| t.get_str("grpc-status")).or_else(|| head.get_str("grpc-status"));
    if head.status() != 200 || status != Some("0") {
        return Decision::Error("its gRPC status is not OK");
    }
    let message = match body.split_first_chunk::<5>() {
        Some(([0, a, b, c, d], rest)) if u32::from_be_bytes([*a, *b, *c, *d]) as usize == rest.len() => rest,
        _ => return Decision::Error("its answer is not one message"),
    };
    let Ok(message) = auth::CheckResponse::decode(message) else { return Decision::Error("its answer cannot be read") };
    let auth::CheckResponse { status, dynamic_metadata, http_response } = message;
    let ok = status.is_some_and(|s| s.code == 0);
    match (ok, http_response) {
        (true, Some(HttpResponse::OkResponse(m))) => Decision::Allowed(allowed(m, dynamic_metadata).into()),
        (true, None) => Decision::Allowed(Allowed { metadata: dynamic_metadata, ..Allowed::default() }.into()),
        (_, Some(HttpResponse::ErrorResponse(_))) => Decision::Error("it said that it cannot say"),
        (false, Some(HttpResponse::DeniedResponse(m))) => Decision::Denied(denied(m, dynamic_metadata).into()),
        (false, _) => Decision::Denied(denied(auth::DeniedHttpResponse::default(), dynamic_metadata).into()),
        (true, Some(HttpResponse::DeniedResponse(_))) => Decision::Error("its answer contradicts itself"),
    }
}

#[allow(deprecated)] // Services still send the field in its old place.
fn allowed(m: auth::OkHttpResponse, metadata: Option<wkt::Struct>) -> Allowed {
    let auth::OkHttpResponse {
        headers,
        headers_to_remove,
        dynamic_metadata,
        response_headers_to_add,
        query_parameters_to_set,
        query_parameters_to_remove,
    } = m;
    let mut request: Vec<Edit> = headers_to_remove.into_iter().map(Edit::Remove).collect();
    request.extend(headers.into_iter().filter_map(edit));
    let change = |option: core::HeaderValueOption| match edit(option)? {
        Edit::Append(name, value) => Some(Change::Append(name, value)),
        Edit::Set(name, value) | Edit::AddIfAbsent(name, value) | Edit::SetIfPresent(name, value) => Some(Change::Set(name, value)),
        Edit::Remove(_) => None,
    };
    Allowed {
        request,
        response: response_headers_to_add.into_iter().filter_map(change).collect(),
        query: (query_parameters_to_set.into_iter().map(|p| (p.key, p.value)).collect(), query_parameters_to_remove),
        metadata: metadata.or(dynamic_metadata),
    }
}

/// One header of an answer. What says nothing of appending is set, in place of what there is.
#[allow(deprecated)] // Services still send the field.
fn edit(option: core::HeaderValueOption) -> Option<Edit> {
    use core::header_value_option::HeaderAppendAction as A;
    let core::HeaderValueOption { header, append, append_action, keep_empty_value: _ } = option;
    let core::HeaderValue { key, value, raw_value } = header?;
    let value = if raw_value.is_empty() { value.into_bytes() } else { raw_value };
    Some(match (append.is_some_and(|a| a.value), A::try_from(append_action)) {
        (true, _) => Edit::Append(key, value),
        (false, Ok(A::AddIfAbsent)) => Edit::AddIfAbsent(key, value),
        (false, Ok(A::OverwriteIfExists)) => Edit::SetIfPresent(key, value),
        (false, _) => Edit::Set(key, value),
    })
}

fn denied(m: auth::DeniedHttpResponse, metadata: Option<wkt::Struct>) -> Denied {
    let auth::DeniedHttpResponse { status, headers, body } = m;
    let status = status.and_then(|s| u16::try_from(s.code).ok()).filter(|code| (200..600).contains(code)).unwrap_or(403);
    let header = |option: core::HeaderValueOption| {
        let core::HeaderValue { key, value, raw_value } = option.header?;
        Some((key.to_ascii_lowercase(), if raw_value.is_empty() { value.into_bytes() } else { raw_value }))
    };
    Denied { status, body: body.into_bytes(), headers: headers.into_iter().filter_map(header).collect(), metadata }
}

#[cfg(test)]
mod tests {
    use mizzen_protos::envoy::google::rpc;

    use super::*;

    fn framed(message: &auth::CheckResponse) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        let mut out = vec![0];
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend(bytes);
        out
    }

    fn answer(code: i32, http_response: Option<HttpResponse>) -> Decision {
        let status = rpc::Status { code, ..rpc::Status::default() };
        let body = framed(&auth::CheckResponse { status: Some(status), dynamic_metadata: None, http_response });
        let mut trailers = Head::new();
        trailers.set("grpc-status", "0");
        decision(&Head::response(200), &body, Some(&trailers))
    }

    #[test]
    fn answers() {
        assert!(matches!(answer(0, None), Decision::Allowed(_)));
        assert!(matches!(answer(7, None), Decision::Denied(d) if d.status == 403));
        let denied = auth::DeniedHttpResponse { body: "no".to_owned(), ..auth::DeniedHttpResponse::default() };
        assert!(matches!(answer(16, Some(HttpResponse::DeniedResponse(denied.clone()))), Decision::Denied(d) if d.body == b"no"));
        assert!(matches!(answer(0, Some(HttpResponse::DeniedResponse(denied))), Decision::Error(_)), "it contradicts itself");
        let ok = auth::OkHttpResponse::default();
        assert!(matches!(answer(7, Some(HttpResponse::OkResponse(ok))), Decision::Denied(_)), "the status decides");
    }

    #[test]
    fn no_answers() {
        let good = framed(&auth::CheckResponse { status: Some(rpc::Status::default()), ..auth::CheckResponse::default() });
        let trailers = |status: &str| {
            let mut head = Head::new();
            head.set("grpc-status", status);
            head
        };
        let is_error = |head: &Head, body: &[u8], trailers: Option<&Head>| matches!(decision(head, body, trailers), Decision::Error(_));
        let ok = Head::response(200);
        assert!(!is_error(&ok, &good, Some(&trailers("0"))));
        assert!(is_error(&ok, &good, Some(&trailers("14"))));
        assert!(is_error(&ok, &good, None), "without a status it was cut off");
        assert!(is_error(&Head::response(503), &good, Some(&trailers("0"))));
        assert!(is_error(&ok, &[], Some(&trailers("0"))));
        assert!(is_error(&ok, good.get(..good.len() - 1).unwrap_or_default(), Some(&trailers("0"))), "cut short");
        assert!(is_error(&ok, &[&good[..], &good[..]].concat(), Some(&trailers("0"))), "two messages");
        assert!(is_error(&ok, &[0, 0, 0, 0, 2, 0xff, 0xff], Some(&trailers("0"))), "no protobuf");
    }
}
