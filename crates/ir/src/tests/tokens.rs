//! Tokens of requests: what passes, what does not, and what it leaves.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use mizzen_http::Head;
use serde_json::{Value, json};

use super::{compiled, hcm, listener, one_chain, request};
use crate::config::{HttpFilterKind, JwtAuthn, RemoteJwks, Terminal};
use crate::jwt::{CHECKS, json_text};
use crate::{
    JWT_METADATA, Jwks, Metadata, NoStore, ResourceKind, Token, TokenFault, TokenStore, Trace, check_tokens, keys_needed, token_requirement,
};

/// When requests come, in seconds since 1970.
const NOW: u64 = 1_700_000_000;

struct Keys {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    ed: Ed25519KeyPair::generate().unwrap(),
});

fn sign(algorithm: &str, text: &[u8]) -> Vec<u8> {
    let random = SystemRandom::new();
    let mut rsa = vec![0; KEYS.rsa.public_modulus_len()];
    match algorithm {
        "RS256" => KEYS.rsa.sign(&RSA_PKCS1_SHA256, &random, text, &mut rsa).map(|()| rsa).unwrap(),
        "PS256" => KEYS.rsa.sign(&RSA_PSS_SHA256, &random, text, &mut rsa).map(|()| rsa).unwrap(),
        "ES256" => KEYS.ec.sign(&random, text).unwrap().as_ref().to_vec(),
        "EdDSA" => KEYS.ed.sign(text).as_ref().to_vec(),
        // With the public key as the secret.
        "HS256" => {
            let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, KEYS.rsa.public_key().as_ref());
            aws_lc_rs::hmac::sign(&key, text).as_ref().to_vec()
        }
        _ => Vec::new(),
    }
}

/// The header, the claims and the algorithm that really signs.
fn signed(header: &str, claims: &str, by: &str) -> String {
    let text = format!("{}.{}", B64.encode(header), B64.encode(claims));
    format!("{text}.{}", B64.encode(sign(by, text.as_bytes())))
}

/// A good token of issuer `a`, with more claims or other ones.
fn token(more: Value) -> String {
    let mut claims = json!({"iss": "a", "sub": "ann", "exp": NOW + 100});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signed(r#"{"alg":"EdDSA","kid":"ed"}"#, &claims.to_string(), "EdDSA")
}

fn rsa_jwk(kid: &str) -> Value {
    let key = KEYS.rsa.public_key();
    let (n, e) = (key.modulus().big_endian_without_leading_zero(), key.exponent().big_endian_without_leading_zero());
    json!({"kty": "RSA", "kid": kid, "n": B64.encode(n), "e": B64.encode(e)})
}

fn ec_jwk(kid: &str) -> Value {
    let (x, y) = KEYS.ec.public_key().as_ref()[1..].split_at(32);
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": B64.encode(x), "y": B64.encode(y)})
}

fn ed_jwk(kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": B64.encode(KEYS.ed.public_key().as_ref())})
}

/// All keys, by inline JSON.
fn keys() -> Value {
    json!({"inline_string": json!({"keys": [rsa_jwk("rsa"), ec_jwk("ec"), ed_jwk("ed"), {"kty": "oct", "k": "AAAA"}]}).to_string()})
}

fn filter(config: &Value) -> Value {
    let mut config = config.clone();
    config["@type"] = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication".into();
    let router = json!({"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
    one_chain(json!([hcm(json!({"httpFilters": [{"name": "jwt", "typed_config": config}, router]}))]))
}

fn authn(config: &Value) -> JwtAuthn {
    let listener = listener(&filter(config));
    let Terminal::Http(manager) = &listener.chains[0].filters.last else { panic!("{listener:?}") };
    match &manager.filters.first().expect("the filter was taken").kind {
        HttpFilterKind::JwtAuthn(authn) => (**authn).clone(),
        other => panic!("{other:?}"),
    }
}

/// As Istio has it for one issuer `a`, with more in its provider.
fn of_a(more: Value) -> JwtAuthn {
    let mut provider = json!({"issuer": "a", "local_jwks": keys(), "payload_in_metadata": "payload",
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]}});
    for (name, value) in more.as_object().unwrap() {
        provider[name] = value.clone();
    }
    let either = json!({"requires_any": {"requirements": [{"provider_name": "origins-0"}, {"allow_missing": {}}]}});
    authn(
        &json!({"providers": {"origins-0": provider}, "bypass_cors_preflight": true, "rules": [{"match": {"prefix": "/"}, "requires": either}]}),
    )
}

/// `ok` or what is wrong, the head after it, and what is in the metadata.
fn run(authn: &JwtAuthn, head: &mut Head) -> (String, Metadata) {
    let mut metadata = Metadata::default();
    let requirement = match token_requirement(authn, None, head, 0).unwrap() {
        Some(requirement) => requirement,
        None => return ("free".to_owned(), metadata),
    };
    let mut notes = Vec::new();
    let (result, findings) = check_tokens(authn, requirement, Duration::from_secs(NOW), head, &mut NoStore, &mut Trace::to(&mut notes));
    metadata.merge(JWT_METADATA, findings.metadata);
    let text = match result {
        Ok(()) => "ok".to_owned(),
        Err(refusal) => {
            assert!(!refusal.why.contains("eyJ"), "no token is shown: {}", refusal.why);
            format!("{}: {}", refusal.fault, refusal.why)
        }
    };
    (text, metadata)
}

fn bearer(token: &str) -> Head {
    request(&format!("GET a/x\nauthorization: Bearer {token}"))
}

#[test]
fn bypass_attempts() {
    let rule = of_a(json!({}));
    let good = token(json!({}));
    let claims = json!({"iss": "a", "sub": "ann"}).to_string();
    let parts: Vec<&str> = good.split('.').collect();
    let check = |token: &str, wanted: &str| {
        let (got, metadata) = run(&rule, &mut bearer(token));
        assert!(got.starts_with(wanted), "{wanted}: {got} for {token:.200}");
        assert_eq!(metadata.value(JWT_METADATA, ["payload"]).is_some(), wanted == "ok", "{token}");
    };
    check(&good, "ok");
    for (header, by) in [
        (r#"{"alg":"RS256","kid":"rsa"}"#, "RS256"),
        (r#"{"alg":"PS256"}"#, "PS256"),
        (r#"{"alg":"ES256","kid":"ec"}"#, "ES256"),
        (r#"{"alg":"EdDSA"}"#, "EdDSA"),
        (r#"{"alg":"EdDSA","kid":"","typ":"JWT"}"#, "EdDSA"),
    ] {
        check(&signed(header, &claims, by), "ok");
    }
    for (header, by, wanted) in [
        // No algorithm, and the public key as a shared secret.
        (r#"{"alg":"none"}"#, "", "Jwt header [alg] is not supported"),
        (r#"{"alg":"None"}"#, "", "Jwt header [alg] is not supported"),
        (r#"{"alg":""}"#, "", "Jwt header [alg] is not supported"),
        (r#"{"alg":"HS256","kid":"rsa"}"#, "HS256", "Jwt header [alg] is not supported"),
        (r#"{"alg":"hs256"}"#, "HS256", "Jwt header [alg] is not supported"),
        (r#"{}"#, "EdDSA", "Jwt header [alg] field is required"),
        (r#"{"alg":["EdDSA"]}"#, "EdDSA", "Jwt header [alg] field is required"),
        (r#"{"alg":null}"#, "EdDSA", "Jwt header [alg] field is required"),
        // Another algorithm than the one that signs, of the same key and of another.
        (r#"{"alg":"PS256","kid":"rsa"}"#, "RS256", "Jwt verification fails"),
        (r#"{"alg":"RS256","kid":"rsa"}"#, "HS256", "Jwt verification fails"),
        (r#"{"alg":"RS256","kid":"ec"}"#, "RS256", "Jwks doesn't have key to match kid or alg"),
        (r#"{"alg":"ES256","kid":"ed"}"#, "ES256", "Jwks doesn't have key to match kid or alg"),
        (r#"{"alg":"ES384","kid":"ec"}"#, "ES256", "Jwks doesn't have key to match kid or alg"),
        (r#"{"alg":"EdDSA","kid":"../../dev/null"}"#, "EdDSA", "Jwks doesn't have key to match kid or alg"),
        (r#"{"alg":"EdDSA","kid":"ED"}"#, "EdDSA", "Jwks doesn't have key to match kid or alg"),
        (r#"{"alg":"EdDSA","kid":["ed"]}"#, "EdDSA", "Jwt header [kid] field is not a string"),
        // Keys that the token brings itself are not looked at.
        (
            r#"{"alg":"EdDSA","kid":"x","jwk":{"kty":"OKP","crv":"Ed25519","kid":"x","x":"AA"},"jku":"http://evil"}"#,
            "EdDSA",
            "Jwks doesn't",
        ),
        (r#"{"alg":"EdDSA","crit":["exp"],"exp":1}"#, "EdDSA", "Jwt header [crit] is not supported"),
        (r#"{"alg":"EdDSA","b64":false,"crit":["b64"]}"#, "EdDSA", "Jwt header [crit] is not supported"),
        // One name twice.
        (r#"{"alg":"none","alg":"EdDSA"}"#, "EdDSA", "Jwt header is an invalid JSON"),
        (r#"{"alg":"EdDSA"} x"#, "EdDSA", "Jwt header is an invalid JSON"),
        (r#"["alg"]"#, "EdDSA", "Jwt header is an invalid JSON"),
    ] {
        check(&signed(header, &claims, by), wanted);
    }
    for (claims, wanted) in [
        (r#"{"iss":"a","sub":"ann","sub":"root"}"#, "Jwt payload is an invalid JSON"),
        (r#"{"iss":"b","iss":"a"}"#, "Jwt payload is an invalid JSON"),
        (r#"{"iss":"a","x":{"y":1,"y":2}}"#, "Jwt payload is an invalid JSON"),
        (r#"{"iss":"a""#, "Jwt payload is an invalid JSON"),
        ("null", "Jwt payload is an invalid JSON"),
        (r#"{"iss":"b"}"#, "Jwt issuer is not configured"),
        (r#"{"iss":"A"}"#, "Jwt issuer is not configured"),
        (r#"{"iss":"a "}"#, "Jwt issuer is not configured"),
        (r#"{"iss":""}"#, "Jwt issuer is not configured"),
        (r#"{"sub":"ann"}"#, "Jwt issuer is not configured"),
        (r#"{"iss":["a"]}"#, "Jwt payload [iss] field is not a string"),
        (r#"{"iss":null}"#, "Jwt payload [iss] field is not a string"),
        (r#"{"iss":"a","sub":7}"#, "Jwt payload [sub] field is not a string"),
        (r#"{"iss":"a","jti":7}"#, "Jwt payload [jti] field is not a string"),
        (r#"{"iss":"a","aud":7}"#, "Jwt payload [aud] field is not a string or string list"),
        (r#"{"iss":"a","aud":["x",7]}"#, "Jwt payload [aud] field is not a string or string list"),
        (r#"{"iss":"a","exp":"9999999999"}"#, "Jwt payload [exp] field is not an integer"),
        (r#"{"iss":"a","exp":null}"#, "Jwt payload [exp] field is not an integer"),
        (r#"{"iss":"a","exp":-1}"#, "Jwt payload [exp] field is not a positive 64 bit integer"),
        (r#"{"iss":"a","exp":1e300}"#, "Jwt payload [exp] field is not a positive 64 bit integer"),
        (r#"{"iss":"a","nbf":"0"}"#, "Jwt payload [nbf] field is not an integer"),
        (r#"{"iss":"a","nbf":-1}"#, "Jwt payload [nbf] field is not a positive 64 bit integer"),
        (r#"{"iss":"a","iat":true}"#, "Jwt payload [iat] field is not an integer"),
        (r#"{"iss":"a","iat":-1}"#, "Jwt payload [iat] field is not a positive 64 bit integer"),
        (r#"{"iss":"a","exp":0}"#, "Jwt is expired"),
        (r#"{"iss":"a","exp":1699999999}"#, "ok"),
        (r#"{"iss":"a","exp":1699999940}"#, "ok"),
        (r#"{"iss":"a","exp":1699999939}"#, "Jwt is expired: the token in header authorization: of issuer \"a\": it has expired 61 s ago"),
        (r#"{"iss":"a","exp":1699999939.9}"#, "Jwt is expired"),
        (r#"{"iss":"a","nbf":1700000060}"#, "ok"),
        (
            r#"{"iss":"a","nbf":1700000061}"#,
            "Jwt not yet valid: the token in header authorization: of issuer \"a\": it becomes good in 61 s",
        ),
    ] {
        check(&signed(r#"{"alg":"EdDSA"}"#, claims, "EdDSA"), wanted);
    }
    let (h, c, s) = (parts[0], parts[1], parts[2]);
    let other = token(json!({"sub": "root"}));
    let other: Vec<&str> = other.split('.').collect();
    let form = "Jwt is not in the form";
    for (token, wanted) in [
        (format!("{h}.{c}"), form),
        (format!("{h}.{c}.{s}.{s}"), form),
        (format!("{h}.{c}.{s}."), form),
        (h.to_owned(), form),
        ("..".to_owned(), "Jwt header is an invalid JSON"),
        (format!("{h}.{c}."), "Jwt verification fails"),
        (format!("{h}.{}.{s}", other[1]), "Jwt verification fails"),
        (format!("{h}.{c}.{}", other[2]), "Jwt verification fails"),
        (format!("{h}..{s}"), "Jwt payload is an invalid JSON"),
        (format!("{h}.{c}.{}", &s[..s.len() - 1]), "Jwt signature is an invalid Base64url"),
        (format!("{h}A.{c}.{s}"), "Jwt header is an invalid"),
        ("a".repeat(33_000), "Jwt is too long"),
        (format!("{h}.{c}.{s}=="), "Jwt signature is an invalid Base64url"),
        (format!("{h}=.{c}.{s}"), "Jwt header is an invalid Base64url"),
        (token(json!({"x": "y".repeat(25_000)})), "Jwt is too long"),
        (signed(r#"{"alg":"EdDSA"}"#, &format!(r#"{{"iss":"a","x":{}1{}}}"#, "[".repeat(500), "]".repeat(500)), "EdDSA"), "Jwt payload is"),
    ] {
        check(&token, wanted);
    }
    // The last characters of a signature that stand for the same bytes.
    let twin = |c: char| char::from_u32(c as u32 + 1).unwrap();
    let last = s.chars().last().unwrap();
    check(&format!("{h}.{c}.{}{}", &s[..s.len() - 1], twin(last)), "Jwt signature is an invalid Base64url");
}

#[test]
fn several_tokens() {
    let rule = of_a(
        json!({"from_headers": [{"name": "authorization", "value_prefix": "Bearer "}, {"name": "x-token"}], "from_params": ["t"], "from_cookies": ["c"]}),
    );
    let (good, bad) = (token(json!({})), token(json!({"iss": "b"})));
    let check = |lines: &str, wanted: &str| {
        let lines = lines.replace("GOOD", &good).replace("BAD", &bad);
        let (got, _) = run(&rule, &mut request(&lines));
        assert!(got.starts_with(wanted), "{lines:.60}: {got}");
    };
    check("GET a/", "ok");
    check("GET a/\nauthorization: Basic eyJ", "ok");
    check("GET a/?t=GOOD", "ok");
    check("GET a/?t=BAD", "Jwt issuer");
    check("GET a/\ncookie: a=1; c=GOOD", "ok");
    check("GET a/\ncookie: a=1; c=BAD", "Jwt issuer");
    check("GET a/\nx-token: GOOD", "ok");
    check("GET a/\nx-token: GOOD, BAD", "Jwt is not in the form");
    // Whoever comes after may take any of them.
    check("GET a/\nauthorization: Bearer GOOD\nauthorization: Bearer BAD", "Jwt signature is an invalid Base64url");
    check("GET a/\nauthorization: Bearer GOOD, Bearer BAD", "Jwt signature is an invalid Base64url");
    check("GET a/\nauthorization: Bearer BAD, Bearer GOOD", "Jwt");
    check("GET a/\nauthorization: Bearer \"GOOD\"", "Jwt header is an invalid Base64url");
    check("GET a/?t=GOOD&t=BAD", "Jwt issuer");
    check("GET a/?t=BAD\nauthorization: Bearer GOOD", "Jwt issuer");
    check("GET a/?t=GOOD\nauthorization: Bearer GOOD\nx-token: GOOD\ncookie: c=GOOD", "ok");
    check("GET a/\nauthorization: Bearer GOOD\ncookie: c=BAD", "Jwt issuer");
    check("GET a/?%74=BAD\nauthorization: Bearer GOOD", "Jwt issuer");
    let many = format!("GET a/?{}", (0..40).map(|i| format!("t={i}")).collect::<Vec<_>>().join("&"));
    check(&many, "Found multiple Jwt tokens");
    check("OPTIONS a/\norigin: http://b\naccess-control-request-method: GET\nauthorization: Bearer BAD", "free");
    check("OPTIONS a/\norigin: http://b\nauthorization: Bearer BAD", "Jwt issuer");
    check("GET a/\norigin: http://b\naccess-control-request-method: GET\nauthorization: Bearer BAD", "Jwt issuer");
}

#[test]
fn audiences_subjects_lifetimes() {
    let check = |provider: Value, claims: Value, wanted: &str| {
        let (got, _) = run(&of_a(provider.clone()), &mut bearer(&token(claims.clone())));
        assert!(got.starts_with(wanted), "{provider} {claims}: {got}");
    };
    let shop = json!({"audiences": ["shop", "https://b.example/"]});
    let no = "Audiences in Jwt are not allowed: the token in header authorization: of issuer \"a\": its audiences are";
    for (aud, wanted) in [
        (json!("shop"), "ok"),
        (json!(["x", "shop"]), "ok"),
        (json!("b.example"), "ok"),
        (json!("http://b.example"), "ok"),
        (json!("x"), no),
        (json!("SHOP"), no),
        (json!([]), no),
        (json!("shop2"), no),
        (json!(""), no),
    ] {
        check(shop.clone(), json!({"aud": aud}), wanted);
    }
    check(shop, json!({}), no);
    check(json!({"subjects": {"prefix": "an"}}), json!({}), "ok");
    check(json!({"subjects": {"exact": "bob"}}), json!({}), "Subject in Jwt is not allowed");
    check(json!({"max_lifetime": "50s"}), json!({}), "Jwt has no expiration, or its lifetime is too long");
    check(json!({"max_lifetime": "200s", "require_expiration": true}), json!({}), "ok");
    check(json!({"clock_skew_seconds": 5}), json!({"exp": NOW - 6}), "Jwt is expired");
}

#[test]
fn what_is_left() {
    let rule = of_a(json!({
        "forward_payload_header": "x-payload", "pad_forward_payload_header": true, "header_in_metadata": "header",
        "claim_to_headers": [{"header_name": "X-User", "claim_name": "sub"}, {"header_name": "x-deep", "claim_name": "a.b"},
            {"header_name": "x-list", "claim_name": "groups"}, {"header_name": "x-n", "claim_name": "n"}, {"header_name": "x-no", "claim_name": "no"},
            {"header_name": "x-b", "claim_name": "ok"}, {"header_name": "x-bad", "claim_name": "bad"}],
        "clear_route_cache": true,
    }));
    let token = token(json!({"a": {"b": 1.5}, "groups": ["x", "y"], "n": 12, "ok": true, "scope": "read  write", "bad": "x\r\ny: z"}));
    // Headers of these names that a client sends are not believed, whether or not there is a token.
    let mut head = request(&format!("GET a/x\nauthorization: Bearer {token}\nx-no: root\nx-user: root\nx-payload: root"));
    let (got, metadata) = run(&rule, &mut head);
    assert_eq!(got, "ok");
    let header = |name: &str| head.get_joined(name).map(|v| String::from_utf8_lossy(&v).into_owned()).unwrap_or_default();
    assert!(!head.contains("authorization"), "it is not forwarded");
    assert_eq!([header("x-user"), header("x-deep"), header("x-n"), header("x-b"), header("x-no")], ["ann", "1.500000", "12", "true", ""]);
    assert_eq!(header("x-list"), "WyJ4IiwieSJd");
    assert!(!head.contains("x-bad") && !head.contains("y"));
    let padded = header("x-payload");
    assert_eq!((padded.trim_end_matches('='), padded.len() % 4), (token.split('.').nth(1).unwrap(), 0));
    let value = |path: &[&str]| metadata.value(JWT_METADATA, path.iter().copied()).map(json_text).unwrap_or_default();
    assert_eq!(value(&["payload", "sub"]), r#""ann""#);
    assert_eq!(value(&["payload", "scope"]), r#"["read","write"]"#);
    assert_eq!(value(&["payload", "a", "b"]), "1.5");
    assert_eq!(value(&["header", "kid"]), r#""ed""#);
    let mut without = request("GET a/x\nx-user: root\nx-payload: root");
    assert_eq!(run(&rule, &mut without).0, "ok");
    assert!(without.is_empty(), "{without:?}");
    // Forwarded where it is said, and taken out of a query where it is not.
    let mut head = bearer(&token);
    assert_eq!(run(&of_a(json!({"forward": true})), &mut head).0, "ok");
    assert!(head.contains("authorization"));
    let mut head = request(&format!("GET a/x?access_token={token}&y=1"));
    assert_eq!((run(&of_a(json!({})), &mut head).0.as_str(), head.path()), ("ok", "/x?y=1"));
}

#[test]
fn several_issuers() {
    let provider = |issuer: &str, key: Value, more: Value| {
        let mut provider = json!({"issuer": issuer, "local_jwks": {"inline_string": json!({"keys": [key]}).to_string()}, "payload_in_metadata": "payload"});
        for (name, value) in more.as_object().unwrap() {
            provider[name] = value.clone();
        }
        provider
    };
    let or_none = |name: &str| json!({"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}});
    let rule = authn(&json!({
    "providers": {
        "origins-0": provider("a", ed_jwk("k"), json!({})),
        "origins-1": provider("b", ec_jwk("k"), json!({"from_headers": [{"name": "x-token"}]})),
        "origins-2": provider("c", ec_jwk("k"), json!({})),
    },
    "rules": [
        {"match": {"prefix": "/free"}},
        {"match": {"prefix": "/must"}, "requires": {"provider_name": "origins-0"}},
        {"match": {"prefix": "/for"}, "requires": {"provider_and_audiences": {"provider_name": "origins-0", "audiences": ["shop"]}}},
        {"match": {"prefix": "/may"}, "requires": {"allow_missing_or_failed": {}}},
        {"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "origins-0"}, {"provider_name": "origins-1"}, {"provider_name": "origins-2"},
            {"requires_all": {"requirements": [or_none("origins-0"), or_none("origins-1"), or_none("origins-2")]}}]}}},
    ]}));
    let by = |issuer: &str, key: &str| signed(&json!({"alg": key, "kid": "k"}).to_string(), &json!({"iss": issuer}).to_string(), key);
    let check = |path: &str, lines: &str, wanted: &str| {
        let (got, _) = run(&rule, &mut request(format!("GET a{path}\n{lines}").trim_end()));
        assert!(got.starts_with(wanted), "{path} {lines:.60}: {got}");
    };
    let auth = |issuer: &str, key: &str| format!("authorization: Bearer {}", by(issuer, key));
    check("/", "", "ok");
    check("/", &auth("a", "EdDSA"), "ok");
    check("/", &auth("c", "ES256"), "ok");
    // Another issuer's key, though its name is the same.
    check("/", &auth("a", "ES256"), "Jwks doesn't have key to match kid or alg");
    check("/", &auth("c", "EdDSA"), "Jwks doesn't have key to match kid or alg");
    check("/", &auth("d", "EdDSA"), "Jwt issuer is not configured");
    check("/", &auth("b", "ES256"), "Jwt issuer is not configured");
    check("/", &format!("x-token: {}", by("b", "ES256")), "ok");
    check("/", &format!("x-token: {}", by("a", "EdDSA")), "Jwt issuer is not configured");
    check("/must", "", "Jwt is missing: there is no token in header authorization, query parameter access_token");
    check("/must", &auth("a", "EdDSA"), "ok");
    check(
        "/must",
        &auth("c", "ES256"),
        "Jwt issuer is not configured: the token in header authorization: it is of the issuer \"c\", wanted is \"a\"",
    );
    check("/for", &auth("a", "EdDSA"), "Audiences in Jwt are not allowed");
    check("/free", &auth("d", "EdDSA"), "free");
    check("/may", &auth("d", "EdDSA"), "ok");
    check("/may", "", "ok");
}

/// Keeps all, as one worker's cache does over all of its filters.
#[derive(Default)]
struct KeepsAll(HashMap<([u8; 32], String), Arc<Token>>);

impl TokenStore for KeepsAll {
    fn keys(&mut self, _: &Arc<RemoteJwks>) -> Option<Arc<Jwks>> {
        None
    }

    fn known(&mut self, keys: &Jwks, text: &str) -> Option<Arc<Token>> {
        self.0.get(&(*keys.id(), text.to_owned())).cloned()
    }

    fn keep(&mut self, keys: &Jwks, text: &str, token: &Arc<Token>) {
        self.0.insert((*keys.id(), text.to_owned()), token.clone());
    }

    fn lacks(&mut self, _: &Arc<RemoteJwks>) {}
}

/// However many requirements are about a token, its signature is checked once: who sends bad ones is not to cost more than who sends good ones.
#[test]
fn a_signature_is_checked_once() {
    let provider = |issuer: &str| json!({"issuer": issuer, "local_jwks": keys(), "payload_in_metadata": "payload"});
    let or_none = |name: &str| json!({"requires_any": {"requirements": [{"provider_name": name}, {"allow_missing": {}}]}});
    let two = authn(&json!({
        "providers": {"origins-0": provider("a"), "origins-1": provider("b")},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "origins-0"}, {"provider_name": "origins-1"},
            {"requires_all": {"requirements": [or_none("origins-0"), or_none("origins-1")]}}]}}}],
    }));
    let check = |rule: &JwtAuthn, key: &str, by: &str, wanted: &str, checks: usize| {
        CHECKS.set(0);
        let token = signed(&json!({"alg": "EdDSA", "kid": key}).to_string(), r#"{"iss":"a","sub":"ann"}"#, by);
        let (got, _) = run(rule, &mut bearer(&token));
        assert!(got.starts_with(wanted), "{key} {by}: {got}");
        assert_eq!(CHECKS.get(), checks, "{key} {by}");
    };
    for rule in [&of_a(json!({})), &two] {
        check(rule, "ed", "EdDSA", "ok", 1);
        check(
            rule,
            "ed",
            "ES256",
            "Jwt verification fails: the token in header authorization: of issuer \"a\": its signature (EdDSA by key",
            1,
        );
        check(rule, "x", "EdDSA", "Jwks doesn't have key to match kid or alg from Jwt: the token in header authorization: of issuer", 1);
    }
}

/// What one issuer's keys have signed elsewhere is not taken for another's signature.
#[test]
fn what_is_known_is_known_of_its_keys_alone() {
    let provider =
        |issuer: &str, key: Value| json!({"issuer": issuer, "local_jwks": {"inline_string": json!({"keys": [key]}).to_string()}});
    let filter = |providers: Value| {
        authn(&json!({"providers": providers, "rules": [{"match": {"prefix": "/"}, "requires": {"allow_missing": {}}}]}))
    };
    let lax = filter(json!({"all": provider("", ed_jwk("k"))}));
    let strict = filter(json!({"a": provider("a", ed_jwk("k")), "b": provider("b", ec_jwk("k"))}));
    let mut store = KeepsAll::default();
    let mut check = |authn: &JwtAuthn, issuer: &str, algorithm: &str, wanted: Result<(), TokenFault>| {
        let token = signed(&json!({"alg": algorithm, "kid": "k"}).to_string(), &json!({"iss": issuer}).to_string(), algorithm);
        let mut head = bearer(&token);
        let requirement = token_requirement(authn, None, &head, 0).unwrap().unwrap();
        let (got, _) = check_tokens(authn, requirement, Duration::from_secs(NOW), &mut head, &mut store, &mut Trace::off());
        assert_eq!(got.map_err(|refusal| refusal.fault), wanted, "{issuer} {algorithm}");
    };
    check(&lax, "b", "EdDSA", Ok(()));
    check(&strict, "b", "EdDSA", Err(TokenFault::NoSuchKey));
    check(&strict, "a", "EdDSA", Ok(()));
    check(&strict, "a", "EdDSA", Ok(()));
    check(&lax, "a", "EdDSA", Ok(()));
}

#[test]
fn configurations() {
    let check = |config: Value, wanted: &str| {
        let got = match compiled(ResourceKind::Listener, &filter(&config)) {
            Ok(compiled) => {
                let closed = compiled.closed.iter().map(|c| format!("{}: {}", c.field, c.reason));
                closed.chain(compiled.warnings.iter().map(|w| format!("{}: {}", w.field, w.reason))).collect::<Vec<_>>().join("; ")
            }
            Err(refusal) => refusal.to_string(),
        };
        assert!(if wanted.is_empty() { got.is_empty() } else { got.contains(wanted) }, "{config}: {got}");
    };
    let one = |provider: Value| json!({"providers": {"p": provider}});
    let with = |more: Value| {
        let mut provider = json!({"issuer": "a", "local_jwks": keys()});
        provider[more.as_object().unwrap().keys().next().unwrap()] = more.as_object().unwrap().values().next().unwrap().clone();
        one(provider)
    };
    check(with(json!({"jwt_cache_config": {"jwt_cache_size": 3}})), "a key is left out: keys[3]: shared secrets are not supported");
    check(one(json!({"issuer": "a"})), "providers[p].jwks_source_specifier: it is required");
    check(one(json!({"local_jwks": {"filename": "/x"}})), "providers[p].local_jwks.filename: not supported");
    for (keys, why) in [
        ("", "it is no JSON object"),
        ("{}", "it has no `keys`"),
        (r#"{"keys":{}}"#, "`keys` is no list"),
        (r#"{"keys":[]}"#, "`keys` is empty"),
        (r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "its modulus has not from 2048"),
        (r#"{"keys":[{"kty":"RSA","e":"AQAB"}]}"#, "it has no `n`"),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}]}"#, "its point is not on its curve"),
        (r#"{"keys":[{"kty":"OKP","crv":"X25519","x":"AQAB"}]}"#, "the curve \"X25519\" is not supported"),
        (r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB","d":"AQAB"}]}"#, "it is a private key"),
        (r#"{"keys":[{"kty":"x"}]}"#, "the key type \"x\" is not supported"),
        (r#"{"keys":[{}]}"#, "it has no `kty`"),
    ] {
        check(one(json!({"local_jwks": {"inline_string": keys}})), why);
    }
    check(one(json!({"remote_jwks": {"http_uri": {"uri": "ftp://x/y", "cluster": "c", "timeout": "1s"}}})), "begins neither with http://");
    check(one(json!({"remote_jwks": {"http_uri": {"uri": "https://x/y", "cluster": "c", "timeout": "1s"}}})), "");
    check(one(json!({"remote_jwks": {}})), "remote_jwks.http_uri: it is required");
    check(with(json!({"claim_to_headers": [{"header_name": ":path", "claim_name": "sub"}]})), "a claim cannot say where a request goes");
    check(with(json!({"claim_to_headers": [{"header_name": "a b", "claim_name": "sub"}]})), "is not a header's name");
    check(with(json!({"claim_to_headers": [{"header_name": "x", "claim_name": ""}]})), "a claim has a name");
    let rule = |requires: Value| json!({"providers": {}, "rules": [{"match": {"prefix": "/"}, "requires": requires}]});
    check(rule(json!({"provider_name": "x"})), "rules[0].requires.provider_name: there is no provider `x`");
    check(rule(json!({"requires_any": {}})), "requires_any: it is empty");
    check(rule(json!({"extract_only_without_validation": {}})), "extract_only_without_validation: not supported");
    check(json!({"filter_state_rules": {"name": "x"}}), "filter_state_rules: not supported");
    check(json!({"rules": [{"match": {"prefix": "/"}, "requirement_name": "x"}]}), "there is no requirement `x`");
}

#[test]
fn keys_that_are_fetched() {
    let remote = |uri: &str| json!({"http_uri": {"uri": uri, "cluster": "keys", "timeout": "1s"}});
    let rule = authn(&json!({
        "providers": {"p": {"issuer": "a", "remote_jwks": remote("http://keys.example/jwks?x=1")}, "q": {"issuer": "b", "remote_jwks": remote("https://keys.example")}},
        "rules": [{"match": {"prefix": "/p"}, "requires": {"requires_any": {"requirements": [{"provider_name": "p"}, {"allow_missing": {}}]}}}, {"match": {"prefix": "/"}, "requires": {"allow_missing": {}}}]}));
    let needed = |path: &str, token: &str| {
        let head = request(&format!("GET a{path}\nauthorization: Bearer {token}"));
        let requirement = token_requirement(&rule, None, &head, 0).unwrap().unwrap();
        keys_needed(&rule, requirement, &head, |_| true).map(|from| (from.authority.to_string(), from.path.to_string(), from.secure))
    };
    let keys = |path: &str, secure| Some(("keys.example".to_owned(), path.to_owned(), secure));
    assert_eq!(needed("/p", &token(json!({}))), keys("/jwks?x=1", false));
    assert_eq!(needed("/p", &token(json!({"iss": "c"}))), None, "nobody's token makes anybody fetch");
    assert_eq!(needed("/p", "a.b.c"), None);
    assert_eq!(needed("/", &token(json!({"iss": "b"}))), keys("/", true));
    assert_eq!(
        run(&rule, &mut request(&format!("GET a/p\nauthorization: Bearer {}", token(json!({}))))).0.split(':').next(),
        Some("Jwks remote fetch is failed")
    );
}
