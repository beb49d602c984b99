//! Changes to headers, and the command operators (`%REQ(X)%`) that both headers and access logs use.

use std::sync::Arc;

use time::format_description::OwnedFormatItem;

/// Changes to one header map: removals first, then the rest in order. Several levels of configuration are already one list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderOps {
    /// The changes in order.
    pub ops: Arc<[HeaderOp]>,
}

/// What happens to the headers of a request and of its response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mutations {
    /// To the request.
    pub request: HeaderOps,
    /// To the response.
    pub response: HeaderOps,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderOp {
    /// Remove all headers of this (lower case) name.
    Remove(Arc<str>),
    /// Set or add one.
    Set {
        /// Lower case; `host` is already `:authority`.
        name: Arc<str>,
        /// The value.
        value: Template,
        /// What happens if one is there.
        action: HeaderAction,
        /// Whether an empty value is written too; else it changes nothing.
        keep_empty: bool,
    },
}

/// What happens where a header of the name is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderAction {
    /// One more line.
    Append,
    /// Only if there is none.
    AddIfAbsent,
    /// In place of all.
    Overwrite,
    /// In place of all, only if there is one.
    OverwriteIfExists,
}

/// A text with command operators in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    /// Literals and commands in order.
    pub parts: Arc<[Part]>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A fixed text.
    Literal(Arc<str>),
    /// What a command yields, cut to so many bytes.
    Command(Command, Option<usize>),
}

/// Which header map a command reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderSource {
    /// The request's headers.
    Request,
    /// The response's headers.
    Response,
    /// The response's trailers.
    Trailers,
}

/// A command operator. What has no value is `-` in a log and nothing in a header.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Command {
    /// A header, else the alternative one.
    Header {
        from: HeaderSource,
        name: Arc<str>,
        or: Option<Arc<str>>,
    },
    /// When the request began.
    StartTime(Arc<OwnedFormatItem>),
    /// From begin to end, in milliseconds.
    Duration,
    /// From begin to the end of the request's body.
    RequestDuration,
    /// From begin to the first byte of the response.
    ResponseDuration,
    /// From the first to the last byte of the response.
    ResponseTxDuration,
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    ConnectionTerminationDetails,
    GrpcStatus,
    GrpcStatusNumber,
    BytesReceived,
    BytesSent,
    UpstreamHost,
    UpstreamCluster,
    /// The cluster's name; [`Command::UpstreamCluster`] is its alternative stat name.
    UpstreamClusterRaw,
    UpstreamLocalAddress,
    UpstreamRemoteAddress,
    UpstreamTransportFailureReason,
    UpstreamRequestAttemptCount,
    DownstreamTransportFailureReason,
    /// The address that the client meant; the flag: without its port.
    DownstreamLocalAddress {
        port: bool,
    },
    DownstreamLocalPort,
    /// The client's address, from X-Forwarded-For where that is trusted.
    DownstreamRemoteAddress {
        port: bool,
    },
    DownstreamRemotePort,
    /// The peer of the connection.
    DownstreamDirectRemoteAddress {
        port: bool,
    },
    RequestedServerName,
    RouteName,
    VirtualHostName,
    FilterChainName,
    ConnectionId,
    StreamId,
    DownstreamPeerUriSan,
    DownstreamPeerDnsSan,
    DownstreamPeerSubject,
    DownstreamPeerIssuer,
    DownstreamPeerSerial,
    DownstreamPeerFingerprint256,
    /// The client's certificate, URL-encoded PEM.
    DownstreamPeerCert,
    DownstreamLocalUriSan,
    DownstreamLocalSubject,
    DownstreamTlsVersion,
    /// The cipher suite by OpenSSL's name.
    DownstreamTlsCipher,
    UpstreamPeerUriSan,
    UpstreamPeerDnsSan,
    UpstreamPeerSubject,
    UpstreamPeerIssuer,
    /// The server's certificate, URL-encoded PEM.
    UpstreamPeerCert,
    UpstreamLocalUriSan,
    UpstreamTlsVersion,
    UpstreamTlsCipher,
    /// Something that the request's filters left under this key, such as `downstream_peer`.
    FilterState(Arc<str>),
    /// Metadata of a filter: the filter, then the path.
    DynamicMetadata(Arc<[Arc<str>]>),
    /// A command that is not known; only in logs, where it yields nothing.
    Unknown(Arc<str>),
}
