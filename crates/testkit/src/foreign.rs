//! An HTTPS server that is not of the mesh, with certificates of a test's own. What it sees of a caller is its answer.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use mizzen_pki::{Svid, TrustBundle, client_verifier, tls};
use rustls::{
    ServerConnection, StreamOwned,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{Authority, Credential};

/// The server. Its threads end with the process.
#[derive(Debug)]
pub struct Foreign {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

/// By server name.
#[derive(Debug)]
struct Certificates(BTreeMap<String, Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.get(hello.server_name()?).cloned()
    }
}

impl Foreign {
    /// Serves by server name, and refuses who asks for another one, or for none. With `clients` a caller must show a certificate of theirs.
    ///
    /// # Panics
    /// If it cannot listen, or a credential is none.
    pub fn start(certificates: &[(&str, &Credential)], clients: Option<&Authority>) -> Foreign {
        let key = |credential: &Credential| {
            let svid = Svid::from_pem(credential.certificate.as_bytes(), &credential.key).expect("a credential");
            svid.certified_key()
        };
        let certificates = Certificates(certificates.iter().map(|(name, credential)| ((*name).to_owned(), key(credential))).collect());
        let verifier = clients.map(|authority| {
            let roots = TrustBundle::from_pem(authority.root.as_bytes()).expect("an authority");
            client_verifier(&roots, Vec::new(), true).expect("a verifier")
        });
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let options = tls::TlsOptions { alpn, ..tls::TlsOptions::default() };
        let config = tls::server_config_with(Arc::new(certificates), verifier, &options).expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, log) = (config.clone(), log.clone());
                std::thread::spawn(move || one(ServerConnection::new(config).expect("a session"), stream, &log));
            }
        });
        Foreign { address, seen }
    }

    /// What it has seen of each caller who has agreed with it: `sni=NAME alpn=PROTOCOL client=NAMES`, with `-` for nothing.
    ///
    /// # Panics
    /// If one of its threads has panicked.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("lock").clone()
    }
}

/// One connection, with a request of HTTP/1.1.
fn one(mut session: ServerConnection, mut stream: TcpStream, log: &Mutex<Vec<String>>) {
    while session.is_handshaking() {
        if session.complete_io(&mut stream).is_err() {
            // The caller is told why.
            let _ = session.write_tls(&mut stream);
            return;
        }
    }
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
    let client = session.peer_certificates().and_then(|chain| mizzen_pki::facts(chain.first()?).ok()).map(|facts| facts.dns.join(","));
    let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let sees = format!("sni={} alpn={} client={}", text(session.server_name()), text(alpn.as_deref()), text(client.as_deref()));
    log.lock().expect("lock").push(sees.clone());
    let mut stream = StreamOwned::new(session, stream);
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(n @ 1..) => head.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{sees}", sees.len());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
