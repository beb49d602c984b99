//! A TLS session over rustls' unbuffered API: wire bytes in, plaintext and wire bytes out.

use std::sync::Arc;

use rustls::{
    ClientConfig, CommonState, Error, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use crate::buf::Buf;

/// One end of a session.
pub(crate) struct Tls {
    side: Side,
    /// Wire bytes not yet decrypted.
    wire: Buf,
    /// Reading stopped for lack of room, not of bytes.
    full: bool,
    peer_closed: bool,
    close_sent: bool,
    /// After an error nothing is asked of rustls any more.
    broken: bool,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// Runs the same code on both kinds of connection.
macro_rules! each {
    ($side:expr, $conn:ident => $body:expr) => {
        match $side {
            Side::Server($conn) => $body,
            Side::Client($conn) => $body,
        }
    };
}

/// Handles one state; `true` if there is nothing more to do now. `$traffic` is what is done where plaintext can be sealed.
///
/// The wire bytes at hand are always presented: rustls remembers places in them.
macro_rules! step {
    ($self:ident, $conn:ident, $plain:ident, $out:ident, $traffic:ident => $seal:expr) => {{
        let UnbufferedStatus { mut discard, state, .. } = $conn.process_tls_records($self.wire.as_mut_slice());
        let done = match state {
            Err(error) => Err(error),
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut result = Ok(false);
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            $plain.extend(record.payload);
                        }
                        Err(error) => {
                            result = Err(error);
                            break;
                        }
                    }
                }
                result
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(|space| data.encode(space), $out);
                Ok(false)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(false)
            }
            Ok(ConnectionState::PeerClosed) => {
                $self.peer_closed = true;
                Ok(false)
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let $traffic = &mut traffic;
                $seal
            }
            // Early data is never offered by our configurations; whatever else rustls may add waits for more bytes.
            Ok(_) => Ok(true),
        };
        // After an error rustls still points into what it had: it stays where it is.
        if done.is_ok() {
            $self.wire.consume(discard);
        }
        done
    }};
}

impl Tls {
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Side::Server(UnbufferedServerConnection::new(config)?)))
    }

    pub(crate) fn client(config: Arc<ClientConfig>, name: ServerName<'static>, alpn: Vec<Vec<u8>>) -> Result<Self, Error> {
        Ok(Self::new(Side::Client(UnbufferedClientConnection::new_with_alpn(config, name, alpn)?)))
    }

    fn new(side: Side) -> Self {
        Tls { side, wire: Buf::default(), full: false, peer_closed: false, close_sent: false, broken: false }
    }

    fn state(&self) -> &CommonState {
        each!(&self.side, conn => conn)
    }

    /// The wire bytes not yet decrypted, to be appended to before a `read`.
    pub(crate) fn wire(&mut self) -> &mut Buf {
        &mut self.wire
    }

    /// Takes wire bytes for a later `read`.
    pub(crate) fn store(&mut self, wire: &[u8]) {
        if !self.broken {
            self.wire.extend(wire);
        }
    }

    /// Takes wire bytes; decrypts until `plain` holds `room` bytes. What the handshake wants sent goes to `out`.
    ///
    /// # Errors
    /// If the session is broken. The alert is in `out`.
    pub(crate) fn read(&mut self, wire: &[u8], plain: &mut Buf, out: &mut Buf, room: usize) -> Result<(), Error> {
        if self.broken {
            return Ok(());
        }
        self.wire.extend(wire);
        self.full = true;
        while plain.len() < room {
            let done = each!(&mut self.side, conn => step!(self, conn, plain, out, _traffic => Ok(true)));
            match done {
                Ok(true) => {
                    self.full = false;
                    break;
                }
                Ok(false) => {}
                Err(error) => {
                    self.full = false;
                    self.alert(out);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// After an error: the alert, which is the one thing waiting to be sent.
    fn alert(&mut self, out: &mut Buf) {
        let mut ignored = Buf::default();
        let plain = &mut ignored;
        let _ = each!(&mut self.side, conn => step!(self, conn, plain, out, _traffic => Ok(true)));
        self.broken = true;
        self.wire.clear();
    }

    /// Encrypts `plain`. What still waited to be decrypted is decrypted to `input` on the way.
    ///
    /// # Errors
    /// If the session is broken or cannot send.
    pub(crate) fn seal(&mut self, plain: &[u8], input: &mut Buf, out: &mut Buf) -> Result<(), Error> {
        if self.broken {
            return Err(Error::HandshakeNotComplete);
        }
        let space = plain.len() + (plain.len() / 16_384 + 1) * 64;
        let mut sealed = false;
        loop {
            let done = each!(&mut self.side, conn => step!(self, conn, input, out, traffic => {
                sealed = true;
                write(|to| traffic.encrypt(plain, to), space, out).map(|()| true)
            }));
            match done {
                Ok(true) if sealed => return Ok(()),
                Ok(true) => return Err(Error::HandshakeNotComplete),
                Ok(false) => {}
                Err(error) => {
                    self.alert(out);
                    return Err(error);
                }
            }
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) fn close(&mut self, input: &mut Buf, out: &mut Buf) {
        if self.broken || std::mem::replace(&mut self.close_sent, true) {
            return;
        }
        loop {
            let done = each!(&mut self.side, conn => step!(self, conn, input, out, traffic => {
                write(|to| traffic.queue_close_notify(to), 128, out).map(|()| true)
            }));
            match done {
                Ok(false) => {}
                Ok(true) => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether the peer has said that it sends no more.
    pub(crate) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether wire bytes wait for room: there may be more plaintext in them.
    pub(crate) fn holds(&self) -> bool {
        self.full && !self.peer_closed
    }

    /// Wire bytes not yet decrypted.
    pub(crate) fn stored(&self) -> usize {
        self.wire.len()
    }

    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// The verified certificates of the peer, leaf first.
    pub(crate) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.state().peer_certificates()
    }

    /// The cipher suite by OpenSSL's name.
    pub(crate) fn cipher(&self) -> Option<&'static str> {
        self.state().negotiated_cipher_suite().and_then(|suite| mizzen_pki::cipher_name(suite.suite()))
    }

    pub(crate) fn version(&self) -> Option<&'static str> {
        self.state().protocol_version().and_then(|version| match version {
            rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        })
    }
}

fn encode(mut f: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, out: &mut Buf) {
    let tail = out.tail();
    let start = tail.len();
    let mut written = 0;
    if let Err(EncodeError::InsufficientSize(size)) = f(&mut []) {
        tail.resize(start + size.required_size, 0);
        written = tail.get_mut(start..).map_or(0, |space| f(space).unwrap_or(0));
    }
    tail.truncate(start + written);
}

fn write(mut f: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>, space: usize, out: &mut Buf) -> Result<(), Error> {
    let tail = out.tail();
    let start = tail.len();
    let mut size = space;
    for _ in 0..2 {
        tail.resize(start + size, 0);
        let Some(to) = tail.get_mut(start..) else { break };
        match f(to) {
            Ok(n) => {
                tail.truncate(start + n);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(needed)) => size = needed.required_size,
            Err(EncryptError::EncryptExhausted) => break,
            #[allow(unreachable_patterns)]
            Err(_) => break,
        }
    }
    tail.truncate(start);
    Err(Error::EncryptError)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mizzen_pki::{
        Ca, CaLimits, KeyPair, Svid, UnixTime,
        tls::{TlsOptions, client_config, server_config},
    };

    use super::*;

    fn server() -> Tls {
        let now = UnixTime::now();
        let ca = Ca::self_signed(&Default::default(), now, CaLimits::default()).unwrap();
        let key = KeyPair::generate().unwrap();
        let id = "spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap();
        let chain = ca.sign_csr(&key.csr(None).unwrap(), &id, Duration::from_secs(3600), now).unwrap();
        let svid = Svid::from_chain(&chain, &key).unwrap();
        Tls::server(server_config(&svid, None, &TlsOptions::default()).unwrap()).unwrap()
    }

    fn hello() -> Vec<u8> {
        let config = client_config(None, mizzen_pki::accept_any_server(), &TlsOptions::default()).unwrap();
        let mut client = Tls::client(config, ServerName::try_from("reviews.shop").unwrap(), Vec::new()).unwrap();
        let mut out = Buf::default();
        client.read(&[], &mut Buf::default(), &mut out, 1024).unwrap();
        out.as_slice().to_vec()
    }

    #[test]
    fn garbage_ends_a_session_with_one_alert() {
        for (what, bytes) in [
            ("plaintext", b"GET / HTTP/1.1\r\n\r\n".repeat(20)),
            ("a record of a type that there is not", [&[99, 3, 3, 0, 32][..], &[0; 32]].concat()),
            ("garbage after a hello", [hello(), vec![0x16, 3, 3, 0, 4, 99, 0, 0, 0], vec![0x17; 64]].concat()),
            ("a record that is no ciphertext after a hello", [hello(), vec![0x17, 3, 3, 0, 40], vec![7; 40]].concat()),
        ] {
            let (mut tls, mut out) = (server(), Buf::default());
            assert!(tls.read(&bytes, &mut Buf::default(), &mut out, 1024).is_err(), "{what}");
            assert!(!out.is_empty(), "{what}: the peer is told");
        }
    }
}
