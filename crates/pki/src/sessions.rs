//! Sessions that may be resumed: what a client keeps, and what a server keeps for its clients.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::server::StoresServerSessions;
use rustls_pki_types::ServerName;

/// Sessions kept: by a client, eight a server; by a server, for all of its clients.
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

/// A server's sessions, the newest [`SESSIONS`] of them. Unlike rustls' own store, which takes its 31 KB at once, it holds what there is: a gateway has a
/// configuration for each host, and few clients come back to most of them.
#[derive(Default)]
pub(crate) struct ServerSessions(Mutex<VecDeque<Session>>);

/// A session. The oldest are first, and are looked through: what is looked at lies side by side.
struct Session {
    /// The last bytes of its key, by which nearly all others are told apart. Keys are random.
    tail: u32,
    /// Of its key.
    length: u32,
    /// The key, then the value.
    bytes: Box<[u8]>,
}

impl Session {
    fn new(key: &[u8], value: &[u8]) -> Option<Session> {
        Some(Session { tail: tail(key), length: u32::try_from(key.len()).ok()?, bytes: [key, value].concat().into() })
    }

    fn is(&self, key: &[u8]) -> bool {
        self.tail == tail(key) && self.parts().0 == key
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.length as usize).unwrap_or_default()
    }
}

fn tail(key: &[u8]) -> u32 {
    key.last_chunk().copied().map_or(0, u32::from_le_bytes)
}

impl ServerSessions {
    /// Nothing that runs under the lock can leave it half done.
    fn kept(&self) -> MutexGuard<'_, VecDeque<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let Some(session) = Session::new(&key, &value) else { return false };
        let mut kept = self.kept();
        if let Some(known) = kept.iter_mut().find(|known| known.is(&key)) {
            *known = session;
            return true;
        }
        if kept.len() == SESSIONS {
            kept.pop_front();
        }
        if kept.len() == kept.capacity() {
            // Two come with each handshake.
            let more = kept.len().clamp(2, SESSIONS);
            kept.reserve_exact(more);
        }
        kept.push_back(session);
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept().iter().find(|known| known.is(key)).map(|known| known.parts().1.to_vec())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut kept = self.kept();
        let at = kept.iter().position(|known| known.is(key))?;
        kept.remove(at).map(|session| session.parts().1.to_vec())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// Sessions are secrets.
impl fmt::Debug for ServerSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSessions").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_newest_sessions() {
        let store = ServerSessions::default();
        let count = || store.kept().len();
        assert_eq!(store.kept().capacity(), 0, "nothing is held for what never comes");
        // The ends of some keys are the same, and some are short.
        let key = |number: usize| match number % 3 {
            0 => u16::try_from(number).unwrap().to_le_bytes().to_vec(),
            _ => [number.to_be_bytes(), [7; 8]].concat(),
        };
        for number in 0..2 * SESSIONS {
            assert!(store.can_cache() && store.put(key(number), vec![1, 2, 3, 4, 5]));
            let held = store.kept().capacity();
            assert!(held <= (2 * (number + 1)).max(2) && held <= 2 * SESSIONS, "{held} for {number}");
        }
        let (value, last) = (Some(vec![1, 2, 3, 4, 5]), key(2 * SESSIONS - 1));
        assert_eq!(count(), SESSIONS);
        assert_eq!((store.get(&key(SESSIONS - 1)), store.get(&key(SESSIONS))), (None, value.clone()));
        // What is there already takes no other one's place.
        assert!(store.put(last.clone(), vec![2]));
        assert_eq!((count(), store.get(&last)), (SESSIONS, Some(vec![2])));
        // What is taken is good for once, and leaves its place.
        assert_eq!((store.take(&last), store.take(&last), store.get(&last)), (Some(vec![2]), None, None));
        assert_eq!(count(), SESSIONS - 1);
        assert!(store.put(key(0), vec![3]));
        assert_eq!((count(), store.get(&key(SESSIONS))), (SESSIONS, value));
        // One may be without a value, or without a key.
        for (key, value) in [(vec![9], vec![]), (vec![], vec![9])] {
            assert!(store.put(key.clone(), value.clone()));
            assert_eq!((store.get(&key), store.take(&key), store.get(&key)), (Some(value.clone()), Some(value), None));
        }
        assert!(!format!("{store:?}").contains('3'));
    }
}
