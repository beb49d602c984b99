//! Command operators: `%REQ(X?Y):10%`.

use std::sync::Arc;

use time::format_description::{self, OwnedFormatItem};

use super::cx::{Cx, Res};
use crate::config::{Command, HeaderSource, Part, Template};

/// What becomes of a command that is not known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// In a log: it yields nothing, which is warned of.
    Warn,
    /// In a header: it would change what is sent.
    Refuse,
}

pub(super) fn template(cx: &mut Cx, text: &str, unknown: Unknown) -> Res<Template> {
    let mut parts: Vec<Part> = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some((command, limit, after)) = split(after) else {
            return cx.refuse("", format!("`%` without its end in `{text}`"));
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        let limit = match limit {
            Some(l) => Some(l.parse().map_err(|_| cx.bad("", format!("`{l}` is not a length, in `{text}`")))?),
            None => None,
        };
        let known = command_of(command);
        if let Command::Unknown(name) = &known {
            match unknown {
                Unknown::Warn => cx.warn("", format!("command `%{name}%` is not known and yields nothing")),
                Unknown::Refuse => return cx.refuse("", format!("command `%{name}%` is not supported")),
            }
        }
        parts.push(Part::Command(known, limit));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(Template { parts: parts.into() })
}

/// A command with its arguments, its length limit, and what follows the closing percent sign.
fn split(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let name_end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    let (_, from) = text.split_at_checked(name_end)?;
    // Arguments may hold percent signs: the formats of times.
    let args = match from.strip_prefix('(') {
        Some(args) => args.find(')')? + 2,
        None => 0,
    };
    let (command, from) = text.split_at_checked(name_end + args)?;
    let (limit, after) = match from.strip_prefix(':') {
        Some(limit) => limit.split_once('%').map(|(l, after)| (Some(l), after))?,
        None => (None, from.strip_prefix('%')?),
    };
    (!command.is_empty()).then_some((command, limit, after))
}

fn command_of(text: &str) -> Command {
    let (name, args) = match text.split_once('(') {
        Some((name, args)) => (name, Some(args.strip_suffix(')').unwrap_or(args))),
        None => (text, None),
    };
    let unknown = || Command::Unknown(text.into());
    match args {
        Some(args) => with_args(name, args).unwrap_or_else(unknown),
        None => without_args(name).or_else(|| addresses(name)).or_else(|| certificates(name)).unwrap_or_else(unknown),
    }
}

fn with_args(name: &str, args: &str) -> Option<Command> {
    let header = |from| {
        let (name, or) = args.split_once('?').map_or((args, None), |(n, o)| (n, Some(o)));
        let lower = |n: &str| -> Arc<str> {
            let n = n.to_ascii_lowercase();
            if n == "host" { ":authority".into() } else { n.into() }
        };
        Command::Header { from, name: lower(name), or: or.map(lower) }
    };
    Some(match name {
        "REQ" => header(HeaderSource::Request),
        "RESP" => header(HeaderSource::Response),
        "TRAILER" => header(HeaderSource::Trailers),
        "START_TIME" if args.is_empty() => start_time(),
        "START_TIME" => Command::StartTime(strftime(args).into()),
        // `KEY:PLAIN` or `KEY:TYPED`; how it is written is not ours to choose.
        "FILTER_STATE" => Command::FilterState(args.split(':').next().unwrap_or_default().into()),
        "DYNAMIC_METADATA" => Command::DynamicMetadata(args.split(':').map(Arc::from).collect()),
        "GRPC_STATUS" if args == "NUMBER" => Command::GrpcStatusNumber,
        "GRPC_STATUS" if matches!(args, "" | "CAMEL_STRING") => Command::GrpcStatus,
        _ => return None,
    })
}

/// RFC 3339 with milliseconds.
fn start_time() -> Command {
    Command::StartTime(strftime("%FT%T.%3fZ").into())
}

/// A format of strftime, with Envoy's `%f` and `%3f` for the fraction of a second. What is no conversion stays as it is.
fn strftime(format: &str) -> OwnedFormatItem {
    let mut items = Vec::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        items.push(OwnedFormatItem::StringLiteral(before.into()));
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (width, after) = after.split_at(digits);
        let end = after.chars().next().map_or(0, char::len_utf8);
        let (conversion, after) = after.split_at(end);
        let item = match conversion {
            "f" => {
                let width = width.parse().unwrap_or(9).clamp(1, 9);
                format_description::parse_owned::<2>(&format!("[subsecond digits:{width}]")).ok()
            }
            "Z" => Some(OwnedFormatItem::StringLiteral("UTC".into())),
            _ => format_description::parse_strftime_owned(&format!("%{conversion}")).ok(),
        };
        items.push(item.unwrap_or_else(|| OwnedFormatItem::StringLiteral(format!("%{width}{conversion}").into())));
        rest = after;
    }
    items.push(OwnedFormatItem::StringLiteral(rest.into()));
    OwnedFormatItem::Compound(items.into())
}

fn without_args(name: &str) -> Option<Command> {
    Some(match name {
        "START_TIME" => start_time(),
        "DURATION" => Command::Duration,
        "REQUEST_DURATION" => Command::RequestDuration,
        "RESPONSE_DURATION" => Command::ResponseDuration,
        "RESPONSE_TX_DURATION" => Command::ResponseTxDuration,
        "PROTOCOL" => Command::Protocol,
        "UPSTREAM_PROTOCOL" => Command::UpstreamProtocol,
        "RESPONSE_CODE" => Command::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Command::ResponseCodeDetails,
        "RESPONSE_FLAGS" => Command::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Command::ResponseFlagsLong,
        "CONNECTION_TERMINATION_DETAILS" => Command::ConnectionTerminationDetails,
        "GRPC_STATUS" => Command::GrpcStatus,
        "GRPC_STATUS_NUMBER" => Command::GrpcStatusNumber,
        "BYTES_RECEIVED" => Command::BytesReceived,
        "BYTES_SENT" => Command::BytesSent,
        "UPSTREAM_HOST" => Command::UpstreamHost,
        "UPSTREAM_CLUSTER" => Command::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Command::UpstreamClusterRaw,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Command::UpstreamTransportFailureReason,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Command::UpstreamRequestAttemptCount,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Command::DownstreamTransportFailureReason,
        "REQUESTED_SERVER_NAME" => Command::RequestedServerName,
        "ROUTE_NAME" => Command::RouteName,
        "VIRTUAL_HOST_NAME" => Command::VirtualHostName,
        "FILTER_CHAIN_NAME" => Command::FilterChainName,
        "CONNECTION_ID" => Command::ConnectionId,
        "STREAM_ID" => Command::StreamId,
        _ => return None,
    })
}

fn addresses(name: &str) -> Option<Command> {
    Some(match name {
        "UPSTREAM_LOCAL_ADDRESS" => Command::UpstreamLocalAddress,
        "UPSTREAM_REMOTE_ADDRESS" => Command::UpstreamRemoteAddress,
        "DOWNSTREAM_LOCAL_ADDRESS" => Command::DownstreamLocalAddress { port: true },
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Command::DownstreamLocalAddress { port: false },
        "DOWNSTREAM_LOCAL_PORT" => Command::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" => Command::DownstreamRemoteAddress { port: true },
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Command::DownstreamRemoteAddress { port: false },
        "DOWNSTREAM_REMOTE_PORT" => Command::DownstreamRemotePort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Command::DownstreamDirectRemoteAddress { port: true },
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Command::DownstreamDirectRemoteAddress { port: false },
        _ => return None,
    })
}

fn certificates(name: &str) -> Option<Command> {
    Some(match name {
        "DOWNSTREAM_PEER_URI_SAN" => Command::DownstreamPeerUriSan,
        "DOWNSTREAM_PEER_DNS_SAN" => Command::DownstreamPeerDnsSan,
        "DOWNSTREAM_PEER_CERT" => Command::DownstreamPeerCert,
        "DOWNSTREAM_PEER_SUBJECT" => Command::DownstreamPeerSubject,
        "DOWNSTREAM_PEER_ISSUER" => Command::DownstreamPeerIssuer,
        "DOWNSTREAM_PEER_SERIAL" => Command::DownstreamPeerSerial,
        "DOWNSTREAM_PEER_FINGERPRINT_256" => Command::DownstreamPeerFingerprint256,
        "DOWNSTREAM_LOCAL_URI_SAN" => Command::DownstreamLocalUriSan,
        "DOWNSTREAM_LOCAL_SUBJECT" => Command::DownstreamLocalSubject,
        "DOWNSTREAM_TLS_VERSION" => Command::DownstreamTlsVersion,
        "DOWNSTREAM_TLS_CIPHER" => Command::DownstreamTlsCipher,
        "UPSTREAM_PEER_URI_SAN" => Command::UpstreamPeerUriSan,
        "UPSTREAM_PEER_DNS_SAN" => Command::UpstreamPeerDnsSan,
        "UPSTREAM_PEER_ISSUER" => Command::UpstreamPeerIssuer,
        "UPSTREAM_PEER_CERT" => Command::UpstreamPeerCert,
        "UPSTREAM_PEER_SUBJECT" => Command::UpstreamPeerSubject,
        "UPSTREAM_LOCAL_URI_SAN" => Command::UpstreamLocalUriSan,
        "UPSTREAM_TLS_VERSION" => Command::UpstreamTlsVersion,
        "UPSTREAM_TLS_CIPHER" => Command::UpstreamTlsCipher,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use time::macros::utc_datetime;

    use super::*;

    #[test]
    fn times() {
        let at = utc_datetime!(2017-07-14 2:40:05.007);
        let check = |format: &str, want: &str| assert_eq!(at.format(&strftime(format)).unwrap(), want, "{format}");
        for (format, want) in [
            ("%Y/%m/%dT%H:%M:%S.%3f%z", "2017/07/14T02:40:05.007+0000"),
            ("%FT%T.%3fZ", "2017-07-14T02:40:05.007Z"),
            ("%s %f %1f %12f", "1500000005 007000000 0 007000000"),
            ("%a, %d %b %Y %H:%M:%S %Z", "Fri, 14 Jul 2017 02:40:05 UTC"),
            ("100%% é%", "100% é%"),
            ("%é %E %", "%é %E %"),
            ("", ""),
        ] {
            check(format, want);
        }
        let Command::StartTime(format) = start_time() else { panic!("not a time") };
        assert_eq!(at.format(&*format).unwrap(), "2017-07-14T02:40:05.007Z");
    }
}
