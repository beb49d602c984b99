//! Access-log lines and the values of command operators.

use std::{fmt::Display, io::Write, net::SocketAddr, time::Duration};

use mizzen_ir::{
    Peer, Values,
    config::{AccessLog, Command, Comparison, HeaderSource, LogFilter, LogFormat, LogTarget, LogValue},
};

use time::UtcDateTime;

use crate::{filter, view::View};

/// Writes an address.
fn put_address(address: SocketAddr, port: bool, out: &mut Vec<u8>) -> bool {
    if port { show(Some(address), out) } else { show(Some(address.ip()), out) }
}

impl Values for View<'_> {
    fn value(&self, command: &Command, out: &mut Vec<u8>) -> bool {
        let record = self.record;
        let millis = |to: Option<Duration>, from: Option<Duration>| Some(to?.saturating_sub(from?).as_millis());
        let begun = record.map(|r| r.begun);
        let peer = self.down().and_then(|d| d.peer.as_deref());
        let server = record.and_then(|r| r.upstream_peer.as_deref());
        match command {
            Command::Header { from, name, or } => {
                let value = self.header(*from, name).or_else(|| self.header(*from, or.as_deref()?));
                match value.filter(|v| !v.is_empty()) {
                    Some(value) => {
                        out.extend_from_slice(value);
                        true
                    }
                    None => false,
                }
            }
            Command::StartTime(format) => record.and_then(|r| utc(r.wall).format_into(out, &**format).ok()).is_some_and(|n| n > 0),
            Command::Duration => show(millis(Some(self.now.mono), begun), out),
            Command::RequestDuration => show(millis(record.and_then(|r| r.request_done), begun), out),
            Command::ResponseDuration => show(millis(record.and_then(|r| r.response_first), begun), out),
            Command::ResponseTxDuration => show(millis(Some(self.now.mono), record.and_then(|r| r.response_first)), out),
            Command::Protocol => {
                let http = self.request.and(self.conn).map(|c| if c.is_h2() { "HTTP/2" } else { "HTTP/1.1" });
                put(http, out)
            }
            Command::UpstreamProtocol => put(record.and_then(|r| r.upstream_h2).map(|h2| if h2 { "HTTP/2" } else { "HTTP/1.1" }), out),
            Command::ResponseCode => show(record.map(|r| r.status), out),
            Command::ResponseCodeDetails => put(record.and_then(|r| r.details.as_deref()), out),
            Command::ResponseFlags => show(record.map(|r| &r.flags), out),
            Command::ResponseFlagsLong => {
                let names = record.map(|r| r.flags.names(true).collect::<Vec<_>>().join(","));
                put(names.as_deref().map(|n| if n.is_empty() { "-" } else { n }), out)
            }
            Command::ConnectionTerminationDetails => put(record.and_then(|r| r.termination.as_deref()), out),
            Command::GrpcStatus => put(record.and_then(|r| r.grpc_status).and_then(grpc_name), out),
            Command::GrpcStatusNumber => show(record.and_then(|r| r.grpc_status), out),
            Command::BytesReceived => show(Some(self.bytes().0), out),
            Command::BytesSent => show(Some(self.bytes().1), out),
            Command::UpstreamHost | Command::UpstreamRemoteAddress => put(record.and_then(|r| r.upstream.as_deref()), out),
            Command::UpstreamCluster => put(record.and_then(|r| r.cluster.as_ref()).map(|c| &*c.stat_name), out),
            Command::UpstreamClusterRaw => put(record.and_then(|r| r.cluster.as_ref()).map(|c| &*c.name), out),
            Command::UpstreamLocalAddress => show(record.and_then(|r| r.upstream_local), out),
            Command::UpstreamTransportFailureReason => put(record.and_then(|r| r.upstream_failure.as_deref()), out),
            Command::UpstreamRequestAttemptCount => show(record.map(|r| r.attempts), out),
            Command::DownstreamTransportFailureReason => put(record.and_then(|r| r.downstream_failure.as_deref()), out),
            Command::DownstreamLocalAddress { port } => self.down().is_some_and(|d| put_address(d.destination, *port, out)),
            Command::DownstreamLocalPort => show(self.down().map(|d| d.destination.port()), out),
            Command::DownstreamRemoteAddress { port } => match (self.request, self.conn) {
                (Some(request), Some(conn)) if request.remote != conn.addrs.peer.ip() => {
                    put_address(SocketAddr::new(request.remote, 0), *port, out)
                }
                (_, Some(conn)) => put_address(conn.addrs.peer, *port, out),
                _ => false,
            },
            Command::DownstreamRemotePort => show(self.conn.map(|c| c.addrs.peer.port()), out),
            Command::DownstreamDirectRemoteAddress { port } => self.down().is_some_and(|d| put_address(d.direct, *port, out)),
            Command::RequestedServerName => put(self.down().and_then(|d| d.server_name.as_deref()), out),
            Command::RouteName => put(record.and_then(|r| r.route.as_deref()), out),
            Command::VirtualHostName => put(record.and_then(|r| r.vhost.as_deref()), out),
            Command::FilterChainName => put(self.down().and_then(|d| d.chain.as_ref()).map(|c| &*c.name), out),
            Command::ConnectionId => show(self.conn.map(|c| c.id.as_u64()), out),
            Command::StreamId => put(self.header(HeaderSource::Request, "x-request-id").and_then(|v| std::str::from_utf8(v).ok()), out),
            Command::DownstreamPeerUriSan => put(peer.map(|p| p.uris.join(",")).as_deref(), out),
            Command::DownstreamPeerDnsSan => put(peer.map(|p| p.dns.join(",")).as_deref(), out),
            Command::DownstreamPeerCert => put(peer.map(certificate).as_deref(), out),
            Command::DownstreamPeerSubject => put(peer.map(|p| &*p.subject), out),
            Command::DownstreamPeerIssuer => put(peer.map(|p| &*p.issuer), out),
            Command::DownstreamPeerSerial => put(peer.map(|p| &*p.serial), out),
            Command::DownstreamPeerFingerprint256 => put(peer.map(|p| &*p.fingerprint), out),
            Command::DownstreamLocalUriSan => put(self.down().and_then(|d| d.local_uri.as_deref()), out),
            Command::DownstreamLocalSubject => put(self.down().and_then(|d| d.local_subject.as_deref()), out),
            Command::DownstreamTlsVersion => put(self.conn.and_then(|c| c.tls.as_ref()).and_then(|t| t.version()), out),
            Command::DownstreamTlsCipher => put(self.conn.and_then(|c| c.tls.as_ref()).and_then(|t| t.cipher()), out),
            Command::UpstreamPeerUriSan => put(server.map(|p| p.uris.join(",")).as_deref(), out),
            Command::UpstreamPeerDnsSan => put(server.map(|p| p.dns.join(",")).as_deref(), out),
            Command::UpstreamPeerSubject => put(server.map(|p| &*p.subject), out),
            Command::UpstreamPeerIssuer => put(server.map(|p| &*p.issuer), out),
            Command::UpstreamPeerCert => put(server.map(certificate).as_deref(), out),
            Command::UpstreamLocalUriSan => {
                put(record.filter(|r| r.upstream_uri().is_some()).and_then(|r| r.upstream_local_uri.as_deref()), out)
            }
            Command::UpstreamTlsVersion => put(record.and_then(|r| r.upstream_tls[0]), out),
            Command::UpstreamTlsCipher => put(record.and_then(|r| r.upstream_tls[1]), out),
            Command::FilterState(key) => put(filter::text(key, self.request.map(|r| &r.facts), record), out),
            Command::DynamicMetadata(path) => {
                let (Some(request), Some((filter, path))) = (self.request, path.split_first()) else { return false };
                request.facts.metadata.value(filter, path.iter().map(|key| &**key)).is_some_and(|value| metadata(value, out))
            }
            // It was warned of.
            Command::Unknown(_) => false,
        }
    }
}

fn certificate(peer: &Peer) -> String {
    crate::headers::url_encoded_pem(&peer.der)
}

/// Writes a text; whether there is any.
fn put(text: Option<&str>, out: &mut Vec<u8>) -> bool {
    let text = text.unwrap_or_default();
    out.extend_from_slice(text.as_bytes());
    !text.is_empty()
}

/// Writes a number, an address or the like; whether there is one.
fn show(value: Option<impl Display>, out: &mut Vec<u8>) -> bool {
    value.is_some_and(|value| write!(out, "{value}").is_ok())
}

/// A time of the clock; one that no calendar has is the first.
fn utc(wall: Duration) -> UtcDateTime {
    let nanos = i128::try_from(wall.as_nanos()).unwrap_or_default();
    UtcDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(UtcDateTime::UNIX_EPOCH)
}

/// A value of dynamic metadata: a text as it is, all else as JSON. False if it is null.
fn metadata(value: &mizzen_protos::wkt::Value, out: &mut Vec<u8>) -> bool {
    use mizzen_protos::wkt::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => return false,
        Some(Kind::StringValue(text)) => out.extend_from_slice(text.as_bytes()),
        Some(Kind::BoolValue(value)) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Some(Kind::NumberValue(number)) => return show(Some(*number), out),
        Some(Kind::ListValue(list)) => {
            out.push(b'[');
            for (i, value) in list.values.iter().enumerate() {
                out.extend_from_slice(if i > 0 { b"," } else { b"" });
                element(value, out);
            }
            out.push(b']');
        }
        Some(Kind::StructValue(object)) => {
            out.push(b'{');
            let mut fields: Vec<_> = object.fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            for (i, (key, value)) in fields.into_iter().enumerate() {
                out.extend_from_slice(if i > 0 { b"," } else { b"" });
                quote(key, out);
                out.push(b':');
                element(value, out);
            }
            out.push(b'}');
        }
    }
    true
}

/// A value within a list or an object.
fn element(value: &mizzen_protos::wkt::Value, out: &mut Vec<u8>) {
    if let Some(mizzen_protos::wkt::value::Kind::StringValue(text)) = &value.kind {
        quote(text, out);
    } else if !metadata(value, out) {
        out.extend_from_slice(b"null");
    }
}

/// The name of a log's file.
pub(crate) fn target(log: &AccessLog) -> &'static str {
    match log.target {
        LogTarget::Stdout => "/dev/stdout",
        LogTarget::Stderr => "/dev/stderr",
    }
}

/// Whether a line is wanted.
pub(crate) fn wanted(filter: &LogFilter, view: &View<'_>) -> bool {
    let compare = |op: Comparison, value: u128, with: u32| match op {
        Comparison::Eq => value == with.into(),
        Comparison::Ge => value >= with.into(),
        Comparison::Le => value <= with.into(),
        Comparison::Ne => value != with.into(),
    };
    let Some(record) = view.record else { return true };
    match filter {
        LogFilter::Status(op, with) => compare(*op, record.status.into(), *with),
        LogFilter::Duration(op, with) => compare(*op, view.now.mono.saturating_sub(record.begun).as_millis(), *with),
        LogFilter::Header(matching) => view.request.is_some_and(|r| matching.matches(&r.head)),
        LogFilter::Flags(flags) if flags.is_empty() => !record.flags.is_empty(),
        LogFilter::Flags(flags) => record.flags.names(false).any(|name| flags.iter().any(|f| **f == *name)),
        LogFilter::Grpc(all, not) => record.grpc_status.is_some_and(|s| all.contains(&(s as i32))) != *not,
        LogFilter::And(all) => all.iter().all(|f| wanted(f, view)),
        LogFilter::Or(any) => any.iter().any(|f| wanted(f, view)),
    }
}

/// Writes one line.
pub(crate) fn line(format: &LogFormat, view: &View<'_>, out: &mut Vec<u8>) {
    match format {
        LogFormat::Text(template) => {
            let start = out.len();
            template.render(view, b"-", out);
            if out.len() > start && out.last() != Some(&b'\n') {
                out.push(b'\n');
            }
        }
        LogFormat::Json { members, omit_empty } => {
            let has = |key: &str| members.iter().any(|(name, _)| **name == *key);
            let start = out.len();
            object(members, *omit_empty, view, &mut Vec::new(), out);
            out.pop();
            // Who it was and why it was refused stands in every line, whatever the format names.
            let policy = view.record.and_then(|r| r.policy.as_deref());
            let destination = view.down().and_then(|d| d.local_uri.as_deref()).filter(|_| view.source_principal().is_some());
            let destination = destination.or_else(|| view.record.and_then(|r| r.upstream_uri()).map(|uri| &**uri));
            let source = view
                .source_principal()
                .or(view.record.filter(|r| r.upstream_uri().is_some()).and_then(|r| r.upstream_local_uri.as_deref()));
            for (key, value) in [("source_principal", source), ("destination_principal", destination), ("policy", policy)] {
                if let Some(value) = value.filter(|_| !has(key)) {
                    if out.len() > start + 1 {
                        out.push(b',');
                    }
                    quote(key, out);
                    out.push(b':');
                    quote(value, out);
                }
            }
            out.extend_from_slice(b"}\n");
        }
    }
}

/// Writes members; `scratch` is for what a command yields before it is quoted.
fn object(members: &[(std::sync::Arc<str>, LogValue)], omit: bool, view: &View<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    out.push(b'{');
    let start = out.len();
    for (name, value) in members {
        let before = out.len();
        if before > start {
            out.push(b',');
        }
        quote(name, out);
        out.push(b':');
        let at = out.len();
        json(value, omit, view, scratch, out);
        if omit && out.get(at..) == Some(b"null") {
            out.truncate(before);
        }
    }
    out.push(b'}');
}

fn json(value: &LogValue, omit: bool, view: &View<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    match value {
        LogValue::Text(template) => {
            scratch.clear();
            match template.only_command() {
                None => drop(template.render(view, b"-", scratch)),
                Some(command) if !view.value(command, scratch) => return out.extend_from_slice(b"null"),
                Some(command) if is_number(command) => return out.extend_from_slice(scratch),
                Some(_) => {}
            }
            quote(&String::from_utf8_lossy(scratch), out);
        }
        LogValue::Object(members) => object(members, omit, view, scratch, out),
        LogValue::List(list) => {
            out.push(b'[');
            for (at, value) in list.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json(value, omit, view, scratch, out);
            }
            out.push(b']');
        }
        LogValue::Number(n) => drop(show(Some(n), out)),
        LogValue::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        LogValue::Null => out.extend_from_slice(b"null"),
    }
}

fn is_number(command: &Command) -> bool {
    matches!(
        command,
        Command::Duration
            | Command::RequestDuration
            | Command::ResponseDuration
            | Command::ResponseTxDuration
            | Command::ResponseCode
            | Command::BytesReceived
            | Command::BytesSent
            | Command::GrpcStatusNumber
            | Command::UpstreamRequestAttemptCount
            | Command::DownstreamLocalPort
            | Command::DownstreamRemotePort
            | Command::ConnectionId
    )
}

/// Writes a text as JSON.
fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing to memory does not fail, and a text has a form in JSON.
    let _ = serde_json::to_writer(out, text);
}

fn grpc_name(status: u32) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    NAMES.get(status as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let mut out = Vec::new();
        quote("a\"\\\n\u{1}é", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\\"\\\\\\n\\u0001é\"");
        assert_eq!(utc(Duration::from_millis(1_500_000_000_007)), time::macros::utc_datetime!(2017-07-14 2:40:00.007));
        assert_eq!(utc(Duration::MAX), UtcDateTime::UNIX_EPOCH);
    }
}
