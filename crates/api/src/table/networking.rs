//! Sidecar, Gateway and ServiceEntry.

use super::{
    COUNT, EXPORT_TO, Message, Names, PLAIN, PORT, PORT_SELECTOR, Row, Rule, Type,
    Type::*,
    WORKLOAD_SELECTOR,
    Why::{Where, Who},
    done, names, refused,
};
use crate::istio::{CAPTURE_MODES, LOCATIONS, OUTBOUND_POLICIES, RESOLUTIONS, SERVER_TLS_MODES, SERVER_TLS_VERSIONS};

static OUTBOUND: Names = Names { why: Where, names: &names(OUTBOUND_POLICIES) };
static CAPTURE: Names = Names { why: Where, names: &names(CAPTURE_MODES) };
static LOCATION: Names = Names { why: Where, names: &names(LOCATIONS) };
static SERVER_MODE: Names = Names { why: Who, names: &names(SERVER_TLS_MODES) };
static TLS_VERSION: Names = Names { why: Who, names: &names(SERVER_TLS_VERSIONS) };
static RESOLUTION: Names = Names { why: Where, names: &names(RESOLUTIONS) };

const OUTBOUND_MODE: Row = done("mode", Enum(&OUTBOUND), "Whether calls to what the mesh does not know go on, or are refused.");

/// Sidecar's `spec`.
pub(crate) static SIDECAR: Type = Message(&Message {
    name: "Sidecar",
    rows: &[
        done("workloadSelector", Message(&WORKLOAD_SELECTOR), "The workloads for which it holds.")
            .otherwise("all of the namespace; in the root namespace all of the mesh"),
        refused(Where, "ingress", List(&Open), "Ports on which calls to the workload are taken.").otherwise("those of its services"),
        done("egress", List(&Message(&EGRESS_LISTENER)), "What the workloads see of the mesh.").otherwise("all that is exported to them"),
        refused(Where, "inboundConnectionPool", Open, "Limits of calls to the workload."),
        done("outboundTrafficPolicy", Message(&OUTBOUND_POLICY), "Where calls to unknown destinations go.").otherwise("as MeshConfig says"),
    ],
    ..PLAIN
});

static EGRESS_LISTENER: Message = Message {
    name: "IstioEgressListener",
    rows: &[
        refused(Where, "port", Open, "The port for which the entry holds.").otherwise("all ports"),
        refused(Where, "bind", Text, "The address on which the proxy takes such calls."),
        done("captureMode", Enum(&CAPTURE), "Whether such calls are captured.").default("DEFAULT"),
        done("hosts", List(&Text), "NAMESPACE/HOST, with `*`, `.` and `~` for namespaces; `~NAMESPACE/HOST` leaves hosts out.")
            .required()
            .filled(),
    ],
    ..PLAIN
};

static OUTBOUND_POLICY: Message = Message {
    name: "OutboundTrafficPolicy",
    rows: &[
        OUTBOUND_MODE.required(),
        done("egressProxy", Message(&EGRESS_PROXY), "The service through which such calls go.")
            .otherwise("straight to where they are going"),
    ],
    ..PLAIN
};

static EGRESS_PROXY: Message = Message {
    name: "Destination",
    rows: &[
        done("host", Text, "The service, by its whole name.").required(),
        done("subset", Text, "A subset that a DestinationRule declares."),
        done("port", Message(&PORT_SELECTOR), "The service's port.").required(),
    ],
    ..PLAIN
};

/// `outboundTrafficPolicy` of the mesh, whose mode has a default.
pub(crate) static MESH_OUTBOUND_POLICY: Message =
    Message { name: "OutboundTrafficPolicy", rows: &[OUTBOUND_MODE.default("ALLOW_ANY")], ..PLAIN };

/// Gateway's `spec`.
pub(crate) static GATEWAY: Type = Message(&Message {
    name: "Gateway",
    rows: &[
        done("selector", Map(&Text), "Labels of the gateway's pods, in any namespace.").otherwise("all pods"),
        done("servers", List(&Message(&SERVER)), "Its ports.").required().filled(),
    ],
    ..PLAIN
});

static SERVER: Message = Message {
    name: "Server",
    rows: &[
        done("port", Message(&SERVER_PORT), "The port.").required(),
        refused(Where, "bind", Text, "The address on which it listens.").otherwise("all addresses"),
        done("hosts", List(&Text), "[NAMESPACE/]HOST: the hosts that it serves, and whose VirtualServices may bind to them.")
            .required()
            .filled(),
        done("tls", Message(&SERVER_TLS), "How TLS is ended or passed on, or where plain text is sent to.").otherwise("plain text"),
        refused(Where, "defaultEndpoint", Text, "Where calls go that nothing routes."),
        done("name", Text, "A name for logs."),
    ],
    ..PLAIN
};

static TLS_CERTIFICATE: Message = Message {
    name: "TLSCertificate",
    rows: &[
        done("serverCertificate", Text, "A file with the certificate that is shown.").required(),
        done("privateKey", Text, "A file with its key.").required(),
        refused(Who, "caCertificates", Text, "A file with the authorities of clients of this certificate alone."),
    ],
    ..PLAIN
};

static SERVER_TLS: Message = Message {
    name: "ServerTLSSettings",
    rows: &[
        done("httpsRedirect", Bool, "Whether a server of plain HTTP answers with 301 to https.").default("false"),
        done("mode", Enum(&SERVER_MODE), "Whose certificates are shown and asked for, or that TLS goes on as it came.")
            .default("PASSTHROUGH"),
        done("serverCertificate", Text, "In the place of a Secret a file, which the proxy sees, with the certificate that is shown."),
        done("privateKey", Text, "A file with its key."),
        done("caCertificates", Text, "A file with the authorities of clients."),
        done("caCrl", Text, "A file with what they have revoked."),
        done("credentialName", Text, "The Secret with certificate, key and authorities, in the namespace of the gateway's pods."),
        done("credentialNames", List(&Text), "In its place one or two Secrets with certificates of different kinds.").most(2),
        done("caCertCredentialName", Text, "The Secret with the authorities of clients.")
            .otherwise("credentialName, or its companion NAME-cacert"),
        done(
            "tlsCertificates",
            List(&Message(&TLS_CERTIFICATE)),
            "In the place of one certificate in files one or two, of different kinds.",
        ),
        done("subjectAltNames", List(&Text), "Whom a client's certificate must name one of.").otherwise("anybody"),
        refused(Who, "verifyCertificateSpki", List(&Text), "Hashes of clients' keys."),
        refused(Who, "verifyCertificateHash", List(&Text), "Hashes of clients' certificates."),
        done("minProtocolVersion", Enum(&TLS_VERSION), "The lowest version; below TLSV1_2 none is spoken.").default("TLS_AUTO"),
        done("maxProtocolVersion", Enum(&TLS_VERSION), "The highest version.").default("TLS_AUTO"),
        done("cipherSuites", List(&Text), "The cipher suites of TLS 1.2, by OpenSSL's names.").otherwise("the proxy's"),
    ],
    one_of: &[&["credentialName", "credentialNames"]],
    ..PLAIN
};

static SERVER_PORT: Message = Message {
    name: "Port",
    rows: &[
        done("number", PORT, "The number.").required(),
        done("protocol", Text, "HTTP, HTTPS, HTTP2, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL or Redis; UDP is refused.").required(),
        done("name", Text, "The name."),
        refused(Where, "targetPort", PORT, "The number on which the pods listen."),
    ],
    ..PLAIN
};

/// ServiceEntry's `spec`.
pub(crate) static SERVICE_ENTRY: Type =
    Message(&Message {
        name: "ServiceEntry",
        rows: &[
            done("hosts", List(&Short(256)), "Its names.")
                .required()
                .filled()
                .most(256)
                .rules(&[Rule { cel: "self.all(host, host != '*')", message: "host * stands for everything; name a host or *.suffix" }]),
            done("addresses", List(&Short(64)), "Its addresses or ranges.").otherwise("one of its own is made for it").most(256),
            done("ports", List(&Message(&SERVICE_PORT)), "Its ports.").required().filled().most(256).key("name").rules(&[Rule {
                cel: "self.all(a, self.exists_one(b, a.number == b.number))",
                message: "no two ports have the same number",
            }]),
            done("location", Enum(&LOCATION), "Whether it belongs to the mesh.").default("MESH_EXTERNAL"),
            done("resolution", Enum(&RESOLUTION), "Where its endpoints come from.").default("NONE"),
            done("endpoints", List(&Message(&WORKLOAD_ENTRY)), "Its endpoints. DNS without endpoints resolves the hosts.").most(4096),
            done("workloadSelector", Message(&WORKLOAD_SELECTOR), "Or the pods of its namespace with these labels."),
            EXPORT_TO,
            done("subjectAltNames", List(&Text), "Who its endpoints may be, by their certificates.")
                .otherwise("in mutual TLS, whom their service accounts name"),
        ],
        rules: &[
            Rule {
                cel: "!has(self.workloadSelector) || !has(self.endpoints) || size(self.endpoints) == 0",
                message: "workloadSelector excludes endpoints",
            },
            Rule {
                cel: "!has(self.endpoints) || size(self.endpoints) == 0 \
                  || (has(self.resolution) && self.resolution != 'NONE' && self.resolution != 0)",
                message: "endpoints need resolution STATIC or DNS",
            },
            Rule {
                cel: "!has(self.resolution) || (self.resolution != 'STATIC' && self.resolution != 1) || has(self.workloadSelector) \
                  || (has(self.endpoints) && size(self.endpoints) > 0)",
                message: "resolution STATIC needs endpoints or a workloadSelector",
            },
            Rule {
                cel: "!has(self.resolution) || (self.resolution != 'DYNAMIC_DNS' && self.resolution != 4) || !has(self.endpoints) \
                  || size(self.endpoints) == 0",
                message: "resolution DYNAMIC_DNS takes no endpoints",
            },
            Rule {
                cel: "!has(self.resolution) || (self.resolution != 'DYNAMIC_DNS' && self.resolution != 4) || !has(self.hosts) \
                  || self.hosts.all(host, host.startsWith('*.'))",
                message: "resolution DYNAMIC_DNS is for hosts *.suffix",
            },
            Rule {
                cel: "!has(self.resolution) || (self.resolution != 'DNS_ROUND_ROBIN' && self.resolution != 3) || !has(self.endpoints) \
                  || size(self.endpoints) <= 1",
                message: "resolution DNS_ROUND_ROBIN takes one endpoint at most",
            },
            Rule {
                cel: "!has(self.addresses) || !has(self.resolution) || self.resolution == 'NONE' || self.resolution == 0 \
                  || self.resolution == 'STATIC' || self.resolution == 1 \
                  || self.addresses.all(a, !a.contains('/') || a.endsWith('/32') || a.endsWith('/128'))",
                message: "a range of addresses needs resolution NONE or STATIC",
            },
        ],
        ..PLAIN
    });

static SERVICE_PORT: Message = Message {
    name: "ServicePort",
    rows: &[
        done("number", PORT, "The number that clients use.").required(),
        done("name", Short(256), "The name; no two ports have the same.").required(),
        done("protocol", Short(256), "HTTP, HTTP2, HTTPS, GRPC, GRPC-Web, TLS, TCP, Mongo, MySQL, Redis or UDP.").otherwise("is detected"),
        done("targetPort", PORT, "The number at the endpoints.").otherwise("as `number`"),
    ],
    ..PLAIN
};

static WORKLOAD_ENTRY: Message = Message {
    name: "WorkloadEntry",
    rows: &[
        done("address", Short(256), "An IP address, or a name for DNS. Unix sockets are refused.").required(),
        done("ports", Map(&PORT), "Names of the service's ports that have other numbers here.").most(128),
        done("labels", Map(&Text), "Labels, for subsets.").most(256),
        done("network", Short(2048), "The network in which it is."),
        done("locality", Short(2048), "REGION/ZONE/SUBZONE."),
        done("weight", COUNT, "Its share among the endpoints.").default("1"),
        done("serviceAccount", Short(253), "Its service account, for mutual TLS."),
    ],
    ..PLAIN
};
