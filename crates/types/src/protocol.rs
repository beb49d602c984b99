//! Application protocols, as Istio selects them.

use std::fmt;

/// The protocol of a service's port. `Auto` means that the proxy is to detect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP over TLS that the application itself speaks.
    Https,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// TLS that the application itself speaks.
    Tls,
    /// Bytes.
    Tcp,
    /// UDP, which the mesh leaves alone.
    Udp,
    /// MongoDB's protocol, carried as bytes.
    Mongo,
    /// MySQL's protocol, carried as bytes.
    Mysql,
    /// Redis' protocol, carried as bytes.
    Redis,
    /// Not declared: detected from the first bytes.
    Auto,
}

impl Protocol {
    /// The protocol that a name stands for, without regard to case; a hyphen and what follows is ignored except in `grpc-web`.
    pub fn from_name(name: &str) -> Option<Protocol> {
        let lower = name.to_ascii_lowercase();
        if lower == "grpc-web" || lower.starts_with("grpc-web-") {
            return Some(Protocol::GrpcWeb);
        }
        Some(match lower.split('-').next().unwrap_or_default() {
            "http" => Protocol::Http,
            "http2" => Protocol::Http2,
            "https" => Protocol::Https,
            "grpc" => Protocol::Grpc,
            "tls" => Protocol::Tls,
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "mongo" => Protocol::Mongo,
            "mysql" => Protocol::Mysql,
            "redis" => Protocol::Redis,
            _ => return None,
        })
    }

    /// The protocol of a Kubernetes service port, by Istio's rules: the transport, then `appProtocol`, then the port's name, then well-known ports.
    pub fn of_port(transport: Option<&str>, app_protocol: Option<&str>, name: Option<&str>, port: u16) -> Protocol {
        if transport.is_some_and(|t| t.eq_ignore_ascii_case("UDP")) {
            return Protocol::Udp;
        }
        if let Some(app) = app_protocol.filter(|a| !a.is_empty()) {
            return match app.to_ascii_lowercase().as_str() {
                "kubernetes.io/h2c" => Protocol::Http2,
                "kubernetes.io/ws" => Protocol::Http,
                "kubernetes.io/wss" => Protocol::Https,
                // The whole name counts here: `http-alt` is no protocol, as in Istio.
                other => Protocol::from_name(other).filter(|p| p.name().eq_ignore_ascii_case(other)).unwrap_or(Protocol::Auto),
            };
        }
        // Server-first protocols cannot be detected: the proxy would wait for the client, who waits for the server.
        let well_known = matches!(port, 25 | 53 | 3306 | 27017);
        match name.and_then(Protocol::from_name) {
            Some(protocol) => protocol,
            None if well_known => Protocol::Tcp,
            None => Protocol::Auto,
        }
    }

    /// Whether requests are seen: HTTP/1.1, HTTP/2, gRPC.
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
    }

    /// Whether the server is spoken to in HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
    }

    /// Whether only bytes are seen: TCP, TLS of the application's own, databases.
    pub fn is_tcp(self) -> bool {
        !self.is_http() && !matches!(self, Protocol::Auto | Protocol::Udp)
    }

    /// Whether the application itself speaks TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Https)
    }

    /// Istio's name.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::Http2 => "HTTP2",
            Protocol::Https => "HTTPS",
            Protocol::Grpc => "GRPC",
            Protocol::GrpcWeb => "GRPC-Web",
            Protocol::Tls => "TLS",
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Mongo => "Mongo",
            Protocol::Mysql => "MySQL",
            Protocol::Redis => "Redis",
            Protocol::Auto => "UnsupportedProtocol",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_port() {
        for (app, name, port, expected) in [
            (None, Some("http"), 80, Protocol::Http),
            (None, Some("http-web"), 80, Protocol::Http),
            (None, Some("HTTP2-x"), 80, Protocol::Http2),
            (None, Some("grpc-web-x"), 80, Protocol::GrpcWeb),
            (None, Some("grpc-x"), 80, Protocol::Grpc),
            (None, Some("web"), 80, Protocol::Auto),
            (None, None, 3306, Protocol::Tcp),
            (None, Some("http"), 3306, Protocol::Http),
            (Some("kubernetes.io/h2c"), Some("http"), 80, Protocol::Http2),
            (Some("redis"), Some("http"), 80, Protocol::Redis),
            (Some("grpc-web"), None, 80, Protocol::GrpcWeb),
            (Some("example.com/own"), Some("http"), 80, Protocol::Auto),
        ] {
            assert_eq!(Protocol::of_port(Some("TCP"), app, name, port), expected, "{app:?} {name:?} {port}");
        }
        assert_eq!(Protocol::of_port(Some("UDP"), None, Some("http"), 80), Protocol::Udp);
    }
}
