//! Istio's port numbers, and the marks that keep the proxy's own traffic out of the capture.

/// The proxy's admin interface, on localhost; reads only.
pub const ADMIN: u16 = 15000;
/// Captured outbound TCP.
pub const OUTBOUND: u16 = 15001;
/// Captured inbound TCP.
pub const INBOUND: u16 = 15006;
/// HBONE.
pub const HBONE: u16 = 15008;
/// xDS and the CA, over TLS.
pub const XDS: u16 = 15012;
/// The control plane's metrics and debug interface.
pub const MONITORING: u16 = 15014;
/// What the control plane tells of itself, on localhost.
pub const DEBUG: u16 = 8080;
/// The webhooks of the Kubernetes API server, over TLS.
pub const WEBHOOKS: u16 = 15017;
/// The agent: merged metrics, application probes.
pub const AGENT: u16 = 15020;
/// Readiness of the proxy.
pub const READINESS: u16 = 15021;
/// The proxy's Prometheus metrics.
pub const METRICS: u16 = 15090;

/// The socket mark on the proxy's own connections. The redirect rules leave marked packets alone.
pub const PROXY_MARK: u32 = 1337;
/// The source address (IPv4) of connections that the inbound proxy makes to its application for unknown ports.
pub const INBOUND_PASSTHROUGH_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);
/// The same of IPv6. No host has it of its own accord: who captures gives it to the loopback interface.
pub const INBOUND_PASSTHROUGH_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
