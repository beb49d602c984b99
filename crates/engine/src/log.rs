//! Access-log lines and the values of command operators.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use mizzen_ir::{
    Values,
    config::{AccessLog, Command, Comparison, HeaderSource, LogFilter, LogFormat, LogTarget, LogValue},
};

use crate::{
    filter, headers,
    view::View,
};

/// Writes an address.
fn put_address(address: SocketAddr, port: bool, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(if port { address.to_string() } else { address.ip().to_string() }.as_bytes());
    true
}

impl Values for View<'_> {
    fn value(&self, command: &Command, out: &mut Vec<u8>) -> bool {
        let mut put = |text: Option<&str>| match text.filter(|t| !t.is_empty()) {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                true
            }
            None => false,
        };
        let record = self.record;
        let millis = |to: Option<Duration>, from: Option<Duration>| Some(to?.saturating_sub(from?).as_millis().to_string());
        let begun = record.map(|r| r.begun);
        let peer = self.down().and_then(|d| d.peer.as_deref());
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
            Command::StartTime(format) => match format {
                None => put(record.map(|r| headers::rfc3339(r.wall)).as_deref()),
                Some(format) => put(record.map(|r| strftime(format, r.wall)).as_deref()),
            },
            Command::Duration => put(millis(Some(self.now.mono), begun).as_deref()),
            Command::RequestDuration => put(millis(record.and_then(|r| r.request_done), begun).as_deref()),
            Command::ResponseDuration => put(millis(record.and_then(|r| r.response_first), begun).as_deref()),
            Command::ResponseTxDuration => put(millis(Some(self.now.mono), record.and_then(|r| r.response_first)).as_deref()),
            Command::Protocol => {
                let http = self.request.and(self.conn).map(|c| if c.is_h2() { "HTTP/2" } else { "HTTP/1.1" });
                put(http)
            }
            Command::UpstreamProtocol => put(record.and_then(|r| r.upstream_h2).map(|h2| if h2 { "HTTP/2" } else { "HTTP/1.1" })),
            Command::ResponseCode => put(record.map(|r| r.status.to_string()).as_deref()),
            Command::ResponseCodeDetails => put(record.and_then(|r| r.details.as_deref())),
            Command::ResponseFlags => put(record.map(|r| r.flags.to_string()).as_deref()),
            Command::ResponseFlagsLong => {
                let names = record.map(|r| r.flags.names(true).collect::<Vec<_>>().join(","));
                put(names.map(|n| if n.is_empty() { "-".to_owned() } else { n }).as_deref())
            }
            Command::ConnectionTerminationDetails => put(record.and_then(|r| r.termination.as_deref())),
            Command::GrpcStatus => put(record.and_then(|r| r.grpc_status).and_then(grpc_name)),
            Command::GrpcStatusNumber => put(record.and_then(|r| r.grpc_status).map(|s| s.to_string()).as_deref()),
            Command::BytesReceived => put(Some(&self.bytes().0.to_string())),
            Command::BytesSent => put(Some(&self.bytes().1.to_string())),
            Command::UpstreamHost | Command::UpstreamRemoteAddress => put(record.and_then(|r| r.upstream.as_deref())),
            Command::UpstreamCluster => put(record.and_then(|r| r.cluster.as_ref()).map(|c| &*c.stat_name)),
            Command::UpstreamClusterRaw => put(record.and_then(|r| r.cluster.as_ref()).map(|c| &*c.name)),
            Command::UpstreamLocalAddress => put(record.and_then(|r| r.upstream_local.as_deref())),
            Command::UpstreamTransportFailureReason => put(record.and_then(|r| r.upstream_failure.as_deref())),
            Command::UpstreamRequestAttemptCount => put(record.map(|r| r.attempts.to_string()).as_deref()),
            Command::DownstreamTransportFailureReason => put(record.and_then(|r| r.downstream_failure.as_deref())),
            Command::DownstreamLocalAddress { port } => self.down().is_some_and(|d| put_address(d.destination, *port, out)),
            Command::DownstreamLocalPort => put(self.down().map(|d| d.destination.port().to_string()).as_deref()),
            Command::DownstreamRemoteAddress { port } => match (self.request, self.conn) {
                (Some(request), Some(conn)) if request.remote != conn.addrs.peer.ip() => {
                    put_address(SocketAddr::new(request.remote, 0), *port, out)
                }
                (_, Some(conn)) => put_address(conn.addrs.peer, *port, out),
                _ => false,
            },
            Command::DownstreamRemotePort => put(self.conn.map(|c| c.addrs.peer.port().to_string()).as_deref()),
            Command::DownstreamDirectRemoteAddress { port } => self.conn.is_some_and(|c| put_address(c.addrs.peer, *port, out)),
            Command::RequestedServerName => put(self.down().and_then(|d| d.server_name.as_deref())),
            Command::RouteName => put(record.and_then(|r| r.route.as_deref())),
            Command::VirtualHostName => put(record.and_then(|r| r.vhost.as_deref())),
            Command::FilterChainName => put(self.down().and_then(|d| d.chain.as_ref()).map(|c| &*c.name)),
            Command::ConnectionId => put(self.conn.map(|c| c.id.as_u64().to_string()).as_deref()),
            Command::StreamId => put(self.header(HeaderSource::Request, "x-request-id").and_then(|v| std::str::from_utf8(v).ok())),
            Command::DownstreamPeerUriSan => put(peer.map(|p| p.uris.join(",")).as_deref()),
            Command::DownstreamPeerSubject => put(peer.map(|p| &*p.subject)),
            Command::DownstreamPeerIssuer => put(peer.map(|p| &*p.issuer)),
            Command::DownstreamPeerSerial => put(peer.map(|p| &*p.serial)),
            Command::DownstreamPeerFingerprint256 => put(peer.map(|p| &*p.fingerprint)),
            Command::DownstreamLocalUriSan => put(self.down().and_then(|d| d.local_uri.as_deref())),
            Command::DownstreamTlsVersion => put(self.conn.and_then(|c| c.tls.as_ref()).and_then(|t| t.version())),
            Command::UpstreamPeerUriSan => put(record.and_then(|r| r.upstream_uri.as_deref())),
            Command::UpstreamLocalUriSan => put(record.filter(|r| r.upstream_uri.is_some()).and_then(|r| r.upstream_local_uri.as_deref())),
            Command::UpstreamTlsVersion => put(record.and_then(|r| r.upstream_tls)),
            Command::FilterState(key) => put(filter::text(key, self.request.map(|r| &r.facts), record)),
            Command::DynamicMetadata(path) => {
                let (Some(request), Some((filter, path))) = (self.request, path.split_first()) else { return false };
                request.facts.metadata.value(filter, path.iter().map(|key| &**key)).is_some_and(|value| metadata(value, out))
            }
            _ => false,
        }
    }
}

/// A value of dynamic metadata: a text as it is, all else as JSON. False if it is null.
fn metadata(value: &mizzen_protos::wkt::Value, out: &mut Vec<u8>) -> bool {
    use mizzen_protos::wkt::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => return false,
        Some(Kind::StringValue(text)) => out.extend_from_slice(text.as_bytes()),
        Some(Kind::BoolValue(value)) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Some(Kind::NumberValue(number)) => out.extend_from_slice(number.to_string().as_bytes()),
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
                let mut text = String::new();
                quote(key, &mut text);
                out.extend_from_slice(text.as_bytes());
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
        let mut quoted = String::new();
        quote(text, &mut quoted);
        out.extend_from_slice(quoted.as_bytes());
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
            let mut json = String::new();
            let has = |key: &str| members.iter().any(|(name, _)| **name == *key);
            object(members, *omit_empty, view, &mut json);
            json.pop();
            // Who it was and why it was refused stands in every line, whatever the format names.
            let policy = view.record.and_then(|r| r.policy.as_deref());
            let destination = view.down().and_then(|d| d.local_uri.as_deref()).filter(|_| view.source_principal().is_some());
            let destination = destination.or_else(|| view.record.and_then(|r| r.upstream_uri.as_deref()));
            let source = view.source_principal().or(view.record.filter(|r| r.upstream_uri.is_some()).and_then(|r| r.upstream_local_uri.as_deref()));
            for (key, value) in [("source_principal", source), ("destination_principal", destination), ("policy", policy)] {
                if let Some(value) = value.filter(|_| !has(key)) {
                    if json.len() > 1 {
                        json.push(',');
                    }
                    quote(key, &mut json);
                    json.push(':');
                    quote(value, &mut json);
                }
            }
            json.push_str("}\n");
            out.extend_from_slice(json.as_bytes());
        }
    }
}

fn object(members: &[(std::sync::Arc<str>, LogValue)], omit: bool, view: &View<'_>, out: &mut String) {
    out.push('{');
    let mut first = true;
    for (name, value) in members {
        let mut text = String::new();
        json(value, omit, view, &mut text);
        if omit && text == "null" {
            continue;
        }
        if !first {
            out.push(',');
        }
        first = false;
        quote(name, out);
        out.push(':');
        out.push_str(&text);
    }
    out.push('}');
}

fn json(value: &LogValue, omit: bool, view: &View<'_>, out: &mut String) {
    match value {
        LogValue::Text(template) => {
            let mut bytes = Vec::new();
            let Some(command) = template.only_command() else {
                template.render(view, b"-", &mut bytes);
                return quote(&String::from_utf8_lossy(&bytes), out);
            };
            if !view.value(command, &mut bytes) {
                return out.push_str("null");
            }
            let text = String::from_utf8_lossy(&bytes);
            if is_number(command) { out.push_str(&text) } else { quote(&text, out) }
        }
        LogValue::Object(members) => object(members, omit, view, out),
        LogValue::List(list) => {
            out.push('[');
            for (at, value) in list.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                json(value, omit, view, out);
            }
            out.push(']');
        }
        LogValue::Number(n) => {
            let _ = write!(out, "{n}");
        }
        LogValue::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        LogValue::Null => out.push_str("null"),
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

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
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

/// The conversions of strftime that logs use; others stay as they are.
fn strftime(format: &str, wall: Duration) -> String {
    let (year, month, day, h, m, s, _) = headers::civil(wall.as_secs());
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut digits = String::new();
        while let Some(d) = chars.peek().filter(|c| c.is_ascii_digit()) {
            digits.push(*d);
            chars.next();
        }
        let fraction = |digits: &str| {
            let width: usize = digits.parse().unwrap_or(9).clamp(1, 9);
            format!("{:09}", wall.subsec_nanos()).get(..width).unwrap_or_default().to_owned()
        };
        let text = match chars.next() {
            Some('Y') => format!("{year:04}"),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('H') => format!("{h:02}"),
            Some('M') => format!("{m:02}"),
            Some('S') => format!("{s:02}"),
            Some('F') => format!("{year:04}-{month:02}-{day:02}"),
            Some('T') => format!("{h:02}:{m:02}:{s:02}"),
            Some('s') => wall.as_secs().to_string(),
            Some('z') => "+0000".to_owned(),
            Some('Z') => "UTC".to_owned(),
            Some('f') => fraction(&digits),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{digits}{other}"),
            None => format!("%{digits}"),
        };
        out.push_str(&text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let mut out = String::new();
        quote("a\"\\\n\u{1}é", &mut out);
        assert_eq!(out, "\"a\\\"\\\\\\n\\u0001é\"");
        assert_eq!(strftime("%Y/%m/%dT%H:%M:%S.%3f%z", Duration::from_millis(1_500_000_000_007)), "2017/07/14T02:40:00.007+0000");
    }
}
