//! Tokens of users, at a gateway and at a workload: one table, put to Mizzen's proxies and to Envoys, and the issuer's keys in a file, then elsewhere.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use mizzen_testkit::{Mesh, Options, envoy, eventually, folder, workload};

const MIZZEN: &str = env!("CARGO_BIN_EXE_mizzen");

/// The program of the mesh is this very executable: it answers with the head that it sees.
#[test]
#[ignore = "a workload of the mesh that the other tests start"]
fn run() {
    if std::env::var_os(workload::VARIABLE).is_some() {
        workload::serve(8080, workload::echo);
    }
}

const MESH: &str = "
kind: Service
apiVersion: v1
metadata: {name: echo, namespace: cave}
spec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: echo, namespace: cave}
spec:
  hosts: ['*']
  gateways: [cave]
  http:
  - match: [{uri: {prefix: /team}, headers: {'@request.auth.claims.work.team': {exact: red}}}]
    directResponse: {status: 202}
  - match: [{uri: {prefix: /team}, withoutHeaders: {'@request.auth.claims.groups': {exact: staff}}}]
    directResponse: {status: 203}
  - route: [{destination: {host: echo}}]
";

fn key_set(key: &Ed25519KeyPair) -> String {
    format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"one","x":"{}"}}]}}"#, B64.encode(key.public_key().as_ref()))
}

/// What is said of tokens: at the gateway of one issuer, at the workload of another, in a header of its own.
fn authn(keys: &str, more: &str) -> String {
    format!(
        "
kind: RequestAuthentication
apiVersion: security.istio.io/v1
metadata: {{name: users, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  jwtRules:
  - issuer: https://issuer.example
    audiences: [cave]
    {keys}
    forwardOriginalToken: true
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
    {more}
---
kind: RequestAuthentication
apiVersion: security.istio.io/v1
metadata: {{name: inner, namespace: cave}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  jwtRules:
  - issuer: https://issuer.example
    {keys}
    fromHeaders: [{{name: x-inner}}]
    outputPayloadToHeader: x-payload
"
    )
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

fn token(key: &Ed25519KeyPair, header: &str, claims: &str) -> String {
    let text = format!("{}.{}", B64.encode(header), B64.encode(claims));
    format!("{text}.{}", B64.encode(key.sign(text.as_bytes()).as_ref()))
}

fn start(keys: &str, more: &str, options: Options) -> Mesh {
    let (mesh, authn) = (workload::gateway("cave") + MESH, authn(keys, more));
    let deployment = workload::deployment("cave", "echo", 8080);
    Mesh::start_with(MIZZEN, folder(&[("mesh.yaml", &mesh), ("echo.yaml", &deployment), ("authn.yaml", &authn)]).path(), options)
}

/// The table, by whichever proxies. Of two statuses the second one is Envoy's, which lets more pass: what is written twice, what a token demands to
/// be understood, an end at zero.
fn table(mesh: &Mesh, key: &Ed25519KeyPair, is_envoy: bool) {
    let other = Ed25519KeyPair::generate().expect("a key");
    let plain = r#"{"alg":"EdDSA","kid":"one"}"#;
    let claims = |more: &str| format!(r#"{{"iss":"https://issuer.example","sub":"ann","aud":"cave"{more}}}"#);
    let of = |header: &str, more: &str| token(key, header, &claims(more));
    let good = of(plain, "");
    let parts: Vec<&str> = good.split('.').collect();
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    // Keys that come by a URL may be on their way.
    mesh.wait_for("/", &[&bearer(&good)], "a good token", |status, body| status == 200 && body.contains("x-user: ann"));
    let check = |path: &str, headers: &[String], (ours, theirs): (u16, u16), part: &str| {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let (status, body) = mesh.get(path, &headers).expect("an answer");
        let what = headers.join(" ");
        assert_eq!(status, if is_envoy { theirs } else { ours }, "{path} {what:.300}: {body}\n{}", mesh.logs());
        assert!(status != ours || body.contains(part), "{path} {what:.300}: {body}");
    };
    let same = |status: u16| (status, status);
    check("/", &[], same(200), "get / http");
    check("/", &["x-user: root".to_owned()], same(200), "get / http");
    assert!(!mesh.get("/", &["x-user: root"]).expect("an answer").1.contains("x-user"), "nobody says of himself who he is");
    check("/", &[bearer(&token(&other, plain, &claims("")))], same(401), "Jwt verification fails");
    check("/", &[bearer(&token(key, plain, r#"{"iss":"https://other.example","aud":"cave"}"#))], same(401), "Jwt issuer is not configured");
    check(
        "/",
        &[bearer(&token(key, plain, r#"{"iss":"https://issuer.example","aud":"x"}"#))],
        same(403),
        "Audiences in Jwt are not allowed",
    );
    for (more, status, part) in [
        (format!(r#","exp":{}"#, now() - 70), same(401), "Jwt is expired"),
        (format!(r#","exp":{}"#, now() - 30), same(200), ""),
        (format!(r#","nbf":{}"#, now() + 90), same(401), "Jwt not yet valid"),
        (format!(r#","nbf":{}"#, now() + 30), same(200), ""),
        (r#","exp":"9999999999""#.to_owned(), same(401), "Jwt payload [exp] field is not an integer"),
        (r#","exp":-1"#.to_owned(), same(401), "Jwt payload [exp] field is not a positive 64 bit integer"),
        (r#","exp":0"#.to_owned(), (401, 200), "Jwt is expired"),
        (r#","sub":"root""#.to_owned(), same(401), "Jwt payload is an invalid JSON"),
        (r#","jti":7"#.to_owned(), same(401), "Jwt payload [jti] field is not a string"),
    ] {
        check("/", &[bearer(&of(plain, &more))], status, part);
    }
    for (header, status) in [
        (r#"{"alg":"none"}"#, same(401)),
        (r#"{"alg":"HS256"}"#, (401, 200)),
        (r#"{"alg":"RS256"}"#, (401, 200)),
        (r#"{"alg":"EdDSA","kid":"two"}"#, same(401)),
        (r#"{"alg":"EdDSA","kid":["one"]}"#, same(401)),
        (r#"{"alg":"EdDSA","crit":["exp"]}"#, (401, 200)),
        (r#"{"alg":"none","alg":"EdDSA"}"#, same(401)),
        (r#"{"alg":"EdDSA"}"#, same(200)),
    ] {
        check("/", &[bearer(&of(header, ""))], status, "");
    }
    for bad in [
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}.x"),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], B64.encode(claims(r#","x":1"#)), parts[2]),
        format!("{good}="),
        format!("\"{good}\""),
        format!("{good}, Bearer {good}"),
    ] {
        check("/", &[bearer(&bad)], same(401), "Jwt");
    }
    check("/", &[bearer(&good), bearer(&good)], same(401), "Jwt");
    check(&format!("/?access_token={good}"), &[], same(200), "x-user: ann");
    check(&format!("/?access_token={good}&access_token=x"), &[], (401, 200), "Jwt");
    check("/?access_token=x", &[bearer(&good)], same(401), "Jwt");
    // At the workload: only there its header counts.
    let inner = |token: &str| format!("x-inner: {token}");
    check("/", &[inner(&good)], same(200), "x-payload: ");
    check("/", &[inner("x")], same(401), "Jwt is not in the form");
    check("/", &[inner(&token(&other, plain, &claims("")))], same(401), "Jwt verification fails");
    assert!(!mesh.get("/", &[&inner(&good)]).expect("an answer").1.contains("x-inner"), "it is not forwarded");
    // Routes by claims, at the gateway.
    for (more, status) in [
        (r#","work":{"team":"red"}"#, 202),
        (r#","work":{"team":["blue","red"]}"#, 202),
        (r#","work":{"team":"blue"}"#, 203),
        (r#","groups":["guest","staff"]"#, 200),
        (r#","groups":"staff""#, 200),
        (r#","groups":"guest""#, 203),
    ] {
        check("/team", &[bearer(&of(plain, more))], same(status), "");
    }
    check("/team", &[], same(203), "");
}

fn inline(key: &Ed25519KeyPair) -> String {
    format!("jwks: '{}'", key_set(key))
}

#[test]
fn by_mizzen() {
    let key = Ed25519KeyPair::generate().expect("a key");
    let mesh = start(&inline(&key), "", Options::default());
    table(&mesh, &key, false);
    // Every refusal says why, and none shows a token.
    let secret = token(&key, r#"{"alg":"EdDSA"}"#, r#"{"iss":"https://issuer.example","aud":"elsewhere"}"#);
    mesh.wait_for("/", &[&format!("authorization: Bearer {secret}")], "a refusal", |status, _| status == 403);
    // Other keys: the old tokens are worth nothing, the new ones all.
    let next = Ed25519KeyPair::generate().expect("a key");
    mesh.save("authn.yaml", &authn(&inline(&next), ""));
    let of = |key: &Ed25519KeyPair| {
        format!("authorization: Bearer {}", token(key, r#"{"alg":"EdDSA"}"#, r#"{"iss":"https://issuer.example","aud":"cave"}"#))
    };
    mesh.wait_for("/", &[&of(&next)], "the new key", |status, _| status == 200);
    assert_eq!(mesh.get("/", &[&of(&key)]).expect("an answer").0, 401);
    // A document that is refused leaves the last good one in force.
    mesh.save("authn.yaml", &authn(&inline(&next), "presence: REQUIRED"));
    let log = mesh.run_dir().join("mizzend/log");
    eventually("a refusal in the log", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("spec.jwtRules[0].presence: REQUIRED is not supported yet") { Ok(()) } else { Err(text) }
    });
    assert_eq!(mesh.get("/", &[&of(&key)]).expect("an answer").0, 401);
    assert!(!mesh.logs().contains(secret.as_str()), "no token in any log");
}

#[test]
fn by_envoy() {
    let Some(program) = envoy() else { return };
    let key = Ed25519KeyPair::generate().expect("a key");
    let args = vec!["--data-plane".to_owned(), format!("envoy={}", program.display())];
    let mesh = start(&inline(&key), "", Options { args, ..Options::default() });
    table(&mesh, &key, true);
}

/// The issuer's server: what it answers, or that it is down.
struct Issuer {
    answer: Mutex<Option<String>>,
    asked: AtomicUsize,
}

impl Issuer {
    fn start(answer: String) -> (Arc<Issuer>, u16) {
        let issuer = Arc::new(Issuer { answer: Mutex::new(Some(answer)), asked: AtomicUsize::new(0) });
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let (this, port) = (issuer.clone(), listener.local_addr().expect("an address").port());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                this.asked.fetch_add(1, Ordering::Relaxed);
                let Some(keys) = this.answer.lock().expect("no panic").clone() else { continue };
                let _ = stream.read(&mut [0; 4096]);
                let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}", keys.len());
            }
        });
        (issuer, port)
    }

    /// From now on it answers so, and was asked so often since. Who gets no good answer asks less and less often.
    fn answers(&self, answer: Option<String>, times: usize) {
        *self.answer.lock().expect("no panic") = answer;
        let before = self.asked.load(Ordering::Relaxed);
        eventually(
            "the issuer is asked again",
            || if self.asked.load(Ordering::Relaxed) >= before + times { Ok(()) } else { Err("not yet") },
        );
    }
}

/// A hypothetical request with a token is judged by the keys that the control plane has fetched: each header with the command's exit code.
fn explained(mesh: &Mesh, calls: [(&str, i32); 2]) {
    let file = mesh.shared().join("token");
    for (header, code) in calls {
        std::fs::write(&file, header.trim_start_matches("authorization: Bearer ")).expect("a file");
        let asked = ["explain", "--from", "ingress", "--to", "cave.example", "--path", "/", "--jwt", &file.to_string_lossy()];
        let told = mesh.cli(&asked);
        assert_eq!(told.code, code, "{told:?}");
    }
}

/// Keys rotate, and the issuer is down for longer than keys are kept fresh: no good token is refused meanwhile, and no other one is let in.
#[test]
fn keys_rotate_under_load() {
    let keys: Vec<Ed25519KeyPair> = (0..3).map(|_| Ed25519KeyPair::generate().expect("a key")).collect();
    let jwk = |at: usize| format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"k{at}","x":"{}"}}"#, B64.encode(keys[at].public_key().as_ref()));
    let set = |all: &[usize]| format!(r#"{{"keys":[{}]}}"#, all.iter().map(|at| jwk(*at)).collect::<Vec<_>>().join(","));
    let bearer = |at: usize, more: &str| {
        let claims = format!(r#"{{"iss":"https://issuer.example","sub":"ann","aud":"cave"{more}}}"#);
        format!("authorization: Bearer {}", token(&keys[at], &format!(r#"{{"alg":"EdDSA","kid":"k{at}"}}"#), &claims))
    };
    let (issuer, port) = Issuer::start(set(&[0]));
    let options = Options {
        args: vec!["--outside".to_owned(), format!("192.0.2.9:8000=127.0.0.1:{port}")],
        env: vec![("PILOT_JWT_PUB_KEY_REFRESH_INTERVAL".to_owned(), "1s".to_owned())],
        ..Options::default()
    };
    let mesh = start("jwksUri: http://192.0.2.9:8000/keys", "", options);
    mesh.wait_for("/", &[&bearer(0, "")], "the first key", |status, _| status == 200);
    explained(&mesh, [(&bearer(0, ""), 0), (&bearer(1, ""), 1)]);
    // The key that tokens are signed by now; the load follows.
    let (signs, ends, counts) = (AtomicUsize::new(0), AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (mesh, bearer, signs, ends, counts) = (&mesh, &bearer, &signs, &ends, &counts);
            scope.spawn(move || {
                for i in 0.. {
                    if ends.load(Ordering::Acquire) {
                        return;
                    }
                    // Each token is another one, so that none is known from before.
                    let more = format!(r#","jti":"{number}-{i}""#);
                    let at = signs.load(Ordering::Acquire);
                    for (at, wanted, count) in [(at, 200, &counts[0]), (2, 401, &counts[1])] {
                        let (status, body) = mesh.get("/", &[&bearer(at, &more)]).expect("an answer");
                        assert_eq!(status, wanted, "key {at}, request {i}: {body}");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // The next key is told before it signs, and the old one goes when nothing is signed by it any more.
            issuer.answers(Some(set(&[0, 1])), 3);
            mesh.wait_for("/", &[&bearer(1, "")], "the second key", |status, _| status == 200);
            signs.store(1, Ordering::Release);
            issuer.answers(Some(set(&[1])), 3);
            mesh.wait_for("/", &[&bearer(0, "")], "the first one is gone", |status, _| status == 401);
            // Down, then silly: the last good keys stay.
            issuer.answers(None, 3);
            issuer.answers(Some("<html>".to_owned()), 1);
            issuer.answers(Some(set(&[1])), 1);
        }));
        ends.store(true, Ordering::Release);
        finished.expect("the issuer's changes");
    });
    println!("{counts:?} requests");
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 50), "{counts:?}");
}
