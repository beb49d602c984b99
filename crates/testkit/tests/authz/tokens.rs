//! Tokens for the calls of the table: signed when a call is made, by keys that are made when the test starts.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as B64},
};

/// An issuer's keys.
struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Keys {
    fn new() -> Keys {
        Keys {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            ed: Ed25519KeyPair::generate().expect("a key"),
        }
    }

    /// The public ones.
    fn set(&self, issuer: &str) -> String {
        let public = self.rsa.public_key();
        let n = B64.encode(public.modulus().big_endian_without_leading_zero());
        let e = B64.encode(public.exponent().big_endian_without_leading_zero());
        let (x, y) = self.ec.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (B64.encode(x), B64.encode(y));
        let ed = B64.encode(self.ed.public_key().as_ref());
        format!(
            r#"{{"keys":[{{"kty":"RSA","kid":"{issuer}-rsa","n":"{n}","e":"{e}"}},{{"kty":"EC","crv":"P-256","kid":"{issuer}-ec","x":"{x}","y":"{y}"}},{{"kty":"OKP","crv":"Ed25519","kid":"{issuer}-ed","x":"{ed}"}}]}}"#
        )
    }

    /// The public RSA key as somebody has it who found it in a file.
    fn pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.rsa.public_key().as_der().expect("a public key");
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<String> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    fn sign(&self, by: &str, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let by_rsa = |how| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(how, &random, text, &mut signature).expect("a signature");
            signature
        };
        let by_secret = |secret: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text).as_ref().to_vec();
        match by {
            "RS256" => by_rsa(&RSA_PKCS1_SHA256),
            "RS384" => by_rsa(&RSA_PKCS1_SHA384),
            "RS512" => by_rsa(&RSA_PKCS1_SHA512),
            "PS256" => by_rsa(&RSA_PSS_SHA256),
            "ES256" => self.ec.sign(&random, text).expect("a signature").as_ref().to_vec(),
            "EdDSA" => self.ed.sign(text).as_ref().to_vec(),
            "HS256-PEM" => by_secret(self.pem().as_bytes()),
            "HS256-DER" => by_secret(AsDer::<PublicKeyX509Der<'_>>::as_der(self.rsa.public_key()).expect("a public key").as_ref()),
            "HS256-MODULUS" => by_secret(self.rsa.public_key().modulus().big_endian_without_leading_zero()),
            "nothing" => Vec::new(),
            "zeros" => vec![0; 64],
            other => panic!("nothing signs by {other}"),
        }
    }
}

/// By issuer; those of `mallory` nobody trusts.
static KEYS: LazyLock<BTreeMap<&str, Keys>> = LazyLock::new(|| ["a", "b", "mallory"].into_iter().map(|name| (name, Keys::new())).collect());

fn keys(issuer: &str) -> &'static Keys {
    KEYS.get(issuer).unwrap_or_else(|| panic!("{issuer} has no keys"))
}

/// Puts public keys in the place of `{keys ISSUER}`.
pub(crate) fn with_keys(text: &str) -> String {
    KEYS.iter().fold(text.to_owned(), |text, (issuer, keys)| text.replace(&format!("{{keys {issuer}}}"), &keys.set(issuer)))
}

/// How a token is made.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    issuer: String,
    by: String,
    header: String,
    claims: String,
}

impl Token {
    /// `ISSUER/ALGORITHM HEADER CLAIMS`, the latter as the JSON's inside without spaces; `@N` and `@-N` are seconds from now.
    pub(crate) fn read(text: &str) -> Token {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [by, header, claims] = words.as_slice() else { panic!("no token: {text}") };
        let (issuer, by) = by.split_once('/').unwrap_or_else(|| panic!("no signer: {by}"));
        let own = |text: &str| text.to_owned();
        Token { issuer: own(issuer), by: own(by), header: format!("{{{header}}}"), claims: format!("{{{claims}}}") }
    }

    /// The token at this time since 1970.
    pub(crate) fn at(&self, now: Duration) -> String {
        let text = format!("{}.{}", B64.encode(&self.header), B64.encode(timed(&self.claims, now)));
        format!("{text}.{}", B64.encode(keys(&self.issuer).sign(&self.by, text.as_bytes())))
    }
}

/// With times in the place of `@N`, and a long text in that of `{N letters}`.
fn timed(claims: &str, now: Duration) -> String {
    let mut parts = claims.split('@');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(part.len());
        let (offset, rest) = part.split_at(end);
        let offset: i64 = offset.parse().unwrap_or_else(|_| panic!("no offset: {claims}"));
        text += &now.as_secs().saturating_add_signed(offset).to_string();
        text += rest;
    }
    match text.split_once("{letters:") {
        Some((before, rest)) => {
            let (number, after) = rest.split_once('}').expect("a number");
            format!("{before}{}{after}", "x".repeat(number.parse().expect("a number")))
        }
        None => text,
    }
}
