//! A token's form, and what can be wrong with it, in Envoy's words.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mizzen_pki::JwsAlgorithm;
use mizzen_protos::wkt::{Struct, Value, value::Kind};

use super::json;

/// The longest token, in bytes.
const MOST: usize = 32 * 1024;

/// What is wrong with a token, or with what it is to be checked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[allow(missing_docs)] // The texts say it.
pub enum TokenFault {
    #[error("Jwt is missing")]
    Missing,
    #[error("Jwt not yet valid")]
    Early,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    #[error("Jwt is too long")]
    Long,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    HeaderAlgorithm,
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    #[error("Jwt header [kid] field is not a string")]
    HeaderKey,
    #[error("Jwt header [crit] is not supported")]
    Critical,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [iss] field is not a string")]
    IssuerText,
    #[error("Jwt payload [sub] field is not a string")]
    SubjectText,
    #[error("Jwt payload [jti] field is not a string")]
    IdText,
    #[error("Jwt payload [iat] field is not an integer")]
    IssuedInteger,
    #[error("Jwt payload [iat] field is not a positive 64 bit integer")]
    IssuedRange,
    #[error("Jwt payload [nbf] field is not an integer")]
    BeginInteger,
    #[error("Jwt payload [nbf] field is not a positive 64 bit integer")]
    BeginRange,
    #[error("Jwt payload [exp] field is not an integer")]
    EndInteger,
    #[error("Jwt payload [exp] field is not a positive 64 bit integer")]
    EndRange,
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudienceText,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    Issuer,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Subject in Jwt is not allowed")]
    Subject,
    #[error("Jwt has no expiration, or its lifetime is too long")]
    Lifetime,
    #[error("Jwt verification fails")]
    Signature,
    #[error("Found multiple Jwt tokens")]
    Many,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
    #[error("Jwks remote fetch is failed")]
    Fetch,
}

impl TokenFault {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        if self == TokenFault::Audience { 403 } else { 401 }
    }
}

/// A token in parts. Nothing of it is true until its signature was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// How it is signed.
    pub algorithm: JwsAlgorithm,
    /// By which key.
    pub key_id: Option<String>,
    /// Its header.
    pub header: Struct,
    /// Its claims.
    pub claims: Struct,
    /// Who has issued it; empty: it does not say.
    pub issuer: String,
    /// For whom.
    pub audiences: Vec<String>,
    /// About whom.
    pub subject: Option<String>,
    /// When it begins to be good, in seconds since 1970.
    pub begin: Option<u64>,
    /// When it ends.
    pub end: Option<u64>,
    /// When it was issued.
    pub issued: Option<u64>,
    pub(super) signature: Vec<u8>,
    /// Header, dot and claims, as they came.
    whole: String,
    /// The claims begin here in it.
    claims_at: usize,
}

impl Token {
    /// Takes a token apart, by the compact form of JSON Web Signatures.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn parse(text: &str) -> Result<Token, TokenFault> {
        if text.len() > MOST {
            return Err(TokenFault::Long);
        }
        let mut parts = text.split('.');
        let (Some(header64), Some(claims64), Some(signature64), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenFault::Form);
        };
        let bytes = URL_SAFE_NO_PAD.decode(header64).map_err(|_| TokenFault::HeaderBase64)?;
        let header = json::object(&bytes).ok_or(TokenFault::HeaderJson)?;
        let Some(Kind::StringValue(name)) = kind(&header, "alg") else { return Err(TokenFault::HeaderAlgorithm) };
        let algorithm = JwsAlgorithm::named(name).ok_or(TokenFault::Algorithm)?;
        let key_id = optional_text(&header, "kid", TokenFault::HeaderKey)?;
        // Extensions that have to be understood, of which none is.
        if header.fields.contains_key("crit") {
            return Err(TokenFault::Critical);
        }
        let bytes = URL_SAFE_NO_PAD.decode(claims64).map_err(|_| TokenFault::PayloadBase64)?;
        let claims = json::object(&bytes).ok_or(TokenFault::PayloadJson)?;
        let signature = URL_SAFE_NO_PAD.decode(signature64).map_err(|_| TokenFault::SignatureBase64)?;
        optional_text(&claims, "jti", TokenFault::IdText)?;
        Ok(Token {
            algorithm,
            key_id: key_id.filter(|id| !id.is_empty()),
            issuer: optional_text(&claims, "iss", TokenFault::IssuerText)?.unwrap_or_default(),
            subject: optional_text(&claims, "sub", TokenFault::SubjectText)?,
            issued: seconds(&claims, "iat", TokenFault::IssuedInteger, TokenFault::IssuedRange)?,
            begin: seconds(&claims, "nbf", TokenFault::BeginInteger, TokenFault::BeginRange)?,
            end: seconds(&claims, "exp", TokenFault::EndInteger, TokenFault::EndRange)?,
            audiences: audiences(&claims)?,
            header,
            claims,
            signature,
            claims_at: header64.len() + 1,
            whole: text.get(..text.len() - signature64.len() - 1).unwrap_or_default().to_owned(),
        })
    }

    /// The bytes that are signed.
    pub(super) fn signed(&self) -> &[u8] {
        self.whole.as_bytes()
    }

    /// The claims as they came: base64url without padding.
    pub fn claims_text(&self) -> &str {
        self.whole.get(self.claims_at..).unwrap_or_default()
    }

    /// How many bytes it takes, nearly.
    pub fn size(&self) -> usize {
        4 * self.whole.len() + self.signature.len()
    }

    /// Whether it is good at this time since 1970, where clocks may differ so much.
    ///
    /// # Errors
    /// If not yet or not any more.
    pub fn check_time(&self, now: Duration, skew: Duration) -> Result<(), TokenFault> {
        let (now, skew) = (now.as_secs(), skew.as_secs());
        if self.begin.is_some_and(|begin| now.saturating_add(skew) < begin) {
            return Err(TokenFault::Early);
        }
        if self.end.is_some_and(|end| now > end.saturating_add(skew)) {
            return Err(TokenFault::Expired);
        }
        Ok(())
    }

    /// A claim by its path.
    pub fn claim<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Value> {
        let mut path = path.into_iter();
        let mut at = self.claims.fields.get(path.next()?)?;
        for name in path {
            let Some(Kind::StructValue(inner)) = &at.kind else { return None };
            at = inner.fields.get(name)?;
        }
        Some(at)
    }
}

fn kind<'a>(object: &'a Struct, name: &str) -> Option<&'a Kind> {
    object.fields.get(name)?.kind.as_ref()
}

fn optional_text(object: &Struct, name: &str, fault: TokenFault) -> Result<Option<String>, TokenFault> {
    match object.fields.get(name).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::StringValue(text))) => Ok(Some(text.clone())),
        Some(_) => Err(fault),
    }
}

/// A time; its fraction does not count.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Only numbers within the range come there.
fn seconds(object: &Struct, name: &str, kind_fault: TokenFault, range: TokenFault) -> Result<Option<u64>, TokenFault> {
    match object.fields.get(name).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::NumberValue(n))) if (0.0..1.8e19).contains(n) => Ok(Some(*n as u64)),
        Some(Some(Kind::NumberValue(_))) => Err(range),
        Some(_) => Err(kind_fault),
    }
}

fn audiences(claims: &Struct) -> Result<Vec<String>, TokenFault> {
    let text = |value: &Value| match &value.kind {
        Some(Kind::StringValue(text)) => Ok(text.clone()),
        _ => Err(TokenFault::AudienceText),
    };
    match claims.fields.get("aud") {
        None => Ok(Vec::new()),
        Some(Value { kind: Some(Kind::ListValue(list)) }) => list.values.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}
