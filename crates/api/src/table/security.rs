//! PeerAuthentication and AuthorizationPolicy.

use super::{Message, Names, PLAIN, POLICY_SELECTOR, Row, Rule, Type, Type::*, Why::Who, done, names};
use crate::istio::{ACTIONS, MTLS_MODES};

static MODE: Names = Names { why: Who, names: &names(MTLS_MODES) };
static ACTION: Names = Names { why: Who, names: &names(ACTIONS) };

static MUTUAL_TLS: Message = Message {
    name: "MutualTLS",
    rows: &[done("mode", Enum(&MODE), "Whether connections must, may or must not be mutual TLS.").default("UNSET")],
    ..PLAIN
};

const SELECTOR: Row = done("selector", Message(&POLICY_SELECTOR), "The workloads for which it holds.")
    .otherwise("all of the namespace; in the root namespace all of the mesh");

/// PeerAuthentication's `spec`.
pub(crate) static PEER_AUTHENTICATION: Type = Message(&Message {
    name: "PeerAuthentication",
    rows: &[
        SELECTOR,
        done("mtls", Message(&MUTUAL_TLS), "For all ports."),
        done("portLevelMtls", Map(&Message(&MUTUAL_TLS)), "For single ports of the workload, by number; needs a selector.")
            .most(65535)
            .rules(&[Rule { cel: "self.all(port, int(port) >= 1 && int(port) <= 65535)", message: "keys are ports from 1 to 65535" }]),
    ],
    rules: &[Rule {
        cel: "!has(self.portLevelMtls) || (has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0)",
        message: "portLevelMtls needs a selector with labels",
    }],
    ..PLAIN
});

const CUSTOM: Rule = Rule {
    cel: "has(self.provider) == (has(self.action) && (self.action == 'CUSTOM' || self.action == 3))",
    message: "action CUSTOM needs a provider, and no other action has one",
};

/// AuthorizationPolicy's `spec`.
pub(crate) static AUTHORIZATION_POLICY: Type = Message(&Message {
    name: "AuthorizationPolicy",
    rows: &[
        SELECTOR,
        done("targetRef", Message(&TARGET), "The Gateway for which it holds; one of `targetRefs`."),
        done("targetRefs", List(&Message(&TARGET)), "The Gateways for which it holds.").most(16),
        done("action", Enum(&ACTION), "What a matching rule means.").default("ALLOW"),
        done("provider", Message(&PROVIDER), "Whom a CUSTOM policy asks."),
        done("rules", List(&Message(&RULE)), "One of these must match.").otherwise("never matches").most(512),
    ],
    one_of: &[&["selector", "targetRef", "targetRefs"]],
    rules: &[CUSTOM],
    ..PLAIN
});

static TARGET: Message = Message {
    name: "PolicyTargetReference",
    rows: &[
        done("group", Text, "gateway.networking.k8s.io."),
        done("kind", Text, "Gateway.").required(),
        done("name", Text, "Its name.").required(),
        done("namespace", Text, "It is the policy's, and must not be written."),
    ],
    ..PLAIN
};

static PROVIDER: Message =
    Message { name: "ExtensionProvider", rows: &[done("name", Text, "One of MeshConfig's extensionProviders.").required()], ..PLAIN };

static RULE: Message = Message {
    name: "Rule",
    rows: &[
        done("from", List(&Message(&FROM)), "The caller must be one of these.").otherwise("all callers").filled().most(512),
        done("to", List(&Message(&TO)), "The operation must be one of these.").otherwise("all operations").filled(),
        done("when", List(&Message(&CONDITION)), "All of these must hold.").filled(),
    ],
    ..PLAIN
};

static FROM: Message =
    Message { name: "From", rows: &[done("source", Message(&SOURCE), "The caller. All that is written must hold.").required()], ..PLAIN };

static TO: Message = Message {
    name: "To",
    rows: &[done("operation", Message(&OPERATION), "The operation. All that is written must hold.").required()],
    ..PLAIN
};

const TEXTS: Type = List(&Text);
const ACCOUNTS: Type = List(&Short(320));

static SOURCE: Message = Message {
    name: "Source",
    rows: &[
        done("principals", TEXTS, "TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT of the caller's certificate; `pre*`, `*suf` and `*`.")
            .filled(),
        done("notPrincipals", TEXTS, "None of these principals.").filled(),
        done("requestPrincipals", TEXTS, "ISSUER/SUBJECT of the request's token; `pre*`, `*suf` and `*`.").filled(),
        done("notRequestPrincipals", TEXTS, "None of these request principals.").filled(),
        done("namespaces", TEXTS, "The caller's namespace, by its certificate; `pre*`, `*suf` and `*`.").filled(),
        done("notNamespaces", TEXTS, "None of these namespaces.").filled(),
        done("serviceAccounts", ACCOUNTS, "[NAMESPACE/]SERVICE-ACCOUNT of the caller; a bare name is of the policy's namespace.")
            .filled()
            .most(16),
        done("notServiceAccounts", ACCOUNTS, "None of these service accounts.").filled().most(16),
        done("ipBlocks", TEXTS, "Addresses or ranges of the connection's other end.").filled(),
        done("notIpBlocks", TEXTS, "None of these ranges.").filled(),
        done("remoteIpBlocks", TEXTS, "Addresses or ranges of the first client, by X-Forwarded-For.").filled(),
        done("notRemoteIpBlocks", TEXTS, "None of these ranges of the first client.").filled(),
        done("trustDomains", TEXTS, "The trust domain of the caller's certificate; `pre*`, `*suf` and `*`.").filled(),
        done("notTrustDomains", TEXTS, "None of these trust domains.").filled(),
    ],
    rules: &[Rule {
        cel: "!(has(self.serviceAccounts) || has(self.notServiceAccounts)) \
              || !(has(self.principals) || has(self.notPrincipals) || has(self.namespaces) || has(self.notNamespaces))",
        message: "serviceAccounts exclude principals and namespaces",
    }],
    ..PLAIN
};

static OPERATION: Message = Message {
    name: "Operation",
    rows: &[
        done("hosts", TEXTS, "The request's host, without regard to case; `pre*`, `*suf` and `*`.").filled(),
        done("notHosts", TEXTS, "None of these hosts.").filled(),
        done("ports", TEXTS, "The workload's port, in quotes.").filled(),
        done("notPorts", TEXTS, "None of these ports.").filled(),
        done("methods", TEXTS, "The request's method; `pre*`, `*suf` and `*`.").filled(),
        done("notMethods", TEXTS, "None of these methods.").filled(),
        done(
            "paths",
            TEXTS,
            "The request's path, normalized and without its query; `pre*`, `*suf`, `*`, and `{*}` and `{**}` for segments.",
        )
        .filled(),
        done("notPaths", TEXTS, "None of these paths.").filled(),
    ],
    ..PLAIN
};

static CONDITION: Message = Message {
    name: "Condition",
    rows: &[
        done("key", Text, "What is compared: source.ip, destination.port, request.headers[NAME], request.auth.claims[NAME] and others.")
            .required(),
        done("values", TEXTS, "It must be one of these. `values` or `notValues` must be written.").filled(),
        done("notValues", TEXTS, "It must be none of these.").filled(),
    ],
    ..PLAIN
};
