//! JSON Web Key Sets.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mizzen_pki::{JwsAlgorithm, JwsCurve, JwsKey, sha256};
use mizzen_protos::wkt::{Struct, value::Kind};

use super::json;
use super::token::{Token, TokenFault};

/// The longest key set, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// The most keys of one.
const MOST_KEYS: usize = 256;

/// The public keys of an issuer.
#[derive(Debug)]
pub struct Jwks {
    keys: Vec<Key>,
    /// Tells sets apart.
    id: [u8; 32],
    /// Why keys were left out.
    skipped: Vec<String>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<JwsAlgorithm>,
    key: JwsKey,
}

/// Why a key set is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadJwks(String);

#[cfg(test)]
thread_local! {
    /// How many tokens were checked.
    pub(crate) static CHECKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl PartialEq for Jwks {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

fn bad(reason: impl Into<String>) -> BadJwks {
    BadJwks(reason.into())
}

fn text<'a>(object: &'a Struct, name: &str) -> Result<Option<&'a str>, String> {
    match object.fields.get(name).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::StringValue(text))) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is no text")),
    }
}

impl Jwks {
    /// Reads a key set. Keys that sign nothing that is understood are left out.
    ///
    /// # Errors
    /// If it is none, or no key is left.
    pub fn parse(bytes: &[u8]) -> Result<Jwks, BadJwks> {
        if bytes.len() > MOST_BYTES {
            return Err(bad(format!("it is longer than {MOST_BYTES} bytes")));
        }
        let object = json::object(bytes).ok_or_else(|| bad("it is no JSON object, or a name is there twice"))?;
        let list = match object.fields.get("keys").map(|value| &value.kind) {
            Some(Some(Kind::ListValue(list))) => &list.values,
            Some(_) => return Err(bad("`keys` is no list")),
            None => return Err(bad("it has no `keys`")),
        };
        if list.len() > MOST_KEYS {
            return Err(bad(format!("it has more than {MOST_KEYS} keys")));
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (i, value) in list.iter().enumerate() {
            let one = match &value.kind {
                Some(Kind::StructValue(object)) => Key::read(object),
                _ => Err("it is no object".to_owned()),
            };
            match one {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(format!("keys[{i}]: {why}")),
            }
        }
        if keys.is_empty() {
            let why = if skipped.is_empty() { "`keys` is empty".to_owned() } else { skipped.join("; ") };
            return Err(bad(format!("it has no key of use: {why}")));
        }
        Ok(Jwks { keys, id: sha256(&[bytes]), skipped })
    }

    /// A set without keys, which no token passes, in place of one that cannot be read.
    pub fn none() -> Jwks {
        Jwks { keys: Vec::new(), id: [0; 32], skipped: Vec::new() }
    }

    /// What tells this set from others.
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Why keys were left out.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Whether one of the keys has signed a token: only one that is of the token's `kid`, and for its algorithm.
    ///
    /// # Errors
    /// In Envoy's words.
    pub fn check(&self, token: &Token) -> Result<(), TokenFault> {
        #[cfg(test)]
        CHECKS.set(CHECKS.get() + 1);
        if self.keys.is_empty() {
            return Err(TokenFault::NoKeys);
        }
        let named = |key: &&Key| key.id.is_none() || token.key_id.is_none() || key.id == token.key_id;
        let meant = |key: &&Key| key.algorithm.is_none_or(|a| a == token.algorithm) && key.key.is_for(token.algorithm);
        let mut candidates = self.keys.iter().filter(named).filter(meant).peekable();
        if candidates.peek().is_none() {
            return Err(TokenFault::NoSuchKey);
        }
        if candidates.any(|key| key.key.verifies(token.algorithm, token.signed(), &token.signature)) {
            Ok(())
        } else {
            Err(TokenFault::Signature)
        }
    }
}

impl Key {
    fn read(object: &Struct) -> Result<Key, String> {
        let need = |name: &str| text(object, name)?.ok_or_else(|| format!("it has no `{name}`"));
        let bytes = |name: &str| {
            let padded = need(name)?;
            URL_SAFE_NO_PAD.decode(padded.trim_end_matches('=')).map_err(|_| format!("`{name}` is not base64url"))
        };
        if object.fields.contains_key("d") {
            return Err("it is a private key".to_owned());
        }
        if text(object, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("it is not for signatures".to_owned());
        }
        let key = match need("kty")? {
            "RSA" => JwsKey::rsa(&bytes("n")?, &bytes("e")?),
            "EC" => {
                let name = need("crv")?;
                let curve = JwsCurve::named(name).ok_or_else(|| format!("the curve {name:?} is not supported"))?;
                JwsKey::ec(curve, &bytes("x")?, &bytes("y")?)
            }
            "OKP" => match need("crv")? {
                "Ed25519" => JwsKey::ed25519(&bytes("x")?),
                other => return Err(format!("the curve {other:?} is not supported")),
            },
            // What signs could be made by whoever checks.
            "oct" => return Err("shared secrets are not supported".to_owned()),
            other => return Err(format!("the key type {other:?} is not supported")),
        };
        let key = key.map_err(str::to_owned)?;
        let algorithm = match text(object, "alg")? {
            None => None,
            Some(name) => match JwsAlgorithm::named(name) {
                Some(algorithm) if key.is_for(algorithm) => Some(algorithm),
                Some(_) => return Err(format!("{name} is not for keys of its type")),
                None => return Err(format!("the algorithm {name:?} is not supported")),
            },
        };
        let id = text(object, "kid")?.filter(|id| !id.is_empty()).map(str::to_owned);
        Ok(Key { id, algorithm, key })
    }
}
