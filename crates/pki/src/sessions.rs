//! Sessions that a client may resume.

use std::sync::OnceLock;

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// Sessions kept, eight a server.
const SESSIONS: usize = 256;

/// rustls' own store, made when there is something to keep: it takes its 20 KB at once, and of a thousand configurations most are never used.
#[derive(Debug, Default)]
pub(crate) struct LazySessions(OnceLock<ClientSessionMemoryCache>);

impl LazySessions {
    fn made(&self) -> &ClientSessionMemoryCache {
        self.0.get_or_init(|| ClientSessionMemoryCache::new(SESSIONS))
    }
}

impl ClientSessionStore for LazySessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.made().set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.get()?.kx_hint(server)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.made().set_tls12_session(server, value);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.get()?.tls12_session(server)
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        if let Some(made) = self.0.get() {
            made.remove_tls12_session(server);
        }
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.made().insert_tls13_ticket(server, value);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.get()?.take_tls13_ticket(server)
    }
}
