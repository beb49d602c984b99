//! VirtualService.

use mizzen_types::Hostname;

use super::{ExportTo, GatewayRef};
use crate::{
    Meta,
    routing::{HttpRoute, TcpRoute, TlsRoute},
};

/// How requests to hosts are routed.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualService {
    /// Name, labels, origin.
    pub meta: Meta,
    /// The hosts, as written: short names are completed by the namespace of this object. None: others delegate to its routes.
    pub hosts: Vec<Hostname>,
    /// What it is bound to; never empty, `mesh` if none was written.
    pub gateways: Vec<GatewayRef>,
    /// To whom it is visible; empty is the mesh's default.
    pub export_to: Vec<ExportTo>,
    /// Routes for HTTP, the first match wins.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS that is not ended on the way, the first match wins.
    pub tls: Vec<TlsRoute>,
    /// Routes for TCP, the first match wins.
    pub tcp: Vec<TcpRoute>,
}
