//! Workload tokens: JWTs in the form of Kubernetes' bound service account tokens, signed by the control plane's own key.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, jwk::Jwk};
use mizzen_pki::{Secret, UnixTime};
use mizzen_types::{TrustDomain, check_dns_label, check_dns_subdomain};
use serde::{Deserialize, Serialize};

/// The audience of tokens that are good for a certificate.
pub const CA_AUDIENCE: &str = "istio-ca";
/// A token that is longer is not looked at.
pub(crate) const MAX: usize = 8 * 1024;
/// How far the beginning of a token's life lies back, for clocks that are slow.
const SLACK: u64 = 30;

/// Why there is no token, or why one is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The signing key is none.
    #[error("the key of the tokens: {0}")]
    Key(jsonwebtoken::errors::Error),
    /// It is too long, malformed, expired, for somebody else, or not ours.
    #[error("the token is refused: {0}")]
    Refused(String),
    /// Whoever judges it does not answer.
    #[error("the token cannot be judged now: {0}")]
    Unjudged(String),
    /// Who it is wished for is nobody.
    #[error("{0}")]
    Wish(String),
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that it is bound to.
    pub pod: String,
}

impl Workload {
    fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }

    fn check(&self) -> Result<(), TokenError> {
        self.check_identity()?;
        check_dns_subdomain(&self.pod).map_err(|error| TokenError::Wish(error.to_string()))
    }

    /// Whether its namespace and account can be an identity's.
    pub(crate) fn check_identity(&self) -> Result<(), TokenError> {
        let wish = |e: mizzen_types::NameError| TokenError::Wish(e.to_string());
        check_dns_label(&self.namespace).map_err(wish)?;
        check_dns_subdomain(&self.service_account).map_err(wish)
    }
}

#[derive(Serialize, Deserialize)]
struct Named {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Bound {
    namespace: String,
    pod: Named,
    serviceaccount: Named,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    iat: u64,
    nbf: u64,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

/// Issues and verifies tokens.
pub(crate) struct Tokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    issuer: String,
}

impl Tokens {
    /// With a P-256 key in PEM.
    pub(crate) fn new(key: &Secret, trust_domain: &TrustDomain) -> Result<Self, TokenError> {
        let signing = EncodingKey::from_ec_pem(key.expose().as_bytes()).map_err(TokenError::Key)?;
        let public = Jwk::from_encoding_key(&signing, Algorithm::ES256).map_err(TokenError::Key)?;
        let verifying = DecodingKey::from_jwk(&public).map_err(TokenError::Key)?;
        Ok(Tokens { signing, verifying, issuer: format!("https://mizzend.{trust_domain}") })
    }

    /// A token for `who`, good for `ttl` from `now`.
    pub(crate) fn issue(&self, who: &Workload, audience: &str, ttl: Duration, now: UnixTime) -> Result<String, TokenError> {
        who.check()?;
        if audience.is_empty() {
            return Err(TokenError::Wish("a token needs an audience".to_owned()));
        }
        let now = now.as_secs();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: who.subject(),
            aud: vec![audience.to_owned()],
            iat: now,
            nbf: now.saturating_sub(SLACK),
            exp: now.saturating_add(ttl.as_secs()),
            kubernetes: Bound {
                namespace: who.namespace.clone(),
                pod: Named { name: who.pod.clone() },
                serviceaccount: Named { name: who.service_account.clone() },
            },
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signing).map_err(TokenError::Key)
    }

    /// Whom a token speaks for, and until when, if it is ours, in time and meant for `audience`.
    pub(crate) fn verify(&self, token: &str, audience: &str) -> Result<(Workload, UnixTime), TokenError> {
        if token.len() > MAX {
            return Err(TokenError::Refused("it is too long".to_owned()));
        }
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&[audience]);
        rules.set_issuer(&[&self.issuer]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        rules.validate_nbf = true;
        rules.leeway = 0;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &rules).map_err(|e| TokenError::Refused(e.to_string()))?.claims;
        let who = Workload {
            namespace: claims.kubernetes.namespace,
            service_account: claims.kubernetes.serviceaccount.name,
            pod: claims.kubernetes.pod.name,
        };
        who.check()?;
        if claims.sub != who.subject() {
            return Err(TokenError::Refused("its subject is not the account that it names".to_owned()));
        }
        Ok((who, UnixTime::since_unix_epoch(Duration::from_secs(claims.exp))))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use mizzen_pki::KeyPair;

    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(&KeyPair::generate().unwrap().to_pem(), &TrustDomain::default()).unwrap()
    }

    fn who() -> Workload {
        Workload { namespace: "shop".into(), service_account: "reviews".into(), pod: "reviews-0".into() }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn round_trip() {
        let tokens = tokens();
        let token = tokens.issue(&who(), CA_AUDIENCE, HOUR, UnixTime::now()).unwrap();
        let (verified, until) = tokens.verify(&token, CA_AUDIENCE).unwrap();
        assert_eq!(verified, who());
        assert!(until > UnixTime::now());
    }

    #[test]
    fn refused() {
        let tokens = tokens();
        let now = UnixTime::now();
        let earlier = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - 7200));
        let later = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 7200));
        let good = tokens.issue(&who(), CA_AUDIENCE, HOUR, now).unwrap();
        let base64 = &base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let parts: Vec<&str> = good.split('.').collect();
        let payload = String::from_utf8(base64.decode(parts[1]).unwrap()).unwrap().replace("reviews", "payment");
        let forged = format!("{}.{}.{}", parts[0], base64.encode(payload), parts[2]);
        let unsigned = format!("{}.{}.", base64.encode("{\"alg\":\"none\"}"), parts[1]);
        let cases = [
            ("expired", tokens.issue(&who(), CA_AUDIENCE, HOUR, earlier).unwrap()),
            ("not yet", tokens.issue(&who(), CA_AUDIENCE, HOUR, later).unwrap()),
            ("audience", tokens.issue(&who(), "other", HOUR, now).unwrap()),
            ("another key", self::tokens().issue(&who(), CA_AUDIENCE, HOUR, now).unwrap()),
            ("forged", forged),
            ("unsigned", unsigned),
            ("empty", String::new()),
            ("long", "a".repeat(MAX + 1)),
        ];
        for (case, token) in cases {
            assert!(matches!(tokens.verify(&token, CA_AUDIENCE), Err(TokenError::Refused(_))), "{case}");
        }
    }

    #[test]
    fn wishes() {
        let tokens = tokens();
        for (namespace, service_account, pod, audience) in
            [("Shop", "a", "b", "x"), ("shop", "a/b", "b", "x"), ("shop", "a", "", "x"), ("shop", "a", "b", "")]
        {
            let who = Workload { namespace: namespace.into(), service_account: service_account.into(), pod: pod.into() };
            assert!(matches!(tokens.issue(&who, audience, HOUR, UnixTime::now()), Err(TokenError::Wish(_))));
        }
    }
}
