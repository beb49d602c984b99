//! Sessions that may be resumed: what a client keeps, and what a server keeps for its clients.

use std::collections::{HashMap, VecDeque};
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
pub(crate) struct ServerSessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    sessions: HashMap<Vec<u8>, Vec<u8>>,
    /// Their keys, the oldest first.
    order: VecDeque<Vec<u8>>,
}

impl ServerSessions {
    /// Nothing that runs under the lock can leave it half done.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let mut kept = self.kept();
        if kept.sessions.insert(key.clone(), value).is_some() {
            return true;
        }
        kept.order.push_back(key);
        if kept.order.len() > SESSIONS
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.sessions.remove(&oldest);
        }
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.kept().sessions.get(key).cloned()
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut kept = self.kept();
        let value = kept.sessions.remove(key)?;
        if let Some(at) = kept.order.iter().position(|known| known == key) {
            kept.order.remove(at);
        }
        Some(value)
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

    fn sizes(store: &ServerSessions) -> (usize, usize) {
        let kept = store.kept();
        (kept.sessions.len(), kept.order.len())
    }

    #[test]
    fn a_server_keeps_its_newest_sessions() {
        let store = ServerSessions::default();
        let held = |kept: &Kept| kept.sessions.capacity() + kept.order.capacity();
        assert_eq!(held(&store.kept()), 0, "nothing is held for what never comes");
        let key = |number: usize| number.to_be_bytes().to_vec();
        for number in 0..2 * SESSIONS {
            assert!(store.can_cache() && store.put(key(number), vec![1]));
        }
        assert_eq!(sizes(&store), (SESSIONS, SESSIONS));
        let last = key(2 * SESSIONS - 1);
        assert_eq!((store.get(&key(SESSIONS - 1)), store.get(&key(SESSIONS))), (None, Some(vec![1])));
        // What is there already takes no other one's place.
        assert!(store.put(last.clone(), vec![2]));
        assert_eq!((sizes(&store), store.get(&last)), ((SESSIONS, SESSIONS), Some(vec![2])));
        // What is taken is good for once, and leaves its place.
        assert_eq!((store.take(&last), store.take(&last), store.get(&last)), (Some(vec![2]), None, None));
        assert_eq!(sizes(&store), (SESSIONS - 1, SESSIONS - 1));
        assert!(store.put(key(0), vec![3]));
        assert_eq!((sizes(&store), store.get(&key(SESSIONS))), ((SESSIONS, SESSIONS), Some(vec![1])));
        assert!(!format!("{store:?}").contains('3'));
    }
}
