//! RequestAuthentication.

use super::{Least, Message, Names, PLAIN, POLICY_SELECTOR, Rule, Type, Type::*, Why::Who, done, names, refused};
use crate::istio::PRESENCES;

static PRESENCE: Names = Names { why: Who, names: &names(PRESENCES) };

/// RequestAuthentication's `spec`.
pub(crate) static REQUEST_AUTHENTICATION: Type = Message(&Message {
    name: "RequestAuthentication",
    rows: &[
        done("selector", Message(&POLICY_SELECTOR), "The workloads for which it holds.")
            .otherwise("all of the namespace; in the root namespace all of the mesh"),
        refused(Who, "targetRef", Open, "The Gateway or service for which it holds; one of `targetRefs`."),
        refused(Who, "targetRefs", List(&Open), "The Gateways and services for which it holds.").most(16),
        done(
            "jwtRules",
            List(&Message(&JWT_RULE)),
            "Whose tokens requests may bear. One without a token passes; one with a bad token does not.",
        )
        .most(4096),
    ],
    one_of: &[&["selector", "targetRef", "targetRefs"]],
    ..PLAIN
});

const TEXTS: Type = List(&Text);

static JWT_RULE: Message = Message {
    name: "JWTRule",
    rows: &[
        done("issuer", Text, "What tokens name as their issuer (`iss`).").required(),
        done("audiences", TEXTS, "Tokens must be for one of these (`aud`).").otherwise("for anybody"),
        done("jwksUri", Text, "The URL of the issuer's keys, which the control plane fetches.")
            .otherwise("where `jwks` is not written either: as the issuer's OpenID configuration says"),
        done("jwks", Text, "The issuer's keys, as a JSON Web Key Set."),
        done("presence", Enum(&PRESENCE), "Whether requests need a token.").default("OPTIONAL"),
        done("fromHeaders", List(&Message(&JWT_HEADER)), "Headers in which tokens are.")
            .otherwise("`Authorization: Bearer TOKEN`, and the parameter `access_token`, where no place is written"),
        done("fromParams", TEXTS, "Query parameters in which tokens are."),
        done("fromCookies", TEXTS, "Cookies in which tokens are."),
        done("outputPayloadToHeader", Text, "The header that gets all claims, in base64url."),
        done("outputClaimToHeaders", List(&Message(&CLAIM_TO_HEADER)), "Headers that get single claims."),
        done("forwardOriginalToken", Bool, "Whether the workload sees the token.").default("false"),
        done("timeout", Duration(Least::Millisecond), "How long fetching the keys may take.").default("5s"),
        done("spaceDelimitedClaims", TEXTS, "Claims that are lists, written as one text with spaces; `scope` and `permission` are anyway."),
    ],
    one_of: &[&["jwks", "jwksUri"]],
    rules: &[Rule { cel: "size(self.issuer) > 0", message: "issuer must not be empty" }],
    ..PLAIN
};

static JWT_HEADER: Message = Message {
    name: "JWTHeader",
    rows: &[
        done("name", Text, "The header's name.").required(),
        done("prefix", Text, "What stands before the token there, with its spaces."),
    ],
    ..PLAIN
};

static CLAIM_TO_HEADER: Message = Message {
    name: "ClaimToHeader",
    rows: &[
        done("header", Text, "The header's name. One that the client has sent is taken out.").required(),
        done("claim", Text, "The claim; `a.b` is `b` within `a`.").required(),
    ],
    ..PLAIN
};
