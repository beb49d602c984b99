//! What stands before a gateway.

use crate::read::Fields;

/// What stands before a gateway, and what of it is believed. What is `None` is left to whatever these settings are laid over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayTopology {
    /// How many trusted proxies are in front of the gateway: so many places from the end of X-Forwarded-For the client is found. By default 0: the
    /// connection's peer is the client.
    pub trusted_proxies: Option<u32>,
    /// What becomes of `x-forwarded-client-cert`; by default [`ForwardClientCert::SanitizeSet`].
    pub client_cert: Option<ForwardClientCert>,
    /// Whether every connection begins with a header of the PROXY protocol, version 1 or 2; by default none does.
    pub proxy_protocol: Option<bool>,
}

/// What becomes of a request's `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardClientCert {
    /// It is removed.
    Sanitize,
    /// It is kept on connections of mutual TLS, and removed on others.
    ForwardOnly,
    /// The client's certificate is appended on connections of mutual TLS; on others it is removed.
    AppendForward,
    /// It is replaced by the client's certificate, or removed where there is none.
    #[default]
    SanitizeSet,
    /// It is kept, whoever has sent it.
    AlwaysForwardOnly,
}

/// Values of `forwardClientCertDetails`; the first is none.
pub(crate) const FORWARD_CLIENT_CERTS: &[(&str, i64, Option<Option<ForwardClientCert>>); 6] = &[
    ("UNDEFINED", 0, Some(None)),
    ("SANITIZE", 1, Some(Some(ForwardClientCert::Sanitize))),
    ("FORWARD_ONLY", 2, Some(Some(ForwardClientCert::ForwardOnly))),
    ("APPEND_FORWARD", 3, Some(Some(ForwardClientCert::AppendForward))),
    ("SANITIZE_SET", 4, Some(Some(ForwardClientCert::SanitizeSet))),
    ("ALWAYS_FORWARD_ONLY", 5, Some(Some(ForwardClientCert::AlwaysForwardOnly))),
];

impl GatewayTopology {
    pub(crate) fn read(f: &Fields<'_>) -> GatewayTopology {
        GatewayTopology {
            trusted_proxies: f.count("numTrustedProxies"),
            client_cert: f.get("forwardClientCertDetails").and_then(|at| at.choice(FORWARD_CLIENT_CERTS)).flatten(),
            // The message has no fields: that it is there says it.
            proxy_protocol: f.opt_sub("proxyProtocol", |_| true),
        }
    }

    /// These settings, and where they say nothing those of `base`.
    #[must_use]
    pub fn over(self, base: GatewayTopology) -> GatewayTopology {
        GatewayTopology {
            trusted_proxies: self.trusted_proxies.or(base.trusted_proxies),
            client_cert: self.client_cert.or(base.client_cert),
            proxy_protocol: self.proxy_protocol.or(base.proxy_protocol),
        }
    }
}

impl ForwardClientCert {
    /// Istio's name for it.
    pub fn name(self) -> &'static str {
        FORWARD_CLIENT_CERTS.iter().find(|(_, _, value)| *value == Some(Some(self))).map_or("UNDEFINED", |(name, ..)| name)
    }
}
