//! MeshConfig: the mesh's own settings.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::TrustDomain;

use super::{ExportTo, Retries};
use crate::Meta;

/// The mesh's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    /// `istio-system/istio`, and where it was read.
    pub meta: Meta,
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// Other names of it.
    pub trust_domain_aliases: Vec<String>,
    /// Whose policies hold for the whole mesh.
    pub root_namespace: String,
    /// What happens with calls to unknown destinations.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Mutual TLS wherever both ends can.
    pub enable_auto_mtls: bool,
    /// Where access logs go; empty: none.
    pub access_log_file: String,
    /// Their format.
    pub access_log_encoding: AccessLogEncoding,
    /// Of upstream connections.
    pub connect_timeout: Duration,
    /// How long the first bytes are waited for; zero: for ever.
    pub protocol_detection_timeout: Duration,
    /// Retries of routes that say nothing.
    pub default_http_retry_policy: Option<Retries>,
    /// Visibility of services that say nothing.
    pub default_service_export_to: Vec<ExportTo>,
    /// Visibility of VirtualServices that say nothing.
    pub default_virtual_service_export_to: Vec<ExportTo>,
    /// Visibility of DestinationRules that say nothing.
    pub default_destination_rule_export_to: Vec<ExportTo>,
    /// Settings of all proxies.
    pub default_config: ProxyConfig,
}

/// Settings of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where the control plane is.
    pub discovery_address: String,
    /// How long changed listeners drain.
    pub drain_duration: Duration,
    /// How long the proxy drains at its end.
    pub termination_drain_duration: Duration,
    /// Worker threads; `None` is the proxy's choice.
    pub concurrency: Option<u32>,
    /// Further entries of the proxy's metadata.
    pub proxy_metadata: BTreeMap<String, String>,
}

/// What happens with calls to unknown destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundTrafficPolicy {
    /// They pass.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

/// The format of access logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessLogEncoding {
    /// Lines of text.
    #[default]
    Text,
    /// Lines of JSON.
    Json,
}

impl Default for MeshConfig {
    /// Istio's defaults.
    fn default() -> Self {
        let meta = Meta { name: "istio".into(), namespace: "istio-system".into(), ..Meta::default() };
        MeshConfig {
            meta,
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".to_owned(),
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            enable_auto_mtls: true,
            access_log_file: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: Duration::ZERO,
            default_http_retry_policy: None,
            default_service_export_to: Vec::new(),
            default_virtual_service_export_to: Vec::new(),
            default_destination_rule_export_to: Vec::new(),
            default_config: ProxyConfig::default(),
        }
    }
}

impl Default for ProxyConfig {
    /// Istio's defaults.
    fn default() -> Self {
        ProxyConfig {
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            drain_duration: Duration::from_secs(45),
            termination_drain_duration: Duration::from_secs(5),
            concurrency: None,
            proxy_metadata: BTreeMap::new(),
        }
    }
}
