//! A client over TLS in the test's own process, for what is too often done to start a program each time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use mizzen_pki::{TrustBundle, certificate_pem, server_verifier_by_name, tls};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::{PATIENCE, echo::Head};

/// Connects over TLS, and believes what these roots have signed for the name that is asked for.
#[derive(Clone, Debug)]
pub struct Dialer(Arc<ClientConfig>);

/// A connection, which is kept for one request after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    name: String,
}

impl Dialer {
    /// By these roots, as PEM. With `resumption` a later connection resumes a session of an earlier one, where the server lets it.
    ///
    /// # Panics
    /// If they are none.
    pub fn new(roots: &str, resumption: bool) -> Dialer {
        let roots = TrustBundle::from_pem(roots.as_bytes()).expect("roots");
        let options = tls::TlsOptions { alpn: vec![b"http/1.1".to_vec()], resumption, ..tls::TlsOptions::default() };
        let verifier = server_verifier_by_name(&roots).expect("a verifier");
        Dialer(tls::client_config(None, verifier, &options).expect("a configuration"))
    }

    /// Connects, and waits for the end of the handshake.
    ///
    /// # Errors
    /// If there is no connection, or the server is not believed.
    pub fn dial(&self, address: SocketAddr, name: &str) -> Result<Connection, String> {
        let mut stream = TcpStream::connect(address).map_err(|e| format!("{address}: {e}"))?;
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE))).map_err(|e| e.to_string())?;
        let server = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
        let mut session = ClientConnection::new(self.0.clone(), server).map_err(|e| e.to_string())?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(Connection { stream: BufReader::new(StreamOwned::new(session, stream)), name: name.to_owned() })
    }
}

impl Connection {
    /// The certificate that the server has shown, as PEM: of a resumed session the one of its first connection.
    pub fn shown(&self) -> String {
        let chain = self.stream.get_ref().conn.peer_certificates().unwrap_or_default();
        chain.first().map(|leaf| certificate_pem(leaf)).unwrap_or_default()
    }

    /// GETs a path, and returns the status.
    ///
    /// # Errors
    /// If the answer does not come as a whole.
    pub fn get(&mut self, path: &str) -> Result<u16, String> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.name);
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(|e| format!("cannot send: {e}"))?;
        let mut head = Head::default();
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            if head.line(read, &line)? {
                break;
            }
        }
        let mut body = vec![0; head.length()?];
        self.stream.read_exact(&mut body).map_err(|e| format!("half an answer: {e}"))?;
        head.status()
    }
}
