//! Messages of several kinds.

use super::{COUNT, Least, Least::MillisecondOrZero, Message, PLAIN, PORT, Row, Rule, Type::*, U32, done};

/// A label's value in a selector: without `*`, which would select nothing.
const NO_STAR: Rule = Rule {
    cel: "self.all(key, !key.contains('*') && !self[key].contains('*'))",
    message: "labels are selected by their whole names and values, without *",
};

/// `selector` of the security kinds.
pub(crate) static POLICY_SELECTOR: Message = Message {
    name: "WorkloadSelector",
    rows: &[done("matchLabels", Map(&Short(63)), "The labels that a workload must carry; none: all workloads.")
        .most(256)
        .rules(&[NO_STAR])],
    ..PLAIN
};

/// `workloadSelector` of the networking kinds.
pub(crate) static WORKLOAD_SELECTOR: Message = Message {
    name: "WorkloadSelector",
    rows: &[done("labels", Map(&Short(63)), "The labels that a workload must carry; none: all workloads.").most(256).rules(&[NO_STAR])],
    ..PLAIN
};

/// `exportTo` of the networking kinds.
pub(crate) const EXPORT_TO: Row =
    done("exportTo", List(&Text), "To whom it is visible: `*` all namespaces, `.` its own, `~` nobody, or names.")
        .otherwise("as MeshConfig says");

/// A text that must match.
pub(crate) static STRING_MATCH: Message = Message {
    name: "StringMatch",
    rows: &[
        done("exact", Text, "The whole text."),
        done("prefix", Text, "How the text begins."),
        done("regex", Text, "An expression in RE2's syntax for the whole text, of at most 1024 characters."),
    ],
    one_of: &[&["exact", "prefix", "regex"]],
    ..PLAIN
};

/// A port, by number.
pub(crate) static PORT_SELECTOR: Message =
    Message { name: "PortSelector", rows: &[done("number", PORT, "The number.").required()], ..PLAIN };

/// A share in percent, with parts.
pub(crate) static PERCENTAGE: Message =
    Message { name: "Percent", rows: &[done("value", Number(0.0, 100.0), "The share, in percent.").default("0")], ..PLAIN };

static HEADER_OPERATIONS: Message = Message {
    name: "HeaderOperations",
    rows: &[
        done(
            "set",
            Map(&Text),
            "Headers with values that take the place of what is there. Values may hold Envoy's commands such as %DURATION%.",
        ),
        done("add", Map(&Text), "Headers with values that are added to what is there."),
        done("remove", List(&Text), "Headers that are removed."),
    ],
    ..PLAIN
};

/// `headers` of a route and of a destination.
pub(crate) static HEADERS: Message = Message {
    name: "Headers",
    rows: &[
        done("request", Message(&HEADER_OPERATIONS), "Before the request goes to its destination."),
        done("response", Message(&HEADER_OPERATIONS), "Before the response goes to the caller."),
    ],
    ..PLAIN
};

/// Probes of silent connections.
pub(crate) static KEEPALIVE: Message = Message {
    name: "TcpKeepalive",
    rows: &[
        done("probes", U32, "After so many without an answer the connection is closed; 0: the system's default.").otherwise("the system's"),
        done("time", Duration(Least::Second), "After how long a silence, in whole seconds.").otherwise("the system's"),
        done("interval", Duration(Least::Second), "How far apart, in whole seconds.").otherwise("the system's"),
    ],
    ..PLAIN
};

/// How failed requests are repeated.
pub(crate) static RETRIES: Message = Message {
    name: "HTTPRetry",
    rows: &[
        done("attempts", COUNT, "How often at most.").default("0"),
        done("perTryTimeout", Duration(MillisecondOrZero), "How long an attempt may take.").otherwise("as long as the request"),
        done("retryOn", Text, "Envoy's conditions and status codes, separated by commas.").otherwise("the mesh's"),
        done("retryRemoteLocalities", Bool, "Whether endpoints of other localities are tried too.").default("false"),
        done("retryIgnorePreviousHosts", Bool, "Whether endpoints that have failed are left out.")
            .otherwise("yes, unless the destination takes endpoints by a key of the request"),
        done("backoff", Duration(MillisecondOrZero), "The least time between attempts.").default("25ms"),
    ],
    ..PLAIN
};
