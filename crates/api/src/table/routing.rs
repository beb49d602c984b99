//! VirtualService.

use super::{
    COUNT, EXPORT_TO, HEADERS,
    Least::{Millisecond, MillisecondOrZero},
    Message, Names, PERCENT, PERCENTAGE, PLAIN, PORT, PORT_SELECTOR, RETRIES, Row, Rule, STRING_MATCH, Type,
    Type::*,
    Why::{What, Where},
    done, harmless, names, refused,
};
use crate::istio::REDIRECT_PORTS;

static REDIRECT_PORT: Names = Names { why: What, names: &names(REDIRECT_PORTS) };

/// VirtualService's `spec`.
pub(crate) static VIRTUAL_SERVICE: Type = Message(&Message {
    name: "VirtualService",
    rows: &[
        done("hosts", List(&Text), "The hosts whose requests it routes. A short name is completed by its namespace.")
            .otherwise("none: other VirtualServices delegate to it"),
        GATEWAYS.otherwise("`mesh`: the sidecars"),
        done("http", List(&Message(&HTTP_ROUTE)), "Routes for HTTP; the first match wins."),
        done("tls", List(&Message(&TLS_ROUTE)), "Routes for TLS that is not ended here; the first match wins."),
        done("tcp", List(&Message(&TCP_ROUTE)), "Routes for TCP; the first match wins."),
        EXPORT_TO,
    ],
    ..PLAIN
});

const GATEWAYS: Row = done("gateways", List(&Text), "What it is bound to: `mesh`, or Gateways as [NAMESPACE/]NAME.");

static HTTP_ROUTE: Message = Message {
    name: "HTTPRoute",
    rows: &[
        done("name", Text, "A name for logs."),
        done("match", List(&Message(&HTTP_MATCH)), "One of these must match.").otherwise("all requests"),
        done(
            "route",
            List(&Message(&HTTP_DESTINATION)),
            "Requests go to one of these by weight. One of `route`, `redirect`, `directResponse`, `delegate` must be written.",
        )
        .filled(),
        done("redirect", Message(&REDIRECT), "Requests are answered with a redirect."),
        done("directResponse", Message(&DIRECT_RESPONSE), "Requests are answered here."),
        done("delegate", Message(&DELEGATE), "Another VirtualService, without hosts, that has the routes."),
        done("rewrite", Message(&REWRITE), "How path and host are changed; with `route` or `delegate`."),
        done("timeout", Duration(MillisecondOrZero), "How long a request may take, retries included; 0s: without limit.")
            .otherwise("no limit"),
        done("retries", Message(&RETRIES), "How failed requests are repeated.").otherwise("as MeshConfig says"),
        done("fault", Message(&FAULT), "Faults on purpose."),
        refused(Where, "mirror", Open, "Where requests go a second time."),
        refused(Where, "mirrors", List(&Open), "Where requests go a second time, by shares."),
        refused(Where, "mirrorPercent", PERCENT, "The old name of `mirrorPercentage`."),
        refused(Where, "mirror_percent", PERCENT, "The oldest name of `mirrorPercentage`."),
        refused(Where, "mirrorPercentage", Open, "How many requests go a second time."),
        refused(What, "corsPolicy", Open, "What browsers are told about requests of other origins."),
        done("headers", Message(&HEADERS), "How headers are changed, before the destination's own changes."),
    ],
    one_of: &[&["route", "redirect", "directResponse", "delegate"]],
    rules: &[Rule { cel: "!has(self.rewrite) || has(self.route) || has(self.delegate)", message: "rewrite needs a route" }],
    ..PLAIN
};

static DELEGATE: Message = Message {
    name: "Delegate",
    rows: &[done("name", Text, "Its name.").required(), done("namespace", Text, "Its namespace.").otherwise("that of this VirtualService")],
    ..PLAIN
};

const SOURCE_LABELS: Row = done("sourceLabels", Map(&Text), "Labels of the caller's workload; for sidecars.");
const SOURCE_NAMESPACE: Row = done("sourceNamespace", Text, "The caller's namespace; for sidecars.");
const MATCH_PORT: Row = done("port", PORT, "The port that was called.");
const MATCH_GATEWAYS: Row = GATEWAYS.otherwise("those of the VirtualService");
const WEIGHT: Row = done("weight", COUNT, "Its share of the sum of the weights. A single destination gets all.").default("0");
const DESTINATION_ROW: Row = done("destination", Message(&DESTINATION), "Where to.").required();

static HTTP_MATCH: Message = Message {
    name: "HTTPMatchRequest",
    rows: &[
        done("name", Text, "A name for logs."),
        done("uri", Message(&STRING_MATCH), "The path."),
        done("scheme", Message(&STRING_MATCH), "The scheme."),
        done("method", Message(&STRING_MATCH), "The method."),
        done("authority", Message(&STRING_MATCH), "The host with its port, if one was written."),
        done("headers", Map(&Message(&STRING_MATCH)), "Headers that must match; `{}`: must be there."),
        done("withoutHeaders", Map(&Message(&STRING_MATCH)), "Headers that must not match; `{}`: must not be there."),
        done("queryParams", Map(&Message(&STRING_MATCH)), "Parameters of the query that must match; `{}`: must be there."),
        done("ignoreUriCase", Bool, "Whether `uri` is compared without regard to case; not with a regex.").default("false"),
        MATCH_PORT,
        SOURCE_LABELS,
        SOURCE_NAMESPACE,
        MATCH_GATEWAYS,
        harmless("statPrefix", Text, "A prefix for metrics of its own."),
    ],
    ..PLAIN
};

static HTTP_DESTINATION: Message = Message {
    name: "HTTPRouteDestination",
    rows: &[DESTINATION_ROW, WEIGHT, done("headers", Message(&HEADERS), "How headers are changed for this destination alone.")],
    ..PLAIN
};

static DESTINATION: Message = Message {
    name: "Destination",
    rows: &[
        done("host", Text, "The service. A short name is completed by the VirtualService's namespace.").required(),
        done("subset", Text, "The subset, which a DestinationRule declares."),
        done("port", Message(&PORT_SELECTOR), "The service's port.").otherwise("its only one"),
    ],
    ..PLAIN
};

static REDIRECT: Message = Message {
    name: "HTTPRedirect",
    rows: &[
        done("uri", Text, "The whole path.").otherwise("the request's"),
        done("prefixRewrite", Text, "Stands in place of the matched prefix."),
        done("authority", Text, "The host.").otherwise("the request's"),
        done("port", PORT, "The port."),
        done("derivePort", Enum(&REDIRECT_PORT), "Where the port comes from."),
        done("scheme", Text, "`http` or `https`.").otherwise("the request's"),
        done("redirectCode", Int(100, 599), "The status: 301, 302, 303, 307 or 308.").default("301"),
    ],
    one_of: &[&["port", "derivePort"]],
    rules: &[Rule {
        cel: "!has(self.uri) || self.uri == '' || !has(self.prefixRewrite) || self.prefixRewrite == ''",
        message: "uri and prefixRewrite exclude each other",
    }],
    ..PLAIN
};

static DIRECT_RESPONSE: Message = Message {
    name: "HTTPDirectResponse",
    rows: &[
        done("status", Int(200, 599), "The status.").required(),
        done("body", Message(&BODY), "The body, of at most 1 MiB.").otherwise("empty"),
    ],
    ..PLAIN
};

static BODY: Message = Message {
    name: "HTTPBody",
    rows: &[done("string", Text, "As a text."), done("bytes", Text, "In base64.")],
    one_of: &[&["string", "bytes"]],
    ..PLAIN
};

static REWRITE: Message = Message {
    name: "HTTPRewrite",
    rows: &[
        done("uri", Text, "Stands in place of the matched prefix, or of the path."),
        done("authority", Text, "Stands in place of the host."),
        done("uriRegexRewrite", Message(&REGEX_REWRITE), "Changes the path by an expression."),
    ],
    rules: &[Rule {
        cel: "!has(self.uri) || self.uri == '' || !has(self.uriRegexRewrite)",
        message: "uri and uriRegexRewrite exclude each other",
    }],
    ..PLAIN
};

static REGEX_REWRITE: Message = Message {
    name: "RegexRewrite",
    rows: &[
        done("match", Text, "An expression in RE2's syntax.").required(),
        done("rewrite", Text, "Stands in place of what it finds; `\\1` is its first group."),
    ],
    ..PLAIN
};

static FAULT: Message = Message {
    name: "HTTPFaultInjection",
    rows: &[
        done("delay", Message(&DELAY), "A share of the requests waits. `delay` or `abort` must be written."),
        done("abort", Message(&ABORT), "A share of the requests is answered here."),
    ],
    ..PLAIN
};

const SHARE: Row = done("percentage", Message(&PERCENTAGE), "The share of the requests.").otherwise("none");
const OLD_SHARE: Row = done("percent", PERCENT, "The old name of `percentage.value`.");

static DELAY: Message = Message {
    name: "Delay",
    rows: &[
        done("fixedDelay", Duration(Millisecond), "How long.").required(),
        SHARE,
        OLD_SHARE,
        refused(What, "exponentialDelay", Duration(Millisecond), "How long on average."),
    ],
    ..PLAIN
};

static ABORT: Message = Message {
    name: "Abort",
    rows: &[
        done("httpStatus", Int(200, 599), "The status of HTTP. It or `grpcStatus` must be written."),
        done("grpcStatus", Text, "The status of gRPC, by name or number."),
        refused(What, "http2Error", Text, "An error of HTTP/2."),
        SHARE,
        OLD_SHARE,
    ],
    one_of: &[&["httpStatus", "grpcStatus"]],
    ..PLAIN
};

static TCP_ROUTE: Message = Message {
    name: "TCPRoute",
    rows: &[
        done("match", List(&Message(&TCP_MATCH)), "One of these must match.").otherwise("all connections"),
        done("route", List(&Message(&TCP_DESTINATION)), "Connections go to one of these by weight.").required().filled(),
    ],
    ..PLAIN
};

static TCP_MATCH: Message = Message {
    name: "L4MatchAttributes",
    rows: &[
        done("destinationSubnets", List(&Text), "Addresses or ranges that were called; for sidecars."),
        MATCH_PORT,
        refused(Where, "sourceSubnet", Text, "The caller's address or range."),
        SOURCE_LABELS,
        SOURCE_NAMESPACE,
        MATCH_GATEWAYS,
    ],
    ..PLAIN
};

static TLS_ROUTE: Message = Message {
    name: "TLSRoute",
    rows: &[
        done("match", List(&Message(&TLS_MATCH)), "One of these must match.").required().filled(),
        done("route", List(&Message(&TCP_DESTINATION)), "Connections go to one of these by weight.").required().filled(),
    ],
    ..PLAIN
};

static TLS_MATCH: Message = Message {
    name: "TLSMatchAttributes",
    rows: &[
        done("sniHosts", List(&Text), "The server names that clients ask for; one of the VirtualService's hosts must cover each.")
            .required()
            .filled(),
        done("destinationSubnets", List(&Text), "Addresses or ranges that were called; for sidecars."),
        MATCH_PORT,
        SOURCE_LABELS,
        SOURCE_NAMESPACE,
        MATCH_GATEWAYS,
    ],
    ..PLAIN
};

static TCP_DESTINATION: Message = Message { name: "RouteDestination", rows: &[DESTINATION_ROW, WEIGHT], ..PLAIN };
