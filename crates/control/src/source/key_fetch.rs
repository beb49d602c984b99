//! One fetch of a key set over HTTP or HTTPS, by way of an OpenID configuration where only the issuer is known.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, header};
use mizzen_api::istio::{KeySource, KeysUrl};
use mizzen_net::{ConnectOptions, connect, connect_tls, fetch_up_to};
use mizzen_pki::{
    TrustBundle, server_verifier_by_name,
    tls::{TlsOptions, client_config},
};
use rustls::ClientConfig;
use serde::Deserialize;

use super::jwks::Fetch;

/// The longest answer that is read: 1 MiB.
const MOST: usize = 1 << 20;
/// So often is another URL followed.
const REDIRECTS: usize = 3;
/// Where systems keep their roots.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's roots, in PEM: the file that `SSL_CERT_FILE` names, else the first of the usual ones.
pub(crate) fn system_roots() -> String {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let mut files = named.iter().map(String::as_str).chain(SYSTEM);
    files.find_map(|file| std::fs::read_to_string(file).ok()).unwrap_or_default()
}

/// Fetches with these roots, in PEM. Certificates among them that cannot be read are left out.
pub(crate) fn fetcher(roots: &str) -> Fetch {
    let roots = TrustBundle::readable(roots.as_bytes());
    let options = TlsOptions { alpn: vec![b"http/1.1".to_vec()], ..TlsOptions::default() };
    let tls = server_verifier_by_name(&roots).and_then(|verifier| client_config(None, verifier, &options)).map_err(|e| e.to_string());
    Arc::new(move |source, timeout| Box::pin(keys(source, tls.clone(), timeout)))
}

/// What is read of an OpenID configuration.
#[derive(Deserialize)]
struct OpenId {
    jwks_uri: String,
}

type Tls = Result<Arc<ClientConfig>, String>;

async fn keys(source: KeySource, tls: Tls, timeout: Duration) -> Result<String, String> {
    let url = match source {
        KeySource::Inline(keys) => return Ok(keys),
        KeySource::Url(url) => url,
        KeySource::Discovery(url) => {
            let text = get(&url, &tls, timeout).await?;
            let OpenId { jwks_uri } = serde_json::from_str(&text).map_err(|error| format!("it is no OpenID configuration: {error}"))?;
            let next: KeysUrl = jwks_uri.parse().map_err(|error| format!("its jwks_uri {error}"))?;
            not_weaker(&url, &next)?;
            next
        }
    };
    get(&url, &tls, timeout).await
}

/// What was asked for over TLS is not taken from a plaintext server.
fn not_weaker(from: &KeysUrl, to: &KeysUrl) -> Result<(), String> {
    if from.secure && !to.secure { Err(format!("{to} is not https")) } else { Ok(()) }
}

async fn get(url: &KeysUrl, tls: &Tls, timeout: Duration) -> Result<String, String> {
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        let reply = once(&url, tls, timeout).await?;
        match reply.status.as_u16() {
            200 => return String::from_utf8(reply.body.to_vec()).map_err(|_| "the answer is no text".to_owned()),
            301 | 302 | 303 | 307 | 308 => {
                let to = reply.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
                let next: KeysUrl = match to.strip_prefix('/') {
                    Some(_) => KeysUrl { path: to.to_owned(), ..url.clone() },
                    None => to.parse().map_err(|error| format!("the place that it is said to have moved to {error}"))?,
                };
                not_weaker(&url, &next)?;
                url = next;
            }
            status => return Err(format!("the answer is {status}")),
        }
    }
    Err("it has moved too often".to_owned())
}

async fn once(url: &KeysUrl, tls: &Tls, timeout: Duration) -> Result<mizzen_net::Reply, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let addresses = tokio::net::lookup_host((url.host.as_str(), url.port)).await.map_err(|error| format!("{}: {error}", url.host))?;
    let options = ConnectOptions { timeout, ..ConnectOptions::default() };
    let mut last = format!("{} has no address", url.host);
    for address in addresses {
        let stream = match connect(address, &options).await {
            Ok(stream) => stream,
            Err(error) => {
                last = format!("{address}: {error}");
                continue;
            }
        };
        let authority = url.authority();
        let reply = if url.secure {
            let stream = connect_tls(stream, tls.clone()?, &url.host, timeout).await.map_err(|error| error.to_string())?;
            fetch_up_to(stream, Method::GET, &authority, &url.path, headers, "", MOST).await
        } else {
            fetch_up_to(stream, Method::GET, &authority, &url.path, headers, "", MOST).await
        };
        return reply.map_err(|error| error.to_string());
    }
    Err(last)
}

#[cfg(test)]
#[path = "key_fetch_tests.rs"]
mod tests;
