//! MeshConfig: the mesh's own settings.

use std::{collections::BTreeMap, time::Duration};

use mizzen_types::{TrustDomain, ports, runtime};

use super::{ExportTo, ExtensionProvider, GatewayTopology, Keepalive, LocalityLbSetting, LogFormat, NamespaceSelector};
use crate::{
    Meta,
    read::{At, Fields, Why},
    routing::Retries,
};

/// What is done to request paths before policies and routes look at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathNormalization {
    /// Nothing.
    None,
    /// RFC 3986: `.` and `..` go, what needs no escape is decoded, `\` is `/`.
    #[default]
    Base,
    /// The same, and several slashes are one.
    MergeSlashes,
    /// The same, with `%2F` and `%5C` decoded before.
    DecodeAndMergeSlashes,
}

/// The mesh's own settings.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    /// `istio-system/istio`, and where it was read.
    pub meta: Meta,
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// Other names of it.
    pub trust_domain_aliases: Vec<String>,
    /// What is done to request paths before anything looks at them.
    pub path_normalization: PathNormalization,
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
    /// What their lines hold; none: what Istio's do. In the form that `access_log_encoding` says.
    pub access_log_format: Option<LogFormat>,
    /// Of upstream connections.
    pub connect_timeout: Duration,
    /// Probes of silent upstream connections.
    pub tcp_keepalive: Keepalive,
    /// Whether HTTP/1.1 goes on as HTTP/2 where no rule says otherwise.
    pub h2_upgrade: bool,
    /// Which localities are called where no rule and no service says otherwise.
    pub locality_lb_setting: LocalityLbSetting,
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
    /// Whom CUSTOM policies may ask, among others.
    pub extension_providers: Vec<ExtensionProvider>,
    /// Which namespaces of a cluster belong to the mesh: those that one of these means; none: all.
    pub discovery_selectors: Vec<NamespaceSelector>,
    /// Settings of all proxies.
    pub default_config: ProxyConfig,
    /// Whether an injected pod's metrics are scraped through its agent, which adds the proxy's.
    pub enable_prometheus_merge: bool,
    /// Who fetches keys of issuers of tokens: the control plane's own setting, which stands in no MeshConfig.
    pub jwks_by: JwksBy,
    /// Whether a Gateway selects the pods of its own namespace alone, as Istio's `PILOT_SCOPE_GATEWAY_TO_NAMESPACE` has it: the control plane's own setting, too.
    pub gateways_stay_home: bool,
}

/// Who fetches the keys at a RequestAuthentication's `jwksUri`: Istio's `PILOT_JWT_ENABLE_REMOTE_JWKS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwksBy {
    /// The control plane.
    #[default]
    Istiod,
    /// The proxy where the URL is one of a service of the mesh, else the control plane.
    Hybrid,
    /// The proxy.
    Envoy,
}

impl JwksBy {
    /// By the words that Istio takes.
    pub fn named(text: &str) -> Option<JwksBy> {
        Some(match text.to_ascii_lowercase().as_str() {
            "" | "false" | "istiod" => JwksBy::Istiod,
            "true" | "hybrid" => JwksBy::Hybrid,
            "envoy" => JwksBy::Envoy,
            _ => return None,
        })
    }
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
    /// Further entries of the proxy's environment.
    pub proxy_metadata: BTreeMap<String, String>,
    /// Whether the workload waits for its proxy.
    pub hold_application: bool,
    /// The port of the agent.
    pub status_port: u16,
    /// The mesh's name; empty: its trust domain.
    pub mesh_id: String,
    /// Values of the proxy's runtime (Envoy's), by their keys; an empty one stands for none.
    pub runtime_values: BTreeMap<String, String>,
    /// How inbound connections come to the proxy.
    pub interception: Interception,
    /// What stands before a gateway.
    pub gateway_topology: GatewayTopology,
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
            path_normalization: PathNormalization::default(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".to_owned(),
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            enable_auto_mtls: true,
            access_log_file: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            access_log_format: None,
            connect_timeout: Duration::from_secs(10),
            tcp_keepalive: Keepalive::default(),
            h2_upgrade: false,
            locality_lb_setting: LocalityLbSetting::default(),
            protocol_detection_timeout: Duration::ZERO,
            default_http_retry_policy: None,
            default_service_export_to: Vec::new(),
            default_virtual_service_export_to: Vec::new(),
            default_destination_rule_export_to: Vec::new(),
            extension_providers: Vec::new(),
            discovery_selectors: Vec::new(),
            default_config: ProxyConfig::default(),
            enable_prometheus_merge: true,
            jwks_by: JwksBy::default(),
            gateways_stay_home: false,
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
            hold_application: false,
            status_port: ports::AGENT,
            mesh_id: String::new(),
            runtime_values: BTreeMap::new(),
            interception: Interception::default(),
            gateway_topology: GatewayTopology::default(),
        }
    }
}

/// How inbound connections come to a proxy. That they do not come to it at all (NONE) is not supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interception {
    /// Their destination is rewritten.
    #[default]
    Redirect,
    /// As they are: the program sees its clients' addresses.
    Tproxy,
}

impl Interception {
    /// Istio's word.
    pub fn name(self) -> &'static str {
        match self {
            Interception::Redirect => "REDIRECT",
            Interception::Tproxy => "TPROXY",
        }
    }
}

/// How connections are captured.
pub(crate) const INTERCEPTIONS: &[(&str, i64, Option<Interception>); 3] =
    &[("REDIRECT", 0, Some(Interception::Redirect)), ("TPROXY", 1, Some(Interception::Tproxy)), ("NONE", 2, None)];

/// Modes of `outboundTrafficPolicy`.
pub(crate) const OUTBOUND_POLICIES: &[(&str, i64, Option<OutboundTrafficPolicy>); 3] = &[
    ("REGISTRY_ONLY", 0, Some(OutboundTrafficPolicy::RegistryOnly)),
    ("ALLOW_ANY", 1, Some(OutboundTrafficPolicy::AllowAny)),
    ("ALLOW_ANY_DYNAMIC_DNS", 2, None),
];

pub(crate) const MESH_UPGRADES: &[(&str, i64, Option<bool>); 2] = &[("DO_NOT_UPGRADE", 0, Some(false)), ("UPGRADE", 1, Some(true))];

pub(crate) const ACCESS_LOG_ENCODINGS: &[(&str, i64, Option<AccessLogEncoding>); 2] =
    &[("TEXT", 0, Some(AccessLogEncoding::Text)), ("JSON", 1, Some(AccessLogEncoding::Json))];

pub(crate) const PATH_NORMALIZATIONS: &[(&str, i64, Option<PathNormalization>); 5] = &[
    ("DEFAULT", 0, Some(PathNormalization::Base)),
    ("NONE", 1, Some(PathNormalization::None)),
    ("BASE", 2, Some(PathNormalization::Base)),
    ("MERGE_SLASHES", 3, Some(PathNormalization::MergeSlashes)),
    ("DECODE_AND_MERGE_SLASHES", 4, Some(PathNormalization::DecodeAndMergeSlashes)),
];

impl MeshConfig {
    /// Reads its fields, which stand at the top of its document.
    pub(crate) fn read(f: &Fields<'_>, meta: Meta) -> Self {
        let default = MeshConfig::default();
        f.list("configSources").iter().for_each(|at| at.fields(config_source));
        let encoding = f.get("accessLogEncoding").and_then(|at| at.choice(ACCESS_LOG_ENCODINGS)).unwrap_or_default();
        let normalization = f.opt_sub("pathNormalization", |f| f.get("normalization").and_then(|at| at.choice(PATH_NORMALIZATIONS)));
        MeshConfig {
            meta,
            trust_domain: f.get("trustDomain").and_then(|at| at.parse()).unwrap_or_default(),
            path_normalization: normalization.flatten().unwrap_or_default(),
            trust_domain_aliases: f.text_list("trustDomainAliases"),
            root_namespace: f.opt_text("rootNamespace").unwrap_or(default.root_namespace),
            outbound_traffic_policy: f
                .opt_sub("outboundTrafficPolicy", |f| {
                    // The number 0 is REGISTRY_ONLY, but a block without a mode is Istio's default.
                    f.get("mode").and_then(|at| at.choice(OUTBOUND_POLICIES))
                })
                .flatten()
                .unwrap_or_default(),
            enable_auto_mtls: f.get("enableAutoMtls").is_none_or(|at| at.flag()),
            access_log_file: f.text("accessLogFile"),
            access_log_encoding: encoding,
            access_log_format: f.get("accessLogFormat").and_then(|at| LogFormat::read(&at, encoding)),
            connect_timeout: f.duration("connectTimeout").unwrap_or(default.connect_timeout),
            tcp_keepalive: f.opt_sub("tcpKeepalive", Keepalive::read).unwrap_or_default(),
            h2_upgrade: f.get("h2UpgradePolicy").and_then(|at| at.choice(MESH_UPGRADES)).unwrap_or_default(),
            locality_lb_setting: f.opt_sub("localityLbSetting", LocalityLbSetting::read).unwrap_or_default(),
            protocol_detection_timeout: f.duration("protocolDetectionTimeout").unwrap_or_default(),
            default_http_retry_policy: f.opt_sub("defaultHttpRetryPolicy", Retries::read),
            default_service_export_to: ExportTo::read_list(f, "defaultServiceExportTo"),
            default_virtual_service_export_to: ExportTo::read_list(f, "defaultVirtualServiceExportTo"),
            default_destination_rule_export_to: ExportTo::read_list(f, "defaultDestinationRuleExportTo"),
            extension_providers: ExtensionProvider::read_list(f),
            discovery_selectors: NamespaceSelector::read_list(f, "discoverySelectors"),
            default_config: f.opt_sub("defaultConfig", ProxyConfig::read).unwrap_or_default(),
            enable_prometheus_merge: f.get("enablePrometheusMerge").is_none_or(|at| at.flag()),
            jwks_by: default.jwks_by,
            gateways_stay_home: default.gateways_stay_home,
        }
    }
}

/// Where the configuration comes from is said at the start; who names another place here would miss the policies that are there.
fn config_source(f: &Fields<'_>) {
    match f.get("address") {
        Some(at) if at.text().trim_end_matches('/') == "k8s:" => at.warn("is not acted on yet"),
        Some(at) => at.fail(Why::Who.text()),
        None => {}
    }
}

impl ProxyConfig {
    fn read(f: &Fields<'_>) -> ProxyConfig {
        ProxyConfig::default().overlaid(f)
    }

    /// These settings with those over them that are written; what proxies get in their environment comes together.
    pub(crate) fn overlaid(mut self, f: &Fields<'_>) -> ProxyConfig {
        self.proxy_metadata.extend(f.text_map("proxyMetadata"));
        ProxyConfig {
            discovery_address: f.opt_text("discoveryAddress").unwrap_or(self.discovery_address),
            drain_duration: f.duration("drainDuration").unwrap_or(self.drain_duration),
            termination_drain_duration: f.duration("terminationDrainDuration").unwrap_or(self.termination_drain_duration),
            concurrency: f.count("concurrency").or(self.concurrency),
            proxy_metadata: self.proxy_metadata,
            hold_application: f.get("holdApplicationUntilProxyStarts").map_or(self.hold_application, |at| at.flag()),
            status_port: f.get("statusPort").map_or(self.status_port, |at| at.port()),
            mesh_id: f.opt_text("meshId").unwrap_or(self.mesh_id),
            // As with Istio, those of a nearer place take the place of all.
            runtime_values: f.get("runtimeValues").map_or(self.runtime_values, |at| runtime_values(&at)),
            interception: f.get("interceptionMode").map_or(Some(self.interception), |at| at.choice(INTERCEPTIONS)).unwrap_or_default(),
            gateway_topology: f.sub("gatewayTopology", GatewayTopology::read).over(self.gateway_topology),
        }
    }

    /// The names of the fields that are read here. What else there is, is harmless or refused.
    pub const READ: [&'static str; 11] = [
        "discoveryAddress",
        "drainDuration",
        "terminationDrainDuration",
        "concurrency",
        "proxyMetadata",
        "holdApplicationUntilProxyStarts",
        "statusPort",
        "meshId",
        "interceptionMode",
        "gatewayTopology",
        "runtimeValues",
    ];
}

/// Values of the runtime. What bounds connections and is no number would bound nothing.
fn runtime_values(at: &At<'_>) -> BTreeMap<String, String> {
    let value = |(key, at): (&str, At<'_>)| {
        let text = at.text();
        if runtime::bounds_connections(key) && !text.is_empty() && text.parse::<u64>().is_err() {
            at.fail(format!("must be a number of connections, or empty for no limit, is `{text}`"));
        }
        (key.to_owned(), text)
    };
    at.entries().into_iter().map(value).collect()
}
