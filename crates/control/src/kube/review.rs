//! Workload tokens, as the cluster's API server judges them.
//!
//! The API server is asked about each token: its signature alone would still be good when the pod to which it is bound is gone.

use std::time::Duration;

use base64::Engine;
use k8s_openapi::{
    api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use mizzen_pki::UnixTime;
use serde::Deserialize;

use super::watch::words;
use crate::token::{CA_AUDIENCE, MAX, TokenError, Workload};

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
const POD: &str = "authentication.kubernetes.io/pod-name";
const SUBJECT: &str = "system:serviceaccount:";
/// How long what is proved by a token without an end is good for.
const WITHOUT_END: Duration = Duration::from_secs(24 * 3600);

/// Asks the API server.
#[derive(Clone)]
pub(crate) struct Reviewer {
    client: Client,
    /// Whether pods' tokens for the API server itself are taken, too.
    first_party: bool,
}

impl Reviewer {
    pub(crate) fn new(client: Client, first_party: bool) -> Reviewer {
        Reviewer { client, first_party }
    }

    /// Whom a token speaks for, and until when.
    ///
    /// # Errors
    /// [`TokenError::Refused`] if it speaks for nobody who may have a certificate, [`TokenError::Unjudged`] if nobody could say.
    pub(crate) async fn verify(&self, token: &str) -> Result<(Workload, UnixTime), TokenError> {
        if token.is_empty() || token.len() > MAX {
            return Err(TokenError::Refused("it is empty or too long".to_owned()));
        }
        let audiences = (!self.first_party).then(|| vec![CA_AUDIENCE.to_owned()]);
        let spec = TokenReviewSpec { audiences, token: Some(token.to_owned()) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let (api, post) = (Api::<TokenReview>::all(self.client.clone()), PostParams::default());
        let asked = tokio::time::timeout(PATIENCE, api.create(&post, &review)).await;
        let reviewed = match asked {
            Ok(Ok(reviewed)) => reviewed,
            // What the API server does not even look at is good for nothing.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 422) => {
                return Err(TokenError::Refused(status.message.clone()));
            }
            Ok(Err(error)) => return Err(TokenError::Unjudged(words(&error))),
            Err(_) => return Err(TokenError::Unjudged(format!("no answer within {PATIENCE:?}"))),
        };
        let who = judge(reviewed.status.unwrap_or_default(), self.first_party)?;
        Ok((who, until(token).unwrap_or_else(|| UnixTime::since_unix_epoch(now() + WITHOUT_END))))
    }
}

fn now() -> Duration {
    Duration::from_secs(UnixTime::now().as_secs())
}

/// What the API server's answer means.
fn judge(status: TokenReviewStatus, first_party: bool) -> Result<Workload, TokenError> {
    let refused = |reason: &str| TokenError::Refused(reason.to_owned());
    if let Some(error) = status.error.filter(|error| !error.is_empty()) {
        return Err(TokenError::Refused(error));
    }
    if status.authenticated != Some(true) {
        return Err(refused("the API server does not know it"));
    }
    // An API server that knows no audiences does not say for whom the token is: any would do.
    if !first_party && !status.audiences.unwrap_or_default().iter().any(|audience| audience == CA_AUDIENCE) {
        return Err(refused("the API server does not say that it is for this CA (status.audiences)"));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix(SUBJECT).and_then(|rest| rest.split_once(':'));
    let (namespace, service_account) = account.ok_or_else(|| refused("it is not a service account's"))?;
    let pod = user.extra.unwrap_or_default().remove(POD).unwrap_or_default().into_iter().next().unwrap_or_default();
    if pod.is_empty() && !first_party {
        return Err(refused("it is bound to no pod"));
    }
    let who = Workload { namespace: namespace.to_owned(), service_account: service_account.to_owned(), pod };
    who.check_identity().map_err(|error| TokenError::Refused(error.to_string()))?;
    Ok(who)
}

/// Until when it is good, by its own word, which the API server has found true.
fn until(token: &str) -> Option<UnixTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(claims.exp)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), first_party: bool, expected: Result<&str, &str>) {
        let mut status = json!({
            "authenticated": true, "audiences": ["istio-ca"],
            "user": {"username": "system:serviceaccount:shop:reviews", "uid": "1", "extra": {POD: ["reviews-0"]}},
        });
        change(&mut status);
        let judged = judge(serde_json::from_value(status).unwrap(), first_party);
        let judged = judged.map(|who| format!("{}/{} {}", who.namespace, who.service_account, who.pod)).map_err(|error| error.to_string());
        assert_eq!(judged.as_deref().map_err(|text| text.trim_start_matches("the token is refused: ")), expected);
    }

    #[test]
    fn judgements() {
        check(|_| {}, false, Ok("shop/reviews reviews-0"));
        check(|s| s["authenticated"] = false.into(), false, Err("the API server does not know it"));
        check(|s| s["authenticated"] = Value::Null, false, Err("the API server does not know it"));
        check(|s| s["error"] = "expired".into(), false, Err("expired"));
        for audiences in [json!([]), json!(null), json!(["api"])] {
            let reason = "the API server does not say that it is for this CA (status.audiences)";
            check(|s| s["audiences"] = audiences.clone(), false, Err(reason));
            check(|s| s["audiences"] = audiences, true, Ok("shop/reviews reviews-0"));
        }
        check(|s| s["user"]["extra"] = json!({}), false, Err("it is bound to no pod"));
        check(|s| s["user"]["extra"] = json!({}), true, Ok("shop/reviews "));
        for name in ["alice", "system:serviceaccount:shop", "system:node:n1", "serviceaccount:shop:reviews"] {
            check(|s| s["user"]["username"] = name.into(), false, Err("it is not a service account's"));
        }
        for name in ["system:serviceaccount:Shop:reviews", "system:serviceaccount:shop:a/../b", "system:serviceaccount::a"] {
            let mut status = json!({"authenticated": true, "audiences": ["istio-ca"], "user": {"username": name, "extra": {POD: ["p"]}}});
            status["user"]["uid"] = "1".into();
            assert!(judge(serde_json::from_value(status).unwrap(), false).is_err(), "{name}");
        }
    }

    #[test]
    fn the_end_of_a_token() {
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp": 1700000000, "sub": "x"}"#);
        assert_eq!(until(&format!("a.{payload}.c")).map(|at| at.as_secs()), Some(1_700_000_000));
        for token in ["", "a", "a.b.c", "a.e30.c"] {
            assert_eq!(until(token), None);
        }
    }
}
