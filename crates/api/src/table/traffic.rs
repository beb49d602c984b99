//! DestinationRule, and the parts of traffic policies that the mesh has too.

use super::{
    COUNT, EXPORT_TO, KEEPALIVE,
    Least::{Millisecond, MillisecondOrZero, Zero},
    Message, Names, PERCENT, PLAIN, POLICY_SELECTOR, PORT_SELECTOR, Row, Rule, Type,
    Type::*,
    U32,
    Why::{What, Where, Who},
    done, harmless, names, refused,
};
use crate::istio::{CLIENT_TLS_MODES, LB_POLICIES, MAX_MAGLEV, MAX_RING, POOL_UPGRADES};

static LB_POLICY: Names = Names { why: Where, names: &names(LB_POLICIES) };
static UPGRADE: Names = Names { why: What, names: &names(POOL_UPGRADES) };
static TLS_MODE: Names = Names { why: Who, names: &names(CLIENT_TLS_MODES) };

/// DestinationRule's `spec`.
pub(crate) static DESTINATION_RULE: Type = Message(&Message {
    name: "DestinationRule",
    rows: &[
        done("host", Text, "The service. A short name is completed by the rule's namespace.").required(),
        done("trafficPolicy", Message(&TRAFFIC_POLICY), "For all ports and subsets."),
        done("subsets", List(&Message(&SUBSET)), "Named parts of the service."),
        EXPORT_TO,
        done("workloadSelector", Message(&POLICY_SELECTOR), "The callers of its own namespace for which it holds, and nobody else.")
            .otherwise("all"),
    ],
    ..PLAIN
});

static SUBSET: Message = Message {
    name: "Subset",
    rows: &[
        done("name", Text, "The name: letters, digits, `-`, `_`, `.`; no two subsets have the same.").required(),
        done("labels", Map(&Text), "The labels of its endpoints.").otherwise("all endpoints"),
        done("trafficPolicy", Message(&TRAFFIC_POLICY), "Takes the place of the rule's, block by block."),
    ],
    ..PLAIN
};

const BALANCER: Row = done("loadBalancer", Message(&LOAD_BALANCER), "How an endpoint is chosen.");
const POOL: Row = done("connectionPool", Message(&CONNECTION_POOL), "Limits of connections and requests.");
const OUTLIERS: Row = done("outlierDetection", Message(&OUTLIER_DETECTION), "When endpoints are set aside.").otherwise("never");
const TLS: Row = done("tls", Message(&CLIENT_TLS), "TLS to the endpoints.").otherwise("mutual TLS where the endpoint takes it");

static TRAFFIC_POLICY: Message = Message {
    name: "TrafficPolicy",
    rows: &[
        BALANCER,
        POOL,
        OUTLIERS,
        TLS,
        done("portLevelSettings", List(&Message(&PORT_POLICY)), "For single ports of the service. They inherit nothing.").most(4096),
        refused(What, "tunnel", Open, "A tunnel by CONNECT or POST through the service."),
        refused(What, "proxyProtocol", Open, "A PROXY header before the first byte."),
        done(
            "retryBudget",
            Message(&RETRY_BUDGET),
            "How many retries there may be at once, as a share of the requests. Takes the place of maxRetries.",
        ),
    ],
    ..PLAIN
};

static PORT_POLICY: Message = Message {
    name: "PortTrafficPolicy",
    rows: &[done("port", Message(&PORT_SELECTOR), "The port of the service.").required(), BALANCER, POOL, OUTLIERS, TLS],
    ..PLAIN
};

static RETRY_BUDGET: Message = Message {
    name: "RetryBudget",
    rows: &[
        done("percent", Number(0.0, 100.0), "The share of the requests in flight.").default("20"),
        done("minRetryConcurrency", U32, "So many there may always be.").default("3"),
        done("budgetInterval", Duration(Zero), "A time for which requests count after their end; only 0s is taken.").default("0s"),
    ],
    ..PLAIN
};

static CLIENT_TLS: Message = Message {
    name: "ClientTLSSettings",
    rows: &[
        done("mode", Enum(&TLS_MODE), "Plain text, mutual TLS with the workload's identity, or TLS to a server that is not of the mesh.")
            .default("DISABLE"),
        done("clientCertificate", Text, "A file in the proxy with the certificate that MUTUAL shows."),
        done("privateKey", Text, "A file in the proxy with its key."),
        done("caCertificates", Text, "A file in the proxy with the authorities that are trusted, or `system`.").default("system"),
        done("caCrl", Text, "A file in the proxy with certificates that are revoked."),
        done(
            "credentialName",
            Text,
            "In place of the files a Secret of the proxy's namespace; for sidecars only with the rule's workloadSelector.",
        ),
        done("subjectAltNames", List(&Text), "Who the server may be, by its certificate.")
            .otherwise("ISTIO_MUTUAL: the service's accounts; else, without sni, the request's host"),
        done("sni", Text, "The server's name in the handshake.").otherwise("ISTIO_MUTUAL: the cluster's name; else the request's host"),
        done("insecureSkipVerify", Bool, "Whether any certificate is taken.").default("false"),
    ],
    ..PLAIN
};

static CONNECTION_POOL: Message = Message {
    name: "ConnectionPoolSettings",
    rows: &[done("tcp", Message(&TCP_POOL), "Limits of connections."), done("http", Message(&HTTP_POOL), "Limits of requests.")],
    ..PLAIN
};

static TCP_POOL: Message = Message {
    name: "TCPSettings",
    rows: &[
        done("maxConnections", COUNT, "Connections at once, of HTTP/1.1 and TCP; 0: no limit.").otherwise("no limit"),
        done("connectTimeout", Duration(Millisecond), "How long connecting may take.").default("10s"),
        done("idleTimeout", Duration(MillisecondOrZero), "How long a connection without traffic is kept; 0s: without limit.").default("1h"),
        done("maxConnectionDuration", Duration(Millisecond), "How long a connection is kept at most.").otherwise("no limit"),
        done("tcpKeepalive", Message(&KEEPALIVE), "Probes of silent connections.").otherwise("as MeshConfig says, member by member"),
    ],
    ..PLAIN
};

static HTTP_POOL: Message = Message {
    name: "HTTPSettings",
    rows: &[
        done("http1MaxPendingRequests", COUNT, "Requests that wait for a connection; 0: no limit.").otherwise("no limit"),
        done("http2MaxRequests", COUNT, "Requests at once; 0: no limit.").otherwise("no limit"),
        done("maxRequestsPerConnection", COUNT, "Then the connection is closed; 0: no limit.").default("0"),
        done("maxRetries", COUNT, "Retries at once; 0: no limit.").otherwise("no limit"),
        done("idleTimeout", Duration(MillisecondOrZero), "How long a connection without requests is kept; 0s: without limit.")
            .default("1h"),
        done("h2UpgradePolicy", Enum(&UPGRADE), "Whether requests of HTTP/1.1 go on as HTTP/2.").default("DEFAULT"),
        done("useClientProtocol", Bool, "Whether requests go on in the version in which they came.").default("false"),
        done("maxConcurrentStreams", COUNT, "Requests at once on one connection of HTTP/2; 0: no limit.").otherwise("no limit"),
        harmless("http2KeepAlive", Open, "Pings on silent connections of HTTP/2."),
    ],
    rules_outside_lists: &[Rule {
        cel: "!has(self.useClientProtocol) || !self.useClientProtocol || !has(self.h2UpgradePolicy) \
              || (self.h2UpgradePolicy != 'UPGRADE' && self.h2UpgradePolicy != 2)",
        message: "useClientProtocol excludes h2UpgradePolicy UPGRADE",
    }],
    ..PLAIN
};

static OUTLIER_DETECTION: Message = Message {
    name: "OutlierDetection",
    rows: &[
        harmless("consecutiveErrors", COUNT, "Has no effect any more.")
            .warning("has no effect any more: write consecutive5xxErrors or consecutiveGatewayErrors"),
        done("consecutive5xxErrors", U32, "After so many 5xx in a row; 0: never.").default("5"),
        done("consecutiveGatewayErrors", U32, "After so many of 502, 503 and 504 in a row; 0: never.").default("0"),
        done("splitExternalLocalOriginErrors", Bool, "Whether failures of the connection count apart from what endpoints answer.")
            .default("false"),
        done("consecutiveLocalOriginFailures", U32, "After so many failures of the connection in a row, if they count apart.").default("5"),
        done("interval", Duration(Millisecond), "How often endpoints are looked at.").default("10s"),
        done("baseEjectionTime", Duration(Millisecond), "How long an endpoint is set aside, times the number of times.").default("30s"),
        done("maxEjectionPercent", PERCENT, "At most this part of the endpoints is set aside; 0: the default.").default("10"),
        done("minHealthPercent", PERCENT, "Below this part of healthy endpoints none is set aside.").default("0"),
        refused(Where, "outlierDetectionHttpErrorCodes", Open, "The status codes that count as errors.").otherwise("5xx"),
    ],
    rules_outside_lists: &[Rule {
        cel: "!has(self.consecutiveLocalOriginFailures) || self.consecutiveLocalOriginFailures == 0 \
              || (has(self.splitExternalLocalOriginErrors) && self.splitExternalLocalOriginErrors)",
        message: "consecutiveLocalOriginFailures counts only with splitExternalLocalOriginErrors",
    }],
    ..PLAIN
};

static LOAD_BALANCER: Message = Message {
    name: "LoadBalancerSettings",
    rows: &[
        done("simple", Enum(&LB_POLICY), "An endpoint, whatever the request.").default("LEAST_REQUEST"),
        done("consistentHash", Message(&CONSISTENT_HASH), "Always the same endpoint for the same key."),
        done("localityLbSetting", Message(&LOCALITY_LB), "Which endpoints come into question, by where they run.")
            .otherwise("as the service or MeshConfig says"),
        done("warmup", Message(&WARMUP), "How new endpoints are led up to their share; with LEAST_REQUEST and ROUND_ROBIN.")
            .otherwise("at once"),
        done("warmupDurationSecs", Duration(Millisecond), "The old name of `warmup.duration`."),
        refused(Where, "zoneAwareLbSetting", Open, "Which zones are called, by how many endpoints they have."),
        refused(Where, "backendUtilization", Open, "Shares by the load that endpoints report."),
    ],
    one_of: &[&["simple", "consistentHash"], &["warmup", "warmupDurationSecs"]],
    ..PLAIN
};

static WARMUP: Message = Message {
    name: "WarmupConfiguration",
    rows: &[
        done("duration", Duration(Millisecond), "How long that takes.").required(),
        done("minimumPercent", Number(0.0, 100.0), "What they begin with, in percent of their share.").default("10"),
        done("aggression", Number(1.0, f64::MAX), "How the share grows: linearly with 1, at first slower with more.").default("1"),
    ],
    ..PLAIN
};

static CONSISTENT_HASH: Message = Message {
    name: "ConsistentHashLB",
    rows: &[
        done("httpHeaderName", Text, "The key is this header."),
        done("httpCookie", Message(&HASH_COOKIE), "The key is this cookie, which is made if it is missing."),
        done("useSourceIp", Bool, "The key is the caller's address."),
        done("httpQueryParameterName", Text, "The key is this parameter of the query."),
        done("ringHash", Message(&RING_HASH), "Keys lead to endpoints by a ring."),
        done("maglev", Message(&MAGLEV), "Keys lead to endpoints by Maglev's table."),
        done("minimumRingSize", Int(0, MAX_RING), "The old name of `ringHash.minimumRingSize`.").default("1024"),
    ],
    one_of: &[&["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"], &["ringHash", "maglev"]],
    ..PLAIN
};

static RING_HASH: Message = Message {
    name: "RingHash",
    rows: &[done("minimumRingSize", Int(0, MAX_RING), "The least number of entries; 0: the default.").default("1024")],
    ..PLAIN
};

static MAGLEV: Message = Message {
    name: "MagLev",
    rows: &[done("tableSize", Int(0, MAX_MAGLEV), "The number of entries, a prime; 0: the default.").default("65537")],
    ..PLAIN
};

static HASH_COOKIE: Message = Message {
    name: "HTTPCookie",
    rows: &[
        done("name", Text, "Its name.").required(),
        done("path", Text, "The path for which it holds, if it is made here."),
        done("ttl", Duration(Zero), "How long it holds, if it is made here; 0s: as long as the client's session.")
            .otherwise("it is not made"),
        done("attributes", List(&Message(&COOKIE_ATTRIBUTE)), "Further attributes, if it is made here."),
    ],
    ..PLAIN
};

static COOKIE_ATTRIBUTE: Message = Message {
    name: "Attribute",
    rows: &[done("name", Text, "Its name, such as SameSite.").required(), done("value", Text, "Its value.")],
    ..PLAIN
};

/// `localityLbSetting` of a load balancer and of the mesh.
pub(crate) static LOCALITY_LB: Message = Message {
    name: "LocalityLoadBalancerSetting",
    rows: &[
        done("enabled", Bool, "Whether any of it holds.").default("true"),
        done("distribute", List(&Message(&DISTRIBUTE)), "Shares by the caller's locality: the first that holds for the caller counts."),
        done("failover", List(&Message(&FAILOVER)), "The region to turn to, by the caller's. Needs outlierDetection."),
        done(
            "failoverPriority",
            List(&Text),
            "Labels, `name` or `name=value`: an endpoint is the nearer the more of them it shares from the first on.",
        ),
    ],
    rules_outside_lists: &[Rule {
        cel: "!has(self.distribute) || !has(self.failover) || size(self.distribute) == 0 || size(self.failover) == 0",
        message: "failover excludes distribute",
    }],
    ..PLAIN
};

static DISTRIBUTE: Message = Message {
    name: "Distribute",
    rows: &[
        done("from", Text, "The caller's locality: REGION/ZONE/SUBZONE, of which the last may be `*`.").required(),
        done("to", Map(&Int(1, 100)), "Shares in percent by the endpoint's locality; their sum is 100.").required(),
    ],
    ..PLAIN
};

static FAILOVER: Message = Message {
    name: "Failover",
    rows: &[done("from", Text, "The caller's region.").required(), done("to", Text, "The other region.").required()],
    ..PLAIN
};
