//! MeshConfig and ProxyConfig, which Istio keeps in a config map.

use super::{
    COUNT, KEEPALIVE, LOCALITY_LB,
    Least::{Millisecond, Zero},
    MESH_OUTBOUND_POLICY, Message, Names, PLAIN, POLICY_SELECTOR, PORT, RETRIES, Row, Type,
    Type::*,
    U32,
    Why::{What, Where, Who},
    done, harmless, names, refused,
};
use crate::istio::{ACCESS_LOG_ENCODINGS, FORWARD_CLIENT_CERTS, INTERCEPTIONS, MESH_UPGRADES, OPERATORS, PATH_NORMALIZATIONS, PROVIDERS};

static ENCODING: Names = Names { why: What, names: &names(ACCESS_LOG_ENCODINGS) };
static INTERCEPTION: Names = Names { why: Where, names: &names(INTERCEPTIONS) };
static UPGRADE: Names = Names { why: What, names: &names(MESH_UPGRADES) };
static FORWARD_CLIENT_CERT: Names = Names { why: Who, names: &names(FORWARD_CLIENT_CERTS) };
static NORMALIZATION: Names = Names { why: Who, names: &names(PATH_NORMALIZATIONS) };

const TEXTS: Type = List(&Text);

/// The whole of MeshConfig.
pub(crate) static MESH_CONFIG: Type = Message(&Message {
    name: "MeshConfig",
    rows: &[
        done("trustDomain", Text, "The trust domain of all identities.").default("cluster.local"),
        done("trustDomainAliases", TEXTS, "Other names of it, which policies may use."),
        done("rootNamespace", Text, "Whose policies hold for the whole mesh.").default("istio-system"),
        done("outboundTrafficPolicy", Message(&MESH_OUTBOUND_POLICY), "Where calls to unknown destinations go."),
        done("enableAutoMtls", Bool, "Mutual TLS wherever both ends can.").default("true"),
        done("pathNormalization", Message(&PATH), "What is done to a request's path before anything looks at it."),
        done("accessLogFile", Text, "Where access logs go.").otherwise("nowhere"),
        done("accessLogEncoding", Enum(&ENCODING), "Their form.").default("TEXT"),
        done("accessLogFormat", Text, "What their lines hold, as a text or an object of JSON, with operators such as %RESPONSE_CODE%.")
            .otherwise("what Istio's hold"),
        done("connectTimeout", Duration(Zero), "How long connecting may take.").default("10s"),
        done("tcpKeepalive", Message(&KEEPALIVE), "Probes of silent connections."),
        done("h2UpgradePolicy", Enum(&UPGRADE), "Whether requests of HTTP/1.1 go on as HTTP/2.").default("DO_NOT_UPGRADE"),
        done("localityLbSetting", Message(&LOCALITY_LB), "Which endpoints are called, by where they run."),
        done("protocolDetectionTimeout", Duration(Zero), "How long the first bytes are waited for; 0s: without limit.").default("0s"),
        done("defaultHttpRetryPolicy", Message(&RETRIES), "Retries of routes that say nothing.")
            .otherwise("two, of failures to connect and the like"),
        done("defaultServiceExportTo", TEXTS, "Visibility of services that say nothing.").default("[\"*\"]"),
        done("defaultVirtualServiceExportTo", TEXTS, "Visibility of VirtualServices that say nothing.").default("[\"*\"]"),
        done("defaultDestinationRuleExportTo", TEXTS, "Visibility of DestinationRules that say nothing.").default("[\"*\"]"),
        done("extensionProviders", List(&Message(&PROVIDER)), "Whom CUSTOM policies may ask, among others."),
        done("defaultConfig", Message(&PROXY_CONFIG), "Settings of all proxies."),
        done(
            "discoverySelectors",
            List(&Message(&NAMESPACE_SELECTOR)),
            "Which namespaces of a cluster belong to the mesh: those that one of these selects.",
        )
        .otherwise("all"),
        done(
            "configSources",
            List(&Message(&CONFIG_SOURCE)),
            "Where the configuration comes from; the control plane is told at its start.",
        ),
        refused(Who, "ca", Open, "Another certificate authority."),
        refused(Who, "caCertificates", List(&Open), "Further authorities that are trusted."),
        refused(Who, "meshMTLS", Open, "Versions and ciphers of mutual TLS."),
        refused(Who, "tlsDefaults", Open, "Versions and ciphers of other TLS."),
        refused(Where, "defaultTrafficPolicy", Open, "A traffic policy for services without one."),
        refused(Where, "inboundTrafficPolicy", Open, "Where inbound calls go."),
        refused(Where, "proxyHttpPort", PORT, "A port on which proxies take requests for any host."),
        refused(Where, "proxyInboundListenPort", PORT, "Where captured inbound connections arrive.").default("15006"),
        refused(Where, "proxyListenPort", PORT, "Where captured outbound connections arrive.").default("15001"),
        refused(Where, "serviceScopeConfigs", List(&Open), "Which services other clusters see."),
        refused(Where, "serviceSettings", List(&Open), "Which services are called within the cluster only."),
        refused(Where, "zoneAwareLbSetting", Open, "Which zones are called, by how many endpoints they have."),
        harmless("certificates", List(&Open), "Certificates for Istio's own services."),
        harmless("defaultProviders", Open, "Providers of telemetry."),
        harmless("disableEnvoyListenerLog", Bool, "Whether listeners write no access logs."),
        harmless("dnsRefreshRate", Duration(Zero), "How often names are resolved anew."),
        harmless("enableEnvoyAccessLogService", Bool, "Whether access logs go to a service."),
        harmless("enablePrometheusMerge", Bool, "Whether the agent serves the workload's metrics with its own."),
        harmless("enableTracing", Bool, "Whether there are traces."),
        harmless("hboneIdleTimeout", Duration(Zero), "How long a silent tunnel is kept."),
        harmless("inboundClusterStatName", Text, "What inbound clusters are called in metrics."),
        harmless("ingressClass", Text, "Which Ingress objects are read."),
        harmless("ingressControllerMode", Text, "Whether Ingress objects are read."),
        harmless("ingressSelector", Text, "Which gateway serves them."),
        harmless("ingressService", Text, "Which service stands before it."),
        harmless("outboundClusterStatName", Text, "What outbound clusters are called in metrics."),
        harmless("serviceEntryVisibility", Open, "Visibility of ServiceEntries that say nothing."),
        harmless("verifyCertificateAtClient", Bool, "Has no effect in Istio any more."),
    ],
    ..PLAIN
});

static PATH: Message = Message {
    name: "ProxyPathNormalization",
    rows: &[done("normalization", Enum(&NORMALIZATION), "What is done.").default("BASE")],
    ..PLAIN
};

static CONFIG_SOURCE: Message = Message {
    name: "ConfigSource",
    rows: &[
        done("address", Text, "Only `k8s:` is taken."),
        refused(Who, "tlsSettings", Open, "TLS to it."),
        refused(Who, "subscribedResources", List(&Text), "What is read from it."),
    ],
    ..PLAIN
};

static PROVIDER: Message = Message {
    name: "ExtensionProvider",
    rows: &[
        done("name", Text, "By which policies name it; no two have the same.").required(),
        done("envoyExtAuthzHttp", Message(&AUTHZ_HTTP), "A service that decides about requests, asked by HTTP."),
        done("envoyExtAuthzGrpc", Message(&AUTHZ_GRPC), "A service that decides about requests, asked by gRPC."),
        harmless("zipkin", Open, "Traces."),
        harmless("lightstep", Open, "Traces."),
        harmless("datadog", Open, "Traces."),
        harmless("stackdriver", Open, "Traces, metrics and logs."),
        harmless("opencensus", Open, "Traces."),
        harmless("skywalking", Open, "Traces."),
        harmless("opentelemetry", Open, "Traces."),
        harmless("prometheus", Open, "Metrics."),
        harmless("envoyFileAccessLog", Open, "Access logs in a file."),
        harmless("envoyHttpAls", Open, "Access logs of HTTP to a service."),
        harmless("envoyTcpAls", Open, "Access logs of TCP to a service."),
        harmless("envoyOtelAls", Open, "Access logs to a service by OpenTelemetry."),
        harmless("sds", Open, "Certificates from a service."),
    ],
    one_of: &[PROVIDERS],
    ..PLAIN
};

static CHECKED_BODY: Message = Message {
    name: "EnvoyExternalAuthorizationRequestBody",
    rows: &[
        done("maxRequestBytes", U32, "At most so many bytes, from 1 to 1 MiB.").required(),
        done("allowPartialMessage", Bool, "Whether a longer body is cut; else the request is refused with 413.").default("false"),
        done("packAsBytes", Bool, "Whether gRPC carries it as bytes.").default("false"),
    ],
    ..PLAIN
};

static AUTHZ_GRPC: Message = Message {
    name: "EnvoyExternalAuthorizationGrpcProvider",
    rows: &[AUTHZ_SERVICE, AUTHZ_PORT, AUTHZ_TIMEOUT, AUTHZ_OPEN, AUTHZ_CACHE, AUTHZ_STATUS, AUTHZ_BODY],
    ..PLAIN
};

const AUTHZ_SERVICE: Row = done("service", Text, "[NAMESPACE/]HOST.").required();
const AUTHZ_PORT: Row = done("port", PORT, "The service's port.").required();
const AUTHZ_TIMEOUT: Row = done("timeout", Duration(Millisecond), "How long an answer may take.").default("600s");
const AUTHZ_OPEN: Row = done("failOpen", Bool, "Whether a request goes on if there was no answer.").default("false");
const AUTHZ_CACHE: Row =
    done("clearRouteCache", Bool, "Whether an answer that changes headers has the route chosen anew.").default("false");
const AUTHZ_STATUS: Row = done("statusOnError", Text, "The status if there was no answer, in quotes.").default("\"403\"");
const AUTHZ_BODY: Row =
    done("includeRequestBodyInCheck", Message(&CHECKED_BODY), "How the request's body is sent along.").otherwise("not at all");

static AUTHZ_HTTP: Message = Message {
    name: "EnvoyExternalAuthorizationHttpProvider",
    rows: &[
        AUTHZ_SERVICE,
        AUTHZ_PORT,
        AUTHZ_TIMEOUT,
        AUTHZ_OPEN,
        AUTHZ_CACHE,
        AUTHZ_STATUS,
        AUTHZ_BODY,
        done("pathPrefix", Text, "Stands before the request's path."),
        done("includeRequestHeadersInCheck", TEXTS, "Headers of the request that are sent along; `pre*` and `*suf`."),
        done("includeHeadersInCheck", TEXTS, "The old name of `includeRequestHeadersInCheck`."),
        done("includeAdditionalHeadersInCheck", Map(&Text), "Further headers, which replace the request's."),
        done("headersToUpstreamOnAllow", TEXTS, "Headers of an answer of 200 that the request gets."),
        done("headersToDownstreamOnAllow", TEXTS, "Headers of an answer of 200 that the response gets."),
        done("headersToDownstreamOnDeny", TEXTS, "Headers of a refusal that the client gets.").otherwise("all"),
    ],
    ..PLAIN
};

static NAMESPACE_SELECTOR: Message = Message {
    name: "LabelSelector",
    rows: &[
        done("matchLabels", Map(&Text), "Labels that a namespace has."),
        done("matchExpressions", List(&Message(&NAMESPACE_EXPRESSION)), "What else holds of its labels."),
    ],
    ..PLAIN
};

static NAMESPACE_EXPRESSION: Message = Message {
    name: "LabelSelectorRequirement",
    rows: &[
        done("key", Text, "A label's name.").required(),
        done("operator", Enum(&EXPRESSION_OPERATOR), "What holds of it.").required(),
        done("values", TEXTS, "Its values, of `In` and `NotIn`."),
    ],
    ..PLAIN
};

static EXPRESSION_OPERATOR: Names = Names { why: Where, names: &names(OPERATORS) };

/// ProxyConfig's `spec`.
pub(crate) static WORKLOAD_PROXY_CONFIG: Type = Message(&Message {
    name: "ProxyConfig",
    rows: &[
        done("selector", Message(&POLICY_SELECTOR), "The workloads of the namespace for which it holds.")
            .otherwise("all of the namespace; in the root namespace all of the mesh"),
        done("concurrency", COUNT, "Threads of the proxies; 0 is one for each core.").otherwise("the proxy's choice"),
        done("environmentVariables", Map(&Text), "Further entries of the proxies' environment."),
        harmless("image", Open, "Which of Istio's images it is.").warning("is not acted on: the proxy has one image, which has no shell"),
    ],
    ..PLAIN
});

static TOPOLOGY: Message = Message {
    name: "Topology",
    rows: &[
        done(
            "numTrustedProxies",
            U32,
            "How many trusted proxies are in front: so many places from its end X-Forwarded-For has the client.",
        )
        .default("0"),
        done("forwardClientCertDetails", Enum(&FORWARD_CLIENT_CERT), "What becomes of x-forwarded-client-cert.").default("SANITIZE_SET"),
        done("proxyProtocol", Message(&PROXY_PROTOCOL), "That every connection begins with a header of the PROXY protocol.")
            .otherwise("none does"),
    ],
    ..PLAIN
};

static PROXY_PROTOCOL: Message = Message { name: "ProxyProtocolConfiguration", ..PLAIN };

/// The settings of a proxy, by themselves in the annotation `proxy.istio.io/config`.
pub(crate) static PROXY_CONFIG_TYPE: Type = Message(&PROXY_CONFIG);

static PROXY_CONFIG: Message = Message {
    name: "ProxyConfig",
    rows: &[
        harmless("discoveryAddress", Text, "Where the control plane is.").default("istiod.istio-system.svc:15012"),
        harmless("drainDuration", Duration(Zero), "How long changed listeners drain.").default("45s"),
        harmless("terminationDrainDuration", Duration(Zero), "How long the proxy drains at its end.").default("5s"),
        harmless("concurrency", COUNT, "Threads of the proxy.").otherwise("the proxy's choice"),
        harmless("proxyMetadata", Map(&Text), "Further entries of the proxy's environment."),
        done("interceptionMode", Enum(&INTERCEPTION), "How connections are captured.").default("REDIRECT"),
        done("gatewayTopology", Message(&TOPOLOGY), "What stands before a gateway, and what of it is believed."),
        harmless("availabilityZone", Text, "The proxy's zone."),
        harmless("binaryPath", Text, "The proxy's program."),
        harmless("caCertificatesPem", TEXTS, "Further authorities that are trusted."),
        harmless("configPath", Text, "Where the proxy's files are."),
        harmless("connectionSettings", Open, "Limits of the proxy's connections."),
        harmless("controlPlaneAuthPolicy", Text, "Whether the control plane is called by mutual TLS."),
        harmless("customConfigFile", Text, "The proxy's own configuration."),
        harmless("discoveryRefreshDelay", Duration(Zero), "How often the control plane is asked."),
        harmless("envoyAccessLogService", Open, "Where access logs go."),
        harmless("envoyMetricsService", Open, "Where metrics go."),
        harmless("extraStatTags", TEXTS, "Further labels of metrics."),
        harmless("fileFlushInterval", Duration(Zero), "How often logs are written."),
        harmless("fileFlushMinSizeKb", U32, "How much of them at once."),
        harmless("holdApplicationUntilProxyStarts", Bool, "Whether the workload waits for its proxy."),
        harmless("image", Open, "The proxy's image."),
        harmless("meshId", Text, "The mesh's name."),
        harmless("parentShutdownDuration", Duration(Zero), "How long the old process lives at a restart."),
        harmless("privateKeyProvider", Open, "Hardware for private keys."),
        harmless("proxyAdminPort", PORT, "The port of the admin interface."),
        harmless("proxyBootstrapTemplatePath", Text, "The template of the proxy's configuration."),
        harmless("proxyHeaders", Open, "Headers that proxies add."),
        harmless("proxyStatsMatcher", Open, "Which metrics there are."),
        harmless("readinessProbe", Open, "How a workload's readiness is found out."),
        done("runtimeValues", Map(&Text), "Envoy's runtime: limits of connections; other keys are for Envoys alone."),
        harmless("sds", Open, "Where certificates come from."),
        harmless("serviceCluster", Text, "The proxy's own name."),
        harmless("statNameLength", COUNT, "How long names of metrics may be."),
        harmless("statsCompression", Bool, "Whether metrics are compressed."),
        harmless("statsdUdpAddress", Text, "Where metrics go."),
        harmless("statusPort", PORT, "The port of the agent."),
        harmless("tracing", Open, "Settings of traces."),
        harmless("tracingServiceName", Text, "The workload's name in traces."),
        harmless("zipkinAddress", Text, "Where traces go."),
    ],
    ..PLAIN
};
