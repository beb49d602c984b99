//! Fetches from real servers on loopback.

use axum::{
    Router,
    http::{StatusCode, header::LOCATION},
    response::IntoResponse,
    routing::get,
};
use mizzen_api::istio::{KeySource, KeysUrl};
use mizzen_net::{ListenOptions, listen};
use tokio::net::TcpListener;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

async fn served() -> u16 {
    let socket = TcpListener::from_std(listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let openid = |uri: String| get(move || async move { format!(r#"{{"issuer":"x","jwks_uri":"{uri}"}}"#) });
    let moved = |to: &'static str| get(move || async move { (StatusCode::FOUND, [(LOCATION, to)]).into_response() });
    let router = Router::new()
        .route("/keys", get(|| async { "the keys" }))
        .route("/large", get(|| async { "x".repeat(MOST + 1) }))
        .route("/bytes", get(|| async { vec![0xff_u8] }))
        .route("/broken", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/moved", moved("/keys"))
        .route("/round", moved("/round"))
        .route("/away", moved("ftp://a.example/"))
        .route("/good/.well-known/openid-configuration", openid(format!("http://127.0.0.1:{port}/keys")))
        .route("/bad/.well-known/openid-configuration", openid("nowhere".to_owned()))
        .route("/none/.well-known/openid-configuration", get(|| async { "{}" }));
    tokio::spawn(async move { axum::serve(socket, router).await });
    port
}

#[tokio::test]
async fn fetches() {
    let port = served().await;
    let fetch = fetcher("");
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}").parse::<KeysUrl>().unwrap();
    let plain = |path: &str| KeySource::Url(url(path));
    let openid = |issuer: &str| KeySource::Discovery(url(&format!("{issuer}/.well-known/openid-configuration")));
    for (source, wanted) in [
        (plain("/keys"), Ok("the keys")),
        (plain("/moved"), Ok("the keys")),
        (openid("/good"), Ok("the keys")),
        (plain("/round"), Err("it has moved too often")),
        (plain("/away"), Err("the place that it is said to have moved to must be http://")),
        (plain("/broken"), Err("the answer is 503")),
        (plain("/nothing"), Err("the answer is 404")),
        (plain("/bytes"), Err("the answer is no text")),
        (plain("/large"), Err("body: length limit exceeded")),
        (openid("/bad"), Err("its jwks_uri must be http://")),
        (openid("/none"), Err("it is no OpenID configuration: missing field `jwks_uri`")),
        (openid("/nothing"), Err("the answer is 404")),
    ] {
        let got = fetch(source.clone(), PATIENCE).await;
        match (&got, wanted) {
            (Ok(got), Ok(wanted)) => assert_eq!(got, wanted),
            (Err(got), Err(wanted)) => assert!(got.starts_with(wanted), "{source:?}: {got}"),
            _ => panic!("{source:?}: {got:?}"),
        }
    }
    // Nobody is there.
    let unused = listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap().local_addr().unwrap().port();
    let gone = fetch(KeySource::Url(format!("http://127.0.0.1:{unused}/").parse().unwrap()), PATIENCE).await;
    assert!(gone.unwrap_err().contains("refused"));
    // A plaintext server where TLS was asked for, and a process that believes nobody.
    let secure = fetch(KeySource::Url(format!("https://127.0.0.1:{port}/").parse().unwrap()), PATIENCE).await;
    assert!(secure.is_err(), "{secure:?}");
    assert!(not_weaker(&"https://a/".parse().unwrap(), &"http://a/".parse().unwrap()).is_err());
}
